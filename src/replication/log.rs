//! Presents the shard's log as the log of the consensus engine.
//!
//! ```text
//!   append:  a leader's own entry ends what its broker has appended; a follower's is appended raw
//!   flushed: reported in order, when the log is on stable media up to the entry's end
//!   vote:    a file next to the log, durable before it is answered
//! ```
//!
//! Invariant: on a follower the log ends with an entry of the engine. What a leader appended after
//! its last entry is cut off before anything of another leader is appended, together with state
//! that was not in the log yet (offsets that clients had committed a moment before).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use openraft::raft::VoteResponse;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft::{EntryPayload, LogState};

use super::arrivals::Arrivals;
use super::entries::EntryReader;
use super::host::{Host, Role};
use super::known_peers::KnownPeers;
use super::members;
use super::preference::TransferReason;
use super::throttle::Throttle;
use super::types::{
    Body, Entry, LogId, Payload, Proposal, ReplicaId, Runtime, Types, Vote, failed, log_id_of,
    term_of, vote,
};
use crate::broker::raft_entries::RaftContent;
use crate::model::LogOffset;
use crate::planted::{self, Bug};
use crate::storage::signal::Signal;
use crate::storage::{AppendError, Awaited, Mark, Store, StoredVote};

/// Maximum size in the log of the fact that ends an entry, with room for a set of members, bytes.
const END_SIZE_MAX: usize = 16 << 10;

/// How long a replica grants no vote after it has heard from a leader, ms. The engine defines it as
/// the longest election timeout.
pub const PROMISE_MS: u64 = 1_000;

/// A handle on the log; clones share it.
pub struct RaftLog<H: Host, R: Runtime>(pub(super) Rc<Shared<H, R>>);

pub(super) struct Shared<H: Host, R: Runtime> {
    host: H,
    id: ReplicaId,
    vote: Rc<Cell<Option<Vote>>>,
    purged: Cell<Option<LogId>>,
    /// The term in which this replica leads.
    leads_in: Cell<Option<u64>>,
    /// Where the first entry of that term ends, once it has been appended.
    first_end: Cell<Option<LogOffset>>,
    /// The last term whose lease this leader has given up.
    given_up_in: Cell<Option<u64>>,
    /// Another replica has reported that this one is no longer a member.
    is_removed: Cell<bool>,
    /// When a leader was last heard.
    heard_at: Cell<Option<InstantOf<Types<R>>>>,
    /// Until then this replica takes no part in elections: it may have promised that before it
    /// restarted.
    promised_until: Cell<Option<InstantOf<Types<R>>>>,
    /// The leadership is being transferred: new requests are refused, and what earlier ones have
    /// appended is proposed.
    leader_transfer: Cell<Option<TransferReason>>,
    /// The term of the leader that has transferred its leadership to this replica on an operator's
    /// order.
    chosen_after: Cell<Option<u64>>,
    /// Other replicas whose disks are full, according to their last answers.
    full: RefCell<BTreeSet<ReplicaId>>,
    /// This replica has led since its state was last restored from the log.
    has_led: Cell<bool>,
    /// Each with its end, which is awaited from when it was appended: it may be cut off while
    /// earlier ones are reported.
    flushes: RefCell<VecDeque<(Awaited, IOFlushed<Types<R>>)>>,
    flush_wanted: Signal,
    arrivals: Arrivals,
    throttle: RefCell<Throttle>,
    known_peers: KnownPeers<H::Disk>,
}

