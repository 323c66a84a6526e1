//! `flow_offload`: lets later packets of the connection bypass the rules.
//!
//! `net/netfilter/nft_flow_offload.c`: `nft_flow_offload_dump`.

use crate::netfilter::netlink::Text;

crate::netfilter::attributes! {
    /// Adds the connection to a flowtable.
    FlowOffload {
        /// Name of the flowtable
        NFTA_FLOW_TABLE_NAME = 1 => table_name: Option<Text<'a>>,
    }
}

crate::netfilter::visit!(FlowOffload { set: [table_name] });
