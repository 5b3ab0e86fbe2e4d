//! Delivers delayed messages when they are due: reads them where they are pending, and appends them
//! to their real topics in the same entry that says that they are pending no longer.
//!
//! ```text
//!   a deadline ─▶ plan: keys that are due ─▶ read the records ─▶ append in slices
//!       ▲                                     plan the next ones ─▶ read ─▶ append in slices …
//!       └──────────────────────── the next one's deadline ◀──────────────────────────┘
//! ```
//!
//! One task per shard does it ([`Broker::deliver`]). Slices wait for room like everything else that
//! is appended, and other tasks run between them.
//!
//! When it looks for what is due, and what it takes next, is decided in
//! [`delivery_state`](super::delivery_state). What is pending is in [`delays`](super::delays).

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use zerocopy::FromBytes;

use super::agenda::Step;
use super::delay_key::Key;
use super::delayed_topics::{Settling, real_topic};
use super::delays::{Amount, Delays, push_state};
use super::facts::{Fact, FactHead, Facts, MESSAGES, SEVERAL};
use super::operation::Context;
use super::state::Durable;
use super::{Broker, Pending, State};
use crate::model::record::{
    DELAY_PROPERTIES, NewRecord, PROPERTY_REAL_QUEUE, Placement, RecordHead, RecordView, property,
    push_without,
};
use crate::model::{Chunk, LogOffset, Moment, Now, QueueId, QueueOffset, TopicName};
use crate::storage::disk::Disk;
use crate::storage::slice::yield_now;
use crate::storage::{Append, AppendError, Appended, Located, QueueKey, ReadError, SpaceClass};

/// Messages of one plan: at most this many, and bytes of their records, unless a single one is
/// larger. They are in memory until they are delivered; so is the next plan.
/// What is due in the same millisecond may have been sent in any order, so the more are read together,
/// the more of them are neighbours.
const PLAN_COUNT_MAX: usize = 65_536;
const PLAN_BYTES_MAX: u64 = 24 << 20;
/// Reads of one plan at the same time.
const READS_MAX: usize = 4;
/// Messages of one entry: some hundred microseconds of the shard's time.
const SLICE_COUNT_MAX: usize = 128;
const SLICE_BYTES_MAX: usize = 128 << 10;
/// What a delivered message may need in an entry beyond its pending record: a longer topic name, the
/// heads of facts, among them that of the state, and two rows of topics.
pub const OVERHEAD_MAX: usize = 1024;
/// Maximum bytes of an entry with a state and nothing else.
const STATE_SIZE_MAX: usize = 256;

/// What a plan is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    cut_count: u32,
    beginnings: u32,
}

/// Messages that are due, in the order of their keys.
type Plan = Vec<(Key, Located)>;
/// The same with their records. A record that is lost is missing.
type Read = Vec<(Key, Located, Chunk)>;

/// Facts with records that have been appended.
pub struct Recorded {
    pub end: LogOffset,
    /// Where the records are in the log.
    pub positions: SmallVec<[LogOffset; 1]>,
}

/// Why delivery pauses.
enum Paused {
    /// For good: the shard is fenced.
    Fenced,
    /// The log takes nothing, or the disk reads nothing.
    Failed,
    /// What is planned may be gone, because the log was cut, or planned again, because another copy has
    /// led or this one leads again.
    Outdated,
    /// The task shall end.
    Stopping,
}

impl<D: Disk> Broker<D> {
    /// Delivers what is due, until [`stop_delivery`](Self::stop_delivery).
    pub async fn deliver(&self, context: &impl Context) {
        loop {
            let look = || {
                let delivery = &mut self.state.borrow_mut().delivery;
                let is_due = self.leads() && delivery.take_due();
                (is_due || delivery.is_stopping()).then_some(())
            };
            self.deliveries.wait(look).await;
            match self.deliver_due(context).await {
                _ if self.state.borrow().delivery.is_stopping() => return,
                Ok(()) => {}
                Err(Paused::Outdated) => self.state.borrow_mut().delivery.begin_again(),
                Err(Paused::Failed) => {
                    let now = context.now().moment;
                    self.state.borrow_mut().delivery.retry_later(now);
                    self.deliveries.notify();
                }
                Err(Paused::Fenced | Paused::Stopping) => return,
            }
        }
    }

