//! Packets that enter a tunnel, and the marks that they may have.
//!
//! Inner packets are those routed into the tunnel, initially with mark 0: first packets and later ones (which skip nat
//! chains and have the connection mark saved by earlier ones, including those that arrived through the tunnel), of this
//! host and, if any device forwards, of others, in both families. On output a packet still has the device of its route
//! before destination NAT.
//!
//! Chains outside the IP hooks count as well: if one at ingress or of a bridge may write marks, any mark may enter the
//! tunnel. Bridged frames traverse the rules if `bridge-nf-call-iptables` or the bridge's own option is set.
//!
//! No mark is excluded for lack of a route: a packet that is re-routed without the device that its tunnel is bound to
//! may take any path if some table has another one for it.
//!
//! For an exposure the mark writer is named: the packets that enter the tunnel are walked again, recording which rule
//! wrote the mark.

use crate::symbolic::scenarios::first;
use std::collections::BTreeSet;

use super::TunnelWalk;
use crate::facts::netfilter::{Family, Field, Hook};
use crate::symbolic::assumptions::About;
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::Flow;
use crate::symbolic::network::host::LOCAL;
use crate::symbolic::packets::{NO_DEVICE, PacketKind, Packets, SOME_DEVICE, state};
use crate::symbolic::scenarios::connection::TCP;
use crate::symbolic::scenarios::devices::loopback;
use crate::symbolic::scenarios::on_nat::{AnyEnds, Inner, past_tunnel_or_not, somewhere};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};
use crate::symbolic::values::Numbers;

/// Packets of one connection that are looked at in turn, for what each leaves in its mark.
const MAX_ROUNDS: usize = 8;

/// No mark.
pub(super) const UNMARKED: &[(u128, u128)] = &[(0, 0)];

/// TCP and UDP: protocols for which `NETIF_F_HW_CSUM` leaves the checksum to the tunnel device. SCTP has a feature of
/// its own, and packets of nested tunnels are completed earlier (`netif_skb_features`: no tunnel sets
/// `hw_enc_features`).
const OFFLOADED: &[(u128, u128)] = &[(6, 6), (17, 17)];

impl TunnelWalk<'_, '_> {
    /// All marks with which packets may leave the tunnel device.
    pub(super) fn inner(&mut self) -> PacketSet {
        self.walk.outer = false;
        let bits = self.bits_brought_in();
        let elsewhere = first::if_marked_elsewhere(&mut self.walk, bits);
        let mut marks = self.walk.space.and(elsewhere, self.walk.start());
        // If nothing is routed into it, packets enter it without traversing IP rules.
        if self.facts.bridged || self.facts.inner.iter().all(Numbers::is_empty) {
            for family in Family::IP {
                self.begin(family, format!("bridged {family}"));
                self.walk.traffic = "packets that no rule of IP has seen";
                let start = self.walk.start();
                let packets = self.walk.all_with(start, &[(Field::Mark, &[(0, 0)])]);
                let packets = self.hook(Hook::Egress, true, Flow::First, packets);
                marks = self.add(marks, packets);
                if self.facts.bridged {
                    let packets = self.bridge_pass(family);
                    marks = self.add(marks, packets);
                }
            }
        }
        for (at, family) in Family::IP.into_iter().enumerate() {
            if self.facts.inner[at].is_empty() {
                continue;
            }
            for forwarded in [false, true] {
                let assumed = if forwarded { self.walk.if_forwarded(family) } else { EVERYTHING };
                if assumed.is_empty() {
                    continue;
                }
                marks = self.connection(family, forwarded, assumed, marks);
                if self.walk.is_over() || self.are_all(marks) {
                    return marks;
                }
            }
        }
        marks
    }

    /// Bits of marks that matter of packets that come in: none do where these go no further than to this host, and neither
    /// connections nor sockets hand them on.
    pub(super) fn bits_brought_in(&self) -> u32 {
        let host = &self.walk.network.host;
        let stays = host.forwards.iter().all(|forwards| *forwards == Ok(false)) && !self.facts.bridged;
        let handed_on = self.walk.followed(&Field::ConnectionMark) != 0 || host.accepts_marks != Ok(false);
        if stays && !handed_on { 0 } else { self.walk.followed(&Field::Mark) }
    }

