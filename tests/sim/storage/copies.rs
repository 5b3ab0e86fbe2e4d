//! A log is replaced by a copy of another replica's log, because that one no longer has the entries
//! that are missing here.

use std::cell::Cell;

use ringmq::model::LogOffset;
use ringmq::sim::copies::{Sendable, entries_from};
use ringmq::sim::{Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::disk::{BLOCK_SIZE, DiskErrorKind};
use ringmq::storage::segment::FileName;
use ringmq::storage::{
    CommitRule, CopyPart, CopyReadError, CopySource, LogCopy, OpenError, StagingError, StoreConfig,
};

use super::shard::{SEED, Shard, config, key};

const QUEUES: u32 = 3;
/// Bytes of a file that are sent at a time.
const PIECE: usize = 2 * BLOCK_SIZE;

fn driven() -> StoreConfig {
    StoreConfig { commit: CommitRule::Driven, retention_bytes: 256 << 10, ..config() }
}

/// Appends entries, commits them, and has snapshots taken and old segments deleted.
async fn grow(shard: &Shard, count: usize, rng: &mut Rng) {
    for _ in 0..count {
        let size = if rng.chance(1, 8) { 20_000 } else { 24 + rng.index(3000) };
        while shard.send(rng.below(u64::from(QUEUES)) as u32, &[size]).is_err() {
            shard.store.commit_step().await.unwrap();
        }
        if rng.chance(1, 5) {
            while shard.note_offsets().is_err() {
                shard.store.commit_step().await.unwrap();
            }
        }
        if rng.chance(1, 6) {
            commit(shard).await;
            shard.maintain(rng.chance(1, 3)).await.unwrap();
        }
    }
    commit(shard).await;
}

async fn commit(shard: &Shard) {
    shard.commit().await;
    shard.store.commit_to(shard.store.end());
}

/// The log that is sent, and what the receiver has beforehand: an earlier part of it with an
/// uncommitted tail of its own, or nothing.
struct Pair {
    source: Shard,
    target_disk: SimDisk,
    rng: Rng,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let (source_disk, mut target_disk) = (SimDisk::new(seed), SimDisk::new(seed + 1));
        let source = run(async {
            let source = Shard::open(&source_disk, driven()).await.unwrap();
            if rng.chance(2, 3) {
                let count = 10 + rng.index(60);
                grow(&source, count, &mut rng).await;
                target_disk = source_disk.after_kill(seed);
                let target = Shard::open(&target_disk, driven()).await.unwrap();
                for _ in 0..rng.index(4) {
                    while target.send(0, &[500]).is_err() {
                        target.store.commit_step().await.unwrap();
                    }
                }
                target.commit().await;
            }
            let end = source.store.end();
            while source.store.begin() <= end || source.store.stats().segment_count < 4 {
                grow(&source, 30, &mut rng).await;
                source.maintain(true).await.unwrap();
            }
            let count = rng.index(20);
            grow(&source, count, &mut rng).await;
            source
        });
        Self { source, target_disk, rng }
    }

    fn entries(&self) -> Vec<Sendable> {
        entries_from(self.source_disk(), self.source.store.begin(), SEED)
    }

    fn source_disk(&self) -> &SimDisk {
        self.source.disk()
    }
}

async fn begin(source: &Shard) -> CopySource<SimDisk> {
    let snapshot = source.store.newest_snapshot().unwrap();
    source.store.begin_copy(snapshot, source.store.committed()).await.unwrap()
}

/// Receives all files that are missing. Returns how many.
async fn receive(sending: &mut CopySource<SimDisk>, target: &Shard) -> Result<usize, StagingError> {
    let staging = target.store.staging();
    let missing = staging.begin(sending.copy()).await?;
    for file in &missing {
        let number = sending.copy().files.iter().position(|other| other == file).unwrap();
        let mut arriving = staging.receive(*file).await?;
        while arriving.position() < file.size {
            let bytes = sending.read(number, arriving.position(), PIECE).await.unwrap();
            arriving.write(&bytes).await?;
        }
        arriving.complete().await?;
    }
    Ok(missing.len())
}

