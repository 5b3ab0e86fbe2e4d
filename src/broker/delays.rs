//! Messages that wait for their due time, as durable state.
//!
//! ```text
//!   DELAYED   DelayedHead, then per message: DelayedItem, its record     they are pending
//!   DELAYS    DelayState, PendingRow, name, padding, …                    what is pending no longer
//! ```
//!
//! [`delayed_topics`](super::delayed_topics) has the rows, which count what is pending of each topic.
//!
//! A pending message is in the log and in the index, in a queue that holds what is due in one
//! second: its *bucket*. A bucket is found like any other queue, in memory or in index files, so
//! memory holds one header per bucket and nothing per message. The index has the millisecond within
//! the bucket in place of a tag's hash.
//!
//! Messages are delivered in the order of their [`Key`], so a single key, the *cursor*, says which
//! of all have been. It is set in the entry that carries the delivered messages. Messages that
//! retention would delete are stored again at the end of the log; `carried_to`, set in the same
//! entry, says up to where that has been done.
//!
//! Producers can recall messages: their keys are remembered until the cursor has passed them
//! ([`recalled`](super::recalled)).
//!
//! Invariant: a message is pending exactly if its key is not below the cursor, its record is not
//! below `carried_to`, and it has not been recalled.

use std::mem::size_of;
use std::ops::Range;

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::delay_key::Key;
use super::facts::{DELAYS, Fact, Facts};
use super::recalled::Recalled;
use crate::model::record::RecordView;
use crate::model::{LogOffset, Moment, Now, QueueId, QueueOffset, Timestamp};
use crate::storage::ages::ABSENCE_MAX_MS;
use crate::storage::{Index, Located, QueueKey};

/// Time span of a bucket.
pub const BUCKET_MS: u64 = 1_000;
/// The index has numbered topics with numbered queues; a group of buckets is a topic there. Groups
/// are forgotten as a whole, when nothing in them is pending.
const BUCKETS_PER_GROUP_LOG2: u32 = 10;
/// No other topic's number comes near it.
const FIRST_GROUP: u32 = 1 << 31;
/// The latest due time that has a bucket, in the year 2106.
pub const DUE_MAX_MS: u64 = u32::MAX as u64 * BUCKET_MS;

/// What is pending, and the time by which it is due. Sets everything except the messages.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DelayState {
    /// Messages with a lower due time, or with this one and a lower queue offset, are not pending.
    pub cursor_due_ms: U64,
    pub cursor_offset: U64,
    /// Log offset; messages below it are not pending.
    pub carried_to: U64,
    /// Of all messages ever stored as pending.
    pub stored_count: U64,
    pub stored_bytes: U64,
    /// Of those that are not pending any more.
    pub settled_count: U64,
    pub settled_bytes: U64,
    /// The clock by which messages are due, and the wall clock at the same time.
    pub clock_ms: U64,
    pub wall_ms: U64,
}

/// Precedes the messages of one entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DelayedHead {
    pub clock_ms: U64,
    pub wall_ms: U64,
    /// Of all messages ever stored as pending, with these.
    pub stored_count: U64,
    pub stored_bytes: U64,
}

/// Precedes the record of a message. The record's queue offset is the one in its bucket.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DelayedItem {
    pub due_ms: U64,
}

const _: () = {
    assert!(size_of::<DelayState>() == 72);
    assert!(size_of::<DelayedHead>() == 32);
    assert!(size_of::<DelayedItem>() == 8);
    assert!(BUCKET_MS <= i32::MAX as u64);
};

/// Number of messages, and bytes of their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub count: u64,
    pub bytes: u64,
}

