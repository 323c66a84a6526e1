//! Conditions about a tunnel's underlay devices: drivers and offloads.

use std::collections::BTreeSet;

use super::context::{Context, Evaluation, unread_links};
use super::tunnel::PROBE;
use crate::advisory::defects::DefectState;
use crate::facts::{Feature, Link, Question, Reading, SourceState, Toggle, Tunnel, with_lower_devices};

/// Why the underlay device is not known.
const ELSEWHERE: &str = "its own device lives in another network namespace";

/// `underlay_driver`: the tunnel has an underlay device with this driver that offers offloads for UDP tunnels.
pub(super) fn underlay_driver(context: &Context<'_>, tunnel: Option<&Link>, driver: &str) -> Evaluation {
    if context.facts.links.ok().is_none() {
        return Evaluation::unknown(unread_links(&context.facts.links));
    }
    let Some((link, tunnel)) = tunnel.and_then(|link| Some((link, link.tunnel.as_ref()?))) else {
        return Evaluation::fails("there is no tunnel in this network namespace, so nothing carries one");
    };
    if !link.up {
        return Evaluation::unknown("not looked up: it is down");
    }
    let links = context.facts.known_links();
    // Without a fixed or known route, outer packets still leave by some device of this namespace.
    let (underlay_devices, elsewhere) = match &tunnel.underlay {
        Reading::Ok(indices) => match missing_underlay_device(context, indices) {
            Some(why) => return Evaluation::unknown(why),
            None => (
                underlay_devices(context, tunnel),
                (link.is_elsewhere() && indices.len() > 1).then(|| ELSEWHERE.to_owned()),
            ),
        },
        other if link.link_netnsid.is_none() => ((0..links.len()).collect(), Some(other.why())),
        other => return Evaluation::unknown(other.why()),
    };
    let underlay_devices: Vec<&Link> = underlay_devices.iter().map(|at| &links[*at]).collect();
    let is_driven = |link: &&&Link| link.driver.ok().is_some_and(|name| name == driver);
    let driven = underlay_devices.iter().filter(is_driven).find(|link| !never_offloads_tunnels(link));
    let unseen = underlay_devices.iter().find(|link| link.driver.state() > SourceState::Absent);
    let unsupported =
        underlay_devices.iter().find(|link| !shows_what_is_below(link)).and_then(|link| match &tunnel.underlay {
            Reading::Ok(_) => {
                Some(format!("{} ({}) carries it, and what is below that is not read", link.name, kind(link)))
            }
            Reading::Absent(_) => None, // veths of pods are common; a tunnel over one has a fixed route
            other => Some(other.why().to_owned()),
        });
    match (driven, elsewhere, unseen) {
        (Some(device), None, _) => {
            let detail = format!("{} carries it and is driven by {driver}", device.name);
            Evaluation::holds(detail).with("offloading_device", &device.name)
        }
        (Some(device), Some(why), _) => {
            Evaluation::unknown(format!("{} is driven by {driver}, but does it carry the tunnel? {why}", device.name))
        }
        (None, _, Some(device)) => {
            Evaluation::unknown(Question::unread(&device.driver).shown_by(["ethtool", "-i", &device.name]))
        }
        (None, _, None) if unsupported.is_some() => Evaluation::unknown(unsupported.unwrap_or_default()),
        (None, Some(_), None) => Evaluation::fails(match underlay_devices.iter().find(is_driven) {
            Some(device) => format!("{driver} offers no tunnel offload on {}", device.name),
            None => format!("no device here is driven by {driver}"),
        }),
        (None, None, None) => {
            let names: Vec<_> = underlay_devices.iter().map(|link| describe_driver(link)).collect();
            let names = if names.is_empty() { "no device".to_owned() } else { names.join(", ") };
            let unable = underlay_devices.iter().find(is_driven);
            let why = unable
                .map_or_else(String::new, |device| format!("; {driver} offers no tunnel offload on {}", device.name));
            Evaluation::fails(format!("carried by {names}{why}"))
        }
    }
}

/// `underlay_tunnel_offload`: such a device has an offload for UDP tunnels enabled.
pub(super) fn underlay_tunnel_offload(context: &Context<'_>, tunnel: Option<&Link>, driver: &str) -> Evaluation {
    let Some(tunnel) = tunnel.filter(|link| link.up).and_then(|link| link.tunnel.as_ref()) else {
        return Evaluation::unknown("no tunnel that is up, so nothing is offloaded");
    };
    if tunnel.underlay.ok().is_none() {
        return Evaluation::unknown(tunnel.underlay.why());
    }
    let Some(driven) = driven_below(context, tunnel, driver) else {
        return Evaluation::unknown("it is not known which cards carry it");
    };
    let offloads = |link: &&&Link| tunnel_offload(link) == Toggle::On;
    if let Some(device) = driven.iter().find(offloads) {
        let detail = format!("tunnel offloads are on on {}", device.name);
        return Evaluation::holds(detail).with("offloading_device", &device.name);
    }
    match driven.iter().find(|link| tunnel_offload(link) == Toggle::Unknown) {
        Some(device) => {
            let why = device.features.why();
            let why = format!("offload features of {} are not known: {why}", device.name);
            Evaluation::unknown(Question::from(why).shown_by(["ethtool", "-k", &device.name]))
        }
        None if driven.is_empty() => Evaluation::fails(format!("no {driver} device carries it")),
        None => Evaluation::fails(format!("tunnel offloads are off on {}", driven[0].name)),
    }
}

