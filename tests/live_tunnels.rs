//! The verdict about tunnels, held against the running kernel: random rules, real packets, and the checksum errors that are
//! counted on the other side.

#![allow(clippy::disallowed_types, reason = "tests compare natwatch with the standard tools")]

mod support;

use std::collections::BTreeMap;

use support::grammar::Dice;
use support::report::check_here;
use support::tunnel_lab::TunnelLab;
use support::tunnel_rules::{Case, Generator};

const ADVISORY: &str = "vxlan-double-snat-checksum";

/// What natwatch says, and what happens.
#[derive(Debug)]
struct Outcome {
    verdict: String,
    why: String,
    errors: u64,
}

fn play(case: &Case) -> Outcome {
    let lab = TunnelLab::new(case.setup.clone());
    let script = format!("set -e\n{}", case.lines.join("\n"));
    lab.node.run(&["sh", "-c", &script]);
    let report = check_here(&lab.node, &["--advisory", ADVISORY]);
    let verdict = report.state(ADVISORY).to_owned();
    let conditions = report.advisory(ADVISORY)["conditions"].as_array().expect("conditions");
    let told = conditions.iter().map(|condition| {
        let text = |name: &str| condition[name].as_str().expect("a text").to_owned();
        format!("\n    {} {}: {}", text("id"), text("state"), text("detail"))
    });
    let why = told.collect();
    let errors = lab.send();
    Outcome { verdict, why, errors }
}

/// `NATWATCH_CASES` and `NATWATCH_SEED` choose others than those of every run.
#[test]
fn the_verdict_is_what_happens_to_packets() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (cases, seed) = (number("NATWATCH_CASES", 60), number("NATWATCH_SEED", 1));
    let mut table: BTreeMap<(String, bool), u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in 0..cases {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let case = Generator { dice: &mut dice }.case();
        let Outcome { verdict, why, errors } = play(&case);
        let lost = errors > 0;
        let verdict = if verdict == "mitigated" || verdict == "not_affected" { "not".to_owned() } else { verdict };
        *table.entry((verdict.clone(), lost)).or_default() += 1;
        let agrees = match verdict.as_str() {
            "exposed" => lost,
            "unknown" => !case.planted.is_empty(),
            _ => !lost,
        };
        if !agrees {
            let rules = case.lines.join("\n    ");
            wrong.push(format!(
                "case {number} of seed {seed}: {verdict}, {errors} checksum errors, planted {:?}\n  {:?}\n    {rules}{why}",
                case.planted, case.setup
            ));
        }
    }
    println!("{table:?}");
    assert!(wrong.is_empty(), "{} of {cases} disagree; {table:?}\n{}", wrong.len(), wrong.join("\n\n"));
    let share = |wanted: &dyn Fn(&str, bool) -> bool| {
        table.iter().filter(|((verdict, lost), _)| wanted(verdict, *lost)).map(|(_, count)| count).sum::<u64>()
    };
    for (name, count) in [
        ("lost", share(&|_, lost| lost)),
        ("fine", share(&|_, lost| !lost)),
        ("exposed", share(&|verdict, _| verdict == "exposed")),
        ("unknown", share(&|verdict, _| verdict == "unknown")),
        ("not", share(&|verdict, _| verdict == "not")),
    ] {
        assert!(count * 10 >= cases, "{name}: only {count} of {cases}; {table:?}");
    }
}
