//! A broker with too little time or disk.
//!
//! Requests are written by hand, so that no client retries a refused one.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringmq::client::consumer::{ConsumerOptions, QueueRef};
use ringmq::client::{Admin, Consumer};
use ringmq::model::{QueueId, TopicName};

use crate::crash::{client, read_queue};
use crate::server::{PATIENCE, Ports, Scratch, Server, run};
use crate::wire::{answer, connect, frame, header};

const TOPIC: &str = "pressed";
/// The shortest wait for room after which a request is refused.
const WAIT_MAX_MS: u64 = 50;

/// A send to queue 0, with the short names that Java clients use.
fn send(opaque: i32, body: &[u8]) -> Vec<u8> {
    let ext = format!(
        r#""a":"pressers","b":"{TOPIC}","c":"TBW102","d":"4","e":"0","f":"0","g":"1","h":"0","i":"","j":"0","k":"false","m":"false""#
    );
    frame(&header(310, opaque, 0, &ext), body)
}

/// Asks for the end of queue 0: the number of messages stored in it.
fn ask_end(opaque: i32) -> Vec<u8> {
    frame(&header(30, opaque, 0, &format!(r#""topic":"{TOPIC}","queueId":"0""#)), b"")
}

fn create_topic(ports: Ports) {
    let namesrv = ports.nameserver_address().to_string();
    let created = run(&["topic", "create", TOPIC, "--queues", "1", "--namesrv", &namesrv]);
    assert!(created.status.success(), "{created:?}");
}

/// The number after `name` in a header or remark.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = &text[text.find(name)? + name.len()..];
    let digits = rest.trim_start_matches(['"', ':', '=']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// With a budget of one byte, every message waits until the previous one is on disk, so those at
/// the end of a large read have waited too long, however fast the disk is.
#[test]
fn a_request_that_waited_too_long_is_refused_as_busy_and_not_stored() {
    const COUNT_MAX: u64 = 100_000;
    let scratch = Scratch::new("busy");
    let ports = Ports::free();
    let server = Server::dev_with(&scratch.0.join("data"), ports, 1, &["--append-budget", "1"]);
    create_topic(ports);
    let mut stream = connect(ports);
    // The broker's receive buffer grows for this, and then holds thousands of small requests.
    stream.write_all(&send(0, &[b'x'; 2 << 20])).unwrap();
    assert!(answer(&mut stream).contains(r#""code":0"#));

    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sender = stream.try_clone().unwrap();
    let (mut stored, mut busy) = (1, Vec::new());
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while sent.load(Ordering::Relaxed) < COUNT_MAX && !is_over.load(Ordering::Relaxed) {
                sent.fetch_add(1000, Ordering::Relaxed);
                let requests: Vec<u8> = (0..1000).flat_map(|_| send(1, b"x")).collect();
                sender.write_all(&requests).unwrap();
            }
        });
        let mut answered = 0;
        while !sending.is_finished() || answered < sent.load(Ordering::Relaxed) {
            if answered == sent.load(Ordering::Relaxed) {
                std::thread::yield_now();
                continue;
            }
            answered += 1;
            take_answer(&mut stream, &mut stored, &mut busy);
            is_over.store(!busy.is_empty(), Ordering::Relaxed);
        }
    });
    let first = busy.first().expect("some request has waited too long");
    for part in [r#""code":2"#, "RINGMQ-2001", "reason=append_queue", "shard=0"] {
        assert!(first.contains(part), "{first} does not say {part}");
    }
    assert!(number(first, "wait_ms").unwrap() >= WAIT_MAX_MS, "{first}");
    assert!(number(first, "retry_after_ms").unwrap() > 0, "{first}");

    stream.write_all(&ask_end(2)).unwrap();
    let end = answer(&mut stream);
    assert_eq!(number(&end, r#""offset"#), Some(stored), "what was refused is not there: {end}");
    check_metrics(ports, stored, busy.len() as u64);
    assert!(server.terminate().success());
}

/// Checks that the shard counted the same, and timed each stage.
fn check_metrics(ports: Ports, stored: u64, busy: u64) {
    let mut admin = Admin::new(client(ports, "metrics")).unwrap();
    let table = admin.runtime_info(&ports.broker_address().to_string()).unwrap();
    let number = |name: &str| {
        let (_, value) = table.iter().find(|(found, _)| found == name).expect(name);
        value.parse::<u64>().unwrap()
    };
    assert_eq!(number("ringmq_messages_stored_total"), stored);
    assert_eq!(number("ringmq_refused_total.RINGMQ-2001.append_queue"), busy);
    assert_eq!(number("ringmq_commit_ns.count"), stored);
    assert_eq!(number("ringmq_log_write_ns.count"), number("ringmq_log_writes_total"));
    let waited = number("ringmq_admission_wait_ns.count");
    assert!(waited >= busy && waited < stored + busy, "{waited} waited");
    assert!(number("ringmq_admission_wait_ns.max") >= WAIT_MAX_MS * 990_000);
    for stage in ["commit", "reply", "log_write"] {
        let quantile = |of: &str| number(&format!("ringmq_{stage}_ns.{of}"));
        assert!(quantile("p50") > 0 && quantile("p50") <= quantile("max"), "{stage}");
    }
    assert!(number("ringmq_received_bytes_total") > number("ringmq_stored_bytes_total"));
    assert!(number("ringmq_sent_bytes_total") > 0);
}

fn take_answer(stream: &mut TcpStream, stored: &mut u64, busy: &mut Vec<String>) {
    let header = answer(stream);
    match header.contains(r#""code":0"#) {
        true => *stored += 1,
        false => busy.push(header),
    }
}

/// A small file system in a file.
struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// The error says why this user or machine cannot have one.
    fn new(scratch: &Path, size: u64) -> Result<Self, String> {
        let (image, mount) = (scratch.join("image"), scratch.join("mount"));
        let made = fs::File::create(&image).and_then(|file| file.set_len(size));
        made.and_then(|()| fs::create_dir(&mount)).map_err(|error| error.to_string())?;
        let (from, to) = (image.to_str().unwrap(), mount.to_str().unwrap());
        command("mkfs.ext4", &["-q", "-F", "-m", "0", from])?;
        command("mount", &["-o", "loop", from, to])?;
        Ok(Self { mount })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a failed test may have left a broker on it.
        if let Err(error) = command("umount", &["-l", self.mount.to_str().unwrap()]) {
            eprintln!("{error}");
        }
    }
}

fn command(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", error.trim())) }
}

#[test]
fn a_full_disk_refuses_producers_keeps_its_messages_and_recovers_with_space() {
    let scratch = Scratch::new("full");
    let disk = match SmallDisk::new(&scratch.0, 256 << 20) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("skipped: no file system of its own: {why}"),
    };
    let ballast = disk.mount.join("ballast");
    fs::write(&ballast, vec![0; 96 << 20]).unwrap();
    let data = disk.mount.join("data");
    let ports = Ports::free();
    let start = || Server::dev_with(&data, ports, 1, &["--disk-reserve", "16MiB"]);
    let server = start();
    create_topic(ports);
    let mut stream = connect(ports);
    let mut stored = 0;
    let refusal = loop {
        match store(&mut stream, stored) {
            Ok(()) => stored += 1,
            Err(header) => break header,
        }
        assert!(stored < 2000, "more than the disk holds is acknowledged");
    };
    for part in [r#""code":14"#, "RINGMQ-2003"] {
        assert!(refusal.contains(part), "{refusal} does not say {part}");
    }
    assert!(stored > 100, "refused after {stored} messages of 256 KiB");
    assert_eq!(read_all(ports), stored);

    fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while let Err(header) = store(&mut stream, stored) {
        assert!(Instant::now() < deadline, "still refused: {header}");
        std::thread::sleep(Duration::from_millis(50));
    }
    stored += 1;
    for _ in 0..20 {
        store(&mut stream, stored).unwrap();
        stored += 1;
    }
    assert_eq!(read_all(ports), stored);
    drop(stream);
    server.kill();
    let server = start();
    assert_eq!(read_all(ports), stored, "after a restart");
    assert!(server.terminate().success());
}

/// Sends message `number` and waits. The error is the header of the refusal.
fn store(stream: &mut TcpStream, number: u64) -> Result<(), String> {
    let mut body = format!("0 {number} ").into_bytes();
    body.resize(256 << 10, b'x');
    stream.write_all(&send(number as i32, &body)).unwrap();
    let header = answer(stream);
    if header.contains(r#""code":0"#) { Ok(()) } else { Err(header) }
}

/// Returns the number of messages, which must be numbered 0, 1, 2, …
fn read_all(ports: Ports) -> u64 {
    let mut consumer = Consumer::new(ConsumerOptions::new(client(ports, "auditor"))).unwrap();
    let topic = TopicName::new(TOPIC).unwrap();
    let queue = QueueRef { topic, broker: "s00-broker-a".into(), queue: QueueId(0) };
    let found = read_queue(&mut consumer, &queue);
    assert!(found.iter().enumerate().all(|(at, (_, number))| at as u64 == *number));
    found.len() as u64
}

/// A file system that writes nothing until this is dropped.
struct Frozen<'a>(&'a SmallDisk);

impl<'a> Frozen<'a> {
    fn new(disk: &'a SmallDisk) -> Result<Self, String> {
        command("fsfreeze", &["-f", disk.mount.to_str().unwrap()])?;
        Ok(Self(disk))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = command("fsfreeze", &["-u", self.0.mount.to_str().unwrap()]) {
            eprintln!("{error}");
        }
    }
}

/// While the device stalls, requests that need no room get their replies although earlier ones wait
/// for room. Waiting requests are refused in time, although no write completes that would wake
/// them. Messages accepted earlier are acknowledged when the device resumes.
#[test]
fn a_stalled_device_delays_only_requests_that_must_be_written() {
    const SENT: usize = 100;
    let scratch = Scratch::new("stalled");
    let disk = match SmallDisk::new(&scratch.0, 256 << 20) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("skipped: no file system of its own: {why}"),
    };
    // Through a link, so that the broker's output is not on the frozen file system.
    let data = scratch.0.join("data");
    fs::create_dir(disk.mount.join("data")).unwrap();
    std::os::unix::fs::symlink(disk.mount.join("data"), &data).unwrap();
    let ports = Ports::free();
    let options = ["--append-budget", "64KiB", "--disk-reserve", "16MiB"];
    let server = Server::dev_with(&data, ports, 1, &options);
    create_topic(ports);
    let mut stream = connect(ports);
    stream.write_all(&send(0, b"before")).unwrap();
    assert!(answer(&mut stream).contains(r#""code":0"#));

    let frozen = match Frozen::new(&disk) {
        Ok(frozen) => frozen,
        Err(why) => return eprintln!("skipped: the file system cannot be frozen: {why}"),
    };
    let began = Instant::now();
    let mut requests: Vec<u8> = (1..=SENT as i32).flat_map(|n| send(n, &[b'x'; 4096])).collect();
    let pull = format!(
        r#""consumerGroup":"g","topic":"{TOPIC}","queueId":"0","queueOffset":"0","maxMsgNums":"32","sysFlag":"4","commitOffset":"0","suspendTimeoutMillis":"0","subscription":"*","subVersion":"0","expressionType":"TAG""#
    );
    let heartbeat = br#"{"clientID":"c","producerDataSet":[{"groupName":"p"}]}"#;
    requests.extend(frame(&header(34, 1001, 0, ""), heartbeat));
    requests.extend(frame(&header(11, 1002, 0, &pull), b""));
    requests.extend(ask_end(1003));
    stream.write_all(&requests).unwrap();
    let opaque = |header: &str| number(header, r#""opaque""#).unwrap();
    for expected in [1001, 1002, 1003] {
        let header = answer(&mut stream);
        assert_eq!(opaque(&header), expected, "{header}");
        assert!(header.contains(r#""code":0"#), "{header}");
    }
    assert!(began.elapsed() < Duration::from_millis(200), "they waited for the device");

    let mut refused = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while refused.len() < SENT / 2 {
        let header = answer(&mut stream);
        for part in ["RINGMQ-2001", "reason=append_queue"] {
            assert!(header.contains(part), "{header} does not say {part}");
        }
        // The first request to wait this long shows that the queue is not draining; then the limit
        // is lower.
        let limit_ms = if refused.is_empty() { 200 } else { 50 };
        assert!(number(&header, "wait_ms").unwrap() >= limit_ms, "{header}");
        refused.push(opaque(&header));
    }
    assert!(began.elapsed() < Duration::from_millis(300), "refused {:?} late", began.elapsed());
    assert!(refused.is_sorted(), "they were parked in order");
    drop(frozen);

    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut stored, mut last) = (1, 0);
    for _ in refused.len()..SENT {
        let header = answer(&mut stream);
        if !header.contains(r#""code":0"#) {
            refused.push(opaque(&header));
            continue;
        }
        assert!(opaque(&header) > last, "{header} is out of order");
        (stored, last) = (stored + 1, opaque(&header));
    }
    // A connection may have a quarter of the budget: three of these.
    assert!(stored > 3 && last < refused[0], "{stored} stored, the last {last}, then {refused:?}");
    stream.write_all(&ask_end(2000)).unwrap();
    assert_eq!(number(&answer(&mut stream), r#""offset""#), Some(stored));
    drop(stream);
    assert!(server.terminate().success());
}

/// Each of many connections sends its next messages once it has the replies to the previous ones,
/// so far more messages are always waiting than the log has room for.
#[test]
fn connections_that_bring_too_much_take_turns() {
    const CONNECTIONS: usize = 100;
    const WINDOW: usize = 16;
    const ROUNDS: usize = 20;
    let scratch = Scratch::new("turns");
    let ports = Ports::free();
    let server = Server::dev_with(&scratch.0.join("data"), ports, 1, &["--append-budget", "64KiB"]);
    create_topic(ports);
    let window: Vec<u8> = (0..WINDOW as i32).flat_map(|n| send(n, &[b'x'; 1024])).collect();
    let (waiting, stored) = (AtomicU64::new(CONNECTIONS as u64), AtomicU64::new(0));
    let rounds: Vec<usize> = std::thread::scope(|scope| {
        let serve = || {
            let (mut stream, mut rounds) = (connect(ports), 0);
            let (mut accepted, mut busy) = (0, Vec::new());
            while waiting.load(Ordering::Relaxed) > 0 {
                stream.write_all(&window).unwrap();
                (0..WINDOW).for_each(|_| take_answer(&mut stream, &mut accepted, &mut busy));
                rounds += 1;
                if rounds == ROUNDS {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            }
            stored.fetch_add(accepted, Ordering::Relaxed);
            rounds
        };
        let connections: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(serve)).collect();
        connections.into_iter().map(|connection| connection.join().unwrap()).collect()
    });
    let most = *rounds.iter().max().unwrap();
    assert!(most < 5 * ROUNDS, "one was served {most} times until each was served {ROUNDS} times");
    let mut stream = connect(ports);
    stream.write_all(&ask_end(2000)).unwrap();
    assert_eq!(number(&answer(&mut stream), r#""offset""#), Some(stored.into_inner()));
    assert!(server.terminate().success());
}
