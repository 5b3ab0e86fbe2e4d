//! Work that gets what time the shard has left, and a small share of it when there is none left.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::turns::Turns;

/// Under load, one part in this many of the time.
const SHARE: u32 = 20;

/// When the background work that waits gets a turn.
#[derive(Default)]
pub struct Background {
    pub turns: Turns,
    /// When the next turn is due although the shard is busy.
    due: Cell<Option<Instant>>,
}

impl Background {
    /// Whether background work has waited long enough to get a turn although the shard is busy.
    pub fn is_due(&self, now: Instant) -> bool {
        self.turns.is_waiting() && self.due.get().is_none_or(|due| due <= now)
    }

    /// A turn has ended at `now`, after `took`.
    pub fn note_turn(&self, now: Instant, took: Duration) {
        self.due.set(Some(now + took * (SHARE - 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_shard_gives_a_twentieth_of_its_time() {
        let background = Background::default();
        let begin = Instant::now();
        let at = |us| begin + Duration::from_micros(us);
        assert!(!background.is_due(at(0)), "nothing waits");
        let _turn = background.turns.ask();
        assert!(background.is_due(at(0)));
        background.note_turn(at(100), Duration::from_micros(100));
        assert_eq!([100, 1_999, 2_000].map(|us| background.is_due(at(us))), [false, false, true]);
    }
}
