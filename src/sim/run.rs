//! An executor for simulations: one thread, woken tasks polled in an order that comes from a seed.
//!
//! [`run`] drives one future; [`Tasks`] several. A task is polled only after it was woken, so code
//! that loses a wake-up gets stuck here exactly as on a shard. Getting stuck is a panic that names
//! the blocked tasks. Time is virtual ([`super::clock`]): it passes only while no task can run.
//!
//! Tasks that stop together, such as those of one process of a cluster, form a [`Group`]: what a
//! task spawns joins its group. A group can be paused, like a process by SIGSTOP, and killed.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use smallvec::SmallVec;

use super::clock::Clock;
use super::rng::{Rng, mix};

pub use crate::storage::slice::yield_now as pause;

/// Number of polls at one instant after which a run counts as a livelock.
const POLLS_MAX: u64 = 50_000_000;
/// The same while a timer is set: something waits for time to pass, and it does not.
const POLLS_BEFORE_TIMER_MAX: u64 = 100_000;

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
    clock: Rc<Clock>,
    /// By number; `None` if it is done, was killed, or is being polled.
    tasks: RefCell<Vec<Option<Task<'a>>>>,
    woken: WokenTasks,
    groups: RefCell<Vec<GroupState>>,
    /// The group of the task that is being polled.
    current: Cell<Group>,
    /// Number of polls since time last passed.
    polls: Cell<u64>,
    trace: Cell<u64>,
}

struct Task<'a> {
    name: String,
    group: Group,
    woken: Arc<Woken>,
    future: Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// Tasks that are paused and killed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(usize);

