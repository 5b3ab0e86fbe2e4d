//! Assigns each producer a broker, a time to join, and a share of its stream's load.
//!
//! Producers of a stream of the same kind (same broker, both early or both late) share one load
//! curve. The curves of a stream's producers always add up to the stream's curve, whichever producers
//! have joined. Every process of a run computes the assignment of all producers, so all processes
//! get the same one.

use std::sync::Arc;

use crate::plan::curve::RateCurve;
use crate::plan::keys::{Keys, QueueChoice};
use crate::plan::scenario::{Scenario, Stream};
use crate::plan::schedule::Source;

/// One producer.
#[derive(Clone, Debug)]
pub struct Assigned {
    pub number: u32,
    /// Index of its stream, and of its topic there.
    pub stream: usize,
    pub topic: usize,
    /// Index of its broker.
    pub broker: usize,
    /// When it connects.
    pub joins_ns: u64,
    /// `None`: closed loop, it sends whenever its window has room.
    pub source: Option<Source>,
}

/// The producers of all streams; `choices` are the streams' keys on `brokers` brokers.
pub fn assign(scenario: &Scenario, brokers: usize, choices: &[QueueChoice]) -> Vec<Assigned> {
    let mut all = Vec::with_capacity(scenario.connection_count() as usize);
    for (index, (stream, choice)) in scenario.streams.iter().zip(choices).enumerate() {
        let members = members(stream, brokers);
        let mut assigned = Vec::with_capacity(members.len());
        for (number, member) in scenario.numbers(index).zip(&members) {
            assigned.push(Assigned {
                number,
                stream: index,
                topic: member.topic,
                broker: member.broker,
                joins_ns: member.joins_ns,
                source: None,
            });
        }
        if let Some(curve) = &stream.curve {
            share(&mut assigned, stream, curve, &members, brokers, choice);
        }
        all.append(&mut assigned);
    }
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    topic: usize,
    broker: usize,
    joins_ns: u64,
    is_late: bool,
}

fn members(stream: &Stream, brokers: usize) -> Vec<Member> {
    let count = stream.connections as usize;
    let joins = stream.late.as_ref().map_or(&[][..], |late| &late.joins_ns);
    let first_late = count.saturating_sub(joins.len());
    let topics = stream.topics.len();
    let member = |index: usize| {
        let is_late = index >= first_late;
        Member {
            topic: index % topics,
            // Spreads the producers of each topic over the brokers, and so the first ones of all topics.
            broker: (index % topics + index / topics) % brokers,
            joins_ns: if is_late { joins[index - first_late] } else { 0 },
            is_late,
        }
    };
    (0..count).map(member).collect()
}

/// Gives each kind of producer its curve.
fn share(
    assigned: &mut [Assigned],
    stream: &Stream,
    curve: &Arc<RateCurve>,
    members: &[Member],
    brokers: usize,
    choice: &QueueChoice,
) {
    let shares = Shares::new(stream, members, brokers, choice);
    for broker in 0..brokers {
        for is_late in [false, true] {
            let is_of = |member: &Member| member.broker == broker && member.is_late == is_late;
            let alike: Vec<usize> =
                (0..members.len()).filter(|&index| is_of(&members[index])).collect();
            if alike.is_empty() {
                continue;
            }
            let factors = shares.over_time(broker, is_late, f64::from(stream.batch));
            let curve = Arc::new(curve.times(&factors));
            let count = alike.len() as u32;
            for (index, member) in (0..).zip(alike) {
                let number = assigned[member].number;
                let source = Source { number, curve: curve.clone(), index, count };
                assigned[member].source = Some(source);
            }
        }
    }
}

/// How a stream's load is divided at each time.
struct Shares<'a> {
    /// Producers per broker, from the start and late.
    counts: Vec<[usize; 2]>,
    loaded_from_ns: u64,
    keys: &'a Keys,
    /// Share of each broker by its keys, and the start of its validity.
    parts: Vec<Vec<(u64, f64)>>,
}

impl<'a> Shares<'a> {
    fn new(stream: &'a Stream, members: &[Member], brokers: usize, choice: &QueueChoice) -> Self {
        let mut counts = vec![[0; 2]; brokers];
        members.iter().for_each(|it| counts[it.broker][usize::from(it.is_late)] += 1);
        Self {
            counts,
            loaded_from_ns: stream.late.as_ref().map_or(0, |late| late.loaded_from_ns),
            keys: &stream.keys,
            parts: (0..brokers).map(|broker| choice.parts(broker, brokers)).collect(),
        }
    }

    /// Share of the stream's requests for the producers of one kind.
    fn over_time(&self, broker: usize, is_late: bool, batch: f64) -> Vec<(u64, f64)> {
        let changes = self.parts[broker].iter().map(|(from_ns, _)| *from_ns);
        let mut times: Vec<u64> = changes.chain([0, self.loaded_from_ns]).collect();
        times.sort_unstable();
        times.dedup();
        times.iter().map(|&at_ns| (at_ns, self.at(at_ns, broker, is_late) / batch)).collect()
    }

