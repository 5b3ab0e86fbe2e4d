//! A producer: its connection, its requests in flight, and its requests not yet sent.
//!
//! Invariants:
//! - A request is in exactly one place: unsent, blocked by its lane, in the window, waiting for a retry,
//!   or counted with its outcome.
//! - A request gets its sequence when it is first sent, so exactly the sequences `0..sent` exist.
//! - Size, queue and lane of a request are drawn, in that order, when it is due, from the producer's own
//!   random numbers. They do not depend on the target.
//! - In an ordered stream a lane has at most one request in flight. The events of an order share a lane
//!   and a queue, and follow each other; this is the order that RocketMQ promises.
//! - A request that is not sent within [`PATIENCE`] is given up, and so are the oldest if more wait than
//!   the producer's share of [`UNSENT_MAX`]. So the memory of requests that wait is bounded whatever the
//!   rate. A refused request is retried after the server's `retry_after_ms`, but not after its deadline,
//!   nor if as many wait for their retry already.
//!
//! Not here: when to send (`schedule`), when to wait (`worker`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::RunClock;
use crate::engine::audit::Outcomes;
use crate::engine::connection::Connection;
use crate::engine::measure::{Kind, Recorder};
use crate::engine::payload::Identity;
use crate::engine::reply::{self, Outcome, Reply};
use crate::engine::template::{NewRequest, Template};
use crate::engine::window::{InFlight, Message, Window};
use crate::plan::keys::QueueChoice;
use crate::plan::schedule::SplitMix64;
use crate::plan::sizes::Sizes;

/// A message that cannot be sent for this long is given up, as stock clients do.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for replies from the old address of a broker that has moved, ns.
const LEAVE_MAX_NS: u64 = 200_000_000;
/// Delay before a refused request without `retry_after_ms` is retried, ns.
const RETRY_AFTER_NS: u64 = 50_000_000;
/// Maximum number of unsent requests in the run: 160 MiB.
pub const UNSENT_MAX: u32 = 1 << 22;
const _: () = assert!(UNSENT_MAX as usize * size_of::<Message>() == 160 << 20);
/// Minimum share of one producer or lane in that.
const UNSENT_MIN: usize = 16;
/// Output is flushed when it reaches this size, bytes.
const OUTPUT_SIZE: usize = 256 << 10;
/// Events of one order: created, confirmed, packed.
const EVENTS_PER_ORDER: u64 = 3;
/// Maximum number of distinct refusal reasons per thread; all further ones count as one.
const REASONS_MAX: usize = 64;
/// Request number of one-way requests.
const ONE_WAY_NUMBER: i32 = 1_000_000_000;
/// Separates the random numbers for contents from those of the schedule.
const CONTENT_SEED: u64 = 0x636F_6E74_656E_7473;

/// Shared by all producers of a stream.
pub struct Job {
    pub run: u64,
    /// Index of the stream, and its track.
    pub stream: u16,
    pub seed: u64,
    pub batch: u32,
    pub in_flight: u32,
    pub is_ordered: bool,
    pub is_one_way: bool,
    pub retries: u32,
    /// Maximum number of unsent requests per producer.
    pub unsent_max: usize,
    pub sizes: Sizes,
    /// Maps the stream's keys to queues.
    pub choice: QueueChoice,
    pub topics: Vec<JobTopic>,
    pub clock: RunClock,
}

/// One topic of a stream, on all brokers.
pub struct JobTopic {
    pub template: Template,
    /// Number of queues on each broker.
    pub queue_count: u32,
}

/// The identity of a producer.
#[derive(Clone, Copy, Debug)]
pub struct Post {
    /// Unique in the run.
    pub number: u32,
    /// Index of its topic in the job, and of its broker.
    pub topic: usize,
    pub broker: usize,
}

/// The outcome of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing more can or must be sent for now.
    AllThatGoes,
    /// The socket buffer is full: continue when the socket is writable.
    SocketFull,
    /// The limit of one turn is reached; there is more to send.
    More,
}

pub struct Producer {
    pub post: Post,
    job: Arc<Job>,
    connection: Option<Connection>,
    /// Since when it sends nothing over this connection, because its broker has moved.
    leaves_since_ns: Option<u64>,
    window: Window,
    /// Requests that wait for the window, the socket or a connection.
    unsent: VecDeque<Message>,
    /// Refused requests, by the time of their retry and by sequence.
    again: BTreeMap<(u64, u64), Message>,
    /// The earliest time for which a call of [`retry`](Self::retry) is scheduled.
    alarm_ns: Option<u64>,
    /// As many as requests may be in flight; empty in an unordered stream.
    lanes: Vec<Lane>,
    /// Since when a due request could have been sent immediately.
    open_since_ns: u64,
    /// Number of requests drawn so far, and the queue of the current order.
    drawn: u64,
    order_queue: u32,
    random: SplitMix64,
    outcomes: Outcomes,
}

