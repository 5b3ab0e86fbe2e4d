//! How much one connection may request at a time, and how others are protected from it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::server::{PATIENCE, Ports, Scratch, Server, run, wait_until};
use crate::wire::{answer, connect, frame, header};

const MIB: u64 = 1 << 20;

fn send(opaque: i32, queue: u32, properties: &str, body: &[u8]) -> Vec<u8> {
    let ext = format!(
        r#""a":"g","b":"t","c":"TBW102","d":"4","e":"{queue}","f":"0","g":"1","h":"0","i":"{properties}","j":"0","k":"false","m":"false""#
    );
    frame(&header(310, opaque, 0, &ext), body)
}

/// A pull from offset 0 that may be held for five seconds.
fn pull(opaque: i32, queue: u32, tags: &str, bytes_max: u32) -> Vec<u8> {
    let ext = format!(
        r#""consumerGroup":"readers","topic":"t","queueId":"{queue}","queueOffset":"0","maxMsgNums":"1024","sysFlag":"6","commitOffset":"0","suspendTimeoutMillis":"5000","subscription":"{tags}","subVersion":"0","expressionType":"TAG","maxMsgBytes":"{bytes_max}""#
    );
    frame(&header(11, opaque, 0, &ext), b"")
}

fn is_answer_to(header: &str, opaque: i32) -> bool {
    header.contains(&format!(r#""opaque":{opaque},"#))
        || header.contains(&format!(r#""opaque":{opaque}}}"#))
}

fn store(stream: &mut TcpStream, queue: u32, properties: &str, body: &[u8]) {
    stream.write_all(&send(1, queue, properties, body)).unwrap();
    let header = answer(stream);
    assert!(header.contains(r#""code":0"#), "{header}");
}

fn has_index_file(data: &Path) -> bool {
    let files = fs::read_dir(data.join("shard-00")).unwrap();
    let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.any(|name| name.ends_with(".index"))
}

/// One of the pulls must read an index file before it is held; the other is held immediately.
#[test]
fn pulls_held_on_one_connection_get_their_own_replies() {
    let scratch = Scratch::new("own-answers");
    let (ports, data) = (Ports::free(), scratch.0.join("data"));
    let (listen, namesrv) = (ports.broker_address(), ports.nameserver_address());
    let (listen, namesrv) = (listen.to_string(), namesrv.to_string());
    let at = ["--data", data.to_str().unwrap(), "--listen", &listen, "--namesrv-listen", &namesrv];
    let small = ["--shards", "1", "--segment-size", "64KiB", "--tail-cache", "4MiB"];
    let log = data.with_extension("log");
    let server = Server::start(&[&["dev"][..], &at, &small].concat(), &log);
    let mut sender = connect(ports);
    for _ in 0..60 {
        store(&mut sender, 0, r"TAGS\u0001A\u0002", &[b'x'; 4000]);
    }
    let is_indexed = || has_index_file(&data);
    let every = Duration::from_millis(10);
    wait_until("a sealed segment has its index file", every, PATIENCE, is_indexed);

    let mut reader = connect(ports);
    // A reply to this shows that the earlier requests were received.
    let witness = header(28, 300, 0, "");
    let pulls = [pull(100, 0, "B", 4096), pull(200, 1, "*", 4096), frame(&witness, b"")];
    reader.write_all(&pulls.concat()).unwrap();
    assert!(is_answer_to(&answer(&mut reader), 300));
    for (queue, opaque) in [(0, 100), (1, 200)] {
        store(&mut sender, queue, r"TAGS\u0001B\u0002", b"wanted");
        let header = answer(&mut reader);
        assert!(is_answer_to(&header, opaque), "a message of queue {queue}: {header}");
    }
    assert!(server.terminate().success());
}

#[test]
fn committing_a_committed_offset_again_gets_a_reply_on_an_idle_broker() {
    let scratch = Scratch::new("commit-twice");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let mut stream = connect(ports);
    store(&mut stream, 0, "", b"x");
    for opaque in 2..5 {
        let ext = r#""consumerGroup":"readers","topic":"t","queueId":"0","commitOffset":"1""#;
        stream.write_all(&frame(&header(15, opaque, 0, ext), b"")).unwrap();
        assert!(is_answer_to(&answer(&mut stream), opaque));
    }
    assert!(server.terminate().success());
}

/// The rest of the budget is enough for the body but not for the properties.
#[test]
fn a_message_with_long_properties_waits_for_room_like_any_other() {
    const COUNT: i32 = 4000;
    let scratch = Scratch::new("properties");
    let ports = Ports::free();
    let server = Server::dev_with(&scratch.0.join("data"), ports, 1, &["--append-budget", "64KiB"]);
    let mut stream = connect(ports);
    store(&mut stream, 0, "", b"first");
    let properties = format!(r"P\u0001{}\u0002", "p".repeat(3000));
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for opaque in 0..COUNT {
            sender.write_all(&send(opaque, 0, &properties, b"0123456789")).unwrap();
        }
    });
    for _ in 0..COUNT {
        let header = answer(&mut stream);
        assert!(!header.contains("wait_ms=0 "), "refused without having waited: {header}");
    }
    sending.join().unwrap();
    assert!(server.terminate().success());
}

/// Watches a broker's memory and another connection while one is misused.
struct Watch {
    server: Server,
    ports: Ports,
    before: u64,
}

impl Watch {
    fn begin(server: Server, ports: Ports) -> Self {
        let before = server.resident_bytes();
        Self { server, ports, before }
    }

    /// Checks that memory stays within `limit` bytes of its start value for as long as it can grow,
    /// and that another connection is served.
    fn end(self, limit: u64) {
        let mut witness = connect(self.ports);
        let mut greatest = 0;
        for opaque in 0..50 {
            witness.write_all(&frame(&header(28, opaque, 0, ""), b"")).unwrap();
            assert!(is_answer_to(&answer(&mut witness), opaque));
            greatest = greatest.max(self.server.resident_bytes().saturating_sub(self.before));
            assert!(greatest < limit, "{} MiB more", greatest / MIB);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.server.kill();
    }
}

/// Sends as much as the other side accepts within a limited time.
fn push(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = stream.write_all(bytes);
}

#[test]
fn unread_replies_do_not_fill_memory() {
    let scratch = Scratch::new("unread");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let namesrv = ports.nameserver_address().to_string();
    let created = run(&["topic", "create", "t", "--queues", "16384", "--namesrv", &namesrv]);
    assert!(created.status.success(), "{created:?}");
    let watch = Watch::begin(server, ports);
    let mut stream = connect(ports);
    // The receive buffer grows for these, and then holds hundreds of small requests.
    for opaque in 0..3 {
        stream.write_all(&frame(&header(28, opaque, 0, ""), &[0; 250 << 10])).unwrap();
        assert!(is_answer_to(&answer(&mut stream), opaque));
    }
    let ask = frame(&header(202, 1, 0, r#""topic":"t""#), b"");
    push(&mut stream, &ask.repeat(2000));
    watch.end(64 * MIB);
}

#[test]
fn a_client_that_does_not_read_causes_no_cold_reads() {
    let scratch = Scratch::new("unread-cold");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let mut stream = connect(ports);
    for _ in 0..32 {
        store(&mut stream, 0, "", &[b'x'; 1 << 20]);
    }
    let watch = Watch::begin(server, ports);
    let mut stream = connect(ports);
    push(&mut stream, &pull(7, 0, "*", 4 << 20).repeat(300));
    watch.end(96 * MIB);
}

/// Some connections stop in the middle of large requests; others can still send large ones.
#[test]
fn large_requests_that_never_end_leave_room_for_others() {
    let scratch = Scratch::new("endless");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let watch = Watch::begin(server, ports);
    let whole = send(1, 0, "", &vec![b'x'; 15 << 20]);
    let mut endless: Vec<TcpStream> = (0..40).map(|_| connect(ports)).collect();
    for stream in &mut endless {
        push(stream, &whole[..whole.len() - 1]);
    }
    let mut stream = connect(ports);
    store(&mut stream, 0, "", &[b'x'; 3 << 20]);
    watch.end(400 * MIB);
}

/// Commits wait up to a second for their shared entry. Here there are more of them than a shard
/// admits.
#[test]
fn a_shard_has_a_bounded_number_of_operations_in_flight() {
    const CONNECTIONS: usize = 400;
    const EACH: usize = 64;
    const BOUND: usize = 16_384;
    let scratch = Scratch::new("operations");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let mut first = connect(ports);
    store(&mut first, 0, "", b"x");
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(ports)).collect();
    let (mut done, mut busy) = (0, 0);
    // On a slow machine the entry may be written before enough of them have arrived.
    for offset in 1..=10 {
        (done, busy) = (0, 0);
        for (nth, stream) in streams.iter_mut().enumerate() {
            let requests = (0..EACH).flat_map(|each| {
                let ext = format!(
                    r#""consumerGroup":"g{nth}-{each}","topic":"t","queueId":"0","commitOffset":"{offset}""#
                );
                frame(&header(15, each as i32, 0, &ext), b"")
            });
            stream.write_all(&requests.collect::<Vec<_>>()).unwrap();
        }
        for stream in &mut streams {
            for _ in 0..EACH {
                let header = answer(stream);
                let is_busy = header.contains("reason=operations");
                assert!(is_busy || header.contains(r#""code":0"#), "{header}");
                (done, busy) = (done + usize::from(!is_busy), busy + usize::from(is_busy));
            }
        }
        if busy > 0 {
            break;
        }
    }
    assert!(busy > 0 && done >= BOUND, "{done} done, {busy} refused");
    store(&mut first, 0, "", b"it goes on");
    assert!(server.terminate().success());
}
