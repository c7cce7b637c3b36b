//! The texts that are scraped: OpenMetrics, as the library writes it, and the older text format made of that.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    catalogue::Kind,
    families,
    family::{Read, Sample, Value},
};

/// In which form metrics are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, for whoever does not ask for the other.
    Text,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What the value of `Accept` (RFC 9110 §12.5.1) asks for: OpenMetrics where that is named and liked at least as much as
    /// anything else, the text format in all other cases.
    pub fn accepted(accept: Option<&str>) -> Self {
        let mut open_metrics = 0.0;
        let mut other: f64 = 0.0;
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let mut quality = 1.0;
            let mut is_known = true;
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.to_ascii_lowercase().as_str() {
                    "q" => quality = value.parse().unwrap_or(0.0),
                    "version" => is_known = matches!(value.trim_matches('"'), "1.0.0" | "0.0.1"),
                    _ => {}
                }
            }
            if !media.eq_ignore_ascii_case(OPEN_METRICS) {
                other = other.max(quality);
            } else if is_known {
                open_metrics = f64::max(open_metrics, quality);
            }
        }
        if open_metrics > 0.0 && open_metrics >= other { Self::OpenMetrics } else { Self::Text }
    }
}

/// The text of what was read.
pub fn encode(read: Vec<Read>, format: Format) -> String {
    let mut by_prefix: BTreeMap<&'static str, Vec<Read>> = BTreeMap::new();
    for read in read {
        by_prefix.entry(read.family.prefix).or_default().push(read);
    }
    let mut out = String::new();
    for (prefix, read) in by_prefix {
        let mut registry = Registry::with_prefix(prefix);
        registry.register_collector(Box::new(Scrape(read)));
        // Only writing fails, and writing to a string does not.
        let _ = text::encode_registry(&mut out, &registry);
    }
    let _ = text::encode_eof(&mut out);
    match format {
        Format::OpenMetrics => out,
        Format::Text => classic(&out),
    }
}

#[derive(Debug)]
struct Scrape(Vec<Read>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Read { family, samples } in &self.0 {
            let unit = family.unit.map(super::family::Measure::unit);
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            for Sample { labels, value } in samples {
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
                if family.kind == Kind::Info {
                    metric.encode_info(&labels)?;
                } else if labels.is_empty() {
                    encode_value(&mut metric, family.kind, value)?;
                } else {
                    encode_value(&mut metric.encode_family(&labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (value, kind) {
        (Value::Whole(number), Kind::Counter) => metric.encode_counter::<NoLabelSet, _, u64>(number, None),
        (Value::Fraction(number), Kind::Counter) => metric.encode_counter::<NoLabelSet, _, f64>(number, None),
        (Value::Whole(number), _) => metric.encode_gauge(number),
        (Value::Fraction(number), _) => metric.encode_gauge(number),
        (Value::Distribution { sum, count, buckets }, _) => {
            metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
        }
    }
}

/// The text format 0.0.4 of an OpenMetrics text of ours. There a family has the name of its series, there is no type `info`, and
/// neither units nor an end.
fn classic(open_metrics: &str) -> String {
    let known: BTreeMap<String, Kind> = families().map(|family| (family.open_name(), family.kind)).collect();
    let mut out = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(word @ ("HELP" | "TYPE")), Some(name), rest) => {
                let kind = known.get(name).copied().unwrap_or(Kind::Gauge);
                let rest = match (word, kind) {
                    ("TYPE", Kind::Info) => Kind::Gauge.name(),
                    _ => rest.unwrap_or_default(),
                };
                out.extend(["# ", word, " ", name, kind.suffix(), " ", rest]);
            }
            (Some("#"), ..) => continue,
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
