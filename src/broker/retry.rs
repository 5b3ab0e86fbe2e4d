//! Messages that a consumer could not process: they come back to its group after a delay, and
//! become dead letters after too many attempts (remoting reference, 3.6, 5.8).
//!
//! ```text
//!   send back [36] ─▶ read the message ─┬─ attempts left ─▶ %RETRY%group, after a delay ─▶ consumed again
//!                                       └─ none ─▶ %DLQ%group, immediately
//!   send to %RETRY%group ───────────────┴─ the same decision, with the message and the delay in the request
//! ```
//!
//! Both count attempts in the message itself. A message is stored in its new place before the request is
//! answered, and only then does the consumer commit its offset: no message is lost, but one may
//! come back twice.

use smallvec::smallvec;

use super::delaying::Delay;
use super::operation::Context;
use super::produce::check_sizes;
use super::{Broker, Handled, Origin};
use crate::model::record::{
    DELAY_PROPERTIES, Host, NewRecord, RecordView, SYSTEM_FLAGS_OF_LAYOUT, push_first_place,
    push_without, tag_hash_of,
};
use crate::model::request::{Produce, SendBack};
use crate::model::{GroupName, Now, QueueId, Refusal, Reply, TopicConfig, TopicName};
use crate::storage::QueueKey;
use crate::storage::disk::Disk;

/// The level of the first delay if the consumer requests none; each further delay is one level
/// higher.
const FIRST_LEVEL: i32 = 3;
/// While a message larger than this is stored again, its request keeps its turn to read the disk,
/// so that only a few such messages are in memory at a time. Bytes.
const SMALL_SIZE_MAX: usize = 16 << 10;

impl<D: Disk> Broker<D> {
    /// Sends back the message at a log offset, which a consumer of `group` could not process.
    pub(super) async fn send_back(
        &self,
        request: &SendBack,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let SendBack { offset, group, delay_level, retry_count_max } = request;
        self.create_groups(std::iter::once(group), context).await?;
        let config = self.state.borrow().durable.groups.of(group);
        if config.retry_queue_count == 0 {
            return Ok(Reply::Done);
        }
        let (bytes, _permit) = match self.cached_record_at(*offset, SMALL_SIZE_MAX) {
            Some(bytes) => (bytes, None),
            None => {
                let permit = context.cold_read(0).await;
                let bytes = self.record_at(*offset).await?;
                let is_small = bytes.len() <= SMALL_SIZE_MAX;
                (bytes, (!is_small).then_some(permit))
            }
        };
        let known = RecordView::parse(&bytes).map_err(|_| Refusal::NoMessage(*offset))?;
        let count_max = retry_count_max.unwrap_or(config.retry_count_max);
        let is_dead = known.reconsume_times >= count_max || *delay_level < 0;
        let properties = returned_properties(&known);
        let topic = match is_dead {
            true => self.dead_letter_topic(group, context).await?,
            false => TopicName::retry_of(group),
        };
        let record = NewRecord {
            topic: topic.as_str(),
            queue: QueueId(0),
            flag: known.flag,
            system_flag: known.system_flag & !SYSTEM_FLAGS_OF_LAYOUT,
            born_at: known.born_at,
            born_host: known.born_host.unwrap_or(Host { address: [0; 4], port: 0.into() }),
            reconsume_times: known.reconsume_times.saturating_add(1),
            body: known.body,
            properties: [&properties, &[]],
        };
        check_sizes(&record)?;
        let level = match *delay_level {
            0 => known.reconsume_times.saturating_add(FIRST_LEVEL),
            level => level,
        };
        match Delay::of_level(level, &self.config.delay_levels_ms).filter(|_| !is_dead) {
            None => self.store_one(&topic, &record, context).await?,
            Some(delay) => {
                let queue = self.next_queue(&topic)?.queue;
                self.schedule(&NewRecord { queue, ..record }, delay, context).await?;
            }
        }
        Ok(Reply::Done)
    }

