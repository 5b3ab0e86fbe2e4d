//! A network between simulated nodes: streams that break, links that are blocked.
//!
//! ```text
//!   connect ─▶ handshake ─▶ accept
//!   send ─▶ window ─▶ latency of the link ─▶ recv
//! ```
//!
//! A stream behaves like a TCP connection: its frames arrive once and in order, or it breaks. A
//! single frame is never lost. What can go wrong:
//! - A stream breaks, by chance when a frame is sent ([`Conditions::breaks_per_million`]) or for
//!   all streams of a node ([`Network::break_streams`]). What has not arrived is lost, and the
//!   sender of a frame may or may not learn of it.
//! - A link, which is one direction between two nodes, is blocked ([`Network::block`]). Nothing
//!   arrives, not even the end of a stream, and connecting times out. What was sent is sent again
//!   when the link is unblocked, or else the stream breaks then.
//! - The tasks of a node are paused ([`super::Tasks::pause`]): like a kernel, the network accepts
//!   connections and frames for it, up to the backlog and the window.
//! - The tasks of a node are killed ([`super::Tasks::kill`]): its peers see its streams end. A node
//!   that loses power is blocked as well, and its streams break when it returns.
//!
//! Not modelled: acknowledgements. A link that is blocked does not stop the other direction of its
//! streams, which TCP would stop when a window is full.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::io::{self, ErrorKind};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::clock::Clock;
use super::rng::{Rng, mix};
use crate::replication::channel::waiters::Waiters;
use crate::replication::timeout::Timeout;

/// Connections that a listener has not accepted. Further ones are ignored, and time out.
const BACKLOG_MAX: usize = 128;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u64);

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub node: Node,
    pub port: u16,
}

/// One direction between two nodes.
type Link = (Node, Node);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Each link has a latency of its own between these two. A frame takes up to half more.
    pub latency_min: Duration,
    pub latency_max: Duration,
    /// Of a million frames, how many break their stream.
    pub breaks_per_million: u64,
    /// Of a hundred streams with frames on a link that is unblocked, how many break.
    pub breaks_after_block_percent: u64,
    /// Frames in flight in one direction of a stream; then the sender waits.
    pub window_frames: usize,
    pub connect_max: Duration,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(50),
            latency_max: Duration::from_micros(500),
            breaks_per_million: 0,
            breaks_after_block_percent: 50,
            window_frames: 64,
            connect_max: Duration::from_secs(1),
        }
    }
}

/// A network that carries frames of the type `M`. A clone is another handle.
pub struct Network<M>(Rc<Shared<M>>);

struct Shared<M> {
    clock: Rc<Clock>,
    seed: u64,
    rng: RefCell<Rng>,
    conditions: Cell<Conditions>,
    blocked: RefCell<BTreeSet<Link>>,
    unblocked: Waiters,
    listeners: RefCell<BTreeMap<Address, Weak<Backlog<M>>>>,
    pipes: RefCell<Vec<Weak<Pipe<M>>>>,
}

struct Backlog<M> {
    waiting: RefCell<VecDeque<Incoming<M>>>,
    arrived: Waiters,
}

/// One direction of a stream.
struct Pipe<M> {
    link: Link,
    /// Each frame with the time at which it arrives, which does not decrease. None is the end.
    frames: RefCell<VecDeque<(Duration, Option<M>)>>,
    newest_arrival: Cell<Duration>,
    is_ended: Cell<bool>,
    is_receiver_gone: Cell<bool>,
    stream: Rc<Stream>,
}

/// What both directions of a stream share.
#[derive(Default)]
struct Stream {
    is_broken: Cell<bool>,
    changed: Waiters,
}

/// Sends frames. Dropping this ends its direction of the stream.
pub struct SendHalf<M> {
    network: Network<M>,
    pipe: Rc<Pipe<M>>,
    other_direction: Rc<Pipe<M>>,
}

/// Receives frames. After this is dropped the peer cannot send.
pub struct RecvHalf<M> {
    network: Network<M>,
    pipe: Rc<Pipe<M>>,
}

/// A connection that another node has made.
pub struct Incoming<M> {
    pub from: Node,
    pub send: SendHalf<M>,
    pub recv: RecvHalf<M>,
}

/// Accepts connections. Dropping this refuses further ones and closes those that wait.
pub struct Listener<M> {
    network: Network<M>,
    address: Address,
    backlog: Rc<Backlog<M>>,
}

impl<M> Network<M> {
    pub fn new(clock: &Rc<Clock>, seed: u64, conditions: Conditions) -> Self {
        Self(Rc::new(Shared {
            clock: clock.clone(),
            seed,
            rng: RefCell::new(Rng::from_seed(seed)),
            conditions: Cell::new(conditions),
            blocked: RefCell::default(),
            unblocked: Waiters::default(),
            listeners: RefCell::default(),
            pipes: RefCell::default(),
        }))
    }

