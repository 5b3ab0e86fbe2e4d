//! A NameServer and broker in one, in memory, on one port: slow, but complete enough for a whole
//! run. It can break exactly one promise, or refuse to work at all.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use ringmq::model::batch::{BatchItems, Records};
use ringmq::model::nameserver::{ClusterInfo, Route, RouteBroker, RouteQueues};
use ringmq::model::record::{Host, NewRecord, Placement};
use ringmq::model::reply::{Produced, PullStatus, Pulled};
use ringmq::model::request::{Produce, ProduceRecords, Pull};
use ringmq::model::{
    LogOffset, NameServerReply, NameServerRequest, QueueId, QueueOffset, Refusal, Reply, Request,
    Timestamp, TopicConfig, TopicName,
};
use ringmq::wire::{self, DecodeRequest, FRAME_SIZE_MAX, Frame, Head};
use zerocopy::byteorder::big_endian::U32;

const NAME: &str = "broken-promises";
/// Messages per pull.
const COUNT_MAX: usize = 100;

/// What happens to message number 50, counting all messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Lose,
    Flip,
    Repeat,
    /// It is stored after the next message of its queue.
    Swap,
    /// Its request is refused.
    Refuse,
    /// Its request is stored, but gets no reply.
    Silence,
    /// Its request is stored and the connection closed.
    HangUp,
    /// As [`Fault::HangUp`], and from then on the broker is at its last address.
    Move,
    /// Everything stalls for [`STALL`], starting with this message.
    Stall,
    /// From then on, pulls get no reply.
    NoPulls,
    /// The next pull of each of eight queues is not answered.
    LostPulls,
    /// Its topic does not accept messages.
    Closed,
    /// Every request is refused, not only this one.
    RefuseAll,
}

/// Longer than any generator's lateness.
const STALL: Duration = Duration::from_secs(4);

const FAULTY: u64 = 50;

struct State {
    fault: Fault,
    address: SocketAddr,
    /// Where the broker is found after a move.
    last_address: SocketAddr,
    count: u64,
    topics: HashMap<String, TopicConfig>,
    /// Records by queue, in the order of consumption.
    queues: HashMap<u32, Vec<Vec<u8>>>,
    held_back: Option<(u32, Vec<u8>)>,
    /// Queues of which a pull was lost.
    lost_pulls: HashSet<u32>,
}

/// Serves on loopback until the process ends.
pub fn start(fault: Fault) -> SocketAddr {
    start_on([TcpListener::bind("127.0.0.1:0").unwrap()], fault)
}

/// As [`start`], on given sockets; the route names the first one as the broker.
pub fn start_on<const N: usize>(listeners: [TcpListener; N], fault: Fault) -> SocketAddr {
    let address = listeners[0].local_addr().unwrap();
    let last_address = listeners[N - 1].local_addr().unwrap();
    let (count, topics, queues, held_back, lost_pulls) = Default::default();
    let state =
        State { fault, address, last_address, count, topics, queues, held_back, lost_pulls };
    let state = Arc::new(Mutex::new(state));
    for listener in listeners {
        let state = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if state.lock().unwrap().is_left(&stream) {
                    return;
                }
                let state = state.clone();
                // A client that disconnects is not an error.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
    }
    address
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        if state.lock().unwrap().is_left(&stream) {
            return Ok(());
        }
        while let Some(frame) =
            wire::next_frame(&mut input, FRAME_SIZE_MAX).map_err(io::Error::other)?
        {
            match answer(&frame, state)? {
                Some(bytes) => stream.write_all(&bytes)?,
                None if state.lock().unwrap().hangs_up() => return Ok(()),
                None => {}
            }
        }
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            size => input.extend_from_slice(&piece[..size]),
        }
    }
}