/// `driver_offloads_port`: its driver offloads tunnels on this tunnel's port.
pub(super) fn driver_offloads_port(
    context: &Context<'_>,
    tunnel: Option<&Link>,
    driver: &str,
    defect: &str,
    ports: &[u16],
) -> Evaluation {
    let Some(tunnel) = tunnel.and_then(|link| link.tunnel.as_ref()) else {
        return Evaluation::unknown("there is no tunnel, so there is no port");
    };
    if driven_below(context, tunnel, driver).is_some_and(|driven| driven.is_empty()) {
        return Evaluation::fails(format!("no {driver} device carries it"));
    }
    let Some(finding) = context.defect(defect) else {
        return Evaluation::unknown(format!("natwatch has no table for {defect}"));
    };
    match finding.state {
        DefectState::Present => Evaluation::holds(format!("the driver offloads any port: {}", finding.detail)),
        DefectState::Unknown => Evaluation::unknown(Question::from(&finding.detail).shown_by(PROBE)),
        DefectState::Absent => driver_offloads_some_port(tunnel, ports),
    }
}

/// Underlay devices and their lower devices with this driver; `None`: not all are known.
fn driven_below<'a>(context: &Context<'a>, tunnel: &Tunnel, driver: &str) -> Option<Vec<&'a Link>> {
    if missing_underlay_device(context, tunnel.underlay.ok()?).is_some() {
        return None;
    }
    let links = context.facts.known_links();
    let underlay_devices: Vec<&Link> = underlay_devices(context, tunnel).iter().map(|at| &links[*at]).collect();
    let known =
        underlay_devices.iter().all(|link| link.driver.state() <= SourceState::Absent && shows_what_is_below(link));
    let driven = |link: &&Link| link.driver.ok().is_some_and(|name| name == driver);
    known.then(|| underlay_devices.into_iter().filter(driven).collect())
}

/// Why an underlay device is unknown, if it is not among the links.
fn missing_underlay_device(context: &Context<'_>, indices: &[u32]) -> Option<String> {
    let known = |index: &&u32| context.facts.known_links().iter().any(|link| link.index == **index);
    let missing = indices.iter().find(|index| !known(index))?;
    Some(format!("the device with index {missing} carries it, and is not among the links that were read"))
}

/// Positions of a tunnel's underlay devices and their lower devices.
fn underlay_devices(context: &Context<'_>, tunnel: &Tunnel) -> BTreeSet<usize> {
    let underlay = tunnel.underlay.ok().into_iter().flatten();
    underlay.flat_map(|index| with_lower_devices(context.facts.known_links(), *index)).collect()
}

/// The driver offloads these ports only; which of them the hypervisor supports is not visible.
fn driver_offloads_some_port(tunnel: &Tunnel, ports: &[u16]) -> Evaluation {
    if tunnel.flow_based {
        return Evaluation::unknown("flow-based: each packet brings its own port");
    }
    let entries = match &tunnel.fdb {
        Reading::Ok(entries) => entries.as_slice(),
        Reading::Absent(_) => &[],
        unread => return Evaluation::unknown(format!("forwarding entries may have other ports: {}", unread.why())),
    };
    let used: BTreeSet<u16> = tunnel.port.into_iter().chain(entries.iter().filter_map(|entry| entry.port)).collect();
    match used.iter().find(|port| ports.contains(port)) {
        Some(port) => Evaluation::unknown(format!(
            "the driver may offload port {port}; whether the hypervisor handles it cannot be seen from inside"
        )),
        None if used.is_empty() => Evaluation::unknown("the tunnel's port is not known"),
        None => {
            let used: Vec<String> = used.iter().map(u16::to_string).collect();
            Evaluation::fails(format!("the driver does not offload port {}", used.join(", ")))
        }
    }
}

/// [`Link::shows_what_is_below`], and the lower device is in this namespace.
fn shows_what_is_below(link: &Link) -> bool {
    link.shows_what_is_below() && (link.kind.is_none() || link.link_netnsid.is_none())
}

fn kind(link: &Link) -> &str {
    link.kind.as_deref().unwrap_or("virtual")
}

/// Whether the NIC computes the inner checksum of tunnel packets: it needs tunnel segmentation offload and the checksum
/// offload that it depends on.
fn tunnel_offload(link: &Link) -> Toggle {
    let tunnel = [Feature::TxUdpTnlSegmentation, Feature::TxUdpTnlCsumSegmentation].map(|name| link.feature(name));
    match (tunnel, link.feature(Feature::TxChecksumIpGeneric)) {
        (_, Toggle::Off) | ([Toggle::Off, Toggle::Off], _) => Toggle::Off,
        ([Toggle::On, _] | [_, Toggle::On], Toggle::On) => Toggle::On,
        _ => Toggle::Unknown,
    }
}

/// Whether the driver offers no offload for UDP tunnels on this device, so that it cannot be enabled: vmxnet3 offers it
/// from device version 4 on, which is virtual hardware 14.
fn never_offloads_tunnels(link: &Link) -> bool {
    let off =
        |name| link.features.ok().and_then(|features| features.get(&name)).map(|state| state.fixed && !state.enabled);
    off(Feature::TxUdpTnlSegmentation) == Some(true) && off(Feature::TxUdpTnlCsumSegmentation) != Some(false)
}

fn describe_driver(link: &Link) -> String {
    match &link.driver {
        Reading::Ok(driver) => format!("{} ({driver})", link.name),
        _ => format!("{} ({})", link.name, kind(link)),
    }
}
