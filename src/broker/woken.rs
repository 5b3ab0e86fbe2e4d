//! Held pulls that have been woken. They are answered in steps, so that however many wait, none of
//! them blocks the shard.
//!
//! ```text
//!   held ─┬─ messages for its queue ────────────────────────▶ woken ─▶ tried again, by `advance`
//!         ├─ its topic or group changes ─▶ ended ─┬─ commit ──▶ woken ─▶ refused
//!         │                                       └─ cut ─────▶ woken ─▶ tried again
//!         └─ its deadline ─▶ answered, by `act`
//! ```
//!
//! Invariants:
//! - A held pull is in one set of ids: that of its queue in [`Held`](super::held::Held), if it has seen
//!   everything that is visible, or that of one [`Woken`]. Waking moves the set as a whole, so it
//!   costs the same however many wait.
//! - A pull that is held again keeps its id, and with it its place among the pulls of its queue.
//! - Ids of pulls that are gone, because their connection was closed, stay in a [`Woken`] and are
//!   skipped.

use std::collections::BTreeSet;

use super::held::HeldId;
use super::{Answer, Broker, Outcome, PullTask, Released, State};
use crate::model::{LogOffset, Refusal};
use crate::storage::QueueKey;
use crate::storage::disk::Disk;

/// Maximum number of pulls answered in one step. Each may be a system call.
pub const ANSWERS_PER_STEP: usize = 64;

/// Pulls of a queue that are answered in the next steps, the longest held first.
#[derive(Debug)]
pub struct Woken {
    pub queue: QueueKey,
    pub ids: BTreeSet<HeldId>,
    pub then: Then,
}

/// What is done with a woken pull.
#[derive(Clone, Debug)]
pub enum Then {
    /// It is tried again, and held again if nothing matches.
    Retry,
    /// It is answered as at its deadline.
    End,
    Refuse(Refusal),
}

/// Pulls that a change of their topic or group ends.
#[derive(Debug)]
pub struct Ended {
    /// The change is committed once the log is, up to here.
    pub mark: LogOffset,
    pub woken: Woken,
}

impl Woken {
    pub fn is_refused(&self) -> bool {
        matches!(self.then, Then::Refuse(_))
    }
}

impl<D: Disk> Broker<D> {
    /// Whether woken pulls are left for further steps of [`advance`](Self::advance).
    pub fn has_woken(&self) -> bool {
        !self.state.borrow().woken.is_empty()
    }

    /// Answers some of the woken pulls.
    pub(super) fn answer_woken(&self) -> Vec<Released> {
        let tasks = self.state.borrow_mut().take_woken();
        tasks.into_iter().filter_map(|(task, then)| self.answer_one(task, then)).collect()
    }

    fn answer_one(&self, task: PullTask, then: Then) -> Option<Released> {
        let origin = task.origin;
        let outcome = match then {
            Then::Refuse(refusal) => Outcome::Now(Answer::refused(refusal)),
            Then::End => Outcome::Now(self.nothing(&task)),
            Then::Retry => self.try_pull(task),
        };
        (!matches!(outcome, Outcome::Held)).then_some(Released { origin, outcome })
    }
}

impl State {
    /// Wakes the pulls that wait for messages of `queue`.
    pub(super) fn wake(&mut self, queue: QueueKey, then: Then) {
        let ids = self.held.detach(queue);
        if !ids.is_empty() {
            self.woken.push_back(Woken { queue, ids, then });
        }
    }

    /// Wakes all pulls that wait for messages.
    pub(super) fn wake_all(&mut self, then: &Then) {
        for queue in self.held.queues().collect::<Vec<_>>() {
            self.wake(queue, then.clone());
        }
    }

    /// Removes the pulls to answer in one step.
    fn take_woken(&mut self) -> Vec<(PullTask, Then)> {
        let mut tasks = Vec::new();
        for _ in 0..ANSWERS_PER_STEP {
            let Some(Woken { ids, then, .. }) = self.woken.front_mut() else { break };
            let task = ids.pop_first().and_then(|id| self.held.take(id, &mut self.deadlines));
            tasks.extend(task.map(|task| (task, then.clone())));
            if ids.is_empty() {
                self.woken.pop_front();
            }
        }
        tasks
    }
}
