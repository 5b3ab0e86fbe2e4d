//! Virtual time. It stands still while a task can run, then jumps to the next timer.
//!
//! The executor ([`super::run`]) moves it; everything else reads it and sleeps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Time since the simulation began.
#[derive(Default)]
pub struct Clock {
    now: Cell<Duration>,
    /// By the time at which they fire, then in the order in which they were set.
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    timers_made: Cell<u64>,
}

/// Ready when its time has come. Dropping this removes its timer.
pub struct Sleep {
    clock: Rc<Clock>,
    until: Duration,
    number: u64,
}

impl Clock {
    pub fn now(&self) -> Duration {
        self.now.get()
    }

    pub fn sleep(self: &Rc<Self>, duration: Duration) -> Sleep {
        self.sleep_until(self.now().saturating_add(duration))
    }

    pub fn sleep_until(self: &Rc<Self>, until: Duration) -> Sleep {
        self.timers_made.set(self.timers_made.get() + 1);
        Sleep { clock: self.clone(), until, number: self.timers_made.get() }
    }

    /// Jumps to the next timer, and wakes every task whose time has come. False if there is no
    /// timer.
    pub(super) fn jump(&self) -> bool {
        let next = self.timers.borrow().first_key_value().map(|((until, _), _)| *until);
        let Some(next) = next else { return false };
        self.now.set(next);
        while let Some(waker) = self.take_due() {
            waker.wake();
        }
        true
    }

    pub(super) fn has_timers(&self) -> bool {
        !self.timers.borrow().is_empty()
    }

    fn take_due(&self) -> Option<Waker> {
        let mut timers = self.timers.borrow_mut();
        let next = timers.first_entry()?;
        (next.key().0 <= self.now()).then(|| next.remove())
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.until {
            return Poll::Ready(());
        }
        let key = (self.until, self.number);
        let _replaced = self.clock.timers.borrow_mut().insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let _removed = self.clock.timers.borrow_mut().remove(&(self.until, self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::Tasks;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_jumps_to_the_next_timer_when_no_task_can_run() {
        let tasks = Tasks::new(1);
        let order = Rc::new(RefCell::new(Vec::new()));
        for seconds in [3, 1, 2] {
            let (clock, order) = (tasks.clock().clone(), order.clone());
            tasks.spawn(seconds.to_string(), async move {
                clock.sleep(SECOND * seconds).await;
                order.borrow_mut().push((seconds, clock.now()));
            });
        }
        tasks.run();
        assert_eq!(order.take(), [(1, SECOND), (2, SECOND * 2), (3, SECOND * 3)]);
    }

    #[test]
    fn a_sleep_that_is_dropped_does_not_hold_time_up() {
        let tasks = Tasks::new(1);
        tasks.run_until(async {
            let mut dropped = tasks.clock().sleep(SECOND);
            assert!(futures_util::poll!(&mut dropped).is_pending());
            drop(dropped);
            assert!(!tasks.clock().has_timers());
            tasks.clock().sleep(SECOND * 5).await;
        });
        assert_eq!(tasks.clock().now(), SECOND * 5);
    }
}
