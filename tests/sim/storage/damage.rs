//! Damage found by reads. It must not affect any other message.

use std::ops::Range;

use ringmq::model::{LogOffset, QueueOffset};
use ringmq::sim::{Fault, On, Operation, SimDisk, run};
use ringmq::storage::disk::{BLOCK_SIZE, Disk};
use ringmq::storage::segment::FileName;
use ringmq::storage::{Located, Lookup, ReadError, StoreConfig};

use super::shard::{Shard, config, read_record};

const HEADER: u64 = 40;

fn segment() -> String {
    FileName::Segment(LogOffset(0)).to_string()
}

/// A configuration in which nothing is read from memory.
fn cold() -> StoreConfig {
    StoreConfig { tail_cache_bytes: 0, ..config() }
}

/// Sends `count` messages of 1000 bytes, alternately to two queues.
async fn send_in_turn(shard: &Shard, count: u32) {
    for number in 0..count {
        shard.send(number % 2, &[1000]).unwrap();
        shard.commit().await;
    }
}

/// The entry of message number `index`.
fn entry_of(shard: &Shard, index: usize) -> Range<LogOffset> {
    let end = shard.sent.borrow()[index].end;
    LogOffset(end.0 - 1000 - HEADER)..end
}

async fn located(shard: &Shard, queue: u32, number: u64) -> Vec<Located> {
    match shard.locate(queue, number).await {
        Ok(Lookup::Here(found)) => found.to_vec(),
        other => panic!("queue {queue} number {number}: {other:?}"),
    }
}

async fn numbers_read(shard: &Shard, wanted: &[Located]) -> Result<Vec<u64>, ReadError> {
    let chunks = shard.store.read(wanted).await?;
    Ok(chunks.iter().map(|chunk| read_record(chunk).number).collect())
}

#[test]
fn damage_in_one_queue_leaves_the_messages_of_others_around_it_readable() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_in_turn(&shard, 12).await;
        let hole = entry_of(&shard, 5);
        disk.damage(&segment(), hole.end.0 - 500, &[0xFF; 3]);
        let found = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(found.report.damaged, [hole]);
        assert_eq!(found.read_all(0).await, Ok(6));
    });
}

/// Damage to a message while the store runs.
#[derive(Clone, Copy, Debug)]
enum Decay {
    Rot,
    BadBlock,
}

impl Decay {
    /// Applies the damage. Returns the lost offsets.
    fn strike(self, disk: &SimDisk, entry: &Range<LogOffset>) -> Range<u64> {
        let at = entry.end.0 - 500;
        match self {
            Self::Rot => {
                disk.damage(&segment(), at, &[0xFF; 3]);
                at..at + 3
            }
            Self::BadBlock => {
                let block = at / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
                disk.make_unreadable(&segment(), block);
                block..block + BLOCK_SIZE as u64
            }
        }
    }
}

/// A message rots while the log is open. Reads return the messages before it; the message itself is
/// lost, as in recovery, and readers continue after it.
#[test]
fn rot_in_an_open_log_is_skipped_noted_and_known_after_a_restart() {
    for decay in [Decay::Rot, Decay::BadBlock] {
        run(async move {
            let disk = SimDisk::new(2);
            let shard = Shard::open(&disk, cold()).await.unwrap();
            send_in_turn(&shard, 40).await;
            let lost = decay.strike(&disk, &entry_of(&shard, 20));
            let is_lost = |index: usize| {
                let entry = entry_of(&shard, index);
                lost.start < entry.end.0 && entry.start.0 < lost.end
            };
            for queue in 0..2 {
                let mut number = 0;
                let mut skipped = Vec::new();
                while number < 20 {
                    let found = match shard.locate(queue, number).await {
                        Ok(Lookup::Here(found)) => found,
                        Ok(Lookup::Lost { next }) => {
                            skipped.extend(number..next.0);
                            number = next.0;
                            continue;
                        }
                        other => panic!("{other:?}"),
                    };
                    match numbers_read(&shard, &found).await {
                        Ok(read) => {
                            let expected: Vec<u64> = (number..).take(read.len()).collect();
                            assert_eq!(read, expected);
                            number += read.len() as u64;
                        }
                        Err(error) => {
                            let at = found[0].entry_offset;
                            assert_eq!(error, ReadError::Damaged(at), "{decay:?}");
                        }
                    }
                }
                let expected =
                    (0..20).filter(|number| is_lost(2 * *number as usize + queue as usize));
                assert_eq!(skipped, expected.collect::<Vec<_>>(), "{decay:?} in queue {queue}");
            }
            let told = shard.store.take_damage();
            assert!(!told.is_empty() && shard.store.stats().damaged_bytes >= 1040, "{told:?}");
            assert_eq!(shard.store.take_damage(), []);

            shard.maintain(true).await.unwrap();
            let names: Vec<String> =
                disk.list().await.unwrap().into_iter().map(|file| file.0).collect();
            for hole in &told {
                assert!(names.contains(&FileName::Damaged(hole.clone()).to_string()), "{names:?}");
            }
            let mut noted = told.clone();
            noted.sort_unstable_by_key(|hole| hole.start);
            let again = Shard::open(&disk, cold()).await.unwrap();
            assert_eq!(again.report.damaged, noted, "{decay:?}");
        });
    }
}