#[derive(Debug, Default)]
struct Lane {
    is_taken: bool,
    /// When its last request ended; the next could be sent from then on.
    free_since_ns: u64,
    held_back: VecDeque<Message>,
}

/// Why requests of a stream failed: stream, code, reason.
pub type Refusal = (u16, i32, String);

/// What the producers of a thread have measured so far.
pub struct ProducerStats {
    pub recorder: Recorder,
    /// Number of requests per reason.
    pub refusals: BTreeMap<Refusal, u64>,
    pub last_answer_ns: u64,
    /// When the current turn of the thread began, which takes what is due.
    pub turn_ns: u64,
}

impl ProducerStats {
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, refusals: BTreeMap::new(), last_answer_ns: 0, turn_ns: 0 }
    }

    fn note(&mut self, stream: u16, code: i32, reason: String) {
        let mut refusal = (stream, code, reason);
        if self.refusals.len() >= REASONS_MAX && !self.refusals.contains_key(&refusal) {
            refusal.2 = "other".to_owned();
        }
        *self.refusals.entry(refusal).or_default() += 1;
    }

    /// Records a request that was never sent.
    fn count_not_sent(&mut self, job: &Job, due_ns: u64, now_ns: u64) {
        let (track, count) = (job.track(), job.count());
        self.recorder.count(track, due_ns, |counters| counters.not_sent += count);
        self.give_up(job, due_ns, now_ns);
    }

    /// Records how late the generator sent a completed request, and how late it read the reply.
    fn record_lateness(&mut self, job: &Job, message: &Message, read_late_ns: u64) {
        let late_ns = u64::from(message.late_us) * 1_000 + read_late_ns;
        self.recorder.record(job.track(), message.due_ns, Kind::Lateness, late_ns, job.count());
    }

    /// Records the wait of a message that was not acknowledged. Otherwise the figures would lack the worst
    /// waits (coordinated omission).
    fn give_up(&mut self, job: &Job, due_ns: u64, now_ns: u64) {
        let waited_ns = now_ns.saturating_sub(due_ns);
        self.recorder.record(job.track(), due_ns, Kind::GivenUp, waited_ns, job.count());
    }
}

impl Job {
    pub fn track(&self) -> usize {
        usize::from(self.stream)
    }

    /// Messages per request.
    fn count(&self) -> u64 {
        u64::from(self.batch)
    }
}

impl Producer {
    pub fn new(post: Post, job: Arc<Job>) -> Self {
        let lanes = if job.is_ordered { job.in_flight } else { 0 };
        Self {
            post,
            connection: None,
            leaves_since_ns: None,
            window: Window::new(job.in_flight),
            unsent: VecDeque::new(),
            again: BTreeMap::new(),
            alarm_ns: None,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            open_since_ns: 0,
            drawn: 0,
            order_queue: 0,
            random: SplitMix64::of(job.seed ^ CONTENT_SEED, post.number),
            outcomes: Outcomes::of(job.stream, post.number),
            job,
        }
    }

    pub fn connect(&mut self, connection: Connection, now_ns: u64) -> &Connection {
        self.open_since_ns = now_ns;
        self.leaves_since_ns = None;
        self.connection.insert(connection)
    }

    /// Keeps using the connection: its broker is at the other end.
    pub fn stay(&mut self) {
        self.leaves_since_ns = None;
    }

    /// Stops sending over the connection, because its broker has moved; requests in flight may
    /// still be answered. Returns whether none is left, or `LEAVE_MAX_NS` has passed.
    pub fn leave(&mut self, now_ns: u64) -> bool {
        let since_ns = *self.leaves_since_ns.get_or_insert(now_ns);
        self.window.is_empty() || now_ns - since_ns >= LEAVE_MAX_NS
    }

    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// Queues a request that is due.
    pub fn take_due(&mut self, due_ns: u64, stats: &mut ProducerStats) {
        let (track, count) = (self.job.track(), self.job.count());
        stats.recorder.count(track, due_ns, |counters| counters.due += count);
        let mut message = self.draw(due_ns);
        // A thread that falls behind its schedule is late, whether or not the window is full.
        message.late_us = micros(stats.turn_ns.saturating_sub(due_ns));
        self.shed(message.lane, due_ns, stats);
        self.queue_up(message);
    }

