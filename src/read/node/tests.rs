use super::*;
use crate::facts::{SourceState, SourceStatus};
use crate::netfilter::array;
use crate::netfilter::netlink::{NLM_F_DUMP_INTR, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, frame as message};
use crate::read::absence::ABSENCES;
use crate::read::testing::{Answers, answering, played, played_after, read_with};

fn absent<T>() -> Reading<T> {
    Reading::Absent("ENOENT".into())
}

/// The request with this name.
fn named(name: &str) -> Request {
    let (root, path) = name.split_once('/').unwrap();
    let root = *[Root::Procfs, Root::Sysfs, Root::Rootfs].iter().find(|known| known.name() == root).unwrap();
    let request = match path.strip_suffix(".list") {
        Some(path) => Request::directory(Source::Kernel, root, path),
        None => Request::file(Source::Kernel, root, path),
    };
    assert_eq!(request.name, name);
    request
}

/// Reads a missing file on a node where `neighbour` reads like this; also returns the requests.
fn missing_beside(request: &Request, neighbour: &str, answer: &Reading<&[u8]>) -> (Response, Vec<String>) {
    let mut asked = Vec::new();
    let play = |request: &Request| {
        asked.push(request.name.clone());
        if request.name == neighbour { answer.clone().map(<[u8]>::to_vec) } else { absent() }
    };
    let (answer, _) = played(play, |node| node.try_bytes(request));
    (answer, asked)
}

fn is_hidden(reading: &Response) -> bool {
    matches!(reading.failure().map(Failure::root), Some(Failure::Hidden { .. }))
}

#[test]
fn an_absence_counts_only_with_its_witness() {
    for absence in ABSENCES {
        let name = match absence.request.strip_suffix('/') {
            Some(folder) => format!("{folder}/x"),
            None => absence.request.to_owned(),
        };
        let request = named(&name);
        let Some(witness) = absence.witness else {
            let (answer, asked) = missing_beside(&request, "nothing", &absent());
            assert_eq!((answer, asked), (absent(), vec![name]), "nothing rests on it");
            continue;
        };
        let beside = |answer| missing_beside(&request, witness, &answer);
        let (there, asked) = beside(Reading::Ok(b"1\n"));
        assert_eq!((there, asked), (absent(), vec![name.clone(), witness.to_owned()]));
        assert!(is_hidden(&beside(absent()).0), "{name}: {:?}", beside(absent()).0);
        let cut = beside(Reading::Ok(b"1")).0;
        assert!(matches!(cut.failure().map(Failure::root), Some(Failure::Malformed { .. })), "{name}: {cut:?}");
        let failed = beside(Reading::Failed(Failure::SystemCall { call: SystemCall::File, errno: 5 })).0;
        assert!(matches!(failed, Reading::Failed(_)), "{name}: {failed:?}");
        // Without the permission to see the neighbour, the file is denied, as if it could not be read itself.
        let denied = beside(Reading::Denied("EACCES".into())).0;
        assert!(matches!(denied, Reading::Denied(_)), "{name}: {denied:?}");
        assert!(denied.why().contains("EACCES"), "{name}: {denied:?}");
    }
}

/// Otherwise two files that are masked together would vouch for each other.
#[test]
fn no_absence_of_a_witness_is_believed() {
    for witness in ABSENCES.iter().filter_map(|absence| absence.witness) {
        assert!(absence::believed(witness).is_none(), "{witness}");
    }
}

#[test]
fn what_is_missing_and_is_not_in_the_table_is_hidden() {
    let names = [
        "procfs/version",
        "procfs/thread-self/net/snmp",
        "procfs/thread-self/net/snmp6x",
        "procfs/thread-self/net/ip_vs_conn",
        "procfs/sys/net/netfilter",
        "procfs/sys/net/netfilterx/y",
        "sysfs/kernel/uevent_seqnum",
        "sysfs/kernel/livepatch",
    ];
    for name in names {
        let (answer, asked) = missing_beside(&named(name), "procfs/thread-self/net/stat/rt_cache", &Reading::Ok(b""));
        assert!(is_hidden(&answer), "{name}: {answer:?}");
        assert_eq!(asked, [name], "no witness is asked");
    }
}

#[test]
fn other_ends_than_missing_are_passed_on() {
    let request = named("procfs/thread-self/net/ip_tables_names");
    for end in [Reading::Denied("EACCES".into()), Reading::Failed("EIO".into())] {
        let (answer, _) = played(|_| end.clone(), |node| node.try_bytes(&request));
        assert_eq!(answer, end);
    }
}

