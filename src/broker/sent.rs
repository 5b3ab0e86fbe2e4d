//! Recognizes a message that its producer sends again, because it has seen no acknowledgement of the
//! first attempt, for instance during a failover. It is stored once; the second attempt is answered
//! with the place of the first.
//!
//! Two messages are the same if topic, all properties and body are equal: the properties contain
//! the unique key (`UNIQ_KEY`), which clients keep across attempts (remoting reference, 6.1). The
//! key alone is not enough: an application that sends one message object twice, and changes it in
//! between, sends two messages. The order of the properties does not matter, because one stock
//! client changes it. A batch is identified by its first message and the number of messages.
//! Messages without a unique key are never the same, nor are those of retry topics, which come back
//! with the properties of their first attempt.
//!
//! ```text
//!   SENT   SentHead, then SentRows, in the order in which they were stored       in snapshots only
//! ```
//!
//! Everything is derived from the messages in the log, so all replicas know the same, and a new leader
//! recognizes what its predecessor stored. Keys are kept in two generations, each as long as the
//! window, so a key is kept for at least one window and at most two. A generation that is full ends
//! early, which shortens the window.

use std::mem::size_of;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_128;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{Fact, Facts, ITEMS_PER_SLICE, SENT};
use crate::model::record::{
    PROPERTY_NAME_END, PROPERTY_REAL_QUEUE, PROPERTY_REAL_TOPIC, PROPERTY_REGION,
    PROPERTY_TIMER_OUT_MS, PROPERTY_UNIQUE_KEY, RecordHead, RecordView, pairs, property,
};
use crate::model::topic::GROUP_TOPIC_SIGN;
use crate::model::{LogOffset, QueueId, QueueOffset, Timestamp};

/// Maximum number of keys in a generation: the capacity of a hash table with 2^20 slots. With rows
/// of 40 bytes and slots of 5, a shard uses at most 95 MB.
pub const KEYS_MAX: usize = (1 << 20) / 8 * 7;

/// Precedes the keys of one generation.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SentHead {
    /// When the generation began.
    pub began_ms: U64,
}

/// A message that may be sent again.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SentRow {
    /// Hash of topic, number of messages, and properties of the first one.
    pub key: [u8; 16],
    /// Log offset of the first message.
    pub position: U64,
    pub queue_offset: U64,
    pub queue: U32,
    /// Checksum of the first message's body.
    pub body_checksum: U32,
}

const _: () = {
    assert!(size_of::<SentHead>() == 8);
    assert!(size_of::<SentRow>() == 40);
};

/// Identifies a message or batch, except for its body.
pub type Key = [u8; 16];

/// No message has it.
const NO_KEY: Key = [0; 16];

/// Properties that the broker sets on messages that it stores.
const SET_BY_BROKER: [&str; 4] =
    [PROPERTY_REAL_TOPIC, PROPERTY_REAL_QUEUE, PROPERTY_TIMER_OUT_MS, PROPERTY_REGION];

/// The key of `count` messages in the topic with this number, of which the first has these properties.
/// `None` without a unique key.
pub fn key_of(topic: u32, count: usize, properties: [&[u8]; 2]) -> Option<Key> {
    let (mut sum, mut has_unique_key) = (0_u128, false);
    for pair in properties.into_iter().flat_map(pairs) {
        let name_size = memchr::memchr(PROPERTY_NAME_END, pair).unwrap_or(pair.len());
        let name = &pair[..name_size];
        has_unique_key |= name == PROPERTY_UNIQUE_KEY.as_bytes();
        if !SET_BY_BROKER.iter().any(|set| set.as_bytes() == name) {
            sum = sum.wrapping_add(xxh3_128(pair));
        }
    }
    let mut all = [0; 24];
    all[..16].copy_from_slice(&sum.to_le_bytes());
    all[16..20].copy_from_slice(&topic.to_le_bytes());
    all[20..].copy_from_slice(&(count as u32).to_le_bytes());
    has_unique_key.then(|| xxh3_128(&all).to_le_bytes())
}

/// Whether messages of this topic are recognized.
pub fn is_covered(topic: &str) -> bool {
    !topic.starts_with(GROUP_TOPIC_SIGN)
}

#[derive(Debug, Default)]
struct Generation {
    began_ms: u64,
    /// In the order in which they were stored.
    rows: Vec<SentRow>,
    /// Numbers of rows, by key.
    index: HashTable<u32>,
}

