//! Splits long work into slices, because a task that does not yield blocks everything else on the
//! shard.
//!
//! Independent of the runtime: a future that wakes itself and is pending once goes to the end of
//! its task queue on any executor.

use std::future::poll_fn;
use std::task::Poll;

/// Number of items per slice. One takes up to 0.5 µs (a hash lookup, two cache misses), so a slice
/// stays well below 1 ms.
pub const SLICE_ITEMS: usize = 1024;

/// Yields to the other tasks.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Counts items, and yields after every [`SLICE_ITEMS`].
#[derive(Debug)]
pub struct Slices {
    left: usize,
}

impl Default for Slices {
    fn default() -> Self {
        Self { left: SLICE_ITEMS }
    }
}

impl Slices {
    /// Counts `items` that were processed since the last call. Hold no borrow across it.
    pub async fn handled(&mut self, items: usize) {
        match self.left.checked_sub(items).filter(|&left| left > 0) {
            Some(left) => self.left = left,
            None => {
                self.left = SLICE_ITEMS;
                yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn work_yields_after_so_many_items() {
        let mut work = pin!(async {
            let mut slices = Slices::default();
            for _ in 0..3 * SLICE_ITEMS {
                slices.handled(1).await;
            }
        });
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 1;
        while work.as_mut().poll(&mut context).is_pending() {
            polls += 1;
        }
        assert_eq!(polls, 4);
    }
}
