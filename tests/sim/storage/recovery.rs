//! Single cases of recovery.

use ringmq::model::LogOffset;
use ringmq::sim::{SimDisk, run};
use ringmq::storage::disk::{BLOCK_SIZE, Disk, DiskFile, Durability};
use ringmq::storage::entry::entry_size;
use ringmq::storage::segment::FileName;
use ringmq::storage::{Epoch, EpochError, Flush, Lookup, OpenError, ReadError, StoreConfig};

use super::shard::{MESSAGES, Shard, config, key};

const HEADER: u64 = 40;

fn segment(base: u64) -> String {
    FileName::Segment(LogOffset(base)).to_string()
}

/// Sends `count` messages of `size` bytes, each committed before the next.
async fn send_each(shard: &Shard, count: usize, size: usize) {
    for _ in 0..count {
        shard.send(0, &[size]).unwrap();
        shard.commit().await;
    }
}

async fn names(disk: &SimDisk) -> Vec<String> {
    let mut names: Vec<String> =
        disk.list().await.unwrap().into_iter().map(|file| file.0).collect();
    names.sort_unstable();
    names
}

/// A message after a torn one stays on disk when the log is cut. The next life writes exactly up to its
/// start, with matching ordinals. The message must not reappear.
#[test]
fn an_entry_of_an_earlier_life_never_continues_the_log() {
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, config()).await.unwrap();
        // Up to the end of the first block.
        send_each(&shard, 1, BLOCK_SIZE - HEADER as usize).await;
        // Two entries that fill the second block, and one in the third, all in flight together.
        shard.send(0, &[2000]).unwrap();
        shard.send(0, &[BLOCK_SIZE - 2000 - 2 * HEADER as usize]).unwrap();
        let left_over = shard.send(0, &[3000]).unwrap();
        assert_eq!(left_over.entry_offset, LogOffset(2 * BLOCK_SIZE as u64));
        shard.commit().await;
        disk.damage(&segment(0), BLOCK_SIZE as u64, &[0; BLOCK_SIZE]);

        let second = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(second.report.damaged, []);
        assert_eq!(second.report.end, LogOffset(BLOCK_SIZE as u64));
        assert_eq!(second.report.torn_bytes, left_over.end.0 - BLOCK_SIZE as u64);
        // Two new entries of the same epoch fill the second block again.
        second.send(0, &[504]).unwrap();
        let filled = second.send(0, &[BLOCK_SIZE - 504 - 2 * HEADER as usize]).unwrap();
        assert_eq!(filled.end, left_over.entry_offset);
        second.commit().await;

        let third = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(third.report.end, filled.end);
        assert_eq!(third.sent.borrow().len(), 3);
    });
}

/// A device that loses the newest write of a block returns the entry of an earlier life. That entry is
/// intact, has the right offset and even the right ordinal, and the next entry follows it directly. Only
/// the next entry's ordinal shows that entries are missing in between.
#[test]
pub fn the_next_ordinal_reveals_a_block_that_reverted_to_an_earlier_life() {
    const BLOCK: u64 = BLOCK_SIZE as u64;
    let filling = |entries: usize| BLOCK_SIZE - entries * HEADER as usize;
    run(async {
        let disk = SimDisk::new(13);
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_each(&shard, 1, filling(1)).await;
        send_each(&shard, 1, filling(1)).await;
        let earlier = disk.contents(&segment(0)).unwrap()[BLOCK_SIZE..2 * BLOCK_SIZE].to_vec();
        disk.damage(&segment(0), BLOCK, &[0; BLOCK_SIZE]);

        let second = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(second.report.end, LogOffset(BLOCK), "that block is free again");
        // Two entries fill it.
        second.send(0, &[1000]).unwrap();
        second.send(0, &[filling(2) - 1000]).unwrap();
        second.commit().await;
        send_each(&second, 2, 500).await;
        disk.damage(&segment(0), BLOCK, &earlier);

        let third = Shard::open(&disk, config()).await.unwrap();
        let gap = LogOffset(2 * BLOCK)..LogOffset(2 * BLOCK + entry_size(500) as u64);
        assert_eq!(third.report.damaged, [gap], "lost acknowledged messages are reported");
        assert_eq!(third.report.end, second.store.end());
    });
}

