//! What a run found: a plain value that is written whole into `report.json`, so that a page, a
//! comparison and the joining of parts need nothing else.
//!
//! The verdict is worked out here and nowhere else. Not here: the text ([`crate::findings::summary`]), the
//! page ([`crate::show::page`]), the keys that scripts read ([`crate::findings::document`]).

use std::fmt::{self, Display};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::audit::Audit;
use crate::engine::histogram::{self, Percentiles};
use crate::engine::measure::{Counters, Interval, Kind, Second};
use crate::findings::document::Verdict;
use crate::findings::rows::Row;
use crate::options::Part;
use crate::plan::scenario::{Asked, Pause, Phase};
use crate::units::grouped;

/// A generator whose own lateness exceeds this in one of a hundred sends measures itself.
pub const SLIP_P99_MAX_NS: u64 = 1_000_000;

/// What was run on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// What was asked for, such as `steady` or `double11 pulse`.
    pub name: String,
    /// One line: what was sent.
    pub load: String,
    /// One line: where it went.
    pub target: String,
    pub seed: u64,
    pub part: Part,
    /// The same for all parts of one run, and for runs with the same schedule.
    pub schedule: String,
    /// Machine, versions and options, for whoever repeats the run.
    pub environment: Map<String, Value>,
    /// What is assumed where nothing is on record, and what stands in for what.
    pub assumptions: Vec<String>,
}

/// Whose messages, or whose consuming, is measured apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Track {
    pub name: String,
    /// One sentence for a reader who has never run a broker.
    pub role: String,
    pub kind: TrackKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackKind {
    Stream(StreamFacts),
    Group(GroupFacts),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamFacts {
    pub topics: Vec<String>,
    pub header: String,
    pub message_size_mean: f64,
    pub batch: u32,
    pub connections: u32,
    pub in_flight: u32,
    pub is_ordered: bool,
    pub is_one_way: bool,
    pub stands_in_for: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupFacts {
    /// Tracks of the streams it takes.
    pub streams: Vec<usize>,
    /// Messages per second it takes while messages are due; `None`: all it can.
    pub rate: Option<f64>,
    pub pauses: Vec<Pause>,
}

/// What one group received of one stream, reconciled with what was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Track of the group, and of the stream.
    pub group: usize,
    pub stream: usize,
    pub audit: Audit,
}

/// What one group received that cannot be told whose it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unattributed {
    /// Track of the group.
    pub group: usize,
    /// Messages of a load generator with a wrong checksum.
    pub corrupted: u64,
    /// Messages of others, and of other runs.
    pub foreign: u64,
}

/// Requests of one stream that were answered with a code other than success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub stream: usize,
    pub code: i32,
    /// The remark, as far as it is the same for many answers.
    pub reason: String,
    pub requests: u64,
}

/// A fault as it was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultMark {
    pub at_ns: u64,
    /// When it was over; `None`: it lasted to the end.
    pub until_ns: Option<u64>,
    /// What was done, in a few words.
    pub text: String,
    /// Why it could not be carried out.
    pub failed: Option<String>,
    /// From the fault to the next acknowledgement, where it took the broker away.
    pub back_after_ns: Option<u64>,
}

/// What one broker, which for RingMQ is a shard, acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrokerShare {
    pub name: String,
    pub acknowledged: u64,
}

/// The embedded broker's process, once a second. Values count from its start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at_ns: u64,
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    pub written_bytes: u64,
    pub read_bytes: u64,
}

/// All that is known of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub subject: Subject,
    pub started_unix_ns: u64,
    /// From the first due time to the last answer, and to the last arrival.
    pub sending_ns: u64,
    pub consuming_ns: u64,
    pub phases: Vec<Phase>,
    /// Streams, then groups.
    pub tracks: Vec<Track>,
    /// By phase in which messages were due, then by track.
    pub totals: Vec<Vec<Interval>>,
    /// By second in which things happened.
    pub seconds: Vec<Second>,
    /// Empty: nothing was consumed, so only acknowledgements were counted.
    pub findings: Vec<Finding>,
    pub unattributed: Vec<Unattributed>,
    pub answers: Vec<Answered>,
    pub faults: Vec<FaultMark>,
    pub brokers: Vec<BrokerShare>,
    pub samples: Vec<Sample>,
    /// What the run was asked to reach, for whoever joins parts and judges the whole.
    #[serde(default)]
    pub asked: Vec<Asked>,
    /// What the run was asked to reach, and whether it did.
    pub rows: Vec<Row>,
    /// Why the figures do not count, as far as the run itself knows.
    pub doubts: Vec<String>,
    /// What the reader should know before believing the figures.
    pub notes: Vec<String>,
}

