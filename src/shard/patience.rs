//! How long a produce request may wait for room in the log.
//!
//! In arrival order, every request waits as long as the queue is. A burst passes, and whoever waits a
//! moment is served. A queue that *stands* does not pass: more arrives than is written, and the only
//! choice is how long each request waits before some of them are refused. Then a shorter wait gives
//! the same rate at a lower latency. So once every admission for [`STANDING_AFTER_MS`] has had to
//! wait, the limit falls; an admission without a notable wait restores it.
//!
//! Pure: the caller passes in the time.

use std::cell::Cell;

use crate::model::Moment;

/// The limit, as in stock brokers (remoting reference, 5.16).
const WAIT_MAX_MS: u64 = 200;
/// The limit while a queue stands.
const STANDING_WAIT_MAX_MS: u64 = 50;
/// A shorter wait means that the queue has been worked off.
const NOTABLE_MS: u64 = 20;
const STANDING_AFTER_MS: u64 = 200;

#[derive(Debug, Default)]
pub struct Patience {
    /// Since when every admission has had to wait.
    waiting_since: Cell<Option<Moment>>,
    is_standing: Cell<bool>,
}

impl Patience {
    /// A request was admitted, or refused, at `now` after `waited_ms`.
    pub fn note_wait(&self, waited_ms: u64, now: Moment) {
        if waited_ms < NOTABLE_MS {
            self.waiting_since.set(None);
            self.is_standing.set(false);
            return;
        }
        let since = self.waiting_since.get().unwrap_or(now);
        self.waiting_since.set(Some(since));
        self.is_standing.set(now.ms_since(since) >= STANDING_AFTER_MS);
    }

    /// A request was admitted at once.
    pub fn note_no_wait(&self) {
        if self.waiting_since.get().is_some() {
            self.note_wait(0, Moment(0));
        }
    }

    /// How long a request may wait at present, milliseconds.
    pub fn wait_max_ms(&self) -> u64 {
        if self.is_standing.get() { STANDING_WAIT_MAX_MS } else { WAIT_MAX_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes waits, one per millisecond; returns the limit at the end.
    fn limit_after(waits_ms: impl IntoIterator<Item = u64>) -> u64 {
        let patience = Patience::default();
        for (now, waited_ms) in (1000..).zip(waits_ms) {
            patience.note_wait(waited_ms, Moment(now));
        }
        patience.wait_max_ms()
    }

    #[test]
    fn a_queue_that_stands_shortens_the_wait_and_a_burst_does_not() {
        assert_eq!(limit_after([]), WAIT_MAX_MS);
        assert_eq!(limit_after(vec![150; 100]), WAIT_MAX_MS, "a burst");
        assert_eq!(limit_after(vec![150; 201]), STANDING_WAIT_MAX_MS);
        let interrupted = (0..400).map(|nth| if nth % 100 == 0 { 0 } else { 150 });
        assert_eq!(limit_after(interrupted), WAIT_MAX_MS, "worked off in between");
    }

    #[test]
    fn the_limit_is_restored_once_the_queue_is_gone() {
        assert_eq!(limit_after([vec![150; 300], vec![10]].concat()), WAIT_MAX_MS);
        let patience = Patience::default();
        for now in [1000, 1200] {
            patience.note_wait(60, Moment(now));
        }
        assert_eq!(patience.wait_max_ms(), STANDING_WAIT_MAX_MS);
        patience.note_no_wait();
        assert_eq!(patience.wait_max_ms(), WAIT_MAX_MS);
    }

    /// With the short limit nobody waits longer than that, which must not look like a short queue.
    #[test]
    fn the_short_limit_does_not_end_the_state_that_it_is_for() {
        let waits = [vec![150; 300], vec![STANDING_WAIT_MAX_MS; 1000]].concat();
        assert_eq!(limit_after(waits), STANDING_WAIT_MAX_MS);
    }
}
