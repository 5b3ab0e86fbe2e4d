//! Tasks that run in the background.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;

use super::background::Turn;
use super::core::current;

pin_project! {
    /// See [`background`].
    #[must_use = "it does nothing unless awaited"]
    pub struct InBackground<F> {
        #[pin]
        future: F,
        turn: Rc<Turn>,
        is_waiting: bool,
    }
}

/// Makes each step of `future` background work.
pub fn background<F: Future>(future: F) -> InBackground<F> {
    InBackground { future, turn: Rc::default(), is_waiting: false }
}

impl<F: Future> Future for InBackground<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let reactor = current();
        if this.turn.take(context) {
            *this.is_waiting = false;
            let begin = Instant::now();
            let outcome = this.future.poll(context);
            let end = Instant::now();
            reactor.background.note_turn(end, end - begin);
            return outcome;
        }
        if !std::mem::replace(this.is_waiting, true) {
            reactor.background.ask(this.turn.clone());
        }
        Poll::Pending
    }
}
