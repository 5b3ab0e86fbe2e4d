//! A group with several members. Each is a thread with a group consumer of the client library. They
//! divide the queues as stock consumers do, commit the offsets of what they have recorded, and take
//! over from one another. Their arrivals are audited together.
//!
//! ```text
//!   member ─▶ poll ─▶ check the bodies ─▶ [ audit of the group ] ─▶ record ─▶ acknowledge
//!   member ─▶ …                           (one lock per batch)
//! ```
//!
//! A batch is acknowledged only after it was audited. So when a queue moves to another member, that
//! member begins at the first message that may be missing from the audit, and the arrivals that
//! count ([`Arrival::First`]) are in the order of the queue.
//!
//! Before the run, the group's offset is committed at the end of each queue, and the run begins when
//! each queue has a member. The group ends like one with a single consumer, except that the ends of
//! the queues are queried once sending is over.
//!
//! A member reads its sockets when it polls. So its latencies include the wait for its thread;
//! those of a single consumer ([`crate::engine::consumer`]) do not.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ringmq::client::consumer::QueueRef;
use ringmq::client::group_consumer::{Batch, GroupEvent, GroupOptions};
use ringmq::client::{ClientError, ClientOptions, GroupConsumer};
use ringmq::model::{GroupName, TopicName};
use rustc_hash::FxHashMap;

use crate::clock::{CpuMeter, RunClock};
use crate::engine::audit::{Arrival, Arrived, Outcomes};
use crate::engine::consumer::{COUNT_MAX, Consumed, GONE_MAX, QUIET_COMPLETE_NS, QUIET_MAX};
use crate::engine::measure::{Kind, Recorder};
use crate::engine::pace::Pace;
use crate::engine::payload::{self, BodyError, Identity};

/// Maximum wait for messages, ms; also the period of the checks whether the group is done.
const POLL_MS: u64 = 50;
/// How long a broker may hold a pull that finds nothing, ms.
const HOLD_MS: u64 = 2_000;

pub struct TeamOptions {
    pub clock: RunClock,
    pub namesrv: String,
    pub group: GroupName,
    pub topics: Vec<TopicName>,
    /// Number of members.
    pub count: usize,
    /// Where the group's figures are recorded.
    pub track: usize,
    /// The pace of each member.
    pub pace: Pace,
    /// The group's queues, each with the index of its broker and the offset at which the run begins.
    pub queues: Vec<(QueueRef, usize, u64)>,
    pub arrived: Arrived,
    /// Broker of each producer, by number.
    pub broker_of: Arc<FxHashMap<u32, usize>>,
}

/// What the members of a group share.
pub struct Team {
    clock: RunClock,
    options: GroupOptions,
    track: usize,
    count: usize,
    pace: Pace,
    /// The number of each queue.
    numbers: BTreeMap<QueueRef, u32>,
    /// Broker of each queue.
    brokers: Vec<usize>,
    broker_of: Arc<FxHashMap<u32, usize>>,
    shared: Mutex<Shared>,
}

struct Shared {
    arrived: Arrived,
    /// Number of queues that each member reads.
    owned: Vec<usize>,
    /// Offset after the last message received, by queue number.
    next: Vec<u64>,
    last_arrival_ns: u64,
    /// The last error of a member, the number of errors, and when the last one occurred, ns.
    trouble: Option<(String, u64, u64)>,
    ended: Option<Ended>,
    /// Cached count of missing messages, with the number of arrivals when it was computed.
    counted: Option<(u64, u64)>,
}

/// What is known once sending is over.
struct Ended {
    at_ns: u64,
    outcomes: Arc<[Outcomes]>,
    /// The end of each queue; `None`: the brokers could not be queried.
    ends: Option<Vec<u64>>,
}

impl Team {
    pub fn new(options: TeamOptions) -> Arc<Self> {
        let client = ClientOptions::new(options.namesrv);
        let mut group = GroupOptions::new(client, options.group);
        group.hold_ms = HOLD_MS;
        for topic in options.topics {
            group = group.subscribe(topic, "*");
        }
        let queues = options.queues;
        let numbers = queues.iter().map(|(queue, ..)| queue.clone()).zip(0..).collect();
        let shared = Shared {
            arrived: options.arrived,
            owned: vec![0; options.count],
            next: queues.iter().map(|(.., offset)| *offset).collect(),
            last_arrival_ns: 0,
            trouble: None,
            ended: None,
            counted: None,
        };
        Arc::new(Self {
            clock: options.clock,
            options: group,
            track: options.track,
            count: options.count,
            pace: options.pace.shared_by(queues.len().div_ceil(options.count)),
            numbers,
            brokers: queues.iter().map(|(_, broker, _)| *broker).collect(),
            broker_of: options.broker_of,
            shared: Mutex::new(shared),
        })
    }

