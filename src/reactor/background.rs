//! Work that gets what time the shard has left, and a small share of it when there is none left.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// Under load, one part in this many of the time.
const SHARE: u32 = 20;

/// Background work that waits for its turn, in the order in which it asked.
#[derive(Default)]
pub struct Background {
    waiting: RefCell<VecDeque<Rc<Turn>>>,
    /// When the next turn is due although the shard is busy.
    due: Cell<Option<Instant>>,
}

/// The next turn of one task.
#[derive(Default)]
pub struct Turn {
    is_granted: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Turn {
    /// Takes the turn if it has been granted. Otherwise the task is woken when it is.
    pub fn take(&self, context: &Context<'_>) -> bool {
        if self.is_granted.replace(false) {
            return true;
        }
        self.waker.set(Some(context.waker().clone()));
        false
    }
}

impl Background {
    pub fn ask(&self, turn: Rc<Turn>) {
        self.waiting.borrow_mut().push_back(turn);
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Grants a turn to the next one. Returns whether there was any.
    pub fn grant(&self) -> bool {
        let Some(turn) = self.waiting.borrow_mut().pop_front() else { return false };
        turn.is_granted.set(true);
        if let Some(waker) = turn.waker.take() {
            waker.wake();
        }
        true
    }

    /// Whether background work has waited long enough to get a turn although the shard is busy.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_waiting() && self.due.get().is_none_or(|due| due <= now)
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
        background.ask(Rc::default());
        assert!(background.is_due(at(0)));
        assert!(background.grant() && !background.grant());
        background.note_turn(at(100), Duration::from_micros(100));
        background.ask(Rc::default());
        assert_eq!([100, 1_999, 2_000].map(|us| background.is_due(at(us))), [false, false, true]);
    }
}
