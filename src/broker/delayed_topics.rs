//! How many delayed messages of each topic are pending on this shard.
//!
//! ```text
//!   DELAYED          the messages of a fact become pending                    count + 1 for each
//!   DELAYS           behind its DelayState: PendingRow, name, padding, …      counts after this fact
//!   DELAYED_TOPICS   PendingRow, name, padding, …                             counts in snapshots
//! ```
//!
//! A message counts for the name of the topic that it will be delivered to, whether that exists or
//! not: if it is deleted and created again, it gets the message. One that a consumer group has returned
//! will be delivered to the group's retry topic, and counts as a retry of the topic that it came from
//! too. Delivery, carry-forward and recalls have read the messages that they settle, so they know the topics,
//! and write the new counts in the same entry ([`Settling`]).
//!
//! Each count has the log offset of the fact that set it last, and facts up to that one do not change
//! it again. So the part of the log that a snapshot already reflects can be replayed on it.
//!
//! Invariant: the counts of a topic are exact for the messages at or above its `since`, and not all of
//! them are 0. So none is too high, and if their sum is the number of all pending messages
//! ([`Delays::pending`](super::delays::Delays::pending)), each is that of its topic. Otherwise some
//! messages are not counted, and no count is shown: messages that an older version has stored, and all
//! those before damage to the log, or before there were more than [`COUNTS_MAX`] topics. Messages that
//! are lost to damage while they are counted remain so until nothing is pending on the shard; then
//! delivery settles them.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Bound;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::delays::{DelayState, each_message};
use super::facts::{self, DELAYED_TOPICS, Fact, Facts, ITEMS_PER_SLICE, SLICE_SIZE};
use crate::model::ids::RETRY_TOPIC_PREFIX;
use crate::model::record::{PROPERTY_REAL_TOPIC, PROPERTY_RETRY_TOPIC, RecordView, property};
use crate::model::reply::DelayedCounts;
use crate::model::topic::TOPICS_MAX;
use crate::model::{LogOffset, TopicName};

/// Maximum number of topics with counts. One more, and counting begins anew.
const COUNTS_MAX: usize = TOPICS_MAX;

/// The counts of one topic. The topic's name follows, and zeros up to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PendingRow {
    /// Messages that will be delivered to the topic.
    pub pending_count: U64,
    /// Messages that came from the topic and will be delivered to a retry topic.
    pub retry_count: U64,
    /// Log offset from which on messages are counted, or that of the entry that has the row if it is
    /// lower.
    pub since: U64,
    /// Log offset of the fact that set the counts; 0 in the log, where this fact does.
    pub set_at: U64,
    pub name_size: U32,
    pub reserved: U32,
}

const _: () = assert!(size_of::<PendingRow>() == 40);

impl PendingRow {
    fn count(&self) -> Count {
        let (delayed, retries) = (self.pending_count.get(), self.retry_count.get());
        let (since, set_at) = (LogOffset(self.since.get()), LogOffset(self.set_at.get()));
        Count { messages: DelayedCounts { delayed, retries }, since, set_at }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    messages: DelayedCounts,
    since: LogOffset,
    set_at: LogOffset,
}

/// The counts of a topic that has none: no message is above its `since`.
const NO_COUNT: Count = Count {
    messages: DelayedCounts { delayed: 0, retries: 0 },
    since: LogOffset(u64::MAX),
    set_at: LogOffset(0),
};

#[derive(Debug, Default)]
pub struct DelayedTopics {
    /// Sorted rather than hashed, because clients choose the names.
    counts: BTreeMap<TopicName, Count>,
    /// Sum of `delayed`.
    total: u64,
}

impl DelayedTopics {
    /// The counts of a topic, if all of the `pending` messages are counted.
    pub fn of(&self, topic: &str, pending: u64) -> Option<DelayedCounts> {
        (self.total == pending).then(|| self.find(topic).messages)
    }

