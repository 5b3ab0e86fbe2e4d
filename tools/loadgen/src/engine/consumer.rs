//! The only consumer of a group; [`crate::engine::members`] has groups with several. A thread that
//! pulls all queues of the group's topics, from their ends at the start of the run and at the
//! group's rate, checks each message, and records it for the audit.
//!
//! Each queue has at most one pull in flight; the broker holds it while there is nothing new. Once
//! sending is over, the consumer gets the outcomes of all messages and drops its rate limit. It ends
//! when every acknowledged message has arrived and all queues are read to their end, or when nothing
//! has arrived for [`QUIET_MAX`], or [`GONE_MAX`] while a broker is unreachable. If a message is
//! missing, a queue counts as read to its end only if the broker answered a pull that was sent after
//! the end of sending: a broker that stops answering has not lost anything.
//!
//! A group that is down has no connections. It resumes where it stopped, like one that has committed
//! its offsets. Pulls also commit the offsets at the broker, where tools can see them.
//!
//! Not here: the pace itself ([`crate::engine::pace`]).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringmq::model::batch::Records;
use ringmq::model::request::{Expression, Pull, QueueOf};
use ringmq::model::{GroupName, QueueId, Request, TopicName};
use ringmq::wire::{self, HeaderEncoding};
use rustc_hash::FxHashMap;

use crate::clock::{CpuMeter, RunClock};
use crate::engine::audit::{Arrival, Arrived, Audit, Outcomes};
use crate::engine::connection::{Connection, FrameView};
use crate::engine::connector::{CONNECT_TIMEOUT, Connector};
use crate::engine::measure::{Kind, Recorder};
use crate::engine::pace::Pace;
use crate::engine::payload::{self, BodyError};
use crate::engine::poller::{Interest, Poller, Ready};
use crate::target::cluster::QueueStart;
use crate::target::routes::Routes;

/// Prefix of group names at the broker.
pub const GROUP_PREFIX: &str = "loadgen-";
/// How long a broker may hold a pull that finds nothing.
const HOLD_MS: u64 = 2_000;
/// Maximum messages and bytes per pull; brokers have their own limits.
pub const COUNT_MAX: u32 = 4_096;
const BYTES_MAX: u32 = 1 << 20;
/// How long after the last arrival a consumer gives up, once sending is over. Long enough for one more
/// pull of every queue.
pub const QUIET_MAX: Duration = Duration::from_millis(3 * HOLD_MS);
/// The same while a broker is unreachable: it may be restarting.
pub const GONE_MAX: Duration = Duration::from_secs(30);
/// How long after the last arrival a complete audit counts as final, once sending is over. Until then
/// duplicates may still arrive.
pub const QUIET_COMPLETE_NS: u64 = 300_000_000;
/// Period of the checks in `round`, ns.
const ROUND_NS: u64 = 50_000_000;
/// A pull is sent again when its answer is lost: nothing has come for this long, or a pull that was sent this
/// much later has been answered.
const LOST_NS: u64 = 2 * HOLD_MS * 1_000_000;
/// Pause before a failed pull is retried, ns.
const RETRY_NS: u64 = 100_000_000;

pub struct ConsumerOptions {
    pub clock: RunClock,
    pub group: GroupName,
    /// Where the group's figures are recorded.
    pub track: usize,
    pub pace: Pace,
    pub encoding: HeaderEncoding,
    pub broker_count: usize,
    pub routes: Arc<Routes>,
    pub queues: Vec<QueueStart>,
    pub arrived: Arrived,
    /// Broker of each producer, by number.
    pub broker_of: Arc<FxHashMap<u32, usize>>,
}

/// The result of a consumer.
pub struct Consumed {
    /// By stream.
    pub audits: BTreeMap<u16, Audit>,
    pub corrupted: u64,
    pub foreign: u64,
    pub last_arrival_ns: u64,
    /// The last refusal of a pull, and the number of refusals.
    pub refused_pulls: Option<(String, u64)>,
    pub disconnects: u64,
    /// Number of brokers that were unreachable at the end.
    pub gone: usize,
    /// Number of queues that were not read to their end, and of all queues.
    pub unread_queues: usize,
    pub queues: usize,
    /// CPU use of each thread until sending was over, as a fraction of a core.
    pub cpu: Vec<f64>,
}

