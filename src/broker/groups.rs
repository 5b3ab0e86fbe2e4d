//! Connected producers and consumers by group, and the subscriptions of consumer groups.
//!
//! Learned from heartbeats, and removed when the connection closes or no heartbeat arrives for
//! [`CLIENT_LEASE_MS`] (remoting reference, 5.23). Nothing here is durable: clients send it again.
//!
//! A group has one subscription per topic, whichever member sent it. During a change the members
//! disagree; [`Subscription::yields_to`] decides which one counts, so an older member's heartbeat
//! never undoes a newer member's change.
//!
//! Invariants: no group is without members, and the ledger counts what the groups hold and which
//! members belong to which connection. Names are at most 255 bytes, so the counts also bound the
//! memory: about 150 MB at the limits.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::filter::TagFilter;
use crate::model::request::{ConsumerData, Heartbeat, MessageModel, SubscriptionData};
use crate::model::{ClientId, GroupName, Moment, Refusal, TopicName};

/// A client without a heartbeat for this long is removed, ms.
pub const CLIENT_LEASE_MS: u64 = 120_000;
/// Maximum number of consumer groups per shard, and of producer groups.
pub const GROUPS_MAX: usize = 20_000;
/// Maximum number of members of all groups of a shard. A client is a member once for each of its
/// groups.
pub const MEMBERS_MAX: usize = 100_000;
/// Maximum number of members of a group. Their ids are sent in one reply, which must fit in a
/// frame.
const GROUP_MEMBERS_MAX: usize = 10_000;
/// Maximum number of subscriptions of all groups of a shard, and of their tags.
const SUBSCRIPTIONS_MAX: usize = 100_000;
const TAGS_MAX: usize = 1_000_000;

#[derive(Debug)]
pub struct Groups {
    consumers: Table,
    producers: Table,
    ledger: Ledger,
    /// Consumer groups whose members or topics have changed since the last call of
    /// [`Groups::take_changed`].
    changed: BTreeSet<GroupName>,
}

/// Consumer groups, or producer groups.
#[derive(Debug)]
struct Table {
    role: Role,
    /// Sorted rather than hashed, because clients choose the names and could provoke collisions.
    groups: BTreeMap<GroupName, Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Consumer,
    Producer,
}

/// Totals over all groups.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ledger {
    members: usize,
    subscriptions: usize,
    tags: usize,
    /// By connection, so the cost of closing one depends only on what it held.
    memberships: FxHashMap<u64, BTreeSet<Membership>>,
}

/// A client's membership in a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Membership {
    role: Role,
    group: GroupName,
    client: ClientId,
}

#[derive(Debug, Default)]
struct Group {
    /// By client id, so every shard lists the same members in the same order.
    members: BTreeMap<ClientId, Member>,
    /// Only for consumers.
    subscriptions: BTreeMap<TopicName, Subscription>,
    /// From its last heartbeat.
    is_broadcasting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    connection: u64,
    seen_at: Moment,
}

/// A group's subscription to one topic.
#[derive(Clone, Debug)]
struct Subscription {
    /// Or why the group's pulls are refused.
    filter: Result<TagFilter, Refusal>,
    /// Creation time by the client's clock (remoting reference, 5.5).
    version: i64,
    /// The member that sent it, which may have left since.
    owner: ClientId,
}

impl Subscription {
    /// Whether `other` replaces this subscription: the higher version wins (remoting reference,
    /// 5.5). Versions come from the clients' clocks, so two cases must not depend on them: a member
    /// may always replace its own subscription, even after its clock went backwards, and a member
    /// that has left binds no one.
    fn yields_to(&self, other: &Self, members: &BTreeMap<ClientId, Member>) -> bool {
        other.version > self.version
            || other.owner == self.owner
            || !members.contains_key(&self.owner)
    }

    fn tag_count(&self) -> usize {
        self.filter.as_ref().map_or(0, TagFilter::tag_count)
    }
}

impl Default for Groups {
    fn default() -> Self {
        let table = |role| Table { role, groups: BTreeMap::new() };
        let (consumers, producers) = (table(Role::Consumer), table(Role::Producer));
        Self { consumers, producers, ledger: Ledger::default(), changed: BTreeSet::new() }
    }
}

