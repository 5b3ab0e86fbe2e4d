//! How much a broker stores while it is offered more than it can store in time. Runs the release
//! builds of `ringmq` and `loadgen`, the broker on one core and the generator on another.
//!
//! Closed loop: few connections and thousands, each of which sends its next message as soon as it has
//! a reply. Open loop: ten times as many messages as a slow disk takes, and refused ones are not
//! sent again. A control group makes the disk slow, which needs root; otherwise this is skipped.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench overload
//! cargo bench --bench overload -- --only closed --append-budget 2MiB
//! cargo bench --bench overload -- --only open
//! ```
//!
//! Rounds of the two sides of a comparison alternate; the table shows medians. A latency counts only if
//! the generator was not late.

#[path = "dev.rs"]
mod dev;
#[path = "generator.rs"]
mod generator;
#[path = "place.rs"]
mod place;
#[path = "processes.rs"]
mod processes;
#[path = "report.rs"]
mod report;
#[path = "throttle.rs"]
mod throttle;
#[path = "usage.rs"]
mod usage;

use std::fs;
use std::path::Path;

use clap::{Parser, ValueEnum};

use self::dev::dev;
use self::generator::generator;
use self::place::Place;
use self::processes::{NAMESERVER, create_topic, median};
use self::report::{Latency, Report};
use self::throttle::Throttle;
use self::usage::cpu;

const TOPIC: &str = "overload";
/// Messages offered in open loop, relative to the best rate.
const OFFERED: f64 = 10.0;
/// Connections and messages in flight on each of them in the open loop: enough for whatever waits.
const OPEN_LOOP: (u32, u32) = (64, 2_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Closed,
    Open,
}

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures a broker with more in flight than it can store in time.")]
struct Options {
    /// Only this measurement.
    #[arg(long)]
    only: Option<What>,

