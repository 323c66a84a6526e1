//! Determines who wrote a rule from its owner [`signatures`].
//!
//! The rule's own contents count first: comment, set names, or shape, since some programs put rules into `POSTROUTING`
//! without any name; then the name of its chain, then that of its table. A shape counts only if no other program writes
//! it: `-s 10.0.0.0/8 -o eth0 -j MASQUERADE` is ambiguous, and so is libvirt's `-s NET ! -d NET -j MASQUERADE`, which
//! many VPN scripts write as well, unless libvirt's rules for TCP and UDP are in the same chain.
//!
//! kube-proxy and kubelet: both wrote `KUBE-POSTROUTING` and `KUBE-MARK-MASQ` with the same rules (kubelet until
//! Kubernetes 1.28), and nothing shows which wrote last. They count as kube-proxy's, which rewrites them with every
//! synchronization; kubelet's are the chains that only kubelet writes.
//!
//! k3s is flannel and kube-proxy and has no rules of its own here. ufw writes no NAT rules: those in its files are the
//! administrator's.

use crate::facts::netfilter::signatures::{self, Pattern, Shape, Signature};
use crate::facts::netfilter::{
    ChainId, Chosen, Comparison, End, Field, Match, Nat, NatAction, Owner, Rule, Ruleset, SetId, Step, TypeScope,
};

/// `RTN_LOCAL`
const LOCAL: u128 = 2;

/// Owner of a rule in this chain; `Other` if no signature matches.
pub fn owner(ruleset: &Ruleset, id: &ChainId, rule: &Rule) -> Owner {
    signature(ruleset, id, rule).map_or(Owner::Other, |(owner, _)| owner)
}

/// The owner and signature of highest rank that matches.
fn signature(ruleset: &Ruleset, id: &ChainId, rule: &Rule) -> Option<(Owner, Signature)> {
    let has_shape = rule.comment.is_empty() && id.table == *"nat" && id.chain == *"POSTROUTING";
    let rule_shape = has_shape.then(|| RuleShape::of(rule, rules_beside(ruleset, id))).flatten();
    let is_signed = |signature| is_signed(signature, ruleset, id, rule, rule_shape.as_ref());
    signatures::all().filter(|(_, signature)| is_signed(*signature)).min_by_key(|(_, signature)| rank(*signature))
}

/// Precedence of signatures: the rule's contents, then its chain, then its table.
fn rank(signature: Signature) -> u8 {
    match signature {
        Signature::Comment(_)
        | Signature::CommentIn(..)
        | Signature::CommentOut(..)
        | Signature::Ipset(_)
        | Signature::Shape(_) => 0,
        Signature::Chain(_) | Signature::ChainIn(..) | Signature::ChainBeside(..) => 1,
        Signature::Table(_) => 2,
    }
}

/// Whether a signature matches. `rule_shape` is `None` for rules that cannot be recognised by shape.
fn is_signed(
    signature: Signature,
    ruleset: &Ruleset,
    id: &ChainId,
    rule: &Rule,
    rule_shape: Option<&RuleShape>,
) -> bool {
    match signature {
        Signature::Table(name) => name.fits(&id.table),
        Signature::Chain(name) => name.fits(&id.chain),
        Signature::ChainIn(table, name) => table.fits(&id.table) && name.fits(&id.chain),
        Signature::ChainBeside(name, other) => name.fits(&id.chain) && has_chain(ruleset, id, other),
        Signature::Comment(text) => text.fits(&rule.comment),
        Signature::CommentIn(chain, text) => id.chain == *chain && text.fits(&rule.comment),
        Signature::CommentOut(device, text) => {
            let leaves = |test: &Tested| !test.inverted && test.device().is_some_and(|name| name == device);
            text.fits(&rule.comment) && tests(rule).0.iter().any(leaves)
        }
        Signature::Ipset(name) => ipsets(rule)
            .any(|(index, ..)| ruleset.sets.get(&SetId::Ipset(index)).is_some_and(|set| name.fits(&set.name))),
        Signature::Shape(shape) => rule_shape.is_some_and(|rule_shape| rule_shape.has(shape)),
    }
}

