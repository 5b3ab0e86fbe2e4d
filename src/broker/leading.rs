//! Whether this replica of the shard is the leader at this very moment. Every reply that reports
//! what is newest depends on it: nothing new, the end of a queue, a group's offset.
//!
//! The content of such a reply is read first, and the leader's lease is checked afterwards, in the
//! same synchronous step. So the reply was true at some moment while its request was in flight,
//! even if the process is suspended before it sends the reply. In the other order, the process
//! could be suspended between check and read, and then report what is no longer the newest.

use std::cell::{Cell, OnceCell};

use super::Broker;
use super::operation::Context;
use super::woken::{Then, Woken};
use crate::model::{Moment, Refusal, Request};
use crate::storage::disk::Disk;
use crate::storage::signal::Signal;

/// How long a request waits until a new leader has its lease, ms.
const WAIT_MAX_MS: u64 = 1_000;
/// How long a leader without a lease holds pulls, ms. Their clients are then sent to another
/// replica, which may have what they wait for.
const HOLD_WITHOUT_LEASE_MS: u64 = 1_000;

/// The role of a replica at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It leads, no other replica can, and it knows every message that was ever acknowledged.
    Leads,
    /// It was elected, and either has no lease or has not committed an entry of its own yet.
    Elected,
    Follows,
}

/// Knows the role of this replica. A shard without replicas has none.
pub trait Leadership {
    /// Reads the clock.
    fn standing(&self) -> Standing;

    /// The broker id from which a client of this replica should read next: 0 is the leader.
    fn read_from(&self) -> u64;
}

/// The shard's leadership, if it has replicas.
#[derive(Default)]
pub struct Leading {
    of: OnceCell<Box<dyn Leadership>>,
    /// Since when it has been elected without a lease, or when its pulls were last ended for that
    /// reason.
    without_lease_since: Cell<Option<Moment>>,
    /// This replica may have got its lease.
    changed: Signal,
}

impl<D: Disk> Broker<D> {
    /// From now on, `leadership` determines whether this replica leads. Called once.
    pub fn set_leadership(&self, leadership: Box<dyn Leadership>) {
        assert!(self.leading.of.set(leadership).is_ok(), "a shard has one leadership");
    }

    /// To be called when the lease may have been renewed, or an entry committed.
    pub fn leadership_moved(&self) {
        self.leading.changed.notify();
    }

    /// Wakes all held pulls of a leader that has had no lease for a while, so that
    /// [`advance`](Self::advance) answers them. Call it periodically. Returns whether there are any.
    pub fn end_holds_without_lease(&self, now: Moment) -> bool {
        let without_lease_since = &self.leading.without_lease_since;
        let standing = self.leading.of.get().map(|of| of.standing());
        if standing != Some(Standing::Elected) {
            without_lease_since.set(None);
            return false;
        }
        let since = without_lease_since.get().unwrap_or(now);
        let is_over = now.ms_since(since) >= HOLD_WITHOUT_LEASE_MS;
        without_lease_since.set(Some(if is_over { now } else { since }));
        if is_over {
            let state = &mut *self.state.borrow_mut();
            let unended = state.ended.drain(..).map(|ended| ended.woken);
            state.woken.extend(unended.map(|woken| Woken { then: Then::End, ..woken }));
            state.wake_all(&Then::End);
        }
        is_over && self.has_woken()
    }

    /// Whether this replica has everything that is committed. To be called after reading what it
    /// has.
    pub(super) fn is_newest(&self) -> bool {
        // A replica that has just started follows, and its leadership is not known yet.
        let Some(of) = self.leading.of.get() else { return self.leads() };
        let is_visible = self.state.borrow().visible_to >= self.store.committed();
        is_visible && of.standing() == Standing::Leads
    }

    /// The broker id from which a client that has found nothing here should read next.
    pub(super) fn read_from(&self) -> u64 {
        self.leading.of.get().map_or(0, |of| of.read_from())
    }

    /// If this replica has just been elected, waits until it may report what is newest. Refused if
    /// another replica leads.
    pub(super) async fn becomes_newest(
        &self,
        request: &Request,
        context: &impl Context,
    ) -> Result<(), Refusal> {
        let Some(leadership) = self.leading.of.get().filter(|_| request.reads_newest()) else {
            return Ok(());
        };
        let refused = || Refusal::NotLeader { shard: self.config.shard.0 };
        let deadline: Moment = context.now().moment.plus_ms(WAIT_MAX_MS);
        let look = || match leadership.standing() {
            Standing::Leads => Some(Ok(())),
            Standing::Elected if context.now().moment < deadline => None,
            Standing::Elected | Standing::Follows => Some(Err(refused())),
        };
        self.leading.changed.wait(look).await
    }

    /// Checks that the reply to such a request may be sent, after its content has been read.
    pub(super) fn check_newest(&self, request: &Request) -> Result<(), Refusal> {
        match request.reads_newest() && !self.is_newest() {
            true => Err(Refusal::NotLeader { shard: self.config.shard.0 }),
            false => Ok(()),
        }
    }
}
