//! What both disks guarantee, and which faults the simulated one injects.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use ringmq::sim::conformance::{self, filled};
use ringmq::sim::{self, Fault, On, Operation, Rng, SimDisk, Tasks};
use ringmq::storage::disk::{BLOCK_SIZE, Disk, DiskErrorKind, DiskFile, Durability};
use ringmq::storage::file::{FileDisk, FileDiskOptions, Mode, OPEN_MAX, StoredFile};

#[path = "../bench/nudged.rs"]
mod nudged;

const BLOCK: u64 = BLOCK_SIZE as u64;

mod real {
    use super::*;

    #[test]
    fn direct_disk_conforms() {
        on_executor("direct", |directory| async move {
            let options = FileDiskOptions::default();
            let disk = FileDisk::open(&directory, options).await.unwrap();
            assert_eq!(disk.mode(), Mode::Direct, "the build directory must be on a real disk");
            let reopen = async |disk: &FileDisk| {
                FileDisk::open(disk.directory(), options).await.expect("reopen")
            };
            conformance::check(&disk, reopen).await;
        });
    }

    #[test]
    fn buffered_disk_conforms() {
        on_executor("buffered", |directory| async move {
            let disk = FileDisk::open_buffered(&directory).unwrap();
            assert_eq!(disk.mode(), Mode::Buffered);
            conformance::check(&disk, async |disk: &FileDisk| disk.clone()).await;
        });
    }

    /// No other test would notice that durable writes are not durable. This one checks the flags of
    /// the descriptors, for created and for opened files.
    #[test]
    fn files_have_a_plain_and_a_synchronous_descriptor_as_needed() {
        on_executor("flags", |directory| async move {
            let disk = FileDisk::open(&directory, FileDiskOptions::default()).await.unwrap();
            let path = disk.directory().join("log");
            let created = disk.create("log", BLOCK).await.unwrap();
            assert_eq!(synchronous_of(&path), [false]);
            let block = filled(&disk, 1, 1);
            created.write(0, block.clone(), Durability::Durable).await.unwrap();
            assert_eq!(synchronous_of(&path), [false, true]);
            let opened = disk.open("log").await.unwrap();
            assert_eq!(synchronous_of(&path), [false, true]);
            opened.write(0, block, Durability::Durable).await.unwrap();
            opened.read(0, BLOCK_SIZE).await.unwrap();
            assert_eq!(synchronous_of(&path), [false, false, true, true]);
        });
    }

