//! What a run's threads tell each other while it goes on: when something was last acknowledged.

use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by the generators, which write, and whoever waits for a broker to be back.
#[derive(Debug, Default)]
pub struct Progress {
    last_acknowledged_ns: AtomicU64,
}

impl Progress {
    pub fn acknowledged(&self, now_ns: u64) {
        self.last_acknowledged_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// Time of the last acknowledgement so far, ns of the run; 0 when there is none.
    pub fn last_acknowledged_ns(&self) -> u64 {
        self.last_acknowledged_ns.load(Ordering::Relaxed)
    }
}
