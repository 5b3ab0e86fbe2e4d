//! Damage to index files: every message in the log is still found, and lost messages are reported as
//! lost.

use std::collections::BTreeMap;

use ringmq::model::LogOffset;
use ringmq::sim::{Fault, On, Operation, Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::disk::{BLOCK_SIZE, Disk};
use ringmq::storage::sealed::PAGE_SIZE;
use ringmq::storage::segment::FileName;
use ringmq::storage::{Lookup, StoreConfig};

use super::shard::{Shard, config, key};

/// A configuration with a cache of one index page: each new page evicts the previous one.
fn one_page() -> StoreConfig {
    StoreConfig { tail_cache_bytes: 0, index_cache_bytes: 0, ..config() }
}

async fn send(shard: &Shard, queue: u32, sizes: &[usize]) -> LogOffset {
    while !shard.store.has_room(sizes.iter().sum()) {
        shard.store.commit_step().await.unwrap();
    }
    let sent = shard.send(queue, sizes).unwrap();
    shard.commit().await;
    sent.entry_offset
}

const SEGMENT: u64 = 128 << 10;

fn many_queues_config() -> StoreConfig {
    StoreConfig { segment_size: SEGMENT, ..one_page() }
}

/// Two segments with index files, a snapshot after them, and part of the next segment. An index
/// file takes several pages, and its directory has fences.
async fn many_queues(disk: &SimDisk) -> Shard {
    let shard = Shard::open(disk, many_queues_config()).await.unwrap();
    let mut queue = 0;
    while shard.store.end().0 < 2 * SEGMENT + 10_000 {
        send(&shard, queue, &[24, 24]).await;
        queue = (queue + 1) % 300;
    }
    shard.maintain(true).await.unwrap();
    shard
}

async fn read_everything(shard: &Shard) -> u64 {
    let mut count = 0;
    for queue in 0..300 {
        count += shard.read_all(queue).await.unwrap();
    }
    count
}

#[test]
fn any_page_of_an_index_file_may_rot() {
    run(async {
        let pristine = SimDisk::new(6);
        let shard = many_queues(&pristine).await;
        let count = shard.sent.borrow().len() as u64;
        let name = FileName::Index(LogOffset(SEGMENT)).to_string();
        let size = pristine.contents(&name).unwrap().len();
        assert!(size > PAGE_SIZE, "several pages");
        for block in 0..size / BLOCK_SIZE {
            for is_readable in [true, false] {
                let disk = pristine.after_kill(1);
                let shard = Shard::open(&disk, many_queues_config()).await.unwrap();
                let at = (block * BLOCK_SIZE) as u64;
                match is_readable {
                    true => disk.damage(&name, at + 20, &[0xFF; 8]),
                    false => disk.make_unreadable(&name, at),
                }
                let what = format!("block {block}, readable: {is_readable}");
                assert_eq!(read_everything(&shard).await, count, "{what}");
                let rebuilt = shard.store.take_rebuilt();
                assert!(rebuilt.len() <= 1, "{what}: reported more than once");
                let written = shard.maintain(false).await.unwrap().indexes_written;
                assert_eq!(written, rebuilt.len(), "{what}");
                let shard = Shard::open(&disk, many_queues_config()).await.unwrap();
                assert_eq!(read_everything(&shard).await, count, "{what}, after a restart");
                assert_eq!(shard.store.take_rebuilt(), [], "{what}");
            }
        }
    });
}

#[test]
fn a_rebuilt_index_file_equals_the_original() {
    run(async {
        let disk = SimDisk::new(7);
        let shard = many_queues(&disk).await;
        let name = FileName::Index(LogOffset(SEGMENT)).to_string();
        let before = disk.contents(&name).unwrap();
        let last_block = (before.len() - BLOCK_SIZE) as u64;
        disk.damage(&name, last_block + 20, &[0xFF; 8]);
        read_everything(&shard).await;
        assert_eq!(shard.maintain(false).await.unwrap().indexes_written, 1);
        assert_eq!(disk.contents(&name).unwrap(), before, "links to older segments as well");
    });
}

#[test]
fn lookups_wait_for_an_index_that_is_being_rebuilt() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let shard = run(many_queues(&disk));
        let name = FileName::Index(LogOffset(SEGMENT)).to_string();
        run(disk.remove(&name)).unwrap();
        drop(shard);
        let shard = run(Shard::open(&disk, many_queues_config())).unwrap();
        let tasks = Tasks::new(seed);
        for reader in 0..4 {
            let shard = &shard;
            tasks.spawn(format!("reader {reader}"), async move {
                for queue in 0..300 {
                    shard.read_all((queue * 7 + reader * 75) % 300).await.unwrap();
                }
            });
        }
        tasks.run();
        assert_eq!(shard.store.take_rebuilt(), [LogOffset(SEGMENT)], "seed {seed}: once");
    }
}