impl<H: Host, R: Runtime> Clone for RaftLog<H, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H: Host, R: Runtime> RaftLog<H, R> {
    /// Opens the log as it was found at the start: cuts off what is after the last entry of the
    /// engine. `directory` is random, and becomes the identity of a directory that has none.
    pub async fn open(host: H, id: ReplicaId, directory: u64) -> io::Result<Self> {
        let store = host.broker().store();
        host.broker().follow();
        let last_vote = store.open_votes().await.map_err(failed)?;
        let last_vote = last_vote.map(|StoredVote { term, voted_for, is_committed }| {
            vote(term, voted_for, is_committed)
        });
        let is_used = last_vote.is_some() || store.end() > LogOffset(0);
        let opening = KnownPeers::open(store.clone(), id, directory, is_used);
        let known_peers = opening.await?;
        let has_leftovers = store.staging().has_any().await.map_err(failed)?;
        let log = Self(Rc::new(Shared {
            id,
            vote: Rc::new(Cell::new(last_vote)),
            purged: Cell::new(None),
            leads_in: Cell::new(None),
            first_end: Cell::new(None),
            given_up_in: Cell::new(None),
            is_removed: Cell::new(false),
            heard_at: Cell::new(None),
            promised_until: Cell::new(None),
            leader_transfer: Cell::new(None),
            chosen_after: Cell::new(None),
            full: RefCell::default(),
            has_led: Cell::new(false),
            flushes: RefCell::default(),
            flush_wanted: Signal::default(),
            arrivals: Arrivals::new(has_leftovers),
            throttle: Throttle::new(host.broker().config().catch_up_bytes_per_s).into(),
            known_peers,
            host,
        }));
        log.0.purged.set(log.last_deleted());
        log.0.settle().await?;
        log.0.store().end_group();
        Ok(log)
    }

    /// Reports flushed entries to the engine, in order, while the shard runs.
    pub async fn report_flushes(&self) {
        let shared = &self.0;
        loop {
            let next = || shared.flushes.borrow().front().map(|(awaited, _)| *awaited);
            let awaited = shared.flush_wanted.wait(next).await;
            let store = shared.host.broker().store();
            let is_stored = store.stored(awaited).await;
            let Some((_, callback)) = shared.flushes.borrow_mut().pop_front() else { continue };
            match is_stored {
                true => callback.io_completed(Ok(())),
                false if store.is_fenced() => {
                    callback.io_completed(Err(failed("the shard is fenced")));
                }
                // The entry was cut off; a later one counts.
                false => {}
            }
            store.group_grows().notify();
        }
    }

    /// Records whether a majority has answered this leader recently. If not, the leader refuses
    /// requests: another replica may already lead, and nothing new would be committed.
    pub fn set_current(&self, is_current: bool) {
        let (shared, broker) = (&self.0, self.0.host.broker());
        let Some(term) = shared.leads_in.get() else { return };
        if shared.leader_transfer.get().is_some() {
            return;
        }
        if broker.leads() && !is_current {
            tracing::warn!(
                "the leader of term {term} does not reach most replicas, and refuses requests until it \
                 does"
            );
            broker.follow();
        } else if !broker.leads() && is_current {
            broker.lead_again();
        }
    }

    /// A leader may have had this replica's promise when it stopped. If so, the replica takes no
    /// part in elections for as long as a promise lasts. Returns whether that is so.
    pub fn promise_again(&self) -> bool {
        let has_promised = |vote: Vote| vote.committed && vote.leader_id.voted_for != self.0.id;
        if !self.0.vote.get().is_some_and(has_promised) {
            return false;
        }
        self.0.promised_until.set(Some(Types::<R>::now() + Duration::from_millis(PROMISE_MS)));
        true
    }

    pub fn has_promised(&self) -> bool {
        self.0.promised_until.get().is_some_and(|until| Types::<R>::now() < until)
    }

    /// The answer to a request for the vote that this replica has promised not to give.
    pub fn refused_vote(&self) -> VoteResponse<Types<R>> {
        let last = self.0.host.broker().last_raft_entry().map(log_id_of);
        VoteResponse::new(self.0.vote.get().unwrap_or_else(|| vote(0, 0, false)), last, false)
    }

    /// Notes that something from a leader has arrived.
    pub fn hear_leader(&self) {
        self.0.heard_at.set(Some(Types::<R>::now()));
        if self.0.is_removed.take() {
            self.0.host.handle_role(Role::Follower);
        }
    }

