//! How long one connection may run before the others get a turn.

use std::time::{Duration, Instant};

use crate::reactor;

/// All tasks together should take no longer than this, because only after that does the reactor
/// check what the device has written.
const ROUND: Duration = Duration::from_millis(1);
/// A single read can contain a thousand pulls, which may take longer than a write of the log.
const TURN_MAX: Duration = Duration::from_micros(300);
/// Shorter turns would cost more than other connections gain.
const TURN_MIN: Duration = Duration::from_micros(20);
/// Number of frames, and bytes, between two readings of the clock.
const LOOK_AFTER: usize = 8;
const LOOK_AFTER_SIZE: usize = 64 << 10;

/// The turn of one connection, in which it handles requests.
pub struct Turn {
    began_at: Instant,
    max: Duration,
    /// Handled since the clock was last read.
    frames: usize,
    size: usize,
}

impl Turn {
    pub fn begin() -> Self {
        let max = share_of_round(reactor::task_count());
        Self { began_at: Instant::now(), max, frames: 0, size: 0 }
    }

    /// Whether the turn is over; called for each frame, of `size` bytes.
    pub fn is_over(&mut self, size: usize) -> bool {
        self.frames += 1;
        self.size += size;
        if self.frames < LOOK_AFTER && self.size < LOOK_AFTER_SIZE {
            return false;
        }
        (self.frames, self.size) = (0, 0);
        self.began_at.elapsed() >= self.max
    }
}

/// How long each of `task_count` tasks may run.
fn share_of_round(task_count: u32) -> Duration {
    (ROUND / task_count.max(1)).clamp(TURN_MIN, TURN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_after_so_many_frames_or_bytes() {
        let began_at = Instant::now() - TURN_MAX;
        let long_ago = || Turn { began_at, max: TURN_MAX, frames: 0, size: 0 };
        let frames_of = |size| {
            let mut turn = long_ago();
            (1..).find(|_| turn.is_over(size)).unwrap()
        };
        assert_eq!([100, 30_000, 1 << 20].map(frames_of), [LOOK_AFTER, 3, 1]);
    }

    #[test]
    fn the_more_tasks_there_are_the_shorter_are_their_turns() {
        let us = |count| share_of_round(count).as_micros();
        assert_eq!([0, 1, 5, 10, 50, 1_000].map(us), [300, 300, 200, 100, 20, 20]);
    }
}