/// Reads run while the file is written, and while the queues are updated one by one.
#[test]
fn sealing_does_not_disturb_lookups_or_appends() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let small_cache = StoreConfig { segment_size: 256 << 10, ..one_page() };
        let shard = run(Shard::open(&disk, small_cache)).unwrap();
        let is_done = std::cell::Cell::new(false);
        let tasks = Tasks::new(seed);
        tasks.spawn("maintenance", async {
            while !is_done.get() {
                shard.maintain(false).await.unwrap();
                pause().await;
            }
        });
        let mut rng = Rng::from_seed(seed);
        tasks.run_until(async {
            let mut queue = 0;
            while shard.store.end().0 < 800_000 {
                send(&shard, queue % 3000, &[24]).await;
                queue += 1;
                let (queue, next) = shard.store.with_index(|index| {
                    let queue = rng.below(u64::from(queue.min(3000))) as u32;
                    (queue, index.next_offset(key(queue)).0)
                });
                if rng.chance(1, 10) {
                    shard.read(queue, rng.below(next)).await.unwrap();
                }
            }
            is_done.set(true);
        });
        let queues = 0..3000;
        let read: u64 = run(async {
            let mut count = 0;
            for queue in queues {
                count += shard.read_all(queue).await.unwrap();
            }
            count
        });
        assert_eq!(read, shard.sent.borrow().len() as u64, "seed {seed}");
    }
}

/// A consumer is a hundred segments behind, with almost no cache, on a queue with messages in only some
/// of the segments.
#[test]
fn a_consumer_far_behind_reads_forward() {
    run(async {
        let disk = SimDisk::new(8);
        let tiny = StoreConfig { segment_size: 16 << 10, ..one_page() };
        let shard = Shard::open(&disk, tiny.clone()).await.unwrap();
        let mut count = 0;
        for number in 0..1000u64 {
            send(&shard, 1, &[2000]).await;
            if number % 37 == 0 || number % 40 == 3 {
                send(&shard, 0, &[100, 100]).await;
                count += 2;
            }
            shard.maintain(false).await.unwrap();
        }
        shard.maintain(true).await.unwrap();
        assert!(shard.store.stats().segment_count > 100);
        for shard in [shard, Shard::open(&disk, tiny).await.unwrap()] {
            assert_eq!(shard.read_all(0).await, Ok(count));
            assert_eq!(shard.read_all(1).await, Ok(1000));
        }
    });
}

#[test]
fn a_start_reads_no_directory_that_rows_cover() {
    run(async {
        let disk = SimDisk::new(9);
        many_queues(&disk).await;
        for base in [0, SEGMENT] {
            disk.make_unreadable(&FileName::Index(LogOffset(base)).to_string(), BLOCK_SIZE as u64);
        }
        let shard = Shard::open(&disk, many_queues_config()).await.unwrap();
        assert_eq!((shard.report.indexes_rebuilt, shard.store.take_rebuilt().len()), (0, 0));
    });
}

/// The expected log: numbers and entries of the messages of every queue.
#[derive(Default)]
struct Model {
    queues: BTreeMap<u32, Vec<(u64, LogOffset)>>,
}

