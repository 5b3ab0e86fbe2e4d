//! Whether a descriptor can be read or written, as far as the kernel has reported.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Waker};

use nix::libc::{POLLERR, POLLHUP, POLLRDHUP};

/// Reports about one descriptor, for one task at a time.
///
/// The kernel reports that something has *become* ready. So a task that takes the readiness tries
/// until the kernel returns that it would block, or else states that there may be more
/// ([`restore`](Self::restore)).
pub struct Readiness {
    pub descriptor: RawFd,
    /// See poll(2).
    pub events: i16,
    is_ready: Cell<bool>,
    /// The other side has closed, or the descriptor has failed. It stays ready.
    is_final: Cell<bool>,
    /// The ring's key, while the kernel watches.
    pub watch: Cell<Option<usize>>,
    waker: Cell<Option<Waker>>,
}

impl Readiness {
    pub fn new(descriptor: RawFd, events: i16) -> Rc<Self> {
        let (is_ready, is_final, watch, waker) = Default::default();
        Rc::new(Self { descriptor, events, is_ready, is_final, watch, waker })
    }

    /// Takes the readiness if there is any.
    pub fn take(&self) -> bool {
        self.is_ready.replace(false) || self.is_final.get()
    }

    pub fn is_ready(&self) -> bool {
        self.is_ready.get() || self.is_final.get()
    }

    /// States that more may be read or written.
    pub fn restore(&self) {
        self.is_ready.set(true);
    }

    /// Has the next report wake this task, and no other.
    pub fn register(&self, context: &Context<'_>) {
        let waker = match self.waker.take() {
            Some(waker) if waker.will_wake(context.waker()) => waker,
            _ => context.waker().clone(),
        };
        self.waker.set(Some(waker));
    }

    /// Handles a report of the kernel. `result`: events, or a negative error.
    pub fn report(&self, result: i32, has_more: bool) {
        if !has_more {
            self.watch.set(None);
        }
        self.is_ready.set(true);
        // A negative result is an error of the watch: it has ended, and the next one may succeed.
        if result > 0 && result & i32::from(POLLERR | POLLHUP | POLLRDHUP) != 0 {
            self.is_final.set(true);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::POLLIN;

    use super::*;

    #[test]
    fn readiness_is_taken_once_and_the_end_stays() {
        let readiness = Readiness::new(0, POLLIN);
        readiness.watch.set(Some(1));
        assert!(!readiness.take());
        readiness.report(i32::from(POLLIN), true);
        assert!(readiness.take() && !readiness.take());
        assert_eq!(readiness.watch.get(), Some(1), "the kernel goes on watching");
        readiness.report(-12, false);
        assert!(readiness.take() && !readiness.take(), "it can be watched again");
        readiness.report(i32::from(POLLIN | POLLRDHUP), false);
        assert!(readiness.take() && readiness.take());
        assert_eq!(readiness.watch.get(), None);
    }
}
