//! Conditions about the neighbour tables.

use super::ConditionState;
use super::context::Evaluation;
use crate::facts::{Kernel, KernelVersion, NeighbourTable, Neighbours, Numbering, Reading};

/// Since this version permanent and externally learned entries are exempt from the limit (`neigh_alloc`,
/// `exempt_from_gc`).
const EXEMPT: KernelVersion = KernelVersion::new(5, 0, 0);

const FAMILIES: [(&str, &str); 2] = [("ipv4", "IPv4"), ("ipv6", "IPv6")];

/// `neighbours_counted`: both tables were read.
pub(super) fn counted(neighbours: &Neighbours) -> Evaluation {
    let unread = neighbours.0.iter().find(|table| !matches!(table, Reading::Ok(_) | Reading::Absent(_)));
    let [ipv4, ipv6] = neighbours.0.each_ref().map(|table| table.ok().map(|table| table.entries));
    match (unread, ipv4, ipv6) {
        (Some(unread), ..) => Evaluation::unknown(unread.why()),
        (None, None, None) => Evaluation::fails("the kernel has no neighbour tables"),
        (None, ipv4, ipv6) => {
            let (ipv4, ipv6) = (ipv4.unwrap_or(0), ipv6.unwrap_or(0));
            Evaluation::holds(format!("{ipv4} neighbours of IPv4 and {ipv6} of IPv6 in all network namespaces"))
        }
    }
}

/// `neighbours_nearly_full`: a table is nearly full of entries subject to the limit.
pub(super) fn nearly_full(neighbours: &Neighbours, kernel: &Reading<Kernel>, ratio: f64) -> Evaluation {
    let tables = neighbours.0.iter().zip(FAMILIES);
    let mut outcomes: Vec<Evaluation> = tables
        .filter_map(|(table, family)| match table {
            Reading::Ok(table) => Some(of_table(table, family, kernel, ratio)),
            Reading::Absent(_) => None,
            unread => Some(Evaluation::unknown(unread.why())),
        })
        .collect();
    for state in [ConditionState::Holds, ConditionState::Unknown] {
        if let Some(at) = outcomes.iter().position(|outcome| outcome.state == state) {
            return outcomes.swap_remove(at);
        }
    }
    let details: Vec<&str> = outcomes.iter().map(|outcome| outcome.detail.as_str()).collect();
    Evaluation::fails(if details.is_empty() { "there are none".to_owned() } else { details.join("; ") })
}

