//! Waking whoever waits for something to change, without channels and without cancelling.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use smallvec::SmallVec;

/// Wakes all who wait. Whoever wakes looks again and, if it must, waits again.
#[derive(Default)]
pub struct Signal(RefCell<SmallVec<[Waker; 4]>>);

impl Signal {
    /// Waits until `look` returns something; looks again at every [`notify`](Self::notify).
    pub async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match look() {
            Some(seen) => Poll::Ready(seen),
            None => {
                self.register(context.waker());
                Poll::Pending
            }
        })
        .await
    }

    pub fn notify(&self) {
        // The list is taken out first: a woken task may run at once and wait again.
        let waiting = self.0.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    fn register(&self, waker: &Waker) {
        let mut waiting = self.0.borrow_mut();
        if waiting.last().is_none_or(|last| !last.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}
