//! What the connections of one shard share, and what moves them on when something happens.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use glommio::net::TcpStream;
use glommio::sync::{Permit, Semaphore};

use super::budget::Budget;
use super::clock;
use super::connection::Connection;
use super::nudge::Pulse;
use super::service::Service;
use crate::broker::Released;
use crate::broker::clients::CallError;
use crate::model::{Deadlines, Moment, ShardId};
use crate::storage::signal::Signal;

/// Requests to clients that are sent in one go: each is a system call.
const REQUESTS_AT_A_TIME: usize = 64;
/// Connections one shard serves at a time.
const CONNECTIONS_MAX: usize = 50_000;
/// Cold reads one shard has under way at a time; the others wait their turn, so that a consumer
/// who replays last week has a bounded share of the device.
const COLD_READS_MAX: u64 = 8;

/// Bytes of unsent replies on all connections. When half of it is taken each gets only a small part.
const OUTPUT_BYTES_MAX: usize = 256 << 20;
/// Bytes of memory for requests above the size of an ordinary read buffer, on all connections.
const INPUT_BYTES_MAX: usize = 256 << 20;
/// Bytes of the buffers behind requests that wait for room in the log. When half of it is taken, a
/// connection that has such requests is not read.
const PARKED_BYTES_MAX: usize = 128 << 20;
/// A connection on which nothing came for this long lends its part of that to nobody but loses it.
const STALLED_AFTER: Duration = Duration::from_secs(1);

pub struct Shard<S: Service> {
    pub id: ShardId,
    pub service: S,
    connections: RefCell<HashMap<u64, Rc<Connection<S>>>>,
    /// Connections with replies that wait for the log to become safe.
    waiting: RefCell<Vec<Rc<Connection<S>>>>,
    next_connection: Cell<u64>,
    cold_reads: Semaphore,
    pulse: Pulse,
    /// Replies that are not sent yet.
    pub output_budget: Budget,
    /// Large requests that have not come whole.
    pub input_budget: Budget,
    /// Requests that wait for room in the log.
    pub parked_budget: Budget,
    /// When to look at which connection's parked requests.
    deadlines: RefCell<Deadlines<u64>>,
    is_watching: Cell<bool>,
    /// An earlier deadline was set than there was.
    earlier: Signal,
    pub is_stopping: Cell<bool>,
    /// Produce requests refused because they had waited too long.
    pub refused_late: Cell<u64>,
}

impl<S: Service> Shard<S> {
    pub fn new(id: ShardId, service: S, pulse: Pulse) -> Rc<Self> {
        Rc::new(Self {
            id,
            service,
            connections: RefCell::default(),
            waiting: RefCell::default(),
            next_connection: Cell::new(1),
            cold_reads: Semaphore::new(COLD_READS_MAX),
            pulse,
            output_budget: Budget::new(OUTPUT_BYTES_MAX),
            input_budget: Budget::new(INPUT_BYTES_MAX),
            parked_budget: Budget::new(PARKED_BYTES_MAX),
            deadlines: RefCell::default(),
            is_watching: Cell::new(false),
            earlier: Signal::default(),
            is_stopping: Cell::new(false),
            refused_late: Cell::new(0),
        })
    }

    /// Tells the nudge that this shard is alive and doing something.
    pub fn progress(&self) {
        self.pulse.beat();
    }

    /// From here on silence is nothing to worry about.
    pub fn start_serving(&self) {
        self.pulse.start_serving();
    }

    /// Takes a new connection and serves it in a task of its own.
    pub fn accept(self: &Rc<Self>, stream: TcpStream) -> io::Result<()> {
        if self.is_stopping.get() {
            return Err(io::Error::other("the server is stopping"));
        }
        if self.connections.borrow().len() >= CONNECTIONS_MAX {
            return Err(io::Error::other(format!("{CONNECTIONS_MAX} connections are open")));
        }
        let id = self.next_connection.replace(self.next_connection.get() + 1);
        let connection = Connection::new(id, stream, self.clone())?;
        self.connections.borrow_mut().insert(id, connection.clone());
        glommio::spawn_local(connection.run()).detach();
        Ok(())
    }

    pub fn forget(&self, connection: u64) {
        self.connections.borrow_mut().remove(&connection);
    }

