//! Test servers: real sockets on loopback, scripted replies.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::model::nameserver::{Route, RouteBroker, RouteQueues};
use crate::model::record::{Host, NewRecord, Placement};
use crate::model::{
    LogOffset, NameServerReply, NameServerRequest, QueueId, QueueOffset, Refusal, Reply, Request,
    Timestamp,
};
use crate::wire::{
    DecodeRequest, EncodeReply, FRAME_SIZE_MAX, Frame, HeaderEncoding, decode_request,
    encode_reply, next_frame,
};

/// A route to brokers with these names and addresses, each with the same number of queues.
pub fn route_to<'a>(
    brokers: impl IntoIterator<Item = (String, &'a str)>,
    queue_count: u32,
    perm: u32,
) -> Route {
    let mut route = Route::default();
    for (name, address) in brokers {
        route.queues.push(RouteQueues {
            broker_name: name.clone(),
            read_queue_count: queue_count,
            write_queue_count: queue_count,
            perm,
            system_flag: 0,
        });
        let (cluster, addresses) = ("c".to_owned(), vec![(0, address.to_owned())]);
        route.brokers.push(RouteBroker { cluster, name, addresses });
    }
    route
}

/// A stored message, as a broker returns it.
pub fn record(
    topic: &str,
    queue: QueueId,
    queue_offset: QueueOffset,
    properties: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let host = Host { address: [127, 0, 0, 1], port: 1.into() };
    let record = NewRecord {
        topic,
        queue,
        flag: 0,
        system_flag: 0,
        born_at: Timestamp(1),
        born_host: host,
        reconsume_times: 0,
        body,
        properties: [properties, b""],
    };
    let placement = Placement {
        queue_offset,
        physical_offset: LogOffset(queue_offset.0),
        stored_at: Timestamp(2),
        store_host: host,
    };
    let mut out = vec![0; record.size()];
    record.write(&placement, &mut out);
    out
}

/// A server's scripted reaction to a request.
pub enum Scripted<R = Reply> {
    Give(Result<R, Refusal>),
    /// A reply followed by bytes, as for a pull.
    GiveWith(R, Vec<u8>),
    Silence,
    HangUp,
}

impl<R> From<Result<R, Refusal>> for Scripted<R> {
    fn from(result: Result<R, Refusal>) -> Self {
        Self::Give(result)
    }
}

/// Answers one frame: the bytes to send, or `None` to hang up.
type Handler = dyn Fn(&Frame) -> Option<Vec<u8>> + Send + Sync;

/// A server on its own port until it is dropped, which closes all its connections.
pub struct Server {
    pub address: String,
    is_stopped: Arc<AtomicBool>,
    streams: Arc<Mutex<HashMap<u64, TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A broker.
    pub fn start(
        handler: impl Fn(&Request, HeaderEncoding) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(&format!("{}:0", own_host()), handler)
    }

    pub fn start_at(
        address: &str,
        handler: impl Fn(&Request, HeaderEncoding) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        Self::listen(address, move |frame| handle::<Request, Reply>(frame, &handler))
    }

    pub fn start_nameserver(
        handler: impl Fn(&NameServerRequest) -> Scripted<NameServerReply> + Send + Sync + 'static,
    ) -> Self {
        Self::start_nameserver_at(&format!("{}:0", own_host()), handler)
    }

    pub fn start_nameserver_at(
        address: &str,
        handler: impl Fn(&NameServerRequest) -> Scripted<NameServerReply> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(address, move |frame| handle(frame, |request, _| handler(request)))
    }

    fn listen(
        address: &str,
        handler: impl Fn(&Frame) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let streams: Arc<Mutex<HashMap<u64, TcpStream>>> = Arc::default();
        let (stopped, kept): (_, Arc<Mutex<_>>) = (is_stopped.clone(), streams.clone());
        let handler: Arc<Handler> = Arc::new(handler);
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for (number, stream) in (0..).zip(listener.incoming()) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.unwrap();
                kept.lock().unwrap().insert(number, stream.try_clone().unwrap());
                let (handler, kept) = (handler.clone(), kept.clone());
                connections.push(std::thread::spawn(move || {
                    serve(stream, &*handler);
                    kept.lock().unwrap().remove(&number);
                }));
            }
            drop(listener);
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Self { address, is_stopped, streams, thread: Some(thread) }
    }

    /// Closes all connections; new ones are accepted.
    pub fn cut_connections(&self) {
        for stream in self.streams.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn connection_count(&self) -> usize {
        self.streams.lock().unwrap().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // Wakes the listener with one more connection.
        let _ = TcpStream::connect(&self.address);
        self.cut_connections();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(mut stream: TcpStream, handler: &Handler) {
    let mut input = BytesMut::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        while let Some(frame) = next_frame(&mut input, FRAME_SIZE_MAX).unwrap() {
            let Some(reply) = handler(&frame) else {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            };
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => input.extend_from_slice(&buffer[..count]),
        }
    }
}

fn handle<Q: DecodeRequest, R: EncodeReply>(
    frame: &Frame,
    handler: impl Fn(&Q, HeaderEncoding) -> Scripted<R>,
) -> Option<Vec<u8>> {
    let incoming = decode_request::<Q>(frame).unwrap();
    let to = incoming.reply_to;
    let answer = match incoming.request {
        Ok(request) => handler(&request, to.encoding),
        Err(refusal) => Scripted::Give(Err(refusal)),
    };
    let mut out = Vec::new();
    match answer {
        Scripted::Give(result) => encode_reply(&mut out, to, &result, 0),
        Scripted::GiveWith(reply, body) => {
            encode_reply(&mut out, to, &Ok(reply), body.len());
            out.extend_from_slice(&body);
        }
        Scripted::Silence => {}
        Scripted::HangUp => return None,
    }
    if incoming.one_way {
        out.clear();
    }
    Some(out)
}

/// The server's side of one connection, for a test that scripts it byte by byte.
pub struct Peer {
    stream: TcpStream,
    input: BytesMut,
}

impl Peer {
    pub fn read_frame(&mut self) -> Frame {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = next_frame(&mut self.input, FRAME_SIZE_MAX).unwrap() {
                return frame;
            }
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the client has left");
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
}

/// Serves one connection with `serve`, at the returned address.
pub fn serve_one<T: Send + 'static>(
    serve: impl FnOnce(Peer) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind((own_host(), 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(Peer { stream, input: BytesMut::new() })
    });
    (address, server)
}

/// A loopback address used by no other test in this process, so that none can take over its port
/// while the server is down.
fn own_host() -> Ipv4Addr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let [high, low] = TAKEN.fetch_add(1, Ordering::SeqCst).to_be_bytes();
    Ipv4Addr::new(127, 9, high, low)
}

/// An address at which nothing listens.
pub fn dead_address() -> String {
    format!("{}:9", own_host())
}

/// Polls until `is_so`, with a deadline.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}
