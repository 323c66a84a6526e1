//! Generated iptables rule sets: pseudo-random ones that are the same in every run, and kube-proxy's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::exposition::metrics_here;
use super::netns::Netns;
use super::report::Report;
use super::rules::{assert_rules, assert_series, load};

/// Pseudo-random numbers that are the same in every run (SplitMix64).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

/// The program, and thereby the kernel interface, that a rule is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Legacy,
    IptablesNft,
    Native,
}

impl Backend {
    /// A random one.
    pub fn any(dice: &mut Dice) -> Self {
        [Self::Legacy, Self::IptablesNft, Self::Native][dice.below(3) as usize]
    }

    /// The iptables program of this backend; `None` for nft.
    pub fn iptables(self, six: bool) -> Option<&'static str> {
        match (self, six) {
            (Self::Legacy, false) => Some("iptables-legacy"),
            (Self::Legacy, true) => Some("ip6tables-legacy"),
            (Self::IptablesNft, false) => Some("iptables-nft"),
            (Self::IptablesNft, true) => Some("ip6tables-nft"),
            (Self::Native, _) => None,
        }
    }
}

/// One rule set of iptables, for one family.
#[derive(Debug)]
pub struct Grammar<'d> {
    pub dice: &'d mut Dice,
    /// IPv6 instead of IPv4.
    pub six: bool,
}

