//! Reads assigned queues, from given offsets.
//!
//! There is no group membership and no rebalancing: whoever assigns queues decides which consumer
//! reads them, as [`group_consumer`](crate::client::group_consumer) does for the members of a group.
//! One request per assigned queue is in flight, held by the broker until there is a message, so
//! [`Consumer::fetch`] waits for all queues at once, and at most one reply per queue is buffered.
//!
//! A consumer with a group uses RocketMQ's own requests, because the fixed header has no field for
//! a group. So the broker applies the group's permissions, resets and filters, and each pull
//! commits an offset.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::client::blocking::Call;
use crate::client::error::ClientError;
use crate::client::remote::{ClientOptions, Dialect, NEXT_REPLICA_MS, Remote};
use crate::client::session::CallResult;
use crate::model::batch::Records;
use crate::model::nameserver::{Route, RouteQueues};
use crate::model::reply::{PullStatus, Pulled};
use crate::model::request::{Boundary, Expression, Pull, QueueOf};
use crate::model::topic::PERM_READ;
use crate::model::{GroupName, QueueId, QueueOffset, Request, Timestamp, TopicName};
use crate::wire::codes::response::QUERY_NOT_FOUND;
use crate::wire::{HeaderEncoding, ReplyError, Response};

/// The group of a consumer without one, for brokers that require a name.
const NAMELESS_GROUP: &str = "RINGMQ_READER";
/// How long a request about a queue is tried on the replicas of its broker in turn, ms.
const ASK_MAX_MS: u64 = 5_000;
/// First delay before a failed queue is retried, ms; doubled with each further failure.
const BACKOFF_MS: u64 = 50;
const BACKOFF_MAX_MS: u64 = 3_000;

#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub client: ClientOptions,
    /// The group for which it reads.
    pub group: Option<GroupName>,
    /// Maximum number of messages per reply.
    pub count_max: u32,
    /// Maximum bytes per reply; at least one message is returned.
    pub bytes_max: u32,
    /// How long a broker holds a request if there is no message, ms.
    pub hold_ms: u64,
}

impl ConsumerOptions {
    pub fn new(client: ClientOptions) -> Self {
        Self { client, group: None, count_max: 1_024, bytes_max: 1 << 20, hold_ms: 15_000 }
    }
}

/// One message queue of one broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueRef {
    pub topic: TopicName,
    pub broker: String,
    pub queue: QueueId,
}

/// A result of [`Consumer::fetch`].
#[derive(Debug)]
pub enum Event {
    Messages(Fetched),
    /// The offset was outside the queue; reading continues at `to`.
    Moved {
        queue: QueueRef,
        from: QueueOffset,
        to: QueueOffset,
    },
    /// No message of the queue up to `to` matches the filter.
    Passed {
        queue: QueueRef,
        to: QueueOffset,
    },
    /// The queue could not be read; it is retried automatically.
    Trouble {
        queue: QueueRef,
        error: ClientError,
    },
}

#[derive(Debug)]
pub struct Fetched {
    pub queue: QueueRef,
    pub count: u32,
    /// The offset at which reading continues.
    pub next_offset: QueueOffset,
    pub min_offset: QueueOffset,
    pub max_offset: QueueOffset,
    records: Bytes,
}

impl Fetched {
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.records)
    }
}

pub struct Consumer {
    options: ConsumerOptions,
    remote: Remote,
    assigned: BTreeMap<QueueRef, Reading>,
    /// Filters by topic; of a topic without one, everything is read.
    filters: BTreeMap<TopicName, Expression>,
    calls: HashMap<Call, Pulling>,
    events: Vec<Event>,
    /// Maximum number of messages that further pulls request; 0: no pulls for now.
    request_max: u32,
    requested: Requested,
}

/// A pull in flight.
#[derive(Debug)]
struct Pulling {
    queue: QueueRef,
    address: String,
    /// How many messages the pull requests.
    count: u32,
}

/// Why a pull was not sent, and the address that it was for, if known.
type NotStarted = (ClientError, Option<String>);

/// How many messages all pulls have requested so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    pub all: u64,
    /// Of those, by pulls that have ended.
    pub ended: u64,
}

#[derive(Debug)]
struct Reading {
    offset: QueueOffset,
    /// What pulls commit for the group.
    commit: Option<QueueOffset>,
    is_paused: bool,
    call: Option<Call>,
    failures: u32,
    not_before: Timestamp,
}

impl Consumer {
    pub fn new(options: ConsumerOptions) -> Result<Self, ClientError> {
        let remote = Remote::new(options.client.clone())?;
        let (assigned, filters, calls, events, requested) = Default::default();
        let request_max = options.count_max;
        Ok(Self { options, remote, assigned, filters, calls, events, request_max, requested })
    }

