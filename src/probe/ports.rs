//! Experiments for `nat-port-rover`, and for `random` in `nat-random-port-hash`: how NAT chooses a source port when it
//! has to.
//!
//! Several flows to one destination, from different ports, are all translated.

use super::lab::{self, Lab};
use super::messages::Ports;
use crate::advisory::defects::DefectState;
use crate::facts::netfilter::Family;

/// Number of flows.
const FLOWS: u16 = 16;
/// First source port of the flows: outside [`RANGE`], so that none can be kept.
const FIRST_SOURCE: u16 = 40_000;
/// Port range of the rule, if it has one.
const RANGE: (u16, u16) = (20_000, 29_999);

/// State and detail.
///
/// # Errors
/// Why the experiment has no result.
pub(crate) fn experiment(lab: &mut Lab, random: bool) -> Result<(DefectState, String), String> {
    let peer = lab.peer();
    let ports = if random { Ports::Random } else { Ports::Range(RANGE.0, RANGE.1) };
    lab.masquerade(peer.into(), ports)?;
    let mut chosen = Vec::new();
    for flow in 0..FLOWS {
        let payload = flow.to_be_bytes();
        lab::send(FIRST_SOURCE + flow, peer, &payload)?;
        let mine = |datagram: super::datagram::Datagram| {
            (datagram.destination == peer && datagram.payload == payload).then_some(datagram.source_port)
        };
        chosen.push(lab.receive(Family::Ipv4, mine)?);
    }
    judge(&chosen, random)
}

/// A random port is slightly above the previous one at most once in 150 times. A search that continues where the last
/// one ended, or starts at a hash of the addresses, gives each flow the next free port; other NAT on the node may take
/// some in between.
fn judge(chosen: &[u16], random: bool) -> Result<(DefectState, String), String> {
    const NEAR: u16 = 64;
    const MANY: usize = 8;
    const FEW: usize = 2;
    let kept = (FIRST_SOURCE..).zip(chosen).filter(|(source, chosen)| source == *chosen).count();
    let outside = chosen.iter().filter(|port| !(RANGE.0..=RANGE.1).contains(*port)).count();
    if chosen.len() < usize::from(FLOWS) || kept > FEW || (!random && outside > 0) {
        return Err("not all flows were translated as the rule says".into());
    }
    let just_above = |pair: &&[u16]| (1..=NEAR).contains(&pair[1].wrapping_sub(pair[0]));
    let following = chosen.windows(2).filter(just_above).count();
    let rule = if random { "a rule with random" } else { "a rule without random" };
    let ports: Vec<String> = chosen.iter().take(4).map(u16::to_string).collect();
    let detail = format!(
        "of {} flows to one destination through {rule}, {following} got a port just above the last one's ({}, ...)",
        chosen.len(),
        ports.join(", ")
    );
    match following {
        MANY.. => Ok((DefectState::Present, detail)),
        ..=FEW => Ok((DefectState::Absent, detail)),
        _ => Err(format!("{detail}, which may be chance")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(chosen: impl IntoIterator<Item = u16>, random: bool) -> Result<DefectState, String> {
        judge(&chosen.into_iter().collect::<Vec<_>>(), random).map(|(state, _)| state)
    }

    #[test]
    fn a_search_that_goes_on_shows_in_neighbouring_ports() {
        assert_eq!(state(20_500..20_516, false), Ok(DefectState::Present));
        assert_eq!(state((0..16).map(|flow| 20_000 + flow * 617), false), Ok(DefectState::Absent));
        assert_eq!(state((0..16).map(|flow| 1024 + flow * 4001), true), Ok(DefectState::Absent));
        // Another flow of the node in between, now and then.
        assert_eq!(state((0..16).map(|flow| 20_000 + flow * 17), false), Ok(DefectState::Present));
        assert!(state((0..16).map(|flow| 20_000 + flow * if flow < 6 { 1 } else { 500 }), false).is_err());
        // Beyond the last port the search goes on from the first.
        assert_eq!(state((29_995..30_000).chain(20_000..20_011), false), Ok(DefectState::Present));
    }

    #[test]
    fn without_nat_there_is_no_answer() {
        assert!(state(FIRST_SOURCE..FIRST_SOURCE + FLOWS, true).is_err(), "every port was kept");
        assert!(state((0..16).map(|flow| 31_000 + flow * 17), false).is_err(), "outside the range");
        assert!(state([20_000, 20_001], false).is_err(), "too few");
    }
}
