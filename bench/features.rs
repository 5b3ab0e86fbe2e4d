//! The cost of consumer groups, filters and delays, each compared with the same work without them.
//! Runs the release builds of `ringmq` and `loadgen`, the broker on one core and clients on
//! another.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench features
//! cargo bench --bench features -- --only due --pending 10000000 --due 1000000
//! ```
//!
//! Rounds with and without a feature alternate; the figures are medians.

#[path = "client.rs"]
mod client;
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
#[path = "usage.rs"]
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use ringmq::model::request::{QueueOf, SendBack};
use ringmq::model::{GroupConfig, GroupName, QueueId, Request, TopicName};

use self::client::{Client, Message, Position, push_message, push_one_way, push_request};
use self::dev::dev;
use self::generator::generator;
use self::place::Place;
use self::processes::{NAMESERVER, PATIENCE, Server, create_topic, median};
use self::report::{Latency, Report};
use self::usage::cpu;

const QUEUES: u32 = 8;
const CONNECTIONS: usize = 8;
/// Messages in flight on a connection.
const WINDOW: usize = 64;
/// How long the broker holds a pull at the tail, ms.
const HOLD_MS: u64 = 100;
/// When the messages that only have to stay pending fall due, in seconds from now; spread over an
/// hour.
const PENDING_FOR_S: u64 = 10_000;
/// Worst-case send rate of this machine, messages per second. Decides how early sending begins
/// before the due second.
const SENT_PER_S: u64 = 40_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Rate of delayed messages against that of plain ones.
    Delayed,
    /// Rate of messages pulled with a filter that matches half of them against a pull of everything.
    Filter,
    /// Rate delivered to 8 groups at the tail against one, and what is read from the disk meanwhile.
    FanOut,
    /// Very many messages that are due in the same second, while very many others are pending.
    Due,
    /// Rate of messages that a group returns against that of plain ones, and when they come back.
    Retry,
    /// Restart after the crash of a broker with the offsets of very many groups.
    Offsets,
}

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures what groups, filters and delays cost.")]
struct Options {
    /// Only this measurement.
    #[arg(long)]
    only: Option<What>,

    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Seconds of load in one round.
    #[arg(long, default_value_t = 5, value_name = "S")]
    seconds: u64,

    /// Messages in the topic that is read with and without a filter.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    messages: u64,

    /// Messages a second for groups at the tail.
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    rate: u32,

    /// Messages that are due in the same second.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    due: u64,

    /// Messages that are pending meanwhile.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pending: u64,

    /// Groups with an offset in each of 8 queues.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    groups: u64,

    /// CPUs of the broker and of the clients.
    #[arg(long, default_values_t = [0, 1], num_args = 2, value_name = "CPU")]
    cpus: Vec<u32>,

    #[command(flatten)]
    place: Place,
}

fn main() {
    let mut options = Options::parse();
    if options.place.test {
        (options.rounds, options.seconds, options.messages) = (1, 1, 2_048);
        (options.rate, options.due, options.pending) = (1_000, 1_000, 1_000);
        options.groups = 100;
    }
    stay_on(options.cpus[1]);
    let scratch = options.place.scratch("features");
    let directory = scratch.path();
    let is_wanted = |what| options.only.is_none_or(|only| only == what);
    if is_wanted(What::Delayed) {
        delayed(&options, directory);
    }
    if is_wanted(What::Filter) {
        filter(&options, directory);
    }
    if is_wanted(What::FanOut) {
        fan_out(&options, directory);
    }
    if is_wanted(What::Due) {
        due(&options, directory);
    }
    if is_wanted(What::Retry) {
        retry(&options, directory);
    }
    if is_wanted(What::Offsets) {
        offsets(&options, directory);
    }
}

/// Pins this process to one CPU.
fn stay_on(cpu: u32) {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(cpu as usize).expect("there are not that many CPUs");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).expect("the CPU exists");
}

fn started(options: &Options, directory: &Path) -> (Server, PathBuf) {
    started_with(options, directory, &[])
}

fn started_with(options: &Options, directory: &Path, more: &[&str]) -> (Server, PathBuf) {
    let data = directory.join("data");
    let same = ["--segment-size", "256MiB", "--ready-segments", "4", "--disk-reserve", "64MiB"];
    (dev(options.cpus[0], &data, &[&same[..], more].concat()), data)
}

