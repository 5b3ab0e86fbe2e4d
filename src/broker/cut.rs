//! Cuts off the end of the shard's log while it runs, or replaces the log by a copy of another
//! replica's. Afterwards the broker's state is as if the cut entries had never existed, or is that
//! of the copy.
//!
//! State that belongs to connections is kept: clients, members of groups, calls. Held pulls are
//! retried. Consume offsets that were not in the log yet are lost, as after a crash.

use super::held::PullTask;
use super::open::{OpenError, Restored, restore};
use super::{Answer, Broker, Outcome, Released, State};
use crate::model::{LogOffset, Now, Refusal, Timestamp};
use crate::storage::disk::Disk;
use crate::storage::{CutError as StoreCutError, LogCopy, Opening};

/// Why the log was not cut. Unless it is now fenced, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Store(#[from] StoreCutError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("a copy of the log was damaged after it had arrived, at {0}: is the disk failing?")]
    CopyDamaged(LogOffset),
}

impl<D: Disk> Broker<D> {
    /// Cuts off all entries after the one with this ordinal. Returns the pulls that this releases.
    /// Refused if any of these entries is committed. Afterwards, pass the topic changes to
    /// NameServers ([`take_topic_changes`](Self::take_topic_changes)). Replies that wait for a cut
    /// entry become [`Refusal::OutcomeUnknown`].
    pub async fn cut_to(&self, ordinal: u64, now: Timestamp) -> Result<Vec<Released>, CutError> {
        self.continue_from(self.store.cut_to(ordinal).await?, now).await
    }

    /// Replaces the log by a complete copy of another replica's, and the state by that of the copy.
    /// Returns the pulls that this releases.
    pub async fn take_over(&self, copy: &LogCopy, now: Now) -> Result<Vec<Released>, CutError> {
        let released = self.continue_from(self.store.take_over(copy).await?, now.wall).await?;
        self.store.note_time(now);
        Ok(released)
    }

    /// Like [`cut_to`](Self::cut_to), but cuts off everything from `offset` on.
    pub async fn cut_at(
        &self,
        offset: LogOffset,
        now: Timestamp,
    ) -> Result<Vec<Released>, CutError> {
        self.continue_from(self.store.cut_at(offset).await?, now).await
    }

    async fn continue_from(
        &self,
        opening: Opening<D>,
        now: Timestamp,
    ) -> Result<Vec<Released>, CutError> {
        let restored = match restore(opening, self.config.dedup_window_ms).await {
            Err(error @ OpenError::Fact(_)) => panic!("entries that were applied before: {error}"),
            restored => restored?,
        };
        let damaged = restored.recovery.damaged.first().map(|hole| hole.start);
        // There is no await between replacing the log and the state.
        let (held, mut released) = self.state.borrow_mut().take_over(restored, now);
        self.flushes.notify();
        self.deliveries.notify();
        released.extend(self.retry(held));
        damaged.map_or(Ok(released), |at| Err(CutError::CopyDamaged(at)))
    }
}

impl State {
    /// Returns the pulls to retry, and the outcomes of those whose topic is gone.
    fn take_over<D: Disk>(
        &mut self,
        restored: Restored<D>,
        now: Timestamp,
    ) -> (Vec<PullTask>, Vec<Released>) {
        let Restored { store, durable, unseen, .. } = restored;
        let unended = self.take_unended();
        let before = std::mem::replace(&mut self.durable, durable);
        let topics = &mut self.durable.topics;
        topics.succeed(&before.topics, now);
        self.durable.locks.succeed(&before.locks);
        self.created.retain(|config| topics.number(&config.name).is_some());
        let held = self.held.take_all(&mut self.deadlines);
        let (held, gone): (Vec<_>, Vec<_>) = unended
            .into_iter()
            .chain(held)
            .partition(|task| topics.topic(task.queue.topic).is_some());
        self.see(&store, unseen);
        self.delivery.begin_again();
        let refuse = |task: PullTask| {
            let topic = before.topics.topic(task.queue.topic)?;
            let refusal = Refusal::UnknownTopic(topic.config.name.clone());
            Some(Released { origin: task.origin, outcome: Outcome::Now(Answer::refused(refusal)) })
        };
        (held, gone.into_iter().filter_map(refuse).collect())
    }
}