    fn find(&self, topic: &str) -> Count {
        self.counts.get(topic).copied().unwrap_or(NO_COUNT)
    }

    /// The one place where counts change: each has been set by the fact at its `set_at`, unless a
    /// later one has set it. If they might be too many, all are forgotten, so that each message that
    /// is counted for its topic is counted as a retry too.
    fn set(&mut self, counts: BTreeMap<TopicName, Count>) {
        let new = counts.keys().filter(|topic| !self.counts.contains_key(*topic)).count();
        if self.counts.len() + new > COUNTS_MAX {
            self.forget_before(LogOffset(u64::MAX));
            return;
        }
        for (topic, count) in counts {
            let before = self.find(topic.as_str());
            if before.messages != NO_COUNT.messages && before.set_at >= count.set_at {
                continue;
            }
            self.total = self.total - before.messages.delayed + count.messages.delayed;
            if count.messages == NO_COUNT.messages {
                self.counts.remove(&topic);
            } else {
                self.counts.insert(topic, count);
            }
        }
    }

    /// A fact at `set_at`, of the entry at `entry_offset`, stores messages with these properties.
    fn add<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a [u8]>,
        entry_offset: LogOffset,
        set_at: LogOffset,
    ) {
        let mut changed = BTreeMap::new();
        for (topic, more) in messages.flat_map(counted) {
            let before = self.find(topic.as_str());
            let count = changed.entry(topic).or_insert(before);
            count.messages = count.messages.plus(more);
            *count = Count { since: count.since.min(entry_offset), set_at, ..*count };
        }
        self.set(changed);
    }

    /// Applies a fact with messages that were not pending before.
    pub fn apply_messages(&mut self, fact: &Fact<'_>) {
        let messages = each_message(fact).map_while(Result::ok);
        self.add(
            messages.map(|message| message.record.properties),
            fact.entry_offset,
            fact.payload_offset,
        );
    }

    /// Applies the rows behind a [`DelayState`]. An older version writes none and settles messages of
    /// any topic, so no count is certain afterwards.
    pub fn apply_state(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let set_at = fact.payload_offset;
        let rows = fact.payload.get(size_of::<DelayState>()..).unwrap_or_default();
        if rows.is_empty() {
            self.forget_before(set_at);
        }
        let mut rows = read_rows(rows)?;
        for count in rows.values_mut() {
            *count = Count { since: count.since.min(fact.entry_offset), set_at, ..*count };
        }
        self.set(rows);
        Ok(())
    }

    /// Keeps only the counts of messages from `offset` on; none if that would be too few retries.
    pub fn forget_before(&mut self, offset: LogOffset) {
        let is_kept = |count: &Count| count.since >= offset;
        let mut forgotten = self.counts.values().filter(|count| !is_kept(count));
        let loses_retries = forgotten.any(|count| count.messages.retries > 0);
        self.counts.retain(|_, count| is_kept(count) && !loses_retries);
        self.total = self.counts.values().map(|count| count.messages.delayed).sum();
    }

    /// Applies [`DELAYED_TOPICS`].
    pub fn apply_snapshot(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        self.set(read_rows(fact.payload)?);
        Ok(())
    }
}

/// The counts after an entry with a [`DelayState`] is applied.
pub struct Settling<'a> {
    topics: &'a DelayedTopics,
    changed: BTreeMap<TopicName, Count>,
}

impl<'a> Settling<'a> {
    pub fn begin(topics: &'a DelayedTopics) -> Self {
        Self { topics, changed: BTreeMap::new() }
    }

    /// The message whose record is at `offset` is no longer pending there.
    pub fn settle(&mut self, record: &[u8], offset: LogOffset) {
        self.change(record, |count, one| {
            if offset >= count.since {
                count.messages = count.messages.minus(one);
            }
        });
    }

    /// It is stored again in the same entry.
    pub fn carry(&mut self, record: &[u8], offset: LogOffset) {
        self.settle(record, offset);
        self.change(record, |count, one| count.messages = count.messages.plus(one));
    }

