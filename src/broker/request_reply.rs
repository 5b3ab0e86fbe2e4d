//! Request and reply between clients (remoting reference, 3.9). The request is an ordinary message; the
//! consumer sends its reply to the broker, which forwards it to the client that waits for it.
//!
//! Unlike in the reference, a reply is not stored: no one can read it before the requester gets it,
//! and afterwards no one needs it.

use bytes::Bytes;

use super::Broker;
use super::operation::Context;
use crate::model::client::PushedReply;
use crate::model::record::{
    PROPERTY_CLUSTER, PROPERTY_REPLY_TO, property, push_property, push_without,
};
use crate::model::request::Produce;
use crate::model::{ClientRequest, QueueId, Refusal, Reply, Timestamp};
use crate::storage::disk::Disk;

/// Property that the broker adds to a reply: when it was forwarded.
const PROPERTY_PUSHED_AT: &str = "PUSH_REPLY_TIME";
/// Time limit for the client to confirm the reply, ms.
const PUSH_MS_MAX: u64 = 10_000;

impl<D: Disk> Broker<D> {
    /// Forwards a reply, and returns once the client has confirmed it.
    pub(super) async fn send_reply(
        &self,
        message: &Produce,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let client = property(&message.properties, PROPERTY_REPLY_TO)
            .and_then(|client| std::str::from_utf8(client).ok())
            .ok_or_else(|| {
                Refusal::Malformed(format!("property {PROPERTY_REPLY_TO} is missing"))
            })?;
        let not_here = || Refusal::NoRequester {
            client: client.to_owned(),
            why: "it has sent this shard no heartbeat as a producer".to_owned(),
        };
        let connection = self.state.borrow().groups.producer_connection(client);
        let connection = connection.ok_or_else(not_here)?;
        let now = context.now();
        let pushed = PushedReply {
            message: Produce {
                properties: with_time(&message.properties, now.wall),
                ..message.clone()
            },
            born_host: context.origin().host,
            store_host: self.config.store_host,
            stored_at: now.wall,
        };
        let request = ClientRequest::PushReply(Box::new(pushed));
        let until = now.moment.plus_ms(PUSH_MS_MAX);
        self.call_client(connection, request, until).await.map_err(|error| {
            Refusal::NoRequester { client: client.to_owned(), why: error.to_string() }
        })?;
        Ok(Reply::ReplyPushed(message.queue.unwrap_or(QueueId(0))))
    }

    /// The property by which a request's consumers find the topic for replies. Empty if the message
    /// is not a request.
    pub(super) fn added_to_request(&self, properties: &[u8]) -> Vec<u8> {
        let mut added = Vec::new();
        if property(properties, PROPERTY_REPLY_TO).is_some() {
            push_property(&mut added, PROPERTY_CLUSTER, self.config.cluster.as_bytes());
        }
        added
    }
}

fn with_time(properties: &[u8], now: Timestamp) -> Bytes {
    let mut with = Vec::new();
    push_without(&mut with, properties, &[PROPERTY_PUSHED_AT]);
    push_property(&mut with, PROPERTY_PUSHED_AT, now.0.to_string().as_bytes());
    with.into()
}
