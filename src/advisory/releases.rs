//! Dates of upstream releases, used to recognise implausible build dates.

use jiff::civil::Date;

use crate::facts::KernelVersion;

/// Lines `x.y.z date`, and comments.
const RELEASES: &str = include_str!("releases.txt");

/// Day of a release in UTC; `None` if not in the table.
pub(super) fn date(version: KernelVersion) -> Option<Date> {
    let wanted = version.to_string();
    RELEASES.lines().find_map(|line| line.strip_prefix(&wanted)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_line_is_read() {
        let lines: Vec<&str> = RELEASES.lines().filter(|line| !line.starts_with('#')).collect();
        let read: Vec<(KernelVersion, Date)> = lines
            .iter()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(version, date)| (version.parse().unwrap(), date.parse().unwrap()))
            .collect();
        assert!(read.len() > 4000 && read.is_sorted_by_key(|(version, _)| *version));
        // Within a series dates grow; only 2.6 has its series in z.
        for pair in read.windows(2) {
            let [(one, before), (two, after)] = pair else { unreachable!() };
            assert!(one < two && (one.series() != two.series() || before <= after), "{two} {after}");
        }
    }

    /// Else the build date of a kernel whose release is missing would say nothing.
    #[test]
    fn the_table_reaches_beyond_every_fix() {
        let dates = RELEASES.lines().filter_map(|line| line.split_once(' ')?.1.parse::<Date>().ok());
        let last = dates.max().unwrap();
        for defect in super::super::defects::all() {
            assert!(defect.fix_written.is_none_or(|written| written < last), "{}: {last}", defect.id);
        }
    }

    #[test]
    fn releases_have_dates() {
        let shown = |x, y, z| date(KernelVersion::new(x, y, z)).map(|date| date.to_string());
        assert_eq!(shown(5, 4, 17).as_deref(), Some("2020-02-01"));
        assert_eq!(shown(3, 10, 0).as_deref(), Some("2013-06-30"));
        assert_eq!(shown(2, 6, 32).as_deref(), Some("2009-12-03"));
        assert_eq!(shown(5, 4, 1700), None);
    }
}
