//! One client connection: bytes in, requests to the service, replies out.
//!
//! ```text
//!   read ─▶ whole frames ─▶ service.handle ─┬─ answered now ──────────────▶ output ─▶ one send
//!                                           ├─ safe later: FIFO of marks ─▶ output, when the log is safe
//!                                           ├─ no room: parked ─▶ handled again, when there is
//!                                           ├─ held: ticket ─────────────▶ output, when released
//!                                           └─ takes time: a task ───────▶ output, when done
//! ```
//!
//! What holds at all times:
//! - The marks in `waiting` never decrease, because appends are handled in the order they arrive;
//!   so all replies that became safe stand at its front.
//! - A request is taken only while the replies find room ([`OUTPUT_MAX`], less when all connections
//!   together hold much), what is under way is little enough ([`UNDER_WAY_MAX`], [`TASKS_MAX`]), and
//!   few enough requests wait for room in the log. Else TCP holds the sender back.
//! - Requests that append do so in the order in which they came; those that must wait are parked
//!   (`parked`), and whatever needs no room goes on beside them.
//! - A cold read starts only once its reply has room, so a client that does not read cannot cause disk
//!   reads.
//! - A connection on which no byte moves for [`IDLE_MAX`] is closed, also when replies wait on it.
//! - No task per request, except for cold pulls and operations. Replies leave with the
//!   commit that made them safe, by whoever ran it; a task of its own waits only for a full socket.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::sync::Permit;

use super::budget::Share;
use super::calls::Calls;
use super::clock;
use super::common::{Common, OPERATIONS_MAX, Owner};
use super::input::{self, Input};
use super::output::{Output, Sent};
use super::parked::{Parked, Waiting};
use super::parting;
use super::service::Service;
use super::turn::{self, Turn};
use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::broker::operation::Context;
use crate::broker::{Answer, Origin, Outcome};
use crate::model::record::Host;
use crate::model::{LogOffset, Metrics, Moment, Now, Principal, Refusal};
use crate::storage::Ticket;
use crate::storage::signal::Signal;
use crate::wire::{self, Frame, FrameError, Head, ReplyTo};

/// Bytes kept for unsent replies, with the buffers they lie in, at which a connection takes no further
/// request.
const OUTPUT_MAX: usize = 8 << 20;
/// The same while the connections of the shard hold more than their budget together.
const OUTPUT_SHARE: usize = 256 << 10;
/// The same at which a connection is closed: its client does not read, and answers of held pulls come
/// whether there is room for them or not.
const OUTPUT_LIMIT: usize = 64 << 20;
/// Requests whose reply is not written yet; held pulls are not counted, they have their own bound.
const UNDER_WAY_MAX: usize = 8192;
/// Cold pulls and operations that one connection has under way.
const TASKS_MAX: usize = 64;
/// Reply bytes given at a time to a socket that was full.
const SEND_SIZE_MAX: usize = 256 << 10;
/// A produce request that has waited for room longer than this is refused, as the reference does
/// (remoting reference, 5.16).
const BUSY_AFTER_MS: u64 = 200;
/// A connection without traffic for this long is closed (remoting reference, 1.7).
pub const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long a large request waits for memory that other connections hold.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(5);

pub struct Connection<S: Service> {
    pub id: u64,
    socket: RawFd,
    stream: RefCell<TcpStream>,
    peer: Host,
    common: Rc<Common<S>>,
    owner: Rc<dyn Owner>,
    replies: RefCell<Replies<S::Reply>>,
    /// What the client was asked and has not answered.
    calls: RefCell<Calls>,
    /// Requests that wait for room in the log.
    parked: RefCell<Parked<(Asked, S::Request)>>,
    /// Reads so far, and which of them the last parked request came with.
    reads: Cell<u64>,
    last_parked_read: Cell<u64>,
    /// Replies have left, a parked request has gone, or the connection has been closed.
    moved: Signal,
    /// The connection has been closed.
    ended: Signal,
    is_blocked: Cell<bool>,
    is_closed: Cell<bool>,
    /// In the owner's list of connections whose replies wait for the log.
    is_listed: Cell<bool>,
    /// When a byte last moved, in or out.
    last_used: Cell<Instant>,
    output_share: Share,
    input_share: Share,
    parked_share: Share,
}

