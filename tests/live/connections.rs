//! Verdicts about connections compared with the running kernel: random rules, connections between all hosts,
//! out-of-window segments, expired entries, ports that clients get, and DNS queries.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::support::connection_lab::{ConnectionLab, Ends, Outcome};
use crate::support::connection_rules::{Case, Generator};
use crate::support::grammar::Dice;
use crate::support::hold::Hold;
use crate::support::ports::SamePorts;
use crate::support::report::{Report, check_here};

/// Advisories about resets of clients whose destination was translated, and of this host's for translated sources.
const ADVISORIES: [&str; 2] = ["tcp-invalid-reset", "snat-invalid-reset"];

/// Advisory about connections whose entry is lost, and the least timeout of RFC 5382.
const IDLE: &str = "idle-connection-reset";
const LEAST: u32 = 7440;

/// Advisory about queries of one socket.
const NAMES: &str = "dns-conntrack-race";

/// Advisory about first packets of two hosts that are translated to one address.
const PORTS: &str = "snat-port-race";

/// Addresses that no host has; only translations yield them.
const NOBODY: [&str; 2] = ["fd80:", "10.80."];

/// Number of cases at once: they mostly wait.
const AT_ONCE: usize = 4;

/// Number of cases by advisory, verdict, and whether such connections were reset.
type Table = BTreeMap<(&'static str, String, bool), u64>;

/// Whether connections were reset by the client past a translated destination, and by the router that translated a
/// source.
fn resets(ends: &Ends, case: &Case) -> [bool; 2] {
    let of = |wanted: &dyn Fn(bool, bool) -> bool| {
        ends.iter().any(|((source, destination), [reset, _])| *reset > 0 && wanted(*source, *destination))
    };
    let untranslated = of(&|source, destination| !source && !destination);
    assert!(!untranslated || case.refuses, "nothing was translated, and yet reset: {ends:?}");
    [of(&|source, destination| !source && destination), of(&|source, _| source)]
}

/// The verdict on whether queries of one socket reach several name servers.
fn told_to_several(report: &Report) -> String {
    let conditions = report.advisory(NAMES)["conditions"].as_array().expect("conditions");
    let condition = conditions.iter().find(|condition| condition["id"] == "dns_dnat_to_several");
    condition.expect("it is told")["state"].as_str().expect("a text").to_owned()
}

fn why(report: &Report, advisory: &str) -> String {
    let conditions = report.advisory(advisory)["conditions"].as_array().expect("conditions");
    let told = conditions.iter().map(|condition| {
        let text = |name: &str| condition[name].as_str().expect("a text").to_owned();
        format!("\n    {} {}: {}", text("id"), text("state"), text("detail"))
    });
    told.collect()
}

/// Plays a case; the error lists disagreements.
fn play(case: &Case, table: &Mutex<Table>, tells: bool) -> Result<(), String> {
    let lab = ConnectionLab::new(case.outward);
    let script = format!("set -e\n{}", case.lines.join("\n"));
    let output = lab.router.exec(&["sh", "-c", &script]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let flags: Vec<&str> =
        ADVISORIES.iter().chain([&IDLE, &NAMES, &PORTS]).flat_map(|advisory| ["--advisory", advisory]).collect();
    let report = check_here(&lab.router, &flags);
    let Outcome { ends, lost, draws, mut told } = lab.play(&case.families);
    if tells {
        println!("{:#?}\n{told:#?}", case.lines);
    }
    // Which packets have what only some have is chance, and so is which were put into a set before.
    let by_chance = ["sometimes", "numgen", "known"].iter().any(|planted| case.planted.contains(planted));
    let mut wrong = String::new();
    for (advisory, reset) in ADVISORIES.into_iter().zip(resets(&ends, case)) {
        let verdict = match report.state(advisory) {
            "mitigated" | "not_affected" => "not",
            other => other,
        };
        *table.lock().expect("nobody panicked").entry((advisory, verdict.to_owned(), reset)).or_default() += 1;
        let agrees = match verdict {
            "exposed" => reset || by_chance,
            "unknown" => !case.planted.is_empty(),
            // Segments to an address that no host has are forwarded, and may be rejected elsewhere.
            _ => !reset || case.refuses && advisory == ADVISORIES[1] && NOBODY.iter().any(|net| script.contains(net)),
        };
        if !agrees {
            wrong += &format!("\n  {advisory} {verdict}, but reset: {reset}{}", why(&report, advisory));
        }
    }
    // Entries were lost whatever the timeout is: a port that is kept stays the same.
    let drawn = lost.iter().any(|((source, _), [reset, _])| *source && *reset > 0);
    let others = lost.iter().any(|((source, _), [reset, _])| !source && *reset > 0);
    let state = report.state(IDLE);
    *table.lock().expect("nobody panicked").entry((IDLE, state.to_owned(), drawn)).or_default() += 1;
    let agrees = match state {
        "exposed" => (drawn || by_chance || case.deaf) && case.timeout < LEAST,
        // Whatever the rules are.
        "mitigated" => (drawn || case.deaf || !case.planted.is_empty()) && case.timeout >= LEAST,
        "unknown" => !case.planted.is_empty(),
        // Without its entry a connection may get another number.
        _ => !drawn || by_chance,
    };
    if !agrees || others && !by_chance {
        wrong += &format!("\n  {IDLE} {state} at {} s, but lost: {lost:?}{}", case.timeout, why(&report, IDLE));
    }
    let hold = Hold::new(&lab.router);
    let SamePorts { collide, lost, told: alike } = lab.same_ports(&hold, &case.families);
    assert!(!collide || lost > 0, "nothing was lost: {alike:?}");
    told.extend(alike.iter().cloned());
    let state = report.state(PORTS);
    *table.lock().expect("nobody panicked").entry((PORTS, state.to_owned(), collide)).or_default() += 1;
    let agrees = match state {
        "exposed" => collide || by_chance || case.without_udp,
        "unknown" => !case.planted.is_empty(),
        // Which ports of UDP are drawn connections do not tell.
        // Of some thousand that are drawn two may be the same.
        "mitigated" => !collide || draws && alike.len() == 1,
        _ => !collide && !draws,
    };
    if !agrees {
        wrong += &format!("\n  {PORTS} {state}, but alike: {alike:?}, drawn: {draws}{}", why(&report, PORTS));
    }
    let queries = lab.ask(&hold, &case.families);
    let several = queries.iter().any(|(.., servers)| servers.len() > 1);
    let verdict = told_to_several(&report);
    *table.lock().expect("nobody panicked").entry((NAMES, verdict.clone(), several)).or_default() += 1;
    let agrees = match verdict.as_str() {
        "holds" => several || case.drops || by_chance,
        "unknown" => !case.planted.is_empty(),
        _ => !several,
    };
    if !agrees {
        wrong += &format!("\n  {NAMES} to several {verdict}, but {queries:?}{}", why(&report, NAMES));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let some =
        |end: &str| told.iter().filter(|line| line.ends_with(end)).take(6).cloned().collect::<Vec<_>>().join("\n    ");
    Err(format!("{wrong}\n  {ends:?}\n    {}\n    {}\n    {}", some("reset"), some("lives"), some("lost")))
}

/// `NATWATCH_CASES` and `NATWATCH_SEED` select other cases than the default ones; `NATWATCH_CASE` plays a single one.
#[test]
fn the_verdicts_are_what_happens_to_connections() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (one, seed) = (number("NATWATCH_CASE"), number("NATWATCH_SEED").unwrap_or(1));
    let cases = number("NATWATCH_CASES").unwrap_or(40);
    let played = one.map_or(0..cases, |case| case..case + 1);
    let (next, table, wrong) = (AtomicU64::new(played.start), Mutex::new(Table::new()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= played.end {
                break;
            }
            let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
            let case = Generator { dice: &mut dice }.case();
            let played = catch_unwind(AssertUnwindSafe(|| play(&case, &table, one.is_some())));
            let told = played.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(format!("\n  panicked: {}", text.unwrap_or_default()))
            });
            if let Err(told) = told {
                let rules = case.lines.join("\n    ");
                wrong.lock().expect("nobody panicked").push(format!(
                    "case {number} of seed {seed}: planted {:?}, IPv6 {:?}, default route {:?}\n    {rules}{told}",
                    case.planted, case.families, case.outward
                ));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let (table, wrong) = (table.into_inner().expect("no panic"), wrong.into_inner().expect("no panic"));
    println!("{table:#?}");
    assert!(
        wrong.is_empty(),
        "{} of {} disagree; {table:?}\n{}",
        wrong.len(),
        played.end - played.start,
        wrong.join("\n\n")
    );
    if one.is_some() {
        return;
    }
    for advisory in ADVISORIES {
        for (name, wanted) in [("exposed", true), ("not", false)] {
            let count = table.get(&(advisory, name.to_owned(), wanted)).copied().unwrap_or_default();
            assert!(count * 20 >= cases, "{advisory} {name}: only {count} of {cases}; {table:?}");
        }
    }
    for (state, wanted) in [("holds", true), ("fails", false)] {
        let count = table.get(&(NAMES, state.to_owned(), wanted)).copied().unwrap_or_default();
        assert!(count * 20 >= cases, "{NAMES} {state}: only {count} of {cases}; {table:?}");
    }
    for (state, wanted) in [("exposed", true), ("mitigated", false), ("not_affected", false)] {
        let count = table.get(&(PORTS, state.to_owned(), wanted)).copied().unwrap_or_default();
        assert!(count * 20 >= cases, "{PORTS} {state}: only {count} of {cases}; {table:?}");
    }
    for (state, wanted) in [("exposed", true), ("mitigated", true), ("not_affected", false)] {
        let count = table.get(&(IDLE, state.to_owned(), wanted)).copied().unwrap_or_default();
        assert!(count * 20 >= cases, "{IDLE} {state}: only {count} of {cases}; {table:?}");
    }
}