fn bounds(shard: &Shard) -> Vec<std::ops::Range<u64>> {
    (0..QUEUES).map(|queue| shard.store.with_index(|index| index.bounds(key(queue)))).collect()
}

/// Checks that `target` is a whole copy that ends at `copy.end`.
async fn check(target: &Shard, disk: &SimDisk, copy: &LogCopy, expected: &[Sendable], why: &str) {
    let first = copy.files.iter().find(|file| file.part == CopyPart::Segment).unwrap();
    assert_eq!((target.store.begin(), target.store.end()), (first.place, copy.end), "{why}");
    let found = entries_from(disk, first.place, SEED);
    let (found, expected) = (found.iter(), expected.iter().filter(|entry| entry.at >= first.place));
    let is_same = |(a, b): (&Sendable, &Sendable)| a == b;
    assert!(found.clone().count() == expected.clone().count(), "{why}");
    assert!(found.zip(expected).all(is_same), "{why}");
    target.store.commit_to(copy.end);
    for queue in 0..QUEUES {
        target.read_all(queue).await.unwrap();
    }
}

#[test]
fn a_copy_replaces_the_log_of_a_running_store() {
    for seed in 0..60 {
        let mut pair = Pair::new(seed);
        let expected = pair.entries();
        run(async {
            let target = Shard::open(&pair.target_disk, driven()).await.unwrap();
            let mut sending = begin(&pair.source).await;
            receive(&mut sending, &target).await.unwrap();
            let copy = sending.copy().clone();
            let report = target.take_over(&copy).await.unwrap();
            assert_eq!((report.damaged, report.torn_bytes), (vec![], 0), "seed {seed}");
            check(&target, &pair.target_disk, &copy, &expected, &format!("seed {seed}")).await;
            assert_eq!(target.store.committed(), copy.end);
            assert_eq!(bounds(&target), bounds(&pair.source), "seed {seed}");
            assert_eq!(target.offsets.get(), pair.source.offsets.get());
            assert!(!target.store.staging().has_any().await.unwrap());
            // The target continues, and so does a restart.
            grow(&target, 30, &mut pair.rng).await;
            target.maintain(true).await.unwrap();
            let again = pair.target_disk.after_kill(seed);
            let again = Shard::open(&again, driven()).await.unwrap();
            assert_eq!((again.store.end(), bounds(&again)), (target.store.end(), bounds(&target)));
            assert_eq!(again.report.damaged, []);
        });
    }
}

/// Power is lost at every step, and one copy of the list of files may rot. A start finds the old log
/// or the whole copy; nothing that arrived completely is sent again.
#[test]
fn an_interrupted_copy_leaves_the_old_log_or_the_new_one() {
    let (mut old, mut new, mut kept, mut rotten) = (0, 0, 0, 0);
    for seed in 0..12 {
        let pair = Pair::new(seed);
        let expected = pair.entries();
        let mut rng = Rng::from_seed(seed);
        let before = run(async {
            let disk = pair.target_disk.after_kill(1);
            let target = Shard::open(&disk, driven()).await.unwrap();
            (target.store.begin(), target.store.end(), bounds(&target))
        });
        let mut steps = 0;
        loop {
            let disk = pair.target_disk.after_kill(steps);
            let mut sending = run(begin(&pair.source));
            let copy = sending.copy().clone();
            let target = run(Shard::open(&disk, driven())).unwrap();
            disk.slow(rng.below(3) as u32);
            disk.lose_power_after(steps);
            let is_done = run(async {
                let arrived = receive(&mut sending, &target).await.is_ok();
                arrived && target.take_over(&copy).await.is_ok()
            });
            disk.lose_power_after(u64::MAX);
            let restarted = match rng.coin() {
                true => disk.after_crash(rng.next_u64()),
                false => disk.after_kill(rng.next_u64()),
            };
            let why = format!("seed {seed}, step {steps}");
            rotten += usize::from(damage_list(&restarted, &mut rng, &why));
            run(async {
                let found = Shard::open(&restarted, driven()).await.expect(&why);
                assert_eq!(found.report.damaged, [], "{why}");
                let is_old = (found.store.begin(), found.store.end(), bounds(&found)) == before;
                if is_old {
                    assert!(!is_done, "{why}: a takeover that has returned is durable");
                    old += 1;
                    let sent = receive(&mut sending, &found).await.unwrap();
                    kept += copy.files.len() - sent;
                    found.take_over(&copy).await.unwrap();
                } else {
                    new += 1;
                }
                check(&found, &restarted, &copy, &expected, &why).await;
            });
            if is_done {
                break;
            }
            steps += 1 + rng.below(7);
        }
    }
    assert!(old > 100 && new > 30 && kept > 100 && rotten > 20, "{old} {new} {kept} {rotten}");
}

