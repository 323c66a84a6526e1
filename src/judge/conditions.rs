//! Dispatch of condition tests: which function evaluates each [`Test`].

use super::context::{Context, Evaluation, unread_links};
use super::tunnel::PROBE;
use super::{conntrack, flows, idle, neighbours, services, source_nat, tunnel, underlay};
use crate::advisory::Test;
use crate::advisory::defects::DefectState;
use crate::facts::{Link, Question, Reading};
use crate::symbolic;

/// Evaluates one condition; `tunnel` is the subject of an advisory judged per tunnel.
pub(super) fn evaluate(context: &Context<'_>, test: &Test, tunnel: Option<&Link>) -> Evaluation {
    if context.effort.ended() == Some(symbolic::Ended::Stopped) {
        return Evaluation::unknown(symbolic::Ended::Stopped.why());
    }
    if let Test::KernelDefect(id) = test {
        return kernel_defect(context, id);
    }
    if let Some(why) = context.wrong_namespace {
        return Evaluation::unknown(why);
    }
    match test {
        Test::KernelDefect(_) => unreachable!("handled above: it is no matter of namespaces"),
        Test::ConntrackActive => conntrack::active(&context.facts.conntrack),
        Test::ConntrackTableFilled(ratio) => {
            conntrack::table_filled(&context.facts.conntrack, &context.facts.flows.sample, *ratio)
        }
        Test::ConntrackBucketsLoaded(ratio) => conntrack::buckets_loaded(&context.facts.conntrack, *ratio),
        Test::NeighboursCounted => neighbours::counted(&context.facts.neighbours),
        Test::NeighboursNearlyFull(ratio) => {
            neighbours::nearly_full(&context.facts.neighbours, &context.facts.kernel, *ratio)
        }
        Test::TunnelUp => tunnel_up(context, tunnel),
        Test::UnderlayDriver(driver) => underlay::underlay_driver(context, tunnel, driver),
        Test::UnderlayTunnelOffload(driver) => underlay::underlay_tunnel_offload(context, tunnel, driver),
        Test::DriverOffloadsPort { driver, defect, ports } => {
            underlay::driver_offloads_port(context, tunnel, driver, defect, ports)
        }
        Test::SourceNatReachable => source_nat::source_nat_reachable(context),
        Test::SourceNatChoosesPorts => source_nat::source_nat_chooses_ports(context),
        Test::SeveralCpus => source_nat::several_cpus(context),
        Test::PortNotRandom(defects) => source_nat::port_not_random(context, defects),
        Test::ChecksumBreakable { on, off } => tunnel::checksum_breakable(context, tunnel, on, off),
        Test::SourceNatPresent => tunnel::source_nat_present(context, tunnel),
        Test::TunnelChecksumOffload => tunnel::tunnel_checksum_offload(context, tunnel),
        Test::OuterTracked => tunnel::outer_tracked(context, tunnel),
        Test::OuterRewritten => tunnel::outer_rewritten(context, tunnel),
        Test::DnsDnatToSeveral => services::dns_dnat_to_several(context),
        Test::NoLocalCache => services::no_local_cache(context),
        Test::TcpDnatClientInside => services::tcp_dnat_client_inside(context),
        Test::TcpNotLiberal => services::tcp_not_liberal(context),
        Test::BypassArrives => services::bypass_arrives(context),
        Test::SourceNatAnsweredHere => services::source_nat_answered_here(context),
        Test::InvalidArrives => services::invalid_arrives(context),
        Test::SourceNatReached => idle::source_nat_reached(context),
        Test::RandomPorts => idle::random_ports(context),
        Test::TcpTimeoutShort(seconds) => idle::tcp_timeout_short(context, *seconds),
        Test::TunnelChecksumOffloadOff => tunnel::tunnel_checksum_offload_off(context, tunnel),
        Test::OffloadNotNeeded { on, off } => tunnel::offload_not_needed(context, tunnel, on, off),
        Test::ServiceNatInBoth => services::service_nat_in_both(context),
        Test::PortsNearlyUsed => flows::ports_nearly_used(context),
        Test::UdpDestinationNat => flows::udp_destination_nat(context),
        Test::StaleFlows => flows::stale_flows(context),
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