/// The encoded reply to one frame, including records.
fn answer(frame: &Frame, state: &Mutex<State>) -> io::Result<Option<Vec<u8>>> {
    let mut head = Head::of(frame);
    wire::decode_head(&mut head).map_err(io::Error::other)?;
    let (to, mut out) = (head.reply_to(), Vec::new());
    if NameServerRequest::SERVED.contains(&head.code) {
        let reply = wire::decode_command(&mut head).and_then(|request| direct(&request, state));
        wire::encode_reply(&mut out, to, &reply, 0);
        return Ok(Some(out));
    }
    let answer = match wire::decode_command(&mut head) {
        Ok(request) => handle(&request, state),
        Err(refusal) => Some((Err(refusal), Vec::new())),
    };
    Ok(answer.map(|(reply, records)| {
        wire::encode_reply(&mut out, to, &reply, records.len());
        out.extend_from_slice(&records);
        out
    }))
}

/// Replies as a NameServer.
fn direct(request: &NameServerRequest, state: &Mutex<State>) -> Result<NameServerReply, Refusal> {
    let state = state.lock().unwrap();
    match request {
        NameServerRequest::Route { topic } => {
            let name = TopicName::new(topic.clone())?;
            let config = match state.fault {
                Fault::Closed => Some(TopicConfig { perm: 4, ..TopicConfig::new(name.clone(), 8) }),
                _ => state.topics.get(&**topic).cloned(),
            };
            let config = config.ok_or(Refusal::UnknownTopic(name))?;
            let (queues, brokers) = (vec![queues_of(&config)], vec![state.broker()]);
            Ok(NameServerReply::Route(Route { queues, brokers }))
        }
        NameServerRequest::ClusterInfo => {
            Ok(NameServerReply::ClusterInfo(ClusterInfo { brokers: vec![state.broker()] }))
        }
        other => Err(Refusal::Malformed(format!("{other:?}"))),
    }
}

type Answer = (Result<Reply, Refusal>, Vec<u8>);

/// Returns `None` if the request gets no reply.
fn handle(request: &Request, state: &Mutex<State>) -> Option<Answer> {
    let mut locked = state.lock().unwrap();
    let reply = match request {
        Request::CreateTopic(topic) => {
            locked.topics.insert(topic.name.as_str().to_owned(), topic.clone());
            Reply::Done
        }
        Request::Heartbeat(_) => Reply::HeartbeatTaken,
        Request::MaxOffset(queue) => Reply::Offset(locked.end(queue.queue)),
        Request::Produce(produce) => return locked.produce(produce),
        Request::ProduceRecords(produce) => return locked.produce_records(produce),
        Request::Pull(_) if locked.fault == Fault::NoPulls && locked.count > FAULTY => return None,
        Request::Pull(pull) if locked.loses(pull) => return None,
        Request::Pull(pull) => {
            let answer = locked.pull(pull);
            drop(locked);
            if answer.1.is_empty() {
                thread::sleep(Duration::from_millis(2));
            }
            return Some(answer);
        }
        other => return Some((Err(Refusal::Malformed(format!("{other:?}"))), Vec::new())),
    };
    Some((Ok(reply), Vec::new()))
}

fn queues_of(topic: &TopicConfig) -> RouteQueues {
    RouteQueues {
        broker_name: NAME.to_owned(),
        read_queue_count: topic.read_queue_count,
        write_queue_count: topic.write_queue_count,
        perm: topic.perm,
        system_flag: 0,
    }
}

impl State {
    fn broker(&self) -> RouteBroker {
        let addresses = vec![(0, self.address.to_string())];
        RouteBroker { cluster: "test".to_owned(), name: NAME.to_owned(), addresses }
    }

    fn loses(&mut self, pull: &Pull) -> bool {
        let is_faulty = self.fault == Fault::LostPulls && self.count > FAULTY;
        is_faulty && self.lost_pulls.insert(pull.queue.queue.0)
    }

    fn hangs_up(&self) -> bool {
        matches!(self.fault, Fault::HangUp | Fault::Move)
    }

    /// Whether the connection was made to an address that the broker has left.
    fn is_left(&self, stream: &TcpStream) -> bool {
        let is_moved = self.fault == Fault::Move && self.address == self.last_address;
        is_moved && stream.local_addr().is_ok_and(|address| address != self.last_address)
    }

    fn end(&self, queue: QueueId) -> QueueOffset {
        QueueOffset(self.queues.get(&queue.0).map_or(0, |records| records.len() as u64))
    }