#[test]
fn a_witness_is_asked_once_a_reading() {
    let mut asked = Vec::new();
    let play = |request: &Request| {
        asked.push(request.name.clone());
        if request.name == "procfs/thread-self/net/stat/rt_cache" { Reading::Ok(Vec::new()) } else { absent() }
    };
    played(play, |node| {
        for name in ["ip_tables_names", "ip6_tables_names", "ip_vs"] {
            assert_eq!(node.try_bytes(&named(&format!("procfs/thread-self/net/{name}"))), absent());
        }
    });
    assert_eq!(asked.iter().filter(|name| name.ends_with("rt_cache")).count(), 1, "{asked:?}");
}

#[test]
fn every_cut_inside_a_line_is_malformed() {
    let (source, root, words) = (Source::Kernel, Root::Procfs, ["t"]);
    let whole = b"nat\nfilter\n";
    let questions = [
        Request::file(source, root, "thread-self/net/ip_tables_names"),
        Request::lines(source, root, "modules", &words),
        Request::lines(source, Root::Rootfs, "lib/modules/6.1/modules.builtin", &words),
        Request::directory(source, Root::Sysfs, "kernel/livepatch"),
        Request::link(source, Root::Sysfs, "class/net/eth0/device/driver"),
    ];
    for request in &questions {
        assert_eq!(answering(whole, |node| node.try_bytes(request)), Reading::Ok(whole.to_vec()));
        for cut in 0..whole.len() {
            let (answer, status) = noted(&whole[..cut], |node| node.bytes(request));
            let inside = cut > 0 && whole[cut - 1] != b'\n';
            let malformed = matches!(answer.failure().map(Failure::root), Some(Failure::Malformed { .. }));
            assert_eq!(malformed, inside, "{}: cut at {cut}: {answer:?}", request.name);
            assert_eq!(answer.ok().is_none(), inside, "{}: cut at {cut}: {answer:?}", request.name);
            let state = if inside { SourceState::Failed } else { SourceState::Ok };
            assert_eq!(status.state, state, "{}: cut at {cut}", request.name);
            if inside {
                assert!(status.detail.contains(&request.name) && status.detail.contains("cut off"), "{status:?}");
            }
        }
    }
    let names = Request::file(source, Root::Rootfs, "etc/os-release");
    assert_eq!(answering(b"ID=x", |node| node.try_bytes(&names)), Reading::Ok(b"ID=x".to_vec()), "anybody's file");
}

#[test]
fn a_line_is_never_empty_for_lack_of_one() {
    let request = named("procfs/sys/kernel/osrelease");
    assert_eq!(answering(b"6.1.0\n", |node| node.try_line(&request)), Reading::Ok("6.1.0".into()));
    assert!(matches!(answering(b"", |node| node.try_line(&request)), Reading::Failed(_)));
    assert_eq!(answering(b"4096\n", |node| node.try_number(&request)), Reading::Ok(4096));
    for nonsense in ["", "\n", "4096", "-1\n", "x\n", "1 2\n", "1\n2\n"] {
        let number = answering(nonsense.as_bytes(), |node| node.try_number(&request));
        assert!(matches!(number, Reading::Failed(_)), "{nonsense:?}: {number:?}");
    }
}

