//! How often a log was cut while it ran, and where. Whoever waits for an entry that was cut off must not
//! take another one, which has come to the same place since, for it.

use std::collections::VecDeque;

use crate::model::LogOffset;

/// Cuts whose places are remembered. Who has waited through more of them is told that the entry is gone.
const CUTS_KEPT: usize = 64;

/// The end of an append that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    pub end: LogOffset,
    /// How often the log had been cut by then.
    pub cut_count: u32,
}

#[derive(Debug, Default)]
pub(super) struct Cuts {
    count: u32,
    /// Where the newest ones were, oldest first.
    places: VecDeque<LogOffset>,
}

impl Cuts {
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What was behind `place` is gone.
    pub fn note(&mut self, place: LogOffset) {
        self.count += 1;
        self.places.push_back(place);
        if self.places.len() > CUTS_KEPT {
            self.places.pop_front();
        }
    }

    /// Whether an entry that was not committed when this was last asked has been cut off since.
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
    fn an_entry_is_gone_by_any_cut_in_front_of_its_end() {
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
    fn who_has_waited_through_too_many_cuts_is_told_that_it_is_gone() {
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
