//! Requests, and the names under which their responses are stored.

use crate::facts::Source;
use crate::netfilter::xtables::XtFamily;

/// File tree that a path is in, set by the `--path.*` flags.
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
    /// Name used in request names and capture directories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Procfs => "procfs",
            Self::Sysfs => "sysfs",
            Self::Rootfs => "rootfs",
        }
    }
}

/// Netlink protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetlinkFamily {
    /// `NETLINK_ROUTE`
    Route,
    /// `NETLINK_GENERIC`
    Generic,
    /// `NETLINK_NETFILTER`: opening a socket may load a module, so only after a check that the subsystem is present.
    Netfilter,
    /// `NETLINK_XFRM`: opening a socket may load `xfrm_user`, so only after a check that it is present.
    Xfrm,
}

/// Kinds of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Contents of a regular file.
    File(Root, String),
    /// Lines of a large file that contain any of these words.
    Lines(Root, String, Vec<String>),
    /// Names in a directory, sorted, one per line.
    Directory(Root, String),
    /// Target of a symlink.
    Link(Root, String),
    /// A netlink request.
    Netlink(NetlinkRequest),
    /// A legacy x_tables table, which must exist: requesting another creates it.
    Xtables(XtablesRequest),
    /// Number of BPF programs attached to devices.
    Programs(ProgramsRequest),
}

/// A hook of devices for BPF programs. The response has a line per device with this hook: index and number of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramsRequest {
    /// `enum bpf_attach_type`
    pub hook: u32,
    /// Indexes of the devices.
    pub devices: Vec<u32>,
}

/// A legacy x_tables table. The response is its description, `struct ipt_getinfo`, and contents, `struct
/// ipt_get_entries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtablesRequest {
    /// `ip_tables` or `ip6_tables`.
    pub family: XtFamily,
    /// The table's name.
    pub table: String,
    /// Whether only the description is requested.
    pub only_info: bool,
}

/// A netlink request: message type, flags, and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkRequest {
    /// Netlink protocol.
    pub family: NetlinkFamily,
    /// `nlmsg_type`
    pub kind: u16,
    /// `NLM_F_DUMP`
    pub dump: bool,
    /// `NLM_F_ACK`: an acknowledgement ends the response.
    pub ack: bool,
    /// Payload after `nlmsghdr`.
    pub body: Vec<u8>,
    /// Which messages to keep; `None`: all.
    pub keep: Option<Keep>,
    /// Size limit of the response, bytes; a larger one is `Failed`.
    pub limit: usize,
}

/// Default size limit of a response, bytes: a routing table of 300,000 routes.
const MAX_ANSWER: usize = 32 << 20;

/// Keeps only messages of a dump that have this attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Length of the family's header before the attributes, bytes.
    pub header: usize,
    /// Type of the attribute.
    pub attribute: u16,
}

/// A request with its name and source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique; also the response's path in a capture directory.
    pub name: String,
    /// Source it belongs to.
    pub source: Source,
    /// What is requested.
    pub kind: RequestKind,
}

impl Request {
    fn path(source: Source, root: Root, path: &str, kind: RequestKind) -> Self {
        let name = format!("{}/{path}", root.name());
        Self { name, source, kind }
    }

    /// Contents of a file.
    pub fn file(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        Self::path(source, root, &path, RequestKind::File(root, path.clone()))
    }

    /// Lines of a file with any of these words.
    pub fn lines(source: Source, root: Root, path: impl Into<String>, words: &[impl ToString]) -> Self {
        let path = path.into();
        let words = words.iter().map(ToString::to_string).collect();
        Self::path(source, root, &path, RequestKind::Lines(root, path.clone(), words))
    }

    /// Names in a directory.
    pub fn directory(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        let mut request = Self::path(source, root, &path, RequestKind::Directory(root, path.clone()));
        request.name.push_str(".list"); // a directory may also contain files that are requested
        request
    }

    /// Target of a symlink.
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

    /// A legacy x_tables table.
    pub fn xtables(source: Source, family: XtFamily, table: &str) -> Self {
        let word = if family == XtFamily::Ipv6 { "ipv6" } else { "ipv4" };
        let name = format!("xtables/{word}-{table}");
        let kind = RequestKind::Xtables(XtablesRequest { family, table: table.to_owned(), only_info: false });
        Self { name, source, kind }
    }

    /// Numbers of BPF programs on devices; `name` is the hook's name.
    pub fn programs(source: Source, name: &str, hook: u32, devices: Vec<u32>) -> Self {
        let kind = RequestKind::Programs(ProgramsRequest { hook, devices });
        Self { name: format!("bpf/{name}"), source, kind }
    }

    /// Requests only a legacy table's description.
    pub fn only_info(mut self) -> Self {
        if let RequestKind::Xtables(request) = &mut self.kind {
            request.only_info = true;
            self.name.push_str(".info");
        }
        self
    }

    /// Sets `NLM_F_ACK`. A request that may succeed without a response needs it, as it would otherwise wait until the
    /// deadline.
    pub fn acknowledged(mut self) -> Self {
        if let RequestKind::Netlink(request) = &mut self.kind {
            request.ack = true;
        }
        self
    }

    /// Sets the size limit of the response.
    pub fn at_most(mut self, bytes: usize) -> Self {
        if let RequestKind::Netlink(request) = &mut self.kind {
            request.limit = bytes;
        }
        self
    }

    /// Keeps only messages of a dump that have an attribute.
    pub fn keeping(mut self, keep_only: Keep) -> Self {
        if let RequestKind::Netlink(request) = &mut self.kind {
            request.keep = Some(keep_only);
        }
        self
    }
}

/// A kernel name as part of a request name and path: letters, digits, `-` and `_` are kept, others escaped, and a long
/// name ends in its hash.
pub(crate) fn path_part(name: &[u8]) -> String {
    /// Kernel names have up to 255 bytes, as file names may.
    const LONGEST: usize = 80;
    let mut out = String::new();
    for byte in name {
        if out.len() >= LONGEST {
            // FNV-1a, because the hash in stored captures must never change.
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
