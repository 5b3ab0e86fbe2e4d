//! Power cuts at every step, several in a row, including during recovery.
//!
//! Invariants after every crash: everything below the committed watermark exists and is readable,
//! and the log is a prefix of the appended entries.

use ringmq::model::LogOffset;
use ringmq::sim::{Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::disk::BLOCK_SIZE;
use ringmq::storage::entry::HEADER_SIZE;
use ringmq::storage::{CommitRule, Flush, OpenError, StoreConfig};

use super::shard::{Sent, Shard, config, key};

const QUEUES: u32 = 3;

/// The model: everything appended in all lives and not lost, in log order.
#[derive(Default)]
struct Model {
    sent: Vec<Sent>,
    /// Ends of the entries of consumer offsets.
    offsets: Vec<LogOffset>,
    /// Everything below this offset was acknowledged.
    committed: LogOffset,
    /// Hash of all events.
    trace: u64,
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    PowerCut,
    Kill,
    /// Either, at random.
    Either,
}

/// Sizes of the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Any,
    /// Entries of one or two whole blocks, so that leftovers of an earlier life after a torn tail
    /// begin exactly where the next life's entries end, with the next ordinal.
    Blocks,
    /// As [`Self::Blocks`], in a log whose end is also cut off while it runs.
    BlocksAndCuts,
}

/// Appends, commits and maintains in random order, until the disk has no power.
async fn live(
    shard: &Shard,
    disk: &SimDisk,
    sizes: Sizes,
    rng: &mut Rng,
    model: &mut Model,
    offsets: &mut Vec<LogOffset>,
) {
    for _ in 0..400 {
        if !disk.has_power() {
            break;
        }
        match rng.below(10) {
            0..=4 => {
                let sizes: Vec<usize> = match sizes {
                    Sizes::Any => (0..1 + rng.index(4)).map(|_| 24 + rng.index(2000)).collect(),
                    Sizes::Blocks | Sizes::BlocksAndCuts => {
                        vec![rng.below(2) as usize * BLOCK_SIZE + BLOCK_SIZE - HEADER_SIZE]
                    }
                };
                if shard.store.has_room(sizes.iter().sum()) {
                    shard.send(rng.below(u64::from(QUEUES)) as u32, &sizes).ok();
                }
            }
            5 if sizes == Sizes::Any => {
                if let Ok(appended) = shard.note_offsets() {
                    offsets.push(appended.end);
                }
            }
            6 => {
                // The next appends return the failure, if any.
                let force = rng.chance(1, 4);
                shard.maintain(force).await.ok();
            }
            8 if sizes == Sizes::BlocksAndCuts => cut(shard, rng, model, offsets).await,
            7 => shard.now.set(shard.now.get() + rng.below(300)),
            _ => pause().await,
        }
    }
}

/// Commits some of the uncommitted entries, and cuts off some of the rest.
async fn cut(shard: &Shard, rng: &mut Rng, model: &mut Model, offsets: &mut Vec<LogOffset>) {
    let ends = |model: &Model| {
        let sent: Vec<LogOffset> =
            model.sent.iter().chain(shard.sent.borrow().iter()).map(|sent| sent.end).collect();
        let (from, end) = (shard.store.driven_to(), shard.store.end());
        sent.into_iter().filter(|&place| from < place && place <= end).collect::<Vec<_>>()
    };
    let open = ends(model);
    if !open.is_empty() && rng.coin() {
        shard.store.commit_to(*rng.pick(&open));
    }
    let newest = shard.store.newest_ordinal();
    let ordinal = newest.saturating_sub(rng.below(1 + ends(model).len() as u64));
    if let Ok(report) = shard.cut_to(ordinal).await {
        model.sent.retain(|sent| sent.end <= report.end);
        model.offsets.retain(|&end| end <= report.end);
        offsets.retain(|&end| end <= report.end);
    }
}

/// One life: opens the log, checks it against the model, and works until power is lost.
fn one_life(
    disk: &SimDisk,
    config: &StoreConfig,
    model: &mut Model,
    sizes: Sizes,
    rng: &mut Rng,
) -> Result<(), OpenError> {
    let shard = run(Shard::open(disk, config.clone()))?;
    disk.lose_power_after(u64::MAX);
    run(check(&shard, model));
    if config.commit == CommitRule::Driven {
        // The owner's committed watermark survives the process.
        shard.store.commit_to(model.committed.max(shard.store.driven_to()));
    }
    let mut offsets = Vec::new();
    shard.sent.borrow_mut().clear();
    disk.lose_power_after(rng.below(200));
    let tasks = Tasks::new(rng.next_u64());
    shard.spawn_committers(&tasks);
    tasks.run_until(live(&shard, disk, sizes, rng, model, &mut offsets));
    model.sent.append(&mut shard.sent.borrow_mut());
    model.offsets.append(&mut offsets);
    model.committed = shard.store.committed();
    model.trace = model.trace.rotate_left(7) ^ disk.trace();
    Ok(())
}

