//! Waiting for a time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::core::{current, find};

/// Ready once its deadline has passed.
#[derive(Debug)]
#[must_use = "it does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    number: Option<u64>,
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, number: None }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let reactor = current();
        let timers = &mut *reactor.timers.borrow_mut();
        let deadline = self.deadline;
        if let Some(number) = self.number
            && timers.renew(deadline, number, context.waker())
        {
            return Poll::Pending;
        }
        if self.number.take().is_some() || deadline <= Instant::now() {
            return Poll::Ready(());
        }
        self.number = Some(timers.insert(deadline, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // Without a reactor, the thread is ending, and its timers with it.
        if let Some(number) = self.number
            && let Some(reactor) = find()
        {
            reactor.timers.borrow_mut().remove(self.deadline, number);
        }
    }
}