#[test]
fn messages_in_a_hole_found_later_disappear_despite_their_index_file() {
    run(async {
        let disk = SimDisk::new(3);
        let shard = Shard::open(&disk, cold()).await.unwrap();
        while shard.store.stats().segment_count < 2 {
            while !shard.store.has_room(1000) {
                shard.store.commit_step().await.unwrap();
            }
            shard.send(0, &[1000]).unwrap();
            shard.commit().await;
        }
        shard.maintain(true).await.unwrap();
        Decay::Rot.strike(&disk, &entry_of(&shard, 7));
        let wanted = located(&shard, 0, 7).await;
        assert!(matches!(numbers_read(&shard, &wanted).await, Err(ReadError::Damaged(_))));
        shard.maintain(false).await.unwrap();
        let again = Shard::open(&disk, cold()).await.unwrap();
        for shard in [&shard, &again] {
            let next = QueueOffset(8);
            assert_eq!(shard.locate(0, 7).await, Ok(Lookup::Lost { next }));
            let before = located(shard, 0, 0).await;
            assert_eq!(numbers_read(shard, &before).await, Ok((0..7).collect()));
            let at = shard.store.offset_by_time(super::shard::key(0), Default::default(), false);
            assert_eq!(at.await, Ok(QueueOffset(0)), "the hole does not hide earlier messages");
        }
    });
}

#[test]
fn a_bad_block_after_a_message_does_not_affect_it() {
    run(async {
        let disk = SimDisk::new(4);
        let shard = Shard::open(&disk, cold()).await.unwrap();
        // Two records in one entry, so that the read must continue to the entry's end.
        shard.send(0, &[3000, 3000]).unwrap();
        shard.commit().await;
        send_in_turn(&shard, 20).await;
        disk.make_unreadable(&segment(), 2 * BLOCK_SIZE as u64);
        let wanted = located(&shard, 0, 0).await;
        assert_eq!(numbers_read(&shard, &wanted[..1]).await, Ok(vec![0]));
        let by_place = shard.store.read_entry_at(wanted[0].offset).await;
        assert_eq!(by_place.map(|found| found.rest.len()), Ok(6000));
        assert_eq!(shard.store.take_damage(), []);
    });
}

/// Start of the payload of message `index`, if all messages have 1000 bytes.
fn payload_of(index: u64) -> LogOffset {
    LogOffset(index * (1000 + HEADER) + HEADER)
}

#[test]
fn a_message_after_damage_is_found_by_its_offset() {
    run(async {
        let disk = SimDisk::new(5);
        let shard = Shard::open(&disk, cold()).await.unwrap();
        send_in_turn(&shard, 20).await;
        Decay::Rot.strike(&disk, &entry_of(&shard, 7));
        let again = Shard::open(&disk, cold()).await.unwrap();
        for shard in [&shard, &again] {
            let behind = shard.store.read_entry_at(payload_of(8)).await;
            assert_eq!(behind.map(|found| found.rest.len()), Ok(1000));
        }
        assert!(again.store.read_entry_at(payload_of(7)).await.is_err());
    });
}

/// A queue that gets one message in a hundred.
#[test]
fn reads_of_a_sparse_queue_hold_little_more_memory_than_their_messages() {
    for (others, size) in [(99, 1024), (20, 1024), (0, 100)] {
        run(async move {
            let disk = SimDisk::new(7);
            let large =
                StoreConfig { segment_size: 16 << 20, append_budget_bytes: 4 << 20, ..cold() };
            let shard = Shard::open(&disk, large).await.unwrap();
            for _ in 0..32 {
                shard.send(0, &[size]).unwrap();
                for _ in 0..others {
                    shard.send(1, &[1024]).unwrap();
                }
                shard.commit().await;
            }
            let found = located(&shard, 0, 0).await;
            let chunks = shard.store.read(&found).await.unwrap();
            assert_eq!(chunks.len(), 32);
            let wanted: usize = chunks.iter().map(|chunk| chunk.len()).sum();
            for chunk in &chunks {
                assert!(chunk.buffer_size() <= 4 * wanted, "{} of {wanted}", chunk.buffer_size());
            }
        });
    }
}

/// A device on which all reads fail has not lost any data yet.
#[test]
fn a_device_that_fails_temporarily_damages_nothing() {
    run(async {
        let disk = SimDisk::new(6);
        let shard = Shard::open(&disk, cold()).await.unwrap();
        send_in_turn(&shard, 6).await;
        let wanted = located(&shard, 0, 0).await;
        for _ in 0..200 {
            disk.inject(On::nth(Operation::Read, 0), Fault::io_error());
        }
        let failed = numbers_read(&shard, &wanted).await;
        assert!(matches!(failed, Err(ReadError::Fault(_))), "{failed:?}");
        while disk.faults_left() > 0 {
            // The device may recover during these reads.
            numbers_read(&shard, &wanted).await.ok();
        }
        assert_eq!(numbers_read(&shard, &wanted).await, Ok(vec![0, 1, 2]));
        assert_eq!(shard.store.take_damage(), []);
    });
}
