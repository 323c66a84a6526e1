//! Protocol counters from `/proc/thread-self/net/{snmp,snmp6,netstat}`, by name.

use crate::capture::{Request, Root};
use crate::facts::{Netstat, Reading, Source};
use crate::read::Node;

fn file(name: &str) -> Request {
    Request::file(Source::Netstat, Root::Procfs, format!("thread-self/net/{name}"))
}

/// Reads the three files; `snmp6` is missing if IPv6 is off.
pub(crate) fn read(node: &mut Node<'_>) -> Netstat {
    let [snmp, snmp6, netstat] = ["snmp", "snmp6", "netstat"].map(|name| node.text(&file(name)));
    let mut counter = |name: &str, table: &Reading<String>, find: &dyn Fn(&str) -> Result<u64, String>| {
        let found = table.as_ref().decode(|text| find(text));
        node.note(&file(name), found.within(format_args!("net/{name}")))
    };
    let of = |group: &'static str, counter: &'static str| move |text: &str| in_table(text, group, counter);
    Netstat {
        udp_in_csum_errors: counter("snmp", &snmp, &of("Udp", "InCsumErrors")),
        udp6_in_csum_errors: counter("snmp6", &snmp6, &|text| in_list(text, "Udp6InCsumErrors")),
        tcp_in_csum_errors: counter("snmp", &snmp, &of("Tcp", "InCsumErrors")),
        tcp_syn_retransmits: counter("netstat", &netstat, &of("TcpExt", "TCPSynRetrans")),
    }
}

/// `snmp`, `netstat`: a line of names and a line of values, `Udp: InDatagrams NoPorts …`, `Udp: 12 0 …`.
fn in_table(text: &str, group: &str, counter: &str) -> Result<u64, String> {
    let mut lines = text.lines();
    while let Some(names) = lines.next() {
        let Some(names) = names.strip_prefix(group).and_then(|rest| rest.strip_prefix(':')) else { continue };
        let values = lines.next().unwrap_or_default();
        let values = values.strip_prefix(group).and_then(|rest| rest.strip_prefix(':')).unwrap_or_default();
        if !text.ends_with('\n') && lines.next().is_none() {
            return Err(format!("{group}: the last line is cut off"));
        }
        let [names, values] = [names, values].map(str::split_ascii_whitespace);
        let [count, of_values] = [&names, &values].map(|words| words.clone().count());
        if count != of_values {
            return Err(format!("{group}: {of_values} values under {count} names"));
        }
        let value = names.zip(values).find(|(name, _)| *name == counter).map(|(_, value)| value);
        return number(group, counter, value);
    }
    Err(format!("no line begins with {group:?}"))
}

/// `snmp6`: one counter per line, `Udp6InCsumErrors   0`.
fn in_list(text: &str, counter: &str) -> Result<u64, String> {
    for line in text.split_inclusive('\n') {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some(counter) {
            return number("snmp6", counter, words.next().filter(|_| line.ends_with('\n')));
        }
    }
    number("snmp6", counter, None)
}

fn number(group: &str, counter: &str, value: Option<&str>) -> Result<u64, String> {
    let value = value.ok_or_else(|| format!("{group}: this kernel prints no {counter}"))?;
    value.parse().map_err(|_| format!("{group}: {counter} is {value:?}, not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::SourceState;
    use crate::read::testing::{Answers, read_with};

    const SNMP: &str = "Tcp: RtoAlgorithm MaxConn InCsumErrors\nTcp: 1 -1 5\nUdp: InDatagrams NoPorts InCsumErrors IgnoredMulti\nUdp: 18 0 7 0\nUdpLite: InDatagrams InCsumErrors\nUdpLite: 0 9\n";

    #[test]
    fn counters_are_found_by_group_and_name() {
        assert_eq!(in_table(SNMP, "Udp", "InCsumErrors"), Ok(7));
        assert_eq!(in_table(SNMP, "Tcp", "InCsumErrors"), Ok(5));
        assert_eq!(in_list("Udp6InErrors 3\nUdp6InCsumErrors\t4\n", "Udp6InCsumErrors"), Ok(4));
    }

    #[test]
    fn a_counter_that_is_not_there_is_never_zero() {
        assert!(in_table(SNMP, "Udp", "MemErrors").unwrap_err().contains("prints no MemErrors"));
        assert!(in_table(SNMP, "TcpExt", "TCPSynRetrans").unwrap_err().contains("no line begins"));
        assert!(in_table(SNMP, "Tcp", "MaxConn").unwrap_err().contains("\"-1\""));
        assert!(in_list("", "Udp6InCsumErrors").is_err());
    }

    #[test]
    fn a_cut_table_is_an_error_until_its_line_is_complete() {
        let group_end = SNMP.find("0\n").unwrap() + 2;
        for cut in 0..group_end {
            assert!(in_table(&SNMP[..cut], "Udp", "InCsumErrors").is_err(), "cut at {cut}");
        }
        let list = "Udp6InCsumErrors 42\n";
        for cut in 0..list.len() {
            assert!(in_list(&list[..cut], "Udp6InCsumErrors").is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn without_ipv6_its_table_is_missing_and_the_source_is_whole() {
        let netstat: &[u8] = b"TcpExt: TCPSynRetrans\nTcpExt: 3\n";
        let [snmp, snmp6, other] = ["snmp", "snmp6", "netstat"].map(file);
        let answers = |snmp6_answer| {
            [(&snmp, Reading::Ok(SNMP.as_bytes())), (&snmp6, snmp6_answer), (&other, Reading::Ok(netstat))].into()
        };
        let read = |answers: Answers| {
            let (found, sources) = read_with(&answers, read);
            (found, sources.statuses(&[Source::Netstat.collector()].into(), |_| None)[0].state)
        };
        let (found, state) = read(answers(Reading::Absent("ENOENT".into())));
        assert_eq!((found.udp_in_csum_errors, found.tcp_syn_retransmits), (Reading::Ok(7), Reading::Ok(3)));
        assert!(matches!(found.udp6_in_csum_errors, Reading::Absent(_)), "{:?}", found.udp6_in_csum_errors);
        assert_eq!(state, SourceState::Ok);
        let (found, state) = read(answers(Reading::Ok(b"Udp6InErrors 3\n")));
        assert!(matches!(found.udp6_in_csum_errors, Reading::Failed(_)), "never zero");
        assert_eq!(state, SourceState::Failed);
        let masked = [(&snmp, Reading::Absent("ENOENT".into())), (&snmp6, Reading::Absent("ENOENT".into()))];
        let (found, state) = read(masked.into());
        assert!(matches!(found.udp_in_csum_errors, Reading::Failed(_)), "every kernel has it");
        assert!(matches!(found.udp6_in_csum_errors, Reading::Failed(_)), "its witness is missing too");
        assert_eq!(state, SourceState::Failed);
    }

    #[test]
    fn random_text_never_panics() {
        proptest::proptest!(|(text: String)| {
            let _ = in_table(&text, "Udp", "InCsumErrors");
            let _ = in_table(&format!("Udp:{text}"), "Udp", "InCsumErrors");
            let _ = in_list(&text, "Udp6InCsumErrors");
        });
    }
}