    /// Marks of all packets of a connection. What the first one leaves in the connection's mark is what later ones begin with.
    fn connection(&mut self, family: Family, forwarded: bool, assumed: PacketSet, mut marks: PacketSet) -> PacketSet {
        self.begin(family, format!("inner {family} {forwarded} {:?}", Flow::First));
        let none = self.walk.with(&Field::ConnectionMark, UNMARKED);
        let mut saved = self.walk.space.and(none, assumed);
        let first = self.inner_pass(family, forwarded, Flow::First, saved);
        marks = self.add(marks, first);
        if self.are_all(marks) {
            return marks;
        }
        saved = self.save(saved, first);
        let arriving = self.arriving(family, forwarded, assumed);
        saved = self.save(saved, arriving);
        self.accepted = NOTHING;
        if !forwarded && self.walk.network.host.accepts_marks != Ok(false) {
            let connecting = self.walk.all_with(arriving, &[(Field::L4Proto, &[TCP])]);
            let fields = self.walk.layout.variables(false);
            self.accepted = self.walk.without(connecting, fields);
        }
        // One that belongs to no connection meets no nat chain, and no mark of one.
        self.begin(family, format!("inner {family} {forwarded} {:?}", Flow::Invalid));
        let none = self.walk.with(&Field::ConnectionMark, UNMARKED);
        let none = self.walk.space.and(none, assumed);
        let invalid = self.inner_pass(family, forwarded, Flow::Invalid, none);
        marks = self.add(marks, invalid);
        self.later_packets(saved, |tunnel, saved| {
            let later = tunnel.inner_pass(family, forwarded, Flow::Later, saved);
            marks = tunnel.add(marks, later);
            later
        });
        marks
    }

    /// Sends later packets of connections whose entries hold what earlier ones have left there, until they leave nothing else.
    pub(super) fn later_packets(
        &mut self,
        mut saved: PacketSet,
        mut pass: impl FnMut(&mut Self, PacketSet) -> PacketSet,
    ) {
        for _ in 0..MAX_ROUNDS {
            let later = pass(self, saved);
            let known = saved;
            saved = self.save(saved, later);
            if self.walk.is_over() || saved == known {
                return;
            }
        }
        let why = || format!("after {MAX_ROUNDS} packets a connection's mark still changes");
        self.walk.gave_up.get_or_insert_with(why);
    }

    /// Starts a new stage with packets of this family.
    pub(super) fn begin(&mut self, family: Family, stage: String) {
        self.walk.stage = stage;
        self.walk.packets = Packets::new(PacketKind::Traffic, family);
    }

    /// Adds the marks of these packets, forgetting everything else about them.
    fn add(&mut self, marks: PacketSet, packets: PacketSet) -> PacketSet {
        let (mut fields, decisive) = (self.walk.layout.variables(false), self.decisive());
        let others: BTreeSet<u32> = self.walk.block(&Field::Mark).bits((!decisive).into()).collect();
        fields.extend(&others);
        let only = self.walk.without(packets, fields);
        // Other bits do not matter: 0.
        let only = others.iter().fold(only, |only, bit| self.walk.space.minus(only, self.walk.space.is_set(*bit)));
        if self.walk.is_over() { marks } else { self.walk.space.or(marks, only) }
    }

    /// The same for connection marks.
    pub(super) fn save(&mut self, saved: PacketSet, packets: PacketSet) -> PacketSet {
        let mut fields = self.walk.layout.variables(false);
        let own = self.walk.block(&Field::ConnectionMark);
        fields.retain(|variable| !own.0.contains(variable));
        fields.extend(self.walk.block(&Field::Mark).0);
        fields.extend(self.walk.writer_variables());
        let only = self.walk.without(packets, fields);
        if self.walk.is_over() { saved } else { self.walk.space.or(saved, only) }
    }

    /// Bridged frames that enter the tunnel, if they traverse IP rules (`br_nf_pre_routing`).
    fn bridge_pass(&mut self, family: Family) -> PacketSet {
        self.begin(family, format!("bridge {family}"));
        self.walk.packets.bridged = true;
        self.walk.traffic = "frames that a bridge takes into the tunnel";
        let known = &self.facts.bridges_call_rules[family.ip_index()];
        let assumed = self.walk.assume("bridges call rules", known);
        if assumed.is_empty() {
            return NOTHING;
        }
        let upper_devices = self.facts.upper_devices.clone();
        let mut all = NOTHING;
        for flow in [Flow::First, Flow::Later, Flow::Invalid] {
            self.walk.stage = format!("bridge {family} {flow:?}");
            let mut packets = self.unclassified();
            packets = self.walk.forget(packets, &[Field::ConnectionDirection, Field::ConnectionMark]);
            if flow == Flow::Later {
                packets = self.walk.forget(packets, &[Field::ConnectionStatus]);
            }
            packets = self.walk.space.and(packets, assumed);
            packets = self.walk.set(packets, &Field::InputName, upper_devices.as_ranges());
            packets = self.pass(Hook::Prerouting, flow, packets);
            packets = self.walk.set(packets, &Field::OutputName, upper_devices.as_ranges());
            packets = self.pass(Hook::Forward, flow, packets);
            // br_nf_post_routing passes no input device.
            packets = self.walk.set(packets, &Field::InputName, NO_DEVICE);
            packets = self.pass(Hook::Postrouting, flow, packets);
            packets = self.hook(Hook::Egress, true, flow, packets);
            all = self.walk.space.or(all, packets);
        }
        all
    }

