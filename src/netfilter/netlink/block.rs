//! Structs for blocks of attributes, declared by [`attributes!`](crate::netfilter::attributes). They keep unknown
//! attributes, flags and order, so that writing one gives the bytes that it was parsed from.

use std::borrow::Cow;

use super::attributes::Attribute;
use super::value::{AttributeValue, Emit};
use super::writer::MessageWriter;
use crate::netfilter::{Error, Result};

/// A field of a block: a required value, or an `Option`.
pub trait Slot<'a>: Sized {
    /// Type of the attribute's value.
    type Value: AttributeValue<'a>;

    /// From the value found; `name` is the attribute's.
    ///
    /// # Errors
    /// A required attribute is missing.
    fn filled(found: Option<Self::Value>, name: &str) -> Result<Self>;

    /// The value, if there is one.
    fn get(&self) -> Option<&Self::Value>;

    /// The value, mutable.
    fn get_mut(&mut self) -> Option<&mut Self::Value>;
}

impl<'a, T: AttributeValue<'a>> Slot<'a> for T {
    type Value = T;

    #[inline(always)]
    fn filled(found: Option<T>, name: &str) -> Result<Self> {
        found.ok_or_else(|| missing(name))
    }

    fn get(&self) -> Option<&T> {
        Some(self)
    }

    fn get_mut(&mut self) -> Option<&mut T> {
        Some(self)
    }
}

#[cold]
fn missing(name: &str) -> Error {
    Error::unexpected(format!("{name} is missing"))
}

impl<'a, T: AttributeValue<'a>> Slot<'a> for Option<T> {
    type Value = T;

    #[inline(always)]
    fn filled(found: Option<T>, _name: &str) -> Result<Self> {
        Ok(found)
    }

    fn get(&self) -> Option<&T> {
        self.as_ref()
    }

    fn get_mut(&mut self) -> Option<&mut T> {
        self.as_mut()
    }
}

/// Properties of a parsed block other than the values of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockLayout<'a> {
    /// Of few blocks, and apart: blocks are moved often.
    unusual: Option<Box<Unusual<'a>>>,
    /// `NLA_F_*` that fields had.
    flags: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Unusual<'a> {
    /// Attributes that are not known.
    unknown: Vec<UnknownAttribute<'a>>,
    /// The order of the fields, where it is another than today's kernel has.
    order: Vec<u16>,
}

/// An attribute that is not known: how many came before it, its `nla_type` with flags, its body.
type UnknownAttribute<'a> = (usize, u16, Cow<'a, [u8]>);

impl<'a> BlockLayout<'a> {
    /// Keeps an attribute that is not known, before which so many came.
    pub fn keep_unknown(&mut self, place: usize, attribute: &Attribute<'a>) {
        let kept = (place, attribute.kind | attribute.flags, Cow::Borrowed(attribute.body));
        self.unusual.get_or_insert_default().unknown.push(kept);
    }

    fn unknown(&self) -> &[UnknownAttribute<'a>] {
        self.unusual.as_ref().map_or(&[], |unusual| &unusual.unknown)
    }

    /// The bodies of attributes that are not known, to be changed.
    pub fn unknown_mut(&mut self) -> impl Iterator<Item = &mut Cow<'a, [u8]>> {
        self.unusual.iter_mut().flat_map(|unusual| &mut unusual.unknown).map(|(.., body)| body)
    }

    /// Notes how an attribute that is known is flagged.
    #[inline(always)]
    pub fn known<T: Emit>(&mut self, attribute: &Attribute<'_>) {
        self.flags |= attribute.flags & T::FLAGS;
    }

    /// Whether there are unknown attributes. Empty ones are padding (`NFTA_*_PAD`).
    pub fn has_unknown(&self) -> bool {
        self.unknown().iter().any(|(.., body)| !body.is_empty())
    }

    /// A layout with fields in this order.
    pub fn in_order(order: &[u16]) -> Self {
        Self { unusual: Some(Box::new(Unusual { order: order.to_vec(), unknown: Vec::new() })), flags: 0 }
    }

    /// Records the order of the fields of these types.
    ///
    /// # Errors
    /// A malformed attribute.
    pub fn keep_order(&mut self, bytes: &[u8], fields: &[u16]) -> Result<()> {
        let order = &mut self.unusual.get_or_insert_default().order;
        for attribute in super::attributes(bytes, "block") {
            let kind = attribute?.kind;
            order.extend(Some(kind).filter(|kind| fields.contains(kind)));
        }
        Ok(())
    }

    /// Starts to write a block with this layout.
    pub fn begin<'w>(&'w self, out: &'w mut MessageWriter) -> BlockWriter<'w, 'a> {
        BlockWriter { out, layout: self, place: 0, unknown: 0 }
    }

    /// Types of the fields in the order of writing: recorded ones first, then the others.
    pub fn order<'l>(&'l self, fields: &'l [u16]) -> impl Iterator<Item = u16> + 'l {
        let first = self.unusual.as_ref().map_or(&[][..], |unusual| &unusual.order);
        first.iter().chain(fields.iter().filter(move |field| !first.contains(field))).copied()
    }
}

