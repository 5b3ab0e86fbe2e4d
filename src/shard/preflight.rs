//! Checks the machine before the first executor starts: what is missing, and how to fix it.
//!
//! glommio panics in the executor's thread if io_uring is not permitted, and fails with a bare errno
//! if a limit is too low or a file system has no direct I/O. [`check`] finds this out beforehand and
//! returns [`Finding`]s, which `ringmq check` prints and a server refuses to start with.
//!
//! ```text
//!   check ── asks the kernel ──▶ kernel, ring, memlock, nofile, memory, cpus, direct_io ──▶ Finding
//!                                (pure: findings in, verdicts out)
//! ```
//!
//! The checks leave nothing behind: a ring is created and dropped, a probe file created and removed.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;
use nix::libc::O_DIRECT;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use crate::storage::file::OPEN_MAX;

/// Oldest kernel that has every operation the runtime submits, and can watch a descriptor for more
/// than one event.
const KERNEL_MIN: (u32, u32) = (5, 13);
/// glommio needs at least this much to create an executor.
const MEMLOCK_MIN_BYTES: u64 = 512 << 10;
/// glommio registers its memory with each of an executor's three rings, and the limit counts each.
const RINGS_PER_EXECUTOR: u64 = 3;
/// Descriptors for standard streams, libraries, the lock, a NameServer, and a margin.
const FILES_FOR_PROCESS: u64 = 64;
/// Descriptors of a shard: its open log files, and as many again for rings, eventfds, listeners and
/// other files.
const FILES_PER_SHARD: u64 = 2 * OPEN_MAX as u64;
/// CAP_IPC_LOCK exempts a process from the memlock limit.
const CAP_IPC_LOCK_BIT: u32 = 14;

/// Name of the finding for the limit of open files.
pub const NOFILE: &str = "nofile";

/// What the process needs.
#[derive(Clone, Debug)]
pub struct Needs {
    pub shard_count: usize,
    /// Memory each executor registers for I/O, bytes.
    pub io_memory_bytes: u64,
    pub connections_max: u64,
    /// None for a process that stores nothing.
    pub data_directory: Option<PathBuf>,
    pub allow_buffered: bool,
}

impl Needs {
    fn io_memory_of_shards(&self) -> u64 {
        self.io_memory_bytes.saturating_mul(self.shard_count as u64)
    }

    /// Descriptors that are not for connections.
    fn own_files(&self) -> u64 {
        FILES_FOR_PROCESS + FILES_PER_SHARD * self.shard_count as u64
    }

    /// The number of connections for which a limit of open files leaves descriptors.
    fn connections_of(&self, limit: u64) -> u64 {
        if limit == RLIM_INFINITY { limit } else { limit.saturating_sub(self.own_files()) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Ok,
    /// Works, but with a limitation.
    Warn,
    /// Does not work; the server refuses to start.
    Fail,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    /// The command to run or the change to make; empty if there is no problem.
    pub remedy: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: String::new() }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Warn, found: found.into(), remedy: remedy.into() }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Fail, found: found.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        write!(f, "{state:<5} {:<10} {}", self.name, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, "\n{:<16} fix: {}", "", self.remedy)?;
        }
        Ok(())
    }
}

/// Runs all checks, most basic first.
pub fn check(needs: &Needs) -> Vec<Finding> {
    let mut findings = vec![
        kernel(&read_line("/proc/sys/kernel/osrelease")),
        ring(missing_operations(), &read_line("/proc/sys/kernel/io_uring_disabled")),
        memlock(limit(Resource::RLIMIT_MEMLOCK), may_lock_memory(), needs),
        nofile(limit(Resource::RLIMIT_NOFILE), needs),
        memory(memory_bytes(), needs),
        cpus(&allowed_cpus(), needs.shard_count),
    ];
    if let Some(directory) = &needs.data_directory {
        let user = fs::metadata("/proc/self").map_or(0, |own| own.uid());
        let probed = probe_direct_io(directory);
        findings.push(direct_io(directory, probed, user, needs.allow_buffered));
    }
    findings
}

/// The soft and the hard limit; none if it cannot be read.
fn limit(resource: Resource) -> (u64, u64) {
    getrlimit(resource).unwrap_or((RLIM_INFINITY, RLIM_INFINITY))
}

/// Whether the server must refuse to start.
pub fn refuses(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.state == State::Fail)
}

