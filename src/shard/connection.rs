//! One client connection: bytes in, requests to the service, replies out.
//!
//! ```text
//!   read ─▶ whole frames ─▶ service.handle ─┬─ answered now ────────────────────▶ output ─▶ one send
//!                                           ├─ committed later: FIFO ───────────▶ output, at the commit
//!                                           ├─ no room: parked ─▶ handled again, when there is
//!                                           ├─ held: ticket ────────────────────▶ output, when released
//!                                           └─ an operation: a task ────────────▶ output, when done
//! ```
//!
//! This file has the connection's state, its main loop and its end. Each stage has its own file:
//! `reading`, `admission`, `operation`, `replying`, `sending`.
//!
//! Invariants:
//! - The log offsets that replies wait for never decrease, because appends are handled in order of
//!   arrival. So the committed replies are at the front. Replies whose entries were cut off the log
//!   become refusals when they reach the front.
//! - The connection reads another request only while there is room for its reply (`OUTPUT_MAX`) and
//!   few enough requests are parked. Otherwise TCP flow control holds back the sender. It is also
//!   held back while `TASKS_MAX` operations and cold pulls are in flight, but only for
//!   `TASKS_WAIT_MAX`, up to `OPERATIONS_OF_ONE_MAX` of them: a heartbeat may be next.
//! - Requests that append do so in order of arrival. Those that must wait, for room in the log or
//!   because the connection has enough in flight (`IN_FLIGHT_MAX`), are parked; requests that
//!   need no room in the log are handled meanwhile. While more bytes wait for room than can be in
//!   flight, a connection that brings messages waits for its turn before it reads anything more
//!   (`readers`).
//! - A cold read starts only once its reply has room, so a client that does not read its replies cannot
//!   cause disk reads.
//! - A connection on which no byte moves for [`IDLE_MAX`] is closed, even with replies waiting.
//! - There is no task per request, except for cold pulls and operations. The committer that commits
//!   a request also sends its reply; only a full socket and the parked requests of a connection get
//!   a task of their own.

mod admission;
mod operation;
mod reading;
mod replying;
mod sending;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::reactor;
use crate::reactor::net::TcpStream;

use super::asked::Asked;
use super::budget::{KeptMemory, Share};
use super::calls::Calls;
use super::common::{Common, Owner};
use super::connection_limit::Counted;
use super::input::Input;
use super::output::Output;
use super::parked::Parked;
use super::parting;
use super::replies::Replies;
use super::service::Service;
use crate::model::record::Host;
use crate::storage::signal::Signal;
use crate::wire::FrameError;

/// A connection without traffic for this long is closed (remoting reference, 1.7).
pub const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long a closing connection waits for its pending replies.
const GRACEFUL_CLOSE_MAX: Duration = Duration::from_secs(10);

pub struct Connection<S: Service> {
    pub id: u64,
    socket: RawFd,
    stream: TcpStream,
    /// After `stream`: the connection counts until its descriptor is closed.
    _counted: Counted,
    peer: Host,
    common: Rc<Common<S>>,
    owner: Rc<dyn Owner>,
    replies: RefCell<Replies<S::Reply>>,
    /// Calls to the client that are in flight.
    calls: RefCell<Calls>,
    /// Requests that wait for room in the log.
    parked: RefCell<Parked<(Asked, S::Request)>>,
    /// A task executes the parked requests.
    executes_parked: Cell<bool>,
    /// Number of reads so far, and the read of the last parked request.
    reads: Cell<u64>,
    last_parked_read: Cell<u64>,
    /// Notified when replies have been sent, a parked request is done, or the connection is closed.
    moved: Signal,
    /// Notified when the connection has been closed or is no longer read.
    ended: Signal,
    is_blocked: Cell<bool>,
    is_closed: Cell<bool>,
    /// When a byte last moved, in or out.
    last_used: Cell<Instant>,
    /// A request that stores something has been read since the last turn. One turn is thus enough
    /// for a large request that takes many reads: the memory that it holds meanwhile is scarcer
    /// than room in the log.
    has_stored: Cell<bool>,
    /// Since when requests wait because [`TASKS_MAX`](reading::TASKS_MAX) tasks are in flight;
    /// `None` once all that has arrived is handled.
    tasks_awaited_since: Cell<Option<Instant>>,
    /// The connection waits for its turn to read.
    waits_to_read: Cell<bool>,
    /// A frame whose header cannot be decoded has arrived.
    has_unreadable: Cell<bool>,
    output_share: Share,
    input_share: Share,
    parked_share: Share,
    kept_share: Rc<Share>,
    /// The memory of the last read that started an operation, and the number of that read.
    last_kept: RefCell<(u64, Weak<KeptMemory>)>,
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("closed by the peer")]
    ByPeer,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("framing lost: {0}")]
    Framing(#[from] FrameError),
    #[error("{unsent} bytes of replies are waiting and the peer is not reading")]
    NotReading { unsent: usize },
    #[error("no memory for a large request: other connections use it")]
    NoMemory,
}