impl Amount {
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }

    fn less(self, other: Self) -> Self {
        let count = self.count.saturating_sub(other.count);
        Self { count, bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// Readings of both clocks at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// See [`DelayClock`].
    pub clock_ms: u64,
    pub wall: Timestamp,
}

/// The messages that are due in one second, numbered from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(u32);

impl Bucket {
    /// # Panics
    /// If it is later than [`DUE_MAX_MS`].
    pub fn of(due_ms: u64) -> Self {
        Self(u32::try_from(due_ms / BUCKET_MS).expect("due times are checked at admission"))
    }

    pub fn start_ms(self) -> u64 {
        u64::from(self.0) * BUCKET_MS
    }

    pub fn end_ms(self) -> u64 {
        self.start_ms() + BUCKET_MS
    }

    pub fn successor(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub fn queue(self) -> QueueKey {
        let topic = FIRST_GROUP | self.0 >> BUCKETS_PER_GROUP_LOG2;
        QueueKey { topic, queue: QueueId(self.0 & ((1 << BUCKETS_PER_GROUP_LOG2) - 1)) }
    }

    fn of_queue(queue: QueueKey) -> Self {
        Self((queue.topic & !FIRST_GROUP) << BUCKETS_PER_GROUP_LOG2 | queue.queue.0)
    }

    /// The key of its message at `offset`, as the index knows it.
    pub fn key(self, offset: QueueOffset, located: &Located) -> Key {
        let into_ms = u64::try_from(located.tag_hash).unwrap_or(0);
        Key { due_ms: self.start_ms() + into_ms, offset: offset.0 }
    }
}

/// Whether a topic of the index is a group of buckets.
pub fn is_group(topic: u32) -> bool {
    topic >= FIRST_GROUP
}

#[derive(Clone, Debug, Default)]
pub struct Delays {
    cursor: Key,
    carried_to: LogOffset,
    stored: Amount,
    settled: Amount,
    recalled: Recalled,
    /// The newest reading: of the last fact, or a later one that only snapshots have.
    clock: Option<ClockReading>,
}

impl Delays {
    /// Whether there never was a delayed message.
    pub fn is_unused(&self) -> bool {
        self.clock.is_none()
    }

    pub fn cursor(&self) -> Key {
        self.cursor
    }

    pub fn carried_to(&self) -> LogOffset {
        self.carried_to
    }

    /// Numbers of messages: that are not pending any more, and that were ever stored as pending. A message
    /// that was carried forward counts again.
    pub fn counts(&self) -> Range<u64> {
        self.settled.count..self.stored.count.max(self.settled.count)
    }

    /// What is pending, without regard to messages lost to damage.
    pub fn pending(&self) -> Amount {
        self.stored.less(self.settled)
    }

    /// Whether the message with this key, whose record is at `offset`, is pending.
    pub fn is_pending(&self, key: Key, offset: LogOffset) -> bool {
        key >= self.cursor && offset >= self.carried_to && !self.recalled.contains(key)
    }

    pub fn recalled(&self) -> &Recalled {
        &self.recalled
    }

    /// The first bucket with messages from `from` on, which may have been delivered.
    pub fn first_bucket(&self, index: &Index, from: Bucket) -> Option<Bucket> {
        let from = from.max(Bucket::of(self.cursor.due_ms));
        index.rows_from(from.queue(), 1).next().map(|row| Bucket::of_queue(row.key()))
    }

    /// Whether the index must keep a topic that is a group of buckets.
    pub fn keeps(&self, topic: u32) -> bool {
        is_group(topic) && topic >= Bucket::of(self.cursor.due_ms).queue().topic
    }

    /// The fact after `settled` more messages, which are below `cursor` or `carried_to`, or have
    /// been recalled.
    pub fn state_after(
        &self,
        cursor: Key,
        carried_to: LogOffset,
        settled: Amount,
        now: ClockReading,
    ) -> DelayState {
        let settled = self.settled.plus(settled);
        DelayState {
            cursor_due_ms: U64::new(cursor.due_ms),
            cursor_offset: U64::new(cursor.offset),
            carried_to: U64::new(carried_to.0),
            stored_count: U64::new(self.stored.count),
            stored_bytes: U64::new(self.stored.bytes),
            settled_count: U64::new(settled.count),
            settled_bytes: U64::new(settled.bytes),
            clock_ms: U64::new(now.clock_ms),
            wall_ms: U64::new(now.wall.0),
        }
    }

    /// The fact after all that is pending below `carried_to`, `moved`, has been stored again.
    pub fn moved(&self, carried_to: LogOffset, moved: Amount, now: ClockReading) -> DelayState {
        let stored = self.stored.plus(moved);
        DelayState {
            stored_count: U64::new(stored.count),
            stored_bytes: U64::new(stored.bytes),
            ..self.state_after(self.cursor, carried_to, moved, now)
        }
    }

    /// The head of a fact that stores `more` messages.
    pub fn head(&self, more: Amount, now: ClockReading) -> DelayedHead {
        let stored = self.stored.plus(more);
        DelayedHead {
            clock_ms: U64::new(now.clock_ms),
            wall_ms: U64::new(now.wall.0),
            stored_count: U64::new(stored.count),
            stored_bytes: U64::new(stored.bytes),
        }
    }

    /// Applies [`DELAYS`], and removes the groups of buckets in which nothing is pending.
    pub fn apply_state(&mut self, index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
        let (state, _) = DelayState::ref_from_prefix(fact.payload)
            .map_err(|_| format!("{} bytes are too few", fact.payload.len()))?;
        let due_ms = state.cursor_due_ms.get().min(DUE_MAX_MS);
        self.cursor = Key { due_ms, offset: state.cursor_offset.get() };
        self.recalled.forget_below(self.cursor);
        self.carried_to = LogOffset(state.carried_to.get());
        self.stored = Amount { count: state.stored_count.get(), bytes: state.stored_bytes.get() };
        self.settled =
            Amount { count: state.settled_count.get(), bytes: state.settled_bytes.get() };
        let wall = Timestamp(state.wall_ms.get());
        self.see_clock(ClockReading { clock_ms: state.clock_ms.get(), wall });
        let first = QueueKey { topic: FIRST_GROUP, queue: QueueId(0) };
        loop {
            let topic = index.rows_from(first, 1).next().map(|row| row.key().topic);
            match topic.filter(|&topic| !self.keeps(topic)) {
                Some(topic) => index.remove_topic(topic),
                None => return Ok(()),
            }
        }
    }

    /// Applies a row of [`RECALLED`](super::facts::RECALLED).
    pub fn recall(&mut self, key: Key) {
        self.recalled.insert(key);
    }

    /// Applies [`DELAYED`]. Returns false if the state, restored from a snapshot, already reflects it.
    pub fn apply_messages(&mut self, index: &mut Index, fact: &Fact<'_>) -> Result<bool, String> {
        let (head, _) = DelayedHead::ref_from_prefix(fact.payload)
            .map_err(|_| format!("{} bytes are too few", fact.payload.len()))?;
        let is_new = head.stored_count.get() > self.stored.count;
        self.handle_stored(head);
        index_messages(index, fact).map(|()| is_new)
    }

    /// Messages with this head have been stored. Of an entry that a snapshot already reflects, the
    /// head is older than the state.
    pub fn handle_stored(&mut self, head: &DelayedHead) {
        if head.stored_count.get() < self.stored.count {
            return;
        }
        self.stored = Amount { count: head.stored_count.get(), bytes: head.stored_bytes.get() };
        let wall = Timestamp(head.wall_ms.get());
        self.see_clock(ClockReading { clock_ms: head.clock_ms.get(), wall });
    }

    /// The next snapshot has this reading, unless there never was a delayed message. Otherwise a
    /// start would only know the reading of the last fact, and if the wall clock has been set back
    /// since, not how much time has passed.
    pub fn note_clock(&mut self, now: ClockReading) {
        if self.clock.is_some_and(|last| last.clock_ms <= now.clock_ms) {
            self.clock = Some(now);
        }
    }

    /// A fact has this reading. The replay after a snapshot also finds facts that are not newer; the
    /// wall clock may have stepped in the same millisecond.
    fn see_clock(&mut self, now: ClockReading) {
        if self.clock.is_none_or(|last| last.clock_ms < now.clock_ms) {
            self.clock = Some(now);
        }
    }
}

/// Adds the messages of an entry to the index, as when they were stored.
pub fn index_messages(index: &mut Index, fact: &Fact<'_>) -> Result<(), String> {
    messages(fact, &mut |queue, offset, located| index.push(queue, offset, located))
}

/// The message of a [`DELAYED`] fact with a single one, and its log offset.
pub fn only_message<'a>(fact: &Fact<'a>) -> Option<(RecordView<'a>, LogOffset)> {
    const BEGIN: usize = size_of::<DelayedHead>() + size_of::<DelayedItem>();
    let bytes = fact.payload.get(BEGIN..)?;
    let record = RecordView::parse(bytes).ok().filter(|record| record.size == bytes.len())?;
    Some((record, fact.payload_offset.plus(BEGIN as u64)))
}

/// The messages of a [`DELAYED`] fact.
pub fn messages(
    fact: &Fact<'_>,
    take: &mut dyn FnMut(QueueKey, QueueOffset, Located),
) -> Result<(), String> {
    for message in each_message(fact) {
        let DelayedMessage { due_ms, record, offset, .. } = message?;
        let located = located(due_ms, offset, record.size, record.stored_at, fact.entry_offset);
        take(Bucket::of(due_ms).queue(), record.queue_offset, located);
    }
    Ok(())
}

/// A message of a [`DELAYED`] fact.
pub struct DelayedMessage<'a> {
    pub due_ms: u64,
    pub record: RecordView<'a>,
    /// The record as it is stored.
    pub bytes: &'a [u8],
    /// Where the record begins.
    pub offset: LogOffset,
}

