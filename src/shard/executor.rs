//! A thread with an executor that is guaranteed to start.
//!
//! An executor can park before it has polled its main future even once, for the reason explained in
//! [`super::nudge`]. A nudge cannot reach it then, because none of its tasks has registered a
//! waker. So the starting thread watches it until it has started, and interrupts its sleep: a
//! signal makes the system call return, and the executor checks its queues again.
//!
//! ```text
//!   thread    make ──▶ Made ──▶ (asleep) ──▶ Begun, and nudged from here on
//!   starter               every 5 ms: SIGURG
//! ```
//!
//! Start reading at [`start`]. Invariants:
//! - A signal is sent only to a thread that has created its executor and has not been joined.
//! - The signal has no effect: its handler sets a flag that nothing reads.
//! - When the main future has ended, even by a panic, the shard has left the nudger.

use std::future::Future;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;
use glommio::LocalExecutorBuilder;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SigSet, Signal};

use super::nudge::Pulse;
use crate::reactor::{self, Host};

/// The signal that interrupts the sleep. The kernel sends it only to processes that request it, and
/// a process without a handler ignores it.
const INTERRUPT: Signal = Signal::SIGURG;
/// How often an executor that has not started is interrupted. It starts within a fraction of this
/// unless it sleeps.
const INTERRUPT_EVERY: Duration = Duration::from_millis(5);
/// Maximum time to start.
const BEGIN_MAX: Duration = Duration::from_secs(30);

/// Why an executor could not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error("cannot start the thread {name}: {error}")]
    Thread { name: String, error: io::Error },
    #[error("cannot create the executor of {name}: {error}; `ringmq check` says what is missing")]
    Make { name: String, error: String },
    #[error(
        "the executor of {name} has not begun after {} s and {interruptions} interruptions",
        BEGIN_MAX.as_secs()
    )]
    Stuck { name: String, interruptions: u32 },
    #[error("the thread {name} panicked")]
    Panicked { name: String },
}

/// The state of a starting thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Made,
    Begun,
}

/// An executor whose thread runs but which may not have polled its main future.
#[must_use = "it may sleep for good before it begins"]
pub struct Starting<T> {
    executor: Executor<T>,
    stages: flume::Receiver<Stage>,
}

/// A running executor. Dropping this leaves it running.
pub struct Executor<T> {
    name: String,
    thread: JoinHandle<Result<T, ExecutorError>>,
}

/// Starts a thread with an executor that runs `main` and receives the nudges of `pulse`.
pub fn start<F, T>(
    name: &str,
    builder: LocalExecutorBuilder,
    spin: Duration,
    pulse: Pulse,
    main: impl FnOnce(Pulse) -> F + Send + 'static,
) -> Result<Starting<T>, ExecutorError>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let in_thread = |error| ExecutorError::Thread { name: name.to_owned(), error };
    handle_interrupt().map_err(in_thread)?;
    let (reach, stages) = flume::bounded(2);
    let of = name.to_owned();
    let run = move || {
        allow_interrupt();
        let made = Host::make(builder, spin);
        let host =
            made.map_err(|error| ExecutorError::Make { name: of, error: error.to_string() })?;
        reach.send(Stage::Made).ok();
        Ok(host.run(async move {
            reach.send(Stage::Begun).ok();
            reactor::spawn(reactor::reachable_by_watchdog(pulse.clone().listen())).detach();
            let _leaves_in_the_end = Leaving(pulse.clone());
            reactor::spawn(main(pulse)).await
        }))
    };
    let thread = Builder::new().name(name.to_owned()).spawn(run).map_err(in_thread)?;
    Ok(Starting { executor: Executor { name: name.to_owned(), thread }, stages })
}

