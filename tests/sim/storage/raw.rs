//! Logs that append entries of another replica unchanged.

use ringmq::model::LogOffset;
use ringmq::sim::copies::{Sendable, entries_on};
use ringmq::sim::{Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::entry::Entry;
use ringmq::storage::{
    AppendError, CommitRule, EpochError, Flush, RawError, RawReader, StoreConfig, split_at_segment,
};

use super::shard::{SEED, Shard, config, key};

const QUEUES: u32 = 3;

fn driven() -> StoreConfig {
    StoreConfig { commit: CommitRule::Driven, ..config() }
}

/// A shard with its own committers.
struct Node {
    shard: Shard,
    disk: SimDisk,
    tasks: Tasks<'static>,
}

impl Node {
    fn open(disk: SimDisk, seed: u64) -> Self {
        let shard = run(Shard::open(&disk, driven())).unwrap();
        let tasks = Tasks::new(seed);
        shard.spawn_committers(&tasks);
        disk.slow(1 + seed as u32 % 4);
        Self { shard, disk, tasks }
    }

    fn reopened(self, seed: u64) -> Self {
        let disk = self.disk.after_kill(seed);
        drop(self);
        Self::open(disk, seed)
    }

    fn entries(&self) -> Vec<Sendable> {
        entries_on(&self.disk, SEED)
    }

    /// Appends entries of random sizes in a new epoch, with several writes in flight.
    fn lead(&self, count: usize, rng: &mut Rng) {
        let Self { shard, tasks, .. } = self;
        shard.store.begin_epoch(shard.store.epoch() + 1).unwrap();
        tasks.run_until(async {
            for _ in 0..count {
                if rng.chance(1, 8) {
                    shard.store.with_room(8, || shard.note_offsets()).await.unwrap();
                }
                let size_max = if rng.chance(1, 10) { 15_000 } else { 3000 };
                let sizes: Vec<usize> =
                    (0..1 + rng.index(3)).map(|_| 24 + rng.index(size_max)).collect();
                let queue = rng.below(u64::from(QUEUES)) as u32;
                let send = || shard.send(queue, &sizes);
                shard.store.with_room(sizes.iter().sum(), send).await.unwrap();
                if rng.coin() {
                    pause().await;
                }
            }
            shard.store.drained().await;
        });
    }

    fn follow(&self, entries: &[Sendable], rng: &mut Rng) {
        self.tasks.run_until(async {
            follow(&self.shard, &self.disk, entries, rng).await;
            self.shard.store.drained().await;
        });
    }

    /// Reads everything and checks it.
    fn check_messages(&self) {
        let store = &self.shard.store;
        store.commit_to(store.end());
        for queue in 0..QUEUES {
            let next = store.with_index(|index| index.next_offset(key(queue)).0);
            assert_eq!(self.tasks.run_until(self.shard.read_all(queue)).unwrap(), next);
        }
    }
}

/// Entries of a leader: several segments and three epochs.
fn leaders_entries(seed: u64) -> Vec<Sendable> {
    let (node, mut rng) = (Node::open(SimDisk::new(seed), seed), Rng::from_seed(seed));
    for _ in 0..3 {
        node.lead(40, &mut rng);
        node.shard.store.commit_to(node.shard.store.end());
    }
    let entries = node.entries();
    assert_eq!(entries.last().map(|entry| entry.end), Some(node.shard.store.end()));
    assert!(entries.iter().filter(|entry| entry.is_filler()).count() > 3);
    entries
}

/// Some of the next entries, whole and within one segment.
fn next_piece<'a>(entries: &'a [Sendable], end: LogOffset, rng: &mut Rng) -> &'a [Sendable] {
    let rest = &entries[entries.partition_point(|entry| entry.at < end)..];
    let segment = |entry: &Sendable| entry.at.0 / config().segment_size;
    let same_segment = rest.iter().take_while(|entry| segment(entry) == segment(&rest[0])).count();
    &rest[..same_segment.min(1 + rng.index(8))]
}

fn joined(entries: &[Sendable]) -> Vec<u8> {
    entries.iter().flat_map(|entry| &entry.bytes).copied().collect()
}

/// Appends `entries` after the end of the shard's log, until power is lost.
async fn follow(shard: &Shard, disk: &SimDisk, entries: &[Sendable], rng: &mut Rng) {
    while disk.has_power() && !shard.store.is_fenced() {
        let piece = next_piece(entries, shard.store.end(), rng);
        if piece.is_empty() {
            return;
        }
        match shard.take_raw(&joined(piece)) {
            Ok(()) if rng.coin() => pause().await,
            Ok(()) => {}
            Err(RawError::Append(AppendError::NoRoom | AppendError::Fenced)) => pause().await,
            Err(error) => panic!("{error}"),
        }
        match rng.below(12) {
            0 => _ = shard.maintain(rng.chance(1, 4)).await,
            1 => shard.now.set(shard.now.get() + rng.below(300)),
            2 | 3 => {
                let known = entries.partition_point(|entry| entry.end <= shard.store.end());
                let at_most = entries[rng.index(known.max(1))].end.min(shard.store.end());
                shard.store.commit_to(at_most.max(shard.store.driven_to()));
            }
            _ => {}
        }
    }
}

