//! The consensus engine's runtime in a simulation: seeded tasks, virtual time, seeded numbers.
//!
//! The engine calls associated functions, so the simulation that a thread runs is a thread-local
//! value: it is set while [`AsyncRuntime::block_on`] runs, and while the runtime is dropped. What
//! a task spawns joins the group of that task, so all tasks of one node stop together.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::rt::{AsyncRuntime, Instant, Oneshot, OneshotSender};

use super::clock::Sleep;
use super::rng::Rng;
use super::run::Tasks;
use crate::replication::channel;
use crate::replication::timeout::{TimedOut, Timeout};

thread_local! {
    /// The simulation that this thread runs.
    static CURRENT: RefCell<Option<Rc<Tasks<'static>>>> = const { RefCell::new(None) };
}

/// A simulation. Dropping this drops its tasks.
pub struct SimRuntime {
    tasks: Rc<Tasks<'static>>,
}

/// Makes a simulation the one that the thread runs, until it is dropped.
struct Entered {
    outer: Option<Rc<Tasks<'static>>>,
}

/// The task was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task was killed")]
pub struct Killed;

/// The result of a task. Dropping this leaves the task running.
pub struct JoinHandle<T>(<channel::Oneshot as Oneshot>::Receiver<T>);

/// A moment of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(Duration);

/// The start of a simulation, as an instant. Far from zero, so that there are instants before it.
const BEGIN: Duration = Duration::from_secs(1_000_000);

impl SimRuntime {
    pub fn from_seed(seed: u64) -> Self {
        Self { tasks: Rc::new(Tasks::new(seed)) }
    }

    pub fn tasks(&self) -> &Rc<Tasks<'static>> {
        &self.tasks
    }

    /// The simulation that this thread runs. Panics if it runs none.
    #[track_caller]
    pub fn current() -> Rc<Tasks<'static>> {
        let current = CURRENT.with_borrow(Option::clone);
        current.expect("a thread that runs a simulation")
    }

    fn enter(&self) -> Entered {
        Entered { outer: CURRENT.replace(Some(self.tasks.clone())) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _inner = CURRENT.replace(self.outer.take());
    }
}

impl Drop for SimRuntime {
    /// The tasks may use the runtime while they are dropped.
    fn drop(&mut self) {
        let _entered = self.enter();
        self.tasks.clear();
    }
}

impl std::fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimRuntime").field("now", &self.tasks.clock().now()).finish()
    }
}

impl AsyncRuntime for SimRuntime {
    type JoinError = Killed;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = SimInstant;
    type TimeoutError = TimedOut;
    type Timeout<R, F: Future<Output = R>> = Timeout<F, Sleep>;
    type ThreadLocalRng = SimRng;
    type Mpsc = channel::Mpsc;
    type Watch = channel::Watch;
    type Oneshot = channel::Oneshot;
    type Mutex<T: 'static> = channel::Mutex<T>;

    /// The task is named after the caller.
    #[track_caller]
    fn spawn<F>(future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let (result, handle) = channel::Oneshot::channel();
        let name = Location::caller().to_string();
        Self::current().spawn(name, async move {
            // An error means that the result is no longer wanted.
            result.send(future.await).ok();
        });
        JoinHandle(handle)
    }

    fn sleep(duration: Duration) -> Sleep {
        Self::current().clock().sleep(duration)
    }

    fn sleep_until(deadline: SimInstant) -> Sleep {
        Self::current().clock().sleep_until(deadline.0.saturating_sub(BEGIN))
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F, Sleep> {
        Timeout::new(future, Self::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: SimInstant, future: F) -> Timeout<F, Sleep> {
        Timeout::new(future, Self::sleep_until(deadline))
    }

    /// Always false: a panic in a task is a panic of the whole simulation.
    fn is_panic(_: &Killed) -> bool {
        false
    }

    fn thread_rng() -> SimRng {
        SimRng(Self::current().fork_rng())
    }

    /// `threads` is ignored: a simulation has one.
    fn new(_threads: usize) -> Self {
        Self::from_seed(0)
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        let _entered = self.enter();
        self.tasks.run_until(future)
    }

    /// Runs `work` immediately, in the caller.
    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(work()))
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Killed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Killed)
    }
}

/// Seeded numbers for the engine's interface.
#[derive(Debug)]
pub struct SimRng(Rng);

impl rand::TryRng for SimRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl Instant for SimInstant {
    fn now() -> Self {
        Self(BEGIN + SimRuntime::current().clock().now())
    }
}

impl Add<Duration> for SimInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

/// Zero if `earlier` is later, like the clock of the standard library.
impl Sub for SimInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::testing::Suite;
    use rand::Rng as _;

    use super::*;

    #[test]
    fn it_passes_the_engine_s_conformance_suite() {
        Suite::<SimRuntime>::test_all();
        for seed in 1..50 {
            Suite::<SimRuntime>::test_all_on(&mut SimRuntime::from_seed(seed));
        }
    }

    #[test]
    fn numbers_and_order_come_from_the_seed_and_time_is_virtual() {
        let run = |seed| {
            let mut runtime = SimRuntime::from_seed(seed);
            let drawn = runtime.block_on(async {
                let draw = || async {
                    SimRuntime::sleep(Duration::from_hours(1)).await;
                    SimRuntime::thread_rng().next_u64()
                };
                let handles: Vec<_> = (0..5).map(|_| SimRuntime::spawn(draw())).collect();
                let mut drawn = Vec::new();
                for handle in handles {
                    drawn.push(handle.await.unwrap());
                }
                assert_eq!(SimInstant::now().0, BEGIN + Duration::from_hours(1));
                drawn
            });
            (drawn, runtime.tasks().trace())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn tasks_join_the_group_of_their_spawner_and_their_handles_say_that_they_were_killed() {
        SimRuntime::from_seed(1).block_on(async {
            let tasks = SimRuntime::current();
            let group = tasks.group();
            let (give, handle) = channel::Oneshot::channel();
            tasks.spawn_in(group, "node", async move {
                let forever = SimRuntime::spawn(std::future::pending::<()>());
                assert!(give.send(forever).is_ok());
            });
            let handle = handle.await.unwrap();
            tasks.kill(group);
            assert_eq!(handle.await, Err(Killed));
        });
    }

    #[test]
    fn tasks_may_use_the_runtime_while_it_is_dropped() {
        struct Spawns(Rc<()>);
        impl Drop for Spawns {
            fn drop(&mut self) {
                let (held, now) = (self.0.clone(), SimInstant::now());
                SimRuntime::spawn(async move { (held, now) });
            }
        }
        let held = Rc::new(());
        let mut runtime = SimRuntime::from_seed(1);
        let spawns = Spawns(held.clone());
        runtime.block_on(async {
            SimRuntime::spawn(async move {
                let _spawns = spawns;
                std::future::pending::<()>().await;
            });
            SimRuntime::sleep(Duration::from_secs(1)).await;
        });
        drop(runtime);
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(CURRENT.with_borrow(Option::is_none));
    }
}
