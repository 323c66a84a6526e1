//! Elements of small nf_tables sets, dumped completely: `nf_tables_dump_set`.

use super::decode_verdict;
use crate::facts::netfilter::Verdict;
use crate::facts::{Failure, Reading};
use crate::netfilter::netlink::Message;
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::expr::Expr;
use crate::netfilter::nftables::uapi::{NFT_SET_ELEM_CATCHALL, NFT_SET_ELEM_INTERVAL_END};
use crate::netfilter::nftables::{SetElement, SetElements};

/// What an element holds besides its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ElementValue {
    /// Nothing: a set.
    Nothing,
    /// A verdict map's verdict.
    Verdict(Verdict),
    /// A data map's data, as laid out in registers.
    Data(Vec<u8>),
}

/// First and last key of an element, and what it holds.
pub(crate) type Keys = (Vec<u8>, Vec<u8>, ElementValue);

/// The elements of a dump so far.
#[derive(Default)]
pub(crate) struct Elements {
    whole: Vec<Keys>,
    /// Interval ends: key, whether it is the end (exclusive) of an interval, what it holds.
    ends: Vec<(Vec<u8>, bool, ElementValue)>,
    /// The catch-all element, for keys that no other element contains.
    catch_all: Option<Keys>,
}

impl Elements {
    /// Adds one message. Expired elements are skipped; an element that applies to some packets only is an error.
    pub(crate) fn add(&mut self, message: &Message<'_>, key_length: usize, intervals: bool) -> Result<(), Failure> {
        let odd = || Failure::unsupported("one of the set's elements is not understood");
        let (_, list): (_, SetElements<'_>) = Nfgenmsg::parse(message.body)?;
        for element in list.elements() {
            let flags = element.flags.unwrap_or(0);
            match decisive(element)? {
                Reading::Ok(true) if flags & !(NFT_SET_ELEM_INTERVAL_END | NFT_SET_ELEM_CATCHALL) == 0 => {}
                Reading::Ok(false) => continue,
                _ => return Err(odd()),
            }
            let data = element.data.as_ref();
            let value = match (data.and_then(|data| data.verdict.as_ref()), data.and_then(|data| data.value.as_deref()))
            {
                (Some(verdict), _) => ElementValue::Verdict(decode_verdict(verdict)?),
                (None, Some(data)) => ElementValue::Data(data.to_vec()),
                (None, None) => ElementValue::Nothing,
            };
            if flags & NFT_SET_ELEM_CATCHALL != 0 {
                self.catch_all = Some((vec![0; key_length], vec![0xff; key_length], value));
                continue;
            }
            let key = element.key.as_ref().and_then(|key| key.value.as_deref());
            let first = key.filter(|first| first.len() == key_length).ok_or_else(odd)?.to_vec();
            let last = element.key_end.as_ref().and_then(|key| key.value.as_deref()).map(<[u8]>::to_vec);
            match (last, flags & NFT_SET_ELEM_INTERVAL_END != 0) {
                (Some(last), false) => self.whole.push((first, last, value)),
                (None, false) if intervals => self.ends.push((first, false, value)),
                (None, false) => self.whole.push((first.clone(), first, value)),
                (_, true) => self.ends.push((first, true, ElementValue::Nothing)),
            }
        }
        Ok(())
    }

    /// Joins two parts.
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.whole.extend(other.whole);
        self.ends.extend(other.ends);
        self.catch_all = self.catch_all.or(other.catch_all);
        self
    }

    /// First and last key of each element; of elements that overlap, the first takes precedence.
    pub(crate) fn finish(self) -> Vec<Keys> {
        let Self { whole: mut elements, mut ends, catch_all } = self;
        // An interval is stored as two elements: its start, and the key after its end.
        ends.sort_by(|(one, one_ends, _), (other, other_ends, _)| (one, !one_ends).cmp(&(other, !other_ends)));
        let mut open: Option<(Vec<u8>, ElementValue)> = None;
        for (key, is_end, value) in ends {
            match (open.take(), is_end) {
                (Some((first, value)), true) => elements.push((first, before(&key), value)),
                (None, true) => {} // the end before the first interval
                (None, false) => open = Some((key, value)),
                // Adjacent intervals have no end between them, only the next start.
                (Some((first, of_first)), false) => {
                    elements.push((first, before(&key), of_first));
                    open = Some((key, value));
                }
            }
        }
        if let Some((first, value)) = open {
            let last = vec![0xff; first.len()];
            elements.push((first, last, value));
        }
        elements.extend(catch_all);
        elements
    }
}

/// The key before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    key
}

/// Whether an element applies to all packets: `nft_lookup_eval` ignores expired ones. One with a statement (limit,
/// quota, connlimit; `nft_set_elem_update_expr`) applies to some packets only, which is no failure of the source.
pub(crate) fn decisive(element: &SetElement<'_>) -> Result<Reading<bool>, Failure> {
    for statement in element.statements()? {
        if !matches!(statement.expr, Expr::Counter(_) | Expr::Last(_)) {
            let name = String::from_utf8_lossy(statement.expr.name()).into_owned();
            return Ok(Reading::Failed(Failure::unsupported(format!(
                "its element has a statement ({name}) that decides by packet"
            ))));
        }
    }
    Ok(Reading::Ok(element.expiration != Some(0)))
}
