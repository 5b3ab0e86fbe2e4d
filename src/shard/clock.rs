//! The clocks, and the timing of a shard's periodic work.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Moment, Now, ShardId, Timestamp};
use crate::reactor;

/// Wall clock, for stamps.
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}

/// The zero point of moments.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The monotonic clock, for deadlines and leases; counts from the first call, for the whole
/// process.
pub fn moment() -> Moment {
    Moment(BEGIN.elapsed().as_millis() as u64)
}

pub fn now() -> Now {
    Now { wall: wall(), moment: moment() }
}

/// Interval of a shard's periodic work: deadlines, flushes, store upkeep.
const TICK: Duration = Duration::from_millis(100);

/// Offset between the ticks of consecutive shards. Seven is coprime to a hundred, so a hundred
/// shards each have their own millisecond, and neighbours do not flush together.
const SHARD_PHASE: Duration = Duration::from_millis(7);

/// Waits for the next tick of `shard`. All waiters share the same ticks, so an idle shard wakes
/// once for all of its periodic work.
pub async fn next_tick(shard: ShardId) {
    reactor::sleep(until_tick(shard, BEGIN.elapsed())).await;
}

fn until_tick(shard: ShardId, elapsed: Duration) -> Duration {
    let phase = SHARD_PHASE * u32::from(shard.0);
    let into_tick = (elapsed + phase).as_nanos() % TICK.as_nanos();
    TICK - Duration::from_nanos(into_tick as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_has_one_tick_for_all_and_another_than_its_neighbour() {
        let tick_after = |shard, ms: u64| {
            let elapsed = Duration::from_micros(ms * 1000 + 300);
            (elapsed + until_tick(ShardId(shard), elapsed)).as_millis()
        };
        let of_first: Vec<_> = [0, 1, 50, 99].map(|ms| tick_after(0, ms)).into();
        assert_eq!(of_first, [100; 4]);
        assert_eq!(tick_after(0, 100), 200);
        assert_eq!((tick_after(1, 0), tick_after(1, 93)), (93, 193));
        assert_eq!(tick_after(15, 0), 95);
    }
}