    /// Another replica reports that this one is no longer a member. It may not know yet that this
    /// one was added again, which is certain once a leader is heard or this replica leads.
    pub fn note_removed(&self) {
        let is_member = self.hears_leader() || self.leads_in().is_some();
        if !is_member && !self.0.is_removed.replace(true) {
            self.0.host.handle_role(Role::Removed);
        }
    }

    pub fn is_removed(&self) -> bool {
        self.0.is_removed.get()
    }

    /// Whether a leader was heard within the last [`PROMISE_MS`].
    pub fn hears_leader(&self) -> bool {
        let is_recent = |at| Types::<R>::now() < at + Duration::from_millis(PROMISE_MS);
        self.0.heard_at.get().is_some_and(is_recent)
    }

    /// From now on another replica may be elected although this one leads.
    pub fn give_up_lease(&self) {
        self.0.given_up_in.set(self.0.leads_in.get());
    }

    pub fn has_given_up(&self) -> bool {
        self.0.leads_in.get().is_some() && self.0.given_up_in.get() == self.0.leads_in.get()
    }

    /// The term in which this replica leads, even if it is refusing requests at the moment.
    pub fn leads_in(&self) -> Option<u64> {
        self.0.leads_in.get()
    }

    /// Whether this leader has committed an entry of its own, and with it everything that an earlier
    /// leader has committed.
    pub fn knows_all(&self) -> bool {
        let committed = self.0.store().committed();
        let knows_all = self.0.first_end.get().is_some_and(|end| end <= committed);
        knows_all || planted::is(Bug::AnswersBeforeItsFirstEntry)
    }

    pub fn id(&self) -> ReplicaId {
        self.0.id
    }

    pub(super) fn downgrade(&self) -> Weak<Shared<H, R>> {
        Rc::downgrade(&self.0)
    }

    /// Whether what the broker has appended is to be proposed.
    pub fn proposes(&self) -> bool {
        self.0.host.broker().leads() || self.0.leader_transfer.get().is_some()
    }

    /// Makes this leader refuse requests.
    pub fn begin_leader_transfer(&self, reason: TransferReason) {
        self.0.leader_transfer.set(Some(reason));
        self.0.host.broker().follow();
        self.0.store().group_grows().notify();
    }

    /// Makes this leader accept requests again.
    pub fn cancel_leader_transfer(&self) {
        if self.0.leader_transfer.take().is_some() && self.0.leads_in.get().is_some() {
            self.0.host.broker().lead_again();
        }
    }

    /// Why this leader is transferring its leadership, if it is.
    pub fn leader_transfer(&self) -> Option<TransferReason> {
        self.0.leader_transfer.get()
    }

    /// The leader of `term` transfers its leadership to this replica on an operator's order.
    pub fn choose(&self, term: u64) {
        self.0.chosen_after.set(Some(term));
    }

    /// Whether this replica leads because an operator ordered it.
    pub fn is_chosen(&self) -> bool {
        let term = self.0.leads_in.get().and_then(|term| term.checked_sub(1));
        term.is_some() && self.0.chosen_after.get() == term
    }

    /// Records whether the disk of another replica is full, as it has reported.
    pub fn note_full(&self, id: ReplicaId, is_full: bool) {
        let full = &mut *self.0.full.borrow_mut();
        if is_full {
            full.insert(id)
        } else {
            full.remove(&id)
        };
    }

    /// Whether the disk of a replica is full, as far as is known here.
    pub fn is_full(&self, id: ReplicaId) -> bool {
        if id == self.id() {
            self.0.store().is_disk_full()
        } else {
            self.0.full.borrow().contains(&id)
        }
    }

    /// Number of the engine's appends that are not on stable media yet.
    pub fn unflushed(&self) -> usize {
        self.0.flushes.borrow().len()
    }

    pub fn host(&self) -> &H {
        &self.0.host
    }

    /// The last vote.
    pub fn vote(&self) -> Option<Vote> {
        self.0.vote.get()
    }

    pub fn known_peers(&self) -> &KnownPeers<H::Disk> {
        &self.0.known_peers
    }

