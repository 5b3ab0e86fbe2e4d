//! What very many queues and committed offsets cost the producers of a broker, and how long a
//! restart after kill -9 takes. Runs the release builds of `ringmq` and `loadgen`, the broker on
//! one core and the generator on another.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench scale
//! cargo bench --bench scale -- --only restart --log 10
//! ```
//!
//! Rounds with few and with many queues alternate; the table shows medians, and the ratio of many
//! to few.

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

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use ringmq::model::request::QueueOf;
use ringmq::model::{GroupName, QueueId, Request, TopicName};
use ringmq::wire::{HeaderEncoding, encode_request};

use self::dev::dev;
use self::generator::generator;
use self::place::Place;
use self::processes::{BROKER, NAMESERVER, PATIENCE, create_topic};
use self::report::{Latency, Report};

const TOPICS: u32 = 10;
/// Bytes of offset commits per write to the socket.
const CHUNK: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Maximum rate, with 10 queues and with very many.
    Rate,
    /// p99.9 of producers while segments are sealed and snapshots taken.
    Sealing,
    /// Time from kill -9 to ready, with very many queues and offsets.
    Restart,
}

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures a broker with very many queues and offsets.")]
struct Options {
    /// Only this measurement.
    #[arg(long)]
    only: Option<What>,

    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Seconds of load in one round.
    #[arg(long, default_value_t = 12, value_name = "S")]
    seconds: u64,

    /// Queues of each of ten topics.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    queues: u32,

    /// Groups that have committed an offset for each queue.
    #[arg(long, default_value_t = 10, value_name = "N")]
    groups: u32,

    /// Messages a second while segments are sealed.
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    rate: u32,

    /// GiB of log before the kill.
    #[arg(long, default_value_t = 10, value_name = "N")]
    log: u64,

    /// CPUs of the broker and of the generator.
    #[arg(long, default_values_t = [0, 1], num_args = 2, value_name = "CPU")]
    cpus: Vec<u32>,

    #[command(flatten)]
    place: Place,
}

/// Numbers of queues and groups.
#[derive(Clone, Copy)]
struct Size {
    queues: u32,
    groups: u32,
}

fn main() {
    let mut options = Options::parse();
    if options.place.test {
        (options.rounds, options.seconds, options.queues, options.groups) = (1, 1, 20, 2);
        (options.rate, options.log) = (1000, 0);
    }
    let scratch = options.place.scratch("scale");
    let directory = scratch.path();
    let is_wanted = |what| options.only.is_none_or(|only| only == what);
    if is_wanted(What::Rate) {
        compare(&options, ["flat out, msg/s"], |size| [Some(rate(&options, directory, size))]);
    }
    if is_wanted(What::Sealing) {
        let whats = ["sealing, p99.9 ms", "longest task, p99 ms", "longest task, max ms"];
        compare(&options, whats, |size| sealing(&options, directory, size));
    }
    if is_wanted(What::Restart) {
        restart(&options, directory);
    }
}

/// Rounds with few and with many queues alternate. Prints medians; NaN: no round's latency is valid.
fn compare<const N: usize>(
    options: &Options,
    whats: [&str; N],
    measure: impl Fn(Size) -> [Option<f64>; N],
) {
    let few = Size { queues: 1, groups: 0 };
    let many = Size { queues: options.queues, groups: options.groups };
    let mut found: [Vec<[Option<f64>; N]>; 2] = Default::default();
    for _ in 0..options.rounds {
        found[0].push(measure(few));
        found[1].push(measure(many));
    }
    let (queues, groups) = (options.queues * TOPICS, options.groups);
    for (nth, what) in whats.into_iter().enumerate() {
        let of = |rounds: &[[Option<f64>; N]]| -> Latency {
            rounds.iter().map(|values| values[nth]).collect()
        };
        let [few, many] = found.each_ref().map(|rounds| of(rounds).ms());
        println!(
            "{what:<22} {TOPICS} queues {few:.2}; {queues} queues, {groups} groups {many:.2}; ratio {:.2}",
            many / few
        );
    }
}

fn rate(options: &Options, directory: &Path, size: Size) -> f64 {
    let data = directory.join("data");
    let more = ["--segment-size", "256MiB", "--ready-segments", "6", "--retention-size", "1GiB"];
    let broker = dev(options.cpus[0], &data, &more);
    // No offsets: this compares only numbers of queues.
    prepare(Size { groups: 0, ..size });
    let report = load(options, directory, size, "\"max\"");
    broker.stop();
    fs::remove_dir_all(&data).ok();
    report.number("/send/rate_per_s")
}

/// Producers' p99.9, and the longest times for which one task kept the shard's thread.
fn sealing(options: &Options, directory: &Path, size: Size) -> [Option<f64>; 3] {
    let data = directory.join("data");
    let more = ["--segment-size", "64MiB", "--ready-segments", "4", "--retention-size", "1GiB"];
    let broker = dev(options.cpus[0], &data, &more);
    prepare(size);
    let report = load(options, directory, size, &options.rate.to_string());
    let info = runtime_info();
    broker.stop();
    fs::remove_dir_all(&data).ok();
    let longest = |of| Some(metric(&info, &format!("ringmq_longest_poll_ns.{of}")) / 1e6);
    [report.latency_ms("/send/latency_ns/p99_9"), longest("p99"), longest("max")]
}

