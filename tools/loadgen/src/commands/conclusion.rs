//! Builds the report from the results of a run's threads.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::clock::RunClock;
use crate::engine::audit::Outcomes;
use crate::engine::consumer::Consumed;
use crate::engine::measure::Collector;
use crate::engine::producer::Refusal;
use crate::engine::worker::Finished;
use crate::findings::report::{
    Answered, BrokerShare, FaultMark, Finding, GroupFacts, Report, Sample, StreamFacts, Subject,
    ThreadCpu, Track, TrackKind, Unattributed,
};
use crate::findings::rows;
use crate::options::{Part, header_name};
use crate::plan::scenario::{Criterion, Group, Scenario, Stream};
use crate::target::cluster::Target;
use crate::target::environment;
use crate::units::grouped;

/// The combined results of all sending threads.
#[derive(Default)]
pub struct Sums {
    pub outcomes: Vec<Outcomes>,
    pub refusals: BTreeMap<Refusal, u64>,
    pub last_answer_ns: u64,
    pub disconnects: u64,
    /// Share of a core that each thread used, by thread.
    pub cpu: Vec<f64>,
}

impl Sums {
    pub fn add(&mut self, finished: Finished) {
        self.outcomes.extend(finished.outcomes);
        for (refusal, count) in finished.refusals {
            *self.refusals.entry(refusal).or_default() += count;
        }
        self.last_answer_ns = self.last_answer_ns.max(finished.last_answer_ns);
        self.disconnects += finished.disconnects;
        self.cpu.push(finished.cpu);
    }
}

/// A run whose threads have all ended.
pub struct Ended<'a> {
    pub scenario: &'a Scenario,
    pub target: &'a Target,
    pub clock: RunClock,
    pub is_cut_short: bool,
    /// Broker of each producer of this part, by number.
    pub broker_of: &'a FxHashMap<u32, usize>,
    pub collector: Collector,
    pub outcomes: &'a [Outcomes],
    pub sent: &'a Sums,
    pub faults: Vec<FaultMark>,
    pub samples: Vec<Sample>,
    /// Indexed by group.
    pub consumed: Vec<Consumed>,
}

pub fn conclude(ended: Ended<'_>) -> Report {
    let scenario = ended.scenario;
    let last_arrival_ns = ended.consumed.iter().map(|group| group.last_arrival_ns).max();
    let mut report = Report {
        subject: subject(scenario, ended.target),
        started_unix_ns: ended.clock.zero_unix_ns(),
        sending_ns: sending_ns(scenario, ended.sent.last_answer_ns, ended.clock.now_ns()),
        consuming_ns: last_arrival_ns.unwrap_or(0),
        phases: scenario.phases.clone(),
        tracks: tracks(scenario),
        totals: Vec::new(),
        seconds: Vec::new(),
        findings: findings(scenario, &ended.consumed),
        unattributed: unattributed(scenario, &ended.consumed),
        answers: answers(ended.sent),
        faults: Vec::new(),
        brokers: broker_shares(ended.target, ended.broker_of, ended.outcomes),
        samples: Vec::new(),
        threads: threads(&ended),
        asked: scenario.asked.clone(),
        rows: Vec::new(),
        is_overload: scenario.is_overload,
        needs_valid_figures: scenario.asked.iter().any(|it| matches!(it, Criterion::FailIf(_))),
        incomplete: incomplete(&ended),
        not_valid: late_start(scenario, &ended.clock).into_iter().collect(),
        notes: notes(&ended),
    };
    report.faults = ended.faults;
    report.samples = ended.samples;
    report.totals = ended.collector.totals;
    report.seconds = ended.collector.seconds;
    report.rows = rows::judge(&scenario.asked, &report);
    report
}

/// When sending ended: at the last answer. If there was none after the warm-up, when the last message
/// was due, or the run was cut short.
fn sending_ns(scenario: &Scenario, answered_ns: u64, now_ns: u64) -> u64 {
    let counted = scenario.phases.iter().find(|phase| phase.counts);
    match answered_ns > counted.map_or(0, |phase| phase.start_ns) {
        true => answered_ns,
        false => scenario.end_ns().min(now_ns),
    }
}

/// A thread that never sleeps, or sends as fast as it can, uses its whole core and need not be
/// late.
fn threads(ended: &Ended<'_>) -> Vec<ThreadCpu> {
    let scenario = ended.scenario;
    let is_scheduled = scenario.streams.iter().all(|stream| stream.curve.is_some());
    let must_keep_up = is_scheduled && !scenario.spin;
    let sending = ended.sent.cpu.iter().enumerate();
    let sending = sending.map(|(number, share)| ThreadCpu {
        name: format!("generate-{number}"),
        share: *share,
        must_keep_up,
    });
    let groups = ended.consumed.iter().enumerate();
    sending.chain(groups.flat_map(|(number, group)| group_threads(number, &group.cpu))).collect()
}

