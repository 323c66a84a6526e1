//! Section about conntrack entries in the JSON document.

use std::net::IpAddr;

use serde::Serialize;

use crate::facts::{Facts, PortsUsed};
use crate::judge::{self, Report};

/// A list is `null` if its part was not read; addresses are `null` if they are not to be shown.
#[derive(Serialize)]
pub(super) struct FlowsSection<'a> {
    entries: Option<u64>,
    sampled: Option<u64>,
    evictable_ratio: Option<f64>,
    snat_ports: Option<Vec<SnatPorts>>,
    rewritten_tunnel_flows: Option<Vec<RewrittenTunnelFlow<'a>>>,
    /// Number of all rewritten flows; the list has the first.
    rewritten_tunnel_flows_count: Option<u64>,
    stale_translations: Option<Vec<StaleTranslation>>,
    composition: Option<Vec<Composition>>,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct SnatPorts {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    port: u16,
    protocol: &'static str,
    ports: String,
    used: u64,
    time_wait: u64,
    available: u64,
    ratio: f64,
    estimated: bool,
    error: f64,
    clients: Vec<Client>,
}

#[derive(Serialize)]
struct Client {
    address: IpAddr,
    ports: u64,
}

#[derive(Serialize)]
struct RewrittenTunnelFlow<'a> {
    device: Option<&'a str>,
    peer: Option<IpAddr>,
    port: u16,
    rewritten_port: u16,
}

#[derive(Serialize)]
struct StaleTranslation {
    protocol: &'static str,
    client: Option<IpAddr>,
    client_port: u16,
    destination: Option<IpAddr>,
    port: u16,
    translated_to: Option<IpAddr>,
    translated_port: u16,
    /// Whether it was seen in two readings, with packets in between.
    confirmed: bool,
}

#[derive(Serialize)]
struct Composition {
    protocol: &'static str,
    state: &'static str,
    entries: u64,
    assured: u64,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    complete: bool,
    age_seconds: u64,
}

/// `None`: no part was read.
pub(super) fn of<'a>(report: &Report, facts: &'a Facts) -> Option<FlowsSection<'a>> {
    let flows = &facts.flows;
    let parts = flows.parts();
    if parts.is_empty() {
        return None;
    }
    let shown = |address: IpAddr| (!report.hide_flow_addresses).then_some(address);
    let sample = flows.sample.found.ok();
    let device = |port: u16| {
        let mut tunnels = facts.tunnels().filter(|(link, tunnel)| link.up && tunnel.port == Some(port));
        tunnels.next().map(|(link, _)| link.name.as_str())
    };
    Some(FlowsSection {
        entries: sample.map(|sample| sample.entries),
        sampled: sample.map(|sample| sample.sampled),
        evictable_ratio: sample.and_then(|sample| sample.evictable_ratio()).map(rounded),
        snat_ports: flows.ports.found.ok().map(|found| found.used.iter().map(|used| snat_ports(used, shown)).collect()),
        rewritten_tunnel_flows: flows.tunnels.found.ok().map(|found| {
            let each = found.first.iter().map(|flow| RewrittenTunnelFlow {
                device: device(flow.tunnel_port),
                peer: shown(flow.peer),
                port: flow.port,
                rewritten_port: flow.rewritten_port,
            });
            each.collect()
        }),
        rewritten_tunnel_flows_count: flows.tunnels.found.ok().map(|found| found.count),
        stale_translations: report
            .stale_translations
            .as_ref()
            .map(|stale| stale.iter().map(|stale| stale_translation(stale, shown)).collect()),
        composition: sample.map(|sample| {
            let each = sample.composition.iter().map(|((protocol, state), count)| Composition {
                protocol: protocol.name(),
                state: state.name(),
                entries: sample.scaled(count.entries),
                assured: sample.scaled(count.assured),
            });
            each.collect()
        }),
        parts: parts
            .into_iter()
            .map(|(name, complete, age)| Part { name: name.name(), complete, age_seconds: age.as_secs() })
            .collect(),
    })
}

fn snat_ports(used: &PortsUsed, shown: impl Fn(IpAddr) -> Option<IpAddr>) -> SnatPorts {
    SnatPorts {
        source: shown(used.key.source),
        destination: shown(used.key.destination),
        port: used.key.port,
        protocol: used.key.protocol_name(),
        ports: format!("{}-{}", used.key.range.0, used.key.range.1),
        used: used.used,
        time_wait: used.time_wait,
        available: used.key.available(),
        ratio: rounded(used.ratio()),
        estimated: used.error.is_some(),
        error: used.error.map_or(0.0, f64::round),
        clients: used
            .clients
            .iter()
            .filter_map(|(client, ports)| Some(Client { address: shown(*client)?, ports: *ports }))
            .collect(),
    }
}

fn stale_translation(stale: &judge::StaleTranslation, shown: impl Fn(IpAddr) -> Option<IpAddr>) -> StaleTranslation {
    StaleTranslation {
        protocol: "udp",
        client: shown(stale.client.0),
        client_port: stale.client.1,
        destination: shown(stale.destination.0),
        port: stale.destination.1,
        translated_to: shown(stale.target.0),
        translated_port: stale.target.1,
        confirmed: stale.refilled == Some(true),
    }
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 1e4
}
