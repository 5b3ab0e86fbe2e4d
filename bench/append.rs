//! Compares appends to a shard's log with plain writes to the same device, in the same run.
//!
//! The results are ratios:
//!
//! - the log's rate over the best raw rate at the same durability, and over the rate of the same
//!   writers without a log (measured once per case, not before and after it);
//! - the latency of a single writer over that of writing a single block;
//! - the rate of many writers over that of one;
//! - bytes written to the device over bytes of payload.
//!
//! Disks vary from minute to minute, so the run has rounds. Each case is measured between two
//! measurements of its reference, and the table shows the median, minimum and maximum of the rounds'
//! ratios.
//!
//! ```text
//! cargo bench --bench append -- --seconds 5 --directory /data/scratch
//! cargo bench --bench append -- --only 'async recycled 256'     one case, for a profiler
//! cargo bench --bench append -- --test                          a smoke test of a few milliseconds
//! ```

#[path = "nudged.rs"]
mod nudged;
#[path = "place.rs"]
mod place;
#[path = "raw_device.rs"]
mod raw_device;

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use hdrhistogram::Histogram;
use raw_device::{Content, Device, Kind, Measured, Shape};
use ringmq::model::{LogOffset, Moment, Now, QueueId, QueueOffset, Timestamp};
use ringmq::shard::nudge::Pulse;
use ringmq::storage::disk::{Disk, DiskError};
use ringmq::storage::file::{FileDisk, FileDiskOptions};
use ringmq::storage::segment::{FileName, SEGMENT_SIZE_MAX};
use ringmq::storage::{
    Append, AppendError, CommitRule, CommitStep, EntryKind, Epoch, Flush, Located, QueueKey,
    SpaceClass, Store, StoreConfig, WRITES_IN_FLIGHT_MAX,
};

use self::place::Place;

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures appends to a log, and its disk.")]
struct Options {
    /// How long each case runs, in seconds.
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    seconds: f64,

    /// Number of rounds.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Only the cases whose name contains this.
    #[arg(long, default_value = "", value_name = "WORDS")]
    only: String,

    #[command(flatten)]
    place: Place,
}

/// File sizes and durations.
#[derive(Clone, Copy)]
struct Scale {
    rounds: usize,
    /// Duration of a case.
    duration: Duration,
    /// Duration of a measurement of the device alone.
    raw_duration: Duration,
    segment_size: u64,
    raw_file_size: u64,
    recycled_count: u64,
}

impl Options {
    fn scale(&self) -> Scale {
        if self.place.test {
            return Scale {
                rounds: 1,
                duration: Duration::from_millis(2),
                raw_duration: Duration::from_millis(2),
                segment_size: 8 << 20,
                raw_file_size: 8 << 20,
                recycled_count: 1,
            };
        }
        let duration = Duration::from_secs_f64(self.seconds);
        Scale {
            rounds: self.rounds.max(1),
            duration,
            raw_duration: duration / 2,
            segment_size: 256 << 20,
            raw_file_size: 1 << 30,
            recycled_count: 4,
        }
    }

