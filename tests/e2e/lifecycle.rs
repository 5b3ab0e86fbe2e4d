//! From start to stop: where a broker runs, on which ports, and what it still replies to at the
//! end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::server::{PATIENCE, Ports, Scratch, Server, nameserver, run, wait_until};
use crate::wire::{answer, connect, frame, header, is_closed};

/// How long a server is left idle to show what it does on its own.
const IDLE: Duration = Duration::from_secs(10);

fn at(ports: Ports) -> [String; 2] {
    ["--namesrv".to_owned(), ports.nameserver_address().to_string()]
}

fn ordered(ports: Ports, args: &[&str]) -> String {
    let [option, namesrv] = at(ports);
    let output = run(&[args, &[&option, &namesrv]].concat());
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sends one message and reads it back, before and after a restart.
fn keeps_messages(data: &Path, ports: Ports, says: &str) {
    let server = Server::dev(data, ports, 1);
    let log = server.log();
    assert!(log.contains(says), "{log} does not say {says:?}");
    ordered(ports, &["topic", "create", "kept", "--queues", "1"]);
    ordered(ports, &["msg", "send", "kept", "here"]);
    assert!(server.terminate().success());
    let server = Server::dev(data, ports, 1);
    let found = ordered(ports, &["msg", "tail", "kept", "--from", "first", "--count", "1"]);
    assert!(found.contains("here"), "{found}");
    assert!(server.terminate().success());
}

/// A directory in memory, removed at the end.
struct InMemory(PathBuf);

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_broker_in_memory_says_that_nothing_survives_the_machine() {
    let place = InMemory(PathBuf::from(format!("/dev/shm/ringmq-e2e-{}", std::process::id())));
    let is_there = statfs("/dev/shm").is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    if let Err(why) = fs::create_dir_all(&place.0)
        && is_there
    {
        return eprintln!("SKIPPED: no directory in memory: {why}");
    }
    if !is_there {
        return eprintln!("SKIPPED: /dev/shm is not a file system in memory");
    }
    keeps_messages(&place.0.join("data"), Ports::free(), "nothing survives a reboot");
}

#[test]
fn a_damaged_description_of_the_directory_is_repaired_or_refused_with_what_to_do() {
    let scratch = Scratch::new("manifest");
    let (data, ports) = (scratch.0.join("data"), Ports::free());
    keeps_messages(&data, ports, "epoch 1");
    let copies = ["broker.json", "broker.json.copy"].map(|name| data.join(name));
    let whole = fs::read(&copies[0]).unwrap();
    fs::write(&copies[0], &whole[1..]).unwrap();
    let server = Server::dev(&data, ports, 1);
    let log = server.log();
    assert!(log.contains("it was repaired from the other copy"), "{log}");
    let found = ordered(ports, &["msg", "tail", "kept", "--from", "first", "--count", "1"]);
    assert!(found.contains("here"), "{found}");
    assert!(server.terminate().success());
    assert_eq!(fs::read(&copies[0]).unwrap(), whole);

    for copy in &copies {
        fs::write(copy, "").unwrap();
    }
    let refused = run(&["dev", "--data", data.to_str().unwrap()]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    for part in ["broker.json is damaged", "broker.json.copy is damaged", "from a backup"] {
        assert!(error.contains(part), "{error} does not say {part:?}");
    }
}

/// Space used by the files below `path`, bytes.
fn disk_usage(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    let own = metadata.blocks() * 512;
    match metadata.is_dir() {
        false => own,
        true => {
            own + fs::read_dir(path).unwrap().map(|e| disk_usage(&e.unwrap().path())).sum::<u64>()
        }
    }
}

/// Ready segments are written while the shards are idle, so this watches for a while.
#[test]
fn an_empty_directory_of_dev_is_small() {
    let scratch = Scratch::new("small");
    let (data, ports) = (scratch.0.join("data"), Ports::free());
    let (listen, namesrv) = (ports.broker_address(), ports.nameserver_address());
    let (listen, namesrv) = (listen.to_string(), namesrv.to_string());
    let place = ["--data", data.to_str().unwrap(), "--listen", &listen];
    let args = [&["dev", "--namesrv-listen", &namesrv, "--shards", "4"], &place[..]].concat();
    let server = Server::start(&args, &data.with_extension("log"));
    let begin = Instant::now();
    let mut most = 0;
    while begin.elapsed() < IDLE {
        most = most.max(disk_usage(&data));
        assert!(most < 128 << 20, "{most} bytes after {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(most > 60 << 20, "no segments at all, or not where they were looked for: {most}");
    assert!(server.terminate().success());
}

/// Messages to send, one or two per segment.
const SEGMENTS: i32 = 400;

/// Starts a server with segments of 64 KiB.
fn with_180_open_files(data: &Path, ports: Ports) -> Server {
    let (listen, namesrv) = (ports.broker_address(), ports.nameserver_address());
    let (listen, namesrv) = (listen.to_string(), namesrv.to_string());
    let place = ["--data", data.to_str().unwrap(), "--listen", &listen];
    let args = ["dev", "--namesrv-listen", &namesrv, "--shards", "1", "--segment-size", "64KiB"];
    Server::start_limited("-n 180", &[&args[..], &place].concat(), &data.with_extension("log"))
}

fn fill_segments(stream: &mut TcpStream, count: i32) {
    let body = vec![7; 40 << 10];
    for opaque in 0..count {
        stream.write_all(&frame(&send_header(opaque, "pressed", 0), &body)).unwrap();
        let stored = answer(stream);
        assert!(stored.contains(r#""code":0"#), "{stored}");
    }
}

#[test]
fn clients_cannot_take_the_descriptors_that_the_log_needs() {
    const CLIENTS: usize = 200;
    let scratch = Scratch::new("crowd");
    let (data, ports) = (scratch.0.join("data"), Ports::free());
    let server = with_180_open_files(&data, ports);
    ordered(ports, &["topic", "create", "pressed", "--queues", "1"]);
    let mut sender = connect(ports);
    fill_segments(&mut sender, 1);
    let mut crowd: Vec<_> = (0..CLIENTS).map(|_| connect(ports)).collect();
    assert!(crowd.iter_mut().skip(52).all(is_closed), "more clients than there is room for");
    fill_segments(&mut sender, 100);
    drop(crowd);
    let is_welcome = || {
        let mut client = connect(ports);
        client.write_all(&frame(&header(28, 1, 0, ""), b"")).unwrap();
        client.read(&mut [0]).is_ok_and(|size| size > 0)
    };
    wait_until("there is room for a client", Duration::from_millis(10), PATIENCE, is_welcome);
    assert!(server.log().contains("the remaining open files are for the log"), "{}", server.log());
    assert!(server.terminate().success());
}

/// If every segment that was read kept its descriptors open, a large log would hit the limit.
#[test]
fn a_log_of_hundreds_of_segments_is_read_with_few_descriptors() {
    let scratch = Scratch::new("descriptors");
    let (data, ports) = (scratch.0.join("data"), Ports::free());
    // Fewer than the log has segments, each with an index.
    let server = with_180_open_files(&data, ports);
    assert!(server.log().contains("open files: limit 180: 52 connections"), "{}", server.log());
    ordered(ports, &["topic", "create", "pressed", "--queues", "1"]);
    fill_segments(&mut connect(ports), SEGMENTS);
    assert!(server.terminate().success());

    let server = with_180_open_files(&data, ports);
    let count = SEGMENTS.to_string();
    let read = ["msg", "tail", "pressed", "--from", "first", "--count", &count, "-o", "json"];
    let found = ordered(ports, &read);
    assert_eq!(found.matches(r#""offset""#).count(), SEGMENTS as usize);
    let files = fs::read_dir(data.join("shard-00")).unwrap().count();
    assert!(files > SEGMENTS as usize, "{files} files");
    assert!(server.terminate().success());
}

/// A file system without direct I/O.
struct Buffered(PathBuf);

impl Buffered {
    fn new(scratch: &Path) -> Result<Self, String> {
        let place = scratch.join("mount");
        fs::create_dir(&place).map_err(|error| error.to_string())?;
        let mounted =
            Command::new("mount").args(["-t", "ramfs", "ringmq-e2e"]).arg(&place).output();
        let mounted = mounted.map_err(|error| error.to_string())?;
        match mounted.status.success() {
            true => Ok(Self(place)),
            false => Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        // Lazily, because a failed test may have left a broker on it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn without_direct_io_dev_warns_and_a_broker_needs_an_option() {
    let scratch = Scratch::new("buffered");
    let place = match Buffered::new(&scratch.0) {
        Ok(place) => place,
        Err(why) => return eprintln!("SKIPPED: no file system without direct I/O: {why}"),
    };
    keeps_messages(&place.0.join("dev"), Ports::free(), "using buffered I/O");

    let ports = Ports::free();
    let (data, log) = (place.0.join("broker"), scratch.0.join("broker.log"));
    let [_, namesrv] = at(ports);
    let listen = ports.broker_address().to_string();
    let args = ["broker", "--namesrv", &namesrv, "--listen", &listen, "--shards", "1"];
    let small = ["--segment-size", "16MiB", "--data", data.to_str().unwrap()];
    let args = [&args[..], &small[..]].concat();
    let refused = run(&args);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    for part in ["direct I/O", "not supported by", "--allow-buffered-io"] {
        assert!(error.contains(part), "{error} does not say {part:?}");
    }

    let _nameserver = nameserver(&scratch.0, ports);
    let server = Server::start(&[&args[..], &["--allow-buffered-io"]].concat(), &log);
    assert!(server.log().contains("using buffered I/O"), "{}", server.log());
    assert!(server.terminate().success());
}

/// Old clients send to the port two below the advertised one.
#[test]
fn old_clients_are_served_two_ports_below() {
    let scratch = Scratch::new("vip");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 2);
    ordered(ports, &["topic", "create", "ports", "--queues", "1"]);
    for shard in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", ports.broker + 4 * shard - 2)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&send(1, "ports", 0)).unwrap();
        let stored = answer(&mut stream);
        assert!(stored.contains(r#""code":0"#) && stored.contains(r#""opaque":1"#), "{stored}");
    }
    let found = ordered(ports, &["topic", "describe", "ports", "-o", "json"]);
    assert_eq!(found.matches(r#""messages": 1"#).count(), 2, "one on each shard: {found}");
    assert!(server.terminate().success());
}

/// A send in short names, as Java clients use them.
fn send(opaque: i32, topic: &str, queue: u32) -> Vec<u8> {
    frame(&send_header(opaque, topic, queue), b"body")
}

fn send_header(opaque: i32, topic: &str, queue: u32) -> String {
    let ext = format!(
        r#""a":"g","b":"{topic}","c":"TBW102","d":"4","e":"{queue}","f":"0","g":"1","h":"0","i":"","j":"0","k":"false","m":"false""#
    );
    header(310, opaque, 0, &ext)
}

/// Connections that send concurrently, each to its own queue.
const CONNECTIONS: u32 = 4;
/// Requests that a connection writes at a time.
const BURST: i32 = 200;

/// Sends continuously and reads every reply until the broker closes the connection. Returns the
/// queue offsets of all messages acknowledged as stored.
fn press(ports: Ports, queue: u32, answered: &AtomicU64) -> BTreeSet<u64> {
    let mut stream = connect(ports);
    let mut sending = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let burst: Vec<u8> = (0..BURST).flat_map(|opaque| send(opaque, "pressed", queue)).collect();
        while sending.write_all(&burst).is_ok() {}
    });
    let mut stored = BTreeSet::new();
    while let Some(header) = try_answer(&mut stream) {
        if header.contains(r#""code":0"#) {
            let rest = header.split(r#""queueOffset":""#).nth(1).unwrap();
            let offset = rest.split('"').next().unwrap().parse().unwrap();
            assert!(stored.insert(offset), "{offset} was answered twice");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    sender.join().unwrap();
    stored
}

/// The header of the next reply; `None` once the broker has closed the connection.
fn try_answer(stream: &mut TcpStream) -> Option<String> {
    let mut word = [0; 8];
    stream.read_exact(&mut word).ok()?;
    let [size, header_size] = [&word[..4], &word[4..]]
        .map(|part| u32::from_be_bytes(part.try_into().unwrap()) as usize & 0x00FF_FFFF);
    let mut rest = vec![0; size - 4];
    stream.read_exact(&mut rest).expect("an answer is whole");
    rest.truncate(header_size);
    Some(String::from_utf8(rest).unwrap())
}

/// A client that reconnects as soon as its connection ends tries another broker immediately: a
/// connection that a stopping server accepts and then closes can cost a Java client a request's
/// whole timeout.
#[test]
fn a_server_that_stops_refuses_connections_before_it_ends_those_it_has() {
    let scratch = Scratch::new("refuses");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    std::thread::scope(|scope| {
        let reconnecting = [ports.broker_address(), ports.nameserver_address()].map(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&frame(&header(28, 1, 0, ""), b"")).unwrap();
            answer(&mut stream);
            scope.spawn(move || {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{address}: the connection ends");
                let again = TcpStream::connect(address);
                assert_eq!(again.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
            })
        });
        server.signal(Signal::SIGTERM);
        reconnecting.into_iter().for_each(|one| one.join().unwrap());
    });
    assert!(server.ended().success());
}

/// Every accepted request gets a reply before the connection ends: nothing is stored without the
/// sender's knowledge.
#[test]
fn an_orderly_stop_under_load_acknowledges_every_message_that_it_stores() {
    let scratch = Scratch::new("stop");
    let data = scratch.0.join("data");
    let ports = Ports::free();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let _ = fs::remove_dir_all(&data);
        let server = Server::dev(&data, ports, 1);
        ordered(ports, &["topic", "create", "pressed", "--queues", "4"]);
        let answered = AtomicU64::new(0);
        let told: Vec<BTreeSet<u64>> = std::thread::scope(|scope| {
            let answered = &answered;
            let press = |queue| scope.spawn(move || press(ports, queue, answered));
            let pressing: Vec<_> = (0..CONNECTIONS).map(press).collect();
            let deadline = Instant::now() + PATIENCE;
            while answered.load(Ordering::Relaxed) < 2_000 {
                assert!(Instant::now() < deadline, "no load at all");
                std::thread::sleep(Duration::from_millis(1));
            }
            server.signal(signal);
            assert!(server.ended().success(), "{signal} is an orderly end");
            pressing.into_iter().map(|one| one.join().unwrap()).collect()
        });

        let server = Server::dev(&data, ports, 1);
        assert!(server.log().contains("torn tail of 0 bytes"), "{}", server.log());
        let mut stream = connect(ports);
        for (queue, told) in told.iter().enumerate() {
            let ext = format!(r#""topic":"pressed","queueId":"{queue}""#);
            stream.write_all(&frame(&header(30, 1, 0, &ext), b"")).unwrap();
            let end = answer(&mut stream);
            let expected = format!(r#""offset":"{}""#, told.len());
            assert!(end.contains(&expected), "queue {queue}: {} were answered, {end}", told.len());
        }
        drop(stream);
        assert!(server.interrupt().success());
    }
}
