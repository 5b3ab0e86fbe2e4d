//! A thread with an executor, which begins whatever happens.
//!
//! An executor can go to sleep before it has polled its main future even once, for the reason that
//! [`super::nudge`] gives. No nudge reaches it then, because nothing in it has run that could be
//! woken. So whoever starts one stays with it until it has begun, and interrupts its sleep: a signal
//! makes the kernel return from it, and the executor looks at its queues again.
//!
//! ```text
//!   thread    making ──▶ made ──▶ (asleep) ──▶ begun, and nudged from here on
//!   starter                 every 5 ms: SIGURG
//! ```
//!
//! Start at [`start`]. What holds at all times:
//! - A signal is sent only to a thread that has made its executor and was not joined.
//! - The signal says nothing to anybody: its handler sets a flag that nobody reads.
//! - When the main future has ended, the shard has left the nudge.

use std::future::Future;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use glommio::LocalExecutorBuilder;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;

use super::nudge::Pulse;

/// What interrupts the sleep. The kernel sends it to nobody who has not asked for it, and a process
/// without a handler ignores it.
const INTERRUPT: Signal = Signal::SIGURG;
/// How often a starter looks whether the executor has begun.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Looks until one that was made and has not begun is interrupted. It takes a fraction of one, unless
/// the executor sleeps.
const LOOKS_UNTIL_INTERRUPTED: u32 = 5;

const MAKING: u8 = 0;
const MADE: u8 = 1;
const BEGUN: u8 = 2;

/// Why there is no executor, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error("cannot start the thread {name}: {error}")]
    Thread { name: String, error: io::Error },
    #[error("cannot make the executor of {name}: {error}; `ringmq check` tells what is missing")]
    Make { name: String, error: String },
    #[error("the thread {name} panicked")]
    Panicked { name: String },
}

/// An executor that has been started and may not have begun.
#[must_use = "it may sleep for good before it begins"]
pub struct Starting<T>(Executor<T>);

/// An executor that has begun. Dropping this leaves it running.
pub struct Executor<T> {
    name: String,
    stage: Arc<AtomicU8>,
    /// How often it had to be interrupted before it began.
    interruptions: u32,
    thread: JoinHandle<Result<T, ExecutorError>>,
}

/// Starts a thread with an executor that runs `main` and sees the nudges of `pulse`.
pub fn start<F, T>(
    name: &str,
    builder: LocalExecutorBuilder,
    pulse: Pulse,
    main: impl FnOnce(Pulse) -> F + Send + 'static,
) -> Result<Starting<T>, ExecutorError>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let in_thread = |error| ExecutorError::Thread { name: name.to_owned(), error };
    handle_interrupt().map_err(in_thread)?;
    let stage = Arc::new(AtomicU8::new(MAKING));
    let (reached, of) = (stage.clone(), name.to_owned());
    let run = move || {
        let make_error = |error: glommio::GlommioError<()>| ExecutorError::Make {
            name: of,
            error: error.to_string(),
        };
        let executor = builder.make().map_err(make_error)?;
        reached.store(MADE, Ordering::Release);
        Ok(executor.run(async move {
            reached.store(BEGUN, Ordering::Release);
            glommio::spawn_local(pulse.clone().listen()).detach();
            let output = main(pulse.clone()).await;
            pulse.leave();
            output
        }))
    };
    let thread = Builder::new().name(name.to_owned()).spawn(run).map_err(in_thread)?;
    Ok(Starting(Executor { name: name.to_owned(), stage, interruptions: 0, thread }))
}

impl<T> Starting<T> {
    /// Waits until it has begun, and sees to it that it does.
    pub fn begin(self) -> Result<Executor<T>, ExecutorError> {
        let Self(mut executor) = self;
        let mut looks = 0;
        loop {
            let has_ended = executor.thread.is_finished();
            match executor.stage.load(Ordering::Acquire) {
                BEGUN => return Ok(executor.noted()),
                _ if has_ended => {
                    return executor.join().map(|_| unreachable!("who ends well has begun"));
                }
                MADE => looks += 1,
                _ => {}
            }
            if looks == LOOKS_UNTIL_INTERRUPTED {
                executor.interrupt();
                looks = 0;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl<T> Executor<T> {
    /// Waits for its end.
    pub fn join(self) -> Result<T, ExecutorError> {
        let Self { name, thread, .. } = self;
        thread.join().map_err(|_| ExecutorError::Panicked { name })?
    }

    fn noted(self) -> Self {
        if self.interruptions > 0 {
            let Self { name, interruptions, .. } = &self;
            tracing::info!(interruptions, "{name} slept before it had begun, and was woken");
        }
        self
    }

    fn interrupt(&mut self) {
        self.interruptions += 1;
        // Refused only when the thread has ended, and then the next look finds that.
        pthread_kill(self.thread.as_pthread_t(), INTERRUPT).ok();
    }
}

/// A signal without a handler is ignored, and one that is ignored interrupts nothing.
fn handle_interrupt() -> io::Result<()> {
    static IS_HANDLED: Mutex<bool> = Mutex::new(false);
    let mut is_handled = IS_HANDLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_handled {
        signal_hook::flag::register(INTERRUPT as i32, Arc::new(AtomicBool::new(false)))?;
        *is_handled = true;
    }
    Ok(())
}

/// Settings for tests: nothing registered, a short quantum.
#[cfg(test)]
pub fn small(quantum: Duration) -> LocalExecutorBuilder {
    use glommio::{Placement, PoolPlacement};
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(0)
        .ring_depth(64)
        .preempt_timer(quantum)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
}

#[cfg(test)]
mod tests {
    use glommio::Placement;

    use super::*;
    use crate::shard::nudge::Nudger;

    /// The shorter the quantum, the more executors sleep before they have begun: it is made shorter
    /// until one does.
    #[test]
    fn an_executor_that_sleeps_before_it_begins_is_woken() {
        let nudger = Nudger::start(1).unwrap();
        let begin_one = |quantum| {
            let starting = start("early", small(quantum), nudger.pulse(0), async |_| 7).unwrap();
            let executor = starting.begin().unwrap();
            let interruptions = executor.interruptions;
            assert_eq!(executor.join().unwrap(), 7);
            interruptions
        };
        let quanta = (1..=40).rev().map(Duration::from_micros);
        let slept = quanta.flat_map(|quantum| [quantum; 3]).any(|quantum| begin_one(quantum) > 0);
        assert!(slept, "no quantum was too short, so this has shown nothing");
    }

    #[test]
    fn an_executor_that_cannot_be_made_says_so() {
        let nudger = Nudger::start(1).unwrap();
        let nowhere = LocalExecutorBuilder::new(Placement::Fixed(usize::MAX));
        let starting = start("nowhere", nowhere, nudger.pulse(0), |_| async {}).unwrap();
        let error = starting.begin().err().unwrap();
        assert!(matches!(error, ExecutorError::Make { .. }), "{error}");
    }
}