pub struct Consumer {
    clock: RunClock,
    group: GroupName,
    pace: Pace,
    encoding: HeaderEncoding,
    brokers: Vec<Broker>,
    routes: Arc<Routes>,
    queues: Vec<Queue>,
    poller: Poller,
    connector: Connector,
    stats: ConsumerStats,
    outcomes: flume::Receiver<Arc<[Outcomes]>>,
    broker_of: Arc<FxHashMap<u32, usize>>,
    /// Cached count of missing messages, with the number of arrivals when it was computed.
    counted: Option<(u64, u64)>,
    /// The wait for late messages starts at the last arrival, but not before this, ns.
    quiet_from_ns: u64,
    is_sending_over: bool,
    /// Index of the queue that is pulled first in the next turn. Round robin: with a low rate, no queue
    /// starves.
    next_queue: usize,
    next_round_ns: u64,
}

#[derive(Default)]
struct Broker {
    connection: Option<Connection>,
    /// When something was received from it.
    heard_ns: u64,
    /// When the newest of the pulls was sent that it has answered.
    answered_ns: u64,
    /// Address of the connection that is being established.
    ordered: Option<SocketAddr>,
}

impl Broker {
    /// Whether a pull sent at `asked_ns` gets no reply any more: nothing has come for long, or a pull
    /// was answered that was sent long after it. A broker that is only slow answers in turn.
    fn has_lost(&self, asked_ns: u64, now_ns: u64) -> bool {
        let quiet_from_ns = asked_ns.max(self.heard_ns);
        quiet_from_ns + LOST_NS <= now_ns || asked_ns + LOST_NS <= self.answered_ns
    }
}

struct Queue {
    broker: usize,
    topic: TopicName,
    id: QueueId,
    next_offset: u64,
    /// End of the queue in the broker's last reply; unknown from a disconnect until the next reply.
    max_offset: Option<u64>,
    /// The pull in flight was sent after sending was over.
    is_asked_at_end: bool,
    /// The reply to such a pull showed that the queue was read to its end.
    is_at_end: bool,
    state: QueueState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueState {
    /// A pull is due.
    Idle,
    /// A pull for `count` messages is in flight since `at_ns`.
    Asked {
        number: i32,
        count: u32,
        at_ns: u64,
    },
    RetryAt(u64),
}

impl Queue {
    /// Forgets the pull in flight, because the connection is lost. The end of the queue is unknown
    /// until the broker replies again: it may be beyond the acknowledged messages. Returns the
    /// number of messages that the pull requested.
    fn forget(&mut self) -> i64 {
        let asked = match self.state {
            QueueState::Asked { count, .. } => i64::from(count),
            QueueState::Idle | QueueState::RetryAt(_) => 0,
        };
        self.state = QueueState::Idle;
        self.max_offset = None;
        self.is_at_end = false;
        asked
    }

    /// Whether everything up to the end in the broker's last reply has been read.
    fn has_no_more(&self) -> bool {
        self.max_offset.is_some_and(|end| self.next_offset >= end)
    }
}

/// What it has received and measured so far.
struct ConsumerStats {
    recorder: Recorder,
    track: usize,
    /// Messages requested minus messages received, not yet returned to the pace.
    unused: i64,
    arrived: Arrived,
    last_arrival_ns: u64,
    refused_pulls: Option<(String, u64)>,
    disconnects: u64,
    pulls: u32,
}

impl Consumer {
    /// Connects to all brokers.
    pub fn new(
        options: ConsumerOptions,
        recorder: Recorder,
        outcomes: flume::Receiver<Arc<[Outcomes]>>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let mut brokers = Vec::with_capacity(options.broker_count);
        for index in 0..options.broker_count {
            let connection = Connection::connect(options.routes.address(index), CONNECT_TIMEOUT)?;
            poller.add(&connection, index as u64)?;
            let connection = Some(connection);
            brokers.push(Broker { connection, heard_ns: 0, answered_ns: 0, ordered: None });
        }
        let queue = |start: QueueStart| Queue {
            broker: start.broker,
            topic: start.topic,
            id: start.queue,
            next_offset: start.offset,
            max_offset: Some(start.offset),
            is_asked_at_end: false,
            is_at_end: false,
            state: QueueState::Idle,
        };
        let queues: Vec<Queue> = options.queues.into_iter().map(queue).collect();
        Ok(Self {
            clock: options.clock,
            group: options.group,
            pace: options.pace.shared_by(queues.len()),
            encoding: options.encoding,
            brokers,
            routes: options.routes,
            queues,
            poller,
            connector: Connector::start()?,
            stats: ConsumerStats {
                recorder,
                track: options.track,
                unused: 0,
                arrived: options.arrived,
                last_arrival_ns: 0,
                refused_pulls: None,
                disconnects: 0,
                pulls: 0,
            },
            outcomes,
            broker_of: options.broker_of,
            counted: None,
            quiet_from_ns: 0,
            is_sending_over: false,
            next_queue: 0,
            next_round_ns: 0,
        })
    }

