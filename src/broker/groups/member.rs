//! A client as a member of a group: its connections to this shard, and the other shards to which it
//! is connected.

use smallvec::SmallVec;

use crate::model::Peer;
use crate::model::{Moment, ShardId};

#[derive(Clone, Debug, Default)]
pub struct Member {
    /// In the order of their first heartbeats.
    lines: SmallVec<[Line; 1]>,
    elsewhere: SmallVec<[OtherShard; 1]>,
}

/// A connection to this shard over which a member sends heartbeats.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub connection: u64,
    pub seen_at: Moment,
    peer: Peer,
    /// The client has begun to use a later connection. If it keeps using this one as well, a second
    /// process has the same client id.
    is_superseded: bool,
}

/// Another shard to which the member is connected.
#[derive(Clone, Debug)]
struct OtherShard {
    shard: ShardId,
    peers: SmallVec<[Peer; 1]>,
    is_shared: bool,
}

impl Member {
    /// Notes a heartbeat. Returns whether it is news for the other shards: the connection is new,
    /// or turns out to belong to a second process.
    pub fn beat(&mut self, connection: u64, peer: Peer, now: Moment) -> bool {
        if let Some(line) = self.lines.iter_mut().find(|line| line.connection == connection) {
            (line.seen_at, line.peer) = (now, peer);
            return std::mem::take(&mut line.is_superseded);
        }
        self.lines.iter_mut().for_each(|line| line.is_superseded = true);
        self.lines.push(Line { connection, seen_at: now, peer, is_superseded: false });
        true
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Removes a connection; returns whether there was one.
    pub fn drop_line(&mut self, connection: u64) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| line.connection != connection);
        if self.live().next().is_none()
            && let Some(last) = self.lines.last_mut()
        {
            last.is_superseded = false;
        }
        self.lines.len() < before
    }

    /// The connections that end when the client unregisters over `connection`, or at another shard:
    /// all of them, unless a second process, which unregisters separately, has the same client id.
    pub fn lines_to_end(&self, connection: Option<u64>) -> Vec<u64> {
        let is_it = |line: &&Line| Some(line.connection) == connection;
        let other_count = self.live().filter(|line| !is_it(line)).count();
        let is_known = self.lines.iter().any(|line| is_it(&line));
        let ends = self.lines.iter().filter(|line| match other_count > usize::from(!is_known) {
            true => is_it(line),
            false => true,
        });
        ends.map(|line| line.connection).collect()
    }

    /// Notes that another shard knows the member.
    pub fn set_elsewhere(&mut self, shard: ShardId, peers: &[Peer], is_shared: bool) {
        self.drop_elsewhere(shard);
        self.elsewhere.push(OtherShard { shard, peers: peers.into(), is_shared });
    }

    pub fn drop_elsewhere(&mut self, shard: ShardId) {
        self.elsewhere.retain(|at| at.shard != shard);
    }

    /// The other shards that know the member.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.elsewhere.iter().map(|at| at.shard)
    }

    pub fn is_gone(&self) -> bool {
        self.lines.is_empty() && self.elsewhere.is_empty()
    }

    /// Whether two processes use the client id, as far as this shard has seen.
    pub fn is_shared_here(&self) -> bool {
        self.live().count() > 1
    }

    pub fn is_shared(&self) -> bool {
        self.is_shared_here() || self.elsewhere.iter().any(|at| at.is_shared)
    }

    pub fn peers_here(&self) -> impl Iterator<Item = Peer> {
        self.live().map(|line| line.peer)
    }

    /// The client's ends of its connections to this shard, or to another one if it has none here.
    pub fn peers(&self) -> SmallVec<[Peer; 1]> {
        let elsewhere = || self.elsewhere.first().map(|at| at.peers.clone()).unwrap_or_default();
        let here: SmallVec<[Peer; 1]> = self.peers_here().collect();
        if here.is_empty() { elsewhere() } else { here }
    }

    fn live(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.is_superseded)
    }
}
