//! Decides when the executor makes a pass over its own rings.
//!
//! The executor carries out requests (opening, closing and extending files) only in passes, and
//! does not signal when one is done. These requests are rare and take long, so while there are any,
//! it makes a pass immediately when a request is new, and then every [`EVERY`].

use std::cell::Cell;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_micros(200);

#[derive(Debug, Default)]
pub struct Passes {
    /// Requests that the executor has not completed.
    requests: Cell<u32>,
    /// There is a request that the executor has not seen.
    has_new: Cell<bool>,
    last: Cell<Option<Instant>>,
}

impl Passes {
    /// Begins a request, which [`end`](Self::end) ends.
    pub fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    pub fn end(&self) {
        self.requests.set(self.requests.get() - 1);
    }

    /// Notes that a request has given the executor something to do.
    pub fn ask(&self) {
        self.has_new.set(true);
    }

    /// When the next pass is due, once one has been made; `None` if nothing needs one.
    pub fn next(&self) -> Option<Instant> {
        self.last.get().filter(|_| self.requests.get() > 0).map(|last| last + EVERY)
    }

    /// Returns whether a pass is due at `now`; if so, the caller makes it.
    pub fn take_due(&self, now: Instant) -> bool {
        let is_due = self.requests.get() > 0
            && (self.has_new.get() || self.last.get().is_none_or(|last| last + EVERY <= now));
        if is_due {
            self.has_new.set(false);
            self.last.set(Some(now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_request_needs_a_pass_at_once_and_an_old_one_every_now_and_then() {
        let passes = Passes::default();
        let begin = Instant::now();
        let at = |us| begin + Duration::from_micros(us);
        assert_eq!((passes.take_due(at(0)), passes.next()), (false, None));
        passes.begin();
        passes.ask();
        assert!(passes.take_due(at(10)) && !passes.take_due(at(11)));
        assert_eq!(passes.next(), Some(at(10) + EVERY));
        assert!(!passes.take_due(at(209)) && passes.take_due(at(210)));
        passes.ask();
        assert!(passes.take_due(at(211)));
        passes.end();
        assert_eq!((passes.take_due(at(1_000)), passes.next()), (false, None));
    }
}
