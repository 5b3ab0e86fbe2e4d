//! How far each consumer group has got in each queue of this shard.
//!
//! Committing changes memory at once; the change reaches the log with the next
//! [`take_changed`](Offsets::take_changed), so that a group which commits with every pull costs one
//! entry a second and not one a pull (the reference flushes every 5 s; remoting reference, 5.6).

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::model::{GroupName, QueueId, QueueOffset, Refusal};
use crate::storage::QueueKey;

/// Most (group, queue) pairs that may have an offset: ten groups at each of 100,000 queues. Each is
/// named with its group in a snapshot, which is made in memory.
const OFFSETS_MAX: usize = 1_000_000;
/// Most groups that may have an offset.
const GROUPS_MAX: usize = 100_000;

/// One committed offset as it stands in the log and in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub group: GroupName,
    pub topic: u32,
    pub queue: QueueId,
    pub offset: QueueOffset,
}

#[derive(Debug, Default)]
pub struct Offsets {
    /// Sorted, as names come from whoever connects and could be made to collide.
    groups: BTreeMap<GroupName, FxHashMap<QueueKey, QueueOffset>>,
    changed: BTreeSet<(GroupName, QueueKey)>,
    count: usize,
}

impl Offsets {
    pub fn find(&self, group: &GroupName, queue: QueueKey) -> Option<QueueOffset> {
        self.groups.get(group)?.get(&queue).copied()
    }

    /// Takes `offset` whatever it was before: groups may be set back on purpose. Refuses a new pair
    /// when the table is full.
    pub fn commit(
        &mut self,
        group: &GroupName,
        queue: QueueKey,
        offset: QueueOffset,
    ) -> Result<(), Refusal> {
        let known = self.find(group, queue);
        if known == Some(offset) {
            return Ok(());
        }
        if known.is_none() && self.count >= OFFSETS_MAX {
            return Err(Refusal::Full { what: "committed offsets", count_max: OFFSETS_MAX });
        }
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(group) {
            let what = "groups with committed offsets";
            return Err(Refusal::Full { what, count_max: GROUPS_MAX });
        }
        self.restore(group, queue, offset);
        // The name as the table holds it, so that it is stored once.
        let (group, _) = self.groups.get_key_value(group).expect("it was just set");
        self.changed.insert((group.clone(), queue));
        Ok(())
    }

    /// Sets an offset that is already in the log.
    pub fn restore(&mut self, group: &GroupName, queue: QueueKey, offset: QueueOffset) {
        let queues = match self.groups.get_mut(group) {
            Some(queues) => queues,
            None => self.groups.entry(group.detached()).or_default(),
        };
        if queues.insert(queue, offset).is_none() {
            self.count += 1;
        }
    }

    /// At most `count_max` of the offsets that changed since they were last taken.
    pub fn take_changed(&mut self, count_max: usize) -> Vec<Committed> {
        let taken: Vec<_> =
            std::iter::from_fn(|| self.changed.pop_first()).take(count_max).collect();
        let describe = |(group, queue): (GroupName, QueueKey)| {
            let offset = self.find(&group, queue)?;
            Some(Committed { group, topic: queue.topic, queue: queue.queue, offset })
        };
        taken.into_iter().filter_map(describe).collect()
    }

    /// Puts back what could not be written; a later commit of the same pair has not been lost,
    /// because only the pair is remembered and the offset is read when it is taken.
    pub fn put_back(&mut self, committed: Vec<Committed>) {
        let pair = |one: Committed| (one.group, QueueKey { topic: one.topic, queue: one.queue });
        self.changed.extend(committed.into_iter().map(pair));
    }

    /// Forgets everything about a topic.
    pub fn remove_topic(&mut self, topic: u32) {
        self.changed.retain(|(_, queue)| queue.topic != topic);
        for queues in self.groups.values_mut() {
            queues.retain(|queue, _| queue.topic != topic);
        }
        self.groups.retain(|_, queues| !queues.is_empty());
        self.count = self.groups.values().map(|queues| queues.len()).sum();
    }

    pub fn all(&self) -> Vec<Committed> {
        let of_group = |(group, queues): (&GroupName, &FxHashMap<QueueKey, QueueOffset>)| {
            let group = group.clone();
            let describe = move |(queue, offset): (&QueueKey, &QueueOffset)| Committed {
                group: group.clone(),
                topic: queue.topic,
                queue: queue.queue,
                offset: *offset,
            };
            queues.iter().map(describe).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of_group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(queue: u32) -> QueueKey {
        QueueKey { topic: 1, queue: QueueId(queue) }
    }

    #[test]
    fn a_group_may_go_back_and_only_the_last_offset_is_written() {
        let group = GroupName::new("g").unwrap();
        let mut offsets = Offsets::default();
        assert_eq!(offsets.find(&group, key(0)), None);
        for offset in [5, 9, 3] {
            offsets.commit(&group, key(0), QueueOffset(offset)).unwrap();
        }
        let changed = offsets.take_changed(10);
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].offset, QueueOffset(3));
        assert_eq!(offsets.take_changed(10), []);

        offsets.commit(&group, key(0), QueueOffset(3)).unwrap();
        assert_eq!(offsets.take_changed(10), [], "the same offset again is no change");
    }

    #[test]
    fn what_could_not_be_written_is_written_later_with_its_newest_offset() {
        let group = GroupName::new("g").unwrap();
        let mut offsets = Offsets::default();
        offsets.commit(&group, key(0), QueueOffset(5)).unwrap();
        let taken = offsets.take_changed(10);
        offsets.commit(&group, key(0), QueueOffset(6)).unwrap();
        offsets.put_back(taken);
        assert_eq!(offsets.take_changed(10)[0].offset, QueueOffset(6));
    }

    #[test]
    fn groups_and_offsets_are_bounded_and_who_is_known_goes_on() {
        let mut offsets = Offsets::default();
        let group = |number: usize| GroupName::new(format!("g{number}")).unwrap();
        for number in 0..GROUPS_MAX {
            offsets.commit(&group(number), key(0), QueueOffset(1)).unwrap();
        }
        let what = "groups with committed offsets";
        let full = Err(Refusal::Full { what, count_max: GROUPS_MAX });
        assert_eq!(offsets.commit(&group(GROUPS_MAX), key(0), QueueOffset(1)), full);
        let more = (OFFSETS_MAX - GROUPS_MAX) as u32;
        for queue in 1..=more {
            offsets.commit(&group(0), key(queue), QueueOffset(1)).unwrap();
        }
        let full = Err(Refusal::Full { what: "committed offsets", count_max: OFFSETS_MAX });
        assert_eq!(offsets.commit(&group(0), key(more + 1), QueueOffset(1)), full);
        assert_eq!(offsets.commit(&group(0), key(more), QueueOffset(2)), Ok(()));
        offsets.remove_topic(1);
        assert_eq!(offsets.commit(&group(0), key(more + 1), QueueOffset(1)), Ok(()));
    }

    /// The name of a group lies in memory once, however many of its offsets have changed.
    #[test]
    fn what_changed_shares_the_name_of_its_group() {
        let mut offsets = Offsets::default();
        let group = GroupName::new("g".repeat(255)).unwrap();
        for queue in 0..2 {
            offsets.commit(&group.detached(), key(queue), QueueOffset(1)).unwrap();
        }
        let known = offsets.groups.keys().next().unwrap().as_str().as_ptr();
        assert!(offsets.changed.iter().all(|(group, _)| group.as_str().as_ptr() == known));
    }
}
