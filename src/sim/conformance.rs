//! The test suite that every [`Disk`] passes: what storage may rely on, and what replicas may rely
//! on in a log on that disk ([`logs`]).
//!
//! Call [`check`] with an empty disk. Every case begins by removing all files, names its files
//! itself, and panics with what it expected. The disk must have room for a few megabytes.

use std::rc::Rc;

use futures_util::future::join_all;

use super::rng::Rng;
use crate::storage::disk::{
    BLOCK_SIZE, BlockBuffer, Disk, DiskError, DiskErrorKind, DiskFile, Durability,
};

mod logs;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Runs all cases. `reopen` opens the same directory again, as a new process would.
pub async fn check<D: Disk>(disk: &D, reopen: impl AsyncFn(&D) -> D) {
    let disk = &Cleared(disk);
    created_file_reads_as_zeros(disk.all().await).await;
    written_blocks_read_back(disk.all().await).await;
    overwriting_replaces_whole_blocks(disk.all().await).await;
    reading_is_short_only_at_the_end(disk.all().await).await;
    concurrent_writes_all_land(disk.all().await).await;
    concurrent_reads_see_their_own_blocks(disk.all().await).await;
    clones_are_the_same_file(disk.all().await).await;
    renaming_keeps_content_and_open_handles(disk.all().await).await;
    renaming_replaces(disk.all().await).await;
    removed_file_is_gone_but_open_handles_work(disk.all().await).await;
    listing_names_every_file_with_its_size(disk.all().await).await;
    missing_files_are_not_found(disk.all().await).await;
    creating_what_exists_fails_and_keeps_it(disk.all().await).await;
    truncated_buffer_writes_only_what_is_left(disk.all().await).await;
    free_space_is_part_of_the_total(disk.all().await).await;
    everything_survives_reopening(disk.all().await, reopen).await;
    logs::copies_have_the_same_bytes(disk.all().await).await;
    logs::cut_entries_are_gone(disk.all().await).await;
}

struct Cleared<'a, D>(&'a D);

impl<'a, D: Disk> Cleared<'a, D> {
    /// The disk, without files.
    async fn all(&self) -> &'a D {
        for (name, _) in self.0.list().await.expect("list") {
            self.0.remove(&name).await.expect("remove");
        }
        self.0.sync_directory().await.expect("sync directory");
        self.0
    }
}

async fn created_file_reads_as_zeros<D: Disk>(disk: &D) {
    let file = disk.create("zeros", 8 * BLOCK).await.expect("create");
    assert_eq!(file.size(), 8 * BLOCK, "size of a created file");
    let found = read(&file, 0, 8).await;
    assert_eq!(found, vec![0; 8 * BLOCK_SIZE], "a created file reads as zeros");
    let reopened = disk.open("zeros").await.expect("open");
    assert_eq!(reopened.size(), 8 * BLOCK, "size of an opened file");
}

async fn written_blocks_read_back<D: Disk>(disk: &D) {
    let file = disk.create("log", 64 * BLOCK).await.expect("create");
    let mut rng = Rng::from_seed(1);
    for durability in [Durability::Written, Durability::Durable] {
        for (block, count) in [(0, 1), (1, 1), (5, 3), (32, 32)] {
            let (buffer, bytes) = random(disk, &mut rng, count);
            file.write(block * BLOCK, buffer, durability).await.expect("write");
            assert_eq!(read(&file, block, count).await, bytes, "{count} blocks at block {block}");
        }
    }
    file.sync().await.expect("sync");
    assert_eq!(read(&file, 2, 3).await, vec![0; 3 * BLOCK_SIZE], "blocks between the written");
}

async fn overwriting_replaces_whole_blocks<D: Disk>(disk: &D) {
    let file = disk.create("log", 4 * BLOCK).await.expect("create");
    for (byte, durability) in
        [(1, Durability::Written), (2, Durability::Durable), (3, Durability::Written)]
    {
        file.write(0, filled(disk, 4, byte), durability).await.expect("write");
    }
    file.write(2 * BLOCK, filled(disk, 1, 9), Durability::Durable).await.expect("write");
    let found = read(&file, 0, 4).await;
    let firsts: Vec<u8> = found.chunks(BLOCK_SIZE).map(|block| block[0]).collect();
    assert_eq!(firsts, [3, 3, 9, 3]);
    assert!(found.chunks(BLOCK_SIZE).all(|block| block.iter().all(|&byte| byte == block[0])));
}

