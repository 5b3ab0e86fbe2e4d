//! The route table itself.
//!
//! ```text
//!   brokers: name ─▶ members (id ─▶ address, lease) and the topics its master registered
//!   topics:  name ─▶ names of the brokers that have it          (derived; kept in sync)
//! ```
//!
//! Invariants:
//! - A broker name is in the table exactly if it has a live member.
//! - `topics[t]` contains `b` exactly if `brokers[b].topics` contains `t`; no set is empty.
//! - `entry_count` is the number of such pairs, at most `limits.entries_max`.
//!
//! A topic with the name of a broker or a cluster is built in: only that broker, or the brokers of
//! that cluster, are in its route. What others register under this name stays in the table without
//! being shown, so it does not matter who comes first, and it is back once the name is free.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::registration::{self, Extent};
use crate::model::ids::GROUP_TOPIC_NAME_SIZE_MAX;
use crate::model::nameserver::{
    BrokerId, ClusterInfo, Registration, Route, RouteBroker, RouteQueues,
};
use crate::model::topic::{
    REGISTERED_TOPICS_MAX, TOPIC_LIST_SIZE_MAX, is_built_in, is_of_cluster, reply_topic,
};
use crate::model::{
    DataVersion, Moment, NameServerReply, NameServerRequest, Refusal, TopicConfig, TopicName,
    excerpt,
};

/// The broker id of a master.
const MASTER: u64 = 0;

/// Limits of a NameServer. Beyond them registrations are refused, and existing entries stay.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members of all brokers.
    pub members_max: usize,
    /// Topics of all brokers. All names must fit in one reply frame.
    pub topics_max: usize,
    /// Pairs of a topic and a broker that has it.
    pub entries_max: usize,
    /// Default lease, ms (remoting reference, 2.1).
    pub lease_default_ms: u64,
    /// A requested lease is clamped to this range, ms.
    pub lease_min_ms: u64,
    pub lease_max_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            members_max: 4_096,
            topics_max: REGISTERED_TOPICS_MAX,
            entries_max: 2_000_000,
            lease_default_ms: 120_000,
            lease_min_ms: 1_000,
            lease_max_ms: 3_600_000,
        }
    }
}

/// Identifies an open connection to this NameServer. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// The state of a NameServer.
///
/// `now` may come from any clock that does not jump. If it leaps forward, leases end early, and the
/// brokers return with their next registration.
#[derive(Debug, Default)]
pub struct Routes {
    limits: Limits,
    brokers: BTreeMap<Arc<str>, Broker>,
    topics: BTreeMap<TopicName, BTreeSet<Arc<str>>>,
    entry_count: usize,
}

#[derive(Debug, Default)]
struct Broker {
    cluster: String,
    members: BTreeMap<u64, Member>,
    topics: BTreeMap<TopicName, Queues>,
}

#[derive(Debug)]
struct Member {
    address: String,
    /// The connection of the latest registration: when it closes, the member is removed.
    connection: ConnectionId,
    lease_ms: u64,
    lease_ends: Moment,
    /// Version of the last applied table, and its number of topics.
    version: DataVersion,
    table_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queues {
    read_queue_count: u32,
    write_queue_count: u32,
    perm: u32,
    system_flag: u32,
}

impl Routes {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Executes one request.
    pub fn handle(
        &mut self,
        request: &NameServerRequest,
        connection: ConnectionId,
        now: Moment,
    ) -> Result<NameServerReply, Refusal> {
        match request {
            NameServerRequest::RegisterBroker(registration) => {
                self.register(registration, connection, now)
            }
            NameServerRequest::UnregisterBroker(broker) => {
                self.unregister(broker);
                Ok(NameServerReply::Done)
            }
            NameServerRequest::QueryDataVersion { broker, version } => {
                Ok(self.compare_version(broker, *version, now))
            }
            NameServerRequest::BrokerHeartbeat { broker } => {
                if let Some(member) = self.member_at(broker) {
                    member.renew(now);
                }
                Ok(NameServerReply::Done)
            }
            NameServerRequest::Route { topic } => self.route(topic).map(NameServerReply::Route),
            NameServerRequest::ClusterInfo => Ok(NameServerReply::ClusterInfo(self.cluster_info())),
            NameServerRequest::TopicList => self.topic_list().map(NameServerReply::TopicList),
            NameServerRequest::DeleteTopicRoute { topic, cluster } => {
                self.check_deletable(topic)?;
                self.delete_route(topic, cluster.as_deref());
                Ok(NameServerReply::Done)
            }
        }
    }

