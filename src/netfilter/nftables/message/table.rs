//! A table: `nf_tables_fill_table_info`.

use std::borrow::Cow;

use crate::netfilter::netlink::Text;

crate::netfilter::attributes! {
    /// A table.
    Table {
        /// Name
        NFTA_TABLE_NAME = 1 => name: Text<'a>,
        /// Use count: chains, sets, objects and flowtables
        NFTA_TABLE_USE = 3 => used: Option<u32>,
        /// Handle
        NFTA_TABLE_HANDLE = 4 => handle: Option<u64>,
        /// `NFT_TABLE_F_*`
        NFTA_TABLE_FLAGS = 2 => flags: Option<u32>,
        /// Netlink port id of the owner program
        NFTA_TABLE_OWNER = 7 => owner: Option<u32>,
        /// Type, length, value
        NFTA_TABLE_USERDATA = 6 => userdata: Option<Cow<'a, [u8]>>,
    }
}

crate::netfilter::visit!(Table { table: [name], plain: [used, handle, flags, owner], user_data: [userdata] });
