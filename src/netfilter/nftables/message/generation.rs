//! The generation of the rule set: `nf_tables_fill_gen_info`.

use crate::netfilter::netlink::Text;

crate::netfilter::attributes! {
    /// The generation of the rule set.
    Generation {
        /// Generation id, incremented by each change
        NFTA_GEN_ID = 1 => id: u32,
        /// Process id of the last change
        NFTA_GEN_PROC_PID = 2 => proc_pid: Option<u32>,
        /// Name of that process
        NFTA_GEN_PROC_NAME = 3 => proc_name: Option<Text<'a>>,
    }
}

crate::netfilter::visit!(Generation { plain: [id], hidden: [proc_pid, proc_name] });