    /// Removes all members whose latest registration came over `connection`, and returns them.
    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<BrokerId> {
        self.remove_members(|_, member| member.connection == connection)
    }

    /// Removes all members with expired leases, and returns them. Call it every few seconds.
    pub fn expire(&mut self, now: Moment) -> Vec<BrokerId> {
        self.remove_members(|_, member| member.lease_ends <= now)
    }

    /// Number of members, and number of pairs of topic and broker.
    pub fn counts(&self) -> (usize, usize) {
        (self.member_count(), self.entry_count)
    }

    /// The address of another broker that claims the same name and id as `registration`. Different
    /// state versions are no contest: the newer one belongs to a broker that has been elected.
    pub fn contested_by(&self, registration: &Registration) -> Option<&str> {
        let Registration { broker, version, .. } = registration;
        let held = self.brokers.get(broker.name.as_str())?.members.get(&broker.id)?;
        let is_contested =
            held.address != broker.address && held.version.state_version == version.state_version;
        is_contested.then_some(held.address.as_str())
    }

    fn register(
        &mut self,
        registration: &Registration,
        connection: ConnectionId,
        now: Moment,
    ) -> Result<NameServerReply, Refusal> {
        let id = &registration.broker;
        registration::check(id)?;
        self.check_identity(registration)?;
        let known = self.member_at(id).map(|member| (member.version, member.table_size));
        let extent = registration::extent(registration, known.is_none())?;
        self.admit_member(registration, connection, now)?;
        if id.id == MASTER && is_update(registration, known) {
            self.apply_table(registration, extent)?;
        }
        Ok(NameServerReply::Registered)
    }

    /// Refuses a registration that would conflate two brokers.
    fn check_identity(&self, registration: &Registration) -> Result<(), Refusal> {
        let id = &registration.broker;
        let Some(broker) = self.brokers.get(id.name.as_str()) else { return Ok(()) };
        let others = || broker.members.values().filter(|member| member.address != id.address);
        if broker.cluster != id.cluster
            && let Some(other) = others().next()
        {
            return Err(Refusal::Registration(format!(
                "{} is registered in cluster {} by {}; broker names must differ between clusters",
                id.name, broker.cluster, other.address
            )));
        }
        match broker.members.get(&id.id) {
            Some(old)
                if old.address != id.address
                    && old.version.state_version > registration.version.state_version =>
            {
                Err(Refusal::Registration(format!(
                    "{} is held by {}, which has a newer state version",
                    id.name, old.address
                )))
            }
            _ => Ok(()),
        }
    }

    /// Stores the member: an address has only one id, and an id belongs to the latest registration
    /// (remoting reference, 2.3).
    fn admit_member(
        &mut self,
        registration: &Registration,
        connection: ConnectionId,
        now: Moment,
    ) -> Result<(), Refusal> {
        let id = &registration.broker;
        let replaces = self.brokers.get(id.name.as_str()).is_some_and(|broker| {
            broker.members.iter().any(|(of, member)| *of == id.id || member.address == id.address)
        });
        if !replaces && self.member_count() >= self.limits.members_max {
            return Err(Refusal::Registration(format!(
                "this NameServer already holds its {} brokers",
                self.limits.members_max
            )));
        }
        let Limits { lease_default_ms, lease_min_ms, lease_max_ms, .. } = self.limits;
        let lease_ms =
            registration.lease_ms.unwrap_or(lease_default_ms).clamp(lease_min_ms, lease_max_ms);
        let name = self.broker_name(&id.name);
        let broker = self.brokers.entry(name).or_default();
        broker.cluster.clone_from(&id.cluster);
        let before = broker.members.values().find(|member| member.address == id.address);
        let (version, table_size) =
            before.map_or_else(Default::default, |member| (member.version, member.table_size));
        broker.members.retain(|_, member| member.address != id.address);
        let lease_ends = now.plus_ms(lease_ms);
        let address = id.address.clone();
        let member = Member { address, connection, lease_ms, lease_ends, version, table_size };
        broker.members.insert(id.id, member);
        Ok(())
    }

