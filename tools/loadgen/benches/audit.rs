//! The cost of auditing 100 million messages: processor time per message, and memory.
//!
//! `cargo bench -p loadgen --bench audit` prints one table; `-- --test` runs each case with few
//! messages. Each message is acknowledged once and arrives in five groups; in each group, 1,000 are
//! lost and 1,000 arrive twice, and all of them must be found.

#[path = "../tests/support/audit_load.rs"]
mod audit_load;

use std::env;
use std::fs;
use std::time::Duration;

use audit_load::Load;
use nix::time::{ClockId, clock_gettime};

/// Name, and one message in how many is never answered.
const CASES: [(&str, Option<u64>); 2] =
    [("all answered", None), ("1 of 1,000 unanswered", Some(1_000))];

fn main() {
    let is_test = env::args().any(|argument| argument == "--test");
    let windows = if is_test { 640 } else { 1_562_500 };
    println!("{:<24}{:>12}{:>10}{:>14}", "case", "messages", "CPU ns", "peak RSS");
    for (name, gap_every) in CASES {
        let load = Load {
            messages: 64 * windows,
            producers: 20,
            groups: 5,
            planted: if is_test { 10 } else { 1_000 },
            gap_every,
        };
        run(name, &load);
    }
}

fn run(name: &str, load: &Load) {
    // Resets the peak. Where this is not allowed, the peak is that of all cases so far.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let before = cpu_time();
    for found in load.carry_out() {
        assert_eq!(found, load.expected(), "{name}");
    }
    let ns = (cpu_time() - before).as_nanos() as f64 / load.messages as f64;
    println!(
        "{name:<24}{:>12}{ns:>10.0}{:>10.1} MiB",
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