    fn descriptor_count() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("the descriptors of this process").count()
    }

    /// Writes different contents to each of many files.
    async fn many(disk: &FileDisk, count: usize) -> Vec<StoredFile> {
        let mut files = Vec::new();
        for number in 0..count {
            let file = disk.create(&number.to_string(), BLOCK).await.expect("a file");
            let block = filled(disk, 1, number as u8);
            file.write(0, block, Durability::Durable).await.expect("written");
            files.push(file);
        }
        files
    }

    async fn first_byte(file: &StoredFile) -> u8 {
        (*file.read(0, BLOCK_SIZE).await.expect("read")).as_ref()[0]
    }

    #[test]
    fn the_number_of_descriptors_does_not_grow_with_the_number_of_files() {
        on_executor("many", |directory| async move {
            let disk = FileDisk::open(&directory, FileDiskOptions::default()).await.unwrap();
            let before = descriptor_count();
            let files = many(&disk, 4 * OPEN_MAX).await;
            for round in 0..2 {
                for (number, file) in files.iter().enumerate() {
                    assert_eq!(first_byte(file).await, number as u8, "round {round}");
                }
            }
            // Other tests in this process have descriptors open too.
            let now = descriptor_count();
            assert!(now < before + 3 * OPEN_MAX, "{before} before, {now} now");
        });
    }

    /// None of these files has a descriptor when its name changes.
    #[test]
    fn files_without_a_descriptor_are_found_under_their_new_names() {
        on_executor("renamed", |directory| async move {
            let disk = FileDisk::open(&directory, FileDiskOptions::default()).await.unwrap();
            let files = many(&disk, 4 * OPEN_MAX).await;
            disk.rename("0", "other").await.unwrap();
            disk.rename("1", "0").await.unwrap();
            disk.rename("2", "3").await.unwrap();
            disk.remove("4").await.unwrap();
            disk.create("4", BLOCK).await.unwrap();
            let mut found = Vec::new();
            for file in files.iter().take(6) {
                found.push(first_byte(file).await);
            }
            assert_eq!(found, [0, 1, 2, 3, 4, 5], "also those that have no name any more");
            assert_eq!(first_byte(&disk.open("3").await.unwrap()).await, 2);
            assert_eq!(first_byte(&disk.open("4").await.unwrap()).await, 0);
        });
    }

    /// Whether each descriptor of the file at `path` is synchronous. All must be direct.
    fn synchronous_of(path: &Path) -> Vec<bool> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd").expect("the descriptors of this process") {
            let descriptor = entry.expect("a descriptor").path();
            if !std::fs::read_link(&descriptor).is_ok_and(|target| target == path) {
                continue;
            }
            let flags = flags_of(&descriptor).expect("the flags of an open descriptor");
            assert_ne!(flags & nix::libc::O_DIRECT, 0, "not direct: {flags:o}");
            found.push(flags & nix::libc::O_DSYNC != 0);
        }
        found.sort_unstable();
        found
    }

    fn flags_of(descriptor: &Path) -> Option<i32> {
        let info = Path::new("/proc/self/fdinfo").join(descriptor.file_name()?);
        let info = std::fs::read_to_string(info).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        i32::from_str_radix(flags.trim(), 8).ok()
    }

    #[test]
    fn hidden_files_and_directories_are_not_listed() {
        on_executor("hidden", |directory| async move {
            std::fs::write(directory.join(".hidden"), "").unwrap();
            std::fs::create_dir(directory.join("below")).unwrap();
            let disk = FileDisk::open(&directory, FileDiskOptions::default()).await.unwrap();
            disk.create("log", BLOCK).await.unwrap();
            assert_eq!(disk.list().await.unwrap(), [("log".to_string(), BLOCK)]);
        });
    }

    /// A file that does not end at a block boundary, as after a truncation.
    #[test]
    fn odd_end_of_a_file_can_be_read() {
        on_executor("odd", |directory| async move {
            std::fs::write(directory.join("odd"), vec![7; BLOCK_SIZE + 100]).unwrap();
            let disk = FileDisk::open(&directory, FileDiskOptions::default()).await.unwrap();
            let file = disk.open("odd").await.unwrap();
            assert_eq!(file.size(), BLOCK + 100);
            let found = file.read(BLOCK, 2 * BLOCK_SIZE).await.unwrap();
            assert_eq!((*found).as_ref(), vec![7; 100]);
        });
    }

    /// No file system supports this size, so an attempt would fail without filling the disk.
    #[test]
    fn create_that_does_not_fit_is_not_tried() {
        on_executor("full", |directory| async move {
            let disk = FileDisk::open(&directory, FileDiskOptions::default()).await.unwrap();
            let size = 1 << 62;
            let error = disk.create("huge", size).await.unwrap_err();
            assert_eq!(error.kind, DiskErrorKind::NoSpace);
            assert!(disk.list().await.unwrap().is_empty());
        });
    }

    #[test]
    fn missing_directory_is_an_error() {
        on_executor("missing", |directory| async move {
            let missing = directory.join("nothing");
            let error = FileDisk::open(&missing, FileDiskOptions::default()).await.unwrap_err();
            assert_eq!(error.kind, DiskErrorKind::NotFound);
            assert!(error.to_string().contains("nothing"), "{error}");
        });
    }

    /// Runs `body` on its own executor, with an empty directory on a disk file system. Aborts the
    /// test process if it does not end, because a hanging executor has no timeout.
    fn on_executor<F: Future<Output = ()> + 'static>(
        name: &'static str,
        body: impl FnOnce(PathBuf) -> F + Send + 'static,
    ) {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-{name}"));
        std::fs::remove_dir_all(&directory).ok();
        std::fs::create_dir_all(&directory).expect("a scratch directory");
        let done = watch(name, Duration::from_secs(60));
        nudged::run(0, move |_| body(directory));
        done.store(true, Ordering::Release);
    }

    fn watch(name: &'static str, limit: Duration) -> Arc<AtomicBool> {
        let done = Arc::new(AtomicBool::new(false));
        let watched = done.clone();
        let end = Instant::now() + limit;
        std::thread::spawn(move || {
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(100));
                if watched.load(Ordering::Acquire) {
                    return;
                }
            }
            eprintln!("the executor of `{name}` did not end within {limit:?}");
            std::process::abort();
        });
        done
    }
}