    /// What this replica is now, as it reports to others.
    pub fn own_mark(&self) -> Mark {
        let term = self.vote().map_or(0, |vote| vote.leader_id.term);
        let last = self.0.host.broker().last_raft_entry();
        self.0.known_peers.own(term, last.map_or(0, |last| last.index + 1))
    }

    /// Waits until this many bytes of the old log may be sent to another replica.
    pub async fn pace(&self, bytes: u64) {
        let wait = self.0.throttle.borrow_mut().take(bytes, self.0.host.now().moment);
        if !wait.is_zero() {
            Types::<R>::sleep(wait).await;
        }
    }

    /// The copies of other replicas' logs that this one is receiving.
    pub fn arrivals(&self) -> &Arrivals {
        &self.0.arrivals
    }

    fn entries(&self) -> EntryReader<H> {
        EntryReader::new(self.0.host.clone(), self.0.vote.clone())
    }

    /// Where the entry with this id ends; `None` if the log does not have it.
    pub async fn end_of(&self, log_id: LogId) -> io::Result<Option<LogOffset>> {
        if self.0.host.broker().last_raft_entry().is_none_or(|last| last.index < log_id.index) {
            return Ok(None);
        }
        let found = self.entries().entry(log_id.index).await.map_err(failed)?;
        Ok(match found {
            Some(Entry { log_id: known, body: Body::Stored(range), .. }) if known == log_id => {
                Some(range.end)
            }
            _ => None,
        })
    }

    /// A copy has replaced the log.
    pub fn handle_replaced(&self) {
        self.0.has_led.set(false);
        self.0.arrivals.handle_used();
    }

    /// The first entry that ends at or after the position up to which retention has deleted the
    /// log.
    pub fn last_deleted(&self) -> Option<LogId> {
        let broker = self.0.host.broker();
        let begin = broker.store().begin();
        let last = broker.with_raft_entries(|entries| entries.first_from(begin));
        last.filter(|_| begin > LogOffset(0)).map(log_id_of)
    }

    pub fn purged(&self) -> Option<LogId> {
        self.0.purged.get()
    }
}

impl<H: Host, R: Runtime> Shared<H, R> {
    fn store(&self) -> &Store<H::Disk> {
        self.host.broker().store()
    }

    /// Undoes what this replica did as a leader and what never became an entry. Called before an
    /// entry of another leader is appended.
    async fn settle(&self) -> io::Result<()> {
        self.follow();
        let broker = self.host.broker();
        let has_led = self.has_led.replace(false) && !planted::is(Bug::KeepsStateOfLeading);
        if has_led || broker.store().end() != broker.raft_end() {
            self.cut_at(broker.raft_end()).await?;
        }
        Ok(())
    }

    async fn cut_at(&self, end: LogOffset) -> io::Result<()> {
        self.host.broker().cut_at(end, self.host.now().wall).await.map_err(failed)?;
        self.host.handle_commit();
        Ok(())
    }

    fn follow(&self) {
        if self.leads_in.take().is_some() {
            self.leader_transfer.set(None);
            self.host.broker().follow();
            self.host.handle_role(Role::Follower);
        }
    }

    fn lead(&self, term: u64) -> io::Result<()> {
        let epoch = u32::try_from(term).map_err(failed)?;
        self.host.broker().lead(epoch, self.host.now()).map_err(failed)?;
        self.has_led.set(true);
        if self.leads_in.replace(Some(term)) != Some(term) {
            self.is_removed.set(false);
            self.first_end.set(None);
            self.host.handle_role(Role::Leader { term });
        }
        Ok(())
    }