/// The group of tasks that were spawned outside every other group. It is neither paused nor killed.
const ROOT: Group = Group(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupState {
    Runs,
    Paused,
    Killed,
}

impl<'a> Tasks<'a> {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: RefCell::new(Rng::from_seed(seed)),
            clock: Rc::default(),
            tasks: RefCell::default(),
            woken: WokenTasks::default(),
            groups: RefCell::new(vec![GroupState::Runs]),
            current: Cell::new(ROOT),
            polls: Cell::new(0),
            trace: Cell::new(seed),
        }
    }

    /// Adds a task to the group of the current task. It is polled for the first time in a later
    /// turn.
    pub fn spawn(&self, name: impl Into<String>, future: impl Future<Output = ()> + 'a) {
        self.spawn_in(self.current.get(), name, future);
    }

    /// Adds a task to `group`. If that was killed, the task is dropped.
    pub fn spawn_in(
        &self,
        group: Group,
        name: impl Into<String>,
        future: impl Future<Output = ()> + 'a,
    ) {
        if self.state(group) == GroupState::Killed {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let woken = Woken::new(tasks.len(), &self.woken);
        woken.wake_by_ref();
        tasks.push(Some(Task { name: name.into(), group, woken, future: Box::pin(future) }));
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
        self.polls.set(0);
        while self.turn() || self.let_time_pass() {
            self.check_progress();
        }
    }

    /// Runs `main` and the other tasks until `main` is done. Panics if no task can run before that.
    #[track_caller]
    pub fn run_until<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        // Woken tasks of its own: it has no group, and takes its turn differently.
        let woken = Woken::new(0, &WokenTasks::default());
        woken.wake_by_ref();
        let waker = Waker::from(woken.clone());
        self.polls.set(0);
        loop {
            self.check_progress();
            let main_may_run = woken.is_set();
            if main_may_run && (!self.may_go_on() || self.rng.borrow_mut().coin()) {
                woken.take();
                if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return value;
                }
            } else if !self.turn() && !main_may_run && !self.let_time_pass() {
                let blocked = self.blocked();
                panic!("stuck: nothing will wake the main task; also blocked: {blocked:?}");
            }
        }
    }

    /// Names of the tasks that are not done.
    pub fn blocked(&self) -> Vec<String> {
        self.tasks.borrow().iter().flatten().map(|task| task.name.clone()).collect()
    }

    pub fn clock(&self) -> &Rc<Clock> {
        &self.clock
    }

    /// A generator of its own, which depends on the seed and on what has happened so far.
    pub fn fork_rng(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    /// Depends on every poll so far: which task, and when. Equal runs have equal traces.
    pub fn trace(&self) -> u64 {
        self.trace.get()
    }

    pub fn group(&self) -> Group {
        let mut groups = self.groups.borrow_mut();
        groups.push(GroupState::Runs);
        Group(groups.len() - 1)
    }

    /// Pauses a group: from now on none of its tasks is polled. Time passes, and wakes are kept.
    pub fn pause(&self, group: Group) {
        self.change(group, GroupState::Paused);
    }

    pub fn resume(&self, group: Group) {
        self.change(group, GroupState::Runs);
    }

    /// Drops all of its tasks, and those that are spawned in it from now on. The current task, if
    /// it is one of them, is dropped when it yields.
    pub fn kill(&self, group: Group) {
        self.change(group, GroupState::Killed);
        // Dropped at the end, when nothing is borrowed: that may spawn and wake others.
        let _killed: Vec<Task<'a>> = {
            let mut tasks = self.tasks.borrow_mut();
            let of_group = |task: &mut Task<'a>| task.group == group;
            tasks.iter_mut().filter_map(|task| task.take_if(of_group)).collect()
        };
    }

    fn change(&self, group: Group, state: GroupState) {
        assert!(group != ROOT, "the tasks without a group");
        let before = std::mem::replace(&mut self.groups.borrow_mut()[group.0], state);
        assert!(before != GroupState::Killed, "{group:?} was killed");
    }

    fn state(&self, group: Group) -> GroupState {
        self.groups.borrow()[group.0]
    }

    /// Drops all tasks.
    pub fn clear(&self) {
        loop {
            lock(&self.woken).clear();
            if self.tasks.take().is_empty() {
                return;
            }
        }
    }

    /// Polls one woken task. Returns false if there is none.
    fn turn(&self) -> bool {
        let Some((number, mut task)) = self.take_woken() else { return false };
        self.trace.set(mix(self.trace.get() ^ number as u64) ^ self.clock.now().as_nanos() as u64);
        task.woken.take();
        let waker = Waker::from(task.woken.clone());
        self.current.set(task.group);
        let outcome = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if outcome.is_pending() && self.state(task.group) != GroupState::Killed {
            self.tasks.borrow_mut()[number] = Some(task);
        }
        self.current.set(ROOT);
        true
    }

    fn take_woken(&self) -> Option<(usize, Task<'a>)> {
        let (mut tasks, groups) = (self.tasks.borrow_mut(), self.groups.borrow());
        let mut woken = lock(&self.woken);
        // Others have ended.
        woken.retain(|&number| tasks.get(number).is_some_and(Option::is_some));
        let mut may_run = SmallVec::<[usize; 64]>::new();
        for (index, &number) in woken.iter().enumerate() {
            if tasks[number].as_ref().is_some_and(|task| task.may_run(&groups)) {
                may_run.push(index);
            }
        }
        if may_run.is_empty() {
            return None;
        }
        let number = woken.swap_remove(*self.rng.borrow_mut().pick(&may_run));
        Some((number, tasks[number].take()?))
    }

    fn may_go_on(&self) -> bool {
        let (tasks, groups) = (self.tasks.borrow(), self.groups.borrow());
        let may_run =
            |&number: &usize| tasks[number].as_ref().is_some_and(|task| task.may_run(&groups));
        lock(&self.woken).iter().any(may_run)
    }

    fn let_time_pass(&self) -> bool {
        let has_passed = self.clock.jump();
        if has_passed {
            self.polls.set(0);
        }
        has_passed
    }

    fn check_progress(&self) {
        let polls = self.polls.get() + 1;
        self.polls.set(polls);
        let is_over = polls >= POLLS_MAX;
        if is_over || (polls >= POLLS_BEFORE_TIMER_MAX && self.clock.has_timers()) {
            let at = self.clock.now();
            panic!("livelock at {at:?}, not done: {}", self.blocked().join(", "));
        }
    }
}

impl Task<'_> {
    fn may_run(&self, groups: &[GroupState]) -> bool {
        groups[self.group.0] == GroupState::Runs
    }
}

/// Numbers of tasks that have been woken, each once. A waker can be sent to another thread, so this
/// is locked.
type WokenTasks = Arc<Mutex<Vec<usize>>>;

fn lock(woken: &WokenTasks) -> std::sync::MutexGuard<'_, Vec<usize>> {
    woken.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Woken {
    is_set: AtomicBool,
    number: usize,
    all: WokenTasks,
}

