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

/// How long messages waited. Messages that were given up are *censored*: the wait until then is only a
/// lower bound.
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
    /// The time as `format` writes it; whole seconds if it is only a lower bound.
    pub fn shown(self, format: impl Fn(u64) -> String) -> String {
        const SECOND_NS: u64 = 1_000_000_000;
        match self.ns {
            ns if !self.is_at_least => format(ns),
            ns if ns >= SECOND_NS => format!("≥ {} s", ns / SECOND_NS),
            ns => format!("≥ {}", format(ns)),
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
        // The connection broke immediately, so the latency of its replies is unknown.
        record(&mut given_up, 1_000_000, 1);
        assert_eq!(shown(&Waits::of(&measured, &given_up))[0], "≥ 2.0");
    }
}