/// Writes a block.
#[derive(Debug)]
pub struct BlockWriter<'w, 'a> {
    out: &'w mut MessageWriter,
    layout: &'w BlockLayout<'a>,
    place: usize,
    unknown: usize,
}

impl BlockWriter<'_, '_> {
    /// Writes a known attribute, after the unknown ones before it.
    pub fn put<T: Emit>(&mut self, kind: u16, value: &T) {
        self.unknown_before(self.place);
        let flags = (self.layout.flags | self.out.flags) & T::FLAGS;
        self.out.attribute(kind | flags, |out| value.emit(out));
        self.place += 1;
    }

    fn unknown_before(&mut self, place: usize) {
        while let Some((_, kind, body)) =
            self.layout.unknown().get(self.unknown).filter(|(at, ..)| *at <= place.max(self.place))
        {
            self.out.attribute(*kind, |out| out.bytes(body));
            self.unknown += 1;
            self.place += 1;
        }
    }

    /// Writes the remaining unknown attributes.
    pub fn end(mut self) {
        self.unknown_before(usize::MAX);
    }
}

/// Declares a block of attributes as a struct, in the kernel's order: name and number of each attribute, field and
/// type. Fields other than `Option` are required.
macro_rules! attributes {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $nla:ident = $number:literal => $field:ident: $type:ty,)* }) => {
        $(#[doc = concat!("`", stringify!($nla), "`: [`", stringify!($name), "::", stringify!($field), "`]")]
        #[allow(unreachable_pub, reason = "private modules have blocks too")]
        pub const $nla: u16 = $number;)*

        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name<'a> {
            $($(#[$inner])* #[doc = concat!("(`", stringify!($nla), "`)")] pub $field: $type,)*
            /// Further properties of the parsed bytes.
            pub layout: $crate::netfilter::netlink::BlockLayout<'a>,
        }

        impl $name<'_> {
            const FIELDS: &'static [u16] = &[$($nla),*];
        }

        impl<'a> $crate::netfilter::netlink::AttributeValue<'a> for $name<'a> {
            #[allow(unused, reason = "a block may have no attribute")]
            fn parse(bytes: &'a [u8]) -> $crate::netfilter::Result<Self> {
                use $crate::netfilter::{Error, netlink::{BlockLayout, Slot, AttributeValue, attributes, rank}};
                let mut layout = BlockLayout::default();
                let (mut last, mut sorted) = (0, true);
                $(let mut $field: Option<<$type as Slot<'a>>::Value> = None;)*
                for (place, attribute) in attributes(bytes, stringify!($name)).enumerate() {
                    let attribute = attribute?;
                    match attribute.kind {
                        $($nla => {
                            layout.known::<<$type as Slot<'a>>::Value>(&attribute);
                            let value = AttributeValue::parse(attribute.body).map_err(|error| error.within(stringify!($nla)))?;
                            if $field.replace(value).is_some() {
                                return Err(Error::unexpected(concat!(stringify!($nla), " stands there twice")));
                            }
                            let rank = const { rank(Self::FIELDS, $nla) };
                            sorted &= last <= rank;
                            last = rank;
                        })*
                        _ => layout.keep_unknown(place, &attribute),
                    }
                }
                if !sorted {
                    layout.keep_order(bytes, Self::FIELDS)?;
                }
                Ok(Self { $($field: Slot::filled($field, stringify!($nla))?,)* layout })
            }
        }

        impl $crate::netfilter::netlink::Emit for $name<'_> {
            const NESTED: bool = true;

            #[allow(unused, reason = "a block may have no attribute")]
            fn emit(&self, out: &mut $crate::netfilter::netlink::MessageWriter) {
                use $crate::netfilter::netlink::Slot;
                let mut block = self.layout.begin(out);
                for kind in self.layout.order(Self::FIELDS) {
                    match kind {
                        $($nla => if let Some(value) = Slot::get(&self.$field) {
                            block.put($nla, value);
                        })*
                        _ => {}
                    }
                }
                block.end();
            }

            #[allow(unused, reason = "a block may have no attribute")]
            fn has_unknown(&self) -> bool {
                use $crate::netfilter::netlink::{Emit, Slot};
                self.layout.has_unknown() $(|| Slot::get(&self.$field).is_some_and(Emit::has_unknown))*
            }
        }
    };
}

pub(crate) use attributes;

/// Position of a type in this list.
pub const fn rank(fields: &[u16], kind: u16) -> usize {
    let mut at = 0;
    while at < fields.len() && fields[at] != kind {
        at += 1;
    }
    at
}
