//! Administration of a cluster: topics, brokers, single messages.
//!
//! Changes of a topic go to the master of every broker and, if they affect routes, to every
//! NameServer. Each of them is idempotent, and should be repeated after [`ClientError::Partly`].
//! The master of a broker with replicas is the one that leads; while none leads, or if a new one
//! has just been elected, a command waits for the leader ([`FOLLOW_MAX_MS`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use bytes::Bytes;

use crate::client::ask::Ask;
use crate::client::error::{Attempts, ClientError};
use crate::client::remote::{ClientOptions, Remote, master_address, refused};
use crate::model::nameserver::{ClusterInfo, Route, RouteBroker, RouteQueues};
use crate::model::record::{RecordError, RecordView, push_offset_id};
use crate::model::reply::{DelayedCounts, QueueStats};
use crate::model::topic::{PERM_INHERIT, is_built_in, is_reply_topic};
use crate::model::{
    LogOffset, NameServerRequest, Refusal, Request, Timestamp, TopicConfig, TopicName,
};
use crate::wire::codes::response::TOPIC_NOT_EXIST;
use crate::wire::{ReplyError, Response};

/// Poll interval while waiting for a route, ms.
const ROUTE_POLL_MS: u64 = 20;
/// How long a command waits for the next leader of a broker, ms. Usually there is one after two seconds.
const FOLLOW_MAX_MS: u64 = 10_000;
/// Pause before a command asks again which replica leads, ms.
const FOLLOW_PAUSE_MS: u64 = 100;

pub struct Admin {
    remote: Remote,
}

/// A topic, its route, and the statistics of its queues.
#[derive(Clone, Debug)]
pub struct TopicDescription {
    pub route: Route,
    /// Sorted by broker, then queue.
    pub queues: Vec<QueueStats>,
    /// By broker, how many messages are not due yet. Stock brokers do not tell.
    pub delayed: BTreeMap<String, DelayedCounts>,
}

/// A message id: where the message is stored (remoting reference, 4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId {
    pub broker: SocketAddrV4,
    pub offset: LogOffset,
}

impl MessageId {
    /// `None` for a record stored by a host with an IPv6 address, which this form cannot express.
    pub fn of(record: &RecordView<'_>) -> Option<Self> {
        Some(Self { broker: record.store_host?.into(), offset: record.physical_offset })
    }
}

/// Has the format of stock clients and tools.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Vec::with_capacity(32);
        push_offset_id(&mut id, self.broker.into(), self.offset);
        f.write_str(str::from_utf8(&id).expect("hex digits"))
    }
}

impl FromStr for MessageId {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::BadMessageId(text.to_owned());
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = is_id.then_some(text).ok_or_else(bad)?;
        let part = |range| u64::from_str_radix(&digits[range], 16).map_err(|_| bad());
        let address = Ipv4Addr::from_bits(part(0..8)? as u32);
        let port = u16::try_from(part(8..16)?).map_err(|_| bad())?;
        let offset = LogOffset(part(16..32)?);
        Ok(Self { broker: SocketAddrV4::new(address, port), offset })
    }
}

/// One stored message.
#[derive(Clone, Debug)]
pub struct StoredMessage(Bytes);

impl StoredMessage {
    pub fn record(&self) -> Result<RecordView<'_>, RecordError> {
        RecordView::parse(&self.0)
    }
}

