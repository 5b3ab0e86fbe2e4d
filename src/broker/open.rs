//! Opening a shard: snapshot, then replay of the log behind it.

use std::cell::RefCell;
use std::fmt::{self, Display};

use super::facts::{Fact, FactError};
use super::messages::messages_of;
use super::state::Durable;
use super::upkeep::first_deadlines;
use super::{Broker, BrokerConfig, State};
use crate::storage::disk::Disk;
use crate::storage::{self, Index, RecoveryReport, Replayed, Store, StoreConfig};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] storage::OpenError),
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// What opening found. Rendered for the operator by `Display`.
#[derive(Debug)]
pub struct OpenReport {
    pub recovery: RecoveryReport,
    pub topic_count: usize,
}

impl Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} topics, {}", self.topic_count, self.recovery)
    }
}

impl<D: Disk> Broker<D> {
    /// Opens the shard whose files `disk` holds; an empty disk becomes a new shard.
    pub async fn open(
        disk: D,
        store: StoreConfig,
        config: BrokerConfig,
    ) -> Result<(Self, OpenReport), OpenError> {
        let mut opening = Store::open(disk, store).await?;
        let mut state = State { deadlines: first_deadlines(), ..State::default() };
        if let Some(snapshot) = opening.snapshot().map(<[u8]>::to_vec) {
            state.durable.apply(opening.index(), Fact::of_snapshot(&snapshot))?;
        }
        let mut broken = None;
        let (store, recovery) = opening
            .replay(messages_of, |index, entry| {
                if let Err(error) = replay(&mut state.durable, index, &entry) {
                    broken.get_or_insert(error);
                }
            })
            .await?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        state.durable.topics.change(config.started.wall);
        store.note_time(config.started);
        let topic_count = state.durable.topics.count();
        let state = RefCell::new(state);
        let (flushes, outgoing, replies) = Default::default();
        let broker = Self { config, store, state, flushes, outgoing, replies };
        broker.see_everything();
        Ok((broker, OpenReport { recovery, topic_count }))
    }

    /// After recovery all that is in the log is safe, so all of it is visible.
    fn see_everything(&self) {
        let state = &mut *self.state.borrow_mut();
        self.store.with_index(|index| {
            // Messages of topics that were deleted behind them.
            index.retain_topics(|topic| state.durable.topics.topic(topic).is_some());
            for (key, next) in index.next_offsets() {
                if let Some(topic) = state.durable.topics.topic_mut(key.topic) {
                    topic.queue_kept(key.queue).visible = next;
                }
            }
        });
    }
}

fn replay(durable: &mut Durable, index: &mut Index, entry: &Replayed<'_>) -> Result<(), FactError> {
    let fact = Fact::of_entry(entry);
    match entry.in_snapshot {
        true => durable.apply_indexed(index, fact),
        false => durable.apply(index, fact),
    }
}