/// The result of reading a response, and the state of the source.
fn noted<T>(answer: &[u8], read: impl FnOnce(&mut Node<'_>) -> T) -> (T, SourceStatus) {
    let (found, sources) = played(|_| Reading::Ok(answer.to_vec()), read);
    (found, status(&sources, Source::Kernel))
}

fn status(sources: &Sources, source: Source) -> SourceStatus {
    let collectors = [source.collector()].into();
    sources.statuses(&collectors, |_| None).into_iter().find(|status| status.source == source).unwrap()
}

fn netlink(source: Source, family: NetlinkFamily) -> Request {
    Request::netlink(source, "x", family, 16, true, Vec::new())
}

const NO_SOCKET: Failure = Failure::SystemCall { call: SystemCall::Socket, errno: 97 };
const SOCKETS: &str = "procfs/thread-self/net/netlink";

/// A dump on a node where no netlink socket can be opened, and where the kernel's list of them reads like this.
fn without_sockets(family: NetlinkFamily, list: &Reading<&[u8]>) -> Reading<Vec<()>> {
    let play = |request: &Request| match request.kind {
        RequestKind::Netlink(_) => Reading::Failed(NO_SOCKET.within("netlink/x")),
        _ if request.name == SOCKETS => list.clone().map(<[u8]>::to_vec),
        _ => panic!("{} was asked", request.name),
    };
    played(play, |node| node.try_dump(&netlink(Source::Nftables, family), |_| Ok(Some(())))).0
}

fn sockets(lines: &[&str]) -> String {
    let header = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
    let line = |of: &&str| format!("0000000000000000 {of} 00000000 0        0        0     2        0        12\n");
    [header.to_owned()].into_iter().chain(lines.iter().map(line)).collect()
}

#[test]
fn a_socket_that_cannot_be_opened_is_forbidden_where_the_kernel_lists_it() {
    let of = |family, lines: &[&str]| without_sockets(family, &Reading::Ok(sockets(lines).as_bytes()));
    let route = "0   0         ";
    for (family, protocol) in [(NetlinkFamily::Netfilter, "12"), (NetlinkFamily::Generic, "16")] {
        let listed = of(family, &[route, &format!("{protocol}  0         ")]);
        assert!(matches!(&listed, Reading::Denied(why) if why.contains("97")), "{listed:?}");
        let others = [route, "4   0         ", "1   12", "12  1234", "16  -1234", "120 0", "116 0", "2   16"];
        let unlisted = of(family, &others);
        assert!(matches!(&unlisted, Reading::Absent(why) if why.contains(protocol)), "{unlisted:?}");
    }
    let cut = sockets(&[route]);
    let unreadable = [
        Reading::Ok(&cut.as_bytes()[..cut.len() - 5]),
        Reading::Denied("EACCES".into()),
        Reading::Failed("EIO".into()),
        absent(),
    ];
    for list in &unreadable {
        let failed = without_sockets(NetlinkFamily::Netfilter, list);
        assert_eq!(failed.failure().map(Failure::root), Some(&NO_SOCKET), "{list:?}");
    }
}

#[test]
fn routes_are_never_absent() {
    for list in [Reading::Ok(&b""[..]), Reading::Ok(sockets(&["12  0"]).as_bytes()), absent()] {
        let failed = without_sockets(NetlinkFamily::Route, &list);
        assert_eq!(failed.failure().map(Failure::root), Some(&NO_SOCKET), "{list:?}");
    }
}

#[test]
fn only_an_errno_of_the_socket_itself_is_looked_into() {
    for call in [SystemCall::Send, SystemCall::Poll, SystemCall::Receive] {
        let failure = Failure::SystemCall { call, errno: 97 };
        let play = |request: &Request| {
            assert_ne!(request.name, SOCKETS);
            Reading::Failed(failure.clone())
        };
        let request = netlink(Source::Nftables, NetlinkFamily::Netfilter);
        let (found, _) = played(play, |node| node.try_dump(&request, |_| Ok(Some(()))));
        assert_eq!(found, Reading::Failed(failure));
    }
}

fn dump(numbers: &[u32], mismatch: bool) -> Vec<u8> {
    let entries = numbers.iter().map(|number| message(16, NLM_F_MULTI, &number.to_ne_bytes()));
    let flags = if mismatch { NLM_F_MULTI | NLM_F_DUMP_INTR } else { NLM_F_MULTI };
    entries.chain([message(NLMSG_DONE, flags, &0i32.to_ne_bytes())]).collect::<Vec<_>>().concat()
}

/// Reads a dump; these are the responses to the first requests, and the last one is repeated. Also returns the number
/// of requests.
fn read_dump(answers: &[Response]) -> (Reading<Vec<(u32, u32)>>, usize) {
    let mut asked = 0;
    let play = |_: &Request| {
        asked += 1;
        answers[answers.len().min(asked) - 1].clone()
    };
    let request = netlink(Source::Kernel, NetlinkFamily::Route);
    let (found, sources) = played(play, |node| {
        let found = node.try_numbered_dump(&request, |number, message| {
            Ok(Some((number, u32::from_ne_bytes(array(message.body, 0, "number")?))))
        });
        node.note(&request, found)
    });
    assert_eq!(status(&sources, Source::Kernel).state, found.state(), "earlier tries count for nothing");
    (found, asked)
}

#[test]
fn a_dump_that_was_interrupted_is_asked_again_and_no_part_of_it_stays() {
    let whole = Reading::Ok(dump(&[7, 8], false));
    let expected = Reading::Ok(vec![(1, 7), (2, 8)]);
    assert_eq!(read_dump(std::slice::from_ref(&whole)), (expected.clone(), 1));
    let changed = || Reading::Failed(Failure::Changed { readings: 1 }.within("x"));
    for mismatch in [Reading::Ok(dump(&[1, 2, 3], true)), Reading::Ok(dump(&[], true)), changed()] {
        for tries in 1..4 {
            let answers: Vec<Response> = std::iter::repeat_n(mismatch.clone(), tries).chain([whole.clone()]).collect();
            assert_eq!(read_dump(&answers), (expected.clone(), tries + 1));
        }
        let (found, asked) = read_dump(&[mismatch]);
        assert_eq!(found.failure().map(Failure::root), Some(&Failure::Changed { readings: 4 }), "{found:?}");
        assert_eq!(asked, 4);
    }
}

#[test]
fn what_is_not_interrupted_is_not_asked_again() {
    let refused = message(NLMSG_ERROR, 0, &(-16i32).to_ne_bytes());
    let cut = dump(&[1], false)[..20].to_vec();
    let short = [message(16, NLM_F_MULTI, &[1]), dump(&[1], false)].concat();
    for bytes in [refused, cut, short] {
        let (found, asked) = read_dump(&[Reading::Ok(bytes)]);
        assert!(matches!(found, Reading::Failed(_)), "{found:?}");
        assert_eq!(asked, 1);
    }
    assert_eq!(read_dump(&[Reading::Denied("EPERM".into())]), (Reading::Denied("EPERM".into()), 1));
}

#[test]
fn a_message_beside_the_one_that_answers_is_a_failure() {
    let request = Request::netlink(Source::Kernel, "x", NetlinkFamily::Route, 16, false, Vec::new()).acknowledged();
    let read = |messages: &[Vec<u8>]| {
        answering(&messages.concat(), |node| node.try_single(&request, |message| Ok(message.body.to_vec())))
    };
    let (answer, acknowledgement) = (message(16, 0, &[1; 4]), message(NLMSG_ERROR, 0, &[0; 20]));
    assert_eq!(read(&[answer.clone(), acknowledgement.clone()]), Reading::Ok(Some(vec![1; 4])));
    assert_eq!(read(std::slice::from_ref(&acknowledgement)), Reading::Ok(None));
    assert!(matches!(read(&[answer.clone(), answer, acknowledgement]), Reading::Failed(_)));
}

#[test]
fn what_lasts_until_reboot_is_asked_until_it_was_answered() {
    let request = Request::lines(Source::Kernel, Root::Rootfs, "lib/modules/6.1/modules.builtin", &["x"]);
    let read = |memory: &Known, answer: Response| {
        let mut asked = 0;
        let play = |_: &Request| {
            asked += 1;
            answer.clone()
        };
        let (found, _, left) = played_after(memory, play, |node| node.lasting(&request));
        (found.map(|bytes| bytes.to_vec()), left, asked)
    };
    let denied: Response = Reading::Denied("EACCES".into());
    let (found, left, _) = read(&Known::default(), denied.clone());
    assert_eq!(found, denied);
    let (found, left, asked) = read(&left, Reading::Ok(b"x\n".to_vec()));
    assert_eq!((found, asked), (Reading::Ok(b"x\n".to_vec()), 1), "asked again");
    let (found, _, asked) = read(&left, denied);
    assert_eq!((found, asked), (Reading::Ok(b"x\n".to_vec()), 0), "and never again");
}

#[test]
fn an_absence_is_its_sources_only_where_the_table_says_so() {
    let state = |name: &str| {
        let request = named(name);
        let (_, sources) = played(
            |asked| if asked.name == request.name { absent() } else { Reading::Ok(b"1\n".to_vec()) },
            |node| node.bytes(&request),
        );
        status(&sources, Source::Kernel).state
    };
    for absence in ABSENCES {
        let name =
            if absence.request.ends_with('/') { format!("{}x", absence.request) } else { absence.request.into() };
        let expected = if absence.is_fact { SourceState::Absent } else { SourceState::Ok };
        assert_eq!(state(&name), expected, "{name}");
    }
    assert_eq!(state("procfs/sys/kernel/osrelease"), SourceState::Failed);
}

#[test]
fn trying_says_nothing_about_the_source() {
    let request = named("procfs/version");
    let (_, sources) = read_with(&Answers::default(), |node| drop(node.try_bytes(&request)));
    assert_eq!(status(&sources, Source::Kernel).detail, "not needed");
    let (_, sources) = read_with(&Answers::default(), |node| drop(node.bytes(&request)));
    let status = status(&sources, Source::Kernel);
    assert_eq!(status.state, SourceState::Failed);
    assert!(status.detail.contains("procfs/version"), "{status:?}");
}