struct Replies<R> {
    output: Output,
    /// By mark.
    waiting: VecDeque<WaitingReply<R>>,
    /// Bytes of the requests that `waiting` answers: appended and not yet safe.
    in_flight: usize,
    /// By ticket.
    held: HashMap<u64, ReplyTo>,
    next_ticket: u64,
    /// Cold pulls and operations.
    tasks: usize,
    /// Bytes of answers that are being read from the disk, at most.
    promised: usize,
}

impl<R> Default for Replies<R> {
    fn default() -> Self {
        let (output, waiting, held) = Default::default();
        Self { output, waiting, in_flight: 0, held, next_ticket: 0, tasks: 0, promised: 0 }
    }
}

/// A reply that becomes true when the log is safe up to `mark`.
struct WaitingReply<R> {
    mark: LogOffset,
    /// `None` when no answer is wanted.
    to: Option<ReplyTo>,
    reply: R,
    /// Bytes of the request.
    size: usize,
    read_at: Instant,
}

/// One request, until it is answered: under which name the service knows it, and where the answer goes.
#[derive(Clone, Copy)]
struct Asked {
    ticket: u64,
    /// `None` when no answer is wanted.
    to: Option<ReplyTo>,
    principal: Principal,
    /// Bytes of the request.
    size: usize,
    read_at: Instant,
}

/// The time at which a request is handled. Requests of one read that did not wait share it: a clock
/// that is read twice for each costs as much as finding its queue.
#[derive(Clone, Copy)]
struct Arrival {
    now: Now,
    /// When the request was read.
    read_at: Moment,
    /// The number of that read.
    read: u64,
}

impl Arrival {
    fn waited_ms(&self) -> u64 {
        self.now.moment.ms_since(self.read_at)
    }
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
    #[error("no memory for a large request: other connections hold it")]
    NoMemory,
}

