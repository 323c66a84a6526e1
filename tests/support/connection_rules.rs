//! Random rules for connections, including features whose effect a dump does not show.
//!
//! Atoms:
//! - given another destination: a Service (one address, one port of it, several ports), the router's own addresses; to a server
//!   of either side, on the same port or another, or to the router itself (redirect); on prerouting, output or both;
//!   also by a map of addresses and ports, or to one of a range; policy rules lead some clients' packets to it nowhere;
//! - another source: masquerade, an address of the router's (of either device, of none), one of nobody, a network for another; the
//!   port kept, by a hash, at random, from a range;
//! - those of either that a set knows which another rule fills by where packets come from;
//! - tests of these: devices on both ways, one that is not there, networks of both ends, ports of both ends, protocol, a mark
//!   that other rules set, state NEW, local destinations, a connection with another destination, all of them negated;
//! - invalid segments dropped: in raw, mangle and filter, on every hook, by a state, by not being of others, by a map, by a
//!   policy behind accepted ones, in chains that are jumped or gone to, before connection tracking, behind what accepts;
//! - such segments refused with a reset;
//! - name queries: a Service for one server, for several by chance, by a number, by a verdict map of one, by where they come from, by a hash, from a range, by
//!   numbers one by one and in intervals; not tracked;
//! - new connections dropped, on the way and behind the translation of their source; packets not tracked; `be_liberal`; how long entries stay; rules of UDP, of one family of two, of `inet`;
//! - what nobody can know (closed list): `opaque`, a test that is not understood; `sometimes`, one that holds for some packets;
//!   `queue`, where a program decides; `order`, that of two chains of the same priority; `numgen`, a map by a number that the rule makes;
//!   `known`, a set that other packets fill than those that it is asked about.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::connection_lab::{PORTS, SIDES, Side, router_alone, services};
use super::grammar::{Backend, Dice};

/// A topology's settings and its rules.
#[derive(Clone, Debug)]
pub struct Case {
    /// Families of the connections; IPv4 is `false`.
    pub families: Vec<bool>,
    /// Side to which the default routes lead; `None`: no default route.
    pub outward: Option<Side>,
    /// Shell commands.
    pub lines: Vec<String>,
    /// Timeout of established connections, in seconds.
    pub timeout: u32,
    /// Rules may drop first packets, so that translated queries may never be delivered.
    pub drops: bool,
    /// Rules before connection tracking, where every packet is invalid, may drop replies, so that begun connections
    /// never open.
    pub deaf: bool,
    /// Rules reject segments with a reset.
    pub refuses: bool,
    /// UDP is not tracked: of what is translated beside TCP nothing is sent.
    pub without_udp: bool,
    /// What nobody could know.
    pub planted: BTreeSet<&'static str>,
    /// Base chains of iptables by family, table, hook and backend: those of two backends share a priority.
    chains: BTreeSet<(bool, String, String, bool)>,
    next: i32,
    /// Of the next rules of nf_tables: which packets the set is filled with that they test.
    known: Option<Vec<Condition>>,
}

/// What a rule matches on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(&'static str),
    Out(&'static str),
    From(String),
    To(String),
    SourcePort(u16),
    Port(u16),
    Protocol(&'static str),
    Mark,
    State(&'static str),
    LocalDestination,
    OtherDestination,
    /// In the syntax of iptables and of nft.
    Words(&'static str, &'static str),
    /// Some rule has put where it comes from into a set of this number.
    Known(i32),
}

use Test::{
    From, In, Known, LocalDestination, Mark, OtherDestination, Out, Port, Protocol, SourcePort, State, To, Words,
};

/// A test, negated if `true`.
#[derive(Clone, Debug)]
struct Condition(bool, Test);

#[derive(Clone, Debug)]
enum Action {
    Destination(IpAddr, Option<u16>),
    Redirect(u16),
    /// To a Service's address and port, by a map that has that key or lacks it.
    Mapped(IpAddr, u16, IpAddr, u16),
    /// To two servers in turn.
    InTurn([IpAddr; 2]),
    /// One of two, by chance and by a hash; of numbers each, or intervals of them.
    ByChance([IpAddr; 2], bool),
    ByHash([IpAddr; 2], bool),
    /// One of two, in a chain for each.
    ByVerdict([IpAddr; 2]),
    /// To an address of a range.
    Among([IpAddr; 2]),
    Masquerade(Ports),
    Source(IpAddr, Ports),
    /// By a map from the network of each side to one of these.
    SourceMapped([IpAddr; 2], Ports),
    Netmap(&'static str),
    Untracked,
    Marked,
    Drop,
    /// Rejects with a reset.
    Refuse,
    Accept,
    Queue,
    Jump(bool, String),
}

/// How a port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Kept,
    Random,
    RandomFully,
    /// One of this range, at random; TCP only.
    Of(u16, u16),
}

impl Ports {
    fn iptables(self) -> &'static str {
        match self {
            Self::Kept => "",
            Self::Random => " --random",
            Self::RandomFully | Self::Of(..) => " --random-fully",
        }
    }

    fn native(self) -> &'static str {
        match self {
            Self::Kept => "",
            Self::Random => " random",
            Self::RandomFully | Self::Of(..) => " fully-random",
        }
    }

    fn range(self, before: &str) -> String {
        if let Self::Of(first, last) = self { format!("{before}{first}-{last}") } else { String::new() }
    }
}

