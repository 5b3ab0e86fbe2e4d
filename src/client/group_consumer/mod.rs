//! Consumes as a member of a group: the queues of the group's topics are divided among its members,
//! and each message is handed out until a member acknowledges it.
//!
//! Driven by one thread: [`GroupConsumer::poll`] does all the work, including heartbeats, so it must
//! be called at least every few seconds. [`membership`] decides, [`assignment`] divides the queues,
//! [`ledger`] knows what may be committed, [`returning`] makes copies of messages that are to come again;
//! a [`Consumer`] reads the queues. This file adds connections and the clock.
//!
//! Uses only RocketMQ's own requests and rules, so a group may have stock members too.
//!
//! At least once: an offset is committed (every few seconds, with each pull, when a queue goes to
//! another member, and at the end) only when everything before it was acknowledged. What was not
//! acknowledged comes again, to this member or another.

pub mod assignment;
mod batch;
mod ledger;
pub mod membership;
mod returning;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use batch::Batch;

use self::batch::Tags;
use self::membership::{Action, Membership};
use crate::client::blocking::Call;
use crate::client::consumer::{
    Consumer, ConsumerOptions, Event, Fetched, QueueRef, Requested, queues_of,
};
use crate::client::error::ClientError;
use crate::client::remote::{ClientOptions, NEXT_REPLICA_MS};
use crate::client::session::{CallResult, ServerRequest};
use crate::model::client::ResetOffsets;
use crate::model::nameserver::{Route, RouteQueues};
use crate::model::record::RecordView;
use crate::model::request::{
    Boundary, BrokerQueue, ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, QueueOf,
    SendBack, SubscriptionData,
};
use crate::model::topic::PERM_WRITE;
use crate::model::{
    ClientReply, ClientRequest, GroupName, QueueId, QueueOffset, Refusal, Request, Timestamp,
    TopicName,
};
use crate::wire::codes::response::{QUERY_NOT_FOUND, SYSTEM_ERROR};
use crate::wire::{HeaderEncoding, ReplyError, Response};

/// How long [`GroupConsumer::close`] waits for the last commits, ms.
const CLOSE_TIMEOUT_MS: u64 = 3_000;
/// How long [`GroupConsumer::send_back`] tries to send a copy of the message, ms.
const RETURN_MAX_MS: u64 = 5_000;
/// How often to look for the route of a topic that has none yet, such as a new group's retry topic, ms.
const ROUTE_PERIOD_MS: u64 = 1_000;

/// Where a group begins in a queue for which it has not committed anything (remoting reference,
/// 5.6). A queue that still has its first message is read from there whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    First,
    Last,
    /// The first message stored at or after this time.
    Time(Timestamp),
}

#[derive(Clone, Debug)]
pub struct GroupOptions {
    pub client: ClientOptions,
    pub group: GroupName,
    /// Topics, and which of their messages.
    pub subscriptions: Vec<(TopicName, Expression)>,
    pub start_at: StartAt,
    /// Maximum number of messages per batch.
    pub count_max: u32,
    /// Maximum bytes per batch; it has at least one message.
    pub bytes_max: u32,
    /// How long a broker holds a pull if there is no message, ms.
    pub hold_ms: u64,
}

impl GroupOptions {
    pub fn new(client: ClientOptions, group: GroupName) -> Self {
        let reading = ConsumerOptions::new(client.clone());
        let ConsumerOptions { count_max, bytes_max, hold_ms, .. } = reading;
        let (subscriptions, start_at) = (Vec::new(), StartAt::Last);
        Self { client, group, subscriptions, start_at, count_max, bytes_max, hold_ms }
    }

    /// Adds a topic, and the tags to consume: `a || b`, or `*` for all messages.
    pub fn subscribe(mut self, topic: TopicName, tags: &str) -> Self {
        self.subscriptions.push((topic, Expression { kind: "TAG".into(), text: tags.into() }));
        self
    }
}

/// A result of [`GroupConsumer::poll`].
#[derive(Debug)]
pub enum GroupEvent {
    /// To be acknowledged.
    Messages(Batch),
    /// The offset was outside the queue, or an operator has reset it; reading continues at `to`.
    Moved { queue: QueueRef, to: QueueOffset },
    /// A request failed; it is repeated automatically.
    Trouble(ClientError),
}

