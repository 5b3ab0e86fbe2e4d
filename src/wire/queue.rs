//! A message queue in bodies (remoting reference, 3.4).

use std::borrow::Cow;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::model::request::QueueOf;
use crate::model::{NameError, QueueId, TopicName};

/// `MessageQueue` of the reference.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue<'a> {
    #[serde(default)]
    pub broker_name: Cow<'a, str>,
    pub queue_id: u32,
    pub topic: Cow<'a, str>,
}

impl<'a> MessageQueue<'a> {
    pub fn of(broker_name: &'a str, queue: &'a QueueOf) -> Self {
        let topic = queue.topic.as_str().into();
        Self { broker_name: broker_name.into(), queue_id: queue.queue.0, topic }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The broker's name and the queue.
    pub fn read(self) -> Result<(ByteString, QueueOf), NameError> {
        let topic = TopicName::new(self.topic.into_owned())?;
        let queue = QueueOf { topic, queue: QueueId(self.queue_id) };
        Ok((self.broker_name.into_owned().into(), queue))
    }
}