    /// First packets of connections from some device, not routed yet.
    pub(super) fn unclassified(&mut self) -> PacketSet {
        let packets = first::first_packets(&mut self.walk);
        self.walk.all_with(packets, &[(Field::InputName, SOME_DEVICE), (Field::OutputName, NO_DEVICE)])
    }

    /// Runs a hook, after which translated packets may have any addresses.
    fn pass(&mut self, hook: Hook, flow: Flow, packets: PacketSet) -> PacketSet {
        self.walk.hook(hook, None, flow, packets, &mut AnyEnds)
    }

    /// First packets that arrive through the tunnel: replies start with the connection mark that they save.
    fn arriving(&mut self, family: Family, forwarded: bool, assumed: PacketSet) -> PacketSet {
        self.begin(family, format!("arriving {family} {forwarded}"));
        self.walk.packets.forwarded = forwarded;
        let upper_devices = self.facts.upper_devices.clone();
        let packets = self.unclassified();
        let packets = self.walk.space.and(packets, assumed);
        let packets = self.walk.all_with(packets, &[(Field::InputName, upper_devices.as_ranges())]);
        let packets = self.walk.forget(packets, &[Field::Mark]);
        let packets = self.with_marks_of_arrivals(packets, false);
        let packets = self.pass(Hook::Prerouting, Flow::First, packets);
        if !forwarded {
            return self.pass(Hook::Input, Flow::First, packets);
        }
        let (_, destination) = self.walk.packets.ends();
        let packets = self.without_own(packets, &destination);
        let packets = self.walk.set(packets, &Field::OutputName, SOME_DEVICE);
        let packets = self.pass(Hook::Forward, Flow::First, packets);
        let packets = self.walk.as_seen_by_postrouting(packets);
        self.pass(Hook::Postrouting, Flow::First, packets)
    }

    /// Inner packets as they enter the tunnel. `connections`: their connection marks.
    fn inner_pass(&mut self, family: Family, forwarded: bool, flow: Flow, connections: PacketSet) -> PacketSet {
        self.begin(family, format!("inner {family} {forwarded} {flow:?}"));
        self.walk.packets.forwarded = forwarded;
        self.walk.traffic = traffic(forwarded, flow);
        let at = family.ip_index();
        let upper_devices = self.facts.upper_devices.clone();
        let start = self.walk.space.and(connections, self.walk.start());
        let unseen = self.walk.in_state(&[state::INVALID]);
        let mut packets = self.walk.all_with(
            self.walk.space.and(start, unseen),
            &[
                (Field::InputName, if forwarded { SOME_DEVICE } else { NO_DEVICE }),
                (Field::OutputName, if forwarded { NO_DEVICE } else { upper_devices.as_ranges() }),
                (Field::L4Proto, OFFLOADED),
            ],
        );
        packets = match forwarded {
            true => self.with_marks_of_arrivals(packets, true),
            false if flow == Flow::Later => self.with_accepted_marks(packets),
            false => self.walk.all_with(packets, &[(Field::Mark, UNMARKED)]),
        };
        if flow == Flow::First {
            packets = self.walk.all_with(packets, &[(Field::ConnectionDirection, &[(0, 0)])]);
            packets = first::untranslated(&mut self.walk, packets);
        }
        let (source, destination) = self.walk.packets.ends();
        // On output any address may be the source: transparent proxies send with those of their clients.
        if forwarded {
            packets = self.without_own(packets, &source);
        }
        if forwarded {
            // Packets received on it are local.
            let lo = self.walk.with(&Field::InputName, loopback().as_slice());
            packets = self.walk.space.minus(packets, lo);
        }
        if !forwarded {
            packets = self.routed_first(packets);
        }
        packets = self.hook(if forwarded { Hook::Prerouting } else { Hook::Output }, false, flow, packets);
        if forwarded {
            packets = past_tunnel_or_not(&mut self.walk, packets, self.facts);
        }
        packets = self.with_others_by_ipvs(packets);
        let routed = self.walk.with(&destination, self.facts.inner[at].as_ranges());
        packets = self.walk.space.and(packets, routed);
        packets = self.without_own(packets, &destination);
        packets = self.walk.set(packets, &Field::OutputName, upper_devices.as_ranges());
        if forwarded {
            packets = self.hook(Hook::Forward, false, flow, packets);
            packets = self.walk.as_seen_by_postrouting(packets);
        }
        packets = self.hook(Hook::Postrouting, false, flow, packets);
        // Whether packets use the bridge or upper device follows from their route.
        for above in &self.facts.above {
            let later = None;
            let mut inner = Inner { facts: self.facts, later };
            let through = self.walk.hook(Hook::Egress, Some(above), flow, packets, &mut inner);
            packets = self.walk.space.or(packets, through);
        }
        self.hook(Hook::Egress, true, flow, packets)
    }