impl<S: Service> Connection<S> {
    pub fn new(
        id: u64,
        stream: TcpStream,
        common: Rc<Common<S>>,
        owner: Rc<dyn Owner>,
    ) -> io::Result<Rc<Self>> {
        stream.set_nodelay(true).map_err(io::Error::from)?;
        let peer = stream.peer_addr().map_err(io::Error::from)?;
        let (output_share, input_share) =
            (common.output_budget.share(), common.input_budget.share());
        let parked_share = common.parked_budget.share();
        Ok(Rc::new(Self {
            id,
            socket: stream.as_raw_fd(),
            stream: RefCell::new(stream),
            peer: host_of(peer),
            common,
            owner,
            replies: RefCell::default(),
            calls: RefCell::default(),
            parked: RefCell::default(),
            reads: Cell::new(0),
            last_parked_read: Cell::new(0),
            moved: Signal::default(),
            ended: Signal::default(),
            is_blocked: Cell::new(false),
            is_closed: Cell::new(false),
            is_listed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            output_share,
            input_share,
            parked_share,
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

    async fn serve(self: &Rc<Self>) -> Result<Infallible, Closed> {
        let mut input = Input::default();
        loop {
            self.ready_to_read().await?;
            // Reading was shut down, and the kernel goes on taking in what a busy peer sends.
            if self.common.is_stopping.get()
                || self.beside_parked(self.read(&mut input)).await? == 0
            {
                return Err(Closed::ByPeer);
            }
            self.last_used.set(Instant::now());
            self.take_frames(&mut input).await?;
            self.common.progress();
            glommio::yield_if_needed().await;
        }
    }

    async fn take_frames(self: &Rc<Self>, input: &mut Input) -> Result<(), Closed> {
        let (now, read_instant) = (clock::now(), self.last_used.get());
        self.reads.set(self.reads.get() + 1);
        let mut arrival = Arrival { now, read_at: now.moment, read: self.reads.get() };
        let mut turn = Turn::begin();
        let memory = input.memory();
        let mut unread = input.take();
        while let Some(frame) = wire::next_frame_of(&mut unread, wire::FRAME_SIZE_MAX)? {
            let is_ready = self.check_ready()?.is_some();
            if !is_ready || turn.is_over(frame.size()) {
                self.flush();
                self.common.progress();
                match is_ready {
                    true => turn::pass().await,
                    false => self.ready_to_read().await?,
                }
                (turn, arrival.now) = (Turn::begin(), clock::now());
            }
            if let Some((asked, request)) = self.decode(&frame, read_instant)? {
                self.take(asked, request, arrival, memory);
            }
        }
        input.give_back(unread);
        self.flush();
        Ok(())
    }

    /// Carries out a request, or parks it when it must wait for room in the log. `memory` is that of
    /// the buffer it was read to.
    fn take(self: &Rc<Self>, asked: Asked, request: S::Request, arrival: Arrival, memory: usize) {
        let must_wait = S::stores(&request) && !self.may_append(asked.size);
        let append_size = match must_wait {
            true => Some(asked.size),
            false => self.carry_out(asked, &request, arrival),
        };
        let Some(append_size) = append_size else { return };
        let Arrival { read_at, read, .. } = arrival;
        let (size, request) = (asked.size, (asked, request));
        let had_deadline = {
            let parked = &mut *self.parked.borrow_mut();
            let is_same_read = self.last_parked_read.replace(read) == read;
            parked.push(Waiting { request, read_at, size, append_size, memory }, is_same_read);
            self.parked_share.set(parked.memory());
            std::mem::replace(&mut parked.has_deadline, true)
        };
        if !had_deadline {
            self.owner.clone().set_deadline(read_at.plus_ms(BUSY_AFTER_MS), self.id);
        }
    }

    /// Whether a further request may append now without one of its own being overtaken, or more of this
    /// connection being in flight than its share.
    fn may_append(&self, size: usize) -> bool {
        self.parked.borrow().is_empty() && self.has_share(size)
    }

    /// One request is always allowed, however large.
    fn has_share(&self, size: usize) -> bool {
        let in_flight = self.replies.borrow().in_flight;
        in_flight == 0 || in_flight + size <= self.common.service.connection_budget()
    }

    /// Drives `future`, and carries out parked requests meanwhile as there is room for them.
    async fn beside_parked<T>(self: &Rc<Self>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.poll_parked(context);
            future.as_mut().poll(context)
        })
        .await
    }

    fn poll_parked(self: &Rc<Self>, context: &mut task::Context<'_>) {
        let mut has_moved = false;
        while let Some(ticket) = self.poll_ticket(context) {
            has_moved = true;
            match ticket.spend(|| self.carry_out_parked()) {
                None => {}
                Some(size) => {
                    ticket.wait_again(size);
                    self.parked.borrow_mut().ticket = Some(ticket);
                }
            }
        }
        if has_moved {
            self.flush();
        }
    }

    /// The ticket of the parked requests, when it is their turn.
    fn poll_ticket(self: &Rc<Self>, context: &mut task::Context<'_>) -> Option<Ticket> {
        loop {
            let parked = &mut *self.parked.borrow_mut();
            let front = parked.front()?;
            if parked.ticket.is_none() {
                if !self.has_share(front.size) {
                    parked.waker = Some(context.waker().clone());
                    return None;
                }
                match self.common.service.ticket(parked.batch_size()) {
                    Ok(ticket) => parked.ticket = Some(ticket),
                    Err(_) => {
                        self.refuse_parked(parked, clock::moment());
                        continue;
                    }
                }
            }
            let is_granted = parked.ticket.as_ref()?.poll_granted(context).is_ready();
            return is_granted.then(|| parked.ticket.take())?;
        }
    }

    /// Carries out parked requests with the room that was granted. Gives the size of the first when
    /// not even that found its room.
    fn carry_out_parked(self: &Rc<Self>) -> Option<usize> {
        let (now, instant) = (clock::now(), Instant::now());
        let (mut done, batch) = (0, self.parked.borrow().batch_size());
        let mut short = None;
        while done < batch
            && let Some(waiting) = self.take_parked()
        {
            let (asked, request) = &waiting.request;
            let arrival = Arrival { now, read_at: waiting.read_at, read: 0 };
            if let Some(append_size) = self.carry_out(*asked, request, arrival) {
                self.parked.borrow_mut().put_back(Waiting { append_size, ..waiting });
                short = (done == 0).then_some(append_size);
                break;
            }
            done += waiting.append_size;
            if arrival.waited_ms() < BUSY_AFTER_MS {
                self.note_admission(asked.read_at, instant);
            }
        }
        self.parked_share.set(self.parked.borrow().memory());
        short
    }

    fn take_parked(&self) -> Option<Waiting<(Asked, S::Request)>> {
        let mut parked = self.parked.borrow_mut();
        let size = parked.front()?.size;
        if self.has_share(size) { parked.pop() } else { None }
    }

    fn is_unparked(&self) -> bool {
        self.is_closed.get() || self.parked.borrow().is_empty()
    }

    /// Refuses what has waited for room too long. Comes when the deadline that was set is over.
    pub fn refuse_overdue(self: &Rc<Self>, now: Moment) {
        let next = {
            let parked = &mut *self.parked.borrow_mut();
            let due = |parked: &Parked<_>| Some(parked.front()?.read_at.plus_ms(BUSY_AFTER_MS));
            while due(parked).is_some_and(|due| due <= now) {
                self.refuse_parked(parked, now);
            }
            self.parked_share.set(parked.memory());
            parked.has_deadline = !parked.is_empty();
            due(parked)
        };
        if let Some(next) = next {
            self.owner.clone().set_deadline(next, self.id);
        }
        self.flush();
        self.moved.notify();
    }

    fn refuse_parked(&self, parked: &mut Parked<(Asked, S::Request)>, now: Moment) {
        let waiting = parked.pop().expect("there is a front");
        self.refuse_late(waiting.request.0, now.ms_since(waiting.read_at));
    }

    fn note_admission(&self, read_at: Instant, now: Instant) {
        let waited = now.saturating_duration_since(read_at);
        self.common.metrics.admission_wait.record(waited.as_nanos() as u64);
    }

    /// The request in a frame; `None` when there is nothing to carry out.
    fn decode(
        self: &Rc<Self>,
        frame: &Frame,
        read_at: Instant,
    ) -> Result<Option<(Asked, S::Request)>, Closed> {
        let mut head = Head::of(frame);
        wire::decode_head(&mut head)?;
        if head.is_reply() {
            if let Some((call, reply)) = self.calls.borrow_mut().take_reply(head) {
                self.common.service.reply_arrived(call, reply);
            }
            return Ok(None);
        }
        self.calls.borrow_mut().note_dialect(head.dialect());
        let ticket = {
            let next = &mut self.replies.borrow_mut().next_ticket;
            *next += 1;
            *next
        };
        let to = (!head.is_one_way()).then(|| head.reply_to());
        let principal = self.common.service.principal(&head, self.peer);
        let request = principal.and_then(|principal| {
            let request = wire::decode_command(&mut head)?;
            Ok((Asked { ticket, to, principal, size: frame.size(), read_at }, request))
        });
        match request {
            Ok(request) => Ok(Some(request)),
            Err(refusal) => {
                self.reply(to, Answer::refused(refusal));
                Ok(None)
            }
        }
    }

    /// Carries out a request. Gives how many bytes it wants to append when it must be tried again once
    /// there is room for them.
    fn carry_out(
        self: &Rc<Self>,
        asked: Asked,
        request: &S::Request,
        arrival: Arrival,
    ) -> Option<usize> {
        if arrival.waited_ms() >= BUSY_AFTER_MS && S::stores(request) {
            self.refuse_late(asked, arrival.waited_ms());
            return None;
        }
        match self.common.service.handle(request, self.origin(asked), arrival.now) {
            Outcome::NoRoom { size } => return Some(size),
            Outcome::Operation => self.run_operation(asked, request.clone()),
            outcome => self.settle(asked, outcome),
        }
        None
    }

    /// A produce request that waited for room too long is refused: its client is about to give up,
    /// and storing it then would only make the queue longer.
    fn refuse_late(&self, asked: Asked, wait_ms: u64) {
        self.note_admission(asked.read_at, Instant::now());
        self.refuse_busy(asked, "append_queue", wait_ms);
    }

    /// Refuses a request that may be sent again later.
    fn refuse_busy(&self, asked: Asked, reason: &'static str, wait_ms: u64) {
        let refusal = Refusal::Busy {
            reason,
            wait_ms,
            retry_after_ms: crate::broker::RETRY_AFTER_MS,
            shard: self.common.id.0,
        };
        self.reply(asked.to, Answer::refused(refusal));
    }

    fn settle(self: &Rc<Self>, asked: Asked, outcome: Outcome<S::Reply>) {
        match outcome {
            Outcome::Now(answer) => self.reply(asked.to, answer),
            Outcome::Safe { mark, reply } => self.settle_safe(asked, mark, reply),
            Outcome::Held => {
                // Without an address the answer of a one-way pull has nowhere to go and is dropped.
                if let Some(to) = asked.to {
                    self.replies.borrow_mut().held.insert(asked.ticket, to);
                }
            }
            Outcome::Cold(task) => self.start(asked, async move |context: OperationContext<S>| {
                context.connection.common.service.pull_cold(task, &context).await
            }),
            Outcome::NoRoom { .. } | Outcome::Operation => {
                panic!("a request is tried again, or becomes an operation, before it is settled")
            }
        }
    }

    fn origin(&self, asked: Asked) -> Origin {
        Origin {
            connection: self.id,
            ticket: asked.ticket,
            host: self.peer,
            principal: asked.principal,
            wants_answer: asked.to.is_some(),
        }
    }

    fn settle_safe(self: &Rc<Self>, asked: Asked, mark: LogOffset, reply: S::Reply) {
        let Asked { to, size, read_at, .. } = asked;
        // Nothing need move for this answer to become true, and so nothing would send it.
        let reply = match mark <= self.common.service.safe() {
            true => Ok(reply),
            false if self.common.service.is_fenced() => Err(Refusal::OutcomeUnknown),
            false => {
                let replies = &mut *self.replies.borrow_mut();
                replies.in_flight += size;
                replies.waiting.push_back(WaitingReply { mark, to, reply, size, read_at });
                self.list_waiting();
                return;
            }
        };
        self.reply(to, Answer { reply, chunks: Vec::new() });
    }

    fn run_operation(self: &Rc<Self>, asked: Asked, request: S::Request) {
        self.start(asked, async move |context: OperationContext<S>| {
            let service = &context.connection.common.service;
            Outcome::Now(service.operate(request, &context).await)
        });
    }

    /// Runs what may take time, in a task of its own. It is dropped where it waits when the connection
    /// ends.
    fn start(
        self: &Rc<Self>,
        asked: Asked,
        work: impl AsyncFnOnce(OperationContext<S>) -> Outcome<S::Reply> + 'static,
    ) {
        let under_way = self.common.operations.get();
        if under_way >= OPERATIONS_MAX {
            return self.refuse_busy(asked, "operations", 0);
        }
        self.common.operations.set(under_way + 1);
        self.replies.borrow_mut().tasks += 1;
        let connection = self.clone();
        glommio::spawn_local(async move {
            let outcome = {
                let context = OperationContext { connection: connection.clone(), asked };
                let work = pin!(work(context));
                let is_closed = || connection.is_closed.get().then_some(());
                match select(work, pin!(connection.ended.wait(is_closed))).await {
                    Either::Left((outcome, _)) => Some(outcome),
                    Either::Right(_) => None,
                }
            };
            connection.replies.borrow_mut().tasks -= 1;
            let operations = &connection.common.operations;
            operations.set(operations.get() - 1);
            // What the operation has to tell clients goes before its answer.
            connection.owner.send_outgoing();
            if let Some(outcome) = outcome {
                connection.settle(asked, outcome);
                connection.flush();
            }
            connection.moved.notify();
        })
        .detach();
    }

    /// Waits until an answer of `size` bytes finds room, and keeps that room.
    async fn room_for_answer(self: &Rc<Self>, size: usize) -> Promise<S> {
        let has_room = || {
            let replies = self.replies.borrow();
            let taken = replies.output.held() + replies.promised;
            (taken == 0 || taken + size <= self.output_max()).then_some(())
        };
        self.moved.wait(has_room).await;
        self.replies.borrow_mut().promised += size;
        Promise { connection: self.clone(), size }
    }

    fn output_max(&self) -> usize {
        if self.output_share.is_scarce() { OUTPUT_SHARE } else { OUTPUT_MAX }
    }

    fn reply(&self, to: Option<ReplyTo>, answer: Answer<S::Reply>) {
        if let Err(refusal) = &answer.reply {
            self.common.metrics.refused.add(refusal);
        }
        let Some(to) = to else { return };
        let chunk_bytes = answer.chunks.iter().map(|chunk| chunk.len()).sum();
        if self.is_closed.get() {
            return;
        }
        let write = |out: &mut Vec<u8>| wire::encode_reply(out, to, &answer.reply, chunk_bytes);
        let output = &mut self.replies.borrow_mut().output;
        output.push(write, answer.chunks);
        self.output_share.set(output.held());
    }

    /// Sends a request to the client. Gives the call back when it cannot be sent.
    pub fn send_request(
        self: &Rc<Self>,
        outgoing: &Outgoing,
    ) -> Result<(), (Option<CallId>, CallError)> {
        let frame = self.calls.borrow_mut().encode(outgoing)?;
        {
            let output = &mut self.replies.borrow_mut().output;
            output.push(|out| out.extend_from_slice(&frame), Vec::new());
            self.output_share.set(output.held());
        }
        self.flush();
        Ok(())
    }

    /// Takes the answer of a held pull.
    pub fn release(self: &Rc<Self>, ticket: u64, outcome: Outcome<S::Reply>) {
        let to = self.replies.borrow_mut().held.remove(&ticket);
        // The service knows on whose behalf it was asked.
        let principal = Principal::default();
        let read_at = self.last_used.get();
        self.settle(Asked { ticket, to, principal, size: 0, read_at }, outcome);
    }

    /// Has the owner tell it when the log is safe further on.
    pub fn list_waiting(&self) {
        if !self.is_listed.replace(true) {
            self.owner.list_waiting(self.id);
        }
    }

    /// Encodes and sends all replies that have become safe, which was at `moved_at`. Comes when it was
    /// listed.
    pub fn release_safe(self: &Rc<Self>, moved_at: Instant) {
        self.is_listed.set(false);
        let mut times =
            CommitTimes { metrics: &self.common.metrics, moved_at, run: None, count: 0 };
        let (safe, is_fenced) = (self.common.service.safe(), self.common.service.is_fenced());
        let still_waiting = {
            let replies = &mut *self.replies.borrow_mut();
            let is_over = |waiting: &mut WaitingReply<_>| waiting.mark <= safe || is_fenced;
            while let Some(waiting) = replies.waiting.pop_front_if(is_over) {
                let WaitingReply { mark, to, reply, size, read_at } = waiting;
                replies.in_flight -= size;
                let reply = if mark <= safe { Ok(reply) } else { Err(Refusal::OutcomeUnknown) };
                match &reply {
                    Ok(_) => times.note(read_at),
                    Err(refusal) => self.common.metrics.refused.add(refusal),
                }
                let Some(to) = to else { continue };
                replies.output.push(|out| wire::encode_reply(out, to, &reply, 0), Vec::new());
            }
            self.output_share.set(replies.output.held());
            !replies.waiting.is_empty()
        };
        if still_waiting {
            self.list_waiting();
        }
        let count = times.end();
        if self.flush() > 0 {
            let sent_after = self.last_used.get().saturating_duration_since(moved_at);
            self.common.metrics.reply.record_many(sent_after.as_nanos() as u64, count);
        }
        self.moved.notify();
        self.parked.borrow_mut().wake();
    }

    /// Sends what there is. Where the socket is full a task of its own goes on with it. Gives the bytes
    /// that have left at once.
    pub fn flush(self: &Rc<Self>) -> usize {
        if self.is_blocked.get() || self.is_closed.get() {
            self.close_if_hopeless();
            return 0;
        }
        let (sent, size) = {
            let output = &mut self.replies.borrow_mut().output;
            let before = output.waiting();
            if before == 0 {
                return 0;
            }
            let sent = output.send(self.socket);
            self.output_share.set(output.held());
            (sent, before - output.waiting())
        };
        if size > 0 {
            self.last_used.set(Instant::now());
            self.common.metrics.sent_bytes.add(size as u64);
        }
        match sent {
            Ok(Sent::All) => {}
            Ok(Sent::Blocked) => {
                self.send_when_writable();
                self.close_if_hopeless();
            }
            Err(_) => self.close(),
        }
        size
    }

    /// Answers of held pulls come whether there is room for them or not.
    fn close_if_hopeless(&self) {
        if self.replies.borrow().output.held() > OUTPUT_LIMIT {
            self.close();
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
            connection.moved.notify();
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
            if self.is_closed.get() {
                return Ok(()); // The output may be gone.
            }
            self.last_used.set(Instant::now());
            let output = &mut self.replies.borrow_mut().output;
            let before = output.waiting();
            output.advance(size);
            let sent = output.send(self.socket);
            self.output_share.set(output.held());
            self.common.metrics.sent_bytes.add((before - output.waiting()) as u64);
            sent?;
            self.moved.notify();
        }
    }

    /// Waits until another request may be taken.
    async fn ready_to_read(self: &Rc<Self>) -> Result<(), Closed> {
        self.beside_parked(self.moved.wait(|| self.check_ready().transpose())).await
    }

    /// Whether another request may be taken; `None` when not yet.
    fn check_ready(&self) -> Result<Option<()>, Closed> {
        let replies = self.replies.borrow();
        let held = replies.output.held();
        // What has not met a full socket yet may still leave at once.
        if self.is_blocked.get() && held > OUTPUT_LIMIT {
            return Err(Closed::NotReading { waiting: replies.output.waiting() });
        }
        if self.is_closed.get() {
            return Err(Closed::ByPeer);
        }
        let is_ready = held <= self.output_max()
            && !self.parked.borrow().is_full(self.parked_share.is_scarce())
            && replies.waiting.len() + replies.tasks < UNDER_WAY_MAX
            && replies.tasks < TASKS_MAX;
        Ok(is_ready.then_some(()))
    }

    async fn read(&self, input: &mut Input) -> Result<usize, Closed> {
        self.memory_for(input).await?;
        let room = input.room();
        let size = poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut *room))
            .await?;
        input.received(size);
        self.common.metrics.received_bytes.add(size as u64);
        Ok(size)
    }

