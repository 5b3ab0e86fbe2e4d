//! Topic requests of operators and other shards: set, delete, describe (remoting reference, 3.12).

use std::ops::Range;

use super::facts::Facts;
use super::operation::Context;
use super::state::Durable;
use super::{Broker, topics};
use crate::model::reply::{QueueStats, TopicStats};
use crate::model::request::QueueOf;
use crate::model::topic::DELAY_LEVEL_TOPIC;
use crate::model::{QueueId, QueueOffset, Refusal, Reply, Timestamp, TopicConfig, TopicName};
use crate::storage::disk::Disk;
use crate::storage::{AppendError, QueueKey};

impl<D: Disk> Broker<D> {
    /// Sets a topic's configuration for an operator or another shard. Setting an unchanged
    /// configuration writes nothing, so it may be repeated on every shard. An existing topic that
    /// differs is changed only if `may_change`.
    pub(super) async fn update_topic(
        &self,
        config: &TopicConfig,
        may_change: bool,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        self.config.check_topic_name(&config.name)?;
        let config = TopicConfig { name: config.name.detached(), ..config.clone() };
        let set = |durable: &Durable| {
            let topics = &durable.topics;
            topics.check(&config)?;
            let known = topics.find(&config.name);
            let number = match known {
                Ok((_, topic)) if topic.config == config => return Ok(Facts::default()),
                Ok((_, topic)) if !may_change => {
                    let (known, asked) = (Box::new(topic.config.clone()), Box::new(config.clone()));
                    return Err(Refusal::TopicExists { known, asked });
                }
                Ok((number, _)) => number,
                Err(_) => topics.next_number(),
            };
            Ok(topics::set(number, &config, context.now().wall))
        };
        self.transact(set, context).await?;
        Ok(Reply::Done)
    }

    /// Deletes a topic; succeeds if it does not exist.
    pub(super) async fn delete_topic(
        &self,
        name: &TopicName,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        self.config.check_topic_name(name)?;
        let remove = |durable: &Durable| {
            let number = durable.topics.number(name);
            let now = context.now().wall;
            Ok(number.map_or_else(Facts::default, |number| topics::removed(number, now)))
        };
        self.transact(remove, context).await?;
        Ok(Reply::Done)
    }

    /// Creates a topic named by a producer, without waiting. Returns its number.
    pub(super) fn create_topic(
        &self,
        config: &TopicConfig,
        now: Timestamp,
    ) -> Result<u32, AppendError> {
        let number = self.state.borrow().durable.topics.next_number();
        self.record(&topics::set(number, config, now))?;
        Ok(number)
    }

    /// Returns the statistics of a topic's queues. May read index files.
    pub(super) async fn topic_stats(
        &self,
        name: &TopicName,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        if name.as_str() == DELAY_LEVEL_TOPIC {
            let queues = vec![self.delay_stats(name)];
            return Ok(Reply::TopicStats(TopicStats { queues, delayed: None }));
        }
        let (number, count) = {
            let state = self.state.borrow();
            let (number, topic) = state.durable.topics.find(name)?;
            (number, topic.config.queue_count())
        };
        let name = name.detached();
        let mut stats = Vec::with_capacity(count as usize);
        for queue in (0..count).map(QueueId) {
            let key = QueueKey { topic: number, queue };
            let last_stored_at = self.last_stored_at(key, context).await;
            let (min, max) = self.visible_bounds(key);
            stats.push(QueueStats {
                queue: QueueOf { topic: name.clone(), queue },
                min_offset: min,
                max_offset: max,
                last_stored_at,
                broker_name: self.config.broker_name.clone(),
            });
        }
        let delayed = {
            let Durable { delays, delayed_topics, .. } = &self.state.borrow().durable;
            delayed_topics.of(name.as_str(), delays.pending().count)
        };
        Ok(Reply::TopicStats(TopicStats { queues: stats, delayed }))
    }

    /// Represents the messages of all topics that are not due yet as one queue: its offsets differ
    /// by the number of pending messages.
    fn delay_stats(&self, name: &TopicName) -> QueueStats {
        let Range { start, end } = self.state.borrow().durable.delays.counts();
        QueueStats {
            queue: QueueOf { topic: name.detached(), queue: QueueId(0) },
            min_offset: QueueOffset(start),
            max_offset: QueueOffset(end),
            last_stored_at: None,
            broker_name: self.config.broker_name.clone(),
        }
    }

    pub(super) fn visible_bounds(&self, queue: QueueKey) -> (QueueOffset, QueueOffset) {
        let min = QueueOffset(self.store.with_index(|index| index.bounds(queue).start));
        (min, self.visible(queue))
    }

    /// Store time of the newest message that the queue has ever had; `None` if there was none, or if
    /// only the message says and it is unreadable.
    async fn last_stored_at(&self, queue: QueueKey, context: &impl Context) -> Option<Timestamp> {
        let (_, end) = self.visible_bounds(queue);
        let newest = QueueOffset(end.0.checked_sub(1)?);
        match self.store.with_index(|index| index.last_stored(queue)) {
            Some((next, stored_at)) if next == end => Some(stored_at),
            // The last one is not committed yet, or a snapshot of an older version has been restored.
            _ => self.stored_at(queue, newest, context).await,
        }
    }
}
