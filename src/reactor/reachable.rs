//! Futures that other threads complete.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use super::core::{Reactor, current};

pin_project! {
    /// See [`reachable`].
    #[must_use = "it does nothing unless awaited"]
    pub struct Reachable<F> {
        #[pin]
        future: F,
        registered: Registered,
    }
}

/// The place of a future among those that may be woken.
#[derive(Default)]
struct Registered {
    is_watchdog: bool,
    place: Option<(Rc<Reactor>, u64, Waker)>,
}

/// Wraps `future`, so that another thread may complete it.
pub fn reachable<F: Future>(future: F) -> Reachable<F> {
    Reachable { future, registered: Registered::default() }
}

/// The same for a thread that watches this one: its wake-ups reach the executor even if that has
/// parked by mistake. They must be few, because the executor counts unseen ones in 15 bits.
pub fn reachable_by_watchdog<F: Future>(future: F) -> Reachable<F> {
    Reachable { future, registered: Registered { is_watchdog: true, place: None } }
}

impl Registered {
    /// Keeps the task's waker; returns the one for other threads.
    fn renew(&mut self, task: &Waker) -> &Waker {
        let (reactor, number, foreign) = self.place.get_or_insert_with(|| {
            let reactor = current();
            let (number, waker) = reactor.foreign.new_waker(self.is_watchdog);
            (reactor, number, waker)
        });
        reactor.foreign.set_task(*number, task);
        foreign
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some((reactor, number, _)) = &self.place {
            reactor.foreign.forget(*number);
        }
    }
}

impl<F: Future> Future for Reachable<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let foreign = this.registered.renew(context.waker());
        this.future.poll(&mut Context::from_waker(foreign))
    }
}