/// Raises the soft limits of open files and locked memory to the hard limits, which needs no
/// privilege. Call it before [`check`], which then reports only what an administrator must fix.
pub fn raise_limits() {
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_MEMLOCK] {
        if let Ok((soft, hard)) = getrlimit(resource)
            && soft < hard
        {
            // Fails only if a policy forbids it; `check` then reports the limit.
            setrlimit(resource, hard, hard).ok();
        }
    }
}

/// The number of connections for which this process has descriptors, besides those for its files.
pub fn connections(needs: &Needs) -> u64 {
    needs.connections_of(limit(Resource::RLIMIT_NOFILE).0)
}

/// The CPUs this process may run on, which a container or `taskset` may have narrowed.
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

fn kernel(release: &str) -> Finding {
    const NAME: &str = "kernel";
    let (major, minor) = KERNEL_MIN;
    match kernel_version(release) {
        None => Finding::warn(NAME, format!("{release:?} is not a known version"), ""),
        Some(version) if version < KERNEL_MIN => Finding::fail(
            NAME,
            format!("Linux {release}, older than {major}.{minor}"),
            format!("boot a kernel of version {major}.{minor} or newer"),
        ),
        Some(_) => Finding::ok(NAME, format!("Linux {release}")),
    }
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `missing` are the operations that a ring lacks, or why a ring could not be created; `disabled` is
/// the kernel's setting.
fn ring(missing: io::Result<Vec<&'static str>>, disabled: &str) -> Finding {
    const NAME: &str = "io_uring";
    let error = match missing {
        Ok(missing) if missing.is_empty() => return Finding::ok(NAME, "usable"),
        Ok(missing) => {
            let found = format!("the kernel lacks {}", missing.join(", "));
            return Finding::fail(NAME, found, "boot a newer kernel");
        }
        Err(error) => error,
    };
    let remedy = match (error.raw_os_error().map(Errno::from_raw), disabled) {
        (Some(Errno::EPERM), "1") => {
            "sysctl -w kernel.io_uring_disabled=0, or run as a member of the group in \
             kernel.io_uring_group"
        }
        (Some(Errno::EPERM), "2") => "sysctl -w kernel.io_uring_disabled=0",
        (Some(Errno::EPERM | Errno::EACCES), _) => {
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp \
             profile, e.g. docker run --security-opt seccomp=unconfined"
        }
        (Some(Errno::ENOSYS), _) => "boot a kernel built with CONFIG_IO_URING=y",
        (Some(Errno::ENOMEM), _) => "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        _ => "find out with: strace -f -e trace=io_uring_setup ringmq check",
    };
    Finding::fail(NAME, format!("refused: {error}"), remedy)
}

fn memlock((soft, hard): (u64, u64), exempt: bool, needs: &Needs) -> Finding {
    const NAME: &str = "memlock";
    let found = format!("limit {}", bytes_or_unlimited(soft));
    let all_rings = needs.io_memory_of_shards().saturating_mul(RINGS_PER_EXECUTOR);
    if soft < MEMLOCK_MIN_BYTES {
        let found = format!("{found}, at least {} are needed", bytes(MEMLOCK_MIN_BYTES));
        return Finding::fail(NAME, found, raise_memlock(hard));
    }
    if soft < all_rings && !exempt {
        let found =
            format!("{found}; I/O buffers are registered only from {} on", bytes(all_rings));
        return Finding::warn(NAME, found, raise_memlock(hard));
    }
    Finding::ok(NAME, found)
}

fn raise_memlock(hard: u64) -> String {
    let service = "LimitMEMLOCK=infinity in the unit";
    if hard == RLIM_INFINITY {
        return format!("ulimit -l unlimited, or {service}");
    }
    format!("as root: prlimit --pid $$ --memlock=unlimited, or {service}")
}

fn nofile((soft, hard): (u64, u64), needs: &Needs) -> Finding {
    const NAME: &str = NOFILE;
    let own = needs.own_files();
    let wanted = own.saturating_add(needs.connections_max);
    let found = format!("limit {}", count_or_unlimited(soft));
    if soft >= wanted {
        let connections = count_or_unlimited(needs.connections_of(soft));
        let log = match needs.data_directory {
            Some(_) => format!("; {OPEN_MAX} open log files per shard, for any number of segments"),
            None => String::new(),
        };
        return Finding::ok(NAME, format!("{found}: {connections} connections{log}"));
    }
    let remedy = if wanted <= hard {
        format!("ulimit -n {wanted}, or LimitNOFILE={wanted} in the unit")
    } else {
        format!("as root: prlimit --pid $$ --nofile={wanted}, or LimitNOFILE={wanted} in the unit")
    };
    if soft <= own {
        let found = format!("{found}, {own} are needed before the first connection");
        return Finding::fail(NAME, found, remedy);
    }
    let (connections, expected) = (needs.connections_of(soft), needs.connections_max);
    Finding::warn(NAME, format!("{found}: {connections} connections instead of {expected}"), remedy)
}

/// `total` is the machine's memory, if known.
fn memory(total: Option<u64>, needs: &Needs) -> Finding {
    const NAME: &str = "memory";
    let Some(total) = total else {
        return Finding::warn(NAME, "cannot determine how much there is", "");
    };
    let needed = needs.io_memory_of_shards();
    if needed <= total {
        return Finding::ok(NAME, format!("{} total, {} for I/O", bytes(total), bytes(needed)));
    }
    let found = format!(
        "{} total, {} shards need {} for I/O",
        bytes(total),
        needs.shard_count,
        bytes(needed)
    );
    Finding::fail(NAME, found, "lower --tail-cache, or create a data directory with fewer shards")
}

/// Total memory of this machine.
pub fn memory_bytes() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib << 10)
}

