//! Measures the device alone, with the same direct I/O as the log: the reference for all append rates.
//! Other benches include this file as a module.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use ringmq::shard::nudge::Pulse;
use ringmq::storage::disk::{Disk, DiskError, DiskFile, Durability};
use ringmq::storage::file::{FileDisk, StoredFile};

const FILE_NAME: &str = "raw-device";
/// Size of the writes that prepare the file.
const FILL_SIZE: usize = 1 << 20;
/// Flush interval of [`Kind::Flushed`]: the shortest interval of a log with asynchronous flush, which
/// it uses while there is little to flush.
const FLUSH_INTERVAL: Duration = Duration::from_millis(300);

/// What a plain write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The device's cache.
    Written,
    /// The device's cache, with periodic concurrent flushes: the reference for sustained
    /// asynchronous flush, since no cache can absorb more than the media for long.
    Flushed,
    /// Stable media.
    Durable,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Flushed => "flushed",
            Self::Durable => "durable",
        }
    }
}

/// Where the bytes of a write come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// From one buffer for all writes, so that it stays in the CPU's cache: the device's maximum.
    Same,
    /// Copied and checksummed before each write, in buffers that are reused after [`ROUND_BYTES`]: the
    /// reference for a writer of new bytes on a device as fast as memory.
    New,
}

/// Total size of the buffers for new bytes, the same as the log's tail cache.
const ROUND_BYTES: usize = 64 << 20;

/// One way of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub block_size: usize,
    pub in_flight: usize,
    pub kind: Kind,
    pub content: Content,
}

/// The result of writing in one shape.
pub struct Measured {
    bytes: u64,
    elapsed: Duration,
    latency_us: Histogram<u64>,
}

impl Measured {
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }

    pub fn per_s(&self) -> f64 {
        self.latency_us.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Median latency of the writes, microseconds.
    pub fn p50_us(&self) -> f64 {
        self.latency_us.value_at_quantile(0.5) as f64
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        let writes_per_s = self.per_s();
        write!(
            f,
            "{writes_per_s:>8.0}/s  p50 {:>7.3} ms  p99 {:>7.3} ms",
            self.p50_us() / 1e3,
            ms(0.99)
        )
    }
}

type Buffer = Rc<<FileDisk as Disk>::Buffer>;

/// The data that one measurement writes.
struct Source {
    content: Content,
    bytes: Vec<u8>,
    /// Idle buffers, the least recently used first.
    idle: RefCell<VecDeque<Buffer>>,
}

impl Source {
    fn new(disk: &FileDisk, Shape { block_size, in_flight, content, .. }: Shape) -> Self {
        let buffer = filled(disk, block_size);
        let bytes = buffer.as_bytes().to_vec();
        let idle = match content {
            Content::Same => [buffer].into(),
            Content::New => {
                let count = (ROUND_BYTES / block_size).max(in_flight);
                (0..count).map(|_| filled(disk, block_size)).collect()
            }
        };
        Self { content, bytes, idle: RefCell::new(idle) }
    }

    fn take(&self) -> Buffer {
        let mut idle = self.idle.borrow_mut();
        if self.content == Content::Same {
            return idle[0].clone();
        }
        let mut buffer = idle.pop_front().expect("as many as writes in flight");
        let new = Rc::get_mut(&mut buffer).expect("its write has ended").as_bytes_mut();
        new.copy_from_slice(&self.bytes);
        black_box(crc32c::crc32c(new));
        buffer
    }

    fn give_back(&self, buffer: Buffer) {
        if self.content == Content::New {
            self.idle.borrow_mut().push_back(buffer);
        }
    }
}

/// A fully written file, so that overwriting it changes no metadata.
pub struct Device {
    disk: FileDisk,
    file: StoredFile,
    pulse: Pulse,
}

impl Device {
    /// Creates the file; `size` is a multiple of a mebibyte.
    pub async fn prepare(disk: &FileDisk, size: u64, pulse: Pulse) -> Result<Self, DiskError> {
        if disk.list().await?.iter().any(|(name, _)| name == FILE_NAME) {
            disk.remove(FILE_NAME).await?;
        }
        let file = write_over(disk, disk.create(FILE_NAME, size).await?).await?;
        Ok(Self { disk: disk.clone(), file, pulse })
    }

    /// Overwrites the file cyclically from its beginning for `lasts`; every writer writes at least
    /// once.
    pub async fn write(&self, shape: Shape, lasts: Duration) -> Result<Measured, DiskError> {
        let source = Source::new(&self.disk, shape);
        let next_offset = Cell::new(0);
        let begin = Instant::now();
        let writers = join_all((0..shape.in_flight).map(|_| {
            let next = || {
                let offset = next_offset.get();
                next_offset.set(self.offset_after(offset, shape.block_size as u64));
                offset
            };
            self.write_until(begin + lasts, shape.kind, &source, next)
        }));
        let flushes = async {
            while shape.kind == Kind::Flushed && begin.elapsed() < lasts {
                ringmq::reactor::sleep(FLUSH_INTERVAL.min(lasts)).await;
                self.file.sync().await?;
            }
            Ok::<_, DiskError>(())
        };
        let (outcomes, flushed) = futures_util::future::join(writers, flushes).await;
        flushed?;
        let elapsed = begin.elapsed();
        let mut latency_us = Histogram::new(3).expect("three digits are allowed");
        for outcome in outcomes {
            for latency in outcome? {
                // Not `saturating_record`, which does not grow the range of a new histogram.
                latency_us.record(latency).expect("the range grows");
            }
        }
        let bytes = latency_us.len() * shape.block_size as u64;
        Ok(Measured { bytes, elapsed, latency_us })
    }

    /// One writer, at the offsets from `next`. Returns the latency of each write, microseconds.
    async fn write_until(
        &self,
        deadline: Instant,
        kind: Kind,
        source: &Source,
        next: impl Fn() -> u64,
    ) -> Result<Vec<u64>, DiskError> {
        let durability =
            if kind == Kind::Durable { Durability::Durable } else { Durability::Written };
        let mut latency_us = Vec::new();
        loop {
            let submitted = Instant::now();
            let buffer = source.take();
            self.file.write(next(), buffer.clone(), durability).await?;
            source.give_back(buffer);
            self.pulse.beat();
            latency_us.push(submitted.elapsed().as_micros() as u64);
            if Instant::now() >= deadline {
                return Ok(latency_us);
            }
        }
    }

    fn offset_after(&self, offset: u64, block_size: u64) -> u64 {
        let next = offset + block_size;
        if next + block_size <= self.file.size() { next } else { 0 }
    }

    pub async fn remove(self) -> Result<(), DiskError> {
        self.disk.remove(FILE_NAME).await
    }
}

/// Writes every block of a file once, and syncs it.
pub async fn write_over(disk: &FileDisk, file: StoredFile) -> Result<StoredFile, DiskError> {
    let buffer = filled(disk, FILL_SIZE);
    for offset in (0..file.size()).step_by(FILL_SIZE) {
        file.write(offset, buffer.clone(), Durability::Written).await?;
    }
    file.sync().await?;
    Ok(file)
}

fn filled(disk: &FileDisk, size: usize) -> Buffer {
    let mut buffer = disk.buffer(size);
    // Not a repeated byte, which some devices compress away.
    for (index, byte) in buffer.as_bytes_mut().iter_mut().enumerate() {
        *byte = (index.wrapping_mul(2_654_435_761) >> 7) as u8;
    }
    Rc::new(buffer)
}