#[test]
fn simulated_disk_conforms() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.slow((seed % 5) as u32);
        sim::run(conformance::check(&disk, async |disk: &SimDisk| disk.after_kill(seed)));
    }
}

/// A power cut keeps all that was durable and any part of what was not, down to sectors.
#[test]
fn power_loss_takes_only_unsynced_writes() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", 4 * BLOCK).await.unwrap();
            file.write(0, filled(&disk, 1, 1), Durability::Durable).await.unwrap();
            file.write(BLOCK, filled(&disk, 1, 2), Durability::Written).await.unwrap();
            file.sync().await.unwrap();
            disk.sync_directory().await.unwrap();
            file.write(2 * BLOCK, filled(&disk, 1, 3), Durability::Written).await.unwrap();
        });
        let found = disk.after_crash(seed).contents("log").expect("the file was durable");
        assert_eq!(count(&found[..BLOCK_SIZE], 1), BLOCK_SIZE, "seed {seed}");
        assert_eq!(count(&found[BLOCK_SIZE..2 * BLOCK_SIZE], 2), BLOCK_SIZE, "seed {seed}");
        match count(&found[2 * BLOCK_SIZE..3 * BLOCK_SIZE], 3) {
            0 => lost += 1,
            BLOCK_SIZE => kept += 1,
            size => {
                assert!(size.is_multiple_of(512), "seed {seed}: torn inside a sector");
                torn += 1;
            }
        }
    }
    assert!(kept > 20 && lost > 20 && torn > 20, "kept {kept}, lost {lost}, torn {torn}");
}

/// A block has been written three times since the last sync: any version may be found, including
/// the synced one.
#[test]
fn power_loss_leaves_any_version_of_a_block() {
    let mut found = [0; 4];
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            file.write(0, filled(&disk, 1, 0), Durability::Durable).await.unwrap();
            for byte in 1..4 {
                file.write(0, filled(&disk, 1, byte), Durability::Written).await.unwrap();
            }
        });
        let block = disk.after_crash(seed).contents("log").unwrap();
        if count(&block, block[0]) == BLOCK_SIZE {
            found[usize::from(block[0])] += 1;
        }
    }
    assert!(found.iter().all(|&count| count > 10), "{found:?}");
}

/// Writes in flight when power is lost have not returned, so all, part or none of their data may be
/// there.
#[test]
fn writes_in_flight_may_land_in_part() {
    let (mut all, mut none, mut some) = (0, 0, 0);
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", 8 * BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            disk.lose_power_after(0);
            let write = file.write(0, filled(&disk, 8, 1), Durability::Durable);
            assert_eq!(write.await.unwrap_err().kind, DiskErrorKind::PowerLost);
            assert_eq!(file.sync().await.unwrap_err().kind, DiskErrorKind::PowerLost);
            assert_eq!(disk.list().await.unwrap_err().kind, DiskErrorKind::PowerLost);
        });
        match count(&disk.after_crash(seed).contents("log").unwrap(), 1) / BLOCK_SIZE {
            0 => none += 1,
            8 => all += 1,
            _ => some += 1,
        }
    }
    assert!(all > 20 && none > 20 && some > 20, "all {all}, none {none}, some {some}");
}

