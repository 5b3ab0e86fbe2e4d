//! Recalls a delayed message before it is delivered (remoting reference, 5.10).
//!
//! ```text
//!   handle ─▶ the record where it was stored ─┬─ the index has it there ─▶ key ─▶ recorded, if still pending
//!                                             └─ it was carried forward ─▶ search its bucket ─▶ key ─┘
//! ```
//!
//! Invariant: a message is either recalled or delivered, because both check and record that it is
//! pending no longer in one synchronous step.

use zerocopy::FromBytes;

use super::Broker;
use super::delayed_topics::{Settling, real_topic};
use super::delaying::{Delay, ROUNDING_MS};
use super::delays::{Amount, Bucket, DUE_MAX_MS, DelayedItem, Delays, Key, push_state};
use super::facts::Facts;
use super::lookup::holds_records;
use super::operation::Context;
use super::recalled::{self, RECALLED_MAX};
use super::state::Durable;
use crate::model::ids::RETRY_TOPIC_PREFIX;
use crate::model::recall::RecallHandle;
use crate::model::record::{NewRecord, PROPERTY_UNIQUE_KEY, RecordView, property};
use crate::model::{Chunk, LogOffset, Now, QueueOffset, Refusal, Reply, TopicName};
use crate::storage::disk::Disk;
use crate::storage::slice::Slices;
use crate::storage::{Located, Lookup, ReadError};

