//! The time of the last acknowledgement of each broker. The sending threads write it; the fault
//! injection thread reads it to see when a broker is back, and for how long it acknowledged nothing.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct LastAck {
    /// By broker, ns since the start of the run; 0 before the first.
    at_ns: Vec<AtomicU64>,
}

impl LastAck {
    pub fn of_brokers(count: usize) -> Self {
        Self { at_ns: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn record(&self, broker: usize, now_ns: u64) {
        if let Some(at_ns) = self.at_ns.get(broker) {
            at_ns.fetch_max(now_ns, Ordering::Relaxed);
        }
    }

    /// Of all brokers.
    pub fn at_ns(&self) -> u64 {
        self.by_broker().max().unwrap_or(0)
    }

    pub fn by_broker(&self) -> impl Iterator<Item = u64> + '_ {
        self.at_ns.iter().map(|at_ns| at_ns.load(Ordering::Relaxed))
    }
}
