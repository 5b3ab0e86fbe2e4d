//! What the shards of a process tell each other of their clients.
//!
//! A shard tells all that it knows of a client, and the others replace what they knew from that shard. So
//! messages may be repeated, and one that arrives after a later one is ignored.

use super::ledger::{Membership, Role};
use super::{Groups, Told};
use crate::model::request::{ConsumerData, Presence};
use crate::model::{ClientId, GroupName, Refusal, ShardId};

impl Groups {
    /// What the other shards have to be told of `client` by `shard`, which is this one. `consumers` is what
    /// its heartbeat said, if one changed something.
    pub fn take_presence(
        &mut self,
        shard: ShardId,
        client: &ClientId,
        consumers: &[ConsumerData],
    ) -> Option<Presence> {
        self.untold.take(client).map(|client| self.presence(shard, client, consumers.to_vec()))
    }

    /// The same of all clients.
    pub fn take_presences(&mut self, shard: ShardId) -> Vec<Presence> {
        let untold = std::mem::take(&mut self.untold);
        untold.into_iter().map(|client| self.presence(shard, client, Vec::new())).collect()
    }

    fn presence(
        &mut self,
        shard: ShardId,
        client: ClientId,
        consumers: Vec<ConsumerData>,
    ) -> Presence {
        self.sequence += 1;
        let groups: Vec<GroupName> =
            self.here.get(&client).into_iter().flatten().cloned().collect();
        let group = groups.first().and_then(|group| self.consumers.groups.get(group));
        let member = group.and_then(|group| group.members.get(&client));
        let peers = member.into_iter().flat_map(|member| member.peers_here()).collect();
        let is_shared = member.is_some_and(|member| member.is_shared_here());
        Presence { shard, sequence: self.sequence, client, groups, peers, is_shared, consumers }
    }

    /// Another shard tells of a client. What does not fit is refused.
    pub fn learn(&mut self, presence: &Presence) -> Result<(), Refusal> {
        let Presence { shard, sequence, client, groups, peers, is_shared, consumers } = presence;
        let key = (*shard, client.clone());
        if self.told.get(&key).is_some_and(|before| before.sequence >= *sequence) {
            return Ok(());
        }
        let before = self.told.remove(&key).map(|before| before.groups).unwrap_or_default();
        for group in before.iter().filter(|group| groups.binary_search(group).is_err()) {
            self.not_elsewhere(*shard, group, client);
        }
        let mut told = Told { sequence: *sequence, groups: Default::default() };
        let mut learned = Ok(());
        for group in groups {
            match self.consumers.join(group, client, &mut self.ledger) {
                Ok((name, member, is_new)) => {
                    member.set_elsewhere(*shard, peers, *is_shared);
                    told.groups.insert(name.clone());
                    if is_new {
                        self.changed.insert(name);
                    }
                }
                Err(refusal) => learned = learned.and(Err(refusal)),
            }
        }
        for consumer in consumers.iter().filter(|of| told.groups.contains(&of.group)) {
            let is_told = self.untold.contains(client);
            learned = learned.and(self.subscribe(&consumer.group, client, consumer));
            if !is_told {
                // The shard that told it tells it to all.
                self.untold.remove(client);
            }
        }
        if let Some(group) = told.groups.first().filter(|_| *is_shared) {
            self.note_shared(&group.clone(), client);
        }
        if !told.groups.is_empty() {
            self.told.insert(key, told);
        }
        learned
    }

    fn not_elsewhere(&mut self, shard: ShardId, group: &GroupName, client: &ClientId) {
        let (group, client) = (group.clone(), client.clone());
        let membership = Membership { role: Role::Consumer, group, client };
        if let Some(member) = self.member_mut(&membership) {
            member.drop_elsewhere(shard);
            self.settle(&membership);
        }
    }

    /// A member has unregistered, so it leaves the other shards too; they tell so themselves a moment later.
    pub(super) fn forget_elsewhere(&mut self, membership: &Membership) {
        let Some(member) = self.member(membership) else { return };
        for shard in member.shards().collect::<Vec<_>>() {
            let key = (shard, membership.client.clone());
            if let Some(told) = self.told.get_mut(&key) {
                told.groups.remove(&membership.group);
                if told.groups.is_empty() {
                    self.told.remove(&key);
                }
            }
            if let Some(member) = self.member_mut(membership) {
                member.drop_elsewhere(shard);
            }
        }
        self.settle(membership);
    }
}