pub struct GroupConsumer {
    group: GroupName,
    start_at: StartAt,
    reader: Consumer,
    membership: Membership,
    heartbeat: Request,
    tags: BTreeMap<TopicName, Option<Arc<Tags>>>,
    /// The routes that the membership knows.
    routes: BTreeMap<TopicName, Arc<Route>>,
    calls: HashMap<Call, (String, Pending)>,
    events: Vec<GroupEvent>,
    commit_failure: Option<ClientError>,
    /// Until when the last offsets are committed, if it leaves.
    closes_until: Option<Timestamp>,
}

/// A request in flight.
#[derive(Debug)]
enum Pending {
    Heartbeat,
    Members(TopicName),
    LookUp { queue: QueueRef, assignment: u64, is_committed: bool },
    Commit { queue: QueueRef, assignment: u64, offset: QueueOffset },
}

impl Pending {
    fn what(&self) -> &'static str {
        match self {
            Self::Heartbeat => "take a heartbeat",
            Self::Members(_) => "list a group's members",
            Self::LookUp { .. } => "look up an offset",
            Self::Commit { .. } => "commit an offset",
        }
    }
}

impl GroupConsumer {
    /// Joins the group: the brokers get to know it during the first calls of [`poll`](Self::poll).
    /// All topics must exist.
    pub fn join(options: GroupOptions) -> Result<Self, ClientError> {
        let GroupOptions { client, group, subscriptions, start_at, count_max, bytes_max, hold_ms } =
            options;
        let reading =
            ConsumerOptions { client, group: Some(group.clone()), count_max, bytes_max, hold_ms };
        let mut reader = Consumer::new(reading)?;
        for (topic, _) in &subscriptions {
            reader.queues(topic)?;
        }
        let now = reader.remote().now();
        let client = reader.remote().client_id().to_owned();
        let everything = Expression { kind: "TAG".into(), text: "*".into() };
        let retry = (TopicName::retry_of(&group), everything);
        let subscriptions: BTreeMap<_, _> = subscriptions.into_iter().chain([retry]).collect();
        let mut tags = BTreeMap::new();
        for (topic, expression) in &subscriptions {
            reader.filter(topic.clone(), expression.clone());
            tags.insert(topic.clone(), Tags::of(expression).map(Arc::new));
        }
        let membership = Membership::new(&client, subscriptions.keys().cloned(), now);
        let heartbeat = heartbeat(&client, &group, subscriptions, now);
        let (routes, calls, events, commit_failure, closes_until) = Default::default();
        let of_group = Self {
            group,
            start_at,
            reader,
            membership,
            heartbeat,
            tags,
            routes,
            calls,
            events,
            commit_failure,
            closes_until,
        };
        Ok(of_group)
    }

    /// Waits up to `wait_ms` for messages or events.
    pub fn poll(&mut self, wait_ms: u64) -> Vec<GroupEvent> {
        let until = self.now().plus_ms(wait_ms);
        loop {
            self.step(until);
            if !self.events.is_empty() || self.now() >= until {
                return std::mem::take(&mut self.events);
            }
        }
    }

    /// The messages of `batch` are dealt with.
    pub fn acknowledge(&mut self, batch: &Batch) {
        self.acknowledge_before(batch, batch.next_offset());
    }

    /// The messages of `batch` that come before `offset` are dealt with.
    pub fn acknowledge_before(&mut self, batch: &Batch, offset: QueueOffset) {
        self.membership.handle_acknowledged(&batch.receipt, offset);
        self.direct(batch.queue());
    }

