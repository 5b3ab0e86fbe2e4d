//! Pulls that found no message and wait for one, or for their deadline (remoting reference, 5.4).
//!
//! A held pull is in two tables of [`Held`], by id and by connection, and in the shard's deadlines, or
//! in none of them. While it waits for messages, it is also in the table by queue; when they have
//! come, it is [woken](super::woken). Removing it from each costs one look-up, however many others
//! wait on its queue or connection, so a client that disconnects with many held pulls does not block
//! the shard.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use super::Origin;
use super::filter::TagFilter;
use crate::model::deadlines::{DeadlineId, Deadlines};
use crate::model::{GroupName, Moment, QueueOffset};
use crate::storage::QueueKey;

/// Maximum number of held pulls per shard: queues times groups of all connected consumers.
const HELD_MAX: usize = 200_000;
/// Maximum number of held pulls per connection, so that one client leaves room for others. Stock
/// clients hold one per queue and group.
const HELD_PER_CONNECTION_MAX: usize = 16_384;

/// A pull that can wait and be retried.
#[derive(Clone, Debug)]
pub struct PullTask {
    pub origin: Origin,
    pub group: Option<GroupName>,
    pub queue: QueueKey,
    /// The offset that the client requested.
    pub asked: QueueOffset,
    /// Where to continue the search: earlier messages were checked and did not match.
    pub from: QueueOffset,
    pub count_max: u32,
    pub bytes_max: u32,
    pub filter: TagFilter,
    /// Its deadline; `None` once it must be answered without waiting.
    pub hold_until: Option<Moment>,
    /// Its id, if it has been held before.
    pub held_as: Option<HeldId>,
}

#[cfg(test)]
impl PullTask {
    /// A pull of everything in a queue from its beginning.
    pub fn for_test(origin: Origin) -> Self {
        Self {
            group: None,
            origin,
            queue: QueueKey::FIRST,
            asked: QueueOffset(0),
            from: QueueOffset(0),
            count_max: 32,
            bytes_max: 1 << 20,
            filter: TagFilter::All,
            hold_until: None,
            held_as: None,
        }
    }
}

/// Id of a held pull; later ones have larger ids. A pull that is held again keeps its id.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
pub struct HeldId(u64);

#[derive(Debug, Default)]
pub struct Held {
    tasks: FxHashMap<HeldId, (PullTask, DeadlineId)>,
    by_queue: FxHashMap<QueueKey, BTreeSet<HeldId>>,
    by_connection: FxHashMap<u64, FxHashSet<HeldId>>,
    next_id: u64,
}