/// The keys of recent messages.
#[derive(Debug)]
pub struct SentKeys {
    window_ms: u64,
    keys_max: usize,
    current: Generation,
    previous: Generation,
}

impl SentKeys {
    pub fn new(window_ms: u64) -> Self {
        let (current, previous) = Default::default();
        Self { window_ms, keys_max: KEYS_MAX, current, previous }
    }

    /// The first attempt to send messages with this key. A generation that has ended is the previous
    /// one, even before a message begins the next: reading changes nothing.
    pub fn find(&self, key: &Key, now: Timestamp) -> Option<SentRow> {
        let ended_ms = self.current.began_ms + self.window_ms;
        let (is_current, is_previous) = (now.0 < ended_ms + self.window_ms, now.0 < ended_ms);
        let current = is_current.then(|| self.current.find(key)).flatten();
        current.or_else(|| self.previous.find(key).filter(|_| is_previous)).copied()
    }

    /// Notes a stored message. Of several with one key, the newest counts.
    pub fn note(&mut self, row: SentRow, stored_at: Timestamp) {
        self.pass(stored_at);
        if self.current.rows.len() >= self.keys_max {
            self.begin_generation(stored_at.0.max(self.current.began_ms + 1));
        }
        self.current.note(row);
    }

    /// Number of keys.
    pub fn count(&self) -> usize {
        self.current.rows.len() + self.previous.rows.len()
    }

    /// Bytes that the keys occupy.
    pub fn memory(&self) -> usize {
        let of = |one: &Generation| {
            one.rows.capacity() * size_of::<SentRow>() + one.index.allocation_size()
        };
        of(&self.current) + of(&self.previous)
    }

    fn pass(&mut self, now: Timestamp) {
        let ended_ms = self.current.began_ms + self.window_ms;
        if now.0 < ended_ms {
            return;
        }
        if now.0 < ended_ms + self.window_ms {
            return self.begin_generation(ended_ms);
        }
        // Nothing was sent for so long that both generations have ended.
        (self.previous, self.current) = Default::default();
        self.current.began_ms = now.0;
    }

    fn begin_generation(&mut self, began_ms: u64) {
        // The next generation will be about as large, so it need not grow.
        let expected = self.current.rows.len();
        let next = Generation {
            began_ms,
            rows: Vec::with_capacity(expected),
            index: HashTable::with_capacity(expected),
        };
        self.previous = std::mem::replace(&mut self.current, next);
    }

    /// Forgets messages, which then count as never sent.
    pub fn forget(&mut self, key: &Key) {
        for generation in [&mut self.current, &mut self.previous] {
            generation.forget(key);
        }
    }

    /// Applies a part of a snapshot.
    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let unreadable = || format!("{} bytes are no head and whole rows", fact.payload.len());
        let (head, rest) = SentHead::ref_from_prefix(fact.payload).map_err(|_| unreadable())?;
        let rows = <[SentRow]>::ref_from_bytes(rest).map_err(|_| unreadable())?;
        if head.began_ms.get() > self.current.began_ms {
            self.begin_generation(head.began_ms.get());
        }
        rows.iter().for_each(|row| self.current.note(*row));
        Ok(())
    }
}

impl SentRow {
    /// `place` is where the first message is stored: its log offset, queue and queue offset.
    pub fn new(key: Key, place: (LogOffset, QueueId, QueueOffset), body_checksum: u32) -> Self {
        let (position, queue, queue_offset) = place;
        Self {
            key,
            position: position.0.into(),
            queue_offset: queue_offset.0.into(),
            queue: queue.0.into(),
            body_checksum: body_checksum.into(),
        }
    }

    pub fn position(&self) -> LogOffset {
        LogOffset(self.position.get())
    }

    pub fn queue_offset(&self) -> QueueOffset {
        QueueOffset(self.queue_offset.get())
    }

    pub fn queue(&self) -> QueueId {
        QueueId(self.queue.get())
    }
}

impl Generation {
    fn find(&self, key: &Key) -> Option<&SentRow> {
        let is_it = |nth: &u32| self.rows[*nth as usize].key == *key;
        self.index.find(hash_of(key), is_it).map(|nth| &self.rows[*nth as usize])
    }

    fn forget(&mut self, key: &Key) {
        let Self { rows, index, .. } = self;
        let is_it = |nth: &u32| rows[*nth as usize].key == *key;
        if let Ok(found) = index.find_entry(hash_of(key), is_it) {
            let (nth, _) = found.remove();
            // Its place stays, so that a snapshot in progress skips no other row.
            rows[nth as usize].key = NO_KEY;
        }
    }

