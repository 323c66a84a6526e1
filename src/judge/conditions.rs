//! The vocabulary of conditions: what each word of [`Test`] looks at.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use super::tunnel::PROBE;
use super::{
    ConditionState, DefectFinding, Derived, backends, conntrack, flows, idle, neighbours, services, source_nat, tunnel,
};
use crate::advisory::Test;
use crate::advisory::defects::DefectState;
use crate::facts::{Facts, Feature, Link, Question, Reading, SourceState, Toggle, Tunnel, with_lower_devices};
use crate::symbolic;

/// What conditions are evaluated against.
pub struct Context<'a> {
    /// What was seen.
    pub facts: &'a Facts,
    /// What is known about the kernel.
    pub defects: &'a [DefectFinding],
    /// Set when counters, tunnels and rules are not the node's.
    pub wrong_namespace: Option<&'static str>,
    /// Details name addresses of flows.
    pub flow_addresses: bool,
    /// The work that all walks together may do.
    pub(super) effort: symbolic::Effort<'a>,
    /// Rules, links and addresses; or what of them was not read.
    network: OnceCell<Result<symbolic::Network<'a>, Question>>,
    /// What walks have found on these facts.
    pub(super) derived: &'a Derived,
    /// What happens to the outer packets of tunnels, by index of the device.
    pub(super) outer: RefCell<BTreeMap<u32, Result<symbolic::OuterPackets, Question>>>,
}

/// The state of a condition, why, and what its remedies can use.
pub struct Evaluation {
    pub state: ConditionState,
    pub detail: String,
    /// If it is unknown: commands that show what could not be told.
    pub commands: Vec<String>,
    pub values: Vec<(&'static str, String)>,
    /// It is about Services of Kubernetes, or may be.
    pub of_services: bool,
}

impl Evaluation {
    pub(super) fn new(state: ConditionState, detail: impl Into<String>) -> Self {
        Self { state, detail: detail.into(), commands: Vec::new(), values: Vec::new(), of_services: false }
    }

    pub(super) fn holds(detail: impl Into<String>) -> Self {
        Self::new(ConditionState::Holds, detail)
    }

    pub(super) fn fails(detail: impl Into<String>) -> Self {
        Self::new(ConditionState::Fails, detail)
    }

    pub(super) fn unknown(question: impl Into<Question>) -> Self {
        let Question { text, commands } = question.into();
        Self { commands, ..Self::new(ConditionState::Unknown, text) }
    }

    pub(super) fn holds_if(holds: bool, detail: impl Into<String>) -> Self {
        if holds { Self::holds(detail) } else { Self::fails(detail) }
    }

    pub(super) fn of_services(self, of_services: bool) -> Self {
        Self { of_services, ..self }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.push((name, value.to_string()));
        self
    }
}

/// Why it is not known which of several devices carries a tunnel.
const ELSEWHERE: &str = "its own device lives in another network namespace";

impl<'a> Context<'a> {
    /// Before anything was evaluated.
    pub fn new(
        facts: &'a Facts,
        defects: &'a [DefectFinding],
        wrong_namespace: Option<&'static str>,
        stop: &'a AtomicBool,
        derived: &'a Derived,
    ) -> Self {
        Self {
            facts,
            defects,
            wrong_namespace,
            flow_addresses: true,
            effort: symbolic::Effort::new(stop),
            network: OnceCell::new(),
            derived,
            outer: RefCell::default(),
        }
    }

    /// What packets can meet.
    pub(super) fn network(&self) -> Result<&symbolic::Network<'a>, Question> {
        let network = || symbolic::Network::new(self.facts).inspect(|network| self.derived.begin(network));
        self.network.get_or_init(network).as_ref().map_err(Question::clone)
    }

    /// Evaluates one condition; `tunnel` is the subject of an advisory about tunnels.
    pub fn evaluate(&self, test: &Test, tunnel: Option<&Link>) -> Evaluation {
        if self.effort.ended() == Some(symbolic::Ended::Stopped) {
            return Evaluation::unknown(symbolic::Ended::Stopped.why());
        }
        if let Test::KernelDefect(id) = test {
            return kernel_defect(self, id);
        }
        if let Some(why) = self.wrong_namespace {
            return Evaluation::unknown(why);
        }
        match test {
            Test::KernelDefect(_) => unreachable!("handled above: it is no matter of namespaces"),
            Test::ConntrackActive => conntrack::active(&self.facts.conntrack),
            Test::ConntrackTableFilled(ratio) => {
                conntrack::table_filled(&self.facts.conntrack, &self.facts.flows.sample, *ratio)
            }
            Test::ConntrackBucketsLoaded(ratio) => conntrack::buckets_loaded(&self.facts.conntrack, *ratio),
            Test::NeighboursCounted => neighbours::counted(&self.facts.neighbours),
            Test::NeighboursNearlyFull(ratio) => {
                neighbours::nearly_full(&self.facts.neighbours, &self.facts.kernel, *ratio)
            }
            Test::TunnelUp => tunnel_up(self, tunnel),
            Test::UnderlayDriver(driver) => underlay_driver(self, tunnel, driver),
            Test::UnderlayTunnelOffload(driver) => underlay_tunnel_offload(self, tunnel, driver),
            Test::DriverOffloadsPort { driver, defect, ports } => {
                driver_offloads_port(self, tunnel, driver, defect, ports)
            }
            Test::SourceNatReachable => source_nat::source_nat_reachable(self),
            Test::SeveralCpus => source_nat::several_cpus(self),
            Test::PortNotRandom(defects) => source_nat::port_not_random(self, defects),
            Test::ChecksumBreakable { on, off } => tunnel::checksum_breakable(self, tunnel, on, off),
            Test::SourceNatPresent => tunnel::source_nat_present(self, tunnel),
            Test::TunnelChecksumOffload => tunnel::tunnel_checksum_offload(self, tunnel),
            Test::OuterTracked => tunnel::outer_tracked(self, tunnel),
            Test::OuterRewritten => tunnel::outer_rewritten(self, tunnel),
            Test::DnsDnatToSeveral => services::dns_dnat_to_several(self),
            Test::NoLocalCache => services::no_local_cache(self),
            Test::TcpDnatClientInside => services::tcp_dnat_client_inside(self),
            Test::TcpNotLiberal => services::tcp_not_liberal(self),
            Test::BypassArrives => services::bypass_arrives(self),
            Test::SourceNatAnsweredHere => services::source_nat_answered_here(self),
            Test::InvalidArrives => services::invalid_arrives(self),
            Test::SourceNatReached => idle::source_nat_reached(self),
            Test::RandomPorts => idle::random_ports(self),
            Test::TcpTimeoutShort(seconds) => idle::tcp_timeout_short(self, *seconds),
            Test::TunnelChecksumOffloadOff => tunnel::tunnel_checksum_offload_off(self, tunnel),
            Test::OffloadNotNeeded { on, off } => tunnel::offload_not_needed(self, tunnel, on, off),
            Test::ServiceNatInBoth => backends::service_nat_in_both(self),
            Test::PortsNearlyUsed => flows::ports_nearly_used(self),
            Test::UdpDestinationNat => flows::udp_destination_nat(self),
            Test::StaleFlows => flows::stale_flows(self),
        }
    }

