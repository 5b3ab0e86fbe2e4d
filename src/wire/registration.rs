//! REGISTER_BROKER (remoting reference, 2.3): a broker and all its topics, as JSON or as a
//! compressed list of strings.
//!
//! A topic that cannot be used is skipped instead of refusing the whole broker: a stock broker
//! registers a topic named after its host, which is often no legal name.

use std::borrow::Cow;
use std::io::{self, BufReader, Read, Take};

use bytes::Bytes;
use flate2::read::ZlibDecoder;
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::I32;

use crate::model::ids::GROUP_TOPIC_NAME_SIZE_MAX;
use crate::model::record::body_checksum;

use crate::model::nameserver::Registration;
use crate::model::topic::{PERM_READ, PERM_WRITE, REGISTERED_TOPICS_MAX};
use crate::model::{DataVersion, NameServerRequest, Refusal, TopicConfig, TopicName, excerpt};
use crate::wire::body;
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::types::{Element, Entries, Limit};
use crate::wire::route::{Nothing, decode_broker, encode_broker};

/// Maximum size of a string in a compressed body: a topic with its attributes, or a data version.
/// Stock brokers write 30 to 200 bytes.
const LINE_SIZE_MAX: usize = 16 << 10;
/// Maximum inflated size: the maximum number of topics with names of maximum length, and as much
/// again for attributes.
const INFLATED_SIZE_MAX: u64 = (REGISTERED_TOPICS_MAX * 2 * GROUP_TOPIC_NAME_SIZE_MAX) as u64;
/// Maximum number of skipped topics that are reported.
const SKIPPED_MAX: usize = 16;
/// Maximum number of characters shown of an invalid line.
const SHOWN_MAX: usize = 200;

/// REGISTER_BROKER.
pub fn decode_register_broker(
    fields: &mut Fields<'_>,
    body: &Bytes,
) -> Result<NameServerRequest, Refusal> {
    let lease_ms: Option<i64> = fields.optional_number("heartbeatTimeoutMillis")?;
    let checksum: u32 = fields.optional_number("bodyCrc32")?.unwrap_or(0);
    if checksum != 0 && checksum != body_checksum(body) {
        return Err(Refusal::Registration("the body does not have its checksum".to_owned()));
    }
    let Topics { version, topics, skipped, misnamed } = match fields.boolean("compressed") {
        Some(true) => read_compressed(body)?,
        _ if body.is_empty() => Default::default(),
        _ => body::decode::<RegistrationBody<'_>>("REGISTER_BROKER", body)?.read(),
    };
    Ok(NameServerRequest::RegisterBroker(Registration {
        broker: decode_broker(fields)?,
        ha_address: fields.optional("haServerAddr").map(String::from).unwrap_or_default(),
        lease_ms: lease_ms.and_then(|ms| u64::try_from(ms).ok()),
        version,
        topics,
        skipped,
        misnamed,
    }))
}

/// The content of a registration's body.
#[derive(Default)]
struct Topics {
    version: DataVersion,
    topics: Vec<TopicConfig>,
    skipped: Vec<String>,
    misnamed: Vec<String>,
}

impl Topics {
    /// The name, if it is a legal one; otherwise it is noted.
    fn name(&mut self, name: &str) -> Option<TopicName> {
        let legal = TopicName::new(name.to_owned()).ok();
        if legal.is_none() {
            note(&mut self.misnamed, || format!("{:?}", excerpt(name, SHOWN_MAX)));
        }
        legal
    }

    fn skip(&mut self, what: impl FnOnce() -> String) {
        note(&mut self.skipped, what);
    }
}

/// Notes what was skipped; beyond the bound, it is skipped silently.
fn note(skipped: &mut Vec<String>, what: impl FnOnce() -> String) {
    if skipped.len() < SKIPPED_MAX {
        skipped.push(what());
    }
}

/// Topics of one registration.
#[derive(Debug)]
struct Topic;

impl Limit for Topic {
    const WHAT: &'static str = "topics";
    const COUNT_MAX: usize = REGISTERED_TOPICS_MAX;
}

