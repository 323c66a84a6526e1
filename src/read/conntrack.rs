//! Connection tracking: sysctls, then per-CPU counters from procfs or ctnetlink.
//!
//! The proc file is preferred, because it needs no privilege and has every counter; ctnetlink serves kernels without
//! it. Sources say which one was used; the other is ok, "not needed".
//!
//! Kernel sources: `ct_cpu_seq_show` and `nf_ct_netlink_stats` (`ctnetlink_ct_stat_cpu_fill_info`).

use crate::capture::{NetlinkFamily, Request, Root};
use crate::facts::{Conntrack, ConntrackCounter, ConntrackCpu, CounterRow, Failure, Reading, Source};
use crate::netfilter::conntrack::{CpuStats, IPCTNL_MSG_CT_GET_STATS_CPU};
use crate::netfilter::netlink::Message;
use crate::netfilter::nfnetlink::{NFGENMSG, Nfgenmsg};
use crate::read::identity::cpu_list;
use crate::read::{Node, Sources, modules};

use ConntrackCounter as C;

type InCtnetlink = fn(&CpuStats<'_>) -> Option<u32>;

/// Column names of each counter in the proc file, and its field in ctnetlink.
///
/// Columns were renamed when their meaning changed: `searched` became `clashres` in 5.10 and
/// `delete_list` became `chainlength` in 5.15, so only the new names are counters.
const COUNTERS: &[(C, &str, InCtnetlink)] = &[
    (C::Found, "found", |stats| stats.found),
    (C::Invalid, "invalid", |stats| stats.invalid),
    (C::Insert, "insert", |stats| stats.insert),
    (C::InsertFailed, "insert_failed", |stats| stats.insert_failed),
    (C::Drop, "drop", |stats| stats.drop),
    (C::EarlyDrop, "early_drop", |stats| stats.early_drop),
    (C::Error, "icmp_error", |stats| stats.error),
    (C::SearchRestart, "search_restart", |stats| stats.search_restart),
    (C::ClashResolve, "clashres", |stats| stats.clash_resolve),
    (C::ChainTooLong, "chainlength", |stats| stats.chain_toolong),
    (C::ExpectNew, "expect_new", |_| None),
    (C::ExpectCreate, "expect_create", |_| None),
    (C::ExpectDelete, "expect_delete", |_| None),
];

/// Columns that are no counters: the table's size (the same in each row), and members that kernels since 4.13 print as
/// constant 0.
const NO_COUNTERS: &[&str] = &["entries", "searched", "new", "ignore", "delete", "delete_list"];

fn proc_file() -> Request {
    Request::file(Source::ProcConntrack, Root::Procfs, "thread-self/net/stat/nf_conntrack")
}

/// The module's sysfs directory, which built-in modules with parameters have too.
fn module_object() -> Request {
    Request::directory(Source::Sysctl, Root::Sysfs, "module/nf_conntrack")
}

/// The proc file has one row per possible CPU without its number; this file has the numbers.
fn possible_cpus() -> Request {
    Request::file(Source::ProcConntrack, Root::Sysfs, "devices/system/cpu/possible")
}

fn sysctl(name: &str) -> Request {
    Request::file(Source::Sysctl, Root::Procfs, format!("sys/net/netfilter/{name}"))
}

fn stats_cpu() -> Request {
    let body = vec![0; NFGENMSG];
    let (name, kind) = ("netfilter/ct-stats-cpu", IPCTNL_MSG_CT_GET_STATS_CPU);
    Request::netlink(Source::Ctnetlink, name, NetlinkFamily::Netfilter, kind, true, body)
}

/// Reads sysctls, then the counters from the proc file, or from ctnetlink if there is none.
pub(crate) fn read(node: &mut Node<'_>) -> Conntrack {
    let sysctls = [
        "nf_conntrack_count",
        "nf_conntrack_max",
        "nf_conntrack_buckets",
        "nf_conntrack_tcp_be_liberal",
        "nf_conntrack_tcp_timeout_established",
    ];
    let sizes = sysctls.map(|name| (sysctl(name), node.try_number(&sysctl(name))));
    let table = node.try_text(&proc_file());
    let counted_absent = is_missing(&sizes[0].1);
    // The module is not loaded, unless something else shows that it is.
    let there = !is_missing(&table)
        || sizes.iter().any(|(_, size)| size.ok().is_some())
        || counted_absent && node.try_bytes(&module_object()).ok().is_some();
    let [entries, entries_limit, buckets, tcp_be_liberal, tcp_timeout_established] =
        sizes.map(|(request, size)| node.note(&request, not_masked(size, there)));
    let cpus = match table.decode(|text| decode_proc(&text, &mut node.sources)) {
        Reading::Ok(cpus) => {
            let cpus = number_cpus(node, cpus);
            node.note(&proc_file(), cpus)
        }
        // Neither file: the module is not loaded, and no further request is needed.
        table if counted_absent && is_missing(&table) => node.note(&proc_file(), not_masked(table, there)),
        other => {
            let other = node.note(&proc_file(), other);
            let presence = modules::presence(node, &modules::NF_CONNTRACK_NETLINK);
            match node.note(&stats_cpu(), presence) {
                Reading::Ok(()) => {
                    let cpus = node.try_dump(&stats_cpu(), |message| decode_cpu(message).map(Some));
                    node.note(&stats_cpu(), cpus.decode(not_empty))
                }
                _ => other,
            }
        }
    };
    Conntrack { cpus, entries, entries_limit, buckets, tcp_be_liberal, tcp_timeout_established }
}

/// Whether entries count packets and bytes.
pub(crate) fn counts_entries(node: &mut Node<'_>) -> Reading<bool> {
    let request = Request::file(Source::Datapath, Root::Procfs, "sys/net/netfilter/nf_conntrack_acct");
    let read = node.try_switch(&request);
    node.note(&request, read)
}

/// Whether a file is missing, whatever that means.
fn is_missing<T>(reading: &Reading<T>) -> bool {
    let failure = reading.failure().map(Failure::root);
    matches!(reading, Reading::Absent(_)) || matches!(failure, Some(Failure::Hidden { .. }))
}

fn not_masked<T>(reading: Reading<T>, there: bool) -> Reading<T> {
    match reading {
        Reading::Absent(why) if there => {
            Reading::Failed(Failure::Hidden { witness: Some("nf_conntrack".into()) }.within(why))
        }
        other => other,
    }
}

/// Assigns CPU numbers to the rows of the proc file, and checks that there is a row for each possible CPU.
fn number_cpus(node: &mut Node<'_>, mut cpus: Vec<ConntrackCpu>) -> Reading<Vec<ConntrackCpu>> {
    let list = node.lasting(&possible_cpus()).decode(|list| cpu_list(&list));
    let Reading::Ok(ids) = node.note(&possible_cpus(), list) else { return Reading::Ok(cpus) };
    if ids.len() != cpus.len() {
        let (lines, possible) = (cpus.len(), ids.len());
        return Reading::Failed(format!("net/stat/nf_conntrack: {lines} lines for {possible} possible CPUs").into());
    }
    cpus.iter_mut().zip(ids).for_each(|(cpu, id)| cpu.cpu = Some(id));
    Reading::Ok(cpus)
}

/// `/proc/thread-self/net/stat/nf_conntrack`: a header with column names, then a row of hexadecimal numbers per
/// possible CPU.
fn decode_proc(text: &str, sources: &mut Sources) -> Result<Vec<ConntrackCpu>, String> {
    let file = "net/stat/nf_conntrack";
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
        sources.remark(Source::ProcConntrack, format!("columns without a known meaning: {}", unknown.join(", ")));
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
        // Always eight digits, so that a truncated value is not taken for a smaller one.
        let text = values[index];
        let value = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8 && !text.starts_with('+'));
        let value = value.ok_or_else(|| format!("line {}: {column} is {text:?}, not 8 hexadecimal digits", row + 2))?;
        counters.insert(*counter, value.into());
    }
    Ok(ConntrackCpu { cpu: None, counters })
}

