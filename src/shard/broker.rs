//! A broker's shard as a service, and its tasks: committers, inbox, tick and background work.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use glommio::sync::Permit;

use super::announce::Announcer;
use super::clock;
use super::mesh::{Envelope, Inbox, Mesh};
use super::service::Service;
use super::shard::Shard;
use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::broker::operation::Context;
use crate::broker::{Answer, Broker, Handled, Origin, Outcome, PullTask};
use crate::client::registrar::Receipt;
use crate::client::remote::CALL_TIMEOUT_MS;
use crate::model::request::Scope;
use crate::model::{ClientReply, Metrics, Now, Refusal, Reply, Request};
use crate::reactor;
use crate::storage::disk::Disk;
use crate::storage::recovery::damage_note;
use crate::storage::slice::yield_now;
use crate::storage::{AppendError, Awaited, CommitStep, Standing, Ticket, WRITES_IN_FLIGHT_MAX};

/// One connection may use one part in this many of the append budget.
const CONNECTION_SHARE: usize = 4;
/// How long replies are sent before the shard checks whether the device can be given more.
const ANSWER_TIME: Duration = Duration::from_millis(1);
/// How often to check for idle connections.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Pause before failed background work is retried, for instance on a full disk.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// How often failing background work is logged.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a topic change waits for a NameServer that does not respond. After that the reply is
/// sent anyway. The client waits for this in addition to the disk.
const ANNOUNCE_MAX: Duration = Duration::from_secs(1);
const _: () = assert!(ANNOUNCE_MAX.as_millis() * 2 < CALL_TIMEOUT_MS as u128);

pub struct BrokerService<D: Disk> {
    pub broker: Broker<D>,
    mesh: Mesh,
    announcer: Announcer,
}

impl<D: Disk> BrokerService<D> {
    pub fn new(broker: Broker<D>, mesh: Mesh, announcer: Announcer) -> Self {
        Self { broker, mesh, announcer }
    }

    /// Executes a request on this shard only.
    async fn carry_out(&self, request: &Request, context: &impl Context) -> Result<Reply, Refusal> {
        self.broker.operate(request, context).await.reply
    }

    /// Executes a request on all shards, and notifies the NameServers.
    async fn carry_out_everywhere(
        &self,
        request: &Request,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let others = self.mesh.ask_others(self.broker.config().shard, request);
        let (own, others) = futures_util::join!(self.carry_out(request, context), others);
        others?;
        let reply = own?;
        wait_delivered(self.announce()).await;
        Ok(reply)
    }

    /// Executes `request` on the other shards after it has been executed here.
    async fn spread(&self, request: Request) {
        let shard = self.broker.config().shard;
        match self.mesh.ask_others(shard, &request).await {
            // The process is stopping.
            Ok(()) | Err(Refusal::ShuttingDown) => {}
            Err(refusal) => tracing::warn!(
                shard = shard.0,
                "the shards know different groups or members: {refusal}"
            ),
        }
    }

    /// Publishes topic changes to the NameServers. A caller that answers a client waits on the
    /// receipt; others ignore it. `None` while shards are starting.
    pub fn announce(&self) -> Option<Receipt> {
        let (version, changes) = self.broker.take_topic_changes();
        self.announcer.announce(self.broker.config().shard, version, changes)
    }

    /// Publishes the topics once all shards of the process have started, and waits until the
    /// NameServers have them.
    pub async fn introduce(&self) {
        let (version, topics) = self.broker.published_topics();
        let receipt = self.announcer.introduce(self.broker.config().shard, version, topics);
        wait_delivered(receipt).await;
    }
}

/// Waits until the NameServers have the change. One that does not answer in time gets it with the
/// next registration, and later changes do not wait for it until then.
async fn wait_delivered(receipt: Option<Receipt>) {
    let Some(receipt) = receipt else { return };
    let is_late = {
        let delivered = pin!(reactor::reachable(receipt.delivered()));
        let deadline = pin!(reactor::sleep(ANNOUNCE_MAX));
        matches!(futures_util::future::select(delivered, deadline).await, Either::Right(_))
    };
    if is_late {
        receipt.give_up();
    }
}

impl<D: Disk> Service for BrokerService<D> {
    type Request = Request;
    type Reply = Reply;