/// Checks that the shard has a prefix of `entries`, at least up to `safe`, and the state of that prefix.
fn check(shard: &Shard, disk: &SimDisk, entries: &[Sendable], safe: LogOffset) {
    assert_eq!(shard.report.damaged, []);
    let end = shard.report.end;
    assert!(end >= safe, "{end} is the end, and {safe} was committed");
    let found = entries_on(disk, SEED);
    let known = entries.partition_point(|entry| entry.end <= end);
    assert!(found[..] == entries[..known], "different bytes before {end}");
    assert_eq!(found.last().map_or(LogOffset(0), |entry| entry.end), end);
}

#[test]
fn a_follower_has_the_leaders_bytes_and_survives_power_cuts_with_a_prefix() {
    let leaders: Vec<Vec<Sendable>> = (0..6).map(leaders_entries).collect();
    let mut resumed = 0;
    for seed in 0..80 {
        let mut rng = Rng::from_seed(seed);
        let entries = rng.pick(&leaders);
        let flush = if rng.chance(1, 4) { Flush::Async } else { Flush::Sync };
        let config = StoreConfig { flush, ..driven() };
        let mut disk = SimDisk::new(rng.next_u64());
        let mut safe = LogOffset(0);
        for _ in 0..4 {
            disk.slow(rng.below(6) as u32);
            if rng.coin() {
                disk.lose_power_after(rng.below(40));
            }
            if let Ok(shard) = run(Shard::open(&disk, config.clone())) {
                disk.lose_power_after(u64::MAX);
                check(&shard, &disk, entries, safe);
                resumed += usize::from(safe > LogOffset(0));
                disk.lose_power_after(rng.below(150));
                let tasks = Tasks::new(rng.next_u64());
                shard.spawn_committers(&tasks);
                tasks.run_until(follow(&shard, &disk, entries, &mut rng));
                safe = shard.store.committed();
            }
            // Unflushed writes survive only a kill of the process.
            let is_kill = flush == Flush::Async || rng.coin();
            let seed = rng.next_u64();
            disk = if is_kill { disk.after_kill(seed) } else { disk.after_crash(seed) };
        }
        let shard = run(Shard::open(&disk, config.clone())).unwrap();
        check(&shard, &disk, entries, safe);
        let tasks = Tasks::new(seed);
        shard.spawn_committers(&tasks);
        tasks.run_until(async {
            follow(&shard, &disk, entries, &mut rng).await;
            shard.store.drained().await;
            shard.store.sync().await.unwrap();
            shard.store.commit_to(shard.store.end());
            for queue in 0..QUEUES {
                shard.read_all(queue).await.unwrap();
            }
        });
        assert!(entries_on(&disk, SEED) == *entries, "seed {seed}");
    }
    assert!(resumed > 80, "{resumed}");
}

/// The replicas take turns as leader, each time in a new epoch, and the other one follows.
#[test]
fn copies_take_turns_in_leading() {
    for seed in 0..20 {
        let mut rng = Rng::from_seed(seed);
        let [mut leader, mut follower] =
            [seed, seed + 1000].map(|seed| Node::open(SimDisk::new(seed), seed));
        for turn in 0..6 {
            leader.lead(10 + rng.index(20), &mut rng);
            let entries = leader.entries();
            follower.follow(&entries, &mut rng);
            assert!(follower.entries() == entries, "seed {seed}, turn {turn}");
            assert_eq!(follower.shard.offsets.get(), leader.shard.offsets.get());
            let end = leader.shard.store.end();
            for node in [&leader, &follower] {
                node.shard.store.commit_to(end);
            }
            if rng.chance(1, 4) {
                follower = follower.reopened(rng.next_u64());
                assert_eq!(follower.shard.store.end(), end);
            }
            std::mem::swap(&mut leader, &mut follower);
        }
        for node in [&leader, &follower] {
            node.check_messages();
        }
    }
}