    /// Replaces the topics of a master. If they do not fit, the broker keeps its old ones.
    fn apply_table(&mut self, registration: &Registration, extent: Extent) -> Result<(), Refusal> {
        let name = self.broker_name(&registration.broker.name);
        let broker = self.brokers.get_mut(&name).expect("its member was just admitted");
        let named = || registration.topics.iter().filter(|topic| !registration::is_mark(topic));
        let gone: Vec<TopicName> = match extent {
            Extent::Part => Vec::new(),
            Extent::Whole => {
                let named: BTreeSet<&TopicName> = named().map(|topic| &topic.name).collect();
                broker.topics.keys().filter(|name| !named.contains(name)).cloned().collect()
            }
        };
        let new_count = named().filter(|topic| !broker.topics.contains_key(&topic.name)).count();
        if self.entry_count + new_count - gone.len() > self.limits.entries_max {
            return Err(Refusal::Registration(format!(
                "{new_count} new topics of {name} do not fit: this NameServer holds {} of {} \
                 entries; the broker keeps the topics it had",
                self.entry_count, self.limits.entries_max
            )));
        }
        let is_last = |topic: &&TopicName| self.topics.get(*topic).is_some_and(|at| at.len() == 1);
        let topic_count = self.topics.len() - gone.iter().filter(is_last).count()
            + named().filter(|topic| !self.topics.contains_key(&topic.name)).count();
        if topic_count > self.limits.topics_max {
            return Err(Refusal::Registration(format!(
                "the topics of {name} do not fit: this NameServer would know {topic_count} of at \
                 most {}; the broker keeps the topics it had",
                self.limits.topics_max
            )));
        }
        let master = broker.members.get_mut(&MASTER).expect("only masters bring tables");
        master.version = registration.version;
        master.table_size = registration.topics.len();
        for topic in gone {
            self.remove_entry(&topic, &name);
        }
        for topic in named() {
            self.put_entry(topic, &name);
        }
        Ok(())
    }

    fn put_entry(&mut self, topic: &TopicConfig, name: &Arc<str>) {
        let broker = self.brokers.get_mut(name).expect("callers have the broker");
        let queues = Queues::of(topic);
        if let Some(known) = broker.topics.get_mut(&topic.name) {
            *known = queues;
            return;
        }
        // The table outlives the request's read buffer, and stores a name once.
        let known = self.topics.get_key_value(&topic.name).map(|(name, _)| name.clone());
        let topic = known.unwrap_or_else(|| topic.name.detached());
        broker.topics.insert(topic.clone(), queues);
        self.topics.entry(topic).or_default().insert(name.clone());
        self.entry_count += 1;
    }

    fn remove_entry(&mut self, topic: &TopicName, name: &str) {
        if let Some(broker) = self.brokers.get_mut(name) {
            broker.topics.remove(topic);
        }
        self.unlist(topic, name);
    }

    /// Removes a broker from a topic's set.
    fn unlist(&mut self, topic: &TopicName, name: &str) {
        let Some(names) = self.topics.get_mut(topic) else { return };
        self.entry_count -= usize::from(names.remove(name));
        if names.is_empty() {
            self.topics.remove(topic);
        }
    }

    fn unregister(&mut self, id: &BrokerId) {
        self.remove_members(|name, member| name == id.name && member.address == id.address);
    }

