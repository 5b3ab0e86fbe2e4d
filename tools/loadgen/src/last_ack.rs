//! The time of the last acknowledgement. The sending threads write it; the fault injection thread
//! reads it to see when a broker is back.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct LastAck {
    at_ns: AtomicU64,
}

impl LastAck {
    pub fn record(&self, now_ns: u64) {
        self.at_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// Time of the last acknowledgement, ns since the start of the run; 0 before the first.
    pub fn at_ns(&self) -> u64 {
        self.at_ns.load(Ordering::Relaxed)
    }
}