    /// Waits until there is memory for the next read. Only what a large frame needs is counted, so
    /// connections with small ones never wait here.
    async fn memory_for(&self, input: &Input) -> Result<(), Closed> {
        let deadline = Instant::now() + MEMORY_WAIT_MAX;
        loop {
            let size = input.next_size();
            let large = if size > input::SIZE_MAX { size } else { 0 };
            if self.input_share.try_set(large) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Closed::NoMemory);
            }
            self.owner.close_stalled_input();
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Since when no byte of a large frame has come, if this connection holds memory for one.
    pub fn holds_large_input_since(&self) -> Option<Instant> {
        (self.input_share.get() > 0).then_some(self.last_used.get())
    }

    /// Ends the connection when nobody uses it. One whose replies nobody takes ends at once.
    pub fn close_if_idle(&self, now: Instant) {
        let replies = self.replies.borrow();
        if now.duration_since(self.last_used.get()) <= IDLE_MAX || !replies.held.is_empty() {
            return;
        }
        let waiting = replies.output.waiting();
        drop(replies);
        if waiting == 0 {
            return self.stop_reading();
        }
        tracing::warn!(id = self.id, peer = ?self.peer, "closed: {}", Closed::NotReading { waiting });
        self.close();
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
        self.ended.notify();
        self.moved.notify();
    }

