//! Tasks, and special ways to await.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::core::{Reactor, current};

/// A spawned task. Dropping this leaves it running.
#[must_use = "awaited, it returns the task's result"]
pub struct Task<T>(glommio::task::JoinHandle<T>);

/// Spawns a task and polls it once, inside the caller.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    let counted = Counted { future, reactor: current() };
    #[expect(clippy::disallowed_methods, reason = "the one place that counts tasks")]
    let task = glommio::spawn_local(counted);
    Task(task.detach())
}

/// Spawns a task, which is first polled after the caller has yielded.
pub fn spawn_later<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    spawn(async move {
        pass().await;
        future.await
    })
}

/// Spawns one of the few tasks that keep the device busy, which do not wait for others
/// ([`super::urgent`]).
pub fn spawn_first(future: impl Future<Output = ()> + 'static) {
    current().urgent.spawn_first(future);
}

/// Spawns a task that waits for tasks of [`spawn_first`] and other urgent ones, but not for
/// ordinary ones.
pub fn spawn_urgent(future: impl Future<Output = ()> + 'static) {
    current().urgent.spawn(future);
}

impl<T> Task<T> {
    /// Leaves the task running; its result is not needed.
    pub fn detach(self) {}
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let result = Pin::new(&mut self.0).poll(context);
        result.map(|result| result.expect("tasks are never cancelled"))
    }
}

pin_project! {
    /// A task that tells the reactor when it runs.
    struct Counted<F> {
        #[pin]
        future: F,
        reactor: Rc<Reactor>,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let outcome = {
            let _inside = this.reactor.begin_task();
            this.future.poll(context)
        };
        this.reactor.between_tasks();
        outcome
    }
}

/// Yields to all runnable tasks until the reactor has taken a turn. A task that woke itself instead
/// could keep the executor from making a pass.
pub async fn pass() {
    let mut has_passed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_passed, true) {
            return Poll::Ready(());
        }
        current().yielded.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Waits until the thread is idle. While it is busy, one of the waiting tasks gets its turn every
/// millisecond, or once per turn of the reactor if those take longer.
pub async fn spare_turn() {
    let turn = current().background.spare.ask();
    poll_fn(|context| turn.poll(context)).await;
}

/// Awaits what the executor itself does, such as opening a file.
pub async fn hosted<T>(future: impl Future<Output = T>) -> T {
    let request = Request::begin();
    let mut future = std::pin::pin!(future);
    poll_fn(|context| {
        let outcome = future.as_mut().poll(context);
        if outcome.is_pending() {
            request.0.passes.ask();
        }
        outcome
    })
    .await
}

/// A request to the executor, until it is dropped.
struct Request(Rc<Reactor>);

impl Request {
    fn begin() -> Self {
        let reactor = current();
        reactor.passes.begin();
        Self(reactor)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.passes.end();
    }
}
