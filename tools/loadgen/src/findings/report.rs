//! The findings of a run: a plain value that `report.json` contains whole, so that pages,
//! comparisons and merging need nothing else.
//!
//! Only this module decides the verdict and whether the figures are valid;
//! [`crate::findings::verdict`] defines them. Not here: the text ([`crate::findings::summary`]),
//! the page ([`crate::show::page`]), the keys that scripts read ([`crate::findings::document`]).

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::audit::Audit;
use crate::engine::histogram::{self, Waits};
use crate::engine::measure::{Counters, Interval, Kind, Second};
use crate::findings::verdict::{
    Conclusion, DELIVERED_MIN, Figures, SENDER_SHARE_MAX, Verdict, lateness,
};
use crate::options::Part;
use crate::plan::scenario::{Criterion, Pause, Phase};
use crate::units::grouped;

/// The workload and the target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// The scenario's name, such as `steady` or `double11 pulse`.
    pub name: String,
    /// What was sent, in one line.
    pub load: String,
    /// The target, in one line.
    pub target: String,
    pub seed: u64,
    pub part: Part,
    /// Equal for all parts of one run, and for runs with the same schedule.
    pub schedule: String,
    /// Equal for runs that differ only in their seed, which are repeats of each other.
    pub workload: String,
    /// Machine, versions and options, so that the run can be repeated.
    pub environment: Map<String, Value>,
    /// What is assumed because nothing is on record, and which messages substitute for a broker
    /// feature.
    pub assumptions: Vec<String>,
}

/// A stream or a group. Each is measured separately.
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
    /// Delay of each message at the broker, counted from when it was sent, ms; 0: none.
    #[serde(default)]
    pub delay_ms: u64,
    pub stands_in_for: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupFacts {
    /// Tracks of the streams that it receives.
    pub streams: Vec<usize>,
    /// Messages per second that it receives while messages are due; `None`: all it can.
    pub rate: Option<f64>,
    pub pauses: Vec<Pause>,
    /// Number of consumers that divide the queues among them.
    #[serde(default = "one")]
    pub members: u32,
}

/// For reports of earlier versions, which lack the key.
fn one() -> u32 {
    1
}

/// What one group received of one stream, reconciled with what was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Track of the group, and of the stream.
    pub group: usize,
    pub stream: usize,
    pub audit: Audit,
}

/// What one group received that cannot be attributed to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unattributed {
    /// Track of the group.
    pub group: usize,
    /// Messages of a load generator with a wrong checksum.
    pub corrupted: u64,
    /// Messages of other applications and other runs.
    pub foreign: u64,
}

/// Replies to one stream with the same code, other than success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub stream: usize,
    pub code: i32,
    /// The remark, without what differs from reply to reply.
    pub reason: String,
    pub requests: u64,
}

/// A fault as it was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultMark {
    pub at_ns: u64,
    /// When it ended; `None`: it lasted to the end of the run.
    pub until_ns: Option<u64>,
    /// What was done, in a few words.
    pub text: String,
    /// Why it could not be carried out.
    pub failed: Option<String>,
    /// For faults that take the broker away: from the fault to the next acknowledgement. For those of
    /// a machine with replicas: the longest of the gaps.
    pub back_after_ns: Option<u64>,
    /// For faults of a machine with replicas: how long each shard acknowledged nothing, the longest
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// A time in which a broker acknowledged nothing; for RingMQ, a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    pub broker: String,
    /// When the last acknowledgement before it came.
    pub from_ns: u64,
    pub length_ns: u64,
}

/// Messages acknowledged by one broker; for RingMQ, a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrokerShare {
    pub name: String,
    pub acknowledged: u64,
}

/// Resource usage of the embedded broker's process, or of those of all replicas together, once a
/// second. Counters are totals since the broker's first start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at_ns: u64,
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    pub written_bytes: u64,
    pub read_bytes: u64,
}

