//! Decodes nf_tables verdicts: `nft_verdict_init`.

use crate::facts::netfilter::{Step, Verdict};
use crate::facts::{Failure, Name};
use crate::netfilter::nftables::Verdict as WireVerdict;
use crate::netfilter::nftables::expr::Reject;
use crate::netfilter::nftables::uapi::{
    NF_ACCEPT, NF_DROP, NFT_CONTINUE, NFT_GOTO, NFT_JUMP, NFT_REJECT_TCP_RST, NFT_RETURN,
};

/// `nft_reject_ipv4_eval`, `nft_reject_ipv6_eval`
pub(super) fn rejected(reject: &Reject<'_>) -> Step {
    Step::Verdict(if reject.kind == Some(NFT_REJECT_TCP_RST) { Verdict::Reset } else { Verdict::Drop })
}

/// From a verdict code, and for jumps a chain name.
pub(crate) fn decode_verdict(verdict: &WireVerdict<'_>) -> Result<Verdict, Failure> {
    let chain = || match &verdict.chain {
        Some(chain) => Ok(Name::from_bytes(chain.as_bytes())),
        None => Err(Failure::unexpected("NFTA_VERDICT_CHAIN is missing")),
    };
    Ok(match verdict.code.cast_signed() {
        NFT_CONTINUE => Verdict::Continue,
        NFT_JUMP => Verdict::Jump(chain()?),
        NFT_GOTO => Verdict::Goto(chain()?),
        NFT_RETURN => Verdict::Return,
        NF_DROP => Verdict::Drop,
        NF_ACCEPT => Verdict::Accept,
        code => Verdict::Stolen(format!("verdict {code}")),
    })
}
