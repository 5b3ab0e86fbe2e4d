//! Operations: requests that may take time. Each is one `async` function that may read the disk,
//! wait for room in the log, append, and wait for the commit. Produce and pull are not operations:
//! they never wait here, and a pull that must read the disk continues in [`Broker::pull_cold`].
//!
//! ```text
//!   Broker::operate ─▶ decide under a borrow ─▶ record ─▶ apply     in one synchronous step: transact
//!                            ▲                    │
//!                            └── wait for room ◀──┘─▶ wait until it is committed ─▶ the reply
//! ```
//!
//! Rules for operations:
//! - An operation is dropped at its current wait when its connection closes, so nothing may depend
//!   on the code after an `.await`. What it has recorded stays.
//! - It holds no borrow while it waits, and decides again afterwards, because the state may have
//!   changed.
//! - The caller bounds how many run at a time: the shard does so per connection and in total.

use std::cell::Cell;
use std::net::SocketAddrV4;

use super::facts::Facts;
use super::filter::TagFilter;
use super::groups::{Note, Sender};
use super::state::Durable;
use super::{Answer, Broker, Origin, Outcome};
use crate::model::Peer;
use crate::model::request::{Boundary, Heartbeat};
use crate::model::{ClientId, ClientRequest, GroupName, LogOffset, Now, Refusal, Reply, Request};
use crate::storage::disk::Disk;

/// Maximum number of invalid list elements that are logged, and of clients logged for shared client
/// ids; further ones are not logged.
const LOGGED_MAX: usize = 1_000;

/// What an operation needs from its caller. There are two implementations: a connection, and the
/// process itself, for requests between shards.
#[allow(async_fn_in_trait)] // Futures stay on the shard that made them and need not be Send.
pub trait Context {
    /// Permission to read the disk, until it is dropped.
    type ColdRead<'a>
    where
        Self: 'a;

    fn origin(&self) -> Origin;

    /// The client's end of the connection.
    fn peer(&self) -> Peer {
        Peer { host: self.origin().host, language: 0, version: 0 }
    }

    /// The current time, later than before the last wait.
    fn now(&self) -> Now;

    /// Waits until there is room for a reply with `size_max` bytes of messages and it is this
    /// operation's turn to read the disk. So a client that does not read its replies cannot cause
    /// disk reads.
    async fn cold_read(&self, size_max: usize) -> Self::ColdRead<'_>;
}

impl<D: Disk> Broker<D> {
    /// Executes a request for which [`handle`](Self::handle) returned [`Handled::Operation`](super::Handled::Operation).
    pub async fn operate(&self, request: &Request, context: &impl Context) -> Answer {
        self.try_operate(request, context).await.unwrap_or_else(Answer::refused)
    }