    fn produce(&mut self, produce: &Produce) -> Option<Answer> {
        let bodies: Vec<Vec<u8>> = if produce.is_batch {
            BatchItems::new(&produce.body).map(|item| item.unwrap().body.to_vec()).collect()
        } else {
            vec![produce.body.to_vec()]
        };
        self.store(produce.queue.unwrap(), produce.topic.as_str(), bodies)
    }

    fn produce_records(&mut self, produce: &ProduceRecords) -> Option<Answer> {
        assert_eq!(crc32c::crc32c(&produce.records), produce.checksum);
        let records: Vec<_> = Records::new(&produce.records).map(Result::unwrap).collect();
        let bodies = records.iter().map(|record| record.body.to_vec()).collect();
        self.store(produce.queue, records[0].topic, bodies)
    }

    fn store(&mut self, queue: QueueId, topic: &str, bodies: Vec<Vec<u8>>) -> Option<Answer> {
        let queue_offset = self.end(queue);
        let count = bodies.len();
        let is_faulty = (self.count..self.count + count as u64).contains(&FAULTY);
        if is_faulty && self.fault == Fault::Stall {
            // While the state is locked, so everything stalls.
            thread::sleep(STALL);
        }
        if is_faulty && self.fault == Fault::Refuse || self.fault == Fault::RefuseAll {
            self.count += count as u64;
            let refusal = Refusal::Busy { reason: "test", wait_ms: 0, retry_after_ms: 0, shard: 0 };
            return Some((Err(refusal), Vec::new()));
        }
        for body in bodies {
            self.store_one(queue, topic, body);
        }
        if is_faulty && self.fault == Fault::Move {
            self.address = self.last_address;
        }
        if is_faulty && matches!(self.fault, Fault::Silence | Fault::HangUp | Fault::Move) {
            return None;
        }
        let positions = vec![LogOffset(0); count].into();
        let produced =
            Produced { queue, queue_offset, positions, store_host: NOBODY, recall_handle: None };
        Some((Ok(Reply::Produced(produced)), Vec::new()))
    }

    fn store_one(&mut self, queue: QueueId, topic: &str, mut body: Vec<u8>) {
        let fault = if self.count == FAULTY { self.fault } else { Fault::None };
        self.count += 1;
        if fault == Fault::Flip {
            body[60] ^= 4;
        }
        let record = record(queue, topic, &body);
        let records = self.queues.entry(queue.0).or_default();
        match fault {
            Fault::Lose => {}
            Fault::Swap => self.held_back = Some((queue.0, record)),
            Fault::Repeat => records.extend([record.clone(), record]),
            _ => records.push(record),
        }
        if fault != Fault::Swap
            && let Some((_, record)) = self.held_back.take_if(|(held, _)| *held == queue.0)
        {
            self.queues.entry(queue.0).or_default().push(record);
        }
    }

    fn pull(&self, pull: &Pull) -> Answer {
        let empty = Vec::new();
        let records = self.queues.get(&pull.queue.queue.0).unwrap_or(&empty);
        let from = pull.offset as usize;
        let found = &records[from..records.len().min(from + COUNT_MAX)];
        let status = if found.is_empty() { PullStatus::NothingNew } else { PullStatus::Found };
        let pulled = Pulled {
            status,
            next_offset: QueueOffset((from + found.len()) as u64),
            min_offset: QueueOffset(0),
            max_offset: QueueOffset(records.len() as u64),
            count: found.len() as u32,
            read_from: 0,
        };
        (Ok(Reply::Pulled(pulled)), found.concat())
    }
}

const NOBODY: Host = Host { address: [0; 4], port: U32::ZERO };

fn record(queue: QueueId, topic: &str, body: &[u8]) -> Vec<u8> {
    let record = NewRecord {
        topic,
        queue,
        flag: 0,
        system_flag: 0,
        born_at: Timestamp(0),
        born_host: NOBODY,
        reconsume_times: 0,
        body,
        properties: [b"", b""],
    };
    let placement = Placement {
        queue_offset: QueueOffset(0),
        physical_offset: LogOffset(0),
        stored_at: Timestamp(0),
        store_host: NOBODY,
    };
    let mut out = vec![0; record.size()];
    record.write(&placement, &mut out);
    out
}