async fn reading_is_short_only_at_the_end<D: Disk>(disk: &D) {
    let file = disk.create("log", 4 * BLOCK).await.expect("create");
    file.write(0, filled(disk, 4, 7), Durability::Written).await.expect("write");
    for (block, count, expected) in
        [(0, 4, 4), (0, 8, 4), (3, 1, 1), (3, 2, 1), (4, 1, 0), (9, 4, 0)]
    {
        let found = read(&file, block, count).await;
        assert_eq!(found, vec![7; expected * BLOCK_SIZE], "{count} blocks at block {block}");
    }
}

async fn concurrent_writes_all_land<D: Disk>(disk: &D) {
    let file = disk.create("log", 64 * BLOCK).await.expect("create");
    let mut rng = Rng::from_seed(2);
    let (buffers, expected): (Vec<_>, Vec<_>) = (0..16).map(|_| random(disk, &mut rng, 4)).unzip();
    let writes = buffers.into_iter().enumerate().map(|(index, buffer)| {
        let durability = if index % 2 == 0 { Durability::Durable } else { Durability::Written };
        file.write(index as u64 * 4 * BLOCK, buffer, durability)
    });
    for outcome in join_all(writes).await {
        outcome.expect("write");
    }
    file.sync().await.expect("sync");
    assert_eq!(read(&file, 0, 64).await, expected.concat());
}

async fn concurrent_reads_see_their_own_blocks<D: Disk>(disk: &D) {
    let file = disk.create("log", 32 * BLOCK).await.expect("create");
    for block in 0..32 {
        let buffer = filled(disk, 1, block as u8);
        file.write(block * BLOCK, buffer, Durability::Written).await.expect("write");
    }
    let reads = (0..32).map(|block| file.read(block * BLOCK, BLOCK_SIZE));
    for (block, found) in join_all(reads).await.into_iter().enumerate() {
        let found = found.expect("read");
        assert!((*found).as_ref().iter().all(|&byte| byte == block as u8), "block {block}");
    }
}

async fn clones_are_the_same_file<D: Disk>(disk: &D) {
    let file = disk.clone().create("log", BLOCK).await.expect("create");
    let clone = file.clone();
    file.write(0, filled(disk, 1, 5), Durability::Durable).await.expect("write");
    drop(file);
    assert_eq!(read(&clone, 0, 1).await, vec![5; BLOCK_SIZE]);
}

async fn renaming_keeps_content_and_open_handles<D: Disk>(disk: &D) {
    let file = disk.create("new", 2 * BLOCK).await.expect("create");
    file.write(0, filled(disk, 1, 1), Durability::Written).await.expect("write");
    disk.rename("new", "old").await.expect("rename");
    file.write(BLOCK, filled(disk, 1, 2), Durability::Durable).await.expect("write after rename");
    file.sync().await.expect("sync after rename");
    assert_eq!(file.size(), 2 * BLOCK);
    let reopened = disk.open("old").await.expect("open");
    let found = read(&reopened, 0, 2).await;
    assert_eq!((found[0], found[BLOCK_SIZE]), (1, 2));
    assert_kind(disk.open("new").await.err(), DiskErrorKind::NotFound);
}

async fn renaming_replaces<D: Disk>(disk: &D) {
    for (name, byte) in [("state", 1), ("state.tmp", 2)] {
        let file = disk.create(name, BLOCK).await.expect("create");
        file.write(0, filled(disk, 1, byte), Durability::Durable).await.expect("write");
    }
    disk.rename("state.tmp", "state").await.expect("rename");
    disk.sync_directory().await.expect("sync directory");
    assert_eq!(disk.list().await.expect("list"), [("state".to_string(), BLOCK)]);
    assert_eq!(read(&disk.open("state").await.expect("open"), 0, 1).await, vec![2; BLOCK_SIZE]);
}

async fn removed_file_is_gone_but_open_handles_work<D: Disk>(disk: &D) {
    let file = disk.create("log", BLOCK).await.expect("create");
    file.write(0, filled(disk, 1, 3), Durability::Written).await.expect("write");
    disk.remove("log").await.expect("remove");
    disk.sync_directory().await.expect("sync directory");
    assert!(disk.list().await.expect("list").is_empty());
    assert_eq!(read(&file, 0, 1).await, vec![3; BLOCK_SIZE], "through a handle opened before");
    let again = disk.create("log", BLOCK).await.expect("create again");
    assert_eq!(read(&again, 0, 1).await, vec![0; BLOCK_SIZE], "another file of the same name");
}

