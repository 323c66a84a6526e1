//! Connection tracking: per-CPU counters from procfs or ctnetlink, sizes from sysctl.
//!
//! Kernel sources: `ct_cpu_seq_show` and `nf_ct_netlink_stats` (`ctnetlink_ct_stat_cpu_fill_info`).

use crate::capture::{Capture, NetlinkFamily, Request, Root, cpu_list};
use crate::decode::modules::{self, Presence};
use crate::decode::{Problems, always_there};
use crate::snapshot::{Conntrack, ConntrackCounter, ConntrackCpu, CounterRow, Failure, Reading, Source};
use crate::wire::{self, Attributes};

use ConntrackCounter as C;

/// Each counter's column names in the proc file and its `CTA_STATS_*` attribute.
///
/// Columns were renamed when their meaning changed: `searched` became `clashres` in 5.10 and
/// `delete_list` became `chainlength` in 5.15, so only the new names are counters.
const COUNTERS: &[(C, &str, Option<u16>)] = &[
    (C::Found, "found", Some(2)),
    (C::Invalid, "invalid", Some(4)),
    (C::Insert, "insert", Some(8)),
    (C::InsertFailed, "insert_failed", Some(9)),
    (C::Drop, "drop", Some(10)),
    (C::EarlyDrop, "early_drop", Some(11)),
    (C::Error, "icmp_error", Some(12)),
    (C::SearchRestart, "search_restart", Some(13)),
    (C::ClashResolve, "clashres", Some(14)),
    (C::ChainTooLong, "chainlength", Some(15)),
    (C::ExpectNew, "expect_new", None),
    (C::ExpectCreate, "expect_create", None),
    (C::ExpectDelete, "expect_delete", None),
];

