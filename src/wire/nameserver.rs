//! The requests that a NameServer supports: how each is decoded, and how requests and replies are
//! encoded. One line per command in each of the three tables.

use bytes::Bytes;

use crate::model::{NameServerReply, NameServerRequest, Refusal};
use crate::wire::admin::TableBody;
use crate::wire::codes::request::*;
use crate::wire::codes::response;
use crate::wire::frame::HeaderEncoding;
use crate::wire::header::head::Fields;
use crate::wire::json::ser;
use crate::wire::registration::RegistrationBody;
use crate::wire::reply::{EncodeReply, NewReply};
use crate::wire::request::{DecodeRequest, EncodeRequest, NewRequest, served};
use crate::wire::route::{ClusterBody, RouteBody, TopicListBody};
use crate::wire::{registration, route};

impl DecodeRequest for NameServerRequest {
    served! {
        REGISTER_BROKER => registration::decode_register_broker;
        UNREGISTER_BROKER => route::decode_unregister_broker;
        GET_ROUTEINFO_BY_TOPIC => route::decode_route;
        GET_BROKER_CLUSTER_INFO => route::decode_cluster_info;
        GET_ALL_TOPIC_LIST_FROM_NAMESERVER => route::decode_topic_list;
        DELETE_TOPIC_IN_NAMESRV => route::decode_delete_topic_route;
        QUERY_DATA_VERSION => route::decode_query_data_version;
        BROKER_HEARTBEAT => route::decode_broker_heartbeat;
    }
}

impl EncodeRequest for NameServerRequest {
    fn encode(&self, to: NewRequest<'_>) -> bool {
        if to.encoding == HeaderEncoding::Fixed {
            return false;
        }
        encode_named(to, self);
        true
    }
}

#[rustfmt::skip] // A table: request, code, fields, body.
fn encode_named(to: NewRequest<'_>, request: &NameServerRequest) {
    match request {
        NameServerRequest::RegisterBroker(registration) => {
            to.whole(REGISTER_BROKER, |f| registration::encode_register_broker(f, registration),
                |out| ser::push(out, &RegistrationBody::of(registration)));
        }
        NameServerRequest::UnregisterBroker(broker) => to.fields(UNREGISTER_BROKER, |f| route::encode_broker(f, broker)),
        NameServerRequest::QueryDataVersion { broker, version } => {
            to.whole(QUERY_DATA_VERSION, |f| route::encode_broker(f, broker), |out| ser::push(out, version));
        }
        NameServerRequest::BrokerHeartbeat { broker } => to.fields(BROKER_HEARTBEAT, |f| route::encode_broker(f, broker)),
        NameServerRequest::Route { topic } => to.fields(GET_ROUTEINFO_BY_TOPIC, |f| {
            f.text("topic", topic);
            // Old servers reply with unquoted keys unless asked not to.
            f.boolean("acceptStandardJsonOnly", true);
        }),
        NameServerRequest::ClusterInfo => to.fields(GET_BROKER_CLUSTER_INFO, |_| {}),
        NameServerRequest::TopicList => to.fields(GET_ALL_TOPIC_LIST_FROM_NAMESERVER, |_| {}),
        NameServerRequest::DeleteTopicRoute { topic, cluster } => to.fields(DELETE_TOPIC_IN_NAMESRV, |f| {
            f.text("topic", topic);
            f.optional("clusterName", cluster.as_deref());
        }),
    }
}

impl EncodeReply for NameServerReply {
    fn encode(&self, to: NewReply<'_>) {
        match self {
            Self::Done => to.fields(|_| {}),
            // The table of ordered topics, always empty here. Stock brokers read it.
            Self::Registered => to.json(&TableBody::default()),
            Self::DataVersion { is_changed, known } => to.whole(
                response::SUCCESS,
                None,
                |fields| fields.boolean("changed", *is_changed),
                |out| known.iter().for_each(|version| ser::push(out, version)),
            ),
            Self::Route(route) => to.json(&RouteBody::of(route)),
            Self::ClusterInfo(info) => to.json(&ClusterBody::of(info)),
            Self::TopicList(topics) => to.json(&TopicListBody::of(topics)),
        }
    }
}
