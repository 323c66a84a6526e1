//! Types that are blocks of attributes, made by [`attributes!`](crate::netfilter::attributes): they keep what they do not know, so that
//! the bytes that they are written to are those that they were read from.

use std::borrow::Cow;

use super::attributes::Attribute;
use super::value::{AttributeValue, Emit};
use super::writer::MessageWriter;
use crate::netfilter::{Error, Result};

/// A field of a block: a value that has to be there, or an `Option` of one.
pub trait Slot<'a>: Sized {
    /// What the attribute holds.
    type Value: AttributeValue<'a>;

    /// From what was found; `name` is the attribute's.
    ///
    /// # Errors
    /// It has to be there and is not.
    fn filled(found: Option<Self::Value>, name: &str) -> Result<Self>;

    /// The value, if there is one.
    fn get(&self) -> Option<&Self::Value>;

    /// The same, to be changed.
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

/// What the bytes of a block had beside the values of its fields.
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

    /// Whether there are attributes that are not known. Empty ones fill up (`NFTA_*_PAD`).
    pub fn has_unknown(&self) -> bool {
        self.unknown().iter().any(|(.., body)| !body.is_empty())
    }

    /// With the fields in this order.
    pub fn in_order(order: &[u16]) -> Self {
        Self { unusual: Some(Box::new(Unusual { order: order.to_vec(), unknown: Vec::new() })), flags: 0 }
    }

    /// Keeps the order of the fields of these types.
    ///
    /// # Errors
    /// A broken attribute.
    pub fn keep_order(&mut self, bytes: &[u8], fields: &[u16]) -> Result<()> {
        let order = &mut self.unusual.get_or_insert_default().order;
        for attribute in super::attributes(bytes, "block") {
            let kind = attribute?.kind;
            order.extend(Some(kind).filter(|kind| fields.contains(kind)));
        }
        Ok(())
    }

    /// Begins to write a block that is laid out like this.
    pub fn begin<'w>(&'w self, out: &'w mut MessageWriter) -> BlockWriter<'w, 'a> {
        BlockWriter { out, layout: self, place: 0, unknown: 0 }
    }

    /// The types of the fields, in the order in which they are written: those that came first, then the others.
    pub fn order<'l>(&'l self, fields: &'l [u16]) -> impl Iterator<Item = u16> + 'l {
        let first = self.unusual.as_ref().map_or(&[][..], |unusual| &unusual.order);
        first.iter().chain(fields.iter().filter(move |field| !first.contains(field))).copied()
    }
}

/// A block that is written.
#[derive(Debug)]
pub struct BlockWriter<'w, 'a> {
    out: &'w mut MessageWriter,
    layout: &'w BlockLayout<'a>,
    place: usize,
    unknown: usize,
}

impl BlockWriter<'_, '_> {
    /// An attribute that is known, and before it those that stand there and are not.
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

    /// The rest.
    pub fn end(mut self) {
        self.unknown_before(usize::MAX);
    }
}

/// A block of attributes as a struct: in the kernel's order, the name and number of each attribute, the field and its type.
/// Fields that are no `Option` have to be there.
macro_rules! attributes {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $nla:ident = $number:literal => $field:ident: $type:ty,)* }) => {
        $(#[doc = concat!("`", stringify!($nla), "`: [`", stringify!($name), "::", stringify!($field), "`]")]
        #[allow(unreachable_pub, reason = "private modules have blocks too")]
        pub const $nla: u16 = $number;)*

        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name<'a> {
            $($(#[$inner])* #[doc = concat!("(`", stringify!($nla), "`)")] pub $field: $type,)*
            /// What else its bytes had.
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

/// Which of these types it is.
pub const fn rank(fields: &[u16], kind: u16) -> usize {
    let mut at = 0;
    while at < fields.len() && fields[at] != kind {
        at += 1;
    }
    at
}