    fn cases(&self) -> Vec<Case> {
        let flushes = [Flush::Sync, Flush::Async].into_iter();
        let kinds = flushes.flat_map(|flush| [true, false].map(|recycled| (flush, recycled)));
        let all = kinds
            .flat_map(|(flush, is_recycled)| LOADS.map(|load| Case { flush, is_recycled, load }));
        let makes_sense =
            |case: &Case| !case.load.is_burst || (case.flush == Flush::Async && case.is_recycled);
        all.filter(makes_sense).filter(|case| case.to_string().contains(&self.only)).collect()
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let scratch = options.place.scratch("append");
    let directory = scratch.path().to_owned();
    let measure = move |pulse| async move { measure(&directory, &options, pulse).await };
    let measured = nudged::run(256 << 20, measure);
    drop(scratch);
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("append: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(directory: &Path, options: &Options, pulse: Pulse) -> Result<(), DiskError> {
    let scale = options.scale();
    let disk = FileDisk::open(directory, FileDiskOptions::default()).await?;
    let device = Device::prepare(&disk, scale.raw_file_size, pulse.clone()).await?;
    let survey = Survey::take(&device, scale).await?;
    println!("{survey}");
    let mut table: Vec<(Case, Vec<Round>)> =
        options.cases().into_iter().map(|case| (case, Vec::new())).collect();
    for number in 1..=scale.rounds {
        for (case, rounds) in &mut table {
            eprintln!("round {number} of {}: {case}", scale.rounds);
            let shape = survey.held_against(*case);
            let raw_duration = case.load.duration(scale.raw_duration);
            let bare = case.without_log(shape.kind);
            let before = device.write(shape, raw_duration).await?;
            let log = measure_log(directory, scale, *case, &pulse).await?;
            let bare = device.write(bare, raw_duration).await?;
            let after = device.write(shape, raw_duration).await?;
            rounds.push(Round { log, raw: [before, after], bare });
        }
    }
    device.remove().await?;
    print_table(&table, &survey);
    Ok(())
}

// ---- The device alone ----

/// The device's rates for large plain writes of all shapes.
struct Survey(Vec<(Shape, f64)>);

impl Survey {
    const BLOCK_SIZES: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
    const IN_FLIGHT: [usize; 3] = [1, 4, 8];
    const KINDS: [Kind; 3] = [Kind::Written, Kind::Flushed, Kind::Durable];

    /// The median of the rounds for each shape. A round measures all shapes.
    async fn take(device: &Device, scale: Scale) -> Result<Self, DiskError> {
        let kinds = Self::KINDS.into_iter();
        let rows = kinds.flat_map(|kind| Self::BLOCK_SIZES.map(|block_size| (kind, block_size)));
        let shapes = rows.flat_map(|(kind, block_size)| {
            let content = Content::Same;
            Self::IN_FLIGHT.map(|in_flight| Shape { block_size, in_flight, kind, content })
        });
        let mut rates: Vec<(Shape, Vec<f64>)> = shapes.map(|shape| (shape, Vec::new())).collect();
        for number in 1..=scale.rounds {
            eprintln!("round {number} of {}: the device alone", scale.rounds);
            for (shape, rates) in &mut rates {
                rates.push(device.write(*shape, scale.raw_duration).await?.mb_per_s());
            }
        }
        Ok(Self(rates.into_iter().map(|(shape, rates)| (shape, median(rates))).collect()))
    }

    fn best(&self, kind: Kind) -> (Shape, f64) {
        let of_kind = self.0.iter().filter(|(shape, _)| shape.kind == kind);
        *of_kind.max_by(|a, b| a.1.total_cmp(&b.1)).expect("measured")
    }

    /// The reference shape of a case, measured before and after it.
    fn held_against(&self, case: Case) -> Shape {
        let kind = match case.flush {
            Flush::Sync => Kind::Durable,
            Flush::Async if case.load.is_burst => Kind::Written,
            Flush::Async => Kind::Flushed,
        };
        match case.load.writers {
            1 => Shape { block_size: 4096, in_flight: 1, kind, content: Content::Same },
            _ => self.best(kind).0,
        }
    }
}

impl Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Self::KINDS {
            let (best, mb_per_s) = self.best(kind);
            let (size, in_flight) = (best.block_size >> 10, best.in_flight);
            write!(f, "raw {:<8} best {mb_per_s:>6.0} MB/s with ", kind.name())?;
            write!(f, "{size} KiB x {in_flight}; all:")?;
            for (shape, mb_per_s) in self.0.iter().filter(|(shape, _)| shape.kind == kind) {
                let (size, in_flight) = (shape.block_size >> 10, shape.in_flight);
                write!(f, "  {size}x{in_flight} {mb_per_s:.0}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

// ---- The log ----

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    writers: usize,
    payload_size: usize,
    /// The case ends before a flush is due, so it shows the cost of the log itself while the
    /// device's cache absorbs all writes, as it does for plain writes without flushes.
    is_burst: bool,
}

impl Scale {
    /// Starting a segment syncs the directory, which also flushes the device's cache. The next segment
    /// is prepared when one is half full, so a burst must fit in less than half a segment.
    fn fit_for(self, load: Load) -> Self {
        let is_whole = self.duration >= BURST;
        match load.is_burst && is_whole {
            true => Self { segment_size: SEGMENT_SIZE_MAX, recycled_count: 1, ..self },
            false => self,
        }
    }
}

impl Load {
    fn duration(self, whole: Duration) -> Duration {
        if self.is_burst { whole.min(BURST) } else { whole }
    }
}

/// Must fit in half of the largest segment.
const BURST: Duration = Duration::from_millis(250);

const LOADS: [Load; 4] = [
    Load { name: "256 x 1 KiB, 16 writers", writers: 16, payload_size: 256 << 10, is_burst: false },
    Load { name: "256 x 1 KiB, burst", writers: 16, payload_size: 256 << 10, is_burst: true },
    Load { name: "1 KiB, 64 writers", writers: 64, payload_size: 1 << 10, is_burst: false },
    Load { name: "1 KiB, 1 writer", writers: 1, payload_size: 1 << 10, is_burst: false },
];

#[derive(Clone, Copy)]
struct Case {
    flush: Flush,
    is_recycled: bool,
    load: Load,
}

impl Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flush = if self.flush == Flush::Sync { "sync" } else { "async" };
        let segments = if self.is_recycled { "recycled" } else { "fresh" };
        write!(f, "{flush} {segments} {}", self.load.name)
    }
}

impl Case {
    /// The same writers without a log: each writes its payload itself, with new bytes and a
    /// checksum.
    fn without_log(self, kind: Kind) -> Shape {
        let Load { writers, payload_size, .. } = self.load;
        let block_size = payload_size.next_multiple_of(4096);
        Shape { block_size, in_flight: writers, kind, content: Content::New }
    }
}

/// The log's result in one case and round.
struct Appends {
    per_s: f64,
    mb_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    /// Bytes written to the device per byte of payload.
    device_bytes: f64,
    writes_per_s: f64,
}

/// Runs a case in its own directory, and removes the directory.
async fn measure_log(
    directory: &Path,
    scale: Scale,
    case: Case,
    pulse: &Pulse,
) -> Result<Appends, DiskError> {
    let scale = scale.fit_for(case.load);
    let log = directory.join("log");
    fs::create_dir(&log).expect("the last case has removed it");
    let disk = FileDisk::open(&log, FileDiskOptions::default()).await?;
    if case.is_recycled {
        make_ready(&disk, scale).await?;
    }
    let appends = measure_appends(open(disk, scale, case.flush).await, scale, case.load, pulse);
    let appends = appends.await?;
    fs::remove_dir_all(&log).expect("it is no longer in use");
    Ok(appends)
}

async fn measure_appends(
    store: Store<FileDisk>,
    scale: Scale,
    load: Load,
    pulse: &Pulse,
) -> Result<Appends, DiskError> {
    let mut helpers = spawn_committers(&store, pulse);
    if !load.is_burst {
        helpers.extend(spawn_background(&store));
    }
    let (io_before, begin) = (device_bytes_written(), Instant::now());
    let deadline = begin + load.duration(scale.duration);
    let writers: Vec<_> = (0..load.writers)
        .map(|number| {
            let store = store.clone();
            ringmq::reactor::spawn(write_until(store, number as u32, load.payload_size, deadline))
        })
        .collect();
    let mut latency = histogram();
    for writer in writers {
        latency.add(writer.await).expect("histograms of one kind");
    }
    let seconds = begin.elapsed().as_secs_f64();
    let device_bytes = device_bytes_written() - io_before;
    store.stop();
    for helper in helpers {
        helper.await?;
    }
    let stats = store.stats();
    let payload_bytes = latency.len() as f64 * load.payload_size as f64;
    Ok(Appends {
        per_s: latency.len() as f64 / seconds,
        mb_per_s: payload_bytes / 1e6 / seconds,
        p50_us: latency.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: latency.value_at_quantile(0.99) as f64 / 1e3,
        device_bytes: device_bytes as f64 / payload_bytes,
        writes_per_s: stats.writes as f64 / seconds,
    })
}

/// Creates fully written files, like those that retention recycles.
async fn make_ready(disk: &FileDisk, scale: Scale) -> Result<(), DiskError> {
    for number in 0..scale.recycled_count {
        let name = FileName::Ready(number).to_string();
        raw_device::write_over(disk, disk.create(&name, scale.segment_size).await?).await?;
    }
    disk.sync_directory().await
}

async fn open(disk: FileDisk, scale: Scale, flush: Flush) -> Store<FileDisk> {
    let config = StoreConfig {
        segment_size: scale.segment_size,
        ready_segments: scale.recycled_count as usize,
        tail_cache_bytes: 64 << 20,
        append_budget_bytes: 32 << 20,
        index_cache_bytes: 8 << 20,
        flush,
        commit: CommitRule::Local,
        epoch: Epoch::Found,
        retention_age_ms: u64::MAX,
        retention_bytes: 2 * scale.segment_size,
        reserve_bytes: 0,
        checksum_seed: 1,
    };
    let opening = Store::open(disk, config).await.expect("an empty log opens");
    opening.replay(|_, _| {}, |_, _| {}).await.expect("an empty log opens").0
}

type Helper = ringmq::reactor::Task<Result<(), DiskError>>;

fn spawn_committers(store: &Store<FileDisk>, pulse: &Pulse) -> Vec<Helper> {
    let commit = |store: Store<FileDisk>, pulse: Pulse| async move {
        while store.commit_step().await? != CommitStep::Stopped {
            pulse.beat();
        }
        Ok(())
    };
    (0..WRITES_IN_FLIGHT_MAX)
        .map(|_| ringmq::reactor::spawn(commit(store.clone(), pulse.clone())))
        .collect()
}

/// The tasks that flush and maintain the store every 100 ms, as in a broker.
fn spawn_background(store: &Store<FileDisk>) -> [Helper; 2] {
    let is_over = |store: &Store<FileDisk>| store.is_stopping() || store.is_fenced();
    let begin = Instant::now();
    let now = move || Now { wall: wall(), moment: Moment(begin.elapsed().as_millis() as u64) };
    let flushed = store.clone();
    let flush = ringmq::reactor::spawn(async move {
        while !is_over(&flushed) {
            ringmq::reactor::sleep(Duration::from_millis(100)).await;
            flushed.flush(now().moment).await?;
        }
        Ok(())
    });
    let maintained = store.clone();
    let maintain = ringmq::reactor::spawn(async move {
        while !is_over(&maintained) {
            ringmq::reactor::sleep(Duration::from_millis(100)).await;
            let mut slices = std::iter::once(vec![0; 64]);
            maintained.maintain(now(), false, || slices.next().unwrap_or_default()).await?;
        }
        Ok(())
    });
    [flush, maintain]
}

/// Appends one message at a time, and waits for each commit.
async fn write_until(
    store: Store<FileDisk>,
    queue: u32,
    payload_size: usize,
    deadline: Instant,
) -> Histogram<u64> {
    let message = vec![0x5A; payload_size];
    let append =
        Append { kind: EntryKind(3), subject: 1, payload_size, space: SpaceClass::Ordinary };
    let key = QueueKey { topic: 1, queue: QueueId(queue) };
    let mut latency = histogram();
    while Instant::now() < deadline {
        let started = Instant::now();
        let fill = |payload: &mut [u8], _: LogOffset| payload.copy_from_slice(&message);
        let appended = match store.append(append, fill) {
            Err(AppendError::NoRoom) => {
                store.with_room(payload_size, || store.append(append, fill)).await
            }
            outcome => outcome,
        };
        let appended = appended.expect("the log takes what finds room");
        let located = Located {
            offset: appended.payload_offset,
            size: payload_size as u32,
            tag_hash: 0,
            stored_at: Timestamp(0),
            entry_offset: appended.entry_offset,
        };
        store.with_index(|index| {
            let QueueOffset(next) = index.next_offset(key);
            index.push(key, QueueOffset(next), located);
        });
        assert!(store.reached(appended.end).await, "the disk has failed");
        record(&mut latency, started);
    }
    latency
}

// ---- The table ----

struct Round {
    log: Appends,
    /// The reference, measured before and after the case.
    raw: [Measured; 2],
    /// The same writers without a log.
    bare: Measured,
}

impl Round {
    /// Ratio of the log's rate to the device's.
    fn of_raw(&self) -> f64 {
        let raw = self.raw.iter().map(Measured::mb_per_s).sum::<f64>() / 2.0;
        self.log.mb_per_s / raw
    }

    /// Ratio of the log's rate to that of the same writers without a log.
    fn of_bare(&self) -> f64 {
        self.log.per_s / self.bare.per_s()
    }

    /// Ratio of the log's median latency to the device's.
    fn of_raw_p50(&self) -> f64 {
        let raw = self.raw.iter().map(Measured::p50_us).sum::<f64>() / 2.0;
        self.log.p50_us / raw
    }
}

fn print_table(table: &[(Case, Vec<Round>)], survey: &Survey) {
    println!(
        "{:<38}{:>10}{:>7}{:>8}{:>8}{:>9}{:>9}  ratio",
        "log", "appends/s", "MB/s", "p50 us", "p99 us", "writes/s", "dev/pay",
    );
    for (case, rounds) in table {
        let middle = |of: fn(&Appends) -> f64| median(rounds.iter().map(|r| of(&r.log)).collect());
        println!(
            "{:<38}{:>10.0}{:>7.0}{:>8.0}{:>8.0}{:>9.0}{:>9.2}  {}",
            case.to_string(),
            middle(|log| log.per_s),
            middle(|log| log.mb_per_s),
            middle(|log| log.p50_us),
            middle(|log| log.p99_us),
            middle(|log| log.writes_per_s),
            middle(|log| log.device_bytes),
            ratio(*case, rounds, table, survey),
        );
    }
}

/// The result of a case as text.
fn ratio(case: Case, rounds: &[Round], table: &[(Case, Vec<Round>)], survey: &Survey) -> String {
    let of = |of: fn(&Round) -> f64| spread(rounds.iter().map(of).collect());
    let of_bare = of(Round::of_bare) + " of the same writers without a log";
    match case.load.writers {
        1 => format!("{} x raw p50, {of_bare}", of(Round::of_raw_p50)),
        16 => {
            let raw = survey.held_against(case).kind.name();
            let of_raw = format!("{} of raw {raw}, {of_bare}", of(Round::of_raw));
            if case.flush == Flush::Sync || case.load.is_burst {
                return of_raw;
            }
            let plain = survey.best(Kind::Written).1;
            let of_plain = median(rounds.iter().map(|r| r.log.mb_per_s / plain).collect());
            format!("{of_raw}, {of_plain:.2} of raw written")
        }
        _ => {
            let alone = |other: &&(Case, Vec<Round>)| {
                let Case { flush, is_recycled, load } = other.0;
                (flush, is_recycled, load.writers) == (case.flush, case.is_recycled, 1)
            };
            let Some((_, alone)) = table.iter().find(alone) else { return of_bare };
            let pairs = rounds.iter().zip(alone);
            let of_one = spread(pairs.map(|(many, one)| many.log.per_s / one.log.per_s).collect());
            format!("{of_one} x one writer, {of_bare}")
        }
    }
}

/// The median, with minimum and maximum.
fn spread(values: Vec<f64>) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {greatest:.2})", median(values))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ---- Helpers ----

#[expect(clippy::disallowed_methods, reason = "a bench may read the clock")]
fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since_epoch.expect("a clock after 1970").as_millis() as u64)
}

/// Nanoseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("sensible bounds")
}

fn record(latency: &mut Histogram<u64>, started: Instant) {
    latency.saturating_record(started.elapsed().as_nanos() as u64);
}

/// Bytes that this process has written to block devices so far.
fn device_bytes_written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
