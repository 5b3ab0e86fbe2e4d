//! Recalls a delayed message before it is delivered (remoting reference, 5.10).
//!
//! ```text
//!   handle ─▶ the record where it was stored ─┬─ the index has it there ─────▶ key ─▶ recorded, if still pending
//!                                             └─ carried forward: search its bucket ─▶ key ─┘
//! ```
//!
//! Invariant: a message is either recalled or delivered, because both check and record that it is
//! pending no longer in one synchronous step.

use zerocopy::FromBytes;

use super::Broker;
use super::delay_key::Key;
use super::delayed_topics::{Settling, real_topic};
use super::delaying::Delay;
use super::delays::{Amount, Bucket, DUE_MAX_MS, DelayedItem, push_state};
use super::facts::Facts;
use super::lookup::holds_records;
use super::operation::Context;
use super::recalled::{self, RECALLED_MAX, RecalledRow};
use super::state::Durable;
use crate::model::ids::RETRY_TOPIC_PREFIX;
use crate::model::recall::RecallHandle;
use crate::model::record::{
    NewRecord, PROPERTY_TIMER_OUT_MS, PROPERTY_UNIQUE_KEY, RecordView, property,
};
use crate::model::topic::TIMER_TOPIC;
use crate::model::{Chunk, LogOffset, Now, QueueOffset, Refusal, Reply, Timestamp, TopicName};
use crate::storage::disk::Disk;
use crate::storage::slice::Slices;
use crate::storage::{EntryAt, Located, Lookup, ReadError};

/// Maximum number of messages of the same millisecond that are read to find one of them, and of
/// messages of the same second that are looked at.
const READ_MAX: usize = 4_096;
const SCANNED_MAX: usize = 1 << 20;
/// Index entries fetched at a time.
const LOOKUP_COUNT: usize = 32;
/// How often a message is looked for, if it is carried forward meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// A message that is pending, or was when it was found.
struct Found {
    key: Key,
    located: Located,
    record: Chunk,
}

