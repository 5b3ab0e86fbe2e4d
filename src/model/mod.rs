//! The shared vocabulary: names, offsets, times, the message record, requests and replies.
//!
//! All protocol encodings decode into these types, the broker sees nothing else, and the same types
//! travel between shards. Start reading at [`request`]. Nothing here does I/O, reads a clock or
//! knows how a request was encoded.

pub mod batch;
pub mod chunk;
pub mod client;
pub mod controller;
pub mod deadlines;
pub mod excerpt;
pub mod group;
pub mod ids;
pub mod metrics;
pub mod nameserver;
pub mod peer;
pub mod principal;
pub mod recall;
pub mod record;
pub mod refusal;
pub mod replicas;
pub mod reply;
pub mod request;
pub mod topic;

pub use chunk::Chunk;
pub use client::{ClientReply, ClientRequest};
pub use deadlines::{DeadlineId, Deadlines};
pub use excerpt::excerpt;
pub use group::GroupConfig;
pub use ids::{
    ClientId, GroupName, LogOffset, Moment, NameError, Now, QueueId, QueueOffset, ShardId,
    Timestamp, TopicName,
};
pub use metrics::Metrics;
pub use nameserver::{NameServerReply, NameServerRequest};
pub use peer::Peer;
pub use principal::Principal;
pub use refusal::Refusal;
pub use reply::Reply;
pub use request::Request;
pub use topic::{DataVersion, TopicConfig};
