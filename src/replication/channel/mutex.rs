//! A lock that may be held across an `.await`.

use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};

use openraft::rt;

use super::waiters::Waiters;

/// Locked while a mutable borrow of `value` exists.
///
/// Unlocking wakes all waiters, and the one polled first gets the lock. The engine has two or three
/// tasks per lock, so this is neither unfair nor expensive there.
#[derive(Debug, Default)]
pub struct Mutex<T> {
    value: RefCell<T>,
    locked_out: Waiters,
}

/// Unlocks when it is dropped.
#[derive(Debug)]
pub struct Guard<'a, T> {
    // Declared, and so dropped, before `_wakes`: a task that is woken finds the lock free.
    value: RefMut<'a, T>,
    _wakes: WakesAll<'a>,
}

#[derive(Debug)]
struct WakesAll<'a>(&'a Waiters);

impl<T: 'static> rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = Guard<'a, T>;

    fn new(value: T) -> Self {
        Self { value: RefCell::new(value), locked_out: Waiters::default() }
    }

    async fn lock(&self) -> Guard<'_, T> {
        let value = self.locked_out.wait_until(|| self.value.try_borrow_mut().ok()).await;
        Guard { value, _wakes: WakesAll(&self.locked_out) }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl Drop for WakesAll<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::Mutex as _;

    use super::super::waiters::testing::{Polled, now};
    use super::*;

    #[test]
    fn one_holds_it_and_the_others_wait() {
        let mutex = Mutex::new(0);
        let mut guard = now(mutex.lock());
        *guard += 1;
        let mut waiting = Polled::waiting(mutex.lock());
        drop(guard);
        assert_eq!(waiting.wakes.count(), 1);
        let std::task::Poll::Ready(guard) = waiting.poll() else { panic!("the lock is free") };
        assert_eq!(*guard, 1);
        Polled::waiting(mutex.lock());
    }

    #[test]
    fn a_waiter_dropped_after_it_was_woken_leaves_the_lock_to_the_next() {
        let mutex = Mutex::new(());
        let guard = now(mutex.lock());
        let dropped = Polled::waiting(mutex.lock());
        let mut next = Polled::waiting(mutex.lock());
        drop(guard);
        drop(dropped);
        assert_eq!(next.wakes.count(), 1);
        assert!(next.poll().is_ready());
    }

    #[test]
    fn a_waiter_that_is_woken_and_not_polled_stops_nobody() {
        let mutex = Mutex::new(());
        let guard = now(mutex.lock());
        let _not_polled = Polled::waiting(mutex.lock());
        let mut next = Polled::waiting(mutex.lock());
        drop(guard);
        assert_eq!(next.wakes.count(), 1);
        assert!(next.poll().is_ready());
    }

    #[test]
    fn a_waiter_that_comes_too_late_is_woken_again() {
        let mutex = Mutex::new(());
        let guard = now(mutex.lock());
        let mut waiting = Polled::waiting(mutex.lock());
        drop(guard);
        let faster = now(mutex.lock());
        assert!(waiting.poll().is_pending());
        drop(faster);
        assert_eq!(waiting.wakes.count(), 2);
        assert!(waiting.poll().is_ready());
    }
}
