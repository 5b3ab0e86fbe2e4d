//! How many connections a process accepts: as many as it has descriptors for, besides those that its
//! files need. Without this limit, clients could take the descriptors that the log needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by all servers of a process, which share its descriptors.
#[derive(Clone, Debug)]
pub struct ConnectionLimit(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    max: u64,
    open: AtomicU64,
}

/// One connection that counts, until it is dropped.
#[derive(Debug)]
pub struct Counted(ConnectionLimit);

impl ConnectionLimit {
    pub fn new(max: u64) -> Self {
        Self(Arc::new(Counts { max, open: AtomicU64::new(0) }))
    }

    /// Counts one more connection. `None`: there are as many as may be.
    pub fn count(&self) -> Option<Counted> {
        let one_more = |open| (open < self.0.max).then_some(open + 1);
        let counted = self.0.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.is_ok().then(|| Counted(self.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
