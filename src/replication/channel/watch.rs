//! A value that many watch: only the newest is kept.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use openraft::rt;
use openraft::rt::watch::{RecvError, SendError};

use super::handles::Handles;
use super::waiters::Waiters;

/// The kind of channel, for the engine.
#[derive(Debug)]
pub enum Watch {}

#[derive(Debug)]
pub struct Sender<T>(Rc<Shared<T>>);

#[derive(Debug)]
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    /// Newest version that this receiver has seen.
    seen: u64,
}

#[derive(Debug)]
struct Shared<T> {
    value: RefCell<T>,
    /// Counts the changes. `seen <= version` for every receiver.
    version: Cell<u64>,
    senders: Handles,
    receivers: Handles,
    unchanged: Waiters,
}

impl rt::Watch for Watch {
    type Sender<T> = Sender<T>;
    type Receiver<T> = Receiver<T>;
    /// Sending while one of these exists is a bug and panics: none is held across an `.await`.
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(first),
            version: Cell::new(0),
            senders: Handles::new(1),
            receivers: Handles::new(0),
            unchanged: Waiters::default(),
        });
        let receiver = Receiver::new(&shared, 0);
        (Sender(shared), receiver)
    }
}

impl<T> rt::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.count() == 0 {
            return Err(SendError(value));
        }
        let _replaced = self.0.value.replace(value);
        self.0.note_change();
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let is_modified = modify(&mut self.0.value.borrow_mut());
        if is_modified {
            self.0.note_change();
        }
        is_modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver::new(&self.0, self.0.version.get())
    }
}

impl<T> Shared<T> {
    fn note_change(&self) {
        self.version.set(self.version.get() + 1);
        self.unchanged.wake_all();
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
            self.0.unchanged.wake_all();
        }
    }
}

impl<T> rt::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let (shared, seen) = (&self.shared, self.seen);
        let is_over = || match shared.version.get() {
            version if version != seen => Some(Ok(version)),
            _ if shared.senders.count() == 0 => Some(Err(RecvError(()))),
            _ => None,
        };
        self.seen = shared.unchanged.wait_until(is_over).await?;
        Ok(())
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }
}

impl<T> Receiver<T> {
    fn new(shared: &Rc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.add();
        Self { shared: shared.clone(), seen }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use openraft::rt::{Watch as _, WatchReceiver, WatchSender};

    use super::super::waiters::testing::{Polled, now};
    use super::*;

    #[test]
    fn every_receiver_sees_the_newest_value_once() {
        let (sender, mut first) = Watch::channel(0);
        let mut second = first.clone();
        let mut waiting = Polled::waiting(first.changed());
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        assert_eq!(waiting.wakes.count(), 1);
        assert_eq!(waiting.poll(), Poll::Ready(Ok(())));
        drop(waiting);
        assert_eq!(*first.borrow_watched(), 2);
        Polled::waiting(first.changed());
        assert_eq!(*second.borrow_and_update(), 2);
        Polled::waiting(second.changed());
        Polled::waiting(sender.subscribe().changed());
    }

    #[test]
    fn a_change_that_is_not_one_wakes_nobody() {
        let (sender, mut receiver) = Watch::channel(3);
        let waiting = Polled::waiting(receiver.changed());
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(waiting.wakes.count(), 0);
        assert!(sender.send_if_greater(4));
        assert_eq!(waiting.wakes.count(), 1);
    }

    #[test]
    fn the_last_sender_wakes_the_receivers_with_an_error_after_the_last_value() {
        let (sender, mut receiver) = Watch::channel(0);
        let other = sender.clone();
        let mut waiting = Polled::waiting(receiver.changed());
        drop(sender);
        assert_eq!(waiting.wakes.count(), 0, "a sender is left");
        drop(other);
        assert_eq!(waiting.wakes.count(), 1);
        assert_eq!(waiting.poll(), Poll::Ready(Err(RecvError(()))));

        let (sender, mut receiver) = Watch::channel(0);
        sender.send(1).unwrap();
        drop(sender);
        assert_eq!(now(receiver.changed()), Ok(()));
        assert_eq!(now(receiver.changed()), Err(RecvError(())));
    }

    #[test]
    fn a_value_for_no_receiver_is_returned_and_not_stored() {
        let (sender, receiver) = Watch::channel(0);
        drop(receiver);
        assert_eq!(sender.send(1), Err(SendError(1)));
        assert_eq!(*sender.borrow_watched(), 0);
        let mut late = sender.subscribe();
        sender.send(2).unwrap();
        assert_eq!(now(late.changed()), Ok(()));
    }

    /// As in a loop with a `select`: the wait is begun and dropped many times between two changes.
    #[test]
    fn waits_that_were_dropped_leave_nothing_behind() {
        let (_sender, mut receiver) = Watch::channel(0);
        for _ in 0..3 {
            Polled::waiting(receiver.changed());
        }
        assert!(receiver.shared.unchanged.is_empty());
    }
}
