//! Experiments for `nat-udp-zero-checksum` and `nat-udp-lco-checksum`: whether NAT leaves a tunnel's packets with a
//! wrong UDP checksum.
//!
//! One datagram is sent through a tunnel without NAT, and one whose outer packet is translated.

use super::datagram::{Checksum, Datagram, Partial};
use super::lab::{self, Lab, LabTunnel, NoIpv6};
use super::messages::Ports;
use crate::advisory::defects::DefectState;
use crate::facts::netfilter::Family;

/// Source ports of translated outer packets. Some are taken by packets that the kernel itself sends through the tunnel.
const TRANSLATED: (u16, u16) = (4000, 4999);
/// Number of attempts: the outer source port is a hash of the inner packet, and one used before belongs to an
/// untranslated flow.
const TRIES: u16 = 4;

/// A received outer packet.
#[derive(Clone, Copy, Debug)]
struct Outer {
    translated: bool,
    checksum: Checksum,
    partial: Partial,
}

/// State and detail for both families.
///
/// # Errors
/// Why the experiment has no result.
pub(crate) fn experiment(lab: &mut Lab, checksum: bool) -> Result<(DefectState, String), String> {
    let ipv4 = one(lab, Family::Ipv4, checksum);
    match lab.ipv6.clone() {
        Ok(()) => combine(ipv4, Some(one(lab, Family::Ipv6, checksum)), checksum),
        Err(NoIpv6::Unusable(why)) => combine(ipv4, Some(Err(why)), checksum),
        Err(NoIpv6::Absent(why)) => {
            let (state, detail) = combine(ipv4, None, checksum)?;
            Ok((state, format!("{detail}; not tried over IPv6: {why}")))
        }
    }
}

fn one(lab: &mut Lab, family: Family, checksum: bool) -> Result<bool, String> {
    let tunnel = lab.tunnel(family, checksum)?;
    let plain = through(lab, &tunnel, 0)?;
    lab.masquerade(tunnel.peer, Ports::Range(TRANSLATED.0, TRANSLATED.1))?;
    let mut outer = through(lab, &tunnel, 1)?;
    for number in 2..TRIES {
        if !outer.translated {
            outer = through(lab, &tunnel, number)?;
        }
    }
    judge(plain, outer, checksum)
}

/// Sends a datagram through the tunnel; returns the outer packet.
fn through(lab: &Lab, tunnel: &LabTunnel, number: u16) -> Result<Outer, String> {
    let payload = [tunnel.port.to_be_bytes(), number.to_be_bytes()].concat();
    lab::send(0, tunnel.inside, &payload)?;
    lab.receive(tunnel.family, |datagram| read(&datagram, tunnel, &payload))
}

fn read(datagram: &Datagram, tunnel: &LabTunnel, payload: &[u8]) -> Option<Outer> {
    let mine = datagram.destination == tunnel.peer && datagram.destination_port == tunnel.port;
    let carries = datagram.inner() == Some((lab::DISCARD, payload));
    let translated = (TRANSLATED.0..=TRANSLATED.1).contains(&datagram.source_port);
    (mine && carries).then_some(Outer { translated, checksum: datagram.checksum, partial: datagram.partial })
}

/// Whether NAT breaks the checksum.
fn judge(plain: Outer, outer: Outer, checksum: bool) -> Result<bool, String> {
    let unfit = |why: &str| Err(why.to_owned());
    match (plain, outer) {
        (Outer { partial, .. }, _) | (_, Outer { partial, .. }) if partial != Partial::Inner => {
            unfit("the inner checksum was not left to an offload, so nothing could go wrong")
        }
        (Outer { translated: true, .. }, _) => unfit("a packet was translated before there was a rule"),
        (_, Outer { translated: false, .. }) => unfit("the outer packet was not translated"),
        (Outer { checksum: Checksum::Wrong, .. }, _) => unfit("the checksum is wrong without NAT too"),
        (Outer { checksum: Checksum::None, .. }, _) if checksum => unfit("the device sent no checksum"),
        (Outer { checksum: Checksum::Valid, .. }, _) if !checksum => unfit("the device sent a checksum unasked"),
        (_, Outer { checksum, .. }) => Ok(checksum == Checksum::Wrong),
    }
}

