//! The generation of the rule set, and a program's requests to netfilter.

use natwatch::netfilter::netlink::{Emit as _, Message, MessageWriter, Text, attributes, frame, message};
use natwatch::netfilter::nfnetlink::{NFGENMSG, Nfgenmsg};
use natwatch::netfilter::nftables::uapi::NFT_MSG_GETGEN;
use natwatch::netfilter::nftables::{Generation, NFTA_RULE_CHAIN, NFTA_RULE_TABLE};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

use super::netns::Netns;
use super::strace::Call;

/// Sends a request to netfilter and passes on the first message of the response.
fn ask<T: Send>(ns: &Netns, request: &[u8], read: impl FnOnce(&Message<'_>) -> T + Send) -> T {
    ns.enter(|| {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).expect("a socket");
        send(&socket, request, SendFlags::empty()).expect("a request");
        let mut answer = [0; 256];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("an answer");
        let (message, _) = message(&answer[..length]).expect("a whole message");
        read(&message)
    })
}

/// The ruleset generation, which every change of the rules raises.
pub fn generation(ns: &Netns) -> u32 {
    let mut body = MessageWriter::user();
    Nfgenmsg::default().emit(&mut body);
    ask(ns, &frame(NFT_MSG_GETGEN, libc::NLM_F_REQUEST as u16, &body.finish()), |message| {
        let (_, generation): (_, Generation<'_>) = Nfgenmsg::parse(message.body).expect("a generation");
        generation.id
    })
}

/// Makes an accounting object, which rules with `-m nfacct` name; with a quota of packets they match beyond it.
pub fn accounting(ns: &Netns, name: &str, quota: Option<u64>) {
    const NFNL_MSG_ACCT_NEW: u16 = (libc::NFNL_SUBSYS_ACCT as u16) << 8;
    const NFACCT_NAME: u16 = 1;
    const NFACCT_FLAGS: u16 = 5;
    const NFACCT_QUOTA: u16 = 6;
    const NFACCT_F_QUOTA_PKTS: u32 = 1;
    const FLAGS: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let mut body = MessageWriter::user();
    Nfgenmsg::default().emit(&mut body);
    body.attribute(NFACCT_NAME, |out| Text::from(name).emit(out));
    if let Some(quota) = quota {
        body.attribute(NFACCT_FLAGS, |out| out.bytes(&NFACCT_F_QUOTA_PKTS.to_be_bytes()));
        body.attribute(NFACCT_QUOTA, |out| out.bytes(&quota.to_be_bytes()));
    }
    ask(ns, &frame(NFNL_MSG_ACCT_NEW, FLAGS, &body.finish()), |message| {
        assert_eq!(message.errno(), Ok(0), "{name}");
    });
}

/// A request to netfilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKind {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE`
    pub kind: u16,
    /// Whether it is a dump.
    pub dump: bool,
    /// Text of attribute 1, the table.
    pub table: String,
    /// Text of attribute 2, the chain (of requests for rules).
    pub chain: String,
}

/// Names of the requests to nf_tables, and of those to ipset that tests distinguish.
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

impl RequestKind {
    /// `GETRULE`
    pub fn what(&self) -> String {
        let known = NAMES.iter().find(|(subsystem, message, _)| subsystem << 8 | message == i32::from(self.kind));
        known.map_or_else(|| format!("{:#06x}", self.kind), |(_, _, name)| (*name).to_owned())
    }
}

/// The request that a call sends, if it is one to netfilter.
pub fn question(call: &Call) -> Option<RequestKind> {
    let message = call.message().filter(|message| message.protocol == i64::from(libc::NETLINK_NETFILTER))?;
    let block = message.body.get(NFGENMSG..).unwrap_or_default();
    let all = libc::NLM_F_DUMP as u16;
    Some(RequestKind {
        kind: message.kind,
        dump: message.flags & all == all,
        table: text(block, NFTA_RULE_TABLE),
        chain: text(block, NFTA_RULE_CHAIN),
    })
}

/// The requests of all calls.
pub fn questions(calls: &[Call]) -> Vec<RequestKind> {
    calls.iter().filter_map(question).collect()
}

/// An attribute's text without its final zero; empty if there is no such attribute.
fn text(block: &[u8], number: u16) -> String {
    let found = attributes(block, "request").map(|attribute| attribute.expect("a whole attribute"));
    let found = found.into_iter().find(|attribute| attribute.kind == number);
    found
        .map(|attribute| String::from_utf8_lossy(Text(attribute.body.into()).as_bytes()).into_owned())
        .unwrap_or_default()
}
