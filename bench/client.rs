//! A cheap client with one connection: it encodes its requests beforehand, sends many at a time,
//! and waits for all of their replies. Other benches include this file as a module.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};
use ringmq::model::batch::Records;
use ringmq::model::record::{RecordView, push_property};
use ringmq::model::request::{Expression, Produce, Pull, QueueOf};
use ringmq::model::{GroupName, QueueId, Request, Timestamp, TopicName};
use ringmq::wire::codes::response::{SUCCESS, SYSTEM_BUSY};
use ringmq::wire::{
    FRAME_SIZE_MAX, Frame, HeaderEncoding, decode_reply, encode_request, next_frame,
};

use super::processes::{BROKER, PATIENCE};

/// Maximum size of one pull's reply, bytes.
const PULL_SIZE_MAX: u32 = 1 << 20;
const PULL_COUNT_MAX: u32 = 1024;
const READ_SIZE: usize = 1 << 20;

pub struct Client {
    stream: TcpStream,
    input: BytesMut,
}

/// A message to send, and its destination.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    pub topic: &'a TopicName,
    pub queue: QueueId,
    /// Names and values.
    pub properties: &'a [(&'a str, &'a str)],
    pub body: &'a Bytes,
}

/// A group's position in a queue.
#[derive(Clone)]
pub struct Position {
    pub group: GroupName,
    pub queue: QueueOf,
    pub offset: u64,
}

impl Client {
    pub fn connect() -> Self {
        let stream = TcpStream::connect(BROKER).expect("the broker listens");
        stream.set_nodelay(true).expect("a socket takes this");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes this");
        Self { stream, input: BytesMut::new() }
    }

    /// Sends encoded messages and waits for all replies. Returns how many were stored; a busy
    /// broker refuses some.
    pub fn send(&mut self, messages: &[u8], count: usize) -> usize {
        let mut stored = 0;
        self.exchange(messages, count, |frame| {
            let reply = decode_reply(&frame).expect("a reply has a header");
            match reply.produced() {
                Ok(_) => stored += 1,
                Err(error) => assert_eq!(error.code, SYSTEM_BUSY, "{error:?}"),
            }
        });
        stored
    }

    /// Sends encoded requests and waits for all replies. Returns how many were not refused.
    pub fn ask(&mut self, requests: &[u8], count: usize) -> usize {
        let mut done = 0;
        self.exchange(requests, count, |frame| {
            done +=
                usize::from(decode_reply(&frame).expect("a reply has a header").code == SUCCESS);
        });
        done
    }

    fn exchange(&mut self, requests: &[u8], count: usize, mut take: impl FnMut(Frame)) {
        self.stream.write_all(requests).expect("the broker reads");
        let mut taken = 0;
        let mut chunk = vec![0; READ_SIZE];
        while taken < count {
            while let Some(frame) = next_frame(&mut self.input, FRAME_SIZE_MAX).expect("framing") {
                take(frame);
                taken += 1;
            }
            if taken < count {
                let size = self.stream.read(&mut chunk).expect("the broker answers in time");
                assert!(size > 0, "the broker has closed the connection");
                self.input.extend_from_slice(&chunk[..size]);
            }
        }
    }

    /// Moves all positions to the end of their queues.
    pub fn seek_to_end(&mut self, positions: &mut [Position]) {
        let mut requests = Vec::new();
        for (nth, position) in positions.iter().enumerate() {
            let request = Request::MaxOffset(position.queue.clone());
            push_request(&mut requests, nth, &request);
        }
        let count = positions.len();
        self.exchange(&requests, count, |frame| {
            let reply = decode_reply(&frame).expect("a reply has a header");
            positions[reply.opaque as usize].offset = reply.offset().expect("the queue exists").0;
        });
    }

    /// Pulls from all positions in one batch of requests, advances them, and passes each record to
    /// `take`. Returns the number of messages.
    pub fn pull(
        &mut self,
        positions: &mut [Position],
        filter: &str,
        hold_ms: Option<u64>,
        mut take: impl FnMut(&RecordView<'_>),
    ) -> u64 {
        let mut requests = Vec::new();
        for (nth, position) in positions.iter().enumerate() {
            push_pull(&mut requests, nth, position, filter, hold_ms);
        }
        let mut count = 0;
        let position_count = positions.len();
        self.exchange(&requests, position_count, |frame| {
            let reply = decode_reply(&frame).expect("a reply has a header");
            let pulled = reply.pulled().expect("a pull is answered");
            positions[reply.opaque as usize].offset = pulled.next_offset.0;
            for record in Records::new(&frame.body) {
                take(&record.expect("the broker sends whole records"));
                count += 1;
            }
        });
        count
    }
}

/// Appends an encoded message.
pub fn push_message(out: &mut Vec<u8>, message: Message<'_>) {
    let mut properties = Vec::new();
    for (name, value) in message.properties {
        push_property(&mut properties, name, value.as_bytes());
    }
    let produce = Produce {
        group: "bench".into(),
        topic: message.topic.clone(),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(message.queue),
        system_flag: 0,
        born_at: Timestamp(0),
        flag: 0,
        properties: properties.into(),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: message.body.clone(),
    };
    push_request(out, 0, &Request::Produce(produce));
}

fn push_pull(
    out: &mut Vec<u8>,
    nth: usize,
    position: &Position,
    filter: &str,
    hold_ms: Option<u64>,
) {
    let pull = Pull {
        group: Some(position.group.clone()),
        queue: position.queue.clone(),
        offset: position.offset as i64,
        count_max: PULL_COUNT_MAX,
        bytes_max: Some(PULL_SIZE_MAX),
        commit: None,
        hold_ms,
        subscription: Some(Expression { kind: "TAG".to_owned(), text: filter.to_owned() }),
        subscription_version: 0,
    };
    push_request(out, nth, &Request::Pull(pull));
}

/// Appends an encoded request with number `nth`, which its reply repeats.
pub fn push_request(out: &mut Vec<u8>, nth: usize, request: &Request) {
    encode_request(out, HeaderEncoding::Json, nth as i32, false, request)
        .expect("JSON has a form for it");
}

/// Appends an encoded request that gets no reply.
pub fn push_one_way(out: &mut Vec<u8>, request: &Request) {
    encode_request(out, HeaderEncoding::Json, 0, true, request).expect("JSON has a form for it");
}
