//! Connected producers and consumers by group, and the subscriptions of consumer groups.
//!
//! They are learned from heartbeats, and removed when the connection closes or no heartbeat arrives
//! for [`CLIENT_LEASE_MS`] (remoting reference, 5.23). Nothing here is durable: clients send it
//! again.
//!
//! A process has one membership: a consumer that is connected to any of its shards is a member of its groups
//! on all of them. Each shard reports its own connected clients to the others
//! ([`presence`]), and a client leaves a group when the last shard no longer knows it.
//!
//! ```text
//!   groups ─▶ group (members, subscriptions) ─▶ member (connections, other shards)
//!        └──▶ ledger (totals, what each connection holds)
//! ```
//!
//! Invariants: every group has a member, and every member a connection to this or another shard.
//! The ledger counts what the groups hold and knows which members belong to which connection. Names
//! are at most 255 bytes, so the counts also bound the memory: about 300 MB at the limits.

mod group;
mod ledger;
mod member;
mod presence;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::group::Group;
use self::ledger::{Ledger, MEMBERS_MAX, Membership, Role, full};
use self::member::Member;
use self::subscription::{Changes, InEffect};
use super::filter::TagFilter;
use crate::model::Peer;
use crate::model::reply::{GroupConnections, MemberConnections, MemberList};
use crate::model::request::{ConsumerData, Heartbeat};
use crate::model::{ClientId, GroupName, Moment, Refusal, ShardId, TopicName};

/// A client without a heartbeat for this long is removed, ms.
pub const CLIENT_LEASE_MS: u64 = 120_000;
/// Maximum number of consumer groups per shard, and of producer groups.
pub const GROUPS_MAX: usize = 20_000;
/// Maximum number of members of a group. Their ids are sent in one reply, which must fit in a
/// frame.
const GROUP_MEMBERS_MAX: usize = 10_000;
/// Maximum number of [`Note`]s kept until they are taken.
const NOTES_MAX: usize = 16;

/// The producer group of every Java client.
const INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";

#[derive(Debug)]
pub struct Groups {
    consumers: Table,
    producers: Table,
    ledger: Ledger,
    /// The consumer groups of each client that is connected to this shard.
    here: BTreeMap<ClientId, BTreeSet<GroupName>>,
    /// The latest report of each other shard about each client.
    remote: BTreeMap<(ShardId, ClientId), RemoteClient>,
    /// Clients with changes that the other shards have not received yet.
    unreported: BTreeSet<ClientId>,
    /// Number of reports sent to the other shards.
    sequence: u64,
    /// Consumer groups whose members or topics have changed since the last call of
    /// [`Groups::take_changed`].
    changed: BTreeSet<GroupName>,
    /// Connections over which a consumer may be reached no longer: it has left a group there, or uses
    /// a later connection.
    superseded: BTreeSet<u64>,
    /// The member list requested last. When the members of a group change, all of them request it.
    listed: Option<(GroupName, Arc<MemberList>)>,
    notes: Vec<Note>,
}

/// A client as another shard last reported it.
#[derive(Debug)]
struct RemoteClient {
    sequence: u64,
    groups: BTreeSet<GroupName>,
}

/// An observation for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Two members of a group subscribe to different topics or tags; `topic` is one of the first.
    Differ { group: GroupName, members: [ClientId; 2], topic: TopicName },
    /// Two processes use one client id.
    Shared { client: ClientId, peers: Vec<Peer> },
}

/// Consumer groups, or producer groups.
#[derive(Debug)]
struct Table {
    role: Role,
    /// Sorted rather than hashed, because clients choose the names and could provoke collisions.
    groups: BTreeMap<GroupName, Group>,
}

impl Default for Groups {
    fn default() -> Self {
        let table = |role| Table { role, groups: BTreeMap::new() };
        Self {
            consumers: table(Role::Consumer),
            producers: table(Role::Producer),
            ledger: Ledger::default(),
            here: BTreeMap::new(),
            remote: BTreeMap::new(),
            unreported: BTreeSet::new(),
            sequence: 0,
            changed: BTreeSet::new(),
            superseded: BTreeSet::new(),
            listed: None,
            notes: Vec::new(),
        }
    }
}

/// The sender of a heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub connection: u64,
    pub peer: Peer,
    pub now: Moment,
}

