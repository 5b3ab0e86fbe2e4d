//! A sending thread: sends the due requests of its producers, and reads the replies.
//!
//! ```text
//!   due ──▶ ready producers ──▶ encode and send ──▶ wait for sockets or the next due time
//!    ▲                                                            │
//!    └──────────────── replies, room, new connections ◀───────────┘
//! ```
//!
//! One system call sends everything that is due on a connection, so a late thread sends more per call
//! and catches up. Threads share only the time of the last acknowledgement and the routes.
//! A thread reports its measurements once a second, and the outcome of each message at its end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::{CpuMeter, RunClock};
use crate::engine::audit::Outcomes;
use crate::engine::connection::Connection;
use crate::engine::connector::{CONNECT_TIMEOUT, Connector};
use crate::engine::measure::Recorder;
use crate::engine::poller::{Interest, Poller, Ready};
use crate::engine::producer::{PATIENCE, Producer, ProducerStats, Refusal, Sent};
use crate::last_ack::LastAck;
use crate::plan::schedule::{Arrival, Schedule};
use crate::target::routes::Routes;

/// How long to wait for replies after the last message was due, ns.
const ANSWER_WAIT_NS: u64 = 10_000_000_000;
/// The same when the run is cut short.
const ANSWER_WAIT_CUT_SHORT_NS: u64 = 1_000_000_000;
/// Period of the checks in [`Worker::round`], ns.
const ROUND_NS: u64 = 50_000_000;
/// Interval of checks for a connection that is being established, ns. Messages may already be due on it,
/// and their wait for this check counts as the broker's latency.
const CONNECTION_LOOK_NS: u64 = 500_000;
/// Maximum number of due requests taken in one turn: about a millisecond. A schedule beyond what the
/// thread can do must not keep it from reading replies.
const DUE_PER_TURN_MAX: usize = 4_096;
/// Minimum sleep without `--spin`, ns. Messages that become due meanwhile share a system call, at the cost
/// of lateness, which the report shows.
const SLEEP_MIN_NS: u64 = 50_000;

pub struct WorkerOptions {
    pub clock: RunClock,
    /// The producers, and when each connects, ns.
    pub producers: Vec<(Producer, u64)>,
    /// When requests are due; its sources are the first producers, in order.
    pub schedule: Schedule,
    /// The number of these. The other producers send in a closed loop, whenever a window has room.
    pub scheduled: usize,
    /// Latest time at which a message may be due.
    pub end_ns: u64,
    pub spin: bool,
    pub last_ack: Arc<LastAck>,
    pub routes: Arc<Routes>,
    /// Set from outside to cut the run short.
    pub stop: Arc<AtomicBool>,
}

/// The result of a thread.
pub struct Finished {
    pub outcomes: Vec<Outcomes>,
    pub refusals: BTreeMap<Refusal, u64>,
    pub last_answer_ns: u64,
    pub disconnects: u64,
    /// CPU use of the thread while messages were due, as a fraction of a core.
    pub cpu: f64,
}

pub struct Worker {
    clock: RunClock,
    producers: Vec<Producer>,
    schedule: Schedule,
    scheduled: usize,
    /// The run was cut short, so no more messages are due.
    is_stopped: bool,
    /// `end_ns <= deadline_ns`: the last due time, and the end of the wait for replies.
    end_ns: u64,
    deadline_ns: u64,
    spin: bool,
    last_ack: Arc<LastAck>,
    routes: Arc<Routes>,
    /// Number of processed route changes.
    changes: u64,
    /// Some producers still wait for replies from the old address of their broker.
    is_moving: bool,
    stop: Arc<AtomicBool>,
    poller: Poller,
    stats: ProducerStats,
    ready: ReadyList,
    connector: Connector,
    /// Producers that connect later, and when; the next one is last.
    joining: Vec<(u64, u32)>,
    /// When to retry refused requests, and of which producer.
    alarms: BinaryHeap<Reverse<(u64, u32)>>,
    next_round_ns: u64,
    disconnects: u64,
}

