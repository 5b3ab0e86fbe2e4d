//! Where the clock is read.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Timestamp;

/// Wall clock, for stamps and for deadlines of held pulls.
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}