/// Named as the threads are.
fn group_threads(group: usize, shares: &[f64]) -> Vec<ThreadCpu> {
    let name = |member: usize| match shares.len() {
        1 => format!("group-{group}"),
        _ => format!("group-{group}-{member}"),
    };
    let thread = |(member, share): (usize, &f64)| ThreadCpu {
        name: name(member),
        share: *share,
        must_keep_up: false,
    };
    shares.iter().enumerate().map(thread).collect()
}

/// Why losses cannot be ruled out, beyond what the counts show.
fn incomplete(ended: &Ended<'_>) -> Vec<String> {
    let gone = ended.consumed.iter().map(|group| group.gone).max().unwrap_or(0);
    let count = ended.target.brokers.len();
    let gone = (gone > 0).then(|| format!("{gone} of {count} brokers gone at the end"));
    let unread = ended.consumed.iter().max_by_key(|group| group.unread_queues);
    let unread = unread.filter(|group| group.unread_queues > 0).map(|group| {
        format!("{} of {} queues not read to their end", group.unread_queues, group.queues)
    });
    let cut_short = ended.is_cut_short.then(|| "the run was cut short".to_owned());
    [cut_short, gone, unread].into_iter().flatten().collect()
}

/// A part that started after the agreed time does not match the others.
fn late_start(scenario: &Scenario, clock: &RunClock) -> Option<String> {
    const TOLERANCE_NS: u64 = 100_000_000;
    let late_ns = clock.zero_unix_ns().checked_sub(scenario.start_unix_ns?)?;
    (late_ns > TOLERANCE_NS)
        .then(|| format!("the run began {:.1} s after --start-at", late_ns as f64 / 1e9))
}

fn subject(scenario: &Scenario, target: &Target) -> Subject {
    let mut environment = environment::describe();
    environment
        .extend(target.embedded().map(|servers| servers.facts().clone()).unwrap_or_default());
    environment.extend(environment::of_scenario(scenario));
    Subject {
        name: scenario.name.clone(),
        load: scenario.text.clone(),
        target: target.describe(),
        seed: scenario.seed,
        part: scenario.part,
        schedule: scenario.schedule_id(),
        workload: scenario.workload_id(),
        environment,
        assumptions: scenario.assumptions.clone(),
    }
}

fn tracks(scenario: &Scenario) -> Vec<Track> {
    let stream = |stream: &Stream| {
        let facts = StreamFacts {
            topics: stream.topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
            header: header_name(stream.header).to_owned(),
            message_size_mean: stream.sizes.mean(),
            batch: stream.batch,
            connections: stream.connections,
            in_flight: stream.in_flight,
            is_ordered: stream.is_ordered,
            is_one_way: stream.is_one_way,
            delay_ms: stream.delay_ms,
            stands_in_for: stream.stands_in_for.clone(),
        };
        let (name, role) = (stream.name.clone(), stream.role.clone());
        Track { name, role, kind: TrackKind::Stream(facts) }
    };
    let group = |group: &Group| {
        let (streams, rate) = (group.streams.clone(), group.rate);
        let (pauses, members) = (group.pauses.clone(), group.members);
        let facts = GroupFacts { streams, rate, pauses, members };
        let (name, role) = (group.name.clone(), group.role.clone());
        Track { name, role, kind: TrackKind::Group(facts) }
    };
    let streams = scenario.streams.iter().map(stream);
    streams.chain(scenario.groups.iter().map(group)).collect()
}

fn findings(scenario: &Scenario, consumed: &[Consumed]) -> Vec<Finding> {
    let of_group = |(group, consumed): (usize, &Consumed)| {
        let group = scenario.group_track(group);
        let finding = |(&stream, &audit)| Finding { group, stream: usize::from(stream), audit };
        consumed.audits.iter().map(finding).collect::<Vec<_>>()
    };
    consumed.iter().enumerate().flat_map(of_group).collect()
}

fn unattributed(scenario: &Scenario, consumed: &[Consumed]) -> Vec<Unattributed> {
    let of_group = |(group, consumed): (usize, &Consumed)| Unattributed {
        group: scenario.group_track(group),
        corrupted: consumed.corrupted,
        foreign: consumed.foreign,
    };
    consumed.iter().enumerate().map(of_group).collect()
}

fn answers(sent: &Sums) -> Vec<Answered> {
    let answered = |((stream, code, reason), requests): (&(u16, i32, String), &u64)| Answered {
        stream: usize::from(*stream),
        code: *code,
        reason: reason.clone(),
        requests: *requests,
    };
    sent.refusals.iter().map(answered).collect()
}