    /// Appends the fact that ends an entry of this leader.
    async fn end_entry(&self, log_id: &LogId, payload: &Payload) -> io::Result<()> {
        let broker = self.host.broker();
        let content = match payload {
            EntryPayload::Blank => RaftContent::Blank,
            EntryPayload::Normal(Proposal) => RaftContent::Group,
            EntryPayload::Membership(members) => RaftContent::Members(members::encode(members)),
        };
        let end = || broker.end_raft_entry(log_id.index, term_of(log_id), &content);
        let outcome = match end() {
            Err(AppendError::NoRoom) => broker.store().with_room(END_SIZE_MAX, end).await,
            outcome => outcome,
        };
        let place = outcome.map_err(failed)?;
        if self.leads_in.get() == Some(place.term) && self.first_end.get().is_none() {
            self.first_end.set(Some(place.end));
        }
        Ok(())
    }

    async fn append_received(&self, log_id: &LogId, bytes: &[u8]) -> io::Result<()> {
        self.settle().await?;
        let broker = self.host.broker();
        broker.append_raw(bytes).await.map_err(failed)?;
        self.arrivals.discard_leftovers(&self.host);
        let last = broker.last_raft_entry();
        match last.map(log_id_of) == Some(*log_id) && broker.store().end() == broker.raft_end() {
            true => Ok(()),
            false => Err(failed(format!("the leader's entry {log_id} does not end as {last:?}"))),
        }
    }
}

impl<H: Host, R: Runtime> RaftLogStorage<Types<R>> for RaftLog<H, R> {
    type LogReader = EntryReader<H>;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<R>>> {
        let last_log_id = self.0.host.broker().last_raft_entry().map(log_id_of);
        Ok(LogState { last_purged_log_id: self.0.purged.get(), last_log_id })
    }

    async fn get_log_reader(&mut self) -> EntryReader<H> {
        self.entries()
    }

    /// The replica that this vote is for leads once the vote is committed.
    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let is_elected = vote.committed || planted::is(Bug::LeadsWithoutMajority);
        let leads = is_elected && vote.leader_id.voted_for == self.0.id;
        if !leads {
            self.0.follow();
        }
        let stored = StoredVote {
            term: vote.leader_id.term,
            voted_for: vote.leader_id.voted_for,
            is_committed: vote.committed,
        };
        // The engine treats completions as a watermark: with the vote, everything appended before
        // it counts as flushed, and is acknowledged to the leader that sent it.
        let before = self.0.store().awaited(self.0.host.broker().raft_end());
        if !self.0.store().stored(before).await {
            return Err(failed("the shard is fenced"));
        }
        let is_lost = planted::is(Bug::ForgetsVotes)
            || (planted::is(Bug::StoresCommittedVotesOnly) && !vote.committed);
        if !is_lost {
            self.0.store().write_vote(stored).await.map_err(failed)?;
        }
        self.0.vote.set(Some(*vote));
        if leads { self.0.lead(vote.leader_id.term) } else { Ok(()) }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry>,
    {
        for Entry { log_id, payload, body } in entries {
            match body {
                Body::New => self.0.end_entry(&log_id, &payload).await?,
                Body::Raw(bytes) => self.0.append_received(&log_id, &bytes).await?,
                Body::Stored(_) | Body::Gone => {
                    unreachable!("the engine never appends what is in the log")
                }
            }
        }
        if planted::is(Bug::AnswersBeforeFlush) && self.0.leads_in.get().is_none() {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let end = self.0.store().awaited(self.0.host.broker().raft_end());
        self.0.flushes.borrow_mut().push_back((end, callback));
        self.0.flush_wanted.notify();
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.0.follow();
        let end = match last {
            None => LogOffset(0),
            Some(last) => {
                let index = match last.index {
                    index if planted::is(Bug::CutsOneEntryTooFew) => index + 1,
                    index if planted::is(Bug::CutsOneEntryTooMany) => index - 1,
                    index => index,
                };
                let place = self.0.host.broker().with_raft_entries(|all| all.place(index));
                place.ok_or_else(|| failed(format!("the place of {last} is not known")))?.end
            }
        };
        self.0.has_led.set(false);
        self.0.cut_at(end).await
    }

    /// The log is the shard's data: retention deletes it, the engine does not.
    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.0.purged.set(Some(log_id));
        Ok(())
    }
}
