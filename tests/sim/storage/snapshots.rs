//! Snapshots are taken in slices while the shard keeps running.

use std::cell::Cell;

use ringmq::model::LogOffset;
use ringmq::sim::{Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::{CommitRule, Flush, StoreConfig};

use super::shard::{Shard, config};

/// Other tasks run between slices. A restart finds their appends, in the snapshot or in the log.
#[test]
fn the_shard_keeps_running_between_slices() {
    for seed in 0..200 {
        let mut rng = Rng::from_seed(seed);
        let flush = if rng.coin() { Flush::Sync } else { Flush::Async };
        let config = StoreConfig { flush, ..config() };
        let disk = SimDisk::new(seed);
        let shard = run(Shard::open(&disk, config.clone())).unwrap();
        for queue in 0..20 {
            shard.send(queue, &[100]).unwrap();
        }
        let (slices, turns) = (Cell::new(0), Cell::new(0));
        let tasks = Tasks::new(seed);
        shard.spawn_committers(&tasks);
        tasks.spawn("others", async {
            while slices.get() < 22 {
                shard.send(rng.below(20) as u32, &[100]).unwrap();
                shard.note_offsets().unwrap();
                turns.set(turns.get() + 1);
                pause().await;
            }
        });
        let first_end = Cell::new(None);
        let mut source = shard.slices();
        let taken = tasks.run_until(shard.store.maintain(shard.now(), true, || {
            first_end.set(first_end.get().or(Some(shard.store.end())));
            slices.set(slices.get() + 1);
            source()
        }));
        let point = taken.unwrap().snapshot;
        assert_eq!(point, first_end.get(), "the end of the log at the first slice");
        assert!(turns.get() > 0, "seed {seed}");
        shard.store.stop();
        tasks.run_until(shard.store.drained());
        run(shard.store.sync()).unwrap();
        let found = run(Shard::open(&disk.after_crash(seed), config)).unwrap();
        assert_eq!(found.report.snapshot, point);
        assert_eq!(found.offsets.get(), shard.offsets.get());
        for queue in 0..20 {
            let next = |shard: &Shard| {
                shard.store.with_index(|index| index.next_offset(super::shard::key(queue)))
            };
            assert_eq!(next(&found), next(&shard), "queue {queue}");
            run(found.read_all(queue)).unwrap();
        }
    }
}

/// A state that is large compared to a segment is not written for every segment.
#[test]
fn a_large_state_is_written_rarely() {
    run(async {
        let shard = Shard::open(&SimDisk::new(1), config()).await.unwrap();
        let mut taken = Vec::new();
        while shard.store.end().0 < 5 << 20 {
            while !shard.store.has_room(16 << 10) {
                shard.store.commit_step().await.unwrap();
            }
            shard.send(0, &[16 << 10]).unwrap();
            shard.commit().await;
            let mut slices = (0..8).map(|_| vec![7; 20_000]);
            let next_slice = || slices.next().unwrap_or_default();
            let done = shard.store.maintain(shard.now(), false, next_slice).await.unwrap();
            taken.extend(done.snapshot);
        }
        assert!(taken[0] <= LogOffset(2 * config().segment_size), "{taken:?}");
        let distances: Vec<u64> = taken.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        let due = 8 * 160_000;
        assert!(distances.len() >= 2, "{taken:?}");
        assert!(distances.iter().all(|&d| (due..due + (64 << 10)).contains(&d)), "{distances:?}");
    });
}

/// Uncommitted entries may still be cut off, so no snapshot may include them.
#[test]
fn a_snapshot_gets_its_name_once_all_it_includes_is_committed() {
    run(async {
        let disk = SimDisk::new(1);
        let config = StoreConfig { commit: CommitRule::Driven, ..config() };
        let shard = Shard::open(&disk, config).await.unwrap();
        let sent = shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        assert_eq!(shard.maintain(true).await.unwrap().snapshot, None);
        assert_eq!(shard.maintain(false).await.unwrap().snapshot, None);
        shard.note_offsets().unwrap();
        shard.store.commit_to(sent.end);
        assert_eq!(shard.maintain(false).await.unwrap().snapshot, Some(sent.end));
    });
}
