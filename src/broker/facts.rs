//! The small durable state: what the broker writes into the log beside messages, and the snapshot
//! that spares replaying it.
//!
//! Both are JSON: rare, small, readable with any tool when something has to be understood in the
//! night. Checksums, positions and order are the log's business.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::offsets::{Committed, Offsets};
use super::topics::Topics;
use crate::model::topic::DataVersion;
use crate::model::{QueueId, QueueOffset, Timestamp, TopicConfig};
use crate::storage::{EntryKind, Index, QueueKey};

/// Layout of the snapshot; a newer one than this is refused.
const SNAPSHOT_VERSION: u32 = 1;

/// Kinds of entries in the log. The numbers are part of the format.
///
/// Message records of one topic, one behind the other; the subject is the topic.
pub const MESSAGES: EntryKind = EntryKind(3);
/// A [`TopicFact`].
pub const TOPIC: EntryKind = EntryKind(4);
/// An [`OffsetsFact`].
pub const OFFSETS: EntryKind = EntryKind(5);

/// Payload of a [`TOPIC`] entry: a topic set, or deleted when there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicFact {
    pub number: u32,
    pub config: Option<TopicConfig>,
}

/// Payload of an [`OFFSETS`] entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetsFact {
    pub committed: Vec<Committed>,
}

/// A fact in the log that cannot be read: its checksum was right, so a newer version wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}; was it written by a newer version?")]
pub struct FactError {
    what: &'static str,
    why: String,
}

pub fn unreadable(what: &'static str, why: &impl std::fmt::Display) -> FactError {
    FactError { what, why: why.to_string() }
}

pub fn encode(fact: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(fact).expect("plain structs with text keys always encode")
}

pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FactError> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(what, &error))
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    version: u32,
    next_topic_number: u32,
    data_version: DataVersion,
    topics: Vec<TopicFact>,
    offsets: Vec<Committed>,
    /// Next offset of every queue that ever held a message: retention may have removed all of them.
    queues: Vec<(u32, QueueId, QueueOffset)>,
}

/// Everything that entries so far have made of topics, offsets and queues.
pub fn snapshot(topics: &Topics, offsets: &Offsets, index: &Index) -> Vec<u8> {
    let fact = |(number, topic): (u32, &super::topics::Topic)| TopicFact {
        number,
        config: Some(topic.config.clone()),
    };
    let queue = |(key, next): (QueueKey, QueueOffset)| (key.topic, key.queue, next);
    encode(&Snapshot {
        version: SNAPSHOT_VERSION,
        next_topic_number: topics.next_number(),
        data_version: topics.version(),
        topics: topics.iter().map(fact).collect(),
        offsets: offsets.all(),
        queues: index.next_offsets().map(queue).collect(),
    })
}

pub fn restore(
    bytes: &[u8],
    topics: &mut Topics,
    offsets: &mut Offsets,
    index: &mut Index,
) -> Result<(), FactError> {
    let snapshot: Snapshot = decode("snapshot", bytes)?;
    if snapshot.version != SNAPSHOT_VERSION {
        let why = format!("its version is {}", snapshot.version);
        return Err(FactError { what: "snapshot", why });
    }
    for TopicFact { number, config } in snapshot.topics {
        if let Some(config) = config {
            topics.set(number, config, Timestamp(0));
        }
    }
    topics.restore(snapshot.next_topic_number, snapshot.data_version);
    for one in snapshot.offsets {
        let queue = QueueKey { topic: one.topic, queue: one.queue };
        offsets.restore(&one.group, queue, one.offset);
    }
    for (topic, queue, next) in snapshot.queues {
        index.restore_next(QueueKey { topic, queue }, next);
    }
    Ok(())
}