impl Woken {
    fn new(number: usize, all: &WokenTasks) -> Arc<Self> {
        Arc::new(Self { is_set: AtomicBool::new(false), number, all: all.clone() })
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    fn take(&self) {
        self.is_set.store(false, Ordering::Relaxed);
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_set.swap(true, Ordering::Relaxed) {
            lock(&self.all).push(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

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

    #[test]
    #[should_panic(expected = "livelock at 1s, not done: sleeps, spins")]
    fn a_task_that_spins_while_another_waits_for_time_is_named() {
        let tasks = Tasks::new(1);
        let clock = tasks.clock().clone();
        tasks.spawn("sleeps", clock.sleep(2 * SECOND));
        tasks.spawn("spins", async move {
            clock.sleep(SECOND).await;
            loop {
                pause().await;
            }
        });
        tasks.run();
    }

    #[test]
    fn equal_runs_have_equal_traces() {
        let trace = |seed, ms| {
            let tasks = Tasks::new(seed);
            for number in 0..4 {
                let clock = tasks.clock().clone();
                tasks.spawn(number.to_string(), async move {
                    clock.sleep(Duration::from_millis(ms)).await;
                    pause().await;
                });
            }
            tasks.run();
            tasks.trace()
        };
        assert_eq!(trace(1, 5), trace(1, 5));
        assert_ne!(trace(1, 5), trace(2, 5));
        assert_ne!(trace(1, 5), trace(1, 6));
    }

    /// A task of a group of its own that counts seconds, and what it has spawned.
    fn count_seconds(tasks: &Rc<Tasks<'static>>, seconds: &Rc<Cell<u64>>) -> Group {
        let (group, spawner) = (tasks.group(), tasks.clone());
        let (clock, seconds) = (tasks.clock().clone(), seconds.clone());
        tasks.spawn_in(group, "parent", async move {
            spawner.spawn("child", async move {
                loop {
                    clock.sleep(SECOND).await;
                    seconds.set(seconds.get() + 1);
                }
            });
        });
        group
    }

    #[test]
    fn a_paused_group_stands_still_while_time_passes() {
        let seconds = Rc::new(Cell::new(0));
        let tasks = Rc::new(Tasks::new(1));
        tasks.run_until(async {
            let group = count_seconds(&tasks, &seconds);
            tasks.clock().sleep(SECOND * 7 / 2).await;
            assert_eq!(seconds.get(), 3);
            tasks.pause(group);
            tasks.clock().sleep(SECOND * 10).await;
            assert_eq!(seconds.get(), 3);
            tasks.resume(group);
            tasks.clock().sleep(SECOND * 2).await;
            assert_eq!(seconds.get(), 5, "the timer that was due, and one more");
        });
    }

    #[test]
    fn a_killed_group_drops_its_tasks_and_what_they_spawn() {
        struct SpawnsWhenDropped(Rc<Tasks<'static>>, Group, Rc<()>);
        impl Drop for SpawnsWhenDropped {
            fn drop(&mut self) {
                let held = self.2.clone();
                self.0.spawn_in(self.1, "late", async move {
                    drop(held);
                    panic!("a task of a killed group runs");
                });
            }
        }
        let (seconds, held) = (Rc::new(Cell::new(0)), Rc::new(()));
        let tasks = Rc::new(Tasks::new(1));
        tasks.run_until(async {
            let group = count_seconds(&tasks, &seconds);
            let bomb = SpawnsWhenDropped(tasks.clone(), group, held.clone());
            tasks.spawn_in(group, "held", async move {
                let _bomb = bomb;
                std::future::pending::<()>().await;
            });
            tasks.clock().sleep(SECOND * 3 / 2).await;
            tasks.kill(group);
            tasks.clock().sleep(SECOND * 5).await;
            assert_eq!(seconds.get(), 1);
            assert_eq!(Rc::strong_count(&held), 1);
        });
        assert!(tasks.blocked().is_empty());
    }

    #[test]
    fn a_task_that_kills_its_own_group_ends_when_it_yields() {
        let tasks = Rc::new(Tasks::new(1));
        tasks.run_until(async {
            let (group, killer) = (tasks.group(), tasks.clone());
            tasks.spawn_in(group, "kills itself", async move {
                killer.kill(group);
                pause().await;
                panic!("it was killed");
            });
            tasks.clock().sleep(SECOND).await;
        });
        assert!(tasks.blocked().is_empty());
    }
}
