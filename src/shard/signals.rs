//! Turns SIGTERM and SIGINT into messages to the thread that waits for the end of the process.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::model::ShardId;

/// The signals that have arrived. A second one exits immediately.
pub struct Signals {
    received: flume::Receiver<()>,
    has_come: Cell<bool>,
}

impl Signals {
    pub fn catch() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        let (send, received) = flume::bounded(1);
        let take = move || {
            for (nth, _signal) in signals.forever().enumerate() {
                if nth > 0 {
                    tracing::warn!("second signal: exiting immediately");
                    std::process::exit(1);
                }
                // Full: the first signal is still queued.
                let _ = send.try_send(());
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(take)?;
        Ok(Self { received, has_come: Cell::default() })
    }

    /// Waits for a signal, for a limited time. Returns whether there has been one.
    pub fn come_within(&self, time: Duration) -> bool {
        if !self.has_come.get() {
            self.has_come.set(self.received.recv_timeout(time).is_ok());
        }
        self.has_come.get()
    }

    /// Waits for a signal, or for a shard to stop unexpectedly, which is then returned.
    pub fn wait(&self, ended: &flume::Receiver<ShardId>) -> Option<ShardId> {
        flume::Selector::new().recv(&self.received, |_| None).recv(ended, Result::ok).wait()
    }
}