/// Reads the messages of a [`DELAYED`] fact one by one. Do not continue after an error.
pub fn each_message<'a>(
    fact: &Fact<'a>,
) -> impl Iterator<Item = Result<DelayedMessage<'a>, String>> + use<'a> {
    let (payload, payload_offset) = (fact.payload, fact.payload_offset);
    let mut position = size_of::<DelayedHead>();
    std::iter::from_fn(move || {
        let part = payload.get(position..).filter(|part| !part.is_empty())?;
        let Ok((item, rest)) = DelayedItem::ref_from_prefix(part) else {
            return Some(Err(format!("it is cut at byte {position}")));
        };
        let record = match RecordView::parse(rest) {
            Ok(record) => record,
            Err(error) => return Some(Err(error.to_string())),
        };
        let bytes = &rest[..record.size];
        let begin = position + size_of::<DelayedItem>();
        position = begin + record.size;
        let due_ms = item.due_ms.get().min(DUE_MAX_MS);
        let offset = payload_offset.plus(begin as u64);
        Some(Ok(DelayedMessage { due_ms, record, bytes, offset }))
    })
}

/// What the index holds of a pending message.
pub fn located(
    due_ms: u64,
    offset: LogOffset,
    size: usize,
    stored_at: Timestamp,
    entry_offset: LogOffset,
) -> Located {
    let tag_hash = (due_ms % BUCKET_MS) as i32;
    Located { offset, size: size as u32, tag_hash, stored_at, entry_offset }
}

