//! Expressions of rules, as the kernel writes them.

use crate::netfilter::netlink::Text;
use crate::netfilter::nftables::expr::{Bitwise, Cmp, Counter, Ct, Immediate, Lookup, Masq, Meta};
use crate::netfilter::nftables::uapi::{
    NFT_CMP_NEQ, NFT_CT_MARK, NFT_JUMP, NFT_META_MARK, NFT_META_OIFNAME, NFT_REG_1, NFT_REG_2, NFT_REG_VERDICT,
};
use crate::netfilter::nftables::{self, Data};

/// One expression, or several that belong together.
pub(crate) type Expression = Vec<nftables::Expression<'static>>;

pub(crate) fn jump(chain: impl Into<Text<'static>>) -> Expression {
    let data = Data::to(NFT_JUMP, Some(chain.into()));
    vec![Immediate { dreg: NFT_REG_VERDICT, data, ..Immediate::default() }.into()]
}

pub(crate) fn masquerade() -> Expression {
    vec![Masq { flags: Some(0x10), ..Masq::default() }.into()]
}

pub(crate) fn counter(packets: u64) -> Expression {
    vec![Counter { bytes: packets * 60, packets, ..Counter::default() }.into()]
}

/// Loads a key of `meta`, such as the mark.
pub(crate) fn load_meta(key: u32) -> Expression {
    vec![Meta { key, dreg: Some(NFT_REG_1), ..Meta::default() }.into()]
}

/// `meta mark & bit != 0`
pub(crate) fn mark_test(bit: u32) -> Expression {
    let (mask, xor) = (Some(Data::of(bit.to_ne_bytes().to_vec())), Some(Data::of(vec![0; 4])));
    let mask = Bitwise { sreg: NFT_REG_1, dreg: NFT_REG_1, len: 4, mask, xor, ..Bitwise::default() };
    let compare = Cmp { sreg: NFT_REG_1, op: NFT_CMP_NEQ, data: Data::of(vec![0; 4]), ..Cmp::default() };
    [load_meta(NFT_META_MARK), vec![mask.into(), compare.into()]].concat()
}

fn constant(value: u32) -> Expression {
    let data = Data::of(value.to_ne_bytes().to_vec());
    vec![Immediate { dreg: NFT_REG_1, data, ..Immediate::default() }.into()]
}

fn write_mark(register: u32) -> Expression {
    vec![Meta { key: NFT_META_MARK, sreg: Some(register), ..Meta::default() }.into()]
}

/// `meta mark set VALUE`
pub(crate) fn set_mark(value: u32) -> Expression {
    [constant(value), write_mark(NFT_REG_1)].concat()
}

/// `ct mark set VALUE`
pub(crate) fn ct_mark_set(value: u32) -> Expression {
    let write = Ct { key: NFT_CT_MARK, sreg: Some(NFT_REG_1), ..Ct::default() };
    [constant(value), vec![write.into()]].concat()
}

/// A lookup in a set, or in a map that loads this register (0: a verdict).
pub(crate) fn look_up(set: &str, dreg: Option<u32>) -> Expression {
    vec![Lookup { set: set.into(), sreg: NFT_REG_1, dreg, ..Lookup::default() }.into()]
}

fn look_up_device(set: &str, register: Option<u32>) -> Expression {
    [load_meta(NFT_META_OIFNAME), look_up(set, register)].concat()
}

pub(crate) fn device_in(set: &str) -> Expression {
    look_up_device(set, None)
}

pub(crate) fn verdict_map(set: &str) -> Expression {
    look_up_device(set, Some(NFT_REG_VERDICT))
}

/// `oifname map @SET`, whose value is not used.
pub(crate) fn value_from(set: &str) -> Expression {
    look_up_device(set, Some(NFT_REG_2))
}

/// `meta mark set oifname map @SET`
pub(crate) fn mark_from(set: &str) -> Expression {
    [value_from(set), write_mark(NFT_REG_2)].concat()
}
