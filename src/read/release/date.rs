//! Build date in `uname -v`: `Tue Mar 17 23:49:17 UTC 2020` (`date`), `Thu, 04 Jan 2024 10:03:45 +0000` (`date -R`),
//! `Wed Aug 9 2023`, `2021-09-30`, anywhere in the text.

use jiff::civil::Date;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Names of UTC. Other zone names are ambiguous (CST is in America and in China).
const UTC: [&str; 6] = ["UTC", "GMT", "-00", "+00", "+0000", "-0000"];

/// Maximum number of words between day and year: time, AM or PM, zone.
const BETWEEN: usize = 3;

/// Constant dates that build systems write into every kernel, here Yocto's; no kernel was built on that day.
const MADE_UP: [(i16, i8, i8); 1] = [(2018, 3, 9)];

/// Latest possible build date in UTC of a kernel with this `uname -v`: the day after the given one unless it is known
/// to be in UTC. `None`: no date, a truncated one (the kernel cuts the line at 64 bytes), or a constant one.
pub(super) fn built(build_line: &str) -> Option<Date> {
    let words: Vec<&str> =
        build_line.split(|c: char| c.is_whitespace() || "(),".contains(c)).filter(|word| !word.is_empty()).collect();
    let day = (0..words.len()).find_map(|at| iso(words[at]).or_else(|| around_month(&words, at)))?;
    if MADE_UP.contains(&(day.year(), day.month(), day.day())) {
        return None;
    }
    let is_utc = words.iter().any(|word| UTC.contains(word) || iso(word).is_some() && word.ends_with('Z'));
    if is_utc { Some(day) } else { day.tomorrow().ok() }
}

/// `2021-09-30`, `2024-08-05T16:17Z`
fn iso(word: &str) -> Option<Date> {
    let (date, rest) = word.split_at_checked(10)?;
    let ends = !rest.starts_with(|c: char| c.is_ascii_alphanumeric() && c != 'T');
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let shaped = year.len() == 4 && month.len() == 2 && day.len() == 2;
    let date = Date::new(number(year)?, number(month)?.try_into().ok()?, number(day)?.try_into().ok()?).ok();
    date.filter(|_| ends && shaped)
}

/// `Mar 17 23:49:17 UTC 2020`, `Aug 9 2023`, `04 Jan 2024`, with the month at `at`.
fn around_month(words: &[&str], at: usize) -> Option<Date> {
    let month = MONTHS.iter().position(|month| *month == words[at])?;
    let day = |at: usize| words.get(at).filter(|word| word.len() <= 2).and_then(|word| number(word));
    let year = |at: usize| words.get(at).filter(|word| word.len() == 4).and_then(|word| number(word));
    let (day, year) = match (day(at + 1), at.checked_sub(1).and_then(day)) {
        (Some(day), _) => (day, (at + 2..=at + 2 + BETWEEN).find_map(year)?),
        (None, Some(day)) => (day, year(at + 1)?),
        (None, None) => return None,
    };
    Date::new(year, i8::try_from(month + 1).ok()?, day.try_into().ok()?).ok()
}

/// Digits only; `parse` would accept the sign of a zone.
fn number(text: &str) -> Option<i16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_all_the_forms_in_use() {
        for (build_line, wanted) in [
            ("#1 SMP Tue Mar 17 23:49:17 UTC 2020", "2020-03-17"),
            ("#1 SMP PREEMPT_DYNAMIC Thu, 04 Jan 2024 10:03:45 +0000", "2024-01-04"),
            ("#1 SMP Mon Jun 8 23:15:30 -00 2020", "2020-06-08"),
            ("#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-1 (2024-08-05T16:17Z)", "2024-08-05"),
            ("#1-NixOS SMP Tue Jan  1 00:00:00 UTC 1980", "1980-01-01"), // decide() knows better than to believe it
            ("#1 SMP Thu Jan  1 00:00:00 UTC 1970", "1970-01-01"),
            // a day later where the zone is not known to be UTC
            ("#1 SMP Fri Mar 20 20:18:23 PDT 2020", "2020-03-21"),
            ("#1 SMP Thu Nov 18 15:02:11 CST 2021", "2021-11-19"),
            ("#1 SMP Wed Aug 9 2023", "2023-08-10"),
            ("#42962 SMP Tue Feb  8 2022", "2022-02-09"),
            ("#1 SMP Debian 5.10.70-1 (2021-09-30)", "2021-10-01"),
            ("#1 SMP PVE 5.3.18-3 (Tue, 17 Mar 2020 16:33:19 +0100)", "2020-03-18"),
            ("#1 SMP Wed Apr 28 10:54:41 UTC 2021 (ba3c2e9)", "2021-04-28"),
            ("#0 SMP Sun Mar 8 16:33:41 2020", "2020-03-09"), // OpenWrt
            ("#1642 SMP PREEMPT Mon Apr  3 17:24:16 BST 2023", "2023-04-04"),
            ("#1 SMP Thu 04 Jan 2024 10:03:45 AM EST", "2024-01-05"),
            ("#1 SMP Thu Jan 4 10:03:45 AM UTC 2024", "2024-01-04"),
            ("#202003251131 SMP Wed Mar 25 15:35:01 UTC 2020", "2020-03-25"),
            ("#1 SMP Sat Feb 29 00:00:00 UTC 2020", "2020-02-29"),
        ] {
            assert_eq!(built(build_line).map(|date| date.to_string()).as_deref(), Some(wanted), "{build_line}");
        }
        for build_line in [
            "",
            "#1 SMP",
            "#1-photon SMP",
            "#1 SMP Tue Mar 17 23:49:17 UTC 20", // cut
            "#1 SMP Tue Mar 17 23:49:17 UTC",
            "#1 SMP Tue Mar",
            "#1 SMP Tue Mar 99 23:49:17 UTC 2020",
            "#1 SMP Sat Feb 30 23:49:17 UTC 2020",
            "#1 SMP 17 UTC 2020",
            "#1 SMP Debian 5.10.70-1 (2021-13-30)",
            "#1 SMP 2021-09-301",
            "#1 SMP 20210-9-30",
            "#1 SMP +021-09-30",
            "#1 SMP Debian 2021-09-3é",
            "#1 SMP PREEMPT Fri Mar 9 12:34:56 UTC 2018", // what Yocto writes for every kernel
        ] {
            assert_eq!(built(build_line), None, "{build_line}");
        }
    }
}
