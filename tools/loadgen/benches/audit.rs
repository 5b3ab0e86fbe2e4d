//! What the audit takes for 100 million messages: processor time per message, and memory.
//!
//! `cargo bench -p loadgen --bench audit` prints one table; `-- --test` runs each case with few
//! messages. A message is one acknowledgement and its arrival in five groups; 1,000 are lost and
//! 1,000 come twice in each group, and all of them must be found. The last case puts most of its
//! sets on disk, in the directory for temporary files.

#[path = "../tests/support/audit_load.rs"]
mod audit_load;

use std::env;
use std::fs;
use std::time::Duration;

use audit_load::Load;
use loadgen::engine::spill::{HELD_SIZE_MAX, Spill};
use nix::time::{ClockId, clock_gettime};

/// Name, gaps, and bytes that the sets may hold.
const CASES: [(&str, Option<u64>, usize); 3] = [
    ("all answered", None, HELD_SIZE_MAX),
    ("1 of 1,000 unanswered", Some(1_000), HELD_SIZE_MAX),
    ("the same, in 8 MiB", Some(1_000), 8 << 20),
];

fn main() {
    let is_test = env::args().any(|argument| argument == "--test");
    let windows = if is_test { 640 } else { 1_562_500 };
    println!(
        "{:<24}{:>12}{:>10}{:>12}{:>14}",
        "case", "messages", "CPU ns", "bits held", "peak RSS"
    );
    for (name, gap_every, held_size_max) in CASES {
        let load = Load {
            messages: 64 * windows,
            producers: 20,
            groups: 5,
            planted: if is_test { 10 } else { 1_000 },
            gap_every,
        };
        run(name, &load, held_size_max);
    }
}

fn run(name: &str, load: &Load, held_size_max: usize) {
    // Where this is not allowed, the peak is that of all cases so far.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let spill = Spill::start(held_size_max, env::temp_dir()).expect("a thread more");
    let before = cpu_time();
    for found in load.carry_out(&spill) {
        assert_eq!(found, load.expected(), "{name}");
    }
    let ns = (cpu_time() - before).as_nanos() as f64 / load.messages as f64;
    assert_eq!((spill.unwritable(), spill.unreadable()), (None, None), "{name}");
    let held = spill.held_size_most() as f64 / f64::from(1 << 20);
    println!(
        "{name:<24}{:>12}{ns:>10.0}{held:>8.1} MiB{:>10.1} MiB",
        load.messages,
        peak_rss_kib() as f64 / 1024.0
    );
}

/// Largest resident memory of this process so far.
fn peak_rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}