impl Grammar<'_> {
    fn network(&mut self) -> String {
        let (a, b) = (self.dice.below(256), self.dice.below(256));
        match (self.six, self.dice.below(3)) {
            (false, 0) => format!("10.{a}.{b}.1/32"),
            (false, 1) => format!("10.{a}.{b}.0/24"),
            (false, _) => "224.0.0.0/4".into(),
            (true, 0) => format!("fd00:{a:x}:{b:x}::1/128"),
            (true, 1) => format!("fd00:{a:x}:{b:x}::/64"),
            (true, _) => "ff00::/8".into(),
        }
    }

    fn address(&mut self) -> String {
        let last = 1 + self.dice.below(200);
        if self.six { format!("2001:db8::{last:x}") } else { format!("192.0.2.{last}") }
    }

    fn not(&mut self) -> &'static str {
        if self.dice.one_in(3) { "! " } else { "" }
    }

    /// Tests, and whether the rule names a protocol with ports.
    fn tests(&mut self, output: bool) -> (String, bool) {
        let mut text = String::new();
        for direction in ["-s", "-d"] {
            if self.dice.one_in(2) {
                let (not, network) = (self.not(), self.network());
                let _ = write!(text, " {not}{direction} {network}");
            }
        }
        if output && self.dice.one_in(3) {
            let (not, device) = (self.not(), self.dice.of(&["eth0", "cilium_+", "+", "docker0", "veth0123456789+"]));
            // Negating "any device" is an error.
            let not = if device == "+" { "" } else { not };
            let _ = write!(text, " {not}-o {device}");
        }
        let with_ports = self.dice.one_in(3);
        if with_ports {
            let protocol = self.dice.of(&["tcp", "udp"]);
            let port = 1 + self.dice.below(60_000);
            let _ = write!(text, " -p {protocol}");
            text += &match self.dice.below(4) {
                0 => format!(" --dport {port}"),
                1 => format!(" ! --sport {port}:{}", port + 9),
                2 => format!(" -m multiport --dports {port},{}:{}", port + 2, port + 9),
                _ => String::new(),
            };
        }
        for _ in 0..self.dice.below(3) {
            let value = self.dice.below(1 << 20);
            let mask = value | self.dice.below(1 << 24);
            let not = self.not();
            text += &match self.dice.below(10) {
                0 | 1 => format!(" -m mark {not}--mark {value:#x}/{mask:#x}"),
                2 => format!(" -m mark {not}--mark {value:#x}"),
                3 => format!(" -m connmark {not}--mark {value:#x}/{mask:#x}"),
                4 => format!(" -m addrtype {not}--dst-type LOCAL"),
                5 => format!(" -m addrtype {not}--src-type LOCAL"),
                6 => format!(" -m conntrack {not}--ctstate NEW,RELATED"),
                7 => " -m statistic --mode random --probability 0.25".into(),
                8 => " -m statistic --mode nth --every 3 --packet 1".into(),
                _ => " -m limit --limit 5/min --limit-burst 7".into(),
            };
        }
        if self.dice.one_in(3) {
            let comments =
                [r#""plain""#, r#""name: \"x\" id: \"-j SNAT --random\"""#, r#""it's ü 日本""#, r#""\\ back""#];
            let _ = write!(text, " -m comment --comment {}", self.dice.of(&comments));
        }
        (text, with_ports)
    }

    /// Target of a rule in a chain that postrouting leads to; with `input` only what input allows.
    fn target(&mut self, input: bool, with_ports: bool, later: &[String]) -> String {
        let port = 1024 + self.dice.below(50_000);
        let ports = with_ports && self.dice.one_in(2);
        let flags = self.dice.of(&["", " --random", " --random-fully", " --random --random-fully"]);
        match self.dice.below(9) {
            0..=2 if !input => {
                let to =
                    if ports { format!(" --to-ports {port}-{}", port + self.dice.below(99)) } else { String::new() };
                format!("MASQUERADE{to}{flags}")
            }
            0..=3 => {
                let address = self.address();
                let persistent = if self.dice.one_in(3) { " --persistent" } else { "" };
                let to = match (ports, self.six) {
                    (true, true) => format!("[{address}]:{port}-{}", port + 9),
                    (true, false) => format!("{address}:{port}"),
                    _ => address,
                };
                format!("SNAT --to-source {to}{flags}{persistent}")
            }
            4 => format!("NETMAP --to {}", if self.six { "2001:db8:1::/64" } else { "198.51.100.0/24" }),
            5 => "RETURN".into(),
            6 => "ACCEPT".into(),
            7 => format!("MARK --set-xmark {:#x}/{:#x}", self.dice.below(1 << 16), self.dice.below(1 << 16)),
            _ if later.is_empty() => "RETURN".into(),
            _ => {
                let names: Vec<&str> = later.iter().map(String::as_str).collect();
                self.dice.of(&names).to_owned()
            }
        }
    }

    /// Input of `iptables-restore --counters`.
    pub fn table(&mut self) -> String {
        let chains = |kind: &str| (0..6).map(|number| format!("{kind}{number}")).collect::<Vec<_>>();
        let (shared, masquerading, inbound) = (chains("S"), chains("M-"), chains("d.n_at/"));
        let mut text = String::from("*nat\n");
        for name in ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"] {
            let _ = writeln!(text, ":{name} ACCEPT [{}:9]", self.dice.below(99));
        }
        for name in shared.iter().chain(&masquerading).chain(&inbound) {
            let _ = writeln!(text, ":{name} - [0:0]");
        }
        // A chain leads to later ones only, so that there are no loops; some are led to by none.
        let mut lines = Vec::new();
        for (at, name) in shared.iter().enumerate() {
            self.chain(&mut lines, name, true, &shared[at + 1..]);
        }
        for (at, name) in masquerading.iter().enumerate() {
            let later = [&masquerading[at + 1..], &shared[..]].concat();
            self.chain(&mut lines, name, false, &later);
        }
        self.chain(&mut lines, "INPUT", true, &shared[..2]);
        self.chain(&mut lines, "POSTROUTING", false, &[&masquerading[..3], &shared[..2]].concat());
        for name in inbound.iter().chain(&["PREROUTING".into(), "OUTPUT".into()]) {
            let to = if self.six { "DNAT --to-destination [fd00::1]:80" } else { "DNAT --to-destination 10.0.0.1:80" };
            let target = self.dice.of(&[to, "REDIRECT --to-ports 81", "RETURN"]);
            lines.push(format!("-A {name} -p tcp --dport 80 -j {target}"));
        }
        for line in lines {
            let counts = [0, 1, 1_u64 << 40][self.dice.below(3) as usize];
            let _ = writeln!(text, "[{}:{counts}] {line}", counts / 60);
        }
        text + "COMMIT\n"
    }

    fn chain(&mut self, lines: &mut Vec<String>, name: &str, input: bool, later: &[String]) {
        for _ in 0..self.dice.below(8) {
            let (tests, with_ports) = self.tests(name == "POSTROUTING" || name.starts_with('M'));
            let target = self.target(input, with_ports, later);
            let jump = if later.contains(&target) && self.dice.one_in(4) { "-g" } else { "-j" };
            lines.push(format!("-A {name}{tests} {jump} {target}"));
        }
    }
}