    /// Gives up the oldest unsent requests if there is no room for another one of `lane`.
    fn shed(&mut self, lane: u16, now_ns: u64, stats: &mut ProducerStats) {
        while self.unsent.len() >= self.unsent_max() {
            let Some(oldest) = self.unsent.pop_front() else { return };
            self.give_up(oldest, now_ns, stats);
        }
        let of_lane = self.held_back_max();
        let Some(lane) = self.lanes.get_mut(usize::from(lane)) else { return };
        while lane.held_back.len() >= of_lane {
            let Some(oldest) = lane.held_back.pop_front() else { return };
            stats.count_not_sent(&self.job, oldest.due_ns, now_ns);
        }
    }

    fn unsent_max(&self) -> usize {
        self.job.unsent_max.max(UNSENT_MIN)
    }

    fn held_back_max(&self) -> usize {
        (self.job.unsent_max / self.lanes.len().max(1)).max(UNSENT_MIN)
    }

    /// Gives up a request that waited too long.
    fn give_up(&mut self, message: Message, now_ns: u64, stats: &mut ProducerStats) {
        let (track, count) = (self.job.track(), self.job.count());
        match message.first {
            // It was sent and refused, and never retried.
            Some(first) => {
                self.outcomes.refuse(first..first + count);
                stats.recorder.count(track, message.due_ns, |it| it.refused += count);
                stats.record_lateness(&self.job, &message, 0);
            }
            None => stats.count_not_sent(&self.job, message.due_ns, now_ns),
        }
        self.release(message.lane, now_ns);
    }

    /// Whether there is a request to send, given room in window and socket.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether it has no requests unsent or in flight.
    pub fn is_idle(&self) -> bool {
        let is_nothing_unsent = self.unsent.is_empty() && self.again.is_empty();
        is_nothing_unsent
            && self.window.is_empty()
            && self.lanes.iter().all(|lane| lane.held_back.is_empty())
    }

    /// Draws the contents of the next request.
    fn draw(&mut self, due_ns: u64) -> Message {
        let topic = &self.job.topics[self.post.topic];
        let queue_count = u64::from(topic.queue_count.max(1));
        let events = if self.job.is_ordered { EVENTS_PER_ORDER } else { 1 };
        let (order, event) = (self.drawn / events, self.drawn % events);
        if event == 0 {
            let drawn = self.job.choice.draw(self.post.broker, due_ns, &mut self.random);
            self.order_queue = drawn.unwrap_or((order % queue_count) as u32);
        }
        self.drawn += 1;
        let lane = order.checked_rem(self.lanes.len() as u64).unwrap_or(0);
        Message {
            due_ns,
            queue: self.order_queue,
            size: self.job.sizes.draw(&mut self.random) as u16,
            lane: lane as u16,
            refusals: 0,
            late_us: 0,
            first: None,
        }
    }

    /// Queues a new request.
    fn queue_up(&mut self, message: Message) {
        let (unsent_max, of_lane) = (self.unsent_max(), self.held_back_max());
        match self.lanes.get_mut(usize::from(message.lane)) {
            Some(lane) if lane.is_taken => push(&mut lane.held_back, message, of_lane),
            Some(lane) => {
                lane.is_taken = true;
                push(&mut self.unsent, message, unsent_max);
            }
            None => push(&mut self.unsent, message, unsent_max),
        }
    }

