//! The consuming side: one thread that pulls every queue from where it stood when the run began,
//! checks each message, and feeds the audit.
//!
//! Each queue has at most one pull under way, held by the broker while there is nothing new. After
//! the sending is over the consumer is told every outcome; it ends when each acknowledged message
//! has arrived and all queues are read to their end, or when nothing has come for
//! [`QUIET_MAX`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringmq::model::batch::Records;
use ringmq::model::request::{Expression, Pull, QueueOf};
use ringmq::model::{GroupName, QueueId, Request, TopicName};
use ringmq::wire::{self, HeaderEncoding};

use crate::audit::{Arrival, Arrived, Audit, Outcomes};
use crate::clock::RunClock;
use crate::connection::{Connection, FrameView};
use crate::connector::{CONNECT_TIMEOUT, Connector};
use crate::histogram::record;
use crate::measure::Recorder;
use crate::payload::{self, BodyError};
use crate::poller::{Interest, Poller, Ready};

/// Group the consumer pulls as. It commits nothing.
pub const CONSUMER_GROUP: &str = "loadgen-consumer";
/// How long a broker may hold a pull that finds nothing.
const HOLD_MS: u64 = 5_000;
/// Messages and bytes wanted per pull; brokers have limits of their own.
const COUNT_MAX: u32 = 4_096;
const BYTES_MAX: u32 = 1 << 20;
/// After the sending: silence after which nothing more is expected.
pub const QUIET_MAX: Duration = Duration::from_secs(5);
/// After the sending: silence after which a complete audit is believed to be final.
const QUIET_COMPLETE_NS: u64 = 300_000_000;
/// Rare things are looked at this often, ns.
const ROUND_NS: u64 = 50_000_000;
/// Pause before a pull that failed is tried again, ns.
const RETRY_NS: u64 = 100_000_000;

pub struct ConsumerOptions {
    pub clock: RunClock,
    pub topic: TopicName,
    pub encoding: HeaderEncoding,
    pub message_size: usize,
    pub brokers: Vec<SocketAddr>,
    pub queues: Vec<QueueStart>,
    pub arrived: Arrived,
}

/// A queue and the first offset that belongs to the run.
#[derive(Clone, Copy, Debug)]
pub struct QueueStart {
    /// Index of its broker.
    pub broker: usize,
    pub queue: QueueId,
    pub offset: u64,
}

/// What the consumer has to tell at its end.
pub struct Consumed {
    pub audit: Audit,
    pub last_arrival_ns: u64,
    /// The last answer to a pull that said no, and how many there were.
    pub refused_pulls: Option<(String, u64)>,
    pub disconnects: u64,
}

pub struct Consumer {
    clock: RunClock,
    topic: TopicName,
    encoding: HeaderEncoding,
    message_size: usize,
    brokers: Vec<Broker>,
    queues: Vec<Queue>,
    poller: Poller,
    connector: Connector,
    notebook: Notebook,
    outcomes: flume::Receiver<Vec<Outcomes>>,
    next_round_ns: u64,
}

struct Broker {
    address: SocketAddr,
    connection: Option<Connection>,
}

struct Queue {
    broker: usize,
    id: QueueId,
    next_offset: u64,
    /// End of the queue as last heard.
    max_offset: u64,
    state: QueueState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueState {
    /// A pull is due.
    Idle,
    /// A pull is under way, with this number.
    Asked(i32),
    RetryAt(u64),
}

struct Notebook {
    recorder: Recorder,
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
        outcomes: flume::Receiver<Vec<Outcomes>>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let mut brokers = Vec::with_capacity(options.brokers.len());
        for (token, address) in (0..).zip(options.brokers) {
            let connection = Connection::connect(address, CONNECT_TIMEOUT)?;
            poller.add(&connection, token)?;
            brokers.push(Broker { address, connection: Some(connection) });
        }
        let queues = options.queues.iter().map(|start| Queue {
            broker: start.broker,
            id: start.queue,
            next_offset: start.offset,
            max_offset: start.offset,
            state: QueueState::Idle,
        });
        Ok(Self {
            clock: options.clock,
            topic: options.topic,
            encoding: options.encoding,
            message_size: options.message_size,
            brokers,
            queues: queues.collect(),
            poller,
            connector: Connector::start()?,
            notebook: Notebook {
                recorder,
                arrived: options.arrived,
                last_arrival_ns: 0,
                refused_pulls: None,
                disconnects: 0,
                pulls: 0,
            },
            outcomes,
            next_round_ns: 0,
        })
    }