/// Damages one bit of message `number` of 20 and opens the log again.
async fn rot(disk: &SimDisk, number: usize) -> (Shard, std::ops::Range<LogOffset>) {
    let shard = Shard::open(disk, config()).await.unwrap();
    send_each(&shard, 20, 1000).await;
    let size = 1000 + HEADER;
    let end = shard.sent.borrow()[number].end;
    let at = end.0 - 500;
    let bit = disk.contents(&segment(0)).unwrap()[at as usize] ^ 0x10;
    disk.damage(&segment(0), at, &[bit]);
    let found = Shard::open(disk, config()).await.unwrap();
    (found, LogOffset(end.0 - size)..end)
}

#[test]
pub fn rot_in_the_middle_is_quarantined_and_the_rest_is_served() {
    run(async {
        let disk = SimDisk::new(2);
        let (shard, hole) = rot(&disk, 7).await;
        assert_eq!(shard.report.damaged, std::slice::from_ref(&hole));
        assert_eq!(shard.report.torn_bytes, 0);
        let text = shard.report.to_string();
        assert!(text.contains(&format!("log offsets {} to {}", hole.start, hole.end)), "{text}");
        assert!(names(&disk).await.contains(&FileName::Damaged(hole.clone()).to_string()));

        let lookup = shard.locate(0, 7).await.unwrap();
        assert_eq!(lookup, Lookup::Lost { next: ringmq::model::QueueOffset(8) });
        for number in (0..7).chain(8..20) {
            shard.read(0, number).await.unwrap();
        }
        let missing = shard.store.read_entry_at(hole.start.plus(HEADER)).await;
        assert!(matches!(missing, Err(ReadError::Damaged(_))), "{missing:?}");
        assert_eq!(shard.store.stats().damaged_bytes, hole.end.0 - hole.start.0);

        // A later start that skips the replay thanks to a snapshot still reports it. Its bytes are kept.
        shard.maintain(true).await.unwrap();
        send_each(&shard, 1, 1000).await;
        let again = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(again.report.damaged, [hole]);
        again.read(0, 20).await.unwrap();
    });
}

/// The last message was acknowledged. A snapshot proves it, but no later entry does.
#[test]
fn a_snapshot_proves_the_last_message_durable() {
    run(async {
        let disk = SimDisk::new(3);
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_each(&shard, 3, 1000).await;
        shard.maintain(true).await.unwrap();
        let end = shard.store.end();
        disk.damage(&segment(0), end.0 - 500, &[0xFF; 8]);
        let found = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(found.report.damaged, [LogOffset(end.0 - 1040)..end]);
        assert_eq!(found.report.end, end);
        let next = found.store.with_index(|index| index.next_offset(key(0)));
        assert_eq!(next.0, 3, "the number of the lost message is not reused");
        send_each(&found, 2, 1000).await;
        let again = Shard::open(&disk, config()).await.unwrap();
        again.read(0, 4).await.unwrap();
    });
}

#[test]
fn rot_of_the_last_entry_is_a_torn_tail_of_that_many_bytes() {
    run(async {
        let disk = SimDisk::new(4);
        let (shard, hole) = rot(&disk, 19).await;
        assert_eq!(shard.report.damaged, []);
        assert_eq!((shard.report.end, shard.report.torn_bytes), (hole.start, 1040));
    });
}

/// Lets `ms` pass, with background work every 100 ms.
async fn pass_ms(shard: &Shard, ms: u64) {
    for _ in 0..ms / 100 {
        shard.now.set(shard.now.get() + 100);
        shard.maintain(false).await.unwrap();
        shard.commit().await;
    }
}