fn of_table(table: &NeighbourTable, family: (&str, &str), kernel: &Reading<Kernel>, ratio: f64) -> Evaluation {
    let (sysctl, family) = family;
    let NeighbourTable { entries, limit, .. } = table;
    let said = format!("{family}: {entries} entries of all network namespaces, and a limit of {limit}");
    let full = |detail: String| {
        let outcome = Evaluation::holds(detail).with("family", sysctl);
        outcome.with("limit", limit).with("limit_quadrupled", limit.saturating_mul(4))
    };
    if let Some(refused @ 1..) = table.refused_since {
        return full(format!("{said}; {refused} were refused since the reading before"));
    }
    if !table.is_filled_by(*entries, ratio) {
        return Evaluation::fails(said);
    }
    match kernel {
        // A lower bound does not show what was backported.
        Reading::Ok(kernel) if kernel.base >= EXEMPT => {}
        Reading::Ok(kernel) if kernel.numbering == Numbering::Upstream => {
            return full(format!("{said}; all of them count before Linux {EXEMPT}"));
        }
        Reading::Ok(kernel) => {
            let release = &kernel.release;
            return Evaluation::unknown(format!("{said}; it is not known whether permanent ones count in {release}"));
        }
        unread => return Evaluation::unknown(format!("{said}; {}", unread.why())),
    }
    let own = match &table.own {
        Reading::Ok(own) => own,
        unread => return Evaluation::unknown(format!("{said}; {}", unread.why())),
    };
    let (counted, exempt) = (own.counted, own.exempt);
    let others = entries.saturating_sub(counted).saturating_sub(exempt);
    if table.is_filled_by(counted, ratio) {
        full(format!("{said}; {counted} of this one count"))
    } else if table.is_filled_by(entries.saturating_sub(exempt), ratio) {
        Evaluation::unknown(format!(
            "{said}; {counted} of this one count, {exempt} do not, and of the {others} in other network namespaces it cannot be seen"
        ))
    } else {
        Evaluation::fails(format!("{said}; {exempt} of them do not count: permanent, or learned by another program"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::OwnNeighbours;

    fn kernel(release: &str) -> Reading<Kernel> {
        let (base, numbering) = (release.parse().unwrap(), Numbering::Upstream);
        let vendor = crate::facts::Vendor::UPSTREAM;
        Reading::Ok(Kernel { release: release.into(), vendor, base, numbering, build: None, built: None })
    }

    fn table(entries: u32, counted: u32, exempt: u32) -> NeighbourTable {
        let own = Reading::Ok(OwnNeighbours { counted, exempt });
        NeighbourTable { entries, limit: 1000, refused: Some(7), refused_since: None, own }
    }

    fn state(ipv4: &Reading<NeighbourTable>, kernel: &Reading<Kernel>) -> ConditionState {
        let both = Neighbours([ipv4.clone(), Reading::Ok(table(1, 1, 0))]);
        nearly_full(&both, kernel, 0.95).state
    }

    #[test]
    fn what_does_not_count_fills_no_table() {
        use ConditionState::{Fails, Holds, Unknown};
        for (entries, counted, exempt, release, expected) in [
            (949, 0, 0, "6.1", Fails),
            (949, 0, 0, "4.19", Fails),
            (950, 950, 0, "6.1", Holds),
            (5000, 10, 4990, "6.1", Fails),
            (5000, 10, 4990, "4.19", Holds), // all count there
            (5000, 960, 4040, "6.1", Holds),
            (5000, 10, 4051, "6.1", Fails),
            (5000, 10, 4050, "6.1", Unknown), // 940 of other namespaces and 10
            (5000, 10, 0, "6.1", Unknown),
        ] {
            let found = state(&Reading::Ok(table(entries, counted, exempt)), &kernel(release));
            assert_eq!(found, expected, "{entries}, {counted}, {exempt}, {release}");
        }
    }

    #[test]
    fn a_refusal_is_the_kernels_word() {
        let mut small = table(10, 10, 0);
        for (since, expected) in
            [(None, ConditionState::Fails), (Some(0), ConditionState::Fails), (Some(1), ConditionState::Holds)]
        {
            small.refused_since = since;
            assert_eq!(state(&Reading::Ok(small.clone()), &kernel("6.1")), expected, "{since:?}");
        }
    }

    #[test]
    fn what_was_not_read_is_unknown() {
        let full = NeighbourTable { own: Reading::Failed("cut off".into()), ..table(1000, 0, 0) };
        assert_eq!(state(&Reading::Ok(full), &kernel("6.1")), ConditionState::Unknown);
        assert_eq!(state(&Reading::Denied("no".into()), &kernel("6.1")), ConditionState::Unknown);
        assert_eq!(state(&Reading::Absent("no IPv4".into()), &kernel("6.1")), ConditionState::Fails);
        assert_eq!(state(&Reading::Ok(table(1000, 0, 900)), &Reading::Failed("no".into())), ConditionState::Unknown);
        let frozen = kernel("4.18").map(|kernel| Kernel { numbering: Numbering::Frozen, ..kernel });
        assert_eq!(state(&Reading::Ok(table(1000, 0, 900)), &frozen), ConditionState::Unknown);
        let unread = Neighbours([Reading::Ok(table(1, 1, 0)), Reading::Failed("cut off".into())]);
        assert_eq!(counted(&unread).state, ConditionState::Unknown);
    }
}