    /// These packets, and what IPVS makes of them between two hooks, whatever the rules say.
    fn with_others_by_ipvs(&mut self, packets: PacketSet) -> PacketSet {
        let by_ipvs = self.walk.if_ipvs_in_use();
        if by_ipvs.is_empty() {
            return packets;
        }
        let elsewhere = somewhere(&mut self.walk, packets, self.facts);
        self.walk.space.or(packets, self.walk.space.and(elsewhere, by_ipvs))
    }

    /// Packets of this host without a mark, and, if sockets take over marks of who connects to them (`inet_request_mark`), those of
    /// TCP with one of these.
    fn with_accepted_marks(&mut self, packets: PacketSet) -> PacketSet {
        let network = self.walk.network;
        let unmarked = self.walk.all_with(packets, &[(Field::Mark, UNMARKED)]);
        let take = self.walk.assume("tcp_fwmark_accept", &network.host.accepts_marks);
        let marked = self.walk.space.and(packets, self.walk.space.and(self.accepted, take));
        let marked = self.walk.all_with(marked, &[(Field::L4Proto, &[TCP])]);
        self.walk.space.or(unmarked, marked)
    }

    /// Those of these packets that have no address of this host's there, as far as these are known.
    fn without_own(&mut self, packets: PacketSet, end: &Field) -> PacketSet {
        let family = self.walk.packets.family;
        let Some(own) = self.walk.network.addresses_of_types(family, |kind| kind == LOCAL, None) else {
            return packets;
        };
        let own = self.walk.with(end, own.as_ranges());
        self.walk.space.minus(packets, own)
    }

    /// Packets of this host on output: where they are going before anything translates their destination or marks them.
    fn routed_first(&mut self, packets: PacketSet) -> PacketSet {
        let family = self.walk.packets.family;
        let at = family.ip_index();
        let by_mark = !self.facts.fwmarks[at].is_empty();
        let translated = self.walk.network.translates_destinations(family, true);
        if !by_mark && self.walk.network.host.ipvs_in_use == Ok(false) && translated == Happens::Never {
            return packets;
        }
        let (_, destination) = self.walk.packets.ends();
        let upper_devices = self.facts.upper_devices.clone();
        let into = self.walk.with(&destination, self.facts.inner[at].as_ranges());
        let anywhere = self.walk.set(packets, &Field::OutputName, SOME_DEVICE);
        let by_upper_devices = self.walk.with(&Field::OutputName, upper_devices.as_ranges());
        let by_others = self.walk.space.minus(anywhere, by_upper_devices);
        let elsewhere = if by_mark { by_others } else { self.walk.space.minus(by_others, into) };
        self.walk.space.or(self.walk.space.and(packets, into), elsewhere)
    }

    /// Runs a hook; `own`: the hook of the tunnel's device.
    fn hook(&mut self, hook: Hook, own: bool, flow: Flow, packets: PacketSet) -> PacketSet {
        let family = self.walk.packets.family;
        let later = match self.walk.network.translates_destinations(family, hook == Hook::Output) {
            _ if flow != Flow::Later => None,
            Happens::Never => None,
            Happens::Must => Some(EVERYTHING),
            Happens::May(why) => {
                let why = || format!("whether destinations are translated is not known: {why}");
                Some(self.walk.answer(format!("later {family} {hook}"), About::All, 2, 1, why))
            }
        };
        let device = own.then_some(self.facts.device.as_str());
        self.walk.hook(hook, device, flow, packets, &mut Inner { facts: self.facts, later })
    }
}

/// Description of the packets, for reports.
fn traffic(forwarded: bool, flow: Flow) -> &'static str {
    match (forwarded, flow) {
        (false, Flow::First) => "packets of this host",
        (false, Flow::Later) => "later packets of connections of this host",
        (false, Flow::Invalid) => "packets of this host that belong to no connection",
        (true, Flow::First) => "packets that this host forwards",
        (true, Flow::Later) => "later packets of connections that this host forwards",
        (true, Flow::Invalid) => "packets that this host forwards and that belong to no connection",
    }
}
