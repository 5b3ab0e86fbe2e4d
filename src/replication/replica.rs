//! One replica of a shard: the consensus engine, and the tasks that connect it with the shard.
//!
//! ```text
//!   broker appends ─▶ propose ─▶ engine ─▶ RaftLog::append (the entry ends) ─▶ written and shipped
//!                                  │                                             │
//!                                  └◀──────────── flushed here, and there ◀──────┘
//!                                  └─▶ Machine::apply: the committed watermark moves
//! ```
//!
//! One proposal at a time is on its way to the engine. What is appended meanwhile belongs to the
//! same entry, so entries grow with the load.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::{Config, Instant, Raft, SnapshotPolicy};
use rand::RngExt;

use super::ends::Ends;
use super::host::Host;
use super::lease::Lease;
use super::link::{self, FrameReceiver, FrameSender, Identity, Target, Transport};
use super::log::{PROMISE_MS, RaftLog};
use super::machine::{Engine, Machine};
use super::network::{Network, serve};
use super::preference::Preference;
use super::types::{LogId, Place, Proposal, ReplicaId, Runtime, Types, failed};
use super::wire::Purpose;
use crate::storage::{Joined, Mark};

/// How often a leader sends a heartbeat, ms.
const HEARTBEAT_MS: u64 = 100;
/// After this long without one, other replicas become candidates, ms. Each adds its own random
/// part.
const ELECTION_MIN_MS: u64 = 500;
const ELECTION_MAX_MS: u64 = PROMISE_MS;
/// A replica that is missing at most this many entries counts as caught up.
pub(super) const LAG_MAX: u64 = 100;
/// Maximum number of entries on their way to stable media; at this number no further one is
/// proposed.
const UNFLUSHED_MAX: usize = 4;
/// Pause after the engine has refused a proposal.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// Pause between attempts to have a new directory confirmed.
const JOIN_PAUSE: Duration = Duration::from_millis(200);
/// Minimum time between updates of what replicas remember of others' positions.
const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// A handle on a replica; clones share it.
pub struct Replica<H: Host, R: Runtime> {
    engine: Rc<OnceCell<Rc<Engine<H, R>>>>,
    log: RaftLog<H, R>,
    identity: Identity,
    ends: Rc<RefCell<Ends>>,
}

impl<H: Host, R: Runtime> Clone for Replica<H, R> {
    fn clone(&self) -> Self {
        let (engine, log) = (self.engine.clone(), self.log.clone());
        Self { engine, log, identity: self.identity, ends: self.ends.clone() }
    }
}

