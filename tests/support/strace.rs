//! A program's system calls, as traced by strace.
//!
//! Versions of strace print different things by name, so little depends on its output: numbers instead of names, the
//! kernel's own name of a descriptor (`socket:[4711]`), and the bytes sent.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::tools::require;
use super::wait::eventually;

/// strace slows a program down and writes the end of its log after the program's own end.
const LOG_PATIENCE: Duration = Duration::from_secs(60);

/// Calls without which the type of a socket is not known.
const SOCKETS: &str = "socket,socketpair,accept,accept4";

/// Calls whose arguments are logged as plain numbers.
const RAW: &str = "raw=ioctl,getsockopt,setsockopt,unshare";

/// A log of strace.
#[derive(Debug)]
pub struct Strace {
    log: NamedTempFile,
    filter: String,
}

impl Strace {
    /// All system calls.
    pub fn all() -> Self {
        Self::of("all")
    }

    /// Only these calls, comma-separated, and those that make sockets.
    pub fn of(calls: &str) -> Self {
        require("strace");
        Self { log: NamedTempFile::new().expect("a file for strace"), filter: format!("trace={calls},{SOCKETS}") }
    }

    /// The words before the program's name. With `-D` the tracer is not the parent: pid, exit code and signals are
    /// the program's own, and it is not left behind when it is killed.
    pub fn words(&self) -> Vec<&str> {
        let path = self.log.path().to_str().expect("a UTF-8 path");
        // -x: bytes that are no text; -y: what descriptors are, as /proc says; -X raw: constants as numbers;
        // raw=: all arguments as numbers; write=: the bytes of what is sent
        let format = ["strace", "-D", "-f", "-x", "-y", "-X", "raw", "-e", RAW, "-e", "write=all", "-e", "signal=none"];
        [&format[..], &["-e", &self.filter, "-o", path]].concat()
    }

    /// All calls, once the first program traced has ended.
    pub fn calls(&self) -> Vec<Call> {
        let text = eventually(LOG_PATIENCE, || {
            let text = fs::read(self.log.path()).map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let first = text.split_whitespace().next().unwrap_or_default().to_owned();
            let last = text.lines().rev().find(|line| line.split_whitespace().next() == Some(&first));
            let ended = last.is_some_and(|line| line.contains("+++ ") && text.ends_with('\n'));
            if ended { Ok(text) } else { Err(format!("the program {first} still runs: {last:?}")) }
        });
        with_sockets(calls(&text))
    }
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// Everything after the opening parenthesis.
    pub rest: String,
    /// Bytes written or sent; empty if the call failed.
    pub sent: Vec<u8>,
    /// The socket that is its first argument, if the program has made it.
    pub socket: Option<Socket>,
}

/// The arguments of `socket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub family: i64,
    /// Without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
    pub kind: i64,
    /// Of netlink; 0 of others.
    pub protocol: i64,
    /// It was returned by `accept`.
    pub accepted: bool,
}

/// A netlink message as sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'c> {
    /// `NETLINK_ROUTE` and the like.
    pub protocol: i64,
    pub kind: u16,
    pub flags: u16,
    /// What follows the header.
    pub body: &'c [u8],
}

impl Call {
    /// Whether it is one of these calls.
    pub fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Whether its arguments contain this.
    pub fn has(&self, text: &str) -> bool {
        self.rest.contains(text)
    }

    /// An argument that is a number or a descriptor.
    #[track_caller]
    pub fn number(&self, argument: usize) -> i64 {
        let text = arguments(&self.rest).into_iter().nth(argument).unwrap_or_default();
        number(text).unwrap_or_else(|| panic!("argument {argument} is no number: {self:?}"))
    }

    /// A member of an argument, by its name.
    #[track_caller]
    pub fn member(&self, name: &str) -> i64 {
        let text = self.rest.split_once(&format!("{name}=")).map_or("", |(_, rest)| rest);
        number(text).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// Its return value, if it is a number.
    pub fn returned(&self) -> Option<i64> {
        number(self.rest.rsplit_once(" = ")?.1)
    }

    /// The socket that it makes.
    pub fn made(&self) -> Option<Socket> {
        self.is(&["socket", "socketpair"]).then(|| {
            let (family, kind) = (self.number(0), self.number(1) & 0xf);
            let protocol = if family == i64::from(libc::AF_NETLINK) { self.number(2) } else { 0 };
            Socket { family, kind, protocol, accepted: false }
        })
    }

    /// Whether it makes a netlink socket of that protocol.
    pub fn makes_netlink(&self, protocol: i32) -> bool {
        self.made().is_some_and(|socket| (socket.family, socket.protocol) == (libc::AF_NETLINK.into(), protocol.into()))
    }

    /// The one netlink message that it sends, if it writes to a netlink socket.
    #[track_caller]
    pub fn message(&self) -> Option<Message<'_>> {
        let socket = self.socket.filter(|socket| socket.family == i64::from(libc::AF_NETLINK))?;
        if !self.is(&["sendto", "sendmsg", "write", "writev", "pwrite64", "pwritev"]) {
            return None;
        }
        let short = |at: usize| u16::from_ne_bytes([self.sent[at], self.sent[at + 1]]);
        assert_eq!(self.returned(), Some(self.sent.len() as i64), "not all that it sent is known: {self:?}");
        assert!(self.sent.len() >= 16, "no message: {self:?}");
        let length = u32::from_ne_bytes([self.sent[0], self.sent[1], self.sent[2], self.sent[3]]) as usize;
        assert_eq!(length.next_multiple_of(4), self.sent.len().next_multiple_of(4), "one message: {self:?}");
        Some(Message { protocol: socket.protocol, kind: short(4), flags: short(6), body: &self.sent[16..] })
    }
}

