//! A proxy between load generator and broker that breaks promises on purpose, an exact number of
//! times for each kind.
//!
//! It replaces the broker's address in the routes of the NameServer, so that the generator connects
//! to it. Produce requests are decoded with `ringmq::wire`; all else is forwarded frame by frame.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::BytesMut;
use ringmq::model::record::Host;
use ringmq::model::reply::Produced;
use ringmq::model::request::Produce;
use ringmq::model::{LogOffset, QueueOffset, Reply, Request};
use ringmq::wire::{self, FRAME_SIZE_MAX};
use zerocopy::byteorder::big_endian::U32;

/// What happens to a message on its way to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// It is acknowledged but not forwarded.
    Loss,
    /// It is forwarded twice.
    Duplicate,
    /// It is forwarded after the next one of its producer.
    Swap,
    /// This bit of its body, modulo the number of bits, is flipped.
    BitFlip(usize),
}

/// One message in this many on a connection gets a fault.
const EVERY: u64 = 4;

pub struct Proxy {
    /// The NameServer address for the generator.
    pub namesrv: SocketAddr,
    plan: Arc<Plan>,
}

/// The faults still to be planted, in order.
struct Plan(Mutex<VecDeque<Planted>>);

impl Proxy {
    /// Serves until the process ends.
    pub fn start(namesrv: SocketAddr, broker: SocketAddr, plan: Vec<Planted>) -> Self {
        let plan = Arc::new(Plan(Mutex::new(plan.into())));
        let of_broker = plan.clone();
        let here = serve(move |client| {
            let server = TcpStream::connect(broker)?;
            relay(client, server, of_broker.clone())
        });
        Self { namesrv: start_routes(namesrv, broker, here), plan }
    }

    /// Number of faults still to be planted.
    pub fn unplanted(&self) -> usize {
        self.plan.0.lock().unwrap().len()
    }
}

/// Starts a NameServer that returns `there` as the broker's address. It serves until the process
/// ends.
pub fn start_routes(namesrv: SocketAddr, broker: SocketAddr, there: SocketAddr) -> SocketAddr {
    serve(move |client| {
        let server = TcpStream::connect(namesrv)?;
        relay_routes(client, server, &broker.to_string(), &there.to_string())
    })
}

fn serve(handle: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let handle = handle.clone();
            // A peer that disconnects is not an error.
            thread::spawn(move || drop(handle(client)));
        }
    });
    address
}

/// Complete frames of a stream, not decoded.
struct Frames(TcpStream);

impl Frames {
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut size = [0; 4];
        self.0.read_exact(&mut size)?;
        let mut frame = size.to_vec();
        frame.resize(4 + u32::from_be_bytes(size) as usize, 0);
        self.0.read_exact(&mut frame[4..])?;
        Ok(frame)
    }
}

/// Offset of a frame's body.
fn body_start(frame: &[u8]) -> usize {
    8 + u32::from_be_bytes([0, frame[5], frame[6], frame[7]]) as usize
}

/// Forwards requests and replies, and replaces `here` by `there` in the NameServer's replies.
fn relay_routes(client: TcpStream, server: TcpStream, here: &str, there: &str) -> io::Result<()> {
    let (mut to_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let mut questions = Frames(client);
    thread::spawn(move || {
        while let Ok(frame) = questions.next() {
            if to_server.write_all(&frame).is_err() {
                return;
            }
        }
        let _ = to_server.shutdown(std::net::Shutdown::Both);
    });
    let mut answers = Frames(server);
    loop {
        let frame = answers.next()?;
        let (head, body) = frame.split_at(body_start(&frame));
        let body = String::from_utf8_lossy(body).replace(here, there);
        let size = (head.len() - 4 + body.len()) as u32;
        to_client.write_all(&[&size.to_be_bytes(), &head[4..], body.as_bytes()].concat())?;
    }
}

fn relay(client: TcpStream, server: TcpStream, plan: Arc<Plan>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Frames of the broker and of the proxy must not interleave.
    let to_client = Arc::new(Mutex::new(client.try_clone()?));
    let answer_to = to_client.clone();
    let mut answers = Frames(server.try_clone()?);
    thread::spawn(move || {
        while let Ok(frame) = answers.next() {
            if answer_to.lock().unwrap().write_all(&frame).is_err() {
                return;
            }
        }
        let _ = answer_to.lock().unwrap().shutdown(std::net::Shutdown::Both);
    });
    let mut harm = Harm { plan, to_client, to_server: server, held_back: None, produced: 0 };
    let mut requests = Frames(client);
    while let Ok(frame) = requests.next() {
        harm.hand_on(frame)?;
    }
    harm.to_server.shutdown(std::net::Shutdown::Both)
}

/// State of one connection of the generator.
struct Harm {
    plan: Arc<Plan>,
    to_client: Arc<Mutex<TcpStream>>,
    to_server: TcpStream,
    /// Waits until the next message has overtaken it.
    held_back: Option<Vec<u8>>,
    produced: u64,
}

impl Harm {
    fn hand_on(&mut self, mut frame: Vec<u8>) -> io::Result<()> {
        let mut bytes = BytesMut::from(&frame[..]);
        let parsed = wire::next_frame(&mut bytes, FRAME_SIZE_MAX).map_err(io::Error::other)?;
        let incoming = parsed.map(|parsed| wire::decode_request(&parsed)).transpose();
        let Some(incoming) = incoming.map_err(io::Error::other)? else { return Ok(()) };
        let Ok(Request::Produce(produce)) = &incoming.request else {
            return self.to_server.write_all(&frame);
        };
        self.produced += 1;
        if let Some(held_back) = self.held_back.take() {
            return self.to_server.write_all(&[frame, held_back].concat());
        }
        let planted = match self.produced.is_multiple_of(EVERY) {
            true => self.plan.0.lock().unwrap().pop_front(),
            false => None,
        };
        match planted {
            None => self.to_server.write_all(&frame),
            Some(Planted::Loss) => {
                let mut out = Vec::new();
                let reply = Ok(Reply::Produced(acknowledged(produce)));
                wire::encode_reply(&mut out, incoming.reply_to, &reply, 0);
                self.to_client.lock().unwrap().write_all(&out)
            }
            Some(Planted::Duplicate) => {
                // The second copy requests no reply.
                let (encoding, number) = (incoming.reply_to.encoding, incoming.reply_to.opaque);
                let request = Request::Produce(produce.clone());
                wire::encode_request(&mut frame, encoding, number, true, &request)
                    .map_err(io::Error::other)?;
                self.to_server.write_all(&frame)
            }
            Some(Planted::Swap) => {
                self.held_back = Some(frame);
                Ok(())
            }
            Some(Planted::BitFlip(bit)) => {
                let start = body_start(&frame);
                let bit = bit % ((frame.len() - start) * 8);
                frame[start + bit / 8] ^= 1 << (bit % 8);
                self.to_server.write_all(&frame)
            }
        }
    }
}

fn acknowledged(produce: &Produce) -> Produced {
    Produced {
        queue: produce.queue.unwrap(),
        queue_offset: QueueOffset(0),
        positions: vec![LogOffset(0)].into(),
        store_host: Host { address: [0; 4], port: U32::ZERO },
        recall_handle: None,
    }
}