/// Twenty messages share one group commit and are all acknowledged. Once the log has been idle, a
/// rotten one counts as damage, as in the middle of the log, and does not affect the others.
#[test]
fn rot_in_the_last_group_is_damage_once_the_log_was_idle() {
    for flush in [Flush::Sync, Flush::Async] {
        for number in [0, 7, 19] {
            run(async move {
                let config = StoreConfig { flush, ..config() };
                let disk = SimDisk::new(23);
                let shard = Shard::open(&disk, config.clone()).await.unwrap();
                for _ in 0..20 {
                    shard.send(0, &[1000]).unwrap();
                }
                shard.commit().await;
                pass_ms(&shard, if flush == Flush::Sync { 200 } else { 700 }).await;
                let end = shard.sent.borrow()[number].end;
                disk.damage(&segment(0), end.0 - 500, &[0xFF; 3]);
                let found = Shard::open(&disk, config).await.unwrap();
                assert_eq!(found.report.damaged, [LogOffset(end.0 - 1040)..end], "{flush:?}");
                assert_eq!(found.report.torn_bytes, 0, "{flush:?}");
                assert_eq!(found.sent.borrow().len(), 19, "{flush:?}");
            });
        }
    }
}

/// Without proof that the group was acknowledged it is cut; its intact entries are kept in a file.
#[test]
fn a_cut_tail_with_intact_entries_is_kept_beside_the_log() {
    run(async {
        let disk = SimDisk::new(25);
        let shard = Shard::open(&disk, config()).await.unwrap();
        for _ in 0..20 {
            shard.send(0, &[1000]).unwrap();
        }
        shard.commit().await;
        let ends: Vec<LogOffset> = shard.sent.borrow().iter().map(|sent| sent.end).collect();
        disk.damage(&segment(0), ends[3].0 - 500, &[0xFF; 3]);
        let found = Shard::open(&disk, config()).await.unwrap();
        assert_eq!((found.report.end, found.report.torn_bytes), (ends[2], 17 * 1040));
        assert_eq!(found.report.tail_kept, Some(ends[2]));
        let copy = disk.contents(&FileName::Cut(ends[2]).to_string()).unwrap();
        let third = (ends[4].0 - 1000 - ends[2].0) as usize;
        assert_eq!(super::shard::read_record(&copy[third..]).number, 4);

        let again = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(again.report.tail_kept, None, "the next start does not report it again");
        let torn = SimDisk::new(26);
        let (rotten, _) = rot(&torn, 19).await;
        assert_eq!(rotten.report.tail_kept, None, "nothing of that tail is intact");
    });
}

/// Starts, stops and idle time add nothing to the log.
#[test]
fn a_log_without_appends_keeps_every_byte() {
    run(async {
        let disk = SimDisk::new(24);
        let segments = async || {
            let mut found = Vec::new();
            for name in names(&disk).await {
                if matches!(FileName::parse(&name), Some(FileName::Segment(_))) {
                    found.push((name.clone(), disk.contents(&name)));
                }
            }
            found
        };
        let shard = Shard::open(&disk, config()).await.unwrap();
        while shard.store.end().0 < 150_000 {
            match shard.send(0, &[3000]) {
                Ok(_) => shard.commit().await,
                Err(_) => _ = shard.store.commit_step().await.unwrap(),
            }
            shard.maintain(false).await.unwrap();
        }
        let (end, before) = (shard.store.end(), segments().await);
        let writes = shard.store.stats().writes;
        pass_ms(&shard, 5000).await;
        shard.maintain(true).await.unwrap();
        drop(shard);
        for _ in 0..3 {
            let again = Shard::open(&disk, config()).await.unwrap();
            assert_eq!((again.store.end(), again.report.epoch), (end, 1));
            pass_ms(&again, 1000).await;
            again.maintain(true).await.unwrap();
            assert!(again.store.stats().writes == 0 && writes > 0);
            assert_eq!(segments().await, before);
        }
    });
}

#[test]
fn an_idle_log_is_proved_once() {
    run(async {
        let disk = SimDisk::new(24);
        let shard = Shard::open(&disk, config()).await.unwrap();
        let proof = || disk.contents(&FileName::EndProof.to_string()).unwrap();
        let opened = proof();
        pass_ms(&shard, 1000).await;
        assert_eq!(proof(), opened, "opening has written a proof of the log");
        for _ in 0..3 {
            let before = proof();
            send_each(&shard, 1, 1000).await;
            pass_ms(&shard, 200).await;
            let idle = proof();
            let changed = (0..2).filter(|&block| {
                let block = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
                idle[block.clone()] != before[block]
            });
            assert_eq!(changed.count(), 1, "the other copy stays intact if this write is torn");
            pass_ms(&shard, 60_000).await;
            assert_eq!(proof(), idle);
        }
        send_each(&shard, 1, 1000).await;
        shard.maintain(true).await.unwrap();
        let before = proof();
        pass_ms(&shard, 1000).await;
        assert_eq!(proof(), before, "the snapshot proves it");
    });
}

