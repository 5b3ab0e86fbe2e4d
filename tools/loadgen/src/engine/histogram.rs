//! Histograms of durations in nanoseconds, and the files that HdrHistogram's own tools read.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::engine::measure::Second;

/// Significant decimal digits kept.
const DIGITS: u8 = 3;
/// The files show milliseconds; what they hold is nanoseconds.
const NS_PER_SHOWN: f64 = 1e6;

/// An empty histogram that never clips a value. Small at first: it grows with what it takes.
pub fn empty() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("a legal number of digits")
}

/// In HdrHistogram's compressed form, version 2.
pub fn pack(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    packed.expect("a vector takes every byte");
    bytes
}

/// A packed histogram, a few hundred bytes where an open one takes a hundred thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed(pub Vec<u8>);

/// `None` when `bytes` are not from [`pack`].
pub fn try_unpack(mut bytes: &[u8]) -> Option<Histogram<u64>> {
    let mut histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes).ok()?;
    histogram.auto(true);
    Some(histogram)
}

/// Adds `count` values. Growing can fail only beyond 2^63 ns, which no clock here reaches.
pub fn record(histogram: &mut Histogram<u64>, value_ns: u64, count: u64) {
    histogram.record_n(value_ns, count).expect("a histogram that grows takes every duration");
}

pub fn merge(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.add(from).expect("a histogram that grows takes every other");
}

/// Histograms and packed bytes as text in JSON: HdrHistogram's compressed form in base 64.
pub mod text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::Histogram;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{Packed, pack, try_unpack};

    pub fn serialize<S: Serializer>(
        histogram: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = if histogram.is_empty() { Vec::new() } else { pack(histogram) };
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Histogram<u64>, D::Error> {
        let packed = Packed::deserialize(deserializer)?;
        if packed.0.is_empty() {
            return Ok(super::empty());
        }
        try_unpack(&packed.0).ok_or_else(|| de::Error::custom("not a histogram"))
    }

    impl Serialize for Packed {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&STANDARD.encode(&self.0))
        }
    }

    impl<'de> Deserialize<'de> for Packed {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            STANDARD.decode(text).map(Packed).map_err(de::Error::custom)
        }
    }
}

/// What a report says of a histogram, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        // An equivalent range of values counts as its highest; never more than what was recorded.
        let max = if histogram.is_empty() { 0 } else { histogram.max() };
        let at = |quantile| histogram.value_at_quantile(quantile).min(max);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max,
        }
    }
}

/// How long messages waited. Those that were given up are *censored*: each waited at least as long
/// as it had by then, and nobody knows how much longer it would have.
pub struct Waits {
    all: Histogram<u64>,
    given_up: Histogram<u64>,
}

/// A percentile of waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub ns: u64,
    /// Messages with shorter waits were given up, so the percentile may be higher.
    pub is_at_least: bool,
}

impl Waits {
    pub fn of(measured: &Histogram<u64>, given_up: &Histogram<u64>) -> Self {
        let mut all = measured.clone();
        merge(&mut all, given_up);
        Self { all, given_up: given_up.clone() }
    }

    pub fn all(&self) -> &Histogram<u64> {
        &self.all
    }

    /// `None` for no waits at all.
    pub fn at(&self, quantile: f64) -> Option<Wait> {
        let ns = self.all.value_at_quantile(quantile).min(self.all.max());
        let is_at_least = self.given_up.count_between(0, ns) > 0;
        (!self.all.is_empty()).then_some(Wait { ns, is_at_least })
    }
}

impl Wait {
    /// The time as `format` writes it; whole seconds where it is no more than a lower bound.
    pub fn shown(self, format: impl Fn(u64) -> String) -> String {
        const SECOND_NS: u64 = 1_000_000_000;
        match self.ns {
            ns if !self.is_at_least => format(ns),
            ns if ns >= SECOND_NS => format!("≥ {} s", ns / SECOND_NS),
            ns => format!("≥ {}", format(ns)),
        }
    }
}