/// Columns that are no counters: the table's size (repeated on each line), and members of the structure that
/// kernels since 4.13 print as a constant 0.
const NO_COUNTERS: &[&str] = &["entries", "searched", "new", "ignore", "delete", "delete_list"];

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS_CPU`
const GET_STATS_CPU: u16 = 1 << 8 | 4;
/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

fn proc_file() -> Request {
    Request::file(Source::ProcConntrack, Root::Procfs, "thread-self/net/stat/nf_conntrack")
}

fn proc_control() -> Request {
    Request::file(Source::ProcConntrack, Root::Procfs, "thread-self/net/stat/rt_cache").everywhere()
}

/// Has parameters, so it is there for the built-in module too.
fn module_object() -> Request {
    Request::directory(Source::Sysctl, Root::Sysfs, "module/nf_conntrack").optional()
}

/// The proc file has a line per possible CPU but no numbers; this says which CPUs those are.
fn possible_cpus() -> Request {
    Request::file(Source::ProcConntrack, Root::Sysfs, "devices/system/cpu/possible").optional().until_reboot()
}

const TCP_BE_LIBERAL: &str = "nf_conntrack_tcp_be_liberal";

fn sysctl(name: &str) -> Request {
    Request::file(Source::Sysctl, Root::Procfs, format!("sys/net/netfilter/{name}"))
}

fn sysctl_control() -> Request {
    Request::file(Source::Sysctl, Root::Procfs, "sys/net/core/somaxconn").everywhere()
}

fn stats_cpu() -> Request {
    let body = vec![0; NFGENMSG];
    Request::netlink(Source::Ctnetlink, "netfilter/ct-stats-cpu", NetlinkFamily::Netfilter, GET_STATS_CPU, true, body)
}

fn module(capture: &Capture) -> Presence {
    modules::presence(capture, &modules::NF_CONNTRACK_NETLINK)
}

/// What to ask.
pub fn requests(capture: &Capture) -> Vec<Request> {
    let sizes = ["nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_buckets", TCP_BE_LIBERAL];
    let mut requests: Vec<Request> = sizes.into_iter().map(sysctl).collect();
    requests.extend([proc_file(), possible_cpus()]);
    if !capture.has(&proc_file()) {
        return requests;
    }
    if matches!(capture.get(&sysctl("nf_conntrack_count")), Reading::Absent(_)) {
        requests.extend([sysctl_control(), module_object()]);
    }
    match capture.get(&proc_file()) {
        Reading::Ok(_) => {}
        Reading::Absent(_) if matches!(capture.get(&sysctl("nf_conntrack_count")), Reading::Absent(_)) => {
            requests.push(proc_control()); // neither file: the module is not there, nothing more to ask
        }
        _ => match module(capture) {
            Presence::Ask(more) => requests.extend(more),
            Presence::There => requests.push(stats_cpu()),
            Presence::Missing(_) | Presence::Unclear(_) => {}
        },
    }
    requests
}

/// Reads the answers.
pub fn decode(capture: &Capture, problems: &mut Problems) -> Conntrack {
    Conntrack {
        cpus: cpus(capture, problems),
        entries: size(capture, "nf_conntrack_count", problems),
        entries_limit: size(capture, "nf_conntrack_max", problems),
        buckets: size(capture, "nf_conntrack_buckets", problems),
        tcp_be_liberal: size(capture, TCP_BE_LIBERAL, problems),
    }
}

fn size(capture: &Capture, name: &str, problems: &mut Problems) -> Reading<u64> {
    let reading = always_there(capture, capture.number(&sysctl(name)), &sysctl_control());
    problems.note(Source::Sysctl, not_masked(capture, reading))
}

/// A missing file means that the module is not there, unless anything else shows that it is.
fn not_masked<T>(capture: &Capture, reading: Reading<T>) -> Reading<T> {
    let there = capture.get(&proc_file()).ok().is_some() || capture.get(&module_object()).ok().is_some();
    match reading {
        Reading::Absent(why) if there => {
            Reading::Failed(Failure::Hidden { witness: Some("nf_conntrack".into()) }.within(why))
        }
        other => other,
    }
}

fn cpus(capture: &Capture, problems: &mut Problems) -> Reading<Vec<ConntrackCpu>> {
    let from_proc = capture.get(&proc_file()).decode(|bytes| decode_proc(bytes, problems));
    if let Reading::Ok(cpus) = from_proc {
        return problems.note(Source::ProcConntrack, number_cpus(capture, cpus));
    }
    let without_module = matches!(from_proc, Reading::Absent(_))
        && matches!(capture.get(&sysctl("nf_conntrack_count")), Reading::Absent(_));
    if without_module {
        let reading = from_proc.map(|_: Vec<ConntrackCpu>| Vec::new());
        let reading = always_there(capture, reading, &proc_control());
        return problems.note(Source::ProcConntrack, not_masked(capture, reading));
    }
    let from_proc = problems.note(Source::ProcConntrack, from_proc);
    match module(capture) {
        Presence::There => {
            let reading = capture.get(&stats_cpu()).decode(decode_ctnetlink);
            problems.note(Source::Ctnetlink, reading)
        }
        Presence::Missing(why) => {
            problems.set(Source::Ctnetlink, Reading::<()>::Absent(why));
            from_proc
        }
        Presence::Unclear(why) => {
            problems.set(Source::Ctnetlink, Reading::<()>::Failed(Failure::Unclear { module: why }));
            from_proc
        }
        Presence::Ask(_) => Reading::Failed(capture.unanswered(&stats_cpu().name)),
    }
}

/// Gives the lines of the proc file their CPU numbers, and makes sure that none is missing.
fn number_cpus(capture: &Capture, mut cpus: Vec<ConntrackCpu>) -> Reading<Vec<ConntrackCpu>> {
    let Some(ids) = capture.text(&possible_cpus()).ok().and_then(|list| cpu_list(list)) else {
        return Reading::Ok(cpus);
    };
    if ids.len() != cpus.len() {
        let (lines, possible) = (cpus.len(), ids.len());
        return Reading::Failed(format!("net/stat/nf_conntrack: {lines} lines for {possible} possible CPUs").into());
    }
    cpus.iter_mut().zip(ids).for_each(|(cpu, id)| cpu.cpu = Some(id));
    Reading::Ok(cpus)
}

/// `/proc/thread-self/net/stat/nf_conntrack`: a header of names, then one line of hexadecimal numbers per
/// possible CPU.
fn decode_proc(bytes: &[u8], problems: &mut Problems) -> Result<Vec<ConntrackCpu>, String> {
    let file = "net/stat/nf_conntrack";
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{file}: not text"))?;
    let text = text.strip_suffix('\n').ok_or_else(|| format!("{file}: the last line is cut off"))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    for (index, name) in header.iter().enumerate() {
        if header[..index].contains(name) {
            return Err(format!("{file}: two columns are called {name:?}"));
        }
    }
    if !header.contains(&"insert_failed") {
        return Err(format!("{file}: no column is called \"insert_failed\""));
    }
    let unknown: Vec<&str> = header.iter().copied().filter(|name| !is_known(name)).collect();
    if !unknown.is_empty() {
        problems.remark(Source::ProcConntrack, format!("columns without a known meaning: {}", unknown.join(", ")));
    }
    let rows: Result<Vec<_>, _> = lines.enumerate().map(|(row, line)| decode_row(&header, row, line)).collect();
    let rows = rows.map_err(|error| format!("{file}: {error}"))?;
    if rows.is_empty() {
        return Err(format!("{file}: no line for any CPU"));
    }
    Ok(rows)
}

fn is_known(column: &str) -> bool {
    NO_COUNTERS.contains(&column) || COUNTERS.iter().any(|(_, name, _)| *name == column)
}

fn decode_row(header: &[&str], row: usize, line: &str) -> Result<ConntrackCpu, String> {
    let values: Vec<&str> = line.split_whitespace().collect();
    if values.len() != header.len() {
        return Err(format!("line {}: {} values under {} names", row + 2, values.len(), header.len()));
    }
    let mut counters = CounterRow::new();
    for (counter, column, _) in COUNTERS {
        let Some(index) = header.iter().position(|name| name == column) else { continue };
        // eight hexadecimal digits each, so that a value cut short cannot pass for a smaller one
        let text = values[index];
        let value = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8 && !text.starts_with('+'));
        let value = value.ok_or_else(|| format!("line {}: {column} is {text:?}, not 8 hexadecimal digits", row + 2))?;
        counters.insert(*counter, value.into());
    }
    Ok(ConntrackCpu { cpu: None, counters })
}

/// One message per possible CPU: its number in `nfgenmsg.res_id`, its counters as big-endian attributes.
fn decode_ctnetlink(bytes: &[u8]) -> Result<Vec<ConntrackCpu>, Failure> {
    let mut cpus = Vec::new();
    for message in wire::dump(bytes, "ctnetlink statistics")? {
        let cpu = u16::from_be_bytes(wire::array(message.body, 2, "nfgenmsg")?);
        let attributes = Attributes::after(message.body, NFGENMSG, "CTA_STATS")?;
        let mut counters = CounterRow::new();
        for (counter, _, attribute) in COUNTERS {
            let Some(attribute) = attribute else { continue };
            if let Some(value) = attributes.be32(*attribute)? {
                counters.insert(*counter, value.into());
            }
        }
        cpus.push(ConntrackCpu { cpu: Some(cpu), counters });
    }
    if cpus.is_empty() {
        return Err(Failure::unexpected("ctnetlink statistics: no message for any CPU"));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: &[u8] = b"entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        00000007  00000001 00000002 00000000 00000003 00000000 00000000 00000004 00000005 ffffffff 00000007 00000008 00000009  0000000a 0000000b 0000000c 0000000d\n\
        00000007  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000 00000000  00000000 00000000 00000000 00000000\n";
    const BEFORE_5_10: &[u8] = b"entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        00000007  00000000 00000002 00000000 00000003 00000000 00000000 00000000 00000005 00000006 00000007 00000008 00000009  0000000a 0000000b 0000000c 0000000d\n";

    fn proc(bytes: &[u8]) -> Result<Vec<ConntrackCpu>, String> {
        decode_proc(bytes, &mut Problems::default())
    }

    #[test]
    fn every_column_lands_under_its_own_name() {
        let cpus = proc(MODERN).unwrap();
        assert_eq!(cpus.len(), 2);
        let expected = [
            (C::ClashResolve, 1),
            (C::Found, 2),
            (C::Invalid, 3),
            (C::ChainTooLong, 4),
            (C::Insert, 5),
            (C::InsertFailed, u32::MAX.into()),
            (C::Drop, 7),
            (C::EarlyDrop, 8),
            (C::Error, 9),
            (C::ExpectNew, 10),
            (C::ExpectCreate, 11),
            (C::ExpectDelete, 12),
            (C::SearchRestart, 13),
        ];
        assert_eq!(cpus[0].counters, CounterRow::from(expected));
        assert_eq!(cpus[1].counters[&C::InsertFailed], 1);
    }

    #[test]
    fn a_counter_the_kernel_lacks_stays_absent() {
        let counters = &proc(BEFORE_5_10).unwrap()[0].counters;
        assert!(!counters.contains_key(&C::ClashResolve) && !counters.contains_key(&C::ChainTooLong));
        assert_eq!(counters[&C::InsertFailed], 6);
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_and_new_ones_are_reported() {
        let mut problems = Problems::default();
        let text = b"drop shiny entries insert_failed\n00000003 zz 00000001 00000002\n";
        let counters = &decode_proc(text, &mut problems).unwrap()[0].counters;
        assert_eq!(*counters, CounterRow::from([(C::Drop, 3), (C::InsertFailed, 2)]));
        assert!(problems.remarks(Source::ProcConntrack).contains("shiny"));
    }

    #[test]
    fn proc_text_cut_anywhere_but_between_cpus_is_an_error() {
        let ends: Vec<usize> = (0..MODERN.len()).filter(|at| MODERN[*at] == b'\n').map(|at| at + 1).collect();
        for cut in 0..MODERN.len() {
            let whole_rows = ends[1..].contains(&cut); // one CPU fewer: nothing in the text tells
            assert_eq!(proc(&MODERN[..cut]).is_ok(), whole_rows, "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "cut off"),
            ("\n", "insert_failed"),
            ("insert_failed\n", "no line"),
            ("insert_failed insert_failed\n", "two columns"),
            ("insert_failed\n100000000\n", "8 hexadecimal digits"),
            ("insert_failed\n1\n", "8 hexadecimal digits"),
            ("insert_failed\n+0000001\n", "8 hexadecimal digits"),
            ("insert_failed\n00000001 00000002\n", "2 values under 1 names"),
        ] {
            let error = proc(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    fn answered(answers: &[(&Request, Reading<&[u8]>)]) -> Capture {
        let mut capture = crate::decode::test_capture();
        for (request, answer) in answers {
            capture.answers.insert(request.name.clone(), answer.clone().map(<[u8]>::to_vec));
        }
        capture
    }

    #[test]
    fn a_missing_line_for_a_cpu_is_a_failure() {
        let two = answered(&[(&proc_file(), Reading::Ok(MODERN)), (&possible_cpus(), Reading::Ok(b"0,2\n"))]);
        let cpus = cpus(&two, &mut Problems::default());
        assert_eq!(cpus.ok().unwrap().iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [Some(0), Some(2)]);
        let three = answered(&[(&proc_file(), Reading::Ok(MODERN)), (&possible_cpus(), Reading::Ok(b"0-2\n"))]);
        assert!(super::cpus(&three, &mut Problems::default()).why().contains("2 lines for 3 possible CPUs"));
    }

    #[test]
    fn a_missing_size_is_a_fact_only_without_any_sign_of_the_module() {
        let absent = || Reading::Absent("ENOENT".to_owned());
        let (count, control) = (sysctl("nf_conntrack_count"), sysctl_control());
        let size = |answers: &[(&Request, Reading<&[u8]>)]| {
            super::size(&answered(answers), "nf_conntrack_count", &mut Problems::default())
        };
        let here = || Reading::Ok(&b"4096\n"[..]);
        assert!(matches!(size(&[(&count, absent()), (&control, here())]), Reading::Absent(_)));
        assert!(matches!(size(&[(&count, absent())]), Reading::Failed(_)), "is there a procfs at all?");
        let masked = [(&count, absent()), (&control, here()), (&proc_file(), Reading::Ok(MODERN))];
        assert!(size(&masked).why().contains("masked"));
        let loaded = [(&count, absent()), (&control, here()), (&module_object(), Reading::Ok(&b"parameters\n"[..]))];
        assert!(size(&loaded).why().contains("masked"));
    }

    /// Answer of Linux 6.18 on 2 CPUs to `IPCTNL_MSG_CT_GET_STATS_CPU`; values edited to tell them apart.
    fn ctnetlink_answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        for cpu in 0..2u16 {
            let mut body = vec![0, 0];
            body.extend(cpu.to_be_bytes());
            for attribute in [2u16, 4, 8, 9, 10, 11, 12, 13, 14, 15] {
                wire::put(&mut body, attribute, &(u32::from(attribute) + 100 * u32::from(cpu)).to_be_bytes());
            }
            message(&mut bytes, GET_STATS_CPU, &body);
        }
        message(&mut bytes, wire::NLMSG_DONE, &[0; 4]);
        bytes
    }

    fn message(bytes: &mut Vec<u8>, kind: u16, body: &[u8]) {
        bytes.extend(u32::try_from(wire::HEADER_LENGTH + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(body);
    }

    #[test]
    fn ctnetlink_gives_the_same_counters_with_cpu_numbers() {
        let bytes = ctnetlink_answer();
        let cpus = decode_ctnetlink(&bytes).unwrap();
        assert_eq!(cpus.iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(cpus[1].counters[&C::InsertFailed], 109);
        assert_eq!(cpus[0].counters[&C::ChainTooLong], 15);
        assert!(!cpus[0].counters.contains_key(&C::ExpectNew));
        for cut in 0..bytes.len() {
            assert!(decode_ctnetlink(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>, text: String)| {
            let _ = decode_ctnetlink(&bytes);
            let _ = proc(&bytes);
            let _ = proc(format!("insert_failed drop\n{text}\n").as_bytes());
        });
    }
}
