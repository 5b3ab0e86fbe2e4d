//! Histograms of durations in nanoseconds.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Significant decimal digits kept.
const DIGITS: u8 = 3;

/// An empty histogram that never clips a value. It starts small and grows with the recorded values.
pub fn empty() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("a legal number of digits")
}

/// Encodes a histogram in HdrHistogram's compressed form, version 2.
pub fn pack(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    packed.expect("a vector takes every byte");
    bytes
}

/// A packed histogram: a few hundred bytes instead of a hundred thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed(pub Vec<u8>);

/// Decodes a packed histogram; `None` if `bytes` are not from [`pack`].
pub fn try_unpack(mut bytes: &[u8]) -> Option<Histogram<u64>> {
    let mut histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes).ok()?;
    histogram.auto(true);
    Some(histogram)
}

/// Adds `count` values. Growing fails only beyond 2^63 ns, which no clock here reaches.
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

/// A histogram's summary in a report, ns.
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

/// How long messages waited. A message that was given up is *censored*: the wait until then is only
/// a lower bound, so it ranks behind all measured ones. A percentile is either measured, or falls
/// among what was given up and is a lower bound. All outputs take their percentiles of latency here.
pub struct Waits {
    measured: Histogram<u64>,
    /// Together with what was given up.
    all: Histogram<u64>,
}

/// A percentile of waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub ns: u64,
    /// It falls among messages that were given up.
    pub is_at_least: bool,
}

/// Names of the percentiles in files, and the quantiles.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999), ("max", 1.0)];

/// Whether `count` values are enough for a percentile: p99.9 of 500 would be their maximum.
pub fn is_enough(count: u64, quantile: f64) -> bool {
    let rarer = count as f64 * (1.0 - quantile);
    count > 0 && (quantile <= 0.5 || quantile >= 1.0 || rarer >= 0.9995)
}

impl Waits {
    pub fn of(measured: &Histogram<u64>, given_up: &Histogram<u64>) -> Self {
        let mut all = measured.clone();
        merge(&mut all, given_up);
        Self { measured: measured.clone(), all }
    }

    /// Nothing was given up.
    pub fn all_measured(measured: &Histogram<u64>) -> Self {
        Self::of(measured, &empty())
    }

    pub fn measured(&self) -> &Histogram<u64> {
        &self.measured
    }

    /// Messages, including those that were given up.
    pub fn count(&self) -> u64 {
        self.all.len()
    }

    /// `None` if there are too few messages for such a percentile.
    pub fn at(&self, quantile: f64) -> Option<Wait> {
        is_enough(self.count(), quantile).then(|| self.at_any_count(quantile))
    }

    /// As [`at`](Self::at), however few messages there are; 0 for none at all.
    pub fn at_any_count(&self, quantile: f64) -> Wait {
        let rank = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let (of, quantile) = match self.measured.len() {
            // Half a rank less than this one, so that rounding does not yield the next.
            measured if rank <= measured => (&self.measured, (rank as f64 - 0.5) / measured as f64),
            _ => (&self.all, quantile),
        };
        let max = if of.is_empty() { 0 } else { of.max() };
        let is_at_least = rank > self.measured.len() && !self.all.is_empty();
        Wait { ns: of.value_at_quantile(quantile).min(max), is_at_least }
    }

    /// All percentiles, and the names of those that are lower bounds.
    pub fn percentiles(&self) -> (Percentiles, Vec<String>) {
        let waits = QUANTILES.map(|(_, quantile)| self.at_any_count(quantile));
        let [p50, p90, p99, p99_9, p99_99, max] = waits.map(|wait| wait.ns);
        let names = QUANTILES.iter().zip(waits).filter(|(_, wait)| wait.is_at_least);
        let names = names.map(|((name, _), _)| (*name).to_owned()).collect();
        (Percentiles { p50, p90, p99, p99_9, p99_99, max }, names)
    }

