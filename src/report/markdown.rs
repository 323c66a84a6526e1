//! Pages of docs/ derived from the catalogue and tables: written by `make golden`, checked by a test.

use std::fmt::Write as _;

use super::contributes;
use crate::advisory::defects;
use crate::advisory::{Advisory, Catalogue, Condition, Subject};
use crate::facts::netfilter::signatures::{SIGNATURES, Signature};
use crate::facts::{Collector, Source};
use crate::metrics;

/// docs/advisories.md
pub fn advisories(catalogue: &Catalogue) -> String {
    let mut out = String::from(
        "# Advisories\n\nWritten from the catalogue by `make golden`; `natwatch explain ID` prints the same.\n\nAn advisory is \
         `exposed` if all its conditions hold, `mitigated` if all ingredients are there and a safeguard is in place or \
         a limit is not reached (for people: not exposed now), `not_affected` if an ingredient is missing, and `unknown` if what could not be seen would decide.\n",
    );
    for advisory in &catalogue.advisories {
        advisory_section(&mut out, advisory);
    }
    out.push_str("\n# Kernel defects\n\n| defect | what it does | known from |\n|---|---|---|\n");
    for defect in defects::all() {
        let _ = writeln!(out, "| `{}` | {} | {} |", defect.id, defect.title, defect.references.join(", "));
    }
    out
}

/// README's table of advisories.
pub fn advisory_table(catalogue: &Catalogue) -> String {
    let mut out = String::from("| advisory | severity | says |\n|---|---|---|\n");
    for advisory in worst_first(catalogue) {
        let Advisory { id, title, severity, .. } = advisory;
        let worse = advisory.severity_with_defect.as_ref().map(|worse| format!(", {} on some kernels", worse.severity));
        let services = advisory.severity_with_services.map(|worse| format!(", {worse} for Services of Kubernetes"));
        let _ = writeln!(
            out,
            "| `{id}` | {severity}{}{} | {title} |",
            worse.unwrap_or_default(),
            services.unwrap_or_default()
        );
    }
    out
}

/// Table of impacts in the runbook of exposures.
pub fn impact_table(catalogue: &Catalogue) -> String {
    let mut out = String::from("| advisory | what breaks |\n|---|---|\n");
    for Advisory { id, impact, .. } in worst_first(catalogue) {
        let _ = writeln!(out, "| `{id}` | {impact} |");
    }
    out
}

/// README's sentence about the number of series of a node.
pub fn series_budget(catalogue: &Catalogue) -> String {
    /// Series besides those per advisory, defect, source and collector: connection tracking, protocol counters,
    /// neighbour tables, conntrack entries, the exporter itself, tunnels, features of devices, NAT rules, and single
    /// ones. From the limits in `metrics`, and as counted by `natwatch check` on recorded nodes.
    const OTHERS: usize = 16 + 4 + 4 + 21 + 12 + 16 + 8 * 6 * 3 + 16 * 4 + 5;
    let (advisories, defects) = (catalogue.advisories.len(), defects::all().len());
    // Each collector has a duration and a success.
    let (sources, collectors) = (Source::ALL.len(), 2 * Collector::ALL.len());
    let all = 2 * advisories + defects + sources + collectors + OTHERS;
    format!(
        "In this version: {advisories} advisories take {}, {defects} kernel defects {defects}, connection tracking 16, protocol \
         counters 4, neighbour tables 4,\nentries at most 21, sources {sources}, collectors {collectors}, the exporter itself 12, tunnels at \
         most 16, features at most 8 devices × 6 features × 3 = 144, NAT rules\nat most 16 kinds × 4 = 64, five more: about {}. Another \
         advisory adds 2.\n",
        2 * advisories,
        (all + 5) / 10 * 10
    )
}

fn worst_first(catalogue: &Catalogue) -> Vec<&Advisory> {
    let mut advisories: Vec<&Advisory> = catalogue.advisories.iter().collect();
    advisories.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.id.cmp(&b.id)));
    advisories
}