fn stopped(broker: Server, data: &Path) {
    broker.stop();
    fs::remove_dir_all(data).ok();
}

fn topic(name: &str) -> TopicName {
    create_topic(name, QUEUES);
    TopicName::new(name.to_owned()).expect("a topic may be called so")
}

fn now_ms() -> u64 {
    ringmq::shard::clock::wall().0
}

// ---- delayed messages against plain ones

fn delayed(options: &Options, directory: &Path) {
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..options.rounds {
        for (is_delayed, rates) in [false, true].into_iter().zip(&mut rates) {
            let (broker, data) = started(options, directory);
            let topic = topic("delays");
            let until = Instant::now() + Duration::from_secs(options.seconds);
            let begin = Instant::now();
            let sent = send_all(&topic, u64::MAX, Some(until), |nth| {
                is_delayed.then(|| now_ms() + 1_000 * (PENDING_FOR_S + nth / 1_000 % 3_600))
            });
            rates.push(sent as f64 / begin.elapsed().as_secs_f64());
            stopped(broker, &data);
        }
    }
    let [plain, delayed] = rates.each_mut().map(|rates| median(rates));
    println!(
        "delayed        plain {plain:.0} msg/s; delayed {delayed:.0} msg/s; ratio {:.2}",
        delayed / plain
    );
}

/// Sends messages until there are `count`, or until the given time. `deliver_at` returns when each
/// is due, ms. Returns how many were sent.
fn send_all(
    topic: &TopicName,
    count: u64,
    until: Option<Instant>,
    deliver_at: impl Fn(u64) -> Option<u64> + Sync,
) -> u64 {
    let (next, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let body = Bytes::from(vec![b'x'; 128]);
    let (next, sent, body, deliver_at) = (&next, &sent, &body, &deliver_at);
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut client = Client::connect();
                while until.is_none_or(|until| Instant::now() < until) {
                    let first = next.fetch_add(WINDOW as u64, Ordering::Relaxed);
                    let size = count.saturating_sub(first).min(WINDOW as u64) as usize;
                    if size == 0 {
                        break;
                    }
                    let at = deliver_at(first).map(|at| at.to_string());
                    let properties = at.as_ref().map(|at| ("TIMER_DELIVER_MS", at.as_str()));
                    let mut left = size;
                    while left > 0 {
                        let mut window = Vec::new();
                        for nth in 0..left {
                            let queue = QueueId((connection + nth) as u32 % QUEUES);
                            let properties = properties.as_slice();
                            push_message(&mut window, Message { topic, queue, properties, body });
                        }
                        left -= client.send(&window, left);
                    }
                    sent.fetch_add(size as u64, Ordering::Relaxed);
                }
            });
        }
    });
    sent.load(Ordering::Relaxed)
}

// ---- a filter that matches half against none

fn filter(options: &Options, directory: &Path) {
    let (broker, data) = started(options, directory);
    let topic = topic("filters");
    send_tagged(&topic, options.messages);
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..options.rounds {
        for (filter, rates) in ["*", "even"].into_iter().zip(&mut rates) {
            let wanted = if filter == "*" { options.messages } else { options.messages / 2 };
            let begin = Instant::now();
            assert_eq!(read_all(&topic, filter, options.messages), wanted);
            rates.push(wanted as f64 / begin.elapsed().as_secs_f64());
        }
    }
    stopped(broker, &data);
    let [all, half] = rates.each_mut().map(|rates| median(rates));
    println!(
        "filter         everything {all:.0} msg/s; half of it {half:.0} msg/s; ratio to half {:.2}",
        half / (all / 2.0)
    );
}

/// Sends messages with alternating tags, in order over one connection.
fn send_tagged(topic: &TopicName, count: u64) {
    let body = Bytes::from(vec![b'x'; 1024]);
    let mut client = Client::connect();
    let mut window = Vec::new();
    for nth in 0..WINDOW as u32 {
        let tag = if (nth / QUEUES).is_multiple_of(2) { "even" } else { "odd" };
        let (queue, properties) = (QueueId(nth % QUEUES), &[("TAGS", tag)]);
        push_message(&mut window, Message { topic, queue, properties, body: &body });
    }
    for _ in 0..count / WINDOW as u64 {
        assert_eq!(client.send(&window, WINDOW), WINDOW, "one connection is no load");
    }
    let rest = (count % WINDOW as u64) as usize;
    assert_eq!(rest, 0, "the number of messages must be a multiple of {WINDOW}");
}