/// Without a directory sync a rename may be lost, but never leaves both names or neither.
#[test]
fn renames_are_atomic_and_volatile() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            for (name, byte) in [("state", 1), ("state.tmp", 2)] {
                let file = disk.create(name, BLOCK).await.unwrap();
                file.write(0, filled(&disk, 1, byte), Durability::Durable).await.unwrap();
            }
            disk.sync_directory().await.unwrap();
            disk.rename("state.tmp", "state").await.unwrap();
        });
        let found = disk.after_crash(seed);
        match found.contents("state").expect("one of the two")[0] {
            1 => {
                assert!(found.contents("state.tmp").is_some(), "seed {seed}");
                old += 1;
            }
            _ => {
                assert!(found.contents("state.tmp").is_none(), "seed {seed}");
                new += 1;
            }
        }
    }
    assert!(old > 20 && new > 20, "old {old}, new {new}");
}

/// Unsynced creations, renames and removals are kept or lost independently; synced ones are kept.
#[test]
fn unsynced_names_are_independent() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            disk.create("old", BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            disk.create("first", BLOCK).await.unwrap();
            disk.create("second", BLOCK).await.unwrap();
            disk.remove("old").await.unwrap();
        });
        let found = sim::run(disk.after_crash(seed).list()).unwrap();
        let mut names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
        names.sort();
        outcomes.insert(names);
    }
    assert_eq!(outcomes.len(), 8, "{outcomes:?}");
}

#[test]
fn file_being_created_when_power_is_lost_may_have_any_size() {
    let mut sizes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.lose_power_after(0);
        assert!(sim::run(disk.create("log", 2 * BLOCK)).is_err());
        sizes.insert(disk.after_crash(seed).contents("log").map(|bytes| bytes.len() / BLOCK_SIZE));
    }
    let expected = [None, Some(0), Some(1), Some(2)];
    assert!(sizes.iter().copied().eq(expected), "{sizes:?}");
}

/// Killing the process loses no write, though a later power cut may.
#[test]
fn a_kill_keeps_all_writes() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            file.write(0, filled(&disk, 1, 1), Durability::Written).await.unwrap();
        });
        let restarted = disk.after_kill(seed);
        assert_eq!(restarted.contents("log").unwrap(), vec![1; BLOCK_SIZE], "seed {seed}");
        lost += u32::from(restarted.after_crash(seed).contents("log").unwrap()[0] != 1);
    }
    assert!(lost > 10, "lost {lost}");
}

#[test]
fn faults_strike_as_planned() {
    let planned = |fault: Fault| {
        let disk = SimDisk::new(1);
        let file = sim::run(disk.create("log", 8 * BLOCK)).unwrap();
        disk.inject(On::nth(Operation::Write, 1), fault);
        let write = |block: u64, byte| {
            let buffer = filled(&disk, 2, byte);
            sim::run(file.write(block * BLOCK, buffer, Durability::Durable)).map_err(|e| e.kind)
        };
        assert_eq!(write(0, 1), Ok(()), "the one before");
        let outcome = write(2, 2);
        assert_eq!(disk.faults_left(), 0);
        (outcome, disk.contents("log").unwrap())
    };

    let (outcome, found) = planned(Fault::Lost);
    assert_eq!(outcome, Ok(()));
    assert_eq!(count(&found, 2), 0);

    let (outcome, found) = planned(Fault::Misdirected);
    assert_eq!(outcome, Ok(()));
    assert!(count(&found, 2) > 0);
    assert_ne!(count(&found[2 * BLOCK_SIZE..4 * BLOCK_SIZE], 2), 2 * BLOCK_SIZE);

    let (outcome, found) = planned(Fault::Short(512));
    assert_eq!(outcome, Err(DiskErrorKind::Short { done: 512, wanted: 2 * BLOCK_SIZE }));
    assert_eq!(count(&found, 2), 512);

    let (outcome, _) = planned(Fault::Fails(DiskErrorKind::NoSpace));
    assert_eq!(outcome, Err(DiskErrorKind::NoSpace));

    let (outcome, found) = planned(Fault::Slow(10));
    assert_eq!(outcome, Ok(()));
    assert_eq!(count(&found, 2), 2 * BLOCK_SIZE);

    let (outcome, _) = planned(Fault::PowerLoss);
    assert_eq!(outcome, Err(DiskErrorKind::PowerLost));
}