    fn stores(request: &Request) -> bool {
        matches!(request, Request::Produce(_) | Request::ProduceRecords(_))
    }

    fn handle(&self, request: &Request, origin: Origin, now: Now) -> Handled {
        self.broker.handle(request, origin, now)
    }

    async fn operate(&self, request: Request, context: &impl Context) -> Answer {
        if request.scope() == Scope::EveryShard {
            let reply = self.carry_out_everywhere(&request, context).await;
            return Answer { reply, chunks: Vec::new() };
        }
        let missing = self.broker.missing_groups(&request);
        let mut answer = self.broker.operate(&request, context).await;
        if let Request::Heartbeat(heartbeat) = &request
            && let Some(presence) = self.broker.take_presence(heartbeat)
        {
            self.spread(Request::Presence(presence)).await;
        }
        if let Ok(Reply::Unregistered) = answer.reply {
            self.spread(request).await;
            answer.reply = Ok(Reply::Done);
        }
        if !missing.is_empty() {
            self.spread(Request::CreateGroups { groups: missing }).await;
            wait_delivered(self.announce()).await;
        }
        answer
    }

    async fn pull_cold(&self, task: Box<PullTask>, context: &impl Context) -> Outcome {
        self.broker.pull_cold(task, context).await
    }

    fn metrics(&self) -> Rc<Metrics> {
        self.broker.store().metrics().clone()
    }

    fn standing(&self) -> Standing {
        self.broker.store().standing()
    }

    fn was_cut(&self, awaited: Awaited) -> bool {
        self.broker.store().was_cut(awaited)
    }

    fn connection_budget(&self) -> usize {
        self.broker.store().append_budget() / CONNECTION_SHARE
    }

    fn ticket(&self, size: usize) -> Result<Ticket, AppendError> {
        self.broker.store().ticket(size)
    }

    fn spare_room(&self) -> u64 {
        self.broker.store().spare_room()
    }

    fn connection_closed(&self, connection: u64) {
        self.broker.connection_closed(connection, clock::moment());
    }

    fn take_outgoing(&self) -> Option<Outgoing> {
        self.broker.take_outgoing()
    }

    fn reply_arrived(&self, call: CallId, reply: Result<ClientReply, CallError>) {
        self.broker.reply_arrived(call, reply);
    }
}

/// Context of a request from another shard of this process. It reads no disk.
struct Inside;

impl Context for Inside {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        clock::now()
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// Context of the delivery of delayed messages. It reads the disk in turn with consumers.
struct Delivering<'a, D: Disk>(&'a Shard<BrokerService<D>>);

impl<D: Disk> Context for Delivering<'_, D> {
    type ColdRead<'b>
        = Permit<'b>
    where
        Self: 'b;

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        clock::now()
    }

    async fn cold_read(&self, _size_max: usize) -> Permit<'_> {
        self.0.cold_permit().await
    }
}

impl<D: Disk> Shard<BrokerService<D>> {
    /// Starts the committers; they end when the store is stopped or fenced.
    pub fn start_committers(self: &Rc<Self>) {
        for _ in 0..WRITES_IN_FLIGHT_MAX {
            reactor::spawn_first(self.clone().commit());
        }
    }

    async fn commit(self: Rc<Self>) {
        loop {
            let step = self.service.broker.store().commit_step().await;
            self.answer_committed().await;
            match step {
                Ok(CommitStep::Stopped) => return,
                Ok(_) => {}
                Err(fault) => {
                    tracing::error!(
                        shard = self.id.0,
                        "shard fenced, all requests are refused: {fault}"
                    );
                    return;
                }
            }
        }
    }

    /// Sends the committed replies. With thousands of connections that takes longer than a write,
    /// so meanwhile the other committers get the device's completions and start the next writes;
    /// they leave most of the sending to the first.
    pub async fn answer_committed(self: &Rc<Self>) {
        if self.is_answering.replace(true) {
            self.handle_commit(Duration::ZERO);
            return;
        }
        let mut time = Duration::ZERO;
        while self.handle_commit(time) {
            yield_now().await;
            reactor::look();
            time = ANSWER_TIME;
        }
        self.is_answering.set(false);
    }

