//! Sends messages: chooses queues, batches, retries, and reports the outcome of every message.
//!
//! Driven by one thread: [`Producer::send`] and [`Producer::poll`] move bytes; nothing happens
//! between calls. Brokers that support the fixed header get batches of finished records, all others
//! RocketMQ's own requests. [`outbox`] decides what is sent when, [`message`] encodes it; this file
//! adds routes and sockets.
//!
//! Invariant: after [`Producer::close`], every accepted message has its outcome.

pub mod message;
pub mod outbox;

use std::collections::HashMap;
use std::sync::Arc;

pub use message::{Message, Target};
pub use outbox::{Delivery, OutboxOptions, Outcome, Ticket};

use crate::client::blocking::Call;
use crate::client::error::ClientError;
use crate::client::remote::{ClientOptions, Dialect, NEXT_REPLICA_MS, Remote, random};
use crate::client::session::{CallError, CallResult};
use crate::model::nameserver::{Route, RouteQueues};
use crate::model::topic::{AUTO_CREATE_TEMPLATE, PERM_INHERIT, PERM_WRITE};
use crate::model::{GroupName, QueueId, Refusal, Timestamp, TopicName};
use crate::wire::codes::response;
use crate::wire::{HeaderEncoding, ReplyError, Stored};
use message::{AUTO_CREATE_QUEUE_COUNT, Envelope, encode_batch};
use outbox::{Attempt, Batch, LaneKey, Outbox, Queued, Retry};

/// Maximum number of uncollected outcomes; at the limit, further messages are refused.
pub const OUTCOMES_MAX: usize = 1 << 20;
/// A broker that did not accept a batch is avoided for this long, ms, while there are others.
const AVOID_MS: u64 = 1_000;
/// Maximum length of one wait, ms. Every wait ends with an event or a deadline; this only limits
/// the damage if the machine's clock stops.
const STEP_MS: u64 = 1_000;

#[derive(Clone, Debug)]
pub struct ProducerOptions {
    pub client: ClientOptions,
    pub group: GroupName,
    pub outbox: OutboxOptions,
    /// Maximum bytes of messages without an outcome; beyond it [`Producer::send`] waits.
    pub buffer_bytes_max: usize,
    /// Whether to retry messages that may have been stored. Then none are lost, and some may be
    /// stored twice. Otherwise their outcome is [`Delivery::Unknown`]. A RingMQ broker with replicas
    /// recognizes what it has stored (`--dedup-window`), so there they are retried, and stored once.
    pub repeat_unknown: bool,
    /// Whether to send to a topic that does not exist, so that its brokers create it.
    pub auto_create: bool,
}

impl ProducerOptions {
    pub fn new(client: ClientOptions, group: GroupName) -> Self {
        let (outbox, buffer_bytes_max) = (OutboxOptions::default(), 64 << 20);
        Self { client, group, outbox, buffer_bytes_max, repeat_unknown: false, auto_create: true }
    }
}

/// If it is dropped without [`close`](Self::close), the outcome of pending messages stays unknown.
pub struct Producer {
    remote: Remote,
    group: GroupName,
    buffer_bytes_max: usize,
    repeat_unknown: bool,
    auto_create: bool,
    outbox: Outbox,
    /// Batches in flight, and the address to which each was sent.
    in_flight: HashMap<Call, (Batch, String)>,
    topics: HashMap<TopicName, Spread>,
    /// Brokers to avoid, and until when.
    avoided: HashMap<Arc<str>, Timestamp>,
    next_ticket: u64,
    /// Tells producers apart.
    number: u64,
    next_shift: usize,
}

/// How the messages of one topic that may go to any queue are distributed.
#[derive(Debug, Default)]
struct Spread {
    /// The lane whose batch is being collected.
    lane: Option<usize>,
    turn: usize,
    /// The route was copied from the template: the topic does not exist yet.
    template: Option<Arc<Route>>,
}