fn advisory_section(out: &mut String, advisory: &Advisory) {
    let Advisory { id, title, severity, subject, references, conditions, remedies, .. } = advisory;
    let _ = write!(out, "\n## {id}\n\n**{title}.** Severity {severity}");
    if let Some(worse) = &advisory.severity_with_defect {
        let _ = write!(out, ", {} on kernels with `{}` or while that is unknown", worse.severity, worse.defect);
    }
    if let Some(worse) = advisory.severity_with_services {
        let _ = write!(out, ", {worse} where Services of Kubernetes are concerned or while that is unknown");
    }
    let judged = match subject {
        Subject::Node => "the node",
        Subject::Tunnel => "each tunnel; the worst one is the node's",
    };
    let _ = writeln!(out, "; judged on {judged}.\n\n{}\n", advisory.prose.trim());
    out.push_str("| condition | holds while | kind |\n|---|---|---|\n");
    for Condition { id, words, kind, .. } in conditions {
        let _ = writeln!(out, "| `{id}` | {words} | {} |", contributes(*kind));
    }
    out.push_str("\nRemedies:\n\n");
    for remedy in remedies {
        let lasting = if remedy.survives_reboot { "" } else { " (until the next reboot)" };
        let _ = writeln!(out, "- {}{lasting}", remedy.text);
        if let Some(command) = &remedy.command {
            let _ = writeln!(out, "  `{command}`");
        }
    }
    let _ = writeln!(out, "\nReferences: {}", references.join(", "));
}

/// docs/owners.md
pub fn owners() -> String {
    let mut out = String::from(
        "# Owners of rules\n\nWritten from the table of signatures (`src/facts/netfilter/signatures.rs`) by `make golden`.\n\nThe label \
         `owner` says who writes a rule, told from what nobody else writes; every other rule is `other`. How a name begins is not \
         enough: `KUBE-POSTROUTING-CUSTOM` is an administrator's. A rule in somebody's chain is his unless it carries another's \
         comment, set or shape itself; the chain tells more than the table. All backends are judged alike. \
         `natwatch capture --redact` keeps what stands here but for what is filled in at `{}`, `{device}` and `{base64 …}`.\n\n\
         `{}` is anything, `{one|other}` one of these, `{hex 24}` (lower case), `{HEX 13}`, `{base32 16}` and `{base64 16}` so many \
         characters, `{number}` digits, `{device}` the name of a device.\n",
    );
    for (owner, signatures) in SIGNATURES {
        let _ = writeln!(out, "\n## {owner}\n");
        for signature in *signatures {
            let _ = writeln!(out, "- {}", signature_line(signature));
        }
    }
    out
}

fn signature_line(signature: &Signature) -> String {
    match signature {
        Signature::Table(name) => format!("table `{name}`"),
        Signature::Chain(name) => format!("chain `{name}`"),
        Signature::ChainIn(table, name) => format!("chain `{name}` of table `{table}`"),
        Signature::ChainBeside(name, other) => format!("chain `{name}` where the table has `{other}`"),
        Signature::Comment(text) => format!("comment `{text}`"),
        Signature::CommentIn(chain, text) => format!("comment `{text}` in `{chain}`"),
        Signature::CommentOut(device, text) => format!("comment `{text}` with `-o {device}`"),
        Signature::Ipset(name) => format!("ipset `{name}`"),
        Signature::Shape(shape) => {
            let beside = if shape.needs_former() { ", beside the former" } else { "" };
            format!("in `POSTROUTING` of table `nat`, without a comment: `{}`{beside}", shape.written())
        }
    }
}

/// docs/metrics.md
pub fn metrics() -> String {
    format!(
        "# Metrics\n\nWritten from the table of metrics by `make golden`; `natwatch metrics` prints the same. README tells how many \
         series a node has.\n\n- A counter that the kernel lacks has no series; a series does not vanish because its value is 0.\n- \
         A closed state is a label of one series that is always 1, whose name ends in `_info`: select by it \
         (`natwatch_advisory_info{{state=\"exposed\"}}`), which reads only the nodes that are in it. The series of the old state ends in the \
         answer that brings the new one; over a range both are there, so aggregate by advisory.\n- What is yes or no is 1 or 0 and has no \
         series while it is unknown: `natwatch_exposure` for one. Ask for \
         `natwatch_advisory_info{{state=\"unknown\"}}`, or for `natwatch_advisory_unseen`, which is there only where something could not be \
         read.\n- Counters continue beyond the kernel's 32-bit wraps, and rule counters do not \
         dip when rules are rewritten.\n- Labels are closed sets or bounded by the kernel; `natwatch_series_omitted` counts what the limits \
         leave out.\n\n{}",
        metrics::table()
    )
}
