//! What the shards of a process report to each other about their clients.
//!
//! A report contains everything that a shard knows about a client, and replaces the shard's previous report.
//! So a report may be delivered twice, and one that arrives after a later one is ignored.

use super::ledger::{Membership, Role};
use super::{Groups, RemoteClient};
use crate::model::request::{ConsumerData, Presence};
use crate::model::{ClientId, GroupName, Refusal, ShardId};

impl Groups {
    /// The unreported changes of `client`, for the other shards. `shard` is this one; `consumers` are the
    /// subscriptions in the heartbeat that caused the changes, if one did.
    pub fn take_presence(
        &mut self,
        shard: ShardId,
        client: &ClientId,
        consumers: &[ConsumerData],
    ) -> Option<Presence> {
        self.unreported.take(client).map(|client| self.presence(shard, client, consumers.to_vec()))
    }

    /// The unreported changes of all clients.
    pub fn take_presences(&mut self, shard: ShardId) -> Vec<Presence> {
        let unreported = std::mem::take(&mut self.unreported);
        unreported.into_iter().map(|client| self.presence(shard, client, Vec::new())).collect()
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

    /// Applies another shard's report. Members that exceed a limit are refused.
    pub fn learn(&mut self, presence: &Presence) -> Result<(), Refusal> {
        let Presence { shard, sequence, client, groups, peers, is_shared, consumers } = presence;
        let key = (*shard, client.clone());
        if self.remote.get(&key).is_some_and(|before| before.sequence >= *sequence) {
            return Ok(());
        }
        let before = self.remote.remove(&key).map(|before| before.groups).unwrap_or_default();
        for group in before.iter().filter(|group| groups.binary_search(group).is_err()) {
            self.not_elsewhere(*shard, group, client);
        }
        let mut known = RemoteClient { sequence: *sequence, groups: Default::default() };
        let mut learned = Ok(());
        for group in groups {
            match self.consumers.join(group, client, &mut self.ledger) {
                Ok((name, member, is_new)) => {
                    member.set_elsewhere(*shard, peers, *is_shared);
                    known.groups.insert(name.clone());
                    if is_new {
                        self.note_members_changed(&name);
                    }
                }
                Err(refusal) => learned = learned.and(Err(refusal)),
            }
        }
        for consumer in consumers.iter().filter(|of| known.groups.contains(&of.group)) {
            let was_unreported = self.unreported.contains(client);
            learned = learned.and(self.subscribe(&consumer.group, client, consumer));
            if !was_unreported {
                // The shard that reported it sends it to all shards.
                self.unreported.remove(client);
            }
        }
        if let Some(group) = known.groups.first().filter(|_| *is_shared) {
            self.note_shared(&group.clone(), client);
        }
        if !known.groups.is_empty() {
            self.remote.insert(key, known);
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

    /// Removes a member that has unregistered from the other shards too; their own reports follow
    /// shortly.
    pub(super) fn forget_elsewhere(&mut self, membership: &Membership) {
        let Some(member) = self.member(membership) else { return };
        for shard in member.shards().collect::<Vec<_>>() {
            let key = (shard, membership.client.clone());
            if let Some(known) = self.remote.get_mut(&key) {
                known.groups.remove(&membership.group);
                if known.groups.is_empty() {
                    self.remote.remove(&key);
                }
            }
            if let Some(member) = self.member_mut(membership) {
                member.drop_elsewhere(shard);
            }
        }
        self.settle(membership);
    }
}
