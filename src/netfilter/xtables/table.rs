//! A legacy table as the kernel returns it: a blob of entries, with chains given by offsets. It is traversed in place;
//! only requested entries are parsed.
//!
//! In libiptc's layout, a user-defined chain begins after an entry with target `ERROR` that has its name, and ends with
//! an entry that returns; a built-in chain extends from `hook_entry` to `underflow`, its policy; the last entry has
//! target `ERROR` as well. Any other layout is an error.

use super::entry::{counters, offsets, up_to_zero};
use super::targets::verdict::{ACCEPT, DROP, RETURN, XtErrorTarget, XtStandardTarget};
use super::{Ip, IptGetEntries, IptGetinfo, LayoutField, Structure, XtEntry, XtEntryHeader, XtFamily, XtHeader};
use crate::netfilter::{Error, Result};

/// Names of built-in chains, by hook (`NF_INET_*`).
const HOOKS: [&[u8]; 5] = [b"PREROUTING", b"INPUT", b"FORWARD", b"OUTPUT", b"POSTROUTING"];

/// A table whose chains were found and checked.
#[derive(Debug)]
pub struct XtTable<'a> {
    /// Its family.
    pub family: XtFamily,
    entries: &'a [u8],
    /// Chains by offset.
    pub chains: Vec<XtChain>,
    /// Number of entries.
    pub count: usize,
}

/// A chain: entries from `start` to `end`, the policy or final return.
#[derive(Debug)]
pub struct XtChain {
    /// Hook of a built-in chain (`NF_INET_*`); `None`: user-defined.
    pub hook: Option<usize>,
    /// Offset of the entry with the name of a user-defined chain.
    name: usize,
    /// Offset of the first rule.
    pub start: usize,
    /// Offset after the last rule.
    end: usize,
    /// Offsets of the chains that its rules jump to.
    jumps: Vec<u32>,
    /// Whether a rule has a target other than verdicts and [`TRANSLATIONS`].
    pub other_targets: bool,
}

/// Targets that do not write marks; almost all entries of a node with Services have these.
const TRANSLATIONS: &[&[u8]] = &[b"DNAT\0", b"REDIRECT\0", b"NETMAP\0"];

/// An entry, with its target known to be inside it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Offset in the blob.
    pub at: usize,
    /// All its bytes.
    pub bytes: &'a [u8],
    /// Offset of the target in the entry, which is the end of the matches.
    pub target: usize,
    family: XtFamily,
}

impl XtChain {
    fn new(hook: Option<usize>, name: usize, start: usize) -> Self {
        Self { hook, name, start, end: 0, jumps: Vec::new(), other_targets: false }
    }
}

impl<'a> Entry<'a> {
    /// Header tests.
    pub fn ip(&self) -> Ip<'a> {
        Ip::of(self.family, self.bytes)
    }

    /// Packets and bytes counted.
    pub fn counters(&self) -> (u64, u64) {
        counters(self.family, self.bytes)
    }

    /// Its matches; ends after an error.
    pub fn matches(&self) -> impl Iterator<Item = Result<XtEntry<'a>>> {
        let mut rest = &self.bytes[XtHeader::size(self.family)..self.target];
        std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| {
                let found = XtEntry::parse(rest);
                rest = found.as_ref().ok().and_then(|found| rest.get(found.size()..)).unwrap_or_default();
                found
            })
        })
    }

    /// Its target.
    ///
    /// # Errors
    /// An impossible size.
    pub fn target(&self) -> Result<XtEntry<'a>> {
        XtEntry::parse(&self.bytes[self.target..])
    }

    /// Whether the name of its target begins with `name`.
    pub fn target_is(&self, name: &[u8]) -> bool {
        self.bytes[self.target + XtEntryHeader::name..].starts_with(name)
    }

    /// Offset of the next entry.
    pub fn next(&self) -> usize {
        self.at + self.bytes.len()
    }

    /// Its verdict, if it has a standard target: negative for a verdict, else the offset to jump to.
    ///
    /// # Errors
    /// An impossible size.
    pub fn verdict(&self) -> Result<Option<i32>> {
        if !self.target_is(b"\0") {
            return Ok(None);
        }
        // Called for every entry, so only this value is read.
        let target = &self.bytes[self.target..];
        let size = u16::read(&target[XtEntryHeader::size..]).into();
        match target.get(XtEntryHeader::SIZE..size) {
            Some(data) if data.len() >= XtStandardTarget::SIZE => {
                Ok(Some(i32::read(&data[XtStandardTarget::verdict..])))
            }
            _ => Err(Error::unexpected(format!("a verdict of {size} bytes"))),
        }
    }
}

/// Hooks in use, with offsets of first entry and policy.
fn hooks(info: &IptGetinfo<'_>) -> impl Iterator<Item = (usize, usize, usize)> {
    let used = (0..HOOKS.len()).filter(|hook| info.valid_hooks & 1 << hook != 0);
    used.map(|hook| (hook, info.hook_entry[hook] as usize, info.underflow[hook] as usize))
}

