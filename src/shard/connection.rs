//! One client connection: bytes in, requests to the service, replies out.
//!
//! ```text
//!   read ─▶ whole frames ─▶ service.handle ─┬─ answered now ──────────────▶ output ─▶ one send
//!                                           ├─ safe later: FIFO of marks ─▶ output, when the log is safe
//!                                           ├─ held: ticket ─────────────▶ output, when released
//!                                           └─ needs the disk: a task ───▶ output, when read
//! ```
//!
//! What holds at all times:
//! - The marks in `waiting` never decrease, because appends are handled in the order they arrive;
//!   so all replies that became safe stand at its front.
//! - A connection is read only while its replies find room ([`OUTPUT_MAX`]), its requests are few
//!   enough ([`UNDER_WAY_MAX`]), and the log takes what it sends. Else TCP holds the sender back.
//! - No task per request, except for cold reads and control requests. Replies leave with the
//!   commit that made them safe, by whoever ran it; a task of its own waits only for a full socket.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::clock;
use super::input::Input;
use super::output::{Output, Sent};
use super::service::{Served, Service};
use super::shard::Shard;
use crate::broker::{Answer, Origin, Outcome};
use crate::model::record::Host;
use crate::model::{LogOffset, Refusal, Reply, Request, Timestamp};
use crate::wire::{self, Frame, FrameError, ReplyTo};

/// Unsent reply bytes at which a connection is no longer read.
const OUTPUT_MAX: usize = 8 << 20;
/// Unsent reply bytes at which a connection is closed: its client does not read, and answers of
/// held pulls would pin the log's buffers for it.
const OUTPUT_LIMIT: usize = 64 << 20;
/// Requests whose reply is not written yet; held pulls are not counted, they have their own bound.
const UNDER_WAY_MAX: usize = 8192;
/// Reply bytes given at a time to a socket that was full.
const SEND_SIZE_MAX: usize = 256 << 10;
/// A produce request that has waited for room longer than this is refused, as the reference does
/// (remoting reference, 5.16).
const BUSY_AFTER: Duration = Duration::from_millis(200);
/// A connection without traffic for this long is closed (remoting reference, 1.7).
pub const IDLE_MAX: Duration = Duration::from_secs(120);

pub struct Connection<S: Service> {
    pub id: u64,
    socket: RawFd,
    stream: RefCell<TcpStream>,
    peer: Host,
    shard: Rc<Shard<S>>,
    replies: RefCell<Replies>,
    /// The reader waits for replies to leave.
    reader: RefCell<Option<std::task::Waker>>,
    is_blocked: Cell<bool>,
    is_closed: Cell<bool>,
    /// In the shard's list of connections whose replies wait for the log.
    pub is_listed: Cell<bool>,
    last_used: Cell<Instant>,
}

#[derive(Default)]
struct Replies {
    output: Output,
    waiting: VecDeque<(LogOffset, ReplyTo, Reply)>,
    held: HashMap<u64, ReplyTo>,
    next_ticket: u64,
    /// Cold reads and control requests.
    tasks: usize,
}

/// The time at which a request is handled. Requests of one read that did not wait share it: a clock
/// that is read twice for each costs as much as finding its queue.
#[derive(Clone, Copy)]
struct Arrival {
    now: Timestamp,
    /// For room in the log, since the request was read.
    waited: Duration,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("the peer closed it")]
    ByPeer,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("framing lost: {0}")]
    Framing(#[from] FrameError),
    #[error("{waiting} bytes of replies wait and the peer does not read")]
    NotReading { waiting: usize },
}

impl<S: Service> Connection<S> {
    pub fn new(id: u64, stream: TcpStream, shard: Rc<Shard<S>>) -> io::Result<Rc<Self>> {
        stream.set_nodelay(true).map_err(io::Error::from)?;
        let peer = stream.peer_addr().map_err(io::Error::from)?;
        Ok(Rc::new(Self {
            id,
            socket: stream.as_raw_fd(),
            stream: RefCell::new(stream),
            peer: host_of(peer),
            shard,
            replies: RefCell::default(),
            reader: RefCell::new(None),
            is_blocked: Cell::new(false),
            is_closed: Cell::new(false),
            is_listed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
        }))
    }

    /// Serves the connection until it ends.
    pub async fn run(self: Rc<Self>) {
        let why = match self.serve().await {
            Ok(never) => match never {},
            Err(why) => why,
        };
        match why {
            Closed::ByPeer | Closed::Io(_) => tracing::debug!(id = self.id, "closed: {why}"),
            _ => tracing::warn!(id = self.id, peer = ?self.peer, "closed: {why}"),
        }
        self.finish().await;
    }

    async fn serve(self: &Rc<Self>) -> Result<std::convert::Infallible, Closed> {
        let mut input = Input::default();
        loop {
            self.ready_to_read().await?;
            if self.read(&mut input).await? == 0 {
                return Err(Closed::ByPeer);
            }
            self.last_used.set(Instant::now());
            self.take_frames(&mut input).await?;
            self.shard.progress();
            glommio::yield_if_needed().await;
        }
    }

