//! Ends waits whose queue or group is gone. If a topic change removes a queue, pulls held on it are
//! refused as soon as the change is committed, not at their deadlines; so are offset commits that
//! wait there, and the pulls of a group that is deleted or may no longer consume.

use super::State;
use super::woken::{Ended, Then, Woken};
use crate::model::{GroupName, LogOffset, Refusal, TopicName};
use crate::storage::QueueKey;

impl State {
    /// Wakes the pulls ended by changes that are committed, or never will be.
    pub(super) fn wake_ended(&mut self, committed: LogOffset, is_fenced: bool) {
        let is_over = |ended: &mut Ended| ended.mark <= committed || is_fenced;
        while let Some(ended) = self.ended.pop_front_if(is_over) {
            self.woken.push_back(ended.woken);
        }
    }

    /// Ends pulls on queues that are gone: topic `number`, which was called `name`, was changed by
    /// the entry that ends at `mark`. This includes pulls that are woken but not answered yet.
    pub(super) fn end_holds(&mut self, name: &TopicName, number: u32, mark: LogOffset) {
        for queue in self.held.queues().filter(|queue| queue.topic == number).collect::<Vec<_>>() {
            if let Some(refusal) = self.why_gone(name, queue) {
                let ids = self.held.detach(queue);
                let woken = Woken { queue, ids, then: Then::Refuse(refusal) };
                self.ended.push_back(Ended { mark, woken });
            }
        }
        for mut woken in std::mem::take(&mut self.woken) {
            let may_end = woken.queue.topic == number && !woken.is_refused();
            match may_end.then(|| self.why_gone(name, woken.queue)).flatten() {
                None => self.woken.push_back(woken),
                Some(refusal) => {
                    woken.then = Then::Refuse(refusal);
                    self.ended.push_back(Ended { mark, woken });
                }
            }
        }
    }

    fn why_gone(&self, name: &TopicName, queue: QueueKey) -> Option<Refusal> {
        let found = self.durable.topics.find(name);
        found.and_then(|(_, topic)| topic.check_pull(queue.queue)).err()
    }

    /// Ends the pulls of groups that an entry, which ends at `mark`, has deleted, or keeps from
    /// consuming. This includes pulls that are woken but not answered yet.
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
        let woken = self.woken.iter_mut().filter(|woken| !woken.is_refused());
        let detached = self.held.detach_groups(ends, woken.map(|woken| &mut woken.ids));
        let ended = detached.into_iter().map(|((queue, group), ids)| {
            let refusal = refusal_of(&group).expect("it ends for a reason");
            Ended { mark, woken: Woken { queue, ids, then: Then::Refuse(refusal) } }
        });
        self.ended.extend(ended);
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
