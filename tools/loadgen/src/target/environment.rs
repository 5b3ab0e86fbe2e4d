//! What a run was made on and with, for whoever repeats it: the machine as far as it tells, the
//! versions, the servers of our own with the device under them, and the configuration.

use std::env;
use std::path::Path;
use std::thread;

use serde_json::{Map, Value, json};

use crate::plan::scenario::{Group, Scenario, Stream};
use crate::target::device::{self, first_line};
use crate::target::embedded::Handle;
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

/// The broker's command, and the file system and device under its data with their own speed, which
/// must be measured while the broker does not write.
pub fn of_ground(data: &Path, broker_command: &str) -> Map<String, Value> {
    let mut facts = device::describe(data);
    facts.insert("broker".to_owned(), json!(broker_command));
    let flush = match device::measure_flush(data) {
        Ok(latency) => json!(latency),
        Err(error) => json!(format!("not measured: {error}")),
    };
    facts.insert("device_flush".to_owned(), flush);
    facts
}

/// All that was found out about servers of our own when they were started.
pub fn of_servers(servers: Option<&Handle>) -> Map<String, Value> {
    servers.map(|servers| servers.facts().clone()).unwrap_or_default()
}

/// The run whole, under one name.
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

    /// A report without these cannot be repeated.
    #[test]
    fn the_machine_and_the_device_are_named() {
        let machine = describe();
        for name in ["loadgen", "commit", "command", "cpu", "memory", "kernel", "governor"] {
            assert!(!machine[name].as_str().unwrap().is_empty(), "{name}");
        }
        assert!(machine["cores"].as_u64().unwrap() > 0);
        let directory = env::temp_dir().join(format!("loadgen-ground-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let ground = of_ground(&directory, "ringmq dev --shards 1");
        std::fs::remove_dir(&directory).unwrap();
        assert_eq!(ground["broker"], "ringmq dev --shards 1");
        assert!(!ground["file_system"].as_str().unwrap().is_empty());
        assert!(ground["device_flush"]["p99_ns"].as_u64().unwrap() > 0);
    }
}