    pub fn name(&self) -> &GroupName {
        &self.options.group
    }

    /// Whether each queue has a member, and each member its share of the queues. A group that is
    /// down at first has no members yet, and counts as ready.
    pub fn is_ready(&self) -> bool {
        let shared = self.shared();
        let least = self.numbers.len() / self.count / self.options.subscriptions.len().max(1);
        let is_divided = shared.owned.iter().sum::<usize>() == self.numbers.len()
            && shared.owned.iter().all(|owned| *owned >= least);
        is_divided || self.pace.is_down(0)
    }

    /// Tells the members that sending is over, with its outcomes and the ends of the queues.
    pub fn handle_sent(&self, outcomes: Arc<[Outcomes]>, ends: Option<Vec<u64>>) {
        let at_ns = self.clock.now_ns();
        self.shared().ended = Some(Ended { at_ns, outcomes, ends });
    }

    /// Returns what the group received, once the members have ended. `cpu` is the share of a core that
    /// each of them used.
    pub fn conclude(&self, cpu: Vec<f64>) -> Consumed {
        let shared = self.shared();
        let outcomes = shared.ended.as_ref().map_or(&[][..], |ended| &ended.outcomes);
        let is_whole = shared.arrived.missing(outcomes) == 0;
        let is_read = |queue: usize| is_whole || shared.is_at_end(queue);
        let is_readable = |producer| {
            let broker = self.broker_of.get(&producer);
            let mut queues =
                (0..self.brokers.len()).filter(|queue| Some(&self.brokers[*queue]) == broker);
            queues.all(is_read)
        };
        let (corrupted, foreign) = shared.arrived.unattributed();
        Consumed {
            audits: shared.arrived.reconcile(outcomes, is_readable),
            corrupted,
            foreign,
            last_arrival_ns: shared.last_arrival_ns,
            refused_pulls: shared.trouble.clone().map(|(text, count, _)| (text, count)),
            disconnects: 0,
            gone: 0,
            unread_queues: (0..self.brokers.len()).filter(|queue| !is_read(*queue)).count(),
            queues: self.brokers.len(),
            cpu,
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self, now_ns: u64) -> bool {
        let mut shared = self.shared();
        let Some(ended_ns) = shared.ended.as_ref().map(|ended| ended.at_ns) else { return false };
        let quiet_ns = now_ns.saturating_sub(shared.last_arrival_ns.max(ended_ns));
        if quiet_ns < QUIET_COMPLETE_NS {
            return false;
        }
        let is_at_end = (0..self.brokers.len()).all(|queue| shared.is_at_end(queue));
        if is_at_end && shared.missing() == 0 {
            return true;
        }
        let is_troubled =
            shared.trouble.as_ref().is_some_and(|(.., at_ns)| *at_ns >= shared.last_arrival_ns);
        let quiet_max = if is_troubled { GONE_MAX } else { QUIET_MAX };
        quiet_ns >= quiet_max.as_nanos() as u64
    }
}

impl Shared {
    fn is_at_end(&self, queue: usize) -> bool {
        let ends = self.ended.as_ref().and_then(|ended| ended.ends.as_ref());
        ends.is_some_and(|ends| self.next[queue] >= ends[queue])
    }

    fn missing(&mut self) -> u64 {
        let outcomes = self.ended.as_ref().map_or(&[][..], |ended| &ended.outcomes);
        let count = self.arrived.count();
        let known = self.counted.filter(|(counted, _)| *counted == count);
        let (_, missing) = known.unwrap_or_else(|| (count, self.arrived.missing(outcomes)));
        self.counted = Some((count, missing));
        missing
    }
}

/// One member of a group.
pub struct Member {
    team: Arc<Team>,
    number: usize,
    pace: Pace,
    recorder: Recorder,
    consumer: Option<GroupConsumer>,
}

impl Member {
    pub fn new(team: Arc<Team>, number: usize, recorder: Recorder) -> Self {
        let pace = team.pace.clone();
        Self { team, number, pace, recorder, consumer: None }
    }