impl<'a> XtTable<'a> {
    /// Finds the chains of a table in the kernel's response: `struct ipt_getinfo`, `struct ipt_get_entries`.
    ///
    /// # Errors
    /// A layout other than described above.
    pub fn new(answer: &'a [u8], family: XtFamily, name: &str) -> Result<Self> {
        let info = IptGetinfo::parse(answer)?;
        let header = IptGetEntries::parse(&answer[IptGetinfo::SIZE..])?;
        let entries = &answer[IptGetinfo::SIZE + IptGetEntries::SIZE..];
        if entries.len() != info.size as usize {
            let text = format!("{} bytes, of which {} should be entries", answer.len(), info.size);
            return Err(Error::unexpected(text));
        }
        for found in [up_to_zero(&info.name), up_to_zero(&header.name)] {
            if found != name.as_bytes() {
                return Err(Error::unexpected(format!("it is about {:?}", String::from_utf8_lossy(found))));
            }
        }
        let mut table = Self { family, entries, chains: Vec::new(), count: info.num_entries as usize };
        table.find_chains(&info)?;
        Ok(table)
    }

    fn find_chains(&mut self, info: &IptGetinfo<'_>) -> Result<()> {
        let mut open: Option<XtChain> = None;
        let (mut at, mut last, mut count, mut found) = (0, 0, 0u32, 0);
        let mut ended = false;
        while at < self.entries.len() {
            let entry = self.entry(at)?;
            if entry.target_is(b"ERROR\0") {
                if let Some(chain) = open.take() {
                    self.close(chain, last)?;
                }
                ended = entry.next() == self.entries.len();
                open = (!ended).then(|| XtChain::new(None, at, entry.next()));
            } else {
                if let Some((hook, ..)) = hooks(info).find(|(_, start, _)| *start == at) {
                    if open.is_some() {
                        let name = String::from_utf8_lossy(HOOKS[hook]);
                        return Err(Error::unexpected(format!("chain {name} begins within another")));
                    }
                    open = Some(XtChain::new(Some(hook), 0, at));
                }
                let chain = open.as_mut().ok_or_else(|| Error::unexpected(format!("entry {at} is in no chain")))?;
                match entry.verdict()? {
                    Some(verdict) => {
                        chain.jumps.extend(u32::try_from(verdict).ok().filter(|to| *to as usize != entry.next()))
                    }
                    None => chain.other_targets |= !TRANSLATIONS.iter().any(|name| entry.target_is(name)),
                }
                let policy = chain.hook.map(|hook| info.underflow[hook] as usize);
                if policy == Some(at)
                    && let Some(chain) = open.take()
                {
                    self.close(chain, at)?;
                    found += 1;
                }
            }
            (last, at, count) = (at, entry.next(), count + 1);
        }
        if !ended || open.is_some() || count != info.num_entries || found != hooks(info).count() {
            let text = format!("{count} entries of {}, {found} built-in chains", info.num_entries);
            return Err(Error::unexpected(text));
        }
        Ok(())
    }

    /// Records that a chain ends with the entry at `end`.
    fn close(&mut self, chain: XtChain, end: usize) -> Result<()> {
        let verdict = if end < chain.start { None } else { self.entry(end)?.verdict()? };
        let fits = match chain.hook {
            Some(_) => verdict.is_some_and(|verdict| matches!(verdict, ACCEPT | DROP)),
            None => verdict == Some(RETURN),
        };
        if !fits || self.entry(end)?.target != XtHeader::size(self.family) {
            return Err(Error::unexpected(format!("the chain at {} has no end", chain.start)));
        }
        self.chains.push(XtChain { end, ..chain });
        Ok(())
    }

    /// The entry at this offset.
    fn entry(&self, at: usize) -> Result<Entry<'a>> {
        let rest = self.entries.get(at..).unwrap_or_default();
        let (target, next) = offsets(self.family, rest)?;
        match rest.get(..next) {
            Some(bytes) if target >= XtHeader::size(self.family) && target + XtEntryHeader::SIZE <= next => {
                Ok(Entry { at, bytes, target, family: self.family })
            }
            _ => {
                let length = rest.len();
                Err(Error::unexpected(format!("entry {at}: target at {target} and end at {next} of {length} bytes")))
            }
        }
    }

    /// The rules of a chain, in order.
    pub fn rules(&self, chain: &XtChain) -> impl Iterator<Item = Result<Entry<'a>>> {
        let (mut at, end) = (chain.start, chain.end);
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let entry = self.entry(at);
                at = entry.as_ref().map_or(end, Entry::next);
                entry
            })
        })
    }

    /// Index of the chain whose first rule is at this offset.
    ///
    /// # Errors
    /// There is none.
    pub fn chain_at(&self, start: usize) -> Result<usize> {
        let found = self.chains.binary_search_by_key(&start, |chain| chain.start);
        found.map_err(|_| Error::unexpected(format!("no chain begins at {start}")))
    }

    /// Whether a built-in chain's policy is drop.
    ///
    /// # Errors
    /// None: it was checked when the chain was found.
    pub fn drops(&self, chain: &XtChain) -> Result<bool> {
        Ok(self.entry(chain.end)?.verdict()? == Some(DROP))
    }

    /// Indexes of the chains that a chain jumps to.
    pub fn jumps(&self, chain: &XtChain) -> impl Iterator<Item = Result<usize>> {
        chain.jumps.iter().map(|start| self.chain_at(*start as usize))
    }

    /// A chain's name as `iptables` prints it.
    pub fn name(&self, chain: &XtChain) -> &'a [u8] {
        if let Some(hook) = chain.hook {
            return HOOKS[hook];
        }
        // The entry was checked when the chain was found.
        let target = self.entry(chain.name).map_or(&[][..], |entry| &entry.bytes[entry.target + XtEntryHeader::SIZE..]);
        up_to_zero(target.get(..XtErrorTarget::SIZE).unwrap_or(target))
    }
}