struct World {
    disk: SimDisk,
    config: StoreConfig,
    rng: Rng,
    model: Model,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let config = StoreConfig {
            segment_size: *rng.pick(&[16 << 10, 32 << 10]),
            retention_bytes: *rng.pick(&[60 << 10, 200 << 10, u64::MAX]),
            index_cache_bytes: *rng.pick(&[0, 4 * PAGE_SIZE, 64 * PAGE_SIZE]),
            tail_cache_bytes: 0,
            ..config()
        };
        Self { disk: SimDisk::new(seed), config, rng, model: Model::default() }
    }

    /// Sends messages, to some queues all the time and to others rarely, with maintenance, rot and
    /// checks in between.
    async fn work(&mut self, shard: &Shard, count: usize) {
        for _ in 0..count {
            let range = *self.rng.pick(&[2, 2, 30, 400]);
            let queue = self.rng.below(range) as u32;
            let sizes: Vec<usize> =
                (0..1 + self.rng.index(3)).map(|_| 24 + self.rng.index(600)).collect();
            let first = shard.store.with_index(|index| index.next_offset(key(queue))).0;
            let entry = send(shard, queue, &sizes).await;
            let messages = self.model.queues.entry(queue).or_default();
            messages.extend((first..).take(sizes.len()).map(|number| (number, entry)));
            if self.rng.chance(1, 12) {
                self.maintain(shard).await;
            }
            if self.rng.chance(1, 20) {
                self.rot_an_index_file().await;
            }
            if self.rng.chance(1, 20) {
                self.check_one(shard).await;
            }
        }
    }

    async fn maintain(&mut self, shard: &Shard) {
        let fails = self.rng.chance(1, 6);
        if fails {
            let operations = [Operation::Rename, Operation::Remove, Operation::SyncDirectory];
            let on = On::nth(*self.rng.pick(&operations), self.rng.below(4));
            self.disk.inject(on, Fault::io_error());
        }
        let force = self.rng.chance(1, 4);
        let outcome = shard.maintain(force).await;
        assert!(fails || outcome.is_ok(), "{outcome:?}");
        // Clears a fault that has not fired: in a later segment it would close the log.
        while self.disk.faults_left() > 0 {
            self.disk.rename("none", "none").await.ok();
            self.disk.remove("none").await.ok();
            self.disk.sync_directory().await.ok();
        }
        shard.commit().await;
    }

    /// Changes bytes, makes a block unreadable, or removes the file.
    async fn rot_an_index_file(&mut self) {
        let files = self.disk.list().await.unwrap();
        let is_index = |name: &String| matches!(FileName::parse(name), Some(FileName::Index(_)));
        let mut files: Vec<_> = files.into_iter().filter(|(name, _)| is_index(name)).collect();
        files.sort();
        if files.is_empty() {
            return;
        }
        let (name, size) = self.rng.pick(&files).clone();
        let at = self.rng.below(size);
        match self.rng.below(3) {
            0 if self.disk.contents(&name).is_some() => self.disk.damage(&name, at, &[0xFF]),
            0 | 1 => self.disk.make_unreadable(&name, at - at % BLOCK_SIZE as u64),
            _ => self.disk.remove(&name).await.unwrap(),
        }
    }

    async fn check_one(&mut self, shard: &Shard) {
        let queues: Vec<u32> = self.model.queues.keys().copied().collect();
        let queue = *self.rng.pick(&queues);
        let messages = &self.model.queues[&queue];
        let (number, entry) = *self.rng.pick(messages);
        self.check_message(shard, queue, number, entry).await;
    }

    async fn check_message(&self, shard: &Shard, queue: u32, number: u64, entry: LogOffset) {
        let what = format!("queue {queue}, message {number} at {entry}, {}", shard.report);
        if entry >= shard.store.begin() {
            shard.read(queue, number).await.unwrap();
            return;
        }
        let oldest = self.oldest(shard, queue);
        // A consumer finds the oldest message, even if rot destroyed the data that a start needs to find it.
        let mut at = number;
        while at < oldest {
            match shard.locate(queue, at).await.unwrap() {
                Lookup::Lost { next } if at < next.0 && next.0 <= oldest => at = next.0,
                found => panic!("{found:?}, {oldest} is the oldest: {what}"),
            }
        }
    }

    /// Number of the oldest message that the log still has.
    fn oldest(&self, shard: &Shard, queue: u32) -> u64 {
        let messages = &self.model.queues[&queue];
        let left = messages.iter().find(|(_, entry)| *entry >= shard.store.begin());
        left.map_or(messages.len() as u64, |(number, _)| *number)
    }

    async fn check_all(&self, shard: &Shard, is_rotten: bool) {
        for (&queue, messages) in &self.model.queues {
            let bounds = shard.store.with_index(|index| index.bounds(key(queue)));
            let oldest = self.oldest(shard, queue);
            assert_eq!(bounds.end, messages.len() as u64, "queue {queue}");
            let is_exact = bounds.start == oldest || (is_rotten && bounds.start < oldest);
            assert!(is_exact, "queue {queue}: {bounds:?}, {oldest} is the oldest");
            for &(number, entry) in messages {
                self.check_message(shard, queue, number, entry).await;
            }
        }
    }
}

async fn story(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..4 {
        let shard = Shard::open(&world.disk, world.config.clone()).await.unwrap();
        world.check_all(&shard, true).await;
        let count = 50 + world.rng.index(150);
        world.work(&shard, count).await;
        world.check_all(&shard, true).await;
        world.disk = match world.rng.coin() {
            true => world.disk.after_crash(seed),
            false => world.disk.after_kill(seed),
        };
    }
}

#[test]
fn the_index_agrees_with_a_plain_map() {
    for seed in 0..60 {
        let outcome = std::panic::catch_unwind(|| run(story(seed)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// As above without rot: the oldest offsets are exact at every moment, after any crash.
#[test]
fn oldest_offsets_are_exact() {
    for seed in 0..40 {
        let outcome = std::panic::catch_unwind(|| {
            run(async move {
                let mut world = World::new(seed);
                world.config.retention_bytes = 60 << 10;
                for life in 0..4 {
                    let shard = Shard::open(&world.disk, world.config.clone()).await.unwrap();
                    world.check_all(&shard, false).await;
                    for _ in 0..10 + world.rng.index(20) {
                        let range = *world.rng.pick(&[2, 30, 400]);
                        for _ in 0..10 {
                            let queue = world.rng.below(range) as u32;
                            let next = |index: &mut ringmq::storage::Index| {
                                index.next_offset(key(queue)).0
                            };
                            let number = shard.store.with_index(next);
                            let entry = send(&shard, queue, &[300]).await;
                            let messages = world.model.queues.entry(queue).or_default();
                            messages.push((number, entry));
                        }
                        world.maintain(&shard).await;
                    }
                    world.check_all(&shard, false).await;
                    world.disk = match life % 2 {
                        0 => world.disk.after_crash(seed),
                        _ => world.disk.after_kill(seed),
                    };
                }
            });
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