impl<D: Disk> Broker<D> {
    /// Returns once the recall is safe. A message that has been recalled before stays so.
    pub(super) async fn recall(
        &self,
        topic: &TopicName,
        handle: &str,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        self.state.borrow().durable.topics.find(topic)?;
        let handle = RecallHandle::decode(handle)
            .ok_or_else(|| Refusal::NoRecall("the handle is not one that a send has returned"))?;
        if handle.topic != topic.as_str() || topic.retrying_group().is_some() {
            return Err(Refusal::NoRecall("the handle is that of another topic"));
        }
        if *handle.broker_name != *self.config.broker_name {
            return Err(Refusal::NoRecall("the handle is that of another broker"));
        }
        // What has just been appended cannot be read yet.
        self.committed(self.store.end()).await?;
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.find_delayed(&handle, context).await? else { break };
            let decide = |durable: &Durable| self.recalled(durable, &found, context.now());
            match self.transact(decide, context).await {
                Err(Refusal::NoRecall(_)) if self.is_carried(found.located.offset) => {}
                Err(Refusal::NoRecall(_)) => break,
                outcome => return outcome.map(|()| Reply::Recalled(handle.unique_key.into())),
            }
        }
        // What delivered it may be cut off, and then it is pending again.
        self.committed(self.store.end()).await?;
        Err(Refusal::NoRecall("it has been delivered, or its time has passed"))
    }

    /// The handle of a new message that becomes visible after `delay`, if it can be recalled: one with
    /// a level cannot (remoting reference, 5.10).
    pub(super) fn recall_handle(
        &self,
        record: &NewRecord<'_>,
        delay: Delay,
        position: LogOffset,
        due_ms: u64,
    ) -> Option<Box<str>> {
        let Delay::Timer { at: due_at, .. } = delay else { return None };
        let unique_key = record.properties.iter().find_map(|it| property(it, PROPERTY_UNIQUE_KEY));
        self.handle_of(record.topic, due_at, unique_key?, position, due_ms)
    }

    /// The handle of a message that has been stored at `position` and is sent again; `None` if it is
    /// not in memory any more.
    #[cold]
    pub(super) fn recall_handle_at(&self, position: LogOffset) -> Option<Box<str>> {
        let entry = self.store.cached_entry_at(item_before(position)?)?;
        let (due_ms, record) = pending_record(&entry)?;
        let record = RecordView::parse(record).ok()?;
        let due_at = due_at_of(&record)?;
        let unique_key = property(record.properties, PROPERTY_UNIQUE_KEY)?;
        self.handle_of(real_topic(record.properties)?, due_at, unique_key, position, due_ms)
    }

    fn handle_of(
        &self,
        topic: &str,
        due_at: Timestamp,
        unique_key: &[u8],
        position: LogOffset,
        due_ms: u64,
    ) -> Option<Box<str>> {
        if topic.starts_with(RETRY_TOPIC_PREFIX) {
            return None;
        }
        let handle = RecallHandle {
            topic: topic.to_owned(),
            broker_name: self.config.broker_name.to_string(),
            due_at,
            unique_key: String::from_utf8(unique_key.to_vec()).ok()?,
            position,
            due_ms,
        };
        Some(handle.encode()?.into())
    }

    fn is_carried(&self, position: LogOffset) -> bool {
        position < self.state.borrow().durable.delays.carried_to()
    }

    /// The facts that a message has been recalled.
    fn recalled(&self, durable: &Durable, found: &Found, now: Now) -> Result<Facts, Refusal> {
        let Found { key, located, record } = found;
        let Durable { delays, delayed_topics, .. } = durable;
        let mut facts = Facts::default();
        if delays.recalled().contains(*key) {
            return Ok(facts);
        }
        if !delays.is_pending(*key, located.offset) {
            return Err(Refusal::NoRecall("it is not pending"));
        }
        let state = self.state.borrow();
        let cursor = state.delivery.cursor(delays);
        assert!(cursor <= *key, "what is pending is not below the cursor");
        if delays.recalled().is_full(cursor) {
            return Err(Refusal::Full { what: "recalled messages", count_max: RECALLED_MAX });
        }
        let mut of_topics = Settling::begin(delayed_topics);
        of_topics.settle(record, located.offset);
        let settled = Amount { count: 1, bytes: u64::from(located.size) };
        let reading = state.delivery.clock().reading(now);
        let after = delays.state_after(cursor, delays.carried_to(), settled, reading);
        push_state(&mut facts, &after, |out| of_topics.push_rows(out));
        let record = RecordView::parse(record).expect("a record was found");
        let sent_key = durable.sent_key_of_delayed(&record).map(|(key, _)| key);
        recalled::push(&mut facts, std::iter::once(RecalledRow::new(*key, sent_key)));
        Ok(facts)
    }

    /// Finds a message that is pending, or was recently.
    async fn find_delayed(
        &self,
        handle: &RecallHandle,
        context: &impl Context,
    ) -> Result<Option<Found>, Refusal> {
        match self.is_carried(handle.position) {
            false => self.find_first_place(handle, context).await,
            true => {
                let _permit = context.cold_read(0).await;
                self.search_pending(handle).await
            }
        }
    }

    /// Finds the message where it was stored first.
    async fn find_first_place(
        &self,
        handle: &RecallHandle,
        context: &impl Context,
    ) -> Result<Option<Found>, Refusal> {
        let Some(item_at) = item_before(handle.position) else { return Ok(None) };
        let (entry, _permit) = match self.store.cached_entry_at(item_at) {
            Some(entry) => (Ok(entry), None),
            None => {
                let permit = context.cold_read(0).await;
                (self.store.read_entry_at(item_at).await, Some(permit))
            }
        };
        let entry = match entry {
            Ok(entry) if holds_records(entry.kind) => entry,
            Err(error @ ReadError::Fault(_)) => return Err(self.refuse_read(error)),
            Ok(_) | Err(_) => return Ok(None),
        };
        let Some((due_ms, bytes)) = pending_record(&entry) else { return Ok(None) };
        let record = match RecordView::parse(bytes) {
            Ok(record) if is_of(&record, handle) && due_ms <= DUE_MAX_MS => record,
            _ => return Ok(None),
        };
        let key = Key { due_ms, offset: record.queue_offset.0 };
        let record = Chunk::from_vec(bytes[..record.size].to_vec());
        // Clients choose handles and the bytes of messages: only the index proves what is pending.
        let located = self.locate_pending(key).await?;
        let is_there = |located: &Located| located.offset == handle.position;
        Ok(located.filter(is_there).map(|located| Found { key, located, record }))
    }

    /// The pending message with this key.
    async fn locate_pending(&self, key: Key) -> Result<Option<Located>, Refusal> {
        let bucket = Bucket::of(key.due_ms);
        let at = QueueOffset(key.offset);
        let Lookup::Here(found) = self.look_up(bucket, at, 1).await? else { return Ok(None) };
        let is_it = |located: &&Located| bucket.key(at, located) == key;
        Ok(found.first().filter(is_it).copied())
    }

    /// Looks in the index of delayed messages, and loads what it needs for that.
    async fn look_up(
        &self,
        bucket: Bucket,
        from: QueueOffset,
        count_max: usize,
    ) -> Result<Lookup, Refusal> {
        let look = || self.store.with_index(|index| index.lookup(bucket.queue(), from, count_max));
        loop {
            match look() {
                Lookup::Sealed(page) => {
                    let loaded = self.store.load_index(page).await;
                    loaded.map_err(|error| self.refuse_read(error))?;
                }
                found => return Ok(found),
            }
        }
    }

    /// Finds a message that has been carried forward, by its due time and its id.
    async fn search_pending(&self, handle: &RecallHandle) -> Result<Option<Found>, Refusal> {
        if handle.due_ms > DUE_MAX_MS {
            return Ok(None);
        }
        let bucket = Bucket::of(handle.due_ms);
        let mut at = self.store.with_index(|index| index.bounds(bucket.queue()).start);
        let (mut read, mut scanned, mut slices) = (0, 0, Slices::default());
        loop {
            let from = QueueOffset(at);
            match self.look_up(bucket, from, LOOKUP_COUNT).await? {
                Lookup::Here(located) => {
                    at += located.len() as u64;
                    scanned += located.len();
                    slices.handled(located.len()).await;
                    for (offset, located) in (from.0..).zip(located) {
                        let key = bucket.key(QueueOffset(offset), &located);
                        if key.due_ms != handle.due_ms || !self.is_wanted(key, &located) {
                            continue;
                        }
                        read += 1;
                        if let Some(record) = self.read_pending(&located, handle).await? {
                            return Ok(Some(Found { key, located, record }));
                        }
                    }
                    if read >= READ_MAX || scanned >= SCANNED_MAX {
                        return Err(Refusal::NoRecall(
                            "too many messages are due at the same time",
                        ));
                    }
                }
                Lookup::Lost { next } => at = next.0,
                Lookup::Nothing | Lookup::Sealed(_) => return Ok(None),
            }
        }
    }

    fn is_wanted(&self, key: Key, located: &Located) -> bool {
        let delays = &self.state.borrow().durable.delays;
        delays.is_pending(key, located.offset) || delays.recalled().contains(key)
    }

    /// The record, if it is that of the handle.
    async fn read_pending(
        &self,
        located: &Located,
        handle: &RecallHandle,
    ) -> Result<Option<Chunk>, Refusal> {
        let read = match self.store.read(std::slice::from_ref(located)).await {
            Ok(read) => read,
            Err(error @ ReadError::Fault(_)) => return Err(self.refuse_read(error)),
            Err(_) => return Ok(None),
        };
        let is_it = |bytes: &Chunk| RecordView::parse(bytes).is_ok_and(|it| is_of(&it, handle));
        Ok(read.into_iter().find(is_it))
    }
}

/// Where the head of the pending message begins whose record is at `position`.
fn item_before(position: LogOffset) -> Option<LogOffset> {
    position.0.checked_sub(size_of::<DelayedItem>() as u64).map(LogOffset)
}

/// The due time of a pending message, and its record, to the end of the entry.
fn pending_record(entry: &EntryAt) -> Option<(u64, &[u8])> {
    let (item, rest) = DelayedItem::ref_from_prefix(&entry.rest).ok()?;
    Some((item.due_ms.get(), rest))
}

/// When a message that can be recalled is due, by the wall clock of its producer.
fn due_at_of(pending: &RecordView<'_>) -> Option<Timestamp> {
    let text = std::str::from_utf8(property(pending.properties, PROPERTY_TIMER_OUT_MS)?).ok()?;
    text.parse().ok().map(Timestamp)
}

/// Whether a pending record is that of the handle, and one of those that have handles.
fn is_of(pending: &RecordView<'_>, handle: &RecallHandle) -> bool {
    pending.topic == TIMER_TOPIC
        && due_at_of(pending) == Some(handle.due_at)
        && real_topic(pending.properties) == Some(&handle.topic)
        && property(pending.properties, PROPERTY_UNIQUE_KEY) == Some(handle.unique_key.as_bytes())
}
