//! How soon a group of very many members settles after one joins or leaves, and what producers
//! notice. Runs the release builds of `ringmq` and `loadgen`: four brokers with 16 shards each on
//! one core; the NameServer, the members and the generator on another.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench members
//! ```
//!
//! A member does what stock consumers do (remoting reference, 5.24): it sends heartbeats to every broker, asks
//! one of them for the members when it is notified, and computes its queues from their sorted list. The group
//! has settled when all members have computed theirs from the same list: then each queue has one owner.

#[path = "generator.rs"]
mod generator;
#[path = "nameserver.rs"]
mod nameserver;
#[path = "place.rs"]
mod place;
#[path = "processes.rs"]
mod processes;
#[path = "report.rs"]
mod report;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::Parser;
use ringmq::client::group_consumer::assignment;
use ringmq::model::request::{
    ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel, SubscriptionData,
};
use ringmq::model::{GroupName, Request, TopicName};
use ringmq::wire::codes::request::NOTIFY_CONSUMER_IDS_CHANGED;
use ringmq::wire::{FRAME_SIZE_MAX, HeaderEncoding, decode_reply, encode_request, next_frame};

use self::generator::generator;
use self::nameserver::nameserver;
use self::place::Place;
use self::processes::{BROKER, NAMESERVER, PATIENCE, Server, create_topic, median, pinned};
use self::report::{Latency, Report};

const TOPIC: &str = "members";
/// Where the brokers listen.
const BROKERS: [&str; 4] = [BROKER, "127.0.0.1:21111", "127.0.0.1:21311", "127.0.0.1:21511"];
/// How many members join before all of them read their notifications.
const DRAIN_EVERY: usize = 50;
/// How long the members pause when none of them has anything to read.
const PAUSE: Duration = Duration::from_millis(1);
/// Extra duration of the load, so that the generator starts before and ends after the rounds.
const MARGIN_S: u64 = 3;

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures a group of very many members.")]
struct Options {
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    members: usize,

    /// Shards of each of the four brokers.
    #[arg(long, default_value_t = 16, value_name = "N")]
    shards: usize,

    /// How many join and leave.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,

    /// Messages a second of the producers.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    rate: u32,

    /// CPUs of the brokers and of all others.
    #[arg(long, default_values_t = [0, 1], num_args = 2, value_name = "CPU")]
    cpus: Vec<u32>,

    #[command(flatten)]
    place: Place,
}

fn main() {
    let mut options = Options::parse();
    if options.place.test {
        (options.members, options.shards, options.rounds, options.rate) = (10, 1, 1, 100);
    }
    let scratch = options.place.scratch("members");
    let directory = scratch.path();
    let nameserver = nameserver(options.cpus[1]);
    let brokers: Vec<Server> =
        (0..BROKERS.len()).map(|nth| broker(&options, directory, nth)).collect();
    // Enough queues on each shard for every member to have one.
    let queues = options.members / (BROKERS.len() * options.shards) + 1;
    create_topic(TOPIC, queues as u32);
    let mut group = Group::default();
    for nth in 1..=options.members {
        group.join();
        // Otherwise notifications would pile up.
        if nth.is_multiple_of(DRAIN_EVERY) {
            group.work();
        }
    }
    group.settle();
    let queue_count = queues * BROKERS.len() * options.shards;
    let seconds = 2 * options.rounds as u64 + MARGIN_S;
    let alone = producers_p99(&options, directory, seconds, |_| ());
    let mut took: [Vec<f64>; 2] = Default::default();
    let beside = producers_p99(&options, directory, seconds, |load| {
        for _ in 0..options.rounds {
            group.join();
            took[0].push(group.settle());
            group.check(queue_count);
            group.leave();
            took[1].push(group.settle());
            group.check(queue_count);
            assert!(
                load.try_wait().expect("it is our child").is_none(),
                "the load has ended before"
            );
        }
    });
    brokers.into_iter().for_each(Server::stop);
    nameserver.stop();
    let max = took.iter().flatten().copied().fold(0.0, f64::max);
    let [joined, left] = took.each_mut().map(|seconds| median(seconds));
    println!(
        "members        {} members, {} shards in {} processes: settled {joined:.2} s after one joins, {left:.2} s after \
         one leaves, at most {max:.2} s; producers' p99 {alone} without, {beside} meanwhile",
        options.members,
        BROKERS.len() * options.shards,
        BROKERS.len()
    );
}

fn broker(options: &Options, directory: &Path, nth: usize) -> Server {
    let mut command = pinned(options.cpus[0], "ringmq");
    command.args(["broker", "--name", &format!("machine-{nth}"), "--namesrv", NAMESERVER]);
    command.args(["--shards", &options.shards.to_string(), "--listen", BROKERS[nth]]);
    command.args(["--segment-size", "16MiB", "--ready-segments", "1", "--tail-cache", "4MiB"]);
    command.args(["--append-budget", "4MiB", "--disk-reserve", "64MiB"]);
    command.arg("--data").arg(directory.join(nth.to_string()));
    Server::start(command)
}