impl<S: Service> Connection<S> {
    pub fn new(
        id: u64,
        stream: TcpStream,
        counted: Counted,
        common: Rc<Common<S>>,
        owner: Rc<dyn Owner>,
    ) -> io::Result<Rc<Self>> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        let (output_share, input_share) =
            (common.output_budget.share(), common.input_budget.share());
        let parked_share = common.parked_budget.share();
        let kept_share = Rc::new(common.kept_budget.share());
        Ok(Rc::new(Self {
            id,
            socket: stream.as_raw_fd(),
            stream,
            _counted: counted,
            peer: host_of(peer),
            common,
            owner,
            replies: RefCell::default(),
            calls: RefCell::default(),
            parked: RefCell::default(),
            executes_parked: Cell::new(false),
            reads: Cell::new(0),
            last_parked_read: Cell::new(0),
            moved: Signal::default(),
            ended: Signal::default(),
            is_blocked: Cell::new(false),
            is_closed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            has_stored: Cell::new(false),
            tasks_awaited_since: Cell::new(None),
            waits_to_read: Cell::new(false),
            has_unreadable: Cell::new(false),
            output_share,
            input_share,
            parked_share,
            kept_share,
            last_kept: RefCell::default(),
        }))
    }

    /// Serves the connection until it is closed.
    pub async fn run(self: Rc<Self>) {
        let why = match self.serve().await {
            Ok(never) => match never {},
            Err(why) => why,
        };
        match why {
            Closed::ByPeer | Closed::Io(_) => tracing::debug!(id = self.id, "closed: {why}"),
            _ => tracing::warn!(id = self.id, peer = %self.peer, "closed: {why}"),
        }
        self.close_gracefully().await;
    }

    async fn serve(self: &Rc<Self>) -> Result<Infallible, Closed> {
        let mut input = Input::new(self.common.spares.clone());
        loop {
            self.ready_to_read().await?;
            self.stream.readable().await;
            self.turn_to_read().await;
            let taken = self.take_in(&mut input).await;
            self.let_next_read();
            taken?;
            match self.stream.has_more() {
                true => reactor::pass().await,
                false => self.tasks_awaited_since.set(None),
            }
        }
    }

    /// Reads what is available, and handles the requests in it.
    async fn take_in(self: &Rc<Self>, input: &mut Input) -> Result<(), Closed> {
        // Reading was shut down, but the kernel keeps accepting what a busy peer sends.
        if self.common.is_stopping.get() || self.read(input).await? == 0 {
            return Err(Closed::ByPeer);
        }
        self.last_used.set(Instant::now());
        self.take_frames(input).await?;
        self.common.beat();
        Ok(())
    }

    /// Since when no byte of a large frame has arrived, if this connection holds memory for one and
    /// the shard is not holding it back. Others that wait for memory count: they may wait for each
    /// other.
    pub fn holds_large_input_since(&self) -> Option<Instant> {
        let is_held_back =
            self.waits_to_read.get() || self.is_closed.get() || self.input_share.is_next();
        (self.input_share.get() > 0 && !is_held_back).then_some(self.last_used.get())
    }

    /// Closes the connection if it is idle. One whose client does not read its replies is closed
    /// immediately.
    pub fn close_if_idle(&self, now: Instant) {
        let replies = self.replies.borrow();
        if now.duration_since(self.last_used.get()) <= IDLE_MAX || !replies.held.is_empty() {
            return;
        }
        let unsent = replies.output.unsent();
        drop(replies);
        if unsent == 0 {
            return self.stop_reading();
        }
        tracing::warn!(id = self.id, peer = %self.peer, "closed: {}", Closed::NotReading { unsent });
        self.close();
    }

    /// Stops reading; the connection is closed once its replies are written.
    pub fn stop_reading(&self) {
        // An error means that the socket is gone already.
        let _ = nix::sys::socket::shutdown(self.socket, nix::sys::socket::Shutdown::Read);
        self.ended.notify();
    }

    /// Closes the connection now; unsent replies are lost.
    pub fn close(&self) {
        if !self.is_closed.replace(true) {
            let _ = nix::sys::socket::shutdown(self.socket, nix::sys::socket::Shutdown::Both);
        }
        self.parked.borrow_mut().wake();
        self.ended.notify();
        self.moved.notify();
    }

    /// Sends the pending replies, for a limited time, then drops everything.
    async fn close_gracefully(self: &Rc<Self>) {
        // The input and its memory are gone.
        self.input_share.set(0);
        self.moved.wait(|| self.is_unparked().then_some(())).await;
        self.common.service.connection_closed(self.id);
        let deadline = Instant::now() + GRACEFUL_CLOSE_MAX;
        while !self.is_closed.get() && self.has_replies_under_way() && Instant::now() < deadline {
            reactor::sleep(Duration::from_millis(5)).await;
            self.flush();
        }
        if !self.is_closed.get() {
            parting::part(self.socket).await;
        }
        self.close();
        {
            let replies = &mut *self.replies.borrow_mut();
            replies.output = Output::default();
            replies.uncommitted.clear();
            replies.in_flight = 0;
            replies.held.clear();
        }
        self.drop_parked();
        self.output_share.set(0);
        // Again, for requests that a task has made to the service meanwhile.
        self.common.service.connection_closed(self.id);
        self.owner.forget(self.id);
    }

    fn has_replies_under_way(&self) -> bool {
        let replies = self.replies.borrow();
        !replies.uncommitted.is_empty() || replies.tasks > 0 || replies.output.unsent() > 0
    }
}

/// A peer's address as stored in records: IPv4, or zeros for an IPv6 address (remoting reference,
/// 4.2).
fn host_of(peer: SocketAddr) -> Host {
    let address = match peer {
        SocketAddr::V4(peer) => Some(*peer.ip()),
        SocketAddr::V6(peer) => peer.ip().to_ipv4_mapped(),
    };
    let address = address.map_or([0; 4], |address| address.octets());
    Host { address, port: u32::from(peer.port()).into() }
}
