//! A bounded queue with many senders and one receiver.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use openraft::rt;
use openraft::rt::{SendError, TryRecvError};

use super::handles::Handles;
use super::waiters::Waiters;

/// The kind of channel, for the engine.
#[derive(Debug)]
pub enum Mpsc {}

pub struct Sender<T>(Rc<Shared<T>>);

/// Does not keep the channel open.
pub struct WeakSender<T>(Weak<Shared<T>>);

pub struct Receiver<T>(Rc<Shared<T>>);

struct Shared<T> {
    /// At most `capacity` messages; later senders wait.
    queue: RefCell<VecDeque<T>>,
    capacity: usize,
    senders: Handles,
    receiver: Cell<Option<Waker>>,
    is_receiver_gone: Cell<bool>,
    without_room: Waiters,
}

impl rt::Mpsc for Mpsc {
    type Sender<T> = Sender<T>;
    type Receiver<T> = Receiver<T>;
    type WeakSender<T> = WeakSender<T>;

    fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        assert!(capacity > 0, "a channel without room");
        let shared = Rc::new(Shared {
            queue: RefCell::default(),
            capacity,
            senders: Handles::new(1),
            receiver: Cell::new(None),
            is_receiver_gone: Cell::new(false),
            without_room: Waiters::default(),
        });
        (Sender(shared.clone()), Receiver(shared))
    }
}

impl<T> rt::MpscSender<Mpsc, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut unsent = Some(message);
        let is_sent = || self.0.try_send(&mut unsent);
        match self.0.without_room.wait_until(is_sent).await {
            true => Ok(()),
            false => Err(SendError(unsent.expect("a message that was not sent"))),
        }
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(Rc::downgrade(&self.0))
    }
}

impl<T> Shared<T> {
    /// Sends the message if there is room. Returns whether it was sent, or `None` if the sender
    /// must wait.
    fn try_send(&self, message: &mut Option<T>) -> Option<bool> {
        if self.is_receiver_gone.get() {
            return Some(false);
        }
        if self.queue.borrow().len() == self.capacity {
            return None;
        }
        self.queue.borrow_mut().extend(message.take());
        self.wake_receiver();
        Some(true)
    }

    fn wake_receiver(&self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.add();
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.remove() {
            self.0.wake_receiver();
        }
    }
}

impl<T> rt::MpscWeakSender<Mpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        let shared = self.0.upgrade().filter(|shared| shared.senders.count() > 0)?;
        shared.senders.add();
        Some(Sender(shared))
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> rt::MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let message = self.0.queue.borrow_mut().pop_front();
        match message {
            Some(message) => {
                self.0.without_room.wake_all();
                Ok(message)
            }
            None if self.0.senders.count() == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }
}

impl<T> Receiver<T> {
    fn poll_recv(&mut self, context: &Context<'_>) -> Poll<Option<T>> {
        match rt::MpscReceiver::try_recv(self) {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                self.0.receiver.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.is_receiver_gone.set(true);
        drop((self.0.receiver.take(), self.0.queue.take()));
        self.0.without_room.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::{Mpsc as _, MpscReceiver, MpscSender, MpscWeakSender};

    use super::super::waiters::testing::{Polled, now};
    use super::*;

    #[test]
    fn senders_beyond_the_capacity_wait_for_room() {
        let (sender, mut receiver) = Mpsc::channel(2);
        now(sender.send(1)).unwrap();
        now(sender.send(2)).unwrap();
        let mut third = Polled::waiting(sender.send(3));
        let mut fourth = Polled::waiting(sender.send(4));
        assert_eq!(now(receiver.recv()), Some(1));
        assert_eq!((third.wakes.count(), fourth.wakes.count()), (1, 1));
        assert!(third.poll().is_ready());
        assert!(fourth.poll().is_pending(), "there was room for one");
        assert_eq!(now(receiver.recv()), Some(2));
        assert!(fourth.poll().is_ready());
        drop((third, fourth));
        drop(sender);
        assert_eq!((now(receiver.recv()), now(receiver.recv())), (Some(3), Some(4)));
        assert_eq!(now(receiver.recv()), None);
    }

    #[test]
    fn a_sender_dropped_after_it_was_woken_leaves_the_room_to_the_next() {
        let (sender, mut receiver) = Mpsc::channel(1);
        now(sender.send(1)).unwrap();
        let dropped = Polled::waiting(sender.send(2));
        let mut next = Polled::waiting(sender.send(3));
        assert_eq!(now(receiver.recv()), Some(1));
        drop(dropped);
        assert_eq!(next.wakes.count(), 1);
        assert!(next.poll().is_ready());
        assert_eq!(now(receiver.recv()), Some(3));
    }

    #[test]
    fn a_waiting_sender_gets_its_message_back_when_the_receiver_is_dropped() {
        let (sender, receiver) = Mpsc::channel(1);
        now(sender.send(1)).unwrap();
        let mut waiting = Polled::waiting(sender.send(2));
        drop(receiver);
        assert_eq!(waiting.wakes.count(), 1);
        assert_eq!(waiting.poll(), Poll::Ready(Err(SendError(2))));
        assert_eq!(now(sender.send(3)), Err(SendError(3)));
    }

    #[test]
    fn queued_messages_are_dropped_with_the_receiver() {
        let message = Rc::new(());
        let (sender, receiver) = Mpsc::channel(1);
        now(sender.send(message.clone())).unwrap();
        drop(receiver);
        assert_eq!(Rc::strong_count(&message), 1);
    }

    /// A message may hold a sender of the channel that it is in.
    #[test]
    fn a_channel_that_holds_its_own_sender_can_be_dropped() {
        struct Message(#[expect(dead_code, reason = "held, not read")] Sender<Message>);
        let (sender, receiver) = Mpsc::channel(1);
        assert!(now(sender.send(Message(sender.clone()))).is_ok());
        drop(receiver);
        assert_eq!(sender.0.senders.count(), 1);
    }

    #[test]
    fn the_last_sender_closes_the_channel_after_what_it_sent() {
        let (sender, mut receiver) = Mpsc::channel(2);
        let (other, weak) = (sender.clone(), sender.downgrade());
        now(sender.send(1)).unwrap();
        drop(sender);
        assert_eq!(receiver.try_recv(), Ok(1));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        let mut waiting = Polled::waiting(receiver.recv());
        let upgraded = weak.upgrade().unwrap();
        drop(other);
        assert_eq!(waiting.wakes.count(), 0, "a sender is left");
        drop(upgraded);
        assert_eq!(waiting.wakes.count(), 1);
        assert_eq!(waiting.poll(), Poll::Ready(None));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_receive_that_is_dropped_loses_nothing() {
        let (sender, mut receiver) = Mpsc::channel(1);
        let waiting = Polled::waiting(receiver.recv());
        now(sender.send(1)).unwrap();
        drop(waiting);
        assert_eq!(now(receiver.recv()), Some(1));
    }
}
