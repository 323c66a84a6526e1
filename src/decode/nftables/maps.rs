//! Numbers that rules make, and look-ups in maps of data while a rule is read: `nft_lookup_eval` with a register for what is found.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::netfilter::nftables::expr::Expr;
use crate::snapshot::netfilter::{Field, MapLookup, MarkWrite, NatMap, Step};

/// Of a first and of a last value: the expression that has looked them up, and where they stand in the data.
type Ends = (usize, [Range<usize>; 2]);

/// The look-ups of a rule, by the place of the expression.
#[derive(Debug, Default)]
pub struct Maps(BTreeMap<usize, (MapLookup, usize)>);

impl Maps {
    /// Expression number `at` is one, behind these steps.
    pub fn add(&mut self, at: usize, lookup: MapLookup, steps: &[Step]) {
        self.0.insert(at, (lookup, steps.len()));
    }

    /// The look-up of an expression, if nothing that it may be about has been written since.
    pub fn looked_up(&self, at: usize, steps: &[Step]) -> Option<MapLookup> {
        let (lookup, since) = self.0.get(&at)?;
        let keeps = |step: &Step| matches!(step, Step::Match(_) | Step::Harmless(_));
        steps[*since..].iter().all(keeps).then(|| lookup.clone())
    }

    /// What a translation takes from a map, as far as it takes it from one.
    pub fn nat(&self, addresses: Option<Ends>, ports: Option<Ends>, steps: &[Step]) -> Option<NatMap> {
        let at = addresses.as_ref().or(ports.as_ref())?.0;
        let lookup = self.looked_up(at, steps)?;
        let mine = |found: Option<Ends>| found.filter(|(of, _)| *of == at).map(|(_, bytes)| bytes);
        Some(NatMap { lookup, addresses: mine(addresses), ports: mine(ports) })
    }
}

/// The number that an expression makes: `[offset, offset + modulus)`. A hash of anything but fields of headers and of the flow is as good as
/// chance: `key` says what registers hold.
pub fn number(expression: &Expr<'_>, key: impl Fn(u32) -> Option<Vec<Field>>) -> Option<MarkWrite> {
    let is_of_fields = |register: u32| {
        key(register).is_some_and(|fields| fields.iter().all(|field| !matches!(field, Field::Other(_))))
    };
    let (modulus, offset, hashed) = match expression {
        Expr::Numgen(numgen) => (numgen.modulus, numgen.offset, false),
        Expr::Hash(hash) => (hash.modulus, hash.offset, hash.sreg.is_none_or(is_of_fields)),
        _ => return None,
    };
    let first = offset.unwrap_or(0);
    let last = first.checked_add(modulus?.checked_sub(1)?)?;
    Some(MarkWrite::Number { first, last, hashed })
}

/// The same as what a look-up goes by.
pub fn field(number: &MarkWrite) -> Option<Field> {
    match number {
        MarkWrite::Number { first, last, hashed } => {
            Some(Field::Number { first: *first, last: *last, hashed: *hashed })
        }
        _ => None,
    }
}