    /// Answers some of what waits for the committed watermark, which has advanced, or for the
    /// shard, which is fenced: a number of held pulls, and replies for about `time`. Returns whether
    /// there is more; the caller then calls again.
    pub fn handle_commit(self: &Rc<Self>, time: Duration) -> bool {
        let has_more = self.release(self.service.broker.advance(), time);
        self.spread_created();
        has_more || self.service.broker.has_woken()
    }

    /// Announces topics that producers have created here to the other shards and the NameServers.
    fn spread_created(self: &Rc<Self>) {
        let created = self.service.broker.take_created();
        if created.is_empty() {
            return;
        }
        let shard = self.clone();
        reactor::spawn(async move {
            for config in created {
                let request = Request::CreateTopic(config);
                if let Err(refusal) = shard.service.mesh.ask_others(shard.id, &request).await {
                    tracing::warn!(
                        shard = shard.id.0,
                        "topic not created on all shards: {refusal}"
                    );
                }
            }
            shard.service.announce();
        })
        .detach();
    }

    /// Serves requests of other shards until it is told to stop.
    pub async fn take_asks(self: &Rc<Self>, inbox: Inbox) {
        while let Ok(envelope) = reactor::reachable(inbox.recv_async()).await {
            self.beat();
            match envelope {
                Envelope::Stop => return,
                Envelope::Ask { request, answer } => {
                    let shard = self.clone();
                    reactor::spawn(async move {
                        let broker = &shard.service.broker;
                        let reply = match request.needs_leader() && !broker.leads() {
                            // Its leader is in another process, which also gets the request.
                            true => Ok(Reply::Done),
                            false => shard.service.carry_out(&request, &Inside).await,
                        };
                        if reply.is_ok() {
                            // The shard that asked waits for the NameServers, once for all shards.
                            shard.service.announce();
                        }
                        // The caller may have stopped waiting.
                        let _ = answer.send(reply);
                    })
                    .detach();
                }
            }
        }
    }

    /// Delivers delayed messages until [`stop`](Self::stop).
    pub async fn deliver(self: Rc<Self>) {
        let delivering = Delivering(&self);
        futures_util::join!(self.service.broker.deliver(&delivering), self.wake_delivery());
    }

    /// Wakes the delivery as soon as a message is due, without waiting for a tick.
    async fn wake_delivery(&self) {
        let broker = &self.service.broker;
        while !self.is_stopping.get() {
            let next = broker.next_delivery();
            let moves = pin!(broker.delivery_moves(next));
            match next {
                None => moves.await,
                Some(at) => {
                    let wait = Duration::from_millis(at.ms_since(clock::moment()));
                    select(pin!(reactor::sleep(wait)), moves).await;
                }
            }
            broker.wake_delivery(clock::moment());
        }
    }

    /// Runs periodic work, except for what has a deadline, until the shard stops.
    pub async fn tick(self: Rc<Self>) {
        let mut sweep_at = Instant::now();
        while !self.is_stopping.get() {
            clock::next_tick(self.id).await;
            self.take_nudges();
            self.service.broker.sample_rates(clock::moment());
            self.announce_leftovers();
            self.spread_presences();
            if sweep_at.elapsed() >= SWEEP_EVERY {
                sweep_at = Instant::now();
                self.close_idle(sweep_at);
            }
        }
    }

    /// Announces topic changes whose requests were dropped with their connection before they could
    /// do so.
    fn announce_leftovers(&self) {
        if self.service.broker.has_topic_changes() {
            self.service.announce();
        }
    }

    /// Reports to the other shards which clients have left or changed, other than by a heartbeat.
    fn spread_presences(self: &Rc<Self>) {
        let presences = self.service.broker.take_presences();
        if presences.is_empty() {
            return;
        }
        let shard = self.clone();
        reactor::spawn(async move {
            for presence in presences {
                shard.service.spread(Request::Presence(presence)).await;
            }
        })
        .detach();
    }

    /// Sends the broker's requests to clients, until the shard stops.
    pub async fn send_to_clients(self: Rc<Self>) {
        let broker = &self.service.broker;
        while !self.is_stopping.get() {
            match broker.next_notice() {
                None => broker.has_outgoing_or_notice().await,
                Some(at) => {
                    let wait = Duration::from_millis(at.ms_since(clock::moment()));
                    select(pin!(reactor::sleep(wait)), pin!(broker.has_outgoing())).await;
                }
            }
            self.send_requests();
            while let Some(notice) = broker.take_notice(clock::moment()) {
                self.send(&notice);
            }
            reactor::pass().await;
        }
    }

