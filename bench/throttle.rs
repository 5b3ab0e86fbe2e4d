//! A disk that is slow for some processes. Other benches include this file as a module.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A control group that limits how often its processes write, removed on drop. All processes in it
/// must have been released or have ended by then.
pub struct Throttle {
    root: PathBuf,
    group: PathBuf,
}

impl Throttle {
    /// Creates a group that limits writes to the device of a directory. Needs permission to change
    /// control groups, as root has.
    pub fn new(directory: &Path, writes_per_s: u64) -> Result<Self, String> {
        let device = fs::metadata(directory).map_err(|error| error.to_string())?.dev();
        let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
        // Control groups version 1, then version 2.
        let ways = [
            (
                "/sys/fs/cgroup/blkio",
                "blkio.throttle.write_iops_device",
                format!("{device} {writes_per_s}"),
            ),
            ("/sys/fs/cgroup", "io.max", format!("{device} wiops={writes_per_s}")),
        ];
        for (root, file, limit) in ways {
            let root = PathBuf::from(root);
            let group = root.join(format!("ringmq-bench-{}", std::process::id()));
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let throttle = Self { root, group };
            if fs::write(throttle.group.join(file), limit).is_ok() {
                return Ok(throttle);
            }
        }
        Err(format!("no control group can limit the writes to device {device} here"))
    }

    pub fn hold(&self, process: u32) {
        Self::put(&self.group, process);
    }

    pub fn release(&self, process: u32) {
        Self::put(&self.root, process);
    }

    fn put(group: &Path, process: u32) {
        fs::write(group.join("cgroup.procs"), process.to_string()).expect("the group takes it");
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        fs::remove_dir(&self.group).ok();
    }
}
