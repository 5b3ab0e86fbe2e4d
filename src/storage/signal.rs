//! Waking whoever waits for something to change, without channels and without cancelling.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use smallvec::SmallVec;

/// Wakes who waits. Whoever wakes looks again and, if it must, waits again.
#[derive(Default)]
pub struct Signal(RefCell<SmallVec<[Waker; 8]>>);

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

    /// Wakes one of those who wait, for work that one can do. That one calls this again when there may
    /// be more. Only where no wait is ever given up: a waker left behind would swallow the call.
    pub fn notify_one(&self) {
        let one = self.0.borrow_mut().pop();
        if let Some(waker) = one {
            waker.wake();
        }
    }

    fn register(&self, waker: &Waker) {
        let mut waiting = self.0.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}
