//! Finds or starts the brokers, and ensures that the topics of a run exist on all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use ringmq::client::blocking::Call;
use ringmq::client::{Admin, ClientError, ClientOptions, Remote};
use ringmq::model::nameserver::RouteBroker;
use ringmq::model::request::{Heartbeat, QueueOf};
use ringmq::model::{GroupName, QueueId, Request, TopicConfig, TopicName};
use ringmq::wire::{HeaderEncoding, ReplyError, Response};

use crate::engine::template::PRODUCER_GROUP;
use crate::options::TargetOptions;
use crate::plan::scenario::Scenario;
use crate::target::embedded::{Embedded, EmbeddedError, Handle};

/// Maximum time until the cluster knows its brokers, and until a new topic appears in the route.
const ROUTE_WAIT: Duration = Duration::from_secs(30);
const ROUTE_POLL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The run would change a topic that others use, or measure a different number of queues than
    /// it states.
    #[error(
        "{0}; loadgen changes no topic: request the same number of queues, or use another topic"
    )]
    OtherTopic(ClientError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error("{address} has no address: {cause}")]
    Unresolved { address: String, cause: io::Error },
    #[error("{namesrv} knows {found} brokers after {wait} s, not {wanted}", wait = ROUTE_WAIT.as_secs())]
    Brokers { namesrv: String, found: usize, wanted: usize },
    #[error("{0} does not speak the fixed header: use the header json or binary")]
    NoFixedHeader(SocketAddr),
}

impl TargetError {
    /// Whether the command line is wrong rather than the target.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NoFixedHeader(_) | Self::Client(ClientError::NameServerList { .. }))
    }
}

/// A master broker; for RingMQ, a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub name: String,
    pub address: SocketAddr,
}

/// A queue and the first offset that belongs to the run.
#[derive(Clone, Debug)]
pub struct QueueStart {
    /// Index of its broker.
    pub broker: usize,
    pub topic: TopicName,
    pub queue: QueueId,
    pub offset: u64,
}

/// The cluster under test. Several runs may use it.
pub struct Target {
    pub namesrv: String,
    pub brokers: Vec<Broker>,
    /// Queues per broker, for each topic that is known to exist.
    queue_counts: BTreeMap<TopicName, u32>,
    embedded: Option<Embedded>,
}

impl Target {
    /// Starts or finds the brokers.
    pub fn find(options: &TargetOptions) -> Result<Self, TargetError> {
        let embedded = match &options.namesrv {
            None => Some(Embedded::start(options)?),
            Some(_) => None,
        };
        let namesrv = match (&embedded, &options.namesrv) {
            (Some(embedded), _) => embedded.handle().namesrv().to_owned(),
            (None, namesrv) => namesrv.clone().unwrap_or_default(),
        };
        let brokers_wanted = embedded.as_ref().map_or(1, |_| usize::from(options.shards));
        let brokers = wait_for_masters(&namesrv, brokers_wanted)?;
        Ok(Self { namesrv, brokers, queue_counts: BTreeMap::new(), embedded })
    }

    /// Creates the topics of `scenario`. Existing topics are not changed, and must be as the
    /// scenario declares them.
    pub fn ensure_topics(&mut self, scenario: &Scenario) -> Result<(), TargetError> {
        let mut admin = Admin::new(client_options(&self.namesrv))?;
        for (topic, queue_count) in scenario.topics() {
            if self.queue_counts.get(topic) == Some(&queue_count) {
                continue;
            }
            let config = TopicConfig::new(topic.clone(), queue_count);
            let brokers = admin.create_topic(&config, None).map_err(|error| match error {
                ClientError::TopicExists(_) => TargetError::OtherTopic(error),
                _ => error.into(),
            })?;
            admin.await_route(topic, &brokers, ROUTE_WAIT.as_millis() as u64)?;
            self.queue_counts.insert(topic.clone(), queue_count);
        }
        Ok(())
    }

    /// Queues of `topic` on each broker. [`ensure_topics`](Self::ensure_topics) must have seen the
    /// topic.
    pub fn queue_count(&self, topic: &TopicName) -> u32 {
        self.queue_counts.get(topic).copied().unwrap_or(0)
    }

    /// Fails unless every broker supports RingMQ's own header.
    pub fn require_fixed_header(&self) -> Result<(), TargetError> {
        let mut remote = Remote::new(client_options(&self.namesrv))?;
        let group = GroupName::new(PRODUCER_GROUP).expect("the group's name is legal");
        let heartbeat = Request::Heartbeat(Heartbeat {
            client: remote.client_id().into(),
            producers: vec![group],
            ..Heartbeat::default()
        });
        for broker in &self.brokers {
            let address = broker.address.to_string();
            if !remote.ask(&address, &heartbeat, |reply| Ok(reply.speaks_fixed()))? {
                return Err(TargetError::NoFixedHeader(broker.address));
            }
        }
        Ok(())
    }

