//! What replication needs from the shard that it runs in.

use super::types::ReplicaId;
use crate::broker::Broker;
use crate::model::Now;
use crate::storage::disk::Disk;

/// The shard. A clone is a second handle.
pub trait Host: Clone + 'static {
    type Disk: Disk;
    /// Permission to read the disk, until it is dropped.
    type ColdRead<'a>
    where
        Self: 'a;

    fn broker(&self) -> &Broker<Self::Disk>;

    fn now(&self) -> Now;

    /// The committed watermark has moved, the log was cut, or this replica may no longer lead. Sends
    /// the replies that this decides, and answers the pulls that the broker has woken.
    fn handle_commit(&self);

    /// `host:port` at which clients reach a replica, if that is known.
    fn address_of(&self, replica: ReplicaId) -> Option<String>;

    /// This replica's role has changed: it leads in this term from now on, no longer leads, or is
    /// no longer a member.
    fn handle_role(&self, role: Role);

    /// Runs a task at a lower priority than everything else.
    fn spawn_background(&self, task: impl Future<Output = ()> + 'static);

    /// Waits until it is the caller's turn to read the disk, among consumers of old messages.
    fn cold_read(&self) -> impl Future<Output = Self::ColdRead<'_>>;
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader {
        term: u64,
    },
    Follower,
    /// No longer a member.
    Removed,
}
