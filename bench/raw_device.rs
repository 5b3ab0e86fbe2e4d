//! What the device itself can do, through the same direct I/O as the log but without the log: the
//! denominator of every append rate. Other benches include this file as a module.

use std::cell::Cell;
use std::fmt;
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
/// How often everything is flushed beside writes of [`Kind::Flushed`]: as often as a log with
/// asynchronous flush does it at the latest.
const FLUSH_INTERVAL: Duration = Duration::from_millis(400);

/// What a plain write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The device's cache.
    Written,
    /// The same, with a flush of all of it beside it now and then: what asynchronous flush can be held
    /// against for long, since no cache takes more than the media.
    Flushed,
    /// Stable media.
    Durable,
}

/// One way of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub block_size: usize,
    pub in_flight: usize,
    pub kind: Kind,
}

/// What writing in one shape for a while gave.
pub struct Measured {
    bytes: u64,
    elapsed: Duration,
    latency_us: Histogram<u64>,
}

impl Measured {
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }

    /// Microseconds within which half of the writes ended.
    pub fn p50_us(&self) -> f64 {
        self.latency_us.value_at_quantile(0.5) as f64
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        let writes_per_s = self.latency_us.len() as f64 / self.elapsed.as_secs_f64();
        write!(
            f,
            "{writes_per_s:>8.0}/s  p50 {:>7.3} ms  p99 {:>7.3} ms",
            self.p50_us() / 1e3,
            ms(0.99)
        )
    }
}

/// A file whose every block has been written, so that writing it again needs no metadata.
pub struct Device {
    disk: FileDisk,
    file: StoredFile,
    pulse: Pulse,
}

impl Device {
    /// Makes the file; `size` is a multiple of a mebibyte.
    pub async fn prepare(disk: &FileDisk, size: u64, pulse: Pulse) -> Result<Self, DiskError> {
        if disk.list().await?.iter().any(|(name, _)| name == FILE_NAME) {
            disk.remove(FILE_NAME).await?;
        }
        let file = write_over(disk, disk.create(FILE_NAME, size).await?).await?;
        Ok(Self { disk: disk.clone(), file, pulse })
    }

    /// Overwrites the file from its beginning, round and round, for as long as `lasts`; every writer
    /// writes at least once.
    pub async fn write(&self, shape: Shape, lasts: Duration) -> Result<Measured, DiskError> {
        let buffer = filled(&self.disk, shape.block_size);
        let next_offset = Cell::new(0);
        let begin = Instant::now();
        let writers = join_all((0..shape.in_flight).map(|_| {
            let next = || {
                let offset = next_offset.get();
                next_offset.set(self.offset_after(offset, shape.block_size as u64));
                offset
            };
            self.write_until(begin + lasts, shape.kind, buffer.clone(), next)
        }));
        let flushes = async {
            while shape.kind == Kind::Flushed && begin.elapsed() < lasts {
                glommio::timer::sleep(FLUSH_INTERVAL.min(lasts)).await;
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

    /// One writer, at the offsets that `next` gives. Returns the latency of each write, microseconds.
    async fn write_until(
        &self,
        deadline: Instant,
        kind: Kind,
        buffer: Rc<<FileDisk as Disk>::Buffer>,
        next: impl Fn() -> u64,
    ) -> Result<Vec<u64>, DiskError> {
        let durability =
            if kind == Kind::Durable { Durability::Durable } else { Durability::Written };
        let mut latency_us = Vec::new();
        loop {
            let submitted = Instant::now();
            self.file.write(next(), buffer.clone(), durability).await?;
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

/// Writes every block of a file once and makes that durable.
pub async fn write_over(disk: &FileDisk, file: StoredFile) -> Result<StoredFile, DiskError> {
    let buffer = filled(disk, FILL_SIZE);
    for offset in (0..file.size()).step_by(FILL_SIZE) {
        file.write(offset, buffer.clone(), Durability::Written).await?;
    }
    file.sync().await?;
    Ok(file)
}

fn filled(disk: &FileDisk, size: usize) -> Rc<<FileDisk as Disk>::Buffer> {
    let mut buffer = disk.buffer(size);
    // Not one repeated byte, which some devices do not store.
    for (index, byte) in buffer.as_bytes_mut().iter_mut().enumerate() {
        *byte = (index.wrapping_mul(2_654_435_761) >> 7) as u8;
    }
    Rc::new(buffer)
}
