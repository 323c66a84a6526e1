//! Leaving out chains that only drop packets changes no verdict about marks.

use super::tunnel::{MARK, OLD, rewritten};

/// Enough rules that slicing is tried; no packet of these tests matches one.
fn with_drops(text: &str) -> String {
    let drops = (0..300).map(|number| format!("\n src 203.0.113.{}/32, dport {number} => drop", number % 250));
    format!("{text}\nip big FORWARD: filter forward 50{}", drops.collect::<String>())
}

#[track_caller]
fn assert_same(text: &str, verdict: &str) {
    assert_eq!(rewritten(text), verdict);
    assert_eq!(rewritten(&with_drops(text)), verdict, "with a chain that can be left out");
}

#[test]
fn verdicts_are_those_of_the_whole_walk() {
    let forwarded = |rules: &str| format!("ip m F: filter forward -150\n {rules}\n{OLD}");
    assert_same(&[MARK, OLD].concat(), "yes");
    assert_same(OLD, "no");
    assert_same(&forwarded("src 10.1.0.0/16 => or 0x4000"), "yes");
    assert_same(&forwarded("src 10.1.0.0/16 => or 0x8000"), "no");
    assert_same(&forwarded("src 10.1.0.0/16 => or 0x4000\n mark 0x4000/0x4000 => xor 0x4000"), "no");
    assert_same(&forwarded("opaque => or 0x4000"), "maybe");
}

#[test]
fn what_drops_marked_packets_still_counts() {
    let dropped = |rules: &str| {
        let marked = format!(
            "ip m F: filter forward -150\n src 10.1.0.0/16 => or 0x4000\nip f G: filter forward 0\n {rules}\n{OLD}"
        );
        assert_eq!(rewritten(&marked), rewritten(&with_drops(&marked)));
        rewritten(&marked)
    };
    assert_eq!(dropped("src 10.1.0.0/16 => drop"), "no");
    assert_eq!(dropped("mark 0x4000/0x4000 => drop"), "no");
    assert_eq!(dropped("src 10.1.2.0/24 => drop"), "yes");
}

#[test]
fn bits_that_lead_to_the_decisive_one_are_followed() {
    let text = |second: &str| {
        format!(
            "ip m F: filter forward -150\n src 10.1.0.0/16 => or 0x10\nip m G: filter forward -140\n {second}\n{OLD}"
        )
    };
    assert_same(&text("mark 0x10/0x10 => or 0x4000"), "yes");
    assert_same(&text("mark 0x20/0x20 => or 0x4000"), "no");
}
