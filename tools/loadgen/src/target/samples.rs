//! Resource usage of the embedded broker's process, or of those of all replicas together, sampled once
//! a second during a run.
//!
//! A broker that was killed and restarted is a new process whose counters start at zero. Here the
//! counters continue from the last sample of the old process. What the old process used after that
//! sample is not counted.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::background::Background;
use crate::clock::RunClock;
use crate::findings::report::Sample;
use crate::target::embedded::Handle;

const EVERY_NS: u64 = 1_000_000_000;
/// How often the thread checks whether the run is over.
const POLL: Duration = Duration::from_millis(20);

/// Takes a sample at each full second until the run is over.
pub fn start(servers: Handle, clock: RunClock) -> io::Result<Background<Vec<Sample>>> {
    Background::start("samples", move |is_over| {
        let mut meters: Vec<Meter> = (0..servers.machines()).map(|_| Meter::default()).collect();
        let mut samples = Vec::new();
        let mut next_ns = EVERY_NS;
        while !is_over.load(Ordering::Relaxed) {
            let now_ns = clock.now_ns();
            if now_ns >= next_ns {
                next_ns = (now_ns / EVERY_NS + 1) * EVERY_NS;
                let take = |(machine, meter): (usize, &mut Meter)| {
                    let pid = servers.broker_pid(machine);
                    let used = pid.and_then(|pid| Some((pid, Used::of(pid).ok()?)));
                    meter.take(now_ns, used)
                };
                let taken = meters.iter_mut().enumerate().map(take);
                samples.extend(taken.reduce(sum));
            }
            thread::sleep(POLL.min(Duration::from_nanos(next_ns.saturating_sub(now_ns).max(1))));
        }
        samples
    })
}

/// Adds the samples of two machines.
fn sum(one: Sample, other: Sample) -> Sample {
    Sample {
        at_ns: one.at_ns,
        cpu_ns: one.cpu_ns + other.cpu_ns,
        rss_bytes: one.rss_bytes + other.rss_bytes,
        written_bytes: one.written_bytes + other.written_bytes,
        read_bytes: one.read_bytes + other.read_bytes,
    }
}

/// What one process has used since it started, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    cpu_ns: u64,
    rss_bytes: u64,
    written_bytes: u64,
    read_bytes: u64,
}

impl Used {
    fn of(pid: u32) -> io::Result<Self> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid as i32))?;
        let cpu = Duration::from(clock_gettime(clock)?);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        Ok(Self {
            cpu_ns: cpu.as_nanos() as u64,
            rss_bytes: value(&status, "VmRSS:") * 1024,
            written_bytes: value(&io, "write_bytes:"),
            read_bytes: value(&io, "read_bytes:"),
        })
    }
}

/// The number after `name` at the start of a line; 0 if there is no such line.
fn value(text: &str, name: &str) -> u64 {
    let mut rest = text.lines().filter_map(|line| line.strip_prefix(name));
    let number = rest.next().and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// Sums the usage of successive processes.
#[derive(Debug, Default)]
struct Meter {
    pid: u32,
    /// The last sample of the current process.
    last: Used,
    /// The total of all earlier processes.
    before: Used,
}

impl Meter {
    /// `used` is `None` while no process runs.
    fn take(&mut self, at_ns: u64, used: Option<(u32, Used)>) -> Sample {
        if let Some((pid, used)) = used {
            if pid != self.pid {
                self.before.cpu_ns += self.last.cpu_ns;
                self.before.written_bytes += self.last.written_bytes;
                self.before.read_bytes += self.last.read_bytes;
                self.pid = pid;
            }
            self.last = used;
        }
        Sample {
            at_ns,
            cpu_ns: self.before.cpu_ns + self.last.cpu_ns,
            rss_bytes: used.map_or(0, |(_, used)| used.rss_bytes),
            written_bytes: self.before.written_bytes + self.last.written_bytes,
            read_bytes: self.before.read_bytes + self.last.read_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_on_when_another_process_takes_over() {
        let used = |cpu_ns, rss_bytes| Used { cpu_ns, rss_bytes, ..Used::default() };
        let rows = [
            (Some((7, used(100, 10))), (100, 10)),
            (Some((7, used(150, 12))), (150, 12)),
            (None, (150, 0)),
            (Some((9, used(30, 4))), (180, 4)),
            (Some((9, used(50, 4))), (200, 4)),
        ];
        let mut meter = Meter::default();
        for (at_ns, (used, expected)) in (0..).zip(rows) {
            let sample = meter.take(at_ns, used);
            assert_eq!((sample.cpu_ns, sample.rss_bytes), expected, "{at_ns}");
        }
    }

    #[test]
    fn a_process_is_read_as_the_kernel_shows_it() {
        let own = Used::of(std::process::id()).unwrap();
        assert!(own.cpu_ns > 0 && own.rss_bytes > 1 << 20, "{own:?}");
        assert_eq!(value("a: 1\nVmRSS:\t  1536 kB\n", "VmRSS:"), 1536);
        assert_eq!(value("rchar: 5\nread_bytes: 7\n", "write_bytes:"), 0);
        // No process has this id.
        assert!(Used::of(i32::MAX as u32).is_err());
    }
}
