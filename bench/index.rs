//! The cost of very many queues: the append rate, and the longest time that sealing and retiring
//! segments or taking snapshots blocks the other tasks of the shard.
//!
//! Rounds with few and with many queues alternate; the table shows medians. Each message goes to any
//! queue, as in a broker with many clients, so with many queues it misses the caches of the processor.
//! The CPU time of an append includes everything else that the shard's thread does. It is shown with
//! the minimum of all rounds, like the longest slice, because other processes can only slow them down.
//!
//! ```text
//! cargo bench --bench index -- --directory /data/scratch
//! cargo bench --bench index -- --test            a smoke test of a few milliseconds
//! ```

#[path = "nudged.rs"]
mod nudged;
#[path = "place.rs"]
mod place;

use std::cell::RefCell;
use std::fs;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use ringmq::model::{LogOffset, Moment, Now, QueueId, QueueOffset, Timestamp};
use ringmq::shard::nudge::Pulse;
use ringmq::storage::disk::DiskError;
use ringmq::storage::file::{FileDisk, FileDiskOptions};
use ringmq::storage::{
    Append, AppendError, CommitRule, CommitStep, EntryKind, Epoch, Flush, Located, QueueKey,
    SpaceClass, Store, StoreConfig, WRITES_IN_FLIGHT_MAX,
};
use zerocopy::IntoBytes;

use self::place::Place;

const QUEUES_PER_TOPIC: u32 = 8;
const WRITERS: usize = 16;
/// Appends per writer between two waits for a commit.
const BATCH: usize = 64;
/// Rows per slice of a snapshot, as in the broker.
const ROWS_PER_SLICE: usize = 2000;

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures what very many queues cost a log.")]
struct Options {
    /// How long a round runs, in seconds.
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    seconds: f64,

    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Numbers of queues to compare.
    #[arg(long, default_values_t = [10, 100_000], num_args = 1.., value_name = "N")]
    queues: Vec<u32>,

    /// Bytes of a message.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    size: usize,

    /// Segments, MiB.
    #[arg(long, default_value_t = 256, value_name = "N")]
    segment: u64,

    #[command(flatten)]
    place: Place,
}

/// The result of a round.
struct Round {
    per_s: f64,
    /// CPU time of the shard's thread per append.
    cpu_us: f64,
    longest_slice_ms: f64,
    indexes_written: usize,
    bytes_per_queue: usize,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.place.test {
        (options.seconds, options.rounds, options.segment) = (0.01, 1, 8);
    }
    let scratch = options.place.scratch("index");
    let directory = scratch.path().to_owned();
    let measured =
        nudged::run(
            256 << 20,
            move |pulse| async move { measure(&directory, &options, &pulse).await },
        );
    drop(scratch);
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("index: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(directory: &Path, options: &Options, pulse: &Pulse) -> Result<(), DiskError> {
    let mut table: Vec<(u32, Vec<Round>)> =
        options.queues.iter().map(|&queues| (queues, Vec::new())).collect();
    for _ in 0..options.rounds {
        for (queues, rounds) in &mut table {
            rounds.push(measure_round(directory, options, *queues, pulse).await?);
        }
    }
    println!(
        "   queues   appends/s   CPU us/append (least)   longest slice ms (least)   index files   \
         bytes/queue"
    );
    for (queues, rounds) in &table {
        let median = |value: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let least = |value: fn(&Round) -> f64| rounds.iter().map(value).fold(f64::MAX, f64::min);
        println!(
            "{queues:>9} {:>11.0} {:>14.3} ({:.3}) {:>19.2} ({:.2}) {:>13.0} {:>13.0}",
            median(|round| round.per_s),
            median(|round| round.cpu_us),
            least(|round| round.cpu_us),
            median(|round| round.longest_slice_ms),
            least(|round| round.longest_slice_ms),
            median(|round| round.indexes_written as f64),
            median(|round| round.bytes_per_queue as f64),
        );
    }
    Ok(())
}

async fn measure_round(
    directory: &Path,
    options: &Options,
    queues: u32,
    pulse: &Pulse,
) -> Result<Round, DiskError> {
    let log = directory.join("log");
    fs::create_dir(&log).expect("the last round has removed it");
    let disk = FileDisk::open(&log, FileDiskOptions::default()).await?;
    let store = open(disk, options.segment << 20).await;
    let committers: Vec<_> = (0..WRITES_IN_FLIGHT_MAX)
        .map(|_| ringmq::reactor::spawn(commit(store.clone(), pulse.clone())))
        .collect();
    let upkeep = Rc::new(RefCell::new((Duration::ZERO, 0)));
    let maintenance = ringmq::reactor::spawn(maintain(store.clone(), upkeep.clone()));
    let (begin, used) = (Instant::now(), cpu_time());
    let deadline = begin + Duration::from_secs_f64(options.seconds);
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let rng = SmallRng::seed_from_u64(number as u64);
            ringmq::reactor::spawn(write(store.clone(), rng, queues, options.size, deadline))
        })
        .collect();
    let mut count = 0;
    for writer in writers {
        count += writer.await;
    }
    let per_s = count as f64 / begin.elapsed().as_secs_f64();
    let cpu_us = (cpu_time() - used).as_secs_f64() * 1e6 / count as f64;
    let bytes_per_queue = store.with_index(|index| index.memory_size()) / queues as usize;
    store.stop();
    maintenance.await?;
    for committer in committers {
        committer.await?;
    }
    drop(store);
    fs::remove_dir_all(&log).expect("it is no longer in use");
    let (longest, indexes_written) = *upkeep.borrow();
    let longest_slice_ms = longest.as_secs_f64() * 1e3;
    Ok(Round { per_s, cpu_us, longest_slice_ms, indexes_written, bytes_per_queue })
}

