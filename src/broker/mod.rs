//! What one shard does with a request: topics and queues, storing and reading messages, consumer
//! groups and their offsets. Generic over the disk; no socket, clock, runtime or encoding.
//!
//! ```text
//!   handle(request, now) ─▶ Handled::Done ──────┬─▶ Outcome::Now        the reply
//!                           Handled::NoRoom     ├─▶ Outcome::Committed  the reply, once the log is
//!                             nothing yet:      │                       committed up to `mark`
//!                             the log is full   ├─▶ Outcome::Held       a pull that waits; see
//!                           Handled::Operation  │                       `advance` and `act`
//!                             await `operate`   └─▶ Outcome::Cold       a pull that must read the
//!                                                                       disk: await `pull_cold`
//! ```
//!
//! Start reading at [`Broker::handle`]. `produce` and `pull` are the two main paths, and never
//! wait; everything else is an [`operation`]. `leading` determines whether a replica of the shard
//! may report what is newest. `state` is derived from the log and has the table of its parts:
//! `topics`, `offsets`, `group_configs`, `locks`, `messages`, `delays`; `facts` is how changes are
//! stored in the log. `groups` and `held` live as long as a connection; `waking` answers held pulls
//! in steps. None of these does I/O. `upkeep` is the time-driven work.
//!
//! Invariants:
//! - Durable state changes only where facts are applied, and a fact is in the log before it is applied,
//!   in the same synchronous step. So the state always equals the entries below the log's end.
//! - Only operations and cold pulls wait, and they hold no borrow while waiting.
//! - Consumers see only committed messages.

mod agenda;
mod ages;
mod carry;
mod client_calls;
pub mod clients;
mod config;
mod controller;
mod cut;
mod delay_key;
mod delayed_topics;
mod delaying;
mod delays;
mod delivery;
mod delivery_state;
mod due;
mod facts;
mod filter;
mod flush;
mod gone;
mod group_configs;
mod group_requests;
mod group_stats;
mod groups;
mod held;
mod leadership;
mod leading;
mod lock_requests;
mod locks;
mod lookup;
mod messages;
pub mod metrics;
mod notices;
mod offset_requests;
mod offsets;
mod open;
pub mod operation;
mod origin;
mod outcome;
mod produce;
mod pull;
pub mod raft_entries;
mod rates;
mod recall;
mod recalled;
mod relay;
mod replica;
mod replica_requests;
mod replicas;
mod request_reply;
mod retry;
mod room;
mod runtime_info;
#[cfg(test)]
mod same_state;
pub mod sent;
mod state;
mod topic_requests;
mod topics;
mod upkeep;
mod waking;
mod walk;
mod woken;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};

use self::clients::Clients;
use self::delivery_state::Delivery;
use self::due::Due;
use self::facts::{Fact, Facts};
use self::flush::Flush;
use self::groups::Groups;
use self::held::Held;
use self::leadership::Leading;
use self::rates::Rates;
use self::replicas::Replicas;
use self::state::{Durable, Snapshot};
use self::woken::{Ended, Then, Woken};
use crate::model::deadlines::Deadlines;
use crate::model::request::{Heartbeat, Presence};
use crate::model::topic::TopicChange;
use crate::model::{
    ClientId, DataVersion, GroupName, LogOffset, Moment, Now, QueueOffset, Refusal, Request,
    ShardId, TopicConfig,
};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::signal::Signal;
use crate::storage::{Append, AppendError, Appended, QueueKey, ReadError, SpaceClass, Store};

/// The layouts of facts, documented in `docs/format.md`.
pub mod layout {
    pub use super::delayed_topics::PendingRow;
    pub use super::delays::{DelayState, DelayedHead, DelayedItem};
    pub use super::facts::FactHead;
    pub use super::group_configs::{GroupRemoved, GroupSet};
    pub use super::locks::{LockHead, LockRow};
    pub use super::offsets::{GroupHead, OffsetRow};
    pub use super::raft_entries::{RaftEntryHead, RaftPlaceRow};
    pub use super::recalled::RecalledRow;
    pub use super::sent::{SentHead, SentRow};
    pub use super::topics::{TopicRemoved, TopicSet, TopicTable};
}

