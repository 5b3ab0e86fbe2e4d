//! Old segments expire and are recycled, and their contents never reappear.

use ringmq::model::{LogOffset, QueueOffset, Timestamp};
use ringmq::sim::{Fault, On, Operation, SimDisk, run};
use ringmq::storage::disk::Disk;
use ringmq::storage::segment::FileName;
use ringmq::storage::{Lookup, ReadError, StoreConfig};

use super::shard::{Shard, config, key};

async fn send(shard: &Shard, queue: u32, sizes: &[usize]) {
    while !shard.store.has_room(sizes.iter().sum()) {
        shard.store.commit_step().await.unwrap();
    }
    shard.send(queue, sizes).unwrap();
    shard.commit().await;
}

fn bounded() -> StoreConfig {
    StoreConfig { retention_bytes: 200 << 10, ready_segments: 2, ..config() }
}

#[test]
fn the_log_stays_below_its_limit_and_recycles_its_files() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, bounded()).await.unwrap();
        send(&shard, 9, &[100, 100]).await;
        let first = shard.locate(0, 0).await;
        assert_eq!(first, Ok(Lookup::Nothing));
        let oldest = shard.locate(9, 0).await.unwrap();
        let mut expired = 0;
        for number in 0..1000 {
            send(&shard, number % 2, &[1000]).await;
            expired += shard.maintain(false).await.unwrap().segments_expired;
            let stats = shard.store.stats();
            assert!(stats.segment_count <= 5 && stats.ready_count <= 2, "{stats:?}");
        }
        assert!(expired > 10);
        assert!(disk.list().await.unwrap().len() < 20);
        for queue in 0..2 {
            let bounds = shard.store.with_index(|index| index.bounds(key(queue)));
            assert!(bounds.start > 300 && bounds.end == 500, "{bounds:?}");
            shard.read_all(queue).await.unwrap();
            let gone = shard.locate(queue, 0).await.unwrap();
            assert_eq!(gone, Lookup::Lost { next: QueueOffset(bounds.start) });
        }
        let Lookup::Here(oldest) = oldest else { panic!("it was there") };
        let gone = shard.store.read(&oldest[..1]).await.map(|_| ());
        assert_eq!(gone, Err(ReadError::Gone(oldest[0].entry_offset)));

        shard.maintain(true).await.unwrap();
        let reopened = Shard::open(&disk, bounded()).await.unwrap();
        assert_eq!(reopened.report.damaged, []);
        assert_eq!(reopened.store.begin(), shard.store.begin());
        let next = reopened.store.with_index(|index| index.next_offset(key(9)));
        assert_eq!(next, QueueOffset(2), "numbers are not reused");
    });
}

#[test]
fn messages_expire_by_age_in_whole_segments() {
    run(async {
        let disk = SimDisk::new(2);
        let config = StoreConfig { retention_age_ms: 5000, ..config() };
        let shard = Shard::open(&disk, config).await.unwrap();
        for _ in 0..200 {
            send(&shard, 0, &[1000]).await;
            shard.now.set(shard.now.get() + 10);
            assert_eq!(shard.maintain(false).await.unwrap().segments_expired, 0);
        }
        shard.maintain(true).await.unwrap();
        send(&shard, 0, &[1000]).await;
        shard.maintain(true).await.unwrap();
        // The last message of the first segment is about 600 ms newer than its first one.
        shard.now.set(1000 + 5000 + 100);
        assert_eq!(shard.maintain(false).await.unwrap().segments_expired, 0);
        shard.now.set(1000 + 5000 + 700);
        assert_eq!(shard.maintain(false).await.unwrap().segments_expired, 1);
        shard.read_all(0).await.unwrap();
    });
}

