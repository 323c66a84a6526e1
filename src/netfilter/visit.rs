//! What a field holds, for whoever changes messages by that: redaction.
//!
//! `visit!` names what each field of a type holds; one that it does not name does not compile. What is not known is
//! [`Visitor::unsupported`].

use std::borrow::Cow;

use super::netlink::{AttributeList, BlockLayout, Nest, Text};
use super::nftables::Expression;
use super::nftables::expr::Expr;

/// Fields that can be visited.
pub trait Visit {
    /// Hands each field to the method that says what it holds.
    fn visit<V: Visitor>(&mut self, visitor: &mut V);
}

/// What is done with a field, by what it holds. Registers are those that hold a value when the expression runs; they may become
/// others.
pub trait Visitor: Sized {
    /// A number, a flag, or a name that identifies nobody.
    fn plain<T>(&mut self, _field: &mut T) {}

    /// Fields of its own.
    fn nested<T: Visit>(&mut self, field: &mut T) {
        field.visit(self);
    }

    /// What nobody needs, and may hold anything.
    fn hidden<T: Zero>(&mut self, field: &mut T) {
        field.zero();
    }

    /// Bytes of something that is not known.
    fn unsupported(&mut self, bytes: &mut Cow<'_, [u8]>) {
        bytes.zero();
    }

    /// The family of the table (`NFPROTO_*`).
    fn family(&self) -> u32;

    /// The name of a table.
    fn table(&mut self, name: &mut Text<'_>);

    /// The name of a device, or what names of devices begin with.
    fn device(&mut self, name: &mut Text<'_>);

    /// The name of a chain.
    fn chain(&mut self, name: &mut Text<'_>);

    /// The name of a set, a map or an object.
    fn set(&mut self, name: &mut Text<'_>);

    /// A text that people wrote.
    fn comment(&mut self, text: &mut Text<'_>);

    /// `NFTA_*_USERDATA` of tables, chains and rules: type, length, value; a comment has type 0.
    fn user_data(&mut self, data: &mut Cow<'_, [u8]>);

    /// Elements of this set of this table follow.
    fn elements_of(&mut self, table: &[u8], set: &[u8]);

    /// A key of that set.
    fn key(&mut self, key: &mut Cow<'_, [u8]>);

    /// What a map has for a key of that set.
    fn mapped(&mut self, data: &mut Cow<'_, [u8]>);

    /// This map of this table has data of this type, as nft says (`NFTA_SET_DATA_TYPE`); a set has none.
    fn data_type(&mut self, table: &[u8], map: &[u8], kind: u32);

    /// The first and the last address of a range, or the prefix of one, or one.
    fn network(&mut self, first: &mut [u8], last: Option<&mut [u8]>, prefix_length: Option<u8>);

    /// Expression number `at` of a rule.
    fn expression(&mut self, at: usize, expression: &mut Expression<'_>);

    /// What `immediate` puts into a register.
    fn constant(&mut self, value: &mut Cow<'_, [u8]>);

    /// What a register is compared with (`NFT_CMP_*`).
    fn compared(&mut self, register: &mut u32, operator: u32, value: &mut Cow<'_, [u8]>);

    /// Which bits of a register stay.
    fn masked(&mut self, register: u32, mask: &mut Cow<'_, [u8]>);

    /// What a register is combined with, bit by bit, or shifted by.
    fn combined(&mut self, register: u32, value: &mut Cow<'_, [u8]>);

    /// The ends of a range that a register may be in.
    fn in_range(&mut self, register: &mut u32, from: &mut Cow<'_, [u8]>, to: &mut Cow<'_, [u8]>);

    /// The name of a set in which what the registers from this one on hold is looked up, or to which it is added.
    fn looked_up(&mut self, register: &mut u32, set: &mut Text<'_>);

    /// A register that is written to where this expression would load from, into `NFT_REG_1`.
    fn stored(&mut self, register: &mut u32, field: &Expr<'_>);

    /// A register that holds a number of so many bytes.
    fn number(&mut self, register: &mut u32, length: usize);

    /// A register that holds an address of this family (`NFPROTO_*`).
    fn address_in(&mut self, register: &mut u32, family: u32);

    /// Registers that hold the first and the last address that a packet may get.
    fn translated(&mut self, family: u32, min: Option<&mut u32>, max: Option<&mut u32>);

    /// An extension of x_tables.
    fn extension(&mut self, target: bool, name: &[u8], revision: &mut u32, info: &mut Cow<'_, [u8]>);
}

/// What can be made all zeros, of the same length.
pub trait Zero {
    /// Does so.
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

/// Says what each field of a block holds, by the method of [`Visitor`].
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
