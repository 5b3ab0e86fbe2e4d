//! Requests and replies of a NameServer (remoting reference, 2.2 to 2.5).
//!
//! Routes are encoded compactly, with quoted keys, and sorted: one stock client parses them by
//! hand, another compares them as text to detect changes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::model::ids::TOPIC_NAME_SIZE_MAX;
use crate::model::nameserver::{BrokerId, ClusterInfo, Route, RouteBroker, RouteQueues};
use crate::model::topic::{REGISTERED_TOPICS_MAX, TOPIC_LIST_SIZE_MAX};
use crate::model::{NameServerRequest, Refusal};
use crate::wire::body;
use crate::wire::frame::FRAME_SIZE_MAX;
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::types::{Entries, Limit, List};

/// GET_ROUTEINFO_BY_TOPIC. Replies are always strict JSON, whether or not the client requires it.
pub fn decode_route(fields: &mut Fields<'_>, _: &Bytes) -> Result<NameServerRequest, Refusal> {
    Ok(NameServerRequest::Route { topic: fields.needed("topic")? })
}

/// GET_BROKER_CLUSTER_INFO.
pub fn decode_cluster_info(_: &mut Fields<'_>, _: &Bytes) -> Result<NameServerRequest, Refusal> {
    Ok(NameServerRequest::ClusterInfo)
}

/// GET_ALL_TOPIC_LIST_FROM_NAMESERVER.
pub fn decode_topic_list(_: &mut Fields<'_>, _: &Bytes) -> Result<NameServerRequest, Refusal> {
    Ok(NameServerRequest::TopicList)
}

/// DELETE_TOPIC_IN_NAMESRV.
pub fn decode_delete_topic_route(
    fields: &mut Fields<'_>,
    _: &Bytes,
) -> Result<NameServerRequest, Refusal> {
    Ok(NameServerRequest::DeleteTopicRoute {
        topic: fields.needed("topic")?,
        cluster: fields.optional("clusterName"),
    })
}

/// UNREGISTER_BROKER.
pub fn decode_unregister_broker(
    fields: &mut Fields<'_>,
    _: &Bytes,
) -> Result<NameServerRequest, Refusal> {
    decode_broker(fields).map(NameServerRequest::UnregisterBroker)
}

/// BROKER_HEARTBEAT.
pub fn decode_broker_heartbeat(
    fields: &mut Fields<'_>,
    _: &Bytes,
) -> Result<NameServerRequest, Refusal> {
    Ok(NameServerRequest::BrokerHeartbeat { broker: decode_broker(fields)? })
}

/// QUERY_DATA_VERSION.
pub fn decode_query_data_version(
    fields: &mut Fields<'_>,
    body: &Bytes,
) -> Result<NameServerRequest, Refusal> {
    Ok(NameServerRequest::QueryDataVersion {
        broker: decode_broker(fields)?,
        version: body::decode("QUERY_DATA_VERSION", body)?,
    })
}

/// The identity of a broker. Heartbeats have an id only if the broker belongs to a controller.
pub fn decode_broker(fields: &Fields<'_>) -> Result<BrokerId, Refusal> {
    let text = |name| fields.needed(name).map(String::from);
    Ok(BrokerId {
        cluster: text("clusterName")?,
        name: text("brokerName")?,
        address: text("brokerAddr")?,
        id: fields.optional_number("brokerId")?.unwrap_or(0),
    })
}

pub fn encode_broker(fields: &mut FieldWriter<'_>, broker: &BrokerId) {
    fields.text("brokerName", &broker.name);
    fields.text("brokerAddr", &broker.address);
    fields.text("clusterName", &broker.cluster);
    fields.number("brokerId", broker.id);
}

/// An object without members.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Nothing {}

/// `TopicRouteData` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteBody<'a> {
    broker_datas: List<BrokerData<'a>>,
    #[serde(skip_deserializing)]
    filter_server_table: Nothing,
    queue_datas: List<QueueData<'a>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BrokerData<'a> {
    broker_addrs: Entries<u64, Cow<'a, str>>,
    broker_name: Cow<'a, str>,
    cluster: Cow<'a, str>,
    #[serde(skip_deserializing)]
    enable_acting_master: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct QueueData<'a> {
    broker_name: Cow<'a, str>,
    perm: u32,
    read_queue_nums: u32,
    topic_sys_flag: u32,
    write_queue_nums: u32,
}

