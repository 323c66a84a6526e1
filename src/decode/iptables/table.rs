//! A table as the kernel holds it: entries one after the other, chains by their offsets.
//!
//! Kernel sources: `struct ipt_getinfo`, `struct ipt_get_entries`, `struct ipt_entry`, `struct ip6t_entry`,
//! `struct xt_entry_target`. As libiptc writes it, a chain of the user begins after an entry with target `ERROR` that
//! holds its name, and ends in an entry that returns; a built-in chain goes from `hook_entry` to `underflow`, its policy;
//! the last entry has target `ERROR` as well. A table that is built otherwise is an error.

use crate::capture::XTABLES_INFO;
use crate::netfilter::array;
use crate::snapshot::netfilter::{Family, Hook};
use crate::snapshot::{Failure, Name};

type Result<T> = std::result::Result<T, Failure>;

/// `offsetof(struct ipt_get_entries, entrytable)`
const ENTRIES_HEADER: usize = 40;
/// Bytes of `name` in both headers.
const NAME: usize = 32;
/// `offsetof(struct xt_entry_target, name)`
const NAME_AT: usize = 2;
/// Length of `struct xt_entry_match` and `struct xt_entry_target` without data.
pub const EXTENSION_HEADER: usize = 32;
/// `NF_INET_*`
const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

/// Where an entry has its fields.
#[derive(Debug)]
pub struct Layout {
    /// `elems`, hence the entry's own size
    pub size: usize,
    /// `target_offset`; `next_offset` follows
    target_offset: usize,
    /// `counters`
    pub counters: usize,
}

/// `struct ipt_entry`
const IPV4: Layout = Layout { size: 112, target_offset: 88, counters: 96 };
/// `struct ip6t_entry`
const IPV6: Layout = Layout { size: 168, target_offset: 140, counters: 152 };

/// A table, checked as far as chains go.
#[derive(Debug)]
pub struct Table<'a> {
    /// Family of its addresses.
    pub family: Family,
    /// Where its entries have their fields.
    pub layout: &'static Layout,
    entries: &'a [u8],
    /// By offset.
    pub chains: Vec<Chain>,
    /// Number of entries.
    pub count: usize,
}

/// A chain: entries from `start` up to `end`, which is its policy or the return at its end.
#[derive(Debug)]
pub struct Chain {
    /// Built-in.
    pub hook: Option<Hook>,
    /// Offset of the name, for chains of the user.
    name: usize,
    /// Offset of its first rule.
    pub start: usize,
    /// Offset of what follows its last rule.
    end: usize,
    /// Offsets of the chains that its rules lead to.
    jumps: Vec<u32>,
    /// A rule has a target that is neither a verdict nor one of [`TRANSLATIONS`].
    pub other_targets: bool,
}

/// Targets that write no mark, which nearly all entries of a node with Services have.
const TRANSLATIONS: &[&[u8]] = &[b"DNAT\0", b"REDIRECT\0", b"NETMAP\0"];

/// One entry, whose target is known to lie within it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its offset.
    pub at: usize,
    /// All of it.
    pub bytes: &'a [u8],
    /// Offset of its target within it, which is where its matches end.
    pub target: usize,
}

impl Chain {
    fn new(hook: Option<Hook>, name: usize, start: usize) -> Self {
        Self { hook, name, start, end: 0, jumps: Vec::new(), other_targets: false }
    }
}

