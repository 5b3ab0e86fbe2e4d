//! Pulls that found nothing and wait for a message or their deadline (remoting reference, 5.4).

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::Origin;
use super::filter::TagFilter;
use crate::model::{QueueOffset, Timestamp};
use crate::storage::QueueKey;

/// Pulls one shard holds at a time: queues times groups of all connected consumers.
pub const HELD_MAX: usize = 200_000;

/// A pull in the form in which it can wait and be tried again.
#[derive(Clone, Debug)]
pub struct PullTask {
    pub origin: Origin,
    pub queue: QueueKey,
    /// What the client asked for.
    pub asked: QueueOffset,
    /// Where to go on looking: messages below were seen and did not match.
    pub from: QueueOffset,
    pub count_max: u32,
    pub bytes_max: u32,
    pub filter: TagFilter,
    /// Until when it may be held; `None` once it must be answered.
    pub hold_until: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct Held {
    tasks: FxHashMap<u64, PullTask>,
    by_queue: FxHashMap<QueueKey, Vec<u64>>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    next_id: u64,
}

impl Held {
    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    pub fn hold(&mut self, task: PullTask, until: Timestamp) {
        let id = self.next_id;
        self.next_id += 1;
        self.deadlines.insert((until, id));
        self.by_queue.entry(task.queue).or_default().push(id);
        self.tasks.insert(id, task);
    }

    /// Takes out all pulls of a queue, to be tried again.
    pub fn take_queue(&mut self, queue: QueueKey) -> Vec<PullTask> {
        let ids = self.by_queue.remove(&queue).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Takes out the pulls whose time is over.
    pub fn take_expired(&mut self, now: Timestamp) -> Vec<PullTask> {
        let mut expired = Vec::new();
        while let Some(&(until, id)) = self.deadlines.first()
            && until <= now
        {
            expired.extend(self.take_with_queue(id));
        }
        expired
    }

    /// Forgets the pulls of a connection that is gone; nobody waits for their answers.
    pub fn connection_closed(&mut self, connection: u64) -> Vec<QueueKey> {
        let of_connection = |(id, task): (&u64, &PullTask)| {
            (task.origin.connection == connection).then_some((*id, task.queue))
        };
        let gone: Vec<(u64, QueueKey)> = self.tasks.iter().filter_map(of_connection).collect();
        gone.into_iter()
            .map(|(id, queue)| {
                self.take_with_queue(id);
                queue
            })
            .collect()
    }

    fn take(&mut self, id: u64) -> Option<PullTask> {
        let task = self.tasks.remove(&id)?;
        if let Some(until) = task.hold_until {
            self.deadlines.remove(&(until, id));
        }
        Some(task)
    }

    fn take_with_queue(&mut self, id: u64) -> Option<PullTask> {
        let task = self.take(id)?;
        if let Some(ids) = self.by_queue.get_mut(&task.queue) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_queue.remove(&task.queue);
            }
        }
        Some(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueId;

    fn task(connection: u64, queue: u32, until: u64) -> PullTask {
        PullTask {
            origin: Origin { connection, ..Origin::default() },
            queue: QueueKey { topic: 0, queue: QueueId(queue) },
            asked: QueueOffset(0),
            from: QueueOffset(0),
            count_max: 32,
            bytes_max: 1 << 20,
            filter: TagFilter::All,
            hold_until: Some(Timestamp(until)),
        }
    }

    #[test]
    fn a_held_pull_leaves_once_by_whichever_way_comes_first() {
        let mut held = Held::default();
        for (connection, queue, until) in [(1, 0, 10), (1, 1, 20), (2, 0, 30)] {
            held.hold(task(connection, queue, until), Timestamp(until));
        }
        assert_eq!(held.take_expired(Timestamp(9)).len(), 0);
        assert_eq!(held.take_expired(Timestamp(10)).len(), 1);
        let woken = held.take_queue(QueueKey { topic: 0, queue: QueueId(0) });
        assert_eq!(woken.iter().map(|task| task.origin.connection).collect::<Vec<_>>(), [2]);
        assert_eq!(held.connection_closed(1).len(), 1);
        assert_eq!(held.count(), 0);
        assert!(held.take_expired(Timestamp(100)).is_empty());
        assert!(held.by_queue.is_empty() && held.deadlines.is_empty());
    }
}
