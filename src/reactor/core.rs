//! The reactor of a thread: decides when to deliver, submit and wait.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::background::Background;
use super::foreign::ForeignWakers;
use super::helper::Helper;
use super::passes::Passes;
use super::readiness::Readiness;
use super::ring::Ring;
use super::timers::Timers;
use super::urgent::Urgent;

thread_local! {
    pub static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

/// The reactor of this thread.
pub fn current() -> Rc<Reactor> {
    find().expect("a thread whose executor runs in a reactor::Host")
}

pub fn find() -> Option<Rc<Reactor>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Number of tasks that were polled between the last two turns, and so share the time.
pub fn task_count() -> u32 {
    current().polled_before.get()
}

/// The longest time that one ordinary task has run without yielding since this was last called.
pub fn take_longest_poll() -> Duration {
    current().longest_poll.take()
}

/// Submits what tasks have requested, and wakes those with completions, without waiting for the
/// next turn.
pub fn look() {
    current().look();
}

/// The reactor of one thread.
pub struct Reactor {
    ring: RefCell<Ring>,
    pub timers: RefCell<Timers>,
    pub foreign: ForeignWakers,
    pub background: Background,
    pub helper: Helper,
    pub passes: Passes,
    pub urgent: Urgent,
    /// Number of tasks that are being polled, each nested in the one that spawned it.
    depth: Cell<u32>,
    /// Tasks polled since the last turn, and between that and the one before.
    pub polled: Cell<u32>,
    polled_before: Cell<u32>,
    /// When the last poll of a task, or the last turn, ended; `None` after a pass of the executor.
    polled_until: Cell<Option<Instant>>,
    longest_poll: Cell<Duration>,
    /// For measurements and tests.
    pub turns: Cell<u64>,
    /// Tasks that have yielded until the next turn.
    pub yielded: RefCell<Vec<Waker>>,
    /// The last turn has left requests for this one to submit.
    has_put_off: Cell<bool>,
    /// How long to spin for reports before sleeping.
    spin: Duration,
}

/// What the executor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Run the other tasks, then take another turn.
    Again,
    /// Make a pass over its own rings.
    Pass,
}

impl Reactor {
    pub fn new(spin: Duration) -> io::Result<Self> {
        Ok(Self {
            ring: RefCell::new(Ring::new()?),
            timers: RefCell::default(),
            foreign: ForeignWakers::new()?,
            background: Background::default(),
            helper: Helper::default(),
            passes: Passes::default(),
            urgent: Urgent::default(),
            depth: Cell::new(0),
            polled: Cell::new(0),
            polled_before: Cell::new(0),
            polled_until: Cell::default(),
            longest_poll: Cell::default(),
            turns: Cell::new(0),
            yielded: RefCell::default(),
            has_put_off: Cell::new(false),
            spin,
        })
    }

