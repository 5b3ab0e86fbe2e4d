//! Opening a shard: snapshot, then replay of the log behind it.

use std::cell::RefCell;
use std::fmt::{self, Display};

use super::facts::{self, FactError, OffsetsFact, TopicFact};
use super::{Broker, BrokerConfig, Counters, State};
use crate::model::record::{RecordView, tag_hash_of};
use crate::model::{QueueId, Timestamp};
use crate::storage::disk::Disk;
use crate::storage::{
    self, EntryKind, Index, Located, QueueKey, RecoveryReport, Replayed, Store, StoreConfig,
};

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
        let mut state = State::default();
        if let Some(snapshot) = opening.snapshot().map(<[u8]>::to_vec) {
            let State { topics, offsets, .. } = &mut state;
            facts::restore(&snapshot, topics, offsets, opening.index())?;
        }
        let mut broken = None;
        let now = config.started_at;
        let (store, recovery) = opening
            .replay(|index, entry| {
                if let Err(error) = state.apply(index, &entry, now) {
                    broken.get_or_insert(error);
                }
            })
            .await?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        state.topics.change(now);
        let topic_count = state.topics.count();
        let counters = Counters::default();
        let broker = Self { config, store, state: RefCell::new(state), counters };
        broker.see_everything();
        Ok((broker, OpenReport { recovery, topic_count }))
    }

    /// After recovery all that is in the log is safe, so all of it is visible.
    fn see_everything(&self) {
        let state = &mut *self.state.borrow_mut();
        self.store.with_index(|index| {
            // Messages of topics that were deleted behind them.
            index.retain_topics(|topic| state.topics.topic(topic).is_some());
            for (key, next) in index.next_offsets() {
                if let Some(topic) = state.topics.topic_mut(key.topic) {
                    topic.queue_kept(key.queue).visible = next;
                }
            }
        });
    }
}

impl State {
    fn apply(
        &mut self,
        index: &mut Index,
        entry: &Replayed<'_>,
        now: Timestamp,
    ) -> Result<(), FactError> {
        match entry.kind {
            facts::MESSAGES => index_records(index, entry)?,
            _ if entry.in_snapshot => {}
            facts::TOPIC => {
                let fact: TopicFact = facts::decode("topic entry", entry.payload)?;
                match fact.config {
                    Some(config) => self.topics.set(fact.number, config, now),
                    None => {
                        self.topics.remove(fact.number, now);
                        self.offsets.remove_topic(fact.number);
                        index.remove_topic(fact.number);
                    }
                }
            }
            facts::OFFSETS => {
                let fact: OffsetsFact = facts::decode("offsets entry", entry.payload)?;
                for one in fact.committed {
                    let queue = QueueKey { topic: one.topic, queue: one.queue };
                    self.offsets.restore(&one.group, queue, one.offset);
                }
            }
            EntryKind(kind) => {
                return Err(facts::unreadable("entry", &format!("its kind is {kind}")));
            }
        }
        Ok(())
    }
}

/// Puts the records of one entry into the index as they were put there when they were appended.
fn index_records(index: &mut Index, entry: &Replayed<'_>) -> Result<(), FactError> {
    let mut position = 0;
    while position < entry.payload.len() {
        let record = RecordView::parse(&entry.payload[position..])
            .map_err(|error| facts::unreadable("message record", &error))?;
        let located = Located {
            offset: entry.payload_offset.plus(position as u64),
            size: record.size as u32,
            tag_hash: tag_hash_of(record.properties),
            stored_at: record.stored_at,
            entry_offset: entry.entry_offset,
        };
        let queue = QueueKey { topic: entry.subject, queue: QueueId(record.queue.0) };
        index.push(queue, record.queue_offset, located);
        position += record.size;
    }
    Ok(())
}
