//! What one shard does with a request: topics and queues, storing and reading messages, consumer
//! groups and their offsets. Generic over the disk; no socket, clock, runtime or encoding.
//!
//! ```text
//!   handle(request, now) ─▶ Outcome::Now     the answer
//!                           Outcome::Safe    the answer, once the log is safe up to a mark
//!                           Outcome::NoRoom  nothing yet: the log takes no more at the moment
//!                           Outcome::Held    a pull that waits; see `advance` and `expire`
//!                           Outcome::Read    the disk must be read: await `finish`
//! ```
//!
//! Start at [`Broker::handle`]. `produce` and `pull` are the two stories. `state` is what follows from
//! the log, and has the table of its parts: `topics`, `offsets`, `messages`. `groups` and `held` last as
//! long as a connection. All of these are without I/O. `facts` is how changes lie in the log.
//!
//! What holds at all times:
//! - Everything durable is a log entry, appended before memory changes in the same synchronous
//!   step. So memory always equals the entries below the log's end.
//! - Nothing waits except [`Broker::finish`], and it holds no borrow while it does.
//! - Consumers see only what is safe.

mod admin;
mod facts;
mod filter;
mod groups;
mod held;
mod messages;
mod offsets;
mod open;
mod produce;
mod pull;
mod state;
mod topics;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytestring::ByteString;

use self::facts::{Fact, Facts};
use self::groups::Groups;
use self::held::{Held, PullTask};
use self::pull::Chosen;
use self::state::{Durable, Snapshot};
use crate::model::record::{Host, RECORD_SIZE_MAX};
use crate::model::request::QueueOf;
use crate::model::{
    Chunk, DataVersion, LogOffset, Moment, Now, Principal, QueueOffset, Refusal, Reply, Request,
    ShardId, Timestamp, TopicConfig,
};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::{
    Append, AppendError, Appended, IndexPage, Lookup, QueueKey, ReadError, SpaceClass, Store,
};

pub use self::facts::FactError;
pub use self::open::{OpenError, OpenReport};

/// What a refused producer is told to wait before it tries again, ms.
pub const RETRY_AFTER_MS: u64 = 50;

/// What is fixed for the life of a broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    pub cluster: String,
    pub broker_name: ByteString,
    pub shard: ShardId,
    /// The address clients use, which is stored in every record and in offset message ids.
    pub store_host: Host,
    /// Whether producers may create topics by using them.
    pub auto_create_topics: bool,
    pub started_at: Timestamp,
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Number of the connection; 0 for requests from inside the process.
    pub connection: u64,
    /// What the connection calls this request; comes back with the answer of a held pull.
    pub ticket: u64,
    /// Where the producer is.
    pub host: Host,
    pub principal: Principal,
}

impl Default for Origin {
    fn default() -> Self {
        let host = Host { address: [0; 4], port: 0.into() };
        Self { connection: 0, ticket: 0, host, principal: Principal::Anonymous }
    }
}

/// A reply, and the messages that go with it.
#[derive(Debug)]
pub struct Answer<R = Reply> {
    pub reply: Result<R, Refusal>,
    pub chunks: Vec<Chunk>,
}

impl<R> Answer<R> {
    pub fn refused(refusal: Refusal) -> Self {
        Self { reply: Err(refusal), chunks: Vec::new() }
    }
}

#[derive(Debug)]
pub enum Outcome<R = Reply> {
    Now(Answer<R>),
    /// Holds once [`Broker::safe`] has reached `mark`, and becomes [`Refusal::OutcomeUnknown`] when
    /// the shard is fenced before that.
    Safe {
        mark: LogOffset,
        reply: R,
    },
    /// Nothing was done: an append of `size` bytes finds no room now. To be tried again when there is.
    NoRoom {
        size: usize,
    },
    /// The answer comes out of [`Broker::advance`] or [`Broker::expire`], with the origin.
    Held,
    /// The disk must be read first: to be awaited with [`Broker::finish`].
    Read(Box<ColdRead>),
}

