//! Derives verdicts from facts. Pure, and without a `Result`: what could not be read is `unknown` in the data.
//!
//! [`judge()`] evaluates each advisory's conditions (`conditions`), combines their states (`combine`), and fills in
//! remedies. Conditions about packets use results of `symbolic` through [`Derived`]. Called by `serve` and `commands`.

mod backends;
mod conditions;
mod conntrack;
mod context;
mod derived;
mod finding;
mod flows;
mod history;
mod idle;
mod neighbours;
mod remedies;
mod services;
mod source_nat;
mod tunnel;
mod underlay;
mod unseen;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use crate::advisory::defects::{self, Basis, Defect, DefectState};
use crate::advisory::{Advisory, Catalogue, ConditionKind, Remedy, Severity, State, Subject, Test, decide};
use crate::facts::{ConntrackCounter, Facts, Link, NetworkNamespace, Reading, names};
use context::Context;
pub use derived::Derived;
pub use finding::Report;
pub(crate) use finding::{ConditionFinding, DefectFinding, Finding, RemedyFinding, StaleTranslation};
pub(crate) use history::History;

names! {
    /// State of a condition.
    ConditionState {
        /// True
        Holds = "holds",
        /// False
        Fails = "fails",
        /// Not determined
        Unknown = "unknown",
    }
}

/// Settings that affect judging.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--kernel-defect ID=present|absent`; overrides everything else.
    pub kernel_defects: BTreeMap<String, DefectState>,
    /// Results of experiments; override the tables.
    pub probe: Probed,
    /// `--network-namespace current`: judge this namespace even if it is not the node's.
    pub this_namespace: bool,
    /// `--advisory ID`: only these; empty means all.
    pub advisories: Vec<String>,
    /// Whether to leave out addresses of flows in details and reports.
    pub hide_flow_addresses: bool,
    /// `--accept ID[:critical][=REASON]`: accepted risks, which do not count.
    pub accepted: BTreeMap<String, Acceptance>,
}

/// An accepted risk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Whether it is accepted even if critical; else it counts when it becomes critical.
    pub critical: bool,
    /// One line of explanation; may be empty.
    pub reason: String,
}

/// Results of experiments on the running kernel.
#[derive(Clone, Debug, Default)]
pub struct Probed {
    /// State and detail by defect.
    pub findings: BTreeMap<String, (DefectState, String)>,
    /// Live patches loaded at that time, since a later one may have fixed a defect; `None`: not known.
    pub livepatches: Option<Vec<String>>,
    /// Why a result exists but is not used, with its location; `None` otherwise.
    pub refused: Option<String>,
}

/// Judges a node. If the caller sets `stop`, everything not yet determined is unknown. The work is bounded in any case.
pub fn judge(catalogue: &Catalogue, facts: &Facts, options: &Options, stop: &AtomicBool) -> Report {
    judge_again(catalogue, facts, options, stop, &mut Derived::default())
}

/// Like [`judge()`], reusing results of earlier walks as far as they are valid; `derived` is updated.
pub fn judge_again(
    catalogue: &Catalogue,
    facts: &Facts,
    options: &Options,
    stop: &AtomicBool,
    derived: &mut Derived,
) -> Report {
    let defects = judge_defects(facts, options);
    let mut context = Context::new(facts, &defects, wrong_namespace(facts, options), stop, derived);
    context.flow_addresses = !options.hide_flow_addresses;
    let wanted = |advisory: &&Advisory| options.advisories.is_empty() || options.advisories.contains(&advisory.id);
    let mut worst_first: Vec<&Advisory> = catalogue.advisories.iter().filter(wanted).collect();
    // If the work budget runs out, less severe advisories are affected.
    worst_first.sort_by_key(|advisory| std::cmp::Reverse(advisory.severity));
    let mut advisories: Vec<Finding> =
        worst_first.into_iter().map(|advisory| judge_advisory(&context, advisory)).collect();
    advisories.sort_by(|one, other| one.id.cmp(&other.id));
    for finding in &mut advisories {
        if let Some(acceptance) = options.accepted.get(&finding.id) {
            accept(finding, acceptance);
        }
    }
    let asked = |advisory: &Advisory| advisory.conditions.iter().any(|condition| condition.test == Test::StaleFlows);
    let judged = context.wrong_namespace.is_none() && catalogue.advisories.iter().filter(wanted).any(asked);
    let stale = judged.then(|| flows::stale_translations(&context).ok()).flatten();
    let (was_stopped, cut) = (context.effort.was_stopped(), context.effort.ended().is_some());
    derived.end(cut);
    let probe_refused = options.probe.refused.clone();
    let (verdict, min_severity) = (State::NotAffected, Severity::Warning);
    let mut report = Report {
        verdict,
        min_severity,
        advisories,
        defects,
        probe_refused,
        stale_translations: stale,
        hide_flow_addresses: options.hide_flow_addresses,
        was_stopped,
    };
    report.verdict = report.worst(min_severity);
    report
}