/// Whether the chain's table also has a chain of this name.
fn has_chain(ruleset: &Ruleset, id: &ChainId, name: &str) -> bool {
    ruleset.chains.contains_key(&ChainId { chain: name.into(), ..id.clone() })
}

/// The form of a source-NAT rule.
struct RuleShape<'a> {
    nat: &'a Nat,
    /// Single-field tests: field, mask, value and whether inverted.
    tests: Vec<Tested<'a>>,
    /// ipset lookups: index, dimensions, and whether inverted.
    sets: Vec<(u16, &'a [End], bool)>,
    /// Names of all other matches.
    others: Vec<&'a str>,
    /// All rules of the same chain that were read.
    beside: &'a [Rule],
}

#[derive(PartialEq)]
struct Tested<'a> {
    field: &'a Field,
    mask: u128,
    value: u128,
    inverted: bool,
}

fn rules_beside<'a>(ruleset: &'a Ruleset, id: &ChainId) -> &'a [Rule] {
    ruleset.chains.get(id).map_or(&[], |chain| chain.known_rules())
}

fn ipsets(rule: &Rule) -> impl Iterator<Item = (u16, &[End], bool)> {
    rule.steps.iter().filter_map(|step| match step {
        Step::Match(Match::Ipset { index, ends, inverted }) => Some((*index, ends.as_slice(), *inverted)),
        _ => None,
    })
}

fn nat(rule: &Rule) -> Option<&Nat> {
    rule.steps.iter().find_map(|step| match step {
        Step::Nat(nat) => Some(nat),
        _ => None,
    })
}

/// Single-field tests, and the names of all other matches except ipsets. Ranges and an inverted conjunction count as
/// other matches.
fn tests(rule: &Rule) -> (Vec<Tested<'_>>, Vec<&str>) {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for step in &rule.steps {
        match step {
            Step::Match(Match::Tests { tests, inverted }) if !inverted || tests.len() == 1 => {
                for test in tests {
                    match &test.condition {
                        Comparison::Masked { mask, value } => {
                            found.push(Tested { field: &test.field, mask: *mask, value: *value, inverted: *inverted });
                        }
                        Comparison::Ranges(_) => others.push("range"),
                    }
                }
            }
            Step::Match(Match::Tests { .. }) => others.push("not all"),
            Step::Match(Match::Set { .. }) => others.push("set"),
            Step::Match(Match::NonDeterministic(name) | Match::Unsupported(name)) => others.push(name),
            Step::Unsupported { what: name, .. } => others.push(name),
            _ => {}
        }
    }
    (found, others)
}

impl<'a> RuleShape<'a> {
    fn of(rule: &'a Rule, beside: &'a [Rule]) -> Option<Self> {
        let (tests, others) = tests(rule);
        Some(Self { nat: nat(rule)?, tests, sets: ipsets(rule).collect(), others, beside })
    }

    /// The tests, if there are exactly `N` and the rule has no other matches.
    fn only<const N: usize>(&self) -> Option<&[Tested<'a>; N]> {
        let only = self.sets.is_empty() && self.others.is_empty();
        <&[Tested; N]>::try_from(self.tests.as_slice()).ok().filter(|_| only)
    }

    fn has(&self, shape: Shape) -> bool {
        match shape {
            Shape::KubeRouterServices => kube_router_services(self),
            Shape::KubeRouterPods => kube_router_pods(self),
            Shape::DockerBridge => docker_bridge(self),
            Shape::DockerHairpin => docker_hairpin(self),
            Shape::DockerLocal => docker_local(self),
            Shape::FlannelOut => flannel_out(self),
            Shape::FlannelIn => flannel_in(self),
            Shape::LibvirtPorts => libvirt_ports(self),
            Shape::LibvirtRest => libvirt_rest(self),
        }
    }

