//! Storing messages that consumers see later: how long, and as what they are stored meanwhile
//! (remoting reference, 5.9 and 5.10).
//!
//! Until they are due they are records of the reference's topics for that, with the real topic and
//! queue in their properties; [`delays`](super::delays) finds them by due time.

use std::mem::size_of;

use rustc_hash::FxHashMap;
use zerocopy::IntoBytes;

use super::delays::{Amount, Bucket, DUE_MAX_MS, DelayedHead, DelayedItem};
use super::delivery::{OVERHEAD_MAX, Recorded};
use super::facts::{DELAYED, Facts, MESSAGES};
use super::operation::Context;
use super::outcome::Stored;
use super::{Broker, Handled, Pending, State};
use crate::model::record::{
    NewRecord, PROPERTIES_SIZE_MAX, PROPERTY_DELAY, PROPERTY_REAL_QUEUE, PROPERTY_REAL_TOPIC,
    PROPERTY_TIMER_CANCEL, PROPERTY_TIMER_DELAY_MS, PROPERTY_TIMER_DELAY_SEC,
    PROPERTY_TIMER_DELIVER_MS, PROPERTY_TIMER_OUT_MS, Placement, property, push_property,
    push_without,
};
use crate::model::reply::Produced;
use crate::model::topic::{DELAY_LEVEL_TOPIC, TIMER_TOPIC};
use crate::model::{LogOffset, Now, QueueId, QueueOffset, Refusal, Timestamp};
use crate::storage::disk::Disk;
use crate::storage::{AppendError, QueueKey, SpaceClass};

/// Maximum delay that is not a level's (remoting reference, 5.10, `timerMaxDelaySec`). It bounds the
/// number of buckets, and so the memory for them: 80 bytes for each of its seconds.
pub const DELAY_MAX_MS: u64 = 259_200_000;
/// Both clocks show whole milliseconds; one more, and the time that passes is never shorter than
/// the delay.
const ROUNDING_MS: u64 = 1;

/// When a message becomes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// After the time of this level, 1 or higher.
    Level { level: u32, ms: u64 },
    /// At this time of the sender's wall clock, in `ms` from now.
    Timer { at: Timestamp, ms: u64 },
}

impl Delay {
    /// The delay of a level; higher ones count as the highest. None if it is not positive.
    pub fn of_level(level: i32, levels_ms: &[u64]) -> Option<Self> {
        let level = u32::try_from(level).ok()?.min(levels_ms.len() as u32);
        let index = (level as usize).checked_sub(1)?;
        Some(Self::Level { level, ms: levels_ms[index] })
    }

    /// What a message's properties ask for; none if it is visible at once.
    pub fn of_properties(
        properties: &[u8],
        levels_ms: &[u64],
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        let number = |name| match property(properties, name) {
            None => Ok(None),
            Some(value) => {
                let text = String::from_utf8_lossy(value);
                let bad = |_| Refusal::BadDelay(format!("{name} is {text:?}, not a number"));
                text.trim().parse::<i64>().map(Some).map_err(bad)
            }
        };
        if let Some(level) = number(PROPERTY_DELAY)?.filter(|level| *level > 0) {
            let level = i32::try_from(level).unwrap_or(i32::MAX);
            return Ok(Self::of_level(level, levels_ms));
        }
        let (name, value, delay_ms) = if let Some(sec) = number(PROPERTY_TIMER_DELAY_SEC)? {
            (PROPERTY_TIMER_DELAY_SEC, sec, sec.saturating_mul(1_000))
        } else if let Some(ms) = number(PROPERTY_TIMER_DELAY_MS)? {
            (PROPERTY_TIMER_DELAY_MS, ms, ms)
        } else if let Some(at) = number(PROPERTY_TIMER_DELIVER_MS)? {
            let now = i64::try_from(now.0).unwrap_or(i64::MAX);
            (PROPERTY_TIMER_DELIVER_MS, at, at.saturating_sub(now))
        } else {
            return Ok(None);
        };
        if property(properties, PROPERTY_TIMER_CANCEL).is_some() {
            return Err(Refusal::BadDelay("cancelling a delayed message is not supported".into()));
        }
        let Some(ms) = u64::try_from(delay_ms).ok().filter(|ms| *ms > 0) else { return Ok(None) };
        if ms > DELAY_MAX_MS {
            return Err(Refusal::BadDelay(format!(
                "{name} is {value}, which is more than {} hours ahead",
                DELAY_MAX_MS / 3_600_000
            )));
        }
        Ok(Some(Self::Timer { at: now.plus_ms(ms), ms }))
    }

