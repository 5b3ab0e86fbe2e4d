//! Tracks which connections have replies that wait for a commit.
//!
//! A commit visits only the connections that have a committed reply: its cost grows with what it
//! commits, not with the number of connections that wait.
//!
//! Pure: no I/O, no clock.

use std::collections::BTreeSet;

use crate::model::LogOffset;

/// Invariant: one entry for each connection with waiting replies, with the lowest log offset that
/// one of them waits for.
#[derive(Debug, Default)]
pub struct Uncommitted(BTreeSet<(LogOffset, u64)>);

impl Uncommitted {
    /// Adds `connection`, whose first waiting reply waits for the log offset `mark`.
    pub fn push(&mut self, connection: u64, mark: LogOffset) {
        self.0.insert((mark, connection));
    }

    /// Removes and returns a connection with at least one committed reply. If more of its replies
    /// wait, the caller follows with [`push`](Self::push).
    pub fn take(&mut self, committed: LogOffset) -> Option<u64> {
        let first = self.0.first().is_some_and(|(mark, _)| *mark <= committed);
        first.then(|| self.0.pop_first())?.map(|(_, connection)| connection)
    }

    /// Removes and returns all connections, for when log offsets no longer mean anything.
    pub fn take_all(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(_, connection)| connection)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;

    /// Connections with the log offsets that their replies wait for.
    #[derive(Default)]
    struct Scene {
        uncommitted: Uncommitted,
        waiting: BTreeMap<u64, VecDeque<LogOffset>>,
        taken: usize,
    }

    impl Scene {
        fn append(&mut self, connection: u64, mark: u64) {
            let marks = self.waiting.entry(connection).or_default();
            if marks.is_empty() {
                self.uncommitted.push(connection, LogOffset(mark));
            }
            marks.push_back(LogOffset(mark));
        }

        fn commit(&mut self, committed: u64) {
            let committed = LogOffset(committed);
            while let Some(connection) = self.uncommitted.take(committed) {
                self.taken += 1;
                self.send(connection, |mark| mark <= committed);
            }
            let is_over = |marks: &VecDeque<LogOffset>| marks.iter().all(|mark| *mark > committed);
            assert!(self.waiting.values().all(is_over), "{committed:?}: {:?}", self.waiting);
        }

        /// Cuts off what was appended beyond `end`.
        fn cut(&mut self, end: u64) {
            for connection in self.uncommitted.take_all().collect::<Vec<_>>() {
                // Log offsets never decrease, so these are the last.
                self.waiting.get_mut(&connection).unwrap().retain(|mark| mark.0 <= end);
                self.send(connection, |_| false);
            }
        }

        fn send(&mut self, connection: u64, is_over: impl Fn(LogOffset) -> bool) {
            let marks = self.waiting.get_mut(&connection).unwrap();
            while marks.pop_front_if(|mark| is_over(*mark)).is_some() {}
            if let Some(next) = marks.front() {
                self.uncommitted.push(connection, *next);
            }
        }
    }

    #[test]
    fn a_commit_visits_only_connections_with_something_committed() {
        let mut scene = Scene::default();
        (1..=1000).for_each(|nth| scene.append(nth, nth));
        scene.commit(0);
        assert_eq!(scene.taken, 0);
        scene.commit(10);
        assert_eq!(scene.taken, 10);
    }

    #[test]
    fn every_reply_is_sent_at_its_commit_however_appends_alternate_and_are_cut_off() {
        let mut random = 7u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        for _ in 0..300 {
            let mut scene = Scene::default();
            let (mut end, mut committed) = (0, 0);
            for _ in 0..100 {
                for _ in 0..below(5) {
                    end += 1;
                    scene.append(below(4), end);
                }
                if below(10) == 0 {
                    end = committed + below(end - committed + 1);
                    scene.cut(end);
                }
                committed += below(end - committed + 1);
                scene.commit(committed);
            }
            scene.commit(end);
            assert!(scene.uncommitted.0.is_empty());
        }
    }
}