/// Writes one histogram per second, track and kind as an HdrHistogram interval log, version 1.3:
/// one line each, tagged `TRACK.KIND`, compressed V2 inside. A run with one stream has no track in
/// its tags.
pub fn write_interval_log(
    out: &mut impl Write,
    begin: SystemTime,
    comment: &str,
    tracks: &[String],
    seconds: &[Second],
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(comment).with_start_time(begin).with_base_time(begin);
    builder.with_max_value_divisor(NS_PER_SHOWN);
    let mut log = builder.begin_log_with(out, &mut serializer)?;
    for second in seconds {
        for (track, interval) in second.unpack() {
            for (kind, histogram) in interval.histograms() {
                let text = match tracks.get(track) {
                    Some(name) => format!("{name}.{kind}"),
                    None => kind.to_owned(),
                };
                let tag = Tag::new(&text).expect("names have no spaces or commas");
                let (start, length) = (Duration::from_secs(second.number), Duration::from_secs(1));
                log.write_histogram(histogram, start, length, Some(tag))
                    .map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

/// Writes the percentile distribution as HdrHistogram's plotters expect it, in milliseconds, five
/// steps per halving of the distance to 100 %.
///
/// Messages that were given up have no latency; how many they are stands at the end.
pub fn write_distribution(
    out: &mut impl Write,
    histogram: &Histogram<u64>,
    given_up: u64,
) -> io::Result<()> {
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let shown = |value_ns: u64| value_ns as f64 / NS_PER_SHOWN;
    for value in histogram.iter_quantiles(5) {
        let quantile = value.quantile_iterated_to();
        let count = value.count_since_last_iteration();
        let total = histogram.count_between(0, value.value_iterated_to()).max(count);
        write!(out, "{:12.6} {quantile:2.12} {total:10}", shown(value.value_iterated_to()))?;
        if quantile < 1.0 {
            writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out)?;
        }
    }
    let (mean, deviation) = (histogram.mean() / NS_PER_SHOWN, histogram.stdev() / NS_PER_SHOWN);
    writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
    let max = if histogram.is_empty() { 0 } else { histogram.max() };
    writeln!(out, "#[Max     = {:12.6}, Total count    = {:12}]", shown(max), histogram.len())?;
    let buckets = (64 - histogram.high().leading_zeros()).saturating_sub(10).max(1);
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2048)?;
    writeln!(out, "#[Given up = {given_up:11}]")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::engine::measure::Interval;

    #[test]
    fn a_histogram_takes_any_duration_and_reports_no_more_than_it_took() {
        let mut histogram = empty();
        assert_eq!(Percentiles::of(&histogram), Percentiles::default());
        record(&mut histogram, 1_000, 99);
        record(&mut histogram, 3_600_000_000_000, 1);
        let percentiles = Percentiles::of(&histogram);
        assert_eq!((percentiles.p50, percentiles.p99), (1_000, 1_000));
        assert!(percentiles.p99_9 == percentiles.max && percentiles.max >= 3_600_000_000_000);
    }

    #[test]
    fn a_percentile_among_messages_that_were_given_up_is_a_lower_bound() {
        let (mut measured, mut given_up) = (empty(), empty());
        assert_eq!(Waits::of(&measured, &given_up).at(0.5), None);
        record(&mut measured, 2_000_000, 980);
        record(&mut given_up, 3_020_000_000, 20);
        let shown = |waits: &Waits| {
            let shown = |q| waits.at(q).unwrap().shown(|ns| format!("{:.1}", ns as f64 / 1e6));
            [0.5, 0.98, 0.99, 1.0].map(shown)
        };
        assert_eq!(shown(&Waits::of(&measured, &given_up)), ["2.0", "2.0", "≥ 3 s", "≥ 3 s"]);
        // Of a connection that broke at once nobody knows how long the answers would have taken.
        record(&mut given_up, 1_000_000, 1);
        assert_eq!(shown(&Waits::of(&measured, &given_up))[0], "≥ 2.0");
    }

    /// The log is read back with the library's own reader: values, seconds and tags survive.
    #[test]
    fn an_interval_log_can_be_read_back() {
        let mut interval = Interval::default();
        record(&mut interval.latency, 1_500_000, 7);
        record(&mut interval.slip, 2_000, 3);
        let mut text = Vec::new();
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let seconds =
            [Second::pack(0, &[(0, Interval::default())]), Second::pack(4, &[(1, interval)])];
        let tracks = ["orders".to_owned(), "payments".to_owned()];
        write_interval_log(&mut text, begin, "test", &tracks, &seconds).unwrap();

        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&text) {
            let LogEntry::Interval(line) = entry.unwrap() else { continue };
            let packed = STANDARD.decode(line.encoded_histogram()).unwrap();
            let read: Histogram<u64> =
                Deserializer::new().deserialize(&mut packed.as_slice()).unwrap();
            let tag = line.tag().unwrap().as_str().to_owned();
            found.push((line.start_timestamp().as_secs(), tag, read.len()));
        }
        let line = |tag: &str, count| (4, tag.to_owned(), count);
        assert_eq!(found, [line("payments.latency", 7), line("payments.slip", 3)]);
    }

    #[test]
    fn a_distribution_as_written() {
        let mut histogram = empty();
        record(&mut histogram, 1_000_000, 3);
        record(&mut histogram, 2_000_000, 1);
        let mut text = Vec::new();
        write_distribution(&mut text, &histogram, 7).unwrap();
        let text = String::from_utf8(text).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.nth(1), Some("    1.000447 0.000000000000          3           1.00"));
        assert!(text.contains("\n    2.000895 1.000000000000          4\n"), "{text}");
        assert!(text.contains("Total count    =            4]\n"), "{text}");
        assert!(text.ends_with("#[Given up =           7]\n"), "{text}");
    }
}
