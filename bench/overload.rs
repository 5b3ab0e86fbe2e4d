//! How much a broker stores while more is in flight than it can store in time: with few connections
//! and with thousands, each of which sends its next message as soon as it has a reply. Runs the
//! release builds of `ringmq` and `loadgen`, the broker on one core and the generator on another.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench overload
//! cargo bench --bench overload -- --append-budget 2MiB
//! ```
//!
//! Rounds with few and with many connections alternate; the table shows medians.

#[path = "dev.rs"]
mod dev;
#[path = "place.rs"]
mod place;
#[path = "processes.rs"]
mod processes;
#[path = "report.rs"]
mod report;
#[path = "usage.rs"]
mod usage;

use std::fs;
use std::path::Path;

use clap::Parser;

use self::dev::dev;
use self::place::Place;
use self::processes::{NAMESERVER, create_topic, median, pinned};
use self::report::Report;
use self::usage::cpu;

const TOPIC: &str = "overload";

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures a broker with more in flight than it can store in time.")]
struct Options {
    /// Numbers of connections to compare.
    #[arg(long, default_values_t = [64, 5_000], num_args = 2, value_name = "N")]
    connections: Vec<u32>,

    /// Messages in flight on each connection.
    #[arg(long, default_value_t = 32, value_name = "N")]
    in_flight: u32,

    /// Bytes that may wait to be written, as for `ringmq broker`.
    #[arg(long, default_value = "32MiB", value_name = "SIZE")]
    append_budget: String,

    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Seconds of load in one round.
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u32,

    /// CPUs of the broker and of the generator.
    #[arg(long, default_values_t = [0, 1], num_args = 2, value_name = "CPU")]
    cpus: Vec<u32>,

    #[command(flatten)]
    place: Place,
}

/// The result of one round, or the median of several.
#[derive(Clone, Copy)]
struct Found {
    stored_per_s: f64,
    cpu_us: f64,
    p99_ms: f64,
    refused: f64,
}

impl Found {
    fn median(rounds: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| median(&mut rounds.iter().map(of).collect::<Vec<_>>());
        Self {
            stored_per_s: median(|found| found.stored_per_s),
            cpu_us: median(|found| found.cpu_us),
            p99_ms: median(|found| found.p99_ms),
            refused: median(|found| found.refused),
        }
    }
}

fn main() {
    let mut options = Options::parse();
    if options.place.test {
        (options.connections, options.rounds, options.seconds) = (vec![2, 20], 1, 1);
    }
    let scratch = options.place.scratch("overload");
    let mut found: [Vec<Found>; 2] = Default::default();
    for _ in 0..options.rounds {
        for (connections, found) in options.connections.iter().zip(&mut found) {
            found.push(measure(&options, scratch.path(), *connections));
        }
    }
    let [few, many] = found.map(|rounds| Found::median(&rounds));
    for (connections, found) in options.connections.iter().zip([few, many]) {
        let Found { stored_per_s, cpu_us, p99_ms, refused } = found;
        println!(
            "{connections:>6} connections x {}: {stored_per_s:.0} msg/s, {cpu_us:.2} us of CPU each, p99 {p99_ms:.1} ms, \
             refused {:.1} %",
            options.in_flight,
            refused * 100.0
        );
    }
    let (rate, cpu) = (many.stored_per_s / few.stored_per_s, many.cpu_us / few.cpu_us);
    println!("many to few: rate {rate:.2} x, CPU per message {cpu:.2} x");
}

fn measure(options: &Options, directory: &Path, connections: u32) -> Found {
    let data = directory.join("data");
    let more = ["--segment-size", "256MiB", "--ready-segments", "4", "--retention-size", "1GiB"];
    let broker = dev(
        options.cpus[0],
        &data,
        &[&more[..], &["--append-budget", &options.append_budget]].concat(),
    );
    create_topic(TOPIC, 8);
    let before = cpu(broker.child.id());
    let report = load(options, directory, connections);
    let used = cpu(broker.child.id()) - before;
    broker.stop();
    fs::remove_dir_all(&data).ok();
    let [stored, due] = ["acknowledged", "due"].map(|of| report.number(&format!("/send/{of}")));
    Found {
        stored_per_s: report.number("/send/rate_per_s"),
        cpu_us: used.as_secs_f64() * 1e6 / stored,
        p99_ms: report.ms("/send/latency_ns/p99"),
        refused: report.number("/send/refused") / due,
    }
}

fn load(options: &Options, directory: &Path, connections: u32) -> Report {
    let out = directory.join("report");
    let mut command = pinned(options.cpus[1], "loadgen");
    command.args(["steady", "--namesrv", NAMESERVER, "--topic", TOPIC, "--queues", "8"]);
    command.args(["--rate", "max", "--header", "fixed", "--no-consume", "--warmup", "0s"]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--in-flight", &options.in_flight.to_string()]);
    command.args(["--duration", &format!("{}s", options.seconds)]).arg("--out").arg(&out);
    let output = command.output().expect("loadgen starts");
    // 5: messages were refused, which is what this measures.
    let is_measured = matches!(output.status.code(), Some(0 | 5));
    assert!(is_measured, "{}", String::from_utf8_lossy(&output.stdout));
    Report::take(&out)
}
