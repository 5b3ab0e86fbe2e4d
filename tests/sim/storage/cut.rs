//! Cuts off the end of a running log.

use std::cell::Cell;

use ringmq::model::LogOffset;
use ringmq::sim::copies::{Sendable, entries_on};
use ringmq::sim::{Fault, On, Operation, Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::disk::BLOCK_SIZE;
use ringmq::storage::segment::FileName;
use ringmq::storage::{CommitRule, CutError, StoreConfig};

use super::shard::{SEED, Shard, config, key};

const QUEUES: u32 = 3;

fn driven() -> StoreConfig {
    StoreConfig { commit: CommitRule::Driven, retention_bytes: 256 << 10, ..config() }
}

/// A shard with several segments, snapshots and index files, and an uncommitted tail of up to
/// `tail` entries, all written.
async fn grown(shard: &Shard, tail: usize, rng: &mut Rng) {
    let (body, tail) = (20 + rng.index(60), 1 + rng.index(tail));
    for nth in 0..body + tail {
        let size = if rng.chance(1, 8) { 20_000 } else { 24 + rng.index(3000) };
        while shard.send(rng.below(u64::from(QUEUES)) as u32, &[size]).is_err() {
            shard.store.commit_step().await.unwrap();
        }
        if rng.chance(1, 5) {
            while shard.note_offsets().is_err() {
                shard.store.commit_step().await.unwrap();
            }
        }
        if rng.chance(1, 3) {
            shard.commit().await;
        }
        if nth < body && rng.chance(1, 10) {
            shard.commit().await;
            shard.store.commit_to(shard.store.end());
            shard.maintain(rng.coin()).await.unwrap();
        }
    }
    shard.commit().await;
    if rng.coin() {
        // Writes a proof that the tail is on stable media.
        shard.maintain(false).await.unwrap();
    }
}

/// The entries on disk from the oldest segment on.
fn entries(disk: &SimDisk, shard: &Shard) -> Vec<Sendable> {
    let mut entries = entries_on(disk, SEED);
    if shard.store.begin() > LogOffset(0) {
        entries = entries_from(disk, shard.store.begin());
    }
    entries
}

fn entries_from(disk: &SimDisk, begin: LogOffset) -> Vec<Sendable> {
    ringmq::sim::copies::entries_from(disk, begin, SEED)
}

/// Chooses a random ordinal after the committed watermark to cut to. Returns it and its offset.
fn choose(shard: &Shard, entries: &[Sendable], rng: &mut Rng) -> (u64, LogOffset) {
    let committed = shard.store.driven_to();
    let first = entries.partition_point(|entry| entry.end <= committed);
    let last = entries.len();
    let kept = first + rng.index(last - first + 1);
    match kept.checked_sub(1) {
        Some(newest) => (entries[newest].ordinal, entries[newest].end),
        None => (shard.store.newest_ordinal() - last as u64, shard.store.begin()),
    }
}

fn bounds(shard: &Shard) -> Vec<std::ops::Range<u64>> {
    (0..QUEUES).map(|queue| shard.store.with_index(|index| index.bounds(key(queue)))).collect()
}

/// The bounds of the queues, computed from the log alone.
async fn expected_bounds(disk: &SimDisk, rng: &mut Rng) -> (Vec<std::ops::Range<u64>>, u64) {
    let found = Shard::open(&disk.after_kill(rng.next_u64()), driven()).await.unwrap();
    (bounds(&found), found.offsets.get())
}

#[test]
fn cut_entries_are_gone_and_the_log_continues() {
    let (mut cut_somewhere, mut segments_given_up) = (0, 0);
    for seed in 0..150 {
        let (disk, mut rng) = (SimDisk::new(seed), Rng::from_seed(seed));
        run(async {
            let shard = Shard::open(&disk, driven()).await.unwrap();
            for _ in 0..3 {
                shard.store.begin_epoch(shard.store.epoch() + rng.below(2) as u32).unwrap();
                grown(&shard, 60, &mut rng).await;
                let before = entries(&disk, &shard);
                let (ordinal, end) = choose(&shard, &before, &mut rng);
                let segments = shard.store.stats().segment_count;
                let report = shard.cut_to(ordinal).await.unwrap();
                assert_eq!((report.end, shard.store.end()), (end, end), "seed {seed}");
                assert_eq!(shard.store.newest_ordinal(), ordinal);
                assert_eq!(report.damaged, []);
                let kept = before.partition_point(|entry| entry.end <= end);
                assert!(entries(&disk, &shard)[..] == before[..kept], "seed {seed}");
                cut_somewhere += usize::from(kept < before.len());
                segments_given_up += segments - shard.store.stats().segment_count;
                let (expected, offsets) = expected_bounds(&disk, &mut rng).await;
                assert_eq!((bounds(&shard), shard.offsets.get()), (expected, offsets));
                shard.store.commit_to(end);
                for queue in 0..QUEUES {
                    shard.read_all(queue).await.unwrap();
                }
            }
            let again = Shard::open(&disk, driven()).await.unwrap();
            assert_eq!((again.report.torn_bytes, again.report.tail_kept), (0, None));
            assert_eq!(bounds(&again), bounds(&shard));
        });
    }
    assert!(cut_somewhere > 300 && segments_given_up > 100, "{cut_somewhere} {segments_given_up}");
}

/// Power is lost at every step of a cut. After a restart the log ends at or after the cut, and what was
/// cut never reappears, whatever is appended next.
#[test]
fn an_interrupted_cut_leaves_a_prefix() {
    let (mut whole, mut shorter) = (0, 0);
    for seed in 0..16 {
        let mut steps = 0;
        loop {
            let (disk, mut rng) = (SimDisk::new(seed), Rng::from_seed(seed));
            let shard = run(Shard::open(&disk, driven())).unwrap();
            run(grown(&shard, 40, &mut rng));
            let before = entries(&disk, &shard);
            let (ordinal, end) = choose(&shard, &before, &mut rng);
            disk.slow(rng.below(3) as u32);
            disk.lose_power_after(steps);
            let is_done = run(shard.cut_to(ordinal)).is_ok();
            disk.lose_power_after(u64::MAX);
            let restarted = match rng.coin() {
                true => disk.after_crash(rng.next_u64()),
                false => disk.after_kill(rng.next_u64()),
            };
            let found = run(Shard::open(&restarted, driven())).unwrap();
            assert_eq!(found.report.damaged, [], "seed {seed}, step {steps}");
            let after = entries(&restarted, &found);
            let kept = before.partition_point(|entry| entry.end <= found.report.end);
            assert!(after[..] == before[..kept], "seed {seed}, step {steps}");
            assert!(found.report.end >= end, "seed {seed}, step {steps}");
            assert!(!is_done || found.report.end == end, "a cut that has returned is durable");
            (whole, shorter) = match kept == before.len() {
                true => (whole + 1, shorter),
                false => (whole, shorter + 1),
            };
            go_on_with(&found, &restarted, &after, &mut rng);
            if is_done {
                break;
            }
            steps += 1 + rng.below(3);
        }
    }
    assert!(whole > 50 && shorter > 50, "{whole} {shorter}");
}

/// Appends entries of one or two blocks, so that leftovers of cut entries begin exactly where the new
/// ones end. Recovery must not find them.
fn go_on_with(shard: &Shard, disk: &SimDisk, before: &[Sendable], rng: &mut Rng) {
    run(async {
        let to_block = (BLOCK_SIZE as u64 - shard.store.end().0 % BLOCK_SIZE as u64) as usize;
        let first = if to_block > 80 { to_block - 40 } else { to_block + BLOCK_SIZE - 40 };
        for nth in 0..1 + rng.index(3) {
            let size = if nth == 0 { first } else { BLOCK_SIZE - 40 };
            while shard.send(0, &[size.max(24)]).is_err() {
                shard.store.commit_step().await.unwrap();
            }
            shard.commit().await;
        }
        let end = shard.store.end();
        let found = Shard::open(&disk.after_kill(rng.next_u64()), driven()).await.unwrap();
        assert_eq!(found.report.end, end, "cut entries do not reappear");
        assert_eq!(found.report.damaged, []);
        assert!(entries(disk, shard)[..before.len()] == *before);
    });
}

#[test]
fn committed_entries_are_never_cut_and_a_refusal_changes_nothing() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, driven()).await.unwrap();
        let sent: Vec<_> = (0..5).map(|_| shard.send(0, &[1000]).unwrap()).collect();
        shard.commit().await;
        shard.store.commit_to(sent[1].end);
        shard.maintain(true).await.unwrap();
        let before = disk.contents(&FileName::Segment(LogOffset(0)).to_string());
        for ordinal in [0, 1] {
            let refused = shard.cut_to(ordinal).await.unwrap_err();
            assert_eq!(refused, CutError::AlreadyCommitted { ordinal, first: 3 });
        }
        for ordinal in [6, u64::MAX] {
            let refused = shard.cut_to(ordinal).await.unwrap_err();
            assert_eq!(refused, CutError::Beyond { ordinal, newest: 5 });
        }
        // This opening is abandoned.
        drop(shard.store.cut_to(3).await.unwrap());
        assert_eq!(disk.contents(&FileName::Segment(LogOffset(0)).to_string()), before);
        assert_eq!((shard.store.end(), shard.store.is_fenced()), (sent[4].end, false));
        shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        assert_eq!(shard.cut_to(2).await.unwrap().end, sent[1].end);
        assert_eq!(shard.cut_to(2).await.unwrap().end, sent[1].end, "nothing is left to cut");
    });
}