fn restart(options: &Options, directory: &Path) {
    let data = directory.join("data");
    let more = ["--segment-size", "256MiB", "--ready-segments", "2", "--append-budget", "64MiB"];
    let many = Size { queues: options.queues, groups: options.groups };
    let mut broker = dev(options.cpus[0], &data, &more);
    prepare(many);
    while size_of_log(&data) < options.log << 30 {
        load(options, directory, many, "\"max\"");
    }
    broker.child.kill().expect("it runs");
    broker.child.wait().expect("it was killed");
    let log = size_of_log(&data) as f64 / f64::from(1 << 30);
    let begin = Instant::now();
    let broker = dev(options.cpus[0], &data, &more);
    let took = begin.elapsed();
    broker.stop();
    fs::remove_dir_all(&data).ok();
    let queues = many.queues * TOPICS;
    println!(
        "restart after kill -9    {queues} queues, {} groups, {log:.1} GiB of log: {:.2} s",
        many.groups,
        took.as_secs_f64()
    );
}

/// Size of the segment files, bytes.
fn size_of_log(data: &Path) -> u64 {
    let files = fs::read_dir(data.join("shard-00")).expect("the shard has begun");
    let files = files.filter_map(|file| file.ok());
    let is_digit = |c: char| c.is_ascii_digit();
    let is_segment = |file: &fs::DirEntry| file.file_name().to_string_lossy().chars().all(is_digit);
    files.filter(is_segment).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn topic(number: u32) -> String {
    format!("scale-{number}")
}

/// Creates the topics, and commits an offset for every group and queue.
fn prepare(size: Size) {
    for number in 0..TOPICS {
        create_topic(&topic(number), size.queues);
    }
    let mut stream = TcpStream::connect(BROKER).expect("the broker listens");
    let mut bytes = Vec::new();
    for group in 0..size.groups {
        let group = GroupName::new(format!("group-{group}")).expect("a group may be called so");
        for number in 0..TOPICS {
            let topic = TopicName::new(topic(number)).expect("a topic may be called so");
            for queue in 0..size.queues {
                let queue = QueueOf { topic: topic.clone(), queue: QueueId(queue) };
                let request = Request::CommitOffset { group: group.clone(), queue, offset: 1 };
                encode_request(&mut bytes, HeaderEncoding::Json, 1, true, &request)
                    .expect("JSON has a form for it");
                if bytes.len() >= CHUNK {
                    stream.write_all(&bytes).expect("the broker reads");
                    bytes.clear();
                }
            }
        }
    }
    stream.write_all(&bytes).expect("the broker reads");
    // The reply arrives once all previous requests have been handled.
    ask_runtime_info(&mut stream);
}

/// The metrics of the broker, as JSON.
fn runtime_info() -> String {
    ask_runtime_info(&mut TcpStream::connect(BROKER).expect("the broker listens"))
}

fn ask_runtime_info(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, HeaderEncoding::Json, 2, false, &Request::RuntimeInfo)
        .expect("JSON has a form for it");
    stream.write_all(&bytes).expect("the broker reads");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes this");
    let mut size = [0; 4];
    stream.read_exact(&mut size).expect("the broker answers");
    let mut reply = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut reply).expect("the reply is as long as it says");
    String::from_utf8_lossy(&reply).into_owned()
}

/// The value of a metric in the reply to a request for runtime information.
fn metric(info: &str, name: &str) -> f64 {
    let (_, rest) = info.split_once(&format!("\"{name}\":\"")).expect("the broker has it");
    let (value, _) = rest.split_once('"').expect("it is a string");
    value.parse().expect("a number")
}

/// Sends to the topics for a while. Returns the report.
fn load(options: &Options, directory: &Path, size: Size, rate: &str) -> Report {
    let (seconds, queues) = (options.seconds, size.queues);
    let workload = format!(
        "name = \"scale\"\nseed = 1\nsubscriptionsPerTopic = 0\ninFlight = 32\nheader = \"json\"\n\
         [[phases]]\nname = \"load\"\nduration = \"{seconds}s\"\n\
         [[streams]]\nname = \"scale\"\ntopic = \"scale\"\ntopics = {TOPICS}\npartitionsPerTopic = {queues}\n\
         producersPerTopic = 6\nmessageSize = \"1KiB\"\nproducerRate = {rate}\n"
    );
    let (file, out) = (directory.join("load.toml"), directory.join("report"));
    fs::write(&file, workload).expect("the directory can be written");
    let mut command = generator(options.cpus[1], rate == "\"max\"");
    command.arg("run").arg(&file).args(["--namesrv", NAMESERVER, "--out"]).arg(&out);
    let output = command.output().expect("loadgen starts");
    let code = output.status.code();
    // 3 and 6: the generator was late; 5: messages may be refused at the maximum rate. The ratios
    // remain meaningful.
    assert!(matches!(code, Some(0 | 3 | 5 | 6)), "{}", String::from_utf8_lossy(&output.stdout));
    Report::take(&out)
}