/// A recycled file holds a second segment; a restart in the middle of the second must not find the
/// first.
#[test]
fn a_recycled_file_shows_none_of_its_earlier_contents() {
    run(async {
        let disk = SimDisk::new(3);
        let shard = Shard::open(&disk, bounded()).await.unwrap();
        for step in 0..400 {
            send(&shard, 0, &[1000]).await;
            shard.maintain(false).await.unwrap();
            if step % 23 == 0 {
                let found = Shard::open(&disk.after_crash(step), bounded()).await.unwrap();
                assert_eq!(found.report.end, shard.store.end());
                assert_eq!((found.report.torn_bytes, &found.report.damaged[..]), (0, &[][..]));
                found.read_all(0).await.unwrap();
            }
        }
        assert!(shard.store.begin().0 > 0);
    });
}

/// Several segments expire in one call, and power is lost at any step of it: no gaps, no duplicates.
#[test]
fn retention_can_be_interrupted_anywhere() {
    run(async {
        let disk = SimDisk::new(7);
        let shard = Shard::open(&disk, config()).await.unwrap();
        for _ in 0..400 {
            send(&shard, 0, &[1000]).await;
            shard.maintain(false).await.unwrap();
        }
        let tight = StoreConfig { retention_bytes: 0, ..config() };
        for seed in 0..300 {
            let disk = disk.after_kill(seed);
            let shard = Shard::open(&disk, tight.clone()).await.unwrap();
            disk.lose_power_after(seed % 30);
            shard.maintain(false).await.ok();
            disk.lose_power();
            let found = Shard::open(&disk.after_crash(seed), config()).await.unwrap();
            assert_eq!(found.report.damaged, [], "seed {seed}");
            let bounds = found.store.with_index(|index| index.bounds(key(0)));
            assert_eq!(bounds.end, 400, "seed {seed}");
            found.read_all(0).await.unwrap();
        }
    });
}

/// Removing segments fails once, at each of its operations; later segments wait for the failed one.
#[test]
fn retention_can_fail_anywhere_and_leaves_no_gap() {
    run(async {
        let disk = SimDisk::new(8);
        let shard = Shard::open(&disk, config()).await.unwrap();
        for _ in 0..400 {
            send(&shard, 0, &[1000]).await;
            shard.maintain(false).await.unwrap();
        }
        let tight = StoreConfig { retention_bytes: 0, ready_segments: 2, ..config() };
        let operations = [Operation::Rename, Operation::Remove, Operation::SyncDirectory];
        for (operation, skip) in operations.into_iter().flat_map(|o| (0..4).map(move |n| (o, n))) {
            let disk = disk.after_kill(skip);
            let shard = Shard::open(&disk, tight.clone()).await.unwrap();
            disk.inject(On::nth(operation, skip), Fault::io_error());
            let failed = shard.maintain(false).await;
            assert_eq!(failed.is_err(), disk.faults_left() == 0, "{operation:?} {skip}");
            let interrupted = Shard::open(&disk.after_crash(skip), config()).await.unwrap();
            assert_eq!(interrupted.report.damaged, [], "{operation:?} {skip}");

            shard.maintain(false).await.unwrap();
            assert!(!shard.store.is_fenced() && shard.store.stats().segment_count < 3);
            let ready = shard.store.stats().ready_count;
            let found = Shard::open(&disk.after_crash(skip), tight.clone()).await.unwrap();
            assert_eq!(found.report.damaged, [], "{operation:?} {skip}");
            assert_eq!(found.store.begin(), shard.store.begin(), "{operation:?} {skip}");
            assert_eq!(found.store.stats().ready_count, ready, "{operation:?} {skip}");
        }
    });
}

#[test]
fn a_segment_without_its_index_file_expires() {
    run(async {
        let disk = SimDisk::new(9);
        let shard = Shard::open(&disk, config()).await.unwrap();
        for _ in 0..400 {
            send(&shard, 0, &[1000]).await;
            shard.maintain(false).await.unwrap();
        }
        let index = |base| FileName::Index(LogOffset(base)).to_string();
        disk.remove(&index(0)).await.unwrap();
        disk.damage(&index(65_536), 4096 + 20, &[0xFF; 8]);
        let tight = StoreConfig { retention_bytes: 0, ..config() };
        let shard = Shard::open(&disk, tight).await.unwrap();
        assert!(shard.maintain(false).await.unwrap().segments_expired > 1);
        let bounds = shard.store.with_index(|index| index.bounds(key(0)));
        assert!(bounds.start > 100, "{bounds:?}");
        shard.read_all(0).await.unwrap();
    });
}

