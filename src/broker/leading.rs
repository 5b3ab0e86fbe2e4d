//! Whether this replica of the shard is the leader at this very moment. Every reply that reports
//! what is newest depends on it: nothing new, the end of a queue, a group's offset.
//!
//! The content of such a reply is read first, and the leader's lease is checked afterwards, in the
//! same synchronous step. So the reply was true at some moment while its request was in flight,
//! even if the process is suspended before it sends the reply. In the other order, the process
//! could be suspended between check and read, and then report what is no longer the newest.

use super::Broker;
use super::leadership::{Leadership, Standing};
use super::operation::Context;
use super::woken::{Then, Woken};
use crate::model::{Moment, Refusal, Request};
use crate::storage::disk::Disk;

/// How long a request waits until a new leader has its lease, ms.
const WAIT_MAX_MS: u64 = 1_000;

impl<D: Disk> Broker<D> {
    /// From now on, `leadership` determines whether this replica leads. Called once.
    pub fn set_leadership(&self, leadership: Box<dyn Leadership>) {
        self.leading.set(leadership);
    }

    /// To be called when the lease may have been renewed, or an entry committed.
    pub fn leadership_moved(&self) {
        self.leading.moved();
    }

    /// Wakes all held pulls of a leader that has had no lease for a while, so that
    /// [`advance`](Self::advance) answers them. Call it periodically. Returns whether there are any.
    pub fn end_holds_without_lease(&self, now: Moment) -> bool {
        let is_over = self.leading.ends_holds(now);
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
        let Some(of) = self.leading.of() else { return self.leads() };
        let is_visible = self.state.borrow().visible_to >= self.store.committed();
        is_visible && of.standing() == Standing::Leads
    }

    /// The broker id from which a client that has found nothing here should read next.
    pub(super) fn read_from(&self) -> u64 {
        self.leading.of().map_or(0, |of| of.read_from())
    }

    /// If this replica has just been elected, waits until it may report what is newest. Refused if
    /// another replica leads.
    pub(super) async fn becomes_newest(
        &self,
        request: &Request,
        context: &impl Context,
    ) -> Result<(), Refusal> {
        let Some(leadership) = self.leading.of().filter(|_| request.reads_newest()) else {
            return Ok(());
        };
        let refused = || Refusal::NotLeader { shard: self.config.shard.0 };
        let deadline: Moment = context.now().moment.plus_ms(WAIT_MAX_MS);
        let look = || match leadership.standing() {
            Standing::Leads => Some(Ok(())),
            Standing::Elected if context.now().moment < deadline => None,
            Standing::Elected | Standing::Follows => Some(Err(refused())),
        };
        self.leading.wait(look).await
    }

    /// Checks that the reply to such a request may be sent, after its content has been read.
    pub(super) fn check_newest(&self, request: &Request) -> Result<(), Refusal> {
        match request.reads_newest() && !self.is_newest() {
            true => Err(Refusal::NotLeader { shard: self.config.shard.0 }),
            false => Ok(()),
        }
    }
}