    /// Consumes until everything has arrived, or nothing arrives any more.
    pub fn run(mut self) -> io::Result<Consumed> {
        let mut events = Vec::new();
        let mut outcomes: Option<Arc<[Outcomes]>> = None;
        let (mut meter, mut cpu) = (None, 0.0);
        loop {
            let now_ns = self.clock.now_ns();
            self.stats.recorder.tick(now_ns);
            // The clock reads 0 until the run begins.
            if now_ns > 0 {
                meter.get_or_insert_with(|| CpuMeter::start(now_ns));
            }
            if now_ns >= self.next_round_ns {
                self.round(now_ns)?;
                if outcomes.is_none()
                    && let Ok(received) = self.outcomes.try_recv()
                {
                    self.pace.open();
                    self.quiet_from_ns = now_ns;
                    self.is_sending_over = true;
                    cpu = meter.map_or(0.0, |meter: CpuMeter| meter.share(now_ns));
                    outcomes = Some(received);
                }
                if let Some(outcomes) = &outcomes
                    && self.is_over(now_ns, outcomes)
                {
                    return Ok(self.finish(outcomes, cpu));
                }
            }
            self.pull_idle(now_ns)?;
            let rare_ns = self.next_round_ns.min(self.stats.recorder.next_tick_ns());
            let wake_ns = rare_ns.min(self.pace.next_ns(now_ns));
            let wait = Duration::from_nanos(wake_ns.saturating_sub(now_ns).max(1));
            self.poller.wait(wait, |ready| events.push(ready))?;
            for ready in events.drain(..) {
                self.handle(ready)?;
            }
        }
    }

    fn is_over(&mut self, now_ns: u64, outcomes: &[Outcomes]) -> bool {
        let heard_ns = self.stats.last_arrival_ns.max(self.quiet_from_ns);
        let quiet_ns = now_ns.saturating_sub(heard_ns);
        if quiet_ns < QUIET_COMPLETE_NS {
            return false;
        }
        let is_at_end = self.queues.iter().all(Queue::has_no_more);
        let is_complete = is_at_end && self.missing(outcomes) == 0;
        let is_any_gone = self.brokers.iter().any(|broker| broker.connection.is_none());
        let quiet_max = if is_any_gone { GONE_MAX } else { QUIET_MAX };
        is_complete || quiet_ns >= quiet_max.as_nanos() as u64
    }

    /// Number of missing messages. Scans the whole audit, so the result is cached until the next arrival.
    fn missing(&mut self, outcomes: &[Outcomes]) -> u64 {
        let arrived = &self.stats.arrived;
        let known = self.counted.filter(|(count, _)| *count == arrived.count());
        let (_, missing) = *self
            .counted
            .insert(known.unwrap_or_else(|| (arrived.count(), arrived.missing(outcomes))));
        missing
    }

    fn finish(self, outcomes: &[Outcomes], cpu: f64) -> Consumed {
        let stats = self.stats;
        stats.recorder.close();
        let (corrupted, foreign) = stats.arrived.unattributed();
        let is_whole = stats.arrived.missing(outcomes) == 0;
        let is_read = |queue: &&Queue| queue.is_at_end || is_whole && queue.has_no_more();
        let is_readable = |producer| {
            let broker = self.broker_of.get(&producer);
            let mut queues = self.queues.iter().filter(|queue| Some(&queue.broker) == broker);
            queues.all(|queue| is_read(&queue))
        };
        let unread_queues = self.queues.iter().filter(|queue| !is_read(queue)).count();
        Consumed {
            audits: stats.arrived.reconcile(outcomes, is_readable),
            corrupted,
            foreign,
            last_arrival_ns: stats.last_arrival_ns,
            refused_pulls: stats.refused_pulls,
            disconnects: stats.disconnects,
            gone: self.brokers.iter().filter(|broker| broker.connection.is_none()).count(),
            unread_queues,
            queues: self.queues.len(),
            cpu: vec![cpu],
        }
    }

