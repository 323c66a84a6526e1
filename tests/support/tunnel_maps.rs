//! Data maps in rules around a tunnel, named and anonymous:
//!
//! - marks of packets that enter the tunnel, by destination (with prefixes and `*`), by destination and protocol, or by
//!   their mark; set directly, or saved in the connection's mark and restored
//! - marks of outer packets, by destination, by both addresses, or by their mark
//! - sources of outer packets, their own among them: by source, by a prefix that no host is in, or by source and port, with
//!   a range of ports to choose from; and destinations

use super::tunnel_rules::{Case, Generator, inner, ip};

/// A prefix to which nothing is routed.
fn nowhere(six: bool) -> &'static str {
    if six { "2001:db8:ffff::/48" } else { "203.0.113.0/24" }
}

impl Generator<'_> {
    /// A lookup of these fields in an anonymous or a named map of these elements. `kinds`: types of key and data.
    /// Returns the expression, and the map's definition if it is named.
    fn map(&mut self, case: &mut Case, fields: &str, kinds: &str, elements: &str) -> (String, String) {
        if self.dice.one_in(2) {
            return (format!("{fields} map {{ {elements} }}"), String::new());
        }
        let intervals = if elements.contains(['/', '*', '-']) { "flags interval; " } else { "" };
        case.next += 1;
        let name = format!("m{}", case.next);
        let map = format!("map {name} {{ type {kinds}; {intervals}elements = {{ {elements} }}; }}\n");
        (format!("{fields} map @{name}"), map)
    }

    /// A mark: the bit, or another one.
    fn mark(&mut self, bit: &str) -> String {
        self.dice.of(&[bit, bit, "0x800000", "0x0"]).to_owned()
    }

    /// Marks packets that enter the tunnel from a map.
    pub fn inner_map(&mut self, case: &mut Case, six: bool, bit: &str) {
        let (ip, address) = ip(six);
        let (own, elsewhere) = (self.mark(bit), self.mark(bit));
        let (inner, nowhere) = (inner(six), nowhere(six));
        let network = if six { "fd88::/64" } else { "10.88.0.0/24" };
        let (fields, kinds, elements) = match self.dice.below(6) {
            0 => (format!("{ip} daddr"), address.to_owned(), format!("{inner} : {own}")),
            1 => (format!("{ip} daddr"), address.to_owned(), format!("{network} : {own}, {nowhere} : {elsewhere}")),
            2 => (format!("{ip} daddr"), address.to_owned(), format!("{nowhere} : {elsewhere}, * : {own}")),
            3 => {
                // Nobody sends TCP, which would be an exposure too.
                let elements = format!("{inner} . udp : {own}, {inner} . tcp : 0x800000");
                (format!("{ip} daddr . meta l4proto"), format!("{address} . inet_proto"), elements)
            }
            4 => ("meta mark".to_owned(), "mark".to_owned(), format!("0x0 : {own}, 0x1 : {elsewhere}")),
            _ => (format!("{ip} daddr"), address.to_owned(), format!("{nowhere} : {elsewhere}")),
        };
        let (lookup, map) = match self.dice.below(6) {
            0 => (self.by_number(ip, &own, &elsewhere), String::new()),
            _ => self.map(case, &fields, &format!("{kinds} : mark"), &elements),
        };
        let rules = match self.dice.below(4) {
            0 => vec![format!("ct mark set {lookup}"), "meta mark set ct mark".to_owned()],
            _ => vec![format!("meta mark set {lookup}")],
        };
        let hook = self.dice.of(&["OUTPUT", "OUTPUT", "PREROUTING", "POSTROUTING"]);
        // On a hook that replies traverse, a reply to an address of nowhere would mark its connection.
        let hook = if rules.len() > 1 { "OUTPUT" } else { hook };
        let priority = [-145, 95, 150][self.dice.below(3) as usize];
        let rules: Vec<String> =
            rules.into_iter().map(|rule| if hook == "OUTPUT" { format!("oifname vx0 {rule}") } else { rule }).collect();
        case.native_with(six, &map, "filter", hook, priority, &rules);
    }

    /// One of two marks, each for every second packet; or the same mark whatever a hash yields.
    fn by_number(&mut self, ip: &str, one: &str, other: &str) -> String {
        match self.dice.below(4) {
            0 => format!("jhash {ip} daddr mod 2 map {{ 0 : {one}, 1 : {one} }}"),
            1 => format!("numgen inc mod 2 offset 4 map {{ 0 : {one}, 5 : {other} }}"),
            _ => format!("numgen inc mod 2 map {{ 0 : {one}, 1 : {other} }}"),
        }
    }

    /// Marks outer packets from a map.
    pub fn outer_map(&mut self, case: &mut Case, bit: &str) {
        let six = case.setup.ipv6;
        let (ip, address) = ip(six);
        let (own, other) = (self.mark(bit), self.mark(bit));
        let (local, remote, other_remote) = (case.setup.local(), case.setup.remote(), case.setup.other_remote());
        let (fields, kinds, elements) = match self.dice.below(4) {
            0 => (format!("{ip} daddr"), address.to_owned(), format!("{remote} : {own}, {other_remote} : {other}")),
            1 => (format!("{ip} daddr"), address.to_owned(), format!("{other_remote} : {other}, * : {own}")),
            2 => {
                let elements = format!("{local} . {remote} : {own}, {remote} . {local} : {other}");
                (format!("{ip} saddr . {ip} daddr"), format!("{address} . {address}"), elements)
            }
            _ => {
                let elements = format!("{bit} : {own}, 0x0 : {other}");
                ("meta mark".to_owned(), "mark".to_owned(), elements)
            }
        };
        let (lookup, map) = match self.dice.below(6) {
            0 => (self.by_number(ip, &own, &other), String::new()),
            _ => self.map(case, &fields, &format!("{kinds} : mark"), &elements),
        };
        let hook = self.dice.of(&["OUTPUT", "POSTROUTING"]);
        let priority = [-145, 95, 150][self.dice.below(3) as usize];
        let rule = format!("udp dport {} meta mark set {lookup}", case.setup.port);
        case.native_with(six, &map, "filter", hook, priority, &[rule]);
    }

    /// A translation with the address, and perhaps the port, from a map.
    pub fn nat_map(&mut self, case: &mut Case, bit: &str) {
        let six = case.setup.ipv6;
        let (ip, address) = ip(six);
        let (local, remote, port) = (case.setup.local(), case.setup.remote(), case.setup.port);
        let marked = if self.dice.one_in(2) { format!("meta mark and {bit} == {bit} ") } else { String::new() };
        if self.dice.one_in(3) {
            let to = self.dice.of(&[remote, case.setup.other_remote()]).to_owned();
            let (lookup, map) =
                self.map(case, &format!("{ip} daddr"), &format!("{address} : {address}"), &format!("{remote} : {to}"));
            let rule = format!("udp dport {port} {marked}dnat to {lookup}");
            return case.native_with(six, &map, "nat", "OUTPUT", -95, &[rule]);
        }
        let another = if six { "fd00:88::11" } else { "192.168.88.11" };
        let to = self.dice.of(&[local, another, another]).to_owned();
        // Two IPv6 addresses with ports exceed an element (`NFT_DATA_VALUE_MAXLEN`).
        let (fields, kinds, elements, what) = match self.dice.below(if six { 3 } else { 4 }) {
            0 => (format!("{ip} saddr"), format!("{address} : {address}"), format!("{local} : {to}"), "snat to"),
            1 => {
                let half = if six { "8000::/1" } else { "128.0.0.0/1" };
                (format!("{ip} saddr"), format!("{address} : {address}"), format!("{half} : {to}"), "snat to")
            }
            2 => (format!("{ip} saddr"), format!("{address} : {address}"), format!("{remote} : {to}"), "snat to"),
            _ => {
                let ports = self.dice.of(&["1024-65535", "1024-2048", "45000-50000"]).to_owned();
                let elements = format!("{local} . {port} : {to} . {ports}");
                let kinds = format!("{address} . inet_service : interval {address} . inet_service");
                (format!("{ip} saddr . udp dport"), kinds, elements, "snat ip addr . port to")
            }
        };
        let (lookup, map) = self.map(case, &fields, &kinds, &elements);
        let rule = format!("udp dport {port} {marked}{what} {lookup}");
        case.native_with(six, &map, "nat", "POSTROUTING", 96, &[rule]);
    }
}
