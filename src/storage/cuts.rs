//! Counts the cuts of a running log and remembers where they were. A waiter for an entry that was
//! cut off must not mistake a later entry at the same offset for it.

use std::collections::VecDeque;

use crate::model::LogOffset;

/// Number of cuts remembered. After more cuts than this, a waiter learns that its entry is gone.
const CUTS_KEPT: usize = 64;

/// The end of an append that a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    pub end: LogOffset,
    /// Number of cuts when the wait began.
    pub cut_count: u32,
}

#[derive(Debug, Default)]
pub(super) struct Cuts {
    count: u32,
    /// The newest ones, oldest first.
    places: VecDeque<LogOffset>,
}

impl Cuts {
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Records that the log was cut at `place`.
    pub fn note(&mut self, place: LogOffset) {
        self.count += 1;
        self.places.push_back(place);
        if self.places.len() > CUTS_KEPT {
            self.places.pop_front();
        }
    }

    /// Whether the awaited entry was cut off. It must not have been committed when the wait began.
    pub fn have_taken(&self, awaited: Awaited) -> bool {
        let since = (self.count - awaited.cut_count) as usize;
        let mut places = self.places.iter().rev().take(since);
        since > self.places.len() || places.any(|&place| place < awaited.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_before_its_end_takes_an_entry() {
        let mut cuts = Cuts::default();
        let awaited = |end, cut_count| Awaited { end: LogOffset(end), cut_count };
        let at_first = awaited(150, 0);
        assert!(!cuts.have_taken(at_first));
        cuts.note(LogOffset(150));
        assert!(!cuts.have_taken(at_first), "it is kept");
        cuts.note(LogOffset(100));
        let behind = awaited(150, cuts.count());
        cuts.note(LogOffset(200));
        assert!(cuts.have_taken(at_first) && !cuts.have_taken(behind));
        assert!(!cuts.have_taken(awaited(90, 0)));
    }

    #[test]
    fn after_too_many_cuts_a_waiter_learns_that_its_entry_is_gone() {
        let mut cuts = Cuts::default();
        let awaited = Awaited { end: LogOffset(10), cut_count: 0 };
        for _ in 0..CUTS_KEPT {
            cuts.note(LogOffset(10));
            assert!(!cuts.have_taken(awaited));
        }
        cuts.note(LogOffset(10));
        assert!(cuts.have_taken(awaited));
        assert_eq!(cuts.places.len(), CUTS_KEPT);
    }
}
