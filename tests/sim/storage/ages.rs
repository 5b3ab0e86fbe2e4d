//! Messages expire by elapsed time, independent of steps of the wall clock.

use ringmq::model::{Moment, Now, Timestamp};
use ringmq::sim::{SimDisk, run};
use ringmq::storage::StoreConfig;

use super::shard::{Shard, config};

const RETENTION_MS: u64 = 60_000;
const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;

fn expiring() -> StoreConfig {
    StoreConfig { retention_age_ms: RETENTION_MS, ..config() }
}

/// A shard whose wall clock can be set.
struct Clocked {
    shard: Shard,
    passed_ms: u64,
    wall_ahead_ms: i64,
}

impl Clocked {
    async fn open(disk: &SimDisk) -> Self {
        let shard = Shard::open(disk, expiring()).await.unwrap();
        let mut clocked = Self { shard, passed_ms: 0, wall_ahead_ms: 0 };
        clocked.maintain().await;
        clocked
    }

    fn now(&self) -> Now {
        let wall = 1_700_000_000_000 + self.passed_ms as i64 + self.wall_ahead_ms;
        Now { wall: Timestamp(wall as u64), moment: Moment(self.passed_ms) }
    }

    /// Runs maintenance. Returns the number of expired segments.
    async fn maintain(&mut self) -> usize {
        let (now, slices) = (self.now(), self.shard.slices());
        self.shard.store.maintain(now, false, slices).await.unwrap().segments_expired
    }

    /// Stores messages for three segments within `ms`, stamped with the wall clock.
    async fn send_for(&mut self, ms: u64) {
        for _ in 0..200 {
            self.passed_ms += ms / 200;
            self.shard.now.set(self.now().wall.0);
            while !self.shard.store.has_room(1000) {
                self.shard.store.commit_step().await.unwrap();
            }
            self.shard.send(0, &[1000]).unwrap();
            self.shard.commit().await;
            assert_eq!(self.maintain().await, 0, "nothing is old enough");
        }
    }
}

#[test]
fn a_jump_of_the_wall_clock_neither_deletes_nor_extends_anything() {
    for jump_ms in [TEN_YEARS_MS, 2 * RETENTION_MS as i64, -TEN_YEARS_MS] {
        run(async move {
            let disk = SimDisk::new(11);
            let mut clocked = Clocked::open(&disk).await;
            clocked.send_for(2_000).await;
            clocked.wall_ahead_ms = jump_ms;
            clocked.send_for(2_000).await;
            clocked.wall_ahead_ms = 0;
            clocked.send_for(2_000).await;
            let steps = clocked.shard.store.take_clock_steps();
            let sizes: Vec<i64> = steps.iter().map(|step| step.ms()).collect();
            assert_eq!(sizes, [jump_ms, -jump_ms]);

            clocked.passed_ms = RETENTION_MS - 1_000;
            assert_eq!(clocked.maintain().await, 0, "a minute has not passed");
            clocked.passed_ms += 10_000;
            assert!(clocked.maintain().await >= 6, "segments from before and after the clock step");
            assert!(clocked.shard.store.take_clock_steps().is_empty());
            clocked.shard.read_all(0).await.unwrap();
        });
    }
}
