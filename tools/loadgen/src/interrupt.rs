//! Ctrl-C: the first stops sending and leads to a partial report, the second ends the program.

use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::findings::verdict::Verdict;
use crate::target::embedded::Handle;

/// A copy is the same interrupt.
#[derive(Clone, Default)]
pub struct Interrupt {
    is_raised: Arc<AtomicBool>,
    /// Servers to take along when there is no time to stop them in order.
    servers: Arc<Mutex<Option<Handle>>>,
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

    /// Ends `servers`, whichever processes they are by then, with this program.
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
