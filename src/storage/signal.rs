//! A condition that tasks wait for, without channels.

use std::cell::Cell;

use super::mark_signal::{MarkSignal, MarkWait};

/// Wakes waiting tasks. A woken task checks its condition again and, if needed, waits again. A wait
/// may be dropped at any time, which removes its waker.
#[derive(Default)]
pub struct Signal(MarkSignal<()>);

impl Signal {
    /// Waits until `look` returns something; calls it again at every [`notify`](Self::notify).
    pub fn wait<T, L: FnMut() -> Option<T> + Unpin>(&self, look: L) -> MarkWait<'_, (), L> {
        self.0.wait((), look)
    }

    pub fn notify(&self) {
        self.0.notify_all();
    }

    /// Wakes one waiter, for work that a single task can do. That task calls this again if there
    /// may be more. Only for waits that are never dropped: a dropped waiter would swallow the call.
    pub fn notify_one(&self) {
        self.0.notify_last();
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

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

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
        assert_eq!(signal.0.counts(), (1, 0));
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
            assert!(signal.0.counts().0 <= 24);
        }
        signal.notify();
        assert_eq!(other.0.load(Ordering::Relaxed), waits.len());
    }
}