#[test]
fn every_operation_can_fail() {
    let failing = |operation| {
        let disk = SimDisk::new(2);
        let file = sim::run(disk.create("log", BLOCK)).unwrap();
        disk.inject(On::nth(operation, 0), Fault::io_error());
        let attempts = [
            (Operation::List, sim::run(disk.list()).err()),
            (Operation::Create, sim::run(disk.create("new", BLOCK)).err()),
            (Operation::Open, sim::run(disk.open("log")).err()),
            (Operation::Rename, sim::run(disk.rename("log", "other")).err()),
            (Operation::Remove, sim::run(disk.remove("other")).err()),
            (Operation::SyncDirectory, sim::run(disk.sync_directory()).err()),
            (Operation::Space, sim::run(disk.space()).err()),
            (
                Operation::Write,
                sim::run(file.write(0, filled(&disk, 1, 1), Durability::Written)).err(),
            ),
            (Operation::Sync, sim::run(file.sync()).err()),
            (Operation::Read, sim::run(file.read(0, BLOCK_SIZE)).err()),
        ];
        let (_, error) = attempts.into_iter().find(|(tried, _)| *tried == operation).unwrap();
        error.unwrap_or_else(|| panic!("{} did not fail", operation.name()))
    };
    for operation in [
        Operation::List,
        Operation::Create,
        Operation::Open,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDirectory,
        Operation::Space,
        Operation::Write,
        Operation::Sync,
        Operation::Read,
    ] {
        let error = failing(operation);
        assert_eq!(error.operation, operation.name());
        assert_eq!(error.kind, DiskErrorKind::Io("injected".into()));
    }
}

/// The kernel drops pages that it could not write, so a later successful sync proves nothing.
#[test]
fn failed_sync_is_not_repaired_by_another() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            file.write(0, filled(&disk, 1, 1), Durability::Written).await.unwrap();
            disk.inject(On::nth(Operation::Sync, 0), Fault::io_error());
            assert!(file.sync().await.is_err());
            file.sync().await.unwrap();
        });
        lost += u32::from(disk.after_crash(seed).contents("log").unwrap()[0] != 1);
    }
    assert!(lost > 10, "lost {lost}");
}

/// A sync covers writes that returned before it began: a write that ends during it may still be
/// lost.
#[test]
fn sync_does_not_cover_writes_that_end_during_it() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let file = sim::run(async {
            let file = disk.create("log", BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            file
        });
        disk.inject(On::nth(Operation::Sync, 0), Fault::Slow(3));
        sim::run(async {
            let write = file.write(0, filled(&disk, 1, 1), Durability::Written);
            let (synced, written) = join(file.sync(), write).await;
            synced.and(written).unwrap();
        });
        lost += u32::from(disk.after_crash(seed).contents("log").unwrap()[0] != 1);
    }
    assert!(lost > 10, "lost {lost}");
}

/// While a write is in flight, its blocks read as before or after it.
#[test]
fn blocks_in_flight_read_as_either() {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", 2 * BLOCK).await.unwrap();
            disk.inject(On::nth(Operation::Write, 0), Fault::Slow(3));
            let write = file.write(0, filled(&disk, 2, 1), Durability::Durable);
            let (written, read) = join(write, file.read(0, 2 * BLOCK_SIZE)).await;
            written.unwrap();
            let read = read.unwrap();
            let bytes = (*read).as_ref();
            found.insert((bytes[0], bytes[BLOCK_SIZE]));
        });
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn full_disk_refuses_new_files_until_space_is_freed() {
    let disk = SimDisk::new(3);
    disk.limit(4 * BLOCK);
    sim::run(async {
        disk.create("first", 3 * BLOCK).await.unwrap();
        let error = disk.create("second", 2 * BLOCK).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::NoSpace);
        assert_eq!(disk.space().await.unwrap().free_bytes, BLOCK);
        disk.remove("first").await.unwrap();
        disk.create("second", 2 * BLOCK).await.unwrap();
    });
}