/// An address, with its ports as iptables and nft write them.
fn given(ip: IpAddr, ports: Ports) -> String {
    match (ip, ports) {
        (IpAddr::V6(_), Ports::Of(..)) => format!("[{ip}]{}", ports.range(":")),
        _ => format!("{ip}{}", ports.range(":")),
    }
}

#[derive(Clone, Debug)]
struct Rule(Vec<Condition>, Action);

/// The mark bit that rules set and test.
const BIT: &str = "0x4000";

impl Condition {
    fn iptables(&self) -> String {
        let Self(not, test) = self;
        let not = if *not { "! " } else { "" };
        match test {
            In(device) => format!("{not}-i {device}"),
            Out(device) => format!("{not}-o {device}"),
            From(network) => format!("{not}-s {network}"),
            To(network) => format!("{not}-d {network}"),
            SourcePort(port) => format!("-m tcp {not}--sport {port}"),
            Port(port) => format!("-m tcp {not}--dport {port}"),
            Protocol(name) => format!("{not}-p {name}"),
            Mark => format!("-m mark {not}--mark {BIT}/{BIT}"),
            State(states) => format!("-m conntrack {not}--ctstate {states}"),
            LocalDestination => format!("-m addrtype {not}--dst-type LOCAL"),
            OtherDestination => format!("-m conntrack {not}--ctstate DNAT"),
            Words(words, _) => (*words).to_owned(),
            Known(set) => format!("-m set {not}--match-set known{set} src"),
        }
    }

    fn native(&self, six: bool) -> String {
        let Self(not, test) = self;
        let (not, ip) = (if *not { "!= " } else { "" }, if six { "ip6" } else { "ip" });
        match test {
            In(device) => format!("iifname {not}\"{device}\""),
            Out(device) => format!("oifname {not}\"{device}\""),
            From(network) => format!("{ip} saddr {not}{network}"),
            To(network) => format!("{ip} daddr {not}{network}"),
            SourcePort(port) => format!("tcp sport {not}{port}"),
            Port(port) => format!("tcp dport {not}{port}"),
            Protocol(name) => format!("meta l4proto {not}{name}"),
            Mark => format!("meta mark and {BIT} {} {BIT}", if self.0 { "!=" } else { "==" }),
            State(states) if states.contains(',') => format!("ct state {not}{{ {} }}", states.to_lowercase()),
            State(state) => format!("ct state {not}{}", state.to_lowercase()),
            LocalDestination => format!("fib daddr type {not}local"),
            OtherDestination if self.0 => "ct status and dnat == 0".into(),
            OtherDestination => "ct status dnat".into(),
            Words(_, words) => (*words).to_owned(),
            Known(_) => format!("{ip} saddr {not}@known"),
        }
    }
}

impl Rule {
    /// The rule's tests, protocols first as ports require.
    fn tests(&self, each: impl Fn(&Condition) -> String) -> String {
        let mut tests: Vec<&Condition> = self.0.iter().collect();
        tests.sort_by_key(|Condition(_, test)| !matches!(test, Protocol(_)));
        tests.into_iter().map(|test| each(test) + " ").collect()
    }

    fn iptables(&self) -> String {
        let target = match &self.1 {
            Action::Destination(ip, port) => format!("DNAT --to-destination {}", end(*ip, *port)),
            Action::Redirect(port) => format!("REDIRECT --to-ports {port}"),
            Action::Mapped(..)
            | Action::InTurn(..)
            | Action::ByChance(..)
            | Action::ByHash(..)
            | Action::ByVerdict(..)
            | Action::SourceMapped(..) => unreachable!("of nf_tables only"),
            Action::Among([first, last]) => format!("DNAT --to-destination {first}-{last}"),
            Action::Masquerade(ports) => format!("MASQUERADE{}{}", ports.range(" --to-ports "), ports.iptables()),
            Action::Source(ip, ports) => format!("SNAT --to-source {}{}", given(*ip, *ports), ports.iptables()),
            Action::Netmap(network) => format!("NETMAP --to {network}"),
            Action::Untracked => "NOTRACK".into(),
            Action::Marked => format!("MARK --set-xmark {BIT}/{BIT}"),
            Action::Drop => "DROP".into(),
            Action::Refuse => "REJECT --reject-with tcp-reset".into(),
            Action::Accept => "ACCEPT".into(),
            Action::Queue => "NFQUEUE --queue-num 7 --queue-bypass".into(),
            Action::Jump(goes, chain) => {
                return format!("{}-{} {chain}", self.tests(Condition::iptables), if *goes { "g" } else { "j" });
            }
        };
        format!("{}-j {target}", self.tests(Condition::iptables))
    }

