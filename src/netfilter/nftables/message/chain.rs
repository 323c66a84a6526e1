//! Chains and hooks: `nf_tables_fill_chain_info`, `nft_dump_basechain_hook`.

use std::borrow::Cow;

use crate::netfilter::netlink::{AttributeValue, Emit, MessageWriter, Text};
use crate::netfilter::nftables::expr::Counter;
use crate::netfilter::{Result, Visit, Visitor};

crate::netfilter::attributes! {
    /// A chain.
    Chain {
        /// Name of its table
        NFTA_CHAIN_TABLE = 1 => table: Text<'a>,
        /// Name
        NFTA_CHAIN_NAME = 3 => name: Option<Text<'a>>,
        /// Handle
        NFTA_CHAIN_HANDLE = 2 => handle: Option<u64>,
        /// Hook of a base chain
        NFTA_CHAIN_HOOK = 4 => hook: Option<Hook<'a>>,
        /// Policy: `NF_ACCEPT` or `NF_DROP`
        NFTA_CHAIN_POLICY = 5 => policy: Option<u32>,
        /// `filter`, `nat` or `route`
        NFTA_CHAIN_TYPE = 7 => kind: Option<Text<'a>>,
        /// Packets that reached the policy
        NFTA_CHAIN_COUNTERS = 8 => counters: Option<Counter<'a>>,
        /// `NFT_CHAIN_*`
        NFTA_CHAIN_FLAGS = 10 => flags: Option<u32>,
        /// Use count: rules in the chain, and rules and elements that jump to it
        NFTA_CHAIN_USE = 6 => used: Option<u32>,
        /// Id within a batch
        NFTA_CHAIN_ID = 11 => id: Option<u32>,
        /// Type, length, value
        NFTA_CHAIN_USERDATA = 12 => userdata: Option<Cow<'a, [u8]>>,
    }
}

crate::netfilter::visit!(Chain {
    table: [table],
    plain: [handle, policy, kind, flags, used, id],
    chain: [name],
    nested: [hook, counters],
    user_data: [userdata],
});

crate::netfilter::attributes! {
    /// The hook of a base chain.
    Hook {
        /// `NF_INET_*` or `NF_NETDEV_*`
        NFTA_HOOK_HOOKNUM = 1 => hooknum: u32,
        /// Signed; lowest first
        NFTA_HOOK_PRIORITY = 2 => priority: u32,
        /// Single device
        NFTA_HOOK_DEV = 3 => dev: Option<Text<'a>>,
        /// Several devices
        NFTA_HOOK_DEVS = 4 => devs: Option<Devices<'a>>,
    }
}

crate::netfilter::visit!(Hook { plain: [hooknum, priority], device: [dev], nested: [devs] });

/// `NFTA_DEVICE_NAME`: a complete device name.
pub const NFTA_DEVICE_NAME: u16 = 1;
/// `NFTA_DEVICE_PREFIX`: a prefix of device names (since Linux 6.17).
pub const NFTA_DEVICE_PREFIX: u16 = 2;

/// A list of devices: attribute type and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Devices<'a>(pub Vec<(u16, Text<'a>)>);

impl<'a> AttributeValue<'a> for Devices<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let devices = crate::netfilter::netlink::attributes(bytes, "NFTA_HOOK_DEVS").map(|device| {
            let device = device?;
            Ok((device.kind | device.flags, Text(device.body.into())))
        });
        devices.collect::<Result<_>>().map(Self)
    }
}

impl Visit for Devices<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        self.0.iter_mut().for_each(|(_, name)| visitor.device(name));
    }
}

impl Emit for Devices<'_> {
    const NESTED: bool = true;

    fn emit(&self, out: &mut MessageWriter) {
        for (kind, name) in &self.0 {
            out.attribute(*kind, |out| name.emit(out));
        }
    }
}