impl Track {
    pub fn stream(&self) -> Option<&StreamFacts> {
        match &self.kind {
            TrackKind::Stream(facts) => Some(facts),
            TrackKind::Group(_) => None,
        }
    }

    pub fn group(&self) -> Option<&GroupFacts> {
        match &self.kind {
            TrackKind::Group(facts) => Some(facts),
            TrackKind::Stream(_) => None,
        }
    }
}

impl Report {
    /// Streams with their tracks.
    pub fn streams(&self) -> impl Iterator<Item = (usize, &Track, &StreamFacts)> {
        let all = self.tracks.iter().enumerate();
        all.filter_map(|(index, track)| Some((index, track, track.stream()?)))
    }

    /// Groups with their tracks.
    pub fn groups(&self) -> impl Iterator<Item = (usize, &Track, &GroupFacts)> {
        let all = self.tracks.iter().enumerate();
        all.filter_map(|(index, track)| Some((index, track, track.group()?)))
    }

    /// One phase and one track.
    pub fn of(&self, phase: usize, track: usize) -> &Interval {
        &self.totals[phase][track]
    }

    /// The tracks that stand for the run: all streams, and the first group, which takes them all.
    fn whole(&self) -> impl Iterator<Item = usize> {
        let streams = self.streams().map(|(track, ..)| track);
        streams.chain(self.groups().next().map(|(track, ..)| track))
    }

    /// One track over all phases.
    pub fn track_total(&self, track: usize) -> Interval {
        let mut sum = Interval::default();
        self.totals.iter().for_each(|phase| sum.add(&phase[track]));
        sum
    }

    /// All streams of one phase.
    pub fn phase_total(&self, phase: usize) -> Interval {
        let mut sum = Interval::default();
        self.streams().for_each(|(track, ..)| sum.add(self.of(phase, track)));
        sum
    }

    /// The run in one: all streams, and what the first group received of them.
    pub fn total(&self) -> Interval {
        let mut sum = Interval::default();
        for phase in &self.totals {
            self.whole().for_each(|track| sum.add(&phase[track]));
        }
        sum
    }

    /// One histogram of [`total`](Self::total): merging all of them takes many times as long.
    pub fn total_of(&self, kind: Kind) -> Histogram<u64> {
        let mut sum = histogram::empty();
        for phase in &self.totals {
            self.whole().for_each(|track| histogram::merge(&mut sum, phase[track].of(kind)));
        }
        sum
    }

