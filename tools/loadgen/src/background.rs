//! A background thread that runs until the end of a run.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The thread. It returns a value when it ends.
pub struct Background<T> {
    thread: JoinHandle<T>,
    is_over: Arc<AtomicBool>,
}

impl<T: Send + 'static> Background<T> {
    /// `run` must check the flag it is given, and return soon after the flag is set.
    pub fn start(
        name: &str,
        run: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&flag))?;
        Ok(Self { thread, is_over })
    }

    /// Sets the flag, waits for the thread, and returns its value.
    pub fn stop(self) -> T {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a thread that panics has said why")
    }
}