#[test]
fn a_damaged_or_missing_proof_is_no_error() {
    run(async {
        let name = FileName::EndProof.to_string();
        for damaged in [vec![], vec![0], vec![1], vec![0, 1]] {
            let disk = SimDisk::new(24);
            let shard = Shard::open(&disk, config()).await.unwrap();
            for _ in 0..2 {
                send_each(&shard, 2, 1000).await;
                pass_ms(&shard, 200).await;
            }
            match damaged.is_empty() {
                true => disk.remove(&name).await.unwrap(),
                false => {
                    damaged.iter().for_each(|block| disk.damage(&name, block * 4096 + 30, &[9]))
                }
            }
            let found = Shard::open(&disk, config()).await.unwrap();
            assert_eq!((found.report.end, found.report.torn_bytes), (shard.store.end(), 0));
            assert_eq!(found.report.damaged, []);
        }
    });
}

#[test]
fn a_log_is_not_opened_with_a_lower_epoch() {
    run(async {
        let disk = SimDisk::new(24);
        let given = |epoch| StoreConfig { epoch: Epoch::Given(epoch), ..config() };
        let shard = Shard::open(&disk, given(7)).await.unwrap();
        assert_eq!(shard.report.epoch, 7);
        send_each(&shard, 1, 100).await;
        let refused = Shard::open(&disk, given(6)).await.err();
        assert_eq!(refused, Some(EpochError { given: 6, found: 7 }.into()));
        for (config, epoch) in [(config(), 7), (given(7), 7), (given(9), 9), (config(), 7)] {
            assert_eq!(Shard::open(&disk, config).await.unwrap().report.epoch, epoch);
        }
    });
}

/// All replicas of a log have the same segments, so an incomplete file must not become one.
#[test]
fn an_incomplete_first_segment_is_replaced() {
    run(async {
        let disk = SimDisk::new(15);
        disk.create(&segment(0), 5 * BLOCK_SIZE as u64).await.unwrap();
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_each(&shard, 10, 3000).await;
        assert_eq!(disk.contents(&segment(0)).unwrap().len() as u64, config().segment_size);
        assert_eq!(Shard::open(&disk, config()).await.unwrap().sent.borrow().len(), 10);
    });
}

/// Fills a little more than three segments, with index files and snapshots.
async fn several_segments(disk: &SimDisk) -> Shard {
    let shard = Shard::open(disk, config()).await.unwrap();
    while shard.store.end().0 < 200_000 {
        while !shard.store.has_room(3000) {
            shard.store.commit_step().await.unwrap();
        }
        let queue = shard.sent.borrow().len() as u32 / 2 % 3;
        shard.send(queue, &[1000, 2000]).unwrap();
        shard.commit().await;
        shard.maintain(false).await.unwrap();
    }
    shard
}

async fn read_everything(shard: &Shard) -> u64 {
    let mut count = 0;
    for queue in 0..3 {
        count += shard.read_all(queue).await.unwrap();
    }
    count
}

#[test]
fn lost_and_damaged_index_files_are_rebuilt() {
    run(async {
        let disk = SimDisk::new(5);
        let shard = several_segments(&disk).await;
        let count = shard.sent.borrow().len() as u64;
        let index = |base| FileName::Index(LogOffset(base)).to_string();
        let clean = Shard::open(&disk, config()).await.unwrap();
        assert_eq!((clean.report.indexes_rebuilt, read_everything(&clean).await), (0, count));

        disk.remove(&index(0)).await.unwrap();
        disk.damage(&index(65_536), 100, &[0xFF; 8]);
        disk.damage(&index(131_072), 4096 + 50, &[0xFF; 8]);
        let rebuilt = Shard::open(&disk, config()).await.unwrap();
        // Damage to the directory of the third is found when it is read.
        assert_eq!((rebuilt.report.indexes_rebuilt, read_everything(&rebuilt).await), (2, count));
        assert_eq!(rebuilt.store.take_rebuilt().len(), 3);
        assert_eq!(rebuilt.maintain(false).await.unwrap().indexes_written, 3);

        let clean = Shard::open(&disk, config()).await.unwrap();
        assert_eq!((clean.report.indexes_rebuilt, read_everything(&clean).await), (0, count));
    });
}