/// Damages one half of the list of files of a copy that is replacing the log, or leaves only one, as
/// older versions wrote it. Returns false if there is no list. Without an intact half, the log does
/// not open.
fn damage_list(disk: &SimDisk, rng: &mut Rng, why: &str) -> bool {
    let name = FileName::CopyTaken.to_string();
    let Some(list) = disk.contents(&name) else { return false };
    let half = list.len() as u64 / 2;
    let rot = |disk: &SimDisk, nth: u64| disk.damage(&name, nth * half, &[0xEE; 40]);
    let lost = disk.after_kill(1);
    rot(&lost, 0);
    rot(&lost, 1);
    let refused = run(Shard::open(&lost, driven())).err();
    assert!(matches!(refused, Some(OpenError::TakeoverDamaged)), "{why}: {refused:?}");
    match rng.below(3) {
        2 => disk.resize(&name, half),
        nth => rot(disk, nth),
    }
    true
}

#[test]
fn what_is_damaged_is_not_taken() {
    let pair = Pair::new(3);
    let copy = run(begin(&pair.source)).copy().clone();
    let mut refused = 0;
    for (number, file) in copy.files.iter().enumerate() {
        let target = run(Shard::open(&SimDisk::new(9), driven())).unwrap();
        run(async {
            let mut sending = begin(&pair.source).await;
            let staging = target.store.staging();
            staging.begin(&copy).await.unwrap();
            for at in (0..file.size).step_by(1 + file.size as usize / 8) {
                let mut arriving = staging.receive(*file).await.unwrap();
                let mut outcome = Ok(());
                while outcome.is_ok() && arriving.position() < file.size {
                    let position = arriving.position();
                    let mut bytes = sending.read(number, position, PIECE).await.unwrap();
                    if (position..position + bytes.len() as u64).contains(&at) {
                        bytes[(at - position) as usize] ^= 4;
                    }
                    outcome = arriving.write(&bytes).await;
                }
                let outcome = match outcome {
                    Ok(()) => arriving.complete().await,
                    outcome => outcome,
                };
                refused += usize::from(outcome.is_err());
                let is_filled = file.part == CopyPart::Segment || file.part == CopyPart::Snapshot;
                assert!(outcome.is_err() || is_filled, "{file:?} at {at}");
            }
            // A file that is too short.
            let short = staging.receive(*file).await.unwrap();
            let damaged = matches!(short.complete().await, Err(StagingError::Damaged { .. }));
            assert!(damaged, "{file:?}");
        });
    }
    // Bytes that fillers cover, and the end of the snapshot's last block, may have any content.
    assert!(refused > 6 * copy.files.len(), "{refused}");
}

