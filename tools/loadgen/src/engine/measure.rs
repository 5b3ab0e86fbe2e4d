//! Measurements of all threads, by second and by phase.
//!
//! Each thread owns a [`Recorder`] and shares no counter. Once a second it sends its [`Interval`]s to
//! the [`Collector`] and starts new ones. Events are counted twice: in the second in which they
//! happened, for plots, and in the phase in which the message was due, for tables. So a wait that
//! starts in one phase and ends in the next counts in the phase that caused it.
//!
//! Streams and groups are *tracks*, numbered streams first ([`crate::plan::scenario`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::engine::histogram::{self, Packed, Waits};

/// Counts of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub due: u64,
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Of the unknown, those with an answer whose code leaves open whether they are stored.
    #[serde(default)]
    pub undecided: u64,
    pub not_sent: u64,
    /// Sent one-way, without a reply.
    pub one_way: u64,
    /// Requests retried after a refusal.
    pub retried: u64,
    pub received: u64,
}

impl Counters {
    /// Messages that were given up, by what happened to them.
    pub fn given_up(&self) -> impl Iterator<Item = (u64, &'static str)> {
        let silent = self.unknown.saturating_sub(self.undecided);
        let all = [
            (self.not_sent, "not sent"),
            (silent, "without an answer"),
            (self.undecided, "answered with a code that leaves the outcome open"),
        ];
        all.into_iter().filter(|(count, _)| *count > 0)
    }

    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.undecided += other.undecided;
        self.not_sent += other.not_sent;
        self.one_way += other.one_way;
        self.retried += other.retried;
        self.received += other.received;
    }
}

/// The measurements of one track in one second, or the sum of several seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    pub counters: Counters,
    /// From due to acknowledged.
    #[serde(with = "histogram::text")]
    pub latency: Histogram<u64>,
    /// From the send call to acknowledged.
    #[serde(with = "histogram::text")]
    pub service: Histogram<u64>,
    /// The generator's own lateness: from when a message could have been sent until it was sent, and
    /// from when a reply was in the socket until it was read.
    #[serde(with = "histogram::text")]
    pub lateness: Histogram<u64>,
    /// From due to consumed.
    #[serde(with = "histogram::text")]
    pub end_to_end: Histogram<u64>,
    /// From due to refused, for each refusal.
    #[serde(with = "histogram::text", default = "histogram::empty")]
    pub refused: Histogram<u64>,
    /// From due to given up, without a reply or unsent. A lower bound of the latency.
    #[serde(with = "histogram::text", default = "histogram::empty")]
    pub given_up: Histogram<u64>,
}

impl Default for Interval {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            latency: histogram::empty(),
            service: histogram::empty(),
            lateness: histogram::empty(),
            end_to_end: histogram::empty(),
            refused: histogram::empty(),
            given_up: histogram::empty(),
        }
    }
}

/// One of an interval's histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Latency,
    Service,
    /// Files call it `slip`.
    #[serde(rename = "slip")]
    Lateness,
    EndToEnd,
    Refused,
    GivenUp,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Latency,
        Self::Service,
        Self::Lateness,
        Self::EndToEnd,
        Self::Refused,
        Self::GivenUp,
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Service => "service",
            Self::Lateness => "slip",
            Self::EndToEnd => "end_to_end",
            Self::Refused => "refused",
            Self::GivenUp => "given_up",
        }
    }
}

