//! Runs work that blocks in a separate thread: system calls that the ring does not support.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::core::current;
use super::reachable::reachable;

/// Runs `work` in the helper thread. Where panics unwind, a panic there is an error here.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (give, outcome) = flume::bounded(1);
    let job = move || {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // The caller may have stopped waiting.
        let _ = give.send(outcome.unwrap_or_else(|_| Err(io::Error::other("panicked"))));
    };
    let jobs = current().helper.jobs()?;
    let gone = || io::Error::other("the helper thread has ended");
    reachable(jobs.send_async(Box::new(job))).await.map_err(|_| gone())?;
    reachable(outcome.recv_async()).await.map_err(|_| gone())?
}