#[test]
fn files_are_zeroed_ahead_of_need_only_while_the_log_is_idle() {
    run(async {
        let disk = SimDisk::new(4);
        let shard = Shard::open(&disk, config()).await.unwrap();
        shard.maintain(false).await.unwrap();
        send(&shard, 0, &[100]).await;
        assert_eq!(shard.maintain(false).await.unwrap().segments_made_ready, 0);
        assert_eq!(shard.maintain(false).await.unwrap().segments_made_ready, 1);
        assert_eq!(shard.maintain(false).await.unwrap().segments_made_ready, 0);
        assert_eq!(shard.store.stats().ready_count, 1);
        let reopened = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(reopened.store.stats().ready_count, 1);
    });
}

#[test]
fn the_first_message_does_not_wait_for_zeros_in_the_devices_cache() {
    const WRITES: u64 = 8;
    let large = || StoreConfig { segment_size: WRITES << 20, ..config() };
    for steps in 0..2 * WRITES {
        run(async move {
            let disk = SimDisk::new(6);
            let shard = Shard::open(&disk, large()).await.unwrap();
            shard.maintain(false).await.unwrap();
            disk.lose_power_after(steps);
            shard.maintain(false).await.ok();
            assert_eq!(disk.volatile_bytes(), 0, "after {steps} steps");
        });
    }
}

#[test]
fn a_damaged_segment_expires_but_stays_on_disk() {
    run(async {
        let disk = SimDisk::new(5);
        let shard = Shard::open(&disk, bounded()).await.unwrap();
        for _ in 0..20 {
            send(&shard, 0, &[1000]).await;
        }
        let base = ringmq::model::LogOffset(0);
        disk.damage(&FileName::Segment(base).to_string(), 5000, &[0xFF; 16]);
        let shard = Shard::open(&disk, bounded()).await.unwrap();
        assert_eq!(shard.report.damaged.len(), 1);
        for _ in 0..400 {
            send(&shard, 0, &[1000]).await;
            shard.maintain(false).await.unwrap();
        }
        assert!(shard.store.begin() > base);
        assert!(disk.contents(&FileName::Kept(base).to_string()).is_some());
    });
}

#[test]
fn an_offset_in_a_queue_is_found_by_time() {
    run(async {
        let disk = SimDisk::new(6);
        let shard = Shard::open(&disk, config()).await.unwrap();
        // Number n is stored at 1000 + 10 * n; several segments of them.
        for _ in 0..200 {
            send(&shard, 0, &[1000]).await;
            shard.now.set(shard.now.get() + 10);
            shard.maintain(false).await.unwrap();
        }
        // time, first at or after, last at or before
        let rows = [
            (0, 0, 0),
            (1000, 0, 0),
            (1001, 1, 0),
            (1610, 61, 61),
            (1615, 62, 61),
            (2990, 199, 199),
            (3000, 200, 199),
        ];
        for shard in [&shard, &Shard::open(&disk, config()).await.unwrap()] {
            for (time, lower, upper) in rows {
                for (is_upper, expected) in [(false, lower), (true, upper)] {
                    let at = Timestamp(time);
                    let found = shard.store.offset_by_time(key(0), at, is_upper).await;
                    assert_eq!(found, Ok(QueueOffset(expected)), "{time} upper {is_upper}");
                }
            }
            let unknown = shard.store.offset_by_time(key(5), Timestamp(1), false).await;
            assert_eq!(unknown, Ok(QueueOffset(0)));
        }
    });
}