/// Checks that everything acknowledged exists, and that the log is readable and a prefix of what was
/// sent.
async fn check(shard: &Shard, model: &mut Model) {
    assert_eq!(shard.report.damaged, [], "a torn tail is not damage");
    let next = |queue| shard.store.with_index(|index| index.next_offset(key(queue)).0);
    let is_there = |sent: &Sent| sent.number < next(sent.queue);
    let found = model.sent.iter().take_while(|sent| is_there(sent)).count();
    for (index, sent) in model.sent.iter().enumerate() {
        assert!(
            index < found || sent.end > model.committed,
            "lost {sent:?}, committed {}",
            model.committed
        );
        assert_eq!(index < found, is_there(sent), "not a prefix: {sent:?}");
        assert_eq!(index < found, sent.end <= shard.report.end, "cut inside the log: {sent:?}");
    }
    model.sent.truncate(found);
    for queue in 0..QUEUES {
        let count = model.sent.iter().filter(|sent| sent.queue == queue).count() as u64;
        assert_eq!(next(queue), count, "cut messages of queue {queue} do not reappear");
        if shard.store.committed() == shard.store.end() {
            shard.read_all(queue).await.expect("what is there can be read");
        }
    }
    for sent in model.sent.iter().filter(|sent| sent.end <= shard.store.committed()) {
        if shard.store.committed() < shard.store.end() {
            shard.read(sent.queue, sent.number).await.expect("what is committed can be read");
        }
    }
    let acknowledged = model.offsets.iter().filter(|&&end| end <= model.committed).count() as u64;
    let offsets = shard.offsets.get();
    assert!(acknowledged <= offsets && offsets <= model.offsets.len() as u64);
    model.offsets.truncate(offsets as usize);
}

/// Several lives from one seed. Returns the hash of all events.
fn lives(seed: u64, config: &StoreConfig, end: End, sizes: Sizes, segment_sizes: &[u64]) -> u64 {
    let mut rng = Rng::from_seed(seed);
    let mut disk = SimDisk::new(rng.next_u64());
    let mut model = Model::default();
    for _ in 0..4 {
        if rng.coin() {
            disk.slow(1 + rng.below(6) as u32);
        }
        // Half of all recoveries are interrupted.
        if rng.coin() {
            disk.lose_power_after(rng.below(40));
        }
        let mut config = config.clone();
        if !segment_sizes.is_empty() {
            config.segment_size = *rng.pick(segment_sizes);
        }
        let lived = one_life(&disk, &config, &mut model, sizes, &mut rng);
        assert!(lived.is_ok() || !disk.has_power(), "{lived:?}");
        let is_power_cut = match end {
            End::PowerCut => true,
            End::Kill => false,
            End::Either => rng.coin(),
        };
        let seed = rng.next_u64();
        disk = if is_power_cut { disk.after_crash(seed) } else { disk.after_kill(seed) };
    }
    let shard = run(Shard::open(&disk, config.clone())).expect("the last life is quiet");
    run(check(&shard, &mut model));
    model.trace ^ disk.trace()
}

/// Runs one seed of the tests that follow. For planted bugs, as are the two functions below.
pub fn power_cuts(seed: u64) {
    lives(seed, &config(), End::PowerCut, Sizes::Any, &[]);
}

pub fn recycling(seed: u64) {
    let config = StoreConfig { retention_bytes: 128 << 10, ..config() };
    lives(seed, &config, End::Either, Sizes::Any, &[]);
}

pub fn cuts(seed: u64) {
    let config = StoreConfig { commit: CommitRule::Driven, ..config() };
    lives(seed, &config, End::Either, Sizes::BlocksAndCuts, &[]);
}

fn for_seeds(count: u64, config: StoreConfig, end: End) {
    for_seeds_with(count, config, end, Sizes::Any, &[]);
}

/// Runs seeds in which every life uses one of `segment_sizes`, if there are any.
fn for_seeds_with(count: u64, config: StoreConfig, end: End, sizes: Sizes, segment_sizes: &[u64]) {
    for seed in 0..count {
        let outcome = std::panic::catch_unwind(|| lives(seed, &config, end, sizes, segment_sizes));
        assert!(outcome.is_ok(), "seed {seed} with {end:?}");
    }
}

#[test]
fn acknowledged_entries_survive_power_cuts() {
    for_seeds(500, config(), End::PowerCut);
}

/// Writes of a killed process may still be in the device's cache when the next one finds them.
#[test]
fn acknowledged_entries_survive_kills_and_power_cuts_in_turn() {
    for_seeds(500, config(), End::Either);
}

#[test]
fn acknowledged_entries_survive_while_segments_are_recycled() {
    for_seeds(500, StoreConfig { retention_bytes: 128 << 10, ..config() }, End::Either);
}

#[test]
fn with_asynchronous_flush_acknowledged_entries_survive_kills() {
    for_seeds(200, StoreConfig { flush: Flush::Async, ..config() }, End::Kill);
}

#[test]
fn acknowledged_entries_survive_when_segments_change_their_size() {
    let sizes = [16 << 10, 32 << 10, 64 << 10, 128 << 10];
    for_seeds_with(500, config(), End::Either, Sizes::Any, &sizes);
}

/// All lives have the same epoch, and half of all recoveries, including their wiping, are
/// interrupted.
#[test]
fn entries_that_were_cut_never_come_back() {
    for_seeds_with(700, config(), End::Either, Sizes::Blocks, &[]);
}

/// As above, with cuts of the running log, without a new epoch.
#[test]
fn entries_that_were_cut_at_run_time_never_come_back() {
    let config = StoreConfig { commit: CommitRule::Driven, ..config() };
    for_seeds_with(700, config, End::Either, Sizes::BlocksAndCuts, &[]);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..10 {
        let once = lives(seed, &config(), End::PowerCut, Sizes::Any, &[]);
        assert_eq!(once, lives(seed, &config(), End::PowerCut, Sizes::Any, &[]), "seed {seed}");
        assert_ne!(once, lives(seed + 1, &config(), End::PowerCut, Sizes::Any, &[]), "seed {seed}");
    }
}