    /// Lets replies that are under way leave, for as long as that can take, then forgets everything.
    async fn finish(self: &Rc<Self>) {
        self.beside_parked(self.moved.wait(|| self.is_unparked().then_some(()))).await;
        self.common.service.connection_closed(self.id);
        let deadline = Instant::now() + FINISH_MAX;
        while !self.is_closed.get() && self.has_replies_under_way() && Instant::now() < deadline {
            glommio::timer::sleep(Duration::from_millis(5)).await;
            self.flush();
        }
        if !self.is_closed.get() {
            parting::part(self.socket).await;
        }
        self.close();
        {
            let replies = &mut *self.replies.borrow_mut();
            replies.output = Output::default();
            replies.waiting.clear();
            replies.in_flight = 0;
            replies.held.clear();
        }
        self.parked.take();
        self.parked_share.set(0);
        self.output_share.set(0);
        // What a task has asked of the service meanwhile.
        self.common.service.connection_closed(self.id);
        self.owner.forget(self.id);
    }

    fn has_replies_under_way(&self) -> bool {
        let replies = self.replies.borrow();
        !replies.waiting.is_empty() || replies.tasks > 0 || replies.output.waiting() > 0
    }
}

/// Times from read to commit, where requests of one read share theirs.
struct CommitTimes<'a> {
    metrics: &'a Metrics,
    moved_at: Instant,
    /// When the last ones were read, and how many those are.
    run: Option<(Instant, u64)>,
    count: u64,
}