impl Producer {
    pub fn new(options: ProducerOptions) -> Result<Self, ClientError> {
        Ok(Self {
            remote: Remote::new(options.client)?,
            group: options.group,
            buffer_bytes_max: options.buffer_bytes_max,
            repeat_unknown: options.repeat_unknown,
            auto_create: options.auto_create,
            outbox: Outbox::new(options.outbox),
            in_flight: HashMap::new(),
            topics: HashMap::new(),
            avoided: HashMap::new(),
            next_ticket: 0,
            number: random(),
            next_shift: 0,
        })
    }

    /// Accepts a message for sending. Waits while too many bytes are in flight, but does not wait
    /// for this message. On an error the message was not accepted.
    pub fn send(&mut self, message: Message) -> Result<Ticket, ClientError> {
        let properties = message.checked_properties()?;
        while self.outbox.waiting_bytes() > self.buffer_bytes_max {
            self.turn(self.remote.now().plus_ms(STEP_MS));
        }
        let count = self.outbox.outcome_count();
        if count >= OUTCOMES_MAX {
            return Err(ClientError::OutcomesWaiting { count });
        }
        let lane = self.choose_lane(&message)?;
        let (now, ticket) = (self.remote.now(), Ticket(self.next_ticket));
        self.next_ticket += 1;
        let queued = Queued { ticket, body: message.body, properties, born_at: now };
        self.outbox.push(lane, queued, message.target != Target::Any, now);
        if self.outbox.poll_timeout().is_some_and(|due| due <= now) {
            self.turn(now);
        }
        Ok(ticket)
    }

    /// Drives sending until there is an outcome or `wait_ms` have passed; returns all outcomes.
    pub fn poll(&mut self, wait_ms: u64) -> Vec<Outcome> {
        let until = self.remote.now().plus_ms(wait_ms);
        self.turn(self.remote.now());
        while self.outbox.outcome_count() == 0
            && self.outbox.waiting_count() > 0
            && self.remote.now() < until
        {
            self.turn(until);
        }
        self.outbox.take_outcomes()
    }

    /// Sends accepted messages without waiting to fill batches, until every message has its
    /// outcome.
    pub fn flush(&mut self) -> Vec<Outcome> {
        self.outbox.flush(true);
        while self.outbox.waiting_count() > 0 {
            self.turn(self.remote.now().plus_ms(STEP_MS));
        }
        self.outbox.flush(false);
        self.outbox.take_outcomes()
    }

    /// Does a [`flush`](Self::flush), then unregisters.
    pub fn close(mut self) -> Vec<Outcome> {
        let outcomes = self.flush();
        self.remote.sign_off(&self.group);
        outcomes
    }

    /// Number of messages without an outcome.
    pub fn waiting_count(&self) -> usize {
        self.outbox.waiting_count()
    }

    /// The address at which `broker` accepts messages of `topic`, if the route is known.
    pub fn address_of(&self, topic: &TopicName, broker: &str) -> Option<String> {
        let route = self.remote.known_route(topic.as_str())?;
        self.remote.leader(&route, broker).map(str::to_owned)
    }

    fn turn(&mut self, until: Timestamp) {
        self.dispatch();
        let until = self.outbox.poll_timeout().map_or(until, |due| due.min(until));
        self.remote.turn(until);
        loop {
            let (finished, was_background) = self.remote.poll_finished();
            if was_background {
                self.outbox.release();
            }
            let Some((call, result)) = finished else { break };
            if let Some((batch, address)) = self.in_flight.remove(&call) {
                let attempt = self.judge(&batch, &address, result);
                self.handle_attempt(batch, Some(&address), attempt);
                // A full connection may have room again.
                self.outbox.release();
            }
        }
        self.dispatch();
    }

    fn dispatch(&mut self) {
        while let Some(batch) = self.outbox.poll_batch(self.remote.now()) {
            self.start(batch);
        }
    }

