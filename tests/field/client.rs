//! A minimal client of the remoting protocol: frames over a socket, headers as JSON.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::server::PATIENCE;

/// Request codes of the protocol.
pub const PULL: i32 = 11;
pub const UPDATE_TOPIC: i32 = 17;
pub const COMMIT_OFFSET: i32 = 15;
pub const RUNTIME_INFO: i32 = 28;
pub const MIN_OFFSET: i32 = 31;
pub const TOPIC_STATS: i32 = 202;
pub const TOPIC_LIST: i32 = 206;
pub const HEARTBEAT: i32 = 34;
pub const MEMBERS: i32 = 38;
pub const UNREGISTER: i32 = 35;
pub const LOCK: i32 = 41;
pub const REGISTER: i32 = 103;
pub const ROUTE: i32 = 105;
pub const SET_GROUP: i32 = 200;
pub const DELETE_GROUP: i32 = 207;
pub const DELETE_TOPIC: i32 = 215;
pub const DELETE_ROUTE: i32 = 216;
pub const RUNNING_INFO: i32 = 307;
pub const SEND: i32 = 310;
pub const SEND_BATCH: i32 = 320;

/// One connection.
pub struct Client {
    stream: TcpStream,
    opaque: i32,
}

/// A frame from the server: a reply, or a request of its own.
#[derive(Debug)]
pub struct Said {
    pub code: i64,
    pub opaque: i64,
    pub flag: i64,
    pub remark: String,
    pub fields: Value,
    pub body: Vec<u8>,
}

impl Said {
    /// An extension field; all of them are strings on the wire.
    pub fn field(&self, name: &str) -> &str {
        self.fields[name].as_str().unwrap_or_else(|| panic!("no field {name} in {self:?}"))
    }

    pub fn number(&self, name: &str) -> i64 {
        self.field(name).parse().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, opaque: 0 }
    }

    /// Sends a request and returns its reply. Skips requests from the server that arrive first.
    pub fn ask(&mut self, code: i32, fields: &Value, body: &[u8]) -> Said {
        let opaque = self.say(code, fields, body);
        loop {
            let said = self.hear();
            if said.flag & 1 == 1 {
                assert_eq!(said.opaque, i64::from(opaque), "{said:?}");
                return said;
            }
        }
    }

    /// Sends a request. Returns its opaque.
    pub fn say(&mut self, code: i32, fields: &Value, body: &[u8]) -> i32 {
        self.opaque += 1;
        self.write(&frame(&header(code, self.opaque, fields), body));
        self.opaque
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads the next frame from the server.
    pub fn hear(&mut self) -> Said {
        let mut word = [0; 4];
        self.stream.read_exact(&mut word).unwrap();
        let mut rest = vec![0; u32::from_be_bytes(word) as usize];
        self.stream.read_exact(&mut rest).unwrap();
        let header_size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize & 0x00FF_FFFF;
        let body = rest.split_off(4 + header_size);
        if rest[0] == 1 {
            return of_binary(&rest[4..], body);
        }
        let header: Value = serde_json::from_slice(&rest[4..]).unwrap();
        Said {
            code: header["code"].as_i64().unwrap(),
            opaque: header["opaque"].as_i64().unwrap(),
            flag: header["flag"].as_i64().unwrap(),
            remark: header["remark"].as_str().unwrap_or_default().to_owned(),
            fields: header["extFields"].clone(),
            body,
        }
    }

    /// Whether the server closes the connection without another frame.
    pub fn is_at_end(&mut self) -> bool {
        self.stream.read(&mut [0]).unwrap() == 0
    }

    /// Creates or updates a topic on the broker.
    pub fn set_topic(&mut self, topic: &str, queues: u32, perm: u32) -> Said {
        let fields = json!({
            "topic": topic, "defaultTopic": "TBW102", "readQueueNums": queues.to_string(),
            "writeQueueNums": queues.to_string(), "perm": perm.to_string(),
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
        });
        self.ask(UPDATE_TOPIC, &fields, b"")
    }

    /// Sends one message to a queue.
    pub fn send(&mut self, topic: &str, queue: u32, body: &[u8]) -> Said {
        self.ask(SEND, &send_fields(topic, queue), body)
    }

    /// Fields of a pull of up to 32 messages from `offset` on, which the broker may hold for
    /// `hold_ms`.
    pub fn pull_fields(topic: &str, queue: u32, offset: i64, hold_ms: u64) -> Value {
        json!({
            "consumerGroup": "field", "topic": topic, "queueId": queue.to_string(),
            "queueOffset": offset.to_string(), "maxMsgNums": "32",
            "sysFlag": if hold_ms > 0 { "6" } else { "4" }, "commitOffset": "0",
            "suspendTimeoutMillis": hold_ms.to_string(), "subscription": "*", "subVersion": "0",
            "expressionType": "TAG",
        })
    }
}

/// A reply with the binary header, without its extension fields: code i16, language u8, version
/// i16, opaque i32, flag i32, size of the remark i32, remark.
fn of_binary(header: &[u8], body: Vec<u8>) -> Said {
    let number = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let remark = &header[17..17 + number(13) as usize];
    Said {
        code: i64::from(i16::from_be_bytes([header[0], header[1]])),
        opaque: number(5).into(),
        flag: number(9).into(),
        remark: String::from_utf8(remark.to_vec()).unwrap(),
        fields: Value::Null,
        body,
    }
}

/// Extension fields of a send, with the short names of version 2 (310).
pub fn send_fields(topic: &str, queue: u32) -> Value {
    json!({
        "a": "field", "b": topic, "c": "TBW102", "d": "4", "e": queue.to_string(), "f": "0",
        "g": "1700000000000", "h": "0", "i": "", "j": "0", "k": "false", "m": "false",
    })
}

/// One message of a batch, without properties.
pub fn batch_item(body: &[u8]) -> Vec<u8> {
    let number = |number: usize| (number as u32).to_be_bytes();
    let head = [number(22 + body.len()), number(0), number(0), number(0), number(body.len())];
    [&head.concat(), body, &[0, 0]].concat()
}

pub fn header(code: i32, opaque: i32, fields: &Value) -> Vec<u8> {
    let header = json!({
        "code": code, "extFields": fields, "flag": 0, "language": "JAVA", "opaque": opaque,
        "serializeTypeCurrentRPC": "JSON", "version": 409,
    });
    header.to_string().into_bytes()
}

/// Size, header word, header, body; the sizes are big-endian.
pub fn frame(header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&(header.len() as u32).to_be_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(body);
    bytes
}