impl Interval {
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        for kind in Kind::ALL {
            histogram::merge(self.of_mut(kind), other.of(kind));
        }
    }

    pub fn of(&self, kind: Kind) -> &Histogram<u64> {
        match kind {
            Kind::Latency => &self.latency,
            Kind::Service => &self.service,
            Kind::Lateness => &self.lateness,
            Kind::EndToEnd => &self.end_to_end,
            Kind::Refused => &self.refused,
            Kind::GivenUp => &self.given_up,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut Histogram<u64> {
        match kind {
            Kind::Latency => &mut self.latency,
            Kind::Service => &mut self.service,
            Kind::Lateness => &mut self.lateness,
            Kind::EndToEnd => &mut self.end_to_end,
            Kind::Refused => &mut self.refused,
            Kind::GivenUp => &mut self.given_up,
        }
    }

    /// Latencies, and the waits of messages that were given up.
    pub fn waits(&self) -> Waits {
        Waits::of(&self.latency, &self.given_up)
    }

    /// Adds `count` values to one histogram.
    pub fn record(&mut self, kind: Kind, value_ns: u64, count: u64) {
        histogram::record(self.of_mut(kind), value_ns, count);
    }

    /// The non-empty histograms, by their names in files.
    pub fn histograms(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        let all = Kind::ALL.into_iter().map(|kind| (kind.name(), self.of(kind)));
        all.filter(|(_, histogram)| !histogram.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.counters == Counters::default() && self.histograms().next().is_none()
    }
}

/// One second of a run, packed: a few kilobytes where [`Interval`]s take half a megabyte each, so a
/// run of hours fits in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Second {
    pub number: u64,
    /// Tracks with measurements, ascending.
    pub tracks: Vec<PackedInterval>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedInterval {
    pub track: usize,
    pub counters: Counters,
    /// The non-empty histograms.
    pub histograms: BTreeMap<Kind, Packed>,
}

impl Second {
    pub fn pack(number: u64, tracks: &[(usize, Interval)]) -> Self {
        let pack = |(track, interval): &(usize, Interval)| {
            let held = Kind::ALL.into_iter().filter(|kind| !interval.of(*kind).is_empty());
            let packed = held.map(|kind| (kind, Packed(histogram::pack(interval.of(kind)))));
            PackedInterval {
                track: *track,
                counters: interval.counters,
                histograms: packed.collect(),
            }
        };
        Self { number, tracks: tracks.iter().map(pack).collect() }
    }

    /// The intervals by track.
    pub fn unpack(&self) -> impl Iterator<Item = (usize, Interval)> + '_ {
        self.tracks.iter().map(|packed| (packed.track, packed.unpack()))
    }
}

impl PackedInterval {
    /// Skips invalid histograms: files are validated when they are read.
    pub fn unpack(&self) -> Interval {
        let mut interval = Interval { counters: self.counters, ..Interval::default() };
        for (kind, packed) in &self.histograms {
            if let Some(histogram) = histogram::try_unpack(&packed.0) {
                *interval.of_mut(*kind) = histogram;
            }
        }
        interval
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// Ends of the phases, ns, ascending. Anything due later belongs to the last phase.
#[derive(Clone, Debug)]
pub struct PhaseEnds(Arc<[u64]>);

impl PhaseEnds {
    /// # Panics
    /// If there are no phases.
    pub fn new(ends_ns: impl IntoIterator<Item = u64>) -> Self {
        let ends: Arc<[u64]> = ends_ns.into_iter().collect();
        assert!(!ends.is_empty(), "a run has a phase");
        Self(ends)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn at(&self, due_ns: u64) -> usize {
        self.0.partition_point(|end_ns| *end_ns <= due_ns).min(self.0.len() - 1)
    }
}

/// The measurements of one track, allocated on the first value: an interval takes 98 KiB or more, and a
/// thread uses few of the tracks and phases.
type Begun = Option<Box<Interval>>;

/// One thread's measurements.
pub struct Recorder {
    thread: usize,
    second: u64,
    /// The current second, by track.
    now: Vec<Begun>,
    phases: PhaseEnds,
    /// The whole run, by phase, then track. Empty if there is only one phase: its figures are the sum of
    /// the seconds.
    by_phase: Vec<Vec<Begun>>,
    reports: flume::Sender<Report>,
}

/// A report of thread number `thread` to the collector.
pub struct Report {
    thread: usize,
    content: Content,
}

enum Content {
    Second(u64, Vec<(usize, Interval)>),
    /// The thread's last report: its measurements by phase and track.
    Done(Vec<Vec<Begun>>),
}

impl Recorder {
    /// A recorder for thread number `thread` and tracks `0..tracks`.
    pub fn new(
        thread: usize,
        tracks: usize,
        phases: PhaseEnds,
        reports: flume::Sender<Report>,
    ) -> Self {
        let empty = || -> Vec<Begun> { vec![None; tracks] };
        let by_phase = match phases.count() {
            1 => Vec::new(),
            count => vec![empty(); count],
        };
        Self { thread, second: 0, now: empty(), phases, by_phase, reports }
    }

    /// Counts an event that happens now, for a message due at `due_ns`.
    pub fn count(&mut self, track: usize, due_ns: u64, count: impl Fn(&mut Counters)) {
        count(&mut self.now[track].get_or_insert_default().counters);
        if !self.by_phase.is_empty() {
            let phase = self.phases.at(due_ns);
            count(&mut self.by_phase[phase][track].get_or_insert_default().counters);
        }
    }

    /// Records a duration for `count` messages due at `due_ns`.
    pub fn record(&mut self, track: usize, due_ns: u64, kind: Kind, value_ns: u64, count: u64) {
        self.now[track].get_or_insert_default().record(kind, value_ns, count);
        if !self.by_phase.is_empty() {
            let phase = self.phases.at(due_ns);
            let interval = self.by_phase[phase][track].get_or_insert_default();
            interval.record(kind, value_ns, count);
        }
    }

    /// Sends the seconds before that of `now_ns` to the collector.
    pub fn tick(&mut self, now_ns: u64) {
        let second = now_ns / SECOND_NS;
        if second > self.second {
            self.send_second();
            self.second = second;
        }
    }

    /// When [`tick`](Self::tick) is due next.
    pub fn next_tick_ns(&self) -> u64 {
        (self.second + 1) * SECOND_NS
    }

    pub fn close(mut self) {
        self.send_second();
        let by_phase = std::mem::take(&mut self.by_phase);
        self.send(Content::Done(by_phase));
    }

    fn send_second(&mut self) {
        let all = self.now.iter_mut().enumerate();
        let finished = all.filter_map(|(track, begun)| Some((track, *begun.take()?))).collect();
        self.send(Content::Second(self.second, finished));
    }

    fn send(&self, content: Content) {
        // After an interrupt the collector may be gone, and the figures are not needed.
        let _ = self.reports.send(Report { thread: self.thread, content });
    }
}

/// Merges the threads' seconds and phases.
pub struct Collector {
    tracks: usize,
    /// The first second that each thread may still report.
    reported: Vec<u64>,
    /// Seconds not yet reported by all threads, by track.
    open: BTreeMap<u64, Vec<Interval>>,
    pub seconds: Vec<Second>,
    /// Indexed by phase, then by track.
    pub totals: Vec<Vec<Interval>>,
}

impl Collector {
    pub fn new(threads: usize, tracks: usize, phases: &PhaseEnds) -> Self {
        Self {
            tracks,
            reported: vec![0; threads],
            open: BTreeMap::new(),
            seconds: Vec::new(),
            totals: vec![vec![Interval::default(); tracks]; phases.count()],
        }
    }

    pub fn take(&mut self, report: Report) {
        match report.content {
            Content::Done(by_phase) => {
                self.reported[report.thread] = u64::MAX;
                for (into, from) in self.totals.iter_mut().zip(by_phase) {
                    for (into, from) in into.iter_mut().zip(from) {
                        from.iter().for_each(|from| into.add(from));
                    }
                }
            }
            Content::Second(second, intervals) => {
                self.reported[report.thread] = second + 1;
                let empty = || vec![Interval::default(); self.tracks];
                let open = self.open.entry(second).or_insert_with(empty);
                for (track, interval) in &intervals {
                    open[*track].add(interval);
                    if self.totals.len() == 1 {
                        self.totals[0][*track].add(interval);
                    }
                }
            }
        }
    }

    /// The oldest second that all threads have reported, by track.
    pub fn next_complete(&mut self) -> Option<(u64, Vec<Interval>)> {
        let (&second, _) = self.open.first_key_value()?;
        if self.reported.iter().any(|&next| next <= second) {
            return None;
        }
        let intervals = self.open.remove(&second)?;
        let used = intervals.iter().cloned().enumerate().filter(|(_, it)| !it.is_empty());
        self.seconds.push(Second::pack(second, &used.collect::<Vec<_>>()));
        Some((second, intervals))
    }

    pub fn is_finished(&self) -> bool {
        self.reported.iter().all(|&next| next == u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_phase() -> PhaseEnds {
        PhaseEnds::new([1_000])
    }

    fn second(thread: usize, number: u64, sent: u64) -> Report {
        let counters = Counters { sent, ..Counters::default() };
        let interval = Interval { counters, ..Interval::default() };
        Report { thread, content: Content::Second(number, vec![(0, interval)]) }
    }

    #[test]
    fn a_second_is_complete_when_no_thread_can_add_to_it() {
        let mut collector = Collector::new(2, 1, &one_phase());
        let mut complete = |report| {
            collector.take(report);
            let complete = std::iter::from_fn(|| {
                collector.next_complete().map(|(second, sum)| (second, sum[0].counters.sent))
            });
            complete.collect::<Vec<_>>()
        };
        assert_eq!(complete(second(0, 0, 5)), []);
        assert_eq!(complete(second(1, 0, 6)), [(0, 11)]);
        assert_eq!(complete(second(0, 1, 1)), []);
        // The second thread slept through second 1.
        assert_eq!(complete(second(1, 2, 1)), [(1, 1)]);
        let done = Content::Done(Vec::new());
        assert_eq!(complete(Report { thread: 0, content: done }), [(2, 1)]);
        assert_eq!(collector.totals[0][0].counters.sent, 13);
        assert!(!collector.is_finished());
    }

    #[test]
    fn a_packed_second_is_small_and_whole() {
        let mut interval = Interval::default();
        interval.counters.sent = 7;
        for step in 1..5_000 {
            interval.record(Kind::Latency, step * 10_000, step);
            interval.record(Kind::EndToEnd, step * 20_000, 1);
        }
        let second = Second::pack(3, &[(2, interval.clone())]);
        let text = serde_json::to_string(&second).unwrap();
        assert!(text.len() < 25_000, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Second>(&text).unwrap(), second);
        let unpacked: Vec<_> = second.unpack().collect();
        let (track, unpacked) = &unpacked[0];
        assert_eq!((second.number, *track, unpacked.counters), (3, 2, interval.counters));
        assert_eq!(unpacked.latency, interval.latency);
        assert_eq!(unpacked.end_to_end, interval.end_to_end);
        assert!(unpacked.lateness.is_empty());
    }

    #[test]
    fn a_recorder_hands_over_at_each_full_second() {
        let (sender, receiver) = flume::unbounded();
        let mut recorder = Recorder::new(0, 2, one_phase(), sender);
        recorder.count(1, 0, |counters| counters.sent += 1);
        recorder.tick(999_999_999);
        assert!(receiver.is_empty());
        recorder.tick(3_000_000_000);
        assert!(matches!(&receiver.recv().unwrap().content,
            Content::Second(0, sum) if sum.len() == 1 && sum[0].1.counters.sent == 1));
        assert_eq!(recorder.next_tick_ns(), 4_000_000_000);
        recorder.close();
        assert!(matches!(receiver.recv().unwrap().content, Content::Second(3, _)));
        assert!(matches!(receiver.recv().unwrap().content, Content::Done(_)));
    }

    /// Otherwise sixty groups in a run of hours would take gigabytes for empty histograms.
    #[test]
    fn a_thread_holds_only_what_it_measures() {
        let phases = PhaseEnds::new([1_000, 2_000, 3_000]);
        let mut recorder = Recorder::new(0, 64, phases, flume::unbounded().0);
        let begun = |recorder: &Recorder| {
            recorder.by_phase.iter().chain([&recorder.now]).flatten().flatten().count()
        };
        assert_eq!(begun(&recorder), 0);
        recorder.record(7, 1_500, Kind::EndToEnd, 50, 1);
        recorder.count(7, 1_500, |counters| counters.received += 1);
        assert_eq!(begun(&recorder), 2, "the running second, and one phase");
        recorder.tick(1_000_000_000);
        assert_eq!(begun(&recorder), 1);
    }

    /// A message counts in the phase in which it was due, whenever its reply arrives.
    #[test]
    fn waits_belong_to_the_phase_that_caused_them() {
        let phases = PhaseEnds::new([1_000, 2_000, 3_000]);
        let (sender, receiver) = flume::unbounded();
        let mut recorder = Recorder::new(0, 1, phases.clone(), sender);
        for due_ns in [0, 999, 1_000, 2_500, 9_000] {
            recorder.record(0, due_ns, Kind::Latency, 50, 1);
            recorder.count(0, due_ns, |counters| counters.acknowledged += 1);
        }
        recorder.close();
        let mut collector = Collector::new(1, 1, &phases);
        receiver.try_iter().for_each(|report| collector.take(report));
        let found: Vec<_> = collector.totals.iter().map(|phase| phase[0].latency.len()).collect();
        assert_eq!(found, [2, 1, 2]);
        assert_eq!(collector.totals[2][0].counters.acknowledged, 2);
    }
}
