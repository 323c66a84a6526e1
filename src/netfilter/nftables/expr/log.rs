//! `log`: logs the packet, to the kernel log or to a program.
//!
//! `net/netfilter/nft_log.c`: `nft_log_dump`.

use crate::netfilter::netlink::Text;

crate::netfilter::attributes! {
    /// Logs.
    Log {
        /// Prefix of the line
        NFTA_LOG_PREFIX = 2 => prefix: Option<Text<'a>>,
        /// Group of `nfnetlink_log`
        NFTA_LOG_GROUP = 1 => group: Option<u16>,
        /// Bytes of the packet to copy
        NFTA_LOG_SNAPLEN = 3 => snaplen: Option<u32>,
        /// Packets to collect before sending
        NFTA_LOG_QTHRESHOLD = 4 => qthreshold: Option<u16>,
        /// syslog level
        NFTA_LOG_LEVEL = 5 => level: Option<u32>,
        /// `NF_LOG_*`
        NFTA_LOG_FLAGS = 6 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Log { comment: [prefix], plain: [group, snaplen, qthreshold, level, flags] });