/// One message of the response to `IPCTNL_MSG_CT_GET_STATS_CPU`, one per possible CPU.
fn decode_cpu(message: &Message<'_>) -> Result<ConntrackCpu, Failure> {
    let (header, stats) = Nfgenmsg::parse(message.body)?;
    let counters = COUNTERS.iter().filter_map(|(counter, _, ctnetlink)| Some((*counter, ctnetlink(&stats)?.into())));
    Ok(ConntrackCpu { cpu: Some(header.res_id), counters: counters.collect() })
}

fn not_empty(cpus: Vec<ConntrackCpu>) -> Result<Vec<ConntrackCpu>, Failure> {
    if cpus.is_empty() { Err(Failure::unexpected("ctnetlink statistics: no message for any CPU")) } else { Ok(cpus) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::SourceState;
    use crate::netfilter::netlink::{self, Emit as _, MessageWriter};
    use crate::read::testing::{Answers, answering, read_with};

    const MODERN: &[u8] = b"entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        00000007  00000001 00000002 00000000 00000003 00000000 00000000 00000004 00000005 ffffffff 00000007 00000008 00000009  0000000a 0000000b 0000000c 0000000d\n\
        00000007  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000 00000000  00000000 00000000 00000000 00000000\n";
    const BEFORE_5_10: &[u8] = b"entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        00000007  00000000 00000002 00000000 00000003 00000000 00000000 00000000 00000005 00000006 00000007 00000008 00000009  0000000a 0000000b 0000000c 0000000d\n";

    fn proc(bytes: &[u8]) -> Reading<Vec<ConntrackCpu>> {
        answering(bytes, |node| node.try_text(&proc_file()).decode(|text| decode_proc(&text, &mut node.sources)))
    }

    #[test]
    fn every_column_lands_under_its_own_name() {
        let cpus = proc(MODERN).into_result().unwrap();
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
        let counters = proc(BEFORE_5_10).into_result().unwrap().remove(0).counters;
        assert!(!counters.contains_key(&C::ClashResolve) && !counters.contains_key(&C::ChainTooLong));
        assert_eq!(counters[&C::InsertFailed], 6);
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_and_new_ones_are_reported() {
        let text = b"drop shiny entries insert_failed\n00000003 zz 00000001 00000002\n";
        let answers = [(&proc_file(), Reading::Ok(&text[..])), (&possible_cpus(), Reading::Ok(b"0\n"))];
        let (found, sources) = read_with(&Answers::from(answers), read);
        assert_eq!(found.cpus.ok().unwrap()[0].counters, CounterRow::from([(C::Drop, 3), (C::InsertFailed, 2)]));
        let statuses = sources.statuses(&[Source::ProcConntrack.collector()].into(), |_| None);
        let status = statuses.iter().find(|status| status.source == Source::ProcConntrack).unwrap();
        assert_eq!((status.state, status.detail.contains("shiny")), (SourceState::Ok, true), "{status:?}");
    }

    #[test]
    fn proc_text_cut_anywhere_but_between_cpus_is_an_error() {
        let ends: Vec<usize> = (0..MODERN.len()).filter(|at| MODERN[*at] == b'\n').map(|at| at + 1).collect();
        for cut in 0..MODERN.len() {
            let whole_rows = ends[1..].contains(&cut); // one CPU fewer: nothing in the text tells
            assert_eq!(proc(&MODERN[..cut]).ok().is_some(), whole_rows, "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "insert_failed"),
            ("insert_failed", "cut off"),
            ("insert_failed\n00000001", "cut off"),
            ("\n", "insert_failed"),
            ("insert_failed\n", "no line"),
            ("insert_failed insert_failed\n", "two columns"),
            ("insert_failed\n100000000\n", "8 hexadecimal digits"),
            ("insert_failed\n1\n", "8 hexadecimal digits"),
            ("insert_failed\n+0000001\n", "8 hexadecimal digits"),
            ("insert_failed\n00000001 00000002\n", "2 values under 1 names"),
        ] {
            let error = proc(text.as_bytes()).failure().map(ToString::to_string);
            assert!(error.as_ref().is_some_and(|error| error.contains(reason)), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn a_missing_line_for_a_cpu_is_a_failure() {
        let cpus = |possible: &'static [u8]| {
            let answers = [(&proc_file(), Reading::Ok(MODERN)), (&possible_cpus(), Reading::Ok(possible))];
            read_with(&Answers::from(answers), read).0.cpus
        };
        let two = cpus(b"0,2\n");
        assert_eq!(two.ok().unwrap().iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [Some(0), Some(2)]);
        assert!(cpus(b"0-2\n").why().contains("2 lines for 3 possible CPUs"));
    }

    #[test]
    fn a_missing_size_is_a_fact_only_without_any_sign_of_the_module() {
        let absent = || Reading::Absent("ENOENT".to_owned());
        let count = sysctl("nf_conntrack_count");
        let control = Request::file(Source::Sysctl, Root::Procfs, "sys/net/core/somaxconn");
        let size = |answers: Answers| read_with(&answers, read).0.entries;
        let here = || Reading::Ok(&b"4096\n"[..]);
        let rt_cache = Request::file(Source::ProcConntrack, Root::Procfs, "thread-self/net/stat/rt_cache");
        let without = [(&count, absent()), (&control, here()), (&proc_file(), absent()), (&rt_cache, here())];
        assert!(matches!(size(without.into()), Reading::Absent(_)));
        assert!(size([(&count, absent()), (&control, here())].into()).why().contains("masked"), "the file failed");
        let maximum = sysctl("nf_conntrack_max");
        let other =
            [(&count, absent()), (&maximum, here()), (&control, here()), (&proc_file(), absent()), (&rt_cache, here())];
        assert!(size(other.into()).why().contains("masked"), "another size is there");
        assert!(matches!(size([(&count, absent())].into()), Reading::Failed(_)), "is there a procfs at all?");
        let masked = [(&count, absent()), (&control, here()), (&proc_file(), Reading::Ok(MODERN))];
        assert!(size(masked.into()).why().contains("masked"));
        let loaded = [(&count, absent()), (&control, here()), (&module_object(), Reading::Ok(&b"parameters\n"[..]))];
        assert!(size(loaded.into()).why().contains("masked"));
    }

    /// Response of Linux 6.18 on 2 CPUs to `IPCTNL_MSG_CT_GET_STATS_CPU`; values edited to tell them apart.
    fn ctnetlink_answer() -> Vec<u8> {
        let cpu = |res_id: u16| {
            let value = |attribute: u32| Some(attribute + 100 * u32::from(res_id));
            let stats = CpuStats {
                found: value(2),
                invalid: value(4),
                insert: value(8),
                insert_failed: value(9),
                drop: value(10),
                early_drop: value(11),
                error: value(12),
                search_restart: value(13),
                clash_resolve: value(14),
                chain_toolong: value(15),
                ..CpuStats::default()
            };
            let mut out = MessageWriter::kernel();
            Nfgenmsg { res_id, ..Nfgenmsg::default() }.emit(&mut out);
            stats.emit(&mut out);
            netlink::frame(IPCTNL_MSG_CT_GET_STATS_CPU, netlink::NLM_F_MULTI, &out.finish())
        };
        [cpu(0), cpu(1), netlink::frame(netlink::NLMSG_DONE, netlink::NLM_F_MULTI, &[0; 4])].concat()
    }

    fn ctnetlink(bytes: &[u8]) -> Reading<Vec<ConntrackCpu>> {
        answering(bytes, |node| node.try_dump(&stats_cpu(), |message| decode_cpu(message).map(Some)).decode(not_empty))
    }

    #[test]
    fn ctnetlink_gives_the_same_counters_with_cpu_numbers() {
        let bytes = ctnetlink_answer();
        let cpus = ctnetlink(&bytes).into_result().unwrap();
        assert_eq!(cpus.iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(cpus[1].counters[&C::InsertFailed], 109);
        assert_eq!(cpus[0].counters[&C::ChainTooLong], 15);
        assert!(!cpus[0].counters.contains_key(&C::ExpectNew));
        for cut in 0..bytes.len() {
            assert!(matches!(ctnetlink(&bytes[..cut]), Reading::Failed(_)), "cut at {cut}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>, text: String)| {
            let _ = ctnetlink(&bytes);
            let _ = proc(&bytes);
            let _ = proc(format!("insert_failed drop\n{text}\n").as_bytes());
        });
    }
}
