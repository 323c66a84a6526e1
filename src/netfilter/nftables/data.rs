//! Values and verdicts in expressions and sets.
//!
//! `net/netfilter/nf_tables_api.c`: `nft_data_dump`, `nft_verdict_dump`.

use std::borrow::Cow;

use crate::netfilter::netlink::Text;
use crate::netfilter::{Error, Result, Visit, Visitor};

crate::netfilter::attributes! {
    /// A value or a verdict.
    Data {
        /// Bytes as laid out in registers
        NFTA_DATA_VALUE = 1 => value: Option<Cow<'a, [u8]>>,
        /// A verdict
        NFTA_DATA_VERDICT = 2 => verdict: Option<Verdict<'a>>,
    }
}

crate::netfilter::attributes! {
    /// A verdict.
    Verdict {
        /// `NF_*` or `NFT_*`, signed
        NFTA_VERDICT_CODE = 1 => code: u32,
        /// Target of a jump or goto
        NFTA_VERDICT_CHAIN = 2 => chain: Option<Text<'a>>,
        /// Id of the chain within a batch
        NFTA_VERDICT_CHAIN_ID = 3 => chain_id: Option<u32>,
    }
}

crate::netfilter::visit!(Verdict { plain: [code, chain_id], chain: [chain] });

impl<'a> Data<'a> {
    /// With a value.
    pub fn of(value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// With a verdict, and the target chain of a jump or goto.
    pub fn to(code: i32, chain: Option<Text<'a>>) -> Self {
        let verdict = Verdict { code: code.cast_unsigned(), chain, ..Verdict::default() };
        Self { verdict: Some(verdict), ..Self::default() }
    }

    /// The value.
    ///
    /// # Errors
    /// There is none.
    pub fn value(&self) -> Result<&[u8]> {
        self.value.as_deref().ok_or_else(|| Error::unexpected("NFTA_DATA_VALUE is missing"))
    }

    /// Passes the value to `change`, and visits everything else.
    pub fn with_value<V: Visitor>(&mut self, visitor: &mut V, change: impl FnOnce(&mut V, &mut Cow<'a, [u8]>)) {
        let Self { value, verdict, layout } = self;
        if let Some(value) = value {
            change(visitor, value);
        }
        verdict.iter_mut().for_each(|verdict| verdict.visit(visitor));
        layout.visit(visitor);
    }
}
