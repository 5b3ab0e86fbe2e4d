//! Wakes held pulls, and answers them in steps, so that however many wait, none of them blocks the
//! shard. How a pull gets from one set to another is drawn in [`woken`](super::woken).
//!
//! Nothing here decides that a pull ends: messages that become visible wake it, and so does a change
//! of its topic or group ([`gone`](super::gone)). At its deadline, [`upkeep`](super::upkeep) answers it.

use super::held::PullTask;
use super::woken::{Then, Woken};
use super::{Answer, Broker, Outcome, Released, State};
use crate::storage::QueueKey;
use crate::storage::disk::Disk;

/// Maximum number of pulls answered in one step. Each may be a system call.
pub const ANSWERS_PER_STEP: usize = 64;

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