async fn listing_names_every_file_with_its_size<D: Disk>(disk: &D) {
    for (name, blocks) in [("c", 3), ("a", 1), ("b.index", 2), ("empty", 0)] {
        disk.create(name, blocks * BLOCK).await.expect("create");
    }
    let mut found = disk.list().await.expect("list");
    found.sort();
    let expected = [("a", 1), ("b.index", 2), ("c", 3), ("empty", 0)];
    assert_eq!(found, expected.map(|(name, blocks)| (name.to_string(), blocks * BLOCK)));
}

async fn missing_files_are_not_found<D: Disk>(disk: &D) {
    assert_kind(disk.open("nothing").await.err(), DiskErrorKind::NotFound);
    assert_kind(disk.remove("nothing").await.err(), DiskErrorKind::NotFound);
    assert_kind(disk.rename("nothing", "something").await.err(), DiskErrorKind::NotFound);
    let error = disk.open("nothing").await.err().expect("an error");
    assert_eq!((error.operation, error.file.as_str()), ("open", "nothing"));
}

async fn creating_what_exists_fails_and_keeps_it<D: Disk>(disk: &D) {
    let file = disk.create("log", BLOCK).await.expect("create");
    file.write(0, filled(disk, 1, 8), Durability::Durable).await.expect("write");
    assert!(disk.create("log", BLOCK).await.is_err(), "created over an existing file");
    assert_eq!(read(&file, 0, 1).await, vec![8; BLOCK_SIZE]);
}

async fn truncated_buffer_writes_only_what_is_left<D: Disk>(disk: &D) {
    let file = disk.create("log", 4 * BLOCK).await.expect("create");
    let mut buffer = disk.buffer(4 * BLOCK_SIZE);
    buffer.as_mut().fill(6);
    buffer.truncate(BLOCK_SIZE);
    assert_eq!(buffer.as_ref().len(), BLOCK_SIZE);
    file.write(BLOCK, Rc::new(buffer), Durability::Written).await.expect("write");
    let found = read(&file, 0, 4).await;
    let firsts: Vec<u8> = found.chunks(BLOCK_SIZE).map(|block| block[0]).collect();
    assert_eq!(firsts, [0, 6, 0, 0]);
}

async fn free_space_is_part_of_the_total<D: Disk>(disk: &D) {
    let space = disk.space().await.expect("space");
    assert!(0 < space.free_bytes && space.free_bytes <= space.total_bytes, "{space:?}");
}

async fn everything_survives_reopening<D: Disk>(disk: &D, reopen: impl AsyncFn(&D) -> D) {
    let file = disk.create("log", 2 * BLOCK).await.expect("create");
    file.write(0, filled(disk, 1, 1), Durability::Durable).await.expect("write");
    file.write(BLOCK, filled(disk, 1, 2), Durability::Written).await.expect("write");
    disk.create("gone", BLOCK).await.expect("create");
    disk.remove("gone").await.expect("remove");
    disk.sync_directory().await.expect("sync directory");
    let reopened = reopen(disk).await;
    assert_eq!(reopened.list().await.expect("list"), [("log".to_string(), 2 * BLOCK)]);
    let file = reopened.open("log").await.expect("open");
    let found = read(&file, 0, 2).await;
    assert_eq!((found[0], found[BLOCK_SIZE]), (1, 2));
    file.write(0, filled(&reopened, 1, 3), Durability::Durable).await.expect("write");
    assert_eq!(read(&file, 0, 1).await, vec![3; BLOCK_SIZE]);
}

/// A buffer of whole blocks in which every byte is `byte`.
pub fn filled<D: Disk>(disk: &D, blocks: usize, byte: u8) -> Rc<D::Buffer> {
    let mut buffer = disk.buffer(blocks * BLOCK_SIZE);
    buffer.as_mut().fill(byte);
    Rc::new(buffer)
}

fn random<D: Disk>(disk: &D, rng: &mut Rng, blocks: usize) -> (Rc<D::Buffer>, Vec<u8>) {
    let mut buffer = disk.buffer(blocks * BLOCK_SIZE);
    rng.fill(buffer.as_mut());
    let bytes = buffer.as_ref().to_vec();
    (Rc::new(buffer), bytes)
}

async fn read<F: DiskFile>(file: &F, block: u64, count: usize) -> Vec<u8> {
    let found = file.read(block * BLOCK, count * BLOCK_SIZE).await.expect("read");
    (*found).as_ref().to_vec()
}

#[track_caller]
fn assert_kind(error: Option<DiskError>, kind: DiskErrorKind) {
    assert_eq!(error.map(|error| error.kind), Some(kind));
}
