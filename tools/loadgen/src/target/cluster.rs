//! Finds the brokers, or starts one, and makes sure that topics exist on all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use ringmq::model::nameserver::{Route, RouteBroker};
use ringmq::model::request::{Heartbeat, QueueOf};
use ringmq::model::topic::PERM_WRITE;
use ringmq::model::{GroupName, NameServerRequest, QueueId, Request, TopicConfig, TopicName};

use crate::engine::template::PRODUCER_GROUP;
use crate::options::TargetOptions;
use crate::plan::scenario::Scenario;
use crate::target::control::{Client, ControlError, resolve};
use crate::target::embedded::{Embedded, EmbeddedError, Handle};

/// How long a cluster may take to know its brokers, and a new topic to show in the route.
const ROUTE_WAIT: Duration = Duration::from_secs(30);
const ROUTE_POLL: Duration = Duration::from_millis(50);
/// The code with which a NameServer says that it does not know a topic.
const TOPIC_NOT_EXIST: i32 = 17;

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error("no NameServer is named")]
    NoNameServer,
    #[error("{namesrv} knows {found} brokers after {wait} s, not {wanted}", wait = ROUTE_WAIT.as_secs())]
    Brokers { namesrv: String, found: usize, wanted: usize },
    #[error("topic {topic} is not on all brokers after {wait} s", wait = ROUTE_WAIT.as_secs())]
    Topic { topic: TopicName, wait: u64 },
    #[error("topic {topic} on {broker} takes no messages: name another topic, or open this one")]
    Closed { topic: TopicName, broker: String },
    #[error("{0} does not speak the fixed header: use --header json or binary")]
    NoFixedHeader(SocketAddr),
}

/// A master broker, which for RingMQ is a shard.
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

/// The cluster that a run goes to. It may be used for many runs.
pub struct Target {
    pub namesrv: String,
    pub brokers: Vec<Broker>,
    /// Queues of each topic that was asked for, by broker.
    queue_counts: BTreeMap<TopicName, Vec<u32>>,
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
        let mut client = connect_any(&namesrv)?;
        let brokers = wait_for_masters(&mut client, &namesrv, brokers_wanted)?;
        Ok(Self { namesrv, brokers, queue_counts: BTreeMap::new(), embedded })
    }

    /// Creates the topics of `scenario` unless they exist.
    pub fn ensure_topics(&mut self, scenario: &Scenario) -> Result<(), TargetError> {
        let mut client = connect_any(&self.namesrv)?;
        for (topic, queue_count) in scenario.topics() {
            if !self.queue_counts.contains_key(topic) {
                let counts = ensure_topic(&mut client, &self.brokers, topic, queue_count)?;
                self.queue_counts.insert(topic.clone(), counts);
            }
        }
        Ok(())
    }

    /// Queues of `topic` by broker, of those that [`ensure_topics`](Self::ensure_topics) has seen.
    pub fn queue_counts(&self, topic: &TopicName) -> &[u32] {
        self.queue_counts.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Fails unless every broker speaks RingMQ's own header.
    pub fn require_fixed_header(&self) -> Result<(), TargetError> {
        for broker in &self.brokers {
            let mut client = Client::connect(&broker.address.to_string())?;
            let group = GroupName::new(PRODUCER_GROUP).expect("the group's name is legal");
            let heartbeat = Heartbeat {
                client: ByteString::from_static("loadgen"),
                producers: vec![group],
                ..Heartbeat::default()
            };
            if !client.ask(&Request::Heartbeat(heartbeat))?.speaks_fixed() {
                return Err(TargetError::NoFixedHeader(broker.address));
            }
        }
        Ok(())
    }

    /// The end of each queue of these topics, where the run's messages will begin.
    pub fn queue_ends(
        &self,
        topics: &BTreeSet<&TopicName>,
    ) -> Result<Vec<QueueStart>, TargetError> {
        let mut ends = Vec::new();
        for (index, broker) in self.brokers.iter().enumerate() {
            let mut client = Client::connect(&broker.address.to_string())?;
            for topic in topics {
                for queue in (0..self.queue_counts(topic)[index]).map(QueueId) {
                    let topic = (*topic).clone();
                    let request = Request::MaxOffset(QueueOf { topic: topic.clone(), queue });
                    let offset = client.ask(&request)?.offset();
                    let offset = offset.map_err(|error| client.refused(&error))?.0;
                    ends.push(QueueStart { broker: index, topic, queue, offset });
                }
            }
        }
        Ok(ends)
    }

    /// One line for the report.
    pub fn describe(&self) -> String {
        let kind = if self.embedded.is_some() { "embedded " } else { "" };
        let queues: u32 = self.queue_counts.values().flatten().sum();
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (brokers, topics) = (self.brokers.len(), self.queue_counts.len());
        let topic = match self.queue_counts.first_key_value() {
            Some((only, _)) if topics == 1 => format!("topic {only}"),
            _ => format!("{topics} topics"),
        };
        let namesrv = &self.namesrv;
        format!("{kind}{namesrv}: {brokers} broker{}, {topic}, {queues} queues", plural(brokers))
    }

    /// The servers of our own.
    pub fn embedded(&self) -> Option<Handle> {
        self.embedded.as_ref().map(Embedded::handle)
    }
}

