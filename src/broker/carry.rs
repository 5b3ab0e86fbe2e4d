//! Keeps delayed messages for longer than retention keeps the log: before retention deletes a
//! segment, the messages that are still pending in it are stored again at the end of the log.
//!
//! ```text
//!   a segment expires ─┬─ nothing pending in it ────────────────────────────▶ delete it
//!                      └─ read it ─▶ append copies, in slices ─▶ committed ─▶ delete it
//! ```
//!
//! An entry carries copies, together with the fact that nothing before some log offset is pending
//! any more. So each message is pending at exactly one position, whenever the power fails.
//!
//! Copying pays only if it frees more than it writes. So it waits until the expired segments are
//! twice as large as everything that is pending. The log then takes at most what retention allows,
//! twice what is pending, and one segment.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::delay_key::Key;
use super::delayed_topics::Settling;
use super::delays::{
    Amount, Bucket, DelayedItem, DelayedMessage, Delays, each_message, push_state,
};
use super::facts::{DELAYED, Fact, Facts};
use super::{Broker, State};
use crate::model::record::RecordHead;
use crate::model::{LogOffset, Now, QueueOffset};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::{AppendError, QueueKey, ReadError, SpaceClass};

/// Maximum bytes of records read before they are appended, unless a single one is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Maximum bytes of records in one entry, unless a single one is larger.
const SLICE_BYTES_MAX: usize = 128 << 10;
/// Maximum bytes that a copy takes in an entry besides its record, among them two rows of topics.
const OVERHEAD_MAX: usize = 768;

/// A pending message of an expired segment.
struct Found {
    key: Key,
    /// Where its record ends.
    end: LogOffset,
    record: Vec<u8>,
}

impl Found {
    fn begin(&self) -> LogOffset {
        LogOffset(self.end.0 - self.record.len() as u64)
    }
}

impl<D: Disk> Broker<D> {
    /// Stores the pending messages of expired segments again, then lets retention delete the
    /// segments in which nothing is pending.
    pub(super) async fn carry_forward(&self, now: Now) -> Result<(), DiskError> {
        if self.state.borrow().durable.delays.is_unused() {
            self.store.free_to(LogOffset(u64::MAX));
            return Ok(());
        }
        self.note_delay_clock(now);
        // Nothing may be deleted unless all of this succeeds.
        self.store.free_to(LogOffset(0));
        self.store.note_time(now);
        let expired = self.store.expired(now);
        let expired_bytes: u64 =
            expired.iter().map(|segment| segment.end.0 - segment.start.0).sum();
        let mut free_to = LogOffset(0);
        for segment in expired {
            if self.has_pending(&segment).await? {
                let pending_bytes = self.state.borrow().durable.delays.pending().bytes;
                let pays = expired_bytes >= 2 * pending_bytes;
                if !self.leads() || !pays || !self.carry(&segment, now).await? {
                    break;
                }
            }
            free_to = segment.end;
        }
        self.store.free_to(free_to);
        Ok(())
    }

    /// A replica that follows only knows what the leader has stored.
    fn note_delay_clock(&self, now: Now) {
        if self.leads() {
            let state = &mut *self.state.borrow_mut();
            state.durable.delays.note_clock(state.delivery.clock().reading(now));
        }
    }

    /// Whether something in a sealed segment may be pending.
    async fn has_pending(&self, segment: &Range<LogOffset>) -> Result<bool, DiskError> {
        let first = {
            let delays = &self.state.borrow().durable.delays;
            if segment.end <= delays.carried_to() {
                return Ok(false);
            }
            Bucket::of(delays.cursor().due_ms).queue()
        };
        match self.store.has_queues_from(segment.start, first).await {
            // The index is damaged, so the segment is read.
            Err(ReadError::Damaged(_)) => Ok(true),
            read => unless_gone(read, false),
        }
    }

    /// Stores the pending messages of a segment again. Returns false if there is no room for them.
    async fn carry(&self, segment: &Range<LogOffset>, now: Now) -> Result<bool, DiskError> {
        let mut at = segment.start.max(self.state.borrow().durable.delays.carried_to());
        while at < segment.end {
            let (mut found, mut bytes) = (Vec::new(), 0);
            let read = self.store.read_entries(at, segment.end, |entry| {
                let state = self.state.borrow();
                for fact in Fact::of_entry(entry).each().flatten() {
                    if fact.kind == DELAYED {
                        bytes += find_pending(&state.durable.delays, &fact, &mut found);
                    }
                }
                bytes < BATCH_BYTES_MAX
            });
            let next = unless_gone(read.await, segment.end)?;
            let mut rest = &found[..];
            while !rest.is_empty() {
                let (slice, behind) = rest.split_at(slice_count(rest, self.slice_bytes_max()));
                // The messages after the slice are still pending in the segment.
                let carried_to = slice.last().expect("a slice is not empty").end;
                if !self.carry_some(slice, carried_to, now).await {
                    return Ok(false);
                }
                rest = behind;
            }
            at = next;
        }
        // Followers do not look whether what is left in it has been delivered or recalled.
        let is_passed = self.state.borrow().durable.delays.carried_to() >= segment.end;
        Ok(is_passed || self.carry_some(&[], segment.end, now).await)
    }

