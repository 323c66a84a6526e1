//! `objref`: applies a named object (counter, quota, limit, helper, …), given directly or by a map.
//!
//! `net/netfilter/nft_objref.c`: `nft_objref_dump`, `nft_objref_map_dump`.

use crate::netfilter::netlink::Text;

crate::netfilter::attributes! {
    /// Applies an object.
    Objref {
        /// Name of the object
        NFTA_OBJREF_IMM_NAME = 2 => imm_name: Option<Text<'a>>,
        /// `NFT_OBJECT_*`
        NFTA_OBJREF_IMM_TYPE = 1 => imm_type: Option<u32>,
        /// First register of the key in a map
        NFTA_OBJREF_SET_SREG = 3 => set_sreg: Option<u32>,
        /// Name of the map
        NFTA_OBJREF_SET_NAME = 4 => set_name: Option<Text<'a>>,
    }
}

crate::netfilter::visit!(Objref { set: [imm_name, set_name], plain: [imm_type, set_sreg] });