    async fn try_operate(
        &self,
        request: &Request,
        context: &impl Context,
    ) -> Result<Answer, Refusal> {
        self.check_leads(request)?;
        self.becomes_newest(request, context).await?;
        let reply = match request {
            Request::MaxOffset(queue) => self.max_offset(queue)?,
            Request::MinOffset(queue) => self.min_offset(queue)?,
            Request::OffsetByTime { queue, at, boundary } => {
                let is_upper = *boundary == Boundary::Upper;
                self.offset_by_time(queue, *at, is_upper, context).await?
            }
            Request::EarliestStoreTime(queue) => self.earliest_store_time(queue, context).await?,
            Request::CommittedOffset { group, queue, zero_if_missing } => {
                self.committed_offset(group, queue, *zero_if_missing)?
            }
            Request::CommitOffset { group, queue, offset } => {
                self.commit_offset(group, queue, *offset, context).await?
            }
            Request::Heartbeat(heartbeat) => self.heartbeat(heartbeat, context).await?,
            Request::Unregister { client, producer, consumer } => {
                let left =
                    self.unregister(client, producer.as_ref(), consumer.as_ref(), context.origin());
                self.schedule_notifications(context.now().moment);
                if let Some(group) = consumer
                    && self.leads()
                {
                    self.release_locks(client, group, context).await?;
                }
                left
            }
            Request::SendBack(back) => self.send_back(back, context).await?,
            Request::Presence(presence) => {
                self.state.borrow_mut().groups.learn(presence)?;
                Reply::Done
            }
            Request::SendReply(message) => self.send_reply(message, context).await?,
            Request::CheckFilter(expression) => {
                TagFilter::parse(expression).map(|_| Reply::Done)?
            }
            Request::LockQueues(request) => self.lock_queues(request, context).await?,
            Request::UnlockQueues(request) => self.unlock_queues(request, context).await?,
            Request::GroupMembers { group } => {
                Reply::Members(self.state.borrow_mut().groups.members(group)?)
            }
            Request::MessageByOffset { offset } => {
                return self.message_at(*offset, context).await;
            }
            Request::QueryMessages { .. } => return Err(Refusal::NothingFound),
            Request::Recall { topic, handle } => self.recall(topic, handle, context).await?,
            Request::UpdateTopic(config) => self.update_topic(config, true, context).await?,
            Request::CreateTopic(config) => self.update_topic(config, false, context).await?,
            Request::DeleteTopic { topic } => self.delete_topic(topic, context).await?,
            Request::TopicStats { topic } => self.topic_stats(topic, context).await?,
            Request::TopicConfig { topic } => {
                let state = self.state.borrow();
                Reply::TopicConfig(state.durable.topics.find(topic)?.1.config.clone())
            }
            Request::RuntimeInfo => self.runtime_info(context.now().moment),
            Request::UpdateGroup(config) => {
                self.update_groups(std::slice::from_ref(config), context).await?
            }
            Request::UpdateGroups(configs) => self.update_groups(configs, context).await?,
            Request::CreateGroups { groups } => self.create_groups(groups.iter(), context).await?,
            Request::DeleteGroup { group, with_offsets } => {
                self.delete_group(group, *with_offsets, context).await?
            }
            Request::GroupConfig { group } => self.group_config(group)?,
            Request::Consumers { group } => self.consumers(group)?,
            Request::Producers { group } => self.producers(group)?,
            Request::GroupsOf { topic } => self.groups_of(topic)?,
            Request::GroupProgress { group, topic } => {
                self.progress(group, topic.as_ref(), context).await?
            }
            Request::ConsumerStatus { topic, group, client } => {
                self.consumer_status(topic, group, client.as_ref(), context).await?
            }
            Request::RunningInfo(info) => self.running_info(info, context).await?,
            Request::ConsumeDirectly(what) => self.consume_directly(what, context).await?,
            Request::ResetGroup(reset) => self.reset_group(reset, context).await?,
            Request::GroupConfigs { first, count_max } => self.group_configs(*first, *count_max)?,
            Request::Controller(request) => self.answer_controller(request).await?,
            Request::Replicas => self.show_replicas()?,
            Request::ChangeReplicas(order) => self.change_replicas(order.clone()).await?,
            Request::Produce(_) | Request::ProduceRecords(_) | Request::Pull(_) => {
                return Err(self.refuse_bug("producing and pulling are no operations"));
            }
        };
        self.check_newest(request)?;
        self.schedule_notifications(context.now().moment);
        self.log_notes();
        Ok(Answer { reply: Ok(reply), chunks: Vec::new() })
    }

    /// Refuses one request because of a bug that does not concern others, and logs it.
    #[cold]
    pub(super) fn refuse_bug(&self, what: &'static str) -> Refusal {
        tracing::error!(shard = self.config.shard.0, "a request was refused due to a bug: {what}");
        Refusal::Bug(what)
    }

    /// Refuses requests that only the leader may execute, before they change anything.
    fn check_leads(&self, request: &Request) -> Result<(), Refusal> {
        match request.needs_leader() && !self.leads() {
            true => Err(Refusal::NotLeader { shard: self.config.shard.0 }),
            false => Ok(()),
        }
    }