/// Adds the state to a snapshot, unless there never was a delayed message.
pub fn add_to_snapshot(delays: &Delays, facts: &mut Facts) {
    if let Some(now) = delays.clock {
        let state = delays.state_after(delays.cursor, delays.carried_to, Amount::default(), now);
        push_state(facts, &state, |_| {});
    }
}

/// Adds a fact with `state`, and behind it the rows that `push_rows` adds.
pub fn push_state(facts: &mut Facts, state: &DelayState, push_rows: impl FnOnce(&mut Vec<u8>)) {
    facts.push(DELAYS, 0, |out| {
        out.extend_from_slice(state.as_bytes());
        push_rows(out);
    });
}

/// The clock by which messages are due: that of the wall when the first delayed message was stored,
/// and from then on the time that has passed. Steps of the wall clock do not change it, so a
/// message is neither early nor held up because of one.
///
/// How long the broker was stopped is known from the wall clock only. As for the ages of segments, a
/// longer absence than [`ABSENCE_MAX_MS`] is considered a wrong clock and does not count: what is
/// pending is then late by the true absence, but not all delivered at once. A shorter one counts
/// immediately, because messages that became due meanwhile must not wait. The clock never runs
/// backward.
#[derive(Clone, Copy, Debug, Default)]
pub struct DelayClock {
    reading_ms: u64,
    since: Moment,
}

impl DelayClock {
    pub fn begin(now: Now, delays: &Delays) -> Self {
        let reading_ms = match delays.clock {
            None => now.wall.0,
            Some(last) => last.clock_ms.saturating_add(absence_ms(now.wall, last.wall, delays)),
        };
        Self { reading_ms: reading_ms.max(delays.cursor.due_ms), since: now.moment }
    }

    pub fn at(&self, moment: Moment) -> u64 {
        self.reading_ms.saturating_add(moment.ms_since(self.since))
    }

    pub fn reading(&self, now: Now) -> ClockReading {
        ClockReading { clock_ms: self.at(now.moment), wall: now.wall }
    }

