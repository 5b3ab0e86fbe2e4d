//! A channel for one value.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use openraft::rt;

/// The kind of channel, for the engine.
#[derive(Debug)]
pub enum Oneshot {}

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sender was dropped without sending")]
pub struct SenderDropped;

pub struct Sender<T>(Rc<Shared<T>>);

pub struct Receiver<T>(Rc<Shared<T>>);

struct Shared<T> {
    value: Cell<Option<T>>,
    receiver: Cell<Option<Waker>>,
    is_sender_gone: Cell<bool>,
    is_receiver_gone: Cell<bool>,
}

impl rt::Oneshot for Oneshot {
    type Sender<T> = Sender<T>;
    type Receiver<T> = Receiver<T>;
    type ReceiverError = SenderDropped;

    fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let shared = Rc::new(Shared {
            value: Cell::new(None),
            receiver: Cell::new(None),
            is_sender_gone: Cell::new(false),
            is_receiver_gone: Cell::new(false),
        });
        (Sender(shared.clone()), Receiver(shared))
    }
}

impl<T> rt::OneshotSender<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        if self.0.is_receiver_gone.get() {
            return Err(value);
        }
        self.0.value.set(Some(value));
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    /// Also runs after a value was sent, and wakes the receiver in both cases.
    fn drop(&mut self) {
        self.0.is_sender_gone.set(true);
        if let Some(receiver) = self.0.receiver.take() {
            receiver.wake();
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, SenderDropped>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(value) = self.0.value.take() {
            return Poll::Ready(Ok(value));
        }
        if self.0.is_sender_gone.get() {
            return Poll::Ready(Err(SenderDropped));
        }
        self.0.receiver.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.is_receiver_gone.set(true);
        drop((self.0.receiver.take(), self.0.value.take()));
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::{Oneshot as _, OneshotSender};

    use super::super::waiters::testing::{Polled, now};
    use super::*;

    #[test]
    fn a_value_sent_before_or_during_the_wait_arrives() {
        let (sender, receiver) = Oneshot::channel();
        sender.send(1).unwrap();
        assert_eq!(now(receiver), Ok(1));

        let (sender, receiver) = Oneshot::channel();
        let mut waiting = Polled::waiting(receiver);
        sender.send(2).unwrap();
        assert_eq!(waiting.wakes.count(), 1);
        assert_eq!(waiting.poll(), Poll::Ready(Ok(2)));
    }

    #[test]
    fn a_dropped_sender_wakes_the_receiver_with_an_error() {
        let (sender, receiver) = Oneshot::channel::<()>();
        let mut waiting = Polled::waiting(receiver);
        drop(sender);
        assert_eq!(waiting.wakes.count(), 1);
        assert_eq!(waiting.poll(), Poll::Ready(Err(SenderDropped)));
    }

    #[test]
    fn a_value_for_a_dropped_receiver_is_returned() {
        let (sender, receiver) = Oneshot::channel();
        drop(receiver);
        assert_eq!(sender.send(7), Err(7));
    }

    #[test]
    fn a_value_that_nobody_took_is_dropped_with_the_receiver() {
        let value = Rc::new(());
        let (sender, receiver) = Oneshot::channel();
        sender.send(value.clone()).unwrap();
        drop(receiver);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
