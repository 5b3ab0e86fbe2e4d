//! When a message was last acknowledged: shared by the sending threads, which write it, and the faults
//! thread, which waits for a broker to be back.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct LastAck {
    at_ns: AtomicU64,
}

impl LastAck {
    pub fn record(&self, now_ns: u64) {
        self.at_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// Time of the last acknowledgement, ns of the run; 0 before the first.
    pub fn at_ns(&self) -> u64 {
        self.at_ns.load(Ordering::Relaxed)
    }
}
