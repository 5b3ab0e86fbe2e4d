//! Decides which messages form a batch, when it is sent, and the outcome of each message.
//!
//! ```text
//!   push ─▶ open batch ─▶ ready batches ─▶ in flight ─▶ outcome
//!            (linger)          ▲               │
//!                              └─── retry ─────┘
//! ```
//!
//! Does no I/O and reads no clock. A *lane* is one message queue of one broker.
//!
//! Invariants:
//! - Every pushed message gets exactly one outcome.
//! - At most `in_flight_max` batches per lane are in flight; with 1, pinned messages of a lane are
//!   stored in the order in which they were pushed, including retries.
//! - A message whose outcome was unknown once is never reported as refused.
//! - `agenda` contains a lane exactly if it has a batch that may be sent, at the time when it may.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::client::error::ClientError;
use crate::model::{LogOffset, QueueId, QueueOffset, Timestamp, TopicName};
use crate::wire::codes::response::SERVICE_NOT_AVAILABLE;

/// Maximum number of lanes per producer.
const LANES_MAX: usize = 65_536;
/// Overhead of a message in addition to body and properties, bytes: the record's fixed part, with a
/// margin.
const MESSAGE_OVERHEAD: usize = 128;

#[derive(Clone, Debug)]
pub struct OutboxOptions {
    /// A batch is sent at the latest this long after its first message was added, ms.
    pub linger_ms: u64,
    /// A batch is sent when one more message would exceed this, bytes.
    pub batch_size_max: usize,
    pub batch_count_max: usize,
    /// Batches in flight per queue. More than 1 gives up the order within a queue if one of them is
    /// retried.
    pub in_flight_max: usize,
    /// Delivery timeout of a message, ms.
    pub delivery_timeout_ms: u64,
    /// Number of refusals, of kinds that are rarely temporary, after which a batch is given up.
    pub refusals_max: u32,
    /// First delay before a retry, ms; doubled each time.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self {
            linger_ms: 1,
            batch_size_max: 256 << 10,
            batch_count_max: 4_096,
            in_flight_max: 1,
            delivery_timeout_ms: 30_000,
            refusals_max: 4,
            backoff_ms: 20,
            backoff_max_ms: 1_000,
        }
    }
}

/// One message queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaneKey {
    pub topic: TopicName,
    pub broker: Arc<str>,
    pub queue: QueueId,
}

/// A message in flight.
#[derive(Clone, Debug)]
pub struct Queued {
    pub ticket: Ticket,
    pub body: Bytes,
    pub properties: Bytes,
    pub born_at: Timestamp,
}

impl Queued {
    fn size(&self) -> usize {
        self.body.len() + self.properties.len() + MESSAGE_OVERHEAD
    }
}

/// The number of a message: 0, 1, 2, … in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The outcome of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ticket: Ticket,
    pub delivery: Delivery,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Acknowledged. `code` is 0, or says that a stock broker stored it less durably than
    /// configured. `position` is known for the first message of a batch, if the broker reports it.
    Stored {
        broker: Arc<str>,
        queue: QueueId,
        offset: QueueOffset,
        position: Option<LogOffset>,
        code: i32,
    },
    /// Certainly not stored. `code` is the broker's; `None` if the last attempt reached none.
    Refused { code: Option<i32>, reason: String },
    /// Maybe stored, maybe not.
    Unknown { reason: String },
}

/// Messages sent as one request.
#[derive(Debug)]
pub struct Batch {
    pub messages: Vec<Queued>,
    pub lane: usize,
    size: usize,
    /// Must stay in its lane.
    is_pinned: bool,
    attempts: u32,
    refusals: u32,
    not_before: Timestamp,
    give_up_at: Timestamp,
    /// Code and reason of the last failed attempt.
    last_failure: Option<(Option<i32>, String)>,
    /// Why an earlier attempt may have stored it.
    maybe_stored: Option<String>,
    /// The longest pause before the next attempt, ms.
    pause_max_ms: u64,
}