fn accept(finding: &mut Finding, acceptance: &Acceptance) {
    if acceptance.critical || finding.severity < Severity::Critical {
        finding.accepted = Some(acceptance.reason.clone());
    } else if matches!(finding.state, State::Exposed | State::Unknown) {
        finding.summary += " It is accepted only while it is not critical.";
    }
}

/// Why counters, tunnels and rules are not the node's; `None`: they are.
fn wrong_namespace(facts: &Facts, options: &Options) -> Option<&'static str> {
    match facts.network_namespace {
        _ if options.this_namespace => None,
        NetworkNamespace::Initial => None,
        NetworkNamespace::Other => Some("this is not the node's network namespace; is hostNetwork set?"),
        NetworkNamespace::Unknown => {
            Some("cannot tell whether this is the node's network namespace: /proc/sys/net is not readable")
        }
    }
}

fn judge_defects(facts: &Facts, options: &Options) -> Vec<DefectFinding> {
    let livepatches = facts.known_livepatches();
    defects::all().iter().map(|defect| judge_defect(defect, facts, options, livepatches)).collect()
}

/// Precedence: operator, probe, tables.
fn judge_defect(defect: &Defect, facts: &Facts, options: &Options, livepatches: Option<&[String]>) -> DefectFinding {
    let found = |state, basis, detail| DefectFinding { id: defect.id.clone(), state, basis, detail };
    if let Some(state) = options.kernel_defects.get(&defect.id) {
        return found(*state, Basis::Operator, "the operator says so (--kernel-defect)".into());
    }
    let by_tables = match &facts.kernel {
        Reading::Ok(kernel) => {
            let decision = decide::decide(defect, kernel, livepatches);
            found(decision.state, decision.basis, decision.detail)
        }
        other => found(DefectState::Unknown, Basis::None, other.why().to_owned()),
    };
    // A live patch loaded or removed since may have changed the probe's result.
    let same_patches = livepatches.is_some() && options.probe.livepatches.as_deref() == livepatches;
    match options.probe.findings.get(&defect.id) {
        Some((DefectState::Unknown, why)) => {
            DefectFinding { detail: format!("{}; the probe could not tell: {why}", by_tables.detail), ..by_tables }
        }
        Some(_) if !same_patches => {
            let why = "what the probe found is not used: live patches have changed since, or it is not known whether they have";
            DefectFinding { detail: format!("{}; {why}", by_tables.detail), ..by_tables }
        }
        Some((state, detail)) => found(*state, Basis::Probe, format!("by experiment: {detail}")),
        None => by_tables,
    }
}

/// Result of one advisory for one subject.
struct Judgement {
    subject: Option<String>,
    state: State,
    conditions: Vec<ConditionFinding>,
    values: BTreeMap<&'static str, String>,
    of_services: bool,
}

