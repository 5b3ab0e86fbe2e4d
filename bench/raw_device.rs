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

/// One way of writing.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub block_size: usize,
    pub in_flight: usize,
    pub durability: Durability,
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
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        let writes_per_s = self.latency_us.len() as f64 / self.elapsed.as_secs_f64();
        write!(f, "{writes_per_s:>8.0}/s  p50 {:>7.3} ms  p99 {:>7.3} ms", ms(0.5), ms(0.99))
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
        let file = disk.create(FILE_NAME, size).await?;
        let device = Self { disk: disk.clone(), file, pulse };
        let buffer = device.filled(FILL_SIZE);
        for offset in (0..size).step_by(FILL_SIZE) {
            device.file.write(offset, buffer.clone(), Durability::Written).await?;
        }
        device.file.sync().await?;
        Ok(device)
    }

    /// Overwrites the file from its beginning, round and round, for as long as `lasts`; every writer
    /// writes at least once.
    pub async fn write(&self, shape: Shape, lasts: Duration) -> Result<Measured, DiskError> {
        let buffer = self.filled(shape.block_size);
        let next_offset = Cell::new(0);
        let begin = Instant::now();
        let writers = (0..shape.in_flight).map(|_| async {
            let mut latency_us = Vec::new();
            loop {
                let offset = next_offset.get();
                next_offset.set(self.offset_after(offset, shape.block_size as u64));
                let submitted = Instant::now();
                self.file.write(offset, buffer.clone(), shape.durability).await?;
                self.pulse.beat();
                latency_us.push(submitted.elapsed().as_micros() as u64);
                if begin.elapsed() >= lasts {
                    return Ok(latency_us);
                }
            }
        });
        let outcomes: Vec<Result<Vec<u64>, DiskError>> = join_all(writers).await;
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

    fn offset_after(&self, offset: u64, block_size: u64) -> u64 {
        let next = offset + block_size;
        if next + block_size <= self.file.size() { next } else { 0 }
    }

    pub async fn remove(self) -> Result<(), DiskError> {
        self.disk.remove(FILE_NAME).await
    }

    fn filled(&self, size: usize) -> Rc<<FileDisk as Disk>::Buffer> {
        let mut buffer = self.disk.buffer(size);
        // Not one repeated byte, which some devices do not store.
        for (index, byte) in buffer.as_bytes_mut().iter_mut().enumerate() {
            *byte = (index.wrapping_mul(2_654_435_761) >> 7) as u8;
        }
        Rc::new(buffer)
    }
}