    /// The counters of [`total`](Self::total).
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.whole().for_each(|track| sum.add(&self.track_counters(track)));
        sum
    }

    /// The counters of [`track_total`](Self::track_total).
    pub fn track_counters(&self, track: usize) -> Counters {
        let mut sum = Counters::default();
        self.totals.iter().for_each(|phase| sum.add(&phase[track].counters));
        sum
    }

    pub fn is_audited(&self) -> bool {
        self.groups().next().is_some()
    }

    /// The audit in one: for each stream that of the group with the worst findings, added up.
    /// One-way messages are left out of what is unknown.
    pub fn audit(&self) -> Audit {
        let mut sum = Audit::default();
        for (stream, _, facts) in self.streams() {
            let of_stream = self.findings.iter().filter(|finding| finding.stream == stream);
            let audits: Vec<Audit> = of_stream.map(|finding| finding.audit).collect();
            let worst = |of: fn(&Audit) -> u64| audits.iter().map(of).max().unwrap_or(0);
            sum.acknowledged += worst(|audit| audit.acknowledged);
            sum.lost += worst(|audit| audit.lost);
            sum.unread += worst(|audit| audit.unread);
            sum.duplicated += worst(|audit| audit.duplicated);
            sum.out_of_order += worst(|audit| audit.out_of_order);
            sum.refused_present += worst(|audit| audit.refused_present);
            sum.never_sent += worst(|audit| audit.never_sent);
            if !facts.is_one_way {
                sum.unknown_present += worst(|audit| audit.unknown_present);
                sum.unknown_absent += worst(|audit| audit.unknown_absent);
            }
        }
        sum.corrupted = self.unattributed.iter().map(|group| group.corrupted).max().unwrap_or(0);
        sum.foreign = self.unattributed.iter().map(|group| group.foreign).max().unwrap_or(0);
        sum
    }

    /// Messages out of order in streams that asked for order.
    pub fn disorder(&self) -> u64 {
        let is_ordered =
            |stream: usize| self.tracks[stream].stream().is_some_and(|facts| facts.is_ordered);
        let findings = self.findings.iter().filter(|finding| is_ordered(finding.stream));
        findings.map(|finding| finding.audit.out_of_order).sum()
    }

    pub fn verdict(&self) -> Verdict {
        if self.failures().next().is_some() {
            Verdict::Failed
        } else if self.all_doubts().next().is_some() {
            Verdict::Invalid
        } else {
            Verdict::Pass
        }
    }

    /// Broken promises of the target.
    pub fn failures(&self) -> impl Iterator<Item = String> {
        let audit = self.audit();
        let found = [
            (audit.lost, "acknowledged, then lost"),
            (audit.corrupted, "arrived corrupted"),
            (audit.never_sent, "arrived and were never sent"),
            (self.disorder(), "out of order with one request in flight"),
        ];
        let found = found.into_iter().filter(|(count, _)| *count > 0);
        found.map(|(count, what)| format!("{} {what}", grouped(count)))
    }

    /// Why the figures do not count.
    pub fn all_doubts(&self) -> impl Iterator<Item = String> {
        self.doubts_but_slip().chain(self.slip_doubt())
    }

    /// Doubts that say nothing about the generator's own lateness. Lateness makes latencies look
    /// worse than they are, never better: what is good in spite of it is good.
    pub fn doubts_but_slip(&self) -> impl Iterator<Item = String> {
        let idle = (self.counters().sent == 0).then(|| "nothing was sent".to_owned());
        let unread = self.audit().unread;
        let unread = (unread > 0).then(|| {
            format!("{} acknowledged, their broker gone before the audit", grouped(unread))
        });
        self.doubts.iter().cloned().chain(unread).chain(idle)
    }

    fn slip_doubt(&self) -> Option<String> {
        let slip = Percentiles::of(&self.total_of(Kind::Slip)).p99;
        (slip > SLIP_P99_MAX_NS)
            .then(|| format!("the generator fell behind: slip p99 {:.3} ms", slip as f64 / 1e6))
    }

    /// Why the verdict is not PASS, most important first.
    pub fn reasons(&self) -> Vec<String> {
        self.failures().chain(self.all_doubts()).collect()
    }

    pub fn sending(&self) -> Duration {
        Duration::from_nanos(self.sending_ns)
    }

    pub fn consuming(&self) -> Duration {
        Duration::from_nanos(self.consuming_ns)
    }

    /// Bytes of bodies that were acknowledged, per second.
    pub fn bytes_per_s(&self) -> f64 {
        let bytes = self.streams().map(|(track, _, facts)| {
            self.track_counters(track).acknowledged as f64 * facts.message_size_mean
        });
        bytes.sum::<f64>() / self.sending().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// `count` per second of `time`; 0 where no time has passed.
pub fn rate(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Failed => 1,
            Self::Invalid => 3,
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Failed => "FAILED",
            Self::Invalid => "INVALID",
        })
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::findings::document::Document;

    /// A run of one stream and one group.
    pub fn example() -> Report {
        let counters = Counters {
            due: 200_000,
            sent: 199_990,
            acknowledged: 199_900,
            refused: 80,
            unknown: 10,
            not_sent: 10,
            ..Counters::default()
        };
        let mut sent = Interval { counters, ..Interval::default() };
        sent.record(Kind::Latency, 412_000, 199_000);
        sent.record(Kind::Latency, 9_000_000, 1_000);
        sent.record(Kind::Service, 380_000, 199_900);
        sent.record(Kind::Slip, 20_000, 199_990);
        let counters = Counters { received: 199_905, ..Counters::default() };
        let mut received = Interval { counters, ..Interval::default() };
        received.record(Kind::EndToEnd, 900_000, 199_905);
        let audit = Audit {
            acknowledged: 199_900,
            unknown_present: 5,
            unknown_absent: 5,
            duplicated: 3,
            out_of_order: 2,
            ..Audit::default()
        };
        Report {
            subject: subject(),
            started_unix_ns: 1_700_000_000_000_000_000,
            sending_ns: 20_000_000_000,
            consuming_ns: 20_000_000_000,
            phases: vec![Phase {
                name: "steady".to_owned(),
                start_ns: 0,
                end_ns: 20_000_000_000,
                counts: true,
                proves: "one rate for a while".to_owned(),
            }],
            tracks: vec![stream_track(), group_track()],
            totals: vec![vec![sent, received]],
            seconds: Vec::new(),
            findings: vec![Finding { group: 1, stream: 0, audit }],
            unattributed: vec![Unattributed { group: 1, ..Unattributed::default() }],
            answers: Vec::new(),
            faults: Vec::new(),
            brokers: Vec::new(),
            samples: Vec::new(),
            asked: Vec::new(),
            rows: Vec::new(),
            doubts: Vec::new(),
            notes: vec!["80 requests were refused: 80 x code 2".to_owned()],
        }
    }

    fn subject() -> Subject {
        let mut environment = Map::new();
        environment.insert("cores".to_owned(), json!(2));
        Subject {
            name: "steady".to_owned(),
            load: "10,000 msg/s of 1,024 B for 20 s, 16 connections x 64, json".to_owned(),
            target: "127.0.0.1:9876: 1 broker, topic loadgen, 8 queues".to_owned(),
            seed: 1,
            part: Part { index: 0, count: 1 },
            schedule: "5eed".to_owned(),
            environment,
            assumptions: Vec::new(),
        }
    }

    fn stream_track() -> Track {
        Track {
            name: "load".to_owned(),
            role: "messages of one kind at one rate".to_owned(),
            kind: TrackKind::Stream(StreamFacts {
                topics: vec!["loadgen".to_owned()],
                header: "json".to_owned(),
                message_size_mean: 1024.0,
                batch: 1,
                connections: 16,
                in_flight: 64,
                is_ordered: false,
                is_one_way: false,
                stands_in_for: None,
            }),
        }
    }

    fn group_track() -> Track {
        let facts = GroupFacts { streams: vec![0], rate: None, pauses: Vec::new() };
        Track {
            name: "consumer".to_owned(),
            role: "takes everything as it comes".to_owned(),
            kind: TrackKind::Group(facts),
        }
    }

    fn of_stream(report: &mut Report) -> &mut Interval {
        &mut report.totals[0][0]
    }

    #[test]
    fn the_verdict_follows_from_the_findings() {
        fn set_ordered(report: &mut Report) {
            if let TrackKind::Stream(facts) = &mut report.tracks[0].kind {
                facts.is_ordered = true;
            }
        }
        fn forget_groups(report: &mut Report) {
            report.tracks.truncate(1);
            report.findings.clear();
            report.unattributed.clear();
        }
        type Change = fn(&mut Report);
        let rows: [(&str, Change, Verdict); 10] = [
            ("clean", |_| {}, Verdict::Pass),
            ("lost", |r| r.findings[0].audit.lost = 1, Verdict::Failed),
            ("corrupted", |r| r.unattributed[0].corrupted = 1, Verdict::Failed),
            ("never sent", |r| r.findings[0].audit.never_sent = 1, Verdict::Failed),
            ("disorder, one in flight", set_ordered, Verdict::Failed),
            ("cut short", |r| r.doubts.push("cut".to_owned()), Verdict::Invalid),
            ("unread", |r| r.findings[0].audit.unread = 1, Verdict::Invalid),
            ("late", |r| of_stream(r).record(Kind::Slip, 2_000_000, 9_000), Verdict::Invalid),
            ("idle", |r| of_stream(r).counters.sent = 0, Verdict::Invalid),
            ("not audited", forget_groups, Verdict::Pass),
        ];
        for (case, change, verdict) in rows {
            let mut report = example();
            change(&mut report);
            assert_eq!(report.verdict(), verdict, "{case}");
            let text = report.to_string();
            let last = text.lines().last().unwrap();
            assert!(last.starts_with(&verdict.to_string()) && last.contains("lost "), "{last}");
        }
        let mut both = example();
        both.doubts.push("the run was cut short".to_owned());
        both.findings[0].audit.lost = 7;
        assert!(both.to_string().ends_with("; 7 acknowledged, then lost; the run was cut short\n"));
        assert_eq!(both.audit().lost, 7);
    }

    /// A message that one of two groups missed is lost, however often the other saw it.
    #[test]
    fn each_group_must_receive_everything() {
        let mut report = example();
        report.tracks.push(group_track());
        let seen = report.findings[0].clone();
        let missed = Audit { lost: 3, ..seen.audit };
        report.findings.push(Finding { group: 2, audit: missed, ..seen });
        assert_eq!((report.audit().acknowledged, report.audit().lost), (199_900, 3));
        assert_eq!(report.verdict(), Verdict::Failed);
    }

    /// Whoever needs only a part of the total finds in it what the whole total says.
    #[test]
    fn a_part_of_the_total_is_that_of_the_whole() {
        let mut report = example();
        report.tracks.push(group_track());
        let [stream, group] = report.totals[0].clone().try_into().unwrap();
        report.totals = vec![vec![stream, group.clone(), group]; 2];
        let total = report.total();
        assert_eq!((total.counters.due, total.counters.received), (400_000, 399_810));
        assert_eq!(report.counters(), total.counters);
        for kind in Kind::ALL {
            assert!(&report.total_of(kind) == total.of(kind), "{kind:?}");
        }
        for track in 0..3 {
            assert_eq!(report.track_counters(track), report.track_total(track).counters);
        }
    }

    #[test]
    fn a_report_survives_its_file() {
        let mut report = example();
        let interval = report.totals[0][0].clone();
        report.seconds.push(Second::pack(3, &[(0, interval)]));
        let text = serde_json::to_string(&Document::of(&report)).unwrap();
        let read: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&Document::of(&read.detail)).unwrap(), text);
        assert_eq!(read.detail.total().latency, report.total().latency);
    }
}
