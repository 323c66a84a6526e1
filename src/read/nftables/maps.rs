//! Data map lookups and generated numbers within a rule: `nft_lookup_eval` with a destination register.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::facts::netfilter::{ElementKey, Field, MapLookup, MarkWrite, NatMap, SetId, Step};
use crate::netfilter::nftables::expr::{Dynset, Expr};
use crate::netfilter::nftables::uapi::NFT_DYNSET_OP_DELETE;

/// Index of the lookup expression, and the positions of first and last value in the map's data.
type Ends = (usize, [Range<usize>; 2]);

/// The map lookups of a rule, by index of the expression.
#[derive(Debug, Default)]
pub(crate) struct Maps(BTreeMap<usize, (MapLookup, usize)>);

impl Maps {
    /// Records that the expression at index `at` is a lookup, after these steps.
    pub(crate) fn add(&mut self, at: usize, lookup: MapLookup, steps: &[Step]) {
        self.0.insert(at, (lookup, steps.len()));
    }

    /// The lookup made by an expression, unless a later step writes one of its key fields.
    pub(crate) fn looked_up(&self, at: usize, steps: &[Step]) -> Option<MapLookup> {
        let (lookup, since) = self.0.get(&at)?;
        let keeps = |step: &Step| matches!(step, Step::Match(_) | Step::NoEffect(_));
        steps[*since..].iter().all(keeps).then(|| lookup.clone())
    }

    /// The part of a NAT statement that comes from a map; `None` if no part does.
    pub(crate) fn nat(&self, addresses: Option<Ends>, ports: Option<Ends>, steps: &[Step]) -> Option<NatMap> {
        let at = addresses.as_ref().or(ports.as_ref())?.0;
        let lookup = self.looked_up(at, steps)?;
        let mine = |found: Option<Ends>| found.filter(|(of, _)| *of == at).map(|(_, bytes)| bytes);
        Some(NatMap { lookup, addresses: mine(addresses), ports: mine(ports) })
    }
}

/// The number that an expression generates, `[offset, offset + modulus)`: as a mark write and as a lookup key. A hash
/// of other than known fields is no lookup key. `key`: the fields in a register.
pub(crate) fn number(
    expression: &Expr<'_>,
    key: impl Fn(u32) -> Option<Vec<Field>>,
) -> Option<(MarkWrite, Option<Field>)> {
    let (modulus, offset, hashed, hash) = match expression {
        Expr::Numgen(numgen) => (numgen.modulus, numgen.offset, false, Some(None)),
        Expr::Hash(hash) => {
            let of = hash.sreg.map_or(Some("symhash".to_owned()), |register| hashed_fields(&key(register)?));
            let seeded = |of: String| Some(hash.seed.map_or(of.clone(), |seed| format!("{of} seed {seed:#x}")));
            (hash.modulus, hash.offset, true, of.map(seeded))
        }
        _ => return None,
    };
    let first = offset.unwrap_or(0);
    let last = first.checked_add(modulus?.checked_sub(1)?)?;
    Some((
        MarkWrite::Number { first, last, hashed },
        hash.map(|hash| Field::Number { first, last, hash, network_order: false }),
    ))
}

/// A number as it lies in a register.
pub(crate) fn in_order((_, number): &(MarkWrite, Option<Field>), network_order: bool) -> Option<Field> {
    let Some(Field::Number { first, last, hash, .. }) = number.clone() else { return None };
    Some(Field::Number { first, last, hash, network_order })
}

/// What a rule adds to a set, or takes out of it.
pub(crate) fn update(set: SetId, dynset: &Dynset<'_>, fields: Vec<Field>) -> Step {
    let adds = dynset.op.unwrap_or(0) != NFT_DYNSET_OP_DELETE;
    Step::UpdateSet { set, adds, key: ElementKey::Fields(fields) }
}

/// The hashed fields as nft writes them; `None`: not all are known.
fn hashed_fields(fields: &[Field]) -> Option<String> {
    let known = fields.iter().all(|field| !matches!(field, Field::Other(_)));
    let names: Vec<String> = fields.iter().map(Field::to_string).collect();
    known.then(|| format!("jhash {}", names.join(" . ")))
}
