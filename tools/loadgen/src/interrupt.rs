//! Ctrl-C: the first stops sending and leads to a partial report, the second ends the process.

use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::findings::verdict::Verdict;
use crate::target::embedded::Handle;

/// Clones share one interrupt.
#[derive(Clone, Default)]
pub struct Interrupt {
    is_raised: Arc<AtomicBool>,
    /// Servers to kill when there is no time to stop them gracefully.
    servers: Arc<Mutex<Option<Handle>>>,
}

impl Interrupt {
    /// Handles SIGINT and SIGTERM from now on.
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

    /// The flag, for threads that poll it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.is_raised.clone()
    }

    /// On a second Ctrl-C, kills the processes that `servers` has at that time.
    pub fn take_along(&self, servers: Handle) {
        *self.servers.lock().expect("no thread panics while it holds the servers") = Some(servers);
    }

    fn give_up(&self) -> ! {
        if let Ok(servers) = self.servers.lock()
            && let Some(servers) = &*servers
        {
            servers.give_up();
        }
        process::exit(Verdict::Incomplete.exit_code().into());
    }
}
