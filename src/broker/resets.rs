//! Offsets that were reset while their group may be online (remoting reference, 5.7).
//!
//! A member that has not noticed yet goes on where it was, and commits that. So until its next pull of the
//! queue, which is answered with the new offset, its commits are ignored.
//!
//! Lives in memory: the new offset itself is committed like any other.

use std::collections::BTreeMap;

use crate::model::{GroupName, QueueOffset, Refusal};
use crate::storage::QueueKey;

/// Maximum number of (group, queue) pairs with a reset that no member has noticed.
const RESETS_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub struct Resets {
    pending: BTreeMap<(GroupName, QueueKey), QueueOffset>,
}

impl Resets {
    /// Pulls and commits look at resets only while there are any.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether as many more fit.
    pub fn check_room(&self, count: usize) -> Result<(), Refusal> {
        match self.pending.len() + count <= RESETS_MAX {
            true => Ok(()),
            false => Err(Refusal::Full { what: "unnoticed resets", count_max: RESETS_MAX }),
        }
    }

    pub fn begin(&mut self, group: &GroupName, queue: QueueKey, offset: QueueOffset) {
        self.pending.insert((group.clone(), queue), offset);
    }

    pub fn is_pending(&self, group: &GroupName, queue: QueueKey) -> bool {
        !self.is_empty() && self.pending.contains_key(&(group.clone(), queue))
    }

    /// The group pulls at an offset. Gives the one at which it has to go on, if that is another.
    pub fn end(
        &mut self,
        group: &GroupName,
        queue: QueueKey,
        asked: QueueOffset,
    ) -> Option<QueueOffset> {
        self.pending.remove(&(group.clone(), queue)).filter(|offset| *offset != asked)
    }

    /// Forgets the resets of queues that no longer exist, and of groups that are deleted.
    pub fn retain(&mut self, is_there: impl Fn(&GroupName, QueueKey) -> bool) {
        self.pending.retain(|(group, queue), _| is_there(group, *queue));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueId;

    #[test]
    fn a_reset_holds_until_the_first_pull_of_its_queue() {
        let (mut resets, group) = (Resets::default(), GroupName::new("g").unwrap());
        let [first, second] = [0, 1].map(|queue| QueueKey { topic: 1, queue: QueueId(queue) });
        for queue in [first, second] {
            resets.begin(&group, queue, QueueOffset(5));
        }
        let other = GroupName::new("other").unwrap();
        assert_eq!(resets.end(&other, first, QueueOffset(9)), None);
        assert_eq!(resets.end(&group, first, QueueOffset(9)), Some(QueueOffset(5)));
        assert_eq!(resets.end(&group, first, QueueOffset(9)), None, "once");
        assert!(resets.is_pending(&group, second) && !resets.is_pending(&group, first));
        assert_eq!(resets.end(&group, second, QueueOffset(5)), None, "it is there already");
        assert!(resets.is_empty());
    }

    #[test]
    fn resets_are_bounded_and_those_of_what_is_gone_are_forgotten() {
        let (mut resets, group) = (Resets::default(), GroupName::new("g").unwrap());
        for number in 0..RESETS_MAX {
            resets.check_room(1).unwrap();
            let queue = QueueKey { topic: number as u32 % 2, queue: QueueId(number as u32) };
            resets.begin(&group, queue, QueueOffset(5));
        }
        let full = Err(Refusal::Full { what: "unnoticed resets", count_max: RESETS_MAX });
        assert_eq!(resets.check_room(1), full);
        resets.retain(|_, queue| queue.topic == 0);
        assert_eq!(resets.check_room(RESETS_MAX / 2), Ok(()));
    }
}
