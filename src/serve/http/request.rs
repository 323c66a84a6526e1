//! Parameters of a request: timeout, accepted formats and encodings, collectors.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};

use crate::facts::Collector;
use crate::read::Collectors;

/// How long a request waits for a reading unless the scraper sends its timeout.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Subtracted from the scraper's timeout for network latency, as other exporters do.
const TIMEOUT_OFFSET: Duration = Duration::from_millis(500);

/// How long this scraper waits (`X-Prometheus-Scrape-Timeout-Seconds`).
pub(crate) fn patience(headers: &HeaderMap) -> Duration {
    let seconds =
        headers.get("x-prometheus-scrape-timeout-seconds").and_then(|value| value.to_str().ok()?.parse().ok());
    let Some(timeout) =
        seconds.filter(|seconds: &f64| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    else {
        return PATIENCE;
    };
    timeout.saturating_sub(TIMEOUT_OFFSET.min(timeout / 2)).min(crate::serve::refresh::MAX_READING)
}

/// Collectors selected by `collect[]` or `exclude[]`, with node_exporter's wording and rules.
pub(crate) fn chosen(query: &[(String, String)], on: &Collectors) -> Result<Vec<Collector>, String> {
    let named = |key: &str| {
        let names = query.iter().filter(|(name, _)| name == key).map(|(_, value)| match Collector::from_name(value) {
            Some(collector) if on.contains(&collector) => Ok(collector),
            Some(_) => Err(format!("disabled collector: {value}")),
            None => Err(format!("missing collector: {value}")),
        });
        names.collect::<Result<Vec<_>, _>>()
    };
    let (collect, exclude) = (named("collect[]")?, named("exclude[]")?);
    match (collect.is_empty(), exclude.is_empty()) {
        (false, false) => Err("Combined collect and exclude queries are not allowed.".into()),
        (false, true) => Ok(collect),
        (true, _) => Ok(on.iter().copied().filter(|collector| !exclude.contains(collector)).collect()),
    }
}

/// An item of an Accept header (RFC 9110, 12.5).
struct Taken<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Taken<'a> {
    fn parse(range: &'a str) -> Self {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        Self { name, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let found = self.parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().trim_matches('"'))
    }

    /// The `q` parameter; 0: not acceptable.
    fn quality(&self) -> f32 {
        self.parameter("q").map_or(1.0, |quality| quality.parse().unwrap_or(0.0))
    }
}

/// The items of an Accept header, in order.
fn taken(headers: &HeaderMap, header: HeaderName) -> Vec<Taken<'_>> {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(Taken::parse).collect()
}

/// Whether OpenMetrics is accepted in a supported version, with at least the preference of text.
pub(crate) fn prefers_openmetrics(headers: &HeaderMap) -> bool {
    let (mut openmetrics, mut text) = (0.0f32, 0.0f32);
    for taken in taken(headers, header::ACCEPT) {
        let (quality, version) = (taken.quality(), taken.parameter("version"));
        if taken.is("application/openmetrics-text") && matches!(version, None | Some("1.0.0" | "0.0.1")) {
            openmetrics = openmetrics.max(quality);
        } else if taken.is("text/plain") && matches!(version, None | Some("0.0.4")) {
            text = text.max(quality);
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

/// Whether HTML is accepted, as browsers do.
pub(crate) fn takes_html(headers: &HeaderMap) -> bool {
    taken(headers, header::ACCEPT).iter().any(|taken| taken.is("text/html"))
}

/// Whether gzip is listed as accepted, other than with q=0.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let encodings = taken(headers, header::ACCEPT_ENCODING);
    let of = |name: &str| encodings.iter().find(|taken| taken.is(name)).map(Taken::quality);
    of("gzip").or(of("x-gzip")).or(of("*")).is_some_and(|quality| quality > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        prefers_openmetrics(&headers)
    }

    #[test]
    fn real_scrapers_get_what_they_prefer() {
        // Prometheus 2.42
        assert!(accept(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        // Prometheus 3
        assert!(accept(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        assert!(!accept("text/plain;version=0.0.4;q=1,*/*;q=0.1"), "VictoriaMetrics");
        assert!(!accept("*/*"), "curl");
        assert!(!accept("application/openmetrics-text;version=2.0.0"), "a version that is not served");
        assert!(!accept("application/openmetrics-text;q=0, text/plain"));
        assert!(!accept("text/plain;q=0.9,application/openmetrics-text;q=0.1"));
        assert!(!prefers_openmetrics(&HeaderMap::new()));
    }

    #[test]
    fn collectors_are_chosen_by_node_exporters_rules() {
        let on = [Collector::Conntrack, Collector::Links].into();
        let ask = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            chosen(&pairs, &on)
        };
        assert_eq!(ask(&[]), Ok(vec![Collector::Conntrack, Collector::Links]));
        assert_eq!(ask(&[("collect[]", "links")]), Ok(vec![Collector::Links]));
        assert_eq!(ask(&[("exclude[]", "links")]), Ok(vec![Collector::Conntrack]));
        assert!(ask(&[("collect[]", "netstat")]).unwrap_err().contains("disabled"));
        assert!(ask(&[("collect[]", "nonsense")]).unwrap_err().contains("missing"));
        assert!(ask(&[("collect[]", "links"), ("exclude[]", "links")]).is_err());
    }

    #[test]
    fn the_scrapers_timeout_is_kept_with_room_to_answer() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-prometheus-scrape-timeout-seconds", value.parse().unwrap());
            patience(&headers)
        };
        assert_eq!(with("10"), Duration::from_millis(9500));
        assert_eq!(with("0.4"), Duration::from_millis(200));
        for nonsense in ["0", "-1", "NaN", "inf", "soon"] {
            assert_eq!(with(nonsense), PATIENCE, "{nonsense}");
        }
        assert_eq!(with("1e9"), crate::serve::refresh::MAX_READING);
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let with = |value: &str| takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value.parse().unwrap())]));
        for taken in ["gzip", "deflate, gzip;q=0.5", "GZIP", "*", "identity;q=0, *;q=0.1", "x-gzip"] {
            assert!(with(taken), "{taken}");
        }
        for refused in ["", "identity", "gzip;q=0", "gzip; q=0.0", "*;q=0", "br", "gzip;q=0, *"] {
            assert!(!with(refused), "{refused}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