    /// Has a message that could not be dealt with come again, after the delay of this level; 0 lets
    /// the broker choose one that grows with each attempt, a negative one makes the message a dead
    /// letter. It can be acknowledged afterwards.
    ///
    /// If its broker does not take it back, this sends a copy to the group's retry topic on any broker,
    /// as stock consumers do (remoting reference, 3.6). So it comes twice if the broker did take it
    /// back but did not answer.
    pub fn send_back(
        &mut self,
        batch: &Batch,
        message: &RecordView<'_>,
        delay_level: i32,
    ) -> Result<(), ClientError> {
        let (offset, group) = (message.physical_offset, self.group.clone());
        let back =
            Request::SendBack(SendBack { offset, group, delay_level, retry_count_max: None });
        let returned = self.reader.ask_leader(batch.queue(), &back, Response::done);
        match returned.is_err() && self.send_copy(&batch.queue().broker, message, delay_level) {
            true => Ok(()),
            false => returned,
        }
    }

    /// Sends a copy of a message of `broker`, which has not taken it back, to the retry topic. Returns
    /// whether it is stored.
    fn send_copy(&mut self, broker: &str, message: &RecordView<'_>, delay_level: i32) -> bool {
        let topic = TopicName::retry_of(&self.group);
        let remote = self.reader.remote();
        let until = remote.now().plus_ms(RETURN_MAX_MS);
        let Ok(route) = remote.route(topic.as_str()) else { return false };
        let takes = |of: &&RouteQueues| of.perm & PERM_WRITE != 0 && of.write_queue_count > 0;
        let mut targets: Vec<&RouteQueues> = route.queues.iter().filter(takes).collect();
        // It has just failed to do it.
        targets.sort_by_key(|of| of.broker_name == broker);
        for RouteQueues { broker_name, write_queue_count, .. } in targets {
            let Some(address) = remote.leader(&route, broker_name).map(str::to_owned) else {
                continue;
            };
            // Any of them, so that they have about the same number of copies.
            let queue = QueueId((message.physical_offset.0 % u64::from(*write_queue_count)) as u32);
            let copy = returning::copy_for(&self.group, message, delay_level, queue);
            if remote.ask(&address, &Request::Produce(copy), Response::produced).is_ok() {
                return true;
            }
            if remote.now() >= until {
                break;
            }
        }
        false
    }

    /// Limits the number of messages that each further pull requests, for a user with a rate of its own;
    /// with 0 there are none until the next call.
    pub fn limit(&mut self, request_max: u32) {
        self.reader.limit(request_max);
    }

    /// How many messages its pulls have requested so far.
    pub fn requested(&self) -> Requested {
        self.reader.requested()
    }

    /// The queues that this member reads, and the offset up to which each was handed out.
    pub fn owned(&self) -> impl Iterator<Item = (&QueueRef, Option<QueueOffset>)> {
        self.membership.owned()
    }

    /// Commits what was acknowledged and leaves the group, so that others get the queues at once.
    pub fn close(mut self) -> Result<(), ClientError> {
        let until = self.now().plus_ms(CLOSE_TIMEOUT_MS);
        self.commit_failure = None;
        self.closes_until = Some(until);
        self.membership.leave();
        self.act();
        let is_commit =
            |(_, pending): &(String, Pending)| matches!(pending, Pending::Commit { .. });
        while self.calls.values().any(is_commit) && self.now() < until {
            self.reader.turn(until);
            self.take_finished();
        }
        let group = Some(self.group.clone());
        let client = self.reader.remote().client_id().into();
        let unregister = Request::Unregister { client, producer: None, consumer: group };
        let remote = self.reader.remote();
        let is_open = |address: &&str| remote.line_to(address).is_some();
        let open = self.membership.addresses().filter(is_open).map(str::to_owned).collect();
        remote.tell_all(open, &unregister);
        let what = || "committing the last offsets".to_owned();
        let is_late = self.calls.values().any(is_commit);
        let late =
            is_late.then(|| ClientError::TookTooLong { what: what(), waited_ms: CLOSE_TIMEOUT_MS });
        self.commit_failure.or(late).map_or(Ok(()), Err)
    }

    fn now(&mut self) -> Timestamp {
        self.reader.remote().now()
    }

    fn step(&mut self, until: Timestamp) {
        self.follow_routes();
        self.follow_lines();
        self.act();
        let mut due = self.membership.poll_timeout();
        if self.routes.len() < self.tags.len() {
            due = due.min(self.now().plus_ms(ROUTE_PERIOD_MS));
        }
        self.reader.turn(due.min(until));
        self.take_finished();
        // Before anything else that may begin a new assignment of the same queue.
        for event in self.reader.take_events() {
            self.handle_read(event);
        }
        self.take_server_requests();
        self.act();
    }

