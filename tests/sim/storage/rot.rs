//! Bit rot anywhere in a log with several lives and failed maintenance. Every message without rot is
//! readable, immediately and after every restart.

use std::ops::Range;

use ringmq::model::LogOffset;
use ringmq::sim::{Fault, On, Operation, Rng, SimDisk, run};
use ringmq::storage::disk::{BLOCK_SIZE, Disk};
use ringmq::storage::segment::FileName;
use ringmq::storage::{Lookup, OpenError, StoreConfig};

use super::shard::{Shard, config, key, read_record};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// A message and its entry.
#[derive(Clone, Debug)]
struct Placed {
    queue: u32,
    number: u64,
    entry: Range<u64>,
}

struct World {
    disk: SimDisk,
    config: StoreConfig,
    rng: Rng,
    placed: Vec<Placed>,
    /// Rotten parts of the log.
    rotten: Vec<Range<u64>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let retention_bytes = if rng.coin() { 200 << 10 } else { u64::MAX };
        let config = StoreConfig { tail_cache_bytes: 0, retention_bytes, ..config() };
        let disk = SimDisk::new(seed);
        Self { disk, config, rng, placed: Vec::new(), rotten: Vec::new() }
    }

    async fn open(&self) -> Result<Shard, OpenError> {
        Shard::open(&self.disk, self.config.clone()).await
    }

    async fn work(&mut self, shard: &Shard, count: usize) {
        for _ in 0..count {
            let queue = self.rng.below(3) as u32;
            let size_max = *self.rng.pick(&[200, 2000, 9000]);
            let sizes: Vec<usize> =
                (0..1 + self.rng.index(3)).map(|_| 24 + self.rng.index(size_max)).collect();
            while !shard.store.has_room(sizes.iter().sum()) {
                shard.store.commit_step().await.unwrap();
            }
            let first = shard.store.with_index(|index| index.next_offset(key(queue))).0;
            let sent = shard.send(queue, &sizes).unwrap();
            for number in (first..).take(sizes.len()) {
                let entry = sent.entry_offset.0..sent.end.0;
                self.placed.push(Placed { queue, number, entry });
            }
            if self.rng.chance(1, 10) {
                shard.note_offsets().ok();
            }
            if self.rng.coin() {
                shard.commit().await;
            }
            if self.rng.chance(1, 6) {
                shard.commit().await;
                self.maintain(shard).await;
            }
        }
        shard.commit().await;
    }

    /// Runs maintenance at a later time, sometimes with a failure.
    async fn maintain(&mut self, shard: &Shard) {
        shard.now.set(shard.now.get() + self.rng.below(200));
        let force = self.rng.chance(1, 8);
        if self.rng.chance(1, 3) {
            let operations = [Operation::Rename, Operation::Remove, Operation::SyncDirectory];
            let on = On::nth(*self.rng.pick(&operations), self.rng.below(4));
            self.disk.inject(on, Fault::io_error());
            shard.maintain(force).await.ok();
            // Clears a fault that has not fired: in a later segment it would close the log.
            while self.disk.faults_left() > 0 {
                self.disk.rename("none", "none").await.ok();
                self.disk.remove("none").await.ok();
                self.disk.sync_directory().await.ok();
            }
        } else {
            shard.maintain(force).await.unwrap();
        }
        shard.commit().await;
    }

    /// Changes a byte, loses a block, or makes a block unreadable.
    fn rot(&mut self, log: Range<u64>) {
        let at = log.start + self.rng.below(log.end - log.start);
        let base = at - at % self.config.segment_size;
        let name = FileName::Segment(LogOffset(base)).to_string();
        let Some(bytes) = self.disk.contents(&name) else { return };
        let (position, block) = (at - base, (at - base) / BLOCK * BLOCK);
        let rotten = match self.rng.below(3) {
            0 => {
                self.disk.damage(&name, position, &[bytes[position as usize] ^ 0x11]);
                at..at + 1
            }
            1 => {
                self.disk.damage(&name, block, &[0; BLOCK_SIZE]);
                base + block..base + block + BLOCK
            }
            _ => {
                self.disk.make_unreadable(&name, block);
                base + block..base + block + BLOCK
            }
        };
        self.rotten.push(rotten);
    }

    async fn check(&self, shard: &Shard) {
        for Placed { queue, number, entry } in &self.placed {
            let is_rotten =
                self.rotten.iter().any(|rot| rot.start < entry.end && entry.start < rot.end);
            if is_rotten || entry.end <= shard.store.begin().0 {
                continue;
            }
            let what = format!("queue {queue}, message {number} at {entry:?}, {}", shard.report);
            let Ok(Lookup::Here(found)) = shard.locate(*queue, *number).await else {
                panic!("not found: {what}")
            };
            match shard.store.read(&found).await {
                Ok(chunks) => assert_eq!(read_record(&chunks[0]).number, *number),
                Err(error) => panic!("{error}: {what}"),
            }
        }
    }
}

async fn story(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..1 + world.rng.below(3) {
        let shard = world.open().await.unwrap();
        let count = 20 + world.rng.index(60);
        world.work(&shard, count).await;
    }
    let mut shard = world.open().await.unwrap();
    world.work(&shard, 2).await;
    // After this, nothing proves that a message was acknowledged.
    let proven = world.placed[world.placed.len() - 8].entry.start.min(shard.store.committed().0);
    for _ in 0..3 {
        // A read or the next start finds it.
        world.rot(shard.store.begin().0..proven);
        if world.rng.coin() {
            world.check(&shard).await;
            world.maintain(&shard).await;
            world.check(&shard).await;
        }
        shard = match world.open().await {
            Ok(shard) => shard,
            // The log was short and none of it is left, so nothing was cut.
            Err(OpenError::Foreign { .. } | OpenError::Unreadable { .. }) => return,
            Err(other) => panic!("{other}"),
        };
        world.check(&shard).await;
        world.work(&shard, 5).await;
        world.maintain(&shard).await;
        world.check(&shard).await;
    }
}

#[test]
fn rot_costs_the_messages_it_touches_and_no_others() {
    for seed in 0..60 {
        let outcome = std::panic::catch_unwind(|| run(story(seed)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
