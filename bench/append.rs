//! What a shard's log takes from its disk: appends through the storage engine, and beside them, in the
//! same run, what the device gives to plain writes.
//!
//! Prints one table. Ratios are what counts: of the log's rate to the best raw rate at the same
//! durability, of a lone writer's latency to a lone 4 KiB write's, of many writers' rate to one's, and of
//! bytes that went to the device to bytes of payload.
//!
//! ```text
//! cargo bench --bench append -- --seconds 5 --directory /data/scratch
//! cargo bench --bench append -- --test        a few milliseconds, to keep it alive
//! ```

#[path = "nudged.rs"]
mod nudged;

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use hdrhistogram::Histogram;
use ringmq::model::{LogOffset, QueueId, QueueOffset, Timestamp};
use ringmq::shard::nudge::Pulse;
use ringmq::storage::disk::{Disk, DiskError, DiskFile, Durability};
use ringmq::storage::file::{FileDisk, FileDiskOptions};
use ringmq::storage::segment::FileName;
use ringmq::storage::{
    AppendError, Committed, EntryKind, Flush, Located, QueueKey, Store, StoreConfig,
    WRITES_IN_FLIGHT_MAX,
};

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures appends to a log, and its disk.")]
struct Options {
    /// How long each case runs, in seconds.
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    seconds: f64,

    /// Where to put the files; on the disk that is to be measured. What the run makes is removed.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"), value_name = "DIR")]
    directory: PathBuf,