/// The leader is ahead when the other replica is elected: it discards the entries that only it has,
/// and follows.
#[test]
fn a_deposed_leader_gives_up_entries_that_only_it_has() {
    let mut given_up = 0;
    for seed in 0..30 {
        let mut rng = Rng::from_seed(seed);
        let [mut leader, mut follower] =
            [seed, seed + 1000].map(|seed| Node::open(SimDisk::new(seed), seed));
        for turn in 0..6 {
            leader.lead(5 + rng.index(20), &mut rng);
            let entries = leader.entries();
            let known = entries.partition_point(|entry| entry.end <= follower.shard.store.end());
            let seen = known + rng.index(entries.len() - known + 1);
            follower.follow(&entries[..seen], &mut rng);
            let committed = follower.shard.store.driven_to().max(leader.shard.store.driven_to());
            leader.shard.store.commit_to(committed);
            if rng.chance(1, 3) {
                leader = leader.reopened(rng.next_u64());
                leader.shard.store.commit_to(committed);
            }
            let epoch = leader.shard.store.epoch().max(follower.shard.store.epoch());
            follower.shard.store.begin_epoch(epoch).unwrap();
            std::mem::swap(&mut leader, &mut follower);
            leader.lead(1 + rng.index(10), &mut rng);
            let (ours, theirs) = (follower.entries(), leader.entries());
            let common = ours.iter().zip(&theirs).take_while(|(our, their)| our == their).count();
            let ordinal = common.checked_sub(1).map_or(0, |newest| ours[newest].ordinal);
            follower.tasks.run_until(follower.shard.cut_to(ordinal)).unwrap();
            given_up += ours.len() - common;
            follower.follow(&theirs, &mut rng);
            assert!(follower.entries() == theirs, "seed {seed}, turn {turn}");
            let end = leader.shard.store.end();
            for node in [&leader, &follower] {
                if rng.coin() {
                    node.shard.store.commit_to(end);
                }
            }
            assert_eq!(follower.shard.offsets.get(), leader.shard.offsets.get());
        }
        for node in [&leader, &follower] {
            node.check_messages();
        }
    }
    assert!(given_up > 300, "{given_up}");
}

/// The snapshot and the proof contain the epoch of the newest entry, not the next one.
#[test]
fn an_epoch_without_entries_does_not_exclude_entries_of_earlier_epochs() {
    let entries = leaders_entries(3);
    run(async {
        for is_forced in [true, false] {
            let disk = SimDisk::new(1);
            let shard = Shard::open(&disk, driven()).await.unwrap();
            shard.take_raw(&entries[0].bytes).unwrap();
            shard.commit().await;
            shard.store.begin_epoch(90).unwrap();
            shard.store.commit_to(shard.store.end());
            shard.maintain(is_forced).await.unwrap();
            let found = Shard::open(&disk, driven()).await.unwrap();
            assert_eq!(found.report.snapshot.is_some(), is_forced);
            found.take_raw(&entries[1].bytes).unwrap();
        }
    });
}

#[test]
fn raw_entries_are_appended_only_if_all_of_them_are_valid() {
    let entries = leaders_entries(4);
    run(async {
        let disk = SimDisk::new(1);
        let shard = Shard::open(&disk, driven()).await.unwrap();
        shard.take_raw(&[]).unwrap();
        let [first, second, third] = [0, 1, 2].map(|nth| &entries[nth].bytes[..]);
        let mut torn = second.to_vec();
        torn[50] ^= 1;
        for bad in [[first, third].concat(), [first, &torn].concat(), [first, first].concat()] {
            assert!(shard.take_raw(&bad).is_err());
            assert_eq!((shard.store.end(), shard.sent.borrow().len()), (LogOffset(0), 0));
        }
        shard.take_raw(&[first, second].concat()).unwrap();
        assert_eq!(shard.store.end(), entries[1].end);
        let again = shard.take_raw(first).unwrap_err();
        let expected = entries[1].end;
        assert_eq!(again, RawError::Place { expected, found: LogOffset(0) });
    });
}

/// Raw appends wait for the next segment like all others.
#[test]
fn raw_entries_wait_for_the_next_segment() {
    let entries = leaders_entries(5);
    run(async {
        let shard = Shard::open(&SimDisk::new(1), driven()).await.unwrap();
        let no_room = RawError::Append(AppendError::NoRoom);
        let segments = 3 * config().segment_size;
        let mut refused = 0;
        for entry in entries.iter().take_while(|entry| entry.at.0 < segments) {
            while let Err(error) = shard.take_raw(&entry.bytes) {
                assert_eq!((error, entry.at.0 % config().segment_size), (no_room, 0));
                refused += 1;
                shard.store.commit_step().await.unwrap();
            }
        }
        assert!(refused >= 2, "{refused}");
        let found = shard.store.epoch();
        assert_eq!(shard.store.begin_epoch(0), Err(EpochError { given: 0, found }));
    });
}

