//! Raw write rates of a device, the upper bound for a log on it.
//!
//! ```text
//! cargo bench --bench device -- [--test] [DIRECTORY]
//! ```
//!
//! Overwrites a written file with direct I/O: without flush, with concurrent flushes, and with
//! O_DSYNC. Every cell is the median of several rounds. Each round measures all shapes, so
//! that noise affects all of them.

#[path = "nudged.rs"]
mod nudged;
#[path = "raw_device.rs"]
mod raw_device;

use std::path::PathBuf;
use std::time::Duration;

use raw_device::{Content, Device, Kind, Measured, Shape};
use ringmq::shard::nudge::Pulse;
use ringmq::storage::disk::DiskError;
use ringmq::storage::file::{FileDisk, FileDiskOptions};

const BLOCK_SIZES: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
const IN_FLIGHT: [usize; 3] = [1, 4, 8];
const KINDS: [Kind; 3] = [Kind::Written, Kind::Flushed, Kind::Durable];
const SMALL: Shape =
    Shape { block_size: 4096, in_flight: 1, kind: Kind::Durable, content: Content::Same };

/// Durations and sizes.
#[derive(Clone, Copy)]
struct Effort {
    file_size: u64,
    cell: Duration,
    rounds: usize,
}

const FULL: Effort = Effort { file_size: 1 << 30, cell: Duration::from_millis(1_000), rounds: 3 };
const TEST: Effort = Effort { file_size: 8 << 20, cell: Duration::from_millis(2), rounds: 1 };

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let effort = if arguments.iter().any(|a| a == "--test") { TEST } else { FULL };
    let directory = arguments.iter().find(|a| !a.starts_with("--"));
    let directory = PathBuf::from(directory.map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str));
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    nudged::run(128 << 20, move |pulse| run(directory, effort, pulse)).expect("the device works");
}

async fn run(directory: PathBuf, effort: Effort, pulse: Pulse) -> Result<(), DiskError> {
    let disk = FileDisk::open(&directory, FileDiskOptions::default()).await?;
    let device = Device::prepare(&disk, effort.file_size, pulse).await?;
    println!(
        "{}: {:?} I/O, file of {} MiB, {} ms x {} rounds, median",
        directory.display(),
        disk.mode(),
        effort.file_size >> 20,
        effort.cell.as_millis(),
        effort.rounds,
    );
    let shapes = shapes();
    let mut rates = vec![Vec::new(); shapes.len()];
    let mut small: Vec<Measured> = Vec::new();
    for _ in 0..effort.rounds {
        for (shape, rates) in shapes.iter().zip(&mut rates) {
            rates.push(device.write(*shape, effort.cell).await?.mb_per_s());
        }
        small.push(device.write(SMALL, effort.cell).await?);
    }
    device.remove().await?;
    print_table(&rates.into_iter().map(median).collect::<Vec<_>>());
    small.sort_by(|a, b| a.mb_per_s().total_cmp(&b.mb_per_s()));
    println!("\n4 KiB O_DSYNC, 1 in flight: {}", small[small.len() / 2]);
    Ok(())
}

/// In table order: by block size, then kind, then writes in flight.
fn shapes() -> Vec<Shape> {
    let rows = BLOCK_SIZES.into_iter().flat_map(|size| KINDS.map(|kind| (size, kind)));
    rows.flat_map(|(block_size, kind)| {
        let content = Content::Same;
        IN_FLIGHT.map(|in_flight| Shape { block_size, in_flight, kind, content })
    })
    .collect()
}

fn print_table(mb_per_s: &[f64]) {
    println!("\n{:<20} {:>9} {:>9} {:>9}  MB/s", "", "1", "4", "8 in flight");
    for (index, row) in mb_per_s.chunks(IN_FLIGHT.len()).enumerate() {
        let kind = KINDS[index % KINDS.len()].name();
        print!("{:>5} KiB  {kind:<9}", BLOCK_SIZES[index / KINDS.len()] >> 10);
        row.iter().for_each(|rate| print!(" {rate:>9.0}"));
        println!();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