impl Worker {
    /// Connects all producers that connect at the start.
    pub fn new(options: WorkerOptions, recorder: Recorder) -> io::Result<Self> {
        let poller = Poller::new()?;
        let mut producers = Vec::with_capacity(options.producers.len());
        let mut ready = ReadyList::new(options.producers.len());
        let mut joining = Vec::new();
        for (index, (mut producer, joins_ns)) in (0..).zip(options.producers) {
            if joins_ns == 0 {
                let address = options.routes.address(producer.post.broker);
                let connection = Connection::connect(address, CONNECT_TIMEOUT)?;
                poller.add(producer.connect(connection, 0), u64::from(index))?;
                ready.add(index);
            } else {
                joining.push((joins_ns, index));
            }
            producers.push(producer);
        }
        joining.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self {
            clock: options.clock,
            producers,
            schedule: options.schedule,
            scheduled: options.scheduled,
            is_stopped: false,
            end_ns: options.end_ns,
            deadline_ns: options.end_ns + ANSWER_WAIT_NS,
            spin: options.spin,
            last_ack: options.last_ack,
            changes: options.routes.changes(),
            is_moving: false,
            routes: options.routes,
            stop: options.stop,
            poller,
            stats: ProducerStats::new(recorder),
            ready,
            connector: Connector::start()?,
            joining,
            alarms: BinaryHeap::new(),
            next_round_ns: 0,
            disconnects: 0,
        })
    }

    /// Runs until every request is answered or given up.
    pub fn run(mut self) -> io::Result<Finished> {
        let mut events = Vec::new();
        let mut now_ns = self.wait_for_the_beginning();
        let meter = CpuMeter::start(now_ns);
        let mut cpu = None;
        while !self.is_over(now_ns) {
            if now_ns >= self.end_ns {
                cpu.get_or_insert_with(|| meter.share(now_ns));
            }
            self.stats.recorder.tick(now_ns);
            self.take_due(now_ns);
            self.send_ready(now_ns)?;
            let wait = self.sleep_at(self.clock.now_ns());
            self.poller.wait(wait, |ready| events.push(ready))?;
            now_ns = self.clock.now_ns();
            for ready in events.drain(..) {
                self.handle(ready, now_ns)?;
            }
            self.connect(now_ns)?;
            self.retry(now_ns);
            if now_ns >= self.next_round_ns {
                self.round(now_ns)?;
            }
        }
        let cpu = cpu.unwrap_or_else(|| meter.share(now_ns));
        Ok(self.finish(now_ns, cpu))
    }

    /// The clock reads 0 until the run begins.
    fn wait_for_the_beginning(&self) -> u64 {
        loop {
            match self.clock.now_ns() {
                0 if self.stop.load(Ordering::Relaxed) => return 0,
                0 => thread::sleep(Duration::from_micros(100)),
                now_ns => return now_ns,
            }
        }
    }

    fn next_due_ns(&self) -> Option<u64> {
        self.schedule.next_due_ns().filter(|_| !self.is_stopped)
    }

    fn take_due(&mut self, now_ns: u64) {
        if self.is_stopped {
            return;
        }
        self.stats.turn_ns = now_ns;
        for arrival in due_in_turn(&mut self.schedule, now_ns) {
            let producer = &mut self.producers[arrival.source as usize];
            producer.take_due(arrival.due_ns, &mut self.stats);
            self.ready.add(arrival.source);
        }
    }

    fn send_ready(&mut self, now_ns: u64) -> io::Result<()> {
        let is_open = !self.is_stopped && now_ns < self.end_ns;
        for index in self.ready.take() {
            let is_endless = is_open && index as usize >= self.scheduled;
            let producer = &mut self.producers[index as usize];
            match producer.send(is_endless, &mut self.stats) {
                Ok(Sent::AllThatGoes) => {}
                Ok(Sent::More) => self.ready.add(index),
                Ok(Sent::SocketFull) => self.wait_for(index, Interest::ReadWrite)?,
                Err(_) => self.disconnect(index),
            }
        }
        Ok(())
    }

    fn wait_for(&self, index: u32, interest: Interest) -> io::Result<()> {
        let connection = self.producers[index as usize].connection();
        connection
            .map_or(Ok(()), |connection| self.poller.change(connection, u64::from(index), interest))
    }

    /// How long to sleep if no socket is ready.
    fn sleep_at(&self, now_ns: u64) -> Duration {
        if self.spin || !self.ready.is_empty() {
            return Duration::ZERO;
        }
        let due_ns = self.next_due_ns().unwrap_or(u64::MAX);
        let join_ns = self.joining.last().map_or(u64::MAX, |(joins_ns, _)| *joins_ns);
        let look_ns = match self.connector.has_open_orders() {
            true => now_ns + CONNECTION_LOOK_NS,
            false => u64::MAX,
        };
        let retry_ns = self.alarms.peek().map_or(u64::MAX, |Reverse((at_ns, _))| *at_ns);
        let due_ns = due_ns.min(retry_ns);
        let rare_ns = self.next_round_ns.min(self.stats.recorder.next_tick_ns());
        let sleep_ns = due_ns.min(join_ns).min(look_ns).min(rare_ns).saturating_sub(now_ns);
        Duration::from_nanos(sleep_ns.max(SLEEP_MIN_NS))
    }

    fn handle(&mut self, ready: Ready, now_ns: u64) -> io::Result<()> {
        let index = ready.token as u32;
        let producer = &mut self.producers[index as usize];
        if ready.is_writable {
            match producer.flush(now_ns) {
                Ok(true) => self.wait_for(index, Interest::Read)?,
                Ok(false) => {}
                Err(_) => self.disconnect(index),
            }
        }
        if ready.is_readable {
            match self.producers[index as usize].take_answers(&mut self.stats) {
                Ok(0) => {}
                Ok(_) => {
                    let broker = self.producers[index as usize].post.broker;
                    self.last_ack.record(broker, self.stats.last_answer_ns);
                }
                Err(_) => self.disconnect(index),
            }
        }
        self.set_alarm(index);
        self.ready.add(index);
        Ok(())
    }

    fn set_alarm(&mut self, index: u32) {
        let alarm_ns = self.producers[index as usize].next_alarm_ns();
        self.alarms.extend(alarm_ns.map(|at_ns| Reverse((at_ns, index))));
    }

    /// Retries refused requests that are due for a retry.
    fn retry(&mut self, now_ns: u64) {
        while let Some(&Reverse((at_ns, index))) = self.alarms.peek()
            && at_ns <= now_ns
        {
            self.alarms.pop();
            self.producers[index as usize].retry(now_ns, &mut self.stats);
            self.set_alarm(index);
            self.ready.add(index);
        }
    }

    fn disconnect(&mut self, index: u32) {
        let now_ns = self.clock.now_ns();
        let producer = &mut self.producers[index as usize];
        if producer.connection().is_some() {
            producer.disconnect(now_ns, &mut self.stats);
            self.disconnects += 1;
            let address = self.routes.address(producer.post.broker);
            self.connector.order(index, address);
        }
    }

    /// Orders connections for producers that join now, and takes established connections.
    fn connect(&mut self, now_ns: u64) -> io::Result<()> {
        while let Some((_, index)) = self.joining.pop_if(|(joins_ns, _)| *joins_ns <= now_ns) {
            let broker = self.producers[index as usize].post.broker;
            self.connector.order(index, self.routes.address(broker));
        }
        while let Some((index, connection)) = self.connector.next_made() {
            let producer = &mut self.producers[index as usize];
            // After a route change a producer may get two connections. It uses the first one to the
            // current address of its broker.
            let address = self.routes.address(producer.post.broker);
            if producer.connection().is_none() && connection.peer() == address {
                self.poller.add(producer.connect(connection, now_ns), u64::from(index))?;
                self.ready.add(index);
            }
        }
        Ok(())
    }

    /// Periodic checks: routes, messages to give up, the end of the run.
    fn round(&mut self, now_ns: u64) -> io::Result<()> {
        self.next_round_ns = now_ns + ROUND_NS;
        self.follow_routes(now_ns);
        let mut due_before_ns = now_ns.saturating_sub(PATIENCE.as_nanos() as u64);
        if self.stop.load(Ordering::Relaxed) && !mem::replace(&mut self.is_stopped, true) {
            self.end_ns = self.end_ns.min(now_ns);
            self.deadline_ns = self.deadline_ns.min(now_ns + ANSWER_WAIT_CUT_SHORT_NS);
            due_before_ns = u64::MAX;
        }
        for (index, producer) in (0..).zip(&mut self.producers) {
            producer.expire(due_before_ns, now_ns, &mut self.stats);
            if producer.has_unsent() {
                self.ready.add(index);
            }
        }
        Ok(())
    }

    /// Follows brokers that have moved. At the old address, nothing answers, or a replica that no
    /// longer leads refuses requests. So producers that wait for a connection try the new address
    /// as well, and the others leave the old one.
    fn follow_routes(&mut self, now_ns: u64) {
        let changes = self.routes.changes();
        let is_changed = changes != mem::replace(&mut self.changes, changes);
        if !is_changed && !self.is_moving {
            return;
        }
        let is_joining = |index| self.joining.iter().any(|(_, joining)| *joining == index);
        let (mut moved, mut is_moving) = (Vec::new(), false);
        for (index, producer) in (0..).zip(&mut self.producers) {
            let address = self.routes.address(producer.post.broker);
            match producer.connection().map(Connection::peer) {
                None if is_changed && !is_joining(index) => self.connector.order(index, address),
                Some(peer) if peer != address => match producer.leave(now_ns) {
                    true => moved.push(index),
                    false => is_moving = true,
                },
                Some(_) => producer.stay(),
                None => {}
            }
        }
        self.is_moving = is_moving;
        moved.into_iter().for_each(|index| self.disconnect(index));
    }

    fn is_over(&self, now_ns: u64) -> bool {
        let is_all_due = now_ns >= self.end_ns && self.next_due_ns().is_none();
        is_all_due && (now_ns >= self.deadline_ns || self.producers.iter().all(Producer::is_idle))
            || self.is_stopped && now_ns >= self.deadline_ns
    }

    fn finish(self, now_ns: u64, cpu: f64) -> Finished {
        let Self { producers, mut stats, disconnects, .. } = self;
        let outcomes = |producer: Producer| producer.into_outcomes(now_ns, &mut stats);
        let outcomes = producers.into_iter().map(outcomes).collect();
        stats.recorder.close();
        let (refusals, last_answer_ns) = (stats.refusals, stats.last_answer_ns);
        Finished { outcomes, refusals, last_answer_ns, disconnects, cpu }
    }
}