/// A snapshot waits until its entries are committed. They are cut off, and other entries are committed
/// at the same offset.
#[test]
fn a_snapshot_that_includes_cut_entries_is_never_published() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, driven()).await.unwrap();
        shard.note_offsets().unwrap();
        shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        shard.store.begin_epoch(5).unwrap();
        assert_eq!(shard.maintain(true).await.unwrap().snapshot, None, "nothing is committed");
        shard.cut_to(0).await.unwrap();
        assert_eq!((shard.store.end(), shard.store.epoch()), (LogOffset(0), 5));
        for _ in 0..2 {
            shard.send(0, &[1000]).unwrap();
        }
        shard.commit().await;
        shard.store.commit_to(shard.store.end());
        assert_eq!(shard.maintain(false).await.unwrap().snapshot, None);
        let found = Shard::open(&disk, driven()).await.unwrap();
        assert_eq!((found.offsets.get(), found.sent.borrow().len()), (0, 2));
    });
}

/// Pauses so often that every task that has been woken has run.
async fn everyone_runs() {
    for _ in 0..100 {
        pause().await;
    }
}

/// A waiter for an entry that was cut off gets an error, even if another entry is at its offset now.
#[test]
fn waits_for_cut_entries_fail() {
    let shard = run(Shard::open(&SimDisk::new(1), driven())).unwrap();
    let told = [Cell::new(None), Cell::new(None)];
    let tasks = Tasks::new(1);
    let kept = shard.send(0, &[1000]).unwrap();
    let gone = shard.send(0, &[1000]).unwrap();
    for (cell, end) in told.iter().zip([kept.end, gone.end]) {
        let reached = shard.store.reached(end);
        tasks.spawn(format!("{end}"), async move { cell.set(Some(reached.await)) });
    }
    tasks.run_until(async {
        let standing = shard.store.standing();
        shard.commit().await;
        everyone_runs().await;
        assert_eq!(told[1].get(), None);
        shard.cut_to(1).await.unwrap();
        everyone_runs().await;
        assert_eq!(told[1].get(), Some(false), "the cut itself wakes the waiter");
        let other = shard.send(0, &[1000]).unwrap();
        assert_eq!(other.end, gone.end);
        shard.commit().await;
        shard.store.commit_to(other.end);
        while told.iter().any(|cell| cell.get().is_none()) {
            pause().await;
        }
        let awaited = |end| ringmq::storage::Awaited { end, cut_count: standing.cut_count };
        assert!(shard.store.was_cut(awaited(gone.end)) && !shard.store.was_cut(awaited(kept.end)));
        assert!(shard.store.reached(other.end).await);
    });
    assert_eq!(told.each_ref().map(Cell::get), [Some(true), Some(false)]);
}