impl Groups {
    /// Registers everything in a client's heartbeat. If a limit is reached, existing items stay,
    /// what fits is accepted, and the refusal names the first item that did not fit.
    pub fn heartbeat(&mut self, heartbeat: &Heartbeat, sender: Sender) -> Result<(), Refusal> {
        // One copy for all groups, which does not keep the heartbeat's read buffer alive.
        let client = ClientId::from(&*heartbeat.client);
        let mut taken = Ok(());
        for group in &heartbeat.producers {
            let outcome = self.producers.beat(group, &client, sender, &mut self.ledger);
            taken = taken.and(outcome.map(drop));
        }
        for consumer in &heartbeat.consumers {
            taken = taken.and(self.consume(consumer, &client, sender));
        }
        taken
    }

    fn consume(
        &mut self,
        consumer: &ConsumerData,
        client: &ClientId,
        sender: Sender,
    ) -> Result<(), Refusal> {
        let outcome = self.consumers.beat(&consumer.group, client, sender, &mut self.ledger)?;
        let HeartbeatOutcome { name, is_new_member, is_unreported } = outcome;
        if is_unreported {
            self.unreported.insert(client.clone());
            self.here.entry(client.clone()).or_default().insert(name.clone());
            self.note_shared(&name, client);
            let group = self.consumers.groups.get(&name);
            let member = group.and_then(|group| group.members.get(client));
            let lines = member.map_or(&[][..], Member::lines);
            self.superseded.extend(lines.iter().rev().skip(1).map(|line| line.connection));
        }
        if is_new_member {
            self.note_members_changed(&name);
        }
        self.subscribe(&name, client, consumer)
    }

    fn subscribe(
        &mut self,
        name: &GroupName,
        client: &ClientId,
        consumer: &ConsumerData,
    ) -> Result<(), Refusal> {
        let Some(group) = self.consumers.groups.get_mut(name) else { return Ok(()) };
        let mut changes = Changes::default();
        let subscribed = group.subscribe(client, consumer, &mut changes, &mut self.ledger);
        if changes.of_topics {
            self.changed.insert(name.clone());
        }
        if changes.any {
            self.unreported.insert(client.clone());
        }
        if let Some((other, topic)) = changes.differs {
            let members = [other, client.clone()];
            self.note(Note::Differ { group: name.clone(), members, topic });
        }
        subscribed
    }

    fn note_shared(&mut self, group: &GroupName, client: &ClientId) {
        let member = self.consumers.groups.get(group).and_then(|group| group.members.get(client));
        if let Some(member) = member.filter(|member| member.is_shared()) {
            let peers = member.peers().to_vec();
            self.note(Note::Shared { client: client.clone(), peers });
        }
    }

    fn note(&mut self, note: Note) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Ends the memberships of a client that unregisters over `connection`, or at another shard of
    /// this process if that is `None`. Returns whether the client is gone from all shards: false if
    /// a second process uses the client id here.
    pub fn unregister(
        &mut self,
        client: &ClientId,
        producer: Option<&GroupName>,
        consumer: Option<&GroupName>,
        connection: Option<u64>,
    ) -> bool {
        let mut is_gone = true;
        for (role, group) in [(Role::Producer, producer), (Role::Consumer, consumer)] {
            let Some(group) = group else { continue };
            let membership = Membership { role, group: group.clone(), client: client.clone() };
            let Some(member) = self.member(&membership) else { continue };
            let all = member.lines().len();
            let ending = member.lines_to_end(connection);
            if ending.len() == all {
                self.forget_elsewhere(&membership);
            } else if role == Role::Consumer {
                is_gone = false;
                // Another shard may have just forgotten that the client is connected here.
                self.unreported.insert(client.clone());
            }
            ending.into_iter().for_each(|connection| self.leave(&membership, connection));
        }
        is_gone
    }

    pub fn connection_closed(&mut self, connection: u64) {
        let memberships = self.ledger.of_connection(connection);
        memberships.iter().for_each(|membership| self.leave(membership, connection));
    }

    /// Removes clients that have been silent for too long.
    pub fn expire(&mut self, now: Moment) {
        let silent: Vec<(Membership, u64)> = [&self.producers, &self.consumers]
            .into_iter()
            .flat_map(|table| table.silent_since(now))
            .collect();
        silent.iter().for_each(|(membership, connection)| self.leave(membership, *connection));
    }

    fn member(&self, membership: &Membership) -> Option<&Member> {
        let Membership { role, group, client } = membership;
        let table = match role {
            Role::Consumer => &self.consumers,
            Role::Producer => &self.producers,
        };
        table.groups.get(group)?.members.get(client)
    }

    fn member_mut(&mut self, membership: &Membership) -> Option<&mut Member> {
        let Membership { role, group, client } = membership;
        self.table_mut(*role).groups.get_mut(group)?.members.get_mut(client)
    }

