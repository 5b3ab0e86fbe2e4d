//! Ctrl-C: the first ends the sending and leaves a partial report, the second ends everything.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::document::Verdict;

/// A copy is the same interrupt.
#[derive(Clone, Default)]
pub struct Interrupt {
    is_raised: Arc<AtomicBool>,
    /// Process to take along when there is no time to stop it in order; 0 for none.
    child: Arc<AtomicU32>,
}

impl Interrupt {
    /// Listens to SIGINT and SIGTERM from now on.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Self::default();
        let raised = interrupt.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if raised.is_raised.swap(true, Ordering::Relaxed) {
                    raised.give_up();
                }
            }
        })?;
        Ok(interrupt)
    }

    pub fn is_raised(&self) -> bool {
        self.is_raised.load(Ordering::Relaxed)
    }

    /// The flag itself, for threads that watch it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.is_raised.clone()
    }

    pub fn take_along(&self, pid: u32) {
        self.child.store(pid, Ordering::Relaxed);
    }

    fn give_up(&self) -> ! {
        let child = self.child.load(Ordering::Relaxed);
        if child != 0 {
            let _ = kill(Pid::from_raw(child as i32), Signal::SIGTERM);
        }
        process::exit(Verdict::Invalid.exit_code().into());
    }
}
