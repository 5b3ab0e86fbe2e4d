//! What a run was made on, as far as the machine tells.

use std::env;
use std::fs;
use std::thread;

use serde_json::{Map, Value, json};

/// Machine, kernel, versions and the command line.
pub fn describe() -> Map<String, Value> {
    let first_line = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let facts = [
        ("loadgen", json!(env!("CARGO_PKG_VERSION"))),
        ("command", json!(env::args().collect::<Vec<_>>().join(" "))),
        ("cpu", json!(field("/proc/cpuinfo", "model name"))),
        ("cores", json!(thread::available_parallelism().map_or(0, usize::from))),
        ("memory", json!(field("/proc/meminfo", "MemTotal"))),
        ("kernel", json!(first_line("/proc/sys/kernel/osrelease"))),
        ("governor", json!(if governor.is_empty() { "unknown" } else { &governor })),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The value of the first line `name : value` in a file.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned()
}
