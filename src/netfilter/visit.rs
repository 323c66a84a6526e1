//! Visitors of message fields by meaning, used by redaction.
//!
//! `visit!` states the meaning of each field of a type, and a field left out does not compile. Unknown bytes go to
//! [`Visitor::unsupported`].

use std::borrow::Cow;

use super::netlink::{AttributeList, BlockLayout, Nest, Text};
use super::nftables::Expression;
use super::nftables::expr::Expr;

/// Types with fields that can be visited.
pub trait Visit {
    /// Passes each field to the method for its meaning.
    fn visit<V: Visitor>(&mut self, visitor: &mut V);
}

/// One method per meaning of a field. Registers are those with a value when the expression runs; a visitor may change
/// them.
pub trait Visitor: Sized {
    /// A number, a flag, or a name that identifies nobody.
    fn plain<T>(&mut self, _field: &mut T) {}

    /// A value with fields of its own.
    fn nested<T: Visit>(&mut self, field: &mut T) {
        field.visit(self);
    }

    /// A value that nobody needs and that may contain anything.
    fn hidden<T: Zero>(&mut self, field: &mut T) {
        field.zero();
    }

    /// Bytes of unknown meaning.
    fn unsupported(&mut self, bytes: &mut Cow<'_, [u8]>) {
        bytes.zero();
    }

    /// The family of the table (`NFPROTO_*`).
    fn family(&self) -> u32;

    /// The name of a table.
    fn table(&mut self, name: &mut Text<'_>);

    /// Name or name prefix of a device.
    fn device(&mut self, name: &mut Text<'_>);

    /// The name of a chain.
    fn chain(&mut self, name: &mut Text<'_>);

    /// The name of a set, a map or an object.
    fn set(&mut self, name: &mut Text<'_>);

    /// A text written by people.
    fn comment(&mut self, text: &mut Text<'_>);

    /// `NFTA_*_USERDATA` of tables, chains and rules: type, length, value; a comment has type 0.
    fn user_data(&mut self, data: &mut Cow<'_, [u8]>);

    /// Announces elements of this set in this table.
    fn elements_of(&mut self, table: &[u8], set: &[u8]);

    /// A key of that set.
    fn key(&mut self, key: &mut Cow<'_, [u8]>);

    /// A map's data for a key of that set.
    fn mapped(&mut self, data: &mut Cow<'_, [u8]>);

    /// nft's type of a map's data (`NFTA_SET_DATA_TYPE`); not called for sets.
    fn data_type(&mut self, table: &[u8], map: &[u8], kind: u32);

    /// The ends of an address range, a prefix, or a single address.
    fn network(&mut self, first: &mut [u8], last: Option<&mut [u8]>, prefix_length: Option<u8>);

    /// The expression at index `at` of a rule.
    fn expression(&mut self, at: usize, expression: &mut Expression<'_>);

    /// The constant that `immediate` loads.
    fn constant(&mut self, value: &mut Cow<'_, [u8]>);

    /// The value that a register is compared with (`NFT_CMP_*`).
    fn compared(&mut self, register: &mut u32, operator: u32, value: &mut Cow<'_, [u8]>);

    /// The mask that is applied to a register.
    fn masked(&mut self, register: u32, mask: &mut Cow<'_, [u8]>);

    /// A value that a register is combined with bitwise, or shifted by.
    fn combined(&mut self, register: u32, value: &mut Cow<'_, [u8]>);

    /// The ends of a range that a register is compared with.
    fn in_range(&mut self, register: &mut u32, from: &mut Cow<'_, [u8]>, to: &mut Cow<'_, [u8]>);

    /// The name of a set, and the first register of the key that is looked up or added.
    fn looked_up(&mut self, register: &mut u32, set: &mut Text<'_>);

    /// A register whose value is written to the field that `field` would load into `NFT_REG_1`.
    fn stored(&mut self, register: &mut u32, field: &Expr<'_>);

    /// A register with a number of this many bytes.
    fn number(&mut self, register: &mut u32, length: usize);

    /// A register with an address of this family (`NFPROTO_*`).
    fn address_in(&mut self, register: &mut u32, family: u32);

    /// Registers with the first and last address of a translation.
    fn translated(&mut self, family: u32, min: Option<&mut u32>, max: Option<&mut u32>);

    /// A match or target of x_tables.
    fn extension(&mut self, target: bool, name: &[u8], revision: &mut u32, info: &mut Cow<'_, [u8]>);
}

/// Types that can be zeroed without changing their length.
pub trait Zero {
    /// Zeroes the value.
    fn zero(&mut self);
}

impl Zero for Cow<'_, [u8]> {
    fn zero(&mut self) {
        *self = Cow::Owned(vec![0; self.len()]);
    }
}

impl Zero for Text<'_> {
    fn zero(&mut self) {
        self.0.zero();
    }
}

impl Zero for Nest<'_> {
    fn zero(&mut self) {
        self.0.zero();
    }
}

impl Zero for u32 {
    fn zero(&mut self) {
        *self = 0;
    }
}

impl Visit for BlockLayout<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        self.unknown_mut().for_each(|body| visitor.unsupported(body));
    }
}

impl<T: Visit> Visit for AttributeList<'_, T> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        self.elements.iter_mut().for_each(|element| element.visit(visitor));
        self.layout.visit(visitor);
    }
}

/// Implements [`Visit`] for a block: the method of [`Visitor`] for each field.
macro_rules! visit {
    ($name:ident { $($method:ident: [$($field:ident),*]),* $(,)? }) => {
        impl $crate::netfilter::Visit for $name<'_> {
            fn visit<V: $crate::netfilter::Visitor>(&mut self, visitor: &mut V) {
                let Self { $($($field,)*)* layout } = self;
                $($(if let Some(value) = $crate::netfilter::netlink::Slot::get_mut($field) {
                    visitor.$method(value);
                })*)*
                layout.visit(visitor);
            }
        }
    };
}

pub(crate) use visit;