    fn table_mut(&mut self, role: Role) -> &mut Table {
        match role {
            Role::Consumer => &mut self.consumers,
            Role::Producer => &mut self.producers,
        }
    }

    /// Removes a connection of a member; without any, the member leaves the group.
    fn leave(&mut self, membership: &Membership, connection: u64) {
        let Some(member) = self.member_mut(membership) else { return };
        if !member.drop_line(connection) {
            return;
        }
        let is_here = !member.lines().is_empty();
        self.ledger.disconnected(connection, membership);
        if membership.role == Role::Consumer {
            let Membership { group, client, .. } = membership;
            self.unreported.insert(client.clone());
            self.superseded.insert(connection);
            if !is_here && let Some(groups) = self.here.get_mut(client) {
                groups.remove(group);
                if groups.is_empty() {
                    self.here.remove(client);
                }
            }
        }
        self.settle(membership);
    }

    /// Removes a member that is no longer connected to any shard, and its group if that is now
    /// empty.
    fn settle(&mut self, Membership { role, group: name, client }: &Membership) {
        let Self { consumers, producers, ledger, .. } = self;
        let table = match role {
            Role::Consumer => consumers,
            Role::Producer => producers,
        };
        let Some(group) = table.groups.get_mut(name) else { return };
        if !group.members.get(client).is_some_and(Member::is_gone) {
            return;
        }
        group.leave(client, ledger);
        if group.members.is_empty() {
            table.groups.remove(name);
        }
        if *role == Role::Consumer {
            self.note_members_changed(name);
        }
    }

    /// Notes that the members of a consumer group have changed. If none is left, there is no one to
    /// notify.
    fn note_members_changed(&mut self, group: &GroupName) {
        self.listed.take_if(|(listed, _)| listed == group);
        if self.has_members(group) {
            self.changed.insert(group.clone());
        }
    }

    /// Consumer groups whose members or topics have changed since this was last called.
    pub fn take_changed(&mut self) -> BTreeSet<GroupName> {
        std::mem::take(&mut self.changed)
    }

    /// Connections over which a consumer may be reached no longer since this was last called.
    pub fn take_superseded(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.superseded)
    }

    pub fn has_changed(&self, group: &GroupName) -> bool {
        self.changed.contains(group)
    }

    /// Connections to notify of a change of a group. None if it is broadcasting, because its
    /// members share nothing (remoting reference, 5.23).
    pub fn connections_to_notify(&self, group: &GroupName) -> BTreeSet<u64> {
        let group = self.consumers.groups.get(group).filter(|group| !group.is_broadcasting());
        let members = group.into_iter().flat_map(|group| group.members.values());
        members.flat_map(|member| member.lines()).map(|line| line.connection).collect()
    }

    /// The connections of a group's members to this shard.
    pub fn connections_of(&self, group: &GroupName) -> BTreeSet<u64> {
        let members =
            self.consumers.groups.get(group).into_iter().flat_map(|of| of.members.values());
        members.flat_map(|member| member.lines()).map(|line| line.connection).collect()
    }

    /// Whether the group consumes by broadcasting, according to its last heartbeat.
    pub fn is_broadcasting(&self, group: &GroupName) -> bool {
        self.consumers.groups.get(group).is_some_and(Group::is_broadcasting)
    }

    pub fn has_members(&self, group: &GroupName) -> bool {
        self.consumers.groups.contains_key(group)
    }

    /// The connection of a client that is a producer.
    pub fn producer_connection(&self, client: &str) -> Option<u64> {
        // Every Java client is in this group, so the other groups are rarely searched.
        let first = self.producers.groups.get(INNER_PRODUCER);
        let mut groups = first.into_iter().chain(self.producers.groups.values());
        groups.find_map(|group| Some(group.members.get(client)?.lines().last()?.connection))
    }

    /// The members of a consumer group that are connected to this shard, each with its latest connection.
    pub fn members_here(&self, group: &GroupName) -> impl Iterator<Item = (&ClientId, u64)> {
        let members = self.consumers.groups.get(group).map(|group| group.members.iter());
        members.into_iter().flatten().filter_map(|(client, member)| {
            member.lines().last().map(|line| (client, line.connection))
        })
    }

    pub fn members(&mut self, group: &GroupName) -> Result<Arc<MemberList>, Refusal> {
        if let Some((listed, members)) = &self.listed
            && listed == group
        {
            return Ok(members.clone());
        }
        let Some((name, group)) = self.consumers.groups.get_key_value(group) else {
            return Err(Refusal::NoConsumer(group.detached()));
        };
        let members = Arc::new(MemberList::new(group.members.keys().cloned().collect()));
        self.listed = Some((name.clone(), members.clone()));
        Ok(members)
    }

    /// The members of a consumer group, with their connections and subscriptions.
    pub fn consumers(&self, group: &GroupName) -> Option<GroupConnections> {
        let group = self.consumers.groups.get(group)?;
        Some(GroupConnections {
            members: connections(group),
            consume_type: group.consume_type,
            model: group.model,
            subscriptions: group.subscriptions.iter().collect(),
        })
    }

    pub fn producers(&self, group: &GroupName) -> Option<Vec<MemberConnections>> {
        self.producers.groups.get(group).map(connections)
    }

    /// Consumer groups with members that subscribe to a topic.
    pub fn subscribed_to(&self, topic: &TopicName) -> impl Iterator<Item = &GroupName> {
        let groups = self.consumers.groups.iter();
        groups.filter(|(_, group)| group.subscriptions.get(topic).is_some()).map(|(name, _)| name)
    }

    /// The filter for `topic` from a group's heartbeats. On a refusal, stock clients send a
    /// heartbeat and retry.
    pub fn filter(
        &self,
        group: &GroupName,
        topic: &TopicName,
        version: i64,
    ) -> Result<TagFilter, Refusal> {
        let known =
            self.consumers.groups.get(group).and_then(|group| group.subscriptions.get(topic));
        let Some(InEffect { filter, version_max }) = known else {
            return Err(Refusal::NotSubscribed {
                group: group.detached(),
                topic: topic.detached(),
            });
        };
        if version_max < version {
            return Err(Refusal::SubscriptionOutdated(group.detached()));
        }
        filter.clone()
    }
}