    /// When it will show `due_ms`; in the past if it has.
    pub fn moment_of(&self, due_ms: u64) -> Moment {
        self.since.plus_ms(due_ms.saturating_sub(self.reading_ms))
    }
}

/// How long the broker was stopped, as far as that counts.
fn absence_ms(now: Timestamp, last: Timestamp, delays: &Delays) -> u64 {
    let absence_ms = now.ms_since(last);
    if absence_ms <= ABSENCE_MAX_MS {
        return absence_ms;
    }
    let count = delays.pending().count;
    if count > 0 {
        tracing::warn!(
            "by the wall clock this broker was stopped for {} days, which is taken for a wrong \
             clock; {count} delayed messages become due as if no time had passed since it was \
             stopped",
            absence_ms / 86_400_000
        );
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: u64, moment_ms: u64) -> Now {
        Now { wall: Timestamp(wall_ms), moment: Moment(moment_ms) }
    }

    #[test]
    fn the_clock_of_due_times_runs_on_whatever_happens_to_the_wall_clock() {
        let mut delays = Delays::default();
        let clock = DelayClock::begin(at(1_000_000, 50), &delays);
        assert_eq!((clock.at(Moment(50)), clock.at(Moment(80))), (1_000_000, 1_000_030));
        assert_eq!(clock.moment_of(1_000_030), Moment(80));
        // The wall clock has been set forward by an hour when the last fact is written.
        delays.clock = Some(clock.reading(at(4_600_100, 150)));
        // How long the broker was stopped, and what its clock then shows.
        let rows = [
            (4_600_100, 1_000_100),
            (4_602_100, 1_002_100),
            // Set back to what is right: that time has passed is all that is known.
            (1_002_100, 1_000_100),
            (4_600_100 + ABSENCE_MAX_MS, 1_000_100 + ABSENCE_MAX_MS),
            // Nobody stops a broker for so long: the clock is wrong.
            (4_600_101 + ABSENCE_MAX_MS, 1_000_100),
            (u64::MAX, 1_000_100),
        ];
        for (wall_ms, expected) in rows {
            assert_eq!(DelayClock::begin(at(wall_ms, 7), &delays).at(Moment(7)), expected);
        }
        delays.cursor.due_ms = 1_005_000;
        assert_eq!(DelayClock::begin(at(4_602_100, 7), &delays).at(Moment(7)), 1_005_000);
    }

    #[test]
    fn a_reading_that_is_noted_counts_until_a_newer_one() {
        let reading = |clock_ms, wall| ClockReading { clock_ms, wall: Timestamp(wall) };
        let mut delays = Delays::default();
        delays.note_clock(reading(5, 100));
        assert!(delays.is_unused(), "there is nothing that needs a clock");
        delays.clock = Some(reading(1_000, 4_600));
        delays.note_clock(reading(1_500, 1_500));
        let mut index = Index::new(0);
        for (clock_ms, wall, expected) in [
            (1_200, 9_000, reading(1_500, 1_500)),
            (1_500, 9_000, reading(1_500, 1_500)),
            (1_600, 9_000, reading(1_600, 9_000)),
        ] {
            let now = reading(clock_ms, wall);
            let state = delays.state_after(Key::default(), LogOffset(0), Amount::default(), now);
            let mut facts = Facts::default();
            push_state(&mut facts, &state, |_| {});
            let (kind, subject, payload) = facts.entry();
            let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
            let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
            delays.apply_state(&mut index, &fact).unwrap();
            assert_eq!(delays.clock, Some(expected));
        }
    }

    #[test]
    fn a_bucket_is_a_queue_of_its_own_and_groups_are_in_order() {
        let mut last = None;
        for due_ms in [0, 999, 1_000, 1_023_999, 1_024_000, 1_700_000_000_000, DUE_MAX_MS] {
            let bucket = Bucket::of(due_ms);
            assert_eq!(Bucket::of_queue(bucket.queue()), bucket);
            assert!(bucket.start_ms() <= due_ms && due_ms < bucket.end_ms());
            assert!(is_group(bucket.queue().topic) && last <= Some(bucket.queue()));
            let located = located(due_ms, LogOffset(0), 1, Timestamp(0), LogOffset(0));
            let key = bucket.key(QueueOffset(3), &located);
            assert_eq!(key, Key { due_ms, offset: 3 });
            last = Some(bucket.queue());
        }
    }
}