    async fn take_frames(self: &Rc<Self>, input: &mut Input) -> Result<(), Closed> {
        let arrived = Instant::now();
        let mut arrival = Arrival { now: clock::now(), waited: Duration::ZERO };
        let mut unread = input.take();
        while let Some(frame) = wire::next_frame_of(&mut unread, wire::FRAME_SIZE_MAX)? {
            if !self.shard.service.has_room(frame.body.len()) {
                // What is answered already must not wait for the disk.
                self.flush();
                self.shard.service.wait_for_room(frame.body.len()).await;
                arrival = Arrival { now: clock::now(), waited: arrived.elapsed() };
            }
            self.take(&frame, arrival)?;
        }
        input.give_back(unread);
        self.flush();
        Ok(())
    }

    fn take(self: &Rc<Self>, frame: &Frame, arrival: Arrival) -> Result<(), Closed> {
        let incoming = wire::decode_request(frame)?;
        if incoming.is_reply {
            return Ok(()); // This broker has asked nothing of its clients yet.
        }
        let to = (!incoming.one_way).then_some(incoming.reply_to);
        let request = match incoming.request {
            Ok(request) => request,
            Err(refusal) => {
                self.reply(to, Answer::refused(refusal));
                return Ok(());
            }
        };
        if let Some(refusal) = self.refuse_late(&request, arrival.waited) {
            self.reply(to, Answer::refused(refusal));
            return Ok(());
        }
        let ticket = self.replies.borrow().next_ticket;
        let origin = Origin { connection: self.id, ticket, host: self.peer };
        match self.shard.service.handle(request, origin, arrival.now) {
            Served::Outcome(outcome) => self.settle(to, outcome),
            Served::Control(request) => self.run_control(to, *request),
        }
        Ok(())
    }

    /// A produce request that waited for room too long is refused: its client is about to give up,
    /// and storing it then would only make the queue longer.
    fn refuse_late(&self, request: &Request, waited: Duration) -> Option<Refusal> {
        let is_produce = matches!(request, Request::Produce(_) | Request::ProduceRecords(_));
        if !is_produce || waited < BUSY_AFTER {
            return None;
        }
        self.shard.refused_late.set(self.shard.refused_late.get() + 1);
        Some(Refusal::Busy {
            reason: "append_queue",
            wait_ms: waited.as_millis() as u64,
            retry_after_ms: crate::broker::RETRY_AFTER_MS,
            shard: self.shard.id.0,
        })
    }

    fn settle(self: &Rc<Self>, to: Option<ReplyTo>, outcome: Outcome) {
        match outcome {
            Outcome::Now(answer) => self.reply(to, answer),
            Outcome::Safe { mark, reply } => {
                if let Some(to) = to {
                    self.replies.borrow_mut().waiting.push_back((mark, to, reply));
                    self.shard.list_waiting(self);
                }
            }
            Outcome::Held => {
                let replies = &mut *self.replies.borrow_mut();
                // Without an address the answer of a one-way pull has nowhere to go and is dropped.
                if let Some(to) = to {
                    replies.held.insert(replies.next_ticket, to);
                }
                replies.next_ticket += 1;
            }
            Outcome::Read(read) => {
                let connection = self.clone();
                self.replies.borrow_mut().tasks += 1;
                glommio::spawn_local(async move {
                    let outcome = {
                        let _permit = connection.shard.cold_permit().await;
                        connection.shard.finish(read).await
                    };
                    connection.task_done(to, outcome);
                })
                .detach();
            }
        }
    }

    fn run_control(self: &Rc<Self>, to: Option<ReplyTo>, request: Request) {
        let connection = self.clone();
        self.replies.borrow_mut().tasks += 1;
        glommio::spawn_local(async move {
            let answer = connection.shard.service.control(request).await;
            connection.task_done(to, Outcome::Now(answer));
        })
        .detach();
    }

    fn task_done(self: &Rc<Self>, to: Option<ReplyTo>, outcome: Outcome) {
        self.replies.borrow_mut().tasks -= 1;
        self.settle(to, outcome);
        self.flush();
        self.wake_reader();
    }

    fn reply(&self, to: Option<ReplyTo>, answer: Answer) {
        let Some(to) = to else { return };
        let chunk_bytes = answer.chunks.iter().map(|chunk| chunk.len()).sum();
        let reply = match answer.reply {
            Err(Refusal::UnknownRequest { code: 0 }) => {
                Err(Refusal::UnknownRequest { code: to.code })
            }
            reply => reply,
        };
        let write = |out: &mut Vec<u8>| wire::encode_reply(out, to, &reply, chunk_bytes);
        self.replies.borrow_mut().output.push(write, answer.chunks);
    }

    /// Takes the answer of a held pull.
    pub fn release(self: &Rc<Self>, ticket: u64, outcome: Outcome) {
        let to = self.replies.borrow_mut().held.remove(&ticket);
        self.settle(to, outcome);
    }

