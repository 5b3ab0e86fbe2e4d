//! The file system and device under a directory, and the latency of a durable write there: raw
//! figures to set beside those of a broker on the same device.
//!
//! Facts come from `/proc/self/mountinfo` and `/sys`. What the kernel does not report is left out,
//! never guessed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::libc::{O_DIRECT, O_DSYNC};
use nix::sys::stat::{major, minor};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::engine::histogram::{self, Percentiles};

/// Number of measured writes, and the size of each, bytes.
const WRITES: u64 = 200;
const WRITE_SIZE: usize = 4 << 10;
/// The probe file is filled first, so that no measured write extends it.
const PROBE_SIZE: u64 = 1 << 20;
const PROBE_NAME: &str = "loadgen-flush-probe";
/// Queue settings of a block device that affect its latency.
const QUEUE_SETTINGS: [&str; 6] = [
    "rotational",
    "scheduler",
    "write_cache",
    "logical_block_size",
    "max_sectors_kb",
    "nr_requests",
];

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    pub kind: String,
    /// The device or name that is mounted.
    pub source: String,
    /// Mount options, then file system options, separated by commas.
    pub options: String,
    /// `major:minor`.
    pub device: String,
}

/// The file system that contains `path`, which must exist.
pub fn mount_of(path: &Path) -> io::Result<Mount> {
    let path = path.canonicalize()?;
    let mounts = mounts()?;
    // Of two mounts at one mount point, the later hides the earlier.
    let holding = mounts.into_iter().filter(|mount| path.starts_with(&mount.point));
    let mut mount = holding
        .max_by_key(|mount| mount.point.as_os_str().len())
        .ok_or_else(|| io::Error::other("no file system holds it"))?;
    // Some file systems report a device number of their own; the number of the block device is
    // needed.
    if let Ok(source) = fs::metadata(&mount.source)
        && source.rdev() != 0
    {
        mount.device = format!("{}:{}", major(source.rdev()), minor(source.rdev()));
    }
    Ok(mount)
}

/// All mounted file systems, in mount order.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, see proc(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (here, there) = line.split_once(" - ")?;
    let mut here = here.split(' ').skip(2);
    let (device, point, options) = (here.next()?, here.nth(1)?, here.next()?);
    let mut there = there.split(' ');
    let (kind, source, more) = (there.next()?, there.next()?, there.next().unwrap_or_default());
    Some(Mount {
        point: unescape(point).into(),
        kind: kind.to_owned(),
        source: unescape(source),
        options: [options, more].join(","),
        device: device.to_owned(),
    })
}

/// Decodes octal escapes: a space is written as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out += before;
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    out + rest
}

impl Mount {
    /// Whether a file is mounted here, so that nothing else needs the space in it.
    pub fn is_loop(&self) -> bool {
        self.source.starts_with("/dev/loop")
    }

    /// The disk under it in `/sys`; for a partition, the whole disk.
    fn disk(&self) -> Option<PathBuf> {
        let block = fs::canonicalize(format!("/sys/dev/block/{}", self.device)).ok()?;
        match block.join("partition").exists() {
            true => block.parent().map(Path::to_owned),
            false => Some(block),
        }
    }

    /// `major:minor` of the disk under it; `None` for a file system without a disk.
    pub fn disk_number(&self) -> Option<String> {
        self.disk().map(|disk| first_line(&disk.join("dev"))).filter(|number| !number.is_empty())
    }
}

/// File system and device of the directory `data`, by key.
pub fn describe(data: &Path) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut add = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    let Ok(mount) = mount_of(data) else { return facts };
    add("file_system", json!(mount.kind));
    add("mount_options", json!(mount.options));
    add("device", json!(mount.source));
    let Some(disk) = mount.disk() else { return facts };
    let model = first_line(&disk.join("device/model"));
    let backing = first_line(&disk.join("loop/backing_file"));
    for (name, text) in [("device_model", model), ("device_backing_file", backing)] {
        if !text.is_empty() {
            add(name, json!(text));
        }
    }
    let sectors: u64 = first_line(&disk.join("size")).parse().unwrap_or(0);
    add("device_bytes", json!(sectors * 512));
    let setting =
        |name: &&str| (name.to_string(), json!(first_line(&disk.join("queue").join(name))));
    add("device_queue", Value::Object(QUEUE_SETTINGS.iter().map(setting).collect()));
    facts
}

/// The first line of a file; empty if there is none.
pub fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Latencies of small durable writes, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlushLatency {
    pub writes: u64,
    pub write_bytes: usize,
    /// Direct I/O, as the broker uses; `false` where the file system refuses it.
    pub is_direct: bool,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
}