fn judge_advisory(context: &Context<'_>, advisory: &Advisory) -> Finding {
    let judgement = match advisory.subject {
        Subject::Node => judge_subject(context, advisory, None),
        Subject::Tunnel => {
            let tunnels = context.facts.tunnels().map(|(link, _)| judge_subject(context, advisory, Some(link)));
            let foreign = context.facts.foreign_tunnels.ok().into_iter().flatten();
            let foreign = foreign.map(|link| judge_subject(context, advisory, Some(link)));
            // Unread tunnels may exist.
            let unread = matches!(context.facts.foreign_tunnels, Reading::Denied(_) | Reading::Failed(_));
            let unread = unread.then(|| judge_subject(context, advisory, None));
            let all = tunnels.chain(foreign).chain(unread);
            let worst = all.reduce(|worst, next| if next.state > worst.state { next } else { worst });
            worst.unwrap_or_else(|| judge_subject(context, advisory, None))
        }
    };
    let Judgement { subject, state, conditions, values, of_services } = judgement;
    let mut finding = Finding {
        id: advisory.id.clone(),
        title: advisory.title.clone(),
        severity: severity(context, advisory, of_services),
        state,
        unseen: state == State::Unknown && unseen::is_unseen(context, advisory, &conditions),
        subject,
        summary: advisory.summaries.get(state.name()).cloned().unwrap_or_default(),
        conditions,
        evidence: evidence(context, advisory),
        remedies: Vec::new(),
        references: advisory.references.clone(),
        accepted: None,
    };
    if let Some(detail) = finding.deciding().map(|condition| condition.detail.clone()) {
        let stop = if detail.ends_with(['.', '?']) { "" } else { "." };
        finding.summary = format!("{}: {detail}{stop}", finding.summary);
    }
    if state == State::Exposed {
        let fits = |remedy: &&Remedy| remedy.only_with.as_deref().is_none_or(|name| values.contains_key(name));
        let remedies = advisory.remedies.iter().filter(fits);
        finding.remedies = remedies.map(|remedy| remedies::fill_in(remedy, &values)).collect();
    }
    finding
}

fn judge_subject(context: &Context<'_>, advisory: &Advisory, tunnel: Option<&Link>) -> Judgement {
    let (mut values, mut of_services) = (BTreeMap::new(), false);
    let conditions: Vec<ConditionFinding> = advisory
        .conditions
        .iter()
        .map(|condition| {
            let outcome = conditions::evaluate(context, &condition.test, tunnel);
            values.extend(outcome.values);
            of_services |= outcome.of_services;
            let subject = tunnel.map(|link| format!("{}: ", link.name)).unwrap_or_default();
            let (id, kind) = (condition.id.clone(), condition.kind);
            let (state, detail) = (outcome.state, format!("{subject}{}", outcome.detail));
            ConditionFinding { id, kind, state, detail, commands: outcome.commands }
        })
        .collect();
    let here = tunnel.filter(|link| !link.is_elsewhere());
    let subject = here.map(|link| link.name.clone());
    Judgement { subject, state: combine(&conditions), conditions, values, of_services }
}

/// The higher severity, while it is not known whether the kernel has the defect or whether Services are concerned.
fn severity(context: &Context<'_>, advisory: &Advisory, of_services: bool) -> Severity {
    if let Some(worse) = advisory.severity_with_services.filter(|_| of_services) {
        return worse;
    }
    let absent = |id: &str| context.defect(id).is_some_and(|defect| defect.state == DefectState::Absent);
    match &advisory.severity_with_defect {
        Some(worse) if !absent(&worse.defect) => worse.severity,
        _ => advisory.severity,
    }
}

fn evidence(context: &Context<'_>, advisory: &Advisory) -> Vec<String> {
    let Reading::Ok(totals) = context.facts.conntrack.totals() else { return Vec::new() };
    if context.wrong_namespace.is_some() {
        return Vec::new();
    }
    let shown = advisory.evidence.iter().filter_map(|evidence| {
        let value = totals.get(&ConntrackCounter::from_name(&evidence.counter)?)?;
        Some(format!("{} since boot: {value} ({})", evidence.counter, evidence.text))
    });
    let rewrites = advisory.conditions.iter().any(|condition| condition.test == Test::OuterRewritten);
    let now = flows::rewritten_now(&context.facts.flows.tunnels.found).filter(|_| rewrites);
    shown.chain(now).collect()
}

/// Any ingredient fails → not affected; else any safeguard's lack fails → mitigated; else any unknown → unknown; else
/// exposed.
fn combine(conditions: &[ConditionFinding]) -> State {
    let any = |state, kind: Option<ConditionKind>| {
        conditions.iter().any(|condition| condition.state == state && kind.is_none_or(|kind| condition.kind == kind))
    };
    if any(ConditionState::Fails, Some(ConditionKind::Ingredient)) {
        State::NotAffected
    } else if any(ConditionState::Fails, Some(ConditionKind::Safeguard)) {
        State::Mitigated
    } else if any(ConditionState::Unknown, None) {
        State::Unknown
    } else {
        State::Exposed
    }
}

#[cfg(test)]
mod tests;
