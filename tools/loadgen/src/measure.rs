//! What threads measure, second by second, and how it adds up.
//!
//! A thread owns one [`Recorder`]. It never shares a counter: once a second it hands over the
//! finished [`Interval`] and starts a new one.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::histogram;

/// Counts of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub due: u64,
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub not_sent: u64,
    pub received: u64,
}

impl Counters {
    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.not_sent += other.not_sent;
        self.received += other.received;
    }
}

/// What happened in one second, or in many when added up.
#[derive(Clone, Debug)]
pub struct Interval {
    pub counters: Counters,
    /// From due to acknowledged. A message that was given up counts with the time it had waited.
    pub latency: Histogram<u64>,
    /// From the send call to acknowledged.
    pub service: Histogram<u64>,
    /// From when the generator could have sent to when it did: its own lateness.
    pub slip: Histogram<u64>,
    /// From due to consumed.
    pub end_to_end: Histogram<u64>,
}

impl Default for Interval {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            latency: histogram::empty(),
            service: histogram::empty(),
            slip: histogram::empty(),
            end_to_end: histogram::empty(),
        }
    }
}

impl Interval {
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        histogram::merge(&mut self.latency, &other.latency);
        histogram::merge(&mut self.service, &other.service);
        histogram::merge(&mut self.slip, &other.slip);
        histogram::merge(&mut self.end_to_end, &other.end_to_end);
    }

    /// The histograms that hold anything, by the names they have in files.
    pub fn histograms(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        let all = [
            ("latency", &self.latency),
            ("service", &self.service),
            ("slip", &self.slip),
            ("end_to_end", &self.end_to_end),
        ];
        all.into_iter().filter(|(_, histogram)| !histogram.is_empty())
    }
}

/// One second of a run, packed: a few kilobytes where an [`Interval`] takes half a megabyte, so a
/// run of hours fits in memory.
#[derive(Clone, Debug)]
pub struct Second {
    pub number: u64,
    pub counters: Counters,
    /// The histograms that hold anything, by name, in HdrHistogram's compressed form.
    packed: Vec<(&'static str, Vec<u8>)>,
}

impl Second {
    pub fn pack(number: u64, interval: &Interval) -> Self {
        let packed = interval.histograms().map(|(name, it)| (name, histogram::pack(it))).collect();
        Self { number, counters: interval.counters, packed }
    }

