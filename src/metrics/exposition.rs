//! Exposition formats for a list of metric families: OpenMetrics 1.0, encoded by `prometheus-client`, and Prometheus
//! text 0.0.4.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Families, MetricFamily, MetricKind, SampleValue};

/// `Content-Type` of [`openmetrics`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// `Content-Type` of [`prometheus`].
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics 1.0 text.
///
/// # Errors
/// None in practice: writing to a string does not fail.
pub fn openmetrics(families: Families) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Samples(families)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Samples(Families);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in self.0.iter() {
            // The library appends unit and `_total` itself.
            let name = family.metric.name.trim_end_matches("_total");
            let unit = Some(family.metric.unit).filter(|unit| !unit.is_empty());
            let stem = unit.map_or(name, |unit| name.trim_end_matches(unit).trim_end_matches('_'));
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let kind = match family.metric.kind {
                MetricKind::Gauge => MetricType::Gauge,
                MetricKind::Counter => MetricType::Counter,
            };
            let mut encoder = encoder.encode_descriptor(stem, family.metric.help, unit.as_ref(), kind)?;
            for (labels, value) in family.samples() {
                let labels: Vec<(&str, &str)> = family.metric.labels.iter().copied().zip(labels).collect();
                encode_sample(encoder.encode_family(&labels)?, family, value)?;
            }
        }
        Ok(())
    }
}

fn encode_sample(mut encoder: MetricEncoder<'_>, family: &MetricFamily, value: SampleValue) -> fmt::Result {
    match family.metric.kind {
        MetricKind::Counter => encoder.encode_counter::<[(&str, &str); 0], SampleValue, f64>(&value, None),
        MetricKind::Gauge => encoder.encode_gauge(&value),
    }
}

impl EncodeCounterValue for SampleValue {
    fn encode(&self, encoder: &mut prometheus_client::encoding::CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeCounterValue::encode(value, encoder),
            Self::Real(value) => EncodeCounterValue::encode(value, encoder),
        }
    }
}

impl EncodeGaugeValue for SampleValue {
    fn encode(&self, encoder: &mut prometheus_client::encoding::GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeGaugeValue::encode(value, encoder),
            Self::Real(value) => EncodeGaugeValue::encode(value, encoder),
        }
    }
}

/// Prometheus text 0.0.4.
pub fn prometheus(families: &Families) -> String {
    let mut out = String::with_capacity(64 << 10); // room for most
    for family in families.iter() {
        let metric = family.metric;
        // The table's help texts have no backslash or line feed; a test checks that.
        for part in ["# HELP ", metric.name, " ", metric.help, "\n# TYPE ", metric.name, " ", metric.kind.name(), "\n"]
        {
            out.push_str(part);
        }
        for (labels, value) in family.samples() {
            out.push_str(metric.name);
            for (at, (name, value)) in metric.labels.iter().zip(labels).enumerate() {
                for part in [if at == 0 { "{" } else { "," }, name, "=\""] {
                    out.push_str(part);
                }
                escape(&mut out, value);
                out.push('"');
            }
            out.push_str(if metric.labels.is_empty() { " " } else { "} " });
            let _ = match value {
                SampleValue::Whole(value) => writeln!(out, "{value}"),
                SampleValue::Real(value) => writeln!(out, "{value}"),
            };
        }
    }
    out
}

/// Appends a label value, escaped for the text formats.
fn escape(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        out.push_str(match special.as_bytes()[0] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &special[1..];
    }
    out.push_str(rest);
}