    pub fn ring(&self) -> RefMut<'_, Ring> {
        self.ring.borrow_mut()
    }

    /// Takes the readiness of a descriptor, or registers the task.
    pub fn poll_ready(&self, readiness: &Rc<Readiness>, context: &Context<'_>) -> Poll<()> {
        if readiness.take() {
            return Poll::Ready(());
        }
        self.ring().watch(readiness);
        readiness.register(context);
        Poll::Pending
    }

    /// Runs after all runnable tasks: delivers what has happened, and waits if nothing has and no
    /// task has run since the last turn.
    pub fn turn(&self) -> Turn {
        let next = self.take_turn();
        self.polled_until.set((next == Turn::Again).then(Instant::now));
        next
    }

    fn take_turn(&self) -> Turn {
        self.turns.set(self.turns.get() + 1);
        let polled = self.polled.replace(0);
        if polled > 0 {
            self.polled_before.set(polled);
        }
        let now = Instant::now();
        if self.passes.take_due(now) {
            self.submit();
            // The pass may wake tasks, which are polled after the next turn.
            self.polled.set(1);
            return Turn::Pass;
        }
        if self.ring().has_deferred() {
            self.submit();
        }
        let is_busy = self.deliver(now) || polled > 0;
        if is_busy {
            self.submit_what_waits();
            self.background.grant_due(now);
        } else if self.background.is_waiting() {
            self.submit();
            self.background.grant(now);
        } else {
            self.wait(now);
            self.deliver(Instant::now());
        }
        Turn::Again
    }

    /// Counts a task as being polled until the returned guard is dropped.
    pub fn begin_task(&self) -> impl Drop + '_ {
        self.polled.set(self.polled.get() + 1);
        self.depth.set(self.depth.get() + 1);
        Inside(&self.depth)
    }

    /// Called after each poll of a task. If the tasks have run for long, checks what the device has
    /// completed, and lets urgent tasks give it more to do.
    pub fn between_tasks(&self) {
        if self.depth.get() > 0 {
            return;
        }
        let now = Instant::now();
        if let Some(begin) = self.polled_until.replace(Some(now)) {
            self.longest_poll.set(self.longest_poll.get().max(now - begin));
        }
        if self.urgent.is_due(now) {
            self.look();
            if self.run_urgent(now) {
                self.submit();
            }
            self.polled_until.set(Some(Instant::now()));
        }
    }

    /// Polls urgent tasks. An ordinary task that one of them spawns is polled inside it.
    fn run_urgent(&self, now: Instant) -> bool {
        self.depth.set(self.depth.get() + 1);
        let _inside = Inside(&self.depth);
        self.urgent.run(now)
    }

    fn look(&self) {
        self.submit();
        self.ring().deliver();
    }

    /// Wakes the tasks for which something has happened, and polls urgent ones. Returns whether
    /// there were any.
    fn deliver(&self, now: Instant) -> bool {
        let mut is_any = self.ring().deliver() > 0;
        is_any |= self.foreign.deliver(&self.ring);
        for waker in self.yielded.take() {
            waker.wake();
            is_any = true;
        }
        loop {
            let due = self.timers.borrow_mut().take_due(now);
            let Some(waker) = due else { break };
            waker.wake();
            is_any = true;
        }
        if self.run_urgent(now) {
            is_any = true;
            if self.urgent.took_long() {
                self.submit();
            }
        }
        is_any
    }

    /// Submits requests that have waited for one turn. They wait because the next turn usually
    /// finds nothing else to do, and submits them as part of its wait.
    fn submit_what_waits(&self) {
        let has_waiting = self.ring().has_unsubmitted();
        if has_waiting && self.has_put_off.get() {
            self.submit();
        } else {
            self.has_put_off.set(has_waiting);
        }
    }

    /// Submits all requests to the kernel, and has it report.
    fn submit(&self) {
        self.has_put_off.set(false);
        let ring = &mut *self.ring();
        if ring.has_unsubmitted() || ring.has_deferred() {
            ring.submit();
        }
    }

    fn wait(&self, now: Instant) {
        self.has_put_off.set(false);
        let next = self.timers.borrow().next();
        let deadline = [next, self.passes.next()].into_iter().flatten().min();
        let ring = &mut *self.ring();
        let mut now = now;
        if self.spin > Duration::ZERO {
            let until = now + self.spin;
            if Self::spin(ring, deadline.map_or(until, |deadline| until.min(deadline))) {
                return;
            }
            now = Instant::now();
        }
        ring.wait(deadline.map(|at| at.saturating_duration_since(now)));
    }

    /// Spins for reports until `until`. Returns whether there are any.
    fn spin(ring: &mut Ring, until: Instant) -> bool {
        if ring.has_unsubmitted() {
            ring.submit();
        }
        while Instant::now() < until {
            if ring.has_deferred() {
                ring.submit();
            }
            if ring.has_reports() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }
}

/// Exists while a task is being polled.
struct Inside<'a>(&'a Cell<u32>);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
