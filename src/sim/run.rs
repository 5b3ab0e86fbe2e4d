//! An executor for simulations: one thread, woken tasks polled in an order that comes from a seed.
//!
//! [`run`] drives one future; [`Tasks`] several. A task is polled only after it was woken, so code
//! that loses a wake-up gets stuck here exactly as on a shard. Getting stuck is a panic that names
//! the blocked tasks. There is no time: code that waits for a deadline takes `now` as an argument.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::rng::Rng;

pub use crate::storage::slice::yield_now as pause;

/// Number of polls after which a run counts as a livelock.
const POLLS_MAX: u64 = 50_000_000;

/// Drives `future` to completion. Panics if it waits for something that cannot happen.
#[track_caller]
pub fn run<T>(future: impl Future<Output = T>) -> T {
    Tasks::new(0).run_until(future)
}

/// Tasks that run in an order that depends only on the seed.
///
/// All methods take `&self`, so a task that holds a reference (or an `Rc`) can spawn others.
pub struct Tasks<'a> {
    rng: RefCell<Rng>,
    tasks: RefCell<Vec<Task<'a>>>,
    /// Spawned since the last poll.
    arrivals: RefCell<Vec<Task<'a>>>,
}

struct Task<'a> {
    name: String,
    woken: Arc<Woken>,
    future: Pin<Box<dyn Future<Output = ()> + 'a>>,
}

impl<'a> Tasks<'a> {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: RefCell::new(Rng::from_seed(seed)),
            tasks: RefCell::default(),
            arrivals: RefCell::default(),
        }
    }

    /// Adds a task; it is polled for the first time in a later turn.
    pub fn spawn(&self, name: impl Into<String>, future: impl Future<Output = ()> + 'a) {
        let task = Task { name: name.into(), woken: Woken::yes(), future: Box::pin(future) };
        self.arrivals.borrow_mut().push(task);
    }

    /// Runs until every task is done. Panics if all remaining tasks are blocked.
    #[track_caller]
    pub fn run(&self) {
        self.run_while_possible();
        let blocked = self.blocked();
        assert!(blocked.is_empty(), "stuck: nothing will wake {}", blocked.join(", "));
    }

    /// Runs until no task can run: all are done, or wait for an external event.
    pub fn run_while_possible(&self) {
        let mut polls = 0;
        while self.turn() {
            polls += 1;
            self.check_progress(polls);
        }
    }

    /// Runs `main` and the other tasks until `main` is done. Panics if no task can run before that.
    #[track_caller]
    pub fn run_until<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let woken = Woken::yes();
        let waker = Waker::from(woken.clone());
        let mut polls = 0;
        loop {
            polls += 1;
            self.check_progress(polls);
            let main_may_run = woken.is_set();
            if main_may_run && (!self.may_go_on() || self.rng.borrow_mut().coin()) {
                woken.take();
                if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return value;
                }
            } else if !self.turn() && !main_may_run {
                let blocked = self.blocked();
                panic!("stuck: nothing will wake the main task; also blocked: {blocked:?}");
            }
        }
    }

    /// Names of the tasks that are not done.
    pub fn blocked(&self) -> Vec<String> {
        self.admit();
        self.tasks.borrow().iter().map(|task| task.name.clone()).collect()
    }

    /// Polls one woken task. Returns false if there is none.
    fn turn(&self) -> bool {
        let Some(mut task) = self.take_woken() else { return false };
        task.woken.take();
        let waker = Waker::from(task.woken.clone());
        let outcome = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if outcome.is_pending() {
            self.tasks.borrow_mut().push(task);
        }
        true
    }

    fn take_woken(&self) -> Option<Task<'a>> {
        self.admit();
        let mut tasks = self.tasks.borrow_mut();
        let count = tasks.iter().filter(|task| task.woken.is_set()).count();
        if count == 0 {
            return None;
        }
        let chosen = self.rng.borrow_mut().index(count);
        let (index, _) = tasks.iter().enumerate().filter(|(_, t)| t.woken.is_set()).nth(chosen)?;
        Some(tasks.remove(index))
    }

    fn may_go_on(&self) -> bool {
        self.admit();
        self.tasks.borrow().iter().any(|task| task.woken.is_set())
    }

    fn admit(&self) {
        self.tasks.borrow_mut().append(&mut self.arrivals.borrow_mut());
    }

    fn check_progress(&self, polls: u64) {
        assert!(polls < POLLS_MAX, "livelock, not done: {}", self.blocked().join(", "));
    }
}

struct Woken(AtomicBool);

impl Woken {
    fn yes() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn order_depends_on_the_seed_alone() {
        let order = |seed| {
            let log = RefCell::new(Vec::new());
            let tasks = Tasks::new(seed);
            for number in 0..5 {
                let log = &log;
                tasks.spawn(number.to_string(), async move {
                    for _ in 0..3 {
                        log.borrow_mut().push(number);
                        pause().await;
                    }
                });
            }
            tasks.run();
            drop(tasks);
            log.into_inner()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_eq!(order(3).len(), 15);
    }

    #[test]
    fn tasks_run_concurrently_with_the_main_future() {
        let ready = Cell::new(false);
        let tasks = Tasks::new(4);
        tasks.spawn("sets", async {
            pause().await;
            ready.set(true);
        });
        tasks.run_until(async {
            while !ready.get() {
                pause().await;
            }
        });
    }

    #[test]
    fn a_task_can_spawn_another() {
        let done = Cell::new(0);
        let tasks = Tasks::new(5);
        tasks.run_until(async {
            tasks.spawn("child", async { done.set(1) });
            while done.get() == 0 {
                pause().await;
            }
        });
        assert!(tasks.blocked().is_empty());
    }

    #[test]
    #[should_panic(expected = "stuck: nothing will wake sleeper")]
    fn a_task_that_is_never_woken_is_named() {
        let tasks = Tasks::new(6);
        tasks.spawn("sleeper", std::future::pending());
        tasks.spawn("worker", async {});
        tasks.run();
    }

    #[test]
    #[should_panic(expected = "nothing will wake the main task")]
    fn a_main_future_that_is_never_woken_is_an_error() {
        run(std::future::pending::<()>());
    }
}
