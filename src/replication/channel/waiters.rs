//! The tasks that wait for one event, in the order in which they began to wait.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Every wake goes to all waiters. Waking only one is cheaper, but then a waiter that is woken and
/// not polled again, such as the losing branch of a `select`, would keep the others asleep.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: RefCell<Vec<(u64, Waker)>>,
    places: Cell<u64>,
}

/// A place among the waiters, which holds at most one waker. Dropping it gives up the place.
#[derive(Debug)]
pub struct Place<'a> {
    waiters: &'a Waiters,
    number: u64,
}

impl Waiters {
    /// Calls `attempt` now and after each wake, until it returns a value.
    pub async fn wait_until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        let place = Place { waiters: self, number: self.next_number() };
        poll_fn(|context| place.poll(context, &mut attempt)).await
    }

    /// Wakes all waiters.
    pub fn wake_all(&self) {
        let woken = self.waiting.take();
        woken.into_iter().for_each(|(_, waker)| waker.wake());
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn next_number(&self) -> u64 {
        self.places.set(self.places.get() + 1);
        self.places.get()
    }
}

impl Place<'_> {
    fn poll<T>(&self, context: &Context<'_>, attempt: &mut impl FnMut() -> Option<T>) -> Poll<T> {
        if let Some(value) = attempt() {
            return Poll::Ready(value);
        }
        self.keep(context.waker().clone());
        Poll::Pending
    }

    fn keep(&self, waker: Waker) {
        let _replaced = {
            let mut waiting = self.waiters.waiting.borrow_mut();
            match waiting.iter_mut().find(|(number, _)| *number == self.number) {
                Some((_, kept)) => Some(std::mem::replace(kept, waker)),
                None => {
                    waiting.push((self.number, waker));
                    None
                }
            }
        };
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _removed = {
            let mut waiting = self.waiters.waiting.borrow_mut();
            let index = waiting.iter().position(|(number, _)| *number == self.number);
            index.map(|index| waiting.remove(index))
        };
    }
}

/// Test helpers for all channels.
#[cfg(test)]
pub mod testing {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// A waker that counts its wakes.
    #[derive(Default)]
    pub struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        pub fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A future on the heap, and the wakes it got.
    pub struct Polled<'a, T> {
        pub wakes: Arc<Wakes>,
        future: Pin<Box<dyn Future<Output = T> + 'a>>,
    }

    impl<'a, T> Polled<'a, T> {
        /// A future that has not been polled yet.
        pub fn new(future: impl Future<Output = T> + 'a) -> Self {
            Self { wakes: Arc::default(), future: Box::pin(future) }
        }

        pub fn poll(&mut self) -> Poll<T> {
            let waker = Waker::from(self.wakes.clone());
            self.future.as_mut().poll(&mut Context::from_waker(&waker))
        }

        /// Polls `future` once; it must be pending.
        pub fn waiting(future: impl Future<Output = T> + 'a) -> Self {
            let mut polled = Self::new(future);
            assert!(polled.poll().is_pending(), "it does not wait");
            polled
        }
    }

    /// Polls `future` once; it must be ready.
    pub fn now<T>(future: impl Future<Output = T>) -> T {
        match Polled::new(future).poll() {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    use super::testing::Polled;
    use super::*;

    #[test]
    fn a_waiter_polled_twice_holds_one_place_and_none_after_it_is_dropped() {
        let waiters = Waiters::default();
        let mut waiter = Polled::waiting(waiters.wait_until(|| None::<()>));
        assert!(waiter.poll().is_pending());
        assert_eq!(waiters.waiting.borrow().len(), 1);
        drop(waiter);
        assert!(waiters.is_empty());
    }

    #[test]
    fn all_are_woken_in_the_order_in_which_they_began_to_wait() {
        struct Named(usize, Arc<Mutex<Vec<usize>>>);
        impl Wake for Named {
            fn wake(self: Arc<Self>) {
                self.1.lock().unwrap().push(self.0);
            }
        }
        let (waiters, order) = (Waiters::default(), Arc::default());
        let mut futures: Vec<_> =
            (0..4).map(|_| Box::pin(waiters.wait_until(|| None::<()>))).collect();
        for name in [2, 0, 3, 1, 2] {
            let waker = Waker::from(Arc::new(Named(name, Arc::clone(&order))));
            assert!(futures[name].as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        waiters.wake_all();
        assert_eq!(*order.lock().unwrap(), [2, 0, 3, 1]);
    }
}