/// `RegisterBrokerBody` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegistrationBody<'a> {
    #[serde(skip_deserializing)]
    filter_server_list: [(); 0],
    topic_config_serialize_wrapper: TopicsBody<'a>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TopicsBody<'a> {
    data_version: DataVersion,
    topic_config_table: Entries<Cow<'a, str>, Element<TopicBody<'a>>, Topic>,
}

/// `TopicConfig` of the reference. The name is the table's key and is not decoded again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicBody<'a> {
    #[serde(skip_deserializing)]
    attributes: Nothing,
    order: bool,
    perm: u32,
    read_queue_nums: u32,
    #[serde(skip_deserializing)]
    topic_filter_type: &'static str,
    #[serde(skip_deserializing)]
    topic_name: &'a str,
    topic_sys_flag: u32,
    write_queue_nums: u32,
}

impl Default for TopicBody<'_> {
    fn default() -> Self {
        Self {
            attributes: Nothing {},
            order: false,
            perm: PERM_READ | PERM_WRITE,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG",
            topic_name: "",
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl<'a> RegistrationBody<'a> {
    pub fn of(registration: &'a Registration) -> Self {
        let entry = |topic: &'a TopicConfig| {
            (Cow::Borrowed(topic.name.as_str()), Element::Good(TopicBody::of(topic)))
        };
        let topic_config_table = registration.topics.iter().map(entry).collect();
        let data_version = registration.version;
        let topic_config_serialize_wrapper = TopicsBody { data_version, topic_config_table };
        Self { filter_server_list: [], topic_config_serialize_wrapper }
    }

    /// Topics with names that no client could use are skipped.
    fn read(self) -> Topics {
        let TopicsBody { data_version, topic_config_table } = self.topic_config_serialize_wrapper;
        let mut read = Topics { version: data_version, ..Topics::default() };
        for (name, topic) in topic_config_table.0 {
            let Some(name) = read.name(&name) else { continue };
            match topic {
                Element::Good(topic) => read.topics.push(topic.read(name)),
                Element::Bad(why) => read.skip(|| format!("{name}: {why}")),
            }
        }
        read
    }
}

impl<'a> TopicBody<'a> {
    pub fn of(topic: &'a TopicConfig) -> Self {
        Self {
            order: topic.order,
            perm: topic.perm,
            read_queue_nums: topic.read_queue_count,
            topic_name: topic.name.as_str(),
            topic_sys_flag: topic.system_flag,
            write_queue_nums: topic.write_queue_count,
            ..Self::default()
        }
    }

    fn read(self, name: TopicName) -> TopicConfig {
        TopicConfig {
            name,
            read_queue_count: self.read_queue_nums,
            write_queue_count: self.write_queue_nums,
            perm: self.perm,
            system_flag: self.topic_sys_flag,
            order: self.order,
        }
    }
}

/// The compressed form: length-prefixed strings. What follows the topics concerns filter servers
/// and static topics and is ignored.
///
/// It is decoded while it is inflated; only the topics are kept, whatever the body claims to
/// contain.
fn read_compressed(body: &[u8]) -> Result<Topics, Refusal> {
    let inflated = ZlibDecoder::new(body).take(INFLATED_SIZE_MAX);
    let mut parts = Parts { inflated: BufReader::new(inflated), text: Vec::new() };
    let version = body::decode("REGISTER_BROKER", parts.text()?.as_bytes())?;
    let count = parts.number()?;
    if count > REGISTERED_TOPICS_MAX {
        return Err(Refusal::TooMany { what: "topics", count_max: REGISTERED_TOPICS_MAX });
    }
    let mut read = Topics { version, ..Topics::default() };
    for _ in 0..count {
        read_topic_line(parts.text()?, &mut read);
    }
    Ok(read)
}

/// Iterates over the parts of a compressed body.
struct Parts<'a> {
    inflated: BufReader<Take<ZlibDecoder<&'a [u8]>>>,
    /// The last string; its memory is reused for the next.
    text: Vec<u8>,
}

