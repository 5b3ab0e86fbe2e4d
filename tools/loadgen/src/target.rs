//! Finds the brokers, or starts one, and makes sure that the topic exists on all of them.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use ringmq::model::reply::{Route, RouteBroker};
use ringmq::model::request::{Heartbeat, QueueOf};
use ringmq::model::topic::PERM_WRITE;
use ringmq::model::{GroupName, QueueId, Request, TopicConfig, TopicName};

use crate::control::{Client, ControlError, resolve};
use crate::embedded::{Embedded, EmbeddedError};
use crate::options::{LoadOptions, TargetOptions};
use crate::template::PRODUCER_GROUP;

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
    #[error("{0} does not speak the fixed header: use --header json or binary")]
    NoFixedHeader(SocketAddr),
}

/// A master broker, which for RingMQ is a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub name: String,
    pub address: SocketAddr,
    /// Queues of the topic.
    pub queue_count: u32,
}

pub struct Target {
    pub namesrv: String,
    pub brokers: Vec<Broker>,
    embedded: Option<Embedded>,
}

impl Target {
    /// Starts or finds the brokers and creates the topic unless it exists.
    pub fn prepare(options: &TargetOptions, load: &LoadOptions) -> Result<Self, TargetError> {
        let embedded = match &options.namesrv {
            None => Some(Embedded::start(options)?),
            Some(_) => None,
        };
        let namesrv = match (&embedded, &options.namesrv) {
            (Some(embedded), _) => embedded.namesrv.to_string(),
            (None, namesrv) => namesrv.clone().unwrap_or_default(),
        };
        let brokers_wanted = embedded.as_ref().map_or(1, |_| usize::from(options.shards));
        let mut client = connect_any(&namesrv)?;
        let masters = wait_for_masters(&mut client, &namesrv, brokers_wanted)?;
        let brokers = ensure_topic(&mut client, &masters, &load.topic, load.queues)?;
        Ok(Self { namesrv, brokers, embedded })
    }

    /// Fails unless every broker speaks RingMQ's own header.
    pub fn require_fixed_header(&self) -> Result<(), TargetError> {
        for broker in &self.brokers {
            let mut client = Client::connect(&broker.address.to_string())?;
            let group = GroupName::new(PRODUCER_GROUP).expect("the group's name is legal");
            let heartbeat = Heartbeat {
                client: ByteString::from_static("loadgen"),
                producers: vec![group],
                consumers: Vec::new(),
            };
            if !client.ask(&Request::Heartbeat(heartbeat))?.speaks_fixed() {
                return Err(TargetError::NoFixedHeader(broker.address));
            }
        }
        Ok(())
    }

    /// The end of each queue of each broker, where the run's messages will begin.
    pub fn queue_ends(&self, topic: &TopicName) -> Result<Vec<(usize, QueueId, u64)>, TargetError> {
        let mut ends = Vec::new();
        for (index, broker) in self.brokers.iter().enumerate() {
            let mut client = Client::connect(&broker.address.to_string())?;
            for queue in (0..broker.queue_count).map(QueueId) {
                let request = Request::MaxOffset(QueueOf { topic: topic.clone(), queue });
                let offset = client.ask(&request)?.offset();
                let offset = offset.map_err(|error| client.refused(&error))?;
                ends.push((index, queue, offset.0));
            }
        }
        Ok(ends)
    }

    /// One line for the report.
    pub fn describe(&self, topic: &TopicName) -> String {
        let kind = if self.embedded.is_some() { "embedded " } else { "" };
        let queues: u32 = self.brokers.iter().map(|broker| broker.queue_count).sum();
        let brokers = self.brokers.len();
        let plural = if brokers == 1 { "" } else { "s" };
        format!("{kind}{}: {brokers} broker{plural}, topic {topic}, {queues} queues", self.namesrv)
    }

    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }
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
) -> Result<Vec<(String, String)>, TargetError> {
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        let cluster = client.ask(&Request::ClusterInfo)?.cluster();
        let cluster = cluster.map_err(|error| client.refused(&error))?;
        let masters: Vec<_> = cluster.brokers.iter().filter_map(master_of).collect();
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

/// Name and address of the broker with id 0.
fn master_of(broker: &RouteBroker) -> Option<(String, String)> {
    let (_, address) = broker.addresses.iter().find(|(id, _)| *id == 0)?;
    Some((broker.name.clone(), address.clone()))
}

fn ensure_topic(
    namesrv: &mut Client,
    masters: &[(String, String)],
    topic: &TopicName,
    queue_count: u32,
) -> Result<Vec<Broker>, TargetError> {
    let route = route_of(namesrv, topic)?;
    for (name, address) in masters.iter().filter(|(name, _)| writable_queues(&route, name) == 0) {
        let mut broker = Client::connect(address)?;
        let config = TopicConfig::new(topic.clone(), queue_count);
        let done = broker.ask(&Request::UpdateTopic(config))?.done();
        done.map_err(|error| broker.refused(&error))?;
        let _ = name;
    }
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        let route = route_of(namesrv, topic)?;
        let brokers = masters.iter().map(|(name, address)| {
            let (name, queue_count) = (name.clone(), writable_queues(&route, name));
            Ok(Broker { name, address: resolve(address)?, queue_count })
        });
        let brokers = brokers.collect::<Result<Vec<_>, ControlError>>()?;
        if brokers.iter().all(|broker| broker.queue_count > 0) {
            return Ok(brokers);
        }
        if Instant::now() >= deadline {
            return Err(TargetError::Topic { topic: topic.clone(), wait: ROUTE_WAIT.as_secs() });
        }
        thread::sleep(ROUTE_POLL);
    }
}

/// Who serves `topic`; nobody when it does not exist.
fn route_of(namesrv: &mut Client, topic: &TopicName) -> Result<Route, TargetError> {
    let request = Request::Route { topic: ByteString::from(topic.as_str()) };
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
