//! The consensus engine's runtime on a shard: tasks, timers and the clock of the executor.
//!
//! Invariants:
//! - The engine's tasks are first polled after the spawning task has yielded, because the latter
//!   may hold a lock.
//! - A panic in a task ends the process, like any bug. Nothing here catches it, so the engine never
//!   sees a task that panicked.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use openraft::rt::AsyncRuntime;

use crate::reactor::{self, Host, Sleep, Task};
use crate::replication::channel;
use crate::replication::timeout::{TimedOut, Timeout};

/// The runtime, for the engine.
///
/// Everything that the engine calls is an associated function and uses the executor of the current
/// thread. A value is a separate executor, which only the engine's conformance tests create.
pub struct GlommioRuntime(Host);

/// The task ended without a result: its executor was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task was cancelled")]
pub struct Cancelled;

/// The result of a task. Dropping this leaves the task running.
pub struct JoinHandle<T>(Task<T>);

impl AsyncRuntime for GlommioRuntime {
    type JoinError = Cancelled;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = TimedOut;
    type Timeout<R, F: Future<Output = R>> = Timeout<F, Sleep>;
    type ThreadLocalRng = rand::rngs::ThreadRng;
    type Mpsc = channel::Mpsc;
    type Watch = channel::Watch;
    type Oneshot = channel::Oneshot;
    type Mutex<T: 'static> = channel::Mutex<T>;

    fn spawn<F>(future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        JoinHandle(reactor::spawn_later(future))
    }

    fn sleep(duration: Duration) -> Sleep {
        reactor::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        reactor::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F, Sleep> {
        Timeout::new(future, Self::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F, Sleep> {
        Timeout::new(future, Self::sleep_until(deadline))
    }

    fn is_panic(_: &Cancelled) -> bool {
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rand::rng()
    }

    /// `threads` is ignored: an executor is one thread.
    fn new(_threads: usize) -> Self {
        let builder = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(0)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
        Self(Host::make(builder, Duration::ZERO).expect("an executor"))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.run(future)
    }
}

impl fmt::Debug for GlommioRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioRuntime").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").finish_non_exhaustive()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use openraft::rt::testing::Suite;

    use super::*;
    use crate::shard::executor::in_interrupted_thread;

    #[test]
    fn it_passes_the_engine_s_conformance_suite() {
        in_interrupted_thread(Suite::<GlommioRuntime>::test_all);
    }

    #[test]
    fn a_task_is_not_polled_inside_its_spawner_and_runs_on_without_its_handle() {
        in_interrupted_thread(|| {
            GlommioRuntime::new(1).block_on(async {
                let has_run = Rc::new(Cell::new(false));
                let runs = has_run.clone();
                drop(GlommioRuntime::spawn(async move { runs.set(true) }));
                assert!(!has_run.get());
                while !has_run.get() {
                    reactor::pass().await;
                }
            });
        });
    }

    #[test]
    #[should_panic(expected = "panicked")]
    fn a_panic_in_a_task_ends_the_thread() {
        in_interrupted_thread(|| {
            GlommioRuntime::new(1).block_on(async {
                GlommioRuntime::spawn(async { panic!("as this test wants it") }).await.ok();
            });
        });
    }
}
