//! The outcome of a transfer.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};

use glommio::io::DmaBuffer;

#[derive(Default)]
pub struct Completion {
    outcome: Cell<Option<Outcome>>,
    waker: Cell<Option<Waker>>,
}

struct Outcome {
    result: i32,
    /// The memory of a read.
    buffer: Option<DmaBuffer>,
}

impl Completion {
    /// Completes the transfer. `result`: bytes, or a negative error.
    pub fn complete(&self, result: i32, buffer: Option<DmaBuffer>) {
        self.outcome.set(Some(Outcome { result, buffer }));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until the kernel has completed the transfer. Returns the number of bytes, and the
    /// buffer of a read.
    pub async fn outcome(&self) -> io::Result<(usize, Option<DmaBuffer>)> {
        let Outcome { result, buffer } = poll_fn(|context| match self.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        match usize::try_from(result) {
            Ok(size) => Ok((size, buffer)),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }
}