impl<T> Starting<T> {
    /// Waits until the executor has started, interrupting its sleep as needed.
    pub fn begin(self) -> Result<Executor<T>, ExecutorError> {
        let Self { executor, stages } = self;
        let started = Instant::now();
        let (mut is_made, mut interruptions) = (false, 0);
        loop {
            match stages.recv_timeout(INTERRUPT_EVERY) {
                Ok(Stage::Made) => is_made = true,
                Ok(Stage::Begun) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    return executor.join().map(|_| unreachable!("who ends well has begun"));
                }
                Err(RecvTimeoutError::Timeout) if started.elapsed() > BEGIN_MAX => {
                    return Err(ExecutorError::Stuck { name: executor.name, interruptions });
                }
                Err(RecvTimeoutError::Timeout) if is_made => {
                    executor.interrupt();
                    interruptions += 1;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if interruptions > 0 {
            tracing::info!(interruptions, "{} needed a wake-up before it started", executor.name);
        }
        Ok(executor)
    }
}

impl<T> Executor<T> {
    /// Waits until the executor has ended.
    pub fn join(self) -> Result<T, ExecutorError> {
        let Self { name, thread } = self;
        thread.join().map_err(|_| ExecutorError::Panicked { name })?
    }

    fn interrupt(&self) {
        // Harmless if the thread has ended meanwhile.
        pthread_kill(self.thread.as_pthread_t(), INTERRUPT).ok();
    }
}

/// Leaves the nudger when it is dropped.
struct Leaving(Pulse);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Without a handler the signal would be ignored, and interrupt nothing.
fn handle_interrupt() -> io::Result<()> {
    static IS_HANDLED: Mutex<bool> = Mutex::new(false);
    let mut is_handled = IS_HANDLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_handled {
        signal_hook::flag::register(INTERRUPT as i32, Arc::new(AtomicBool::new(false)))?;
        *is_handled = true;
    }
    Ok(())
}

/// The parent process may have blocked the signal, and the mask is inherited.
fn allow_interrupt() {
    let mut interrupt = SigSet::empty();
    interrupt.add(INTERRUPT);
    // Fails only for an invalid set.
    interrupt.thread_unblock().ok();
}

/// Settings for tests: no registered memory, the quantum as given.
#[cfg(test)]
pub fn settings_of_tests(quantum: Duration) -> LocalExecutorBuilder {
    use glommio::{Placement, PoolPlacement};
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(0)
        .ring_depth(64)
        .preempt_timer(quantum)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
}

/// Runs `test`, which makes its own executors, in a thread whose sleeps are interrupted, so its
/// executors need no nudger. Panics if `test` panics or takes longer than [`BEGIN_MAX`].
#[cfg(test)]
pub fn in_interrupted_thread(test: impl FnOnce() + Send + 'static) {
    handle_interrupt().unwrap();
    let run = move || {
        allow_interrupt();
        test();
        Ok(())
    };
    let thread = Builder::new().name("interrupted".into()).spawn(run).unwrap();
    let executor = Executor { name: "interrupted".into(), thread };
    let started = Instant::now();
    while !executor.thread.is_finished() {
        assert!(started.elapsed() < BEGIN_MAX, "the test hangs");
        executor.interrupt();
        std::thread::sleep(INTERRUPT_EVERY);
    }
    if let Err(error) = executor.join() {
        panic!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use glommio::Placement;

    use super::*;
    use crate::shard::nudge::Nudger;

    /// The shorter the quantum, the more executors park before they start: it is halved until one
    /// does.
    #[test]
    fn an_executor_that_sleeps_before_it_begins_is_woken() {
        let nudger = Nudger::start(1).unwrap();
        let asleep = (0..12).flat_map(|halvings| [1024 >> halvings; 3]).find_map(|quantum_us| {
            let builder = settings_of_tests(Duration::from_micros(quantum_us));
            let starting =
                start("early", builder, Duration::ZERO, nudger.pulse(0), async |_| 7).unwrap();
            if is_asleep(&starting) {
                return Some(starting);
            }
            assert_eq!(starting.begin().unwrap().join().unwrap(), 7);
            None
        });
        let asleep = asleep.expect("one that sleeps, or this has shown nothing");
        assert_eq!(asleep.begin().unwrap().join().unwrap(), 7);
    }

    /// Whether the executor was created but has not started for longer than a busy machine would
    /// explain.
    fn is_asleep(starting: &Starting<i32>) -> bool {
        let stages_after = |patience: Duration, enough: usize| {
            let begin = Instant::now();
            while starting.stages.len() < enough && begin.elapsed() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            starting.stages.len()
        };
        assert!(stages_after(BEGIN_MAX, 1) >= 1, "it is not made");
        stages_after(Duration::from_millis(200), 2) == 1
    }

    #[test]
    fn who_panics_has_left_and_says_so() {
        let nudger = Nudger::start(1).unwrap();
        let builder = settings_of_tests(Duration::from_millis(100));
        let main = async |_| {
            reactor::sleep(Duration::from_millis(1)).await;
            panic!("as this test wants it");
        };
        let starting =
            start::<_, ()>("panics", builder, Duration::ZERO, nudger.pulse(0), main).unwrap();
        let error = starting.begin().unwrap().join().err().unwrap();
        assert!(matches!(error, ExecutorError::Panicked { .. }), "{error}");
        assert!(!nudger.listens(0));
    }

    #[test]
    fn an_executor_that_cannot_be_made_says_so() {
        let nudger = Nudger::start(1).unwrap();
        let nowhere = LocalExecutorBuilder::new(Placement::Fixed(usize::MAX));
        let starting =
            start("nowhere", nowhere, Duration::ZERO, nudger.pulse(0), |_| async {}).unwrap();
        let error = starting.begin().err().unwrap();
        assert!(matches!(error, ExecutorError::Make { .. }), "{error}");
    }
}
