//! Heartbeats and consumer groups (remoting reference, 3.4, 3.5).

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::ids::check_client_id;
use crate::model::record::tag_hash;
use crate::model::request::{
    ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, SubscriptionData,
};
use crate::model::{ClientId, GroupName, Refusal, Request, TopicName};
use crate::wire::body;
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::ser;
use crate::wire::json::types::{Element, Limit, List};
use crate::wire::message::{FILTER_ALL, FILTER_KIND_DEFAULT};
use crate::wire::skipped::{Skipped, named};

/// Field of a heartbeat reply that announces support of the fixed header.
pub const CAPABILITY_FIXED: &str = "RINGMQ_FIXED";

/// Maximum number of groups of each kind in a heartbeat. Stock clients have a handful.
pub const HEARTBEAT_GROUPS_MAX: usize = 1_024;
/// Maximum number of subscriptions in a heartbeat, over all groups.
pub const HEARTBEAT_SUBSCRIPTIONS_MAX: usize = 10_000;

#[derive(Debug)]
struct Producers;

impl Limit for Producers {
    const WHAT: &'static str = "producer groups";
    const COUNT_MAX: usize = HEARTBEAT_GROUPS_MAX;
}

#[derive(Debug)]
struct Consumers;

impl Limit for Consumers {
    const WHAT: &'static str = "consumer groups";
    const COUNT_MAX: usize = HEARTBEAT_GROUPS_MAX;
}

#[derive(Debug)]
struct Subscriptions;

impl Limit for Subscriptions {
    const WHAT: &'static str = "subscriptions";
    const COUNT_MAX: usize = HEARTBEAT_SUBSCRIPTIONS_MAX;
}

/// `HeartbeatData` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeartbeatBody<'a> {
    #[serde(rename = "clientID")]
    client_id: Cow<'a, str>,
    consumer_data_set: List<Element<ConsumerBody<'a>>, Consumers>,
    producer_data_set: List<Element<ProducerBody<'a>>, Producers>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ProducerBody<'a> {
    group_name: Cow<'a, str>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConsumerBody<'a> {
    #[serde(skip_deserializing)]
    consume_from_where: &'static str,
    consume_type: ConsumeType,
    group_name: Cow<'a, str>,
    message_model: MessageModel,
    subscription_data_set: List<Element<SubscriptionBody<'a>>, Subscriptions>,
    #[serde(skip_deserializing)]
    unit_mode: bool,
}

/// Stock servers filter by the hashes that clients include, so our client sends them. They are not
/// decoded here: clients compute them differently, and some send none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SubscriptionBody<'a> {
    #[serde(skip_deserializing)]
    class_filter_mode: bool,
    #[serde(skip_deserializing)]
    code_set: Vec<i32>,
    expression_type: Cow<'a, str>,
    sub_string: Cow<'a, str>,
    sub_version: i64,
    #[serde(skip_deserializing)]
    tags_set: Vec<&'a str>,
    topic: Cow<'a, str>,
}

/// HEART_BEAT. Fields may be missing, and enums may be names or numbers, because clients differ. An
/// invalid group or subscription does not affect the others.
pub fn decode_heartbeat(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let body: HeartbeatBody<'_> = body::decode("HEART_BEAT", body)?;
    if body.client_id.is_empty() {
        return Err(Refusal::Malformed("body of HEART_BEAT: field clientID is missing".to_owned()));
    }
    check_client_id(&body.client_id)?;
    let mut skipped = Skipped::default();
    let producers = skipped.read("producer group", body.producer_data_set.0, |producer, _| {
        named(producer.group_name, GroupName::new)
    });
    let consumers = skipped.read("consumer group", body.consumer_data_set.0, ConsumerBody::read);
    let client = body.client_id.into_owned().into();
    Ok(Request::Heartbeat(Heartbeat { client, producers, consumers, skipped: skipped.0 }))
}

impl<'a> HeartbeatBody<'a> {
    pub fn of(heartbeat: &'a Heartbeat) -> Self {
        let producer = |group: &'a GroupName| ProducerBody { group_name: group.as_str().into() };
        let producers = heartbeat.producers.iter().map(producer);
        let consumers = heartbeat.consumers.iter().map(ConsumerBody::of);
        Self {
            client_id: Cow::Borrowed(&heartbeat.client),
            consumer_data_set: consumers.map(Element::Good).collect(),
            producer_data_set: producers.map(Element::Good).collect(),
        }
    }
}