    fn round(&mut self, now_ns: u64) -> io::Result<()> {
        self.next_round_ns = now_ns + ROUND_NS;
        if self.pace.is_down(now_ns) {
            self.leave();
            return Ok(());
        }
        for queue in &mut self.queues {
            match queue.state {
                QueueState::RetryAt(at_ns) if at_ns <= now_ns => queue.state = QueueState::Idle,
                QueueState::Asked { at_ns, .. }
                    if self.brokers[queue.broker].has_lost(at_ns, now_ns) =>
                {
                    self.stats.unused += queue.forget();
                }
                _ => {}
            }
        }
        while let Some((index, connection)) = self.connector.next_made() {
            let address = self.routes.address(index as usize);
            let broker = &mut self.brokers[index as usize];
            broker.ordered = None;
            if broker.connection.is_none() && connection.peer() == address {
                self.poller.add(&connection, u64::from(index))?;
                broker.connection = Some(connection);
                self.quiet_from_ns = now_ns;
            }
        }
        // Disconnects from brokers that have moved: another replica leads now.
        for index in 0..self.brokers.len() {
            let peer = self.brokers[index].connection.as_ref().map(Connection::peer);
            if peer.is_some_and(|peer| peer != self.routes.address(index)) {
                self.disconnect(index);
            }
        }
        for (index, broker) in self.brokers.iter_mut().enumerate() {
            let address = self.routes.address(index);
            if broker.connection.is_none() && broker.ordered != Some(address) {
                broker.ordered = Some(address);
                self.connector.order(index as u32, address);
            }
        }
        Ok(())
    }

    /// Closes all connections; [`round`](Self::round) reconnects when the group is up again.
    fn leave(&mut self) {
        self.brokers.iter_mut().for_each(|broker| broker.connection = None);
        self.stats.unused += self.queues.iter_mut().map(Queue::forget).sum::<i64>();
    }

    /// Sends a pull for every queue without one, as far as the pace allows.
    fn pull_idle(&mut self, now_ns: u64) -> io::Result<()> {
        self.pace.give_back(std::mem::take(&mut self.stats.unused));
        let count = self.queues.len();
        let first = self.next_queue;
        for index in (first..count).chain(0..first) {
            if self.queues[index].state != QueueState::Idle {
                continue;
            }
            let Some(count_max) = self.pace.allowance(now_ns) else { return Ok(()) };
            self.pull(index, count_max.min(COUNT_MAX), now_ns)?;
            self.next_queue = (index + 1) % count;
        }
        Ok(())
    }

    fn pull(&mut self, index: usize, count_max: u32, now_ns: u64) -> io::Result<()> {
        let queue_count = self.queues.len() as u32;
        let queue = &mut self.queues[index];
        let Some(connection) = &mut self.brokers[queue.broker].connection else { return Ok(()) };
        // The request number encodes the queue's index, so a reply can be matched to its queue.
        let round = self.stats.pulls % (i32::MAX as u32 / queue_count);
        let number = (round * queue_count + index as u32) as i32;
        self.stats.pulls = self.stats.pulls.wrapping_add(1);
        let request = pull_request(&self.group, self.encoding, queue, count_max);
        wire::encode_request(connection.output(), self.encoding, number, false, &request)
            .map_err(io::Error::other)?;
        queue.state = QueueState::Asked { number, count: count_max, at_ns: now_ns };
        queue.is_asked_at_end = self.is_sending_over;
        self.pace.take(count_max);
        let broker = queue.broker;
        match connection.flush() {
            Ok(true) => Ok(()),
            Ok(false) => self.wait_for(broker, Interest::ReadWrite),
            Err(_) => {
                self.disconnect(broker);
                Ok(())
            }
        }
    }

    fn wait_for(&self, broker: usize, interest: Interest) -> io::Result<()> {
        let connection = self.brokers[broker].connection.as_ref();
        connection
            .map_or(Ok(()), |connection| self.poller.change(connection, broker as u64, interest))
    }

    fn handle(&mut self, ready: Ready) -> io::Result<()> {
        let index = ready.token as usize;
        if ready.is_writable {
            let connection = self.brokers[index].connection.as_mut();
            match connection.map_or(Ok(true), Connection::flush) {
                Ok(true) => self.wait_for(index, Interest::Read)?,
                Ok(false) => {}
                Err(_) => self.disconnect(index),
            }
        }
        if ready.is_readable && self.read_answers(index).is_err() {
            self.disconnect(index);
        }
        Ok(())
    }

