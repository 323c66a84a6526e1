//! What the kernel can be asked, and under which name.

use crate::facts::Source;
use crate::netfilter::xtables::XtFamily;

/// Which tree a path belongs to; each has its `--path.*` flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// `/proc`
    Procfs,
    /// `/sys`
    Sysfs,
    /// The host's root file system
    Rootfs,
}

impl Root {
    /// Name of the tree in request names and capture directories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Procfs => "procfs",
            Self::Sysfs => "sysfs",
            Self::Rootfs => "rootfs",
        }
    }
}

/// Netlink protocols in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetlinkFamily {
    /// `NETLINK_ROUTE`
    Route,
    /// `NETLINK_GENERIC`
    Generic,
    /// `NETLINK_NETFILTER`: opening this socket can load a module, so ask only when the subsystem is there.
    Netfilter,
    /// `NETLINK_XFRM`: opening this socket can load `xfrm_user`, so ask only when it is there.
    Xfrm,
}

/// What the kernel is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// The content of a regular file.
    File(Root, String),
    /// The lines of a large file that contain one of these words.
    Lines(Root, String, Vec<String>),
    /// The names in a directory, sorted, one per line.
    Directory(Root, String),
    /// The target of a symbolic link.
    Link(Root, String),
    /// One netlink request.
    Netlink(NetlinkRequest),
    /// One table of legacy x_tables, which must be there: asking for another makes it.
    Xtables(XtablesRequest),
    /// How many BPF programs are attached to devices.
    Programs(ProgramsRequest),
}

/// A hook of devices that BPF programs are attached to. The answer is a line for each device that has it: index and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramsRequest {
    /// `enum bpf_attach_type`
    pub hook: u32,
    /// Indices of the devices.
    pub devices: Vec<u32>,
}

/// A table of legacy x_tables. The answer is its description, `struct ipt_getinfo`, and its
/// content, `struct ipt_get_entries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtablesRequest {
    /// `ip_tables` or `ip6_tables`.
    pub family: XtFamily,
    /// The table's name.
    pub table: String,
    /// Only its description.
    pub only_info: bool,
}

/// A netlink request: message type, flags, and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkRequest {
    /// Protocol
    pub family: NetlinkFamily,
    /// `nlmsg_type`
    pub kind: u16,
    /// Ask for a dump (`NLM_F_DUMP`).
    pub dump: bool,
    /// Ask for an acknowledgement (`NLM_F_ACK`), which then ends the answer.
    pub ack: bool,
    /// Payload
    pub body: Vec<u8>,
    /// Keep only some of the messages.
    pub keep: Option<Keep>,
    /// Most bytes of the answer; a larger one is a failed reading.
    pub limit: usize,
}

/// Largest answer that is kept: a routing table of 300,000 routes.
const MAX_ANSWER: usize = 32 << 20;

/// Which messages of a large dump are kept: those whose attributes, after a header of this length, include this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Bytes of the family's own header.
    pub header: usize,
    /// Attribute type.
    pub attribute: u16,
}

/// A request with its name and what its answer means for its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique; also the path of the answer in a capture directory.
    pub name: String,
    /// The source it belongs to.
    pub source: Source,
    /// What is asked.
    pub kind: RequestKind,
}

impl Request {
    fn path(source: Source, root: Root, path: &str, kind: RequestKind) -> Self {
        let name = format!("{}/{path}", root.name());
        Self { name, source, kind }
    }

    /// The content of a file.
    pub fn file(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        Self::path(source, root, &path, RequestKind::File(root, path.clone()))
    }

    /// Some lines of a file.
    pub fn lines(source: Source, root: Root, path: impl Into<String>, words: &[impl ToString]) -> Self {
        let path = path.into();
        let words = words.iter().map(ToString::to_string).collect();
        Self::path(source, root, &path, RequestKind::Lines(root, path.clone(), words))
    }

    /// The names in a directory.
    pub fn directory(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        let mut request = Self::path(source, root, &path, RequestKind::Directory(root, path.clone()));
        request.name.push_str(".list"); // a directory may hold files that are asked for as well
        request
    }

    /// The target of a symbolic link.
    pub fn link(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        Self::path(source, root, &path, RequestKind::Link(root, path.clone()))
    }

    /// A netlink request; `name` is its path below `netlink/`.
    pub fn netlink(source: Source, name: &str, family: NetlinkFamily, kind: u16, dump: bool, body: Vec<u8>) -> Self {
        let name = format!("netlink/{name}");
        let kind = RequestKind::Netlink(NetlinkRequest {
            family,
            kind,
            dump,
            ack: false,
            body,
            keep: None,
            limit: MAX_ANSWER,
        });
        Self { name, source, kind }
    }

    /// A table of legacy x_tables.
    pub fn xtables(source: Source, family: XtFamily, table: &str) -> Self {
        let word = if family == XtFamily::Ipv6 { "ipv6" } else { "ipv4" };
        let name = format!("xtables/{word}-{table}");
        let kind = RequestKind::Xtables(XtablesRequest { family, table: table.to_owned(), only_info: false });
        Self { name, source, kind }
    }

    /// BPF programs of devices; `name` is what the hook is called.
    pub fn programs(source: Source, name: &str, hook: u32, devices: Vec<u32>) -> Self {
        let kind = RequestKind::Programs(ProgramsRequest { hook, devices });
        Self { name: format!("bpf/{name}"), source, kind }
    }

    /// Only the description of a table of legacy x_tables.
    pub fn only_info(mut self) -> Self {
        if let RequestKind::Xtables(request) = &mut self.kind {
            request.only_info = true;
            self.name.push_str(".info");
        }
        self
    }

    /// Asks the kernel to acknowledge a netlink request: one that succeeds without an answer would else be waited for
    /// until the deadline.
    pub fn acknowledged(mut self) -> Self {
        if let RequestKind::Netlink(request) = &mut self.kind {
            request.ack = true;
        }
        self
    }

    /// Gives up an answer that is larger than this.
    pub fn at_most(mut self, bytes: usize) -> Self {
        if let RequestKind::Netlink(request) = &mut self.kind {
            request.limit = bytes;
        }
        self
    }

    /// Keeps only the messages of a dump that carry an attribute.
    pub fn keeping(mut self, keep_only: Keep) -> Self {
        if let RequestKind::Netlink(request) = &mut self.kind {
            request.keep = Some(keep_only);
        }
        self
    }
}

/// A name of the kernel's as part of a request's name, which is also a path: letters, digits, `-` and `_` stay as they
/// are, and a long one ends in its hash.
pub(crate) fn path_part(name: &[u8]) -> String {
    /// The kernel's names have up to 255 bytes, a file system's too.
    const LONGEST: usize = 80;
    let mut out = String::new();
    for byte in name {
        if out.len() >= LONGEST {
            // FNV-1a: captures outlive the compiler, so the hash must be the same for ever.
            let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            out.push_str(&format!("%{:016x}", name.iter().fold(0xcbf2_9ce4_8422_2325, fold)));
            break;
        }
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}
