//! Whether IPsec applies to packets of this network namespace: numbers of policies and states.
//!
//! Kernel sources: `net/xfrm/xfrm_user.c`: `xfrm_get_spdinfo`, `xfrm_get_sadinfo`; `xt_policy.c`: `policy_mt`. Policies
//! and states are created by `xfrm_user` and `af_key` only. Opening a socket of either loads its module, so the
//! kernel's lists of netlink sockets and protocols are read first.

use super::node::without_netlink;
use crate::capture::{NetlinkFamily, Request, Root};
use crate::facts::{Failure, Reading, Source};
use crate::netfilter::array;
use crate::netfilter::netlink::{Attributes, Message};
use crate::read::Node;

/// `NETLINK_XFRM`
const NETLINK_XFRM: u8 = 6;
/// `XFRM_MSG_GETSADINFO`: from version 2.6.22 on
const XFRM_MSG_GETSADINFO: u16 = 0x23;
/// `XFRM_MSG_GETSPDINFO`
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
/// `XFRMA_SAD_CNT`: `u32`
const XFRMA_SAD_CNT: u16 = 1;
/// `XFRMA_SPD_INFO`: `struct xfrmu_spdinfo`, six `u32`: numbers of policies (in, out, forward), and of socket policies
const XFRMA_SPD_INFO: u16 = 1;
/// Length of the flags before the attributes; unused.
const FLAGS: usize = 4;

fn request(name: &str, kind: u16) -> Request {
    Request::netlink(Source::Datapath, &format!("xfrm/{name}"), NetlinkFamily::Xfrm, kind, false, vec![0; FLAGS])
}

fn protocols() -> Request {
    Request::lines(Source::Datapath, Root::Procfs, "thread-self/net/protocols", &["protocol", "KEY"])
}

/// Whether there is any policy or state. Absent: no module is loaded that could have created one.
pub(crate) fn stands(node: &mut Node<'_>) -> Reading<bool> {
    match node.has_netlink(NETLINK_XFRM) {
        Some(true) => {}
        Some(false) => return without_xfrm_user(node),
        None => {
            let unclear = Failure::Unclear { module: "xfrm_user".into() };
            return node.note(&request("spdinfo", XFRM_MSG_GETSPDINFO), Reading::Failed(unclear));
        }
    }
    for (name, kind, attribute) in
        [("spdinfo", XFRM_MSG_GETSPDINFO, XFRMA_SPD_INFO), ("sadinfo", XFRM_MSG_GETSADINFO, XFRMA_SAD_CNT)]
    {
        let request = request(name, kind);
        let some = node.try_answer(&request, |message| counts(message, attribute));
        match node.note(&request, some) {
            Reading::Ok(false) => {}
            found => return found,
        }
    }
    Reading::Ok(false)
}

/// Whether any number in this attribute is not 0.
fn counts(message: &Message<'_>, attribute: u16) -> Result<bool, Failure> {
    let numbers = Attributes::after(message.body, FLAGS, "XFRMA")?;
    let numbers = numbers.get(attribute).ok_or_else(|| Failure::unexpected("no number of IPsec policies or states"))?;
    array::<4>(numbers, 0, "XFRMA")?; // at least one
    Ok(numbers.iter().any(|byte| *byte != 0))
}

/// Without `xfrm_user`, only `af_key` can have created any.
fn without_xfrm_user(node: &mut Node<'_>) -> Reading<bool> {
    let request = protocols();
    let listed = node.text(&request);
    let has_key = |line: &str| line.split_whitespace().next() == Some("KEY");
    match listed {
        Reading::Ok(lines) if lines.lines().any(has_key) => {
            Reading::Failed("af_key is loaded and xfrm_user is not: IPsec policies are not read".into())
        }
        Reading::Ok(lines) if lines.starts_with("protocol ") => Reading::Absent(without_netlink(NETLINK_XFRM)),
        Reading::Ok(_) => Reading::Failed("the list of protocols (/proc/net/protocols) has no head".into()),
        other => other.map(|_| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::played;

    const WITH: &str = "sk Eth Pid\n0 0 0 0\n0 6 0 0\n0 16 0 0\n";
    const WITHOUT: &str = "sk Eth Pid\n0 0 0 0\n0 16 0 0\n";

    fn message(kind: u16, numbers: &[u32]) -> Vec<u8> {
        let value: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let attribute = [&(4 + value.len() as u16).to_ne_bytes()[..], &1u16.to_ne_bytes(), &value].concat();
        let length = (16 + FLAGS + attribute.len()) as u32;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &[0; FLAGS], &attribute].concat()
    }

    /// A kernel with these lists of sockets and protocols, and these numbers of policies and states.
    fn read(sockets: &str, protocols: &str, policies: Option<[u32; 6]>, states: u32) -> Reading<bool> {
        let answer = |request: &Request| match request.name.as_str() {
            "procfs/thread-self/net/netlink" => Reading::Ok(sockets.as_bytes().to_vec()),
            "procfs/thread-self/net/protocols" => Reading::Ok(protocols.as_bytes().to_vec()),
            "netlink/xfrm/spdinfo" => match policies {
                Some(policies) => Reading::Ok(message(0x24, &policies)),
                None => Reading::Denied("EPERM".into()),
            },
            "netlink/xfrm/sadinfo" => Reading::Ok(message(0x22, &[states])),
            _ => panic!("asked {request:?}"),
        };
        played(answer, stands).0
    }

    #[test]
    fn policies_and_states_are_counted() {
        assert_eq!(read(WITH, "", Some([0; 6]), 0), Reading::Ok(false));
        for at in 0..6 {
            let mut policies = [0; 6];
            policies[at] = 0x100;
            assert_eq!(read(WITH, "", Some(policies), 0), Reading::Ok(true), "{policies:?}");
        }
        assert_eq!(read(WITH, "", Some([0; 6]), 1), Reading::Ok(true));
        assert!(matches!(read(WITH, "", None, 0), Reading::Denied(_)));
    }

    #[test]
    fn nothing_is_asked_that_would_load_a_module() {
        let head = "protocol  size sockets\n";
        assert!(matches!(read(WITHOUT, head, None, 0), Reading::Absent(_)));
        assert!(matches!(read(WITHOUT, &format!("{head}KEY 1 2\n"), None, 0), Reading::Failed(_)));
        assert!(matches!(read(WITHOUT, "", None, 0), Reading::Failed(_)));
        assert!(matches!(read("", head, None, 0), Reading::Failed(_)), "the list of sockets is not whole");
    }
}