impl Parts<'_> {
    fn number(&mut self) -> Result<usize, Refusal> {
        let mut number = I32::ZERO;
        self.inflated.read_exact(number.as_mut_bytes()).map_err(|error| self.broken(&error))?;
        usize::try_from(number.get()).map_err(|_| malformed("a size is negative"))
    }

    fn text(&mut self) -> Result<&str, Refusal> {
        let size = self.number()?;
        if size > LINE_SIZE_MAX {
            let what = "text in a compressed registration";
            return Err(Refusal::TooLarge { what, size, size_max: LINE_SIZE_MAX });
        }
        self.text.resize(size, 0);
        self.inflated.read_exact(&mut self.text).map_err(|error| self.broken(&error))?;
        std::str::from_utf8(&self.text).map_err(|_| malformed("a text is not UTF-8"))
    }

    /// Why reading stopped.
    #[cold]
    fn broken(&self, error: &io::Error) -> Refusal {
        if self.inflated.get_ref().limit() == 0 {
            let (what, size_max) = ("inflated registration", INFLATED_SIZE_MAX as usize);
            return Refusal::TooLarge { what, size: size_max + 1, size_max };
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed("truncated"),
            _ => malformed(&format!("no zlib: {error}")),
        }
    }
}

/// Decodes `name readQueueNums writeQueueNums perm SINGLE_TAG {attributes}`.
fn read_topic_line(line: &str, read: &mut Topics) {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut number = || words.next()?.parse().ok();
    let (Some(read_queue_count), Some(write_queue_count), Some(perm)) =
        (number(), number(), number())
    else {
        return read.skip(|| format!("{:?}", excerpt(line, SHOWN_MAX)));
    };
    if let Some(name) = read.name(name) {
        read.topics.push(TopicConfig {
            name,
            read_queue_count,
            write_queue_count,
            perm,
            system_flag: 0,
            order: false,
        });
    }
}

#[cold]
fn malformed(what: &str) -> Refusal {
    Refusal::Malformed(format!("compressed body of REGISTER_BROKER: {what}"))
}