impl Admin {
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        Ok(Self { remote: Remote::new(options)? })
    }

    /// All live brokers.
    pub fn cluster(&mut self) -> Result<ClusterInfo, ClientError> {
        self.remote.cluster_info()
    }

    /// Names of all topics.
    pub fn topics(&mut self) -> Result<Vec<String>, ClientError> {
        let topics =
            self.remote.ask_nameserver(&NameServerRequest::TopicList, Response::topic_list)?;
        let mut topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        topics.sort_unstable();
        Ok(topics)
    }

    /// Creates a topic on every master of `cluster`, or on all masters. An existing topic that
    /// differs is an error and is not changed. Returns the brokers' names.
    pub fn create_topic(
        &mut self,
        topic: &TopicConfig,
        cluster: Option<&str>,
    ) -> Result<Vec<String>, ClientError> {
        // Stock brokers cannot create a topic without changing an existing one, so check the routes
        // first.
        let is_other = |known: &&TopicConfig| {
            // Built-in topics are left to the broker to refuse.
            let name = known.name.as_str();
            let is_built_in =
                known.perm & PERM_INHERIT != 0 || is_reply_topic(name) || is_built_in(name);
            *known != topic && !is_built_in
        };
        if let Some(known) = self.known_topic(&topic.name)?.iter().find(is_other) {
            let (known, asked) = (Box::new(known.clone()), Box::new(topic.clone()));
            return Err(ClientError::TopicExists(Refusal::TopicExists { known, asked }));
        }
        self.order(cluster, &Request::CreateTopic(topic.clone()))
    }

    /// Changes a topic on every broker that has it. Returns the brokers' names.
    pub fn update_topic(
        &mut self,
        topic: &TopicName,
        change: impl Fn(&mut TopicConfig),
    ) -> Result<Vec<String>, ClientError> {
        let route = self.remote.fetch_route(topic.as_str())?;
        let mut outcomes = Outcomes::default();
        let mut what = "change a topic";
        for (name, address) in self.masters_in(&route)? {
            let Some(queues) = queues_at(&route, &name) else { continue };
            let mut config = config_of(topic, queues);
            change(&mut config);
            let request = Request::UpdateTopic(config);
            what = request.what();
            let outcome = self.ask_leader(&name, &address, &request, Response::done);
            outcomes.note(&name, &address, outcome);
        }
        outcomes.conclude(what)
    }

    /// The configuration of a topic on each broker that has it, as far as a route shows; empty if
    /// no NameServer knows the topic.
    fn known_topic(&mut self, topic: &TopicName) -> Result<Vec<TopicConfig>, ClientError> {
        match self.remote.fetch_route(topic.as_str()) {
            Ok(route) => Ok(route.queues.iter().map(|queues| config_of(topic, queues)).collect()),
            Err(ClientError::UnknownTopic(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Waits until every responding NameServer routes `topic` to all of `brokers`.
    pub fn await_route(
        &mut self,
        topic: &TopicName,
        brokers: &[String],
        wait_ms: u64,
    ) -> Result<(), ClientError> {
        let until = self.remote.now().plus_ms(wait_ms);
        loop {
            if self.is_routed_everywhere(topic, brokers)? {
                return Ok(());
            }
            let now = self.remote.now();
            if now >= until {
                let what = format!("a route of {topic} to {}", brokers.join(", "));
                return Err(ClientError::TookTooLong { what, waited_ms: wait_ms });
            }
            self.pause(now.plus_ms(ROUTE_POLL_MS).min(until));
        }
    }

    /// Deletes a topic and its messages on every master of `cluster`, or on all masters, then its
    /// route on every NameServer. Returns the brokers' names.
    pub fn delete_topic(
        &mut self,
        topic: &TopicName,
        cluster: Option<&str>,
    ) -> Result<Vec<String>, ClientError> {
        let request = Request::DeleteTopic { topic: topic.clone() };
        let done = self.order(cluster, &request)?;
        let route = NameServerRequest::DeleteTopicRoute {
            topic: topic.as_str().into(),
            cluster: cluster.map(Into::into),
        };
        self.order_nameservers(&route)?;
        self.remote.forget_route(topic.as_str());
        Ok(done)
    }

    /// Route and queues of a topic.
    pub fn describe_topic(&mut self, topic: &TopicName) -> Result<TopicDescription, ClientError> {
        let route = Route::clone(&*self.remote.fetch_route(topic.as_str())?);
        let request = Request::TopicStats { topic: topic.clone() };
        let (mut queues, mut delayed) = (Vec::new(), BTreeMap::new());
        for (name, address) in self.masters_in(&route)? {
            match self.ask_leader(&name, &address, &request, Response::topic_stats) {
                Ok(of_broker) => {
                    queues.extend(of_broker.queues);
                    delayed.extend(of_broker.delayed.map(|counts| (name, counts)));
                }
                // The topic was deleted between the two requests.
                Err(ClientError::Refused { code: TOPIC_NOT_EXIST, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        queues.sort_by(|a, b| {
            (&a.broker_name, a.queue.queue.0).cmp(&(&b.broker_name, b.queue.queue.0))
        });
        Ok(TopicDescription { route, queues, delayed })
    }

    /// The message with this id.
    pub fn message(&mut self, id: &MessageId) -> Result<StoredMessage, ClientError> {
        let address = &id.broker.to_string();
        let request = Request::MessageByOffset { offset: id.offset };
        let read = |response: &Response| response.done().map(|()| response.body.clone());
        let message = StoredMessage(self.remote.ask(address, &request, read)?);
        match message.record() {
            Ok(_) => Ok(message),
            Err(error) => {
                let remark = format!("the reply is not a message: {error}");
                let code = crate::wire::response::CODE_UNREADABLE;
                Err(refused(&request, address, ReplyError { code, remark }))
            }
        }
    }

    /// The runtime information of the broker at `address`, by name.
    pub fn runtime_info(&mut self, address: &str) -> Result<Vec<(String, String)>, ClientError> {
        self.remote.ask(address, &Request::RuntimeInfo, Response::runtime_info)
    }

    /// Sends a request to every master of `cluster`, or to all masters.
    fn order(
        &mut self,
        cluster: Option<&str>,
        request: &Request,
    ) -> Result<Vec<String>, ClientError> {
        let mut outcomes = Outcomes::default();
        for (name, address) in self.masters(cluster)? {
            let outcome = self.ask_leader(&name, &address, request, Response::done);
            outcomes.note(&name, &address, outcome);
        }
        outcomes.conclude(request.what())
    }

    fn order_nameservers(&mut self, request: &NameServerRequest) -> Result<(), ClientError> {
        let mut outcomes = Outcomes::default();
        for address in self.remote.nameservers().to_vec() {
            let outcome = self.remote.ask(&address, request, Response::done);
            outcomes.note_nameserver(&address, outcome);
        }
        outcomes.conclude(request.what()).map(drop)
    }

    /// Name and address of the masters of `cluster`, or of all.
    fn masters(&mut self, cluster: Option<&str>) -> Result<Vec<(String, String)>, ClientError> {
        let masters =
            self.masters_of(|broker| cluster.is_none_or(|name| broker.cluster == name))?;
        match masters.is_empty() {
            true => Err(ClientError::UnknownCluster(cluster.unwrap_or("(any)").to_owned())),
            false => Ok(masters),
        }
    }

    /// Name and address of the masters of the brokers that have the topic of this route.
    fn masters_in(&mut self, route: &Route) -> Result<Vec<(String, String)>, ClientError> {
        self.masters_of(|broker| queues_at(route, &broker.name).is_some())
    }

    /// Name and address of the masters of these brokers. Waits until each has one.
    fn masters_of(
        &mut self,
        is_meant: impl Fn(&RouteBroker) -> bool,
    ) -> Result<Vec<(String, String)>, ClientError> {
        let until = self.remote.now().plus_ms(FOLLOW_MAX_MS);
        loop {
            let info = self.remote.cluster_info()?;
            let (mut masters, mut without) = (Vec::new(), None);
            for broker in info.brokers.iter().filter(|broker| is_meant(broker)) {
                match broker.master() {
                    Some(address) => masters.push((broker.name.clone(), address.to_owned())),
                    None => without = Some(&broker.name),
                }
            }
            match without {
                None => return Ok(masters),
                Some(name) if self.remote.now() >= until => {
                    return Err(ClientError::NoLeader(name.clone()));
                }
                Some(_) => self.remote.wait_ms(FOLLOW_PAUSE_MS),
            }
        }
    }

    /// Asks the master of a broker, last known at `address`. If the broker has replicas and this
    /// one no longer leads or does not reply, asks the leader instead, once there is one.
    fn ask_leader<T>(
        &mut self,
        name: &str,
        address: &str,
        request: &Request,
        read: impl Fn(&Response) -> Result<T, ReplyError>,
    ) -> Result<T, ClientError> {
        let until = self.remote.now().plus_ms(FOLLOW_MAX_MS);
        let mut address = address.to_owned();
        loop {
            let error = match self.remote.ask(&address, request, &read) {
                Err(error) if error.is_about_replica() && self.remote.now() < until => error,
                answer => return answer,
            };
            self.remote.wait_ms(FOLLOW_PAUSE_MS);
            let info = self.remote.cluster_info()?;
            let broker = info.brokers.iter().find(|broker| broker.name == name);
            let Some(broker) = broker.filter(|broker| broker.addresses.len() > 1) else {
                return Err(error);
            };
            if let Some(master) = broker.master() {
                address = master.to_owned();
            }
        }
    }

    fn is_routed_everywhere(
        &mut self,
        topic: &TopicName,
        brokers: &[String],
    ) -> Result<bool, ClientError> {
        let request = NameServerRequest::Route { topic: topic.as_str().into() };
        let mut is_routed = false;
        for address in self.remote.nameservers().to_vec() {
            match self.remote.ask(&address, &request, Response::route) {
                Ok(route) => {
                    let has = |name: &String| master_address(&route, name).is_some();
                    if !brokers.iter().all(has) {
                        return Ok(false);
                    }
                    is_routed = true;
                }
                Err(ClientError::Refused { .. }) => return Ok(false),
                Err(error) if error.is_about_reaching() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(is_routed)
    }

    fn pause(&mut self, until: Timestamp) {
        while self.remote.now() < until {
            self.remote.turn(until);
        }
    }
}

/// The queues of this route's topic on a broker.
fn queues_at<'a>(route: &'a Route, broker: &str) -> Option<&'a RouteQueues> {
    route.queues.iter().find(|queues| queues.broker_name == broker)
}

/// A topic's configuration, from a route.
fn config_of(topic: &TopicName, queues: &RouteQueues) -> TopicConfig {
    TopicConfig {
        read_queue_count: queues.read_queue_count,
        write_queue_count: queues.write_queue_count,
        perm: queues.perm,
        system_flag: queues.system_flag,
        ..TopicConfig::new(topic.clone(), 0)
    }
}

/// The outcome of a request to several servers.
#[derive(Default)]
struct Outcomes {
    done: Vec<String>,
    failed: Attempts,
    last: Option<ClientError>,
}

impl Outcomes {
    fn note(&mut self, name: &str, address: &str, outcome: Result<(), ClientError>) {
        self.note_as(name, &format!("{name} at {address}"), outcome);
    }

    fn note_nameserver(&mut self, address: &str, outcome: Result<(), ClientError>) {
        self.note_as(address, address, outcome);
    }

    fn note_as(&mut self, name: &str, place: &str, outcome: Result<(), ClientError>) {
        match outcome {
            Ok(()) => self.done.push(name.to_owned()),
            Err(error) => {
                self.failed.push(place, &error);
                self.last = Some(error);
            }
        }
    }

    fn conclude(self, what: &str) -> Result<Vec<String>, ClientError> {
        let Self { done, failed, last } = self;
        match last {
            None => Ok(done),
            // With a single server, its own error is the clearest.
            Some(error) if done.is_empty() && failed.0.len() == 1 => Err(error),
            Some(_) => Err(ClientError::Partly { what: what.to_owned(), done, failed }),
        }
    }
}

pub mod groups;
mod replicas;
#[cfg(test)]
mod tests;