    /// Sets the conditions for frames that are sent from now on.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.0.conditions.set(conditions);
    }

    /// Listens at `address`. Panics if it is in use.
    pub fn listen(&self, address: Address) -> Listener<M> {
        let backlog = Rc::new(Backlog { waiting: RefCell::default(), arrived: Waiters::default() });
        let other = self.0.listeners.borrow_mut().insert(address, Rc::downgrade(&backlog));
        assert!(other.is_none(), "{address:?} is in use");
        Listener { network: self.clone(), address, backlog }
    }

    pub async fn connect(&self, from: Node, to: Address) -> io::Result<(SendHalf<M>, RecvHalf<M>)> {
        let limit = self.0.clock.sleep(self.0.conditions.get().connect_max);
        let connected = Timeout::new(self.handshake(from, to), limit).await;
        connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Blocks a link: nothing arrives in this direction from now on.
    pub fn block(&self, from: Node, to: Node) {
        self.0.blocked.borrow_mut().insert((from, to));
    }

    pub fn unblock(&self, from: Node, to: Node) {
        if !self.0.blocked.borrow_mut().remove(&(from, to)) {
            return;
        }
        for pipe in self.pipes(|link| link == (from, to)) {
            self.send_again(&pipe);
        }
        // The other direction sees now whether its receivers are gone.
        self.pipes(|link| link == (to, from))
            .iter()
            .for_each(|pipe| pipe.stream.changed.wake_all());
        self.0.unblocked.wake_all();
    }

    /// Breaks all streams from and to `node`.
    pub fn break_streams(&self, node: Node) {
        let pipes = self.pipes(|(from, to)| from == node || to == node);
        pipes.iter().for_each(|pipe| pipe.stream.break_now());
    }

    async fn handshake(&self, from: Node, to: Address) -> io::Result<(SendHalf<M>, RecvHalf<M>)> {
        let (there, back) = ((from, to.node), (to.node, from));
        let is_open = || !self.is_blocked(there) && !self.is_blocked(back);
        loop {
            self.0.unblocked.wait_until(|| is_open().then_some(())).await;
            self.0.clock.sleep(self.draw_latency(there) + self.draw_latency(back)).await;
            if is_open() {
                break;
            }
        }
        let listener = self.0.listeners.borrow().get(&to).and_then(Weak::upgrade);
        let backlog = listener.ok_or(ErrorKind::ConnectionRefused)?;
        if backlog.waiting.borrow().len() >= BACKLOG_MAX {
            pending::<()>().await;
        }
        let ((send, peer_recv), (peer_send, recv)) = self.open_stream(there, back);
        let incoming = Incoming { from, send: peer_send, recv: peer_recv };
        backlog.waiting.borrow_mut().push_back(incoming);
        backlog.arrived.wake_all();
        Ok((send, recv))
    }

    /// The ends of both directions of a new stream.
    fn open_stream(&self, there: Link, back: Link) -> (Ends<M>, Ends<M>) {
        let stream = Rc::new(Stream::default());
        let [there, back] = [there, back].map(|link| {
            Rc::new(Pipe {
                link,
                frames: RefCell::default(),
                newest_arrival: Cell::default(),
                is_ended: Cell::default(),
                is_receiver_gone: Cell::default(),
                stream: stream.clone(),
            })
        });
        let mut pipes = self.0.pipes.borrow_mut();
        pipes.retain(|pipe| pipe.strong_count() > 0);
        pipes.extend([Rc::downgrade(&there), Rc::downgrade(&back)]);
        (self.ends(&there, &back), self.ends(&back, &there))
    }

    fn ends(&self, pipe: &Rc<Pipe<M>>, other_direction: &Rc<Pipe<M>>) -> Ends<M> {
        let (network, other_direction) = (self.clone(), other_direction.clone());
        let send = SendHalf { network, pipe: pipe.clone(), other_direction };
        (send, RecvHalf { network: self.clone(), pipe: pipe.clone() })
    }

    fn pipes(&self, is_wanted: impl Fn(Link) -> bool) -> Vec<Rc<Pipe<M>>> {
        let pipes = self.0.pipes.borrow();
        pipes.iter().filter_map(Weak::upgrade).filter(|pipe| is_wanted(pipe.link)).collect()
    }

    fn is_blocked(&self, link: Link) -> bool {
        self.0.blocked.borrow().contains(&link)
    }

    /// Handles the unblocking of the link of `pipe`: what was held arrives after all, or the stream
    /// breaks.
    fn send_again(&self, pipe: &Pipe<M>) {
        let has_frames = !pipe.frames.borrow().is_empty();
        let percent = self.0.conditions.get().breaks_after_block_percent;
        if has_frames && self.0.rng.borrow_mut().chance(percent, 100) {
            pipe.stream.break_now();
            return;
        }
        let earliest = self.0.clock.now() + self.draw_latency(pipe.link);
        for (arrival, _) in pipe.frames.borrow_mut().iter_mut() {
            *arrival = earliest.max(*arrival);
        }
        pipe.newest_arrival.set(earliest.max(pipe.newest_arrival.get()));
        pipe.stream.changed.wake_all();
    }

    fn draw_latency(&self, (from, to): Link) -> Duration {
        let Conditions { latency_min, latency_max, .. } = self.0.conditions.get();
        let range = latency_max.saturating_sub(latency_min).as_nanos() as u64;
        let of_link = self.0.seed ^ mix(from.0 ^ mix(to.0));
        let base = latency_min + Duration::from_nanos(Rng::from_seed(of_link).below(range + 1));
        let more = self.0.rng.borrow_mut().below(base.as_nanos() as u64 / 2 + 1);
        base + Duration::from_nanos(more)
    }
}