impl Outcome {
    fn ok(reply: Reply) -> Self {
        Self::Now(Answer { reply: Ok(reply), chunks: Vec::new() })
    }

    fn done() -> Self {
        Self::ok(Reply::Done)
    }

    /// Boxed: reading the disk is rare, and every outcome would be as large as this one.
    fn read(read: ColdRead) -> Self {
        Self::Read(Box::new(read))
    }
}

/// What must be read from the disk before an answer can be given.
#[derive(Debug)]
pub enum ColdRead {
    Index { task: PullTask, page: IndexPage },
    Messages { task: PullTask, chosen: Chosen, next: QueueOffset },
    Message { offset: LogOffset },
    OffsetByTime { queue: QueueKey, at: Timestamp, is_upper: bool },
    StoreTime { queue: QueueOf, page: IndexPage },
}

impl ColdRead {
    /// Message bytes that the answer may hold.
    pub fn size_max(&self) -> usize {
        match self {
            Self::Index { task, .. } => task.bytes_max as usize,
            Self::Messages { chosen, .. } => {
                chosen.iter().map(|(_, located)| located.size as usize).sum()
            }
            Self::Message { .. } => RECORD_SIZE_MAX,
            Self::OffsetByTime { .. } | Self::StoreTime { .. } => 0,
        }
    }
}

/// The answer of a pull that was held.
#[derive(Debug)]
pub struct Released<R = Reply> {
    pub origin: Origin,
    pub outcome: Outcome<R>,
}

/// An append whose messages are not visible yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    end: LogOffset,
    queue: QueueKey,
    next: QueueOffset,
}

/// All that changes. `pending` is in log order.
#[derive(Default)]
struct State {
    /// Changes only where facts are applied.
    durable: Durable,
    groups: Groups,
    held: Held,
    pending: VecDeque<Pending>,
    /// Topics made by producers since the shard last asked.
    created: Vec<TopicConfig>,
}

pub struct Broker<D: Disk> {
    config: BrokerConfig,
    store: Store<D>,
    state: RefCell<State>,
    counters: Counters,
}

impl<D: Disk> Broker<D> {
    /// Carries out one request, as far as that is possible without waiting.
    pub fn handle(&self, request: &Request, origin: Origin, now: Now) -> Outcome {
        let Now { wall, moment } = now;
        let outcome = match request {
            Request::Produce(produce) => self.produce(produce, origin, wall),
            Request::ProduceRecords(records) => self.produce_records(records, origin, wall),
            Request::Pull(pull) => self.pull(pull, origin, moment),
            Request::MaxOffset(queue) => self.max_offset(queue),
            Request::MinOffset(queue) => self.min_offset(queue),
            Request::OffsetByTime { queue, at, boundary } => self.queue(queue).map(|queue| {
                let is_upper = *boundary == crate::model::request::Boundary::Upper;
                Outcome::read(ColdRead::OffsetByTime { queue, at: *at, is_upper })
            }),
            Request::EarliestStoreTime(queue) => self.earliest_store_time(queue),
            Request::CommittedOffset { group, queue, zero_if_missing } => {
                self.committed_offset(group, queue, *zero_if_missing)
            }
            Request::CommitOffset { group, queue, offset } => {
                self.commit_offset(group, queue, *offset, wall)
            }
            Request::Heartbeat(heartbeat) => {
                let groups = &mut self.state.borrow_mut().groups;
                let taken = groups.heartbeat(heartbeat, origin.connection, moment);
                taken.map(|()| Outcome::ok(Reply::HeartbeatTaken))
            }
            Request::Unregister { client, producer, consumer } => {
                let groups = &mut self.state.borrow_mut().groups;
                groups.unregister(client, producer.as_ref(), consumer.as_ref());
                Ok(Outcome::done())
            }
            Request::GroupMembers { group } => {
                let members = self.state.borrow().groups.members(group);
                members.map(|members| Outcome::ok(Reply::Members(members)))
            }
            Request::MessageByOffset { offset } => {
                Ok(Outcome::read(ColdRead::Message { offset: *offset }))
            }
            Request::QueryMessages { .. } => Err(Refusal::NothingFound),
            Request::UpdateTopic(config) => self.update_topic(config, wall),
            Request::DeleteTopic { topic } => self.delete_topic(topic, wall),
            Request::TopicStats { topic } => self.topic_stats(topic),
            Request::RuntimeInfo => Ok(Outcome::Now(self.runtime_info(wall))),
        };
        outcome.unwrap_or_else(|refusal| Outcome::Now(Answer::refused(refusal)))
    }