    fn start(&mut self, batch: Batch) {
        let key = self.outbox.key(batch.lane).clone();
        let Some(address) = self.address_of(&key.topic, &key.broker) else {
            let reason = format!("{} is not in the route of {}", key.broker, key.topic);
            return self.handle_attempt(batch, None, not_reached(reason));
        };
        let encoding = match self.remote.dialect(&address, Some(&self.group)) {
            Dialect::Known(_) if self.is_assumed(&key.topic) => HeaderEncoding::Json,
            Dialect::Known(encoding) => encoding,
            Dialect::Asking => return self.outbox.hold(batch),
            Dialect::Unreachable(why) => {
                let attempt = not_reached(self.with_place(&batch, &address, why));
                return self.handle_attempt(batch, Some(&address), attempt);
            }
        };
        if !self.remote.has_room(&address) {
            return self.outbox.hold(batch);
        }
        let (messages, now) = (&batch.messages, self.remote.now());
        let (group, producer) = (&self.group, self.number);
        let envelope = Envelope { group, producer, topic: &key.topic, queue: key.queue };
        let request = encode_batch(encoding, &envelope, messages, now);
        match self.remote.start_soon(&address, encoding, &request) {
            Ok(call) => drop(self.in_flight.insert(call, (batch, address))),
            Err(error) => {
                self.handle_attempt(batch, Some(&address), not_reached(error.to_string()));
            }
        }
    }

    /// What a reply, or its absence, means for a batch.
    fn judge(&self, batch: &Batch, address: &str, result: CallResult) -> Attempt {
        let is_repeated = self.repeat_unknown || self.remote.recognizes(address);
        match result.map(|response| response.produced()) {
            Ok(Ok(stored)) => {
                let Stored { queue_offset: first, position, code, .. } = stored;
                Attempt::Stored { first, position, code }
            }
            Ok(Err(error)) => judge_refusal(error, is_repeated),
            Err(CallError::NotSent(why)) => not_reached(self.with_place(batch, address, why)),
            Err(CallError::Unanswered(why)) => {
                let reason = self.with_place(batch, address, why);
                Attempt::Unknown { reason, is_repeated }
            }
        }
    }

    /// What failed, and at which server.
    fn with_place(&self, batch: &Batch, address: &str, why: String) -> String {
        format!("{} at {address}: {why}", self.outbox.key(batch.lane).broker)
    }

    fn handle_attempt(&mut self, mut batch: Batch, address: Option<&str>, attempt: Attempt) {
        let now = self.remote.now();
        let lane = batch.lane;
        let mut has_replicas = false;
        let is_final =
            matches!(attempt, Attempt::Stored { .. } | Attempt::Refused { retry: Retry::No, .. });
        if !is_final {
            let LaneKey { topic, broker, .. } = self.outbox.key(lane).clone();
            if attempt.is_about_replica()
                && let Some(address) = address
                && self.remote.leave_replica(topic.as_str(), &broker, address, attempt.is_silence())
            {
                has_replicas = true;
                batch.hurry(NEXT_REPLICA_MS);
            }
            self.avoided.insert(broker, now.plus_ms(AVOID_MS));
            // The queue may have moved.
            self.remote.doubt_route(topic.as_str());
            self.remote.refresh_route(topic.as_str());
        }
        let Some(batch) = self.outbox.handle_attempt(batch, attempt, now) else { return };
        if has_replicas && batch.is_maybe_stored() {
            // Only this shard recognizes what it has stored.
            let not_before = batch.not_before();
            return self.outbox.requeue(batch, lane, not_before);
        }
        let topic = self.outbox.key(lane).topic.clone();
        let other = self.next_lane(&topic).unwrap_or(lane);
        let is_elsewhere = self.outbox.key(other).broker != self.outbox.key(lane).broker;
        // After the first failure, another queue may accept it immediately. If that fails too,
        // there is no point in hurrying.
        let not_before =
            if is_elsewhere && batch.attempts() == 1 { now } else { batch.not_before() };
        self.outbox.requeue(batch, other, not_before);
    }