    /// A request of this lane has ended: the next one is ready.
    fn release(&mut self, lane: u16, now_ns: u64) {
        let unsent_max = self.unsent_max();
        if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
            lane.free_since_ns = now_ns;
            match lane.held_back.pop_front() {
                Some(next) => push(&mut self.unsent, next, unsent_max),
                None => lane.is_taken = false,
            }
        }
    }

    /// The next request to send. With `is_endless`, one is due whenever a lane is free.
    fn next_message(
        &mut self,
        is_endless: bool,
        now_ns: u64,
        stats: &mut ProducerStats,
    ) -> Option<Message> {
        if self.unsent.is_empty() && is_endless {
            let is_held_back = self.lanes.iter().any(|lane| !lane.held_back.is_empty());
            if !is_held_back {
                self.take_due(now_ns, stats);
            }
        }
        self.unsent.pop_front()
    }

    /// Sends due requests, as far as window and socket allow.
    pub fn send(&mut self, is_endless: bool, stats: &mut ProducerStats) -> io::Result<Sent> {
        let Some(connection) = &self.connection else { return Ok(Sent::AllThatGoes) };
        if self.leaves_since_ns.is_some() {
            return Ok(Sent::AllThatGoes);
        }
        if connection.unsent_size() > 0 {
            return Ok(Sent::SocketFull);
        }
        let now_ns = self.job.clock.now_ns();
        let mut is_more = false;
        while self.window.has_room() {
            if self.connection.as_ref().is_some_and(|it| it.unsent_size() >= OUTPUT_SIZE) {
                is_more = true;
                break;
            }
            let Some(message) = self.next_message(is_endless, now_ns, stats) else { break };
            self.append(message, now_ns, stats);
        }
        let Some(connection) = &mut self.connection else { return Ok(Sent::AllThatGoes) };
        Ok(match (connection.flush()?, is_more) {
            (false, _) => Sent::SocketFull,
            (true, true) => Sent::More,
            (true, false) => Sent::AllThatGoes,
        })
    }

    /// Appends a request to the connection's output, and to the window unless it is one-way.
    fn append(&mut self, mut message: Message, now_ns: u64, stats: &mut ProducerStats) {
        let Some(connection) = &mut self.connection else { return };
        let job = &self.job;
        let (track, count) = (job.track(), job.count());
        let first = message.first.unwrap_or(self.outcomes.sent);
        let is_new = message.first.is_none();
        if is_new {
            // The target, not the generator, caused the wait for the lane.
            let lane = self.lanes.get(usize::from(message.lane));
            let turn_ns = lane.map_or(0, |lane| lane.free_since_ns);
            let could_ns = message.due_ns.max(self.open_since_ns).max(turn_ns);
            message.late_us = message.late_us.max(micros(now_ns.saturating_sub(could_ns)));
        }
        let number = match job.is_one_way {
            true => ONE_WAY_NUMBER,
            false => self.window.open(InFlight { message, sent_ns: now_ns, first }),
        };
        let identity = Identity {
            run: job.run,
            stream: job.stream,
            lane: message.lane,
            producer: self.post.number,
            sequence: first,
            due_ns: message.due_ns,
        };
        let request = NewRequest {
            number,
            queue: message.queue,
            size: usize::from(message.size),
            born_ms: job.clock.unix_ms(now_ns),
            first: identity,
        };
        job.topics[self.post.topic].template.append(connection.output(), &request);
        if is_new {
            self.outcomes.sent += count;
            let is_one_way = job.is_one_way;
            stats.recorder.count(track, message.due_ns, |counters| {
                counters.sent += count;
                counters.one_way += if is_one_way { count } else { 0 };
            });
        }
        if job.is_one_way {
            stats.record_lateness(job, &message, 0);
            self.release(message.lane, now_ns);
        }
    }

    /// The socket is writable again. Returns whether the output is empty.
    pub fn flush(&mut self, now_ns: u64) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let is_out = connection.flush()?;
        if is_out {
            self.open_since_ns = now_ns;
        }
        Ok(is_out)
    }

    /// Reads and counts replies. Returns the number of acknowledgements.
    pub fn take_answers(&mut self, stats: &mut ProducerStats) -> io::Result<u64> {
        let Some(mut connection) = self.connection.take() else { return Ok(0) };
        let taken = self.take_from(&mut connection, stats);
        self.connection = Some(connection);
        taken
    }

    fn take_from(
        &mut self,
        connection: &mut Connection,
        stats: &mut ProducerStats,
    ) -> io::Result<u64> {
        let Some(waited_ns) = connection.receive()? else { return Ok(0) };
        let read_ns = self.job.clock.now_ns();
        // These replies count from their arrival in the socket.
        let now_ns = read_ns.saturating_sub(waited_ns);
        let was_full = !self.window.has_room();
        let mut acknowledged = 0;
        while let Some(frame) = connection.next_frame()? {
            let Some(answer) = reply::read(&frame)? else { continue };
            let Some(request) = self.window.close(answer.number) else { continue };
            acknowledged += u64::from(answer.outcome == Outcome::Acknowledged);
            stats.last_answer_ns = now_ns;
            self.count_answer(request, answer, now_ns.max(request.sent_ns), read_ns, stats);
        }
        if was_full && self.window.has_room() {
            self.open_since_ns = now_ns;
        }
        Ok(acknowledged)
    }

    fn count_answer(
        &mut self,
        request: InFlight,
        answer: Reply,
        now_ns: u64,
        read_ns: u64,
        stats: &mut ProducerStats,
    ) {
        let (track, count, stream) = (self.job.track(), self.job.count(), self.job.stream);
        let message = request.message;
        let due_ns = message.due_ns;
        let sequences = request.first..request.first + count;
        let recorder = &mut stats.recorder;
        match answer.outcome {
            Outcome::Acknowledged => {
                self.outcomes.acknowledge(sequences);
                let latency_ns = now_ns.saturating_sub(due_ns);
                let service_ns = now_ns.saturating_sub(request.sent_ns);
                recorder.count(track, due_ns, |counters| counters.acknowledged += count);
                recorder.record(track, due_ns, Kind::Latency, latency_ns, count);
                recorder.record(track, due_ns, Kind::Service, service_ns, count);
            }
            Outcome::Refused(code) => {
                let waited_ns = now_ns.saturating_sub(due_ns);
                recorder.record(track, due_ns, Kind::Refused, waited_ns, count);
                stats.note(stream, code, answer.reason);
                let hint_ns = answer.retry_after_ms.map(|ms| ms.saturating_mul(1_000_000));
                let again_ns = read_ns.saturating_add(hint_ns.unwrap_or(RETRY_AFTER_NS));
                let is_in_time = again_ns < due_ns + PATIENCE.as_nanos() as u64;
                let has_room = self.again.len() < self.unsent_max();
                // A retry at another leader does not count as one of its attempts, as in a client
                // that follows the leader.
                let is_allowed = answer.is_elsewhere || message.refusals < self.job.retries;
                if is_allowed && is_in_time && has_room {
                    let refusals = message.refusals + u32::from(!answer.is_elsewhere);
                    let again = Message { refusals, first: Some(request.first), ..message };
                    self.again.insert((again_ns, request.first), again);
                    return;
                }
                self.outcomes.refuse(sequences);
                stats.recorder.count(track, due_ns, |counters| counters.refused += count);
            }
            Outcome::Unknown(code) => {
                recorder.count(track, due_ns, |counters| {
                    counters.unknown += count;
                    counters.undecided += count;
                });
                stats.give_up(&self.job, due_ns, now_ns);
                stats.note(stream, code, answer.reason);
            }
        }
        stats.record_lateness(&self.job, &message, read_ns.saturating_sub(now_ns));
        self.release(message.lane, now_ns);
    }

    /// When to call [`retry`](Self::retry), if this has changed.
    pub fn next_alarm_ns(&mut self) -> Option<u64> {
        let (next_ns, _) = *self.again.first_key_value()?.0;
        let is_new = self.alarm_ns.is_none_or(|alarm_ns| next_ns < alarm_ns);
        is_new.then(|| *self.alarm_ns.insert(next_ns))
    }

    /// Requeues refused requests that are due for a retry.
    pub fn retry(&mut self, now_ns: u64, stats: &mut ProducerStats) {
        let (track, count) = (self.job.track(), self.job.count());
        self.alarm_ns = None;
        while let Some(again) = self.again.first_entry().filter(|it| it.key().0 <= now_ns) {
            let message = again.remove();
            stats.recorder.count(track, message.due_ns, |counters| counters.retried += count);
            let unsent_max = self.unsent_max();
            push(&mut self.unsent, message, unsent_max);
        }
    }

    /// The connection is lost: the outcome of requests in flight is unknown.
    pub fn disconnect(&mut self, now_ns: u64, stats: &mut ProducerStats) {
        self.connection = None;
        let (track, count) = (self.job.track(), self.job.count());
        for request in self.window.close_all() {
            let message = request.message;
            stats.recorder.count(track, message.due_ns, |counters| counters.unknown += count);
            stats.give_up(&self.job, message.due_ns, now_ns);
            stats.record_lateness(&self.job, &message, 0);
            self.release(message.lane, now_ns);
        }
    }

    /// Gives up requests due before `due_before_ns` that are still unsent, including those blocked by
    /// their lane.
    pub fn expire(&mut self, due_before_ns: u64, now_ns: u64, stats: &mut ProducerStats) {
        while let Some(message) = self.unsent.pop_front_if(|it| it.due_ns < due_before_ns) {
            self.give_up(message, now_ns, stats);
        }
        for lane in &mut self.lanes {
            while let Some(message) = lane.held_back.pop_front_if(|it| it.due_ns < due_before_ns) {
                stats.count_not_sent(&self.job, message.due_ns, now_ns);
            }
        }
    }

    /// Ends the run for this producer, and gives up all open requests.
    pub fn into_outcomes(mut self, now_ns: u64, stats: &mut ProducerStats) -> Outcomes {
        self.unsent.extend(mem::take(&mut self.again).into_values());
        self.disconnect(now_ns, stats);
        self.expire(u64::MAX, now_ns, stats);
        self.outcomes
    }
}