    /// Stores a message in the next queue of a topic, without a delay.
    async fn store_one(
        &self,
        topic: &TopicName,
        record: &NewRecord<'_>,
        context: &impl Context,
    ) -> Result<(), Refusal> {
        let attempt = || {
            let key = match self.next_queue(topic) {
                Ok(key) => key,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let record = NewRecord { queue: key.queue, ..*record };
            let sizes = smallvec![(record.size() as u32, tag_hash_of(record.properties[0]))];
            let stored = self.append(key, sizes, None, context.now().wall, |placements, out| {
                record.write(&placements.at(0), out);
            });
            Ok(Ok(stored?.mark))
        };
        let size = record.size();
        let mark = self.with_room(|| size, attempt, context).await??;
        self.committed(mark).await
    }

    fn next_queue(&self, topic: &TopicName) -> Result<QueueKey, Refusal> {
        let state = &mut *self.state.borrow_mut();
        let (number, _) = state.durable.topics.find(topic)?;
        let topic = state.durable.topics.topic_mut(number).expect("a numbered topic has a slot");
        topic.check_writable()?;
        Ok(QueueKey { topic: number, queue: topic.choose_queue(None)? })
    }

    /// Returns the topic of a group's dead letters, creating it if it does not exist.
    async fn dead_letter_topic(
        &self,
        group: &GroupName,
        context: &impl Context,
    ) -> Result<TopicName, Refusal> {
        let topic = TopicName::dead_letters_of(group);
        if self.state.borrow().durable.topics.number(&topic).is_none() {
            let config = TopicConfig::new(topic.clone(), 1);
            match self.update_topic(&config, false, context).await {
                Ok(_) => self.state.borrow_mut().created.push(config),
                // Another request was faster.
                Err(Refusal::TopicExists { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(topic)
    }

    /// Stores a message that a client sends to the retry topic of a group itself, because sending
    /// it back has failed or the group consumes in order.
    #[cold]
    pub(super) fn produce_retry(
        &self,
        request: &Produce,
        origin: Origin,
        now: Now,
    ) -> Result<Handled, Refusal> {
        let Some(group) = request.topic.retrying_group() else {
            return self.produce_here(request, origin, now);
        };
        if request.is_batch {
            return Err(Refusal::BadBatch("a retry topic takes single messages only".into()));
        }
        let config = self.state.borrow().durable.groups.of(&group);
        let count_max = request.retry_count_max.unwrap_or(config.retry_count_max);
        // Orderly consumers have made all their attempts before they send a message here.
        let is_orderly = self.state.borrow().durable.locks.has_owner(&group, now.moment);
        let is_dead = request.reconsume_times > count_max || is_orderly;
        let (topic, queue_count) = match is_dead {
            true => (TopicName::dead_letters_of(&group), 1),
            false => (request.topic.clone(), config.retry_queue_count.max(1)),
        };
        if self.state.borrow().durable.topics.number(&topic).is_none() {
            let config = TopicConfig::new(topic.detached(), queue_count);
            if let Some(no_room) = self.create_of_group(config, now.wall)? {
                return Ok(no_room);
            }
        }
        if !is_dead {
            return self.produce_here(request, origin, now);
        }
        let properties = without_times(&request.properties).into();
        let dead = Produce { topic, queue: None, properties, ..request.clone() };
        self.produce_here(&dead, origin, now)
    }
}

/// The properties of a message that comes back: its first place is added, an earlier delay removed.
fn returned_properties(known: &RecordView<'_>) -> Vec<u8> {
    let mut all = without_times(known.properties);
    push_first_place(&mut all, known);
    all
}

/// Removes the properties of an earlier delay: the new message has its own.
fn without_times(properties: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(properties.len() + 128);
    push_without(&mut rest, properties, &DELAY_PROPERTIES);
    rest
}
