//! What an experiment needs of the kernel, and whether it is there: asking for what is not would load a module. Pure.

use crate::capture::{Capture, Request};
use crate::decode::modules::{Module, Presence, presence_among};
use crate::snapshot::Source;

const fn module(name: &'static str, symbol: &'static str) -> Module {
    Module { name, symbol, source: Source::Kernel }
}

static AF_PACKET: Module = module("af_packet", "packet_rcv");
static VETH: Module = module("veth", "veth_xmit");
static VXLAN: Module = module("vxlan", "vxlan_xmit");
static IPV6: Module = module("ipv6", "ip6_xmit");
static NF_CONNTRACK: Module = module("nf_conntrack", "nf_conntrack_in");
static NF_NAT: Module = module("nf_nat", "nf_nat_setup_info");
static NF_TABLES: Module = module("nf_tables", "nf_tables_getgen");
static NFT_META: Module = module("nft_meta", "nft_meta_get_eval");
static NFT_CHAIN_NAT: Module = module("nft_chain_nat", "nft_nat_inet_reg");
static NFT_CHAIN_NAT_IPV4: Module = module("nft_chain_nat_ipv4", "nft_nat_do_chain");
static NFT_CHAIN_NAT_IPV6: Module = module("nft_chain_nat_ipv6", "nft_nat_do_chain");
static NFT_MASQ: Module = module("nft_masq", "nft_masq_init");
static NFT_MASQ_IPV4: Module = module("nft_masq_ipv4", "nft_masq_ipv4_eval");
static NFT_MASQ_IPV6: Module = module("nft_masq_ipv6", "nft_masq_ipv6_eval");
static NFT_NAT: Module = module("nft_nat", "nft_nat_init");
static IPTABLE_NAT: Module = module("iptable_nat", "iptable_nat_table_init");
static IP6TABLE_NAT: Module = module("ip6table_nat", "ip6table_nat_table_init");
static XT_MASQUERADE: Module = module("xt_MASQUERADE", "masquerade_tg_check");
static IPT_MASQUERADE: Module = module("ipt_MASQUERADE", "masquerade_tg_check");
static IP6T_MASQUERADE: Module = module("ip6t_MASQUERADE", "masquerade_tg6_checkentry");

/// All of them are looked for at once.
static ALL: [&Module; 20] = [
    &AF_PACKET,
    &VETH,
    &VXLAN,
    &IPV6,
    &NF_CONNTRACK,
    &NF_NAT,
    &NF_TABLES,
    &NFT_META,
    &NFT_CHAIN_NAT,
    &NFT_CHAIN_NAT_IPV4,
    &NFT_CHAIN_NAT_IPV6,
    &NFT_MASQ,
    &NFT_MASQ_IPV4,
    &NFT_MASQ_IPV6,
    &NFT_NAT,
    &IPTABLE_NAT,
    &IP6TABLE_NAT,
    &XT_MASQUERADE,
    &IPT_MASQUERADE,
    &IP6T_MASQUERADE,
];

/// Something that takes all modules of one of these lists: they were merged and renamed.
type Need = [&'static [&'static Module]];

static COMMON: &Need = &[&[&AF_PACKET, &VETH, &NF_CONNTRACK, &NF_NAT]];
static TUNNEL: &Need = &[&[&VXLAN]];
static NFTABLES: &Need =
    &[&[&NF_TABLES, &NFT_CHAIN_NAT, &NFT_MASQ], &[&NF_TABLES, &NFT_CHAIN_NAT_IPV4, &NFT_MASQ, &NFT_MASQ_IPV4]];
static NFTABLES_IPV6: &Need =
    &[&[&IPV6, &NFT_CHAIN_NAT, &NFT_MASQ], &[&IPV6, &NFT_CHAIN_NAT_IPV6, &NFT_MASQ, &NFT_MASQ_IPV6]];
/// Where the chain type is one module for both families, nft_meta is no module any more.
static REDIRECT: &Need = &[&[&NFT_NAT, &NFT_CHAIN_NAT], &[&NFT_NAT, &NFT_CHAIN_NAT_IPV4, &NFT_META]];
static LEGACY: &Need = &[&[&IPTABLE_NAT, &XT_MASQUERADE], &[&IPTABLE_NAT, &IPT_MASQUERADE]];
static LEGACY_IPV6: &Need = &[&[&IPV6, &IP6TABLE_NAT, &XT_MASQUERADE], &[&IPV6, &IP6TABLE_NAT, &IP6T_MASQUERADE]];

/// What writes rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables
    Nftables,
    /// Legacy x_tables: it cannot choose by CPU without another module.
    Legacy,
}

/// What may be used without a module being loaded. `Err` says what is missing.
#[derive(Clone, Debug)]
pub struct Means {
    /// Devices, connection tracking and NAT; and rules.
    pub backend: Result<Backend, String>,
    /// VXLAN devices.
    pub tunnel: Result<(), String>,
    /// IPv6, with rules.
    pub ipv6: Result<(), String>,
    /// Rules that change destinations, by CPU.
    pub redirect: Result<(), String>,
}