/// The arguments, separated by commas outside brackets and strings.
fn arguments(rest: &str) -> Vec<&str> {
    let (mut out, mut start, mut depth) = (Vec::new(), 0, 0);
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                while characters.next().is_some_and(|(_, c)| c != '"' && (c != '\\' || characters.next().is_some())) {}
            }
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' | '>' if depth > 0 => depth -= 1,
            ',' | ')' if depth == 0 => {
                out.push(rest[start..at].trim());
                start = at + 1;
                if character == ')' {
                    break;
                }
            }
            _ => {}
        }
    }
    out
}

/// The number that a text begins with: `-100</>`, `0x3|0x80000`, `0666`.
fn number(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let end = digits.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(digits.len());
    if let Some(more) = digits[end..].strip_prefix('|') {
        return Some(number(&digits[..end])? | number(more)?);
    }
    let digits = &digits[..end];
    let (digits, base) = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (digits, 10),
    };
    // Addresses and masks use all 64 bits.
    Some(sign * u64::from_str_radix(digits, base).ok()? as i64)
}

/// The calls of a log, in the order in which they were made.
fn calls(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    // Indices of calls that have not returned yet, by thread; and that of the call that returned last.
    let mut pending: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last = None;
    for line in log.lines() {
        // ` | 00010  6e 61 74 00 …  nat.… |`; parts of a message have a title each, ` * 20 bytes in buffer 0`.
        if let Some(dump) = line.strip_prefix(" | ") {
            let bytes = dump.split_once("  ").expect("an offset").1.get(..49).expect("sixteen bytes");
            let bytes = bytes.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
            let at: usize = last.expect("a call that has sent it");
            calls[at].sent.extend(bytes);
            continue;
        }
        let Some((thread, line)) = line.split_once(char::is_whitespace).filter(|(thread, _)| !thread.is_empty()) else {
            continue;
        };
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("<... ") {
            // A call that was pending when strace attached has no beginning.
            last = pending.remove(thread);
            if let (Some(at), Some((_, rest))) = (last, rest.split_once(" resumed>")) {
                calls[at].rest += rest;
            }
        } else if let Some((name, rest)) = line.split_once('(').filter(|_| !line.starts_with(['+', '-'])) {
            let begun = rest.strip_suffix("<unfinished ...>");
            let rest = begun.unwrap_or(rest).trim_end().to_owned();
            calls.push(Call { name: name.to_owned(), rest, sent: Vec::new(), socket: None });
            last = Some(calls.len() - 1);
            if begun.is_some() {
                pending.insert(thread, calls.len() - 1);
            }
        }
    }
    calls
}

/// Adds the socket to each call. The kernel gives each socket an inode number, unlike descriptors, which are reused.
fn with_sockets(mut calls: Vec<Call>) -> Vec<Call> {
    fn ids(text: &str) -> impl Iterator<Item = &str> {
        text.split("<socket:[").skip(1).filter_map(|rest| Some(rest.split_once("]>")?.0))
    }
    let mut sockets: BTreeMap<String, Socket> = BTreeMap::new();
    for call in &calls {
        if let Some(made) = call.made() {
            sockets.extend(ids(&call.rest).map(|id| (id.to_owned(), made)));
        } else if call.is(&["accept", "accept4"]) {
            // The listening socket and, if a connection was accepted, the new one.
            let mut ids = ids(&call.rest);
            if let (Some(listening), Some(new)) = (ids.next(), ids.next()) {
                let socket = sockets.get(listening).expect("the program has made it");
                sockets.insert(new.to_owned(), Socket { accepted: true, ..*socket });
            }
        }
    }
    for call in &mut calls {
        let first = arguments(&call.rest).into_iter().next().unwrap_or_default();
        call.socket = ids(first).next().and_then(|id| sockets.get(id)).copied();
    }
    calls
}
