//! A disk that is slow for some processes. Other benches include this file as a module.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What can be limited per second, as control groups of version 2 and version 1 call it: writes, and
/// bytes written.
const LIMITS: [(&str, &str); 2] =
    [("wiops", "blkio.throttle.write_iops_device"), ("wbps", "blkio.throttle.write_bps_device")];

/// A control group that limits how its processes write, removed on drop. All processes in it must
/// have been released or have ended by then.
pub struct Throttle {
    root: PathBuf,
    group: PathBuf,
}

impl Throttle {
    /// Creates a group that limits `what` ([`LIMITS`]) on the device of a directory. Needs permission to change
    /// control groups, as root has.
    pub fn new(directory: &Path, what: &str, per_s: u64) -> Result<Self, String> {
        let device = fs::metadata(directory).map_err(|error| error.to_string())?.dev();
        let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let (what, old_file) =
            LIMITS.into_iter().find(|(name, _)| *name == what).expect("it can be limited");
        let ways = [
            ("/sys/fs/cgroup/blkio", old_file, format!("{device} {per_s}")),
            ("/sys/fs/cgroup", "io.max", format!("{device} {what}={per_s}")),
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