    /// Consumes until everything has arrived, or nothing more will.
    pub fn run(mut self) -> io::Result<Consumed> {
        let mut events = Vec::new();
        let mut outcomes: Option<Arc<[Outcomes]>> = None;
        loop {
            let now_ns = self.clock.now_ns();
            self.notebook.recorder.tick(now_ns);
            if now_ns >= self.next_round_ns {
                self.round(now_ns)?;
                outcomes = outcomes.or_else(|| self.outcomes.try_recv().ok().map(Into::into));
                if let Some(outcomes) = &outcomes
                    && self.is_over(now_ns, outcomes)
                {
                    return Ok(self.finish(outcomes));
                }
            }
            self.pull_idle()?;
            let rare_ns = self.next_round_ns.min(self.notebook.recorder.next_tick_ns());
            let wait = Duration::from_nanos(rare_ns.saturating_sub(now_ns).max(1));
            self.poller.wait(wait, |ready| events.push(ready))?;
            for ready in events.drain(..) {
                self.handle(ready)?;
            }
        }
    }

    fn is_over(&self, now_ns: u64, outcomes: &[Outcomes]) -> bool {
        let quiet_ns = now_ns.saturating_sub(self.notebook.last_arrival_ns);
        if quiet_ns < QUIET_COMPLETE_NS {
            return false;
        }
        let is_at_end = self.queues.iter().all(|queue| queue.next_offset >= queue.max_offset);
        let is_complete = is_at_end && self.notebook.arrived.missing(outcomes) == 0;
        is_complete || quiet_ns >= QUIET_MAX.as_nanos() as u64
    }

    fn finish(self, outcomes: &[Outcomes]) -> Consumed {
        let notebook = self.notebook;
        notebook.recorder.finish();
        Consumed {
            audit: notebook.arrived.reconcile(outcomes),
            last_arrival_ns: notebook.last_arrival_ns,
            refused_pulls: notebook.refused_pulls,
            disconnects: notebook.disconnects,
        }
    }

    fn round(&mut self, now_ns: u64) -> io::Result<()> {
        self.next_round_ns = now_ns + ROUND_NS;
        for queue in &mut self.queues {
            if matches!(queue.state, QueueState::RetryAt(at_ns) if at_ns <= now_ns) {
                queue.state = QueueState::Idle;
            }
        }
        while let Some((index, connection)) = self.connector.next_made() {
            let broker = &mut self.brokers[index as usize];
            match connection {
                Some(connection) => {
                    self.poller.add(&connection, u64::from(index))?;
                    broker.connection = Some(connection);
                }
                None => self.connector.order(index, broker.address),
            }
        }
        Ok(())
    }