    fn note(&mut self, row: SentRow) {
        let Self { rows, index, .. } = self;
        let hash = hash_of(&row.key);
        if let Some(nth) = index.find(hash, |nth| rows[*nth as usize].key == row.key) {
            rows[*nth as usize] = row;
            return;
        }
        let nth = rows.len() as u32;
        rows.push(row);
        index.insert_unique(hash, nth, |nth| hash_of(&rows[*nth as usize].key));
    }
}

/// The hash of a key, which is a hash already.
fn hash_of(key: &Key) -> u64 {
    let (half, _) = key.split_first_chunk().expect("a key has 16 bytes");
    u64::from_le_bytes(*half)
}

/// The key of a single delayed message, while it is pending, and the queue that it is for. `number_of`
/// maps the name of its topic to a number.
pub fn key_of_delayed(
    pending: &RecordView<'_>,
    number_of: impl FnOnce(&str) -> Option<u32>,
) -> Option<(Key, QueueId)> {
    let text = |name| std::str::from_utf8(property(pending.properties, name)?).ok();
    let queue = QueueId(text(PROPERTY_REAL_QUEUE)?.parse().ok()?);
    let topic = number_of(text(PROPERTY_REAL_TOPIC).filter(|topic| is_covered(topic))?)?;
    Some((key_of(topic, 1, [pending.properties, &[]])?, queue))
}

/// The row of the messages of a fact, a single one or a batch, and when they were stored; `None` if
/// they are not recognized.
pub fn row_of(fact: &Fact<'_>) -> Result<Option<(SentRow, Timestamp)>, String> {
    let first = RecordView::parse(fact.payload).map_err(|error| error.to_string())?;
    if !is_covered(first.topic) {
        return Ok(None);
    }
    let key = key_of(fact.subject, count_records(fact.payload), [first.properties, &[]]);
    Ok(key.map(|key| {
        let place = (fact.payload_offset, first.queue, first.queue_offset);
        (SentRow::new(key, place, first.body_checksum), first.stored_at)
    }))
}

/// Number of records in a payload of whole records.
fn count_records(mut rest: &[u8]) -> usize {
    let mut count = 0;
    while let Ok((head, _)) = RecordHead::ref_from_prefix(rest) {
        count += 1;
        rest = rest.get(head.size.get() as usize..).unwrap_or_default();
    }
    count
}

/// The progress of adding all keys to a snapshot: the generation, and the next row in it.
#[derive(Default)]
pub struct AllSent {
    began_ms: u64,
    next: usize,
}