/// Share of a core that a thread of the generator used while messages were due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadCpu {
    pub name: String,
    pub share: f64,
    /// It sends by a schedule and sleeps in between, so without headroom on its core it is late.
    pub must_keep_up: bool,
}

/// A threshold and the value that was found: one row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is judged, in a few words.
    pub what: String,
    pub wanted: String,
    pub found: String,
    /// `None`: it could not be judged; `found` says why.
    pub is_met: Option<bool>,
    /// The user asked for it, so it is missed if it cannot be judged.
    #[serde(default)]
    pub is_required: bool,
}

impl Row {
    /// The value found, and whether the threshold is met, as far as this verdict allows: a run that
    /// broke its promises shows no figures, and meets no threshold.
    pub fn shown(&self, verdict: Verdict) -> (Option<&str>, Option<bool>) {
        match verdict {
            Verdict::Failed => (None, self.is_met.filter(|is_met| !is_met)),
            _ => (Some(&self.found), self.is_met),
        }
    }
}

/// Everything known about one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub subject: Subject,
    pub started_unix_ns: u64,
    /// From the first due time to the last reply, and to the last arrival.
    pub sending_ns: u64,
    pub consuming_ns: u64,
    pub phases: Vec<Phase>,
    /// Streams, then groups.
    pub tracks: Vec<Track>,
    /// By the phase in which messages were due, then by track.
    pub totals: Vec<Vec<Interval>>,
    /// By the second in which events occurred.
    pub seconds: Vec<Second>,
    /// Empty: nothing was consumed, so only acknowledgements were counted.
    pub findings: Vec<Finding>,
    pub unattributed: Vec<Unattributed>,
    pub answers: Vec<Answered>,
    pub faults: Vec<FaultMark>,
    pub brokers: Vec<BrokerShare>,
    pub samples: Vec<Sample>,
    /// Threads of the generator, of all parts.
    pub threads: Vec<ThreadCpu>,
    /// The thresholds of the run, so that merged parts can be judged as a whole.
    pub asked: Vec<Criterion>,
    /// The thresholds, and whether each was met.
    pub rows: Vec<Row>,
    /// The profile exceeds the target's capacity on purpose.
    pub is_overload: bool,
    /// The run needs valid figures: without them it exits with code 3.
    pub needs_valid_figures: bool,
    /// Why losses cannot be ruled out, as far as the run itself knows.
    pub incomplete: Vec<String>,
    /// Why the figures are not valid, as far as the run itself knows.
    pub not_valid: Vec<String>,
    /// What a reader should know about the figures.
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

    /// The tracks that make up the run's totals: all streams, and the first group, which receives
    /// them all.
    fn whole(&self) -> impl Iterator<Item = usize> {
        let streams = self.streams().map(|(track, ..)| track);
        streams.chain(self.groups().next().map(|(track, ..)| track))
    }

    /// The phases that count. A warm-up does not, so it is in no headline figure.
    fn counted(&self) -> impl Iterator<Item = &Vec<Interval>> {
        let phases = self.phases.iter().zip(&self.totals);
        phases.filter(|(phase, _)| phase.counts).map(|(_, tracks)| tracks)
    }

    /// Total length of the phases that do not count.
    pub fn warm_up(&self) -> Duration {
        let idle = self.phases.iter().filter(|phase| !phase.counts);
        Duration::from_nanos(idle.map(|phase| phase.end_ns - phase.start_ns).sum())
    }

    /// One track over the phases that count.
    pub fn track_total(&self, track: usize) -> Interval {
        let mut sum = Interval::default();
        self.counted().for_each(|phase| sum.add(&phase[track]));
        sum
    }

    /// All streams of one phase.
    pub fn phase_total(&self, phase: usize) -> Interval {
        let mut sum = Interval::default();
        self.streams().for_each(|(track, ..)| sum.add(self.of(phase, track)));
        sum
    }

    /// Totals over the phases that count: all streams, and what the first group received of them.
    pub fn total(&self) -> Interval {
        let mut sum = Interval::default();
        for phase in self.counted() {
            self.whole().for_each(|track| sum.add(&phase[track]));
        }
        sum
    }

    /// One histogram of [`total`](Self::total). Merging all of them takes many times as long.
    pub fn total_of(&self, kind: Kind) -> Histogram<u64> {
        let mut sum = histogram::empty();
        for phase in self.counted() {
            self.whole().for_each(|track| histogram::merge(&mut sum, phase[track].of(kind)));
        }
        sum
    }

    /// Latencies of [`total`](Self::total), including messages that were given up.
    pub fn waits(&self) -> Waits {
        Waits::of(&self.total_of(Kind::Latency), &self.total_of(Kind::GivenUp))
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
        self.counted().for_each(|phase| sum.add(&phase[track].counters));
        sum
    }

    pub fn is_audited(&self) -> bool {
        self.groups().next().is_some()
    }

    /// The audit as a whole: for each stream that of the group with the worst findings, added up.
    /// One-way messages do not count as unknown.
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
            sum.early += worst(|audit| audit.early);
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

    /// Messages out of order in streams that require order.
    pub fn disorder(&self) -> u64 {
        let is_ordered =
            |stream: usize| self.tracks[stream].stream().is_some_and(|facts| facts.is_ordered);
        let findings = self.findings.iter().filter(|finding| is_ordered(finding.stream));
        findings.map(|finding| finding.audit.out_of_order).sum()
    }

    /// Whether the target kept its promises.
    pub fn verdict(&self) -> Verdict {
        if self.failures().next().is_some() {
            Verdict::Failed
        } else if self.gaps().next().is_some() {
            Verdict::Incomplete
        } else if self.undelivered().is_some() {
            Verdict::Overloaded
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
            (audit.early, "arrived before they were due"),
            (self.disorder(), "out of order with one request in flight"),
        ];
        let found = found.into_iter().filter(|(count, _)| *count > 0);
        found.map(|(count, what)| format!("{} {what}", grouped(count)))
    }

    /// Why losses cannot be ruled out.
    pub fn gaps(&self) -> impl Iterator<Item = String> {
        let idle = (self.counters().due == 0).then(|| "nothing was due".to_owned());
        let unread = self.audit().unread;
        let unread = (unread > 0)
            .then(|| format!("{} acknowledged, in queues not read to their end", grouped(unread)));
        self.incomplete.iter().cloned().chain(unread).chain(idle)
    }

    /// The reason for OVERLOADED, if too little of the load was acknowledged: nothing at all, in a run
    /// that offers too much on purpose.
    fn undelivered(&self) -> Option<String> {
        let counters = self.counters();
        let delivered = counters.acknowledged + counters.one_way;
        let is_delivered = delivered as f64 >= counters.due as f64 * DELIVERED_MIN;
        let is_on_purpose = self.is_overload && delivered > 0;
        (!is_delivered && !is_on_purpose).then(|| {
            let percent = delivered as f64 / counters.due as f64 * 100.0;
            let refused = (counters.refused > 0).then_some((counters.refused, "refused"));
            let missing = refused.into_iter().chain(counters.given_up());
            let missing = missing.map(|(count, what)| format!("{} {what}", grouped(count)));
            let missing: Vec<String> = missing.collect();
            format!("{percent:.1} % of the load delivered: {}", missing.join(", "))
        })
    }

    /// Whether the latencies describe the target or the generator.
    pub fn figures(&self) -> Figures {
        let [late, latency, refused] =
            [Kind::Lateness, Kind::Latency, Kind::Refused].map(|kind| self.total_of(kind));
        let late = lateness(&late, &latency, &refused);
        let is_busy = |it: &&ThreadCpu| it.must_keep_up && it.share > SENDER_SHARE_MAX;
        let busy = self.threads.iter().filter(is_busy);
        let busy = busy.map(|it| format!("{} used {:.0} % of a core", it.name, it.share * 100.0));
        let late = late.into_iter().chain(busy);
        let reasons: Vec<String> = late.chain(self.not_valid.iter().cloned()).collect();
        Figures { valid: reasons.is_empty(), reasons }
    }

    /// Why the latencies of one phase are not valid. A generator that was late in a short phase is
    /// hardly seen in the figures of the whole run.
    pub fn lateness_in(&self, phase: usize) -> Vec<String> {
        self.phase_total(phase).not_valid()
    }

    /// Why the verdict is not PASS, most important first.
    pub fn reasons(&self) -> Vec<String> {
        self.failures().chain(self.gaps()).chain(self.undelivered()).collect()
    }

    /// The thresholds that were missed, in words.
    pub fn missed(&self) -> impl Iterator<Item = String> {
        let verdict = self.verdict();
        // Without valid latencies the run has an exit code of its own.
        let is_valid = self.figures().valid;
        self.rows.iter().filter_map(move |row| {
            let Row { what, wanted, found, .. } = row;
            match row.shown(verdict).1 {
                Some(true) => None,
                Some(false) => Some(format!("{what}: {found}, not {wanted}")),
                None if row.is_required && row.is_met.is_none() && is_valid => {
                    Some(format!("{what}: not judged: {found}"))
                }
                None => None,
            }
        })
    }

    pub fn exit_code(&self) -> u8 {
        let conclusion = Conclusion {
            verdict: self.verdict(),
            has_valid_figures: self.figures().valid,
            needs_valid_figures: self.needs_valid_figures,
            misses_a_threshold: self.missed().next().is_some(),
        };
        conclusion.exit_code()
    }

    /// From the first due time that counts to the last reply.
    pub fn sending(&self) -> Duration {
        Duration::from_nanos(self.sending_ns).saturating_sub(self.warm_up())
    }

    /// From the first due time that counts to the last arrival.
    pub fn consuming(&self) -> Duration {
        Duration::from_nanos(self.consuming_ns).saturating_sub(self.warm_up())
    }

    /// Acknowledged body bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        let bytes = self.streams().map(|(track, _, facts)| {
            self.track_counters(track).acknowledged as f64 * facts.message_size_mean
        });
        bytes.sum::<f64>() / self.sending().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Interval {
    /// Why the generator's lateness makes these latencies not valid.
    pub fn not_valid(&self) -> Vec<String> {
        lateness(&self.lateness, &self.latency, &self.refused)
    }
}

