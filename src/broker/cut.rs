//! Cuts off the end of the shard's log while it runs, or replaces the log by a copy of another
//! replica's. Afterwards the broker's state is as if the cut entries had never existed, or is that
//! of the copy.
//!
//! State that belongs to connections is kept: clients, members of groups, calls. Held pulls are
//! woken: [`Broker::advance`] retries them. Consume offsets that were not in the log yet are lost,
//! as after a crash.

use super::open::{OpenError, Restored, restore};
use super::topics::Topics;
use super::woken::{Ended, Then, Woken};
use super::{Broker, State};
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
    /// Cuts off all entries after the one with this ordinal. Refused if any of these entries is
    /// committed. Afterwards, call [`advance`](Self::advance), and pass the topic changes to
    /// NameServers ([`take_topic_changes`](Self::take_topic_changes)). Replies that wait for a cut
    /// entry become [`Refusal::OutcomeUnknown`].
    pub async fn cut_to(&self, ordinal: u64, now: Timestamp) -> Result<(), CutError> {
        self.continue_from(self.store.cut_to(ordinal).await?, now).await
    }

    /// Replaces the log by a complete copy of another replica's, and the state by that of the copy.
    pub async fn take_over(&self, copy: &LogCopy, now: Now) -> Result<(), CutError> {
        self.continue_from(self.store.take_over(copy).await?, now.wall).await?;
        self.store.note_time(now);
        Ok(())
    }

    /// Like [`cut_to`](Self::cut_to), but cuts off everything from `offset` on.
    pub async fn cut_at(&self, offset: LogOffset, now: Timestamp) -> Result<(), CutError> {
        self.continue_from(self.store.cut_at(offset).await?, now).await
    }

    async fn continue_from(&self, opening: Opening<D>, now: Timestamp) -> Result<(), CutError> {
        let restored = match restore(opening, self.config.dedup_window_ms).await {
            Err(error @ OpenError::Fact(_)) => panic!("entries that were applied before: {error}"),
            restored => restored?,
        };
        let damaged = restored.recovery.damaged.first().map(|hole| hole.start);
        // There is no await between replacing the log and the state.
        self.state.borrow_mut().take_over(restored, now);
        self.flushes.notify();
        self.deliveries.notify();
        damaged.map_or(Ok(()), |at| Err(CutError::CopyDamaged(at)))
    }
}

impl State {
    fn take_over<D: Disk>(&mut self, restored: Restored<D>, now: Timestamp) {
        let Restored { store, durable, unseen, .. } = restored;
        let before = std::mem::replace(&mut self.durable, durable);
        let topics = &mut self.durable.topics;
        topics.succeed(&before.topics, now);
        self.durable.locks.succeed(&before.locks);
        self.created.retain(|config| topics.number(&config.name).is_some());
        self.wake_after_cut(&before.topics);
        self.see(&store, unseen);
        self.delivery.begin_again();
    }

    /// Wakes all held pulls. Those whose topic is gone are refused, because its number may be given to
    /// another one.
    fn wake_after_cut(&mut self, before: &Topics) {
        self.wake_all(&Then::Retry);
        let topics = &self.durable.topics;
        let name = |topics: &Topics, number| Some(topics.topic(number)?.config.name.clone());
        // A topic whose deletion is cut off was not there before.
        let is_there = |woken: &Woken| {
            let known_as = match &woken.then {
                Then::Refuse(Refusal::UnknownTopic(name)) => Some(name.clone()),
                _ => name(before, woken.queue.topic),
            };
            known_as.is_some() && known_as == name(topics, woken.queue.topic)
        };
        // Changes that are cut off, or that the new state includes.
        for Ended { mut woken, .. } in self.ended.drain(..) {
            if is_there(&woken) {
                woken.then = Then::Retry;
            }
            self.woken.push_back(woken);
        }
        for woken in self.woken.iter_mut().filter(|woken| !woken.is_refused()) {
            if let Some(name) = name(before, woken.queue.topic).filter(|_| !is_there(woken)) {
                woken.then = Then::Refuse(Refusal::UnknownTopic(name));
            }
        }
    }
}
