//! C structures as structs, declared by `layout!`. They keep the bytes between and after their fields, so that writing
//! one gives the bytes that it was parsed from.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::XtFamily;
use crate::netfilter::{Error, Result};

/// Types of fields, of fixed length.
pub trait LayoutField: Sized {
    /// Length, bytes.
    const SIZE: usize;

    /// Reads from the start of `bytes`, which must be long enough.
    fn read(bytes: &[u8]) -> Self;

    /// Writes to the start of `bytes`, which must be long enough.
    fn write(&self, bytes: &mut [u8]);
}

macro_rules! number {
    ($($number:ty)*) => {$(
        /// In host byte order.
        impl LayoutField for $number {
            const SIZE: usize = size_of::<Self>();

            #[inline]
            fn read(bytes: &[u8]) -> Self {
                bytes.first_chunk().map_or(0, |bytes| Self::from_ne_bytes(*bytes))
            }

            fn write(&self, bytes: &mut [u8]) {
                bytes[..Self::SIZE].copy_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}
number!(u8 u16 u32 u64 i32);

impl<T: LayoutField, const N: usize> LayoutField for [T; N] {
    const SIZE: usize = N * T::SIZE;

    fn read(bytes: &[u8]) -> Self {
        std::array::from_fn(|at| T::read(&bytes[at * T::SIZE..]))
    }

    fn write(&self, bytes: &mut [u8]) {
        self.iter().zip(bytes.chunks_mut(T::SIZE)).for_each(|(element, bytes)| element.write(bytes));
    }
}

/// A number in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Be16(pub u16);

impl LayoutField for Be16 {
    const SIZE: usize = 2;

    fn read(bytes: &[u8]) -> Self {
        Self(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn write(&self, bytes: &mut [u8]) {
        bytes[..2].copy_from_slice(&self.0.to_be_bytes());
    }
}

/// `union nf_inet_addr`: an IPv6 address, or an IPv4 address and 12 unused bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet(pub [u8; 16]);

impl Inet {
    /// The address.
    pub fn ip(self, family: XtFamily) -> IpAddr {
        let [a, b, c, d, ..] = self.0;
        match family {
            XtFamily::Ipv4 => Ipv4Addr::new(a, b, c, d).into(),
            XtFamily::Ipv6 => Ipv6Addr::from(self.0).into(),
        }
    }

    /// The address as a number.
    pub fn number(self, family: XtFamily) -> u128 {
        let number = u128::from_be_bytes(self.0);
        match family {
            XtFamily::Ipv4 => number >> 96,
            XtFamily::Ipv6 => number,
        }
    }
}

impl From<[u8; 4]> for Inet {
    fn from([a, b, c, d]: [u8; 4]) -> Self {
        Self([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }
}

impl LayoutField for Inet {
    const SIZE: usize = 16;

    fn read(bytes: &[u8]) -> Self {
        Self(LayoutField::read(bytes))
    }

    fn write(&self, bytes: &mut [u8]) {
        self.0.write(bytes);
    }
}

/// An address that can be changed.
pub trait AddressBytes {
    /// Its bytes; those unused in this family are zeroed.
    fn octets(&mut self, family: XtFamily) -> &mut [u8];
}

impl<const N: usize> AddressBytes for [u8; N] {
    fn octets(&mut self, _: XtFamily) -> &mut [u8] {
        self
    }
}

impl AddressBytes for Inet {
    fn octets(&mut self, family: XtFamily) -> &mut [u8] {
        let (octets, rest) = self.0.split_at_mut(if family == XtFamily::Ipv6 { 16 } else { 4 });
        rest.fill(0);
        octets
    }
}

/// One method per meaning of a field. Masks and ends of ranges are passed along with their field.
pub trait XtVisitor: Sized {
    /// Family of addresses in `union nf_inet_addr`.
    fn family(&self) -> XtFamily;

    /// An address with its mask; without one all bits count.
    fn address_with(&mut self, address: &mut [u8], mask: Option<&mut [u8]>);

    /// The ends of a range of addresses.
    fn addresses(&mut self, first: &mut [u8], last: &mut [u8]);

    /// A hardware address.
    fn hardware(&mut self, address: &mut [u8; 6]);

    /// A text written by people, zero-terminated.
    fn comment(&mut self, text: &mut [u8]);

    /// Name or name prefix of a device.
    fn device(&mut self, name: &mut [u8; 16]);

    /// Name of a chain, zero-terminated.
    fn chain(&mut self, name: &mut [u8]);

    /// Name of an nfacct object, zero-terminated.
    fn accounting(&mut self, name: &mut [u8]);

    /// Whether, since the last call, something could not be changed with its meaning kept; the structure must then be
    /// made unsupported.
    fn is_unclear(&mut self) -> bool {
        false
    }

    /// A number, a flag, or a name that identifies nobody.
    fn plain<T>(&mut self, _field: &mut T) {}

    /// A value that nobody needs and that may contain anything.
    fn hidden<T: LayoutField>(&mut self, field: &mut T) {
        *field = T::read(&vec![0; T::SIZE]);
    }

    /// An address.
    fn address<A: AddressBytes>(&mut self, address: &mut A) {
        self.address_with(address.octets(self.family()), None);
    }

    /// An address and its mask.
    fn masked<A: AddressBytes>(&mut self, address: &mut A, mask: &mut A) {
        let family = self.family();
        self.address_with(address.octets(family), Some(mask.octets(family)));
    }

    /// The ends of a range of addresses.
    fn range<A: AddressBytes>(&mut self, first: &mut A, last: &mut A) {
        let family = self.family();
        self.addresses(first.octets(family), last.octets(family));
    }
}

/// A C structure.
pub trait Structure<'a>: Sized {
    /// Length up to fields that only the kernel uses, bytes.
    const SIZE: usize;

    /// Parses at least `SIZE` bytes; `XT_ALIGN` may add padding.
    ///
    /// # Errors
    /// Fewer bytes.
    fn parse(bytes: &'a [u8]) -> Result<Self>;

    /// The parsed bytes with the present field values; if it was not parsed, with zeros elsewhere, padded to
    /// `XT_ALIGN`.
    fn emit(&self) -> Vec<u8>;

    /// Passes each field to the method for its meaning; all other bytes are zeroed.
    fn visit<V: XtVisitor>(&mut self, visitor: &mut V);
}

/// The bytes of a structure, if there are at least `size`.
#[inline]
pub fn whole(bytes: &[u8], size: usize) -> Result<Cow<'_, [u8]>> {
    match bytes.len() {
        have if have < size => Err(cut(size, have)),
        _ => Ok(Cow::Borrowed(bytes)),
    }
}

/// The error for too few bytes.
#[cold]
pub(crate) fn cut(need: usize, have: usize) -> Error {
    Error::unexpected(format!("need {need} bytes, have {have}"))
}

/// A structure whose fields are not known here, only its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untyped<'a, const SIZE: usize>(pub Cow<'a, [u8]>);

impl<'a, const N: usize> Structure<'a> for Untyped<'a, N> {
    const SIZE: usize = N;

    fn parse(bytes: &'a [u8]) -> Result<Self> {
        whole(bytes, N).map(Self)
    }

    fn emit(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn visit<V: XtVisitor>(&mut self, _visitor: &mut V) {
        self.0.to_mut().fill(0);
    }
}

/// Declares C structures: name, length up to fields that only the kernel uses, and fields: offset, name, type, and the
/// method of [`XtVisitor`] for its meaning, with a second field if that takes one.
macro_rules! layout {
    ($($(#[$outer:meta])* $name:ident = $size:literal {
        $($(#[$inner:meta])* $at:literal $field:ident: $type:ty => $holds:ident $(($with:ident))?,)*
    })*) => {$(
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            $($(#[$inner])* #[doc = concat!("(at ", $at, ")")] pub $field: $type,)*
            /// The bytes it was parsed from; empty means zeros.
            pub bytes: std::borrow::Cow<'a, [u8]>,
        }

        // Fields are in order and inside the structure.
        const _: () = {
            let mut end = 0;
            $(assert!(end <= $at); end = $at + <$type as $crate::netfilter::xtables::LayoutField>::SIZE;)*
            assert!(end <= $size);
        };

        /// `offsetof` of each field, to read single fields.
        #[allow(non_upper_case_globals, missing_docs, reason = "the kernel's names")]
        impl $name<'_> {
            $(pub const $field: usize = $at;)*
        }

        impl Default for $name<'_> {
            fn default() -> Self {
                use $crate::netfilter::xtables::LayoutField;
                Self { $($field: LayoutField::read(&[0; <$type as LayoutField>::SIZE]),)* bytes: (&[]).into() }
            }
        }

        impl<'a> $crate::netfilter::xtables::Structure<'a> for $name<'a> {
            const SIZE: usize = $size;

            #[inline]
            fn parse(bytes: &'a [u8]) -> $crate::netfilter::Result<Self> {
                let bytes = $crate::netfilter::xtables::whole(bytes, $size)?;
                Ok(Self { $($field: $crate::netfilter::xtables::LayoutField::read(&bytes[$at..]),)* bytes })
            }

            fn emit(&self) -> Vec<u8> {
                let mut bytes = self.bytes.to_vec();
                if bytes.is_empty() {
                    bytes.resize(usize::next_multiple_of($size, 8), 0);
                }
                $($crate::netfilter::xtables::LayoutField::write(&self.$field, &mut bytes[$at..]);)*
                bytes
            }

            fn visit<V: $crate::netfilter::xtables::XtVisitor>(&mut self, visitor: &mut V) {
                $(visitor.$holds(&mut self.$field $(, &mut self.$with)?);)*
                self.bytes.to_mut().fill(0);
            }
        }
    )*};
}

pub(crate) use layout;