impl CommitTimes<'_> {
    fn note(&mut self, read_at: Instant) {
        self.count += 1;
        match &mut self.run {
            Some((of, count)) if *of == read_at => *count += 1,
            _ => {
                self.record();
                self.run = Some((read_at, 1));
            }
        }
    }

    /// Gives how many there were.
    fn end(mut self) -> u64 {
        self.record();
        self.count
    }

    fn record(&mut self) {
        if let Some((read_at, count)) = self.run.take() {
            let took = self.moved_at.saturating_duration_since(read_at);
            self.metrics.commit.record_many(took.as_nanos() as u64, count);
        }
    }
}

/// What an operation that a client asked for needs.
struct OperationContext<S: Service> {
    connection: Rc<Connection<S>>,
    asked: Asked,
}

impl<S: Service> Context for OperationContext<S> {
    type ColdRead<'a> = (Promise<S>, Permit<'a>);

    fn origin(&self) -> Origin {
        self.connection.origin(self.asked)
    }

    fn now(&self) -> Now {
        clock::now()
    }

    async fn cold_read(&self, size_max: usize) -> Self::ColdRead<'_> {
        let promise = self.connection.room_for_answer(size_max).await;
        (promise, self.connection.common.cold_permit().await)
    }
}

/// Room that is kept for an answer until it is there.
struct Promise<S: Service> {
    connection: Rc<Connection<S>>,
    size: usize,
}

impl<S: Service> Drop for Promise<S> {
    fn drop(&mut self) {
        let promised = &mut self.connection.replies.borrow_mut().promised;
        *promised -= self.size;
        self.connection.moved.notify();
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