    fn read_answers(&mut self, broker: usize) -> io::Result<()> {
        let Some(connection) = &mut self.brokers[broker].connection else { return Ok(()) };
        let Some(waited_ns) = connection.receive()? else { return Ok(()) };
        let now_ns = self.clock.now_ns().saturating_sub(waited_ns);
        let mut answered_ns = 0;
        while let Some(frame) = connection.next_frame()? {
            let asked_ns = take_answer(&mut self.queues, &frame, now_ns, &mut self.stats)?;
            answered_ns = answered_ns.max(asked_ns.unwrap_or(0));
        }
        let broker = &mut self.brokers[broker];
        broker.heard_ns = now_ns;
        broker.answered_ns = broker.answered_ns.max(answered_ns);
        Ok(())
    }

    fn disconnect(&mut self, index: usize) {
        let broker = &mut self.brokers[index];
        if broker.connection.take().is_none() {
            return;
        }
        self.stats.disconnects += 1;
        let lost = self.queues.iter_mut().filter(|queue| queue.broker == index);
        self.stats.unused += lost.map(Queue::forget).sum::<i64>();
    }
}

fn pull_request(
    group: &GroupName,
    encoding: HeaderEncoding,
    queue: &Queue,
    count_max: u32,
) -> Request {
    let is_fixed = encoding == HeaderEncoding::Fixed;
    let everything = Expression { kind: "TAG".to_owned(), text: "*".to_owned() };
    Request::Pull(Pull {
        group: (!is_fixed).then(|| group.clone()),
        queue: QueueOf { topic: queue.topic.clone(), queue: queue.id },
        offset: queue.next_offset as i64,
        count_max,
        bytes_max: Some(BYTES_MAX),
        commit: (!is_fixed).then_some(queue.next_offset as i64),
        // Without a hold the broker replies immediately, with the end of the queue.
        hold_ms: queue.max_offset.map(|_| HOLD_MS),
        subscription: (!is_fixed).then_some(everything),
        subscription_version: 0,
    })
}

/// Returns when the pull that this answers was sent, if there is one.
fn take_answer(
    queues: &mut [Queue],
    frame: &FrameView<'_>,
    now_ns: u64,
    stats: &mut ConsumerStats,
) -> io::Result<Option<u64>> {
    let reply = wire::decode_reply(&frame.header_only()).map_err(io::Error::other)?;
    let index = reply.opaque as usize % queues.len();
    let queue = &mut queues[index];
    let (count, asked_ns) = match queue.state {
        QueueState::Asked { number, count, at_ns } if reply.is_reply && number == reply.opaque => {
            (count, at_ns)
        }
        _ => return Ok(None),
    };
    stats.unused += i64::from(count);
    match reply.pulled() {
        Ok(pulled) => {
            take_records(frame.body, index as u32, now_ns, stats)?;
            queue.next_offset = pulled.next_offset.0;
            queue.max_offset = Some(pulled.max_offset.0);
            queue.is_at_end = queue.is_asked_at_end && queue.has_no_more();
            queue.state = QueueState::Idle;
        }
        Err(refused) => {
            let count = stats.refused_pulls.take().map_or(0, |(_, count)| count);
            stats.refused_pulls = Some((refused.to_string(), count + 1));
            queue.state = QueueState::RetryAt(now_ns + RETRY_NS);
        }
    }
    Ok(Some(asked_ns))
}

fn take_records(
    records: &[u8],
    queue: u32,
    now_ns: u64,
    stats: &mut ConsumerStats,
) -> io::Result<()> {
    for record_read in Records::new(records) {
        let body = record_read.map_err(io::Error::other)?.body;
        match payload::read(body) {
            Ok(identity) => {
                stats.unused -= 1;
                if stats.arrived.take(queue, &identity) == Arrival::First {
                    let track = stats.track;
                    let due_ns = stats.arrived.due_ns(&identity, now_ns);
                    stats.recorder.count(track, due_ns, |counters| counters.received += 1);
                    let latency_ns = now_ns.saturating_sub(due_ns);
                    stats.recorder.record(track, due_ns, Kind::EndToEnd, latency_ns, 1);
                }
            }
            Err(BodyError::Corrupted) => stats.arrived.take_corrupted(),
            Err(BodyError::Foreign) => stats.arrived.take_foreign(),
        }
        stats.last_arrival_ns = now_ns;
    }
    Ok(())
}