fn micros(ns: u64) -> u32 {
    u32::try_from(ns / 1_000).unwrap_or(u32::MAX)
}

/// Appends to a queue that has at most `count_max` elements. A queue that doubles whenever it is full
/// would end with room for up to twice as many.
fn push(queue: &mut VecDeque<Message>, message: Message, count_max: usize) {
    if queue.len() == queue.capacity() {
        // A retry or the next event of an order may exceed the maximum a little.
        let room = Some(count_max.saturating_sub(queue.len())).filter(|room| *room > 0);
        queue.reserve_exact(queue.len().max(UNSENT_MIN).min(room.unwrap_or(UNSENT_MIN)));
    }
    queue.push_back(message);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ringmq::model::TopicName;
    use ringmq::wire::HeaderEncoding;

    use super::*;
    use crate::engine::measure::{Collector, PhaseEnds};
    use crate::engine::template::TemplateOptions;
    use crate::plan::keys::Keys;

    fn producer(is_ordered: bool, in_flight: u32, retries: u32) -> Producer {
        let topic = TopicName::new("t").unwrap();
        let options = TemplateOptions {
            encoding: HeaderEncoding::Json,
            topic: &topic,
            queue_count: 4,
            sizes: &[100, 200],
            batch: 1,
            is_one_way: false,
            delay_ms: 0,
        };
        let topic = JobTopic { template: Template::new(&options).unwrap(), queue_count: 4 };
        let job = Job {
            run: 1,
            stream: 0,
            seed: 5,
            batch: 1,
            in_flight,
            is_ordered,
            is_one_way: false,
            retries,
            unsent_max: 200,
            sizes: Sizes::mixed(&[(100, 1.0), (200, 1.0)]),
            choice: QueueChoice::new(&Keys::None, &[4]),
            topics: vec![topic],
            clock: RunClock::starting_at(Instant::now()),
        };
        let post = Post { number: 3, topic: 0, broker: 0 };
        Producer::new(post, Arc::new(job))
    }

    fn stats() -> ProducerStats {
        ProducerStats::new(Recorder::new(0, 1, PhaseEnds::new([1]), flume::unbounded().0))
    }

    fn answer(outcome: Outcome) -> Reply {
        Reply {
            number: 0,
            outcome,
            reason: "busy".to_owned(),
            retry_after_ms: None,
            is_elsewhere: false,
        }
    }

    /// Takes the next request as if it were sent.
    fn sent(producer: &mut Producer) -> Option<InFlight> {
        let message = producer.unsent.pop_front()?;
        let first = message.first.unwrap_or(producer.outcomes.sent);
        producer.outcomes.sent += u64::from(message.first.is_none());
        Some(InFlight { message, sent_ns: 0, first })
    }

    #[test]
    fn contents_do_not_depend_on_what_the_target_does() {
        let mut stats = stats();
        let mut calm = producer(false, 8, 0);
        let mut troubled = producer(false, 8, 0);
        for due_ns in 0..100 {
            calm.take_due(due_ns, &mut stats);
            troubled.take_due(due_ns, &mut stats);
            troubled.expire(due_ns / 2, due_ns, &mut stats);
        }
        let rest = troubled.unsent.len();
        assert!(rest < 100);
        assert!(troubled.unsent.iter().eq(calm.unsent.iter().skip(100 - rest)));
        assert!(calm.unsent.iter().any(|it| it.size == 0));
        assert!(calm.unsent.iter().any(|it| it.size == 1));
    }

    /// The events of an order are sent one after another to one queue, whatever the order of
    /// replies.
    #[test]
    fn an_order_has_one_event_under_way() {
        let (mut producer, mut stats) = (producer(true, 4, 0), stats());
        (0..120).for_each(|due_ns| producer.take_due(due_ns, &mut stats));
        let mut random = SplitMix64::of(1, 1);
        let mut open: Vec<InFlight> = Vec::new();
        let mut done: Vec<InFlight> = Vec::new();
        while done.len() < 120 {
            while let Some(request) = sent(&mut producer) {
                let is_alone = open.iter().all(|it| it.message.lane != request.message.lane);
                assert!(is_alone, "two of lane {}", request.message.lane);
                open.push(request);
            }
            let request = open.swap_remove((random.number() % open.len() as u64) as usize);
            producer.count_answer(request, answer(Outcome::Acknowledged), 9, 9, &mut stats);
            done.push(request);
        }
        for lane in 0..4 {
            let of_lane: Vec<_> = done.iter().filter(|it| it.message.lane == lane).collect();
            assert!(of_lane.is_sorted_by_key(|it| it.message.due_ns), "lane {lane}");
            let is_one_queue = |order: &[&InFlight]| {
                order.iter().all(|it| it.message.queue == order[0].message.queue)
            };
            assert!(of_lane.chunks(EVENTS_PER_ORDER as usize).all(is_one_queue), "lane {lane}");
        }
        assert!(producer.is_idle());
    }

    #[test]
    fn a_request_that_another_replica_must_take_costs_no_attempt() {
        let (mut producer, mut stats) = (producer(false, 4, 0), stats());
        producer.take_due(0, &mut stats);
        for _ in 0..3 {
            let request = sent(&mut producer).unwrap();
            let elsewhere = Reply { is_elsewhere: true, ..answer(Outcome::Refused(14)) };
            producer.count_answer(request, elsewhere, 9, 9, &mut stats);
            producer.retry(u64::MAX, &mut stats);
        }
        let request = sent(&mut producer).unwrap();
        assert_eq!(request.message.refusals, 0);
        producer.count_answer(request, answer(Outcome::Acknowledged), 9, 9, &mut stats);
        assert!(producer.is_idle());
    }

    /// It waits a moment for the replies to what it has sent, and sends nothing meanwhile.
    #[test]
    fn a_producer_leaves_when_its_requests_are_answered_or_after_a_moment() {
        let mut producer = producer(false, 4, 0);
        assert!(producer.leave(5), "nothing is in flight");
        producer.stay();
        let message = producer.draw(0);
        let number = producer.window.open(InFlight { message, sent_ns: 0, first: 0 });
        assert!(!producer.leave(10) && !producer.leave(9 + LEAVE_MAX_NS));
        assert!(producer.leave(10 + LEAVE_MAX_NS));
        producer.window.close(number);
        assert!(producer.leave(11));
    }

    #[test]
    fn refused_requests_are_tried_again_as_often_as_asked_for() {
        let (mut producer, mut stats) = (producer(false, 4, 2), stats());
        producer.take_due(0, &mut stats);
        for attempt in 0..3 {
            let request = sent(&mut producer).unwrap();
            assert_eq!((request.first, request.message.refusals), (0, attempt));
            producer.count_answer(request, answer(Outcome::Refused(2)), 9, 9, &mut stats);
            producer.retry(u64::MAX, &mut stats);
        }
        assert!(producer.is_idle(), "given up after the second retry");
        assert_eq!(stats.refusals[&(0, 2, "busy".to_owned())], 3);
        assert_eq!(producer.outcomes.sent, 1);
    }

    #[test]
    fn a_refused_request_comes_again_when_the_server_says_and_not_after_its_deadline() {
        const MS: u64 = 1_000_000;
        let (mut producer, mut stats) = (producer(false, 4, 9), stats());
        let refused = |after_ms| Reply { retry_after_ms: after_ms, ..answer(Outcome::Refused(2)) };
        (0..3).for_each(|_| producer.take_due(0, &mut stats));
        for (after_ms, now_ns) in [(Some(200), 10 * MS), (Some(30), 10 * MS), (None, 10 * MS)] {
            let request = sent(&mut producer).unwrap();
            producer.count_answer(request, refused(after_ms), now_ns, now_ns, &mut stats);
        }
        let mut told = Vec::new();
        let mut now_ns = 0;
        while let Some(alarm_ns) = producer.next_alarm_ns() {
            assert_eq!(producer.next_alarm_ns(), None, "told once");
            now_ns = alarm_ns;
            producer.retry(now_ns, &mut stats);
            told.push((alarm_ns / MS, producer.unsent.len()));
        }
        assert_eq!(told, [(40, 1), (60, 2), (210, 3)]);
        for after_ms in [Some(2_780), Some(u64::MAX)] {
            let request = sent(&mut producer).unwrap();
            producer.count_answer(
                request,
                refused(after_ms),
                now_ns + 10 * MS,
                now_ns + 10 * MS,
                &mut stats,
            );
        }
        assert_eq!(producer.next_alarm_ns(), None, "three seconds after it was due nobody waits");
    }

    /// A target that sends no replies and keeps the connection open must not make a lane grow without
    /// bound.
    #[test]
    fn what_is_held_back_behind_a_lane_is_given_up_like_all_that_waits() {
        let (mut producer, mut stats) = (producer(true, 1, 0), stats());
        (0..100).for_each(|due_ns| producer.take_due(due_ns, &mut stats));
        let request = sent(&mut producer).unwrap();
        producer.expire(50, 200, &mut stats);
        assert_eq!(producer.lanes[0].held_back.len(), 50, "those due before 50 are given up");
        producer.count_answer(request, answer(Outcome::Acknowledged), 201, 201, &mut stats);
        assert_eq!(sent(&mut producer).map(|it| it.message.due_ns), Some(50));
    }

    /// The time that a reply waits in the socket is the generator's lateness.
    #[test]
    fn what_a_reply_waits_to_be_read_is_lateness_and_not_latency() {
        let (sender, receiver) = flume::unbounded();
        let phases = PhaseEnds::new([1]);
        let mut stats = ProducerStats::new(Recorder::new(0, 1, phases.clone(), sender));
        let mut producer = producer(false, 4, 0);
        producer.take_due(0, &mut stats);
        let mut request = sent(&mut producer).unwrap();
        request.message.late_us = 2_000;
        let (arrived_ns, read_ns) = (3_000_000, 53_000_000);
        let acknowledged = answer(Outcome::Acknowledged);
        producer.count_answer(request, acknowledged, arrived_ns, read_ns, &mut stats);
        stats.recorder.close();
        let mut collector = Collector::new(1, 1, &phases);
        receiver.try_iter().for_each(|report| collector.take(report));
        let total = &collector.totals[0][0];
        let found =
            [&total.latency, &total.service, &total.lateness].map(|it| it.max() / 1_000_000);
        assert_eq!(found, [3, 3, 52]);
    }

    /// Otherwise the wait would count as the broker's, whose window is full meanwhile.
    #[test]
    fn what_is_taken_late_from_the_schedule_is_late() {
        let (mut producer, mut stats) = (producer(false, 4, 0), stats());
        for (turn_ns, late_us) in [(0, 0), (1_000_000, 0), (46_000_000, 45_000)] {
            stats.turn_ns = turn_ns;
            producer.take_due(1_000_000, &mut stats);
            assert_eq!(producer.unsent.pop_back().unwrap().late_us, late_us);
        }
    }

    /// The memory, not only the requests in it: 160 MiB in the run if every producer has its share.
    #[test]
    fn what_waits_takes_no_more_memory_than_is_stated() {
        for unsent_max in [200, 257, 1_000] {
            let (mut producer, mut stats) = (producer(false, 4, 0), stats());
            Arc::get_mut(&mut producer.job).unwrap().unsent_max = unsent_max;
            (0..10_000).for_each(|due_ns| producer.take_due(due_ns, &mut stats));
            assert_eq!(producer.unsent.len(), unsent_max);
            assert_eq!(producer.unsent.capacity(), unsent_max, "no room for more");
        }
        let (mut producer, mut stats) = (producer(true, 4, 0), stats());
        (0..10_000).for_each(|due_ns| producer.take_due(due_ns, &mut stats));
        let of_lanes = producer.lanes.iter().map(|lane| lane.held_back.capacity()).sum::<usize>();
        assert_eq!((of_lanes, producer.unsent.capacity()), (200, UNSENT_MIN));
    }

    #[test]
    fn what_waits_is_bounded_whatever_the_rate() {
        for is_ordered in [false, true] {
            let (mut producer, mut stats) = (producer(is_ordered, 4, 0), stats());
            (0..10_000).for_each(|due_ns| producer.take_due(due_ns, &mut stats));
            let held_back = producer.lanes.iter().map(|lane| lane.held_back.len()).sum::<usize>();
            let waiting = producer.unsent.len() + held_back;
            assert!((150..=204).contains(&waiting), "{waiting}");
            assert_eq!(producer.drawn, 10_000, "the schedule goes on");
            let newest =
                producer.unsent.iter().chain(producer.lanes.iter().flat_map(|it| &it.held_back));
            assert_eq!(newest.map(|it| it.due_ns).max(), Some(9_999), "the oldest are given up");
        }
    }

    /// A target that refuses everything at once, for a later time.
    #[test]
    fn what_waits_for_its_retry_is_bounded_whatever_the_rate() {
        let (mut producer, mut stats) = (producer(false, 4, 9), stats());
        let refused = || Reply { retry_after_ms: Some(200), ..answer(Outcome::Refused(2)) };
        for due_ns in 0..1_000 {
            producer.take_due(due_ns, &mut stats);
            let request = sent(&mut producer).unwrap();
            producer.count_answer(request, refused(), 9, 9, &mut stats);
        }
        assert_eq!((producer.again.len(), producer.outcomes.sent), (200, 1_000));
    }

    #[test]
    fn reasons_are_bounded() {
        let mut stats = stats();
        for round in 0..1_000 {
            stats.note(1, 2, format!("reason {round}"));
        }
        assert_eq!(stats.refusals.len(), REASONS_MAX + 1);
        let others = stats.refusals[&(1, 2, "other".to_owned())];
        assert_eq!(others, 1_000 - REASONS_MAX as u64);
    }
}