impl<'a> Entry<'a> {
    /// Its target's name; empty for a verdict.
    pub fn target_name(&self) -> &'a [u8] {
        name_of(&self.bytes[self.target..])
    }

    /// Whether that name begins so.
    fn target_is(&self, name: &[u8]) -> bool {
        self.bytes[self.target + NAME_AT..].starts_with(name)
    }

    /// Offset of the entry after it.
    pub fn next(&self) -> usize {
        self.at + self.bytes.len()
    }

    /// Bytes of its target without header.
    pub fn target_data(&self) -> Result<&'a [u8]> {
        let all = &self.bytes[self.target..];
        let size = usize::from(u16::from_ne_bytes(array(all, 0, "target")?));
        all.get(EXTENSION_HEADER..size).ok_or_else(|| Failure::unexpected(format!("a target of {size} bytes")))
    }

    /// Its verdict, if that is its target: below 0 what to do, else where to go on.
    pub fn verdict(&self) -> Result<Option<i32>> {
        if !self.target_is(b"\0") {
            return Ok(None);
        }
        Ok(Some(i32::from_ne_bytes(array(self.target_data()?, 0, "verdict")?)))
    }
}

/// The name in the header of an extension, which is known to be there.
pub fn name_of(extension: &[u8]) -> &[u8] {
    extension[NAME_AT..31].split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What `struct ipt_getinfo` says.
struct Info {
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

impl Info {
    fn read(bytes: &[u8]) -> Result<Self> {
        let word = |at| array(bytes, at, "struct ipt_getinfo").map(u32::from_ne_bytes);
        let five =
            |at| -> Result<[u32; 5]> { Ok([word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?, word(at + 16)?]) };
        let (valid_hooks, hook_entry, underflow) = (word(32)?, five(36)?, five(56)?);
        Ok(Self { valid_hooks, hook_entry, underflow, num_entries: word(76)?, size: word(80)? })
    }

    /// Hooks that are in use, with entry and policy.
    fn hooks(&self) -> impl Iterator<Item = (Hook, usize, usize)> {
        let all = HOOKS.iter().enumerate().filter(|(number, _)| self.valid_hooks & 1 << number != 0);
        all.map(|(number, hook)| (*hook, self.hook_entry[number] as usize, self.underflow[number] as usize))
    }
}

impl<'a> Table<'a> {
    /// Finds the chains of a table.
    ///
    /// # Errors
    /// Anything that is not as described above.
    pub fn new(answer: &'a [u8], family: Family, name: &str) -> Result<Self> {
        let info = Info::read(answer)?;
        let entries = answer.get(XTABLES_INFO + ENTRIES_HEADER..).filter(|entries| entries.len() == info.size as usize);
        let Some(entries) = entries else {
            return Err(Failure::unexpected(format!(
                "{} bytes, of which {} should be entries",
                answer.len(),
                info.size
            )));
        };
        for at in [0, XTABLES_INFO] {
            let found = answer[at..at + NAME].split(|byte| *byte == 0).next().unwrap_or_default();
            if found != name.as_bytes() {
                return Err(Failure::unexpected(format!("it is about {:?}", String::from_utf8_lossy(found))));
            }
        }
        let layout = if family == Family::Ipv6 { &IPV6 } else { &IPV4 };
        let mut table = Self { family, layout, entries, chains: Vec::new(), count: info.num_entries as usize };
        table.find_chains(&info)?;
        Ok(table)
    }

    fn find_chains(&mut self, info: &Info) -> Result<()> {
        let mut open: Option<Chain> = None;
        let (mut at, mut last, mut count, mut found) = (0, 0, 0u32, 0);
        let mut ended = false;
        while at < self.entries.len() {
            let entry = self.entry(at)?;
            if entry.target_is(b"ERROR\0") {
                if let Some(chain) = open.take() {
                    self.close(chain, last)?;
                }
                ended = entry.next() == self.entries.len();
                let name = at + entry.target + EXTENSION_HEADER;
                open = (!ended).then(|| Chain::new(None, name, entry.next()));
            } else {
                if let Some((hook, ..)) = info.hooks().find(|(_, start, _)| *start == at) {
                    if open.is_some() {
                        return Err(Failure::unexpected(format!("chain {hook} begins within another")));
                    }
                    open = Some(Chain::new(Some(hook), 0, at));
                }
                let chain = open.as_mut().ok_or_else(|| Failure::unexpected(format!("entry {at} is in no chain")))?;
                match entry.verdict()? {
                    Some(verdict) => {
                        chain.jumps.extend(u32::try_from(verdict).ok().filter(|to| *to as usize != entry.next()))
                    }
                    None => chain.other_targets |= !TRANSLATIONS.iter().any(|name| entry.target_is(name)),
                }
                let policy = chain.hook.and_then(|hook| info.hooks().find(|(other, ..)| *other == hook));
                if policy.is_some_and(|(.., underflow)| underflow == at)
                    && let Some(chain) = open.take()
                {
                    self.close(chain, at)?;
                    found += 1;
                }
            }
            (last, at, count) = (at, entry.next(), count + 1);
        }
        if !ended || open.is_some() || count != info.num_entries || found != info.hooks().count() {
            return Err(Failure::unexpected(format!(
                "{count} entries of {}, {found} built-in chains",
                info.num_entries
            )));
        }
        Ok(())
    }

    /// The chain ends in this entry.
    fn close(&mut self, chain: Chain, end: usize) -> Result<()> {
        const RETURN: i32 = -5;
        let verdict = if end < chain.start { None } else { self.entry(end)?.verdict()? };
        let fits = match chain.hook {
            Some(_) => verdict.is_some_and(|verdict| matches!(verdict, -2 | -1)),
            None => verdict == Some(RETURN),
        };
        if !fits || self.entry(end)?.target != self.layout.size {
            return Err(Failure::unexpected(format!("the chain at {} has no end", chain.start)));
        }
        self.chains.push(Chain { end, ..chain });
        Ok(())
    }

    /// The entry at an offset.
    pub fn entry(&self, at: usize) -> Result<Entry<'a>> {
        let rest = self.entries.get(at..).unwrap_or_default();
        let offset = |place| array(rest, place, "entry").map(|bytes| usize::from(u16::from_ne_bytes(bytes)));
        let (target, next) = (offset(self.layout.target_offset)?, offset(self.layout.target_offset + 2)?);
        match rest.get(..next) {
            Some(bytes) if target >= self.layout.size && target + EXTENSION_HEADER <= next => {
                Ok(Entry { at, bytes, target })
            }
            _ => Err(Failure::unexpected(format!(
                "entry {at}: target at {target} and end at {next} of {} bytes",
                rest.len()
            ))),
        }
    }

    /// The rules of a chain, in order.
    pub fn rules(&self, chain: &Chain) -> impl Iterator<Item = Result<Entry<'a>>> {
        let (mut at, end) = (chain.start, chain.end);
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let entry = self.entry(at);
                at = entry.as_ref().map_or(end, Entry::next);
                entry
            })
        })
    }

    /// Number of the chain whose first rule is at this offset.
    pub fn chain_at(&self, start: usize) -> Result<usize> {
        let found = self.chains.binary_search_by_key(&start, |chain| chain.start);
        found.map_err(|_| Failure::unexpected(format!("no chain begins at {start}")))
    }

    /// Whether packets that get to the end of a built-in chain are dropped.
    pub fn drops(&self, chain: &Chain) -> Result<bool> {
        Ok(self.entry(chain.end)?.verdict()? == Some(-1))
    }

    /// Numbers of the chains that a chain leads to.
    pub fn jumps(&self, chain: &Chain) -> impl Iterator<Item = Result<usize>> {
        chain.jumps.iter().map(|start| self.chain_at(*start as usize))
    }

    /// A chain's name as `iptables` prints it.
    pub fn name(&self, chain: &Chain) -> Name {
        /// `XT_FUNCTION_MAXNAMELEN`
        const LONGEST: usize = 30;
        match chain.hook {
            Some(hook) => hook.name().to_uppercase().into(),
            None => {
                let bytes = self.entries.get(chain.name..chain.start).unwrap_or_default();
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                Name::from_bytes(&name[..name.len().min(LONGEST)])
            }
        }
    }
}
