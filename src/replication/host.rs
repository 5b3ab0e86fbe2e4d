//! What replication needs of the shard that it runs in.

use crate::broker::{Broker, Released};
use crate::model::Now;
use crate::storage::disk::Disk;

/// The shard. A clone is a second handle.
pub trait Host: Clone + 'static {
    type Disk: Disk;

    fn broker(&self) -> &Broker<Self::Disk>;

    fn now(&self) -> Now;

    /// The committed mark has moved.
    fn handle_commit(&self);

    /// Pulls that a cut has released.
    fn release(&self, released: Vec<Released>);

    /// This copy leads in this term from now on, or it does not lead any more.
    fn handle_role(&self, role: Role);
}

/// What a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader { term: u64 },
    Follower,
}