fn group(name: &str) -> GroupName {
    GroupName::new(name.to_owned()).expect("a group may be called so")
}

fn positions(topic: &TopicName, name: &str) -> Vec<Position> {
    let group = group(name);
    let queue = |queue| QueueOf { topic: topic.clone(), queue: QueueId(queue) };
    let position = |nth| Position { group: group.clone(), queue: queue(nth), offset: 0 };
    (0..QUEUES).map(position).collect()
}

/// Reads a whole topic, which has `count` messages, and returns how many matched.
fn read_all(topic: &TopicName, filter: &str, count: u64) -> u64 {
    let mut client = Client::connect();
    let mut positions = positions(topic, "reader");
    let mut matched = 0;
    while positions.iter().map(|position| position.offset).sum::<u64>() < count {
        matched += client.pull(&mut positions, filter, None, |_| {});
    }
    matched
}

// ---- groups at the tail

fn fan_out(options: &Options, directory: &Path) {
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut costs: [Vec<f64>; 2] = Default::default();
    let mut read_bytes = 0;
    for _ in 0..options.rounds {
        for (nth, group_count) in [1, 8].into_iter().enumerate() {
            let (broker, data) = started(options, directory);
            let topic = topic("tail");
            let mut load = load(options, directory, "tail", options.seconds + 2, options.rate, 100);
            let (before, read) = (cpu(broker.child.id()), read_from_disk(broker.child.id()));
            let taken = consume(&topic, group_count, Duration::from_secs(options.seconds));
            let used = cpu(broker.child.id()) - before;
            costs[nth].push(used.as_secs_f64() * 1e6 / taken as f64);
            read_bytes += read_from_disk(broker.child.id()) - read;
            rates[nth].push(taken as f64 / options.seconds as f64);
            load.wait().expect("loadgen ends");
            stopped(broker, &data);
        }
    }
    let [one, eight] = rates.each_mut().map(|rates| median(rates));
    let [cost_one, cost_eight] = costs.each_mut().map(|costs| median(costs));
    println!(
        "fan-out        1 group {one:.0} msg/s, {cost_one:.2} µs of broker CPU each; 8 groups {eight:.0} msg/s, \
         {cost_eight:.2} µs; ratio {:.2}; read from the disk: {read_bytes} bytes",
        eight / one
    );
}