/// A table of nft with chains on postrouting, input and prerouting.
pub fn nft_table(dice: &mut Dice, family: &str) -> String {
    const CHAINS: u64 = 8;
    let (four, six) = (family != "ip6", family != "ip");
    let mut text = format!("table {family} random.{family} {{\n");
    // Chains lead to later ones only.
    for chain in (1..=CHAINS).rev() {
        let rules = dice.below(7);
        text += &nft_chain(dice, &format!("c{chain}"), "", rules, (chain, CHAINS), (four, six));
    }
    for (name, hook) in [("post", "postrouting"), ("other", "postrouting"), ("inbound", "input")] {
        let base = format!("  type nat hook {hook} priority {}\n", dice.below(300));
        let rules = 1 + dice.below(9);
        // Masquerading is valid on postrouting only, and so are chains that do it.
        text += &match hook {
            "input" => format!(" chain {name} {{\n{base}  counter packets 5 bytes 6 continue\n }}\n"),
            _ => nft_chain(dice, name, &base, rules, (0, CHAINS), (four, six)),
        };
    }
    text + " chain pre {\n  type nat hook prerouting priority -100\n  meta l4proto tcp redirect to :81\n }\n}\n"
}

fn nft_chain(dice: &mut Dice, name: &str, base: &str, rules: u64, at: (u64, u64), families: (bool, bool)) -> String {
    let mut text = format!(" chain {name} {{\n{base}");
    for _ in 0..rules {
        // In family inet a rule matches one of both families.
        let both = families == (true, true);
        let four = if both { dice.one_in(2) } else { families.0 };
        let tests = nft_tests(dice, four);
        let later = |dice: &mut Dice| at.0 + 1 + dice.below(at.1 - at.0);
        let end = match dice.below(10) {
            0 if at.0 < at.1 => format!("jump c{}", later(dice)),
            1 if at.0 < at.1 => format!("goto c{}", later(dice)),
            2 if at.0 < at.1 => {
                let (one, two) = (later(dice), later(dice));
                format!("oifname vmap {{ \"e0\" : jump c{one}, \"e1\" : goto c{two}, \"e2\" : return }}")
            }
            3 => dice.of(&["return", "accept", "counter", "continue", "log prefix \"x\"", "meta mark set 0x1"]).into(),
            _ => nft_translation(dice, four, both),
        };
        text += &format!("  {tests} {end}\n");
    }
    text + " }\n"
}

fn nft_tests(dice: &mut Dice, four: bool) -> String {
    let mut text = String::new();
    for _ in 0..dice.below(4) {
        let (value, mask) = (dice.below(1 << 12), dice.below(1 << 16));
        text += &match dice.below(12) {
            0 => format!("meta mark {value:#x} "),
            1 => format!("meta mark != {value:#x} "),
            2 => format!("meta mark and {:#x} == {value:#x} ", value | mask),
            3 => format!("meta mark and {:#x} != {value:#x} ", value | mask),
            4 => format!("meta mark {{ {value:#x}, 0x7fffffff }} "),
            5 if four => format!("ip saddr 10.{}.0.0/16 ", dice.below(256)),
            6 if !four => format!("ip6 daddr != fd00:{:x}::/32 ", dice.below(256)),
            7 => "oifname \"veth*\" ".into(),
            8 => "ct state new ".into(),
            9 => "limit rate 5/second ".into(),
            10 => format!("counter packets {} bytes {} ", dice.below(1 << 50), dice.below(1 << 50)),
            _ => "meta mark set mark xor 0x4000 ".into(),
        };
    }
    text
}