    fn at(&self, at_ns: u64, broker: usize, is_late: bool) -> f64 {
        let carriers = |broker: usize| {
            let [early, late] = self.counts[broker];
            if at_ns < self.loaded_from_ns { early } else { early + late }
        };
        if is_late && at_ns < self.loaded_from_ns || carriers(broker) == 0 {
            return 0.0;
        }
        // The share of a broker without producers goes to the other brokers.
        let weight = |broker: usize| match self.keys {
            Keys::None => carriers(broker) as f64,
            Keys::Drawn(_) if carriers(broker) == 0 => 0.0,
            Keys::Drawn(_) => part_at(&self.parts[broker], at_ns),
        };
        let all: f64 = (0..self.counts.len()).map(weight).sum();
        let of_kind = self.counts[broker][usize::from(is_late)] as f64;
        weight(broker) / all.max(f64::MIN_POSITIVE) * of_kind / carriers(broker) as f64
    }
}

fn part_at(parts: &[(u64, f64)], at_ns: u64) -> f64 {
    let after = parts.partition_point(|(from_ns, _)| *from_ns <= at_ns);
    after.checked_sub(1).map_or(0.0, |index| parts[index].1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Command, Options};
    use crate::plan::keys::KeySpace;
    use crate::plan::scenario::{self, LateJoin};

    const SECOND: u64 = 1_000_000_000;

    fn scenario(connections: u32, batch: u32) -> Scenario {
        let line = format!(
            "loadgen steady --rate 1200 --duration 10s --connections {connections} --batch {batch}"
        );
        let options = Options::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Steady(steady) = options.command else { panic!("steady was asked for") };
        scenario::steady(&steady.load)
    }

    fn choices(scenario: &Scenario, brokers: usize) -> Vec<QueueChoice> {
        let counts = vec![4; brokers];
        scenario.streams.iter().map(|stream| QueueChoice::new(&stream.keys, &counts)).collect()
    }

    /// Requests per second at `ns`, by producer.
    fn rates(scenario: &Scenario, brokers: usize, ns: u64) -> Vec<(Assigned, f64)> {
        let assigned = assign(scenario, brokers, &choices(scenario, brokers));
        let rate = |it: Assigned| {
            let source = it.source.as_ref().unwrap();
            let rate = source.curve.rate_at(ns) / f64::from(source.count);
            (it, rate)
        };
        assigned.into_iter().map(rate).collect()
    }

    #[test]
    fn producers_share_the_load_evenly() {
        for (connections, brokers, batch) in [(1, 1, 1), (3, 2, 1), (7, 3, 4), (12, 4, 100)] {
            let rates = rates(&scenario(connections, batch), brokers, SECOND);
            let each = 1_200.0 / f64::from(connections) / f64::from(batch);
            assert!(rates.iter().all(|(_, rate)| (rate - each).abs() < 1e-9), "{rates:?}");
        }
    }

    #[test]
    fn late_producers_join_and_then_share() {
        let mut scenario = scenario(10, 1);
        let joins_ns = vec![2 * SECOND; 8];
        scenario.streams[0].late = Some(LateJoin { joins_ns, loaded_from_ns: 5 * SECOND });
        for (ns, early, late) in
            [(0, 600.0, 0.0), (4 * SECOND, 600.0, 0.0), (6 * SECOND, 120.0, 120.0)]
        {
            for (assigned, rate) in rates(&scenario, 2, ns) {
                let wanted = if assigned.number < 2 { early } else { late };
                assert!((rate - wanted).abs() < 1e-6, "{ns} {}: {rate}", assigned.number);
                assert_eq!(assigned.joins_ns, if assigned.number < 2 { 0 } else { 2 * SECOND });
            }
        }
    }

    #[test]
    fn popular_keys_load_their_broker() {
        let mut scenario = scenario(6, 1);
        let space = KeySpace::Hot { hot: 1, share: 0.5, count: 10_000 };
        scenario.streams[0].keys = Keys::Drawn(vec![(0, space)]);
        let mut by_broker = [0.0; 2];
        rates(&scenario, 2, SECOND).iter().for_each(|(it, rate)| by_broker[it.broker] += rate);
        by_broker.sort_by(f64::total_cmp);
        assert!((by_broker[0] + by_broker[1] - 1_200.0).abs() < 1e-6);
        assert!((by_broker[1] / 1_200.0 - 0.75).abs() < 0.03, "{by_broker:?}");
    }

    /// No load is lost with fewer producers than brokers.
    #[test]
    fn a_broker_without_producers_leaves_its_part_to_the_others() {
        let mut scenario = scenario(1, 1);
        scenario.streams[0].keys = Keys::Drawn(vec![(0, KeySpace::Uniform { count: 1_000 })]);
        let rates = rates(&scenario, 3, SECOND);
        assert_eq!(rates.len(), 1);
        assert!((rates[0].1 - 1_200.0).abs() < 1e-6);
    }
}
