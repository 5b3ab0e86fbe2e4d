//! Disks that fail, lose acknowledged writes, and fill up.

use ringmq::model::{LogOffset, Moment};
use ringmq::sim::{Fault, On, Operation, Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::disk::{Disk, DiskErrorKind};
use ringmq::storage::{AppendError, CommitStep, Flush, ReadError, StoreConfig};

use super::shard::{Shard, config};

#[test]
fn a_failing_write_closes_the_log_and_nothing_more_is_committed() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, config()).await.unwrap();
        shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        let committed = shard.store.committed();
        disk.inject(On::nth(Operation::Write, 0), Fault::io_error());
        shard.send(0, &[1000]).unwrap();
        let fault = shard.store.commit_step().await.unwrap_err();
        assert_eq!(shard.store.commit_step().await, Err(fault), "every committer gets the fault");
        assert_eq!(shard.send(0, &[10]), Err(AppendError::Fenced));
        assert_eq!(shard.store.committed(), committed);
        assert!(shard.store.is_fenced() && shard.store.stats().is_fenced);
        let waited = shard.store.with_room(10, || shard.send(0, &[10])).await;
        assert_eq!(waited, Err(AppendError::Fenced));
        shard.store.drained().await;
        assert_eq!(shard.maintain(true).await.unwrap().snapshot, None);
        shard.read(0, 0).await.expect("committed messages are still served");
    });
}

/// Other writes in flight succeed after one has failed; their entries are not acknowledged.
#[test]
fn writes_concurrent_with_a_failed_one_do_not_count() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut large = config();
        large.segment_size = 4 << 20;
        large.append_budget_bytes = 4 << 20;
        let shard = run(Shard::open(&disk, large)).unwrap();
        let committed = shard.store.committed();
        disk.slow(8);
        disk.inject(On::nth(Operation::Write, 0), Fault::io_error());
        let tasks = Tasks::new(seed);
        for _ in 0..3 {
            shard.send(0, &[900_000]).unwrap();
        }
        shard.spawn_committers(&tasks);
        tasks.run();
        assert_eq!(shard.store.committed(), committed, "seed {seed}");
    }
}

#[test]
pub fn a_failing_background_flush_closes_the_log() {
    run(async {
        let disk = SimDisk::new(2);
        let config = StoreConfig { flush: Flush::Async, ..config() };
        let shard = Shard::open(&disk, config).await.unwrap();
        shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        disk.inject(On::nth(Operation::Sync, 0), Fault::io_error());
        shard.now.set(2000);
        shard.maintain(false).await.unwrap_err();
        assert!(shard.store.is_fenced());
        assert_eq!(shard.send(0, &[10]), Err(AppendError::Fenced));
    });
}

/// With asynchronous flush, a power cut loses at most the last half second.
#[test]
fn background_flushes_survive_power_cuts() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let config = StoreConfig { flush: Flush::Async, ..config() };
        let shard = run(Shard::open(&disk, config.clone())).unwrap();
        let (flushed, lost) = run(async {
            for _ in 0..5 {
                shard.send(0, &[1000, 2000]).unwrap();
                shard.commit().await;
            }
            shard.now.set(2000);
            shard.maintain(false).await.unwrap();
            let flushed = shard.sent.borrow().len();
            for _ in 0..5 {
                shard.send(0, &[1000, 2000]).unwrap();
                shard.commit().await;
            }
            (flushed, shard.sent.borrow().len() - flushed)
        });
        let found = run(Shard::open(&disk.after_crash(seed), config)).unwrap();
        let count = found.sent.borrow().len();
        assert!((flushed..=flushed + lost).contains(&count), "seed {seed}: {count}");
        assert_eq!(found.report.damaged, [], "seed {seed}: unflushed messages are not damage");
    }
}

/// `flush` is called every 100 ms, sometimes late. A message that is acknowledged just after a
/// flush began is flushed by the fourth call, with time to spare.
#[test]
fn a_flush_follows_an_acknowledgement_within_400_ms() {
    for lateness in [0, 2, 50, 99] {
        let disk = SimDisk::new(4);
        let config = StoreConfig { flush: Flush::Async, ..config() };
        let shard = run(Shard::open(&disk, config.clone())).unwrap();
        run(async {
            let begin = shard.now.get() + 1000;
            shard.store.flush(Moment(begin + lateness)).await.unwrap();
            shard.send(0, &[1000]).unwrap();
            shard.commit().await;
            for look in 1..=4 {
                shard.store.flush(Moment(begin + 100 * look)).await.unwrap();
            }
        });
        for seed in 0..20 {
            let found = run(Shard::open(&disk.after_crash(seed), config.clone())).unwrap();
            assert_eq!(found.sent.borrow().len(), 1, "{lateness} ms late, seed {seed}");
        }
    }
}

