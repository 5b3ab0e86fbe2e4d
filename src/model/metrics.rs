//! The metrics of one shard: what it counts, and how long the stages of a request take.
//!
//! Each metric is declared once, in the table below, with its name, unit and help text. Code that
//! counts adds to a field; code that shows metrics iterates over [`Metrics::samples`] and knows
//! none of them by name. The registry belongs to one shard and stays on its thread, so counting is
//! an addition to a cell. A sample is plain data and may leave the thread.
//!
//! Names, labels and units follow the conventions of Prometheus, except that durations are in
//! nanoseconds. Gauges of values that other code owns (watermarks of the log, sizes of tables) are
//! not here; their owner adds samples, as in `broker::metrics`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::model::refusal::Refusal;

/// Shorter times are recorded as this, ns.
const STAGE_NS_MIN: u64 = 1_000;
/// Longer times are recorded as this, ns.
const STAGE_NS_MAX: u64 = 60_000_000_000;
/// Significant decimal digits of a value. Two make a histogram of times of about 27 KB.
const DIGITS: u8 = 2;

/// Smaller and larger sizes are recorded as these, bytes.
const SIZE_MIN: u64 = 512;
const SIZE_MAX: u64 = 64 << 20;

/// The static description of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    pub name: &'static str,
    pub unit: &'static str,
    pub help: &'static str,
}

/// The value of a metric at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub about: Description,
    pub labels: Vec<(&'static str, String)>,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Monotonic, starts at 0 with the process.
    Counter(u64),
    Gauge(u64),
    Histogram(Histogram<u64>),
}

/// A number of events, or of bytes.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get() + count);
    }

    /// Sets a total that is counted elsewhere.
    pub fn set(&self, total: u64) {
        self.0.set(total);
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }

    fn value(&self) -> Value {
        Value::Counter(self.get())
    }
}

/// The durations of one stage.
pub type Stage = Distribution<STAGE_NS_MIN, STAGE_NS_MAX>;

/// The sizes of something.
pub type Sizes = Distribution<SIZE_MIN, SIZE_MAX>;

/// How often each value was seen. Smaller and larger ones count as the bounds.
#[derive(Debug)]
pub struct Distribution<const MIN: u64, const MAX: u64>(RefCell<Histogram<u64>>);

impl<const MIN: u64, const MAX: u64> Distribution<MIN, MAX> {
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Records `count` events with this value each.
    pub fn record_many(&self, value: u64, count: u64) {
        self.0.borrow_mut().saturating_record_n(value, count);
    }

    fn value(&self) -> Value {
        Value::Histogram(self.0.borrow().clone())
    }
}

impl<const MIN: u64, const MAX: u64> Default for Distribution<MIN, MAX> {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(MIN, MAX, DIGITS);
        Self(histogram.expect("the bounds are constants that fit each other").into())
    }
}

