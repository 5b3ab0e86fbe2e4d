//! A log on any disk: what its replicas rely on.

use crate::model::LogOffset;
use crate::sim::copies::{Sendable, entries_of};
use crate::sim::disk::SimDisk;
use crate::sim::rng::Rng;
use crate::sim::store::small_store;
use crate::storage::disk::Disk;
use crate::storage::{
    Append, AppendError, CommitRule, EntryKind, RawError, SpaceClass, Store, StoreConfig,
};

const SEED: u32 = 0xFEED;
const KIND: EntryKind = EntryKind(3);

fn config() -> StoreConfig {
    StoreConfig {
        ready_segments: 0,
        tail_cache_bytes: 64 << 10,
        append_budget_bytes: 128 << 10,
        commit: CommitRule::Driven,
        checksum_seed: SEED,
        ..small_store()
    }
}

/// The store, and the number of entries it found.
async fn open<D: Disk>(disk: &D) -> (Store<D>, u64) {
    let mut count = 0;
    let opening = Store::open(disk.clone(), config()).await.expect("a log that can be opened");
    let replayed = opening.replay(|_, _| {}, |_, _| count += 1).await;
    (replayed.expect("a log that can be replayed").0, count)
}

async fn write_all<D: Disk>(store: &Store<D>) {
    while store.written() < store.end() {
        store.commit_step().await.expect("a write");
    }
}

/// Appends entries of up to `size_max` bytes, writing at random times.
async fn append<D: Disk>(store: &Store<D>, count: usize, size_max: usize, rng: &mut Rng) {
    for nth in 0..count {
        let payload_size = rng.index(size_max);
        let space = SpaceClass::Ordinary;
        let append = Append { kind: KIND, subject: nth as u32, payload_size, space };
        while store.append(append, |out, _| out.fill(nth as u8)).is_err() {
            store.commit_step().await.expect("a write");
        }
        if rng.chance(1, 4) {
            write_all(store).await;
        }
    }
    write_all(store).await;
}

async fn take_all<D: Disk>(store: &Store<D>, entries: &[Sendable]) {
    for entry in entries.iter().filter(|entry| entry.at >= store.end()) {
        let mut count = 0;
        while let Err(error) = store.append_raw(&entry.bytes, |_, _| count += 1) {
            assert_eq!(error, RawError::Append(AppendError::NoRoom), "at {}", entry.at);
            store.commit_step().await.expect("a write");
        }
        assert_eq!(count, u64::from(!entry.is_filler()), "entry to apply at {}", entry.at);
    }
    write_all(store).await;
}

/// Entries that are cut off a running log are gone, immediately and for good; the rest is
/// unchanged.
pub async fn cut_entries_are_gone<D: Disk>(disk: &D) {
    let mut rng = Rng::from_seed(5);
    let (mut store, _) = open(disk).await;
    append(&store, 60, 6000, &mut rng).await;
    let before = entries_of(disk, SEED).await;
    for kept in [50, 49, 20, 0] {
        let ordinal = kept as u64;
        let mut count = 0;
        let opening = store.cut_to(ordinal).await.expect("nothing is committed");
        opening.replay(|_, _| {}, |_, _| count += 1).await.expect("a log that can be cut");
        let left = &before[..kept];
        assert_eq!(entries_of(disk, SEED).await, left, "cut to {ordinal}");
        let end = left.last().map_or(LogOffset(0), |entry| entry.end);
        let applied = left.iter().filter(|entry| !entry.is_filler()).count();
        assert_eq!((store.end(), store.durable(), count), (end, end, applied as u64));
        if kept < 50 {
            let found;
            (store, found) = open(disk).await;
            assert_eq!((store.end(), found), (end, count), "opened again");
        }
    }
    append(&store, 10, 6000, &mut rng).await;
    let end = store.end();
    assert_eq!(open(disk).await.0.end(), end, "and it continues");
}

/// A log that takes the entries of another one has the same bytes, also after it is reopened, and
/// both can be continued.
pub async fn copies_have_the_same_bytes<D: Disk>(disk: &D) {
    let mut rng = Rng::from_seed(3);
    let other_disk = SimDisk::new(1);
    let (other, _) = open(&other_disk).await;
    append(&other, 60, 6000, &mut rng).await;
    let entries = entries_of(&other_disk, SEED).await;
    assert!(other.end() > LogOffset(128 << 10), "more than two segments");

    let (store, _) = open(disk).await;
    take_all(&store, &entries).await;
    assert_eq!(entries_of(disk, SEED).await, entries, "the same bytes");
    drop(store);
    let (store, found) = open(disk).await;
    let ours = entries.iter().filter(|entry| !entry.is_filler());
    assert_eq!((store.end(), found), (other.end(), ours.count() as u64), "opened again");

    store.begin_epoch(2).expect("a later epoch");
    append(&store, 30, 6000, &mut rng).await;
    let entries = entries_of(disk, SEED).await;
    take_all(&other, &entries).await;
    assert_eq!(entries_of(&other_disk, SEED).await, entries, "and vice versa");
}