/// The fields of a registration; [`RegistrationBody`] is its body.
pub fn encode_register_broker(fields: &mut FieldWriter<'_>, registration: &Registration) {
    encode_broker(fields, &registration.broker);
    fields.text("haServerAddr", &registration.ha_address);
    if let Some(lease_ms) = registration.lease_ms {
        fields.number("heartbeatTimeoutMillis", lease_ms);
    }
    fields.boolean("compressed", false);
    // Zero means no checksum; the transport's checksum suffices for a body this small.
    fields.number("bodyCrc32", 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;
    use crate::wire::tests::{Named, asked, both};

    const FIELDS: Named<'static> = &[
        ("brokerName", "b"),
        ("brokerAddr", "10.0.0.1:10911"),
        ("clusterName", "c"),
        ("haServerAddr", "10.0.0.1:10912"),
        ("brokerId", "0"),
        ("heartbeatTimeoutMillis", "30000"),
    ];

    fn topic(name: &'static str, queue_count: u32, perm: u32) -> TopicConfig {
        TopicConfig { perm, ..TopicConfig::new(TopicName::new(name).unwrap(), queue_count) }
    }

    fn expected(topics: Vec<TopicConfig>, misnamed: &[&str]) -> Result<NameServerRequest, Refusal> {
        Ok(NameServerRequest::RegisterBroker(Registration {
            broker: crate::model::nameserver::BrokerId {
                cluster: "c".into(),
                name: "b".into(),
                address: "10.0.0.1:10911".into(),
                id: 0,
            },
            ha_address: "10.0.0.1:10912".into(),
            lease_ms: Some(30_000),
            version: DataVersion { counter: 1, state_version: 0, timestamp: 1_700_000_000_000 },
            topics,
            skipped: Vec::new(),
            misnamed: misnamed.iter().map(|name| format!("{name:?}")).collect(),
        }))
    }

    fn check(more: Named<'_>, body: &[u8], expected: &Result<NameServerRequest, Refusal>) {
        for frame in both(103, &[FIELDS, more].concat(), body) {
            assert_eq!(asked(&frame), *expected, "{:?}", frame.encoding);
        }
    }

    #[test]
    fn plain_registration() {
        let body = br#"{"filterServerList":[],"topicConfigSerializeWrapper":{
            "dataVersion":{"counter":1,"stateVersion":0,"timestamp":1700000000000},
            "mappingDataVersion":{"counter":0,"stateVersion":0,"timestamp":1},
            "topicConfigTable":{"TopicA":{"attributes":{},"order":false,"perm":6,"readQueueNums":8,
            "topicFilterType":"SINGLE_TAG","topicName":"TopicA","topicSysFlag":0,"writeQueueNums":8},
            "host.example.org":{"perm":7},"TBW102":{"perm":7,"readQueueNums":4,"writeQueueNums":4}},
            "topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}"#;
        let topics = vec![topic("TopicA", 8, 6), topic("TBW102", 4, 7)];
        let expected = expected(topics, &["host.example.org"]);
        check(&[("compressed", "false")], body, &expected);
        check(&[], body, &expected);
        let checksum = body_checksum(body).to_string();
        check(&[("bodyCrc32", &checksum)], body, &expected);
        let what = "the body does not have its checksum".to_owned();
        check(&[("bodyCrc32", "1")], body, &Err(Refusal::Registration(what)));
    }

    fn sized(parts: &[&str], count_at: usize, count: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            if index == count_at {
                bytes.extend_from_slice(&count.to_be_bytes());
            }
            bytes.extend_from_slice(&(part.len() as i32).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The form that 4.9 writes, and the form of 5.x with attributes and further parts.
    #[test]
    fn compressed_registration() {
        let version = r#"{"counter":1,"stateVersion":0,"timestamp":1700000000000}"#;
        let old = sized(&[version, "TopicA 8 8 6 SINGLE_TAG", "a.b 1 1 7 SINGLE_TAG", "[]"], 1, 2);
        let new = sized(
            &[
                version,
                "TopicA 8 8 6 SINGLE_TAG {}",
                "TBW102 4 4 7 SINGLE_TAG {\"+a b\":\"c d\"}",
                "[]",
            ],
            1,
            2,
        );
        let flag: Named<'_> = &[("compressed", "true")];
        check(flag, &compressed(&old), &expected(vec![topic("TopicA", 8, 6)], &["a.b"]));
        let both = vec![topic("TopicA", 8, 6), topic("TBW102", 4, 7)];
        check(flag, &compressed(&new), &expected(both, &[]));
    }

    #[test]
    fn a_topic_that_cannot_be_read_costs_the_broker_no_other() {
        let version = r#"{"counter":1,"stateVersion":0,"timestamp":1700000000000}"#;
        let taken = |skipped: &str| {
            let Ok(NameServerRequest::RegisterBroker(registration)) =
                expected(vec![topic("A", 8, 6), topic("B", 4, 6)], &[])
            else {
                panic!("it is one")
            };
            let skipped = vec![skipped.to_owned()];
            Ok(NameServerRequest::RegisterBroker(Registration { skipped, ..registration }))
        };
        let lines = [version, "A 8 8 6 SINGLE_TAG", "T 8 x 6 SINGLE_TAG", "B 4 4 6 SINGLE_TAG"];
        let body = compressed(&sized(&lines, 1, 3));
        check(&[("compressed", "true")], &body, &taken("\"T 8 x 6 SINGLE_TAG\""));

        let table = r#""A":{"readQueueNums":8,"writeQueueNums":8},"T":{"perm":"rw"},"B":{"readQueueNums":4,"writeQueueNums":4}"#;
        let body = format!(
            r#"{{"topicConfigSerializeWrapper":{{"dataVersion":{version},"topicConfigTable":{{{table}}}}}}}"#
        );
        let frame = &both(103, FIELDS, body.as_bytes())[0];
        let Ok(NameServerRequest::RegisterBroker(Registration { topics, skipped, .. })) =
            asked(frame)
        else {
            panic!("not taken")
        };
        assert_eq!(topics, [topic("A", 8, 6), topic("B", 4, 6)]);
        assert!(skipped.len() == 1 && skipped[0].starts_with("T: "), "{skipped:?}");
    }

    #[test]
    fn broken_compressed_registrations_are_refused() {
        let malformed =
            |what: &str| Refusal::Malformed(format!("compressed body of REGISTER_BROKER: {what}"));
        #[rustfmt::skip]
        let rows = [
            (compressed(b""), malformed("truncated")),
            (compressed(b"\xff\xff\xff\xff"), malformed("a size is negative")),
            (compressed(&sized(&["{}", "T 8 8 6 SINGLE_TAG"], 1, 3)), malformed("truncated")),
        ];
        for (body, refusal) in rows {
            check(&[("compressed", "true")], &body, &Err(refusal));
        }
        let frame = &both(103, &[FIELDS, &[("compressed", "true")]].concat(), b"no zlib")[0];
        let Err(Refusal::Malformed(what)) = asked::<NameServerRequest>(frame) else {
            panic!("not refused")
        };
        assert!(what.contains("no zlib"), "{what}");
    }

    /// Small bodies that claim impossible sizes.
    #[test]
    fn a_registration_has_bounds_for_all_that_it_lists() {
        let too_many = || Refusal::TooMany { what: "topics", count_max: REGISTERED_TOPICS_MAX };
        let too_large = |what, size, size_max| Refusal::TooLarge { what, size, size_max };
        let inflated_max = INFLATED_SIZE_MAX as usize;
        let count = REGISTERED_TOPICS_MAX as i32;
        let lines = |line: &str, claimed: i32, sent: usize| {
            let mut bytes = sized(&["{}", ""], 1, claimed);
            bytes.truncate(bytes.len() - 4);
            let line = sized(&[line], 1, 0);
            bytes.extend(line.repeat(sent));
            compressed(&bytes)
        };
        let largest = format!("T 8 8 6 {}", "x".repeat(LINE_SIZE_MAX - 8));
        let larger = format!("{largest}x");
        #[rustfmt::skip]
        let rows = [
            (lines("T 8 8 6", count + 1, 1), too_many()),
            (lines("T 8 8 6", i32::MAX, 1), too_many()),
            (lines(&larger, 1, 1), too_large("text in a compressed registration", LINE_SIZE_MAX + 1, LINE_SIZE_MAX)),
            (lines(&largest, count, 4_000), too_large("inflated registration", inflated_max + 1, inflated_max)),
        ];
        for (body, refusal) in rows {
            check(&[("compressed", "true")], &body, &Err(refusal));
        }
        let json = |count: usize| {
            let entries = vec![r#""a":{}"#; count].join(",");
            format!(r#"{{"topicConfigSerializeWrapper":{{"topicConfigTable":{{{entries}}}}}}}"#)
        };
        check(&[], json(REGISTERED_TOPICS_MAX + 1).as_bytes(), &Err(too_many()));
        for frame in both(103, FIELDS, json(REGISTERED_TOPICS_MAX).as_bytes()) {
            let Ok(NameServerRequest::RegisterBroker(registration)) = asked(&frame) else {
                panic!("not taken")
            };
            assert_eq!(registration.topics.len(), REGISTERED_TOPICS_MAX);
        }
    }

    /// The largest possible table, with names of maximum length, in compressed form.
    #[test]
    fn the_largest_compressed_registration_is_taken() {
        let names: Vec<String> =
            (0..REGISTERED_TOPICS_MAX).map(|number| format!("{number:0>127}")).collect();
        let lines: Vec<String> = names
            .iter()
            .map(|name| format!("{name} 16384 16384 6 SINGLE_TAG {{\"+message.type\":\"NORMAL\"}}"))
            .collect();
        let mut parts = vec!["{}"];
        parts.extend(lines.iter().map(String::as_str));
        let body = compressed(&sized(&parts, 1, REGISTERED_TOPICS_MAX as i32));
        let frame = &both(103, &[FIELDS, &[("compressed", "true")]].concat(), &body)[0];
        let Ok(NameServerRequest::RegisterBroker(registration)) = asked(frame) else {
            panic!("not taken")
        };
        assert!(registration.topics.iter().map(|topic| topic.name.as_str()).eq(&names));
    }
}