#[test]
pub fn an_older_snapshot_replaces_a_damaged_or_unreadable_one() {
    run(async {
        let disk = SimDisk::new(7);
        let shard = several_segments(&disk).await;
        shard.note_offsets().unwrap();
        shard.commit().await;
        let newest = shard.maintain(true).await.unwrap().snapshot.unwrap();
        let count = shard.sent.borrow().len() as u64;
        let name = FileName::Snapshot(newest).to_string();
        for is_readable in [true, false] {
            let disk = disk.after_kill(7);
            match is_readable {
                true => disk.damage(&name, 50, &[0xFF; 8]),
                false => disk.make_unreadable(&name, 0),
            }
            let found = Shard::open(&disk, config()).await.unwrap();
            assert_eq!(found.report.snapshots_damaged, [newest]);
            assert!(found.report.snapshot.unwrap() < newest);
            assert_eq!((found.offsets.get(), read_everything(&found).await), (1, count));
        }
    });
}

#[test]
fn a_log_without_its_beginning_or_without_segments_is_refused() {
    run(async {
        let disk = SimDisk::new(8);
        several_segments(&disk).await;
        let segments = names(&disk).await.into_iter().filter(|name| !name.contains('.'));
        let missing = disk.after_kill(1);
        for name in segments {
            missing.remove(&name).await.unwrap();
        }
        let refused = Shard::open(&missing, config()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, OpenError::LogMissing { .. }), "{refused}");

        disk.remove(&segment(0)).await.unwrap();
        let beheaded = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(beheaded.report.damaged, [], "retention also removes the oldest segments");
        for name in names(&disk).await.into_iter().filter(|name| name.ends_with(".snapshot")) {
            disk.remove(&name).await.unwrap();
        }
        let refused = Shard::open(&disk, config()).await.map(|_| ()).unwrap_err();
        assert_eq!(refused, OpenError::NoSnapshot { begin: LogOffset(65_536) });
    });
}

#[test]
fn a_missing_segment_is_damage() {
    run(async {
        let disk = SimDisk::new(9);
        several_segments(&disk).await;
        disk.remove(&segment(65_536)).await.unwrap();
        let found = Shard::open(&disk, config()).await.unwrap();
        assert_eq!(found.report.damaged, [LogOffset(65_536)..LogOffset(131_072)]);
        let lost = found.locate(0, 0).await;
        assert!(matches!(lost, Ok(Lookup::Here(_))), "{lost:?}");
        assert_eq!(Shard::open(&disk, config()).await.unwrap().report.damaged.len(), 1);
    });
}

#[test]
fn a_log_of_another_shard_is_refused_and_not_changed() {
    run(async {
        let disk = SimDisk::new(10);
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_each(&shard, 3, 1000).await;
        let mut other = config();
        other.checksum_seed += 1;
        let before = disk.contents(&segment(0));
        for force_snapshot in [false, true] {
            if force_snapshot {
                shard.maintain(true).await.unwrap();
            }
            let refused = Shard::open(&disk, other.clone()).await.map(|_| ()).unwrap_err();
            assert_eq!(refused, OpenError::Foreign { at: LogOffset(0) });
        }
        assert_eq!(disk.contents(&segment(0)), before, "the file is unchanged");
        assert!(Shard::open(&disk, config()).await.unwrap().report.snapshot.is_some());
    });
}