    fn ms(self) -> u64 {
        match self {
            Self::Level { ms, .. } | Self::Timer { ms, .. } => ms,
        }
    }
}

/// A pending message that has been appended.
#[derive(Clone, Copy, Debug)]
pub struct Scheduled {
    /// When this is committed, the message is safe.
    pub mark: LogOffset,
    pub position: LogOffset,
    pub queue_offset: QueueOffset,
    /// When it is due, by the clock of the shard.
    pub due_ms: u64,
}

/// The properties of a message while it is pending.
struct PendingProperties(Vec<u8>);

impl PendingProperties {
    /// Those of `record`, and where it is to be delivered.
    fn of(record: &NewRecord<'_>, delay: Delay) -> Result<Self, Refusal> {
        let mut all = Vec::with_capacity(record.properties_size() + record.topic.len() + 64);
        for properties in record.properties {
            push_without(&mut all, properties, &SET_HERE);
        }
        push_property(&mut all, PROPERTY_REAL_TOPIC, record.topic.as_bytes());
        push_property(&mut all, PROPERTY_REAL_QUEUE, record.queue.0.to_string().as_bytes());
        if let Delay::Timer { at, .. } = delay {
            push_property(&mut all, PROPERTY_TIMER_OUT_MS, at.0.to_string().as_bytes());
        }
        let (what, size, size_max) = ("message properties", all.len(), PROPERTIES_SIZE_MAX);
        if size > size_max {
            return Err(Refusal::TooLarge { what, size, size_max });
        }
        Ok(Self(all))
    }

    fn record<'a>(&'a self, record: &NewRecord<'a>, delay: Delay) -> NewRecord<'a> {
        let (topic, queue) = match delay {
            Delay::Level { level, .. } => (DELAY_LEVEL_TOPIC, QueueId(level - 1)),
            Delay::Timer { .. } => (TIMER_TOPIC, QueueId(0)),
        };
        NewRecord { topic, queue, properties: [&self.0, &[]], ..*record }
    }
}

/// Properties that a pending message gets here. It may have them from an earlier delay.
const SET_HERE: [&str; 3] = [PROPERTY_REAL_TOPIC, PROPERTY_REAL_QUEUE, PROPERTY_TIMER_OUT_MS];

impl<D: Disk> Broker<D> {
    /// Stores a message that becomes visible in the topic and queue of `record` after `delay`.
    /// Returns once it is safe; a topic that does not exist then drops it.
    pub async fn schedule(
        &self,
        record: &NewRecord<'_>,
        delay: Delay,
        context: &impl Context,
    ) -> Result<(), Refusal> {
        let properties = PendingProperties::of(record, delay)?;
        let pending = properties.record(record, delay);
        let attempt = || self.append_pending(&pending, delay, context.now());
        let size = size_of_pending(&pending);
        let scheduled = self.with_room(|| size, attempt, context).await?;
        self.committed(scheduled.mark).await
    }

