//! Wake-ups from other threads.
//!
//! The executor notices the wake-up of a task by another thread only in a pass over its own rings. So a
//! future that another thread completes is wrapped ([`super::reachable`]): its waker writes to this
//! thread's notifier, an eventfd that the reactor watches.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, ThreadId};

use nix::libc::POLLIN;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustc_hash::FxHashMap;

use super::readiness::Readiness;
use super::ring::Ring;

/// The notifier of one thread.
struct Notifier {
    descriptor: EventFd,
    /// A wake-up was noted, and the thread has not checked it yet.
    is_notified: AtomicBool,
    /// Numbers of the futures that were woken.
    woken: Mutex<Vec<u64>>,
    thread: ThreadId,
    /// Wakes the executor, for the watchdog (`shard::nudge`).
    executor: OnceLock<Waker>,
}

impl Notifier {
    fn new() -> io::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let descriptor = EventFd::from_value_and_flags(0, flags)?;
        let (is_notified, woken, executor) = Default::default();
        let thread = thread::current().id();
        Ok(Arc::new(Self { descriptor, is_notified, woken, thread, executor }))
    }

    fn wake(&self, number: u64) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        let was_notified = self.is_notified.swap(true, Ordering::AcqRel);
        // On its own thread there is no need: the reactor checks before it sleeps.
        let is_own_thread = thread::current().id() == self.thread;
        if !was_notified && !is_own_thread {
            // Fails only if the counter is full: then it is ready already.
            self.descriptor.write(1).ok();
        }
    }

    /// `is_ready`: the descriptor may have to be read.
    fn take_woken(&self, is_ready: bool) -> Vec<u64> {
        if is_ready {
            // Fails only if there is nothing to read.
            self.descriptor.read().ok();
        }
        // Cleared before `woken` is taken: a later wake writes again.
        self.is_notified.store(false, Ordering::Release);
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The futures of one thread that other threads may wake.
pub struct ForeignWakers {
    notifier: Arc<Notifier>,
    readiness: Rc<Readiness>,
    wakers: RefCell<FxHashMap<u64, Waker>>,
    next_number: Cell<u64>,
}

impl ForeignWakers {
    pub fn new() -> io::Result<Self> {
        let notifier = Notifier::new()?;
        let readiness = Readiness::new(notifier.descriptor.as_raw_fd(), POLLIN);
        let (wakers, next_number) = Default::default();
        Ok(Self { notifier, readiness, wakers, next_number })
    }

    /// Wakes the tasks of futures that other threads have woken. Returns whether there were any.
    pub fn deliver(&self, ring: &RefCell<Ring>) -> bool {
        let is_ready = self.readiness.take();
        if !is_ready {
            ring.borrow_mut().watch(&self.readiness);
        }
        if !is_ready && !self.notifier.is_notified.load(Ordering::Acquire) {
            return false;
        }
        let woken = self.notifier.take_woken(is_ready);
        let wakers = self.wakers.borrow();
        woken.iter().filter_map(|number| wakers.get(number)).for_each(Waker::wake_by_ref);
        true
    }

    /// Keeps a waker of any task of the executor. It wakes the executor even after that task has
    /// ended.
    pub fn set_executor(&self, waker: &Waker) {
        self.notifier.executor.get_or_init(|| waker.clone());
    }

    /// Creates a waker for other threads. Returns it and its number.
    pub fn new_waker(&self, is_watchdog: bool) -> (u64, Waker) {
        let number = self.next_number.replace(self.next_number.get() + 1);
        (
            number,
            Arc::new(ForeignWaker { notifier: self.notifier.clone(), number, is_watchdog }).into(),
        )
    }

    /// Registers `task` to be woken when the waker with this number is.
    pub fn set_task(&self, number: u64, task: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        wakers.entry(number).and_modify(|kept| kept.clone_from(task)).or_insert(task.clone());
    }

    pub fn forget(&self, number: u64) {
        self.wakers.borrow_mut().remove(&number);
    }
}

/// The waker that other threads get.
struct ForeignWaker {
    notifier: Arc<Notifier>,
    number: u64,
    /// The waker also wakes the executor, in case that has parked by mistake.
    is_watchdog: bool,
}

impl ForeignWaker {
    fn notify(&self) {
        self.notifier.wake(self.number);
        if self.is_watchdog
            && let Some(executor) = self.notifier.executor.get()
        {
            executor.wake_by_ref();
        }
    }
}

impl Wake for ForeignWaker {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}
