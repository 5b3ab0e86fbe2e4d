//! A slow disk: limits what one process may write, with a control group of our own that is removed
//! afterwards.
//!
//! The kernel has two versions of control groups, and a machine may use either for its block
//! devices: version 2 with `io.max`, version 1 with `blkio.throttle.*`. Both throttle the writes of
//! the processes in a group, direct ones included. Flushes that the file system does on their
//! behalf are not throttled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use crate::target::device::{Mount, first_line, mount_of, mounts};

/// File of a version 2 group that lists the controllers enabled for its child groups.
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
const PROCESSES: &str = "cgroup.procs";

/// Lifted on drop.
#[derive(Debug)]
pub struct Limit {
    group: PathBuf,
    /// `cgroup.procs` of the group that the process was in before.
    back: PathBuf,
    pid: u32,
    /// The file in which we enabled the controller; `None` if it was enabled already, or in version
    /// 1.
    switched_on: Option<PathBuf>,
}

/// Rates per second; 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub writes: u64,
    pub bytes: u64,
}

/// A hierarchy of control groups that can limit writes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchy {
    V2(PathBuf),
    V1(PathBuf),
}

impl Limit {
    /// Limits what process `pid` writes to the disk under the directory `data`.
    pub fn set(pid: u32, data: &Path, rates: Rates) -> io::Result<Self> {
        let disk = mount_of(data)?.disk_number();
        let disk = disk.ok_or_else(|| io::Error::other("no device is under the data directory"))?;
        let controllers = |root: &Path| first_line(&root.join("cgroup.controllers"));
        let hierarchy = Hierarchy::find(&mounts()?, controllers)?;
        let root = hierarchy.root();
        let switched_on = hierarchy.switch_on()?;
        let before = group_of(pid, &hierarchy)?;
        let group = root.join(format!("loadgen-{}", process::id()));
        fs::create_dir(&group).map_err(|error| said(&group, &error))?;
        let back = root.join(before.trim_start_matches('/')).join(PROCESSES);
        // An error drops the limit, and with it the group.
        let limit = Self { group, back, pid, switched_on };
        for (file, text) in hierarchy.settings(&disk, rates) {
            write(&limit.group.join(file), &text)?;
        }
        write(&limit.group.join(PROCESSES), &pid.to_string())?;
        Ok(limit)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A process that has ended is in no group.
        let _ = fs::write(&self.back, self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
        if let Some(file) = &self.switched_on {
            let _ = fs::write(file, "-io");
        }
    }
}

impl Hierarchy {
    /// Version 2 if its `io` controller is available, else version 1.
    fn find(mounts: &[Mount], controllers: impl Fn(&Path) -> String) -> io::Result<Self> {
        let v2 = mounts.iter().find(|mount| {
            mount.kind == "cgroup2" && controllers(&mount.point).split(' ').any(|it| it == "io")
        });
        let v1 = mounts.iter().find(|mount| {
            mount.kind == "cgroup" && mount.options.split(',').any(|option| option == "blkio")
        });
        match (v2, v1) {
            (Some(mount), _) => Ok(Self::V2(mount.point.clone())),
            (None, Some(mount)) => Ok(Self::V1(mount.point.clone())),
            (None, None) => {
                let why = "no control group limits block devices here: neither cgroup v2 with the \
                           io controller nor blkio of v1 is mounted";
                Err(io::Error::other(why))
            }
        }
    }

    fn root(&self) -> &Path {
        match self {
            Self::V2(root) | Self::V1(root) => root,
        }
    }

    /// Enables the controller for groups below the root. Returns the file that was written, if it
    /// was not enabled already.
    fn switch_on(&self) -> io::Result<Option<PathBuf>> {
        let Self::V2(root) = self else { return Ok(None) };
        let file = root.join(SUBTREE_CONTROL);
        if first_line(&file).split(' ').any(|controller| controller == "io") {
            return Ok(None);
        }
        write(&file, "+io")?;
        Ok(Some(file))
    }

    /// The settings files of a group, with their content.
    fn settings(&self, disk: &str, rates: Rates) -> Vec<(&'static str, String)> {
        let shown = |rate: u64| if rate == 0 { "max".to_owned() } else { rate.to_string() };
        match self {
            Self::V2(_) => {
                let (bytes, writes) = (shown(rates.bytes), shown(rates.writes));
                vec![("io.max", format!("{disk} wbps={bytes} wiops={writes}"))]
            }
            // In version 1, a rate of 0 removes the limit.
            Self::V1(_) => vec![
                ("blkio.throttle.write_bps_device", format!("{disk} {}", rates.bytes)),
                ("blkio.throttle.write_iops_device", format!("{disk} {}", rates.writes)),
            ],
        }
    }

    /// The group of this hierarchy in the text of `/proc/PID/cgroup`.
    fn group_in(&self, text: &str) -> Option<String> {
        let mut lines = text.lines().filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let (controllers, group) = rest.split_once(':')?;
            Some((number, controllers, group))
        });
        let found = match self {
            Self::V2(_) => {
                lines.find(|(number, controllers, _)| *number == "0" && controllers.is_empty())
            }
            Self::V1(_) => {
                lines.find(|(_, controllers, _)| controllers.split(',').any(|it| it == "blkio"))
            }
        };
        found.map(|(.., group)| group.to_owned())
    }
}

fn group_of(pid: u32, hierarchy: &Hierarchy) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    hierarchy.group_in(&text).ok_or_else(|| io::Error::other("the broker is in no control group"))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| said(path, &error))
}

fn said(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, kind: &str, options: &str) -> Mount {
        Mount {
            point: point.into(),
            kind: kind.to_owned(),
            source: kind.to_owned(),
            options: options.to_owned(),
            device: "0:1".to_owned(),
        }
    }

    #[test]
    fn the_newer_hierarchy_is_used_where_it_has_the_controller() {
        let both =
            [mount("/cg/blkio", "cgroup", "rw,blkio"), mount("/cg/unified", "cgroup2", "rw")];
        let find = |mounts: &[Mount], controllers: &str| {
            Hierarchy::find(mounts, |_| controllers.to_owned())
        };
        assert_eq!(find(&both, "cpu io").unwrap(), Hierarchy::V2("/cg/unified".into()));
        assert_eq!(find(&both, "hugetlb").unwrap(), Hierarchy::V1("/cg/blkio".into()));
        let error = find(&both[1..], "cpu").unwrap_err().to_string();
        assert!(error.contains("neither"), "{error}");
    }

    #[test]
    fn limits_as_the_kernel_reads_them() {
        let rates = Rates { writes: 50, bytes: 0 };
        let v2 = Hierarchy::V2("/cg".into());
        assert_eq!(v2.settings("254:0", rates), [("io.max", "254:0 wbps=max wiops=50".to_owned())]);
        let v1 = Hierarchy::V1("/cg".into());
        let files = v1.settings("7:1", rates);
        assert_eq!(files[0].1, "7:1 0");
        assert_eq!(files[1], ("blkio.throttle.write_iops_device", "7:1 50".to_owned()));

        let groups = "8:pids:/a\n7:blkio,x:/b\n0::/c\n";
        assert_eq!(v2.group_in(groups).as_deref(), Some("/c"));
        assert_eq!(v1.group_in(groups).as_deref(), Some("/b"));
        assert_eq!(v1.group_in("0::/c"), None);
    }
}
