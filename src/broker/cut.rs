//! Cutting off the end of the shard's log while it runs: the broker becomes one that never saw what was
//! there.
//!
//! What lasts as long as a connection stays: clients, members of groups, calls. Pulls that were held are
//! tried again. Consume offsets that were committed and not in the log yet are gone, as after a crash.

use super::held::PullTask;
use super::open::{OpenError, Restored, restore};
use super::{Answer, Broker, Outcome, Released, State};
use crate::model::{Refusal, Timestamp};
use crate::storage::CutError as StoreCutError;
use crate::storage::disk::Disk;

/// Why the log was not cut. Unless it is fenced since, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Store(#[from] StoreCutError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl<D: Disk> Broker<D> {
    /// Keeps the entries up to the one with this ordinal and forgets all behind it; gives the pulls that are
    /// answered by it. Refused when something of that is committed. NameServers are to be told what has
    /// changed ([`take_topic_changes`](Self::take_topic_changes)), and answers that wait for an entry which
    /// is gone become [`Refusal::OutcomeUnknown`].
    pub async fn cut_to(&self, ordinal: u64, now: Timestamp) -> Result<Vec<Released>, CutError> {
        let opening = self.store.cut_to(ordinal).await?;
        let restored = match restore(opening).await {
            Err(error @ OpenError::Fact(_)) => panic!("entries that were applied before: {error}"),
            restored => restored?,
        };
        // Nothing waits between the new log and the new state.
        let (held, mut released) = self.state.borrow_mut().take_over(restored, now);
        self.flushes.notify();
        self.deliveries.notify();
        released.extend(self.retry(held));
        Ok(released)
    }
}

impl State {
    /// Gives the pulls that are to be tried again, and answers of those whose topic is gone.
    fn take_over<D: Disk>(
        &mut self,
        restored: Restored<D>,
        now: Timestamp,
    ) -> (Vec<PullTask>, Vec<Released>) {
        let Restored { store, durable, unseen, .. } = restored;
        let before = std::mem::replace(&mut self.durable, durable);
        let topics = &mut self.durable.topics;
        topics.succeed(&before.topics, now);
        self.durable.locks.succeed(&before.locks);
        self.created.retain(|config| topics.number(&config.name).is_some());
        let (held, gone): (Vec<_>, Vec<_>) = self
            .held
            .take_all(&mut self.deadlines)
            .into_iter()
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