    /// Does what is due, until the shard stops. Other tasks run in between: a round of them may take
    /// long, so there is more than one step before each.
    pub async fn meet_deadlines(self: Rc<Self>) {
        let broker = &self.service.broker;
        let is_due = |at| broker.next_deadline().is_some_and(|due| due <= at);
        while !self.is_stopping.get() {
            clock::next_tick(self.id).await;
            let tick = clock::moment();
            while is_due(tick) {
                let begin = Instant::now();
                while is_due(tick) && begin.elapsed() < ANSWER_TIME {
                    self.release(broker.act(clock::now()), Duration::ZERO);
                }
                reactor::pass().await;
            }
        }
    }

    /// Flushes the log and runs the store's background work until the shard stops. The two do not
    /// wait for each other.
    pub async fn maintain(self: Rc<Self>) {
        futures_util::join!(self.flush_log(), self.work_in_background());
    }

    async fn flush_log(&self) {
        while !self.is_stopping.get() {
            clock::next_tick(self.id).await;
            if let Err(fault) = self.service.broker.store().flush(clock::moment()).await {
                tracing::error!(shard = self.id.0, "cannot flush the log: {fault}");
            }
        }
    }

    async fn work_in_background(&self) {
        let mut said_at: Option<Instant> = None;
        while !self.is_stopping.get() {
            clock::next_tick(self.id).await;
            let longest = reactor::take_longest_poll().as_nanos() as u64;
            self.service.broker.store().metrics().longest_poll.record(longest);
            for hole in self.service.broker.store().take_damage() {
                tracing::error!(shard = self.id.0, "{}", damage_note(&hole));
            }
            for segment in self.service.broker.store().take_rebuilt() {
                tracing::warn!(
                    shard = self.id.0,
                    "the index file of the segment at {segment} was missing or damaged and has been \
                     rebuilt from the segment; no message is affected"
                );
            }
            self.log_clock_steps();
            let Err(fault) = self.service.broker.maintain(clock::now(), false).await else {
                continue;
            };
            if said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                said_at = Some(Instant::now());
                tracing::error!(shard = self.id.0, "background work failed: {fault}");
            }
            let failed_at = Instant::now();
            while !self.is_stopping.get() && failed_at.elapsed() < FAILED_PAUSE {
                clock::next_tick(self.id).await;
            }
        }
    }

    /// All shards see the same clock, so the first one speaks for the process.
    fn log_clock_steps(&self) {
        for step in self.service.broker.store().take_clock_steps() {
            if self.id.0 == 0 {
                tracing::warn!(
                    "the wall clock was set by {:+.3} s; messages and offsets are kept by elapsed time, \
                     so nothing is deleted because of it",
                    step.ms() as f64 / 1000.0
                );
            }
        }
    }

    /// Shuts down a shard that accepts nothing new: sends all replies, writes all facts, takes a
    /// snapshot, syncs.
    pub async fn stop(self: &Rc<Self>) {
        assert!(self.is_stopping.get(), "a shard first stops accepting");
        self.stop_reading();
        let deadline = Instant::now() + STOP_MAX;
        while self.connection_count() > 0 && Instant::now() < deadline {
            reactor::sleep(Duration::from_millis(5)).await;
        }
        let broker = &self.service.broker;
        if !broker.store().is_fenced() {
            if let Err(refusal) = broker.flush_offsets(clock::moment()) {
                tracing::warn!(shard = self.id.0, "cannot write offsets: {refusal}");
            }
            broker.store().drained().await;
            if let Err(fault) = broker.store().sync().await {
                tracing::error!(shard = self.id.0, "cannot flush the log: {fault}");
            }
            if let Err(fault) = broker.maintain(clock::now(), true).await {
                tracing::error!(shard = self.id.0, "cannot take a snapshot at shutdown: {fault}");
            }
        }
        broker.store().stop();
    }
}

/// How long shutdown waits for connections.
const STOP_MAX: Duration = Duration::from_secs(10);