    pub fn unpack(&self) -> Interval {
        let mut interval = Interval { counters: self.counters, ..Interval::default() };
        for (name, bytes) in &self.packed {
            let into = match *name {
                "latency" => &mut interval.latency,
                "service" => &mut interval.service,
                "slip" => &mut interval.slip,
                _ => &mut interval.end_to_end,
            };
            *into = histogram::unpack(bytes);
        }
        interval
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// One thread's measurements of the running second.
pub struct Recorder {
    thread: usize,
    second: u64,
    pub now: Interval,
    reports: flume::Sender<Report>,
}

/// What thread number `thread` tells the collector.
pub struct Report {
    thread: usize,
    content: Content,
}

enum Content {
    Second(u64, Box<Interval>),
    /// This thread will report no more.
    Done,
}

impl Recorder {
    pub fn new(thread: usize, reports: flume::Sender<Report>) -> Self {
        Self { thread, second: 0, now: Interval::default(), reports }
    }

    /// Hands over what belongs to an earlier second than `now_ns`.
    pub fn tick(&mut self, now_ns: u64) {
        let second = now_ns / SECOND_NS;
        if second > self.second {
            self.hand_over();
            self.second = second;
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_tick_ns(&self) -> u64 {
        (self.second + 1) * SECOND_NS
    }

    pub fn finish(mut self) {
        self.hand_over();
        self.send(Content::Done);
    }

    fn hand_over(&mut self) {
        let finished = std::mem::take(&mut self.now);
        self.send(Content::Second(self.second, Box::new(finished)));
    }

    fn send(&self, content: Content) {
        // The collector may be gone after an interruption; then nobody needs the figures.
        let _ = self.reports.send(Report { thread: self.thread, content });
    }
}

/// Puts the threads' seconds together.
pub struct Collector {
    /// The first second that each thread may still report.
    progress: Vec<u64>,
    /// Seconds not yet reported by all threads.
    open: BTreeMap<u64, Interval>,
    pub seconds: Vec<Second>,
    pub total: Interval,
}

impl Collector {
    pub fn new(threads: usize) -> Self {
        Self {
            progress: vec![0; threads],
            open: BTreeMap::new(),
            seconds: Vec::new(),
            total: Interval::default(),
        }
    }

    pub fn take(&mut self, report: Report) {
        match report.content {
            Content::Done => self.progress[report.thread] = u64::MAX,
            Content::Second(second, interval) => {
                self.progress[report.thread] = second + 1;
                self.open.entry(second).or_default().add(&interval);
                self.total.add(&interval);
            }
        }
    }

    /// The next second that no thread can add to any more, oldest first.
    pub fn next_complete(&mut self) -> Option<(u64, Interval)> {
        let (&second, _) = self.open.first_key_value()?;
        if self.progress.iter().any(|&progress| progress <= second) {
            return None;
        }
        let interval = self.open.remove(&second)?;
        self.seconds.push(Second::pack(second, &interval));
        Some((second, interval))
    }

    pub fn is_finished(&self) -> bool {
        self.progress.iter().all(|&progress| progress == u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(thread: usize, number: u64, sent: u64) -> Report {
        let counters = Counters { sent, ..Counters::default() };
        let interval = Box::new(Interval { counters, ..Interval::default() });
        Report { thread, content: Content::Second(number, interval) }
    }

    #[test]
    fn a_second_is_complete_when_no_thread_can_add_to_it() {
        let mut collector = Collector::new(2);
        let mut complete = |report| {
            collector.take(report);
            let complete = std::iter::from_fn(|| {
                collector.next_complete().map(|(second, sum)| (second, sum.counters.sent))
            });
            complete.collect::<Vec<_>>()
        };
        assert_eq!(complete(second(0, 0, 5)), []);
        assert_eq!(complete(second(1, 0, 6)), [(0, 11)]);
        assert_eq!(complete(second(0, 1, 1)), []);
        // The second thread slept through second 1.
        assert_eq!(complete(second(1, 2, 1)), [(1, 1)]);
        assert_eq!(complete(Report { thread: 0, content: Content::Done }), [(2, 1)]);
        assert_eq!(collector.total.counters.sent, 13);
        assert!(!collector.is_finished());
    }

    #[test]
    fn a_packed_second_is_small_and_whole() {
        let mut interval = Interval::default();
        interval.counters.sent = 7;
        for step in 1..5_000 {
            histogram::record(&mut interval.latency, step * 10_000, step);
            histogram::record(&mut interval.end_to_end, step * 20_000, 1);
        }
        let second = Second::pack(3, &interval);
        let size: usize = second.packed.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(size < 20_000, "{size} bytes");
        let unpacked = second.unpack();
        assert_eq!((second.number, unpacked.counters), (3, interval.counters));
        assert_eq!(unpacked.latency, interval.latency);
        assert_eq!(unpacked.end_to_end, interval.end_to_end);
        assert!(unpacked.slip.is_empty());
    }

    #[test]
    fn a_recorder_hands_over_at_each_full_second() {
        let (sender, receiver) = flume::unbounded();
        let mut recorder = Recorder::new(0, sender);
        recorder.now.counters.sent = 1;
        recorder.tick(999_999_999);
        assert!(receiver.is_empty());
        recorder.tick(3_000_000_000);
        assert!(matches!(receiver.recv().unwrap().content,
            Content::Second(0, sum) if sum.counters.sent == 1));
        assert_eq!(recorder.next_tick_ns(), 4_000_000_000);
        recorder.finish();
        assert!(matches!(receiver.recv().unwrap().content, Content::Second(3, _)));
        assert!(matches!(receiver.recv().unwrap().content, Content::Done));
    }
}
