//! What the connections of one shard have in common, and what they ask of whoever has them all.

use std::cell::Cell;
use std::rc::Rc;

use glommio::sync::{Permit, Semaphore};

use super::budget::Budget;
use super::nudge::Pulse;
use super::service::Service;
use crate::model::{Metrics, Moment, ShardId};

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

/// Operations and cold pulls that all connections of one shard have under way. A request that would be
/// one more is refused as busy.
pub const OPERATIONS_MAX: usize = 16_384;

pub struct Common<S: Service> {
    pub id: ShardId,
    pub service: S,
    cold_reads: Semaphore,
    pulse: Pulse,
    /// Replies that are not sent yet.
    pub output_budget: Budget,
    /// Large requests that have not come whole.
    pub input_budget: Budget,
    /// Requests that wait for room in the log.
    pub parked_budget: Budget,
    pub is_stopping: Cell<bool>,
    /// At most [`OPERATIONS_MAX`].
    pub operations: Cell<usize>,
    pub metrics: Rc<Metrics>,
}

/// Who has the table of connections, as one of them sees it. None of this comes back to the caller
/// before it returns, except [`set_deadline`](Self::set_deadline).
pub trait Owner {
    /// Replies of `connection` wait for the log: it is told when that moves.
    fn list_waiting(&self, connection: u64);

    /// At `at` the connection is to refuse the parked requests that have waited too long. That may
    /// come at once, so the caller holds no borrow.
    fn set_deadline(self: Rc<Self>, at: Moment, connection: u64);

    /// Sends some of the requests that the service has for clients.
    fn send_outgoing(&self);

    /// Memory is short: whoever has not gone on with a large request for longest loses its connection.
    fn close_stalled_input(&self);

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
            input_budget: Budget::new(INPUT_BYTES_MAX),
            parked_budget: Budget::new(PARKED_BYTES_MAX),
            is_stopping: Cell::new(false),
            operations: Cell::new(0),
        }
    }

    /// Tells the nudge that this shard is alive and doing something.
    pub fn progress(&self) {
        self.pulse.beat();
    }

    /// Takes over what the nudge has counted on its own thread.
    pub fn take_nudges(&self) {
        let stats = self.pulse.stats();
        self.metrics.nudges.set(stats.nudges_sent);
        self.metrics.strandings.set(stats.strandings);
    }

    /// From here on silence is nothing to worry about.
    pub fn start_serving(&self) {
        self.pulse.start_serving();
    }

    pub async fn cold_permit(&self) -> Permit<'_> {
        self.cold_reads.acquire_permit(1).await.expect("the semaphore is never closed")
    }
}