    fn masquerades(&self) -> bool {
        self.nat.action == NatAction::Masquerade && self.nat.ports == Chosen::Unset
    }
}

impl Tested<'_> {
    fn is_source(&self) -> bool {
        matches!(self.field, Field::Ipv4Source | Field::Ipv6Source)
    }

    fn is_destination(&self) -> bool {
        matches!(self.field, Field::Ipv4Destination | Field::Ipv6Destination)
    }

    fn same_network(&self, other: &Self) -> bool {
        (self.mask, self.value) == (other.mask, other.value)
    }

    /// Whether it tests for `224.0.0.0/4` or `ff00::/8`.
    fn is_multicast(&self) -> bool {
        match self.field {
            Field::Ipv4Destination => (self.mask, self.value) == (0xf000_0000, 0xe000_0000),
            Field::Ipv6Destination => (self.mask, self.value) == (0xff << 120, 0xff << 120),
            _ => false,
        }
    }

    /// The device name, if a whole name is tested.
    fn device(&self) -> Option<String> {
        let bytes = self.value.to_be_bytes();
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let whole = self.mask.leading_ones() as usize > 8 * length; // including the terminating zero
        (*self.field == Field::OutputName && whole).then(|| String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// A source test and a destination test, in either order.
fn pair<'a, 'b>(rule_shape: &'b RuleShape<'a>) -> Option<(&'b Tested<'a>, &'b Tested<'a>)> {
    match rule_shape.only::<2>()? {
        [a, b] if a.is_source() && b.is_destination() => Some((a, b)),
        [b, a] if a.is_source() && b.is_destination() => Some((a, b)),
        _ => None,
    }
}

/// `-m ipvs --ipvs --vdir ORIGINAL --vmethod MASQ -j SNAT --to-source ADDRESS`, since 0.4 with `! -s NET ! -d NET`.
/// With an address or a port (`--vaddr`, `--vport`) it is the administrator's.
fn kube_router_services(rule_shape: &RuleShape) -> bool {
    let network = |test: &Tested| test.inverted && (test.is_source() || test.is_destination());
    rule_shape.nat.action == NatAction::Snat
        && rule_shape.others == ["ipvs --ipvs --vdir ORIGINAL --vmethod MASQ"]
        && rule_shape.tests.iter().all(network)
        && rule_shape.sets.is_empty()
}

/// `-m set --match-set A src -m set ! --match-set A dst -m set ! --match-set B dst -j MASQUERADE`
fn kube_router_pods(rule_shape: &RuleShape) -> bool {
    let same = match rule_shape.sets.as_slice() {
        [(a, [End::Source], false), (b, [End::Destination], true), (c, [End::Destination], true)] => a == b && a != c,
        _ => false,
    };
    same && rule_shape.tests.is_empty() && rule_shape.others.is_empty() && rule_shape.masquerades()
}

/// `-s NET ! -o BRIDGE -j MASQUERADE` (or `-j SNAT`)
fn docker_bridge(rule_shape: &RuleShape) -> bool {
    let Some([a, b]) = rule_shape.only::<2>() else { return false };
    [(a, b), (b, a)].into_iter().any(|(source, output)| {
        let bridge = output.inverted && output.device().is_some_and(|name| is_docker_bridge(&name));
        bridge && source.is_source() && !source.inverted
    })
}

fn is_docker_bridge(name: &str) -> bool {
    matches!(name, "docker0" | "docker_gwbridge") || Pattern("br-{hex 12}").fits(name)
}

/// `-s ADDRESS -d ADDRESS -p tcp --dport PORT -j MASQUERADE`: a container reaching itself by a published port.
fn docker_hairpin(rule_shape: &RuleShape) -> bool {
    let Some(tests) = rule_shape.only::<4>() else { return false };
    let tested = |field| tests.iter().any(|test| *test.field == field);
    let source = tests.iter().find(|test| test.is_source());
    let destination = tests.iter().find(|test| test.is_destination());
    let same = source.zip(destination).is_some_and(|(source, destination)| {
        let one = matches!((source.field, source.mask), (Field::Ipv4Source, 0xffff_ffff) | (_, u128::MAX));
        one && source.same_network(destination)
    });
    let plain = rule_shape.masquerades() && tests.iter().all(|test| !test.inverted);
    same && plain && tested(Field::L4Proto) && tested(Field::DestinationPort)
}

/// `-o BRIDGE -m addrtype --src-type LOCAL -j MASQUERADE`: hairpin traffic, and Swarm's routing mesh.
fn docker_local(rule_shape: &RuleShape) -> bool {
    let Some([a, b]) = rule_shape.only::<2>() else { return false };
    let is_local = |test: &Tested| *test.field == Field::SourceType(TypeScope::Any) && test.value == LOCAL;
    [(a, b), (b, a)].into_iter().any(|(source, output)| {
        let plain = !source.inverted && !output.inverted && rule_shape.masquerades();
        plain && is_local(source) && output.device().is_some_and(|name| is_docker_bridge(&name))
    })
}

/// `-s NET ! -d 224.0.0.0/4 -j MASQUERADE`
fn flannel_out(rule_shape: &RuleShape) -> bool {
    let fits = |(source, destination): (&Tested, &Tested)| {
        !source.inverted && destination.inverted && destination.is_multicast()
    };
    pair(rule_shape).is_some_and(fits) && rule_shape.masquerades()
}

/// `! -s NET -d NET -j MASQUERADE`, next to [`flannel_out`] for the same network.
fn flannel_in(rule_shape: &RuleShape) -> bool {
    let Some((source, destination)) = pair(rule_shape) else { return false };
    let out = |rule: &Rule| {
        let rule_shape = RuleShape::of(rule, &[]).filter(|_| rule.comment.is_empty());
        rule_shape.is_some_and(|other| {
            flannel_out(&other) && pair(&other).is_some_and(|(other, _)| other.same_network(source))
        })
    };
    let turned = source.inverted && !destination.inverted && source.same_network(destination);
    turned && rule_shape.masquerades() && rule_shape.beside.iter().any(out)
}

/// `-s NET ! -d NET -p tcp -j MASQUERADE --to-ports 1024-65535`, and the same for UDP.
fn libvirt_ports(rule_shape: &RuleShape) -> bool {
    let ports = rule_shape.nat.ports == Chosen::Range(1024, 65535) && rule_shape.nat.action == NatAction::Masquerade;
    ports && libvirt_network(rule_shape).is_some()
}

/// `-s NET ! -d NET -j MASQUERADE` next to [`libvirt_ports`].
fn libvirt_rest(rule_shape: &RuleShape) -> bool {
    let Some((_, destination)) = libvirt_network(rule_shape) else { return false };
    let ports = |rule: &Rule| {
        RuleShape::of(rule, &[]).is_some_and(|other| {
            libvirt_ports(&other) && libvirt_network(&other).is_some_and(|(_, d)| d.same_network(destination))
        })
    };
    rule_shape.tests.len() == 2 && rule_shape.masquerades() && rule_shape.beside.iter().any(ports)
}

fn libvirt_network<'a, 'b>(rule_shape: &'b RuleShape<'a>) -> Option<(&'b Tested<'a>, &'b Tested<'a>)> {
    let source = rule_shape.tests.iter().find(|test| test.is_source() && !test.inverted)?;
    let destination = rule_shape.tests.iter().find(|test| test.is_destination() && test.inverted)?;
    let nothing_else = rule_shape
        .tests
        .iter()
        .all(|test| test.is_source() || test.is_destination() || (*test.field == Field::L4Proto && !test.inverted));
    let fits =
        nothing_else && rule_shape.sets.is_empty() && rule_shape.others.is_empty() && source.same_network(destination);
    fits.then_some((source, destination))
}

#[cfg(test)]
mod tests;
