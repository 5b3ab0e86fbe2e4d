//! Limits how long a future may take, on any runtime's timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// The time ran out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;

pin_project! {
    /// The output of `future`, unless `timer` ends before it.
    pub struct Timeout<F, T> {
        #[pin]
        future: F,
        #[pin]
        timer: T,
    }
}

impl<F, T> Timeout<F, T> {
    pub fn new(future: F, timer: T) -> Self {
        Self { future, timer }
    }
}

impl<F: Future, T: Future> Future for Timeout<F, T> {
    type Output = Result<F::Output, TimedOut>;

    /// A future that is ready wins, even if the time has run out when this is polled.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(context) {
            return Poll::Ready(Ok(value));
        }
        this.timer.poll(context).map(|_| Err(TimedOut))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use super::*;

    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn what_is_done_counts_even_if_it_is_late() {
        assert_eq!(poll_once(Timeout::new(ready(1), ready(()))), Poll::Ready(Ok(1)));
        assert_eq!(poll_once(Timeout::new(ready(1), pending::<()>())), Poll::Ready(Ok(1)));
        let late = Timeout::new(pending::<u8>(), ready(()));
        assert_eq!(poll_once(late), Poll::Ready(Err(TimedOut)));
        assert_eq!(poll_once(Timeout::new(pending::<u8>(), pending::<()>())), Poll::Pending);
    }
}
