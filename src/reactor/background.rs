//! Work that runs when the shard is idle, and gets a small share of the time when it is busy.
//!
//! There are two kinds. Longer work is measured, and gets its share in steps of any length. Tasks
//! that should only begin when there is time to spare ([`Background::spare`]) get a turn now and
//! then; what they do in it is not measured. Neither kind waits for the other.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::turns::Turns;

/// Under load, background work gets one part in this many of the time.
const SHARE: u32 = 20;
/// Under load, the time between two spare turns.
const SPARE_EVERY: Duration = Duration::from_millis(1);

/// Decides when waiting background work gets a turn.
#[derive(Default)]
pub struct Background {
    pub turns: Turns,
    pub spare: Turns,
    /// When the next turn of each kind is due even if the shard is busy.
    due: Cell<Option<Instant>>,
    spare_due: Cell<Option<Instant>>,
}

impl Background {
    pub fn is_waiting(&self) -> bool {
        self.turns.is_waiting() || self.spare.is_waiting()
    }

    /// Grants a turn to the first waiting task of each kind, at `now`.
    pub fn grant(&self, now: Instant) {
        self.turns.grant();
        self.grant_spare(now);
    }

    /// The same, for the kinds whose turn is due at `now` even though the shard is busy.
    pub fn grant_due(&self, now: Instant) {
        let is_due = |due: &Cell<Option<Instant>>| due.get().is_none_or(|due| due <= now);
        if is_due(&self.due) {
            self.turns.grant();
        }
        if is_due(&self.spare_due) {
            self.grant_spare(now);
        }
    }

    /// Records that a turn has ended at `now`, after `took`.
    pub fn note_turn(&self, now: Instant, took: Duration) {
        self.due.set(Some(now + took * (SHARE - 1)));
    }

    fn grant_spare(&self, now: Instant) {
        if self.spare.is_waiting() {
            self.spare_due.set(Some(now + SPARE_EVERY));
            self.spare.grant();
        }
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
        let first = background.turns.ask();
        background.grant_due(at(0));
        assert!(first.was_granted());
        background.note_turn(at(100), Duration::from_micros(100));
        let second = background.turns.ask();
        let is_granted = |us| {
            background.grant_due(at(us));
            second.was_granted()
        };
        assert_eq!([100, 1_999, 2_000].map(is_granted), [false, false, true]);
    }

    #[test]
    fn a_busy_shard_has_a_turn_to_spare_every_millisecond_and_an_idle_one_always() {
        let background = Background::default();
        let begin = Instant::now();
        let at = |us| begin + Duration::from_micros(us);
        let turns = [(); 4].map(|()| background.spare.ask());
        let granted = || turns.iter().filter(|turn| turn.was_granted()).count();
        let is_granted = |us| {
            background.grant_due(at(us));
            granted()
        };
        assert_eq!([0, 1, 999, 1_000].map(is_granted), [1, 1, 1, 2]);
        background.grant(at(1_001));
        background.grant(at(1_002));
        assert_eq!(granted(), 4);
    }
}