    /// Stores messages again; nothing below `carried_to` is pending then. Returns false if there is
    /// no room for them.
    async fn carry_some(&self, slice: &[Found], carried_to: LogOffset, now: Now) -> bool {
        let sizes = slice.iter().map(|found| found.record.len() + OVERHEAD_MAX);
        let size = sizes.sum::<usize>().max(OVERHEAD_MAX);
        match self.store.with_room(size, || self.append_copies(slice, carried_to, now)).await {
            Ok(mark) => self.store.reached(mark).await,
            Err(error) => {
                let shard = self.config.shard.0;
                tracing::warn!(shard, "an old segment is retained for delayed messages: {error}");
                false
            }
        }
    }

    fn slice_bytes_max(&self) -> usize {
        self.store.payload_size_max().min(SLICE_BYTES_MAX)
    }

    fn append_copies(
        &self,
        slice: &[Found],
        carried_to: LogOffset,
        now: Now,
    ) -> Result<LogOffset, AppendError> {
        let copies = {
            let state = self.state.borrow();
            // The others have been delivered or recalled since they were found.
            let delays = &state.durable.delays;
            let pending = slice.iter().filter(|found| delays.is_pending(found.key, found.begin()));
            self.store.with_index(|index| {
                Copies::of(&state, pending, carried_to, now, |queue| index.next_offset(queue))
            })
        };
        let Copies { facts, records, first_due_ms } = copies;
        let end = self.record_with_records(facts, &records, SpaceClass::Reserved)?.end;
        if let Some(due_ms) = first_due_ms {
            self.wake_delivery_at(due_ms);
        }
        Ok(end)
    }
}

/// The facts that store pending messages again.
struct Copies {
    facts: Facts,
    /// Where the records begin in them.
    records: Vec<usize>,
    first_due_ms: Option<u64>,
}

impl Copies {
    fn of<'a>(
        state: &State,
        found: impl Iterator<Item = &'a Found> + Clone,
        carried_to: LogOffset,
        now: Now,
        next: impl Fn(QueueKey) -> QueueOffset,
    ) -> Self {
        let delays = &state.durable.delays;
        let reading = state.delivery.clock().reading(now);
        let bytes = found.clone().map(|found| found.record.len() as u64).sum();
        let moved = Amount { count: found.clone().count() as u64, bytes };
        let mut of_topics = Settling::begin(&state.durable.delayed_topics);
        for found in found.clone() {
            of_topics.carry(&found.record, found.begin());
        }
        let mut facts = Facts::default();
        let mut copies = Self { facts: Facts::default(), records: Vec::new(), first_due_ms: None };
        let mut offsets = rustc_hash::FxHashMap::<QueueKey, QueueOffset>::default();
        if moved.count > 0 {
            facts.push(DELAYED, 0, |out| {
                out.extend_from_slice(delays.head(moved, reading).as_bytes());
                for Found { key, record, .. } in found {
                    // As for new messages: above all keys that are planned for delivery.
                    let due_ms = state.delivery.due_ms_from(key.due_ms);
                    let queue = Bucket::of(due_ms).queue();
                    let offset = offsets.entry(queue).or_insert_with(|| next(queue));
                    let item = DelayedItem { due_ms: due_ms.into() };
                    out.extend_from_slice(item.as_bytes());
                    let begin = out.len();
                    copies.records.push(begin);
                    out.extend_from_slice(record);
                    let (head, _) = RecordHead::mut_from_prefix(&mut out[begin..])
                        .expect("a whole record was found");
                    head.queue_offset.set(offset.0);
                    *offset = offset.plus(1);
                    let first = copies.first_due_ms.unwrap_or(due_ms);
                    copies.first_due_ms = Some(first.min(due_ms));
                }
            });
        }
        // Applied after the copies, so it counts them as stored.
        let after = delays.moved(carried_to, moved, reading);
        push_state(&mut facts, &after, |out| of_topics.push_rows(out));
        copies.facts = facts;
        copies
    }
}

/// Adds the pending messages of a fact; returns the bytes of their records.
fn find_pending(delays: &Delays, fact: &Fact<'_>, found: &mut Vec<Found>) -> usize {
    let mut size = 0;
    for message in each_message(fact).map_while(Result::ok) {
        let DelayedMessage { due_ms, record, bytes, offset } = message;
        let key = Key { due_ms, offset: record.queue_offset.0 };
        if delays.is_pending(key, offset) {
            let end = offset.plus(record.size as u64);
            found.push(Found { key, end, record: bytes.to_vec() });
            size += record.size;
        }
    }
    size
}

/// How many of `found` fit in one entry; at least one.
fn slice_count(found: &[Found], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |found: &&Found| {
        bytes += found.record.len() + OVERHEAD_MAX;
        bytes <= bytes_max
    };
    found.iter().take_while(fits).count().max(1)
}

/// Maps a deleted segment, or a damaged part of one, to `otherwise`: there is nothing left to
/// carry.
fn unless_gone<T>(read: Result<T, ReadError>, otherwise: T) -> Result<T, DiskError> {
    match read {
        Ok(read) => Ok(read),
        Err(ReadError::Fault(fault)) => Err(fault),
        Err(ReadError::Gone(_) | ReadError::Damaged(_)) => Ok(otherwise),
    }
}