impl Groups {
    /// Registers everything in a client's heartbeat. If a limit is reached, existing items stay,
    /// what fits is accepted, and the refusal names the first item that did not fit.
    pub fn heartbeat(
        &mut self,
        heartbeat: &Heartbeat,
        connection: u64,
        now: Moment,
    ) -> Result<(), Refusal> {
        let Self { consumers, producers, ledger, changed } = self;
        let member = Member { connection, seen_at: now };
        // One copy for all groups, which does not keep the heartbeat's read buffer alive.
        let client = ClientId::from(&*heartbeat.client);
        let mut taken = Ok(());
        for group in &heartbeat.producers {
            taken = taken.and(producers.join(group, &client, member, ledger).map(|_| ()));
        }
        for consumer in &heartbeat.consumers {
            let joined = consumers.join(&consumer.group, &client, member, ledger);
            let changes = joined.and_then(|(group, is_new)| {
                group.is_broadcasting = consumer.model == MessageModel::Broadcasting;
                let has_new_topics = group.subscribe(&client, consumer, ledger)?;
                Ok(is_new || has_new_topics)
            });
            if *changes.as_ref().unwrap_or(&true) {
                changed.insert(consumer.group.detached());
            }
            taken = taken.and(changes.map(|_| ()));
        }
        taken
    }

    pub fn unregister(
        &mut self,
        client: &ClientId,
        producer: Option<&GroupName>,
        consumer: Option<&GroupName>,
    ) {
        for (role, group) in [(Role::Producer, producer), (Role::Consumer, consumer)] {
            if let Some(group) = group {
                self.leave(&Membership { role, group: group.clone(), client: client.clone() });
            }
        }
    }

    pub fn connection_closed(&mut self, connection: u64) {
        let memberships: Vec<Membership> =
            self.ledger.memberships.get(&connection).into_iter().flatten().cloned().collect();
        memberships.iter().for_each(|membership| self.leave(membership));
    }

    /// Removes clients that have been silent for too long.
    pub fn expire(&mut self, now: Moment) {
        let is_silent = |member: &Member| now.ms_since(member.seen_at) >= CLIENT_LEASE_MS;
        let silent: Vec<Membership> = [&self.producers, &self.consumers]
            .into_iter()
            .flat_map(|table| table.memberships_of(is_silent))
            .collect();
        silent.iter().for_each(|membership| self.leave(membership));
    }

    /// Ends a membership if it exists.
    fn leave(&mut self, membership: &Membership) {
        let Self { consumers, producers, ledger, changed } = self;
        let table = match membership.role {
            Role::Consumer => consumers,
            Role::Producer => producers,
        };
        let Some(group) = table.groups.get_mut(&membership.group) else { return };
        let Some(member) = group.members.remove(&membership.client) else { return };
        ledger.left(member.connection, membership);
        if group.members.is_empty() {
            ledger.group_left(group);
            table.groups.remove(&membership.group);
        } else if membership.role == Role::Consumer {
            changed.insert(membership.group.clone());
        }
    }

    /// Consumer groups whose members or topics have changed since this was last called.
    pub fn take_changed(&mut self) -> BTreeSet<GroupName> {
        std::mem::take(&mut self.changed)
    }

    pub fn has_changed(&self, group: &GroupName) -> bool {
        self.changed.contains(group)
    }

    /// Connections to notify of a change of a group. Members of a broadcasting group share nothing,
    /// so none (remoting reference, 5.23).
    pub fn connections_to_tell(&self, group: &GroupName) -> BTreeSet<u64> {
        let group = self.consumers.groups.get(group).filter(|group| !group.is_broadcasting);
        let members = group.into_iter().flat_map(|group| group.members.values());
        members.map(|member| member.connection).collect()
    }

    /// Whether the group's last heartbeat said that it consumes by broadcasting.
    pub fn is_broadcasting(&self, group: &GroupName) -> bool {
        self.consumers.groups.get(group).is_some_and(|group| group.is_broadcasting)
    }

    pub fn has_members(&self, group: &GroupName) -> bool {
        self.consumers.groups.contains_key(group)
    }

    pub fn members(&self, group: &GroupName) -> Result<Vec<ClientId>, Refusal> {
        match self.consumers.groups.get(group) {
            Some(group) => Ok(group.members.keys().cloned().collect()),
            None => Err(Refusal::NoConsumer(group.detached())),
        }
    }

    /// The filter that a group's heartbeats gave for `topic`. On a refusal, stock clients send a
    /// heartbeat and retry.
    pub fn filter(
        &self,
        group: &GroupName,
        topic: &TopicName,
        version: i64,
    ) -> Result<TagFilter, Refusal> {
        let known =
            self.consumers.groups.get(group).and_then(|group| group.subscriptions.get(topic));
        let Some(subscription) = known else {
            return Err(Refusal::NotSubscribed {
                group: group.detached(),
                topic: topic.detached(),
            });
        };
        if subscription.version < version {
            return Err(Refusal::SubscriptionOutdated(group.detached()));
        }
        subscription.filter.clone()
    }
}