#[test]
fn slow_writes_end_in_any_order() {
    let order = |seed| {
        let disk = SimDisk::new(seed);
        disk.slow(8);
        let ended = std::cell::RefCell::new(Vec::new());
        let file = sim::run(disk.create("log", 4 * BLOCK)).unwrap();
        let tasks = Tasks::new(seed);
        for block in 0..4 {
            let (file, disk, ended) = (&file, &disk, &ended);
            tasks.spawn(format!("write {block}"), async move {
                let buffer = filled(disk, 1, 1);
                file.write(block * BLOCK, buffer, Durability::Durable).await.unwrap();
                ended.borrow_mut().push(block);
            });
        }
        tasks.run();
        drop(tasks);
        ended.into_inner()
    };
    let orders: std::collections::BTreeSet<Vec<u64>> = (0..300).map(order).collect();
    assert_eq!(orders.len(), 24, "all orders of four writes");
}

#[test]
fn dropped_write_lands_later() {
    let disk = SimDisk::new(4);
    sim::run(async {
        let file = disk.create("log", BLOCK).await.unwrap();
        disk.inject(On::nth(Operation::Write, 0), Fault::Slow(3));
        let mut write = Box::pin(file.write(0, filled(&disk, 1, 1), Durability::Written));
        assert!(futures_util::poll!(&mut write).is_pending());
        drop(write);
        assert_eq!(disk.contents("log").unwrap()[0], 0);
        let mut steps = 0;
        while disk.contents("log").unwrap()[0] == 0 {
            disk.space().await.unwrap();
            steps += 1;
            assert!(steps < 100, "never landed");
        }
    });
}