async fn open(disk: FileDisk, segment_size: u64) -> Store<FileDisk> {
    let config = StoreConfig {
        segment_size,
        ready_segments: 2,
        tail_cache_bytes: 64 << 20,
        append_budget_bytes: 32 << 20,
        index_cache_bytes: 8 << 20,
        flush: Flush::Async,
        commit: CommitRule::Local,
        retention_age_ms: u64::MAX,
        retention_bytes: 3 * segment_size,
        reserve_bytes: 0,
        checksum_seed: 1,
        epoch: Epoch::Found,
    };
    let opening = Store::open(disk, config).await.expect("an empty log opens");
    opening.replay(|_, _| {}, |_, _| {}).await.expect("an empty log opens").0
}

async fn commit(store: Store<FileDisk>, pulse: Pulse) -> Result<(), DiskError> {
    while store.commit_step().await? != CommitStep::Stopped {
        pulse.beat();
    }
    Ok(())
}

/// Maintains the store as a broker does, and times every slice.
async fn maintain(
    store: Store<FileDisk>,
    upkeep: Rc<RefCell<(Duration, usize)>>,
) -> Result<(), DiskError> {
    let begin = Instant::now();
    while !store.is_stopping() {
        ringmq::reactor::sleep(Duration::from_millis(20)).await;
        let moment = Moment(begin.elapsed().as_millis() as u64);
        let now = Now { wall: Timestamp(1), moment };
        store.flush(moment).await?;
        let mut from = QueueKey::FIRST;
        let next_slice = || {
            store.with_index(|index| {
                let mut bytes = Vec::new();
                for row in index.rows_from(from, ROWS_PER_SLICE) {
                    from = row.key().successor();
                    bytes.extend_from_slice(row.as_bytes());
                }
                bytes
            })
        };
        let mut work = pin!(store.maintain(now, false, next_slice));
        let done = poll_fn(|context| {
            let polled = cpu_time();
            let outcome = work.as_mut().poll(context);
            let longest = &mut upkeep.borrow_mut().0;
            *longest = (cpu_time() - polled).max(*longest);
            outcome
        })
        .await?;
        upkeep.borrow_mut().1 += done.indexes_written;
    }
    Ok(())
}

/// CPU time of this thread, which excludes time spent waiting for other threads.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock");
    now.into()
}

/// Appends to any of the queues until the deadline. Returns the number of messages.
async fn write(
    store: Store<FileDisk>,
    mut rng: SmallRng,
    queues: u32,
    size: usize,
    deadline: Instant,
) -> u64 {
    let message = vec![0x5A; size];
    let mut count = 0;
    while Instant::now() < deadline {
        let mut end = LogOffset(0);
        for _ in 0..BATCH {
            let queue = rng.random_range(0..queues);
            let topic = queue / QUEUES_PER_TOPIC;
            let key = QueueKey { topic, queue: QueueId(queue % QUEUES_PER_TOPIC) };
            end = append(&store, key, &message).await;
            count += 1;
        }
        assert!(store.reached(end).await, "the disk has failed");
    }
    count
}

async fn append(store: &Store<FileDisk>, key: QueueKey, message: &[u8]) -> LogOffset {
    let (subject, payload_size) = (key.topic, message.len());
    let space = SpaceClass::Ordinary;
    let append = Append { kind: EntryKind(3), subject, payload_size, space };
    let once = || store.append(append, |payload, _| payload.copy_from_slice(message));
    let appended = match once() {
        Err(AppendError::NoRoom) => store.with_room(payload_size, once).await,
        outcome => outcome,
    };
    let appended = appended.expect("the log has room");
    let located = Located {
        offset: appended.payload_offset,
        size: payload_size as u32,
        tag_hash: 0,
        stored_at: Timestamp(1),
        entry_offset: appended.entry_offset,
    };
    store.with_index(|index| {
        let QueueOffset(next) = index.next_offset(key);
        index.push(key, QueueOffset(next), located);
    });
    appended.end
}