fn cpus(allowed: &[usize], shard_count: usize) -> Finding {
    const NAME: &str = "cpus";
    let found = format!("{} allowed: {}", allowed.len(), ranges(allowed));
    if allowed.is_empty() {
        return Finding::warn(NAME, "cannot determine which are allowed; shards run unpinned", "");
    }
    if allowed.len() < shard_count {
        let found = format!("{found}; {shard_count} shards share them, unpinned");
        return Finding::warn(
            NAME,
            found,
            "allow more CPUs, or create a data directory with fewer shards",
        );
    }
    Finding::ok(NAME, found)
}

/// How the file system of a data directory handles direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectIo {
    Taken,
    Refused,
    /// The file system is in memory.
    InMemory,
}

fn direct_io(
    directory: &Path,
    probed: io::Result<DirectIo>,
    user: u32,
    allow_buffered: bool,
) -> Finding {
    const NAME: &str = "direct I/O";
    let place = directory.display();
    match probed {
        Ok(DirectIo::Taken) => Finding::ok(NAME, format!("supported by {place}")),
        Ok(DirectIo::InMemory) => Finding::warn(
            NAME,
            format!("{place} is on a file system in memory: nothing there survives a power cut"),
            "put the data directory on ext4, xfs or btrfs",
        ),
        Ok(DirectIo::Refused) if allow_buffered => Finding::warn(
            NAME,
            format!("not supported by {place}; buffered I/O is used"),
            "put the data directory on ext4, xfs or btrfs",
        ),
        Ok(DirectIo::Refused) => Finding::fail(
            NAME,
            format!("not supported by {place}"),
            "put the data directory on ext4, xfs or btrfs, or use --allow-buffered-io",
        ),
        Err(error) => Finding::fail(
            NAME,
            format!("cannot write to {place}: {error}"),
            format!("as root: install -d -o {user} {place}"),
        ),
    }
}

