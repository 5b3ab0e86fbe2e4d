//! Tasks that are not in the queue with all others.
//!
//! With thousands of runnable connections, a task gets its turn only after a hundred milliseconds.
//! The device would idle for that long, and everything appended meanwhile would wait for it. So the
//! tasks that keep the device busy are polled at every turn of the reactor, and every
//! [`LOOK_EVERY`] while others run.
//!
//! A few are polled first: the committers. The others, one for each connection with requests that
//! wait for room in the log, wait for the committers but not for ordinary tasks. As there can be
//! thousands, they yield after each [`SLICE`] to the first ones, and after [`RUN_MAX`] to ordinary
//! tasks, which then run for as long.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use pin_project_lite::pin_project;

use super::flag::Flag;

/// How long ordinary tasks may run before urgent ones are polled.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long urgent tasks may run, and wake each other, before ordinary ones do.
const RUN_MAX: Duration = Duration::from_millis(3);
/// How long urgent tasks that are not polled first may run before the first ones are polled again.
const SLICE: Duration = Duration::from_micros(300);

#[derive(Default)]
pub struct Urgent {
    first: Tasks,
    others: Tasks,
    /// Set when any urgent task can run.
    woken: Arc<Flag>,
    next_look: Cell<Option<Instant>>,
    /// The last run took so long that what it submits must not wait for the next turn.
    took_long: Cell<bool>,
    /// When the tasks that are not polled first yield.
    until: Rc<Cell<Option<Instant>>>,
}

#[derive(Default)]
struct Tasks {
    /// Borrowed while the tasks are polled.
    polled: RefCell<FuturesUnordered<LocalBoxFuture<'static, ()>>>,
    /// Not polled yet.
    new: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
}

impl Tasks {
    /// Polls the tasks that can run, until each has been polled or some have woken themselves.
    fn poll(&self, context: &mut Context<'_>) {
        let mut polled = self.polled.borrow_mut();
        polled.extend(self.new.take());
        while let Poll::Ready(Some(())) = polled.poll_next_unpin(context) {}
    }
}

pin_project! {
    /// A task that yields from `until` on.
    struct Bounded<F> {
        #[pin]
        future: F,
        until: Rc<Cell<Option<Instant>>>,
    }
}

impl<F: Future<Output = ()>> Future for Bounded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.until.get().is_some_and(|until| until <= Instant::now()) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.future.poll(context)
    }
}

impl Urgent {
    /// Spawns one of the few tasks that are polled first.
    pub fn spawn_first(&self, future: impl Future<Output = ()> + 'static) {
        self.first.new.borrow_mut().push(Box::pin(future));
        self.woken.set();
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let until = self.until.clone();
        self.others.new.borrow_mut().push(Box::pin(Bounded { future, until }));
        self.woken.set();
    }

    /// Whether ordinary tasks have run for long enough at `now`.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next_look.get().is_none_or(|next| next <= now)
    }

    /// Polls the urgent tasks that can run, at `now` or somewhat later. Returns whether there were
    /// any.
    pub fn run(&self, now: Instant) -> bool {
        let is_any = self.woken.is_set();
        let begin = if is_any { Instant::now() } else { now };
        self.poll_woken(begin + RUN_MAX);
        let end = if is_any { Instant::now() } else { begin };
        // Ordinary tasks get as much time.
        self.next_look.set(Some(end + LOOK_EVERY.max(end - begin)));
        self.took_long.set(end - begin >= LOOK_EVERY);
        is_any
    }

    pub fn took_long(&self) -> bool {
        self.took_long.get()
    }

    fn poll_woken(&self, until: Instant) {
        // An urgent task may have spawned a task, which is polled inside it.
        if self.first.polled.try_borrow_mut().is_err()
            || self.others.polled.try_borrow_mut().is_err()
        {
            return;
        }
        let waker = Waker::from(self.woken.clone());
        let context = &mut Context::from_waker(&waker);
        while self.woken.take() {
            self.first.poll(context);
            self.until.set(Some(Instant::now() + SLICE));
            self.others.poll(context);
            if self.woken.is_set() && Instant::now() >= until {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn only_woken_tasks_are_polled_and_new_ones_even_if_a_task_spawns_them() {
        let urgent = Rc::new(Urgent::default());
        let (polls, wakers) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let waits = {
            let (polls, wakers) = (polls.clone(), wakers.clone());
            move || {
                let (polls, wakers) = (polls.clone(), wakers.clone());
                poll_fn(move |context| {
                    polls.set(polls.get() + 1);
                    wakers.borrow_mut().push(context.waker().clone());
                    Poll::<()>::Pending
                })
            }
        };
        let now = Instant::now();
        urgent.spawn(waits());
        urgent.spawn({
            let urgent = urgent.clone();
            async move { urgent.spawn(waits()) }
        });
        assert!(urgent.run(now) && !urgent.run(now));
        assert_eq!(polls.get(), 2);
        let first: Waker = wakers.borrow()[0].clone();
        first.wake();
        assert!(urgent.run(now));
        assert_eq!(polls.get(), 3);
    }

    /// A hundred tasks together take ten milliseconds, and each wakes the one that is polled first.
    #[test]
    fn the_first_ones_do_not_wait_for_all_others_and_neither_do_ordinary_tasks() {
        let urgent = Urgent::default();
        let (first, waker) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None::<Waker>)));
        urgent.spawn_first({
            let (first, waker) = (first.clone(), waker.clone());
            poll_fn(move |context| {
                first.set(first.get() + 1);
                *waker.borrow_mut() = Some(context.waker().clone());
                Poll::<()>::Pending
            })
        });
        let done = Rc::new(Cell::new(0));
        for _ in 0..100 {
            let (done, waker) = (done.clone(), waker.clone());
            urgent.spawn(async move {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_micros(100) {}
                done.set(done.get() + 1);
                waker.borrow().as_ref().unwrap().wake_by_ref();
            });
        }
        let mut runs = 0;
        while done.get() < 100 {
            runs += 1;
            let before = done.get();
            assert!(urgent.run(Instant::now()));
            assert!(runs > 1 || urgent.took_long());
            assert!(done.get() > before && done.get() - before <= 31, "3 ms of 0.1 ms each");
        }
        assert!(runs >= 4 && first.get() >= 20, "{runs} runs, the first one {} times", first.get());
    }

    #[test]
    fn between_others_they_get_a_turn_every_millisecond() {
        let urgent = Urgent::default();
        let now = Instant::now();
        assert!(urgent.is_due(now));
        urgent.run(now);
        assert!(!urgent.is_due(now + LOOK_EVERY / 2) && urgent.is_due(now + LOOK_EVERY));
        urgent.spawn(async {});
        urgent.run(now);
        assert!(!urgent.is_due(now + LOOK_EVERY), "the time that they took does not count");
    }
}
