//! Tasks that run in the background.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use pin_project_lite::pin_project;

use super::core::current;
use super::turns::Turn;

pin_project! {
    /// See [`background`].
    #[must_use = "it does nothing unless awaited"]
    pub struct InBackground<F> {
        #[pin]
        future: F,
        turn: Option<Rc<Turn>>,
    }
}

/// Wraps `future`, so that each of its steps is background work.
pub fn background<F: Future>(future: F) -> InBackground<F> {
    InBackground { future, turn: None }
}

impl<F: Future> Future for InBackground<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let reactor = current();
        ready!(this.turn.get_or_insert_with(|| reactor.background.turns.ask()).poll(context));
        *this.turn = None;
        let begin = Instant::now();
        let outcome = this.future.poll(context);
        let end = Instant::now();
        reactor.background.note_turn(end, end - begin);
        outcome
    }
}
