//! Handles by which clients recall delayed messages before they are delivered (remoting reference,
//! 5.10).
//!
//! A client gets the handle with the reply to its send and passes it on unchanged; to find the
//! broker, it reads the first five fields. Two more are ours. They are hints: the broker checks what
//! they point to.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;

use super::{LogOffset, Timestamp};

const VERSION: &str = "v1";
/// Maximum size of the fields of a handle, bytes: several times that of the longest names.
const SIZE_MAX: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    pub topic: String,
    pub broker_name: String,
    /// When the message is due.
    pub due_at: Timestamp,
    /// The id that the producer has given it.
    pub unique_key: String,
    /// Where its record was stored first.
    pub position: LogOffset,
    /// When it is due, by the clock of the shard.
    pub due_ms: u64,
}

impl RecallHandle {
    /// Returns `None` if a field has a space, which separates the fields.
    pub fn encode(&self) -> Option<String> {
        let Self { topic, broker_name, due_at, unique_key, position, due_ms } = self;
        // The reference adds a millisecond.
        let due_at = due_at.plus_ms(1).0;
        let fields = format!(
            "{VERSION} {topic} {broker_name} {due_at} {unique_key} {} {due_ms}",
            position.0
        );
        let is_valid = fields.split(' ').count() == 7 && fields.len() <= SIZE_MAX;
        is_valid.then(|| URL_SAFE.encode(fields))
    }

    /// Returns `None` if it is not a handle that a RingMQ broker has made.
    pub fn decode(handle: &str) -> Option<Self> {
        if handle.len() > SIZE_MAX * 2 {
            return None;
        }
        let fields = String::from_utf8(URL_SAFE.decode(handle).ok()?).ok()?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let [VERSION, topic, broker_name, due_at, unique_key, position, due_ms] = fields[..] else {
            return None;
        };
        Some(Self {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            due_at: Timestamp(due_at.parse::<u64>().ok()?.checked_sub(1)?),
            unique_key: unique_key.to_owned(),
            position: LogOffset(position.parse().ok()?),
            due_ms: due_ms.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> RecallHandle {
        RecallHandle {
            topic: "orders".into(),
            broker_name: "broker-a".into(),
            due_at: Timestamp(1_999),
            unique_key: "7F0000010BB4".into(),
            position: LogOffset(4_136),
            due_ms: 2_001,
        }
    }

    #[test]
    fn a_handle_begins_with_the_fields_of_the_reference_and_comes_back_whole() {
        let text = handle().encode().unwrap();
        let fields = String::from_utf8(URL_SAFE.decode(&text).unwrap()).unwrap();
        assert_eq!(fields, "v1 orders broker-a 2000 7F0000010BB4 4136 2001");
        assert_eq!(RecallHandle::decode(&text), Some(handle()));
    }

    #[test]
    fn what_is_no_handle_is_refused() {
        for fields in [
            "",
            "v1",
            "v1 orders broker-a 2000 7F0000010BB4",
            "v2 orders broker-a 2000 7F0000010BB4 4136 2001",
            "v1 orders broker-a 0 7F0000010BB4 4136 2001",
            "v1 orders broker-a 2000 7F0000010BB4 -1 2001",
            "v1 orders broker-a 2000 7F0000010BB4 4136 2001 9",
        ] {
            assert_eq!(RecallHandle::decode(&URL_SAFE.encode(fields)), None, "{fields}");
        }
        assert_eq!(RecallHandle::decode("not base64!"), None);
        let spaced = RecallHandle { unique_key: "a b".into(), ..handle() };
        assert_eq!(spaced.encode(), None);
        let long = RecallHandle { unique_key: "x".repeat(SIZE_MAX), ..handle() };
        assert_eq!(long.encode(), None);
    }
}
