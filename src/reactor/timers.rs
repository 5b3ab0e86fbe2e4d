//! Deadlines of tasks.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Instant;

/// Wakers by deadline; the number tells equal deadlines apart.
#[derive(Debug, Default)]
pub struct Timers {
    wakers: BTreeMap<(Instant, u64), Waker>,
    next_number: u64,
}

impl Timers {
    /// Adds a waker. Returns the number under which it is kept.
    pub fn insert(&mut self, deadline: Instant, waker: Waker) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.wakers.insert((deadline, number), waker);
        number
    }

    /// Replaces the waker under `number`. Returns false if its deadline has passed.
    pub fn renew(&mut self, deadline: Instant, number: u64, waker: &Waker) -> bool {
        let kept = self.wakers.get_mut(&(deadline, number));
        kept.map(|kept| kept.clone_from(waker)).is_some()
    }

    pub fn remove(&mut self, deadline: Instant, number: u64) {
        self.wakers.remove(&(deadline, number));
    }

    /// The next waker whose deadline has passed.
    pub fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let entry = self.wakers.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.wakers.len()
    }

    pub fn next(&self) -> Option<Instant> {
        self.wakers.first_key_value().map(|(&(deadline, _), _)| deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_are_due_in_order_and_once() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut timers = Timers::default();
        for ms in [30, 10, 20, 10] {
            timers.insert(at(ms), Waker::noop().clone());
        }
        assert_eq!(timers.next(), Some(at(10)));
        let mut due = |ms| std::iter::from_fn(|| timers.take_due(at(ms))).count();
        assert_eq!([9, 10, 10, 25, 100].map(&mut due), [0, 2, 0, 1, 1]);
        assert_eq!(timers.next(), None);
    }
}
