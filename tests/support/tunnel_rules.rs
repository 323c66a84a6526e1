//! Random rules around a tunnel, including features whose effect a dump does not show.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::grammar::{Backend, Dice};
use super::tunnel_lab::{DEVICE, ECHO_PORT, Setup, Vtep};

/// A topology's settings and its rules.
#[derive(Clone, Debug)]
pub struct Case {
    pub setup: Setup,
    /// Shell commands.
    pub lines: Vec<String>,
    /// What natwatch cannot know of this case (closed list): `order`, `opaque`, `set`, `flow`, `elsewhere`, `past`,
    /// `written`.
    pub planted: BTreeSet<&'static str>,
    /// Base chains by family, hook, priority and table: two of equal priority have an unknown order.
    chains: BTreeSet<(bool, &'static str, i32, String)>,
    pub(super) next: u32,
}

/// What a rule matches on: in the syntax of iptables and of nft.
type Words = (String, String);

/// Generates cases.
pub struct Generator<'d> {
    pub dice: &'d mut Dice,
}

impl Case {
    fn iptables(&mut self, backend: Backend, six: bool, table: &str, hook: &'static str, rule: &str) {
        let program = backend.iptables(six).expect("a backend of iptables");
        let priority = match (table, hook) {
            ("raw", _) => -300,
            ("mangle", _) => -150,
            ("nat", "OUTPUT" | "PREROUTING") => -100,
            ("nat", _) => 100,
            _ => 0,
        };
        self.chain(six, hook, priority, format!("{program} {table}"));
        self.lines.push(format!("{program} -w -t {table} -A {hook} {rule}"));
    }

    fn chain(&mut self, six: bool, hook: &'static str, priority: i32, table: String) {
        let clash = |(other_six, other_hook, other_priority, other): &(bool, &str, i32, String)| {
            (*other_six, *other_hook, *other_priority) == (six, hook, priority) && *other != table
        };
        if self.chains.iter().any(clash) {
            self.planted.insert("order");
        }
        self.chains.insert((six, hook, priority, table));
    }

    /// Adds a chain in a table of its own.
    fn native(&mut self, six: bool, kind: &str, hook: &'static str, priority: i32, rules: &[String]) {
        self.native_with(six, "", kind, hook, priority, rules);
    }

    /// The same, with other objects of the table.
    pub(super) fn native_with(
        &mut self,
        six: bool,
        others: &str,
        kind: &str,
        hook: &'static str,
        priority: i32,
        rules: &[String],
    ) {
        self.next += 1;
        let (family, table) = (if six { "ip6" } else { "ip" }, format!("t{}", self.next));
        self.chain(six, hook, priority, format!("native {table}"));
        let lower = hook.to_lowercase();
        let mut text =
            format!("table {family} {table} {{ {others}chain c {{ type {kind} hook {lower} priority {priority}; ");
        for rule in rules {
            let _ = write!(text, "{rule}; ");
        }
        self.lines.push(format!("nft -f - <<'END'\n{text}}}\n}}\nEND"));
    }
}

/// The keyword for a family in nft, and its type of addresses.
pub(super) fn ip(six: bool) -> (&'static str, &'static str) {
    if six { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") }
}

pub(super) fn inner(six: bool) -> &'static str {
    if six { "fd88::2" } else { "10.88.0.2" }
}

/// Whether any rule contains one of these words.
fn has(case: &Case, words: &[&str]) -> bool {
    case.lines.iter().any(|line| words.iter().any(|word| line.contains(word)))
}

fn flags(flags: &str) -> &'static str {
    match flags {
        "--random" => "random",
        "--random-fully" => "fully-random",
        _ => "",
    }
}

