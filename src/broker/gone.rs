//! Ends waits whose queue or group is gone. If a topic change removes a queue, pulls held on it are
//! refused as soon as the change is committed, not at their deadlines; so are offset commits that
//! wait there, and the pulls of a group that is deleted or may no longer consume.

use super::{Answer, Broker, Outcome, PullTask, Released, State};
use crate::model::{GroupName, LogOffset, Refusal, TopicName};
use crate::storage::QueueKey;
use crate::storage::disk::Disk;

/// A held pull that a change of its topic or group ends.
#[derive(Debug)]
pub struct Ended {
    /// The change is committed once the log is, up to here.
    mark: LogOffset,
    task: PullTask,
    refusal: Refusal,
}

impl<D: Disk> Broker<D> {
    /// Takes the pulls ended by changes that are now committed.
    pub(super) fn take_ended(&self) -> Vec<Released> {
        let (committed, is_fenced) = (self.store.committed(), self.store.is_fenced());
        let ended = &mut self.state.borrow_mut().ended;
        let is_over = |ended: &mut Ended| ended.mark <= committed || is_fenced;
        let next = || ended.pop_front_if(is_over);
        std::iter::from_fn(next)
            .map(|Ended { task, refusal, .. }| {
                let outcome = Outcome::Now(Answer::refused(refusal));
                Released { origin: task.origin, outcome }
            })
            .collect()
    }
}

impl State {
    /// Ends pulls on queues that are gone: topic `number`, which was called `name`, was changed by
    /// the entry that ends at `mark`.
    pub(super) fn end_holds(&mut self, name: &TopicName, number: u32, mark: LogOffset) {
        for queue in self.held.queues_of(number) {
            let found = self.durable.topics.find(name);
            let refusal = match found.and_then(|(_, topic)| topic.check_pull(queue.queue)) {
                Ok(()) => continue,
                Err(refusal) => refusal,
            };
            for task in self.held.take_queue(queue, &mut self.deadlines) {
                self.end_hold(task, refusal.clone(), mark);
            }
        }
    }

    /// Ends the pulls of groups that an entry, which ends at `mark`, has deleted, or keeps from
    /// consuming.
    pub(super) fn end_holds_of_groups(
        &mut self,
        is_changed: impl Fn(&GroupName) -> bool,
        mark: LogOffset,
    ) {
        let groups = &self.durable.groups;
        let refusal_of = |group: &GroupName| match groups.find(group) {
            None => Some(Refusal::UnknownGroup(group.clone())),
            Some(_) => groups.check_pull(Some(group)).err(),
        };
        let ends = |group: &GroupName| is_changed(group) && refusal_of(group).is_some();
        let tasks = self.held.take_groups(ends, &mut self.deadlines);
        let with_refusal = |task: PullTask| {
            let refusal = task.group.as_ref().and_then(refusal_of);
            (task, refusal.expect("it ends for a reason"))
        };
        let refused: Vec<_> = tasks.into_iter().map(with_refusal).collect();
        for (task, refusal) in refused {
            self.end_hold(task, refusal, mark);
        }
    }

    fn end_hold(&mut self, task: PullTask, refusal: Refusal, mark: LogOffset) {
        self.release(task.queue);
        self.ended.push_back(Ended { mark, task, refusal });
    }

    /// Takes the pulls that changes end which are not committed, and may never be.
    pub(super) fn take_unended(&mut self) -> Vec<PullTask> {
        self.ended.drain(..).map(|ended| ended.task).collect()
    }

    /// Checks that a topic of this name still offers the queue, under the same number.
    pub(super) fn check_still_there(
        &self,
        name: &TopicName,
        queue: QueueKey,
    ) -> Result<(), Refusal> {
        let (number, topic) = self.durable.topics.find(name)?;
        match number == queue.topic {
            true => topic.check_queue(queue.queue),
            false => Err(Refusal::UnknownTopic(name.detached())),
        }
    }
}