    fn choose_lane(&mut self, message: &Message) -> Result<usize, ClientError> {
        let topic = &message.topic;
        let route = self.writable_route(topic)?;
        match &message.target {
            Target::Any => self.any_lane(topic),
            Target::Key(key) => {
                let count: u64 = writable(&route).map(|of| u64::from(of.write_queue_count)).sum();
                let index = u64::from(crc32c::crc32c(key)) % count;
                let (broker, queue) = nth_queue(&route, index).expect("it is below the count");
                self.lane_to(topic, broker, queue)
            }
            Target::Queue { broker, queue } => {
                let known = writable(&route).find(|of| of.broker_name == *broker);
                match known {
                    Some(known) if queue.0 < known.write_queue_count => {
                        self.lane_to(topic, broker, *queue)
                    }
                    Some(known) => Err(ClientError::BadMessage(format!(
                        "{topic} has {} queues on {broker}, not queue {}",
                        known.write_queue_count, queue.0
                    ))),
                    None => Err(ClientError::UnknownBroker {
                        topic: topic.to_string(),
                        broker: broker.clone(),
                    }),
                }
            }
        }
    }

    fn lane_to(
        &mut self,
        topic: &TopicName,
        broker: &str,
        queue: QueueId,
    ) -> Result<usize, ClientError> {
        self.outbox.lane(&LaneKey { topic: topic.clone(), broker: broker.into(), queue })
    }

    /// The lane for a message that may go to any queue: one batch is filled before the next is
    /// started.
    fn any_lane(&mut self, topic: &TopicName) -> Result<usize, ClientError> {
        let current = self.topics.get(topic).and_then(|spread| spread.lane);
        match current {
            Some(lane) if self.outbox.is_collecting(lane) => Ok(lane),
            _ => self.next_lane(topic),
        }
    }

    /// The next queue in turn, preferring brokers that accept messages.
    fn next_lane(&mut self, topic: &TopicName) -> Result<usize, ClientError> {
        let route = self.writable_route(topic)?;
        let now = self.remote.now();
        self.avoided.retain(|_, until| *until > now);
        let queues: Vec<(&str, QueueId)> = writable(&route).flat_map(queues_of).collect();
        let spread = self.topics.get_mut(topic).expect("the route was just looked up");
        let mut chosen = queues[spread.turn % queues.len()];
        for step in 0..queues.len() {
            let candidate = queues[(spread.turn + step) % queues.len()];
            if !self.avoided.contains_key(candidate.0) {
                chosen = candidate;
                spread.turn += step;
                break;
            }
        }
        spread.turn += 1;
        let lane = self.lane_to(topic, chosen.0, chosen.1)?;
        self.topics.entry(topic.clone()).or_default().lane = Some(lane);
        Ok(lane)
    }

    /// A route with at least one queue to write to.
    fn writable_route(&mut self, topic: &TopicName) -> Result<Arc<Route>, ClientError> {
        let route = match self.remote.route(topic.as_str()) {
            Err(ClientError::UnknownTopic(_)) if self.auto_create => self.assume_route(topic)?,
            other => other?,
        };
        if writable(&route).next().is_none() {
            // If the topic has just changed, its current route may differ.
            self.remote.doubt_route(topic.as_str());
            let topic = topic.to_string();
            return Err(ClientError::NoQueue { topic, used: "written" });
        }
        if !self.topics.contains_key(topic) {
            // Producers that start together must not all start with the same queue.
            self.next_shift += 1;
            let turn = std::process::id() as usize + self.next_shift;
            self.topics.insert(topic.clone(), Spread { turn, ..Spread::default() });
        }
        Ok(route)
    }

