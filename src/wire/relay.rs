//! Requests that an operator sends to a broker for one of its consumers, and that the broker passes
//! on to the consumer with the same code (remoting reference, 3.10, 3.12).

use bytes::Bytes;

use crate::model::record::position_in_id;
use crate::model::request::{ConsumeDirectly, RunningInfo};
use crate::model::{ClientId, ClientRequest, GroupName, Refusal, Request, TopicName};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;

/// GET_CONSUMER_RUNNING_INFO.
pub fn decode_running_info(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    running_info(fields).map(Request::RunningInfo)
}

/// The same request, in the form that the consumer gets.
pub fn decode_running_info_here(
    fields: &mut Fields<'_>,
    _: &Bytes,
) -> Result<ClientRequest, Refusal> {
    running_info(fields).map(ClientRequest::RunningInfo)
}

fn running_info(fields: &mut Fields<'_>) -> Result<RunningInfo, Refusal> {
    Ok(RunningInfo {
        group: GroupName::new(fields.needed("consumerGroup")?)?,
        client: fields.needed("clientId")?,
        with_stacks: fields.boolean("jstackEnable").unwrap_or(false),
    })
}

pub fn encode_running_info(fields: &mut FieldWriter<'_>, info: &RunningInfo) {
    fields.text("consumerGroup", info.group.as_str());
    fields.text("clientId", &info.client);
    fields.boolean("jstackEnable", info.with_stacks);
}

/// CONSUME_MESSAGE_DIRECTLY.
pub fn decode_consume_directly(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    consume_directly(fields).map(Request::ConsumeDirectly)
}

/// The same request, in the form that the consumer gets: with the message.
pub fn decode_consume_directly_here(
    fields: &mut Fields<'_>,
    body: &Bytes,
) -> Result<ClientRequest, Refusal> {
    let what = consume_directly(fields)?;
    let broker_name = fields.optional("brokerName").unwrap_or_default();
    Ok(ClientRequest::ConsumeDirectly { what, broker_name, record: body.clone() })
}

fn consume_directly(fields: &mut Fields<'_>) -> Result<ConsumeDirectly, Refusal> {
    let message_id = fields.needed("msgId")?;
    let wrong = || Refusal::Malformed("header field msgId is not a message id".into());
    Ok(ConsumeDirectly {
        group: GroupName::new(fields.needed("consumerGroup")?)?,
        client: fields.needed("clientId")?,
        offset: position_in_id(&message_id).ok_or_else(wrong)?,
        message_id,
    })
}

pub fn encode_consume_directly(fields: &mut FieldWriter<'_>, what: &ConsumeDirectly) {
    fields.text("consumerGroup", what.group.as_str());
    fields.text("clientId", &what.client);
    fields.text("msgId", &what.message_id);
}

/// INVOKE_BROKER_TO_GET_CONSUMER_STATUS. The field for the client's id is misnamed.
pub fn decode_consumer_status(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::ConsumerStatus {
        topic: TopicName::new(fields.needed("topic")?)?,
        group: GroupName::new(fields.needed("group")?)?,
        client: fields.optional("clientAddr").filter(|client| !client.is_empty()),
    })
}

pub fn encode_consumer_status(
    fields: &mut FieldWriter<'_>,
    topic: &TopicName,
    group: &GroupName,
    client: Option<&ClientId>,
) {
    fields.text("topic", topic.as_str());
    fields.text("group", group.as_str());
    fields.optional("clientAddr", client.map(|client| &**client));
}
