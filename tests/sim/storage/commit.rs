//! Logs whose owner advances the committed watermark, because other replicas also count.

use ringmq::model::LogOffset;
use ringmq::sim::{SimDisk, run};
use ringmq::storage::{CommitRule, Flush, ReadError, StoreConfig};

use super::shard::{Shard, config};

fn driven(flush: Flush) -> StoreConfig {
    StoreConfig { commit: CommitRule::Driven, flush, ..config() }
}

/// Whether the first message can be read by its place and size, and by its place alone.
async fn readable(shard: &Shard) -> [bool; 2] {
    let sent = shard.sent.borrow()[0];
    let at = LogOffset(sent.end.0 - 1000);
    let found = shard.store.read_entry_at(at).await;
    assert!(matches!(found, Ok(_) | Err(ReadError::Gone(_))), "{found:?}");
    [shard.store.cached(at, 1000).is_some(), found.is_ok()]
}

#[test]
fn nothing_is_readable_or_acknowledged_before_it_is_committed() {
    for flush in [Flush::Sync, Flush::Async] {
        run(async {
            let shard = Shard::open(&SimDisk::new(1), driven(flush)).await.unwrap();
            let first = shard.send(0, &[1000]).unwrap();
            shard.send(0, &[1000]).unwrap();
            shard.commit().await;
            shard.store.sync().await.unwrap();
            let end = shard.store.end();
            assert_eq!((shard.store.written(), shard.store.durable()), (end, end));
            assert_eq!(shard.store.committed(), LogOffset(0));
            assert_eq!(readable(&shard).await, [false; 2]);
            shard.store.commit_to(first.end);
            assert_eq!(shard.store.committed(), first.end);
            assert_eq!(readable(&shard).await, [true; 2]);
            assert!(shard.store.reached(first.end).await);
        });
    }
}

/// A majority may store an entry before this disk does.
#[test]
fn entries_committed_elsewhere_are_committed_here_once_written() {
    run(async {
        let shard = Shard::open(&SimDisk::new(1), driven(Flush::Sync)).await.unwrap();
        let sent = shard.send(0, &[1000]).unwrap();
        shard.store.commit_to(sent.end);
        assert_eq!(shard.store.committed(), shard.store.written());
        assert!(shard.store.committed() < sent.end);
        shard.commit().await;
        assert_eq!(shard.store.committed(), sent.end);
    });
}

#[test]
fn after_a_restart_entries_after_the_snapshot_wait_for_the_owner() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, driven(Flush::Sync)).await.unwrap();
        let first = shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        shard.store.commit_to(first.end);
        let snapshot = shard.maintain(true).await.unwrap().snapshot;
        assert_eq!(snapshot, Some(first.end));
        shard.send(0, &[1000]).unwrap();
        shard.commit().await;
        drop(shard);
        let found = Shard::open(&disk, driven(Flush::Sync)).await.unwrap();
        assert_eq!(found.store.committed(), first.end);
        assert!(found.store.durable() > first.end);
        assert_eq!(found.sent.borrow().len(), 2, "uncommitted entries are replayed too");
        found.store.commit_to(found.store.end());
        found.read(0, 1).await.unwrap();
    });
}

#[test]
#[should_panic(expected = "committed moves on")]
fn the_committed_mark_never_moves_back() {
    run(async {
        let shard = Shard::open(&SimDisk::new(1), driven(Flush::Sync)).await.unwrap();
        let first = shard.send(0, &[1000]).unwrap();
        let second = shard.send(0, &[1000]).unwrap();
        shard.store.commit_to(second.end);
        shard.store.commit_to(first.end);
    });
}
