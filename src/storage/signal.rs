//! A condition that tasks wait for, without channels.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

/// Wakes waiting tasks. A woken task checks its condition again and, if needed, waits again.
///
/// Registering costs a binary search among the waiters. A wait may be dropped at any time, which
/// removes its waker.
#[derive(Default)]
pub struct Signal(RefCell<Waiters>);

#[derive(Default)]
struct Waiters {
    /// By ascending key; `None` if the wait was dropped.
    wakers: SmallVec<[(u64, Option<Waker>); 4]>,
    next_key: u64,
    /// Entries of `wakers` that are `None`.
    gone: usize,
}

impl Signal {
    /// Waits until `look` returns something; calls it again at every [`notify`](Self::notify).
    pub fn wait<T, L: FnMut() -> Option<T> + Unpin>(&self, look: L) -> Wait<'_, L> {
        Wait { signal: self, look, key: None }
    }

    pub fn notify(&self) {
        // The list is taken first, because a woken task may run immediately and wait again.
        let waiting = {
            let waiters = &mut *self.0.borrow_mut();
            waiters.gone = 0;
            std::mem::take(&mut waiters.wakers)
        };
        waiting.into_iter().filter_map(|(_, waker)| waker).for_each(Waker::wake);
    }

    /// Wakes one waiter, for work that a single task can do. That task calls this again if there
    /// may be more. Only for waits that are never dropped: a dropped waiter would swallow the call.
    pub fn notify_one(&self) {
        let one = self.0.borrow_mut().take_last();
        if let Some(waker) = one {
            waker.wake();
        }
    }
}

/// A mutex for work. A task that takes the turn must give it back.
#[derive(Default)]
pub struct Turns {
    is_taken: Cell<bool>,
    free: Signal,
}

impl Turns {
    /// Waits for the turn and takes it.
    pub async fn take(&self) {
        let take = || (!self.is_taken.replace(true)).then_some(());
        self.free.wait(take).await;
    }

    pub fn give_back(&self) {
        self.is_taken.set(false);
        self.free.notify();
    }

    /// Takes the turn until the returned guard is dropped.
    pub async fn turn(&self) -> impl Drop + '_ {
        self.take().await;
        GiveBack(self)
    }
}

struct GiveBack<'a>(&'a Turns);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// Ready when `look` has returned something. See [`Signal::wait`].
pub struct Wait<'a, L> {
    signal: &'a Signal,
    look: L,
    /// The key of its last registration.
    key: Option<u64>,
}

impl<T, L: FnMut() -> Option<T> + Unpin> Future for Wait<'_, L> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(seen) = (self.look)() {
            return Poll::Ready(seen);
        }
        let key = self.signal.0.borrow_mut().register(self.key, context.waker());
        self.key = Some(key);
        Poll::Pending
    }
}

impl<L> Drop for Wait<'_, L> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.signal.0.borrow_mut().forget(key);
        }
    }
}

impl Waiters {
    /// Keeps `waker` under `key` if that is still in the list, else under a new key.
    fn register(&mut self, key: Option<u64>, waker: &Waker) -> u64 {
        if let Some(key) = key
            && let Some(known) = self.find(key).and_then(|index| self.wakers[index].1.as_mut())
        {
            known.clone_from(waker);
            return key;
        }
        let key = self.next_key;
        self.next_key += 1;
        self.wakers.push((key, Some(waker.clone())));
        key
    }

    fn forget(&mut self, key: u64) {
        let Some(index) = self.find(key) else { return };
        self.gone += usize::from(self.wakers[index].1.take().is_some());
        while self.wakers.last().is_some_and(|(_, waker)| waker.is_none()) {
            self.wakers.pop();
            self.gone -= 1;
        }
        if self.gone > self.wakers.len() / 2 {
            self.wakers.retain(|(_, waker)| waker.is_some());
            self.gone = 0;
        }
    }

    fn take_last(&mut self) -> Option<Waker> {
        while let Some((_, waker)) = self.wakers.pop() {
            match waker {
                Some(waker) => return Some(waker),
                None => self.gone -= 1,
            }
        }
        None
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.wakers.binary_search_by_key(&key, |(key, _)| *key).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>, count: &Arc<Count>) -> bool {
        let waker = Waker::from(count.clone());
        future.poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn a_waiter_is_woken_once_per_change_and_checks_again() {
        let (signal, is_there) = (Signal::default(), Cell::new(false));
        let count = Arc::new(Count::default());
        let mut wait = pin!(signal.wait(|| is_there.get().then_some(())));
        assert!(!poll(wait.as_mut(), &count) && !poll(wait.as_mut(), &count));
        signal.notify();
        signal.notify();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "polled twice, in the list once");
        assert!(!poll(wait.as_mut(), &count));
        is_there.set(true);
        signal.notify();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(poll(wait.as_mut(), &count));
    }

    #[test]
    fn a_dropped_wait_leaves_no_waker() {
        let signal = Signal::default();
        let (count, other) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut stays = pin!(signal.wait(|| None::<()>));
        assert!(!poll(stays.as_mut(), &count));
        for _ in 0..1000 {
            let mut first = Box::pin(signal.wait(|| None::<()>));
            let mut second = Box::pin(signal.wait(|| None::<()>));
            assert!(!poll(first.as_mut(), &other) && !poll(second.as_mut(), &other));
            drop(first);
            drop(second);
        }
        let (length, gone) = (signal.0.borrow().wakers.len(), signal.0.borrow().gone);
        assert_eq!((length, gone), (1, 0));
        signal.notify_one();
        let woken = [&count, &other].map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!(woken, [1, 0]);
    }

    /// Waits that end in order leave gaps at the front, which do not accumulate.
    #[test]
    fn gaps_are_bounded_by_the_number_of_waiters() {
        let signal = Signal::default();
        let other = Arc::new(Count::default());
        let mut waits = std::collections::VecDeque::new();
        for _ in 0..1000 {
            let mut wait = Box::pin(signal.wait(|| None::<()>));
            assert!(!poll(wait.as_mut(), &other));
            waits.push_back(wait);
            if waits.len() > 10 {
                waits.pop_front();
            }
            assert!(signal.0.borrow().wakers.len() <= 24);
        }
        signal.notify();
        assert_eq!(other.0.load(Ordering::Relaxed), waits.len());
    }
}