/// Measures writes of 4 KiB, each durable when it returns, to a preallocated file in `directory`.
/// Removes the file afterwards.
pub fn measure_flush(directory: &Path) -> io::Result<FlushLatency> {
    let path = directory.join(PROBE_NAME);
    let measured = prepare(&path).and_then(|()| match probe(&path, O_DIRECT | O_DSYNC) {
        Ok(latency) => Ok(FlushLatency { is_direct: true, ..latency }),
        Err(_) => probe(&path, O_DSYNC),
    });
    let removed = fs::remove_file(&path);
    measured.and_then(|latency| removed.map(|()| latency))
}

fn prepare(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&vec![0x5a; PROBE_SIZE as usize])?;
    file.sync_all()
}

fn probe(path: &Path, flags: i32) -> io::Result<FlushLatency> {
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    // Direct I/O requires aligned memory.
    let memory = vec![0xa5_u8; 2 * WRITE_SIZE];
    let start = memory.as_ptr().align_offset(WRITE_SIZE);
    let block = &memory[start..start + WRITE_SIZE];
    let mut taken = histogram::empty();
    for index in 0..WRITES {
        let offset = index * WRITE_SIZE as u64 % PROBE_SIZE;
        let begin = Instant::now();
        file.write_all_at(block, offset)?;
        histogram::record(&mut taken, begin.elapsed().as_nanos() as u64, 1);
    }
    let Percentiles { p50, p99, max, .. } = Percentiles::of(&taken);
    Ok(FlushLatency {
        writes: WRITES,
        write_bytes: WRITE_SIZE,
        is_direct: false,
        p50_ns: p50,
        p99_ns: p99,
        max_ns: max,
    })
}

/// The broker's command, and the file system, device and flush latency under its data. The latency
/// must be measured while the broker does not write.
pub fn of_ground(data: &Path, broker_command: &str) -> Map<String, Value> {
    let mut facts = describe(data);
    facts.insert("broker".to_owned(), json!(broker_command));
    let flush = match measure_flush(data) {
        Ok(latency) => json!(latency),
        Err(error) => json!(format!("not measured: {error}")),
    };
    facts.insert("device_flush".to_owned(), flush);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = r"36 35 98:0 /sub /mnt/my\040disk rw,noatime master:1 - ext4 /dev/loop3 rw,data";
        let mount = Mount {
            point: "/mnt/my disk".into(),
            kind: "ext4".to_owned(),
            source: "/dev/loop3".to_owned(),
            options: "rw,noatime,rw,data".to_owned(),
            device: "98:0".to_owned(),
        };
        assert_eq!(parse_mount(line), Some(mount.clone()));
        assert!(mount.is_loop());
        // No optional fields, and a backslash that is not an escape.
        let line = r"1 0 0:5 / /a\b rw - tmpfs tmpfs rw";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.point.to_str(), mount.is_loop()), (Some(r"/a\b"), false));
        assert_eq!(parse_mount("what is this"), None);
    }

    #[test]
    fn the_mount_of_a_path_is_the_innermost() {
        assert_eq!(mount_of(Path::new("/proc/self")).unwrap().kind, "proc");
        assert_eq!(mount_of(Path::new("/proc/self/../../sys")).unwrap().kind, "sysfs");
        assert!(mount_of(Path::new("/no/such/directory")).is_err());
    }

    #[test]
    fn flush_latency_is_measured_and_leaves_nothing() {
        let directory = std::env::temp_dir().join(format!("loadgen-probe-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let latency = measure_flush(&directory).unwrap();
        assert_eq!(latency.writes, WRITES);
        assert!(0 < latency.p50_ns && latency.p50_ns <= latency.p99_ns);
        assert!(latency.p99_ns <= latency.max_ns);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir(&directory).unwrap();
        assert!(measure_flush(&directory).is_err());
    }

    /// A report without these facts cannot be repeated.
    #[test]
    fn the_device_under_the_data_is_named() {
        let directory = std::env::temp_dir().join(format!("loadgen-ground-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let ground = of_ground(&directory, "ringmq dev --shards 1");
        std::fs::remove_dir(&directory).unwrap();
        assert_eq!(ground["broker"], "ringmq dev --shards 1");
        assert!(!ground["file_system"].as_str().unwrap().is_empty());
        assert!(ground["device_flush"]["p99_ns"].as_u64().unwrap() > 0);
    }
}