    /// Removes the members selected by `is_gone`; a broker without members is removed with its
    /// topics.
    fn remove_members(&mut self, is_gone: impl Fn(&str, &Member) -> bool) -> Vec<BrokerId> {
        let mut removed = Vec::new();
        for (name, broker) in &mut self.brokers {
            let cluster = &broker.cluster;
            let gone = broker.members.extract_if(.., |_, member| is_gone(name, member));
            removed.extend(gone.map(|(id, member)| BrokerId {
                cluster: cluster.clone(),
                name: name.to_string(),
                address: member.address,
                id,
            }));
        }
        for id in &removed {
            if self.brokers.get(id.name.as_str()).is_some_and(|broker| broker.members.is_empty()) {
                self.remove_broker(&id.name);
            }
        }
        removed
    }

    fn remove_broker(&mut self, name: &str) {
        let Some(broker) = self.brokers.remove(name) else { return };
        for topic in broker.topics.keys() {
            self.unlist(topic, name);
        }
    }

    /// Refuses to delete a topic that no broker would register again.
    fn check_deletable(&self, topic: &str) -> Result<(), Refusal> {
        // A topic that is only hidden has no route, and goes with its brokers' entries.
        let is_hidden = self.topics.get(topic).is_some_and(|brokers| {
            brokers.iter().all(|broker| self.is_named_after_others(topic, Some(broker)))
        });
        let is_reserved =
            is_built_in(topic) || self.is_named_after_others(topic, None) && !is_hidden;
        match TopicName::new(topic.to_owned()) {
            Ok(topic) if is_reserved => Err(Refusal::ReservedTopic(topic)),
            _ => Ok(()),
        }
    }

    /// Whether a topic has the name of a broker other than `except`, or of a cluster other than that
    /// broker's.
    fn is_named_after_others(&self, topic: &str, except: Option<&str>) -> bool {
        let except = except.and_then(|name| self.brokers.get_key_value(name));
        if let Some((name, broker)) = except
            && (topic == &**name || is_of_cluster(topic, &broker.cluster))
        {
            return false;
        }
        let mut clusters = self.brokers.values().map(|broker| broker.cluster.as_str());
        self.brokers.contains_key(topic) || clusters.any(|cluster| is_of_cluster(topic, cluster))
    }

    /// Topics that are not shown, with the broker that has them: their name belongs to another
    /// broker or cluster.
    pub fn shadowed(&self) -> Vec<(TopicName, Arc<str>)> {
        let clusters: BTreeSet<&str> =
            self.brokers.values().map(|broker| broker.cluster.as_str()).collect();
        let of_clusters =
            clusters.into_iter().flat_map(|cluster| [cluster.to_owned(), reply_topic(cluster)]);
        let names: BTreeSet<String> =
            self.brokers.keys().map(|name| name.to_string()).chain(of_clusters).collect();
        let mut shadowed = Vec::new();
        for name in names {
            let Some((topic, brokers)) = self.topics.get_key_value(name.as_str()) else { continue };
            let others = brokers
                .iter()
                .filter(|broker| self.is_named_after_others(topic.as_str(), Some(broker)));
            shadowed.extend(others.map(|broker| (topic.clone(), broker.clone())));
        }
        shadowed
    }

    fn delete_route(&mut self, topic: &str, cluster: Option<&str>) {
        let Some((topic, names)) = self.topics.get_key_value(topic) else { return };
        let is_meant = |name: &&Arc<str>| {
            cluster.is_none_or(|cluster| self.brokers[&***name].cluster == cluster)
        };
        let (topic, names): (_, Vec<_>) =
            (topic.clone(), names.iter().filter(is_meant).cloned().collect());
        for name in names {
            self.remove_entry(&topic, &name);
        }
    }

    /// Whether the version of the broker's table differs from the one known here. An equal version
    /// renews the lease like a registration.
    fn compare_version(
        &mut self,
        id: &BrokerId,
        version: DataVersion,
        now: Moment,
    ) -> NameServerReply {
        let Some(member) = self.member_at(id) else {
            return NameServerReply::DataVersion { is_changed: true, known: None };
        };
        let is_changed = member.version != version;
        if !is_changed {
            member.renew(now);
        }
        NameServerReply::DataVersion { is_changed, known: Some(member.version) }
    }