impl Table {
    /// Makes `client` a member of group `name`, creating the group for its first member. Returns
    /// whether it is new to the group.
    fn join(
        &mut self,
        name: &GroupName,
        client: &ClientId,
        member: Member,
        ledger: &mut Ledger,
    ) -> Result<(&mut Group, bool), Refusal> {
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
        let name = known.map_or_else(|| name.detached(), |(known, _)| known.clone());
        let group = self.groups.entry(name.clone()).or_default();
        let before = group.members.insert(client.clone(), member).map(|before| before.connection);
        if before != Some(member.connection) {
            let membership = Membership { role: self.role, group: name, client: client.clone() };
            if let Some(before) = before {
                ledger.left(before, &membership);
            }
            ledger.joined(member.connection, membership);
        }
        Ok((group, before.is_none()))
    }

    fn memberships_of(&self, is_wanted: impl Fn(&Member) -> bool) -> Vec<Membership> {
        let role = self.role;
        let memberships = self.groups.iter().flat_map(|(group, of)| {
            let wanted = of.members.iter().filter(|(_, member)| is_wanted(member));
            wanted.map(move |(client, _)| Membership {
                role,
                group: group.clone(),
                client: client.clone(),
            })
        });
        memberships.collect()
    }
}

impl Ledger {
    fn joined(&mut self, connection: u64, membership: Membership) {
        let is_new = self.memberships.entry(connection).or_default().insert(membership);
        assert!(is_new, "one joins once");
        self.members += 1;
    }

    fn left(&mut self, connection: u64, membership: &Membership) {
        let memberships = self.memberships.get_mut(&connection).expect("members are in the ledger");
        assert!(memberships.remove(membership), "members are in the ledger");
        if memberships.is_empty() {
            self.memberships.remove(&connection);
        }
        self.members -= 1;
    }

    /// Removes a group that has no members left from the ledger.
    fn group_left(&mut self, group: &Group) {
        self.subscriptions -= group.subscriptions.len();
        self.tags -= group.tag_count();
    }
}

impl Group {
    /// Updates the subscriptions of `client`. A topic that it no longer lists is removed if this
    /// client, or a member that has left, sent it. Returns whether the group's topics have changed.
    fn subscribe(
        &mut self,
        client: &ClientId,
        consumer: &ConsumerData,
        ledger: &mut Ledger,
    ) -> Result<bool, Refusal> {
        let mut wanted = BTreeMap::new();
        for SubscriptionData { topic, expression, version } in &consumer.subscriptions {
            // An invalid expression is refused when the group pulls, and must not fail the heartbeat.
            let filter = TagFilter::parse(expression);
            let (version, owner) = (*version, client.clone());
            wanted.insert(topic, Subscription { filter, version, owner });
        }
        let is_dropped = |topic: &TopicName, known: &Subscription| {
            let is_mine = known.owner == *client || !self.members.contains_key(&known.owner);
            is_mine && !wanted.contains_key(topic)
        };
        let dropped: Vec<TopicName> = self
            .subscriptions
            .iter()
            .filter(|(topic, known)| is_dropped(topic, known))
            .map(|(topic, _)| topic.clone())
            .collect();
        let mut is_changed = !dropped.is_empty();
        for topic in dropped {
            self.remove(&topic, ledger);
        }
        for (topic, wanted) in wanted {
            is_changed |= !self.subscriptions.contains_key(topic);
            self.set(topic, wanted, ledger)?;
        }
        Ok(is_changed)
    }

    fn set(
        &mut self,
        topic: &TopicName,
        wanted: Subscription,
        ledger: &mut Ledger,
    ) -> Result<(), Refusal> {
        let known = self.subscriptions.get(topic);
        if known.is_some_and(|known| !known.yields_to(&wanted, &self.members)) {
            return Ok(());
        }
        let (known_count, known_tags) = known.map_or((0, 0), |known| (1, known.tag_count()));
        let tag_count = wanted.tag_count();
        if ledger.subscriptions + 1 - known_count > SUBSCRIPTIONS_MAX {
            return full("subscriptions", SUBSCRIPTIONS_MAX);
        }
        if ledger.tags - known_tags + tag_count > TAGS_MAX {
            return full("tags of subscriptions", TAGS_MAX);
        }
        ledger.subscriptions += 1 - known_count;
        ledger.tags = ledger.tags - known_tags + tag_count;
        self.subscriptions.insert(topic.detached(), wanted);
        Ok(())
    }