impl Generator<'_> {
    pub fn case(&mut self) -> Case {
        let dice = &mut *self.dice;
        let ipv6 = dice.one_in(4);
        let vtep = match dice.below(5) {
            0 => Vtep::Secondary,
            1 => Vtep::Loopback,
            _ => Vtep::Primary,
        };
        // Only with the settings that the kernel has by default.
        let elsewhere = !ipv6 && vtep == Vtep::Primary && dice.one_in(8);
        let setup = Setup {
            elsewhere,
            ipv6,
            vtep,
            // On another port the socket is not recognized as a tunnel's.
            port: dice
                .of(if elsewhere { &["8472", "4789"] } else { &["8472", "4789", "8473"] })
                .parse()
                .expect("a port"),
            checksum: !dice.one_in(12) || elsewhere,
            offload: !dice.one_in(12) || elsewhere,
            forwarding: dice.one_in(2) && !elsewhere,
            source_ports: (dice.one_in(6) && !elsewhere).then_some((41000, 49000)),
            settings: "",
            flow_based: dice.one_in(12) && !elsewhere,
        };
        let mut case = Case { setup, lines: vec![], planted: BTreeSet::new(), chains: BTreeSet::new(), next: 0 };
        if case.setup.flow_based {
            case.planted.insert("flow");
        }
        if case.setup.elsewhere {
            case.planted.insert("elsewhere"); // its peers
        }
        let bit = self.dice.of(&["0x4000", "0x4000", "0x8000", "0x1", "0x10000"]).to_owned();
        let backend = Backend::any(self.dice);
        for _ in 0..=self.dice.below(2) {
            let mixed = self.dice.one_in(3);
            let backend = if mixed { Backend::any(self.dice) } else { backend };
            self.marker(&mut case, backend, &bit);
        }
        for _ in 0..self.dice.below(3) {
            self.extra(&mut case, backend, &bit);
        }
        let mixed = self.dice.one_in(4);
        let backend = if mixed { Backend::any(self.dice) } else { backend };
        self.masquerade(&mut case, backend, &bit);
        for _ in 0..self.dice.below(2) {
            self.extra(&mut case, backend, &bit);
        }
        case
    }

    fn families(&mut self, always: Option<bool>) -> Vec<bool> {
        let all = [false, true];
        match (always, self.dice.below(3)) {
            (Some(one), 0 | 1) => vec![one],
            (None, 0) => vec![false],
            (None, 1) => vec![true],
            _ => all.to_vec(),
        }
    }

    fn flag(&mut self) -> String {
        self.dice.of(&["", "--random", "--random-fully", "--random-fully"]).to_owned()
    }

    /// Adds a rule that marks packets which enter the tunnel.
    fn marker(&mut self, case: &mut Case, backend: Backend, bit: &str) {
        let (kind, condition) = (self.dice.below(17), self.dice.below(4));
        let restore = self.dice.one_in(2);
        for six in self.families(None) {
            let (words, native): Words = match condition {
                0 => (String::new(), String::new()),
                1 => (format!("-p udp --dport {ECHO_PORT}"), format!("udp dport {ECHO_PORT}")),
                2 => (format!("-d {}", inner(six)), format!("{} daddr {}", if six { "ip6" } else { "ip" }, inner(six))),
                _ => {
                    // Nothing is routed there.
                    let nowhere = if six { "2001:db8:ffff::/48" } else { "203.0.113.0/24" };
                    (format!("-d {nowhere}"), format!("{} daddr {nowhere}", if six { "ip6" } else { "ip" }))
                }
            };
            let set = format!("{words} -j MARK --set-xmark {bit}/{bit}");
            let native_set = format!("{native} meta mark set meta mark or {bit}");
            let iptables = if backend == Backend::Native { Backend::IptablesNft } else { backend };
            match kind {
                0 => {}
                1 | 2 if backend == Backend::Native => {
                    for hook in ["OUTPUT", "PREROUTING"] {
                        case.native(six, "nat", hook, -100, std::slice::from_ref(&native_set));
                    }
                }
                1 | 2 => {
                    case.iptables(iptables, six, "nat", "OUTPUT", &set);
                    case.iptables(iptables, six, "nat", "PREROUTING", &set);
                }
                3 => case.iptables(iptables, six, "mangle", "OUTPUT", &set),
                4 => case.iptables(iptables, six, "mangle", "POSTROUTING", &format!("-o {DEVICE} {set}")),
                5 => case.iptables(iptables, six, "mangle", "PREROUTING", &set),
                6 => case.iptables(iptables, six, "filter", "OUTPUT", &set),
                7 => {
                    let priority = [-160, -99, 5][self.dice.below(3) as usize];
                    case.native(six, "filter", "OUTPUT", priority, &[native_set]);
                }
                8 => {
                    let priority = [-10, 99, 101, 150][self.dice.below(4) as usize];
                    case.native(six, "filter", "POSTROUTING", priority, &[native_set]);
                }
                9 => {
                    // The egress hook of the tunnel's device still sees the inner packet.
                    case.next += 1;
                    let text = format!(
                        "table netdev n{} {{ chain c {{ type filter hook egress device \"{DEVICE}\" priority 0; meta mark set meta mark or {bit}; }}\n}}",
                        case.next
                    );
                    case.lines.push(format!("nft -f - <<'END'\n{text}\nEND"));
                }
                10 => {
                    let save = format!("{words} -m conntrack --ctstate NEW -j CONNMARK --set-xmark {bit}/{bit}");
                    case.iptables(iptables, six, "mangle", "OUTPUT", &save);
                    if restore {
                        let back = "-m conntrack --ctstate ESTABLISHED -j CONNMARK --restore-mark";
                        case.iptables(iptables, six, "mangle", "OUTPUT", back);
                    }
                }
                11 | 12 => self.inner_map(case, six, bit),
                // What a proxy takes is not forwarded.
                13 => {
                    let take = format!("-p tcp -j TPROXY --on-port 7 --tproxy-mark {bit}/{bit}");
                    case.iptables(iptables, six, "mangle", "PREROUTING", &take);
                }
                // None of these leaves a checksum to a device.
                14 => {
                    for protocol in ["icmp", "esp", "gre", "sctp"] {
                        let set = format!("-p {protocol} -j MARK --set-xmark {bit}/{bit}");
                        case.iptables(iptables, six, "mangle", "OUTPUT", &set);
                    }
                }
                // Incoming outer packets: inner packets keep their mark, and without forwarding none re-enters the
                // tunnel.
                15 if !case.setup.forwarding => {
                    let set = format!("-p udp --dport {} -j MARK --set-xmark {bit}/{bit}", case.setup.port);
                    case.iptables(iptables, six, "mangle", "INPUT", &set);
                }
                _ => case.iptables(iptables, six, "filter", "FORWARD", &set),
            }
        }
    }

    /// Adds rules on postrouting.
    fn masquerade(&mut self, case: &mut Case, backend: Backend, bit: &str) {
        let (shape, flag, other) = (self.dice.below(12), self.flag(), self.flag());
        let ports = self.dice.of(&["1024-65535", "1024-2048", "45000-50000"]).to_owned();
        let own = self.dice.one_in(2);
        for six in self.families(Some(case.setup.ipv6)) {
            let port = case.setup.port;
            let marked = format!("-m mark --mark {bit}/{bit}");
            let inside = if six { "fd88::/64" } else { "10.88.0.0/24" };
            let fixed = [
                format!("-m mark ! --mark {bit}/{bit} -j RETURN"),
                format!("-j MARK --set-xmark {bit}/0x0"),
                format!("-j MASQUERADE {flag}"),
            ];
            let setup = &case.setup;
            let to = match (own, six == setup.ipv6, six) {
                (true, true, _) => setup.local(),
                (_, _, false) => "192.168.88.11",
                (_, _, true) => "fd00:88::11",
            };
            let rules: Vec<String> = match shape {
                0 | 1 => vec![format!("{marked} -j MASQUERADE {flag}")],
                2 | 3 => fixed.to_vec(),
                4 => [vec![format!("-d {inside} -j MASQUERADE {other}")], fixed.to_vec()].concat(),
                5 => vec![format!("-o eth0 -j MASQUERADE {flag}")],
                6 => [vec![format!("{marked} -j MASQUERADE {other}")], fixed.to_vec()].concat(),
                7 => vec![format!("-p udp {marked} -j MASQUERADE --to-ports {ports}")],
                8 => vec![format!("-p udp --dport {port} {marked} -j SNAT --to-source {to} {flag}")],
                9 => vec![format!("-p udp --dport {port} -j ACCEPT"), format!("-o eth0 -j MASQUERADE {flag}")],
                10 => vec![format!("-s {} -j MASQUERADE {flag}", if six { "fd99::/64" } else { "10.99.0.0/24" })],
                _ => vec![],
            };
            if backend == Backend::Native {
                let priority = [100, 100, 99, -50][self.dice.below(4) as usize];
                let rules: Vec<String> = rules.iter().map(|rule| in_nft(rule, six)).collect();
                case.native(six, "nat", "POSTROUTING", priority, &rules);
            } else {
                for rule in &rules {
                    case.iptables(backend, six, "nat", "POSTROUTING", rule);
                }
            }
        }
    }

    /// Adds something that prevents a translation, breaks checksums, or cannot be known.
    fn extra(&mut self, case: &mut Case, backend: Backend, bit: &str) {
        let kind = self.dice.below(44);
        let six = case.setup.ipv6;
        let (port, ip) = (case.setup.port, if six { "ip6" } else { "ip" });
        let iptables = if backend == Backend::Native { Backend::IptablesNft } else { backend };
        let outer = format!("-p udp --dport {port}");
        match kind {
            0 => case.iptables(iptables, six, "raw", "OUTPUT", &format!("{outer} -j NOTRACK")),
            1 => {
                let priority = [-300, -201, -199, -150][self.dice.below(4) as usize];
                case.native(six, "filter", "OUTPUT", priority, &[format!("udp dport {port} notrack")]);
            }
            2 => {
                case.native(six, "filter", "OUTPUT", -200, &[format!("udp dport {port} notrack")]);
                case.planted.insert("order");
            }
            3 => case.native(six, "filter", "PREROUTING", -300, &[format!("udp dport {port} notrack")]),
            4 if !case.planted.contains("past") => {
                let to = case.setup.other_remote();
                let marked = if self.dice.one_in(2) { format!("-m mark --mark {bit}/{bit}") } else { String::new() };
                case.iptables(
                    iptables,
                    six,
                    "nat",
                    "OUTPUT",
                    &format!("{outer} {marked} -j DNAT --to-destination {to}"),
                );
            }
            5 => {
                case.iptables(iptables, six, "mangle", "OUTPUT", &format!("{outer} -j MARK --set-xmark 0x0/0xffffffff"))
            }
            6 => {
                let hook_is_post = self.dice.one_in(2);
                let hook = if hook_is_post { "POSTROUTING" } else { "OUTPUT" };
                case.iptables(iptables, six, "mangle", hook, &format!("{outer} -j MARK --set-xmark 0x0/{bit}"));
            }
            7 => {
                case.next += 1;
                let table = format!("d{}", case.next);
                let text = format!(
                    "table {ip} {table} {{ chain c {{ type nat hook postrouting priority 90; masquerade fully-random; }}\n}}"
                );
                case.lines
                    .push(format!("nft -f - <<'END'\n{text}\nEND\nnft add table {ip} {table} '{{ flags dormant; }}'"));
            }
            8 => {
                let priority = [90, 100, 110][self.dice.below(3) as usize];
                let rule = format!("meta mark and {bit} == {bit} masquerade {}", flags(&self.flag()));
                case.native(six, "nat", "POSTROUTING", priority, &[rule]);
            }
            9 => {
                let element = if self.dice.one_in(2) { case.setup.remote() } else { case.setup.other_remote() };
                self.with_set(
                    case,
                    &format!("type ipv{}_addr; elements = {{ {element} }}", if six { 6 } else { 4 }),
                    &format!("{ip} daddr @s udp dport {port}"),
                );
            }
            10 => {
                let ports = if self.dice.one_in(2) { format!("{port}, 53") } else { "53, 80".to_owned() };
                let rule = format!("udp dport {{ {ports} }} masquerade fully-random");
                case.native(six, "nat", "POSTROUTING", 95, &[rule]);
            }
            11 => {
                let element = if self.dice.one_in(2) { case.setup.remote() } else { case.setup.other_remote() };
                case.next += 1;
                let name = format!("i{}", case.next);
                case.lines.push(format!(
                    "ipset create {name} hash:ip family {}; ipset add {name} {element}",
                    if six { "inet6" } else { "inet" }
                ));
                let rule = format!("-m set --match-set {name} dst -j MASQUERADE --random-fully");
                case.iptables(iptables, six, "nat", "POSTROUTING", &rule);
            }
            12 | 16 | 17 => {
                // Matches every packet, which natwatch cannot know.
                case.planted.insert("opaque");
                let rule = format!(
                    "-m u32 --u32 {} {outer} -j MASQUERADE --random-fully",
                    if six { "0>>28=6" } else { "0>>28=4" }
                );
                case.iptables(
                    iptables,
                    six,
                    "nat",
                    "POSTROUTING",
                    &rule.replace("0>>28", "'0>>28").replacen("=4", "=4'", 1).replacen("=6", "=6'", 1),
                );
            }
            13 => {
                case.planted.insert("set");
                // More fields than natwatch looks up.
                let (address, local, remote) =
                    (if six { "ipv6_addr" } else { "ipv4_addr" }, case.setup.local(), case.setup.remote());
                let elements = format!("{local} . {remote} . {port} . {bit}, {local} . {remote} . {port} . 0x0");
                let set = format!("type {address} . {address} . inet_service . mark; elements = {{ {elements} }}");
                self.with_set(case, &set, &format!("{ip} saddr . {ip} daddr . udp dport . meta mark @s"));
            }
            18 => {
                // Marks are known to natwatch: the set is read whole.
                self.with_set(case, &format!("type mark; elements = {{ {bit} }}"), "meta mark @s");
            }
            19 | 20 => {
                let rule = format!("oifname eth0 masquerade {}", flags(&self.flag()));
                case.native(six, "nat", "POSTROUTING", 100, &[rule]);
            }
            21 | 22 => {
                // Matches every outer packet.
                let flag = self.flag();
                let (sure, native) = match self.dice.below(18) {
                    14 => {
                        ("-m connbytes ! --connbytes 2: --connbytes-dir both --connbytes-mode packets", "ct packets 1")
                    }
                    15 => (
                        "-m connbytes --connbytes 30:70000 --connbytes-dir original --connbytes-mode bytes",
                        "ct bytes > 60",
                    ),
                    16 => ("-m time --datestart 2020-01-01", "meta time > \"2020-01-01 00:00:00\""),
                    17 => ("-m conntrack ! --ctstatus CONFIRMED", "ct reply avgpkt 0"),
                    11 if !six => ("-m dscp --dscp 0", "ip dscp 0"),
                    11 => ("-m dscp --dscp 0", "ip6 dscp 0"),
                    12 if !six => ("-m tos --tos 0/0xfc", "@nh,128,32 0xc0a85802"),
                    12 => ("-m tos --tos 0/0xfc", "exthdr frag missing"),
                    13 if !six => ("-m dscp ! --dscp 1", "ip frag-off & 0x4000 == 0"),
                    13 => ("-m dscp ! --dscp 1", "tcp option maxseg missing"),
                    0 if !six => ("! -f", "ip version 4"),
                    0 => ("-m physdev ! --physdev-is-bridged", "ip6 version 6"),
                    1 => ("-m devgroup --dst-group 0x0", "oifgroup 0"),
                    2 => ("-m pkttype --pkt-type unicast", "meta pkttype host"),
                    3 => ("-m policy --dir out --pol none", "rt ipsec missing"),
                    4 => ("-m policy --dir out --pol none", "meta oifkind \"veth\""),
                    5 => ("-m devgroup --dst-group 0x0", "oiftype ether"),
                    6 => ("-m length --length 1:65535", "meta length 1-65535"),
                    9 => ("-m devgroup --dst-group 0x0", "ct zone 0"),
                    7 if !six => ("-m ttl --ttl-gt 0", "ip ttl 1-255"),
                    7 => ("-m hl --hl-gt 0", "ip6 hoplimit 1-255"),
                    8 if !six => ("-m length ! --length 0:60", "ip length 60-65535"),
                    8 => ("-m length ! --length 0:60", "ip6 length 20-65535"),
                    _ => ("-m physdev ! --physdev-is-out", "udp length 20-65535"),
                };
                self.on_the_card(case, backend, sure, native, &flag);
            }
            23 | 24 => {
                // Matches no outer packet.
                let flag = self.flag();
                let (never, native) = match self.dice.below(17) {
                    13 => (
                        "-m connbytes --connbytes 1: --connbytes-dir reply --connbytes-mode bytes",
                        "ct reply packets > 0",
                    ),
                    14 => (
                        "-m connbytes --connbytes 0:20 --connbytes-dir both --connbytes-mode avgpkt",
                        "ct original bytes < 20",
                    ),
                    15 => ("-m time --datestop 2020-01-01", "meta time < \"2020-01-01 00:00:00\""),
                    16 => ("-m conntrack --ctstate DNAT", "ct status dnat"),
                    9 if !six => ("-m dscp --dscp 8", "ip dscp 8"),
                    9 => ("-m dscp --dscp 8", "exthdr frag exists"),
                    10 if !six => ("-m tos --tos 0x10", "ip option rr exists"),
                    10 => ("-m tos --tos 0x10", "exthdr dst exists"),
                    11 => ("-m dscp ! --dscp 0", "tcp option maxseg exists"),
                    0 => ("-m helper --helper ftp", "ct helper \"ftp\""),
                    1 => (
                        "-m connbytes --connbytes 5: --connbytes-dir both --connbytes-mode packets",
                        "ct status assured",
                    ),
                    2 => ("-m conntrack --ctstatus ASSURED", "ct status seen-reply"),
                    3 => ("-m devgroup --dst-group 0x7", "oifgroup 7"),
                    4 => ("-m policy --dir out --pol ipsec", "rt ipsec exists"),
                    5 => ("-m policy --dir out --pol ipsec --reqid 7", "ipsec out reqid 7"),
                    6 => ("-m devgroup ! --dst-group 0x0", "meta oifkind != \"veth\""),
                    7 => ("-m length --length 0:60", "meta length < 60"),
                    8 => ("-m devgroup --dst-group 0x7", "ct zone 5"),
                    _ => ("-m physdev --physdev-is-bridged", "meta pkttype broadcast"),
                };
                self.on_the_card(case, backend, never, native, &flag);
            }
            25 | 26 => {
                // It completes checksums before any translation: those of outer packets, or of inner ones.
                let inside = self.dice.one_in(2);
                for six in if inside { vec![false, true] } else { vec![six] } {
                    let which = if inside { format!("-o {DEVICE}") } else { format!("-o eth0 {outer}") };
                    let fill = format!("{which} -j CHECKSUM --checksum-fill");
                    case.iptables(iptables, six, "mangle", "POSTROUTING", &fill);
                }
            }
            27..30 => {
                // Header writes, some of them without effect. No dump tells whether the checksum is left to a device
                // when a port is written and the outer header has no checksum.
                if !case.setup.checksum && case.setup.offload {
                    case.planted.insert("written");
                }
                let to = if six { "fd00:88::11" } else { "192.168.88.11" };
                let write = match self.dice.below(4) {
                    0 => "udp sport set 5555".to_owned(),
                    1 => format!("{ip} saddr set {to}"),
                    2 => format!("{ip} {} set 60", if six { "hoplimit" } else { "ttl" }),
                    _ => format!("meta mark and {bit} == {bit} udp sport set 5555"),
                };
                let rule = format!("udp dport {port} {write}");
                if self.dice.one_in(4) {
                    case.next += 1;
                    let chain = "chain c { type filter hook egress device \"eth0\" priority 0";
                    let text = format!("table netdev w{} {{ {chain}; {rule}; }}\n}}", case.next);
                    case.lines.push(format!("nft -f - <<'END'\n{text}\nEND"));
                } else {
                    let hook = if self.dice.one_in(2) { "OUTPUT" } else { "POSTROUTING" };
                    let priority = [-150, -50, 50, 150][self.dice.below(4) as usize];
                    case.native(six, "filter", hook, priority, &[rule]);
                }
            }
            30 | 31 if !has(case, &["lookup 100", " mod ", " map ", "DNAT"]) => {
                // All packets are marked and re-routed to the peer past the tunnel: none has another path back, and no
                // replies go to the peer's own port, which a rule for the tunnel's port leaves in the tunnel.
                case.planted.insert("past");
                for six in [false, true] {
                    for hook in ["OUTPUT", "PREROUTING"] {
                        case.iptables(iptables, six, "mangle", hook, &format!("-j MARK --set-xmark {bit}/{bit}"));
                    }
                }
                case.lines.push(format!(
                    "ip rule add fwmark {bit}/{bit} lookup 100; ip route add 10.88.0.0/24 via 192.168.88.2 dev eth0 table 100
                     ip -6 rule add fwmark {bit}/{bit} lookup 100; ip -6 route add fd88::/64 via fd00:88::2 dev eth0 table 100"
                ));
            }
            32 | 33 if !case.planted.contains("past") => {
                // Numbers of a range.
                let from = if self.dice.one_in(2) { bit } else { "0x100000" };
                let number = match self.dice.below(3) {
                    0 => format!("numgen inc mod 1 offset {from}"),
                    1 => format!("numgen random mod 1 offset {from}"),
                    _ => format!("jhash {ip} saddr mod 1 offset {from}"),
                };
                let hook = if self.dice.one_in(2) { "OUTPUT" } else { "PREROUTING" };
                case.native(six, "filter", hook, -140, &[format!("meta mark set {number}")]);
            }
            34 | 35 => {
                // Bits of a mark, looked up in sets and intervals.
                let test = match self.dice.below(4) {
                    0 => format!("meta mark and {bit} == {{ {bit}, 0x800000 }}"),
                    1 => "meta mark { 0x1-0xfffff, 0x200000 }".to_owned(),
                    2 => "meta mark and 0xfffff == 0x1-0xfffff".to_owned(),
                    _ => "meta mark { 0x100000-0x1fffff }".to_owned(),
                };
                let rule = format!("udp dport {port} {test} masquerade {}", flags(&self.flag()));
                case.native(six, "nat", "POSTROUTING", 97, &[rule]);
            }
            36 | 37 => {
                case.next += 1;
                let (name, family) = (format!("i{}", case.next), if six { "inet6" } else { "inet" });
                let (local, remote) = (case.setup.local(), case.setup.remote());
                let (make, ends) = match self.dice.below(6) {
                    0 => (
                        format!("ipset create {name} hash:net,iface family {family}; ipset add {name} {local},eth0"),
                        "src,dst",
                    ),
                    1 => (
                        format!("ipset create {name} hash:net,iface family {family}; ipset add {name} {local},lo"),
                        "src,dst",
                    ),
                    4 => (
                        format!(
                            "ipset create {name} hash:net,iface family {family}; ipset add {name} {local},et wildcard"
                        ),
                        "src,dst",
                    ),
                    2 => (
                        format!(
                            "ipset create {name}m hash:ip family {family}; ipset add {name}m {remote}; ipset create {name} list:set; ipset add {name} {name}m"
                        ),
                        "dst",
                    ),
                    3 => (
                        format!(
                            "ipset create {name}m bitmap:port range 1-65535; ipset add {name}m {port}; ipset create {name} list:set; ipset add {name} {name}m"
                        ),
                        "dst,src",
                    ),
                    _ => {
                        let other = if six { "inet" } else { "inet6" };
                        (
                            format!(
                                "ipset create {name}m hash:net family {other}; ipset create {name} list:set; ipset add {name} {name}m"
                            ),
                            "src",
                        )
                    }
                };
                case.lines.push(make);
                let flag = self.flag();
                let rule = format!("-o eth0 -p udp -m set --match-set {name} {ends} -j MASQUERADE {flag}");
                case.iptables(iptables, six, "nat", "POSTROUTING", &rule);
            }
            38..41 => self.outer_map(case, bit),
            41..44 => self.nat_map(case, bit),
            14 => {
                // Nothing leads to this chain, but it makes the kernel track connections of the family.
                for six in self.families(None) {
                    let (ip, table) = (if six { "ip6" } else { "ip" }, case.next);
                    let what = self.dice.of(&["masquerade fully-random", "ct state new accept"]);
                    let text = format!("table {ip} u{table} {{ chain c {{ {what}; }}\n}}");
                    case.lines.push(format!("nft -f - <<'END'\n{text}\nEND"));
                    case.next += 1;
                }
            }
            _ => {
                let priority = [-50, 50, 150][self.dice.below(3) as usize];
                let rule = format!("udp dport {port} meta mark set 0x0");
                case.native(six, "filter", "POSTROUTING", priority, &[rule]);
            }
        }
    }

    /// Translates what leaves by the underlay device and matches one more test.
    fn on_the_card(&mut self, case: &mut Case, backend: Backend, test: &str, native: &str, flag: &str) {
        let six = case.setup.ipv6;
        match backend {
            Backend::Native => {
                let rule = format!("oifname eth0 {native} masquerade {}", flags(flag));
                case.native(six, "nat", "POSTROUTING", 95, &[rule]);
            }
            _ => case.iptables(backend, six, "nat", "POSTROUTING", &format!("-o eth0 {test} -j MASQUERADE {flag}")),
        }
    }

    fn with_set(&mut self, case: &mut Case, set: &str, test: &str) {
        let six = case.setup.ipv6;
        case.next += 1;
        let (ip, table) = (if six { "ip6" } else { "ip" }, format!("t{}", case.next));
        case.chain(six, "POSTROUTING", 95, format!("native {table}"));
        let text = format!(
            "table {ip} {table} {{ set s {{ {set}; }}\nchain c {{ type nat hook postrouting priority 95; {test} masquerade fully-random; }}\n}}"
        );
        case.lines.push(format!("nft -f - <<'END'\n{text}\nEND"));
    }
}