/// The log is flushed while an index file is written slowly.
#[test]
fn the_flush_waits_for_no_other_background_work() {
    let disk = SimDisk::new(8);
    let config = StoreConfig { flush: Flush::Async, ..config() };
    let shard = run(Shard::open(&disk, config.clone())).unwrap();
    let tasks = Tasks::new(8);
    shard.spawn_committers(&tasks);
    let found = tasks.run_until(async {
        while shard.store.stats().segment_count < 2 {
            shard.store.with_room(3000, || shard.send(0, &[3000])).await.unwrap();
        }
        shard.store.drained().await;
        shard.maintain(true).await.unwrap();
        shard.send(0, &[1000]).unwrap();
        shard.store.drained().await;
        let on = On { operation: Operation::Create, name_start: "", skip: 0 };
        disk.inject(on, Fault::Slow(u32::MAX));
        tasks.spawn("background", async {
            shard.maintain(true).await.unwrap();
        });
        for _ in 0..100 {
            pause().await;
        }
        assert_eq!(disk.faults_left(), 0, "the snapshot is under way");
        shard.send(0, &[1000]).unwrap();
        shard.store.drained().await;
        shard.store.flush(Moment(shard.now.get() + 500)).await.unwrap();
        Shard::open(&disk.after_crash(1), config.clone()).await.unwrap()
    });
    assert_eq!(found.report.end, shard.store.end());
}

/// A snapshot during a flush must not treat the log as flushed.
#[test]
fn a_snapshot_during_a_flush_includes_nothing_that_a_power_cut_can_lose() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let config = StoreConfig { flush: Flush::Async, ..config() };
        let shard = run(Shard::open(&disk, config.clone())).unwrap();
        run(async {
            shard.send(0, &[9000]).unwrap();
            shard.commit().await;
        });
        disk.slow(20);
        disk.lose_power_after(seed % 12);
        let tasks = Tasks::new(seed);
        tasks.spawn("flush", async {
            shard.store.flush(Moment(shard.now.get() + 500)).await.ok();
        });
        tasks.run_until(async {
            shard.store.maintain(shard.now(), true, shard.slices()).await.ok();
        });
        disk.lose_power();
        let found = run(Shard::open(&disk.after_crash(seed), config)).unwrap();
        assert_eq!(found.report.damaged, [], "seed {seed}");
    }
}

/// If one kind of background work fails, the others still run.
#[test]
fn background_work_continues_after_a_part_that_fails() {
    let operations = [Operation::Space, Operation::Rename, Operation::SyncDirectory];
    for (operation, fails) in operations.into_iter().zip(["space", "rename", "sync directory"]) {
        run(async move {
            let disk = SimDisk::new(9);
            let shard = Shard::open(&disk, config()).await.unwrap();
            while shard.store.stats().segment_count < 2 {
                while !shard.store.has_room(3000) {
                    shard.store.commit_step().await.unwrap();
                }
                shard.send(0, &[3000]).unwrap();
                shard.commit().await;
            }
            disk.inject(On::nth(operation, 0), Fault::io_error());
            let failed = shard.maintain(true).await.unwrap_err();
            assert_eq!(failed.operation, fails);
            let files = disk.list().await.unwrap();
            let has = |end: &str| files.iter().any(|(name, _)| name.ends_with(end));
            assert!(has(".snapshot"), "{operation:?}: {files:?}");
            assert!(!shard.store.is_fenced());
            shard.maintain(true).await.unwrap();
        });
    }
}

/// An index file survives a power cut immediately, but the messages that it points to only after a
/// flush.
#[test]
pub fn no_index_file_is_written_before_its_segment_is_on_stable_media() {
    run(async {
        let disk = SimDisk::new(5);
        let config = StoreConfig { flush: Flush::Async, ..config() };
        let shard = Shard::open(&disk, config).await.unwrap();
        shard.maintain(false).await.unwrap();
        while shard.store.stats().segment_count < 2 {
            match shard.send(0, &[3000]) {
                Err(AppendError::NoRoom) => _ = shard.store.commit_step().await.unwrap(),
                sent => _ = sent.unwrap(),
            }
        }
        shard.commit().await;
        assert_eq!(shard.maintain(false).await.unwrap().indexes_written, 0, "not flushed yet");
        shard.now.set(shard.now.get() + 1000);
        assert_eq!(shard.maintain(false).await.unwrap().indexes_written, 1);
    });
}

#[test]
fn a_full_disk_refuses_messages_and_recovers_by_itself() {
    run(async {
        let disk = SimDisk::new(3);
        let config = StoreConfig { reserve_bytes: 100 << 10, ..config() };
        disk.limit(300 << 10);
        let shard = Shard::open(&disk, config).await.unwrap();
        let mut refusal = None;
        for _ in 0..200 {
            match shard.send(0, &[1000]) {
                Ok(_) => shard.commit().await,
                Err(AppendError::NoRoom) => _ = shard.store.commit_step().await.unwrap(),
                Err(other) => {
                    refusal = Some(other);
                    break;
                }
            }
        }
        assert_eq!(refusal, Some(AppendError::DiskFull));
        assert!(shard.store.stats().is_disk_full && !shard.store.is_fenced());
        let waited = shard.store.with_room(1000, || shard.send(0, &[1000])).await;
        assert_eq!(waited, Err(AppendError::DiskFull));
        shard.note_offsets().expect("consumers continue");
        shard.commit().await;
        shard.read_all(0).await.unwrap();

        disk.limit(1 << 20);
        shard.now.set(shard.now.get() + 2000);
        shard.maintain(false).await.unwrap();
        while shard.send(0, &[1000]) == Err(AppendError::NoRoom) {
            shard.store.commit_step().await.unwrap();
        }
        shard.commit().await;
        assert!(!shard.store.stats().is_disk_full);
    });
}