fn nft_translation(dice: &mut Dice, four: bool, both: bool) -> String {
    let flags =
        dice.of(&["", " random", " fully-random", " persistent", " random,persistent", " fully-random,persistent"]);
    let port = 1024 + dice.below(9999);
    let (ports, protocol) = match dice.below(3) {
        0 => (format!(":{port}"), "meta l4proto tcp "),
        1 => (format!(":{port}-{}", port + 99), "meta l4proto { tcp, udp } "),
        _ => (String::new(), ""),
    };
    let comment = dice.of(&["", " comment \"masquerade random\"", " comment \"ü { } 日本\""]);
    let last = 1 + dice.below(200);
    let family = match (both, four) {
        (true, true) => "meta nfproto ipv4 ",
        (true, false) => "meta nfproto ipv6 ",
        (false, _) => "",
    };
    match (dice.below(2), four) {
        (0, _) if ports.is_empty() => format!("masquerade{flags}{comment}"),
        (0, _) => format!("{protocol}masquerade to {ports}{flags}{comment}"),
        (_, true) => format!("{family}{protocol}snat ip to 192.0.2.{last}{ports}{flags}{comment}"),
        (_, false) => format!("{family}{protocol}snat ip6 to [2001:db8::{last:x}]{ports}{flags}{comment}"),
    }
}

/// What kube-proxy writes for this many Services, each with one endpoint.
pub fn services(count: usize) -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    for number in 0..count {
        let _ = writeln!(text, ":KUBE-SVC-{number:016X} - [0:0]");
    }
    text += "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
    for number in 0..count {
        let (high, low) = (number / 250, 1 + number % 250);
        let match_service = format!("-d 10.96.{high}.{low}/32 -p tcp -m tcp --dport 443");
        let _ = writeln!(text, "-A KUBE-SERVICES {match_service} -j KUBE-SVC-{number:016X}");
        let target = if number % 100 == 0 { "KUBE-MARK-MASQ" } else { "DNAT --to-destination 10.244.1.10:6443" };
        let protocol = if number % 100 == 0 { "" } else { "-p tcp -m tcp" };
        let _ = writeln!(text, "-A KUBE-SVC-{number:016X} {protocol} -j {target}");
    }
    text + "COMMIT\n"
}

/// How many random rule sets to try: `NATWATCH_RULE_SETS`.
pub fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("NATWATCH_RULE_SETS").map_or(40, |count| count.parse().expect("a number"))
}

/// Counts the reported rules by action and randomization.
pub fn count_kinds(report: &Report, found: &mut BTreeMap<String, u64>) {
    for rule in report.json["source_nat_rules"].as_array().expect("rules") {
        *found.entry(format!("{} {}", rule["action"], rule["port_randomization"])).or_default() += 1;
    }
}

/// Loads rule sets with these two programs, for IPv4 and now and then for IPv6, compares each with what the standard
/// tools list, and counts the kinds of source-NAT rules that came up.
pub fn random_rule_sets(restore: [&str; 2]) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for seed in seeds() {
        let mut dice = Dice(seed);
        let ns = Netns::new();
        for (six, program) in [false, true].into_iter().zip(restore) {
            if six && seed % 4 != 0 {
                continue;
            }
            let text = Grammar { dice: &mut dice, six }.table();
            load(&ns, &[program, "-w", "--counters"], &text);
        }
        println!("rule set {seed}");
        let report = assert_rules(&ns);
        assert_series(&report, &metrics_here(&ns, &[]));
        count_kinds(&report, &mut found);
    }
    found
}
