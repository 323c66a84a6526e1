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

/// A message to netfilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETRULE`
    pub kind: String,
    /// Whether it asks for all that there is, not for one object.
    pub dump: bool,
    /// Text of attribute 1, the table.
    pub table: String,
    /// Text of attribute 2, the chain (of requests for rules).
    pub chain: String,
}

impl Question {
    /// `GETRULE`
    pub fn what(&self) -> &str {
        let parts = self.kind.rsplit_once("_MSG_").or_else(|| self.kind.rsplit_once("_CMD_"));
        parts.map_or(self.kind.as_str(), |(_, what)| what)
    }
}

/// The message of one call, if it is one to netfilter.
pub fn question(call: &Call) -> Option<Question> {
    if !call.is(&["sendto", "sendmsg"]) || !call.has("<NETLINK:[NETFILTER") {
        return None;
    }
    let field = |name: &str| {
        let rest = call.rest.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name}: {call:?}")).1;
        rest.split([',', '}']).next().expect("a value").to_owned()
    };
    let attribute = |number: u16| {
        let rest = call.rest.split_once(&format!("nla_type={number:#x}}}, \"")).map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split('"').next()).map(unescaped).unwrap_or_default()
    };
    let flags = field("nlmsg_flags");
    Some(Question {
        kind: field("nlmsg_type"),
        dump: flags.contains("NLM_F_DUMP") || flags.contains("0x300"),
        table: attribute(1),
        chain: attribute(2),
    })
}

/// The messages of all calls.
pub fn questions(calls: &[Call]) -> Vec<Question> {
    calls.iter().filter_map(question).collect()
}

/// `\x6e\x61\x74\x00`: strace writes strings with an end like this; others as they are.
fn unescaped(text: &str) -> String {
    let bytes = text.split("\\x").skip(1).map_while(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    if text.starts_with("\\x") { String::from_utf8_lossy(&bytes).into_owned() } else { text.to_owned() }
}