    /// Reads what an outcome said must be read, then goes on as [`handle`](Self::handle) does.
    pub async fn finish(&self, read: Box<ColdRead>) -> Outcome {
        let finished = match *read {
            ColdRead::Index { task, page } => match self.store.load_index(page).await {
                Ok(()) => return self.try_pull(task),
                Err(error) => Err(error),
            },
            ColdRead::Messages { task, mut chosen, next } => {
                let wanted: Vec<_> = chosen.iter().map(|(_, located)| *located).collect();
                match self.store.read(&wanted).await {
                    Ok(chunks) => {
                        let next = pull::cut(&mut chosen, chunks.len(), next);
                        Ok(self.found(&task, &chosen, next, chunks))
                    }
                    // The index has just learnt of it, and now leads the consumer past it.
                    Err(ReadError::Damaged(_)) if self.is_lost(task.queue, chosen[0].0) => {
                        return self.try_pull(task);
                    }
                    Err(error) => Err(error),
                }
            }
            ColdRead::Message { offset } => return Outcome::Now(self.message_at(offset).await),
            ColdRead::OffsetByTime { queue, at, is_upper } => {
                let found = self.store.offset_by_time(queue, at, is_upper).await;
                let visible = self.visible(queue);
                found.map(|offset| Answer {
                    reply: Ok(Reply::Offset(offset.min(visible))),
                    chunks: Vec::new(),
                })
            }
            ColdRead::StoreTime { queue, page } => match self.store.load_index(page).await {
                Ok(()) => {
                    let outcome = self.earliest_store_time(&queue);
                    return outcome.unwrap_or_else(|no| Outcome::Now(Answer::refused(no)));
                }
                Err(error) => Err(error),
            },
        };
        Outcome::Now(
            finished.unwrap_or_else(|error| Answer::refused(refuse_read(self.config.shard, error))),
        )
    }

    fn is_lost(&self, queue: QueueKey, offset: QueueOffset) -> bool {
        let found = self.store.with_index(|index| index.lookup(queue, offset, 1));
        matches!(found, Lookup::Lost { .. })
    }

    /// Makes visible what has become safe, and tries the pulls that waited for it.
    pub fn advance(&self) -> Vec<Released> {
        let woken = self.state.borrow_mut().become_visible(self.store.safe());
        self.retry(woken)
    }
    /// Forgets clients that have fallen silent.
    pub fn expire_clients(&self, now: Moment) {
        self.state.borrow_mut().groups.expire(now);
    }

    /// Answers the pulls whose time is over.
    pub fn expire(&self, now: Moment) -> Vec<Released> {
        let expired = {
            let state = &mut *self.state.borrow_mut();
            let expired = state.held.take_expired(now);
            for task in &expired {
                state.release(task.queue);
            }
            expired
        };
        let answer = |task: PullTask| {
            let outcome = Outcome::Now(self.nothing(&task));
            Released { origin: task.origin, outcome }
        };
        expired.into_iter().map(answer).collect()
    }

    fn retry(&self, woken: Vec<PullTask>) -> Vec<Released> {
        let retry = |task: PullTask| {
            let origin = task.origin;
            match self.try_pull(task) {
                Outcome::Held => None,
                outcome => Some(Released { origin, outcome }),
            }
        };
        woken.into_iter().filter_map(retry).collect()
    }

    pub fn connection_closed(&self, connection: u64) {
        let state = &mut *self.state.borrow_mut();
        state.groups.connection_closed(connection);
        for queue in state.held.connection_closed(connection) {
            state.release(queue);
        }
    }