impl Batch {
    fn new(lane: usize, options: &OutboxOptions, now: Timestamp) -> Self {
        Self {
            messages: Vec::new(),
            lane,
            size: 0,
            is_pinned: false,
            attempts: 0,
            refusals: 0,
            not_before: now.plus_ms(options.linger_ms),
            give_up_at: now.plus_ms(options.delivery_timeout_ms),
            last_failure: None,
            maybe_stored: None,
            pause_max_ms: u64::MAX,
        }
    }

    /// Whether an earlier attempt may have stored it.
    pub fn is_maybe_stored(&self) -> bool {
        self.maybe_stored.is_some()
    }

    /// Limits the pause before the next attempt, which is at another replica, ms.
    pub fn hurry(&mut self, pause_max_ms: u64) {
        self.pause_max_ms = pause_max_ms;
    }

    /// Attempts so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When it may be retried.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }
}

/// How an attempt to store a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Stored {
        first: QueueOffset,
        /// Of the first message.
        position: Option<LogOffset>,
        code: i32,
    },
    /// Not stored.
    Refused { code: Option<i32>, reason: String, retry: Retry },
    /// Unknown; `is_repeated` says whether to retry, at the risk of storing it twice.
    Unknown { reason: String, is_repeated: bool },
}

impl Attempt {
    /// Whether another replica of the broker may store it.
    pub fn is_about_replica(&self) -> bool {
        match self {
            Self::Stored { .. } => false,
            Self::Refused { code, .. } => code.is_none_or(|code| code == SERVICE_NOT_AVAILABLE),
            Self::Unknown { .. } => true,
        }
    }

    /// Whether there was no answer.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Refused { code: None, .. })
    }

    /// Code and reason, unless it succeeded.
    fn failure(&self) -> Option<(Option<i32>, String)> {
        match self {
            Self::Stored { .. } => None,
            Self::Refused { code, reason, .. } => Some((*code, reason.clone())),
            Self::Unknown { reason, .. } => Some((None, reason.clone())),
        }
    }
}

/// Whether a refused batch is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    No,
    /// A few times, elsewhere or with a new route.
    AFewTimes,
    /// Until its deadline: the obstacle is temporary.
    UntilTimeout {
        after_ms: u64,
    },
}

#[derive(Debug)]
struct Lane {
    key: LaneKey,
    open: Option<Batch>,
    ready: VecDeque<Batch>,
    in_flight: usize,
    /// Nothing can be sent to its broker until [`Outbox::release`].
    is_held: bool,
    due: Option<Timestamp>,
}

#[derive(Debug)]
pub struct Outbox {
    options: OutboxOptions,
    lanes: Vec<Lane>,
    lane_of: HashMap<LaneKey, usize>,
    agenda: BTreeSet<(Timestamp, usize)>,
    held: Vec<usize>,
    is_flushing: bool,
    waiting_count: usize,
    waiting_bytes: usize,
    outcomes: VecDeque<Outcome>,
}

impl Outbox {
    pub fn new(options: OutboxOptions) -> Self {
        Self {
            options,
            lanes: Vec::new(),
            lane_of: HashMap::new(),
            agenda: BTreeSet::new(),
            held: Vec::new(),
            is_flushing: false,
            waiting_count: 0,
            waiting_bytes: 0,
            outcomes: VecDeque::new(),
        }
    }

    /// Messages that have no outcome yet.
    pub fn waiting_count(&self) -> usize {
        self.waiting_count
    }

