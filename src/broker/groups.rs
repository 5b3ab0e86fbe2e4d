//! Who is connected: producers and consumers by group, and what consumer groups subscribe to.
//!
//! Known from heartbeats, forgotten when the connection closes or no heartbeat comes for
//! [`CLIENT_LEASE_MS`] (remoting reference, 5.23). Nothing of it is durable: clients tell it again.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::filter::TagFilter;
use crate::model::request::{ConsumerData, Heartbeat};
use crate::model::{ClientId, GroupName, Refusal, Timestamp, TopicName};

/// A client that has not sent a heartbeat for this long is gone, ms.
pub const CLIENT_LEASE_MS: u64 = 120_000;
/// Groups one shard remembers at a time.
const GROUPS_MAX: usize = 100_000;
/// Members one group may have, and topics it may subscribe to.
const MEMBERS_MAX: usize = 10_000;
const SUBSCRIPTIONS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Groups {
    consumers: FxHashMap<GroupName, ConsumerGroup>,
    producers: FxHashMap<GroupName, Members>,
}

#[derive(Debug, Default)]
struct ConsumerGroup {
    members: Members,
    subscriptions: FxHashMap<TopicName, Subscription>,
}

/// By client id, so that every shard lists the same members in the same order.
type Members = BTreeMap<ClientId, Member>;

#[derive(Debug)]
struct Member {
    connection: u64,
    seen_at: Timestamp,
}

#[derive(Clone, Debug)]
struct Subscription {
    filter: TagFilter,
    version: i64,
}

impl Groups {
    /// Registers everything a client says about itself. A group's subscriptions are those of the
    /// last heartbeat of any of its members.
    pub fn heartbeat(&mut self, heartbeat: &Heartbeat, connection: u64, now: Timestamp) {
        let member = || Member { connection, seen_at: now };
        for group in &heartbeat.producers {
            if let Some(members) = bounded_entry(&mut self.producers, group) {
                join(members, &heartbeat.client, member());
            }
        }
        for consumer in &heartbeat.consumers {
            if let Some(group) = bounded_entry(&mut self.consumers, &consumer.group) {
                join(&mut group.members, &heartbeat.client, member());
                group.subscribe(consumer);
            }
        }
    }

    pub fn unregister(
        &mut self,
        client: &ClientId,
        producer: Option<&GroupName>,
        consumer: Option<&GroupName>,
    ) {
        if let Some(members) = producer.and_then(|group| self.producers.get_mut(group)) {
            members.remove(client);
        }
        if let Some(group) = consumer.and_then(|group| self.consumers.get_mut(group)) {
            group.members.remove(client);
        }
        self.forget_empty();
    }

    pub fn connection_closed(&mut self, connection: u64) {
        self.retain(|member| member.connection != connection);
    }

    /// Forgets clients that have been silent for too long.
    pub fn expire(&mut self, now: Timestamp) {
        self.retain(|member| now.ms_since(member.seen_at) < CLIENT_LEASE_MS);
    }

    pub fn members(&self, group: &GroupName) -> Result<Vec<ClientId>, Refusal> {
        let members = self.consumers.get(group).map(|group| &group.members);
        match members {
            Some(members) if !members.is_empty() => Ok(members.keys().cloned().collect()),
            _ => Err(Refusal::NoConsumer(group.detached())),
        }
    }

    /// The filter a group's heartbeats gave for `topic`. Refusals make stock clients send a
    /// heartbeat and ask again.
    pub fn filter(
        &self,
        group: &GroupName,
        topic: &TopicName,
        version: i64,
    ) -> Result<TagFilter, Refusal> {
        let known = self.consumers.get(group).and_then(|group| group.subscriptions.get(topic));
        let Some(subscription) = known else {
            return Err(Refusal::NotSubscribed {
                group: group.detached(),
                topic: topic.detached(),
            });
        };
        if subscription.version < version {
            return Err(Refusal::SubscriptionOutdated(group.detached()));
        }
        Ok(subscription.filter.clone())
    }

    fn retain(&mut self, keep: impl Fn(&Member) -> bool) {
        self.producers.values_mut().for_each(|members| members.retain(|_, member| keep(member)));
        self.consumers.values_mut().for_each(|group| group.members.retain(|_, one| keep(one)));
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        self.producers.retain(|_, members| !members.is_empty());
        self.consumers.retain(|_, group| !group.members.is_empty());
    }
}

impl ConsumerGroup {
    fn subscribe(&mut self, consumer: &ConsumerData) {
        let mut subscriptions = FxHashMap::default();
        for data in consumer.subscriptions.iter().take(SUBSCRIPTIONS_MAX) {
            // An expression that cannot be read here is refused when the group pulls; until then
            // it must not stop the heartbeat, which always succeeds.
            if let Ok(filter) = TagFilter::parse(&data.expression) {
                let subscription = Subscription { filter, version: data.version };
                subscriptions.insert(data.topic.detached(), subscription);
            }
        }
        self.subscriptions = subscriptions;
    }
}

fn join(members: &mut Members, client: &ClientId, member: Member) {
    if members.len() < MEMBERS_MAX || members.contains_key(client) {
        members.insert(ClientId::from(client.as_ref() as &str), member);
    }
}

fn bounded_entry<'a, V: Default>(
    table: &'a mut FxHashMap<GroupName, V>,
    group: &GroupName,
) -> Option<&'a mut V> {
    if !table.contains_key(group) {
        if table.len() >= GROUPS_MAX {
            return None;
        }
        table.insert(group.detached(), V::default());
    }
    table.get_mut(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::{ConsumeType, Expression, MessageModel, SubscriptionData};

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
        Heartbeat { client: client.to_owned().into(), producers: vec![], consumers: vec![consumer] }
    }

    fn members(groups: &Groups) -> Vec<String> {
        let members = groups.members(&group()).unwrap_or_default();
        members.iter().map(|member| member.to_string()).collect()
    }

    #[test]
    fn members_come_with_heartbeats_and_go_with_connections_and_time() {
        let mut groups = Groups::default();
        assert_eq!(groups.members(&group()), Err(Refusal::NoConsumer(group())));
        groups.heartbeat(&heartbeat("b", 1), 1, Timestamp(0));
        groups.heartbeat(&heartbeat("a", 1), 2, Timestamp(60_000));
        assert_eq!(members(&groups), ["a", "b"]);
        groups.expire(Timestamp(CLIENT_LEASE_MS));
        assert_eq!(members(&groups), ["a"]);
        groups.connection_closed(2);
        assert!(members(&groups).is_empty());
    }

    #[test]
    fn a_client_that_comes_back_on_another_connection_survives_the_old_one() {
        let mut groups = Groups::default();
        groups.heartbeat(&heartbeat("a", 1), 1, Timestamp(0));
        groups.heartbeat(&heartbeat("a", 1), 2, Timestamp(1));
        groups.connection_closed(1);
        assert_eq!(members(&groups), ["a"]);
    }

    #[test]
    fn a_pull_with_a_newer_subscription_waits_for_the_heartbeat() {
        let mut groups = Groups::default();
        assert!(matches!(groups.filter(&group(), &topic(), 0), Err(Refusal::NotSubscribed { .. })));
        groups.heartbeat(&heartbeat("a", 5), 1, Timestamp(0));
        assert!(groups.filter(&group(), &topic(), 5).is_ok());
        assert_eq!(
            groups.filter(&group(), &topic(), 6),
            Err(Refusal::SubscriptionOutdated(group()))
        );
    }
}
