//! Kernel modules that experiments need, and whether each is present, since using a missing one would load it. Pure.

use crate::facts::{Reading, Source};
use crate::read::Node;
use crate::read::modules::{Module, is_listed, presence_among};

const fn module(name: &'static str, symbol: &'static str) -> Module {
    Module { name, symbol, source: Source::Kernel }
}

static AF_PACKET: Module = module("af_packet", "packet_rcv");
static VETH: Module = module("veth", "veth_xmit");
static VXLAN: Module = module("vxlan", "vxlan_xmit");
static IPV6: Module = module("ipv6", "ip6_xmit");
static NF_CONNTRACK: Module = module("nf_conntrack", "nf_conntrack_in");
/// Part of nf_conntrack since Linux 4.19.
static NF_CONNTRACK_IPV4: Module = module("nf_conntrack_ipv4", "ipv4_conntrack_in");
static NF_CONNTRACK_IPV6: Module = module("nf_conntrack_ipv6", "ipv6_conntrack_in");
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

/// All modules, which are searched for in one pass.
static ALL: [&Module; 22] = [
    &AF_PACKET,
    &VETH,
    &VXLAN,
    &IPV6,
    &NF_CONNTRACK,
    &NF_CONNTRACK_IPV4,
    &NF_CONNTRACK_IPV6,
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

/// Alternative lists of modules, since modules were merged and renamed; a need is met by all modules of one list.
type Need = [&'static [&'static Module]];

static COMMON: &Need = &[&[&AF_PACKET, &VETH, &NF_CONNTRACK, &NF_NAT]];
static TUNNEL: &Need = &[&[&VXLAN]];
static NFTABLES: &Need = &[
    &[&NF_TABLES, &NFT_CHAIN_NAT, &NFT_MASQ],
    &[&NF_TABLES, &NFT_CHAIN_NAT_IPV4, &NFT_MASQ, &NFT_MASQ_IPV4, &NF_CONNTRACK_IPV4],
];
static NFTABLES_IPV6: &Need = &[
    &[&IPV6, &NFT_CHAIN_NAT, &NFT_MASQ],
    &[&IPV6, &NFT_CHAIN_NAT_IPV6, &NFT_MASQ, &NFT_MASQ_IPV6, &NF_CONNTRACK_IPV6],
];
/// If one module has the chain type of both families, nft_meta is built into nf_tables.
static REDIRECT: &Need = &[&[&NFT_NAT, &NFT_CHAIN_NAT], &[&NFT_NAT, &NFT_CHAIN_NAT_IPV4, &NFT_META]];
static LEGACY: &Need = &[&[&IPTABLE_NAT, &XT_MASQUERADE], &[&IPTABLE_NAT, &IPT_MASQUERADE, &NF_CONNTRACK_IPV4]];
static LEGACY_IPV6: &Need =
    &[&[&IPV6, &IP6TABLE_NAT, &XT_MASQUERADE], &[&IPV6, &IP6TABLE_NAT, &IP6T_MASQUERADE, &NF_CONNTRACK_IPV6]];

/// Backend used for rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// nf_tables
    Nftables,
    /// Legacy x_tables; cannot match on the CPU without another module.
    Legacy,
}

/// What can be used without loading a module. `Err`: what is missing.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// Devices, conntrack, NAT, and a backend for rules.
    pub backend: Result<Backend, String>,
    /// VXLAN devices.
    pub tunnel: Result<(), String>,
    /// IPv6, with a backend.
    pub ipv6: Result<(), String>,
    /// Legacy tables by family (IPv4, IPv6), in case the kernel turns out to lack nf_tables.
    pub legacy: [Result<(), String>; 2],
    /// DNAT rules by CPU.
    pub redirect: Result<(), String>,
}

impl Means {
    /// Everything, even if modules have to be loaded.
    pub(crate) fn all() -> Self {
        Self {
            backend: Ok(Backend::Nftables),
            tunnel: Ok(()),
            ipv6: Ok(()),
            legacy: [Ok(()), Ok(())],
            redirect: Ok(()),
        }
    }

    /// Nothing, for this reason.
    pub(crate) fn none(why: &str) -> Self {
        let no = || Err(why.to_owned());
        Self { backend: Err(why.to_owned()), tunnel: no(), ipv6: no(), legacy: [no(), no()], redirect: no() }
    }
}

