//! The generation of the rule set, and what a program asks netfilter.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

use super::netns::Netns;
use super::strace::Call;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`
const GETGEN: u16 = 10 << 8 | 16;

/// The number that every change of the rules raises.
pub fn generation(ns: &Netns) -> u32 {
    ns.enter(|| {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).expect("a socket");
        let mut request = [0; 20];
        request[0..4].copy_from_slice(&20_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&GETGEN.to_ne_bytes());
        request[6..8].copy_from_slice(&1_u16.to_ne_bytes()); // NLM_F_REQUEST
        send(&socket, &request, SendFlags::empty()).expect("a request");
        let mut answer = [0; 256];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("an answer");
        // Header, `struct nfgenmsg`, and the first attribute: NFTA_GEN_ID.
        assert!(length >= 28 && answer[22..24] == 1_u16.to_ne_bytes(), "{:?}", &answer[..length]);
        u32::from_be_bytes([answer[24], answer[25], answer[26], answer[27]])
    })
}

/// Makes an accounting object, which rules with `-m nfacct` name.
pub fn accounting(ns: &Netns, name: &str) {
    const NFNL_MSG_ACCT_NEW: u16 = (libc::NFNL_SUBSYS_ACCT as u16) << 8;
    const FLAGS: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let text = [name.as_bytes(), &[0]].concat();
    let mut request = Vec::new();
    // `struct nlmsghdr`, its length at the end; `struct nfgenmsg`; NFACCT_NAME
    request.extend([0; 4]);
    request.extend(NFNL_MSG_ACCT_NEW.to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    request.extend([0; 8 + 4]);
    request.extend((4 + text.len() as u16).to_ne_bytes());
    request.extend(1_u16.to_ne_bytes());
    request.extend(text);
    request.resize(request.len().next_multiple_of(4), 0);
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    ns.enter(|| {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).expect("a socket");
        send(&socket, &request, SendFlags::empty()).expect("a request");
        let mut answer = [0; 256];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("an answer");
        assert!(length >= 20 && answer[16..20] == [0; 4], "{name}: {:?}", &answer[..length]);
    });
}

/// A message to netfilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE`
    pub kind: u16,
    /// Whether it asks for all that there is, not for one object.
    pub dump: bool,
    /// Text of attribute 1, the table.
    pub table: String,
    /// Text of attribute 2, the chain (of requests for rules).
    pub chain: String,
}

/// What is asked of nf_tables, and what of ipset that tests tell apart.
const NAMES: [(i32, i32, &str); 11] = [
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETTABLE, "GETTABLE"),
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETCHAIN, "GETCHAIN"),
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETRULE, "GETRULE"),
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETSET, "GETSET"),
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETSETELEM, "GETSETELEM"),
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETGEN, "GETGEN"),
    (libc::NFNL_SUBSYS_NFTABLES, libc::NFT_MSG_GETOBJ, "GETOBJ"),
    (libc::NFNL_SUBSYS_NFTABLES, 23, "GETFLOWTABLE"),
    (libc::NFNL_SUBSYS_IPSET, 7, "LIST"),
    (libc::NFNL_SUBSYS_IPSET, 8, "SAVE"),
    (libc::NFNL_SUBSYS_IPSET, 11, "TEST"),
];

impl Question {
    /// `GETRULE`
    pub fn what(&self) -> String {
        let known = NAMES.iter().find(|(subsystem, message, _)| subsystem << 8 | message == i32::from(self.kind));
        known.map_or_else(|| format!("{:#06x}", self.kind), |(_, _, name)| (*name).to_owned())
    }
}

/// The message of one call, if it is one to netfilter.
pub fn question(call: &Call) -> Option<Question> {
    let message = call.message().filter(|message| message.protocol == i64::from(libc::NETLINK_NETFILTER))?;
    // `struct nfgenmsg` comes first.
    let attributes = message.body.get(4..).unwrap_or_default();
    let all = libc::NLM_F_DUMP as u16;
    Some(Question {
        kind: message.kind,
        dump: message.flags & all == all,
        table: text(attributes, 1),
        chain: text(attributes, 2),
    })
}

/// The messages of all calls.
pub fn questions(calls: &[Call]) -> Vec<Question> {
    calls.iter().filter_map(question).collect()
}

/// What an attribute says, up to the zero that ends it; nothing if it is not there.
fn text(mut attributes: &[u8], number: u16) -> String {
    while let [a, b, c, d, ..] = *attributes {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..length).expect("a whole attribute");
        if kind == number {
            return String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    String::new()
}