/// What is due by now, or the part of it that one turn takes.
fn due_in_turn(schedule: &mut Schedule, now_ns: u64) -> impl Iterator<Item = Arrival> + '_ {
    let next = move || {
        schedule.next_due_ns().filter(|due_ns| *due_ns <= now_ns)?;
        schedule.next()
    };
    std::iter::from_fn(next).take(DUE_PER_TURN_MAX)
}

/// Indexes of producers that may be able to send, each once.
struct ReadyList {
    indexes: Vec<u32>,
    is_in: Vec<bool>,
}

impl ReadyList {
    fn new(count: usize) -> Self {
        Self { indexes: Vec::with_capacity(count), is_in: vec![false; count] }
    }

    fn add(&mut self, index: u32) {
        if !mem::replace(&mut self.is_in[index as usize], true) {
            self.indexes.push(index);
        }
    }

    fn take(&mut self) -> Vec<u32> {
        let taken = mem::take(&mut self.indexes);
        taken.iter().for_each(|&index| self.is_in[index as usize] = false);
        taken
    }

    fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::curve::RateCurve;
    use crate::plan::schedule::{Arrivals, Source};

    /// After a pause of a second, millions of messages are due. Between two turns, replies are read.
    #[test]
    fn a_turn_takes_no_more_than_its_share_of_what_is_due() {
        const SECOND_NS: u64 = 1_000_000_000;
        let curve = Arc::new(RateCurve::constant(5e6, Duration::from_secs(2)));
        let source = Source { number: 0, curve, index: 0, count: 1 };
        let mut schedule = Schedule::new(Arrivals::Uniform, 1, [source]);
        let mut turns = 0;
        while schedule.next_due_ns().is_some_and(|due_ns| due_ns <= SECOND_NS / 100) {
            let count = due_in_turn(&mut schedule, SECOND_NS / 100).count();
            assert!(count <= DUE_PER_TURN_MAX);
            turns += 1;
        }
        assert_eq!(turns, 50_000usize.div_ceil(DUE_PER_TURN_MAX));
        assert_eq!(due_in_turn(&mut schedule, SECOND_NS / 100).count(), 0);
    }
}