/// What is missing for a need.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lack {
    modules: Vec<&'static str>,
    /// Whether the presence of a module could not be determined.
    unclear: bool,
}

impl Lack {
    fn with(self, other: Self) -> Self {
        Self { modules: [self.modules, other.modules].concat(), unclear: self.unclear || other.unclear }
    }

    fn text(&self) -> String {
        let modules = self.modules.join(", ");
        let why = if self.unclear {
            format!("cannot tell whether {modules} are in the kernel, and using them could load them")
        } else {
            format!("using it could load {modules}, which this kernel does not have loaded")
        };
        format!("{why} (--allow-module-load allows that)")
    }
}

/// Checks all needs.
pub(crate) fn means(node: &mut Node<'_>) -> Means {
    let common = there(node, COMMON);
    let nftables = both(common.clone(), there(node, NFTABLES));
    // Legacy tables are searched for only if they may be needed, since that is slow.
    let legacy = match nftables.is_ok() && !are_listed(node, LEGACY) {
        true => Err(Lack { modules: vec![IPTABLE_NAT.name], unclear: true }),
        false => both(common, there(node, LEGACY)),
    };
    let backend = match (&nftables, &legacy) {
        (Err(_), Ok(())) => Ok(Backend::Legacy),
        (Err(lack), Err(_)) => Err(lack.text()),
        (Ok(()), _) => Ok(Backend::Nftables),
    };
    let legacy_ipv6 = match legacy {
        Ok(()) => there(node, LEGACY_IPV6),
        Err(ref lack) => Err(lack.clone()),
    };
    let ipv6 = if backend == Ok(Backend::Legacy) { legacy_ipv6.clone() } else { there(node, NFTABLES_IPV6) };
    let text = |result: Result<(), Lack>| result.map_err(|lack| lack.text());
    Means {
        backend,
        tunnel: text(there(node, TUNNEL)),
        ipv6: text(ipv6),
        legacy: [text(legacy), text(legacy_ipv6)],
        redirect: text(both(nftables, there(node, REDIRECT))),
    }
}

/// Whether a need is met; `Err`: modules missing from the first list.
fn there(node: &mut Node<'_>, need: &Need) -> Result<(), Lack> {
    let mut first = Ok(());
    for modules in need {
        let mut lack = Lack { modules: Vec::new(), unclear: false };
        for module in *modules {
            match presence_among(node, module, &ALL) {
                Reading::Ok(()) => continue,
                Reading::Absent(_) => {}
                Reading::Denied(_) | Reading::Failed(_) => lack.unclear = true,
            }
            lack.modules.push(module.name);
        }
        if lack.modules.is_empty() {
            return Ok(());
        }
        first = first.and(Err(lack));
    }
    first
}

/// Whether loaded modules meet a need, which is quick to check.
fn are_listed(node: &mut Node<'_>, need: &Need) -> bool {
    need.iter().any(|modules| modules.iter().all(|module| is_listed(node, module, &ALL)))
}

fn both(one: Result<(), Lack>, other: Result<(), Lack>) -> Result<(), Lack> {
    match (one, other) {
        (Err(one), Err(other)) => Err(one.with(other)),
        (one, other) => one.and(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing;

    /// A kernel with these modules loaded, and nothing built in.
    fn with(modules: &[&str]) -> Means {
        let loaded: String = modules.iter().map(|name| format!("{name} 16384 0 - Live 0x0\n")).collect();
        let answer = |name: &str| match name {
            "procfs/modules" => Reading::Ok(loaded.clone().into_bytes()),
            "procfs/kallsyms" => Reading::Ok(b"0000 t something_else\n".to_vec()),
            "procfs/sys/kernel/osrelease" => Reading::Ok(b"6.1.0\n".to_vec()),
            "procfs/version" => Reading::Ok(b"Linux version 6.1.0\n".to_vec()),
            _ => Reading::Absent("ENOENT".into()),
        };
        testing::played(|request| answer(&request.name), means).0
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
        let old = with(&[COMMON, &nft, &["nft_chain_nat_ipv4", "nft_masq_ipv4", "nf_conntrack_ipv4"]].concat());
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