    /// Consumes until the group has received everything, or nothing arrives any more. Returns the CPU
    /// use of the thread until sending was over, as a fraction of a core.
    pub fn run(mut self) -> io::Result<f64> {
        let (mut meter, mut cpu) = (None, None);
        loop {
            let now_ns = self.team.clock.now_ns();
            self.recorder.tick(now_ns);
            // The clock reads 0 until the run begins.
            if now_ns > 0 {
                meter.get_or_insert_with(|| CpuMeter::start(now_ns));
            }
            if cpu.is_none() && self.team.shared().ended.is_some() {
                self.pace.open();
                cpu = meter.as_ref().map(|meter: &CpuMeter| meter.share(now_ns));
            }
            if self.team.is_over(now_ns) {
                break;
            }
            if self.pace.is_down(now_ns) {
                self.leave();
                thread::sleep(Duration::from_millis(POLL_MS));
                continue;
            }
            self.take_part(now_ns)?;
        }
        self.leave();
        self.recorder.close();
        Ok(cpu.unwrap_or(0.0))
    }

    /// Leaves the group; what was acknowledged is committed.
    fn leave(&mut self) {
        if let Some(consumer) = self.consumer.take()
            && let Err(error) = consumer.close()
        {
            self.note(&error);
        }
        self.team.shared().owned[self.number] = 0;
    }

    fn take_part(&mut self, now_ns: u64) -> io::Result<()> {
        let mut consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => {
                // With a client id of its own.
                let client = ClientOptions::new(self.team.options.client.nameservers.clone());
                let options = GroupOptions { client, ..self.team.options.clone() };
                GroupConsumer::join(options).map_err(io::Error::other)?
            }
        };
        let count_max = self.pace.allowance(now_ns).unwrap_or(0);
        consumer.limit(count_max.min(COUNT_MAX));
        let wait_ns = self.pace.next_ns(now_ns).saturating_sub(now_ns);
        let wait_ms = (wait_ns / 1_000_000).clamp(1, POLL_MS);
        let before = consumer.requested();
        let mut received = 0;
        for event in consumer.poll(wait_ms) {
            match event {
                GroupEvent::Messages(batch) => {
                    received += self.receive(&batch)?;
                    consumer.acknowledge(&batch);
                }
                GroupEvent::Moved { .. } => {}
                GroupEvent::Trouble(error) => self.note(&error),
            }
        }
        let after = consumer.requested();
        self.pace.take((after.all - before.all) as u32);
        self.pace.give_back((after.ended - before.ended) as i64 - received);
        let is_own = |queue: &QueueRef| self.team.numbers.contains_key(queue);
        let owned = consumer.owned().filter(|(queue, at)| at.is_some() && is_own(queue)).count();
        self.team.shared().owned[self.number] = owned;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Records the messages of a batch. Returns their number.
    fn receive(&mut self, batch: &Batch) -> io::Result<i64> {
        // Checksums are computed before the lock is taken, so other members do not wait for them.
        let read = |message: Result<ringmq::model::record::RecordView<'_>, _>| {
            Ok(payload::read(message.map_err(io::Error::other)?.body))
        };
        let bodies: Vec<Result<Identity, BodyError>> =
            batch.messages().map(read).collect::<io::Result<_>>()?;
        let now_ns = self.team.clock.now_ns();
        let Some(&number) = self.team.numbers.get(batch.queue()) else { return Ok(0) };
        let mut shared = self.team.shared();
        for body in &bodies {
            match body {
                Ok(identity) => {
                    if shared.arrived.take(number, identity) == Arrival::First {
                        let track = self.team.track;
                        let due_ns = shared.arrived.due_ns(identity, now_ns);
                        self.recorder.count(track, due_ns, |counters| counters.received += 1);
                        let latency_ns = now_ns.saturating_sub(due_ns);
                        self.recorder.record(track, due_ns, Kind::EndToEnd, latency_ns, 1);
                    }
                }
                Err(BodyError::Corrupted) => shared.arrived.take_corrupted(),
                Err(BodyError::Foreign) => shared.arrived.take_foreign(),
            }
        }
        shared.last_arrival_ns = shared.last_arrival_ns.max(now_ns);
        let next = &mut shared.next[number as usize];
        *next = (*next).max(batch.next_offset().0);
        Ok(bodies.len() as i64)
    }

