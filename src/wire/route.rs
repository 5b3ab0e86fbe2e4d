//! What a NameServer is asked and told (remoting reference, 2.2 to 2.5).
//!
//! Routes leave compact, with quoted keys, and sorted: one stock client takes them apart by hand,
//! another compares their text to see whether anything has changed.

use bytes::Bytes;
use bytestring::ByteString;

use crate::model::ids::TOPIC_NAME_SIZE_MAX;
use crate::model::nameserver::{BrokerId, ClusterInfo, Route, RouteBroker, RouteQueues};
use crate::model::topic::REGISTERED_TOPICS_MAX;
use crate::model::{DataVersion, NameServerRequest, Refusal};
use crate::wire::body::{self, BodyError};
use crate::wire::frame::FRAME_SIZE_MAX;
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::read::Reader;
use crate::wire::json::write::{self as json, Object};

/// GET_ROUTEINFO_BY_TOPIC. Whether the client takes only strict JSON does not matter: it gets it.
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
        version: body::read("QUERY_DATA_VERSION", body, read_data_version)?,
    })
}

/// Who a broker is. A heartbeat of a broker that is no controller's names no id.
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

pub fn write_data_version(out: &mut Vec<u8>, version: &DataVersion) {
    json::object(out, |o| {
        o.number("counter", version.counter);
        o.number("stateVersion", version.state_version);
        o.number("timestamp", version.timestamp);
    });
}

pub fn read_data_version(reader: &mut Reader<'_>) -> Result<DataVersion, BodyError> {
    let mut version = DataVersion::default();
    body::object(reader, |key, reader| {
        match key {
            "counter" => version.counter = reader.integer()?.unwrap_or(0),
            "stateVersion" => version.state_version = reader.integer()?.unwrap_or(0),
            "timestamp" => version.timestamp = reader.integer()?.unwrap_or(0),
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(version)
}

pub fn write_route(out: &mut Vec<u8>, route: &Route) {
    json::object(out, |o| {
        o.list("brokerDatas", sorted(&route.brokers), |out, broker| {
            json::object(out, |o| write_broker(o, broker));
        });
        o.object("filterServerTable", |_| {});
        let mut queues: Vec<&RouteQueues> = route.queues.iter().collect();
        queues.sort_by(|a, b| a.broker_name.cmp(&b.broker_name));
        o.list("queueDatas", queues, |out, queues| json::object(out, |o| write_queues(o, queues)));
    });
}

fn sorted(brokers: &[RouteBroker]) -> Vec<&RouteBroker> {
    let mut sorted: Vec<&RouteBroker> = brokers.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

fn write_broker(o: &mut Object<'_>, broker: &RouteBroker) {
    let mut addresses: Vec<&(u64, String)> = broker.addresses.iter().collect();
    addresses.sort_by_key(|(id, _)| *id);
    o.object("brokerAddrs", |o| {
        for (id, address) in addresses {
            o.text(itoa::Buffer::new().format(*id), address);
        }
    });
    o.text("brokerName", &broker.name);
    o.text("cluster", &broker.cluster);
    o.boolean("enableActingMaster", false);
}

fn write_queues(o: &mut Object<'_>, queues: &RouteQueues) {
    o.text("brokerName", &queues.broker_name);
    o.number("perm", queues.perm);
    o.number("readQueueNums", queues.read_queue_count);
    o.number("topicSysFlag", queues.system_flag);
    o.number("writeQueueNums", queues.write_queue_count);
}

pub fn read_route(reader: &mut Reader<'_>) -> Result<Route, BodyError> {
    let mut route = Route::default();
    body::object(reader, |key, reader| {
        match key {
            "brokerDatas" => body::list(reader, &mut route.brokers, read_broker)?,
            "queueDatas" => body::list(reader, &mut route.queues, read_queues)?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(route)
}

fn read_broker(reader: &mut Reader<'_>) -> Result<RouteBroker, BodyError> {
    let (mut cluster, mut name, mut addresses) = (String::new(), String::new(), Vec::new());
    body::object(reader, |key, reader| {
        match key {
            "cluster" => cluster = body::text(reader)?,
            "brokerName" => name = body::text(reader)?,
            "brokerAddrs" => body::object(reader, |id, reader| {
                let id = id.parse().map_err(|_| body::unexpected("brokerAddrs", id))?;
                addresses.push((id, body::text(reader)?));
                Ok(())
            })?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    addresses.sort();
    Ok(RouteBroker { cluster, name, addresses })
}

fn read_queues(reader: &mut Reader<'_>) -> Result<RouteQueues, BodyError> {
    let mut queues = RouteQueues {
        broker_name: String::new(),
        read_queue_count: 0,
        write_queue_count: 0,
        perm: 0,
        system_flag: 0,
    };
    body::object(reader, |key, reader| {
        match key {
            "brokerName" => queues.broker_name = body::text(reader)?,
            "readQueueNums" => queues.read_queue_count = reader.integer()?.unwrap_or(0),
            "writeQueueNums" => queues.write_queue_count = reader.integer()?.unwrap_or(0),
            "perm" => queues.perm = reader.integer()?.unwrap_or(0),
            "topicSysFlag" => queues.system_flag = reader.integer()?.unwrap_or(0),
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(queues)
}

pub fn write_cluster_info(out: &mut Vec<u8>, info: &ClusterInfo) {
    let brokers = sorted(&info.brokers);
    let mut clusters: Vec<&str> = brokers.iter().map(|broker| broker.cluster.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    json::object(out, |o| {
        o.object("brokerAddrTable", |o| {
            for broker in &brokers {
                o.object(&broker.name, |o| write_broker(o, broker));
            }
        });
        o.object("clusterAddrTable", |o| {
            for cluster in clusters {
                let members = brokers.iter().filter(|broker| broker.cluster == cluster);
                o.list(cluster, members, |out, broker| json::push_text(out, &broker.name));
            }
        });
    });
}

/// The second table of the answer follows from the first and is not read.
pub fn read_cluster_info(reader: &mut Reader<'_>) -> Result<ClusterInfo, BodyError> {
    let mut info = ClusterInfo::default();
    body::object(reader, |key, reader| {
        match key {
            "brokerAddrTable" => body::object(reader, |_, reader| {
                info.brokers.push(read_broker(reader)?);
                Ok(())
            })?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    info.brokers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(info)
}

/// A NameServer knows no more topics than one answer can name.
const _: () = assert!(REGISTERED_TOPICS_MAX * (TOPIC_NAME_SIZE_MAX + 3) + 1024 < FRAME_SIZE_MAX);

pub fn write_topic_list(out: &mut Vec<u8>, topics: &[ByteString]) {
    json::object(out, |o| {
        o.list("topicList", topics, |out, topic| json::push_text(out, topic));
    });
}

pub fn read_topic_list(reader: &mut Reader<'_>) -> Result<Vec<ByteString>, BodyError> {
    let mut topics = Vec::new();
    body::object(reader, |key, reader| {
        match key {
            "topicList" => {
                body::list(reader, &mut topics, |reader| Ok(body::text(reader)?.into()))?
            }
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(topics)
}
