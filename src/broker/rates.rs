//! Messages and pulls per second over the last 10, 60 and 600 seconds, as stock tools show them
//! (remoting reference, 3.13).
//!
//! Pure: the caller passes in the counters and the time.

use std::collections::VecDeque;

use crate::model::{Metrics, Moment};

/// The windows, ms.
const WINDOWS_MS: [u64; 3] = [10_000, 60_000, 600_000];
/// Time between two samples, ms. A window may begin by this much too early.
const SAMPLE_EVERY_MS: u64 = 5_000;

/// Counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub stored: u64,
    pub pulled: u64,
    pub pulls_found: u64,
    pub pulls_missed: u64,
}

impl Counts {
    pub fn of(metrics: &Metrics) -> Self {
        Self {
            stored: metrics.messages_stored.get(),
            pulled: metrics.messages_pulled.get(),
            pulls_found: metrics.pulls_found.get(),
            pulls_missed: metrics.pulls_missed.get(),
        }
    }
}

/// Samples of the counters, oldest first: no more than the longest window needs.
#[derive(Debug)]
pub struct Rates {
    samples: VecDeque<(Moment, Counts)>,
}

impl Rates {
    /// Nothing has been counted yet.
    pub fn new(started: Moment) -> Self {
        Self { samples: [(started, Counts::default())].into() }
    }

    /// Takes a sample if it is time. To be called at least every few seconds.
    pub fn sample(&mut self, now: Moment, counts: impl FnOnce() -> Counts) {
        if self.samples.back().is_some_and(|(at, _)| now.ms_since(*at) < SAMPLE_EVERY_MS) {
            return;
        }
        self.samples.push_back((now, counts()));
        let longest_ms = WINDOWS_MS[WINDOWS_MS.len() - 1];
        while self.samples.get(1).is_some_and(|(at, _)| now.ms_since(*at) >= longest_ms) {
            self.samples.pop_front();
        }
    }

    /// One counter per second, over each window, or since the start if that is later.
    pub fn per_second(
        &self,
        now: Moment,
        counts: Counts,
        counter: impl Fn(Counts) -> u64,
    ) -> [f64; 3] {
        WINDOWS_MS.map(|window_ms| {
            let is_before = |(at, _): &&(Moment, Counts)| now.ms_since(*at) >= window_ms;
            let begin = self.samples.iter().rev().find(is_before).or(self.samples.front());
            let (at, before) = begin.copied().unwrap_or((now, counts));
            let count = counter(counts).saturating_sub(counter(before));
            count as f64 * 1000.0 / now.ms_since(at).max(1) as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 messages a second for 100 s, then none.
    #[test]
    fn each_window_has_its_own_rate() {
        let mut rates = Rates::new(Moment(0));
        let counts = |second: u64| Counts { stored: 100 * second.min(100), ..Counts::default() };
        let shown = |rates: &Rates, second: u64| {
            rates.per_second(Moment(second * 1000), counts(second), |counts| counts.stored)
        };
        for (second, wanted) in [
            (4, [100.0, 100.0, 100.0]),
            (100, [100.0, 100.0, 100.0]),
            (130, [0.0, 50.0, 100.0 * 100.0 / 130.0]),
            (200, [0.0, 0.0, 50.0]),
            (650, [0.0, 0.0, 100.0 * 50.0 / 600.0]),
            (800, [0.0, 0.0, 0.0]),
        ] {
            let before = rates.samples.back().unwrap().0.0 / 1000;
            for at in before..=second {
                rates.sample(Moment(at * 1000), || counts(at));
            }
            assert_eq!(shown(&rates, second), wanted, "second {second}");
        }
        let needed = WINDOWS_MS[2] / SAMPLE_EVERY_MS + 1;
        assert_eq!(rates.samples.len() as u64, needed);
    }
}
