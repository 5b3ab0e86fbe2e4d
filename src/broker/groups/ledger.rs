//! Totals over all groups of a shard, and which members belong to which connection.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::model::{ClientId, GroupName, Refusal};

/// Maximum number of members of all groups of a shard. A client counts once for each of its groups.
pub const MEMBERS_MAX: usize = 100_000;
/// Maximum number of subscriptions of all members of a shard's groups.
pub const SUBSCRIPTIONS_MAX: usize = 5 * MEMBERS_MAX;
/// Maximum number of tags in these subscriptions. Those of equal expressions count once, in
/// general.
pub const TAGS_MAX: usize = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Consumer,
    Producer,
}

/// A client's membership in a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    pub role: Role,
    pub group: GroupName,
    pub client: ClientId,
}

/// Totals over all groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub members: usize,
    /// A member's subscription to a topic counts once.
    pub subscriptions: usize,
    /// The tags of an expression that several members share count once.
    pub tags: usize,
    /// By connection, so the cost of closing one depends only on what it held.
    memberships: FxHashMap<u64, BTreeSet<Membership>>,
}

impl Ledger {
    /// Notes that a member uses a connection that it did not use before.
    pub fn connected(&mut self, connection: u64, membership: Membership) {
        let is_new = self.memberships.entry(connection).or_default().insert(membership);
        assert!(is_new, "a member uses a connection once");
    }

    pub fn disconnected(&mut self, connection: u64, membership: &Membership) {
        let memberships = self.memberships.get_mut(&connection).expect("members are in the ledger");
        assert!(memberships.remove(membership), "members are in the ledger");
        if memberships.is_empty() {
            self.memberships.remove(&connection);
        }
    }

    pub fn of_connection(&self, connection: u64) -> Vec<Membership> {
        self.memberships.get(&connection).into_iter().flatten().cloned().collect()
    }
}

#[cold]
pub fn full<T>(what: &'static str, count_max: usize) -> Result<T, Refusal> {
    Err(Refusal::Full { what, count_max })
}