/// Ships what `leader` has after the follower's end, in raw form, while the leader writes.
async fn ship(leader: &Shard, follower: &Node, rng: &mut Rng) {
    let Node { shard, tasks, .. } = follower;
    let (from, to) = (shard.store.end(), leader.store.end());
    let mut bytes = Vec::new();
    RawReader::new(leader.store.clone()).read(from, to, &mut bytes).await.unwrap();
    tasks.run_until(async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (here, behind) = split_at_segment(rest, shard.store.segment_end());
            match shard.take_raw(here) {
                Ok(()) => rest = behind,
                Err(RawError::Append(AppendError::NoRoom)) => pause().await,
                Err(error) => panic!("{error}"),
            }
            if rng.coin() {
                pause().await;
            }
        }
    });
}

/// Groups are shipped when they end, most of them before they are written: from the open buffer,
/// sealed ones, buffers that are being written, the tail cache, and the disk.
#[test]
fn a_follower_gets_the_leaders_bytes_from_wherever_they_are() {
    for seed in 0..60 {
        let mut rng = Rng::from_seed(seed);
        let (leader, follower) =
            (Node::open(SimDisk::new(seed), seed), Node::open(SimDisk::new(seed + 1000), seed + 1));
        let store = &leader.shard.store;
        store.begin_epoch(2).unwrap();
        store.end_group();
        let lags = rng.chance(1, 3);
        leader.tasks.run_until(async {
            for nth in 0..60 {
                let size_max = if rng.chance(1, 10) { 15_000 } else { 3000 };
                let sizes: Vec<usize> =
                    (0..1 + rng.index(3)).map(|_| 24 + rng.index(size_max)).collect();
                let queue = rng.below(u64::from(QUEUES)) as u32;
                while let Err(AppendError::NoRoom) = leader.shard.send(queue, &sizes) {
                    store.end_group();
                    pause().await;
                }
                if rng.chance(1, 3) {
                    store.end_group();
                    if rng.coin() {
                        pause().await;
                    }
                    if !lags || nth == 59 {
                        ship(&leader.shard, &follower, &mut rng).await;
                    }
                }
            }
            store.end_group();
            store.drained().await;
        });
        leader.tasks.run_until(ship(&leader.shard, &follower, &mut rng));
        follower.tasks.run_until(follower.shard.store.drained());
        assert!(follower.entries() == leader.entries(), "seed {seed}: the copies differ");
        follower.check_messages();
    }
}

/// A write that ends a group does not wait for what follows, and nothing of a group is written
/// before its end, except full buffers.
#[test]
fn a_group_is_written_when_it_has_ended_and_alone() {
    let node = Node::open(SimDisk::new(1), 1);
    let store = &node.shard.store;
    store.end_group();
    node.tasks.run_until(async {
        node.shard.send(0, &[100]).unwrap();
        for _ in 0..20 {
            pause().await;
        }
        assert_eq!(store.written(), LogOffset(0), "the group has not ended");
        store.end_group();
        let end = store.end();
        node.shard.send(0, &[100]).unwrap();
        store.stored(store.awaited(end)).await;
        assert_eq!(store.written(), end);
        for _ in 0..20 {
            pause().await;
        }
        assert_eq!(store.written(), end, "the next group has not ended");
        store.end_group();
        store.drained().await;
    });
}

#[test]
fn a_copy_that_does_not_lead_appends_nothing_of_its_own() {
    let node = Node::open(SimDisk::new(1), 1);
    node.shard.send(0, &[100]).unwrap();
    node.shard.store.set_following(true);
    assert_eq!(node.shard.send(0, &[100]).unwrap_err(), AppendError::NotLeader);
    node.tasks.run_until(node.shard.store.drained());
    node.shard.store.set_following(false);
    node.shard.send(0, &[100]).unwrap();
}

/// A reader lets go of the segments that it has passed, so that deleted ones take no space, and opens
/// them again if it is asked for what is there.
#[test]
fn a_reader_can_be_asked_for_entries_that_it_has_passed() {
    let (leader, mut rng) = (Node::open(SimDisk::new(1), 1), Rng::from_seed(1));
    leader.lead(120, &mut rng);
    let store = leader.shard.store.clone();
    store.commit_to(store.end());
    let entries = leader.entries();
    let ends: Vec<LogOffset> = entries.iter().map(|entry| entry.end).collect();
    assert!(store.end().0 > 3 * config().segment_size);
    leader.tasks.run_until(async {
        let mut reader = RawReader::new(store.clone());
        let mut read = async |from: LogOffset, to: LogOffset| {
            let mut walked = Vec::new();
            let take = |entry: &Entry<'_>| {
                walked.push(entry.header.end());
                true
            };
            reader.walk(from, to, take).await.unwrap();
            walked
        };
        for _ in 0..3 {
            assert_eq!(read(LogOffset(0), store.end()).await, ends);
        }
        let middle = ends[ends.len() / 2];
        assert_eq!(read(middle, store.end()).await, ends[ends.len() / 2 + 1..]);
        assert_eq!(read(LogOffset(0), middle).await, ends[..=ends.len() / 2]);
    });
}