    /// All readable queues of `topic`.
    pub fn queues(&mut self, topic: &TopicName) -> Result<Vec<QueueRef>, ClientError> {
        let route = self.remote.fetch_route(topic.as_str())?;
        let queues = queues_of(topic, &route);
        if queues.is_empty() {
            return Err(ClientError::NoQueue { topic: topic.to_string(), used: "read" });
        }
        Ok(queues)
    }

    /// Reads `queue` from `offset` on; also seeks in a queue that is being read.
    pub fn assign(&mut self, queue: QueueRef, offset: QueueOffset) {
        // A reply to an earlier request matches no reader and is dropped.
        let (not_before, commit, is_paused) = (Timestamp(0), None, false);
        let reading = Reading { offset, commit, is_paused, call: None, failures: 0, not_before };
        self.assigned.insert(queue, reading);
    }

    /// Sets which messages of `topic` to read, for a consumer with a group.
    pub(super) fn filter(&mut self, topic: TopicName, expression: Expression) {
        self.filters.insert(topic, expression);
    }

    /// Sets what further pulls of `queue` commit, and whether there are none for now.
    pub(super) fn direct(&mut self, queue: &QueueRef, commit: QueueOffset, is_paused: bool) {
        if let Some(reading) = self.assigned.get_mut(queue) {
            reading.commit = Some(commit);
            reading.is_paused = is_paused;
        }
    }

    /// Limits the number of messages that each further pull requests; 0: no pulls.
    pub(super) fn limit(&mut self, request_max: u32) {
        self.request_max = request_max.min(self.options.count_max);
    }

    pub(super) fn requested(&self) -> Requested {
        self.requested
    }

    pub(super) fn remote(&mut self) -> &mut Remote {
        &mut self.remote
    }

    pub fn unassign(&mut self, queue: &QueueRef) {
        self.assigned.remove(queue);
    }

    /// The offset at which reading of `queue` continues.
    pub fn position(&self, queue: &QueueRef) -> Option<QueueOffset> {
        self.assigned.get(queue).map(|reading| reading.offset)
    }

    /// Waits up to `wait_ms` for messages or events of any assigned queue.
    pub fn fetch(&mut self, wait_ms: u64) -> Vec<Event> {
        let until = self.remote.now().plus_ms(wait_ms);
        loop {
            self.turn(until);
            while self.poll_finished().is_some() {}
            if !self.events.is_empty() || self.remote.now() >= until {
                return self.take_events();
            }
        }
    }

    /// Sends due pulls and waits until `until` for something to happen.
    pub(super) fn turn(&mut self, until: Timestamp) {
        self.start_due();
        self.remote.turn(self.next_due().map_or(until, |due| due.min(until)));
    }