    /// Looks for new routes, and has old or doubtful ones refreshed.
    fn follow_routes(&mut self) {
        let now = self.now();
        for topic in self.tags.keys() {
            self.reader.remote().refresh_route(topic.as_str());
            let Some(route) = self.reader.remote().known_route(topic.as_str()) else { continue };
            if self.routes.get(topic).is_some_and(|known| Arc::ptr_eq(known, &route)) {
                continue;
            }
            // Like stock consumers, it joins at all replicas, so that a new leader knows it.
            let all = route.brokers.iter().flat_map(|one| &one.addresses);
            let addresses = all.map(|(_, address)| address.clone()).collect();
            self.membership.handle_route(topic, queues_of(topic, &route), addresses, now);
            self.routes.insert(topic.clone(), route);
        }
    }

    fn follow_lines(&mut self) {
        let now = self.now();
        let addresses: Vec<String> = self.membership.addresses().map(str::to_owned).collect();
        for address in addresses {
            let line = self.reader.remote().line_to(&address);
            self.membership.handle_line(&address, line, now);
        }
    }

    fn act(&mut self) {
        let now = self.now();
        for action in self.membership.poll(now) {
            match action {
                Action::Heartbeat { address } => {
                    let heartbeat = self.heartbeat.clone();
                    self.start(address, &heartbeat, Pending::Heartbeat);
                }
                Action::AskMembers { topic, address } => {
                    let request = Request::GroupMembers { group: self.group.clone() };
                    self.start(address, &request, Pending::Members(topic));
                }
                Action::LookUp { queue, assignment } => {
                    let (group, of) = (self.group.clone(), queue_of(&queue));
                    let zero_if_missing = true;
                    let request = Request::CommittedOffset { group, queue: of, zero_if_missing };
                    let pending =
                        Pending::LookUp { queue: queue.clone(), assignment, is_committed: true };
                    self.start_at_queue(&queue, &request, pending);
                }
                Action::Read { queue, offset } => {
                    self.reader.assign(queue.clone(), offset);
                    self.direct(&queue);
                }
                Action::Stop { queue } => self.reader.unassign(&queue),
                Action::Commit { queue, assignment, offset } => {
                    self.commit(queue, assignment, offset);
                }
            }
        }
    }

    fn commit(&mut self, queue: QueueRef, assignment: u64, offset: QueueOffset) {
        let (group, of) = (self.group.clone(), queue_of(&queue));
        let signed = i64::try_from(offset.0).unwrap_or(i64::MAX);
        let request = Request::CommitOffset { group, queue: of, offset: signed };
        let pending = Pending::Commit { queue: queue.clone(), assignment, offset };
        self.start_at_queue(&queue, &request, pending);
    }

    fn start_at_queue(&mut self, queue: &QueueRef, request: &Request, pending: Pending) {
        match self.reader.address(queue) {
            Ok(address) => self.start(address, request, pending),
            Err(error) => self.handle_failure(&queue.broker, pending, error),
        }
    }

    fn start(&mut self, address: String, request: &Request, pending: Pending) {
        match self.reader.remote().start(&address, HeaderEncoding::Json, request) {
            Ok(call) => drop(self.calls.insert(call, (address, pending))),
            Err(error) => self.handle_failure(&address, pending, error),
        }
    }

    fn take_finished(&mut self) {
        while let Some((call, result)) = self.reader.poll_finished() {
            if let Some((address, pending)) = self.calls.remove(&call) {
                self.handle_finished(call, &address, pending, result);
            }
        }
    }