    /// Run everything once, very briefly, and print nothing that means anything.
    #[arg(long)]
    test: bool,

    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How large the files are and how long things take.
#[derive(Clone, Copy)]
struct Scale {
    duration: Duration,
    segment_size: u64,
    raw_file_size: u64,
    recycled_count: u64,
}

impl Options {
    fn scale(&self) -> Scale {
        if self.test {
            return Scale {
                duration: Duration::from_millis(2),
                segment_size: 8 << 20,
                raw_file_size: 8 << 20,
                recycled_count: 1,
            };
        }
        Scale {
            duration: Duration::from_secs_f64(self.seconds),
            segment_size: 256 << 20,
            raw_file_size: 1 << 30,
            recycled_count: 4,
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let directory = options.directory.join(format!("append-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("the directory can be made");
    let scale = options.scale();
    let scratch = directory.clone();
    let measure = move |pulse| async move { measure(&scratch, scale, &pulse).await };
    let measured = nudged::run(256 << 20, measure);
    fs::remove_dir_all(&directory).ok();
    match measured {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("append: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(directory: &Path, scale: Scale, pulse: &Pulse) -> Result<Report, DiskError> {
    let mut report = Report { raw: Vec::new(), cases: Vec::new() };
    let disk = FileDisk::open(directory, FileDiskOptions::default()).await?;
    for kind in RawKind::ALL {
        report.raw.extend(measure_raw(&disk, scale, kind, pulse).await?);
    }
    for flush in [Flush::Sync, Flush::Async] {
        for is_recycled in [false, true] {
            for load in LOADS {
                let log = directory.join("log");
                fs::create_dir(&log).expect("the last case has removed it");
                let disk = FileDisk::open(&log, FileDiskOptions::default()).await?;
                let case = measure_case(disk, scale, flush, is_recycled, load, pulse).await?;
                fs::remove_dir_all(&log).expect("nobody uses it any more");
                report.cases.push(case);
            }
        }
    }
    Ok(report)
}

// ---- The device alone ----

/// What a plain write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RawKind {
    /// The device's cache.
    Written,
    /// The same, with a flush of all of it every [`FLUSH_INTERVAL`] beside it: what asynchronous flush
    /// can be held against, since no cache takes more than the media for long.
    Flushed,
    /// Stable media.
    Durable,
}

impl RawKind {
    const ALL: [Self; 3] = [Self::Written, Self::Flushed, Self::Durable];

    fn durability(self) -> Durability {
        if self == Self::Durable { Durability::Durable } else { Durability::Written }
    }
}

const FLUSH_INTERVAL: Duration = Duration::from_millis(400);

struct Raw {
    kind: RawKind,
    size: usize,
    in_flight: usize,
    rate: f64,
    p50_us: f64,
}

async fn measure_raw(
    disk: &FileDisk,
    scale: Scale,
    kind: RawKind,
    pulse: &Pulse,
) -> Result<Vec<Raw>, DiskError> {
    let file = disk.create("raw", scale.raw_file_size).await?;
    write_over(disk, &file).await?;
    let mut measured = Vec::new();
    let shapes = [256 << 10, 1 << 20, 4 << 20].into_iter();
    let shapes = shapes.flat_map(|size| [1, 4, 8].map(|in_flight| (size, in_flight)));
    for (size, in_flight) in shapes.chain([(4096, 1)]) {
        let (bytes, elapsed, latency) =
            raw_writes(disk, &file, scale, kind, (size, in_flight), pulse).await?;
        let rate = bytes as f64 / elapsed.as_secs_f64();
        let p50_us = latency.value_at_quantile(0.5) as f64 / 1e3;
        measured.push(Raw { kind, size, in_flight, rate, p50_us });
    }
    disk.remove("raw").await?;
    Ok(measured)
}

async fn raw_writes(
    disk: &FileDisk,
    file: &<FileDisk as Disk>::File,
    scale: Scale,
    kind: RawKind,
    (size, in_flight): (usize, usize),
    pulse: &Pulse,
) -> Result<(u64, Duration, Histogram<u64>), DiskError> {
    let begin = Instant::now();
    let slots = file.size() / size as u64;
    let lanes = (0..in_flight as u64).map(|lane| {
        let (file, buffer) = (file.clone(), Rc::new(filled(disk, size)));
        let pulse = pulse.clone();
        glommio::spawn_local(async move {
            let (mut latency, mut bytes) = (histogram(), 0);
            for step in 0.. {
                if begin.elapsed() >= scale.duration {
                    break;
                }
                let slot = (lane + step * in_flight as u64) % slots;
                let started = Instant::now();
                file.write(slot * size as u64, buffer.clone(), kind.durability()).await?;
                pulse.beat();
                record(&mut latency, started);
                bytes += size as u64;
            }
            Ok::<_, DiskError>((bytes, latency))
        })
    });
    let lanes: Vec<_> = lanes.collect();
    if kind == RawKind::Flushed {
        while begin.elapsed() < scale.duration {
            glommio::timer::sleep(FLUSH_INTERVAL.min(scale.duration)).await;
            file.sync().await?;
        }
    }
    let (mut bytes, mut latency) = (0, histogram());
    for lane in lanes {
        let (more, of_lane) = lane.await?;
        bytes += more;
        latency.add(of_lane).expect("histograms of one kind");
    }
    Ok((bytes, begin.elapsed(), latency))
}

fn filled(disk: &FileDisk, size: usize) -> <FileDisk as Disk>::Buffer {
    let mut buffer = disk.buffer(size);
    buffer.as_mut().fill(0x5A);
    buffer
}

/// Writes every block of a file once, so that later writes change no metadata.
async fn write_over(disk: &FileDisk, file: &<FileDisk as Disk>::File) -> Result<(), DiskError> {
    let size = 1 << 20;
    let buffer = Rc::new(filled(disk, size));
    for position in (0..file.size()).step_by(size) {
        file.write(position, buffer.clone(), Durability::Written).await?;
    }
    file.sync().await
}

// ---- The log ----

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    writers: usize,
    payload_size: usize,
}

const LOADS: [Load; 3] = [
    Load { name: "256 x 1 KiB, 16 writers", writers: 16, payload_size: 256 << 10 },
    Load { name: "1 KiB, 64 writers", writers: 64, payload_size: 1 << 10 },
    Load { name: "1 KiB, 1 writer", writers: 1, payload_size: 1 << 10 },
];

struct Case {
    flush: Flush,
    is_recycled: bool,
    load: Load,
    appends_per_s: f64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// Bytes that went to the device per byte of payload.
    device_bytes: f64,
    writes_per_s: f64,
}

async fn measure_case(
    disk: FileDisk,
    scale: Scale,
    flush: Flush,
    is_recycled: bool,
    load: Load,
    pulse: &Pulse,
) -> Result<Case, DiskError> {
    if is_recycled {
        make_ready(&disk, scale).await?;
    }
    let store = open(disk, scale, flush).await;
    let helpers = spawn_helpers(&store, pulse);
    let (io_before, begin) = (device_bytes_written(), Instant::now());
    let deadline = begin + scale.duration;
    let writers: Vec<_> = (0..load.writers)
        .map(|number| {
            let store = store.clone();
            glommio::spawn_local(write_until(store, number as u32, load.payload_size, deadline))
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
    Ok(Case {
        flush,
        is_recycled,
        load,
        appends_per_s: latency.len() as f64 / seconds,
        rate: payload_bytes / seconds,
        p50_us: latency.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: latency.value_at_quantile(0.99) as f64 / 1e3,
        device_bytes: device_bytes as f64 / payload_bytes,
        writes_per_s: stats.writes as f64 / seconds,
    })
}

/// Files that were written before, as retention leaves them.
async fn make_ready(disk: &FileDisk, scale: Scale) -> Result<(), DiskError> {
    for number in 0..scale.recycled_count {
        let name = FileName::Ready(number).to_string();
        write_over(disk, &disk.create(&name, scale.segment_size).await?).await?;
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
        retention_age_ms: u64::MAX,
        retention_bytes: 2 * scale.segment_size,
        reserve_bytes: 0,
        checksum_seed: 1,
    };
    let opening = Store::open(disk, config).await.expect("an empty log opens");
    opening.replay(now(), |_, _| {}).await.expect("an empty log opens").0
}

/// Committers, and the task that looks after the store every 100 ms.
fn spawn_helpers(
    store: &Store<FileDisk>,
    pulse: &Pulse,
) -> Vec<glommio::Task<Result<(), DiskError>>> {
    let commit = |store: Store<FileDisk>, pulse: Pulse| async move {
        while store.commit_step().await? != Committed::Stopped {
            pulse.beat();
        }
        Ok(())
    };
    let mut helpers: Vec<_> = (0..WRITES_IN_FLIGHT_MAX)
        .map(|_| glommio::spawn_local(commit(store.clone(), pulse.clone())))
        .collect();
    let store = store.clone();
    let is_over = move |store: &Store<FileDisk>| store.is_stopping() || store.is_fenced();
    helpers.push(glommio::spawn_local(async move {
        while !is_over(&store) {
            glommio::timer::sleep(Duration::from_millis(100)).await;
            store.maintain(now(), false, |_| vec![0; 64]).await?;
        }
        Ok(())
    }));
    helpers
}

/// Appends, waits until that is safe, appends the next.
async fn write_until(
    store: Store<FileDisk>,
    queue: u32,
    payload_size: usize,
    deadline: Instant,
) -> Histogram<u64> {
    let message = vec![0x5A; payload_size];
    let key = QueueKey { topic: 1, queue: QueueId(queue) };
    let mut latency = histogram();
    while Instant::now() < deadline {
        let started = Instant::now();
        let appended = loop {
            let fill = |payload: &mut [u8], _: LogOffset| payload.copy_from_slice(&message);
            match store.append(EntryKind::Messages, 1, payload_size, fill) {
                Ok(appended) => break appended,
                Err(AppendError::NoRoom) => store.wait_for_room(payload_size).await,
                Err(refusal) => panic!("append: {refusal}"),
            }
        };
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

// ---- Helpers ----

#[expect(clippy::disallowed_methods, reason = "a bench is an edge")]
fn now() -> Timestamp {
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

/// What this process has sent to block devices so far.
fn device_bytes_written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

struct Report {
    raw: Vec<Raw>,
    cases: Vec<Case>,
}

impl Report {
    /// Best rate of large plain writes, bytes per second.
    fn best_raw(&self, kind: RawKind) -> &Raw {
        let of_kind = self.raw.iter().filter(|raw| raw.kind == kind);
        of_kind.max_by(|a, b| a.rate.total_cmp(&b.rate)).expect("measured")
    }

    fn lone_block(&self, kind: RawKind) -> &Raw {
        let mut raw = self.raw.iter();
        raw.find(|raw| raw.kind == kind && raw.size == 4096).expect("measured")
    }

    fn one_writer(&self, like: &Case) -> &Case {
        let is_like = |case: &&Case| {
            case.flush == like.flush
                && case.is_recycled == like.is_recycled
                && case.load.writers == 1
        };
        self.cases.iter().find(is_like).expect("measured")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in RawKind::ALL {
            let (best, lone) = (self.best_raw(kind), self.lone_block(kind));
            writeln!(
                f,
                "raw {:<8} best {:>6.0} MB/s ({} KiB x {})   4 KiB x 1: {:>6.0}/s, p50 {:.0} us",
                format!("{kind:?}"),
                best.rate / 1e6,
                best.size >> 10,
                best.in_flight,
                lone.rate / 4096.0,
                lone.p50_us,
            )?;
        }
        writeln!(f, "\nraw, MB/s, size x in flight:")?;
        for kind in RawKind::ALL {
            write!(f, "{:<9}", format!("{kind:?}"))?;
            let large = |raw: &&Raw| raw.kind == kind && raw.size > 4096;
            for raw in self.raw.iter().filter(large) {
                write!(f, " {}Kx{} {:.0} ", raw.size >> 10, raw.in_flight, raw.rate / 1e6)?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\n{:<6}{:<9}{:<26}{:>10}{:>8}{:>9}{:>9}{:>10}{:>8}  ratio",
            "flush",
            "segments",
            "load",
            "appends/s",
            "MB/s",
            "p50 us",
            "p99 us",
            "writes/s",
            "dev/pay",
        )?;
        for case in &self.cases {
            let kind = match case.flush {
                Flush::Sync => RawKind::Durable,
                Flush::Async => RawKind::Flushed,
            };
            let ratio = match case.load.writers {
                1 => format!("{:.2} x raw p50", case.p50_us / self.lone_block(kind).p50_us),
                16 => format!("{:.2} of raw", case.rate / self.best_raw(kind).rate),
                _ => {
                    let one = self.one_writer(case);
                    format!("{:.1} x one writer", case.appends_per_s / one.appends_per_s)
                }
            };
            writeln!(
                f,
                "{:<6}{:<9}{:<26}{:>10.0}{:>8.0}{:>9.0}{:>9.0}{:>10.0}{:>8.2}  {ratio}",
                if case.flush == Flush::Sync { "sync" } else { "async" },
                if case.is_recycled { "recycled" } else { "fresh" },
                case.load.name,
                case.appends_per_s,
                case.rate / 1e6,
                case.p50_us,
                case.p99_us,
                case.writes_per_s,
                case.device_bytes,
            )?;
        }
        Ok(())
    }
}