    fn remove(&mut self, topic: &TopicName, ledger: &mut Ledger) {
        if let Some(known) = self.subscriptions.remove(topic) {
            ledger.subscriptions -= 1;
            ledger.tags -= known.tag_count();
        }
    }

    fn tag_count(&self) -> usize {
        self.subscriptions.values().map(Subscription::tag_count).sum()
    }
}

#[cold]
fn full<T>(what: &'static str, count_max: usize) -> Result<T, Refusal> {
    Err(Refusal::Full { what, count_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::{ConsumeType, Expression, SubscriptionData};
    use crate::sim::Rng;

    fn group() -> GroupName {
        GroupName::new("g").unwrap()
    }

    fn topic() -> TopicName {
        TopicName::new("t").unwrap()
    }

    fn heartbeat(client: &str, version: i64) -> Heartbeat {
        let expression = Expression { kind: "TAG".into(), text: "A".into() };
        let subscriptions = vec![SubscriptionData { topic: topic(), expression, version }];
        let consumer = ConsumerData {
            group: group(),
            consume_type: ConsumeType::Passively,
            model: MessageModel::Clustering,
            subscriptions,
        };
        Heartbeat {
            client: client.to_owned().into(),
            consumers: vec![consumer],
            ..Heartbeat::default()
        }
    }

    fn members(groups: &Groups) -> Vec<String> {
        let members = groups.members(&group()).unwrap_or_default();
        members.iter().map(|member| member.to_string()).collect()
    }

    #[test]
    fn members_come_with_heartbeats_and_go_with_connections_and_time() {
        let mut groups = Groups::default();
        assert_eq!(groups.members(&group()), Err(Refusal::NoConsumer(group())));
        groups.heartbeat(&heartbeat("b", 1), 1, Moment(0)).unwrap();
        groups.heartbeat(&heartbeat("a", 1), 2, Moment(60_000)).unwrap();
        assert_eq!(members(&groups), ["a", "b"]);
        groups.expire(Moment(CLIENT_LEASE_MS));
        assert_eq!(members(&groups), ["a"]);
        groups.connection_closed(2);
        assert!(members(&groups).is_empty());
    }

    #[test]
    fn a_client_that_comes_back_on_another_connection_survives_the_old_one() {
        let mut groups = Groups::default();
        groups.heartbeat(&heartbeat("a", 1), 1, Moment(0)).unwrap();
        groups.heartbeat(&heartbeat("a", 1), 2, Moment(1)).unwrap();
        groups.connection_closed(1);
        assert_eq!(members(&groups), ["a"]);
    }

    #[test]
    fn a_pull_with_a_newer_subscription_waits_for_the_heartbeat() {
        let mut groups = Groups::default();
        assert!(matches!(groups.filter(&group(), &topic(), 0), Err(Refusal::NotSubscribed { .. })));
        groups.heartbeat(&heartbeat("a", 5), 1, Moment(0)).unwrap();
        assert!(groups.filter(&group(), &topic(), 5).is_ok());
        assert_eq!(
            groups.filter(&group(), &topic(), 6),
            Err(Refusal::SubscriptionOutdated(group()))
        );
    }

    /// `client` subscribes to `topics`, each with a tag and a version.
    fn subscribes(client: &str, topics: &[(&str, &str, i64)]) -> Heartbeat {
        let mut beat = heartbeat(client, 0);
        let subscription = |&(topic, tag, version): &(&str, &str, i64)| SubscriptionData {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            expression: Expression { kind: "TAG".into(), text: tag.into() },
            version,
        };
        beat.consumers[0].subscriptions = topics.iter().map(subscription).collect();
        beat
    }

    /// The tag and version in effect for a topic of the group.
    fn subscribed(groups: &Groups, topic: &str) -> Option<(TagFilter, i64)> {
        let group = groups.consumers.groups.get(&group())?;
        let known = group.subscriptions.get(&TopicName::new(topic.to_owned()).unwrap())?;
        Some((known.filter.clone().unwrap(), known.version))
    }

    fn only(tag: &str, version: i64) -> Option<(TagFilter, i64)> {
        let expression = Expression { kind: "TAG".into(), text: tag.into() };
        Some((TagFilter::parse(&expression).unwrap(), version))
    }

    /// One step of a subscription change, and the subscriptions in effect for topics `t` and `u`
    /// after it.
    enum Step {
        Beats(&'static str, &'static [(&'static str, &'static str, i64)]),
        Leaves(&'static str),
    }

    /// Remoting reference, 5.5: the higher version wins for each topic.
    #[test]
    fn an_older_member_never_undoes_what_a_newer_one_has_changed() {
        use Step::*;
        type Counts = (Option<(&'static str, i64)>, Option<(&'static str, i64)>);
        let steps: [(Step, Counts); 12] = [
            (Beats("old", &[("t", "A", 5)]), (Some(("A", 5)), None)),
            (Beats("new", &[("t", "B", 7), ("u", "B", 7)]), (Some(("B", 7)), Some(("B", 7)))),
            (Beats("old", &[("t", "A", 5)]), (Some(("B", 7)), Some(("B", 7)))),
            // Its clock went backwards; its change counts anyway.
            (Beats("new", &[("t", "C", 6), ("u", "B", 7)]), (Some(("C", 6)), Some(("B", 7)))),
            (Beats("old", &[("t", "A", 5)]), (Some(("C", 6)), Some(("B", 7)))),
            // It drops the second topic, which it had added itself.
            (Beats("new", &[("t", "C", 6)]), (Some(("C", 6)), None)),
            (Beats("old", &[("t", "A", 5), ("u", "A", 5)]), (Some(("C", 6)), Some(("A", 5)))),
            (Beats("new", &[("t", "C", 6)]), (Some(("C", 6)), Some(("A", 5)))),
            // A subscription of a member that has left stays until another member changes it, and
            // binds no one.
            (Leaves("new"), (Some(("C", 6)), Some(("A", 5)))),
            (Beats("late", &[("t", "D", 1)]), (Some(("D", 1)), Some(("A", 5)))),
            (Leaves("old"), (Some(("D", 1)), Some(("A", 5)))),
            (Beats("late", &[("t", "D", 1)]), (Some(("D", 1)), None)),
        ];
        let mut groups = Groups::default();
        for (at, (step, (t, u))) in steps.into_iter().enumerate() {
            match step {
                Beats(client, topics) => {
                    groups.heartbeat(&subscribes(client, topics), 1, Moment(0)).unwrap();
                }
                Leaves(client) => groups.unregister(&client.into(), None, Some(&group())),
            }
            let expected = [t, u].map(|one| one.and_then(|(tag, version)| only(tag, version)));
            let found = ["t", "u"].map(|topic| subscribed(&groups, topic));
            assert_eq!(found, expected, "step {at}");
            assert_eq!(groups.ledger, counted(&groups), "step {at}");
        }
    }

    fn names(count: usize) -> Vec<GroupName> {
        (0..count).map(|number| GroupName::new(format!("g{number}")).unwrap()).collect()
    }

    fn producers_of(client: String, producers: &[GroupName]) -> Heartbeat {
        Heartbeat { client: client.into(), producers: producers.to_vec(), ..Heartbeat::default() }
    }

    /// The ledger, recomputed.
    fn counted(groups: &Groups) -> Ledger {
        let mut ledger = Ledger::default();
        for table in [&groups.producers, &groups.consumers] {
            for (name, group) in &table.groups {
                assert!(!group.members.is_empty());
                ledger.subscriptions += group.subscriptions.len();
                ledger.tags += group.tag_count();
                for (client, member) in &group.members {
                    let (group, client) = (name.clone(), client.clone());
                    ledger
                        .joined(member.connection, Membership { role: table.role, group, client });
                }
            }
        }
        ledger
    }

    fn counts(ledger: &Ledger) -> (usize, usize, usize) {
        (ledger.members, ledger.subscriptions, ledger.tags)
    }

    /// Clients connect, reconnect, unregister, fall silent and lose connections.
    #[test]
    fn the_ledger_says_what_the_groups_hold() {
        let (mut groups, mut rng) = (Groups::default(), Rng::from_seed(3));
        let all = names(4);
        for step in 0..5_000 {
            let (client, connection) = (format!("c{}", rng.below(6)), rng.below(5));
            let of = all[rng.below(4) as usize].clone();
            match rng.below(8) {
                0..4 => {
                    let mut beat = heartbeat(&client, 1);
                    beat.consumers[0].group = of.clone();
                    beat.producers = all[rng.below(4) as usize..].to_vec();
                    groups.heartbeat(&beat, connection, Moment(step)).unwrap();
                }
                4 => groups.connection_closed(connection),
                5 => groups.unregister(&client.into(), Some(&of), None),
                6 => groups.unregister(&client.into(), None, Some(&of)),
                _ => groups.expire(Moment(step + CLIENT_LEASE_MS - rng.below(20))),
            }
            assert_eq!(groups.ledger, counted(&groups), "step {step}");
        }
        (0..5).for_each(|connection| groups.connection_closed(connection));
        assert_eq!(groups.ledger, Ledger::default());
        assert!(groups.producers.groups.is_empty() && groups.consumers.groups.is_empty());
    }

    #[test]
    fn all_groups_of_a_client_hold_one_copy_of_its_id() {
        let mut groups = Groups::default();
        let groups_of_it = names(3);
        groups.heartbeat(&producers_of("c".repeat(200), &groups_of_it), 1, Moment(0)).unwrap();
        let members = groups_of_it.iter().map(|group| &groups.producers.groups[group].members);
        let places: Vec<*const u8> =
            members.map(|members| members.first_key_value().unwrap().0.as_ptr()).collect();
        assert_eq!(places, [places[0]; 3]);
    }

    #[test]
    fn what_is_full_takes_no_more_and_keeps_what_it_has() {
        let full = |what, count_max| Err(Refusal::Full { what, count_max });
        let mut groups = Groups::default();
        let all = names(GROUPS_MAX + 1);
        let beat = |groups: &mut Groups, client: &str, of: &[GroupName], at| {
            groups.heartbeat(&producers_of(client.to_owned(), of), 1, Moment(at))
        };
        assert_eq!(beat(&mut groups, "c0", &all, 0), full("groups", GROUPS_MAX));
        assert_eq!(groups.producers.groups.len(), GROUPS_MAX);
        for client in 1..MEMBERS_MAX / GROUPS_MAX {
            beat(&mut groups, &format!("c{client}"), &all[..GROUPS_MAX], 0).unwrap();
        }
        let full_members = full("members of groups", MEMBERS_MAX);
        assert_eq!(beat(&mut groups, "late", &all[..1], 0), full_members);
        assert_eq!(groups.heartbeat(&heartbeat("late", 1), 1, Moment(0)), full_members);
        assert!(groups.consumers.groups.is_empty(), "a group that nobody could join is not kept");
        assert_eq!(beat(&mut groups, "c0", &all[..1], 9), Ok(()), "who is known stays known");
        assert_eq!(groups.ledger, counted(&groups));
        groups.expire(Moment(CLIENT_LEASE_MS + 1));
        assert_eq!(counts(&groups.ledger), (1, 0, 0));
        assert_eq!(groups.ledger, counted(&groups));
    }

    #[test]
    fn subscriptions_and_their_tags_are_counted() {
        let mut groups = Groups::default();
        let with = |client: &str, topics: std::ops::Range<usize>, tags: usize| {
            let mut one = heartbeat(client, 1);
            let text = vec!["t"; tags].join("||");
            let expression = Expression { kind: "TAG".into(), text };
            one.consumers[0].subscriptions = topics
                .map(|number| SubscriptionData {
                    topic: TopicName::new(format!("t{number}")).unwrap(),
                    expression: expression.clone(),
                    version: 1,
                })
                .collect();
            one
        };
        let mut beat = |one: &Heartbeat| {
            let taken = groups.heartbeat(one, 1, Moment(0));
            assert_eq!(groups.ledger, counted(&groups));
            (taken.is_ok(), groups.ledger.subscriptions, groups.ledger.tags)
        };
        assert_eq!(beat(&with("a", 0..10, 3)), (true, 10, 30));
        assert_eq!(beat(&with("a", 0..5, 4)), (true, 5, 20), "its last heartbeat counts");
        let (subscriptions, tags) = (SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX + 15);
        assert_eq!(beat(&with("b", 5..SUBSCRIPTIONS_MAX + 1, 1)), (false, subscriptions, tags));
        assert_eq!(beat(&with("b", 0..0, 1)), (true, 5, 20));
        let fits = (TAGS_MAX - 20) / 256;
        let (subscriptions, tags) = (5 + fits, 20 + fits * 256);
        assert_eq!(beat(&with("b", 5..5 + fits + 1, 256)), (false, subscriptions, tags));
        assert_eq!(beat(&with("b", 5..6, 1)), (true, 6, 21));
        groups.unregister(&"a".into(), None, Some(&group()));
        groups.unregister(&"b".into(), None, Some(&group()));
        assert_eq!(groups.ledger, Ledger::default());
    }
}