    /// Stores a producer's delayed message.
    pub(super) fn produce_delayed(
        &self,
        record: &NewRecord<'_>,
        delay: Delay,
        now: Now,
    ) -> Result<Handled, Refusal> {
        let properties = PendingProperties::of(record, delay)?;
        let pending = properties.record(record, delay);
        let size = size_of_pending(&pending);
        let Scheduled { mark, position, queue_offset, due_ms } =
            match self.append_pending(&pending, delay, now) {
                Ok(scheduled) => scheduled,
                Err(AppendError::NoRoom) => return Ok(Handled::NoRoom { size }),
                Err(error) => return Err(self.refuse_append(error, size)),
            };
        let positions = smallvec::smallvec![position];
        let store_host = self.config.store_host;
        let recall_handle = self.recall_handle(record, delay, position, due_ms);
        let queue = record.queue;
        let produced = Produced { queue, queue_offset, positions, store_host, recall_handle };
        Ok(Stored { mark, produced }.into())
    }

    /// Stores a batch of which some messages are delayed, as one entry.
    pub(super) fn produce_mixed(
        &self,
        queue: QueueKey,
        batch: &[(NewRecord<'_>, Option<Delay>)],
        now: Now,
    ) -> Result<Handled, Refusal> {
        let Mixed { facts, records, first_due_ms, next } = self.mixed(queue, batch, now)?;
        let size = facts.size();
        let first = self.store.with_index(|index| index.next_offset(queue));
        let Recorded { end, positions } =
            match self.record_with_records(facts, &records, SpaceClass::Ordinary) {
                Ok(recorded) => recorded,
                Err(AppendError::NoRoom) => return Ok(Handled::NoRoom { size }),
                Err(error) => return Err(self.refuse_append(error, size)),
            };
        if let Some(due_ms) = first_due_ms {
            self.wake_delivery_at(due_ms);
        }
        if next > first {
            let state = &mut *self.state.borrow_mut();
            state.pending.push_back(Pending { end, queue, next });
        }
        let metrics = self.store.metrics();
        metrics.messages_stored.add(records.len() as u64);
        metrics.stored_bytes.add(size as u64);
        let store_host = self.config.store_host;
        let produced = Produced {
            queue: queue.queue,
            queue_offset: first,
            positions,
            store_host,
            recall_handle: None,
        };
        Ok(Stored { mark: end, produced }.into())
    }

    fn mixed(
        &self,
        queue: QueueKey,
        batch: &[(NewRecord<'_>, Option<Delay>)],
        now: Now,
    ) -> Result<Mixed, Refusal> {
        let state = self.state.borrow();
        let mut mixed = Mixed {
            facts: Facts::default(),
            records: vec![0; batch.len()],
            first_due_ms: None,
            next: self.store.with_index(|index| index.next_offset(queue)),
        };
        let (mut pending, mut more) = (Vec::new(), Amount::default());
        for (nth, (record, delay)) in batch.iter().enumerate() {
            let Some(delay) = *delay else { continue };
            let properties = PendingProperties::of(record, delay)?;
            let size = size_of_pending(&properties.record(record, delay));
            more = more.plus(Amount { count: 1, bytes: (size - HEADS_SIZE) as u64 });
            if size + OVERHEAD_MAX > self.store.payload_size_max() {
                return Err(self.refuse_append(AppendError::TooLarge, size));
            }
            pending.push((nth, record, delay, properties));
        }
        let head = state.durable.delays.head(more, state.delivery.clock().reading(now));
        let mut placement = Placement {
            queue_offset: mixed.next,
            physical_offset: LogOffset(0),
            stored_at: now.wall,
            store_host: self.config.store_host,
        };
        let mut offsets = FxHashMap::<QueueKey, QueueOffset>::default();
        let Mixed { facts, records, first_due_ms, next } = &mut mixed;
        // Due times may also be in the past.
        let write_pending = |out: &mut Vec<u8>| {
            out.extend_from_slice(head.as_bytes());
            for (nth, record, delay, properties) in &pending {
                let due_ms = due_ms_of(*delay, &state, now);
                let bucket = Bucket::of(due_ms).queue();
                let stored = || self.store.with_index(|index| index.next_offset(bucket));
                let offset = offsets.entry(bucket).or_insert_with(stored);
                let placement = Placement { queue_offset: *offset, ..placement };
                let record = properties.record(record, *delay);
                records[*nth] = write_pending_record(&record, due_ms, &placement, out);
                *offset = offset.plus(1);
                *first_due_ms = Some(first_due_ms.map_or(due_ms, |first| first.min(due_ms)));
            }
        };
        if !pending.is_empty() {
            facts.push(DELAYED, 0, write_pending);
        }
        if pending.len() < batch.len() {
            facts.push(MESSAGES, queue.topic, |out| {
                for (nth, (record, _)) in batch.iter().enumerate().filter(|(_, of)| of.1.is_none())
                {
                    records[nth] = write_record(record, &placement, out);
                    placement.queue_offset = placement.queue_offset.plus(1);
                }
            });
        }
        *next = placement.queue_offset;
        Ok(mixed)
    }

    fn append_pending(
        &self,
        pending: &NewRecord<'_>,
        delay: Delay,
        now: Now,
    ) -> Result<Scheduled, AppendError> {
        if size_of_pending(pending) + OVERHEAD_MAX > self.store.payload_size_max() {
            return Err(AppendError::TooLarge);
        }
        let mut position = 0;
        let (facts, due_ms, queue_offset) = {
            let state = self.state.borrow();
            let due_ms = due_ms_of(delay, &state, now);
            let queue = Bucket::of(due_ms).queue();
            let queue_offset = self.store.with_index(|index| index.next_offset(queue));
            let more = Amount { count: 1, bytes: pending.size() as u64 };
            let head = state.durable.delays.head(more, state.delivery.clock().reading(now));
            let placement = Placement {
                queue_offset,
                physical_offset: LogOffset(0),
                stored_at: now.wall,
                store_host: self.config.store_host,
            };
            let facts = Facts::one(DELAYED, 0, |out| {
                out.reserve_exact(size_of_pending(pending));
                out.extend_from_slice(head.as_bytes());
                position = write_pending_record(pending, due_ms, &placement, out);
            });
            (facts, due_ms, queue_offset)
        };
        let Recorded { end, positions } =
            self.record_with_records(facts, &[position], SpaceClass::Ordinary)?;
        self.wake_delivery_at(due_ms);
        let metrics = self.store.metrics();
        metrics.messages_stored.add(1);
        metrics.stored_bytes.add(pending.size() as u64);
        Ok(Scheduled { mark: end, position: positions[0], queue_offset, due_ms })
    }
}

/// When a message that is stored now is due, by the clock of the shard.
fn due_ms_of(delay: Delay, state: &State, now: Now) -> u64 {
    let ms = delay.ms().saturating_add(ROUNDING_MS);
    state.delivery.due_ms(now.moment, ms).min(DUE_MAX_MS)
}

/// The facts of a batch of which some messages are delayed.
struct Mixed {
    facts: Facts,
    /// Where the records begin, in the order of the batch.
    records: Vec<usize>,
    first_due_ms: Option<u64>,
    /// The next offset of the batch's queue.
    next: QueueOffset,
}

/// Adds a record; returns where it begins.
fn write_record(record: &NewRecord<'_>, placement: &Placement, out: &mut Vec<u8>) -> usize {
    let begin = out.len();
    out.resize(begin + record.size(), 0);
    record.write(placement, &mut out[begin..]);
    begin
}

/// Adds a pending message to a [`DELAYED`] fact; returns where its record begins.
fn write_pending_record(
    record: &NewRecord<'_>,
    due_ms: u64,
    placement: &Placement,
    out: &mut Vec<u8>,
) -> usize {
    out.extend_from_slice(DelayedItem { due_ms: due_ms.into() }.as_bytes());
    write_record(record, placement, out)
}

/// What precedes the record of a single pending message.
const HEADS_SIZE: usize = size_of::<DelayedHead>() + size_of::<DelayedItem>();

fn size_of_pending(pending: &NewRecord<'_>) -> usize {
    HEADS_SIZE + pending.size()
}
