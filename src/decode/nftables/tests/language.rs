//! Expressions of rules, as the kernel writes them.

use super::kernel::{be32, text};
use crate::netfilter::netlink::{put, put_nested};

pub type Expression = Vec<u8>;

pub fn expression(name: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Expression {
    let mut out = Vec::new();
    put_nested(&mut out, 1, |element| {
        text(element, 1, name);
        put_nested(element, 2, fill);
    });
    out
}

/// `NFTA_DATA_VERDICT`: a jump.
pub fn jump_data(out: &mut Vec<u8>, chain: &[u8]) {
    put_nested(out, 2, |verdict| {
        be32(verdict, 1, (-3i32).cast_unsigned());
        text(verdict, 2, chain);
    });
}

pub fn jump(chain: impl AsRef<[u8]>) -> Expression {
    expression("immediate", |out| {
        be32(out, 1, 0);
        put_nested(out, 2, |data| jump_data(data, chain.as_ref()));
    })
}

pub fn masquerade() -> Expression {
    expression("masq", |out| be32(out, 1, 0x10))
}

pub fn counter(packets: u64) -> Expression {
    expression("counter", |out| {
        put(out, 1, &(packets * 60).to_be_bytes());
        put(out, 2, &packets.to_be_bytes());
    })
}

/// Loads the mark, or another key of `meta`.
pub fn load_meta(key: u32) -> Expression {
    expression("meta", |out| {
        be32(out, 2, key);
        be32(out, 1, 1);
    })
}

/// `meta mark & bit != 0`
pub fn mark_test(bit: u32) -> Expression {
    let mask = expression("bitwise", |out| {
        be32(out, 1, 1);
        be32(out, 2, 1);
        put_nested(out, 4, |data| put(data, 1, &bit.to_ne_bytes()));
        put_nested(out, 5, |data| put(data, 1, &[0; 4]));
    });
    let compare = expression("cmp", |out| {
        be32(out, 1, 1);
        be32(out, 2, 1);
        put_nested(out, 3, |data| put(data, 1, &[0; 4]));
    });
    [load_meta(3), mask, compare].concat()
}

fn constant(value: u32) -> Expression {
    expression("immediate", |out| {
        be32(out, 1, 1);
        put_nested(out, 2, |data| put(data, 1, &value.to_ne_bytes()));
    })
}

/// `meta mark set VALUE`
pub fn set_mark(value: u32) -> Expression {
    let write = expression("meta", |out| {
        be32(out, 2, 3);
        be32(out, 3, 1);
    });
    [constant(value), write].concat()
}

/// `ct mark set VALUE`
pub fn ct_mark_set(value: u32) -> Expression {
    let write = expression("ct", |out| {
        be32(out, 2, 3);
        be32(out, 4, 1);
    });
    [constant(value), write].concat()
}

/// A lookup of the output device: in a set, or in a map that loads this register (0: a verdict).
fn look_up_device(set: &str, register: Option<u32>) -> Expression {
    let lookup = expression("lookup", |out| {
        text(out, 1, set);
        be32(out, 2, 1);
        if let Some(register) = register {
            be32(out, 3, register);
        }
    });
    [load_meta(7), lookup].concat()
}

pub fn device_in(set: &str) -> Expression {
    look_up_device(set, None)
}

pub fn verdict_map(set: &str) -> Expression {
    look_up_device(set, Some(0))
}

/// The value of the output device in a map, which nothing is done with.
pub fn value_from(set: &str) -> Expression {
    look_up_device(set, Some(2))
}

/// `meta mark set oifname map @SET`
pub fn mark_from(set: &str) -> Expression {
    let write = expression("meta", |out| {
        be32(out, 2, 3);
        be32(out, 3, 2);
    });
    [value_from(set), write].concat()
}