fn config(name: String, is_candidate: bool) -> io::Result<Arc<Config>> {
    let config = Config {
        cluster_name: name,
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        replication_lag_threshold: LAG_MAX,
        // Retention decides what is kept.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        enable_elect: is_candidate,
        // A term is one run of a leader.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(failed)
}

impl<H: Host, R: Runtime> Replica<H, R> {
    /// Opens this replica of the shard: its log, and what it remembers of the others. It can serve
    /// them, but takes no part before [`start`](Self::start). Committers must be running.
    pub async fn open(host: H, identity: Identity) -> io::Result<Self> {
        let directory = R::thread_rng().random();
        let log = RaftLog::open(host, identity.id, directory).await?;
        Ok(Self { engine: Rc::default(), log, identity, ends: Rc::default() })
    }

    /// Starts the engine. A replica whose directory was never used first waits until all others
    /// have confirmed that. The first start of a set makes `members` its members; each of them does
    /// the same. The engine's tasks belong to the task queue that this runs in.
    pub async fn start(
        &self,
        name: String,
        members: &BTreeSet<ReplicaId>,
        transport: impl Transport,
    ) -> io::Result<()> {
        self.join(members, &transport).await?;
        let (log, id) = (self.log.clone(), self.identity.id);
        let has_promised = log.promise_again();
        let network = Network::new(log.clone(), transport, self.identity);
        let machine = Machine::new(log.clone());
        let engine = Raft::new(id, config(name, !has_promised)?, network, log, machine);
        let engine = Rc::new(engine.await.map_err(failed)?);
        let leadership = Lease::new(&self.log, engine.metrics());
        self.log.host().broker().set_leadership(Box::new(leadership));
        if has_promised {
            let engine = engine.clone();
            drop(Types::<R>::spawn(async move {
                Types::<R>::sleep(Duration::from_millis(PROMISE_MS)).await;
                engine.runtime_config().elect(true);
            }));
        }
        let engine = self.engine.get_or_init(|| engine);
        let flushes = self.log.clone();
        drop(Types::<R>::spawn(async move { flushes.report_flushes().await }));
        let is_new = self.log.known_peers().joined() == Joined::New;
        if is_new && !engine.is_initialized().await.map_err(failed)? {
            let members: BTreeMap<_, _> =
                members.iter().map(|id| (*id, Place::default())).collect();
            engine.initialize(members).await.map_err(failed)?;
        }
        let proposer = self.clone();
        drop(Types::<R>::spawn(async move { proposer.propose().await }));
        let clerk = self.clone();
        drop(Types::<R>::spawn(async move { clerk.carry_out_orders().await }));
        Ok(())
    }

    async fn join(
        &self,
        members: &BTreeSet<ReplicaId>,
        transport: &impl Transport,
    ) -> io::Result<()> {
        let known_peers = self.log.known_peers();
        if known_peers.joined() != Joined::Not {
            return Ok(());
        }
        let others: Vec<_> = members.iter().copied().filter(|id| *id != self.identity.id).collect();
        tracing::info!(
            "this directory is new: waiting until replicas {others:?} have confirmed it"
        );
        loop {
            for &other in &others {
                let target = Target { id: other, place: Place::default() };
                let connecting =
                    link::connect(&self.log, transport, self.identity, &target, Purpose::Calls);
                if !known_peers.has_confirmed(other)
                    && let Err(error) = connecting.await
                {
                    tracing::debug!("replica {other} has not confirmed this directory: {error}");
                }
            }
            if let Some(fault) = known_peers.fault() {
                return Err(failed(fault));
            }
            if self.log.arrivals().is_stopping() {
                return Err(failed("the replica stops"));
            }
            if others.iter().all(|other| known_peers.has_confirmed(*other)) {
                return known_peers.join().await;
            }
            Types::<R>::sleep(JOIN_PAUSE).await;
        }
    }

    /// Supervises the replica while the engine runs. Makes a leader without a lease refuse requests
    /// until it has one, and transfers the leadership to the preferred replica. Returns why the
    /// engine has ended.
    pub async fn watch(&self) -> String {
        let metrics = self.engine().metrics();
        let lease = Lease::new(&self.log, self.engine().metrics());
        let (mut begin, mut is_purging) = (None, false);
        let (mut remembered_at, mut committed) = (Types::<R>::now(), None);
        let mut preference = Preference::default();
        loop {
            Types::<R>::sleep(Duration::from_millis(HEARTBEAT_MS)).await;
            if let Err(why) = &metrics.borrow_watched().running_state {
                return why.to_string();
            }
            if let Some(fault) = self.log.known_peers().fault() {
                return fault.to_string();
            }
            if Types::<R>::now().saturating_duration_since(remembered_at) >= REMEMBER_EVERY {
                remembered_at = Types::<R>::now();
                match self.remember(committed).await {
                    Ok(now) => committed = now,
                    Err(error) => {
                        tracing::warn!("cannot remember how far other replicas are: {error}");
                    }
                }
            }
            let now = self.log.host().broker().store().begin();
            if begin.replace(now) != Some(now) || is_purging {
                is_purging = self.purge().await;
            }
            // No replica has answered a new leader yet.
            self.log.set_current(lease.is_valid().unwrap_or(true));
            self.log.host().broker().leadership_moved();
            let (broker, now) = (self.log.host().broker(), self.log.host().now().moment);
            if broker.end_holds_without_lease(now) {
                self.log.host().handle_commit();
            }
            let set = self.survey();
            let is_chosen = self.log.is_chosen();
            let transfer = preference.handle(broker.config().shard, &set, is_chosen, now);
            broker.set_replicas(set);
            if let Some((to, reason)) = transfer
                && let Err(refusal) = self.transfer_leadership(to, reason).await
            {
                tracing::warn!("leadership transfer failed: {refusal}");
            }
        }
    }

    /// Remembers how far the other replicas are (on a follower: how far the leader is): one that
    /// comes back with less has an older copy of its directory. Of its leader, a follower only
    /// knows what is committed; that the leader has it on stable media counts as certain at the
    /// next call. Returns what is committed.
    async fn remember(&self, before: Option<LogId>) -> io::Result<Option<LogId>> {
        let (marks, committed) = {
            let metrics = self.engine().metrics();
            let metrics = metrics.borrow_watched();
            let (term, committed) = (metrics.current_term, metrics.last_applied);
            let mark = |id: ReplicaId, has: Option<LogId>| {
                let known = self.log.known_peers().known(id);
                let is_known = known.directory != 0 && id != self.identity.id;
                is_known.then_some((id, Mark { term, index: has?.index + 1, ..known }))
            };
            let marks: Vec<(ReplicaId, Mark)> = match &metrics.replication {
                Some(all) => {
                    all.iter().filter_map(|(id, has)| mark(*id, (*has).min(committed))).collect()
                }
                None => {
                    metrics.current_leader.and_then(|id| mark(id, before)).into_iter().collect()
                }
            };
            (marks, committed)
        };
        self.log.known_peers().note(&marks).await?;
        Ok(committed)
    }

    /// Tells the engine what retention has deleted, so that replicas that need it get a copy of the log
    /// instead. Returns whether the call must be repeated: the engine must first know that such a
    /// copy can be made, and does not abandon what it is sending.
    async fn purge(&self) -> bool {
        let Some(deleted) = self.log.last_deleted() else { return false };
        if self.log.purged() >= Some(deleted) {
            return false;
        }
        // An error means that the engine has ended, which is noticed soon.
        let _ = self.engine().trigger().snapshot().await;
        let _ = self.engine().trigger().purge_log(deleted.index).await;
        true
    }

    /// Serves a connection from another replica until it closes.
    pub async fn serve(&self, sender: impl FrameSender, receiver: impl FrameReceiver) {
        if let Err(error) =
            serve(self.engine.get().cloned(), self.log.clone(), self.identity, sender, receiver)
                .await
        {
            tracing::debug!("a connection from another replica has ended: {error}");
        }
    }

    pub fn id(&self) -> ReplicaId {
        self.identity.id
    }

    pub fn log(&self) -> &RaftLog<H, R> {
        &self.log
    }

    pub(super) fn ends(&self) -> &RefCell<Ends> {
        &self.ends
    }

    /// The engine, which runs once [`start`](Self::start) has returned.
    pub fn engine(&self) -> &Engine<H, R> {
        self.engine.get().expect("the replica was started")
    }

    /// Stops the engine; the other replicas elect another leader.
    pub async fn stop(&self) {
        self.log.arrivals().stop().await;
        // If this fails, the engine failed earlier and has reported it.
        if let Some(engine) = self.engine.get() {
            let _ = engine.shutdown().await;
        }
    }

    /// Proposes what the broker appends, while the engine runs.
    async fn propose(&self) {
        let broker = || self.log.host().broker();
        loop {
            let has_more = || {
                let store = broker().store();
                let is_due = self.log.proposes()
                    && store.end() > broker().raft_end()
                    && self.log.unflushed() < UNFLUSHED_MAX;
                is_due.then(|| broker().raft_end())
            };
            let before = broker().store().group_grows().wait(has_more).await;
            let (responder, answer) = openraft::impls::OneshotResponder::new_pair();
            if self.engine().client_write_ff(Proposal, Some(responder)).await.is_err() {
                return;
            }
            let has_ended = || {
                let is_over = broker().raft_end() > before || !self.log.proposes();
                is_over.then_some(())
            };
            let ended = pin!(broker().store().group_grows().wait(has_ended));
            if let Either::Right((Ok(Err(_)) | Err(_), _)) = select(ended, answer).await {
                Types::<R>::sleep(REFUSED_PAUSE).await;
            }
        }
    }
}