    pub(super) fn defect(&self, id: &str) -> Option<&DefectFinding> {
        self.defects.iter().find(|defect| defect.id == id)
    }
}

fn kernel_defect(context: &Context<'_>, id: &str) -> Evaluation {
    match context.defect(id) {
        Some(defect) => match defect.state {
            DefectState::Present => Evaluation::holds(&defect.detail),
            DefectState::Absent => Evaluation::fails(&defect.detail),
            DefectState::Unknown => Evaluation::unknown(Question::from(&defect.detail).shown_by(PROBE)),
        },
        None => Evaluation::unknown(format!("natwatch has no table for {id}")),
    }
}

fn tunnel_up(context: &Context<'_>, tunnel: Option<&Link>) -> Evaluation {
    match (tunnel, &context.facts.links) {
        (Some(link), _) if link.is_elsewhere() => {
            Evaluation::holds("it has a socket here, and its device lives in another network namespace")
        }
        (Some(link), _) => Evaluation::holds_if(link.up, if link.up { "it is up" } else { "it is down" }),
        (None, Reading::Ok(_)) if !matches!(context.facts.foreign_tunnels, Reading::Ok(_) | Reading::Absent(_)) => {
            Evaluation::unknown(context.facts.foreign_tunnels.why())
        }
        (None, Reading::Ok(_)) => Evaluation::fails("there is no VXLAN or Geneve device in this network namespace"),
        (None, other) => Evaluation::unknown(unread_links(other)),
    }
}

fn underlay_driver(context: &Context<'_>, tunnel: Option<&Link>, driver: &str) -> Evaluation {
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
    // Where no route is fixed or known, outer packets leave by some device of this namespace all the same.
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
            Reading::Absent(_) => None, // pods' veths are everywhere; a tunnel through one has a fixed route
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

fn underlay_tunnel_offload(context: &Context<'_>, tunnel: Option<&Link>, driver: &str) -> Evaluation {
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

fn driver_offloads_port(
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

/// The devices below a tunnel that have this driver; `None` where that is not known of all.
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

/// Why nothing is known of a device that carries a tunnel, if it is not among the links.
fn missing_underlay_device(context: &Context<'_>, indices: &[u32]) -> Option<String> {
    let known = |index: &&u32| context.facts.known_links().iter().any(|link| link.index == **index);
    let missing = indices.iter().find(|index| !known(index))?;
    Some(format!("the device with index {missing} carries it, and is not among the links that were read"))
}

/// Positions of the devices that carry a tunnel, and of those below them.
fn underlay_devices(context: &Context<'_>, tunnel: &Tunnel) -> BTreeSet<usize> {
    let underlay = tunnel.underlay.ok().into_iter().flatten();
    underlay.flat_map(|index| with_lower_devices(context.facts.known_links(), *index)).collect()
}

pub(super) fn unread_links<T>(links: &Reading<T>) -> Question {
    Question::unread(links).shown_by(["ip", "-d", "link", "show"])
}

/// The driver offloads these ports only; which of them the hypervisor handles cannot be seen.
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

/// The same as [`Link::shows_what_is_below`], unless that is in another network namespace.
fn shows_what_is_below(link: &Link) -> bool {
    link.shows_what_is_below() && (link.kind.is_none() || link.link_netnsid.is_none())
}

fn kind(link: &Link) -> &str {
    link.kind.as_deref().unwrap_or("virtual")
}

/// Whether a card is asked for the inner checksum of tunnel packets: it needs a tunnel segmentation offload, and
/// the checksum offload that this is built on.
fn tunnel_offload(link: &Link) -> Toggle {
    let tunnel = [Feature::TxUdpTnlSegmentation, Feature::TxUdpTnlCsumSegmentation].map(|name| link.feature(name));
    match (tunnel, link.feature(Feature::TxChecksumIpGeneric)) {
        (_, Toggle::Off) | ([Toggle::Off, Toggle::Off], _) => Toggle::Off,
        ([Toggle::On, _] | [_, Toggle::On], Toggle::On) => Toggle::On,
        _ => Toggle::Unknown,
    }
}

/// The driver offers no offload for UDP tunnels on this device, so that nobody can turn it on: vmxnet3 offers it from version 4 of
/// the device on, which is virtual hardware 14.
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