    fn native(&self, six: bool) -> String {
        let statement = match &self.1 {
            Action::Destination(ip, port) => format!("dnat to {}", end(*ip, *port)),
            Action::Redirect(port) => format!("redirect to :{port}"),
            Action::Mapped(service, port, server, at) => {
                let ip = if six { "ip6" } else { "ip" };
                format!("dnat {ip} to {ip} daddr . tcp dport map {{ {service} . {port} : {server} . {at} }}")
            }
            Action::InTurn([one, other]) => format!("dnat to numgen inc mod 2 map {{ 0 : {one}, 1 : {other} }}"),
            Action::ByChance(servers, intervals) => {
                format!("dnat to numgen random mod {}", in_halves(*servers, *intervals))
            }
            Action::ByHash(servers, intervals) => {
                let ip = if six { "ip6" } else { "ip" };
                format!("dnat to jhash {ip} saddr . udp sport mod {}", in_halves(*servers, *intervals))
            }
            Action::ByVerdict(_) => "numgen random mod 2 vmap { 0 : goto one, 1 : goto other }".into(),
            Action::Among([first, last]) => format!("dnat to {first}-{last}"),
            Action::Masquerade(ports) => format!("masquerade{}{}", ports.range(" to :"), ports.native()),
            Action::Source(ip, ports) => format!("snat to {}{}", given(*ip, *ports), ports.native()),
            Action::SourceMapped([lan, wan], ports) => {
                let ip = if six { "ip6" } else { "ip" };
                let [near, beyond] = SIDES.map(|side| side.network(six));
                format!("snat to {ip} saddr map {{ {near} : {lan}, {beyond} : {wan} }}{}", ports.native())
            }
            Action::Netmap(_) => unreachable!("of iptables only"),
            Action::Untracked => "notrack".into(),
            Action::Marked => format!("meta mark set meta mark or {BIT}"),
            Action::Drop => "drop".into(),
            Action::Refuse => "reject with tcp reset".into(),
            Action::Accept => "accept".into(),
            Action::Queue => "queue num 7 bypass".into(),
            Action::Jump(goes, chain) => format!("{} {chain}", if *goes { "goto" } else { "jump" }),
        };
        self.tests(|test| test.native(six)) + &statement
    }
}

/// A number and a map of it, or of intervals: one server for each half.
fn in_halves([one, other]: [IpAddr; 2], intervals: bool) -> String {
    match intervals {
        true => format!("8 map {{ 0-3 : {one}, 4-7 : {other} }}"),
        false => format!("2 map {{ 0 : {one}, 1 : {other} }}"),
    }
}

/// An address and perhaps a port, as all programs read it.
fn end(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string())
}

impl Case {
    /// Adds rules to a chain on a hook; those of a chain of their own follow the rule that jumps there. With nf_tables
    /// the base chain is in a table of its own, `off` from the priority of iptables' chain, and comes before all
    /// existing ones.
    fn add(&mut self, (backend, six): (Backend, bool), on: (&str, &str), rules: &[Rule], off: i32) {
        self.next += 1;
        self.probe(six);
        match backend.iptables(six) {
            Some(program) => self.iptables(program, (backend, six), on, rules),
            None => self.native(six, on, rules, off),
        }
    }

    /// Has packets of this family sent.
    fn probe(&mut self, six: bool) {
        if !self.families.contains(&six) {
            self.families.push(six);
        }
    }

