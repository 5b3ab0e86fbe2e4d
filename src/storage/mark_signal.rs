//! A condition that many tasks wait for, each with its own mark: a watermark reaches it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use crate::model::LogOffset;

/// Wakes the tasks whose mark is reached, and leaves the others alone. A woken task checks its
/// condition again and, if needed, waits again.
///
/// Marks usually arrive in ascending order, and registering then appends to a queue. A wait may be
/// dropped at any time, which removes its waker.
#[derive(Default)]
pub struct MarkSignal<M = LogOffset>(RefCell<Waiters<M>>);

/// Identifies a registration. Waiters with the same mark are woken in order of arrival.
type Key<M> = (M, u64);

#[derive(Default)]
struct Waiters<M> {
    /// By ascending key; `None` if the wait was dropped. Neither the first nor the last is `None`.
    wakers: VecDeque<(Key<M>, Option<Waker>)>,
    next_number: u64,
    /// Entries of `wakers` that are `None`.
    gone: usize,
}

/// Woken after the borrow has ended, because a woken task may run immediately and wait again.
type Woken = SmallVec<[Waker; 8]>;

impl<M: Copy + Ord + Unpin> MarkSignal<M> {
    /// Waits until `look` returns something; calls it again when `mark` is reached.
    pub fn wait<T, L: FnMut() -> Option<T> + Unpin>(&self, mark: M, look: L) -> MarkWait<'_, M, L> {
        MarkWait { signal: self, look, mark, key: None }
    }

    /// Wakes all whose mark is at most `reached`.
    pub fn advance(&self, reached: M) {
        let woken = self.0.borrow_mut().take_while(|mark| mark <= reached);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes all, since some marks may never be reached.
    pub fn notify_all(&self) {
        let woken = self.0.borrow_mut().take_while(|_| true);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Numbers of registrations and of those among them whose wait was dropped.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        let waiters = self.0.borrow();
        (waiters.wakers.len(), waiters.gone)
    }

    /// Wakes the last one.
    pub fn notify_last(&self) {
        let last = self.0.borrow_mut().take_last();
        if let Some(waker) = last {
            waker.wake();
        }
    }
}

/// Ready when `look` has returned something. See [`MarkSignal::wait`].
pub struct MarkWait<'a, M: Copy + Ord, L> {
    signal: &'a MarkSignal<M>,
    look: L,
    mark: M,
    /// The key of its last registration.
    key: Option<Key<M>>,
}

impl<T, M: Copy + Ord + Unpin, L: FnMut() -> Option<T> + Unpin> Future for MarkWait<'_, M, L> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(seen) = (self.look)() {
            return Poll::Ready(seen);
        }
        let (mark, key) = (self.mark, self.key);
        let key = self.signal.0.borrow_mut().register(mark, key, context.waker());
        self.key = Some(key);
        Poll::Pending
    }
}

impl<M: Copy + Ord, L> Drop for MarkWait<'_, M, L> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.signal.0.borrow_mut().forget(key);
        }
    }
}

impl<M: Copy + Ord> Waiters<M> {
    /// Keeps `waker` under `key` if that is still in the queue, else under a new key.
    fn register(&mut self, mark: M, key: Option<Key<M>>, waker: &Waker) -> Key<M> {
        if let Some(key) = key
            && let Ok(index) = self.find(key)
            && let Some(known) = &mut self.wakers[index].1
        {
            known.clone_from(waker);
            return key;
        }
        let key = (mark, self.next_number);
        self.next_number += 1;
        let index = self.find(key).expect_err("numbers are not used again");
        self.wakers.insert(index, (key, Some(waker.clone())));
        key
    }

    fn take_while(&mut self, is_reached: impl Fn(M) -> bool) -> Woken {
        let mut woken = Woken::new();
        while let Some((_, waker)) = self.wakers.pop_front_if(|((mark, _), _)| is_reached(*mark)) {
            self.gone -= usize::from(waker.is_none());
            woken.extend(waker);
        }
        self.trim();
        woken
    }

    fn take_last(&mut self) -> Option<Waker> {
        let (_, last) = self.wakers.pop_back()?;
        self.trim();
        last
    }

