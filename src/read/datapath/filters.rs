//! Whether tc filters may write packet marks: `tcf_fill_node`, `tcf_action_dump`.

use crate::facts::Failure;
use crate::netfilter::netlink::rtnl::{TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_ACTIONS, TCA_SKBEDIT_MARK, TCA_SKBEDIT_MASK};
use crate::netfilter::netlink::{Attributes, attributes};

/// Actions that never write a mark. `bpf`, `connmark`, `ct`, `ctinfo`, `ife` and unknown ones may.
const NO_EFFECT: &[&str] =
    &["csum", "gact", "gate", "mirred", "mpls", "nat", "pedit", "police", "sample", "simple", "tunnel_key", "vlan"];

/// Whether a filter of this kind, with these `TCA_OPTIONS`, may write a packet's mark.
pub(crate) fn may_mark(kind: &str, options: &[u8]) -> bool {
    let actions = TCA_ACTIONS.iter().find(|(known, _)| *known == kind);
    actions.is_none_or(|(_, actions)| marks(options, *actions).unwrap_or(true))
}

fn marks(options: &[u8], actions: u16) -> Result<bool, Failure> {
    let Some(actions) = Attributes::parse(options, "TCA_OPTIONS")?.get(actions) else { return Ok(false) };
    for action in attributes(actions, "TCA_ACT_TAB") {
        let action = Attributes::parse(action?.body, "TCA_ACT")?;
        let kind = action.string(TCA_ACT_KIND)?.unwrap_or_default();
        let found = match kind.as_str() {
            "skbedit" => match action.nested(TCA_ACT_OPTIONS, "TCA_SKBEDIT")? {
                Some(options) => {
                    let mask = options.u32(TCA_SKBEDIT_MASK)?.unwrap_or(u32::MAX);
                    options.u32(TCA_SKBEDIT_MARK)?.is_some_and(|mark| mark & mask != 0)
                }
                None => true,
            },
            kind => !NO_EFFECT.contains(&kind),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::netlink::{put, put_nested};

    fn filter(list: u16, action: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut options = Vec::new();
        put_nested(&mut options, list, |actions| {
            put_nested(actions, 1, |out| {
                put(out, TCA_ACT_KIND, format!("{action}\0").as_bytes());
                put_nested(out, TCA_ACT_OPTIONS, fill);
            });
        });
        options
    }

    #[test]
    fn actions_that_write_marks_are_told_from_others() {
        const U32: u16 = 7;
        let skbedit = |mark: Option<u32>, mask: Option<u32>| {
            filter(U32, "skbedit", |out| {
                mark.iter().for_each(|mark| put(out, TCA_SKBEDIT_MARK, &mark.to_ne_bytes()));
                mask.iter().for_each(|mask| put(out, TCA_SKBEDIT_MASK, &mask.to_ne_bytes()));
            })
        };
        for (kind, options, expected) in [
            ("u32", skbedit(Some(0x4000), None), true),
            ("u32", skbedit(Some(0), None), false),
            ("u32", skbedit(Some(0x4000), Some(0xff)), false),
            ("u32", skbedit(None, None), false),
            ("u32", filter(U32, "mirred", |_| {}), false),
            ("u32", filter(U32, "connmark", |_| {}), true),
            ("u32", filter(U32, "novel", |_| {}), true),
            ("flower", filter(3, "connmark", |_| {}), true),
            ("matchall", filter(2, "gact", |_| {}), false),
            ("u32", vec![], false),
            ("u32", vec![0; 8], true),
            ("bpf", vec![], true),
            ("novel", vec![], true),
        ] {
            assert_eq!(may_mark(kind, &options), expected, "{kind} {options:?}");
        }
    }
}