impl<'a> RouteBody<'a> {
    pub fn of(route: &'a Route) -> Self {
        let mut queues: Vec<&RouteQueues> = route.queues.iter().collect();
        queues.sort_by(|a, b| a.broker_name.cmp(&b.broker_name));
        Self {
            broker_datas: sorted(&route.brokers).into_iter().map(BrokerData::of).collect(),
            filter_server_table: Nothing {},
            queue_datas: queues.into_iter().map(QueueData::of).collect(),
        }
    }

    pub fn read(self) -> Route {
        Route {
            queues: self.queue_datas.0.into_iter().map(QueueData::read).collect(),
            brokers: self.broker_datas.0.into_iter().map(BrokerData::read).collect(),
        }
    }
}

fn sorted(brokers: &[RouteBroker]) -> Vec<&RouteBroker> {
    let mut sorted: Vec<&RouteBroker> = brokers.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

impl<'a> BrokerData<'a> {
    fn of(broker: &'a RouteBroker) -> Self {
        let mut addresses: Vec<(u64, Cow<'a, str>)> =
            broker.addresses.iter().map(|(id, address)| (*id, address.into())).collect();
        addresses.sort_by_key(|(id, _)| *id);
        Self {
            broker_addrs: addresses.into_iter().collect(),
            broker_name: (&broker.name).into(),
            cluster: (&broker.cluster).into(),
            enable_acting_master: false,
        }
    }

    fn read(self) -> RouteBroker {
        let address = |(id, address): (u64, Cow<'a, str>)| (id, address.into_owned());
        let mut addresses: Vec<(u64, String)> =
            self.broker_addrs.0.into_iter().map(address).collect();
        addresses.sort();
        let (cluster, name) = (self.cluster.into_owned(), self.broker_name.into_owned());
        RouteBroker { cluster, name, addresses }
    }
}

impl<'a> QueueData<'a> {
    fn of(queues: &'a RouteQueues) -> Self {
        Self {
            broker_name: (&queues.broker_name).into(),
            perm: queues.perm,
            read_queue_nums: queues.read_queue_count,
            topic_sys_flag: queues.system_flag,
            write_queue_nums: queues.write_queue_count,
        }
    }

    fn read(self) -> RouteQueues {
        RouteQueues {
            broker_name: self.broker_name.into_owned(),
            read_queue_count: self.read_queue_nums,
            write_queue_count: self.write_queue_nums,
            perm: self.perm,
            system_flag: self.topic_sys_flag,
        }
    }
}

/// `ClusterInfo` of the reference. The second table is derived from the first and is not decoded.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterBody<'a> {
    broker_addr_table: Entries<Cow<'a, str>, BrokerData<'a>>,
    #[serde(skip_deserializing)]
    cluster_addr_table: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> ClusterBody<'a> {
    pub fn of(info: &'a ClusterInfo) -> Self {
        let mut body = Self::default();
        for broker in sorted(&info.brokers) {
            body.broker_addr_table.0.push(((&broker.name).into(), BrokerData::of(broker)));
            body.cluster_addr_table.entry(&broker.cluster).or_default().push(&broker.name);
        }
        body
    }

    pub fn read(self) -> ClusterInfo {
        let brokers = self.broker_addr_table.0.into_iter().map(|(_, broker)| broker.read());
        let mut brokers: Vec<RouteBroker> = brokers.collect();
        brokers.sort_by(|a, b| a.name.cmp(&b.name));
        ClusterInfo { brokers }
    }
}

/// The topics that a NameServer lists fit in one reply.
const _: () = assert!(REGISTERED_TOPICS_MAX * (TOPIC_NAME_SIZE_MAX + 3) < TOPIC_LIST_SIZE_MAX);
const _: () = assert!(TOPIC_LIST_SIZE_MAX + 1024 < FRAME_SIZE_MAX);

/// Maximum number of topics in one reply. A stock NameServer may have more topics than one of ours.
#[derive(Debug)]
struct ListedTopics;

impl Limit for ListedTopics {
    const WHAT: &'static str = "topics";
    const COUNT_MAX: usize = 1_000_000;
}

/// `TopicList` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicListBody<'a> {
    topic_list: List<Cow<'a, str>, ListedTopics>,
}

impl<'a> TopicListBody<'a> {
    pub fn of(topics: &'a [ByteString]) -> Self {
        Self { topic_list: topics.iter().map(|topic| Cow::Borrowed(&**topic)).collect() }
    }

    pub fn read(self) -> Vec<ByteString> {
        self.topic_list.0.into_iter().map(|topic| topic.into_owned().into()).collect()
    }
}