#[test]
fn damaged_and_unreadable_blocks_show() {
    let disk = SimDisk::new(5);
    sim::run(async {
        let file = disk.create("log", 3 * BLOCK).await.unwrap();
        file.write(0, filled(&disk, 3, 1), Durability::Durable).await.unwrap();
        disk.damage("log", BLOCK - 1, &[9, 9]);
        assert_eq!(count(&disk.contents("log").unwrap(), 9), 2);
        disk.make_unreadable("log", 2 * BLOCK);
        let error = file.read(0, 3 * BLOCK_SIZE).await.err().unwrap();
        assert_eq!((error.operation, error.offset), ("read", 2 * BLOCK));
        assert!(file.read(0, 2 * BLOCK_SIZE).await.is_ok());
        file.write(2 * BLOCK, filled(&disk, 1, 2), Durability::Durable).await.unwrap();
        assert!(file.read(2 * BLOCK, BLOCK_SIZE).await.is_ok(), "written again");
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let disk = SimDisk::new(seed);
        disk.slow(3);
        disk.inject(On::nth(Operation::Write, 5), Fault::Misdirected);
        let file = sim::run(disk.create("log", 16 * BLOCK)).unwrap();
        let tasks = Tasks::new(seed);
        let file = &file;
        for block in 0..16 {
            let disk = &disk;
            tasks.spawn("write", async move {
                let buffer = filled(disk, 1, block as u8);
                file.write(block * BLOCK, buffer, Durability::Written).await.unwrap();
            });
        }
        tasks.run();
        let found = disk.after_crash(seed);
        (disk.trace(), found.contents("log").map(|bytes| crc32c::crc32c(&bytes)))
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
        assert_ne!(trace(seed).0, trace(seed + 1).0, "seed {seed}");
    }
}

/// Mistakes planted in a tiny log. The simulated power cut must find each of them; otherwise it
/// would not find them in the real log either.
mod canary {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Mistake {
        None,
        NoSync,
        NoDirectorySync,
        SyncBeforeWrite,
        SyncOfAnotherFile,
        RetriedSync,
        RenameBeforeSync,
    }

    #[test]
    fn power_cut_finds_planted_mistakes() {
        for (mistake, found) in [
            (Mistake::None, false),
            (Mistake::NoSync, true),
            (Mistake::NoDirectorySync, true),
            (Mistake::SyncBeforeWrite, true),
            (Mistake::SyncOfAnotherFile, true),
            (Mistake::RetriedSync, true),
            (Mistake::RenameBeforeSync, true),
        ] {
            let first = (0..1000).find(|&seed| !survives(mistake, seed));
            assert_eq!(first.is_some(), found, "{mistake:?}: first found by seed {first:?}");
        }
    }

    /// Appends numbered blocks until power is lost. Returns whether every acknowledged one is found
    /// afterwards.
    fn survives(mistake: Mistake, seed: u64) -> bool {
        let mut rng = Rng::from_seed(seed);
        let disk = SimDisk::new(rng.next_u64());
        disk.slow(rng.below(3) as u32);
        if rng.coin() {
            disk.inject(On::nth(Operation::Sync, rng.below(6)), Fault::io_error());
        }
        disk.lose_power_after(rng.below(24));
        let acknowledged = std::cell::Cell::new(0);
        sim::run(append(&disk, mistake, &acknowledged));
        let found = disk.after_crash(rng.next_u64()).contents("log").unwrap_or_default();
        let blocks = found.chunks(BLOCK_SIZE).zip(1u8..);
        let intact = blocks.take_while(|(block, number)| count(block, *number) == BLOCK_SIZE);
        intact.count() >= acknowledged.get()
    }

    async fn append(disk: &SimDisk, mistake: Mistake, acknowledged: &std::cell::Cell<usize>) {
        let Ok(other) = disk.create("other", BLOCK).await else { return };
        let Ok(file) = disk.create("log.new", 8 * BLOCK).await else { return };
        if file.write(0, filled(disk, 1, 1), Durability::Written).await.is_err() {
            return;
        }
        if mistake != Mistake::RenameBeforeSync && file.sync().await.is_err() {
            return;
        }
        if disk.rename("log.new", "log").await.is_err() {
            return;
        }
        if mistake != Mistake::NoDirectorySync && disk.sync_directory().await.is_err() {
            return;
        }
        acknowledged.set(1);
        for number in 2..=8u8 {
            let offset = u64::from(number - 1) * BLOCK;
            if mistake == Mistake::SyncBeforeWrite && file.sync().await.is_err() {
                return;
            }
            let buffer = filled(disk, 1, number);
            if file.write(offset, buffer, Durability::Written).await.is_err() {
                return;
            }
            let synced = match mistake {
                Mistake::NoSync | Mistake::SyncBeforeWrite => Ok(()),
                Mistake::SyncOfAnotherFile => other.sync().await,
                Mistake::RetriedSync => match file.sync().await {
                    Ok(()) => Ok(()),
                    Err(_) => file.sync().await,
                },
                _ => file.sync().await,
            };
            if synced.is_err() {
                return;
            }
            acknowledged.set(usize::from(number));
        }
    }
}

/// Writers at random offsets with random durability, and a power cut at a random step: a durable
/// write that returned is there, unless the same block was written again.
#[test]
fn random_histories_keep_durable_blocks() {
    for seed in 0..500 {
        let mut rng = Rng::from_seed(seed);
        let disk = SimDisk::new(rng.next_u64());
        disk.slow(rng.below(6) as u32);
        let file = sim::run(async {
            let file = disk.create("log", 32 * BLOCK).await.unwrap();
            disk.sync_directory().await.unwrap();
            file
        });
        disk.lose_power_after(rng.below(40));
        let durable = std::cell::RefCell::new([0u8; 32]);
        let writers = (0..4).map(|writer| {
            let (disk, file, durable, mut rng) = (&disk, &file, &durable, rng.fork());
            async move {
                for round in 1..10 {
                    let block = writer * 8 + rng.below(8);
                    let buffer = filled(disk, 1, round);
                    if durable.borrow()[block as usize] != 0 {
                        continue;
                    }
                    if file.write(block * BLOCK, buffer, Durability::Durable).await.is_ok() {
                        durable.borrow_mut()[block as usize] = round;
                    }
                }
            }
        });
        sim::run(join_all(writers));
        let found = disk.after_crash(rng.next_u64()).contents("log").unwrap();
        for (block, &byte) in found.chunks(BLOCK_SIZE).zip(durable.borrow().iter()) {
            assert!(byte == 0 || count(block, byte) == BLOCK_SIZE, "seed {seed}");
        }
    }
}

fn count(bytes: &[u8], wanted: u8) -> usize {
    bytes.iter().filter(|&&byte| byte == wanted).count()
}