    pub fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Notes that `connection` has replies that wait for the log.
    pub fn list_waiting(&self, connection: &Rc<Connection<S>>) {
        if !connection.is_listed.replace(true) {
            self.waiting.borrow_mut().push(connection.clone());
        }
    }

    /// The log has become safe further on, or never will: replies leave.
    pub fn release(self: &Rc<Self>, released: Vec<Released<S::Reply>>) {
        for Released { origin, outcome } in released {
            let connection = self.connections.borrow().get(&origin.connection).cloned();
            if let Some(connection) = connection {
                connection.release(origin.ticket, outcome);
                self.list_waiting(&connection);
            }
        }
        let listed = std::mem::take(&mut *self.waiting.borrow_mut());
        for connection in listed {
            connection.is_listed.set(false);
            if connection.release_safe() {
                self.list_waiting(&connection);
            }
        }
        self.progress();
    }

    /// Sends some of the requests that the service has for clients; the caller comes again while it
    /// has more. Gives whether it may.
    pub fn send_requests(self: &Rc<Self>) -> bool {
        for _ in 0..REQUESTS_AT_A_TIME {
            let Some(outgoing) = self.service.take_outgoing() else { return false };
            let connection = self.connections.borrow().get(&outgoing.connection).cloned();
            let sent = match &connection {
                Some(connection) => connection.send_request(&outgoing),
                None => Err((outgoing.call, CallError::Closed)),
            };
            if let Err((Some(call), error)) = sent {
                self.service.reply_arrived(call, Err(error));
            }
        }
        true
    }

    pub async fn cold_permit(&self) -> Permit<'_> {
        self.cold_reads.acquire_permit(1).await.expect("the semaphore is never closed")
    }

    /// At `at` the connection is to refuse the parked requests that have waited too long. One task of
    /// the shard sees to it, while there is any deadline. It may begin at once, so the caller holds
    /// no borrow.
    pub fn set_deadline(self: &Rc<Self>, at: Moment, connection: u64) {
        let is_earlier = {
            let deadlines = &mut *self.deadlines.borrow_mut();
            let before = deadlines.next();
            deadlines.insert(at, connection);
            before.is_none_or(|before| at < before)
        };
        if !self.is_watching.replace(true) {
            let shard = self.clone();
            glommio::spawn_local(async move { shard.watch_deadlines().await }).detach();
        } else if is_earlier {
            self.earlier.notify();
        }
    }

    async fn watch_deadlines(self: Rc<Self>) {
        let next = || self.deadlines.borrow().next();
        while let Some(at) = next() {
            let wait = Duration::from_millis(at.ms_since(clock::moment()));
            let is_earlier = || next().is_some_and(|next| next < at).then_some(());
            let timer = pin!(glommio::timer::sleep(wait));
            select(timer, self.earlier.wait(is_earlier)).await;
            let now = clock::moment();
            while let Some(id) = self.take_due(now) {
                let connection = self.connections.borrow().get(&id).cloned();
                if let Some(connection) = connection {
                    connection.refuse_overdue(now);
                }
            }
            self.progress();
        }
        self.is_watching.set(false);
    }

    fn take_due(&self, now: Moment) -> Option<u64> {
        self.deadlines.borrow_mut().take_due(now)
    }

    /// Closes connections that nobody uses.
    pub fn close_idle(&self, now: Instant) {
        for connection in self.connections.borrow().values() {
            connection.close_if_idle(now);
        }
    }

    /// Memory is short: whoever has not gone on with a large request for longest loses its connection.
    pub fn close_stalled_input(&self) {
        let connections = self.connections.borrow();
        let since = |connection: &&Rc<Connection<S>>| connection.holds_large_input_since();
        let holding = connections.values().filter(|connection| since(connection).is_some());
        if let Some(stalled) = holding.min_by_key(since)
            && since(&stalled).is_some_and(|since| since.elapsed() > STALLED_AFTER)
        {
            tracing::warn!(id = stalled.id, "closed: it holds memory and does not go on");
            stalled.close();
        }
    }

    /// Stops taking requests. Replies that are under way still leave.
    pub fn stop_reading(&self) {
        for connection in self.connections.borrow().values() {
            connection.stop_reading();
        }
    }
}
