//! Waits whose target is gone. If a change of its topic removes a queue, pulls held on it are
//! refused as soon as that change is committed, not at their deadlines; so are waiting commits of
//! offsets there.

use super::{Answer, Broker, Outcome, Released, State};
use crate::model::{LogOffset, Refusal, TopicName};
use crate::storage::QueueKey;
use crate::storage::disk::Disk;

/// A held pull that ends with a change of its topic.
#[derive(Debug)]
pub struct Ended {
    /// The change is committed at this mark.
    mark: LogOffset,
    released: Released,
}

impl<D: Disk> Broker<D> {
    /// The pulls ended by changes that are committed now.
    pub(super) fn take_ended(&self) -> Vec<Released> {
        let (committed, is_fenced) = (self.store.committed(), self.store.is_fenced());
        let ended = &mut self.state.borrow_mut().ended;
        let is_over = |ended: &mut Ended| ended.mark <= committed || is_fenced;
        std::iter::from_fn(|| Some(ended.pop_front_if(is_over)?.released)).collect()
    }
}

impl State {
    /// Topic `number`, which was called `name`, was changed by the entry that ends at `mark`.
    pub(super) fn end_holds(&mut self, name: &TopicName, number: u32, mark: LogOffset) {
        for queue in self.held.queues_of(number) {
            let found = self.durable.topics.find(name);
            let refusal = match found.and_then(|(_, topic)| topic.check_pull(queue.queue)) {
                Ok(()) => continue,
                Err(refusal) => refusal,
            };
            for task in self.held.take_queue(queue, &mut self.deadlines) {
                self.release(queue);
                let outcome = Outcome::Now(Answer::refused(refusal.clone()));
                let released = Released { origin: task.origin, outcome };
                self.ended.push_back(Ended { mark, released });
            }
        }
    }

    /// Whether a topic of this name still offers the queue, under the same number.
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