    /// Handles the results of pulls; returns the result of a request that the caller has started.
    pub(super) fn poll_finished(&mut self) -> Option<(Call, CallResult)> {
        loop {
            let (call, result) = self.remote.poll_finished().0?;
            match self.calls.remove(&call) {
                Some(pulling) => {
                    self.requested.ended += u64::from(pulling.count);
                    self.handle_finished(pulling, call, result);
                }
                None => return Some((call, result)),
            }
        }
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// First retained offset.
    pub fn min_offset(&mut self, queue: &QueueRef) -> Result<QueueOffset, ClientError> {
        self.ask(queue, Request::MinOffset, Response::offset)
    }

    /// Offset of the next message.
    pub fn max_offset(&mut self, queue: &QueueRef) -> Result<QueueOffset, ClientError> {
        self.ask(queue, Request::MaxOffset, Response::offset)
    }

    /// Offset of the first message stored at or after `at`.
    pub fn offset_at(
        &mut self,
        queue: &QueueRef,
        at: Timestamp,
    ) -> Result<QueueOffset, ClientError> {
        let boundary = Boundary::Lower;
        self.ask(queue, |queue| Request::OffsetByTime { queue, at, boundary }, Response::offset)
    }

    /// The offset committed by `group`, if any.
    pub fn committed(
        &mut self,
        group: &GroupName,
        queue: &QueueRef,
    ) -> Result<Option<QueueOffset>, ClientError> {
        let (group, zero_if_missing) = (group.clone(), false);
        self.ask(
            queue,
            |queue| Request::CommittedOffset { group, queue, zero_if_missing },
            |response| match response.code {
                QUERY_NOT_FOUND => Ok(None),
                _ => response.offset().map(Some),
            },
        )
    }

    /// Commits `offset` for `group`: it has consumed everything below.
    pub fn commit(
        &mut self,
        group: &GroupName,
        queue: &QueueRef,
        offset: QueueOffset,
    ) -> Result<(), ClientError> {
        let (group, offset) = (group.clone(), i64::try_from(offset.0).unwrap_or(i64::MAX));
        self.ask(queue, |queue| Request::CommitOffset { group, queue, offset }, Response::done)
    }

    /// Asks the leader about a queue. The requests are idempotent.
    fn ask<T>(
        &mut self,
        queue: &QueueRef,
        request: impl FnOnce(QueueOf) -> Request,
        read: impl Fn(&Response) -> Result<T, ReplyError>,
    ) -> Result<T, ClientError> {
        let request = request(QueueOf { topic: queue.topic.clone(), queue: queue.queue });
        self.ask_leader(queue, &request, read)
    }

    /// Asks the broker of a queue, and the next replica if one does not lead or does not reply. A
    /// request that may have taken effect is repeated only if that is harmless.
    pub(super) fn ask_leader<T>(
        &mut self,
        queue: &QueueRef,
        request: &Request,
        read: impl Fn(&Response) -> Result<T, ReplyError>,
    ) -> Result<T, ClientError> {
        let until = self.remote.now().plus_ms(ASK_MAX_MS);
        loop {
            let address = self.address(queue)?;
            let error = match self.remote.ask(&address, request, &read) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_safe = !matches!(
                (&error, request),
                (ClientError::Unanswered { .. }, Request::SendBack(_))
            );
            let goes_on = is_safe
                && error.is_about_replica()
                && self.leave_replica(queue, &address, &error)
                && self.remote.now() < until;
            if !goes_on {
                return Err(error);
            }
            self.remote.refresh_route(queue.topic.as_str());
            self.remote.wait_ms(NEXT_REPLICA_MS);
        }
    }

    /// The address of a queue's broker.
    pub(super) fn address(&mut self, queue: &QueueRef) -> Result<String, ClientError> {
        let route = self.remote.route(queue.topic.as_str())?;
        let address = self.remote.leader(&route, &queue.broker).map(str::to_owned);
        address.ok_or_else(|| {
            self.remote.doubt_route(queue.topic.as_str());
            let (topic, broker) = (queue.topic.to_string(), queue.broker.clone());
            ClientError::UnknownBroker { topic, broker }
        })
    }

    /// When the next queue is to be retried. A queue that is due but was not requested waits for a
    /// reply, not for a time.
    fn next_due(&self) -> Option<Timestamp> {
        if self.request_max == 0 {
            return None;
        }
        let now = self.remote.now();
        let idle = self.assigned.values().filter(|one| one.call.is_none() && !one.is_paused);
        idle.map(|reading| reading.not_before).filter(|due| *due > now).min()
    }

    /// Sends a pull for every queue that has none in flight.
    fn start_due(&mut self) {
        if self.request_max == 0 {
            return;
        }
        let now = self.remote.now();
        let is_due = |reading: &Reading| {
            reading.call.is_none() && !reading.is_paused && reading.not_before <= now
        };
        let due: Vec<QueueRef> = self
            .assigned
            .iter()
            .filter(|(_, reading)| is_due(reading))
            .map(|(queue, _)| queue.clone())
            .collect();
        for queue in due {
            match self.start_pull(&queue) {
                Ok(None) => {}
                Ok(Some((call, address))) => {
                    let reading = self.assigned.get_mut(&queue).expect("it was just found");
                    reading.call = Some(call);
                    self.requested.all += u64::from(self.request_max);
                    let count = self.request_max;
                    self.calls.insert(call, Pulling { queue, address, count });
                }
                Err((error, address)) => self.handle_failure(&queue, address.as_deref(), error),
            }
        }
    }

    /// Starts a pull. `None`: not possible now; retry after the next turn.
    fn start_pull(&mut self, queue: &QueueRef) -> Result<Option<(Call, String)>, NotStarted> {
        let address = self.address(queue).map_err(|error| (error, None))?;
        let failed = |error| (error, Some(address.clone()));
        let Some(encoding) = self.encoding(&address).map_err(failed)? else { return Ok(None) };
        if !self.remote.has_room(&address) {
            return Ok(None);
        }
        let request = Request::Pull(self.pull(queue, encoding));
        let hold_ms = self.options.hold_ms;
        let started = self.remote.start_held(&address, encoding, &request, hold_ms);
        let call = started.map_err(failed)?;
        Ok(Some((call, address)))
    }

    /// The encoding of a pull; `None` if it is not known yet.
    fn encoding(&mut self, address: &str) -> Result<Option<HeaderEncoding>, ClientError> {
        if self.options.group.is_some() {
            return Ok(Some(HeaderEncoding::Json));
        }
        match self.remote.dialect(address, None) {
            Dialect::Known(encoding) => Ok(Some(encoding)),
            Dialect::Asking => Ok(None),
            Dialect::Unreachable(why) => {
                let (what, address) = ("read messages".to_owned(), address.to_owned());
                Err(ClientError::NotReached { what, address, why })
            }
        }
    }

    fn pull(&self, queue: &QueueRef, encoding: HeaderEncoding) -> Pull {
        let is_named = encoding != HeaderEncoding::Fixed;
        let nameless = || GroupName::new(NAMELESS_GROUP).expect("it is a legal name");
        let everything = || Expression { kind: "TAG".to_owned(), text: "*".to_owned() };
        let filter = || self.filters.get(&queue.topic).cloned().unwrap_or_else(everything);
        let signed = |offset: QueueOffset| i64::try_from(offset.0).unwrap_or(i64::MAX);
        let reading = &self.assigned[queue];
        Pull {
            group: is_named.then(|| self.options.group.clone().unwrap_or_else(nameless)),
            queue: QueueOf { topic: queue.topic.clone(), queue: queue.queue },
            offset: signed(reading.offset),
            count_max: self.request_max,
            bytes_max: Some(self.options.bytes_max),
            commit: reading.commit.map(signed),
            hold_ms: Some(self.options.hold_ms),
            subscription: is_named.then(filter),
            subscription_version: 0,
        }
    }

    fn handle_finished(&mut self, pulling: Pulling, call: Call, result: CallResult) {
        let Pulling { queue, address: at, .. } = pulling;
        let reading = self.assigned.get_mut(&queue);
        let Some(reading) = reading.filter(|reading| reading.call == Some(call)) else { return };
        reading.call = None;
        let address = queue.broker.clone();
        let what = "read messages";
        match result.map(|response| (response.pulled(), response.body)) {
            Ok((Ok(pulled), body)) => self.handle_pulled(queue, pulled, body),
            Ok((Err(ReplyError { code, remark }), _)) => {
                let what = what.to_owned();
                let refused = ClientError::Refused { what, address, code, remark };
                self.handle_failure(&queue, Some(&at), refused);
            }
            Err(error) => {
                let failed = ClientError::of_call(what, &address, error);
                self.handle_failure(&queue, Some(&at), failed);
            }
        }
    }

    fn handle_pulled(&mut self, queue: QueueRef, pulled: Pulled, records: Bytes) {
        let reading = self.assigned.get_mut(&queue).expect("its answer was waited for");
        reading.failures = 0;
        let from = std::mem::replace(&mut reading.offset, pulled.next_offset);
        let Pulled { status, next_offset, min_offset, max_offset, count, .. } = pulled;
        match status {
            PullStatus::Found => self.events.push(Event::Messages(Fetched {
                queue,
                count,
                next_offset,
                min_offset,
                max_offset,
                records,
            })),
            PullStatus::OffsetMoved => {
                self.events.push(Event::Moved { queue, from, to: next_offset });
            }
            PullStatus::NothingNew | PullStatus::NothingMatched if next_offset > from => {
                self.events.push(Event::Passed { queue, to: next_offset });
            }
            PullStatus::NothingNew | PullStatus::NothingMatched => {}
        }
    }

    pub(super) fn leave_replica(
        &mut self,
        queue: &QueueRef,
        address: &str,
        error: &ClientError,
    ) -> bool {
        let (topic, is_silent) = (queue.topic.as_str(), error.is_about_reaching());
        self.remote.leave_replica(topic, &queue.broker, address, is_silent)
    }

    /// Schedules a retry: soon if the broker has other replicas, because every replica serves
    /// pulls.
    fn handle_failure(&mut self, queue: &QueueRef, address: Option<&str>, error: ClientError) {
        let now = self.remote.now();
        let is_elsewhere = error.is_about_replica()
            && address.is_some_and(|address| self.leave_replica(queue, address, &error));
        if let Some(reading) = self.assigned.get_mut(queue) {
            let backoff_ms = (BACKOFF_MS << reading.failures.min(8)).min(BACKOFF_MAX_MS);
            let wait_ms = if is_elsewhere { NEXT_REPLICA_MS } else { backoff_ms };
            reading.failures += 1;
            reading.not_before = now.plus_ms(wait_ms);
        }
        self.remote.doubt_route(queue.topic.as_str());
        self.events.push(Event::Trouble { queue: queue.clone(), error });
    }
}

/// All readable queues of `topic`.
pub(super) fn queues_of(topic: &TopicName, route: &Route) -> Vec<QueueRef> {
    let readable = route.queues.iter().filter(|queues| queues.perm & PERM_READ != 0);
    let of_broker = |queues: &RouteQueues| {
        let broker = queues.broker_name.clone();
        (0..queues.read_queue_count).map(move |queue| QueueRef {
            topic: topic.clone(),
            broker: broker.clone(),
            queue: QueueId(queue),
        })
    };
    readable.flat_map(of_broker).collect()
}

#[cfg(test)]
mod tests;
