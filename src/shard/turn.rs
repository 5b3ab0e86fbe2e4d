//! How long one connection may run before the others get a turn.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A single read can contain a thousand pulls, which may take longer than a write of the log.
const TURN_MAX: Duration = Duration::from_micros(300);
/// Number of frames, and bytes, between two readings of the clock.
const LOOK_AFTER: usize = 8;
const LOOK_AFTER_SIZE: usize = 64 << 10;

/// The turn of one connection, in which it handles requests.
pub struct Turn {
    began_at: Instant,
    /// Since the clock was last read.
    frames: usize,
    size: usize,
}

impl Turn {
    pub fn begin() -> Self {
        Self { began_at: Instant::now(), frames: 0, size: 0 }
    }

    /// Whether the turn is over; called for each frame, of `size` bytes.
    pub fn is_over(&mut self, size: usize) -> bool {
        self.frames += 1;
        self.size += size;
        if self.frames < LOOK_AFTER && self.size < LOOK_AFTER_SIZE {
            return false;
        }
        (self.frames, self.size) = (0, 0);
        self.began_at.elapsed() >= TURN_MAX
    }
}

/// Yields to all runnable tasks.
pub async fn pass() {
    let mut has_passed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_after_so_many_frames_or_bytes() {
        let long_ago = || Turn { began_at: Instant::now() - TURN_MAX, frames: 0, size: 0 };
        let frames_of = |size| {
            let mut turn = long_ago();
            (1..).find(|_| turn.is_over(size)).unwrap()
        };
        assert_eq!([100, 30_000, 1 << 20].map(frames_of), [LOOK_AFTER, 3, 1]);
    }
}