fn broker_shares(
    target: &Target,
    broker_of: &FxHashMap<u32, usize>,
    outcomes: &[Outcomes],
) -> Vec<BrokerShare> {
    let mut acknowledged = vec![0; target.brokers.len()];
    for sent in outcomes {
        if let Some(broker) = broker_of.get(&sent.producer) {
            acknowledged[*broker] += sent.acknowledged_count();
        }
    }
    let names = target.brokers.iter().map(|broker| broker.name.clone());
    let shares = names.zip(acknowledged);
    shares.map(|(name, acknowledged)| BrokerShare { name, acknowledged }).collect()
}

/// What a reader should know before relying on the figures.
fn notes(ended: &Ended<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let has_warm_up = ended.scenario.phases.iter().any(|phase| !phase.counts);
    for ((_, code, reason), requests) in &ended.sent.refusals {
        notes.push(answered_note(*code, reason, *requests, has_warm_up));
    }
    if ended.sent.disconnects > 0 {
        let times = grouped(ended.sent.disconnects);
        notes.push(format!("producers lost their connection {times} times"));
    }
    let brokers = ended.target.brokers.len();
    let used = (0..brokers).filter(|broker| ended.broker_of.values().any(|of| of == broker));
    let idle = brokers - used.count();
    if idle > 0 {
        notes.push(format!("{idle} of {brokers} brokers got no load"));
    }
    for mark in &ended.faults {
        if let Some(failed) = &mark.failed {
            notes.push(format!("not done: {}: {failed}", mark.text));
        }
    }
    for (group, consumed) in ended.scenario.groups.iter().zip(&ended.consumed) {
        group_notes(group, consumed, ended.scenario.part == Part::WHOLE, &mut notes);
    }
    notes
}

/// Answers are counted by request, in the whole run; the figures count messages, without the warm-up.
fn answered_note(code: i32, reason: &str, requests: u64, has_warm_up: bool) -> String {
    let requests = grouped(requests);
    let warm_up = if has_warm_up { ", warm-up included," } else { "" };
    let colon = if reason.is_empty() { "" } else { ": " };
    format!("{requests} requests{warm_up} were answered with code {code}{colon}{reason}")
}

/// If the run has several parts, each sees the messages of the others as foreign. That is not
/// reported.
fn group_notes(group: &Group, consumed: &Consumed, is_whole: bool, notes: &mut Vec<String>) {
    let name = &group.name;
    if consumed.disconnects > 0 {
        notes.push(format!("{name} lost its connection {} times", grouped(consumed.disconnects)));
    }
    if let Some((text, count)) = &consumed.refused_pulls {
        notes.push(format!("{name}: {} pulls were refused, the last: {text}", grouped(*count)));
    }
    let refused: u64 = consumed.audits.values().map(|audit| audit.refused_present).sum();
    if refused > 0 {
        notes
            .push(format!("{name}: {} messages were refused and arrived anyway", grouped(refused)));
    }
    if consumed.foreign > 0 && is_whole {
        notes.push(format!(
            "{name}: {} messages of others were left out",
            grouped(consumed.foreign)
        ));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Command, Options};
    use crate::plan::scenario::steady;

    /// Without an answer the rate is 0 over the time in which messages were due.
    #[test]
    fn a_run_without_answers_has_a_length() {
        const SECOND_NS: u64 = 1_000_000_000;
        let line = ["loadgen", "steady", "--warmup", "2s", "--duration", "8s"];
        let Command::Steady(options) = Options::try_parse_from(line).unwrap().command else {
            unreachable!()
        };
        let scenario = steady(&options.load);
        let rows = [(0, 30, 10), (1, 30, 10), (9, 30, 9), (0, 5, 5), (12, 30, 12)];
        for (answered_s, now_s, wanted_s) in rows {
            let ns = sending_ns(&scenario, answered_s * SECOND_NS, now_s * SECOND_NS);
            assert_eq!(ns, wanted_s * SECOND_NS);
        }
    }

    #[test]
    fn each_thread_of_a_group_has_its_share() {
        let named = |group, shares: &[f64]| -> Vec<(String, f64)> {
            group_threads(group, shares).into_iter().map(|it| (it.name, it.share)).collect()
        };
        assert_eq!(named(2, &[0.5]), [("group-2".to_owned(), 0.5)]);
        let members = [("group-0-0".to_owned(), 0.5), ("group-0-1".to_owned(), 0.1)];
        assert_eq!(named(0, &[0.5, 0.1]), members);
    }

    #[test]
    fn answers_are_counted_in_words() {
        let note = answered_note(14, "RINGMQ-2009 shard # is a follower here", 49_066, true);
        let wanted = "49,066 requests, warm-up included, were answered with code 14: \
                      RINGMQ-2009 shard # is a follower here";
        assert_eq!(note, wanted);
        assert_eq!(answered_note(1, "", 7, false), "7 requests were answered with code 1");
    }
}