impl AllSent {
    pub fn add(&mut self, keys: &SentKeys, facts: &mut Facts) -> bool {
        for generation in [&keys.previous, &keys.current] {
            if generation.began_ms < self.began_ms || generation.rows.is_empty() {
                continue;
            }
            if generation.began_ms > self.began_ms {
                (self.began_ms, self.next) = (generation.began_ms, 0);
            }
            let rows = generation.rows.get(self.next..).unwrap_or_default();
            let rows = &rows[..rows.len().min(ITEMS_PER_SLICE)];
            if rows.is_empty() {
                continue;
            }
            self.next += rows.len();
            let rows: Vec<SentRow> = rows.iter().filter(|row| row.key != NO_KEY).copied().collect();
            facts.push(SENT, 0, |out| {
                out.extend_from_slice(SentHead { began_ms: self.began_ms.into() }.as_bytes());
                out.extend_from_slice(rows.as_bytes());
            });
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        let properties = format!("UNIQ_KEY\u{1}{text}\u{2}TAGS\u{1}a\u{2}");
        key_of(7, 1, [properties.as_bytes(), &[]]).unwrap()
    }

    fn row(nth: u64) -> SentRow {
        let place = (LogOffset(nth * 100), QueueId(nth as u32 % 4), QueueOffset(nth));
        SentRow::new(key(&nth.to_string()), place, nth as u32)
    }

    fn found(keys: &SentKeys, nth: u64, now: u64) -> bool {
        let found = keys.find(&key(&nth.to_string()), Timestamp(now));
        assert!(found.is_none_or(|found| found == row(nth)));
        found.is_some()
    }

    #[test]
    fn what_is_in_a_key() {
        let of = |topic, count, first: &str, second: &str| {
            key_of(topic, count, [first.as_bytes(), second.as_bytes()])
        };
        let (unique, tag) = ("UNIQ_KEY\u{1}A\u{2}", "TAGS\u{1}a\u{2}");
        let one = of(7, 1, &format!("{unique}{tag}"), "");
        assert!(one.is_some());
        let same = [
            of(7, 1, &format!("{tag}{unique}"), ""),
            of(7, 1, tag, unique),
            of(7, 1, unique, "TAGS\u{1}a"),
            of(7, 1, unique, &format!("{tag}REAL_TOPIC\u{1}t\u{2}TIMER_OUT_MS\u{1}9\u{2}")),
            of(7, 1, unique, &format!("{tag}MSG_REGION\u{1}r\u{2}")),
        ];
        for same in same {
            assert_eq!(same, one);
        }
        let others = [
            of(8, 1, unique, tag),
            of(7, 2, unique, tag),
            of(7, 1, unique, ""),
            of(7, 1, unique, "TAGS\u{1}b\u{2}"),
            of(7, 1, "UNIQ_KEY\u{1}B\u{2}", tag),
        ];
        for other in others {
            assert!(other.is_some() && other != one, "{other:?}");
        }
        assert_eq!(of(7, 1, tag, "KEYS\u{1}UNIQ_KEY\u{2}"), None);
        assert_eq!(of(7, 1, "", ""), None);
    }

    /// Whatever happens, a key is known for a window and forgotten after two.
    #[test]
    fn a_key_is_kept_for_a_window_and_for_two_at_most() {
        let mut rng = crate::sim::Rng::from_seed(3);
        let (mut keys, mut now) = (SentKeys::new(1_000), 5_000_000);
        let mut times = Vec::new();
        for nth in 0..3_000 {
            now += [1, 30, 700, 2_500][rng.below(4) as usize] * rng.below(2);
            keys.note(row(nth), Timestamp(now));
            times.push(now);
            let back = rng.below(nth + 1).min(rng.below(100));
            let age = now - times[(nth - back) as usize];
            let is_found = found(&keys, nth - back, now);
            assert!(age >= 1_000 || is_found, "{age}");
            assert!(age <= 2_000 || !is_found, "{age}");
        }
        assert!(keys.count() < 3_000);
        now += 3_000;
        assert!(!found(&keys, 2_999, now));
        keys.note(row(3_000), Timestamp(now));
        assert_eq!(keys.count(), 1);
    }

    #[test]
    fn a_full_generation_ends_early() {
        let mut keys = SentKeys { keys_max: 100, ..SentKeys::new(1_000) };
        for nth in 0..1_050 {
            keys.note(row(nth), Timestamp(5_000_000));
            assert!(keys.count() <= 200);
        }
        for nth in 0..1_050 {
            assert_eq!(found(&keys, nth, 5_000_000), nth >= 900, "{nth}");
        }
    }

    #[test]
    fn the_newest_message_with_a_key_counts() {
        let mut keys = SentKeys::new(1_000);
        let newer = SentRow { position: 77.into(), ..row(1) };
        keys.note(row(1), Timestamp(5_000));
        keys.note(newer, Timestamp(5_001));
        assert_eq!(keys.find(&row(1).key, Timestamp(5_002)), Some(newer));
        assert_eq!(keys.count(), 1);
        keys.note(row(1), Timestamp(6_500));
        assert_eq!(keys.find(&row(1).key, Timestamp(6_500)), Some(row(1)), "in a later generation");
    }

    #[test]
    fn a_snapshot_has_both_generations() {
        let mut keys = SentKeys::new(60_000);
        for nth in 0..3 * ITEMS_PER_SLICE as u64 {
            keys.note(row(nth), Timestamp(5_000_000 + nth * 12));
        }
        assert!(!keys.previous.rows.is_empty());
        let (mut all, mut restored) = (AllSent::default(), SentKeys::new(60_000));
        loop {
            let mut facts = Facts::default();
            let has_more = all.add(&keys, &mut facts);
            let bytes = facts.into_bytes();
            for fact in Fact::of_snapshot(&bytes).each() {
                restored.apply(&fact.unwrap()).unwrap();
            }
            if !has_more {
                break;
            }
        }
        let parts = |keys: &SentKeys| {
            let of = |one: &Generation| (one.began_ms, one.rows.clone());
            [of(&keys.previous), of(&keys.current)]
        };
        assert_eq!(parts(&restored), parts(&keys));
    }
}