    fn native(&mut self, six: bool, (table, hook): (&str, &str), rules: &[Rule], off: i32) {
        let number = self.next;
        let priority = match (table, hook) {
            ("raw", _) => -300,
            ("mangle", _) => -150,
            ("nat", "OUTPUT" | "PREROUTING") => -100,
            ("nat", _) => 100,
            _ => 0,
        } + off
            - number;
        let (kind, more) = match (table, hook) {
            ("nat", _) => ("nat", ""),
            ("mangle", "OUTPUT") => ("route", ""),
            ("policy", _) => ("filter", "policy drop; "),
            _ => ("filter", ""),
        };
        let any = |Rule(tests, _): &Rule| tests.iter().all(|Condition(_, test)| !matches!(test, From(_) | To(_)));
        let family = match six {
            _ if kind == "filter" && table != "raw" && number % 3 == 0 && rules.iter().all(any) => "inet",
            true => "ip6",
            false => "ip",
        };
        if family == "inet" {
            self.probe(!six);
        }
        let jump = rules.iter().position(|Rule(_, action)| matches!(action, Action::Jump(..)));
        let (base, sub) = rules.split_at(jump.map_or(rules.len(), |at| at + 1));
        let written = |rules: &[Rule]| rules.iter().map(|rule| rule.native(six) + "; ").collect::<String>();
        let mut text = format!("table {family} t{number} {{ ");
        let known = rules.iter().flat_map(|Rule(tests, _)| tests).any(|Condition(_, test)| matches!(test, Known(_)));
        if let Some(tests) = self.known.take().filter(|_| known) {
            let (ip, kind) = if six { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") };
            let tests: String = tests.iter().map(|test| test.native(six) + " ").collect();
            let _ = write!(
                text,
                "set known {{ type {kind}; flags dynamic,timeout; timeout 5m; }}\n\
                 chain fill {{ type filter hook prerouting priority -151; {tests}update @known {{ {ip} saddr }}; }}\n"
            );
        }
        if jump.is_some() {
            let _ = writeln!(text, "chain sub {{ {}}}", written(sub));
        }
        for Rule(_, action) in rules {
            if let Action::ByVerdict([one, other]) = action {
                let _ = write!(text, "chain one {{ dnat to {one}; }}\nchain other {{ dnat to {other}; }}\n");
            }
        }
        let hook = hook.to_lowercase();
        let _ = write!(text, "chain c {{ type {kind} hook {hook} priority {priority}; {more}{}}}\n}}", written(base));
        self.lines.push(format!("nft -f - <<'END'\n{text}\nEND"));
    }

    fn iptables(
        &mut self,
        program: &str,
        (backend, six): (Backend, bool),
        (table, hook): (&str, &str),
        rules: &[Rule],
    ) {
        let (table, policy) = if table == "policy" { ("filter", true) } else { (table, false) };
        let base = |legacy| (six, table.to_owned(), hook.to_owned(), legacy);
        self.chains.insert(base(backend == Backend::Legacy));
        if self.chains.contains(&base(backend != Backend::Legacy)) {
            self.planted.insert("order");
        }
        let mut chain = hook.to_owned();
        for rule in rules {
            let mut rule = rule.clone();
            let mut then = chain.clone();
            if let Action::Jump(_, name) = &mut rule.1 {
                *name = format!("{name}-{}", self.next);
                then.clone_from(name);
                self.lines.push(format!("{program} -w -t {table} -N {name}"));
            }
            self.lines.push(format!("{program} -w -t {table} -A {chain} {}", rule.iptables()));
            chain = then;
        }
        if policy {
            self.lines.push(format!("{program} -w -t {table} -P {hook} DROP"));
        }
    }
}

/// Generates cases.
pub struct Generator<'d> {
    pub dice: &'d mut Dice,
}

const TCP: Condition = Condition(false, Protocol("tcp"));

fn is(test: Test) -> Condition {
    Condition(false, test)
}