/// Both ends of one direction.
type Ends<M> = (SendHalf<M>, RecvHalf<M>);

impl<M> Clone for Network<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Listener<M> {
    pub async fn accept(&mut self) -> Incoming<M> {
        let Backlog { waiting, arrived } = &*self.backlog;
        arrived.wait_until(|| waiting.borrow_mut().pop_front()).await
    }
}

impl<M> Drop for Listener<M> {
    fn drop(&mut self) {
        self.network.0.listeners.borrow_mut().remove(&self.address);
    }
}

impl Stream {
    fn break_now(&self) {
        self.is_broken.set(true);
        self.changed.wake_all();
    }
}

impl<M> Pipe<M> {
    fn put(&self, arrival: Duration, frame: Option<M>) {
        let arrival = arrival.max(self.newest_arrival.get());
        self.newest_arrival.set(arrival);
        self.frames.borrow_mut().push_back((arrival, frame));
        self.stream.changed.wake_all();
    }

    fn drop_receiver(&self) {
        self.is_receiver_gone.set(true);
        let _unread = self.frames.take();
        self.stream.changed.wake_all();
    }
}

impl<M> SendHalf<M> {
    /// Waits for room in the window. Success does not mean that the frame arrives.
    pub async fn send(&mut self, frame: M) -> io::Result<()> {
        self.pipe.stream.changed.wait_until(|| self.room()).await?;
        let breaks_per_million = self.network.0.conditions.get().breaks_per_million;
        let (breaks, is_noticed) = {
            let mut rng = self.network.0.rng.borrow_mut();
            (rng.chance(breaks_per_million, 1_000_000), rng.coin())
        };
        if breaks {
            self.pipe.stream.break_now();
            return if is_noticed { Err(ErrorKind::ConnectionReset.into()) } else { Ok(()) };
        }
        self.put(Some(frame));
        Ok(())
    }

    /// Closes the connection in both directions.
    pub fn close(&self) {
        self.end();
        self.other_direction.drop_receiver();
    }

    /// Whether there is room for a frame, or why there never will be; `None` to wait.
    fn room(&self) -> Option<io::Result<()>> {
        let (from, to) = self.pipe.link;
        if self.pipe.is_ended.get() {
            return Some(Err(ErrorKind::BrokenPipe.into()));
        }
        let is_gone = self.pipe.is_receiver_gone.get() && !self.network.is_blocked((to, from));
        if self.pipe.stream.is_broken.get() || is_gone {
            return Some(Err(ErrorKind::ConnectionReset.into()));
        }
        let window = self.network.0.conditions.get().window_frames;
        (self.pipe.frames.borrow().len() < window).then_some(Ok(()))
    }

    fn put(&self, frame: Option<M>) {
        let arrival = self.network.0.clock.now() + self.network.draw_latency(self.pipe.link);
        self.pipe.put(arrival, frame);
    }

    fn end(&self) {
        if !self.pipe.is_ended.replace(true) {
            self.put(None);
        }
    }
}

impl<M> Drop for SendHalf<M> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<M> RecvHalf<M> {
    /// The next frame; `None` when the peer has ended the stream, or this side has closed it. May
    /// be dropped without losing a frame.
    pub async fn recv(&mut self) -> io::Result<Option<M>> {
        let clock = &self.network.0.clock;
        loop {
            let arrival = self.pipe.stream.changed.wait_until(|| self.next_arrival()).await?;
            if arrival <= clock.now() {
                return Ok(self.take());
            }
            clock.sleep_until(arrival).await;
        }
    }

    /// When the next frame arrives, as far as it is known; `None` to wait.
    fn next_arrival(&self) -> Option<io::Result<Duration>> {
        if self.pipe.is_receiver_gone.get() {
            return Some(Ok(Duration::ZERO));
        }
        if self.pipe.stream.is_broken.get() {
            return Some(Err(ErrorKind::ConnectionReset.into()));
        }
        if self.network.is_blocked(self.pipe.link) {
            return None;
        }
        self.pipe.frames.borrow().front().map(|(arrival, _)| Ok(*arrival))
    }

    /// Takes the next frame. The end stays.
    fn take(&self) -> Option<M> {
        let frame = self.pipe.frames.borrow_mut().pop_front_if(|(_, frame)| frame.is_some());
        self.pipe.stream.changed.wake_all();
        frame.and_then(|(_, frame)| frame)
    }
}

impl<M> Drop for RecvHalf<M> {
    fn drop(&mut self) {
        self.pipe.drop_receiver();
    }
}

#[cfg(test)]
mod tests;