pub use self::config::BrokerConfig;
pub use self::cut::CutError;
pub use self::delaying::Delay;
pub use self::facts::FactError;
pub use self::held::PullTask;
pub use self::leadership::{Leadership, Standing};
pub use self::open::{OpenError, OpenReport};
pub use self::origin::Origin;
pub use self::outcome::{Answer, Handled, Outcome, RETRY_AFTER_MS, Released};
pub use self::replica::RawError;

/// An append whose messages are not visible yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    end: LogOffset,
    queue: QueueKey,
    next: QueueOffset,
}

/// The mutable state. `pending` is in log order.
#[derive(Default)]
struct State {
    /// Changed only by applying facts.
    durable: Durable,
    groups: Groups,
    held: Held,
    pending: VecDeque<Pending>,
    /// Committed messages below this are visible.
    visible_to: LogOffset,
    /// Held pulls that are answered in the next steps.
    woken: VecDeque<Woken>,
    /// Held pulls that ended because their topic or group changed, in log order.
    ended: VecDeque<Ended>,
    /// Topics created by producers since the shard last asked.
    created: Vec<TopicConfig>,
    /// Deadlines and what is due at each.
    deadlines: Deadlines<Due>,
    flush: Flush,
    delivery: Delivery,
    clients: Clients,
    /// Groups whose members have not been notified of a change yet.
    to_notify: BTreeSet<GroupName>,
    /// Invalid list elements that have been logged, and whose they were.
    logged_skipped: BTreeSet<(ClientId, String)>,
    /// Clients for which it has been logged that two processes use one client id.
    logged_shared: BTreeSet<ClientId>,
    /// Whether it has been logged that an offset could not be committed because the table is full.
    has_logged_full: Cell<bool>,
}

pub struct Broker<D: Disk> {
    config: BrokerConfig,
    store: Store<D>,
    state: RefCell<State>,
    /// Offsets were written to the log, or could not be written.
    flushes: Signal,
    /// There is a request to send to a client.
    outgoing: Signal,
    /// Delayed messages are due, or no more are to be delivered.
    deliveries: Signal,
    leading: Leading,
    replicas: Replicas,
    rates: RefCell<Rates>,
}

impl<D: Disk> Broker<D> {
    /// Executes one request as far as possible without waiting.
    pub fn handle(&self, request: &Request, origin: Origin, now: Now) -> Handled {
        let handled = match request {
            Request::Produce(produce) => self.produce(produce, origin, now),
            Request::ProduceRecords(records) => self.produce_records(records, origin, now),
            Request::Pull(pull) => self.pull(pull, origin, now.moment).map(Handled::Done),
            _ => return Handled::Operation,
        };
        handled.unwrap_or_else(|refusal| Handled::Done(Outcome::Now(Answer::refused(refusal))))
    }

    /// Makes newly committed messages visible, and answers some of the pulls that waited for them.
    /// To be called again, after other work, while it [leaves some](Self::has_woken).
    pub fn advance(&self) -> Vec<Released> {
        {
            let state = &mut *self.state.borrow_mut();
            state.become_visible(self.store.committed());
            state.wake_ended(self.store.committed(), self.store.is_fenced());
        }
        self.answer_woken()
    }

    /// Removes the state of a closed connection.
    pub fn connection_closed(&self, connection: u64, now: Moment) {
        self.forget_connection(connection);
        self.schedule_notifications(now);
    }

    fn forget_connection(&self, connection: u64) {
        let state = &mut *self.state.borrow_mut();
        state.groups.connection_closed(connection);
        state.clients.connection_closed(connection, &mut state.deadlines);
        state.held.connection_closed(connection, &mut state.deadlines);
    }

    /// The changes made by this heartbeat, for the other shards.
    pub fn take_presence(&self, heartbeat: &Heartbeat) -> Option<Presence> {
        let Heartbeat { client, consumers, .. } = heartbeat;
        self.state.borrow_mut().groups.take_presence(self.config.shard, client, consumers)
    }

    /// The changes of all clients, for the other shards.
    pub fn take_presences(&self) -> Vec<Presence> {
        self.state.borrow_mut().groups.take_presences(self.config.shard)
    }

    /// Topics that producers created since the last call, for the other shards and the NameServers.
    pub fn take_created(&self) -> Vec<TopicConfig> {
        std::mem::take(&mut self.state.borrow_mut().created)
    }