    /// Bytes that the slow disk of the open loop takes per second.
    #[arg(long, default_value_t = 12 << 20, value_name = "N")]
    disk_rate: u64,

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

/// The result of one round.
struct Found {
    stored_per_s: f64,
    cpu_us: f64,
    /// `None`: not valid.
    p99_ms: Option<f64>,
    refused: f64,
}

/// Medians of several rounds.
struct Medians {
    stored_per_s: f64,
    cpu_us: f64,
    p99: Latency,
    refused: f64,
}

impl Medians {
    fn of(rounds: &[Found]) -> Self {
        let median = |of: fn(&Found) -> f64| median(&mut rounds.iter().map(of).collect::<Vec<_>>());
        Self {
            stored_per_s: median(|found| found.stored_per_s),
            cpu_us: median(|found| found.cpu_us),
            p99: rounds.iter().map(|found| found.p99_ms).collect(),
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
    let is_wanted = |what| options.only.is_none_or(|only| only == what);
    if is_wanted(What::Closed) {
        closed_loop(&options, scratch.path());
    }
    if is_wanted(What::Open) {
        match Throttle::new(scratch.path(), "wbps", options.disk_rate) {
            Ok(throttle) => open_loop(&options, scratch.path(), &throttle),
            Err(why) => println!("open loop: skipped: {why}"),
        }
    }
}

fn closed_loop(options: &Options, directory: &Path) {
    let [few, many] = alternate(options.rounds, |nth| {
        let load = Load {
            connections: options.connections[nth],
            in_flight: options.in_flight,
            rate: None,
            warmup_s: 0,
        };
        measure(options, directory, load, None)
    });
    for (connections, found) in options.connections.iter().zip([&few, &many]) {
        let Medians { stored_per_s, cpu_us, p99, refused } = found;
        println!(
            "{connections:>6} connections x {}: {stored_per_s:.0} msg/s, {cpu_us:.2} us of CPU each, p99 {p99}, \
             refused {:.1} %",
            options.in_flight,
            refused * 100.0
        );
    }
    let (rate, cpu) = (many.stored_per_s / few.stored_per_s, many.cpu_us / few.cpu_us);
    println!("many to few: rate {rate:.2} x, CPU per message {cpu:.2} x");
}

fn open_loop(options: &Options, directory: &Path, throttle: &Throttle) {
    let warmup_s = options.seconds.div_ceil(3);
    let best = Load { connections: 64, in_flight: options.in_flight, rate: None, warmup_s };
    let best_rate = measure(options, directory, best, Some(throttle)).stored_per_s;
    let (connections, in_flight) = OPEN_LOOP;
    let offered = Load { connections, in_flight, rate: Some(best_rate * OFFERED), warmup_s };
    let [best, offered] = alternate(options.rounds, |nth| {
        measure(options, directory, [best, offered][nth], Some(throttle))
    });
    println!(
        "open loop, {OFFERED} x the rate of a disk of {} bytes/s: {:.0} msg/s, p99 {}, refused {:.1} %; \
         best rate {:.0} msg/s; ratio {:.2}",
        options.disk_rate,
        offered.stored_per_s,
        offered.p99,
        offered.refused * 100.0,
        best.stored_per_s,
        offered.stored_per_s / best.stored_per_s
    );
}

/// Medians of two measurements whose rounds alternate.
fn alternate(rounds: usize, measure: impl Fn(usize) -> Found) -> [Medians; 2] {
    let mut found: [Vec<Found>; 2] = Default::default();
    for _ in 0..rounds {
        for (nth, found) in found.iter_mut().enumerate() {
            found.push(measure(nth));
        }
    }
    found.map(|rounds| Medians::of(&rounds))
}

/// What the generator sends.
#[derive(Clone, Copy)]
struct Load {
    connections: u32,
    in_flight: u32,
    /// Messages per second; `None` for as many as possible.
    rate: Option<f64>,
    /// Seconds before the figures count, until the broker knows how fast its disk is.
    warmup_s: u32,
}

fn measure(
    options: &Options,
    directory: &Path,
    to_send: Load,
    throttle: Option<&Throttle>,
) -> Found {
    let data = directory.join("data");
    let more = ["--segment-size", "256MiB", "--ready-segments", "4", "--retention-size", "1GiB"];
    let broker = dev(
        options.cpus[0],
        &data,
        &[&more[..], &["--append-budget", &options.append_budget]].concat(),
    );
    create_topic(TOPIC, 8);
    let process = broker.child.id();
    if let Some(throttle) = throttle {
        throttle.hold(process);
    }
    let before = cpu(process);
    let report = load(options, directory, to_send);
    let used = cpu(process) - before;
    if let Some(throttle) = throttle {
        throttle.release(process);
    }
    broker.stop();
    fs::remove_dir_all(&data).ok();
    let [stored, due] = ["acknowledged", "due"].map(|of| report.number(&format!("/send/{of}")));
    Found {
        stored_per_s: report.number("/send/rate_per_s"),
        cpu_us: used.as_secs_f64() * 1e6 / stored,
        p99_ms: report.latency_ms("/send/latency_ns/p99"),
        refused: report.number("/send/refused") / due,
    }
}

fn load(options: &Options, directory: &Path, load: Load) -> Report {
    let out = directory.join("report");
    let mut command = generator(options.cpus[1], load.rate.is_none());
    command.args(["steady", "--namesrv", NAMESERVER, "--topic", TOPIC, "--queues", "8"]);
    let rate = load.rate.map_or("max".to_owned(), |rate| format!("{rate:.0}"));
    command.args(["--rate", &rate, "--header", "fixed", "--no-consume"]);
    command.args(["--warmup", &format!("{}s", load.warmup_s)]);
    command.args(["--connections", &load.connections.to_string()]);
    command.args(["--in-flight", &load.in_flight.to_string()]);
    command
        .args(["--duration", &format!("{}s", options.seconds + load.warmup_s)])
        .arg("--out")
        .arg(&out);
    let output = command.output().expect("loadgen starts");
    // 5: messages were refused, which is what this measures; 3 and 6: the generator was late.
    let is_measured = matches!(output.status.code(), Some(0 | 3 | 5 | 6));
    assert!(is_measured, "{}", String::from_utf8_lossy(&output.stdout));
    Report::take(&out)
}
