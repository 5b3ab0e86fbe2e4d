//! How long a produce request may wait for room in the log.
//!
//! In arrival order, every request waits for the whole queue before it. A burst passes, and a
//! request that waits a moment is served. A *standing* queue does not pass: more arrives than is
//! written, and the only choice is how long each request waits before some of them are refused. A
//! shorter wait then gives the same throughput at a lower latency. So the limit falls once every
//! admission for [`STANDING_AFTER_MS`] has had to wait, or once one request has waited as long as
//! the limit. It returns when nothing has had to wait for [`GONE_AFTER_MS`]: refusals empty the
//! queue for a moment, and the next request then finds room immediately, although the load has not
//! dropped.
//!
//! Pure: the caller passes in the time.

use std::cell::Cell;

use crate::model::Moment;

/// The limit, as in stock brokers (remoting reference, 5.16).
const WAIT_MAX_MS: u64 = 200;
/// The limit while there is a standing queue.
const STANDING_WAIT_MAX_MS: u64 = 50;
/// A shorter wait means that the queue has drained.
const NOTABLE_MS: u64 = 20;
const STANDING_AFTER_MS: u64 = 200;
const GONE_AFTER_MS: u64 = 200;

#[derive(Debug, Default)]
pub struct Patience {
    /// The current run of waits, without an immediate admission between them.
    waits: Cell<Option<Waits>>,
    is_standing: Cell<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Waits {
    first: Moment,
    last: Moment,
}

impl Patience {
    /// Records that a request was admitted or refused at `now` after waiting for `waited_ms`.
    pub fn note_wait(&self, waited_ms: u64, now: Moment) {
        if waited_ms < NOTABLE_MS {
            return self.note_no_wait(now);
        }
        let first = self.waits.get().map_or(now, |waits| waits.first);
        self.waits.set(Some(Waits { first, last: now }));
        if now.ms_since(first) >= STANDING_AFTER_MS || waited_ms >= WAIT_MAX_MS {
            self.is_standing.set(true);
        }
    }

    /// Records that a request was admitted immediately, at `now`.
    pub fn note_no_wait(&self, now: Moment) {
        let Some(Waits { last, .. }) = self.waits.get() else { return };
        if !self.is_standing.get() || now.ms_since(last) >= GONE_AFTER_MS {
            self.waits.set(None);
            self.is_standing.set(false);
        }
    }

    /// How long a request may currently wait, milliseconds.
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
        assert_eq!(limit_after([WAIT_MAX_MS]), STANDING_WAIT_MAX_MS, "refused");
    }

    #[test]
    fn the_limit_is_restored_once_the_queue_has_been_gone_for_a_while() {
        let gone_for = |ms: usize| limit_after([vec![150; 300], vec![0; ms]].concat());
        assert_eq!(gone_for(GONE_AFTER_MS as usize - 1), STANDING_WAIT_MAX_MS);
        assert_eq!(gone_for(GONE_AFTER_MS as usize), WAIT_MAX_MS);
    }

    /// Refusals at the short limit leave room for a few requests, here ten times a second.
    #[test]
    fn the_short_limit_does_not_end_the_state_that_it_is_for() {
        let round = [vec![STANDING_WAIT_MAX_MS; 90], vec![0; 10]].concat();
        let waits = [vec![150; 300], round.repeat(10)].concat();
        assert_eq!(limit_after(waits), STANDING_WAIT_MAX_MS);
    }
}