    /// Bytes of messages without an outcome.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn outcome_count(&self) -> usize {
        self.outcomes.len()
    }

    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        self.outcomes.drain(..).collect()
    }

    pub fn lane(&mut self, key: &LaneKey) -> Result<usize, ClientError> {
        if let Some(&lane) = self.lane_of.get(key) {
            return Ok(lane);
        }
        if self.lanes.len() >= LANES_MAX {
            let problem = format!("this producer already sends to {LANES_MAX} queues");
            return Err(ClientError::BadMessage(problem));
        }
        let lane = self.lanes.len();
        self.lanes.push(Lane {
            key: key.clone(),
            open: None,
            ready: VecDeque::new(),
            in_flight: 0,
            is_held: false,
            due: None,
        });
        self.lane_of.insert(key.clone(), lane);
        Ok(lane)
    }

    pub fn key(&self, lane: usize) -> &LaneKey {
        &self.lanes[lane].key
    }

    /// Whether this lane has an open batch, which another message may join.
    pub fn is_collecting(&self, lane: usize) -> bool {
        self.lanes[lane].open.is_some()
    }

    /// Adds a message to a lane. A pinned one stays there even if its broker does not accept it.
    pub fn push(&mut self, lane: usize, message: Queued, is_pinned: bool, now: Timestamp) {
        let size = message.size();
        self.waiting_count += 1;
        self.waiting_bytes += size;
        let OutboxOptions { batch_size_max, batch_count_max, .. } = self.options;
        let home = &mut self.lanes[lane];
        home.ready.extend(home.open.take_if(|open| open.size + size > batch_size_max));
        let open = home.open.get_or_insert_with(|| Batch::new(lane, &self.options, now));
        open.size += size;
        open.is_pinned |= is_pinned;
        open.messages.push(message);
        home.ready.extend(
            home.open.take_if(|open| {
                open.messages.len() >= batch_count_max || open.size >= batch_size_max
            }),
        );
        self.schedule(lane);
    }

    /// Sets whether batches are sent without waiting for more messages.
    pub fn flush(&mut self, is_flushing: bool) {
        self.is_flushing = is_flushing;
        let open: Vec<usize> =
            (0..self.lanes.len()).filter(|&lane| self.lanes[lane].open.is_some()).collect();
        for lane in open {
            self.schedule(lane);
        }
    }

    /// When [`poll_batch`](Self::poll_batch) returns the next batch.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.agenda.first().map(|&(due, _)| due)
    }

    /// The next batch to send. It is in flight until it is passed to [`hold`](Self::hold) or
    /// [`handle_attempt`](Self::handle_attempt).
    pub fn poll_batch(&mut self, now: Timestamp) -> Option<Batch> {
        while let Some(&(due, lane)) = self.agenda.first()
            && due <= now
        {
            let home = &mut self.lanes[lane];
            let batch = home.ready.pop_front().or_else(|| home.open.take());
            let batch = batch.expect("a lane on the agenda has a batch");
            let is_late = batch.give_up_at <= now;
            home.in_flight += usize::from(!is_late);
            self.schedule(lane);
            if !is_late {
                return Some(batch);
            }
            let reason = format!("not sent within {} ms", self.options.delivery_timeout_ms);
            let (code, reason) = match &batch.last_failure {
                Some((code, last)) => (*code, format!("{reason}: {last}")),
                None => (None, reason),
            };
            self.complete(batch, Attempt::Refused { code, reason, retry: Retry::No });
        }
        None
    }

    /// Takes back a batch that cannot be sent yet; its lane waits until [`release`](Self::release).
    pub fn hold(&mut self, batch: Batch) {
        let lane = batch.lane;
        let home = &mut self.lanes[lane];
        home.in_flight -= 1;
        home.ready.push_front(batch);
        if !home.is_held {
            home.is_held = true;
            self.held.push(lane);
        }
        self.schedule(lane);
    }

    /// Lets held lanes send again, because the obstacle may be gone.
    pub fn release(&mut self) {
        for lane in std::mem::take(&mut self.held) {
            self.lanes[lane].is_held = false;
            self.schedule(lane);
        }
    }

    /// Handles the result of an attempt. Returns the batch if it is to be retried and may go to
    /// another lane; pass it to [`requeue`](Self::requeue).
    pub fn handle_attempt(
        &mut self,
        mut batch: Batch,
        attempt: Attempt,
        now: Timestamp,
    ) -> Option<Batch> {
        let lane = batch.lane;
        self.lanes[lane].in_flight -= 1;
        self.schedule(lane);
        batch.attempts += 1;
        let wait_ms = self.wait_before_next(&mut batch, &attempt);
        let pause_ms = self.backoff_ms(batch.attempts).min(batch.pause_max_ms);
        let again_at = wait_ms.map(|ms| now.plus_ms(ms.max(pause_ms)));
        match again_at {
            Some(at) if at < batch.give_up_at => {
                batch.not_before = at;
                batch.last_failure = attempt.failure();
                if !batch.is_pinned {
                    return Some(batch);
                }
                self.requeue(batch, lane, at);
            }
            _ => self.complete(batch, attempt),
        }
        None
    }

    /// Puts a batch at the front of a lane, to be sent at `not_before` at the earliest.
    pub fn requeue(&mut self, mut batch: Batch, lane: usize, not_before: Timestamp) {
        batch.lane = lane;
        batch.not_before = not_before;
        self.lanes[lane].ready.push_front(batch);
        self.schedule(lane);
    }

    /// How long to wait before the next attempt after this result; `None`: no retry.
    fn wait_before_next(&self, batch: &mut Batch, attempt: &Attempt) -> Option<u64> {
        match attempt {
            Attempt::Stored { .. } | Attempt::Refused { retry: Retry::No, .. } => None,
            Attempt::Refused { retry: Retry::UntilTimeout { after_ms }, .. } => Some(*after_ms),
            Attempt::Refused { retry: Retry::AFewTimes, .. } => {
                batch.refusals += 1;
                (batch.refusals < self.options.refusals_max).then_some(0)
            }
            Attempt::Unknown { reason, is_repeated } => {
                batch.maybe_stored.get_or_insert_with(|| reason.clone());
                is_repeated.then_some(0)
            }
        }
    }

    fn backoff_ms(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(16);
        (self.options.backoff_ms << doublings).min(self.options.backoff_max_ms)
    }

    fn complete(&mut self, batch: Batch, attempt: Attempt) {
        let LaneKey { broker, queue, .. } = self.lanes[batch.lane].key.clone();
        let first_reason = batch.maybe_stored;
        for (index, message) in batch.messages.into_iter().enumerate() {
            self.waiting_count -= 1;
            self.waiting_bytes -= message.size();
            let delivery = match (&attempt, &first_reason) {
                (&Attempt::Stored { first, position, code }, _) => {
                    let offset = first.plus(index as u64);
                    let position = position.filter(|_| index == 0);
                    Delivery::Stored { broker: broker.clone(), queue, offset, position, code }
                }
                (_, Some(reason)) | (Attempt::Unknown { reason, .. }, None) => {
                    Delivery::Unknown { reason: reason.clone() }
                }
                (Attempt::Refused { code, reason, .. }, None) => {
                    Delivery::Refused { code: *code, reason: reason.clone() }
                }
            };
            self.outcomes.push_back(Outcome { ticket: message.ticket, delivery });
        }
    }

    /// Updates the agenda for one lane.
    fn schedule(&mut self, lane: usize) {
        let home = &self.lanes[lane];
        let may_send = home.in_flight < self.options.in_flight_max && !home.is_held;
        let due = match (home.ready.front(), &home.open) {
            _ if !may_send => None,
            (Some(ready), _) if ready.attempts > 0 => Some(ready.not_before),
            (Some(_), _) => Some(Timestamp(0)),
            (None, Some(_)) if self.is_flushing => Some(Timestamp(0)),
            (None, Some(open)) => Some(open.not_before),
            (None, None) => None,
        };
        if due != home.due {
            if let Some(before) = home.due {
                self.agenda.remove(&(before, lane));
            }
            if let Some(due) = due {
                self.agenda.insert((due, lane));
            }
            self.lanes[lane].due = due;
        }
    }
}

#[cfg(test)]
mod tests;
