//! Messages that a consumer could not deal with, when their broker does not take them back: the
//! consumer then sends a copy to the group's retry topic itself, as stock consumers do (remoting
//! reference, 3.6 and 5.8).
//!
//! The broker cannot tell the copy from one that it has made, so the same rules hold here for the
//! properties, the number of attempts and the delay.

use bytes::Bytes;

use crate::model::record::{
    DELAY_PROPERTIES, PROPERTY_DELAY, PROPERTY_PREPARED, RecordView, SYSTEM_FLAGS_OF_LAYOUT,
    SYSTEM_FLAGS_OF_TRANSACTION, push_first_place, push_property, push_without,
};
use crate::model::request::Produce;
use crate::model::topic::AUTO_CREATE_TEMPLATE;
use crate::model::{GroupName, QueueId, TopicName};

/// The producer that sends for a consumer, as stock clients name it.
const INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";
/// The level of the first delay, if the user asks for none; each further one is a level higher.
const FIRST_LEVEL: i32 = 3;
/// Number of queues of a retry topic that is created by sending to it.
const RETRY_QUEUE_COUNT: u32 = 1;

/// The request that sends a copy of `message` to a queue of the group's retry topic. `delay_level` is
/// as in [`send_back`](super::GroupConsumer::send_back).
pub fn copy_for(
    group: &GroupName,
    message: &RecordView<'_>,
    delay_level: i32,
    queue: QueueId,
) -> Produce {
    let known = message.reconsume_times;
    // Above the maximum it becomes a dead letter. Otherwise the group's configuration decides.
    let retry_count_max = (delay_level < 0).then_some(known);
    let level = match delay_level {
        0 => known.saturating_add(FIRST_LEVEL),
        level => level,
    };
    Produce {
        group: INNER_PRODUCER.into(),
        topic: TopicName::retry_of(group),
        default_topic: AUTO_CREATE_TEMPLATE.into(),
        default_queue_count: RETRY_QUEUE_COUNT,
        queue: Some(queue),
        system_flag: message.system_flag & !(SYSTEM_FLAGS_OF_LAYOUT | SYSTEM_FLAGS_OF_TRANSACTION),
        born_at: message.born_at,
        flag: message.flag,
        properties: properties(message, level),
        reconsume_times: known.saturating_add(1),
        retry_count_max,
        is_batch: false,
        body: Bytes::copy_from_slice(message.body),
    }
}

/// Those of the message, with where it was first. An earlier delay or transaction is over.
fn properties(message: &RecordView<'_>, level: i32) -> Bytes {
    let [delay, sec, ms, at] = DELAY_PROPERTIES;
    let mut all = Vec::with_capacity(message.properties.len() + 128);
    push_without(&mut all, message.properties, &[delay, sec, ms, at, PROPERTY_PREPARED]);
    push_first_place(&mut all, message);
    if level > 0 {
        push_property(&mut all, PROPERTY_DELAY, level.to_string().as_bytes());
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::blocking::testing::record;
    use crate::model::record::property;
    use crate::model::{QueueOffset, Timestamp};

    fn message<'a>(bytes: &'a [u8], topic: &'a str, reconsume_times: i32) -> RecordView<'a> {
        let whole = RecordView::parse(bytes).unwrap();
        RecordView { topic, reconsume_times, ..whole }
    }

    /// Properties in the form `NAME=value;`.
    fn text(properties: &[u8]) -> String {
        let text = String::from_utf8(properties.to_vec()).unwrap();
        text.replace('\u{1}', "=").replace('\u{2}', ";")
    }

    #[test]
    fn a_copy_says_where_the_message_was_first_and_counts_the_attempt() {
        let group = GroupName::new("g").unwrap();
        let known = "KEYS\u{1}k\u{2}DELAY\u{1}2\u{2}TIMER_DELAY_MS\u{1}9\u{2}TRAN_MSG\u{1}true\u{2}UNIQ_KEY\u{1}u\u{2}";
        let bytes = record("orders", QueueId(3), QueueOffset(255), known.as_bytes(), b"body");
        let first = RecordView { system_flag: 1 | 8 | 64, ..message(&bytes, "orders", 0) };
        let copy = copy_for(&group, &first, 0, QueueId(1));
        assert_eq!((copy.topic.as_str(), copy.queue), ("%RETRY%g", Some(QueueId(1))));
        assert_eq!((copy.reconsume_times, copy.retry_count_max), (1, None));
        assert_eq!(
            (copy.system_flag, copy.born_at, &copy.body[..]),
            (1, Timestamp(1), &b"body"[..])
        );
        let id = "7F0000010000000100000000000000FF";
        let expected =
            format!("KEYS=k;UNIQ_KEY=u;RETRY_TOPIC=orders;ORIGIN_MESSAGE_ID={id};DELAY=3;");
        assert_eq!(text(&copy.properties), expected);

        // The second attempt fails too. What it knows of the first place stays.
        let bytes = record("%RETRY%g", QueueId(0), QueueOffset(7), &copy.properties, b"body");
        let copy = copy_for(&group, &message(&bytes, "orders", 1), 0, QueueId(0));
        assert_eq!(copy.reconsume_times, 2);
        assert_eq!(text(&copy.properties), expected.replace("DELAY=3", "DELAY=4"));
    }

    #[test]
    fn the_user_chooses_the_delay_or_makes_it_a_dead_letter() {
        let group = GroupName::new("g").unwrap();
        let bytes = record("t", QueueId(0), QueueOffset(0), b"", b"body");
        for (attempts, level, expected_level, retry_count_max) in [
            (0, 0, Some("3"), None),
            (5, 0, Some("8"), None),
            (5, 2, Some("2"), None),
            // Brokers make it a dead letter if it has more attempts than the maximum.
            (0, -1, None, Some(0)),
            (5, -1, None, Some(5)),
        ] {
            let copy = copy_for(&group, &message(&bytes, "t", attempts), level, QueueId(0));
            let found = property(&copy.properties, PROPERTY_DELAY);
            assert_eq!(found, expected_level.map(str::as_bytes), "{attempts}, {level}");
            assert_eq!(copy.retry_count_max, retry_count_max);
            assert!(retry_count_max.is_none_or(|count_max| copy.reconsume_times > count_max));
        }
    }
}