impl Generator<'_> {
    pub fn case(&mut self) -> Case {
        let families = [vec![false], vec![true], vec![false, true]][self.dice.below(3) as usize].clone();
        let outward = [None, Some(Side::Wan), Some(Side::Wan), Some(Side::Lan)][self.dice.below(4) as usize];
        let mut case = Case {
            families,
            outward,
            lines: vec![],
            timeout: 0,
            drops: false,
            deaf: false,
            refuses: false,
            without_udp: false,
            planted: BTreeSet::new(),
            chains: BTreeSet::new(),
            next: 0,
            known: None,
        };
        let backend = Backend::any(self.dice);
        let marks = self.dice.one_in(3);
        if marks {
            self.marker(&mut case, backend);
        }
        for _ in 0..self.dice.below(3) {
            self.destination(&mut case, backend, marks);
        }
        for _ in 0..self.dice.below(3) {
            self.source(&mut case, backend, marks);
        }
        if self.dice.one_in(2) {
            self.queries(&mut case, backend, marks);
        }
        for _ in 0..self.dice.below(4) {
            match self.dice.below(12) {
                0 => self.untracked(&mut case, backend),
                1 => self.new_dropped(&mut case, backend, marks),
                2..=4 => self.policy(&mut case, backend, marks),
                _ => self.dropped(&mut case, backend, marks),
            }
        }
        if self.dice.one_in(10) {
            case.lines.push("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1".into());
        }
        case.timeout = [3600, 7439, 7440, 432_000][self.dice.below(4) as usize];
        case.lines.push(format!("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established={}", case.timeout));
        case
    }

    /// Backend and families of one rule: mostly all families of the case.
    fn places(&mut self, case: &Case, backend: Backend) -> Vec<(Backend, bool)> {
        let backend = if self.dice.one_in(4) { Backend::any(self.dice) } else { backend };
        let mut families = case.families.clone();
        if self.dice.one_in(5) {
            families = vec![self.dice.one_in(2)];
        }
        families.into_iter().map(|six| (backend, six)).collect()
    }

    fn device(&mut self) -> &'static str {
        match self.dice.below(9) {
            0 => "eth9",
            side => SIDES[side as usize % 2].device(),
        }
    }

    /// Some of these tests, one in three the other way round.
    fn some(&mut self, most: u64, of: &[Test]) -> Vec<Condition> {
        let mut tests: Vec<Condition> = Vec::new();
        for _ in 0..self.dice.below(most + 1) {
            let test = of[self.dice.below(of.len() as u64) as usize].clone();
            let same = |other: &Condition| std::mem::discriminant(&other.1) == std::mem::discriminant(&test);
            if !tests.iter().any(same) {
                // Neither is a first packet RELATED here: nothing expects one.
                let not = self.dice.one_in(4) && !matches!(test, State(_));
                tests.push(Condition(not, test));
            }
        }
        tests
    }

    fn network(&mut self, six: bool) -> String {
        SIDES[self.dice.below(2) as usize].network(six)
    }

    /// All tests that are possible on this hook and distinguish packets that are sent.
    fn tests(&mut self, six: bool, hook: &str, marks: bool) -> Vec<Test> {
        let protocol = Protocol(if self.dice.one_in(8) { "udp" } else { "tcp" });
        let mut tests = vec![From(self.network(six)), To(self.network(six)), protocol];
        if ["PREROUTING", "INPUT", "FORWARD"].contains(&hook) {
            tests.extend([In(self.device()), In(self.device())]);
        }
        if ["OUTPUT", "POSTROUTING", "FORWARD"].contains(&hook) {
            tests.extend([Out(self.device()), Out(self.device())]);
        }
        if marks {
            tests.push(Mark);
        }
        tests
    }

    /// Tests of TCP's ports; the protocol goes with them.
    fn port(&mut self, tests: &mut Vec<Condition>, port: Test) {
        tests.retain(|Condition(_, test)| !matches!(test, Protocol(_)));
        tests.push(TCP);
        tests.push(Condition(self.dice.one_in(5), port));
    }

    /// Rules in a chain that is jumped to, mostly not.
    fn within(&mut self, mut rules: Vec<Rule>, conditions: Vec<Condition>) -> Vec<Rule> {
        if !self.dice.one_in(4) {
            return rules;
        }
        rules.insert(0, Rule(conditions, Action::Jump(self.dice.one_in(2), "sub".into())));
        rules
    }

    fn marker(&mut self, case: &mut Case, backend: Backend) {
        let both = self.dice.one_in(2);
        let port = self.dice.one_in(2).then(|| self.dice.below(4) as usize);
        for place in self.places(case, backend) {
            for hook in if both { &["PREROUTING", "OUTPUT"][..] } else { &["PREROUTING"] } {
                let of = self.tests(place.1, "", false);
                let mut tests = self.some(1, &of);
                if *hook == "PREROUTING" && self.dice.one_in(2) {
                    tests.push(Condition(self.dice.one_in(4), In(self.device())));
                }
                if let Some(port) = port {
                    self.port(&mut tests, Port(PORTS[port]));
                }
                case.add(place, ("mangle", hook), &[Rule(tests, Action::Marked)], -7);
            }
        }
    }

    fn destination(&mut self, case: &mut Case, backend: Backend, marks: bool) {
        let (hooks, kind, to) = (self.dice.below(6), self.dice.below(10), self.dice.below(6));
        let (redirects, same_port) = (self.dice.one_in(9), self.dice.one_in(4));
        let side = SIDES[self.dice.below(2) as usize];
        let hooks = match hooks {
            0 => &["OUTPUT"][..],
            1 | 2 => &["PREROUTING", "OUTPUT"],
            _ => &["PREROUTING"],
        };
        let (udp, ranged) = (self.dice.one_in(10), self.dice.one_in(6));
        let nowhere = self.dice.one_in(6).then(|| self.dice.of(&["prohibit", "unreachable"]));
        if let Some(kind) = nowhere {
            self.nowhere(case, side, to == 0, kind);
        }
        for place in self.places(case, backend) {
            let six = place.1;
            for hook in hooks {
                let mut tests = match kind {
                    0..=4 => vec![is(To(services(six)[0].to_string())), is(Port(PORTS[0]))],
                    5 => vec![is(To(services(six)[0].to_string()))],
                    6 => vec![is(LocalDestination), is(Port(PORTS[2]))],
                    7 => vec![is(To(side.router(six).to_string())), is(Port(PORTS[2]))],
                    8 => vec![is(To(services(six)[1].to_string())), Condition(true, Port(PORTS[1]))],
                    _ => vec![is(To(router_alone(six).to_string()))],
                };
                tests.push(TCP);
                if udp {
                    tests = vec![is(To(services(six)[0].to_string())), is(Protocol("udp"))];
                }
                let mut of = vec![From(self.network(six)), State("NEW")];
                if marks {
                    of.push(Mark);
                }
                if *hook == "PREROUTING" {
                    of.extend([In(self.device()), In(self.device())]);
                }
                let mut more = self.some(2, &of);
                let ip = if to == 0 { side.far(six, 2) } else { side.near(six, 2) };
                let by_map = place.0 == Backend::Native && kind <= 4 && !udp && self.dice.one_in(3);
                let action = match redirects {
                    true => Action::Redirect(PORTS[3]),
                    false if by_map && self.dice.one_in(4) => {
                        case.planted.insert("numgen");
                        Action::InTurn(SIDES.map(|side| side.near(six, 2)))
                    }
                    false if by_map => Action::Mapped(services(six)[0], PORTS[0], ip, PORTS[3]),
                    false if ranged && !udp => Action::Among([side.near(six, 2), side.near(six, 3)]),
                    false => Action::Destination(ip, (!same_port).then_some(PORTS[3])),
                };
                let mut rules = vec![];
                if self.dice.one_in(8) {
                    let tests = self.some(1, &of);
                    rules.push(Rule(tests, Action::Accept));
                }
                if self.dice.one_in(14) {
                    more.push(self.unknowable(case, place.0));
                }
                if *hook == "PREROUTING" && self.dice.one_in(10) {
                    more.push(self.known(case, place));
                }
                if rules.is_empty() && self.dice.one_in(4) {
                    rules = vec![Rule(more, Action::Jump(self.dice.one_in(2), "sub".into())), Rule(tests, action)];
                } else {
                    tests.extend(more);
                    rules.push(Rule(tests, action));
                }
                case.add(place, ("nat", hook), &rules, -3);
            }
        }
    }

    /// Policy rules that lead packets of some clients to a server nowhere.
    fn nowhere(&mut self, case: &mut Case, side: Side, far: bool, kind: &str) {
        for six in case.families.clone() {
            let from = match self.dice.one_in(2) {
                true => format!("iif {}", SIDES[self.dice.below(2) as usize].device()),
                false => format!("from {}", self.network(six)),
            };
            let to = if far { side.far(six, 2) } else { side.near(six, 2) };
            let family = if six { "-6" } else { "-4" };
            case.lines.push(format!("ip {family} rule add {from} to {to} {kind} priority 50"));
        }
    }

    /// A Service of name servers.
    fn queries(&mut self, case: &mut Case, backend: Backend, marks: bool) {
        let (form, both, exempt) = (self.dice.below(8), self.dice.one_in(2), self.dice.one_in(6));
        let intervals = self.dice.one_in(2);
        let sides = [SIDES[self.dice.below(2) as usize], SIDES[self.dice.below(2) as usize]];
        let query = |six: bool| {
            let port = Words("-m udp --dport 53", "udp dport 53");
            vec![is(To(services(six)[1].to_string())), is(Protocol("udp")), is(port)]
        };
        for place in self.places(case, backend) {
            let six = place.1;
            let servers = [sides[0].near(six, 2), sides[1].near(six, 3)];
            let to = |server: IpAddr| Action::Destination(server, None);
            for hook in if both { &["PREROUTING", "OUTPUT"][..] } else { &["PREROUTING"] } {
                let mut of = vec![From(self.network(six)), State("NEW")];
                if marks {
                    of.push(Mark);
                }
                if *hook == "PREROUTING" {
                    of.extend([In(self.device()), In(self.device())]);
                }
                let with = |more: &[Condition]| [&query(six)[..], more].concat();
                let more = self.some(2, &of);
                let native = place.0 == Backend::Native;
                let rules = match form {
                    0 => vec![Rule(with(&more), to(servers[0]))],
                    1 | 2 => {
                        let chance = is(Words("-m statistic --mode random --probability 0.5", "numgen random mod 2 0"));
                        let first = with(&[&more[..], &[chance]].concat());
                        vec![Rule(first, to(servers[0])), Rule(with(&self.some(1, &of)), to(servers[1]))]
                    }
                    3 if native => vec![Rule(with(&more), Action::ByVerdict(servers))],
                    4 if native => vec![Rule(with(&more), Action::ByChance(servers, intervals))],
                    5 if native => vec![Rule(with(&more), Action::ByHash(servers, intervals))],
                    3..=5 => vec![Rule(with(&more), Action::Among([sides[0].near(six, 2), sides[0].near(six, 3)]))],
                    // By where they come from.
                    _ => {
                        vec![
                            Rule(with(&[is(From(self.network(six)))]), to(servers[0])),
                            Rule(with(&self.some(1, &of)), to(servers[1])),
                        ]
                    }
                };
                case.add(place, ("nat", hook), &rules, -3);
                if exempt {
                    case.add(place, ("raw", hook), &[Rule(query(six), Action::Untracked)], -9);
                }
            }
        }
    }

    fn source(&mut self, case: &mut Case, backend: Backend, marks: bool) {
        let (kind, side) = (self.dice.below(6), SIDES[self.dice.below(2) as usize]);
        let port = self.dice.one_in(4);
        let (chosen, netmap, mapped) = (self.dice.below(6), self.dice.one_in(2), self.dice.one_in(4));
        for place in self.places(case, backend) {
            let six = place.1;
            let mut of = self.tests(six, "POSTROUTING", marks);
            of.push(OtherDestination);
            let mut tests = self.some(2, &of);
            if port {
                let port = PORTS[2 + self.dice.below(2) as usize];
                self.port(&mut tests, Port(port));
            }
            let ports = match chosen {
                0 => Ports::Random,
                1 => Ports::RandomFully,
                2 => {
                    tests.retain(|Condition(not, test)| !not || !matches!(test, Protocol(_)));
                    if !tests.iter().any(|Condition(_, test)| matches!(test, Protocol(_))) {
                        tests.push(TCP);
                    }
                    Ports::Of(30_000, 60_000)
                }
                _ => Ports::Kept,
            };
            let action = match kind {
                _ if mapped && place.0 == Backend::Native && !matches!(ports, Ports::Of(..)) => {
                    Action::SourceMapped([side.router(six), router_alone(six)], ports)
                }
                0 => Action::Source(side.router(six), ports),
                1 => Action::Source(router_alone(six), ports),
                // No host has it.
                2 => Action::Source(if six { "fd80::7" } else { "10.80.0.7" }.parse().expect("an address"), ports),
                3 if netmap && place.0 != Backend::Native => {
                    Action::Netmap(if six { "fd80:1::/64" } else { "10.80.1.0/24" })
                }
                _ => Action::Masquerade(ports),
            };
            let mut rules = vec![];
            if self.dice.one_in(6) {
                let tests = self.some(1, &of);
                rules.push(Rule(tests, Action::Accept));
            }
            if self.dice.one_in(14) {
                tests.push(self.unknowable(case, place.0));
            }
            if self.dice.one_in(8) {
                tests.push(self.known(case, place));
            }
            rules.push(Rule(tests, action));
            let jumps = self.some(1, &of);
            let rules = self.within(rules, jumps);
            case.add(place, ("nat", "POSTROUTING"), &rules, -5);
        }
    }

    /// A test of a set that a rule of its own fills, by where packets come from: what gets to it from there has been put into it.
    fn known(&mut self, case: &mut Case, place: (Backend, bool)) -> Condition {
        case.planted.insert("known");
        let of = [From(self.network(place.1)), In(self.device())];
        let tests = self.some(2, &of);
        if let Some(program) = place.0.iptables(place.1) {
            case.next += 1;
            let family = if place.1 { "inet6" } else { "inet" };
            case.lines.push(format!("ipset create known{} hash:ip family {family} timeout 300", case.next));
            let tests: String = tests.iter().map(|test| test.iptables() + " ").collect();
            case.lines.push(format!(
                "{program} -w -t mangle -I PREROUTING {tests}-j SET --add-set known{} src --exist",
                case.next
            ));
            case.chains.insert((place.1, "mangle".into(), "PREROUTING".into(), place.0 == Backend::Legacy));
            if case.chains.contains(&(place.1, "mangle".into(), "PREROUTING".into(), place.0 != Backend::Legacy)) {
                case.planted.insert("order");
            }
        } else {
            case.known = Some(tests);
        }
        Condition(self.dice.one_in(4), Known(case.next))
    }

    /// A test that holds for some packets, or one for every packet, which natwatch cannot know.
    fn unknowable(&mut self, case: &mut Case, backend: Backend) -> Condition {
        // Of nf_tables all that this kernel has is understood.
        if self.dice.one_in(2) || backend == Backend::Native {
            case.planted.insert("sometimes");
            return is(Words("-m statistic --mode nth --every 2 --packet 0", "numgen inc mod 2 0"));
        }
        case.planted.insert("opaque");
        is(Words("-m u32 --u32 '0>>31=0'", ""))
    }

    /// Both ways of a connection, if it is there at all: half a connection is another matter.
    fn untracked(&mut self, case: &mut Case, backend: Backend) {
        let (kind, both) = (self.dice.below(4), self.dice.one_in(2));
        let side = SIDES[self.dice.below(2) as usize];
        case.without_udp |= kind == 2;
        for place in self.places(case, backend) {
            let six = place.1;
            let tests = match kind {
                0 => vec![vec![TCP, is(To(services(six)[0].to_string())), is(Port(PORTS[0]))]],
                1 => vec![vec![TCP, is(Port(PORTS[0]))], vec![TCP, is(SourcePort(PORTS[0]))]],
                2 => vec![vec![is(Protocol("udp"))]],
                // Resets that go past a translation.
                _ => vec![vec![
                    TCP,
                    is(To(side.near(six, 2).to_string())),
                    is(Port(PORTS[3])),
                    is(Words("-m tcp --tcp-flags RST RST", "tcp flags & rst == rst")),
                ]],
            };
            let rules: Vec<Rule> = tests.into_iter().map(|tests| Rule(tests, Action::Untracked)).collect();
            for hook in if both || kind == 1 { &["PREROUTING", "OUTPUT"][..] } else { &["PREROUTING"] } {
                case.add(place, ("raw", hook), &rules, -9);
            }
        }
    }

    fn new_dropped(&mut self, case: &mut Case, backend: Backend, marks: bool) {
        if self.dice.one_in(2) {
            return self.dropped_behind(case);
        }
        let hook = self.dice.of(&["FORWARD", "OUTPUT"]).to_owned();
        case.drops = true;
        for place in self.places(case, backend) {
            let of = self.tests(place.1, &hook, marks);
            let mut tests = self.some(2, &of);
            tests.push(is(State("NEW")));
            case.add(place, ("filter", &hook), &[Rule(tests, Action::Drop)], -11);
        }
    }

    /// New connections, dropped behind the translation of their source: only nf_tables has chains there.
    fn dropped_behind(&mut self, case: &mut Case) {
        case.drops = true;
        for six in case.families.clone() {
            let own = [SIDES[0].router(six), SIDES[1].router(six), router_alone(six)];
            let source = From(own[self.dice.below(3) as usize].to_string());
            let of = [source, Out(self.device()), From(self.network(six)), Protocol("tcp")];
            let mut tests = self.some(2, &of);
            tests.push(is(State("NEW")));
            case.add((Backend::Native, six), ("filter", "POSTROUTING"), &[Rule(tests, Action::Drop)], 200);
        }
    }

    /// Invalid segments, dropped.
    fn dropped(&mut self, case: &mut Case, backend: Backend, marks: bool) {
        let (table, hook) = [
            ("raw", "PREROUTING"),
            ("mangle", "PREROUTING"),
            ("mangle", "PREROUTING"),
            ("filter", "FORWARD"),
            ("filter", "FORWARD"),
            ("mangle", "FORWARD"),
            ("filter", "INPUT"),
            ("filter", "INPUT"),
            ("mangle", "INPUT"),
            ("filter", "OUTPUT"),
            ("mangle", "OUTPUT"),
            ("mangle", "POSTROUTING"),
        ][self.dice.below(12) as usize];
        case.deaf |= table == "raw";
        let port = self.dice.below(6);
        let form = self.dice.below(8);
        for place in self.places(case, backend) {
            let six = place.1;
            let of = self.tests(six, hook, marks);
            let mut tests = self.some(2, &of);
            match port {
                0 => self.port(&mut tests, SourcePort(PORTS[3])),
                1 => self.port(&mut tests, Port(PORTS[3])),
                _ => {}
            }
            let state = match form {
                0 => Condition(true, State("NEW,ESTABLISHED,RELATED,UNTRACKED")),
                1 => is(Words(
                    "-m state --state INVALID",
                    "ct state vmap { established : accept, related : accept, invalid : drop }",
                )),
                2 => is(Words("-m conntrack --ctstate RELATED,INVALID", "ct state & (invalid | related) != 0")),
                _ => is(State("INVALID")),
            };
            // A map drops by itself.
            let mapped = form == 1 && place.0 == Backend::Native;
            let action = match (mapped, self.dice.below(16)) {
                (true, _) => Action::Accept,
                // Not all kernels have it in nf_tables.
                (_, 0) if place.0 != Backend::Native => {
                    case.planted.insert("queue");
                    Action::Queue
                }
                (_, 1..=4) if table == "filter" => {
                    case.refuses = true;
                    tests.retain(|Condition(_, test)| !matches!(test, Protocol(_)));
                    tests.push(TCP);
                    Action::Refuse
                }
                _ => Action::Drop,
            };
            tests.push(state);
            if self.dice.one_in(14) && !mapped && table != "raw" {
                tests.push(self.unknowable(case, place.0));
            }
            let mut rules = vec![];
            if self.dice.one_in(6) {
                let mut tests = self.some(1, &of);
                if self.dice.one_in(2) {
                    tests.push(is(State("INVALID")));
                }
                rules.push(Rule(tests, Action::Accept));
            }
            rules.push(Rule(tests, action));
            let jumps = self.some(1, &of);
            let rules = self.within(rules, jumps);
            case.add(place, (table, hook), &rules, -13);
        }
    }

    /// Nothing but what is accepted.
    fn policy(&mut self, case: &mut Case, backend: Backend, marks: bool) {
        let hook = self.dice.of(&["FORWARD", "FORWARD", "INPUT", "OUTPUT"]).to_owned();
        let state = self.dice.of(&["ESTABLISHED", "ESTABLISHED,RELATED"]);
        let (first, new) = (self.dice.one_in(2), self.dice.one_in(3));
        case.drops = true;
        for place in self.places(case, backend) {
            let established = Rule(
                vec![is(match state {
                    "ESTABLISHED" => State("ESTABLISHED"),
                    _ => State("ESTABLISHED,RELATED"),
                })],
                Action::Accept,
            );
            let mut rules = vec![];
            for _ in 0..1 + self.dice.below(2) {
                let mut of = self.tests(place.1, &hook, marks);
                of.extend([OtherDestination, State("NEW")]);
                let tests = self.some(2, &of);
                if !tests.is_empty() {
                    rules.push(Rule(tests, Action::Accept));
                }
            }
            if new {
                rules.push(Rule(vec![is(State("NEW"))], Action::Accept));
            }
            let at = if first { 0 } else { rules.len() };
            rules.insert(at, established);
            case.add(place, ("policy", &hook), &rules, -17);
        }
    }
}
