//! What the engine does when nothing goes wrong.

use ringmq::model::LogOffset;
use ringmq::sim::{SimDisk, run};

use super::shard::{Shard, config};

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let disk = SimDisk::new(1);
    run(async {
        let shard = Shard::open(&disk, config()).await.unwrap();
        for number in 0..200 {
            shard.store.wait_for_room(3000).await;
            shard.send(number % 3, &[1000, 100, 900]).unwrap();
            shard.commit().await;
        }
        assert_eq!(shard.store.safe(), shard.store.end());
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
