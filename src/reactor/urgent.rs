//! Tasks that are not in the queue with all others.
//!
//! With thousands of runnable connections, the turn of a task comes after a hundred milliseconds. The
//! device would idle for as long, and everything appended meanwhile would wait for it. So the tasks
//! that keep the device busy are polled at every turn of the reactor, and every [`LOOK_EVERY`] while
//! others run. These are the committers, and one for each connection with requests that wait for room in
//! the log. There can be thousands, so they stop after [`RUN_MAX`], and others then run for as long.

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

/// How long other tasks may run before urgent ones are polled.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long they may run, and wake each other, before others do.
const RUN_MAX: Duration = Duration::from_millis(3);

#[derive(Default)]
pub struct Urgent {
    /// Borrowed while they are polled.
    tasks: RefCell<FuturesUnordered<LocalBoxFuture<'static, ()>>>,
    /// Not polled yet.
    new: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    /// Whether any of them can run.
    woken: Arc<Flag>,
    next_look: Cell<Option<Instant>>,
    /// When the run that is under way is over.
    until: Rc<Cell<Option<Instant>>>,
}

pin_project! {
    /// An urgent task. It puts itself off once the run is over.
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
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.new.borrow_mut().push(Box::pin(Bounded { future, until: self.until.clone() }));
        self.woken.set();
    }

    /// Whether others have run for long enough at `now`.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next_look.get().is_none_or(|next| next <= now)
    }

    /// Polls those that can run, at `now`. Returns whether there were any.
    pub fn run(&self, now: Instant) -> bool {
        let is_any = self.poll_woken(now + RUN_MAX);
        let end = if is_any { Instant::now() } else { now };
        // Others get as much time.
        self.next_look.set(Some(end + LOOK_EVERY.max(end - now)));
        is_any
    }

    fn poll_woken(&self, until: Instant) -> bool {
        // One of them may have spawned a task, which is polled inside it.
        let Ok(mut tasks) = self.tasks.try_borrow_mut() else { return false };
        let waker = Waker::from(self.woken.clone());
        let context = &mut Context::from_waker(&waker);
        let is_any = self.woken.is_set();
        self.until.set(Some(until));
        while self.woken.take() {
            tasks.extend(self.new.take());
            while let Poll::Ready(Some(())) = tasks.poll_next_unpin(context) {}
            if self.woken.is_set() && Instant::now() >= until {
                break;
            }
        }
        is_any
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
