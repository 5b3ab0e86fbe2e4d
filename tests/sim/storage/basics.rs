//! The engine without faults.

use ringmq::model::LogOffset;
use ringmq::sim::{SimDisk, run};
use ringmq::storage::{Append, EntryKind, SpaceClass, Store};

use super::shard::{Shard, config, messages_of};

#[test]
fn entries_are_there_after_a_restart() {
    let disk = SimDisk::new(1);
    run(async {
        let shard = Shard::open(&disk, config()).await.unwrap();
        for number in 0..200 {
            let send = || shard.send(number % 3, &[1000, 100, 900]);
            shard.store.with_room(2000, send).await.unwrap();
            shard.commit().await;
        }
        assert_eq!(shard.store.committed(), shard.store.end());
        let reopened = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(reopened.report.torn_bytes, 0);
        assert_eq!(reopened.report.damaged, []);
        assert_eq!(reopened.report.end, shard.store.end());
        assert_eq!(reopened.sent.borrow().len(), 600);
        for sent in shard.sent.take() {
            reopened.read(sent.queue, sent.number).await.unwrap();
        }
    });
}

#[test]
fn tail_cache_and_cold_read_give_the_same_bytes() {
    let disk = SimDisk::new(2);
    run(async {
        let shard = Shard::open(&disk, config()).await.unwrap();
        for _ in 0..5 {
            shard.send(0, &[500, 700]).unwrap();
            shard.commit().await;
        }
        let mut uncached = config();
        uncached.tail_cache_bytes = 0;
        let other = Shard::open(&disk, uncached).await.unwrap();
        for number in 0..10 {
            let warm = shard.read(0, number).await.unwrap();
            let cold = other.read(0, number).await.unwrap();
            assert_eq!(*warm, *cold);
        }
        assert!(shard.store.cached(LogOffset(0), 8).is_some());
        assert!(other.store.cached(LogOffset(0), 8).is_none());
    });
}

/// Storage interprets only the filler. It replays all other kinds, even from below the snapshot if no
/// index file covers them.
#[test]
fn every_kind_of_entry_is_replayed() {
    let disk = SimDisk::new(3);
    run(async {
        let (store, _) = Store::open(disk.clone(), config())
            .await
            .unwrap()
            .replay(messages_of, |_, entry| panic!("{entry:?}"))
            .await
            .unwrap();
        let append = |kind| {
            let append = Append {
                kind: EntryKind(kind),
                subject: u32::from(kind) + 1,
                payload_size: 3,
                space: SpaceClass::Reserved,
            };
            store.append(append, |payload, _| payload.fill(kind)).unwrap()
        };
        let snapshot_at = append(77).end;
        let commit = async || {
            while store.committed() < store.end() {
                store.commit_step().await.unwrap();
            }
        };
        commit().await;
        store.maintain(Default::default(), true, Vec::new).await.unwrap();
        append(3);
        append(255);
        commit().await;

        let mut found = Vec::new();
        let mut last = (LogOffset(0), 0);
        let opening = Store::open(disk.clone(), config()).await.unwrap();
        let replay = opening.replay(messages_of, |_, entry| {
            assert_eq!(entry.payload, [entry.kind.0; 3]);
            assert!(entry.entry_offset >= last.0 && entry.ordinal > last.1);
            last = (entry.end, entry.ordinal);
            assert_eq!(entry.in_snapshot, entry.entry_offset < snapshot_at);
            found.push((entry.kind.0, entry.subject, entry.in_snapshot));
        });
        replay.await.unwrap();
        assert_eq!(found, [(77, 78, true), (3, 4, false), (255, 256, false)]);
    });
}
