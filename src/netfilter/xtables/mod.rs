//! x_tables: legacy tables of iptables, and the matches and targets that nf_tables rules may use as well.
//!
//! Structures are those of 64-bit kernels since Linux 3.10, numbers in host order, addresses and the ports of
//! translations in network order. Headers: `include/uapi/linux/netfilter/x_tables.h`, `xt_*.h`,
//! `netfilter_ipv4/ip_tables.h`, `ipt_*.h`, `netfilter_ipv6/ip6_tables.h`, `ip6t_*.h`, read in 6.12.

mod entry;
mod family;
pub(super) mod layout;
pub mod matches;
mod table;
pub mod targets;

pub use entry::{
    Ip, Ip6tEntry, IptEntry, IptGetEntries, IptGetinfo, IptReplace, NO_REVISION, XtEntry, XtEntryHeader, XtHeader,
    XtRule, up_to_zero,
};
pub use family::XtFamily;
pub use layout::{AddressBytes, Be16, Inet, LayoutField, Structure, Untyped, XtVisitor, whole};
pub use matches::Match;
pub use table::{Entry, XtChain, XtTable};
pub use targets::Target;

/// Declares all matches or targets: name, revisions with this structure, and families.
macro_rules! extensions {
    ($(#[$outer:meta])* $name:ident {
        $($variant:ident($type:ty) = ($extension:literal, $revision:pat, $family:pat),)*
    }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant, reason = "it is looked at and dropped")]
        pub enum $name<'a> {
            $(#[doc = concat!("`", $extension, "`")] $variant($type),)*
            /// An unknown extension.
            Unsupported {
                /// Its name.
                name: std::borrow::Cow<'a, [u8]>,
                /// Revision of its structure.
                revision: u32,
                /// Its structure.
                bytes: std::borrow::Cow<'a, [u8]>,
            },
        }

        impl<'a> $name<'a> {
            /// Names of all known extensions.
            pub const NAMES: &'static [&'static str] = &[$($extension),*];

            /// Parses a structure by name, revision and family (`NFPROTO_*`) of its table.
            ///
            /// # Errors
            /// A known extension whose structure is too short.
            pub fn parse(name: &'a [u8], revision: u32, family: u8, bytes: &'a [u8]) -> crate::netfilter::Result<Self> {
                use $crate::netfilter::xtables::Structure;
                Ok(match (std::str::from_utf8(name), revision, family) {
                    $((Ok($extension), $revision, $family) => {
                        let within = |error: $crate::netfilter::Error| {
                            error.within(format_args!("{} revision {revision}", $extension))
                        };
                        Self::$variant(Structure::parse(bytes).map_err(within)?)
                    })*
                    _ => Self::Unsupported { name: name.into(), revision, bytes: bytes.into() },
                })
            }

            /// The bytes of its structure.
            pub fn emit(&self) -> Vec<u8> {
                use $crate::netfilter::xtables::Structure;
                match self {
                    $(Self::$variant(structure) => structure.emit(),)*
                    Self::Unsupported { bytes, .. } => bytes.to_vec(),
                }
            }

            /// Passes each field to the method for its meaning; an unknown structure is zeroed.
            pub fn visit<V: $crate::netfilter::xtables::XtVisitor>(&mut self, visitor: &mut V) {
                use $crate::netfilter::xtables::Structure;
                match self {
                    $(Self::$variant(structure) => structure.visit(visitor),)*
                    Self::Unsupported { bytes, .. } => bytes.to_mut().fill(0),
                }
            }
        }
    };
}
use extensions;