    /// The topics to publish at the start; [`take_topic_changes`](Self::take_topic_changes) returns
    /// later changes.
    pub fn published_topics(&self) -> (DataVersion, Vec<TopicConfig>) {
        let state = &mut *self.state.borrow_mut();
        state.durable.topics.take_changes();
        (
            state.durable.topics.version(),
            state.durable.topics.published(&self.config.cluster, self.config.auto_create_topics),
        )
    }

    /// Whether [`take_topic_changes`](Self::take_topic_changes) would return any.
    pub fn has_topic_changes(&self) -> bool {
        self.state.borrow().durable.topics.has_changes()
    }

    /// Topic changes since the last call of this or of
    /// [`published_topics`](Self::published_topics).
    pub fn take_topic_changes(&self) -> (DataVersion, Vec<TopicChange>) {
        let state = &mut *self.state.borrow_mut();
        (state.durable.topics.version(), state.durable.topics.take_changes())
    }

    /// Background work of the store; `force_snapshot` at shutdown.
    pub async fn maintain(&self, now: Now, force_snapshot: bool) -> Result<(), DiskError> {
        let carried = self.carry_forward(now).await;
        let mut snapshot = Snapshot::default();
        let next_slice = || {
            let state = self.state.borrow();
            self.store.with_index(|index| snapshot.next_slice(&state.durable, index))
        };
        let maintained = self.store.maintain(now, force_snapshot, next_slice).await;
        carried.and(maintained.map(|_| ()))
    }

    /// Appends facts as one entry and applies them: the only way in which requests change durable
    /// state. Returns the end of the entry: the facts are committed once the log is, up to there.
    fn record(&self, facts: &Facts) -> Result<LogOffset, AppendError> {
        self.record_in(facts, SpaceClass::Reserved)
    }

    fn record_in(&self, facts: &Facts, space: SpaceClass) -> Result<LogOffset, AppendError> {
        let (kind, subject, payload) = facts.entry();
        let append = Append { kind, subject, payload_size: payload.len(), space };
        let appended = self.store.append(append, |out, _| out.copy_from_slice(payload))?;
        let Appended { entry_offset, payload_offset, end } = appended;
        let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
        let state = &mut *self.state.borrow_mut();
        let topic = state.durable.topics.topic(subject).filter(|_| kind == facts::TOPIC);
        let topic = topic.map(|topic| topic.config.name.detached());
        let applied = self.store.with_index(|index| state.durable.apply(index, fact));
        applied.expect("a broker reads what it writes");
        if let Some(name) = topic {
            state.end_holds(&name, subject, end);
            self.flushes.notify();
        }
        Ok(end)
    }

    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }
}

impl State {
    /// Whether a group is known: it has a configuration, offsets or members.
    fn knows_group(&self, group: &GroupName) -> bool {
        self.durable.groups.find(group).is_some()
            || self.durable.offsets.has(group)
            || self.groups.has_members(group)
    }

    /// Makes messages below `committed` visible, and wakes the pulls that waited for them.
    fn become_visible(&mut self, committed: LogOffset) {
        self.visible_to = committed;
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.end <= committed) {
            let key = pending.queue;
            if let Some(queue) = self.durable.topics.queue_mut(key.topic, key.queue) {
                queue.visible = pending.next;
                if std::mem::take(&mut queue.may_have_held) {
                    self.wake(key, Then::Retry);
                }
            }
        }
    }

    /// Holds a pull, or returns it if its queue is gone or its group may no longer consume.
    fn hold(&mut self, mut task: PullTask, until: Moment) -> Result<(), Box<PullTask>> {
        if self.durable.groups.check_pull(task.group.as_ref()).is_err() {
            return Err(Box::new(task));
        }
        let queue = self.durable.topics.queue_mut(task.queue.topic, task.queue.queue);
        let Some(queue) = queue else { return Err(Box::new(task)) };
        queue.may_have_held = true;
        // So that it does not keep the buffer that was read.
        task.group = task.group.map(|group| group.detached());
        self.held.hold(task, until, &mut self.deadlines);
        Ok(())
    }
}

/// Converts a failed read into a refusal that the client can use; a disk fault is logged once with
/// its cause.
fn refuse_read(shard: ShardId, error: ReadError) -> Refusal {
    match error {
        ReadError::Damaged(offset) => Refusal::Damaged(offset),
        ReadError::Gone(offset) => Refusal::NoMessage(offset),
        ReadError::Fault(fault) => {
            tracing::error!(shard = shard.0, "read failed: {fault}");
            Refusal::DiskFault { shard: shard.0 }
        }
    }
}
