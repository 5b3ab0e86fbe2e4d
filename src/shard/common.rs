//! What the connections of one shard share, and what they need from the owner of all connections.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use glommio::sync::{Permit, Semaphore};

use super::budget::Budget;
use super::input::Spares;
use super::nudge::Pulse;
use super::patience::Patience;
use super::readers::Readers;
use super::service::Service;
use crate::model::{LogOffset, Metrics, Moment, ShardId};

/// Maximum number of cold reads in flight per shard. Others wait their turn, so a consumer that
/// replays old messages has a bounded share of the device.
const COLD_READS_MAX: u64 = 8;
/// Bytes of unsent replies on all connections. Above half of it, each connection gets only a small
/// share.
const OUTPUT_BYTES_MAX: usize = 256 << 20;
/// Bytes for requests that exceed an ordinary read buffer, on all connections.
const INPUT_BYTES_MAX: usize = 256 << 20;
/// Bytes of the buffers of requests that wait for room in the log. Above half of it, connections
/// with such requests are not read.
const PARKED_BYTES_MAX: usize = 128 << 20;
/// Bytes of the requests of operations and cold pulls in flight. At the limit they are refused as
/// busy; above half of it, a connection that has a part of it gets no more for large requests.
const KEPT_BYTES_MAX: usize = 128 << 20;

/// Maximum number of operations and cold pulls in flight on all connections of a shard. Further
/// requests are refused as busy.
pub const OPERATIONS_MAX: usize = 16_384;

pub struct Common<S: Service> {
    pub id: ShardId,
    pub service: S,
    cold_reads: Semaphore,
    pulse: Pulse,
    /// Unsent replies.
    pub output_budget: Budget,
    /// The buffers into which connections read.
    pub spares: Rc<Spares>,
    /// Large requests that are not complete yet.
    pub input_budget: Budget,
    /// Requests that wait for room in the log.
    pub parked_budget: Budget,
    /// Requests of operations and cold pulls.
    pub kept_budget: Budget,
    /// Connections that queue for reading while requests are backed up at the log.
    pub readers: Readers,
    /// How long a request may wait for room in the log.
    pub patience: Patience,
    pub is_stopping: Cell<bool>,
    /// At most [`OPERATIONS_MAX`].
    pub operations: Cell<usize>,
    pub metrics: Rc<Metrics>,
}

/// The owner of the connections, as one of them sees it. No method calls back before it returns,
/// except [`set_deadline`](Self::set_deadline).
pub trait Owner {
    /// Registers that the first waiting reply of `connection` is to be sent once the log is
    /// committed up to `mark`.
    fn wait_for_commit(&self, connection: u64, mark: LogOffset);

    /// Has the connection refuse, at `at`, the parked requests that have waited too long. This may
    /// happen immediately, so the caller must hold no borrow.
    fn set_deadline(self: Rc<Self>, at: Moment, connection: u64);

    /// Sends some of the requests that the service has for clients.
    fn send_outgoing(&self);

    /// Closes the connection whose large request has made no progress for longest, if that is too
    /// long, because memory is short. Returns when to call again if it still is.
    fn close_stalled_input(&self) -> Instant;

    fn forget(&self, connection: u64);
}

impl<S: Service> Common<S> {
    pub fn new(id: ShardId, service: S, pulse: Pulse) -> Self {
        Self {
            id,
            metrics: service.metrics(),
            service,
            cold_reads: Semaphore::new(COLD_READS_MAX),
            pulse,
            output_budget: Budget::new(OUTPUT_BYTES_MAX),
            spares: Rc::default(),
            input_budget: Budget::new(INPUT_BYTES_MAX),
            parked_budget: Budget::new(PARKED_BYTES_MAX),
            kept_budget: Budget::new(KEPT_BYTES_MAX),
            readers: Readers::default(),
            patience: Patience::default(),
            is_stopping: Cell::new(false),
            operations: Cell::new(0),
        }
    }

    /// Records a heartbeat: the shard is alive and working.
    pub fn beat(&self) {
        self.pulse.beat();
    }

    /// Copies the counters of the nudging thread.
    pub fn take_nudges(&self) {
        let stats = self.pulse.stats();
        self.metrics.nudges.set(stats.nudges_sent);
        self.metrics.strandings.set(stats.strandings);
    }

    /// Notes that the shard serves, so from now on it may be idle.
    pub fn start_serving(&self) {
        self.pulse.start_serving();
    }

    pub async fn cold_permit(&self) -> Permit<'_> {
        self.cold_reads.acquire_permit(1).await.expect("the semaphore is never closed")
    }
}
