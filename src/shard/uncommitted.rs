//! Which connections have replies that wait for a commit.
//!
//! Appends of all connections are in one order, that of the log, so a commit concerns a prefix: its cost
//! grows with what it commits, not with the number of connections that wait.
//!
//! Pure.

use std::collections::VecDeque;

use crate::model::LogOffset;

/// Invariant: for each waiting reply there is a run of its connection, whose first mark is not higher.
/// Runs are in the order in which their first replies began to wait. Marks hardly ever decrease in it; a
/// reply whose mark is lower than one before it is sent with that one.
#[derive(Debug, Default)]
pub struct Uncommitted {
    runs: VecDeque<Run>,
}

/// Replies of one connection, without any of others between them.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: LogOffset,
    connection: u64,
}

impl Uncommitted {
    /// A reply of `connection` waits for `mark`.
    pub fn push(&mut self, connection: u64, mark: LogOffset) {
        if self.runs.back().is_none_or(|last| last.connection != connection) {
            self.runs.push_back(Run { first: mark, connection });
        }
    }

    /// A connection of which at least one reply is committed.
    pub fn take(&mut self, committed: LogOffset) -> Option<u64> {
        self.runs.pop_front_if(|run| run.first <= committed).map(|run| run.connection)
    }

    /// The replies of the connection last [taken](Self::take) are sent, except those from `mark` on.
    pub fn put_back(&mut self, connection: u64, mark: LogOffset) {
        // Otherwise it has a later run.
        if self.runs.front().is_none_or(|next| mark <= next.first) {
            self.runs.push_front(Run { first: mark, connection });
        }
    }

    /// All connections, for when marks mean nothing any longer.
    pub fn take_all(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.runs).into_iter().map(|run| run.connection)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Connections with the marks for which their replies wait.
    #[derive(Default)]
    struct Scene {
        uncommitted: Uncommitted,
        waiting: BTreeMap<u64, VecDeque<LogOffset>>,
        taken: usize,
    }

    impl Scene {
        fn append(&mut self, connection: u64, mark: u64) {
            self.waiting.entry(connection).or_default().push_back(LogOffset(mark));
            self.uncommitted.push(connection, LogOffset(mark));
        }

        fn commit(&mut self, committed: u64) {
            let committed = LogOffset(committed);
            while let Some(connection) = self.uncommitted.take(committed) {
                self.taken += 1;
                let marks = self.waiting.get_mut(&connection).unwrap();
                while marks.pop_front_if(|mark| *mark <= committed).is_some() {}
                if let Some(next) = marks.front() {
                    self.uncommitted.put_back(connection, *next);
                }
            }
            let is_over = |marks: &VecDeque<LogOffset>| marks.iter().all(|mark| *mark > committed);
            assert!(self.waiting.values().all(is_over), "{committed:?}: {:?}", self.waiting);
        }
    }

    #[test]
    fn a_commit_concerns_only_connections_with_something_committed() {
        let mut scene = Scene::default();
        (1..=1000).for_each(|nth| scene.append(nth, nth));
        scene.commit(0);
        assert_eq!(scene.taken, 0);
        scene.commit(10);
        assert_eq!(scene.taken, 10);
    }

    #[test]
    fn of_a_run_that_is_partly_committed_the_rest_waits() {
        let mut scene = Scene::default();
        for (connection, mark) in [(1, 1), (1, 2), (1, 3), (2, 4), (1, 5)] {
            scene.append(connection, mark);
        }
        (1..=5).for_each(|committed| scene.commit(committed));
        assert!(scene.waiting.values().all(VecDeque::is_empty));
    }

    #[test]
    fn every_reply_is_sent_at_its_commit_however_appends_alternate() {
        let mut random = 7u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        for _ in 0..200 {
            let mut scene = Scene::default();
            let (mut end, mut committed) = (0, 0);
            for _ in 0..100 {
                for _ in 0..below(5) {
                    end += 1;
                    scene.append(below(4), end);
                }
                committed += below(end - committed + 1);
                scene.commit(committed);
            }
            scene.commit(end);
            assert!(scene.uncommitted.runs.is_empty());
        }
    }
}