/// `count` per second of `time`; 0 if no time has passed.
pub fn rate(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
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
        sent.record(Kind::Lateness, 20_000, 199_990);
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
            threads: vec![ThreadCpu {
                name: "generate-0".to_owned(),
                share: 0.37,
                must_keep_up: true,
            }],
            asked: Vec::new(),
            rows: Vec::new(),
            is_overload: false,
            needs_valid_figures: false,
            incomplete: Vec::new(),
            not_valid: Vec::new(),
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
            workload: "10ad".to_owned(),
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
                delay_ms: 0,
                stands_in_for: None,
            }),
        }
    }

    fn group_track() -> Track {
        let facts = GroupFacts { streams: vec![0], rate: None, pauses: Vec::new(), members: 1 };
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
        fn refuse_all(report: &mut Report) {
            let counters = &mut of_stream(report).counters;
            (counters.refused, counters.acknowledged) = (counters.due, 0);
        }
        fn refuse_all_on_purpose(report: &mut Report) {
            refuse_all(report);
            report.is_overload = true;
        }
        fn refuse_most_on_purpose(report: &mut Report) {
            refuse_all_on_purpose(report);
            let counters = &mut of_stream(report).counters;
            (counters.refused, counters.acknowledged) = (counters.due - 1, 1);
        }
        type Change = fn(&mut Report);
        let rows: [(&str, Change, Verdict, u8); 15] = [
            ("clean", |_| {}, Verdict::Pass, 0),
            ("lost", |r| r.findings[0].audit.lost = 1, Verdict::Failed, 1),
            ("corrupted", |r| r.unattributed[0].corrupted = 1, Verdict::Failed, 1),
            ("never sent", |r| r.findings[0].audit.never_sent = 1, Verdict::Failed, 1),
            ("disorder, one in flight", set_ordered, Verdict::Failed, 1),
            ("cut short", |r| r.incomplete.push("cut".to_owned()), Verdict::Incomplete, 7),
            ("unread", |r| r.findings[0].audit.unread = 1, Verdict::Incomplete, 7),
            (
                "nothing due",
                |r| of_stream(r).counters = Counters::default(),
                Verdict::Incomplete,
                7,
            ),
            ("all refused", refuse_all, Verdict::Overloaded, 5),
            ("all refused, as planned", refuse_all_on_purpose, Verdict::Overloaded, 5),
            ("most refused, as planned", refuse_most_on_purpose, Verdict::Pass, 0),
            (
                "1.1 % not sent",
                |r| of_stream(r).counters.acknowledged = 197_999,
                Verdict::Overloaded,
                5,
            ),
            ("1 % not sent", |r| of_stream(r).counters.acknowledged = 198_000, Verdict::Pass, 0),
            ("late", |r| of_stream(r).record(Kind::Lateness, 9_000_000, 9_000), Verdict::Pass, 0),
            ("not audited", forget_groups, Verdict::Pass, 0),
        ];
        for (case, change, verdict, code) in rows {
            let mut report = example();
            change(&mut report);
            assert_eq!((report.verdict(), report.exit_code()), (verdict, code), "{case}");
            let text = report.to_string();
            let last = text.lines().last().unwrap();
            let names_loss = last.contains("lost ") || last.contains("loss not checked");
            assert!(last.starts_with(&verdict.to_string()) && names_loss, "{last}");
        }
        let mut both = example();
        both.incomplete.push("the run was cut short".to_owned());
        both.findings[0].audit.lost = 7;
        assert!(both.to_string().ends_with("; 7 acknowledged, then lost; the run was cut short\n"));
        assert_eq!(both.audit().lost, 7);
    }

    /// A clean audit does not validate latencies that the generator caused, nor the reverse.
    #[test]
    fn figures_are_valid_or_not_whatever_the_verdict() {
        for (slip_ns, lost) in [(0, 0), (0, 1), (9_000_000, 0), (9_000_000, 1)] {
            let mut report = example();
            of_stream(&mut report).record(Kind::Lateness, slip_ns, 9_000);
            report.findings[0].audit.lost = lost;
            let figures = report.figures();
            assert_eq!((figures.valid, figures.reasons.is_empty()), (slip_ns == 0, slip_ns == 0));
            assert_eq!(report.verdict() == Verdict::Failed, lost == 1);
            report.needs_valid_figures = true;
            let code = if slip_ns == 0 { 0 } else { 3 };
            assert_eq!(report.exit_code(), if lost == 1 { 1 } else { code });
        }
        let cpu = |share, must_keep_up| {
            let name = "generate-0".to_owned();
            Report { threads: vec![ThreadCpu { name, share, must_keep_up }], ..example() }.figures()
        };
        assert_eq!(cpu(0.91, true).reasons, ["generate-0 used 91 % of a core"]);
        assert!(cpu(0.89, true).valid && cpu(0.99, false).valid);
        let mut report = example();
        report.not_valid.push("the parts began 1.5 s apart".to_owned());
        assert_eq!(report.figures().reasons, report.not_valid);
    }

    /// The latencies of refusals are figures too.
    #[test]
    fn a_late_generator_is_noticed_if_nothing_was_acknowledged() {
        let mut report = example();
        let total = &mut report.totals[0][0];
        (total.latency, total.lateness) = (histogram::empty(), histogram::empty());
        total.record(Kind::Refused, 6_000_000, 1_000);
        total.record(Kind::Lateness, 5_200_000, 1_000);
        assert!(report.figures().reasons[0].starts_with("lateness 5.2 of 6.0 ms at p50"));
        report.totals[0][0].refused.reset();
        assert_eq!(report.figures().reasons, ["100.0 % sent over 5 ms late"]);
    }

    #[test]
    fn a_requested_threshold_that_cannot_be_judged_is_missed() {
        let row = |is_required| Row {
            what: "e2e-p99".to_owned(),
            wanted: "<= 1 s".to_owned(),
            found: "nothing was consumed".to_owned(),
            is_met: None,
            is_required,
        };
        for (is_required, code) in [(true, 6), (false, 0)] {
            let report = Report { rows: vec![row(is_required)], ..example() };
            assert_eq!(report.exit_code(), code);
        }
        let text = Report { rows: vec![row(true)], ..example() }.to_string();
        let reason = "\nreason     threshold missed: e2e-p99: not judged: nothing was consumed\n";
        assert!(text.contains(reason), "{text}");
    }

    #[test]
    fn a_threshold_that_is_missed_has_an_exit_code_of_its_own() {
        let row = |is_met| Row {
            what: "p99".to_owned(),
            wanted: "<= 20 ms".to_owned(),
            found: "23.1 ms".to_owned(),
            is_met,
            is_required: false,
        };
        for (is_met, code) in [(Some(true), 0), (None, 0), (Some(false), 6)] {
            let report = Report { rows: vec![row(Some(true)), row(is_met)], ..example() };
            assert_eq!((report.verdict(), report.exit_code()), (Verdict::Pass, code));
        }
        let report = Report { rows: vec![row(Some(false))], ..example() };
        let text = report.to_string();
        assert!(
            text.ends_with(
                "PASS  lost 0 of 199,900; threshold missed: p99: 23.1 ms, not <= 20 ms\n"
            ),
            "{text}"
        );
    }

    /// A message that one of two groups missed is lost, however often the other received it.
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

    /// The shortcuts for parts of the total agree with the total.
    #[test]
    fn a_part_of_the_total_is_that_of_the_whole() {
        let mut report = example();
        report.tracks.push(group_track());
        let [stream, group] = report.totals[0].clone().try_into().unwrap();
        report.totals = vec![vec![stream, group.clone(), group]; 2];
        report.phases = vec![report.phases[0].clone(); 2];
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

    /// The warm-up is slow, has refusals and is late: no headline figure shows it.
    #[test]
    fn a_warm_up_is_in_no_headline_figure() {
        let without = example();
        let mut with = without.clone();
        let warm_up = Phase {
            name: "warm-up".to_owned(),
            start_ns: 0,
            end_ns: 5_000_000_000,
            counts: false,
            proves: String::new(),
        };
        let test =
            Phase { start_ns: 5_000_000_000, end_ns: 25_000_000_000, ..with.phases[0].clone() };
        with.phases = vec![warm_up, test];
        (with.sending_ns, with.consuming_ns) = (25_000_000_000, 25_000_000_000);
        let counters =
            Counters { due: 90_000, refused: 90_000, received: 7, ..Counters::default() };
        let mut cold = Interval { counters, ..Interval::default() };
        Kind::ALL.into_iter().for_each(|kind| cold.record(kind, 9_000_000_000, 90_000));
        with.totals.insert(0, vec![cold.clone(), cold]);
        assert_eq!((with.verdict(), with.figures()), (Verdict::Pass, without.figures()));
        let scripts = |report: &Report| {
            let document = Document::of(report);
            (document.duration_s, document.send, document.end_to_end, document.audit)
        };
        assert_eq!(scripts(&with), scripts(&without));
        for kind in Kind::ALL {
            assert!(with.total_of(kind) == without.total_of(kind), "{kind:?}");
        }
        let text = with.to_string();
        assert!(text.contains("\nwarm-up    5.0 s before") && !text.contains("9000"), "{text}");
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
