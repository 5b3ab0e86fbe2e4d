//! Who is there and what it subscribes to (remoting reference, 3.4, 3.5).

use bytes::Bytes;
use bytestring::ByteString;

use crate::model::ids::check_client_id;
use crate::model::request::{
    ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, SubscriptionData,
};
use crate::model::{ClientId, GroupName, Refusal, Request, TopicName};
use crate::wire::body::{self, BodyError, Budget};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::read::Reader;
use crate::wire::json::write::{self as json, Object};
use crate::wire::message::{FILTER_ALL, FILTER_KIND_DEFAULT};

/// Named field of a heartbeat's answer that tells that this server speaks the fixed header.
pub const CAPABILITY_FIXED: &str = "RINGMQ_FIXED";

/// Groups of each kind one heartbeat may name. Stock clients name a handful.
pub const HEARTBEAT_GROUPS_MAX: usize = 1_024;
/// Subscriptions one heartbeat may hold, of all its groups.
pub const HEARTBEAT_SUBSCRIPTIONS_MAX: usize = 10_000;

/// HEART_BEAT. Fields may be missing, and enums may be names or numbers: clients differ.
pub fn decode_heartbeat(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    body::read("HEART_BEAT", body, read_heartbeat).map(Request::Heartbeat)
}

fn read_heartbeat(reader: &mut Reader<'_>) -> Result<Heartbeat, BodyError> {
    let mut client = ByteString::new();
    let mut producers = Vec::new();
    let mut consumers = Vec::new();
    let mut producer_budget = Budget::new("producer groups", HEARTBEAT_GROUPS_MAX);
    let mut consumer_budget = Budget::new("consumer groups", HEARTBEAT_GROUPS_MAX);
    let mut subscription_budget = Budget::new("subscriptions", HEARTBEAT_SUBSCRIPTIONS_MAX);
    body::object(reader, |key, reader| {
        match key {
            "clientID" => client = read_client(reader)?,
            "producerDataSet" => {
                body::list_of(reader, &mut producers, &mut producer_budget, read_producer)?;
            }
            "consumerDataSet" => {
                let read =
                    |reader: &mut Reader<'_>| read_consumer(reader, &mut subscription_budget);
                body::list_of(reader, &mut consumers, &mut consumer_budget, read)?;
            }
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    if client.is_empty() {
        return Err(body::missing("clientID"));
    }
    Ok(Heartbeat { client, producers, consumers })
}

fn read_client(reader: &mut Reader<'_>) -> Result<ClientId, BodyError> {
    let client = reader.text()?.unwrap_or_default();
    check_client_id(&client)?;
    Ok(client.into_owned().into())
}

fn read_producer(reader: &mut Reader<'_>) -> Result<GroupName, BodyError> {
    let mut group = String::new();
    body::object(reader, |key, reader| {
        match key {
            "groupName" => group = body::text(reader)?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(GroupName::new(group)?)
}

fn read_consumer(
    reader: &mut Reader<'_>,
    subscription_budget: &mut Budget,
) -> Result<ConsumerData, BodyError> {
    let mut group = String::new();
    let mut consume_type = ConsumeType::Passively;
    let mut model = MessageModel::Clustering;
    let mut subscriptions = Vec::new();
    body::object(reader, |key, reader| {
        match key {
            "groupName" => group = body::text(reader)?,
            "consumeType" => consume_type = read_name(reader, key, &CONSUME_TYPES, consume_type)?,
            "messageModel" => model = read_name(reader, key, &MESSAGE_MODELS, model)?,
            "subscriptionDataSet" => {
                body::list_of(reader, &mut subscriptions, subscription_budget, read_subscription)?;
            }
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(ConsumerData { group: GroupName::new(group)?, consume_type, model, subscriptions })
}

fn read_subscription(reader: &mut Reader<'_>) -> Result<SubscriptionData, BodyError> {
    let mut topic = String::new();
    let mut kind = String::new();
    let mut text = String::new();
    let mut version = 0;
    body::object(reader, |key, reader| {
        match key {
            "topic" => topic = body::text(reader)?,
            "subString" => text = body::text(reader)?,
            "expressionType" => kind = body::text(reader)?,
            "subVersion" => version = reader.integer()?.unwrap_or(0),
            // The hashes in `codeSet` are made anew from the text: clients differ in how they make
            // them, and some send none.
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    let or = |value: String, otherwise: &str| {
        if value.is_empty() { otherwise.to_owned() } else { value }
    };
    let expression = Expression { kind: or(kind, FILTER_KIND_DEFAULT), text: or(text, FILTER_ALL) };
    Ok(SubscriptionData { topic: TopicName::new(topic)?, expression, version })
}

/// Names of an enum; the place in the table is the number that stands for it.
const CONSUME_TYPES: [(&str, ConsumeType); 3] = [
    ("CONSUME_ACTIVELY", ConsumeType::Actively),
    ("CONSUME_PASSIVELY", ConsumeType::Passively),
    ("CONSUME_POP", ConsumeType::Pop),
];
const MESSAGE_MODELS: [(&str, MessageModel); 2] =
    [("BROADCASTING", MessageModel::Broadcasting), ("CLUSTERING", MessageModel::Clustering)];

/// Reads an enum by name or number; null leaves what was there.
fn read_name<T: Copy>(
    reader: &mut Reader<'_>,
    field: &str,
    names: &[(&str, T)],
    otherwise: T,
) -> Result<T, BodyError> {
    let Some(text) = reader.text()? else { return Ok(otherwise) };
    let by_number = || text.parse::<usize>().ok().and_then(|index| names.get(index));
    let row = names.iter().find(|row| row.0 == text).or_else(by_number);
    row.map(|row| row.1).ok_or_else(|| body::unexpected(field, &text))
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|row| row.1 == *value).expect("every value has a name").0
}

pub fn write_heartbeat(out: &mut Vec<u8>, heartbeat: &Heartbeat) {
    json::object(out, |o| {
        o.text("clientID", &heartbeat.client);
        o.list("consumerDataSet", &heartbeat.consumers, |out, consumer| {
            json::object(out, |o| write_consumer(o, consumer));
        });
        o.list("producerDataSet", &heartbeat.producers, |out, group| {
            json::object(out, |o| o.text("groupName", group.as_str()));
        });
    });
}

fn write_consumer(o: &mut Object<'_>, consumer: &ConsumerData) {
    o.text("consumeFromWhere", "CONSUME_FROM_LAST_OFFSET");
    o.text("consumeType", name_of(&CONSUME_TYPES, &consumer.consume_type));
    o.text("groupName", consumer.group.as_str());
    o.text("messageModel", name_of(&MESSAGE_MODELS, &consumer.model));
    o.list("subscriptionDataSet", &consumer.subscriptions, |out, subscription| {
        json::object(out, |o| write_subscription(o, subscription));
    });
    o.boolean("unitMode", false);
}

/// Stock servers filter by the hashes that come along, so they are sent to them.
fn write_subscription(o: &mut Object<'_>, subscription: &SubscriptionData) {
    let Expression { kind, text } = &subscription.expression;
    let is_tags = kind == FILTER_KIND_DEFAULT && text != FILTER_ALL;
    let tags: Vec<&str> = if is_tags { text.split("||").map(str::trim).collect() } else { vec![] };
    o.boolean("classFilterMode", false);
    o.list("codeSet", &tags, |out, tag| {
        json::push_number(out, crate::model::record::tag_hash(tag));
    });
    o.text("expressionType", kind);
    o.text("subString", text);
    o.number("subVersion", subscription.version);
    o.list("tagsSet", &tags, |out, tag| json::push_text(out, tag));
    o.text("topic", subscription.topic.as_str());
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

pub fn write_members(out: &mut Vec<u8>, members: &[ClientId]) {
    json::object(out, |o| {
        o.list("consumerIdList", members, |out, member| json::push_text(out, member));
    });
}

pub fn read_members(reader: &mut Reader<'_>) -> Result<Vec<ClientId>, BodyError> {
    let mut members = Vec::new();
    body::object(reader, |key, reader| {
        match key {
            "consumerIdList" => {
                body::list(reader, &mut members, |reader| Ok(body::text(reader)?.into()))?
            }
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(members)
}