    fn change(&mut self, record: &[u8], change: impl Fn(&mut Count, DelayedCounts)) {
        let record = RecordView::parse(record).expect("a record was indexed");
        for (topic, one) in counted(record.properties) {
            let before = self.topics.find(topic.as_str());
            change(self.changed.entry(topic).or_insert(before), one);
        }
    }

    /// Adds the rows. There is always one, which distinguishes the fact from an older version's.
    pub fn push_rows(self, out: &mut Vec<u8>) {
        for (topic, count) in &self.changed {
            push_row(out, topic.as_str(), Count { set_at: LogOffset(0), ..*count });
        }
        if self.changed.is_empty() {
            push_row(out, "", NO_COUNT);
        }
    }
}

/// The topic that a pending message with these properties will be delivered to.
pub fn real_topic(properties: &[u8]) -> Option<&str> {
    std::str::from_utf8(property(properties, PROPERTY_REAL_TOPIC)?).ok()
}

/// The topics that a pending message counts for, and how.
fn counted(properties: &[u8]) -> impl Iterator<Item = (TopicName, DelayedCounts)> {
    let real = real_topic(properties);
    let is_retry = real.is_some_and(|topic| topic.starts_with(RETRY_TOPIC_PREFIX));
    let origin = property(properties, PROPERTY_RETRY_TOPIC).filter(|_| is_retry);
    let origin = origin.and_then(|topic| std::str::from_utf8(topic).ok());
    let delayed = (real, DelayedCounts { delayed: 1, retries: 0 });
    let retried = (origin, DelayedCounts { delayed: 0, retries: 1 });
    // Clients may set any properties.
    [delayed, retried].into_iter().filter_map(|(topic, one)| {
        let topic = TopicName::new(topic?.to_owned()).ok()?;
        Some((topic, one))
    })
}

fn push_row(out: &mut Vec<u8>, topic: &str, count: Count) {
    let begin = out.len();
    let row = PendingRow {
        pending_count: U64::new(count.messages.delayed),
        retry_count: U64::new(count.messages.retries),
        since: U64::new(count.since.0),
        set_at: U64::new(count.set_at.0),
        name_size: U32::new(topic.len() as u32),
        reserved: U32::new(0),
    };
    out.extend_from_slice(row.as_bytes());
    out.extend_from_slice(topic.as_bytes());
    facts::pad(out, begin);
}

fn read_rows(mut rest: &[u8]) -> Result<BTreeMap<TopicName, Count>, String> {
    let mut rows = BTreeMap::new();
    while !rest.is_empty() {
        let cut = || format!("counts of topics are cut {} bytes before their end", rest.len());
        let (row, mut behind) = PendingRow::ref_from_prefix(rest).map_err(|_| cut())?;
        let name = facts::take_padded(&mut behind, row.name_size.get() as usize);
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(cut)?;
        if !name.is_empty() {
            let name = TopicName::new(name.to_owned()).map_err(|error| error.to_string())?;
            rows.insert(name, row.count());
        }
        rest = behind;
    }
    Ok(rows)
}

/// All counts: the progress of adding them to a snapshot.
#[derive(Default)]
pub struct AllDelayedTopics {
    after: Option<TopicName>,
}

impl AllDelayedTopics {
    pub fn add(&mut self, topics: &DelayedTopics, facts: &mut Facts) -> bool {
        let from = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = topics.counts.range::<TopicName, _>((from, Bound::Unbounded)).peekable();
        if rows.peek().is_none() {
            return false;
        }
        let mut last = None;
        facts.push(DELAYED_TOPICS, 0, |out| {
            let begin = out.len();
            for _ in 0..ITEMS_PER_SLICE {
                let Some((name, count)) = rows.next_if(|_| out.len() - begin < SLICE_SIZE) else {
                    break;
                };
                push_row(out, name.as_str(), *count);
                last = Some(name.clone());
            }
        });
        let has_more = rows.peek().is_some();
        self.after = last;
        has_more
    }
}

