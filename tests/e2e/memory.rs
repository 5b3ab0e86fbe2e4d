//! Requests from untrusted clients determine neither how much memory a server uses nor how long
//! others wait.
//!
//! Every attack here is a few megabytes of requests that once used a hundred times as much memory,
//! or seconds, or that would use all memory if repeated.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use ringmq::config::Size;
use ringmq::shard::run::io_memory;

use crate::server::{Ports, Scratch, Server, TAIL_CACHE};
use crate::wire::{answer, connect_to, frame, header};

/// What a broker of one shard and a NameServer may use beyond their I/O memory under attack: what
/// the attackers can put into their tables, at most about 110 MB, and the frames of all attackers
/// with their buffers.
const BUDGET: u64 = 384 << 20;
/// How long an attack lasts.
const ATTACK: Duration = Duration::from_secs(10);
/// Bytes of requests sent before their replies are read.
const TOGETHER: usize = 256 << 10;
/// How long another client may wait. It waits for the current work of its shard, which takes
/// milliseconds, or a tenth of a second for a table of 100,000 topics; in a debug build on a busy
/// machine, about a hundred times that.
const PROMPT: Duration = Duration::from_secs(20);

/// Requests that are sent repeatedly, several at a time.
type Attack = Vec<(Target, Vec<u8>)>;

#[derive(Clone, Copy)]
enum Target {
    Broker,
    NameServer,
}
use Target::{Broker, NameServer};