/// Creates a ring and probes it for the operations that the runtime submits.
fn missing_operations() -> io::Result<Vec<&'static str>> {
    let needed = [
        ("cancel", opcode::AsyncCancel::CODE),
        ("close", opcode::Close::CODE),
        ("fallocate", opcode::Fallocate::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("openat", opcode::OpenAt::CODE),
        ("poll", opcode::PollAdd::CODE),
        ("read", opcode::Read::CODE),
        ("statx", opcode::Statx::CODE),
        ("timeout", opcode::Timeout::CODE),
        ("write", opcode::Write::CODE),
    ];
    let ring = IoUring::new(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let operations = needed.map(|(name, code)| (name, probe.is_supported(code)));
    // There is no probe for watches of more than one event. They came with resource tags.
    let parameters = ring.params();
    let features = [
        ("waiting with a timeout", parameters.is_feature_ext_arg()),
        ("poll for more than one event", parameters.is_feature_resource_tagging()),
    ];
    let missing = operations.into_iter().chain(features).filter(|(_, is_there)| !is_there);
    Ok(missing.map(|(name, _)| name).collect())
}

/// Opens a file for direct I/O in `directory` or, if it does not exist, in its nearest ancestor.
fn probe_direct_io(directory: &Path) -> io::Result<DirectIo> {
    let absolute = std::path::absolute(directory)?;
    let place = absolute.ancestors().find(|path| path.is_dir()).unwrap_or(&absolute);
    let file = place.join(format!(".preflight-{}", std::process::id()));
    let opened = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(O_DIRECT)
        .open(&file);
    // The file is created even if direct I/O is refused.
    fs::remove_file(&file).ok();
    match opened {
        Ok(_) if statfs(place)?.filesystem_type() == TMPFS_MAGIC => Ok(DirectIo::InMemory),
        Ok(_) => Ok(DirectIo::Taken),
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(DirectIo::Refused),
        Err(error) => Err(error),
    }
}

fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    capabilities(&status).is_some_and(|set| set >> CAP_IPC_LOCK_BIT & 1 == 1)
}

/// The effective capabilities in the text of `/proc/self/status`.
fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn bytes_or_unlimited(size: u64) -> String {
    if size == RLIM_INFINITY { "unlimited".into() } else { bytes(size) }
}

fn count_or_unlimited(count: u64) -> String {
    if count == RLIM_INFINITY { "unlimited".into() } else { count.to_string() }
}