    /// Lets [`deliver`](Self::deliver) end after the slice it is at.
    pub fn stop_delivery(&self) {
        self.state.borrow_mut().delivery.stop();
        self.deliveries.notify();
    }

    /// When [`wake_delivery`](Self::wake_delivery) is due next.
    pub fn next_delivery(&self) -> Option<Moment> {
        self.state.borrow().delivery.next()
    }

    /// Waits until [`next_delivery`](Self::next_delivery) is no longer `next`, or delivery ends.
    pub async fn delivery_moves(&self, next: Option<Moment>) {
        let has_moved = || {
            let delivery = &self.state.borrow().delivery;
            (delivery.next() != next || delivery.is_stopping()).then_some(())
        };
        self.deliveries.wait(has_moved).await;
    }

    /// Lets [`deliver`](Self::deliver) look for what is due, if it is time to.
    pub fn wake_delivery(&self, now: Moment) {
        if self.state.borrow_mut().delivery.wake(now) {
            self.deliveries.notify();
        }
    }

    /// A message that is due at `due_ms` is pending.
    pub(super) fn wake_delivery_at(&self, due_ms: u64) {
        if self.state.borrow_mut().delivery.wake_at(due_ms) {
            self.deliveries.notify();
        }
    }

    /// Nothing is due before `due_ms`, or nothing is pending.
    fn is_due_later(&self, due_ms: Option<u64>) {
        self.state.borrow_mut().delivery.sleep_until(due_ms);
        self.deliveries.notify();
    }

    /// While one part is delivered, the next one is planned and read.
    async fn deliver_due(&self, context: &impl Context) -> Result<(), Paused> {
        let basis = self.delivery_basis();
        let mut read = self.next_due(context).await?;
        while !read.is_empty() {
            let delivered = self.deliver_read(&read, basis, context);
            ((), read) = futures_util::try_join!(delivered, self.next_due(context))?;
        }
        if self.delivery_basis() == basis {
            self.state.borrow_mut().delivery.settle();
        }
        self.settle_lost(basis, context).await
    }

    /// If nothing is pending any more, messages that still count as pending were lost to damage.
    async fn settle_lost(&self, basis: Basis, context: &impl Context) -> Result<(), Paused> {
        let is_any = || {
            let State { delivery, durable, .. } = &*self.state.borrow();
            delivery.is_nothing_left() && durable.delays.pending().count > 0
        };
        if !is_any() {
            return Ok(());
        }
        let attempt = || {
            if self.delivery_basis() != basis {
                return Ok(Err(Paused::Outdated));
            }
            // Otherwise another message has become pending meanwhile.
            if is_any() {
                self.record_with_records(
                    self.all_settled(context.now()),
                    &[],
                    SpaceClass::Ordinary,
                )?;
            }
            Ok(Ok(()))
        };
        self.delivered(self.store.with_room(STATE_SIZE_MAX, attempt).await)
    }

    /// The fact that nothing is pending, without the counts of any topic.
    fn all_settled(&self, now: Now) -> Facts {
        let state = self.state.borrow();
        let delays = &state.durable.delays;
        let reading = state.delivery.clock().reading(now);
        let settled = delays.pending();
        let after = delays.state_after(delays.cursor(), delays.carried_to(), settled, reading);
        let mut facts = Facts::default();
        push_state(&mut facts, &after, |_| {});
        facts
    }

    fn delivery_basis(&self) -> Basis {
        let beginnings = self.state.borrow().delivery.beginnings();
        Basis { cut_count: self.store.standing().cut_count, beginnings }
    }

    /// What is due next; empty if nothing is.
    async fn next_due(&self, context: &impl Context) -> Result<Read, Paused> {
        loop {
            let plan = self.plan(context).await?;
            if plan.is_empty() {
                return Ok(Read::new());
            }
            let read = self.read_planned(plan, context).await?;
            // Unless all of its records are lost.
            if !read.is_empty() {
                return Ok(read);
            }
        }
    }