impl Means {
    /// Everything, whatever has to be loaded for it.
    pub fn all() -> Self {
        Self { backend: Ok(Backend::Nftables), tunnel: Ok(()), ipv6: Ok(()), redirect: Ok(()) }
    }

    /// Nothing.
    pub fn none(why: &str) -> Self {
        let no = || Err(why.to_owned());
        Self { backend: Err(why.to_owned()), tunnel: no(), ipv6: no(), redirect: no() }
    }
}

/// What is there; or what has to be asked before that can be told.
///
/// # Errors
/// The requests.
pub fn means(capture: &Capture) -> Result<Means, Vec<Request>> {
    let common = there(capture, COMMON)?;
    let nftables = both(common.clone(), there(capture, NFTABLES)?);
    let backend = match &nftables {
        Ok(()) => Ok(Backend::Nftables),
        Err(why) => match both(common, there(capture, LEGACY)?) {
            Ok(()) => Ok(Backend::Legacy),
            Err(_) => Err(why.clone()),
        },
    };
    let ipv6 = there(capture, if backend == Ok(Backend::Legacy) { LEGACY_IPV6 } else { NFTABLES_IPV6 })?;
    let not_loaded = |missing: String| {
        format!(
            "using it could load {missing}, which this kernel does not have loaded (--allow-module-load allows that)"
        )
    };
    Ok(Means {
        backend: backend.map_err(not_loaded),
        tunnel: there(capture, TUNNEL)?.map_err(not_loaded),
        ipv6: ipv6.map_err(not_loaded),
        redirect: both(nftables, there(capture, REDIRECT)?).map_err(not_loaded),
    })
}

/// Whether a need is met; `Err` inside: what is missing of the first list.
fn there(capture: &Capture, need: &Need) -> Result<Result<(), String>, Vec<Request>> {
    let mut first = Ok(());
    for modules in need {
        let mut missing = Vec::new();
        for module in *modules {
            match presence_among(capture, module, &ALL) {
                Presence::There => {}
                Presence::Ask(requests) => return Err(requests),
                Presence::Missing(_) | Presence::Unclear(_) => missing.push(module.name),
            }
        }
        if missing.is_empty() {
            return Ok(Ok(()));
        }
        first = first.and(Err(missing.join(", ")));
    }
    Ok(first)
}

fn both(one: Result<(), String>, other: Result<(), String>) -> Result<(), String> {
    match (one, other) {
        (Err(one), Err(other)) => Err(format!("{one}, {other}")),
        (one, other) => one.and(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::test_capture;
    use crate::snapshot::Reading;

    /// A kernel with these modules loaded, and nothing built in.
    fn with(modules: &[&str]) -> Means {
        let mut capture = test_capture();
        for _ in 0..100 {
            let requests = match means(&capture) {
                Ok(means) => return means,
                Err(requests) => requests,
            };
            for request in requests {
                let text = match request.name.as_str() {
                    "procfs/modules" => {
                        modules.iter().map(|name| format!("{name} 16384 0 - Live 0x0\n")).collect::<String>()
                    }
                    "procfs/kallsyms" => "0000 t something_else\n".into(),
                    "procfs/sys/kernel/osrelease" => "6.1.0\n".into(),
                    _ => {
                        capture.answers.insert(request.name, Reading::Absent("ENOENT".into()));
                        continue;
                    }
                };
                capture.answers.insert(request.name, Reading::Ok(text.into_bytes()));
            }
        }
        panic!("it asks for ever");
    }

    const COMMON: &[&str] = &["af_packet", "veth", "nf_conntrack", "nf_nat"];

    #[test]
    fn nothing_is_used_that_is_not_loaded() {
        let means = with(&[]);
        let why = means.backend.unwrap_err();
        assert!(why.contains("af_packet, veth, nf_conntrack, nf_nat, nf_tables"), "{why}");
        assert!(why.contains("--allow-module-load"), "{why}");
        assert!(means.tunnel.unwrap_err().contains("vxlan"));
        assert!(means.ipv6.is_err() && means.redirect.is_err());
    }

    #[test]
    fn a_renamed_module_serves_as_well() {
        let nft = ["nf_tables", "nft_masq", "vxlan"];
        let new = with(&[COMMON, &nft, &["nft_chain_nat"]].concat());
        assert_eq!((new.backend, new.tunnel), (Ok(Backend::Nftables), Ok(())));
        let old = with(&[COMMON, &nft, &["nft_chain_nat_ipv4", "nft_masq_ipv4"]].concat());
        assert_eq!(old.backend, Ok(Backend::Nftables));
        assert!(old.ipv6.is_err() && old.redirect.is_err());
        assert!(with(&[COMMON, &nft, &["nft_chain_nat_ipv4"]].concat()).backend.is_err());
    }

    #[test]
    fn legacy_tables_serve_where_nf_tables_would_be_loaded() {
        let means = with(&[COMMON, &["iptable_nat", "xt_MASQUERADE", "ipv6", "ip6table_nat"]].concat());
        assert_eq!((means.backend, means.ipv6), (Ok(Backend::Legacy), Ok(())));
        assert!(means.redirect.is_err());
    }
}