pub fn bytes(size: u64) -> String {
    match size {
        0..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// Sorted numbers as text: `0-3,8`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let texts = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        Needs {
            shard_count: 4,
            io_memory_bytes: 64 << 20,
            connections_max: 10_000,
            data_directory: None,
            allow_buffered: false,
        }
    }

    #[test]
    fn kernels() {
        for (release, state) in [
            ("6.18.5", State::Ok),
            ("5.13.0-52-generic", State::Ok),
            ("5.15-rc1", State::Ok),
            ("5.10.0-33-amd64", State::Fail),
            ("4.18.0-553.el8", State::Fail),
            ("plan9", State::Warn),
            ("", State::Warn),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn refused_rings_come_with_their_remedy() {
        assert_eq!(ring(Ok(vec![]), "0").state, State::Ok);
        assert_eq!(ring(Ok(vec!["statx"]), "0").found, "the kernel lacks statx");
        for (errno, disabled, remedy) in [
            (Errno::EPERM, "2", "sysctl -w kernel.io_uring_disabled=0"),
            (Errno::EPERM, "1", "kernel.io_uring_group"),
            (Errno::EPERM, "0", "seccomp"),
            (Errno::EPERM, "", "seccomp"),
            (Errno::ENOSYS, "", "CONFIG_IO_URING"),
            (Errno::ENOMEM, "0", "ulimit -l"),
            (Errno::EMFILE, "0", "strace"),
        ] {
            let finding = ring(Err(io::Error::from(errno)), disabled);
            assert_eq!(finding.state, State::Fail);
            assert!(finding.remedy.contains(remedy), "{errno} {disabled:?}: {}", finding.remedy);
        }
    }

    #[test]
    fn memlock_limits() {
        let unlimited = RLIM_INFINITY;
        for (soft, hard, exempt, state, remedy) in [
            (unlimited, unlimited, false, State::Ok, ""),
            (64 << 10, 64 << 10, false, State::Fail, "as root: prlimit"),
            (64 << 10, unlimited, true, State::Fail, "ulimit -l unlimited"),
            (512 << 10, unlimited, false, State::Warn, "ulimit -l unlimited"),
            (512 << 10, unlimited, true, State::Ok, ""),
            ((3 * 4 * 64) << 20, unlimited, false, State::Ok, ""),
            (((3 * 4 * 64) << 20) - 1, unlimited, false, State::Warn, "LimitMEMLOCK"),
        ] {
            let finding = memlock((soft, hard), exempt, &needs());
            assert_eq!(finding.state, state, "{soft} {exempt}");
            assert!(finding.remedy.contains(remedy), "{soft}: {}", finding.remedy);
        }
    }

    #[test]
    fn a_start_that_needs_more_memory_than_there_is_is_refused() {
        assert!(memory_bytes().is_some_and(|total| total > 1 << 20));
        let needed = 4 * (64 << 20);
        for (total, state) in
            [(Some(needed), State::Ok), (Some(needed - 1), State::Fail), (None, State::Warn)]
        {
            assert_eq!(memory(total, &needs()).state, state, "{total:?}");
        }
        let endless = Needs { io_memory_bytes: u64::MAX, ..needs() };
        assert_eq!(memory(Some(needed), &endless).state, State::Fail);
        assert_eq!(memlock((64 << 20, 64 << 20), false, &endless).state, State::Warn);
    }

    #[test]
    fn nofile_limits() {
        for (soft, hard, state, remedy) in [
            (1 << 20, 1 << 20, State::Ok, ""),
            (RLIM_INFINITY, RLIM_INFINITY, State::Ok, ""),
            (320, 1 << 20, State::Fail, "ulimit -n 10320"),
            (321, 1 << 20, State::Warn, "ulimit -n 10320"),
            (4_096, 4_096, State::Warn, "as root: prlimit --pid $$ --nofile=10320"),
        ] {
            let finding = nofile((soft, hard), &needs());
            assert_eq!(finding.state, state, "{soft}");
            assert!(finding.remedy.starts_with(remedy), "{soft}: {}", finding.remedy);
        }
        assert_eq!(nofile((20_320, 20_320), &needs()).found, "limit 20320: 20000 connections");
        let stores = Needs { data_directory: Some("data".into()), ..needs() };
        let found = nofile((20_320, 20_320), &stores).found;
        assert!(
            found.ends_with("32 open log files per shard, for any number of segments"),
            "{found}"
        );
        let found = nofile((4_096, 4_096), &needs()).found;
        assert_eq!(found, "limit 4096: 3776 connections instead of 10000");
    }

    #[test]
    fn shards_and_cpus() {
        assert_eq!(cpus(&[0, 1, 2, 3], 4), Finding::ok("cpus", "4 allowed: 0-3"));
        assert_eq!(cpus(&[2, 3, 6], 3).found, "3 allowed: 2-3,6");
        assert_eq!(cpus(&[0], 2).state, State::Warn);
        assert_eq!(cpus(&[], 1).state, State::Warn);
    }

    #[test]
    fn file_systems() {
        let place = Path::new("/data");
        let denied = || Err(io::Error::from(Errno::EACCES));
        for (probed, allow_buffered, state) in [
            (Ok(DirectIo::Taken), false, State::Ok),
            (Ok(DirectIo::InMemory), false, State::Warn),
            (Ok(DirectIo::Refused), true, State::Warn),
            (Ok(DirectIo::Refused), false, State::Fail),
            (denied(), true, State::Fail),
        ] {
            assert_eq!(direct_io(place, probed, 1000, allow_buffered).state, state);
        }
        let finding = direct_io(place, denied(), 1000, false);
        assert_eq!(finding.remedy, "as root: install -d -o 1000 /data");
    }

    #[test]
    fn effective_capabilities_are_read() {
        let status = "Name:\tringmq\nCapPrm:\t0000000000000000\nCapEff:\t0000000000004000\n";
        assert_eq!(capabilities(status), Some(1 << CAP_IPC_LOCK_BIT));
        assert_eq!(capabilities("Name:\tringmq\n"), None);
    }

    #[test]
    fn finding_as_printed() {
        let finding = memlock((64 << 10, RLIM_INFINITY), false, &needs());
        let expected = "\
FAIL  memlock    limit 64 KiB, at least 512 KiB are needed
                 fix: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit";
        assert_eq!(finding.to_string(), expected);
        assert_eq!(
            Finding::ok("cpus", "2 allowed: 0-1").to_string(),
            "ok    cpus       2 allowed: 0-1"
        );
    }

    #[test]
    fn limits_are_raised_as_far_as_allowed() {
        raise_limits();
        for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_MEMLOCK] {
            let (soft, hard) = getrlimit(resource).unwrap();
            assert_eq!(soft, hard);
        }
    }

    /// The machine that runs the tests must pass, or other tests could not run either.
    #[test]
    fn this_machine_can_run_a_shard() {
        let data_directory = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/not/there"));
        let needs = Needs { shard_count: 1, connections_max: 10, data_directory, ..needs() };
        let findings = check(&needs);
        assert_eq!(findings.len(), 7);
        assert!(!refuses(&findings), "{findings:#?}");
        assert!(!allowed_cpus().is_empty());
    }
}