#[test]
fn an_unreadable_block_is_a_hole_and_never_the_end_of_the_log() {
    use ringmq::sim::{Fault, On, Operation};
    run(async {
        let disk = SimDisk::new(11);
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_each(&shard, 3, 1000).await;
        // The last block is unreadable, even in a read of its own.
        for skip in 0..2 {
            let on = On { operation: Operation::Read, name_start: "0000000", skip };
            disk.inject(on, Fault::io_error());
        }
        let refused = Shard::open(&disk, config()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, OpenError::Unreadable { position: 0, .. }), "{refused}");
        assert!(refused.to_string().contains("restore the segment file"), "{refused}");
        let found = Shard::open(&disk, config()).await.unwrap();
        assert_eq!((found.report.torn_bytes, found.sent.borrow().len()), (0, 3));
    });
}

/// The last block of the log is unreadable. The error tells the operator how to discard it.
#[test]
fn a_log_whose_last_block_is_unreadable_opens_once_it_is_overwritten() {
    run(async {
        let disk = SimDisk::new(14);
        let shard = Shard::open(&disk, config()).await.unwrap();
        send_each(&shard, 10, 1000).await;
        let block = shard.store.end().0 / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
        disk.make_unreadable(&segment(0), block);
        let refused = Shard::open(&disk, config()).await.map(|_| ()).unwrap_err();
        let OpenError::Unreadable { at, ref file, position, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!((at, file, position), (LogOffset(block), &segment(0), block));
        assert!(refused.to_string().contains(&format!("of={file} bs=4096")), "{refused}");

        let zeros = disk.buffer(BLOCK_SIZE);
        let file = disk.open(file).await.unwrap();
        file.write(position, zeros.into(), Durability::Durable).await.unwrap();
        let found = Shard::open(&disk, config()).await.unwrap();
        assert!(found.sent.borrow().len() >= 6, "{}", found.report);
    });
}

#[test]
fn an_entry_is_found_by_any_offset_in_it() {
    run(async {
        let disk = SimDisk::new(12);
        let shard = several_segments(&disk).await;
        let reopened = Shard::open(&disk, config()).await.unwrap();
        for shard in [&shard, &reopened] {
            for sent in shard.sent.take().iter().step_by(2) {
                let at = LogOffset(sent.end.0 - 3000);
                let found = shard.store.read_entry_at(at).await.unwrap();
                assert_eq!((found.kind, found.rest.len()), (MESSAGES, 3000));
                assert_eq!(super::shard::read_record(&found.rest).number, sent.number);
                let header = shard.store.read_entry_at(found.entry_offset).await.map(|_| ());
                assert_eq!(header, Err(ReadError::Gone(found.entry_offset)));
            }
            let beyond = shard.store.end();
            let refused = shard.store.read_entry_at(beyond).await.map(|_| ());
            assert_eq!(refused, Err(ReadError::Gone(beyond)));
            let huge = LogOffset(u64::MAX);
            assert!(shard.store.read_entry_at(huge).await.is_err());
        }
    });
}

/// Entries of several buffers and of two segments, some of them no longer in memory.
#[test]
fn an_entry_in_memory_is_the_entry_on_the_disk() {
    run(async {
        let disk = SimDisk::new(13);
        let shard = Shard::open(&disk, config()).await.unwrap();
        for sizes in [[300; 4], [2000; 4], [40, 900, 40, 3000]].iter().cycle().take(30) {
            shard.send(0, sizes).unwrap();
            shard.send(1, &sizes[..1]).unwrap();
            shard.commit().await;
        }
        let reopened = Shard::open(&disk, config()).await.unwrap();
        let end = shard.store.end();
        assert!(end.0 > config().segment_size);
        let (mut in_memory, mut newest) = (0, None);
        for at in (0..end.0).step_by(8).map(LogOffset) {
            let Some(cached) = shard.store.cached_entry_at(at) else { continue };
            let found = reopened.store.read_entry_at(at).await.unwrap();
            assert_eq!((cached.kind, cached.entry_offset), (found.kind, found.entry_offset));
            assert!(*cached.rest == *found.rest, "{at:?}");
            in_memory += 1;
            newest = Some(cached.entry_offset);
        }
        assert!(in_memory > 100, "{in_memory}");
        let last = shard.sent.borrow().last().unwrap().end;
        assert_eq!(
            newest,
            reopened.store.read_entry_at(LogOffset(last.0 - 8)).await.ok().map(|e| e.entry_offset)
        );
        assert!(shard.store.cached_entry_at(end).is_none());
    });
}