    async fn deliver_read(
        &self,
        read: &Read,
        basis: Basis,
        context: &impl Context,
    ) -> Result<(), Paused> {
        let bytes_max = self.store.payload_size_max().min(SLICE_BYTES_MAX);
        for slice in slices(read, bytes_max) {
            if self.state.borrow().delivery.is_stopping() {
                return Err(Paused::Stopping);
            }
            self.deliver_slice(slice, basis, context).await?;
            yield_now().await;
        }
        Ok(())
    }

    /// Takes from the agenda what is due now. Without any, sets the deadline for the next.
    async fn plan(&self, context: &impl Context) -> Result<Plan, Paused> {
        let (mut plan, mut bytes) = (Plan::new(), 0);
        loop {
            let step = self.step(context.now().moment);
            match step {
                Step::Due(key, located) => {
                    bytes += u64::from(located.size);
                    plan.push((key, located));
                    if plan.len() == PLAN_COUNT_MAX || bytes >= PLAN_BYTES_MAX {
                        return Ok(plan);
                    }
                }
                Step::Scanned => yield_now().await,
                Step::Load(page) => {
                    self.store.load_index(page).await.map_err(|error| self.say_failed(&error))?;
                }
                Step::Later(_) | Step::Empty if !plan.is_empty() => return Ok(plan),
                Step::Later(due_ms) => {
                    self.is_due_later(Some(due_ms));
                    return Ok(plan);
                }
                Step::Empty => {
                    self.is_due_later(None);
                    return Ok(plan);
                }
            }
        }
    }

    fn step(&self, now: Moment) -> Step {
        let State { delivery, durable, .. } = &mut *self.state.borrow_mut();
        self.store.with_index(|index| delivery.step(&durable.delays, index, now))
    }

    /// Reads in the order of the log, where neighbours share a read.
    async fn read_planned(&self, plan: Plan, context: &impl Context) -> Result<Read, Paused> {
        let end = plan.iter().map(|(_, located)| located.end()).max().expect("something is due");
        if !self.store.reached(end).await {
            return Err(if self.store.is_fenced() { Paused::Fenced } else { Paused::Outdated });
        }
        let bytes: usize = plan.iter().map(|(_, located)| located.size as usize).sum();
        let _permit = context.cold_read(bytes).await;
        let mut by_place: Vec<usize> = (0..plan.len()).collect();
        by_place.sort_unstable_by_key(|&nth| plan[nth].1.offset);
        let wanted: Vec<Located> = by_place.iter().map(|&nth| plan[nth].1).collect();
        let part = wanted.len().div_ceil(READS_MAX);
        let parts = wanted.chunks(part).map(|part| self.read_part(part));
        let read = futures_util::future::try_join_all(parts).await?;
        let mut chunks: Vec<Option<Chunk>> = vec![None; plan.len()];
        for (nth, chunk) in by_place.into_iter().zip(read.into_iter().flatten()) {
            chunks[nth] = chunk;
        }
        let whole = plan.into_iter().zip(chunks);
        Ok(whole.filter_map(|((key, located), chunk)| Some((key, located, chunk?))).collect())
    }

    /// Reads records. One that is lost is `None`.
    async fn read_part(&self, wanted: &[Located]) -> Result<Vec<Option<Chunk>>, Paused> {
        let mut chunks = Vec::with_capacity(wanted.len());
        while chunks.len() < wanted.len() {
            match self.store.read(&wanted[chunks.len()..]).await {
                Ok(read) => chunks.extend(read.into_iter().map(Some)),
                Err(error @ ReadError::Fault(_)) => return Err(self.say_failed(&error)),
                Err(error) => {
                    tracing::error!(
                        shard = self.config.shard.0,
                        "a delayed message is lost: {error}"
                    );
                    chunks.push(None);
                }
            }
        }
        Ok(chunks)
    }