/// The brokers that the first NameServer of `list` to answer knows now.
pub fn masters(list: &str) -> Result<Vec<Broker>, TargetError> {
    masters_known(&mut connect_any(list)?)
}

/// The first of the NameServers in `list` (joined by `;`) that answers.
fn connect_any(list: &str) -> Result<Client, TargetError> {
    let mut error = TargetError::NoNameServer;
    for address in list.split(';').map(str::trim).filter(|address| !address.is_empty()) {
        match Client::connect(address) {
            Ok(client) => return Ok(client),
            Err(unreachable) => error = unreachable.into(),
        }
    }
    Err(error)
}

fn wait_for_masters(
    client: &mut Client,
    namesrv: &str,
    wanted: usize,
) -> Result<Vec<Broker>, TargetError> {
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        let masters = masters_known(client)?;
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

fn masters_known(client: &mut Client) -> Result<Vec<Broker>, TargetError> {
    let cluster = client.ask(&NameServerRequest::ClusterInfo)?.cluster();
    let cluster = cluster.map_err(|error| client.refused(&error))?;
    let broker =
        |(name, address): (String, String)| Ok(Broker { name, address: resolve(&address)? });
    cluster.brokers.iter().filter_map(master_of).map(broker).collect()
}

/// Name and address of the broker with id 0.
fn master_of(broker: &RouteBroker) -> Option<(String, String)> {
    let (_, address) = broker.addresses.iter().find(|(id, _)| *id == 0)?;
    Some((broker.name.clone(), address.clone()))
}

/// Queues of `topic` by broker, once all have it.
fn ensure_topic(
    namesrv: &mut Client,
    brokers: &[Broker],
    topic: &TopicName,
    queue_count: u32,
) -> Result<Vec<u32>, TargetError> {
    let route = route_of(namesrv, topic)?;
    // To create it again would open it, and change its queues.
    if let Some(closed) = route.queues.iter().find(|queues| queues.perm & PERM_WRITE == 0) {
        let (topic, broker) = (topic.clone(), closed.broker_name.clone());
        return Err(TargetError::Closed { topic, broker });
    }
    for broker in brokers.iter().filter(|broker| writable_queues(&route, &broker.name) == 0) {
        let mut client = Client::connect(&broker.address.to_string())?;
        let config = TopicConfig::new(topic.clone(), queue_count);
        let done = client.ask(&Request::UpdateTopic(config))?.done();
        done.map_err(|error| client.refused(&error))?;
    }
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        let route = route_of(namesrv, topic)?;
        let counts: Vec<u32> =
            brokers.iter().map(|broker| writable_queues(&route, &broker.name)).collect();
        if counts.iter().all(|count| *count > 0) {
            return Ok(counts);
        }
        if Instant::now() >= deadline {
            return Err(TargetError::Topic { topic: topic.clone(), wait: ROUTE_WAIT.as_secs() });
        }
        thread::sleep(ROUTE_POLL);
    }
}

/// Who serves `topic`; nobody when it does not exist.
fn route_of(namesrv: &mut Client, topic: &TopicName) -> Result<Route, TargetError> {
    let request = NameServerRequest::Route { topic: ByteString::from(topic.as_str()) };
    match namesrv.ask(&request)?.route() {
        Ok(route) => Ok(route),
        Err(error) if error.code == TOPIC_NOT_EXIST => Ok(Route::default()),
        Err(error) => Err(namesrv.refused(&error).into()),
    }
}

fn writable_queues(route: &Route, broker: &str) -> u32 {
    let queues = route.queues.iter().find(|queues| queues.broker_name == broker);
    queues
        .filter(|queues| queues.perm & PERM_WRITE != 0)
        .map_or(0, |queues| queues.write_queue_count)
}