impl<'a> ConsumerBody<'a> {
    fn of(consumer: &'a ConsumerData) -> Self {
        let subscriptions = consumer.subscriptions.iter().map(SubscriptionBody::of);
        Self {
            consume_from_where: "CONSUME_FROM_LAST_OFFSET",
            consume_type: consumer.consume_type,
            group_name: consumer.group.as_str().into(),
            message_model: consumer.model,
            subscription_data_set: subscriptions.map(Element::Good).collect(),
            unit_mode: false,
        }
    }

    fn read(self, skipped: &mut Skipped) -> Result<ConsumerData, String> {
        let group = named(self.group_name, GroupName::new)?;
        let read = |subscription: SubscriptionBody<'_>, _: &mut Skipped| subscription.read();
        let subscriptions = skipped.read("subscription", self.subscription_data_set.0, read);
        let (consume_type, model) = (self.consume_type, self.message_model);
        Ok(ConsumerData { group, consume_type, model, subscriptions })
    }
}

impl<'a> SubscriptionBody<'a> {
    fn of(subscription: &'a SubscriptionData) -> Self {
        let Expression { kind, text } = &subscription.expression;
        let is_tags = kind == FILTER_KIND_DEFAULT && text != FILTER_ALL;
        let tags: Vec<&str> =
            if is_tags { text.split("||").map(str::trim).collect() } else { vec![] };
        Self {
            class_filter_mode: false,
            code_set: tags.iter().map(|tag| tag_hash(tag)).collect(),
            expression_type: kind.into(),
            sub_string: text.into(),
            sub_version: subscription.version,
            tags_set: tags,
            topic: subscription.topic.as_str().into(),
        }
    }

    fn expression(&self) -> Expression {
        let or = |value: &str, otherwise: &str| {
            if value.is_empty() { otherwise.to_owned() } else { value.to_owned() }
        };
        let kind = or(&self.expression_type, FILTER_KIND_DEFAULT);
        Expression { kind, text: or(&self.sub_string, FILTER_ALL) }
    }

    fn read(self) -> Result<SubscriptionData, String> {
        let expression = self.expression();
        let topic = named(self.topic, TopicName::new)?;
        Ok(SubscriptionData { topic, expression, version: self.sub_version })
    }
}

/// Body of CHECK_CLIENT_CONFIG, sent before a consumer starts whose filter is no tag expression.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckBody<'a> {
    subscription_data: SubscriptionBody<'a>,
}

impl<'a> CheckBody<'a> {
    pub fn of(Expression { kind, text }: &'a Expression) -> Self {
        let (expression_type, sub_string) = (kind.into(), text.into());
        let subscription_data =
            SubscriptionBody { expression_type, sub_string, ..Default::default() };
        Self { subscription_data }
    }
}

/// CHECK_CLIENT_CONFIG. Group and topic do not matter.
pub fn decode_check_filter(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let body: CheckBody<'_> = body::decode("CHECK_CLIENT_CONFIG", body)?;
    Ok(Request::CheckFilter(body.subscription_data.expression()))
}

/// UNREGISTER_CLIENT.
pub fn decode_unregister(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let group = |name| fields.optional(name).map(GroupName::new).transpose();
    let client = fields.needed("clientID")?;
    check_client_id(&client)?;
    Ok(Request::Unregister {
        client,
        producer: group("producerGroup")?,
        consumer: group("consumerGroup")?,
    })
}

pub fn encode_unregister(
    fields: &mut FieldWriter<'_>,
    client: &ClientId,
    producer: Option<&GroupName>,
    consumer: Option<&GroupName>,
) {
    fields.text("clientID", client);
    fields.optional("producerGroup", producer.map(GroupName::as_str));
    fields.optional("consumerGroup", consumer.map(GroupName::as_str));
}

/// GET_CONSUMER_LIST_BY_GROUP.
pub fn decode_members(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::GroupMembers { group: GroupName::new(fields.needed("consumerGroup")?)? })
}

/// Body of the reply to GET_CONSUMER_LIST_BY_GROUP.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MembersBody<'a> {
    consumer_id_list: List<Cow<'a, str>>,
}

impl<'a> MembersBody<'a> {
    pub fn encode(members: &'a [ClientId]) -> Vec<u8> {
        let consumer_id_list = members.iter().map(|member| Cow::Borrowed(&**member)).collect();
        let mut out = Vec::new();
        ser::push(&mut out, &Self { consumer_id_list });
        out
    }

    pub fn read(self) -> Vec<ClientId> {
        self.consumer_id_list.0.into_iter().map(|member| member.into_owned().into()).collect()
    }
}