    /// Appends one slice of what is due when it is its turn.
    async fn deliver_slice(
        &self,
        slice: &[(Key, Located, Chunk)],
        basis: Basis,
        context: &impl Context,
    ) -> Result<(), Paused> {
        let size = slice.iter().map(size_delivered).sum();
        let attempt = || {
            if self.delivery_basis() != basis {
                return Ok(Err(Paused::Outdated));
            }
            self.append_due(slice, context.now()).map(Ok)
        };
        self.delivered(self.store.with_room(size, attempt).await)
    }

    /// The outcome of an attempt to append.
    fn delivered(&self, appended: Result<Result<(), Paused>, AppendError>) -> Result<(), Paused> {
        match appended {
            Ok(delivered) => delivered,
            Err(AppendError::Fenced) => Err(Paused::Fenced),
            Err(AppendError::NotLeader) => Err(Paused::Failed),
            Err(error) => {
                tracing::warn!(shard = self.config.shard.0, "delayed messages wait: {error}");
                Err(Paused::Failed)
            }
        }
    }

    /// Appends delivered messages, with the fact that they are pending no longer.
    fn append_due(&self, slice: &[(Key, Located, Chunk)], now: Now) -> Result<(), AppendError> {
        let delivered = {
            let state = self.state.borrow();
            let mut delivered = Delivered::begin(&state, slice, now);
            self.store.with_index(|index| {
                for (.., chunk) in still_pending(&state.durable.delays, slice) {
                    let next = |queue| index.next_offset(queue);
                    delivered.add(&state.durable, chunk, self.placement(now), next);
                }
            });
            delivered
        };
        let Delivered { facts, records, next, .. } = delivered;
        let end = self.record_with_records(facts, &records, SpaceClass::Ordinary)?.end;
        let next = next.into_iter().map(|(queue, next)| Pending { end, queue, next });
        self.state.borrow_mut().pending.extend(next);
        self.store.metrics().messages_stored.add(records.len() as u64);
        Ok(())
    }

    /// Appends facts as one entry and applies them. `records` are the places among their bytes at
    /// which a message's record begins; it contains its own log offset, known only now. Returns the
    /// log offsets of the records as well.
    pub(super) fn record_with_records(
        &self,
        mut facts: Facts,
        records: &[usize],
        space: SpaceClass,
    ) -> Result<Recorded, AppendError> {
        let (kind, subject, payload) = facts.entry();
        // A single fact is in the log without its head.
        let skip = if kind == SEVERAL { 0 } else { size_of::<FactHead>() };
        let payload_size = payload.len();
        let append = Append { kind, subject, payload_size, space };
        let Appended { entry_offset, payload_offset, end } =
            self.store.append(append, |out, begin| {
                let bytes = facts.bytes_mut();
                for &at in records {
                    let (head, _) = RecordHead::mut_from_prefix(&mut bytes[at..])
                        .expect("a whole record was written there");
                    head.physical_offset.set(begin.plus((at - skip) as u64).0);
                }
                out.copy_from_slice(&bytes[skip..skip + payload_size]);
            })?;
        let (kind, subject, payload) = facts.entry();
        let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
        let state = &mut *self.state.borrow_mut();
        let applied = self.store.with_index(|index| state.durable.apply(index, fact));
        applied.expect("a broker reads what it writes");
        let positions = records.iter().map(|at| payload_offset.plus((at - skip) as u64)).collect();
        Ok(Recorded { end, positions })
    }

    fn placement(&self, now: Now) -> Placement {
        Placement {
            queue_offset: QueueOffset(0),
            physical_offset: LogOffset(0),
            stored_at: now.wall,
            store_host: self.config.store_host,
        }
    }

    fn say_failed(&self, error: &ReadError) -> Paused {
        tracing::error!(shard = self.config.shard.0, "cannot read delayed messages: {error}");
        Paused::Failed
    }
}

/// The facts of a slice.
struct Delivered {
    facts: Facts,
    /// Where the records begin.
    records: Vec<usize>,
    /// The next offset of each queue that gets some.
    next: FxHashMap<QueueKey, QueueOffset>,
    /// Scratch space.
    properties: Vec<u8>,
}