/// Name and constructor.
type Named = (&'static str, fn() -> Attack);

const ATTACKS: [Named; 7] = [
    ("texts that are longer when they are quoted", quoted),
    ("groups of a long client id", groups),
    ("subscriptions", subscriptions),
    ("compressed registrations", bombs),
    ("the largest registrations", registrations),
    ("queues", queues),
    ("offsets", offsets),
];

fn quoted() -> Attack {
    let long = "\u{1}".repeat(3 << 20);
    let heartbeat = format!(
        r#"{{"clientID":"c","consumerDataSet":[{{"groupName":"g","subscriptionDataSet":[{{"topic":"T","subVersion":"{long}"}}]}}]}}"#
    );
    let filter = format!(
        r#""consumerGroup":"g","topic":"T","queueId":"0","queueOffset":"0","maxMsgNums":"1","sysFlag":"4","expressionType":"{long}""#
    );
    let topic = format!(r#""topic":"{long}""#);
    vec![
        (Broker, frame(&header(34, 1, 0, ""), heartbeat.as_bytes())),
        (Broker, frame(&header(11, 1, 0, &filter), b"")),
        (NameServer, frame(&header(105, 1, 0, &topic), b"")),
    ]
}

/// A client id that is too long, and the maximum number of clients, each in the maximum number of
/// groups.
fn groups() -> Attack {
    let heartbeat = |client: &str, first: usize, count: usize| {
        let groups: Vec<String> = (first..first + count)
            .map(|group| format!(r#"{{"groupName":"{group:0>255}"}}"#))
            .collect();
        let body = format!(r#"{{"clientID":"{client}","producerDataSet":[{}]}}"#, groups.join(","));
        (Broker, frame(&header(34, 1, 0, ""), body.as_bytes()))
    };
    let mut attack = vec![heartbeat(&"c".repeat(1 << 20), 0, 1500)];
    attack.extend(
        (0..60).map(|client| heartbeat(&format!("{client:0>255}"), client % 30 * 1000, 1000)),
    );
    attack
}

fn subscriptions() -> Attack {
    let tags = vec!["tag"; 50].join("||");
    let topics: Vec<String> = (0..9_000)
        .map(|topic| format!(r#"{{"topic":"{topic:0>127}","subString":"{tags}"}}"#))
        .collect();
    let heartbeat = |group: usize| {
        let body = format!(
            r#"{{"clientID":"s","consumerDataSet":[{{"groupName":"s{group}","subscriptionDataSet":[{}]}}]}}"#,
            topics.join(",")
        );
        (Broker, frame(&header(34, 1, 0, ""), body.as_bytes()))
    };
    (0..12).map(heartbeat).collect()
}

const REGISTER: &str =
    r#""brokerAddr":"10.0.0.1:10911","clusterName":"c","brokerId":"0","compressed":"true""#;

/// Four million topics in a few hundred kilobytes, to a NameServer and to a broker.
fn bombs() -> Attack {
    let ext = format!(r#""brokerName":"bomb",{REGISTER}"#);
    let thousand = b"\0\0\0\x07a 8 8 6".repeat(1000);
    let body = compressed_table(4_000_000, std::iter::repeat_n(thousand, 4_000));
    [Broker, NameServer].map(|to| (to, frame(&header(103, 1, 0, &ext), &body))).into()
}

/// Brokers with the maximum number of topics.
fn registrations() -> Attack {
    const COUNT: usize = 100_000;
    let lines = (0..COUNT).map(|topic| {
        let line = format!("{topic:0>32} 8 8 6 SINGLE_TAG");
        [&(line.len() as i32).to_be_bytes(), line.as_bytes()].concat()
    });
    let body = compressed_table(COUNT, lines);
    let register = |broker: usize| {
        let ext = format!(r#""brokerName":"b{broker}",{REGISTER}"#);
        (NameServer, frame(&header(103, 1, 0, &ext), &body))
    };
    (0..3).map(register).collect()
}

/// The body of a registration that claims `count` topics.
fn compressed_table(count: usize, lines: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let version = r#"{"counter":1,"stateVersion":0,"timestamp":1}"#;
    let mut body = ZlibEncoder::new(Vec::new(), Compression::fast());
    body.write_all(&(version.len() as i32).to_be_bytes()).unwrap();
    body.write_all(version.as_bytes()).unwrap();
    body.write_all(&(count as i32).to_be_bytes()).unwrap();
    lines.for_each(|line| body.write_all(&line).unwrap());
    body.finish().unwrap()
}

fn queues() -> Attack {
    let create = |topic: usize| {
        let ext = format!(
            r#""topic":"q{topic}","defaultTopic":"TBW102","readQueueNums":"16384","writeQueueNums":"16384","perm":"6""#
        );
        (Broker, frame(&header(17, 1, 0, &ext), b""))
    };
    let stats = (Broker, frame(&header(202, 1, 0, r#""topic":"q0""#), b""));
    (0..100).map(create).chain([stats]).collect()
}

fn offsets() -> Attack {
    let commit = |number: usize| {
        let ext = format!(
            r#""consumerGroup":"{number:0>255}","topic":"q0","queueId":"{number}","commitOffset":"1""#
        );
        (Broker, frame(&header(15, 1, 0, &ext), b""))
    };
    (0..5_000).map(commit).collect()
}

fn address(ports: Ports, target: Target) -> SocketAddr {
    match target {
        Broker => ports.broker_address(),
        NameServer => ports.nameserver_address(),
    }
}

/// Attacks until the time is up. Returns the number of requests. Small requests are pipelined, as
/// from a client that does not wait for replies.
fn attack(ports: Ports, attack: &Attack) -> usize {
    let begun = Instant::now();
    let mut streams = [Broker, NameServer].map(|target| connect_to(address(ports, target)));
    let size = attack.iter().map(|(_, request)| request.len()).sum::<usize>() / attack.len();
    let together = (TOGETHER / size).clamp(1, attack.len());
    let mut count = 0;
    for requests in attack.chunks(together).cycle() {
        if begun.elapsed() >= ATTACK {
            break;
        }
        for (target, request) in requests {
            streams[*target as usize].write_all(request).unwrap();
        }
        for (target, _) in requests {
            answer(&mut streams[*target as usize]);
        }
        count += requests.len();
    }
    count
}

/// Sends one request after another until the attack is over. Returns the longest time to a reply.
fn witness(ports: Ports, target: Target, code: i32, is_over: &AtomicBool) -> Duration {
    let mut stream = connect_to(address(ports, target));
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(&frame(&header(code, 1, 0, ""), b"")).unwrap();
        assert!(answer(&mut stream).contains(r#""code":0"#));
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    longest
}

#[test]
fn under_attack_memory_stays_within_its_budget_and_others_are_served() {
    let scratch = Scratch::new("memory");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let attacks = ATTACKS.map(|(name, make)| (name, make()));
    let is_over = AtomicBool::new(false);
    let waits = std::thread::scope(|scope| {
        let is_over = &is_over;
        let witnesses = [(Broker, 28), (NameServer, 106)]
            .map(|(target, code)| scope.spawn(move || witness(ports, target, code, is_over)));
        let attackers =
            attacks.each_ref().map(|(name, each)| (name, scope.spawn(move || attack(ports, each))));
        for (name, attacker) in attackers {
            // A failed attacker must not leave the witnesses running.
            let count = attacker.join();
            is_over.fetch_or(count.is_err(), Ordering::Relaxed);
            eprintln!("{name}: {} requests", count.expect("an attacker is answered"));
        }
        is_over.store(true, Ordering::Relaxed);
        witnesses.map(|witness| witness.join().unwrap())
    });
    let peak = server.memory_peak();
    let io_memory = io_memory(Size(TAIL_CACHE)) as u64;
    eprintln!(
        "at most {} MiB, {} of them I/O memory; waits {waits:?}",
        peak >> 20,
        io_memory >> 20
    );
    assert!(peak < io_memory + BUDGET, "{} MiB", peak >> 20);
    for (wait, whose) in waits.iter().zip(["the broker's", "the NameServer's"]) {
        assert!(*wait < PROMPT, "{whose} clients waited {wait:?}");
    }
    assert!(server.terminate().success());
}
