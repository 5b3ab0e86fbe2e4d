//! What is needed to repeat a run: the machine as far as it can be read, the versions, and the
//! configuration. Not here: the embedded servers and their device
//! ([`crate::target::device::of_ground`]).

use std::env;
use std::path::Path;
use std::thread;

use serde_json::{Map, Value, json};

use crate::plan::scenario::{Group, Scenario, Stream};
use crate::target::device::first_line;
use crate::target::faults;

/// Machine, kernel, versions and the command line.
pub fn describe() -> Map<String, Value> {
    let governor = first_line(Path::new("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
    named([
        ("loadgen", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(env!("LOADGEN_COMMIT"))),
        ("command", json!(env::args().collect::<Vec<_>>().join(" "))),
        ("cpu", json!(field("/proc/cpuinfo", "model name"))),
        ("cores", json!(thread::available_parallelism().map_or(0, usize::from))),
        ("memory", json!(field("/proc/meminfo", "MemTotal"))),
        ("kernel", json!(first_line(Path::new("/proc/sys/kernel/osrelease")))),
        ("governor", json!(if governor.is_empty() { "unknown" } else { &governor })),
    ])
}

/// The whole scenario, under one key.
pub fn of_scenario(scenario: &Scenario) -> Map<String, Value> {
    let faults: Vec<Value> = scenario
        .faults
        .iter()
        .map(|fault| json!({"at_s": seconds(fault.at_ns), "what": faults::describe(&fault.kind)}))
        .collect();
    let configuration = json!({
        "name": scenario.name,
        "seed": scenario.seed,
        "arrivals": format!("{:?}", scenario.arrivals),
        "threads": scenario.threads,
        "spin": scenario.spin,
        "phases": scenario.phases,
        "streams": scenario.streams.iter().map(stream).collect::<Vec<_>>(),
        "groups": scenario.groups.iter().map(group).collect::<Vec<_>>(),
        "faults": faults,
    });
    named([("configuration", configuration)])
}

fn stream(stream: &Stream) -> Value {
    let curve = stream.curve.as_ref();
    json!({
        "name": stream.name,
        "topics": stream.topics.len(),
        "queues": stream.queues,
        "header": format!("{:?}", stream.header),
        "messages": curve.map(|curve| curve.total()),
        "rate_peak": curve.map(|curve| curve.peak()),
        "sizes": stream.sizes.classes().collect::<Vec<_>>(),
        "size_mean": stream.sizes.mean(),
        "batch": stream.batch,
        "connections": stream.connections,
        "late_connections": stream.late.as_ref().map_or(0, |late| late.joins_ns.len()),
        "in_flight": stream.in_flight,
        "keys": format!("{:?}", stream.keys),
        "is_ordered": stream.is_ordered,
        "is_one_way": stream.is_one_way,
        "retries": stream.retries,
        "delay_ms": stream.delay_ms,
        "stands_in_for": stream.stands_in_for,
    })
}

fn group(group: &Group) -> Value {
    json!({
        "name": group.name,
        "streams": group.streams,
        "rate": group.rate,
        "pauses": group.pauses,
    })
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn named<const N: usize>(facts: [(&str, Value); N]) -> Map<String, Value> {
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The value of the first line `name : value` in a file.
fn field(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report without these facts cannot be repeated.
    #[test]
    fn the_machine_is_named() {
        let machine = describe();
        for name in ["loadgen", "commit", "command", "cpu", "memory", "kernel", "governor"] {
            assert!(!machine[name].as_str().unwrap().is_empty(), "{name}");
        }
        assert!(machine["cores"].as_u64().unwrap() > 0);
    }
}