    /// Encodes and sends all replies that have become safe. Gives whether some still wait.
    pub fn release_safe(self: &Rc<Self>) -> bool {
        let (safe, is_fenced) = (self.shard.service.safe(), self.shard.service.is_fenced());
        let still_waiting = {
            let replies = &mut *self.replies.borrow_mut();
            let is_over = |mark: LogOffset| mark <= safe || is_fenced;
            while let Some((mark, to, reply)) =
                replies.waiting.pop_front_if(|(mark, ..)| is_over(*mark))
            {
                let reply = if mark <= safe { Ok(reply) } else { Err(Refusal::OutcomeUnknown) };
                replies.output.push(|out| wire::encode_reply(out, to, &reply, 0), Vec::new());
            }
            !replies.waiting.is_empty()
        };
        self.flush();
        self.wake_reader();
        still_waiting
    }

    /// Sends what there is. Where the socket is full a task of its own goes on with it.
    pub fn flush(self: &Rc<Self>) {
        if self.is_blocked.get() || self.is_closed.get() {
            return;
        }
        let sent = {
            let output = &mut self.replies.borrow_mut().output;
            if output.waiting() == 0 {
                return;
            }
            output.send(self.socket)
        };
        match sent {
            Ok(Sent::All) => {}
            Ok(Sent::Blocked) => self.send_when_writable(),
            Err(_) => self.close(),
        }
    }

    fn send_when_writable(self: &Rc<Self>) {
        self.is_blocked.set(true);
        let connection = self.clone();
        glommio::spawn_local(async move {
            let result = connection.drain().await;
            connection.is_blocked.set(false);
            if result.is_err() {
                connection.close();
            }
            connection.flush();
            connection.wake_reader();
        })
        .detach();
    }

    async fn drain(&self) -> io::Result<()> {
        loop {
            let bytes = self.replies.borrow().output.next_bytes(SEND_SIZE_MAX);
            if bytes.is_empty() || self.is_closed.get() {
                return Ok(());
            }
            let size =
                poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &bytes))
                    .await?;
            let output = &mut self.replies.borrow_mut().output;
            output.advance(size);
            output.send(self.socket)?;
        }
    }

    /// Waits until the connection may be read again.
    async fn ready_to_read(&self) -> Result<(), Closed> {
        poll_fn(|cx| {
            let replies = self.replies.borrow();
            let waiting = replies.output.waiting();
            let under_way = replies.waiting.len() + replies.tasks;
            if self.is_closed.get() || waiting > OUTPUT_LIMIT {
                return std::task::Poll::Ready(Err(Closed::NotReading { waiting }));
            }
            if waiting <= OUTPUT_MAX && under_way < UNDER_WAY_MAX {
                return std::task::Poll::Ready(Ok(()));
            }
            *self.reader.borrow_mut() = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await
    }

    fn wake_reader(&self) {
        if self.replies.borrow().output.waiting() > OUTPUT_LIMIT {
            self.close();
        }
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn read(&self, input: &mut Input) -> io::Result<usize> {
        let room = input.room();
        let size = poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut *room))
            .await?;
        input.received(size);
        Ok(size)
    }

    pub fn is_idle(&self, now: Instant) -> bool {
        now.duration_since(self.last_used.get()) > IDLE_MAX && self.replies.borrow().held.is_empty()
    }

    /// Ends reading; the connection goes once its replies are written.
    pub fn stop_reading(&self) {
        // An error here means that the socket is gone already.
        let _ = nix::sys::socket::shutdown(self.socket, nix::sys::socket::Shutdown::Read);
    }

    /// Ends the connection now; what is not sent is lost.
    pub fn close(&self) {
        if !self.is_closed.replace(true) {
            let _ = nix::sys::socket::shutdown(self.socket, nix::sys::socket::Shutdown::Both);
        }
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Lets replies that are under way leave, for as long as that can take, then forgets everything.
    async fn finish(self: &Rc<Self>) {
        self.shard.service.connection_closed(self.id);
        let deadline = Instant::now() + FINISH_MAX;
        while !self.is_closed.get() && self.has_replies_under_way() && Instant::now() < deadline {
            glommio::timer::sleep(Duration::from_millis(5)).await;
            self.flush();
        }
        self.is_closed.set(true);
        let stream = self.stream.borrow();
        let _ = nix::sys::socket::shutdown(self.socket, nix::sys::socket::Shutdown::Both);
        drop(stream);
        self.shard.forget(self.id);
    }

    fn has_replies_under_way(&self) -> bool {
        let replies = self.replies.borrow();
        !replies.waiting.is_empty() || replies.tasks > 0 || replies.output.waiting() > 0
    }
}

/// How long a closing connection waits for replies that are under way.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// A peer as records store it: IPv4, or zeros for a true IPv6 address (remoting reference, 4.2).
fn host_of(peer: SocketAddr) -> Host {
    let address = match peer {
        SocketAddr::V4(peer) => Some(*peer.ip()),
        SocketAddr::V6(peer) => peer.ip().to_ipv4_mapped(),
    };
    let address = address.map_or([0; 4], |address| address.octets());
    Host { address, port: u32::from(peer.port()).into() }
}