/// Has groups read what arrives, for `duration` from the first message on. Returns how many
/// messages all of them together have read.
fn consume(topic: &TopicName, group_count: usize, duration: Duration) -> u64 {
    let (taken, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (taken, is_over) = (&taken, &is_over);
    thread::scope(|scope| {
        for group in 0..group_count {
            scope.spawn(move || {
                let mut client = Client::connect();
                let mut positions = positions(topic, &format!("group-{group}"));
                client.seek_to_end(&mut positions);
                while !is_over.load(Ordering::Relaxed) {
                    let count = client.pull(&mut positions, "*", Some(HOLD_MS), |_| {});
                    taken.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        while taken.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "nothing arrives");
            thread::sleep(Duration::from_millis(1));
        }
        let before = taken.load(Ordering::Relaxed);
        thread::sleep(duration);
        let count = taken.load(Ordering::Relaxed) - before;
        is_over.store(true, Ordering::Relaxed);
        assert!(count > 0, "nothing arrives any more");
        count
    })
}

/// Starts `loadgen steady`.
fn load(
    options: &Options,
    directory: &Path,
    topic: &str,
    seconds: u64,
    rate: u32,
    batch: u32,
) -> Child {
    let mut command = generator(options.cpus[1], false);
    command.args(["steady", "--namesrv", NAMESERVER, "--topic", topic, "--no-consume"]);
    command.args([
        "--queues",
        &QUEUES.to_string(),
        "--header",
        if batch > 1 { "fixed" } else { "json" },
    ]);
    command.args(["--rate", &rate.to_string(), "--batch", &batch.to_string(), "--warmup", "1s"]);
    command.args(["--duration", &format!("{seconds}s"), "--out"]).arg(directory.join("report"));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.spawn().expect("loadgen starts")
}

/// The value of a line such as `read_bytes: 4096` in a file of /proc.
fn figure(process: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/{file}")).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    value.expect("the file has such a line")
}

fn read_from_disk(process: u32) -> u64 {
    figure(process, "io", "read_bytes")
}

// ---- messages that are due in the same second

fn due(options: &Options, directory: &Path) {
    let (broker, data) = started(options, directory);
    let (topic_due, _plain) = (topic("due"), topic("plain"));
    let alone = p99(options, directory, || {});
    let memory = figure(broker.child.id(), "status", "VmRSS");
    let begin = now_ms();
    let later =
        |nth: u64| Some(begin + 1_000 * (PENDING_FOR_S + nth * 3_600 / options.pending.max(1)));
    send_all(&topic_due, options.pending, None, later);
    let at = now_ms() / 1_000 * 1_000 + 1_000 * (8 + options.due / SENT_PER_S);
    send_all(&topic_due, options.due, None, |nth| Some(at + nth % 1_000));
    assert!(now_ms() + 2_000 < at, "sending took too long: they would be due before they are sent");
    let beside = p99(options, directory, || {
        while now_ms() < at {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let found = delivered(&topic_due, options.due);
    // VmHWM is the maximum so far.
    let added = figure(broker.child.id(), "status", "VmHWM").saturating_sub(memory) / 1_024;
    stopped(broker, &data);
    println!(
        "due            {} in one second, {} pending: {} early; late p50 {} ms, p99 {} ms, max {} ms; producers' p99 \
         {alone} without, {beside} meanwhile; memory at most {added} MiB more",
        options.due, options.pending, found.early, found.late[0], found.late[1], found.late[2]
    );
}

/// p99 of a producer during what follows `wait`.
fn p99(options: &Options, directory: &Path, wait: impl FnOnce()) -> Latency {
    let mut load = load(options, directory, "plain", options.seconds + 5, 5_000, 1);
    wait();
    load.wait().expect("loadgen ends");
    let report = Report::take(&directory.join("report"));
    Latency::from_iter([report.latency_ms("/send/latency_ns/p99")])
}

/// When messages were delivered, relative to when they were due, ms.
struct Delivered {
    early: u64,
    /// p50, p99, max.
    late: [u64; 3],
}

fn delivered(topic: &TopicName, count: u64) -> Delivered {
    let mut client = Client::connect();
    let mut positions = positions(topic, "reader");
    let (mut early, mut late) = (0, Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while (late.len() as u64) < count {
        assert!(Instant::now() < deadline, "{} of {count} were delivered", late.len());
        client.pull(&mut positions, "*", None, |record| {
            let due = ringmq::model::record::property(record.properties, "TIMER_OUT_MS");
            let due = due.and_then(|due| std::str::from_utf8(due).ok()?.parse::<u64>().ok());
            let due = due.expect("it says when it was due");
            early += u64::from(record.stored_at.0 < due);
            late.push(record.stored_at.0.saturating_sub(due));
        });
    }
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    Delivered { early, late: [at(0.5), at(0.99), at(1.0)] }
}

// ---- messages that a group returns against plain ones

/// Messages that are still in the broker's memory when they are returned.
const RECENT: u64 = 40_000;

fn retry(options: &Options, directory: &Path) {
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut back_s = Vec::new();
    for _ in 0..options.rounds {
        let (broker, data) = started_with(options, directory, &["--delay-levels", "1s,1s,1s"]);
        let mut create = Vec::new();
        push_request(&mut create, 0, &Request::UpdateGroup(GroupConfig::new(group("returning"))));
        assert_eq!(Client::connect().ask(&create, 1), 1, "a group can be created");
        let seconds = Duration::from_secs(options.seconds);
        let (old, recent) = (topic("old"), topic("recent"));
        let begin = Instant::now();
        let sent = send_all(&old, u64::MAX, Some(begin + seconds), |_| None);
        rates[0].push(sent as f64 / begin.elapsed().as_secs_f64());
        send_all(&recent, RECENT, None, |_| None);
        let mut returned = 0;
        for (topic, rates) in [&recent, &old].into_iter().zip(&mut rates[1..]) {
            let begin = Instant::now();
            let count = return_some(topic, begin + seconds);
            rates.push(count as f64 / begin.elapsed().as_secs_f64());
            returned += count;
        }
        let ended = Instant::now();
        read_retries(returned);
        back_s.push(ended.elapsed().as_secs_f64());
        stopped(broker, &data);
    }
    let [plain, recent, old] = rates.each_mut().map(|rates| median(rates));
    println!(
        "retry          plain {plain:.0} msg/s; read and returned from memory {recent:.0} msg/s, from the disk \
         {old:.0} msg/s; ratios {:.2} and {:.3}; all came back {:.1} s after the last was returned, with a delay of \
         1 s",
        recent / plain,
        old / plain,
        median(&mut back_s)
    );
}

/// Reads messages and returns each of them, on one connection for each queue. Returns how many.
fn return_some(topic: &TopicName, until: Instant) -> u64 {
    let returned = AtomicU64::new(0);
    thread::scope(|scope| {
        for position in positions(topic, "returning") {
            scope.spawn(|| {
                let mut position = [position];
                let mut client = Client::connect();
                let mut read = 1;
                while read > 0 && Instant::now() < until {
                    let mut offsets = Vec::new();
                    read = client.pull(&mut position, "*", None, |record| {
                        offsets.push(record.physical_offset);
                    });
                    for window in offsets.chunks(WINDOW) {
                        let mut requests = Vec::new();
                        for &offset in window {
                            let group = group("returning");
                            let back =
                                SendBack { offset, group, delay_level: 0, retry_count_max: None };
                            push_request(&mut requests, 0, &Request::SendBack(back));
                        }
                        let done = client.ask(&requests, window.len());
                        returned.fetch_add(done as u64, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    returned.into_inner()
}

/// Reads the retry topic until it has had `count` messages.
fn read_retries(count: u64) {
    let queue = QueueOf { topic: TopicName::retry_of(&group("returning")), queue: QueueId(0) };
    let mut position = [Position { group: group("returning"), queue, offset: 0 }];
    let mut client = Client::connect();
    let deadline = Instant::now() + PATIENCE;
    while position[0].offset < count {
        assert!(Instant::now() < deadline, "{} of {count} came back", position[0].offset);
        client.pull(&mut position, "*", Some(HOLD_MS), |_| {});
    }
}

// ---- restart with the offsets of very many groups

fn offsets(options: &Options, directory: &Path) {
    let mut ready_s = Vec::new();
    for _ in 0..options.rounds {
        let (broker, _) = started(options, directory);
        let topic = topic("offsets");
        send_tagged(&topic, WINDOW as u64);
        let mut client = Client::connect();
        for nth in 0..options.groups {
            let mut commits = Vec::new();
            for Position { group, queue, .. } in positions(&topic, &format!("group-{nth}")) {
                push_one_way(&mut commits, &Request::CommitOffset { group, queue, offset: 1 });
            }
            client.ask(&commits, 0);
        }
        let last = format!("group-{}", options.groups);
        let mut commits = Vec::new();
        for Position { group, queue, .. } in positions(&topic, &last) {
            push_request(&mut commits, 0, &Request::CommitOffset { group, queue, offset: 1 });
        }
        // The replies come when these offsets are in the log.
        assert_eq!(client.ask(&commits, QUEUES as usize), QUEUES as usize, "they are committed");
        drop(broker);
        let begin = Instant::now();
        let (broker, data) = started(options, directory);
        ready_s.push(begin.elapsed().as_secs_f64());
        let mut queries = Vec::new();
        let every = (0..options.groups).flat_map(|nth| positions(&topic, &format!("group-{nth}")));
        let mut count = 0;
        for Position { group, queue, .. } in every {
            let query = Request::CommittedOffset { group, queue, zero_if_missing: false };
            push_request(&mut queries, 0, &query);
            count += 1;
        }
        assert_eq!(Client::connect().ask(&queries, count), count, "all offsets are there");
        stopped(broker, &data);
    }
    println!(
        "offsets        {} groups with {QUEUES} queues: ready {:.2} s after kill -9 and start",
        options.groups,
        median(&mut ready_s)
    );
}