#[test]
fn retention_waits_for_a_copy_unless_the_disk_is_full() {
    let mut pair = Pair::new(5);
    run(async {
        let source = &pair.source;
        let begin_at = source.store.begin();
        let mut sending = begin(source).await;
        for _ in 0..4 {
            grow(source, 40, &mut pair.rng).await;
            source.maintain(true).await.unwrap();
        }
        assert_eq!(source.store.begin(), begin_at, "it is being sent");
        let files = sending.copy().files.clone();
        let is_segment = |number: &usize| files[*number].part == CopyPart::Segment;
        let segments: Vec<usize> = (0..files.len()).filter(is_segment).collect();
        let mut position = 0;
        while position < files[segments[0]].size {
            position += sending.read(segments[0], position, PIECE).await.unwrap().len() as u64;
        }
        source.maintain(true).await.unwrap();
        assert_eq!(source.store.begin(), files[segments[1]].place, "that much has been sent");
        let second = sending.read(segments[1], 0, PIECE).await;
        assert!(second.is_ok(), "{second:?}");
        let capacity = 4 << 20;
        source.disk().limit(capacity);
        drop(sending);
        source.maintain(true).await.unwrap();
        assert!(source.store.begin() > files[segments[1]].place, "nothing is sent any more");
    });
}

#[test]
fn a_copy_whose_segments_were_deleted_ends_with_an_error() {
    let mut pair = Pair::new(6);
    run(async {
        let source = &pair.source;
        let mut sending = begin(source).await;
        // As after the longest time for which a copy may hold back retention.
        drop(begin(source).await);
        let files = sending.copy().files.clone();
        let first = files.iter().position(|file| file.part == CopyPart::Segment).unwrap();
        sending.release();
        for _ in 0..4 {
            grow(source, 40, &mut pair.rng).await;
            source.maintain(true).await.unwrap();
        }
        let read = sending.read(first, 0, PIECE).await;
        assert!(matches!(read, Err(CopyReadError::Gone(_))), "{read:?}");
    });
}

#[test]
fn a_full_disk_refuses_a_copy_and_keeps_the_log() {
    let pair = Pair::new(8);
    run(async {
        let target = Shard::open(&pair.target_disk, driven()).await.unwrap();
        let before = (target.store.end(), bounds(&target));
        pair.target_disk.limit(512 << 10);
        let outcome = receive(&mut begin(&pair.source).await, &target).await;
        let Err(StagingError::Disk(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind, DiskErrorKind::NoSpace);
        assert_eq!((target.store.end(), bounds(&target)), before);
        assert!(!target.store.is_fenced());
        target.store.staging().discard().await.unwrap();
        let names = pair.target_disk.contents(&FileName::CopyList.to_string());
        assert_eq!(names, None);
    });
}

/// Reads, maintenance, flushes and waits continue during a takeover or end with it.
#[test]
fn everything_else_goes_on_during_a_takeover() {
    for seed in 0..40 {
        let pair = Pair::new(seed);
        let target = run(Shard::open(&pair.target_disk, driven())).unwrap();
        let mut sending = run(begin(&pair.source));
        run(receive(&mut sending, &target)).unwrap();
        let copy = sending.copy().clone();
        let disk = &pair.target_disk;
        disk.slow(3);
        let old = entries_from(disk, target.store.begin(), SEED);
        let (is_over, told) = (Cell::new(false), Cell::new(None));
        let tasks = Tasks::new(seed);
        target.spawn_committers(&tasks);
        if target.store.end() > target.store.committed() {
            let reached = target.store.reached(target.store.end());
            tasks.spawn("waits", async { told.set(Some(reached.await)) });
        }
        target.spawn_others(&tasks, &old, &is_over);
        let has_tail = target.store.end() > target.store.committed();
        tasks.run_until(async {
            target.take_over(&copy).await.unwrap();
            for _ in 0..20 {
                pause().await;
            }
            is_over.set(true);
            while tasks.blocked().iter().any(|name| !name.starts_with("committer")) {
                pause().await;
            }
        });
        assert_eq!(told.get(), has_tail.then_some(false), "what was not committed is gone");
        assert_eq!(target.store.committed(), copy.end);
        assert!(target.store.begin() > LogOffset(0));
    }
}