    fn handle_finished(&mut self, call: Call, address: &str, pending: Pending, result: CallResult) {
        let now = self.now();
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let error = ClientError::of_call(pending.what(), address, error);
                return self.handle_failure(address, pending, error);
            }
        };
        let refusal = match &pending {
            Pending::Heartbeat => match response.done() {
                Ok(()) => return self.membership.handle_heartbeat(address, Ok(call.line), now),
                Err(refusal) => refusal,
            },
            Pending::Members(topic) => match members(&response) {
                Ok(members) => return self.membership.handle_members(topic, Ok(members), now),
                Err(refusal) => refusal,
            },
            Pending::LookUp { queue, assignment, is_committed } => match response.offset() {
                Ok(offset) => {
                    // An offset of 0 may mean that nothing is committed.
                    let found = (offset, *is_committed && offset.0 > 0);
                    return self.membership.handle_looked_up(queue, *assignment, Ok(found), now);
                }
                Err(ReplyError { code: QUERY_NOT_FOUND, .. }) if *is_committed => {
                    return self.look_for_start(queue.clone(), *assignment);
                }
                Err(refusal) => refusal,
            },
            Pending::Commit { queue, assignment, offset } => match response.done() {
                Ok(()) => {
                    return self.membership.handle_committed(queue, *assignment, *offset, true);
                }
                Err(refusal) => refusal,
            },
        };
        let ReplyError { code, remark } = refusal;
        let (what, at) = (pending.what().to_owned(), address.to_owned());
        let error = ClientError::Refused { what, address: at, code, remark };
        self.handle_failure(address, pending, error);
    }

    /// The group begins in a queue (remoting reference, 5.6). A message that comes back to the group
    /// is never older than the group.
    fn look_for_start(&mut self, queue: QueueRef, assignment: u64) {
        let now = self.now();
        let is_retry = queue.topic.retrying_group().is_some();
        let request = match self.start_at {
            StartAt::First => None,
            StartAt::Last | StartAt::Time(_) if is_retry => None,
            StartAt::Last => Some(Request::MaxOffset(queue_of(&queue))),
            StartAt::Time(at) => {
                let boundary = Boundary::Lower;
                Some(Request::OffsetByTime { queue: queue_of(&queue), at, boundary })
            }
        };
        let Some(request) = request else {
            let first = Ok((QueueOffset(0), false));
            return self.membership.handle_looked_up(&queue, assignment, first, now);
        };
        let pending = Pending::LookUp { queue: queue.clone(), assignment, is_committed: false };
        self.start_at_queue(&queue, &request, pending);
    }

    fn handle_failure(&mut self, address: &str, pending: Pending, error: ClientError) {
        let now = self.now();
        match &pending {
            Pending::Heartbeat => {
                self.membership.handle_heartbeat(address, Err(()), now);
                // Its broker has others.
                if error.is_about_replica() && self.reader.remote().is_replica(address) {
                    return;
                }
            }
            Pending::Members(topic) => self.membership.handle_members(topic, Err(()), now),
            Pending::LookUp { queue, assignment, .. } => {
                self.leave_replica(queue, address, &error);
                self.membership.handle_looked_up(queue, *assignment, Err(()), now);
            }
            Pending::Commit { queue, assignment, offset } => {
                let is_left = self.leave_replica(queue, address, &error);
                if is_left && self.closes_until.is_some_and(|until| now < until) {
                    // There is no later commit.
                    self.reader.remote().wait_ms(NEXT_REPLICA_MS);
                    return self.commit(queue.clone(), *assignment, *offset);
                }
                self.commit_failure.get_or_insert_with(|| error.clone());
                self.membership.handle_committed(queue, *assignment, *offset, false);
            }
        }
        self.events.push(GroupEvent::Trouble(error));
    }

    /// The replica at `address` could not do what only the leader does. Returns whether there is another
    /// one to ask.
    fn leave_replica(&mut self, queue: &QueueRef, address: &str, error: &ClientError) -> bool {
        self.reader.remote().doubt_route(queue.topic.as_str());
        error.is_about_replica() && self.reader.leave_replica(queue, address, error)
    }

    fn handle_read(&mut self, event: Event) {
        match event {
            Event::Messages(fetched) => self.hand_out(fetched),
            Event::Passed { queue, to } => {
                self.membership.handle_passed(&queue, to);
                self.direct(&queue);
            }
            Event::Moved { queue, to, .. } => {
                self.membership.handle_moved(&queue, to);
                self.direct(&queue);
                self.events.push(GroupEvent::Moved { queue, to });
            }
            Event::Trouble { error, .. } => self.events.push(GroupEvent::Trouble(error)),
        }
    }

    fn hand_out(&mut self, fetched: Fetched) {
        let receipt = self.membership.handle_fetched(&fetched.queue, fetched.next_offset);
        let Some(receipt) = receipt else { return };
        let tags = self.tags.get(&fetched.queue.topic).cloned().flatten();
        let batch = Batch::new(receipt, fetched, tags);
        self.direct(batch.queue());
        let is_for_us = batch.messages().next().is_some();
        match is_for_us {
            true => self.events.push(GroupEvent::Messages(batch)),
            false => self.acknowledge(&batch),
        }
    }

    /// Tells the reader what to commit with its pulls, and whether to pull.
    fn direct(&mut self, queue: &QueueRef) {
        if let Some((settled, has_room)) = self.membership.reading(queue) {
            self.reader.direct(queue, settled, !has_room);
        }
    }

    fn take_server_requests(&mut self) {
        while let Some((caller, asked)) = self.reader.remote().poll_server_request() {
            let now = self.now();
            let ServerRequest { request, reply_to } = asked;
            match request {
                ClientRequest::MembersChanged { group } if group == self.group => {
                    self.membership.handle_notified(now);
                }
                ClientRequest::ResetOffsets(reset) if reset.group == self.group => {
                    self.reset(reset);
                }
                ClientRequest::MembersChanged { .. } | ClientRequest::ResetOffsets(_) => {}
                ClientRequest::PushReply(_)
                | ClientRequest::RunningInfo(_)
                | ClientRequest::ConsumeDirectly { .. } => {
                    if let Some(to) = reply_to {
                        let refusal = Refusal::UnknownRequest { code: to.code };
                        self.reader.remote().reply(&caller, to, &Err(refusal));
                    }
                }
                ClientRequest::ConsumerStatus { topic, .. } => {
                    let settled = self.membership.settled(&topic).into_iter();
                    let status = settled.map(|(queue, offset)| {
                        (broker_queue(&queue), i64::try_from(offset.0).unwrap_or(i64::MAX))
                    });
                    let reply = Ok(ClientReply::ConsumerStatus(status.collect()));
                    if let Some(to) = reply_to {
                        self.reader.remote().reply(&caller, to, &reply);
                    }
                }
            }
        }
    }

    fn reset(&mut self, reset: ResetOffsets) {
        for (BrokerQueue { broker_name, queue: of }, offset) in reset.offsets {
            let (topic, broker) = (of.topic, broker_name.to_string());
            let queue = QueueRef { topic, broker, queue: of.queue };
            if let Ok(offset) = u64::try_from(offset) {
                self.membership.handle_reset(&queue, QueueOffset(offset));
            }
        }
    }
}