impl Delivered {
    fn begin(state: &State, slice: &[(Key, Located, Chunk)], now: Now) -> Self {
        let delays = &state.durable.delays;
        let (last, ..) = slice.last().expect("a slice is not empty");
        let cursor = Key { due_ms: last.due_ms, offset: last.offset + 1 };
        let mut settled = Amount::default();
        let mut of_topics = Settling::begin(&state.durable.delayed_topics);
        for (_, located, chunk) in still_pending(delays, slice) {
            settled = settled.plus(Amount { count: 1, bytes: u64::from(located.size) });
            of_topics.settle(chunk, located.offset);
        }
        let reading = state.delivery.clock().reading(now);
        let mut facts = Facts::default();
        let after = delays.state_after(cursor, delays.carried_to(), settled, reading);
        push_state(&mut facts, &after, |out| of_topics.push_rows(out));
        let (records, next, properties) = Default::default();
        Self { facts, records, next, properties }
    }

    /// Adds the message of a pending record to the topic that it is for, if there is one.
    fn add(
        &mut self,
        durable: &Durable,
        pending: &[u8],
        placement: Placement,
        next: impl Fn(QueueKey) -> QueueOffset,
    ) {
        let pending = RecordView::parse(pending).expect("a record was indexed");
        let Some((queue, name)) = destination(durable, &pending) else { return };
        self.properties.clear();
        // They have had their effect (remoting reference, 5.9).
        push_without(&mut self.properties, pending.properties, &DELAY_PROPERTIES);
        let offset = self.next.entry(queue).or_insert_with(|| next(queue));
        let placement = Placement { queue_offset: *offset, ..placement };
        *offset = offset.plus(1);
        let record = NewRecord {
            topic: name,
            queue: queue.queue,
            flag: pending.flag,
            system_flag: pending.system_flag,
            born_at: pending.born_at,
            born_host: pending.born_host.expect("stored by this broker"),
            reconsume_times: pending.reconsume_times,
            body: pending.body,
            properties: [&self.properties, &[]],
        };
        let records = &mut self.records;
        self.facts.push(MESSAGES, queue.topic, |out| {
            let begin = out.len();
            records.push(begin);
            out.resize(begin + record.size(), 0);
            record.write(&placement, &mut out[begin..]);
        });
    }
}

/// What has been neither carried forward nor recalled since it was planned.
fn still_pending<'a>(
    delays: &'a Delays,
    slice: &'a [(Key, Located, Chunk)],
) -> impl Iterator<Item = &'a (Key, Located, Chunk)> {
    slice.iter().filter(|(key, located, _)| delays.is_pending(*key, located.offset))
}

/// The queue that a pending message is for, and its topic's name. A topic that has fewer queues
/// than it had gets it in another one.
fn destination<'a>(durable: &'a Durable, pending: &RecordView<'_>) -> Option<(QueueKey, &'a str)> {
    let text = |name| std::str::from_utf8(property(pending.properties, name)?).ok();
    let name = TopicName::new(real_topic(pending.properties)?.to_owned()).ok()?;
    let (number, topic) = durable.topics.find(&name).ok()?;
    let queue: u32 = text(PROPERTY_REAL_QUEUE)?.parse().ok()?;
    let queue = QueueId(queue % topic.config.queue_count().max(1));
    Some((QueueKey { topic: number, queue }, topic.config.name.as_str()))
}

/// The most that a delivered message takes in an entry, bytes.
fn size_delivered((_, located, _): &(Key, Located, Chunk)) -> usize {
    located.size as usize + OVERHEAD_MAX
}

/// Splits what is due into parts of bounded size.
fn slices(
    mut read: &[(Key, Located, Chunk)],
    bytes_max: usize,
) -> impl Iterator<Item = &[(Key, Located, Chunk)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |due: &&(Key, Located, Chunk)| {
            bytes += size_delivered(due);
            bytes <= bytes_max
        };
        let count = read.iter().take(SLICE_COUNT_MAX).take_while(fits).count().max(1);
        let (slice, rest) = read.split_at_checked(count)?;
        read = rest;
        Some(slice)
    })
}
