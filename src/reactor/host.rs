//! An executor together with its reactor.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder};

use super::core::{CURRENT, Reactor, Turn};
use super::flag::Flag;

/// How long the executor may park by mistake. Longer than the beginning of a pass takes, because a
/// timer that fires there is used up.
const PARK_MAX: Duration = Duration::from_micros(100);

/// An executor that runs tasks with a reactor. It belongs to the thread that made it.
pub struct Host {
    executor: LocalExecutor,
    reactor: Rc<Reactor>,
}

/// Why there is no executor.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{0}")]
    Executor(String),
    #[error("io_uring: {0}")]
    Ring(#[from] io::Error),
}

impl Host {
    /// Creates an executor and its reactor. `spin`: how long to spin for work before sleeping.
    pub fn make(builder: LocalExecutorBuilder, spin: Duration) -> Result<Self, HostError> {
        let executor = builder.make().map_err(|error| HostError::Executor(error.to_string()))?;
        Ok(Self { executor, reactor: Rc::new(Reactor::new(spin)?) })
    }

    /// Runs tasks until `main` is done.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let before = CURRENT.replace(Some(self.reactor.clone()));
        let _restore = Restore(RefCell::new(before));
        let mut main = pin!(main);
        let woken = Arc::new(Flag::default());
        woken.set();
        let (number, waker) = self.reactor.foreign.new_waker(false);
        self.reactor.foreign.set_task(number, &woken.clone().into());
        let mut context_of_main = Context::from_waker(&waker);
        let mut limit = None;
        loop {
            let turns = poll_fn(|context| {
                self.reactor.foreign.set_executor(context.waker());
                if woken.take() {
                    self.reactor.polled.set(self.reactor.polled.get() + 1);
                    if let Poll::Ready(result) = main.as_mut().poll(&mut context_of_main) {
                        return Poll::Ready(Some(result));
                    }
                }
                match self.reactor.turn() {
                    Turn::Pass => {
                        limit = Some(limit_parking(context));
                        Poll::Ready(None)
                    }
                    Turn::Again => {
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            });
            if let Some(result) = self.executor.run(turns) {
                self.reactor.foreign.forget(number);
                return result;
            }
        }
    }
}

/// Bounds how long the executor parks if it does so after a pass although a task is runnable
/// (`shard::nudge`). It wakes for its own timers, so it gets one.
fn limit_parking(context: &mut Context<'_>) -> Timer {
    #[expect(clippy::disallowed_methods, reason = "a timer that is not to be relied on")]
    let mut timer = Timer::new(PARK_MAX);
    // Ready only if the time has already passed.
    let _ = Pin::new(&mut timer).poll(context);
    timer
}

impl Drop for Host {
    /// Finishes the work of the reactor, which tasks that the executor leaves behind keep alive.
    fn drop(&mut self) {
        self.reactor.ring().wait_for_transfers();
        self.reactor.helper.end();
    }
}

/// Restores the reactor of an outer run.
struct Restore(RefCell<Option<Rc<Reactor>>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