/// p99 of producers during `work`.
fn producers_p99(
    options: &Options,
    directory: &Path,
    seconds: u64,
    work: impl FnOnce(&mut Child),
) -> Latency {
    let report = directory.join("report");
    let mut command = generator(options.cpus[1], false);
    command.args(["steady", "--namesrv", NAMESERVER, "--topic", "plain", "--no-consume"]);
    command.args(["--rate", &options.rate.to_string(), "--connections", "4", "--warmup", "1s"]);
    command.args(["--duration", &format!("{seconds}s"), "--out"]).arg(&report);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut load = command.spawn().expect("loadgen starts");
    work(&mut load);
    load.wait().expect("loadgen ends");
    Latency::from_iter([Report::take(&report).latency_ms("/send/latency_ns/p99")])
}

/// The members of a group, in the order in which they joined.
#[derive(Default)]
struct Group {
    members: Vec<Member>,
    joined: usize,
}

struct Member {
    name: String,
    /// One connection to each broker.
    lines: Vec<Line>,
    /// The members that it knows of, sorted.
    list: Vec<String>,
    /// Whether it is waiting for the list, and whether it has been notified since it asked.
    asks: bool,
    asks_again: bool,
}

struct Line {
    stream: TcpStream,
    input: BytesMut,
}

impl Group {
    /// Adds a member, which sends its first heartbeats.
    fn join(&mut self) {
        let name = format!("10.0.{}.{}@member", self.joined / 250, self.joined % 250);
        self.joined += 1;
        let heartbeat = request(&Request::Heartbeat(heartbeat(&name)));
        let lines = BROKERS.map(|at| {
            let mut stream = TcpStream::connect(at).expect("the broker listens");
            stream.set_nodelay(true).expect("a socket takes this");
            stream.write_all(&heartbeat).expect("the broker reads");
            stream.set_nonblocking(true).expect("a socket takes this");
            Line { stream, input: BytesMut::new() }
        });
        let (lines, list) = (lines.into(), Vec::new());
        self.members.push(Member { name, lines, list, asks: false, asks_again: false });
    }

    /// Disconnects the last member.
    fn leave(&mut self) {
        self.members.pop();
    }

    /// Waits until all members know all members. Returns how long that took, s.
    fn settle(&mut self) -> f64 {
        let begin = Instant::now();
        let mut expected: Vec<String> =
            self.members.iter().map(|member| member.name.clone()).collect();
        expected.sort_unstable();
        loop {
            let has_worked = self.work();
            if self.members.iter().all(|member| member.list == expected) {
                return begin.elapsed().as_secs_f64();
            }
            assert!(begin.elapsed() < PATIENCE, "the group does not settle");
            if !has_worked {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Has all members read what has arrived. Returns whether there was anything.
    fn work(&mut self) -> bool {
        let mut has_worked = false;
        for (nth, member) in self.members.iter_mut().enumerate() {
            has_worked |= member.work(nth % BROKERS.len());
        }
        has_worked
    }

    /// Asserts that each of `queue_count` queues has one owner.
    fn check(&self, queue_count: usize) {
        let queues: Vec<usize> = (0..queue_count).collect();
        let mut owners = BTreeMap::<usize, usize>::new();
        for member in &self.members {
            for queue in assignment::average(&member.name, &member.list, &queues) {
                *owners.entry(*queue).or_default() += 1;
            }
        }
        assert!(owners.len() == queue_count && owners.values().all(|owners| *owners == 1));
    }
}

impl Member {
    /// Reads what has arrived, and asks the broker with number `asked` for the members if it was
    /// notified. Returns whether there was anything.
    fn work(&mut self, asked: usize) -> bool {
        let mut has_read = false;
        let mut chunk = [0; 64 << 10];
        for line in &mut self.lines {
            match line.stream.read(&mut chunk) {
                Ok(0) => panic!("a broker has closed the connection of {}", self.name),
                Ok(size) => line.input.extend_from_slice(&chunk[..size]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{}: {error}", self.name),
            }
            has_read = true;
            while let Some(frame) = next_frame(&mut line.input, FRAME_SIZE_MAX).expect("framing") {
                let frame = decode_reply(&frame).expect("it has a header");
                if !frame.is_reply {
                    assert_eq!(frame.code, NOTIFY_CONSUMER_IDS_CHANGED);
                    self.asks_again = true;
                } else if let Ok(members) = frame.members() {
                    self.list = members.iter().map(ToString::to_string).collect();
                    self.list.sort_unstable();
                    self.asks = false;
                } else if frame.code != 0 {
                    // That broker does not know the group yet; it notifies its members as soon as it does.
                    self.asks = false;
                }
            }
        }
        if self.asks_again && !self.asks {
            (self.asks, self.asks_again) = (true, false);
            let ask = request(&Request::GroupMembers { group: group_name() });
            self.lines[asked].stream.write_all(&ask).expect("the socket takes a short request");
        }
        has_read
    }
}

fn group_name() -> GroupName {
    GroupName::new("very-many".to_owned()).expect("a group may be called so")
}

fn heartbeat(name: &str) -> Heartbeat {
    let all = Expression { kind: "TAG".to_owned(), text: "*".to_owned() };
    let topic = TopicName::new(TOPIC.to_owned()).expect("a topic may be called so");
    let consumer = ConsumerData {
        group: group_name(),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        subscriptions: vec![SubscriptionData { topic, expression: all, version: 1 }],
    };
    Heartbeat { client: name.into(), consumers: vec![consumer], ..Heartbeat::default() }
}

fn request(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, HeaderEncoding::Json, 1, false, request)
        .expect("JSON has a form for it");
    bytes
}