    /// The route that a topic will have once its brokers have created it on the first message
    /// (remoting reference, 2.6).
    fn assume_route(&mut self, topic: &TopicName) -> Result<Arc<Route>, ClientError> {
        let template =
            self.remote.fetch_route(AUTO_CREATE_TEMPLATE).map_err(|error| match error {
                ClientError::UnknownTopic(_) => ClientError::UnknownTopic(topic.to_string()),
                other => other,
            })?;
        let mut route = Route::clone(&template);
        route.queues.retain(|queues| queues.perm & PERM_INHERIT != 0);
        for queues in &mut route.queues {
            queues.write_queue_count = queues.write_queue_count.min(AUTO_CREATE_QUEUE_COUNT);
        }
        let route = self.remote.assume_route(topic.as_str(), route);
        self.topics.entry(topic.clone()).or_default().template = Some(route.clone());
        Ok(route)
    }

    /// Whether the route in use is still the template's.
    fn is_assumed(&self, topic: &TopicName) -> bool {
        let template = self.topics.get(topic).and_then(|spread| spread.template.as_ref());
        let known = self.remote.known_route(topic.as_str());
        template.zip(known).is_some_and(|(template, known)| Arc::ptr_eq(template, &known))
    }
}

fn not_reached(reason: String) -> Attempt {
    Attempt::Refused { code: None, reason, retry: Retry::UntilTimeout { after_ms: 0 } }
}

/// What a broker's refusal means for a batch. The codes worth a retry are those of stock clients
/// (remoting reference, 5.1); a remark of ours is more precise.
fn judge_refusal(error: ReplyError, repeat_unknown: bool) -> Attempt {
    let ReplyError { code, remark } = error;
    let number = remark.strip_prefix("RINGMQ-").and_then(|rest| rest.split(' ').next());
    let number: Option<u16> = number.and_then(|number| number.parse().ok());
    if number == Some(Refusal::OutcomeUnknown.number()) {
        return Attempt::Unknown { reason: remark, is_repeated: repeat_unknown };
    }
    let is_malformed = number == Some(Refusal::Malformed(String::new()).number());
    let retry = match code {
        response::SYSTEM_BUSY | response::SERVICE_NOT_AVAILABLE | GO_AWAY => {
            Retry::UntilTimeout { after_ms: retry_hint_ms(&remark) }
        }
        response::SYSTEM_ERROR
        | response::NO_PERMISSION
        | response::TOPIC_NOT_EXIST
        | NO_BUYER_ID
        | NOT_IN_CURRENT_UNIT
            if !is_malformed =>
        {
            Retry::AFewTimes
        }
        _ => Retry::No,
    };
    Attempt::Refused { code: Some(code), reason: remark, retry }
}

const NO_BUYER_ID: i32 = 204;
const NOT_IN_CURRENT_UNIT: i32 = 205;
const GO_AWAY: i32 = 1_500;
/// Maximum delay accepted from a remark, ms.
const RETRY_HINT_MAX_MS: u64 = 5_000;

/// The value of `retry_after_ms=` in a remark; 0 if there is none.
fn retry_hint_ms(remark: &str) -> u64 {
    let hint = remark.split_whitespace().find_map(|word| word.strip_prefix("retry_after_ms="));
    hint.and_then(|ms| ms.parse().ok()).unwrap_or(0).min(RETRY_HINT_MAX_MS)
}

/// The queues of writable brokers. One without a leader will have one soon, if it has replicas.
fn writable(route: &Route) -> impl Iterator<Item = &RouteQueues> {
    route.queues.iter().filter(|queues| {
        queues.perm & PERM_WRITE != 0
            && queues.write_queue_count > 0
            && route
                .brokers
                .iter()
                .any(|one| one.name == queues.broker_name && !one.addresses.is_empty())
    })
}

fn queues_of(queues: &RouteQueues) -> impl Iterator<Item = (&str, QueueId)> {
    (0..queues.write_queue_count).map(|queue| (queues.broker_name.as_str(), QueueId(queue)))
}

fn nth_queue(route: &Route, index: u64) -> Option<(&str, QueueId)> {
    writable(route).flat_map(queues_of).nth(index as usize)
}

#[cfg(test)]
mod tests;
