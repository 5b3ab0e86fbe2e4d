//! Requests to a NameServer, and its replies. Request codes in brackets are those of the remoting
//! reference.

use bytestring::ByteString;

use crate::model::topic::{DataVersion, TopicConfig};

/// A request to a NameServer, independent of its encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum NameServerRequest {
    /// [103]
    RegisterBroker(Registration),
    /// [104]
    UnregisterBroker(BrokerId),
    /// [322]
    QueryDataVersion { broker: BrokerId, version: DataVersion },
    /// [904]
    BrokerHeartbeat { broker: BrokerId },
    /// [105]
    Route { topic: ByteString },
    /// [106]
    ClusterInfo,
    /// [206]
    TopicList,
    /// [216]
    DeleteTopicRoute { topic: ByteString, cluster: Option<ByteString> },
}

/// The reply to a request that was executed.
#[derive(Clone, Debug, PartialEq)]
pub enum NameServerReply {
    /// Success without data.
    Done,
    Registered,
    DataVersion {
        is_changed: bool,
        known: Option<DataVersion>,
    },
    Route(Route),
    ClusterInfo(ClusterInfo),
    TopicList(Vec<ByteString>),
}

/// The identity of a broker in a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerId {
    pub cluster: String,
    pub name: String,
    /// `ip:port` for clients to use.
    pub address: String,
    /// 0 is the master.
    pub id: u64,
}

/// A broker's topics and its lease [103].
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    pub broker: BrokerId,
    pub ha_address: String,
    /// Lease, ms; `None`: the NameServer's default.
    pub lease_ms: Option<u64>,
    pub version: DataVersion,
    pub topics: Vec<TopicConfig>,
    /// Topics that were skipped because they cannot be used, and why.
    pub skipped: Vec<String>,
    /// Names of topics that were skipped because no topic can have them. A stock broker registers
    /// one named after its host.
    pub misnamed: Vec<String>,
}

/// The brokers that serve a topic (remoting reference, 2.4). Sorted by broker name, then id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub queues: Vec<RouteQueues>,
    pub brokers: Vec<RouteBroker>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQueues {
    pub broker_name: String,
    pub read_queue_count: u32,
    pub write_queue_count: u32,
    pub perm: u32,
    pub system_flag: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteBroker {
    pub cluster: String,
    pub name: String,
    /// Broker id (0 is the master) and `ip:port`, sorted by id.
    pub addresses: Vec<(u64, String)>,
}

impl RouteBroker {
    /// The address of the master, if it is known.
    pub fn master(&self) -> Option<&str> {
        self.addresses.iter().find(|(id, _)| *id == 0).map(|(_, address)| address.as_str())
    }
}

/// All brokers (remoting reference, 2.5). Sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    pub brokers: Vec<RouteBroker>,
}

/// The parts of a shard's name, such as 0 and `broker-a` of `s00-broker-a`; `None` if `name` is not
/// one.
pub fn parts_of_shard(name: &str) -> Option<(u16, &str)> {
    let (number, machine) = name.strip_prefix('s')?.split_once('-')?;
    let is_number = number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, machine))
}

/// The name without the prefix of a shard.
pub fn machine_of_shard(name: &str) -> Option<&str> {
    parts_of_shard(name).map(|(_, machine)| machine)
}