/// Maximum number of messages of the same millisecond that are read to find one of them.
const SEARCHED_MAX: usize = 4_096;
/// Index entries fetched at a time.
const LOOKUP_COUNT: usize = 32;

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
            .ok_or_else(|| no_recall("the handle is not one that a send has returned"))?;
        if handle.topic != topic.as_str() {
            return Err(no_recall("the handle is that of another topic"));
        }
        if *handle.broker_name != *self.config.broker_name {
            return Err(no_recall("the handle is that of another broker"));
        }
        let found = match self.find_first_place(&handle, context).await? {
            Some(found) => found,
            None => self
                .search_pending(&handle, context)
                .await?
                .ok_or_else(|| no_recall("the message has been delivered"))?,
        };
        let decide = |durable: &Durable| self.recalled(durable, &found, context.now());
        self.transact(decide, context).await?;
        Ok(Reply::Recalled(handle.unique_key.into()))
    }

    /// The handle of a message that becomes visible after `delay`, if it can be recalled: those
    /// with a level cannot (remoting reference, 5.10).
    pub(super) fn recall_handle(
        &self,
        record: &NewRecord<'_>,
        delay: Option<Delay>,
        position: LogOffset,
        now: Now,
    ) -> Option<Box<str>> {
        let Delay::Timer { at: due_at, ms } = delay? else { return None };
        if record.topic.starts_with(RETRY_TOPIC_PREFIX) {
            return None;
        }
        let unique_key = record.properties.iter().find_map(|it| property(it, PROPERTY_UNIQUE_KEY));
        let handle = RecallHandle {
            topic: record.topic.to_owned(),
            broker_name: self.config.broker_name.to_string(),
            due_at,
            unique_key: String::from_utf8(unique_key?.to_vec()).ok()?,
            position,
            due_ms: self.state.borrow().delivery.due_ms(now.moment, ms + ROUNDING_MS),
        };
        Some(handle.encode()?.into())
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
            return Err(no_recall("the message has been delivered"));
        }
        if delays.recalled().len() >= RECALLED_MAX {
            return Err(Refusal::Full { what: "recalled messages", count_max: RECALLED_MAX });
        }
        let mut of_topics = Settling::begin(delayed_topics);
        of_topics.settle(record, located.offset);
        let settled = Amount { count: 1, bytes: u64::from(located.size) };
        let state = self.state.borrow();
        let cursor = state.delivery.cursor(delays);
        let reading = state.delivery.clock().reading(now);
        let after = delays.state_after(cursor, delays.carried_to(), settled, reading);
        push_state(&mut facts, &after, |out| of_topics.push_rows(out));
        recalled::push(&mut facts, std::iter::once(*key));
        Ok(facts)
    }

    /// Finds the message where it was stored first, if it is still there.
    async fn find_first_place(
        &self,
        handle: &RecallHandle,
        context: &impl Context,
    ) -> Result<Option<Found>, Refusal> {
        let position = handle.position;
        let Some(item_at) = position.0.checked_sub(size_of::<DelayedItem>() as u64) else {
            return Ok(None);
        };
        let entry = {
            let _permit = context.cold_read(0).await;
            self.store.read_entry_at(LogOffset(item_at)).await
        };
        let entry = match entry {
            Ok(entry) if holds_records(entry.kind) => entry,
            Err(error @ ReadError::Fault(_)) => return Err(self.refuse_read(error)),
            Ok(_) | Err(_) => return Ok(None),
        };
        let Ok((item, bytes)) = DelayedItem::ref_from_prefix(&entry.rest) else { return Ok(None) };
        let due_ms = item.due_ms.get();
        let record = match RecordView::parse(bytes) {
            Ok(record) if is_of(&record, handle) && due_ms <= DUE_MAX_MS => record,
            _ => return Ok(None),
        };
        let key = Key { due_ms, offset: record.queue_offset.0 };
        let record = Chunk::from_vec(bytes[..record.size].to_vec());
        // Clients choose handles and the bytes of messages: only the index proves what is pending.
        let located = self.locate_pending(key).await?;
        let is_there = |located: &Located| located.offset == position;
        Ok(located.filter(is_there).map(|located| Found { key, located, record }))
    }

    /// The pending message with this key.
    async fn locate_pending(&self, key: Key) -> Result<Option<Located>, Refusal> {
        let bucket = Bucket::of(key.due_ms);
        let at = QueueOffset(key.offset);
        loop {
            match self.store.with_index(|index| index.lookup(bucket.queue(), at, 1)) {
                Lookup::Here(found) => {
                    let is_it = |located: &&Located| bucket.key(at, located) == key;
                    return Ok(found.first().filter(is_it).copied());
                }
                Lookup::Sealed(page) => {
                    let loaded = self.store.load_index(page).await;
                    loaded.map_err(|error| self.refuse_read(error))?;
                }
                Lookup::Lost { .. } | Lookup::Nothing => return Ok(None),
            }
        }
    }

    /// Finds a message that is pending elsewhere, by its due time and its id.
    async fn search_pending(
        &self,
        handle: &RecallHandle,
        context: &impl Context,
    ) -> Result<Option<Found>, Refusal> {
        if handle.due_ms > DUE_MAX_MS {
            return Ok(None);
        }
        let bucket = Bucket::of(handle.due_ms);
        let mut at = self.store.with_index(|index| index.bounds(bucket.queue()).start);
        let (mut searched, mut slices) = (0, Slices::default());
        loop {
            let from = QueueOffset(at);
            match self.store.with_index(|index| index.lookup(bucket.queue(), from, LOOKUP_COUNT)) {
                Lookup::Here(located) => {
                    at += located.len() as u64;
                    slices.handled(located.len()).await;
                    for (offset, located) in (from.0..).zip(located) {
                        let key = bucket.key(QueueOffset(offset), &located);
                        if key.due_ms != handle.due_ms || !self.is_wanted(key, &located) {
                            continue;
                        }
                        searched += 1;
                        if searched > SEARCHED_MAX {
                            return Err(no_recall("too many messages are due at the same time"));
                        }
                        if let Some(record) = self.read_pending(&located, handle, context).await? {
                            return Ok(Some(Found { key, located, record }));
                        }
                    }
                }
                Lookup::Sealed(page) => {
                    let loaded = self.store.load_index(page).await;
                    loaded.map_err(|error| self.refuse_read(error))?;
                }
                Lookup::Lost { next } => at = next.0,
                Lookup::Nothing => return Ok(None),
            }
        }
    }

    fn is_wanted(&self, key: Key, located: &Located) -> bool {
        let delays: &Delays = &self.state.borrow().durable.delays;
        delays.is_pending(key, located.offset) || delays.recalled().contains(key)
    }

    /// The record, if it is that of the handle.
    async fn read_pending(
        &self,
        located: &Located,
        handle: &RecallHandle,
        context: &impl Context,
    ) -> Result<Option<Chunk>, Refusal> {
        let _permit = context.cold_read(0).await;
        let read = match self.store.read(std::slice::from_ref(located)).await {
            Ok(read) => read,
            Err(error @ ReadError::Fault(_)) => return Err(self.refuse_read(error)),
            Err(_) => return Ok(None),
        };
        let is_it = |bytes: &Chunk| RecordView::parse(bytes).is_ok_and(|it| is_of(&it, handle));
        Ok(read.into_iter().find(is_it))
    }
}

/// Whether a pending record is that of the handle.
fn is_of(record: &RecordView<'_>, handle: &RecallHandle) -> bool {
    real_topic(record.properties) == Some(&handle.topic)
        && property(record.properties, PROPERTY_UNIQUE_KEY) == Some(handle.unique_key.as_bytes())
}

fn no_recall(why: &'static str) -> Refusal {
    Refusal::NoRecall(why)
}