impl Held {
    /// The reason why no further pull of `connection` can be held, if there is one.
    pub fn why_full(&self, connection: u64) -> Option<&'static str> {
        let of_connection = self.by_connection.get(&connection).map_or(0, FxHashSet::len);
        if self.tasks.len() >= HELD_MAX {
            Some("held_pulls")
        } else if of_connection >= HELD_PER_CONNECTION_MAX {
            Some("held_pulls_of_connection")
        } else {
            None
        }
    }

    pub fn hold<T: From<HeldId>>(
        &mut self,
        mut task: PullTask,
        until: Moment,
        deadlines: &mut Deadlines<T>,
    ) {
        let id = *task.held_as.get_or_insert(HeldId(self.next_id));
        self.next_id = self.next_id.max(id.0 + 1);
        let deadline = deadlines.insert(until, id.into());
        self.by_queue.entry(task.queue).or_default().insert(id);
        self.by_connection.entry(task.origin.connection).or_default().insert(id);
        self.tasks.insert(id, (task, deadline));
    }

    /// The queues for whose messages pulls wait.
    pub fn queues(&self) -> impl Iterator<Item = QueueKey> {
        self.by_queue.keys().copied()
    }

    /// Takes all pulls out of the table by queue that wait for messages of `queue`. The caller sees
    /// to it that they are answered.
    pub fn detach(&mut self, queue: QueueKey) -> BTreeSet<HeldId> {
        self.by_queue.remove(&queue).unwrap_or_default()
    }

    /// Takes the pulls whose group matches out of the table by queue, and out of these sets of woken
    /// pulls. Looks at all of them: groups change rarely.
    pub fn detach_groups<'a>(
        &mut self,
        matches: impl Fn(&GroupName) -> bool,
        woken: impl Iterator<Item = &'a mut BTreeSet<HeldId>>,
    ) -> BTreeMap<(QueueKey, GroupName), BTreeSet<HeldId>> {
        let mut detached = BTreeMap::<_, BTreeSet<HeldId>>::new();
        let mut stays = |id: &HeldId| {
            let task = self.tasks.get(id).map(|(task, _)| task);
            let found = task.and_then(|task| Some((task.queue, task.group.as_ref()?)));
            let Some((queue, group)) = found.filter(|(_, group)| matches(group)) else {
                return true;
            };
            detached.entry((queue, group.clone())).or_default().insert(*id);
            false
        };
        woken.for_each(|ids| ids.retain(&mut stays));
        self.by_queue.retain(|_, ids| {
            ids.retain(&mut stays);
            !ids.is_empty()
        });
        detached
    }

    /// Removes the pulls of a closed connection. Returns their number.
    pub fn connection_closed<T>(&mut self, connection: u64, deadlines: &mut Deadlines<T>) -> usize {
        let ids = self.by_connection.remove(&connection).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.take(id, deadlines)).count()
    }

    /// Removes a pull whose deadline has come. One that is woken stays: it has not seen all messages
    /// that are there, and does not wait any more when it is tried again.
    pub fn expire<T>(&mut self, id: HeldId, deadlines: &mut Deadlines<T>) -> Option<PullTask> {
        let (task, _) = self.tasks.get_mut(&id)?;
        if self.by_queue.get(&task.queue).is_none_or(|ids| !ids.contains(&id)) {
            task.hold_until = None;
            return None;
        }
        self.take(id, deadlines)
    }

    /// Removes one pull.
    pub fn take<T>(&mut self, id: HeldId, deadlines: &mut Deadlines<T>) -> Option<PullTask> {
        let (task, deadline) = self.tasks.remove(&id)?;
        deadlines.cancel(deadline);
        if let Some(ids) = self.by_queue.get_mut(&task.queue) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_queue.remove(&task.queue);
            }
        }
        let connection = task.origin.connection;
        if let Some(ids) = self.by_connection.get_mut(&connection) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
        Some(task)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::hash::{Hash, Hasher};

    use super::*;
    use crate::model::QueueId;

    thread_local! {
        /// Number of held pulls that were compared or looked up.
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    fn look() {
        LOOKS.set(LOOKS.get() + 1);
    }

    impl PartialEq for HeldId {
        fn eq(&self, other: &Self) -> bool {
            look();
            self.0 == other.0
        }
    }

    impl Eq for HeldId {}

    impl Ord for HeldId {
        fn cmp(&self, other: &Self) -> Ordering {
            look();
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for HeldId {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Hash for HeldId {
        fn hash<H: Hasher>(&self, state: &mut H) {
            look();
            self.0.hash(state);
        }
    }

    fn task(connection: u64, queue: u32, until: u64) -> PullTask {
        PullTask {
            queue: QueueKey { topic: 0, queue: QueueId(queue) },
            hold_until: Some(Moment(until)),
            ..PullTask::for_test(Origin { connection, ..Origin::default() })
        }
    }

    type Both = (Held, Deadlines<HeldId>);

    fn take_expired((held, deadlines): &mut Both, now: u64) -> usize {
        let mut count = 0;
        while let Some(id) = deadlines.take_due(Moment(now)) {
            count += usize::from(held.expire(id, deadlines).is_some());
        }
        count
    }

    /// Removes all pulls of queue 0; returns their connections.
    fn take_queue((held, deadlines): &mut Both) -> Vec<u64> {
        let ids = held.detach(QueueKey { topic: 0, queue: QueueId(0) });
        let tasks = ids.into_iter().map(|id| held.take(id, deadlines).unwrap());
        tasks.map(|task| task.origin.connection).collect()
    }

    #[test]
    fn a_held_pull_leaves_once_by_whichever_way_comes_first() {
        let mut both = Both::default();
        for (connection, queue, until) in [(1, 0, 10), (1, 1, 20), (2, 0, 30)] {
            both.0.hold(task(connection, queue, until), Moment(until), &mut both.1);
        }
        assert_eq!(take_expired(&mut both, 9), 0);
        assert_eq!(take_expired(&mut both, 10), 1);
        assert_eq!(take_queue(&mut both), [2]);
        assert_eq!(both.0.connection_closed(1, &mut both.1), 1);
        assert_eq!(take_expired(&mut both, 100), 0);
        assert_is_empty(&both);
    }

    fn assert_is_empty((held, deadlines): &Both) {
        assert!(held.tasks.is_empty() && deadlines.is_empty());
        assert!(held.by_queue.is_empty() && held.by_connection.is_empty());
    }

    /// The cost must not depend on the order of removal or on the number of waiting pulls.
    #[test]
    fn removing_a_pull_costs_the_same_however_many_are_held() {
        const COUNT: u64 = 10_000;
        /// A few look-ups in hash tables, and two in ordered sets: about twelve levels of two
        /// nodes.
        const LOOKS_PER_PULL_MAX: usize = 200;
        let fill = || {
            let (mut held, mut deadlines) = Both::default();
            for at in 0..COUNT {
                held.hold(task(at % 2, 0, 10), Moment(10), &mut deadlines);
            }
            LOOKS.set(0);
            (held, deadlines)
        };
        let close = |both: &mut Both, connection| both.0.connection_closed(connection, &mut both.1);
        let ways: [&dyn Fn(&mut Both) -> usize; 3] =
            [&|both| close(both, 1) + close(both, 0), &|both| take_expired(both, 10), &|both| {
                take_queue(both).len()
            }];
        for way in ways {
            let mut both = fill();
            assert_eq!(way(&mut both), COUNT as usize);
            let looks = LOOKS.get() / COUNT as usize;
            assert!(looks <= LOOKS_PER_PULL_MAX, "{looks} looks for each pull");
            assert_is_empty(&both);
        }
        assert_eq!(close(&mut fill(), 2), 0);
        assert_eq!(LOOKS.get(), 0, "a connection that holds nothing looks at nothing");
    }

    #[test]
    fn one_connection_leaves_room_for_others() {
        let (mut held, mut deadlines) = Both::default();
        for _ in 0..HELD_PER_CONNECTION_MAX {
            assert_eq!(held.why_full(1), None);
            held.hold(task(1, 0, 10), Moment(10), &mut deadlines);
        }
        assert_eq!(held.why_full(1), Some("held_pulls_of_connection"));
        let mut connection = 2;
        while held.tasks.len() < HELD_MAX {
            assert_eq!(held.why_full(connection), None);
            held.hold(task(connection, 0, 10), Moment(10), &mut deadlines);
            connection += 1;
        }
        assert_eq!(held.why_full(connection), Some("held_pulls"));
        held.connection_closed(1, &mut deadlines);
        assert_eq!(held.why_full(1), None);
    }
}
