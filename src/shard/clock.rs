//! Where the clocks are read, and how a shard's regular work is timed.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Moment, Now, Timestamp};

/// Wall clock, for stamps.
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}

/// For deadlines and leases; counts from when it was first read, the same for the whole process.
pub fn moment() -> Moment {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Moment(BEGIN.elapsed().as_millis() as u64)
}

pub fn both() -> Now {
    Now { wall: now(), moment: moment() }
}

/// How often a shard looks at deadlines, at what is to be flushed, and at its store.
const TICK: Duration = Duration::from_millis(100);

/// Waits for the next tick. Ticks are at the same moments for whoever waits, so an idle shard wakes
/// once for all of its regular work.
pub async fn next_tick() {
    let tick_ms = TICK.as_millis() as u64;
    let Moment(now_ms) = moment();
    glommio::timer::sleep(Duration::from_millis(tick_ms - now_ms % tick_ms)).await;
}