    /// The end offset of each queue of these topics, where the run's messages will start.
    pub fn queue_ends(
        &self,
        topics: &BTreeSet<&TopicName>,
    ) -> Result<Vec<QueueStart>, TargetError> {
        let mut remote = Remote::new(client_options(&self.namesrv))?;
        let mut ends = Vec::new();
        for (index, broker) in self.brokers.iter().enumerate() {
            let address = broker.address.to_string();
            for topic in topics {
                for queue in (0..self.queue_count(topic)).map(QueueId) {
                    let topic = (*topic).clone();
                    let request = Request::MaxOffset(QueueOf { topic: topic.clone(), queue });
                    let offset = remote.ask(&address, &request, Response::offset)?.0;
                    ends.push(QueueStart { broker: index, topic, queue, offset });
                }
            }
        }
        Ok(ends)
    }

    /// Commits the offset of each of these queues for `group`, where its members will begin.
    pub fn commit(&self, group: &GroupName, queues: &[QueueStart]) -> Result<(), TargetError> {
        let mut remote = Remote::new(client_options(&self.namesrv))?;
        let mut calls = BTreeMap::new();
        for start in queues {
            let address = self.brokers[start.broker].address.to_string();
            let queue = QueueOf { topic: start.topic.clone(), queue: start.queue };
            let (group, offset) = (group.clone(), start.offset as i64);
            let request = Request::CommitOffset { group, queue, offset };
            // Many requests are in flight, because brokers write their offsets together.
            while !remote.has_room(&address) {
                take_done(&mut remote, &mut calls)?;
            }
            let call = remote.start(&address, HeaderEncoding::Json, &request)?;
            calls.insert(call, address);
        }
        while !calls.is_empty() {
            take_done(&mut remote, &mut calls)?;
        }
        Ok(())
    }

    /// One line for the report.
    pub fn describe(&self) -> String {
        let machines = self.embedded().map_or(1, |embedded| embedded.machines());
        let kind = match &self.embedded {
            None => String::new(),
            Some(_) if machines > 1 => format!("embedded, {machines} replicas, "),
            Some(_) => "embedded ".to_owned(),
        };
        let (brokers, topics) = (self.brokers.len(), self.queue_counts.len());
        let queues = self.queue_counts.values().sum::<u32>() as usize * brokers;
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let topic = match self.queue_counts.first_key_value() {
            Some((only, _)) if topics == 1 => format!("topic {only}"),
            _ => format!("{topics} topics"),
        };
        let namesrv = &self.namesrv;
        format!("{kind}{namesrv}: {brokers} broker{}, {topic}, {queues} queues", plural(brokers))
    }

    /// The embedded servers.
    pub fn embedded(&self) -> Option<Handle> {
        self.embedded.as_ref().map(Embedded::handle)
    }
}

/// Waits for the next event, at most [`ROUTE_POLL`], and takes the `calls` that have completed.
fn take_done(remote: &mut Remote, calls: &mut BTreeMap<Call, String>) -> Result<(), TargetError> {
    let until = remote.now().plus_ms(ROUTE_POLL.as_millis() as u64);
    remote.turn(until);
    while let (Some((call, result)), _) = remote.poll_finished() {
        let address = calls.remove(&call).expect("nothing else was started");
        let what = "commit an offset".to_owned();
        let response = result.map_err(|error| {
            let (what, address, why) = (what.clone(), address.clone(), error.to_string());
            ClientError::Unanswered { what, address, why }
        })?;
        response.done().map_err(|ReplyError { code, remark }| ClientError::Refused {
            what,
            address,
            code,
            remark,
        })?;
    }
    Ok(())
}

/// The identity of loadgen's administrative client.
pub fn client_options(namesrv: &str) -> ClientOptions {
    let client_id = format!("loadgen@{}", process::id());
    ClientOptions { client_id, ..ClientOptions::new(namesrv) }
}

fn wait_for_masters(namesrv: &str, wanted: usize) -> Result<Vec<Broker>, TargetError> {
    let mut remote = Remote::new(client_options(namesrv))?;
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        let masters = masters(&mut remote)?;
        if masters.len() >= wanted {
            return Ok(masters);
        }
        if Instant::now() >= deadline {
            let (namesrv, found) = (namesrv.to_owned(), masters.len());
            return Err(TargetError::Brokers { namesrv, found, wanted });
        }
        thread::sleep(ROUTE_POLL);
    }
}

/// The master brokers that the NameServers know now.
pub fn masters(remote: &mut Remote) -> Result<Vec<Broker>, TargetError> {
    let cluster = remote.cluster_info()?;
    cluster.brokers.iter().filter_map(master_of).collect()
}

/// The broker with id 0.
fn master_of(broker: &RouteBroker) -> Option<Result<Broker, TargetError>> {
    let (_, address) = broker.addresses.iter().find(|(id, _)| *id == 0)?;
    let name = broker.name.clone();
    Some(resolve(address).map(|address| Broker { name, address }))
}

/// The first address that `text` (`host:port`) resolves to.
fn resolve(text: &str) -> Result<SocketAddr, TargetError> {
    let unresolved = |cause| TargetError::Unresolved { address: text.to_owned(), cause };
    let mut addresses = text.to_socket_addrs().map_err(unresolved)?;
    addresses.next().ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))
}