    fn note(&self, error: &ClientError) {
        let now_ns = self.team.clock.now_ns();
        let mut shared = self.team.shared();
        let count = shared.trouble.as_ref().map_or(0, |(_, count, _)| *count);
        shared.trouble = Some((error.to_string(), count + 1, now_ns));
    }
}

#[cfg(test)]
mod tests {
    use ringmq::model::QueueId;

    use super::*;

    const QUIET_NS: u64 = QUIET_MAX.as_nanos() as u64;

    fn queue(number: u32) -> QueueRef {
        let topic = TopicName::new("T").unwrap();
        QueueRef { topic, broker: "b".to_owned(), queue: QueueId(number) }
    }

    /// Two members, two queues, and one producer with ten acknowledged messages.
    fn team() -> (Arc<Team>, Arc<[Outcomes]>) {
        let mut outcomes = Outcomes::of(0, 7);
        outcomes.sent = 10;
        outcomes.acknowledge(0..10);
        let team = Team::new(TeamOptions {
            clock: RunClock::unset(),
            namesrv: "127.0.0.1:1".to_owned(),
            group: GroupName::new("g").unwrap(),
            topics: vec![TopicName::new("T").unwrap()],
            count: 2,
            track: 1,
            pace: Pace::new(None, Vec::new()),
            queues: vec![(queue(0), 0, 100), (queue(1), 0, 0)],
            arrived: Arrived::new(42, &[(0, 7)]),
            broker_of: Arc::new([(7, 0)].into_iter().collect()),
        });
        (team, vec![outcomes].into())
    }

    fn receive(team: &Team, sequences: std::ops::Range<u64>) {
        let mut shared = team.shared();
        for sequence in sequences {
            let identity =
                Identity { run: 42, stream: 0, lane: 0, producer: 7, sequence, due_ns: 0 };
            shared.arrived.take(0, &identity);
        }
    }

    #[test]
    fn a_team_is_done_when_everything_has_arrived_and_all_queues_are_read() {
        let (team, outcomes) = team();
        receive(&team, 0..10);
        assert!(!team.is_over(u64::MAX), "sending is not over");
        team.handle_sent(outcomes, Some(vec![110, 0]));
        team.shared().next = vec![105, 0];
        assert!(!team.is_over(QUIET_COMPLETE_NS), "a duplicate may follow");
        team.shared().next = vec![110, 0];
        assert!(!team.is_over(QUIET_COMPLETE_NS - 1));
        assert!(team.is_over(QUIET_COMPLETE_NS));
        let consumed = team.conclude(vec![0.5, 0.2]);
        let audit = consumed.audits[&0];
        assert_eq!((audit.acknowledged, audit.lost, consumed.unread_queues), (10, 0, 0));
    }

    /// A missing message is lost only if the queues were read to their end.
    #[test]
    fn what_is_missing_at_the_end_of_the_queues_is_lost_and_else_unread() {
        for (ends, lost, unread) in
            [(Some(vec![110, 0]), 1, 0), (Some(vec![111, 0]), 0, 1), (None, 0, 1)]
        {
            let (team, outcomes) = team();
            receive(&team, 0..9);
            team.handle_sent(outcomes, ends);
            team.shared().next = vec![110, 0];
            assert!(!team.is_over(QUIET_NS - 1), "it may still come");
            assert!(team.is_over(QUIET_NS));
            let consumed = team.conclude(Vec::new());
            let audit = consumed.audits[&0];
            assert_eq!((audit.lost, audit.unread), (lost, unread));
            assert_eq!(consumed.unread_queues > 0, unread > 0);
        }
    }

    #[test]
    fn a_broker_that_cannot_be_reached_gets_more_time() {
        let (team, outcomes) = team();
        team.handle_sent(outcomes, None);
        team.shared().trouble = Some(("gone".to_owned(), 1, 0));
        assert!(!team.is_over(QUIET_NS));
        assert!(team.is_over(GONE_MAX.as_nanos() as u64));
    }

    #[test]
    fn a_run_begins_when_each_queue_has_a_member() {
        let (team, _) = team();
        for (owned, expected) in [([0, 0], false), ([2, 0], false), ([2, 1], false), ([1, 1], true)]
        {
            team.shared().owned = owned.to_vec();
            assert_eq!(team.is_ready(), expected, "{owned:?}");
        }
    }
}