/// Appends, reads, maintenance, flushes and a second cut continue during a cut or wait for its end.
#[test]
fn everything_else_continues_or_waits_during_a_cut() {
    for seed in 0..60 {
        let (disk, mut rng) = (SimDisk::new(seed), Rng::from_seed(seed));
        let shard = run(Shard::open(&disk, driven())).unwrap();
        run(grown(&shard, 40, &mut rng));
        let before = entries(&disk, &shard);
        let (ordinal, end) = choose(&shard, &before, &mut rng);
        disk.slow(3);
        let (is_over, appended) = (Cell::new(false), Cell::new(0));
        let tasks = Tasks::new(seed);
        shard.spawn_committers(&tasks);
        tasks.spawn("appends", async {
            // Appends only once the cut holds the log; earlier appends would be cut too.
            while shard.store.has_room(8) && shard.store.standing().cut_count == 0 {
                pause().await;
            }
            while !is_over.get() {
                shard.store.with_room(8, || shard.note_offsets()).await.unwrap();
                assert!(shard.store.standing().cut_count > 0);
                appended.set(appended.get() + 1);
                pause().await;
            }
        });
        shard.spawn_others(&tasks, &before, &is_over);
        tasks.run_until(async {
            assert_eq!(shard.cut_to(ordinal).await.unwrap().end, end);
            while appended.get() < 3 {
                pause().await;
            }
            is_over.set(true);
            while tasks.blocked().iter().any(|name| !name.starts_with("committer")) {
                pause().await;
            }
            shard.store.drained().await;
        });
        let found = run(Shard::open(&disk.after_kill(seed), driven())).unwrap();
        assert_eq!(found.report.end, shard.store.end(), "seed {seed}");
        let begin = shard.store.begin();
        let kept = before.iter().filter(|entry| entry.at >= begin && entry.end <= end);
        assert!(entries(&disk, &shard).iter().take_while(|entry| entry.end <= end).eq(kept));
    }
}

/// A cut that fails half-way fences the log. A restart finds it cut or whole.
#[test]
fn a_cut_that_fails_half_way_fences_the_log() {
    run(async {
        for operation in [Operation::Write, Operation::Remove, Operation::SyncDirectory] {
            let disk = SimDisk::new(1);
            let shard = Shard::open(&disk, driven()).await.unwrap();
            let sent: Vec<_> = (0..5).map(|_| shard.send(0, &[1000]).unwrap()).collect();
            shard.commit().await;
            disk.inject(On { operation, name_start: "", skip: 0 }, Fault::io_error());
            shard.cut_to(2).await.unwrap_err();
            assert!(shard.store.is_fenced(), "{operation:?}");
            assert!(!shard.store.reached(sent[0].end).await);
            let found = Shard::open(&disk.after_kill(1), driven()).await.unwrap();
            assert!(found.report.end >= sent[1].end);
            assert_eq!(found.report.damaged, []);
        }
    });
}
