//! All elements of a small set of nf_tables: `nf_tables_dump_set`.

use super::nftables::decisive;
use crate::decode::nftables::decode_verdict;
use crate::netfilter::netlink::Message;
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::SetElements;
use crate::netfilter::nftables::uapi::NFT_SET_ELEM_INTERVAL_END;
use crate::snapshot::netfilter::Verdict;
use crate::snapshot::{Failure, Reading};

/// First and last key of an element, and the verdict that a map has for it.
pub type Keys = (Vec<u8>, Vec<u8>, Option<Verdict>);

/// What a dump of elements has told so far.
#[derive(Default)]
pub struct Elements {
    whole: Vec<Keys>,
    /// Starts, and what follows ends: key, whether it ends an interval, verdict.
    ends: Vec<(Vec<u8>, bool, Option<Verdict>)>,
}

impl Elements {
    /// Adds one message. An element that counts for some packets only is an error, and one that has expired is none.
    pub fn add(&mut self, message: &Message<'_>, key_length: usize, intervals: bool) -> Result<(), Failure> {
        let odd = || Failure::unsupported("one of the set's elements is not understood");
        let (_, list): (_, SetElements<'_>) = Nfgenmsg::parse(message.body)?;
        for element in list.elements() {
            let flags = element.flags.unwrap_or(0);
            match decisive(element)? {
                Reading::Ok(true) if flags & !NFT_SET_ELEM_INTERVAL_END == 0 => {}
                Reading::Ok(false) => continue,
                _ => return Err(odd()),
            }
            let key = element.key.as_ref().and_then(|key| key.value.as_deref());
            let first = key.filter(|first| first.len() == key_length).ok_or_else(odd)?.to_vec();
            let last = element.key_end.as_ref().and_then(|key| key.value.as_deref()).map(<[u8]>::to_vec);
            let verdict = element.data.as_ref().and_then(|data| data.verdict.as_ref());
            let verdict = verdict.map(decode_verdict).transpose()?;
            match (last, flags & NFT_SET_ELEM_INTERVAL_END != 0) {
                (Some(last), false) => self.whole.push((first, last, verdict)),
                (None, false) if intervals => self.ends.push((first, false, verdict)),
                (None, false) => self.whole.push((first.clone(), first, verdict)),
                (_, true) => self.ends.push((first, true, None)),
            }
        }
        Ok(())
    }

    /// Both.
    pub fn with(mut self, other: Self) -> Self {
        self.whole.extend(other.whole);
        self.ends.extend(other.ends);
        self
    }

    /// First and last key of each element.
    pub fn finish(self) -> Vec<Keys> {
        let Self { whole: mut elements, mut ends } = self;
        // Of an interval the start and what follows its end are elements of their own.
        ends.sort_by(|(one, one_ends, _), (other, other_ends, _)| (one, !one_ends).cmp(&(other, !other_ends)));
        let mut open: Option<(Vec<u8>, Option<Verdict>)> = None;
        for (key, is_end, verdict) in ends {
            match (open.take(), is_end) {
                (Some((first, verdict)), true) => elements.push((first, before(&key), verdict)),
                (None, true) => {} // where the first interval begins to be looked for
                (None, false) => open = Some((key, verdict)),
                // Between intervals that touch there is no end: the next start is one.
                (Some((first, of_first)), false) => {
                    elements.push((first, before(&key), of_first));
                    open = Some((key, verdict));
                }
            }
        }
        if let Some((first, verdict)) = open {
            let last = vec![0xff; first.len()];
            elements.push((first, last, verdict));
        }
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
