//! Queue locks of orderly consumers (remoting reference, 3.4).

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::ids::check_client_id;
use crate::model::request::{BrokerQueue, LockQueues};
use crate::model::{GroupName, Refusal, Request};
use crate::wire::body;
use crate::wire::header::head::Fields;
use crate::wire::json::types::{Element, Limit, List};
use crate::wire::queue::MessageQueue;
use crate::wire::skipped::{Skipped, of_name};

/// Maximum number of queues in a request, which contains those of one shard only.
pub const LOCK_QUEUES_MAX: usize = 20_000;

#[derive(Debug)]
struct Queues;

impl Limit for Queues {
    const WHAT: &'static str = "queues to lock";
    const COUNT_MAX: usize = LOCK_QUEUES_MAX;
}

/// `LockBatchRequestBody` of the reference, and `UnlockBatchRequestBody`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LockBody<'a> {
    client_id: Cow<'a, str>,
    consumer_group: Cow<'a, str>,
    mq_set: List<Element<MessageQueue<'a>>, Queues>,
    #[serde(skip_deserializing)]
    only_this_broker: bool,
}

/// LOCK_BATCH_MQ.
pub fn decode_lock(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    decode("LOCK_BATCH_MQ", body).map(Request::LockQueues)
}

/// UNLOCK_BATCH_MQ.
pub fn decode_unlock(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    decode("UNLOCK_BATCH_MQ", body).map(Request::UnlockQueues)
}

/// An invalid queue does not affect the others.
fn decode(command: &str, body: &Bytes) -> Result<LockQueues, Refusal> {
    let body: LockBody<'_> = body::decode(command, body)?;
    if body.client_id.is_empty() {
        let why = format!("body of {command}: field clientId is missing");
        return Err(Refusal::Malformed(why));
    }
    check_client_id(&body.client_id)?;
    let group = GroupName::new(body.consumer_group.into_owned())?;
    let mut skipped = Skipped::default();
    let queues = skipped.read("queue", body.mq_set.0, |queue, _| {
        let topic = queue.topic().to_owned();
        let (broker_name, queue) = queue.read().map_err(|error| of_name(&topic, &error))?;
        Ok(BrokerQueue { broker_name, queue })
    });
    let client = body.client_id.into_owned().into();
    Ok(LockQueues { group, client, queues, skipped: skipped.0 })
}

impl<'a> LockBody<'a> {
    pub fn of(request: &'a LockQueues) -> Self {
        Self {
            client_id: Cow::Borrowed(&request.client),
            consumer_group: request.group.as_str().into(),
            mq_set: request.queues.iter().map(queue).map(Element::Good).collect(),
            only_this_broker: false,
        }
    }
}

/// `LockBatchResponseBody` of the reference.
#[derive(Debug, Serialize)]
pub struct LockedBody<'a> {
    #[serde(rename = "lockOKMQSet")]
    queues: List<MessageQueue<'a>>,
}

impl<'a> LockedBody<'a> {
    pub fn of(queues: &'a [BrokerQueue]) -> Self {
        Self { queues: queues.iter().map(queue).collect() }
    }
}

fn queue(queue: &BrokerQueue) -> MessageQueue<'_> {
    MessageQueue::of(&queue.broker_name, &queue.queue)
}
