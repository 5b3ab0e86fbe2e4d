//! A thread beside a run that goes on until it is told that the run is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The thread, and what it has to tell at its end.
pub struct Background<T> {
    thread: JoinHandle<T>,
    is_over: Arc<AtomicBool>,
}

impl<T: Send + 'static> Background<T> {
    /// `run` looks at the flag it is given and returns soon after that is set.
    pub fn start(
        name: &str,
        run: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&flag))?;
        Ok(Self { thread, is_over })
    }

    /// Tells the thread, and waits for what it has to tell.
    pub fn finish(self) -> T {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a thread that panics has said why")
    }
}