    /// The measured waits in so many steps per halving of the distance to 100 %: the share of all
    /// messages that took no longer, the wait, the number of messages. Ends below 100 % if some
    /// were given up.
    pub fn distribution(&self, steps: u32) -> impl Iterator<Item = (f64, u64, u64)> + '_ {
        let part = self.measured.len() as f64 / self.count().max(1) as f64;
        self.measured.iter_quantiles(steps).map(move |step| {
            let ns = step.value_iterated_to();
            let count = self.measured.count_between(0, ns);
            (step.quantile_iterated_to() * part, ns, count.max(step.count_since_last_iteration()))
        })
    }
}

impl Wait {
    /// The time as `format` writes it; seconds, rounded down, if it is a lower bound of seconds.
    pub fn shown(self, format: impl Fn(u64) -> String) -> String {
        const TENTH_NS: u64 = 100_000_000;
        match self.ns / TENTH_NS {
            _ if !self.is_at_least => format(self.ns),
            0..10 => format!("≥ {}", format(self.ns)),
            tenths if tenths % 10 == 0 || tenths >= 1_000 => format!("≥ {} s", tenths / 10),
            tenths => format!("≥ {}.{} s", tenths / 10, tenths % 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// In milliseconds.
    fn shown(waits: &Waits, quantile: f64) -> String {
        let wait = waits.at(quantile);
        wait.map_or("-".to_owned(), |it| it.shown(|ns| format!("{:.1}", ns as f64 / 1e6)))
    }

    #[test]
    fn a_percentile_among_messages_that_were_given_up_is_a_lower_bound() {
        let (mut measured, mut given_up) = (empty(), empty());
        assert_eq!(Waits::of(&measured, &given_up).at(0.5), None);
        record(&mut measured, 2_000_000, 980);
        record(&mut given_up, 3_020_000_000, 20);
        let waits = Waits::of(&measured, &given_up);
        assert_eq!(
            [0.5, 0.98, 0.99, 1.0].map(|q| shown(&waits, q)),
            ["2.0", "2.0", "≥ 3 s", "≥ 3 s"]
        );
        let names = waits.percentiles().1;
        assert_eq!(names, ["p99", "p99_9", "p99_99", "max"]);
        // The connection broke at once. It is not faster than what was acknowledged.
        record(&mut given_up, 1_000_000, 1);
        assert_eq!(shown(&Waits::of(&measured, &given_up), 0.5), "2.0");
    }

    /// Some were measured as slower than others were waited for.
    #[test]
    fn what_was_measured_is_shown_beside_what_was_given_up() {
        let (mut measured, mut given_up) = (empty(), empty());
        record(&mut measured, 2_000_000, 9_800);
        record(&mut measured, 3_901_000_000, 196);
        record(&mut given_up, 3_020_000_000, 4);
        let waits = Waits::of(&measured, &given_up);
        let rows = [0.5, 0.99, 0.999, 0.9999, 1.0].map(|q| shown(&waits, q));
        assert_eq!(rows, ["2.0", "3902.8", "3902.8", "≥ 3.9 s", "≥ 3.9 s"]);
        let shares: Vec<f64> = waits.distribution(5).map(|step| step.0).collect();
        assert_eq!(shares.last(), Some(&0.9996));
    }

    #[test]
    fn nothing_acknowledged_leaves_only_lower_bounds() {
        let mut given_up = empty();
        record(&mut given_up, 12_038_000_000, 1_000);
        let waits = Waits::of(&empty(), &given_up);
        assert_eq!([0.5, 0.999, 1.0].map(|q| shown(&waits, q)), ["≥ 12 s"; 3]);
        assert_eq!(waits.percentiles().1.len(), 6);
        assert_eq!(waits.distribution(5).count(), 0);
    }

    #[test]
    fn a_percentile_needs_enough_messages() {
        let mut measured = empty();
        record(&mut measured, 2_000_000, 10);
        let waits = Waits::of(&measured, &empty());
        assert_eq!(
            [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| shown(&waits, q)),
            ["2.0", "2.0", "-", "-", "2.0"]
        );
    }
}