/// The members in a reply; a broker that knows none refuses.
fn members(response: &Response) -> Result<Vec<String>, ReplyError> {
    match response.members() {
        Ok(members) => Ok(members.iter().map(ToString::to_string).collect()),
        Err(ReplyError { code: SYSTEM_ERROR, .. }) => Ok(Vec::new()),
        Err(refusal) => Err(refusal),
    }
}

fn heartbeat(
    client: &str,
    group: &GroupName,
    subscriptions: BTreeMap<TopicName, Expression>,
    now: Timestamp,
) -> Request {
    let version = i64::try_from(now.0).unwrap_or(i64::MAX);
    let subscription = |(topic, expression)| SubscriptionData { topic, expression, version };
    let consumer = ConsumerData {
        group: group.clone(),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        subscriptions: subscriptions.into_iter().map(subscription).collect(),
    };
    let (client, consumers) = (client.into(), vec![consumer]);
    Request::Heartbeat(Heartbeat { client, consumers, ..Heartbeat::default() })
}

fn queue_of(queue: &QueueRef) -> QueueOf {
    QueueOf { topic: queue.topic.clone(), queue: queue.queue }
}

fn broker_queue(queue: &QueueRef) -> BrokerQueue {
    BrokerQueue { broker_name: queue.broker.as_str().into(), queue: queue_of(queue) }
}

#[cfg(test)]
mod tests;
