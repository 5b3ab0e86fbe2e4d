//! What the connections of one shard share, and what moves them on when something happens.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use glommio::net::TcpStream;
use glommio::sync::{Permit, Semaphore};

use super::connection::Connection;
use super::nudge::Pulse;
use super::service::Service;
use crate::broker::{ColdRead, Outcome, Released};
use crate::model::ShardId;

/// Connections one shard serves at a time.
const CONNECTIONS_MAX: usize = 50_000;
/// Cold reads one shard has under way at a time; the others wait their turn, so that a consumer
/// who replays last week has a bounded share of the device.
const COLD_READS_MAX: u64 = 8;

pub struct Shard<S: Service> {
    pub id: ShardId,
    pub service: S,
    connections: RefCell<HashMap<u64, Rc<Connection<S>>>>,
    /// Connections with replies that wait for the log to become safe.
    waiting: RefCell<Vec<Rc<Connection<S>>>>,
    next_connection: Cell<u64>,
    cold_reads: Semaphore,
    pulse: Pulse,
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
            is_stopping: Cell::new(false),
            refused_late: Cell::new(0),
        })
    }

    /// Tells the nudge that this shard is alive and doing something.
    pub fn progress(&self) {
        self.pulse.beat();
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
    pub fn release(self: &Rc<Self>, released: Vec<Released>) {
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

    pub async fn finish(&self, read: Box<ColdRead>) -> Outcome {
        self.service.finish(read).await
    }

    pub async fn cold_permit(&self) -> Permit<'_> {
        self.cold_reads.acquire_permit(1).await.expect("the semaphore is never closed")
    }

    /// Closes connections that nobody uses.
    pub fn close_idle(&self, now: Instant) {
        for connection in self.connections.borrow().values() {
            if connection.is_idle(now) {
                connection.stop_reading();
            }
        }
    }

    /// Stops taking requests. Replies that are under way still leave.
    pub fn stop_reading(&self) {
        for connection in self.connections.borrow().values() {
            connection.stop_reading();
        }
    }
}