fn connections(group: &Group) -> Vec<MemberConnections> {
    let connections = |(client, member): (&ClientId, &Member)| MemberConnections {
        client: client.clone(),
        peers: member.peers().to_vec(),
        is_shared: member.is_shared(),
    };
    group.members.iter().map(connections).collect()
}

/// The result of a member's heartbeat.
struct HeartbeatOutcome {
    /// The table's copy of the group's name.
    name: GroupName,
    is_new_member: bool,
    /// The other shards do not know about this connection yet.
    is_unreported: bool,
}

impl Table {
    fn beat(
        &mut self,
        name: &GroupName,
        client: &ClientId,
        sender: Sender,
        ledger: &mut Ledger,
    ) -> Result<HeartbeatOutcome, Refusal> {
        let role = self.role;
        let (name, member, is_new_member) = self.join(name, client, ledger)?;
        let Sender { connection, peer, now } = sender;
        let is_new_line = member.lines().iter().all(|line| line.connection != connection);
        let is_unreported = member.beat(connection, peer, now);
        if is_new_line {
            let membership = Membership { role, group: name.clone(), client: client.clone() };
            ledger.connected(connection, membership);
        }
        Ok(HeartbeatOutcome { name, is_new_member, is_unreported })
    }

    /// Makes `client` a member of group `name`, creating the group for its first member; the caller connects
    /// it. Returns the table's copy of the name, and whether the member is new to the group.
    fn join(
        &mut self,
        name: &GroupName,
        client: &ClientId,
        ledger: &mut Ledger,
    ) -> Result<(GroupName, &mut Member, bool), Refusal> {
        let known = self.groups.get_key_value(name);
        let group = known.map(|(_, group)| group);
        let is_member = group.is_some_and(|group| group.members.contains_key(client));
        if group.is_none() && self.groups.len() >= GROUPS_MAX {
            return full("groups", GROUPS_MAX);
        }
        if group.is_some_and(|group| group.members.len() >= GROUP_MEMBERS_MAX) && !is_member {
            return full("members of this group", GROUP_MEMBERS_MAX);
        }
        if ledger.members >= MEMBERS_MAX && !is_member {
            return full("members of groups", MEMBERS_MAX);
        }
        ledger.members += usize::from(!is_member);
        let name = known.map_or_else(|| name.detached(), |(known, _)| known.clone());
        let group = self.groups.entry(name.clone()).or_default();
        Ok((name, group.members.entry(client.clone()).or_default(), !is_member))
    }

    fn silent_since(&self, now: Moment) -> Vec<(Membership, u64)> {
        let role = self.role;
        let mut silent = Vec::new();
        for (group, of) in &self.groups {
            for (client, member) in &of.members {
                for line in member.lines() {
                    if now.ms_since(line.seen_at) >= CLIENT_LEASE_MS {
                        let (group, client) = (group.clone(), client.clone());
                        silent.push((Membership { role, group, client }, line.connection));
                    }
                }
            }
        }
        silent
    }
}