/// The forms of iptables' rules used above, in nft's syntax.
fn in_nft(rule: &str, six: bool) -> String {
    let ip = if six { "ip6" } else { "ip" };
    let mut words = rule.split_whitespace().peekable();
    let mut out = String::new();
    let mut end = String::new();
    let mut target = String::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        match word {
            "-m" => drop(value()),
            "-p" => out += "meta l4proto udp ",
            "--dport" => out += &format!("udp dport {} ", value()),
            "-o" => out += &format!("oifname {} ", value()),
            "-s" => out += &format!("{ip} saddr {} ", value()),
            "-d" => out += &format!("{ip} daddr {} ", value()),
            "!" => {
                value();
                let mark = value();
                let (bit, _) = mark.split_once('/').expect("a mask");
                out += &format!("meta mark and {bit} != {bit} ");
            }
            "--mark" => {
                let mark = value();
                let (bit, _) = mark.split_once('/').expect("a mask");
                out += &format!("meta mark and {bit} == {bit} ");
            }
            "-j" => target = value(),
            "--set-xmark" => {
                let mark = value();
                let (bit, _) = mark.split_once('/').expect("a mask");
                end += &format!("meta mark set meta mark xor {bit}");
            }
            "--to-ports" => end += &format!(" to :{}", value()),
            "--to-source" => end += &format!(" to {}", value()),
            other => end += &format!(" {}", flags(other)),
        }
    }
    let statement = match target.as_str() {
        "MASQUERADE" => "masquerade",
        "SNAT" => "snat",
        "RETURN" => "return",
        "ACCEPT" => "accept",
        _ => "",
    };
    format!("{out}{statement}{end}")
}