    /// Topics that producers created since this was last called; the other shards and the
    /// NameServers want to know.
    pub fn take_created(&self) -> Vec<TopicConfig> {
        std::mem::take(&mut self.state.borrow_mut().created)
    }

    /// What a NameServer is told.
    pub fn published_topics(&self) -> (DataVersion, Vec<TopicConfig>) {
        let state = self.state.borrow();
        (
            state.durable.topics.version(),
            state.durable.topics.published(&self.config.cluster, self.config.auto_create_topics),
        )
    }

    /// Background work of the store; `force_snapshot` at shutdown.
    pub async fn maintain(&self, now: Now, force_snapshot: bool) -> Result<(), DiskError> {
        let snapshot = |_end: LogOffset| {
            let (state, mut snapshot) = (self.state.borrow(), Snapshot::default());
            let next = || self.store.with_index(|index| snapshot.next_slice(&state.durable, index));
            let mut next = next;
            let slices = std::iter::from_fn(move || Some(next()).filter(|slice| !slice.is_empty()));
            slices.flatten().collect()
        };
        self.store.maintain(now, force_snapshot, snapshot).await.map(|_| ())
    }

    /// Appends facts as one entry and carries them out: the only way in which requests change durable
    /// state. Gives the mark at which they are committed.
    fn record(&self, facts: &Facts) -> Result<LogOffset, AppendError> {
        let (kind, subject, payload) = facts.entry();
        let append =
            Append { kind, subject, payload_size: payload.len(), space: SpaceClass::Reserved };
        let appended = self.store.append(append, |out, _| out.copy_from_slice(payload))?;
        let Appended { entry_offset, payload_offset, end } = appended;
        let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
        let state = &mut *self.state.borrow_mut();
        let applied = self.store.with_index(|index| state.durable.apply(index, fact));
        applied.expect("a broker reads what it writes");
        Ok(end)
    }

    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    pub fn totals(&self) -> Totals {
        self.counters.totals()
    }
}

impl State {
    /// Makes visible what lies below `safe`; gives the pulls that waited for it.
    fn become_visible(&mut self, safe: LogOffset) -> Vec<PullTask> {
        let mut woken = Vec::new();
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.end <= safe) {
            let key = pending.queue;
            if let Some(queue) = self.durable.topics.queue_mut(key.topic, key.queue) {
                queue.visible = pending.next;
                if std::mem::take(&mut queue.held_count) > 0 {
                    woken.extend(self.held.take_queue(key));
                }
            }
        }
        woken
    }

    /// One pull less waits at `queue`.
    fn release(&mut self, queue: QueueKey) {
        if let Some(queue) = self.durable.topics.queue_mut(queue.topic, queue.queue) {
            queue.held_count = queue.held_count.saturating_sub(1);
        }
    }
}

/// A fault of the disk ends here: logged once with its cause, told as what a client can use.
fn refuse_read(shard: ShardId, error: ReadError) -> Refusal {
    match error {
        ReadError::Damaged(offset) => Refusal::Damaged(offset),
        ReadError::Gone(offset) => Refusal::NoMessage(offset),
        ReadError::Fault(fault) => {
            tracing::error!(shard = shard.0, "read failed: {fault}");
            Refusal::DiskFault { shard: shard.0 }
        }
    }
}

#[derive(Debug, Default)]
struct Counters(Cell<Totals>);

/// What a shard has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub produced: u64,
    pub produced_bytes: u64,
    pub pulled: u64,
    pub pulled_bytes: u64,
}

impl Counters {
    fn produced(&self, count: usize, bytes: usize) {
        let mut totals = self.0.get();
        totals.produced += count as u64;
        totals.produced_bytes += bytes as u64;
        self.0.set(totals);
    }

    fn pulled(&self, count: usize, bytes: usize) {
        let mut totals = self.0.get();
        totals.pulled += count as u64;
        totals.pulled_bytes += bytes as u64;
        self.0.set(totals);
    }

    fn totals(&self) -> Totals {
        self.0.get()
    }
}