/// Refused requests by number and, if a number has several, by reason. Both are constants, so there
/// are few.
#[derive(Debug, Default)]
pub struct Refused(RefCell<BTreeMap<(u16, &'static str), u64>>);

impl Refused {
    pub fn add(&self, refusal: &Refusal) {
        *self.0.borrow_mut().entry((refusal.number(), refusal.reason())).or_default() += 1;
    }

    fn samples(&self, about: Description) -> Vec<Sample> {
        let sample = |(&(number, reason), &count): (&(u16, &'static str), &u64)| {
            let mut labels = vec![("code", format!("RINGMQ-{number}"))];
            if !reason.is_empty() {
                labels.push(("reason", reason.to_owned()));
            }
            Sample { about, labels, value: Value::Counter(count) }
        };
        self.0.borrow().iter().map(sample).collect()
    }
}

/// Declares the registry: one field and one row for each metric.
macro_rules! registry {
    ($($field:ident: $kind:ident, $name:literal, $unit:literal, $help:literal;)*) => {
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)*
            pub refused: Refused,
        }

        impl Metrics {
            /// All metrics with their current values.
            pub fn samples(&self) -> Vec<Sample> {
                let mut samples = vec![$(Sample {
                    about: Description { name: $name, unit: $unit, help: $help },
                    labels: Vec::new(),
                    value: self.$field.value(),
                },)*];
                samples.extend(self.refused.samples(REFUSED));
                samples
            }
        }
    };
}

const REFUSED: Description = Description {
    name: "ringmq_refused_total",
    unit: "requests",
    help: "Requests refused, by code and reason.",
};

registry! {
    messages_stored: Counter, "ringmq_messages_stored_total", "messages",
        "Messages appended for producers.";
    messages_repeated: Counter, "ringmq_messages_repeated_total", "requests",
        "Requests whose messages had been stored before, answered with the first place.";
    stored_bytes: Counter, "ringmq_stored_bytes_total", "bytes",
        "Bytes of the records appended for producers.";
    messages_pulled: Counter, "ringmq_messages_pulled_total", "messages",
        "Messages given to consumers.";
    pulled_bytes: Counter, "ringmq_pulled_bytes_total", "bytes",
        "Bytes of the records given to consumers.";
    pulls_found: Counter, "ringmq_pulls_found_total", "requests",
        "Pull requests answered with messages.";
    pulls_missed: Counter, "ringmq_pulls_missed_total", "requests",
        "Pull requests that found no message when they were tried.";
    appends: Counter, "ringmq_log_entries_total", "entries",
        "Entries appended to the log, fillers excepted.";
    payload_bytes: Counter, "ringmq_log_payload_bytes_total", "bytes",
        "Payload of those entries.";
    writes: Counter, "ringmq_log_writes_total", "writes",
        "Writes of the log that the device has completed.";
    bytes_written: Counter, "ringmq_log_written_bytes_total", "bytes",
        "Bytes of those writes: whole blocks, the last one often repeated.";
    write_size: Sizes, "ringmq_log_write_bytes", "bytes",
        "Size of one write of the log: what group commit has taken together.";
    syncs: Counter, "ringmq_log_syncs_total", "syncs",
        "Flushes of segment files to stable media.";
    connections_opened: Counter, "ringmq_connections_opened_total", "connections",
        "Connections accepted.";
    connections_closed: Counter, "ringmq_connections_closed_total", "connections",
        "Connections ended.";
    received_bytes: Counter, "ringmq_received_bytes_total", "bytes",
        "Bytes read from sockets.";
    sent_bytes: Counter, "ringmq_sent_bytes_total", "bytes",
        "Bytes that sockets took.";
    nudges: Counter, "ringmq_nudges_total", "nudges",
        "Times the shard was woken because it appeared stalled.";
    strandings: Counter, "ringmq_strandings_total", "strandings",
        "Nudges after which a silent shard resumed immediately.";
    longest_poll: Stage, "ringmq_longest_poll_ns", "ns",
        "Longest time for which one task kept the shard's thread, one value per 100 ms; committers are not counted.";
    admission_wait: Stage, "ringmq_admission_wait_ns", "ns",
        "Time that produce requests waited for room in the log, until appended or refused; others are not counted.";
    write: Stage, "ringmq_log_write_ns", "ns",
        "Time of one write of the log; with flush = sync until it is on stable media.";
    flush: Stage, "ringmq_log_flush_ns", "ns",
        "Time of one flush of all segment files with unflushed writes.";
    commit: Stage, "ringmq_commit_ns", "ns",
        "Time from reading a produce request until it was committed.";
    reply: Stage, "ringmq_reply_ns", "ns",
        "Time from then until its reply was in the socket.";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(metrics: &Metrics, name: &str) -> Vec<Sample> {
        metrics.samples().into_iter().filter(|sample| sample.about.name == name).collect()
    }

    #[test]
    fn names_are_distinct_and_say_their_unit() {
        let samples = Metrics::default().samples();
        let mut names: Vec<_> = samples.iter().map(|sample| sample.about.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), samples.len());
        for Sample { about: Description { name, unit, help }, value, .. } in samples {
            assert!(help.ends_with('.') && name.starts_with("ringmq_"), "{name}");
            let suffix = match value {
                Value::Counter(_) => "_total",
                Value::Histogram(_) if unit == "bytes" => "_bytes",
                Value::Histogram(_) => "_ns",
                Value::Gauge(_) => "",
            };
            assert!(name.ends_with(suffix), "{name}");
            assert!(unit != "bytes" || name.contains("bytes"), "{name}");
        }
    }

    #[test]
    fn refusals_count_by_code_and_reason() {
        let busy = |reason| Refusal::Busy { reason, wait_ms: 3, retry_after_ms: 50, shard: 0 };
        let metrics = Metrics::default();
        for refusal in [busy("append_queue"), Refusal::DiskFull, busy("append_queue"), busy("x")] {
            metrics.refused.add(&refusal);
        }
        let found: Vec<_> = find(&metrics, REFUSED.name)
            .into_iter()
            .map(|Sample { labels, value, .. }| {
                let labels: Vec<_> = labels.into_iter().map(|(_, text)| text).collect();
                (labels.join(" "), value)
            })
            .collect();
        let expected = [("RINGMQ-2001 append_queue", 2), ("RINGMQ-2001 x", 1), ("RINGMQ-2003", 1)];
        assert_eq!(found, expected.map(|(labels, n)| (labels.to_owned(), Value::Counter(n))));
    }

    #[test]
    fn a_stage_keeps_times_to_two_digits_and_bounds_them() {
        let metrics = Metrics::default();
        metrics.write.record_many(123_456, 99);
        metrics.write.record(u64::MAX);
        metrics.write.record(0);
        let [Sample { value: Value::Histogram(histogram), .. }] =
            &find(&metrics, "ringmq_log_write_ns")[..]
        else {
            panic!("one histogram has that name");
        };
        let median = histogram.value_at_quantile(0.5);
        assert!(median.abs_diff(123_456) < 1_235, "{median}");
        assert_eq!(histogram.len(), 101);
        assert!(histogram.max().abs_diff(STAGE_NS_MAX) < STAGE_NS_MAX / 100);
    }
}