fn combine(
    ipv4: Result<bool, String>,
    ipv6: Option<Result<bool, String>>,
    checksum: bool,
) -> Result<(DefectState, String), String> {
    let of = if checksum { "outer UDP checksums on" } else { "outer UDP checksums off" };
    let sent = format!("of a VXLAN tunnel with {of}, sent over");
    let all = [("IPv4", Some(ipv4)), ("IPv6", ipv6)];
    let which = |wanted: bool| {
        let found = all.iter().filter(|(_, found)| *found == Some(Ok(wanted))).map(|(family, _)| *family);
        found.collect::<Vec<_>>().join(" and ")
    };
    let (wrong, right) = (which(true), which(false));
    if !wrong.is_empty() {
        return Ok((DefectState::Present, format!("a packet {sent} {wrong}, arrived with a wrong checksum after NAT")));
    }
    for (family, found) in &all {
        if let Some(Err(why)) = found {
            return Err(format!("{family}: {why}"));
        }
    }
    Ok((DefectState::Absent, format!("packets {sent} {right}, arrived with a good checksum after NAT")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Outer = Outer { translated: false, checksum: Checksum::None, partial: Partial::Inner };
    const NATTED: Outer = Outer { translated: true, ..PLAIN };

    #[test]
    fn without_its_controls_an_experiment_says_nothing() {
        let with = |plain, outer, checksum| judge(plain, outer, checksum);
        assert_eq!(with(PLAIN, NATTED, false), Ok(false));
        assert_eq!(with(PLAIN, Outer { checksum: Checksum::Wrong, ..NATTED }, false), Ok(true));
        let valid = Outer { checksum: Checksum::Valid, ..PLAIN };
        assert_eq!(with(valid, Outer { checksum: Checksum::Wrong, ..NATTED }, true), Ok(true));
        assert_eq!(with(valid, Outer { translated: true, ..valid }, true), Ok(false));
        for (plain, outer, checksum) in [
            (PLAIN, PLAIN, false),                                         // no NAT
            (NATTED, NATTED, false),                                       // always NAT
            (PLAIN, Outer { partial: Partial::No, ..NATTED }, false),      // no offload
            (Outer { partial: Partial::Own, ..PLAIN }, NATTED, false),     // another offload
            (Outer { checksum: Checksum::Wrong, ..PLAIN }, NATTED, false), // wrong anyway
            (PLAIN, NATTED, true),                                         // no checksum though asked for
            (valid, NATTED, false),                                        // one though not
        ] {
            assert!(with(plain, outer, checksum).is_err(), "{plain:?} {outer:?} {checksum}");
        }
    }

    #[test]
    fn one_bad_family_is_enough_and_both_must_be_good() {
        let no = || Err("why".to_owned());
        let state = |ipv4, ipv6| combine(ipv4, ipv6, true).map(|(state, _)| state);
        assert_eq!(state(Ok(true), Some(no())), Ok(DefectState::Present));
        assert_eq!(state(no(), Some(Ok(true))), Ok(DefectState::Present));
        assert_eq!(state(Ok(false), Some(Ok(true))), Ok(DefectState::Present));
        assert_eq!(state(Ok(false), Some(Ok(false))), Ok(DefectState::Absent));
        assert_eq!(state(Ok(false), None), Ok(DefectState::Absent));
        assert_eq!(state(Ok(false), Some(no())), Err("IPv6: why".into()));
        assert_eq!(state(no(), Some(Ok(false))), Err("IPv4: why".into()));
        let (_, detail) = combine(Ok(true), Some(Ok(true)), true).unwrap();
        assert!(detail.contains("IPv4 and IPv6"), "{detail}");
    }
}