    /// Sends a pull for every queue that has none.
    fn pull_idle(&mut self) -> io::Result<()> {
        let queue_count = self.queues.len() as u32;
        for index in 0..queue_count {
            let queue = &mut self.queues[index as usize];
            if queue.state != QueueState::Idle {
                continue;
            }
            let Some(connection) = &mut self.brokers[queue.broker].connection else { continue };
            // The queue's index is part of the number, so an answer finds its queue.
            let round = self.notebook.pulls % (i32::MAX as u32 / queue_count);
            let number = (round * queue_count + index) as i32;
            self.notebook.pulls = self.notebook.pulls.wrapping_add(1);
            let request = pull_request(&self.topic, self.encoding, queue);
            wire::encode_request(connection.output(), self.encoding, number, false, &request)
                .map_err(io::Error::other)?;
            queue.state = QueueState::Asked(number);
            let (broker, connection) = (queue.broker, &mut self.brokers[queue.broker].connection);
            let sent = connection.as_mut().map_or(Ok(true), Connection::flush);
            match sent {
                Ok(true) => {}
                Ok(false) => self.wait_for(broker, Interest::ReadWrite)?,
                Err(_) => self.disconnect(broker),
            }
        }
        Ok(())
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
        if !connection.receive()? {
            return Ok(());
        }
        let now_ns = self.clock.now_ns();
        while let Some(frame) = connection.next_frame()? {
            take_answer(&mut self.queues, &frame, self.message_size, now_ns, &mut self.notebook)?;
        }
        Ok(())
    }

    fn disconnect(&mut self, index: usize) {
        let broker = &mut self.brokers[index];
        if broker.connection.take().is_none() {
            return;
        }
        self.notebook.disconnects += 1;
        self.connector.order(index as u32, broker.address);
        for queue in self.queues.iter_mut().filter(|queue| queue.broker == index) {
            queue.state = QueueState::Idle;
        }
    }
}

fn pull_request(topic: &TopicName, encoding: HeaderEncoding, queue: &Queue) -> Request {
    let is_fixed = encoding == HeaderEncoding::Fixed;
    let group = GroupName::new(CONSUMER_GROUP).expect("the group's name is legal");
    let everything = Expression { kind: "TAG".to_owned(), text: "*".to_owned() };
    Request::Pull(Pull {
        group: (!is_fixed).then_some(group),
        queue: QueueOf { topic: topic.clone(), queue: queue.id },
        offset: queue.next_offset as i64,
        count_max: COUNT_MAX,
        bytes_max: Some(BYTES_MAX),
        commit: None,
        hold_ms: Some(HOLD_MS),
        subscription: (!is_fixed).then_some(everything),
        subscription_version: 0,
    })
}

fn take_answer(
    queues: &mut [Queue],
    frame: &FrameView<'_>,
    message_size: usize,
    now_ns: u64,
    notebook: &mut Notebook,
) -> io::Result<()> {
    let reply = wire::decode_reply(&frame.header_only()).map_err(io::Error::other)?;
    let index = reply.opaque as usize % queues.len();
    let queue = &mut queues[index];
    if !reply.is_reply || queue.state != QueueState::Asked(reply.opaque) {
        return Ok(());
    }
    match reply.pulled() {
        Ok(pulled) => {
            take_records(frame.body, index as u32, message_size, now_ns, notebook)?;
            queue.next_offset = pulled.next_offset.0;
            queue.max_offset = pulled.max_offset.0;
            queue.state = QueueState::Idle;
        }
        Err(refused) => {
            let count = notebook.refused_pulls.take().map_or(0, |(_, count)| count);
            notebook.refused_pulls = Some((refused.to_string(), count + 1));
            queue.state = QueueState::RetryAt(now_ns + RETRY_NS);
        }
    }
    Ok(())
}

fn take_records(
    records: &[u8],
    queue: u32,
    message_size: usize,
    now_ns: u64,
    notebook: &mut Notebook,
) -> io::Result<()> {
    for record_read in Records::new(records) {
        let body = record_read.map_err(io::Error::other)?.body;
        match payload::read(body, message_size) {
            Ok(identity) => {
                if notebook.arrived.take(queue, &identity) == Arrival::First {
                    let interval = &mut notebook.recorder.now;
                    interval.counters.received += 1;
                    let latency_ns = now_ns.saturating_sub(identity.due_ns);
                    record(&mut interval.end_to_end, latency_ns, 1);
                }
            }
            Err(BodyError::Corrupted) => notebook.arrived.take_corrupted(),
            Err(BodyError::Foreign) => notebook.arrived.take_foreign(),
        }
        notebook.last_arrival_ns = now_ns;
    }
    Ok(())
}
