//! Devices and offload features as printed by ip and ethtool.

use std::collections::BTreeMap;

use serde_json::Value;

use super::netns::Netns;

/// One line of `ethtool -k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub on: bool,
    /// Whether the driver has it fixed (`[fixed]`).
    pub fixed: bool,
    /// The requested state where it differs from the actual one.
    pub requested: Option<bool>,
}

impl Feature {
    /// The wanted state: requested, whether or not it could be had.
    pub fn wanted(self) -> bool {
        self.requested.unwrap_or(self.on)
    }
}

/// `ethtool -k DEVICE` by feature name, group names (`rx-checksumming`) included.
pub fn features(ns: &Netns, device: &str) -> BTreeMap<String, Feature> {
    parse_features(&ns.run(&["ethtool", "-k", device]))
}

/// Parses lines like `tx-checksum-ipv4: off [requested on]`; others are skipped.
pub fn parse_features(text: &str) -> BTreeMap<String, Feature> {
    text.lines().filter_map(feature_line).collect()
}

fn feature_line(line: &str) -> Option<(String, Feature)> {
    let (name, state) = line.trim().split_once(": ")?;
    let on = on_off(state.split_whitespace().next()?)?;
    let requested = state.split_once("[requested ").and_then(|(_, rest)| on_off(rest.trim_end_matches(']')));
    let fixed = state.contains("[fixed]");
    Some((name.to_owned(), Feature { on, fixed, requested }))
}

fn on_off(word: &str) -> Option<bool> {
    match word {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Switches one feature or group, for example `offload(&ns, "eth0", "tx", false)`.
pub fn offload(ns: &Netns, device: &str, feature: &str, on: bool) {
    let state = if on { "on" } else { "off" };
    ns.run(&["ethtool", "-K", device, feature, state]);
}

/// All devices of `ip -d -j link`, by name.
pub fn links(ns: &Netns) -> BTreeMap<String, Value> {
    let text = ns.cmd("ip -d -j link");
    let list: Vec<Value> = serde_json::from_str(&text).expect("ip prints a JSON list");
    let name = |link: &Value| link["ifname"].as_str().expect("a name").to_owned();
    list.into_iter().map(|link| (name(&link), link)).collect()
}

/// What is particular to the device's kind: `linkinfo.info_data`, null if there is none.
pub fn info_data(ns: &Netns, device: &str) -> Value {
    ns.link_json(device)["linkinfo"]["info_data"].clone()
}

/// Whether this kernel can make devices of a kind such as `bond`.
///
/// Kernels differ here without being broken. A test that needs a kind must still fail, not
/// pass, where it is lacking, unless it says which other test covers the same ground.
pub fn kind_supported(kind: &str) -> bool {
    let ns = Netns::new();
    ns.cmd("ip link add probe0 type veth peer name probe1");
    let line = match kind {
        "vlan" => "ip link add link probe0 name made0 type vlan id 7".to_owned(),
        "vxlan" => "ip link add made0 type vxlan id 7 dstport 4789".to_owned(),
        "macvlan" | "ipvlan" => format!("ip link add link probe0 name made0 type {kind}"),
        _ => format!("ip link add made0 type {kind}"),
    };
    ns.exec(&line.split_whitespace().collect::<Vec<_>>()).status.success()
}
