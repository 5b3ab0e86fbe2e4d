//! Requests about offsets: the range of a queue, the message stored at a given time, a group's
//! offset (remoting reference, 3.3 and 5.6).

use super::operation::Context;
use super::{Broker, refuse_read};
use crate::model::request::QueueOf;
use crate::model::{GroupName, Moment, QueueOffset, Refusal, Reply, Timestamp, TopicName};
use crate::storage::disk::Disk;
use crate::storage::{Lookup, QueueKey, ReadError};

/// A flush of offsets that is waited for.
#[derive(Clone, Copy)]
pub struct FlushBegun {
    count: u64,
    cut_count: u32,
}

impl<D: Disk> Broker<D> {
    pub(super) fn max_offset(&self, queue: &QueueOf) -> Result<Reply, Refusal> {
        Ok(Reply::Offset(self.visible(self.queue(queue)?)))
    }

    pub(super) fn min_offset(&self, queue: &QueueOf) -> Result<Reply, Refusal> {
        Ok(Reply::Offset(self.first_offset(self.queue(queue)?)))
    }

    fn first_offset(&self, queue: QueueKey) -> QueueOffset {
        QueueOffset(self.store.with_index(|index| index.bounds(queue).start))
    }

    pub(super) async fn offset_by_time(
        &self,
        queue: &QueueOf,
        at: Timestamp,
        is_upper: bool,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let key = self.queue(queue)?;
        self.offset_at(key, at, is_upper, context).await.map(Reply::Offset)
    }

    pub(super) async fn offset_at(
        &self,
        key: QueueKey,
        at: Timestamp,
        is_upper: bool,
        context: &impl Context,
    ) -> Result<QueueOffset, Refusal> {
        let _permit = context.cold_read(0).await;
        let found = self.store.offset_by_time(key, at, is_upper).await;
        let found = found.map_err(|error| self.refuse_read(error))?;
        Ok(found.min(self.visible(key)))
    }

    pub(super) async fn earliest_store_time(
        &self,
        queue: &QueueOf,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let key = self.queue(queue)?;
        loop {
            let first = self.first_offset(key);
            if first >= self.visible(key) {
                return Ok(Reply::StoreTime(None));
            }
            let page = match self.store.with_index(|index| index.lookup(key, first, 1)) {
                Lookup::Here(entries) => {
                    let stored_at = entries.first().map(|located| located.stored_at);
                    return Ok(Reply::StoreTime(stored_at));
                }
                Lookup::Lost { .. } | Lookup::Nothing => return Ok(Reply::StoreTime(None)),
                Lookup::Sealed(page) => page,
            };
            let _permit = context.cold_read(0).await;
            self.store.load_index(page).await.map_err(|error| self.refuse_read(error))?;
        }
    }

    /// Answers once the offset is committed to the log. A one-way request does not wait, because
    /// the group sees the offset immediately.
    pub(super) async fn commit_offset(
        &self,
        group: &GroupName,
        queue: &QueueOf,
        offset: i64,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let key = self.queue(queue)?;
        let flush = self.begin_flush();
        self.commit(group, key, offset, context.now().moment)?;
        if context.origin().wants_answer {
            self.flushed_since(flush, group, &queue.topic, &[key]).await?;
        }
        Ok(Reply::Done)
    }

    /// To be called before offsets are changed whose flush is waited for.
    pub(super) fn begin_flush(&self) -> FlushBegun {
        let count = self.state.borrow().flush.count();
        FlushBegun { count, cut_count: self.store.standing().cut_count }
    }

    /// Waits until a group's offsets in some queues of a topic are committed to the log.
    pub(super) async fn flushed_since(
        &self,
        begun: FlushBegun,
        group: &GroupName,
        topic: &TopicName,
        keys: &[QueueKey],
    ) -> Result<(), Refusal> {
        let flushed = || {
            let state = self.state.borrow();
            let gone = keys.iter().find_map(|key| state.check_still_there(topic, *key).err());
            if let Some(gone) = gone {
                return Some(Err(gone));
            }
            if !keys.iter().any(|key| state.durable.offsets.is_changed(group, *key)) {
                return Some(Ok(()));
            }
            state.flush.outcome_since(begun.count)
        };
        self.flushes.wait(flushed).await?;
        if self.store.standing().cut_count != begun.cut_count {
            return Err(Refusal::OutcomeUnknown);
        }
        // Another request may just have written the same offset.
        self.committed(self.store.end()).await
    }

    /// Commits an offset; a deadline makes sure that it soon reaches the log. One stock client
    /// sends negative offsets when it has none (remoting reference, 5.6). A member that has not noticed a
    /// reset does not undo it (5.7).
    pub(super) fn commit(
        &self,
        group: &GroupName,
        queue: QueueKey,
        offset: i64,
        now: Moment,
    ) -> Result<(), Refusal> {
        let Ok(offset) = u64::try_from(offset) else { return Ok(()) };
        self.state.borrow_mut().durable.offsets.commit(group, queue, QueueOffset(offset))?;
        self.schedule_flush(now);
        Ok(())
    }

    /// A group's offset. A group without an offset starts at the first message if the queue still
    /// has it (remoting reference, 5.6).
    pub(super) fn committed_offset(
        &self,
        group: &GroupName,
        queue: &QueueOf,
        zero_if_missing: bool,
    ) -> Result<Reply, Refusal> {
        let missing = || Refusal::NoOffset(group.detached());
        let key = self.queue(queue).map_err(|_| missing())?;
        if let Some(offset) = self.state.borrow().durable.offsets.find(group, key) {
            return Ok(Reply::Offset(offset));
        }
        match zero_if_missing && self.first_offset(key) == QueueOffset(0) {
            true => Ok(Reply::Offset(QueueOffset(0))),
            false => Err(missing()),
        }
    }

    /// The topic number and id of a queue that exists.
    pub(super) fn queue(&self, queue: &QueueOf) -> Result<QueueKey, Refusal> {
        let state = self.state.borrow();
        let (number, topic) = state.durable.topics.find(&queue.topic)?;
        topic.check_queue(queue.queue)?;
        Ok(QueueKey { topic: number, queue: queue.queue })
    }

    pub(super) fn refuse_read(&self, error: ReadError) -> Refusal {
        refuse_read(self.config.shard, error)
    }
}