    /// Handles a heartbeat. A new group is created for its first member. A new member of a group is
    /// notified of the group's change before the reply, as stock brokers do (remoting reference, 5.23);
    /// the other members a moment later.
    async fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        self.log_skipped("a heartbeat", &heartbeat.client, &heartbeat.skipped);
        // Members join even a group that cannot be created: they have messages to consume while the
        // disk is full.
        let created = self.create_groups(heartbeat.joined_groups(), context).await;
        let (connection, now) = (context.origin().connection, context.now().moment);
        let taken = {
            let groups = &mut self.state.borrow_mut().groups;
            groups.heartbeat(heartbeat, Sender { connection, peer: context.peer(), now })
        };
        let taken = created.map(drop).and(taken);
        for group in heartbeat.joined_groups() {
            let state = self.state.borrow();
            let is_notified = state.groups.has_changed(group)
                && state.groups.connections_to_notify(group).contains(&connection);
            drop(state);
            if is_notified {
                let group = group.detached();
                self.notify_client(connection, ClientRequest::MembersChanged { group });
            }
        }
        self.schedule_notifications(now);
        taken.map(|()| Reply::HeartbeatTaken)
    }

    /// Logs the invalid elements of a list in a client's request, each once.
    pub(super) fn log_skipped(&self, request: &str, client: &ClientId, skipped: &[String]) {
        if skipped.is_empty() {
            return;
        }
        let logged = &mut self.state.borrow_mut().logged_skipped;
        let mut is_new = |what: &&String| {
            logged.len() < LOGGED_MAX
                && logged.insert((ClientId::from(&**client), what.to_string()))
        };
        let new: Vec<&str> = skipped.iter().filter(&mut is_new).map(String::as_str).collect();
        if !new.is_empty() {
            let (shard, new) = (self.config.shard.0, new.join("; "));
            tracing::warn!(shard, %client, "skipped invalid elements of {request}: {new}");
        }
    }

    fn unregister(
        &self,
        client: &ClientId,
        producer: Option<&GroupName>,
        consumer: Option<&GroupName>,
        origin: Origin,
    ) -> Reply {
        // Requests of other shards do not come over a connection.
        let connection = (origin.connection != 0).then_some(origin.connection);
        let groups = &mut self.state.borrow_mut().groups;
        match groups.unregister(client, producer, consumer, connection) {
            true => Reply::Unregistered,
            false => Reply::Done,
        }
    }

    /// Logs the notes about groups. All shards see the same groups, so only the first one logs.
    fn log_notes(&self) {
        let state = &mut *self.state.borrow_mut();
        let notes = state.groups.take_notes();
        for note in notes.into_iter().filter(|_| self.config.shard.0 == 0) {
            match note {
                Note::Differ { group, members: [first, second], topic } => tracing::warn!(
                    "members of group {group} subscribe to different topics or tags: {first} \
                     subscribes to {topic}, {second} does not, or differently; for each topic, \
                     the newest subscription applies to all members"
                ),
                Note::Shared { client, peers } => {
                    let logged = &mut state.logged_shared;
                    if logged.len() < LOGGED_MAX && logged.insert(client.clone()) {
                        let hosts: Vec<SocketAddrV4> =
                            peers.iter().map(|peer| peer.host.into()).collect();
                        tracing::warn!(
                            %client, ?hosts,
                            "two processes have the same client id, so each gets only part of \
                             its queues; give them different instance names"
                        );
                    }
                }
            }
        }
    }

    /// Records the facts that `decide` returns, and waits until they are committed. After waiting
    /// for room, it decides again. No facts means that the state is already as requested, though
    /// perhaps not committed yet.
    pub(super) async fn transact(
        &self,
        decide: impl FnMut(&Durable) -> Result<Facts, Refusal>,
        context: &impl Context,
    ) -> Result<(), Refusal> {
        let mark = self.transact_until(decide, context).await?;
        self.committed(mark).await
    }

    /// As [`transact`](Self::transact), but returns as soon as the facts are applied: they are
    /// committed once the log is, up to the returned offset.
    pub(super) async fn transact_until(
        &self,
        mut decide: impl FnMut(&Durable) -> Result<Facts, Refusal>,
        context: &impl Context,
    ) -> Result<LogOffset, Refusal> {
        let size = Cell::new(0);
        let attempt = || {
            let facts = match decide(&self.state.borrow().durable) {
                Ok(facts) => facts,
                Err(refusal) => return Ok(Err(refusal)),
            };
            size.set(facts.size());
            let mark = if facts.is_empty() { self.store.end() } else { self.record(&facts)? };
            Ok(Ok(mark))
        };
        self.with_room(|| size.get(), attempt, context).await?
    }

    /// Waits until the log is committed up to `mark`.
    pub(super) async fn committed(&self, mark: LogOffset) -> Result<(), Refusal> {
        match self.store.reached(mark).await {
            true => Ok(()),
            false => Err(Refusal::OutcomeUnknown),
        }
    }

    /// Continues a pull for which [`handle`](Self::handle) returned [`Outcome::Cold`].
    pub async fn pull_cold(&self, task: Box<super::PullTask>, context: &impl Context) -> Outcome {
        let _permit = context.cold_read(task.bytes_max as usize).await;
        self.read_and_pull(*task).await
    }
}