#[cfg(test)]
pub mod testing {
    use crate::model::record::{Host, NewRecord, Placement};
    use crate::model::{LogOffset, QueueId, QueueOffset, Timestamp};

    /// The properties of a pending message of `topic`.
    pub fn properties_of(topic: &str) -> String {
        format!("REAL_TOPIC\u{1}{topic}\u{2}")
    }

    /// The record of a pending message of `topic`.
    pub fn of_topic(topic: &str) -> Vec<u8> {
        record_of(&properties_of(topic))
    }

    /// A record with these properties.
    pub fn record_of(properties: &str) -> Vec<u8> {
        record_at(QueueOffset(0), properties)
    }

    /// One that is at `queue_offset` of its bucket.
    pub fn record_at(queue_offset: QueueOffset, properties: &str) -> Vec<u8> {
        let host = Host { address: [0; 4], port: 0.into() };
        let record = NewRecord {
            topic: "SCHEDULE_TOPIC_XXXX",
            queue: QueueId(0),
            flag: 0,
            system_flag: 0,
            born_at: Timestamp(0),
            born_host: host,
            reconsume_times: 0,
            body: b"x",
            properties: [properties.as_bytes(), b""],
        };
        let placement = Placement {
            queue_offset,
            physical_offset: LogOffset(0),
            stored_at: Timestamp(1),
            store_host: host,
        };
        let mut out = vec![0; record.size()];
        record.write(&placement, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{of_topic, properties_of, record_of};
    use super::*;

    /// What happens to a message with this topic and place.
    #[derive(Clone, Copy)]
    enum Change {
        Settle(&'static str, u64),
        Carry(&'static str, u64),
    }
    use Change::*;

    /// A fact with a state and rows.
    fn state(topics: &DelayedTopics, changes: &[Change]) -> Vec<u8> {
        let records: Vec<_> =
            changes.iter().map(|(Settle(topic, _) | Carry(topic, _))| of_topic(topic)).collect();
        let mut settling = Settling::begin(topics);
        for (change, record) in changes.iter().zip(&records) {
            match *change {
                Settle(_, offset) => settling.settle(record, LogOffset(offset)),
                Carry(_, offset) => settling.carry(record, LogOffset(offset)),
            }
        }
        let mut out = vec![0; size_of::<DelayState>()];
        settling.push_rows(&mut out);
        out
    }

    /// A fact of the entry at `at`, 5 bytes after its begin.
    fn fact(payload: &[u8], at: u64) -> Fact<'_> {
        let (entry_offset, payload_offset) = (LogOffset(at), LogOffset(at).plus(5));
        Fact { kind: facts::DELAYS, subject: 0, entry_offset, payload_offset, payload }
    }

    impl DelayedTopics {
        /// An entry at `at` stores messages.
        fn store(&mut self, topic: &str, more: usize, at: u64) {
            let properties = properties_of(topic);
            let messages = std::iter::repeat_n(properties.as_bytes(), more);
            self.add(messages, LogOffset(at), LogOffset(at).plus(5));
        }

        /// An entry at `at` carries one, before the fact that says so.
        fn store_copy(&mut self, topic: &str, at: u64) {
            let properties = properties_of(topic);
            self.add(std::iter::once(properties.as_bytes()), LogOffset(at), LogOffset(at).plus(2));
        }

        fn pending(&self, topic: &str, pending: u64) -> Option<u64> {
            self.of(topic, pending).map(|counts| counts.delayed)
        }

        fn apply(&mut self, payload: &[u8], at: u64) {
            self.apply_state(&fact(payload, at)).unwrap();
        }
    }

    fn snapshot_of(topics: &DelayedTopics) -> Vec<Facts> {
        let mut all = AllDelayedTopics::default();
        let mut slices = Vec::new();
        loop {
            let mut facts = Facts::default();
            let has_more = all.add(topics, &mut facts);
            if !facts.is_empty() {
                slices.push(facts);
            }
            if !has_more {
                return slices;
            }
        }
    }

    fn restored(slices: &[Facts]) -> DelayedTopics {
        let mut topics = DelayedTopics::default();
        for slice in slices {
            let payload = slice.entry().2;
            topics
                .apply_snapshot(&Fact { payload_offset: LogOffset(0), ..fact(payload, 0) })
                .unwrap();
        }
        topics
    }

    #[test]
    fn a_topic_has_as_many_as_were_stored_and_not_settled() {
        let mut topics = DelayedTopics::default();
        topics.store("a", 3, 10);
        topics.store("b", 1, 20);
        assert_eq!((topics.pending("a", 4), topics.pending("c", 4)), (Some(3), Some(0)));
        let payload = state(&topics, &[Settle("a", 16), Settle("a", 17), Settle("b", 26)]);
        topics.apply(&payload, 30);
        assert_eq!((topics.pending("a", 1), topics.pending("b", 1)), (Some(1), Some(0)));
        assert_eq!(topics.counts.len(), 1, "topics without pending messages take no memory");
        let payload = state(&topics, &[Carry("a", 18)]);
        topics.store_copy("a", 40);
        topics.apply(&payload, 40);
        assert_eq!(topics.pending("a", 1), Some(1), "the copy counts in place of the first");
    }

    /// Messages that are not counted are subtracted from no count, and count once they are carried.
    #[test]
    fn counts_are_unknown_until_all_that_an_older_version_has_stored_is_settled() {
        let mut topics = DelayedTopics::default();
        topics.store("a", 2, 10);
        let without_rows = vec![0; size_of::<DelayState>()];
        topics.apply(&without_rows, 20);
        // One of them is still pending.
        assert_eq!(topics.pending("a", 1), None);
        topics.store("a", 2, 30);
        assert_eq!(topics.pending("a", 3), None);
        let mut carried = restored(&snapshot_of(&topics));
        let payload = state(&carried, &[Carry("a", 16)]);
        // The copy is stored in the same entry.
        carried.store_copy("a", 40);
        carried.apply(&payload, 40);
        assert_eq!(carried.pending("a", 3), Some(3));
        let payload = state(&topics, &[Settle("a", 16)]);
        topics.apply(&payload, 50);
        assert_eq!(topics.pending("a", 2), Some(2));
        // A fact that concerns no message is not taken for an older version's.
        let payload = state(&topics, &[]);
        topics.apply(&payload, 60);
        assert_eq!(topics.pending("a", 2), Some(2));
    }

    /// What a snapshot reflects is replayed on it: what stored messages, and what settled them.
    #[test]
    fn what_is_replayed_on_a_snapshot_changes_nothing() {
        let mut topics = DelayedTopics::default();
        topics.store("a", 3, 10);
        topics.store("b", 1, 20);
        let payload = state(&topics, &[Settle("a", 16), Settle("b", 26)]);
        topics.apply(&payload, 30);
        let without_rows = vec![0; size_of::<DelayState>()];
        let mut again = restored(&snapshot_of(&topics));
        again.apply(&without_rows, 4);
        again.store("a", 3, 10);
        again.store("b", 1, 20);
        again.apply(&payload, 30);
        assert_eq!((&again.counts, again.total), (&topics.counts, 2));
        again.store("a", 1, 40);
        assert_eq!(again.pending("a", 3), Some(3));
    }

    #[test]
    fn counts_from_before_damage_are_forgotten() {
        let mut topics = DelayedTopics::default();
        topics.store("a", 3, 10);
        topics.store("b", 1, 30);
        topics.store("a", 1, 40);
        topics.forget_before(LogOffset(20));
        assert_eq!((topics.pending("b", 1), topics.pending("a", 5)), (Some(1), None));
    }

    /// Also in several slices. If there are too many topics, counting begins anew.
    #[test]
    fn a_snapshot_has_all_counts_and_no_more_topics_than_fit_are_counted() {
        let mut topics = DelayedTopics::default();
        let name = |number: usize| format!("{}{number}", "t".repeat(100));
        for number in 0..COUNTS_MAX {
            topics.store(&name(number), 2, 1 + number as u64);
        }
        assert_eq!((topics.counts.len(), topics.total), (COUNTS_MAX, 2 * COUNTS_MAX as u64));
        let slices = snapshot_of(&topics);
        assert!(slices.len() > 10);
        assert!(slices.iter().all(|slice| slice.size() < SLICE_SIZE + 1024));
        assert_eq!(restored(&slices).counts, topics.counts);
        topics.store(&name(COUNTS_MAX), 2, 1_000_000);
        assert_eq!(topics.pending(&name(0), 2 * COUNTS_MAX as u64 + 2), None);
        topics.store("a", 2, 1_000_010);
        assert_eq!((topics.pending("a", 4), topics.pending("a", 2)), (None, Some(2)));
    }

    /// What a group returns waits for the group's retry topic, and for the topic that it came from.
    #[test]
    fn a_retry_counts_for_two_topics() {
        let mut topics = DelayedTopics::default();
        let of = |topics: &DelayedTopics, topic: &str, pending| {
            topics.of(topic, pending).map(|counts| (counts.delayed, counts.retries))
        };
        topics.store("orders", 1, 10);
        for (origin, at) in [("orders", 20), ("orders", 30), ("no topic!", 40)] {
            let properties = format!("{}RETRY_TOPIC\u{1}{origin}\u{2}", properties_of("%RETRY%g"));
            let messages = std::iter::once(properties.as_bytes());
            topics.add(messages, LogOffset(at), LogOffset(at).plus(5));
        }
        // Not a retry: some client has set the property.
        let properties = format!("{}RETRY_TOPIC\u{1}orders\u{2}", properties_of("orders"));
        topics.add(std::iter::once(properties.as_bytes()), LogOffset(50), LogOffset(55));
        assert_eq!(of(&topics, "orders", 5), Some((2, 2)));
        assert_eq!(of(&topics, "%RETRY%g", 5), Some((3, 0)));
        let again = restored(&snapshot_of(&topics));
        assert_eq!((&again.counts, again.total), (&topics.counts, 5));

        let retry = record_of(&format!("{}RETRY_TOPIC\u{1}orders\u{2}", properties_of("%RETRY%g")));
        let mut settling = Settling::begin(&topics);
        settling.settle(&retry, LogOffset(26));
        settling.carry(&retry, LogOffset(36));
        settling.settle(&of_topic("orders"), LogOffset(16));
        let mut payload = vec![0; size_of::<DelayState>()];
        settling.push_rows(&mut payload);
        topics.apply(&payload, 60);
        assert_eq!(of(&topics, "orders", 3), Some((1, 1)));
        assert_eq!(of(&topics, "%RETRY%g", 3), Some((2, 0)));
    }

    /// The name is checked before anything is counted for it.
    #[test]
    fn a_count_for_a_bad_name_is_an_error() {
        let mut payload = vec![0; size_of::<DelayState>()];
        push_row(&mut payload, "orders!", NO_COUNT);
        let refused = DelayedTopics::default().apply_state(&fact(&payload, 1));
        assert!(refused.unwrap_err().contains("'!'"));
    }

    #[test]
    fn rows_that_are_cut_are_an_error() {
        let mut topics = DelayedTopics::default();
        topics.store("abc", 3, 10);
        let payload = state(&topics, &[Settle("abc", 16)]);
        let begin = size_of::<DelayState>();
        for end in begin + 1..begin + size_of::<PendingRow>() + 3 {
            let cut = DelayedTopics::default().apply_state(&fact(&payload[..end], 1));
            assert!(cut.is_err(), "cut at {end}");
        }
    }
}