    /// The route of a topic, whatever its permission: tools request it before they change the
    /// permission.
    fn route(&self, topic: &str) -> Result<Route, Refusal> {
        let unknown = || Refusal::UnknownRoute(excerpt(topic, GROUP_TOPIC_NAME_SIZE_MAX));
        let names = self.topics.get(topic).ok_or_else(unknown)?;
        let is_reserved = self.is_named_after_others(topic, None);
        let mut route = Route::default();
        for name in names {
            if is_reserved && self.is_named_after_others(topic, Some(name)) {
                continue;
            }
            let broker = &self.brokers[name];
            route.queues.push(broker.topics[topic].advertised(name));
            route.brokers.push(broker.advertised(name));
        }
        if route.brokers.is_empty() { Err(unknown()) } else { Ok(route) }
    }

    fn cluster_info(&self) -> ClusterInfo {
        let brokers = self.brokers.iter().map(|(name, broker)| broker.advertised(name)).collect();
        ClusterInfo { brokers }
    }

    /// All topics; refused when the names are too long for one reply.
    fn topic_list(&self) -> Result<Vec<bytestring::ByteString>, Refusal> {
        let shadowed: BTreeSet<(TopicName, Arc<str>)> = self.shadowed().into_iter().collect();
        let is_shown = |(topic, names): &(&TopicName, &BTreeSet<Arc<str>>)| {
            shadowed.is_empty()
                || names.iter().any(|name| !shadowed.contains(&((*topic).clone(), name.clone())))
        };
        let shown = || self.topics.iter().filter(is_shown).map(|(topic, _)| topic.as_str());
        let size = shown().map(|topic| topic.len() + 3).sum();
        let size_max = TOPIC_LIST_SIZE_MAX;
        if size > size_max {
            return Err(Refusal::TooLarge { what: "topic list", size, size_max });
        }
        Ok(shown().map(Into::into).collect())
    }

    fn member_count(&self) -> usize {
        self.brokers.values().map(|broker| broker.members.len()).sum()
    }

    /// The member with this address; some requests do not carry an id.
    fn member_at(&mut self, id: &BrokerId) -> Option<&mut Member> {
        let broker = self.brokers.get_mut(id.name.as_str())?;
        broker.members.values_mut().find(|member| member.address == id.address)
    }

    /// The table's copy of the name, so that it is stored once.
    fn broker_name(&self, name: &str) -> Arc<str> {
        self.brokers.get_key_value(name).map_or_else(|| name.into(), |(name, _)| name.clone())
    }
}

/// Equal versions mean equal tables, so a registration that repeats the known version without more
/// topics than were applied contains nothing new. In particular, it does not restore a route that
/// an operator has deleted. One with more topics completes a partial table of the same version.
fn is_update(registration: &Registration, known: Option<(DataVersion, usize)>) -> bool {
    let said_before = |(version, table_size)| {
        version == registration.version && registration.topics.len() <= table_size
    };
    !known.is_some_and(said_before)
}

impl Member {
    fn renew(&mut self, now: Moment) {
        self.lease_ends = now.plus_ms(self.lease_ms);
    }
}

impl Queues {
    fn of(topic: &TopicConfig) -> Self {
        Self {
            read_queue_count: topic.read_queue_count,
            write_queue_count: topic.write_queue_count,
            perm: topic.perm,
            system_flag: topic.system_flag,
        }
    }

    fn advertised(self, broker_name: &str) -> RouteQueues {
        RouteQueues {
            broker_name: broker_name.to_owned(),
            read_queue_count: self.read_queue_count,
            write_queue_count: self.write_queue_count,
            perm: self.perm,
            system_flag: self.system_flag,
        }
    }
}

impl Broker {
    fn advertised(&self, name: &str) -> RouteBroker {
        let addresses =
            self.members.iter().map(|(id, member)| (*id, member.address.clone())).collect();
        RouteBroker { cluster: self.cluster.clone(), name: name.to_owned(), addresses }
    }
}

#[cfg(test)]
mod tests;