    fn forget(&mut self, key: Key<M>) {
        let Ok(index) = self.find(key) else { return };
        self.gone += usize::from(self.wakers[index].1.take().is_some());
        self.trim();
        if self.gone > self.wakers.len() / 2 {
            self.wakers.retain(|(_, waker)| waker.is_some());
            self.gone = 0;
        }
    }

    fn trim(&mut self) {
        let is_gone = |(_, waker): &mut (Key<M>, Option<Waker>)| waker.is_none();
        while self.wakers.pop_front_if(is_gone).is_some() {
            self.gone -= 1;
        }
        while self.wakers.pop_back_if(is_gone).is_some() {
            self.gone -= 1;
        }
    }

    fn find(&self, key: Key<M>) -> Result<usize, usize> {
        match self.wakers.back() {
            Some((last, _)) if *last < key => Err(self.wakers.len()),
            _ => self.wakers.binary_search_by_key(&key, |(key, _)| *key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
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

    /// A task that waits for a mark, and how often it was woken.
    struct Waiting<'a> {
        wait: Pin<Box<dyn Future<Output = ()> + 'a>>,
        count: Arc<Count>,
    }

    impl<'a> Waiting<'a> {
        fn new(signal: &'a MarkSignal, mark: u64, reached: &'a Cell<u64>) -> Self {
            let look = move || (reached.get() >= mark).then_some(());
            let wait = Box::pin(signal.wait(LogOffset(mark), look));
            let mut waiting = Self { wait, count: Arc::default() };
            assert!(!waiting.poll());
            waiting
        }

        fn poll(&mut self) -> bool {
            let waker = Waker::from(self.count.clone());
            self.wait.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        }

        fn woken(&self) -> usize {
            self.count.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn each_waiter_is_woken_once_and_when_its_mark_is_reached() {
        let (signal, reached) = (MarkSignal::default(), Cell::new(0));
        // In the order of the log, out of it, and several at one place.
        let marks = [10, 20, 30, 40, 25, 25, 5, 40];
        let mut waiting: Vec<_> =
            marks.map(|mark| Waiting::new(&signal, mark, &reached)).into_iter().collect();
        for to in (0..=45).step_by(5) {
            reached.set(to);
            signal.advance(LogOffset(to));
            for (one, mark) in waiting.iter_mut().zip(marks) {
                let expected = usize::from(mark <= to);
                assert_eq!(one.woken(), expected, "the waiter for {mark}, at {to}");
                assert_eq!(one.poll(), mark <= to);
            }
        }
        // Those that are ready were polled again, as a task never does; they are not registered.
        assert!(signal.0.borrow().wakers.is_empty());
    }

    #[test]
    fn all_are_woken_when_marks_may_never_be_reached_and_may_wait_again() {
        let (signal, reached) = (MarkSignal::default(), Cell::new(0));
        let mut waiting = [30, 10, 20].map(|mark| Waiting::new(&signal, mark, &reached));
        signal.notify_all();
        assert_eq!(waiting.each_ref().map(Waiting::woken), [1, 1, 1]);
        assert_eq!(waiting.each_mut().map(Waiting::poll), [false; 3]);
        reached.set(20);
        signal.advance(LogOffset(20));
        assert_eq!(waiting.each_ref().map(Waiting::woken), [1, 2, 2]);
    }

    #[test]
    fn dropped_waits_leave_no_wakers_and_few_gaps() {
        let (signal, reached) = (MarkSignal::default(), Cell::new(0));
        let mut waiting = VecDeque::new();
        for mark in 0..1_000 {
            waiting.push_back(Waiting::new(&signal, 1 + mark, &reached));
            drop(Waiting::new(&signal, 1 + mark / 2, &reached));
            if waiting.len() > 10 {
                // The oldest, and one in the middle.
                waiting.pop_front();
                waiting.remove(5);
            }
            assert!(signal.0.borrow().wakers.len() <= 2 * waiting.len());
        }
        signal.notify_all();
        assert!(waiting.iter().all(|one| one.woken() == 1));
        assert_eq!(signal.counts(), (0, 0));
    }
}
