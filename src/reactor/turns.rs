//! A queue of tasks that wait to be granted a turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// First in, first out. A task leaves the queue by dropping its [`Turn`].
#[derive(Default)]
pub struct Turns {
    waiting: RefCell<VecDeque<Weak<Turn>>>,
}

/// The next turn of one task.
#[derive(Default)]
pub struct Turn {
    /// Granted, and not taken yet.
    is_granted: Cell<bool>,
    was_granted: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Turn {
    /// Takes the turn if it has been granted. Otherwise registers the task to be woken when it is.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_granted.replace(false) {
            return Poll::Ready(());
        }
        self.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Turn {
    /// Whether it has been granted, even if it was not taken.
    pub fn was_granted(&self) -> bool {
        self.was_granted.get()
    }
}

impl Turns {
    /// Queues for a turn.
    pub fn ask(&self) -> Rc<Turn> {
        let turn = Rc::default();
        self.waiting.borrow_mut().push_back(Rc::downgrade(&turn));
        turn
    }

    pub fn is_waiting(&self) -> bool {
        let waiting = &mut *self.waiting.borrow_mut();
        while waiting.front().is_some_and(|turn| turn.strong_count() == 0) {
            waiting.pop_front();
        }
        !waiting.is_empty()
    }

    /// Grants a turn to the first waiting task, if there is one.
    pub fn grant(&self) {
        let next = {
            let waiting = &mut *self.waiting.borrow_mut();
            std::iter::from_fn(|| waiting.pop_front()).find_map(|turn| turn.upgrade())
        };
        if let Some(turn) = next {
            turn.is_granted.set(true);
            turn.was_granted.set(true);
            if let Some(waker) = turn.waker.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_granted_in_order_and_none_to_those_that_have_left() {
        let turns = Turns::default();
        let [first, second, third] = [(); 3].map(|()| turns.ask());
        let context = Context::from_waker(Waker::noop());
        let takes = |turn: &Turn| turn.poll(&context).is_ready();
        drop(second);
        turns.grant();
        assert!(takes(&first) && !takes(&first) && !takes(&third));
        turns.grant();
        assert!(takes(&third) && !turns.is_waiting());
        let last = turns.ask();
        assert!(turns.is_waiting());
        drop(last);
        assert!(!turns.is_waiting());
        turns.grant();
    }
}