#[test]
fn below_the_reserve_messages_are_refused_before_the_disk_is_full() {
    run(async {
        let disk = SimDisk::new(4);
        let config = StoreConfig { reserve_bytes: 100 << 10, ..config() };
        let shard = Shard::open(&disk, config).await.unwrap();
        disk.limit(150 << 10);
        shard.maintain(false).await.unwrap();
        assert_eq!(shard.send(0, &[100]), Err(AppendError::DiskFull));
        shard.note_offsets().unwrap();
        disk.limit(1 << 20);
        shard.now.set(shard.now.get() + 2000);
        shard.maintain(false).await.unwrap();
        shard.send(0, &[100]).unwrap();
    });
}

/// A disk acknowledges a write but loses or misplaces it. Detectable faults are detected, and
/// wrong bytes are never served.
#[test]
fn lost_and_misdirected_writes_never_give_wrong_bytes() {
    for seed in 0..300 {
        let mut rng = Rng::from_seed(seed);
        let disk = SimDisk::new(seed);
        let fault = if rng.coin() { Fault::Lost } else { Fault::Misdirected };
        let on = On { operation: Operation::Write, name_start: "0000", skip: 2 + rng.below(20) };
        disk.inject(on, fault.clone());
        let count = run(async {
            let shard = Shard::open(&disk, config()).await.unwrap();
            for _ in 0..40 {
                let sizes = [24 + rng.index(3000), 24 + rng.index(3000)];
                while !shard.store.has_room(sizes.iter().sum()) {
                    shard.store.commit_step().await.unwrap();
                }
                shard.send(0, &sizes).unwrap();
                shard.commit().await;
            }
            shard.sent.borrow().len() as u64
        });
        run(async {
            let Ok(shard) = Shard::open(&disk, config()).await else { return };
            let mut missing = 0;
            for number in 0..count {
                match shard.locate(0, number).await {
                    Ok(ringmq::storage::Lookup::Here(found)) => {
                        match shard.store.read(&found[..1]).await {
                            Ok(chunks) => {
                                let record = super::shard::read_record(&chunks[0]);
                                assert_eq!(record.number, number, "seed {seed}");
                            }
                            Err(ReadError::Damaged(_)) => missing += 1,
                            Err(other) => panic!("seed {seed}: {other}"),
                        }
                    }
                    _ => missing += 1,
                }
            }
            let report = &shard.report;
            let is_reported = !report.damaged.is_empty() || report.torn_bytes > 0 || missing <= 2;
            assert!(is_reported, "seed {seed}, {fault:?}: {missing} missing, {report}");
        });
    }
}

#[test]
fn committers_stop_once_the_store_is_stopped_and_everything_is_written() {
    let disk = SimDisk::new(6);
    disk.slow(5);
    let shard = run(Shard::open(&disk, config())).unwrap();
    let tasks = Tasks::new(6);
    shard.spawn_committers(&tasks);
    tasks.run_until(async {
        for _ in 0..30 {
            shard.store.with_room(1500, || shard.send(0, &[1500])).await.unwrap();
            pause().await;
        }
        shard.store.stop();
        shard.store.drained().await;
    });
    tasks.run();
    assert_eq!(shard.store.committed(), shard.store.end());
    assert_eq!(run(shard.store.commit_step()), Ok(CommitStep::Stopped));
}

#[test]
fn too_large_entries_are_refused() {
    let disk = SimDisk::new(7);
    let shard = run(Shard::open(&disk, config())).unwrap();
    assert_eq!(shard.send(0, &[64 << 10]), Err(AppendError::TooLarge));
    assert_eq!(shard.store.end(), shard.store.committed());
    assert_eq!(shard.store.end(), LogOffset(0));
}

/// Running out of descriptors is not a disk fault, because they become free again: creating the next
/// segment is retried until it succeeds, and everything is committed.
#[test]
fn a_lack_of_descriptors_does_not_close_the_log() {
    run(async {
        for missing in [1, 5] {
            let disk = SimDisk::new(missing);
            let shard = Shard::open(&disk, config()).await.unwrap();
            for _ in 0..missing {
                let fault = Fault::Fails(DiskErrorKind::NoDescriptor);
                disk.inject(On { operation: Operation::Create, name_start: "", skip: 0 }, fault);
            }
            for _ in 0..40 {
                shard.send(0, &[30_000]).unwrap();
                shard.commit().await;
            }
            assert_eq!(disk.faults_left(), 0, "{missing}: no segment was made");
            assert!(!shard.store.is_fenced());
            assert_eq!(shard.read_all(0).await.unwrap(), 40);
        }
    });
}
