//! A broker with three replicas: leaders that are killed, hang, or are left alone.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use ringmq::client::consumer::ConsumerOptions;
use ringmq::client::group_consumer::{GroupEvent, GroupOptions, StartAt};
use ringmq::client::producer::{Delivery, Message, ProducerOptions};
use ringmq::client::{ClientOptions, Consumer, GroupConsumer, Producer};
use ringmq::model::{GroupName, TopicName};

use crate::server::{PATIENCE, Ports, Scratch, Server, nameserver, run, wait_until};

const REPLICAS: usize = 3;
/// How soon another leader must have acknowledged a message. The elections take two seconds; the
/// rest is margin for a machine that is busy with other tests.
const FAILOVER_MAX: Duration = Duration::from_secs(20);
/// How soon after an election our own client must have found the new leader, with margin for a busy
/// machine.
const FOLLOWED_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Three replicas of one broker with one shard, and their NameServer.
struct Cluster {
    scratch: Scratch,
    ports: Vec<Ports>,
    replicas: Vec<Option<Server>>,
    nameserver: Server,
    namesrv: String,
    /// Options of all replicas that differ from the defaults of these tests.
    options: &'static [(&'static str, &'static str)],
}

impl Cluster {
    fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    fn start_with(name: &str, options: &'static [(&'static str, &'static str)]) -> Self {
        let scratch = Scratch::new(name);
        let ports: Vec<Ports> = (0..REPLICAS).map(|_| Ports::free()).collect();
        let nameserver = nameserver(&scratch.0, ports[0]);
        let namesrv = ports[0].nameserver_address().to_string();
        let replicas = (0..REPLICAS).map(|_| None).collect();
        let mut cluster = Self { scratch, ports, replicas, nameserver, namesrv, options };
        (0..REPLICAS).for_each(|replica| cluster.begin(replica));
        cluster.leader();
        cluster
    }

    /// Starts the replica at a position.
    fn begin(&mut self, replica: usize) {
        let args = self.args(replica, replica + 1);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = self.data(replica).with_extension("log");
        self.replicas[replica] = Some(Server::start(&args, &log));
    }

    /// The command line of replica `number` on its own directory or another one's.
    fn args(&self, directory: usize, number: usize) -> Vec<String> {
        let address = |replica: usize| self.ports[replica].broker_address();
        let all: Vec<String> =
            (0..REPLICAS).map(|replica| format!("{}={}", replica + 1, address(replica))).collect();
        let data = self.data(directory);
        let options = [
            ("--namesrv", self.namesrv.clone()),
            ("--name", "broker-r".into()),
            ("--shards", "1".into()),
            ("--segment-size", "16MiB".into()),
            ("--ready-segments", "1".into()),
            ("--tail-cache", "4MiB".into()),
            ("--disk-reserve", "64MiB".into()),
            ("--data", data.to_str().unwrap().into()),
            ("--listen", address(number - 1).to_string()),
            ("--replica", number.to_string()),
            ("--replicas", all.join(",")),
        ];
        let set = |name: &str| self.options.iter().find(|(other, _)| *other == name);
        let own = options.into_iter().filter(|(name, _)| set(name).is_none());
        let more = self.options.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let options = more.chain(own).flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("broker".to_owned()).chain(options).collect()
    }

    fn data(&self, replica: usize) -> std::path::PathBuf {
        self.scratch.0.join(format!("replica-{}", replica + 1))
    }

    /// Rows of `ringmq cluster`: id, address, and the end of the log.
    fn rows(&self) -> Vec<(u64, SocketAddr, Option<u64>)> {
        let output = run(&["cluster", "--namesrv", &self.namesrv]);
        let text = String::from_utf8(output.stdout).unwrap();
        let row = |line: &str| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let end = cells.last()?.parse().ok();
            Some((cells.get(2)?.parse().ok()?, cells.get(3)?.parse().ok()?, end))
        };
        text.lines().filter_map(row).collect()
    }

    /// Waits until there is a leader; returns its position.
    fn leader(&self) -> usize {
        let mut leader = None;
        wait_until("a leader", LOOK_EVERY, PATIENCE, || {
            let rows = self.rows();
            let address = rows.iter().find(|(id, ..)| *id == 0).map(|(_, address, _)| *address);
            let is_it = |ports: &Ports| Some(ports.broker_address()) == address;
            leader = self.ports.iter().position(is_it);
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Waits until a replica other than `old` leads.
    fn successor(&self, old: usize) -> usize {
        let mut leader = old;
        wait_until("another leader", LOOK_EVERY, FAILOVER_MAX, || {
            leader = self.leader();
            leader != old
        });
        leader
    }

    fn create_topic(&self) {
        let output =
            run(&["topic", "create", "orders", "--queues", "1", "--namesrv", &self.namesrv]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Sends a message once. Returns whether it was acknowledged.
    fn send(&self, body: &str) -> bool {
        run(&["msg", "send", "orders", body, "--namesrv", &self.namesrv]).status.success()
    }

    /// Sends a large message many times.
    fn send_many(&self, count: usize) {
        let (body, count) = ("x".repeat(100_000), count.to_string());
        let args = ["msg", "send", "orders", &body, "--repeat", &count, "--namesrv", &self.namesrv];
        let output = run(&args);
        assert!(output.status.success(), "{output:?}");
    }

    /// Sends a message until it is acknowledged.
    fn send_until(&self, body: &str) -> Duration {
        wait_until("an acknowledgement", LOOK_EVERY, FAILOVER_MAX, || self.send(body))
    }

    /// Waits until all replicas have logs of the same length; returns it.
    fn caught_up(&self) -> u64 {
        let mut end = 0;
        wait_until("equal logs", LOOK_EVERY, PATIENCE, || {
            let ends: Vec<Option<u64>> = self.rows().into_iter().map(|(.., end)| end).collect();
            end = ends.first().copied().flatten().unwrap_or(0);
            ends.len() == REPLICAS && end > 0 && ends.iter().all(|other| *other == Some(end))
        });
        end
    }

    /// Bodies of all messages, from the oldest on, as a consumer gets them.
    fn bodies(&self, count: usize) -> Vec<String> {
        self.tail(count, &[])
    }

    /// Bodies of the next messages of a group, which commits them.
    fn consumed(&self, count: usize) -> Vec<String> {
        self.tail(count, &["--group", "shop"])
    }

    fn tail(&self, count: usize, more: &[&str]) -> Vec<String> {
        let count = count.to_string();
        let args = [
            "msg",
            "tail",
            "orders",
            "--from",
            "first",
            "--count",
            &count,
            "--namesrv",
            &self.namesrv,
        ];
        let output = run(&[&args[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    }

    fn stop(self) {
        for server in self.replicas.into_iter().flatten() {
            assert!(server.terminate().success());
        }
        assert!(self.nameserver.terminate().success());
    }
}

/// Sends messages one after another, each of which must be acknowledged.
struct Sender {
    sent: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sender {
    fn start(namesrv: &str) -> Self {
        let (sent, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stops, namesrv) = (sent.clone(), is_over.clone(), namesrv.to_owned());
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                let output = run(&["msg", "send", "orders", "a", "--namesrv", &namesrv]);
                assert!(output.status.success(), "{output:?}");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { sent, is_over, thread }
    }

    /// Waits until some more messages are acknowledged.
    fn wait_for_more(&self) {
        let before = self.sent.load(Ordering::Relaxed);
        wait_until("acknowledgements", LOOK_EVERY, PATIENCE, || {
            assert!(!self.thread.is_finished(), "a message was not acknowledged");
            self.sent.load(Ordering::Relaxed) >= before + 5
        });
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// The first `size` bytes of a replica's log, which is one segment.
fn log_bytes(data: &Path, size: u64) -> Vec<u8> {
    let mut bytes = std::fs::read(data.join("shard-00/00000000000000000000")).unwrap();
    bytes.truncate(usize::try_from(size).unwrap());
    bytes
}

/// Names of the segments of a replica's log, in order.
fn segments(data: &Path) -> Vec<String> {
    let names = std::fs::read_dir(data.join("shard-00")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.parse::<u64>().is_ok()).collect();
    names.sort();
    names
}

/// A replica is down while retention deletes what it is missing. It is killed once more while the
/// copy arrives.
#[test]
fn a_replica_that_missed_more_than_what_is_kept_gets_a_copy() {
    let options = &[("--segment-size", "1MiB"), ("--retention-size", "6MiB")];
    let mut cluster = Cluster::start_with("copied-log", options);
    cluster.create_topic();
    cluster.send_until("before");
    let leader = cluster.leader();
    let away = (leader + 1) % REPLICAS;
    cluster.replicas[away].take().unwrap().kill();
    let newest = segments(&cluster.data(away)).pop().unwrap();
    wait_until("deleted segments", LOOK_EVERY, PATIENCE, || {
        cluster.send_many(20);
        segments(&cluster.data(leader))[0] > newest
    });
    cluster.begin(away);
    wait_until("a copy that arrives", LOOK_EVERY, PATIENCE, || {
        cluster.replicas[away].as_ref().unwrap().log().contains("a copy of the log of replica")
    });
    cluster.replicas[away].take().unwrap().kill();
    cluster.begin(away);
    cluster.send_until("after");
    cluster.caught_up();
    let [ours, theirs] = [away, leader].map(|replica| segments(&cluster.data(replica)));
    assert!(ours[0] > newest, "{ours:?} after {newest}");
    let sealed = ours.iter().take_while(|name| Some(*name) != theirs.last());
    for name in sealed.filter(|name| theirs.contains(name)) {
        let [ours, theirs] = [away, leader].map(|replica| {
            std::fs::read(cluster.data(replica).join("shard-00").join(name)).unwrap()
        });
        assert!(ours == theirs, "segment {name} differs");
    }
    // The replica can lead with the log that it got.
    let third = (leader + 2) % REPLICAS;
    cluster.replicas[leader].take().unwrap().kill();
    cluster.successor(leader);
    cluster.send_until("led");
    cluster.begin(leader);
    cluster.caught_up();
    assert!(cluster.replicas[third].is_some());
    cluster.stop();
}

#[test]
fn a_leader_that_is_killed_takes_no_acknowledged_message_with_it() {
    let mut cluster = Cluster::start("killed-leader");
    cluster.create_topic();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for nth in 0..5 {
            let body = format!("m-{round}-{nth}");
            cluster.send_until(&body);
            acknowledged.push(body);
        }
        if round == 0 {
            assert_eq!(cluster.consumed(5), acknowledged);
        }
        let leader = cluster.leader();
        cluster.replicas[leader].take().unwrap().kill();
        let body = format!("m-{round}-after");
        let gap = cluster.send_until(&body);
        acknowledged.push(body);
        println!("round {round}: acknowledged again after {gap:?}");
        assert_ne!(cluster.successor(leader), leader);
        cluster.begin(leader);
    }
    let end = cluster.caught_up();
    let bodies = cluster.bodies(acknowledged.len());
    for body in &acknowledged {
        assert!(bodies.contains(body), "{body} is lost: {bodies:?}");
    }
    let rest = cluster.consumed(bodies.len() - 5);
    assert_eq!(rest, bodies[5..], "the group continues where it was");
    let data: Vec<_> = (0..REPLICAS).map(|replica| cluster.data(replica)).collect();
    let first = log_bytes(&data[0], end);
    for other in &data[1..] {
        assert!(log_bytes(other, end) == first, "the logs differ");
    }
    cluster.stop();
}

/// The leader resumes after another one was elected: whatever it has not yet sent to the others
/// does not count, and it follows.
#[test]
fn a_leader_that_hangs_is_replaced_and_follows_afterwards() {
    let cluster = Cluster::start("hanging-leader");
    cluster.create_topic();
    cluster.send_until("before");
    let leader = cluster.leader();
    let server = cluster.replicas[leader].as_ref().unwrap();
    server.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    wait_until("an acknowledgement", LOOK_EVERY, FAILOVER_MAX, || cluster.send("meanwhile"));
    println!("acknowledged again after {:?}", begin.elapsed());
    let next = cluster.successor(leader);
    server.signal(Signal::SIGCONT);
    cluster.send_until("after");
    cluster.caught_up();
    println!("replica {} led meanwhile", next + 1);
    let follows = format!("replica {} follows", leader + 1);
    wait_until("it to follow", LOOK_EVERY, PATIENCE, || server.log().contains(&follows));
    let bodies = cluster.bodies(3);
    for body in ["before", "meanwhile", "after"] {
        assert!(bodies.iter().any(|found| found == body), "{bodies:?}");
    }
    cluster.stop();
}

/// One replica of three must not acknowledge, or two halves of a network could contradict each
/// other.
#[test]
fn a_replica_that_stands_alone_acknowledges_nothing_until_another_one_is_back() {
    let mut cluster = Cluster::start("lone-replica");
    cluster.create_topic();
    cluster.send_until("before");
    let leader = cluster.leader();
    let others: Vec<usize> = (0..REPLICAS).filter(|replica| *replica != leader).collect();
    for &other in &others {
        cluster.replicas[other].take().unwrap().kill();
    }
    assert!(!cluster.send("alone"), "acknowledged by one replica of three");
    cluster.begin(others[0]);
    cluster.send_until("together");
    cluster.begin(others[1]);
    cluster.caught_up();
    let bodies = cluster.bodies(2);
    assert!(bodies.iter().any(|body| body == "before"), "{bodies:?}");
    cluster.stop();
}

/// Under load, an operator moves the leadership; then the machine that leads is stopped.
#[test]
fn leadership_moves_without_a_failed_request() {
    let mut cluster = Cluster::start("moved-leader");
    cluster.create_topic();
    let leader = cluster.leader();
    let sender = Sender::start(&cluster.namesrv);
    let to = (leader + 1) % REPLICAS;
    let transfer = |to: usize| {
        let number = (to + 1).to_string();
        let args = ["replica", "transfer", "broker-r", "--to", &number];
        run(&[&args[..], &["--namesrv", &cluster.namesrv]].concat())
    };
    let moved = transfer(to);
    assert!(moved.status.success(), "{moved:?}");
    wait_until("the new leader's registration", LOOK_EVERY, PATIENCE, || cluster.leader() == to);
    let refused = transfer(REPLICAS);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("RINGMQ-2011"), "{text}");
    sender.wait_for_more();
    assert!(cluster.replicas[to].take().unwrap().terminate().success());
    sender.wait_for_more();
    let absent = transfer(to);
    let text = String::from_utf8(absent.stderr).unwrap();
    assert!(text.contains("RINGMQ-2012"), "{text}");
    sender.stop();
    cluster.stop();
}

/// A lost replica is replaced by one with a new number. Repeating the command changes nothing; a
/// removal that would leave no majority is refused.
#[test]
fn a_lost_replica_is_replaced() {
    let mut cluster = Cluster::start("replaced-replica");
    cluster.create_topic();
    cluster.send_until("before");
    let leader = cluster.leader();
    let (lost, other) = ((leader + 1) % REPLICAS, (leader + 2) % REPLICAS);
    cluster.replicas[lost].take().unwrap().kill();
    let ports = Ports::free();
    let address = ports.broker_address().to_string();
    let new = format!("{}={address}", REPLICAS + 1);
    let kept =
        |replica: usize| format!("{}={}", replica + 1, cluster.ports[replica].broker_address());
    let all = [kept(leader), kept(other), new.clone()].join(",");
    let mut args = cluster.args(lost, lost + 1);
    let data = cluster.scratch.0.join("replica-new");
    let values = [
        ("--data", data.to_str().unwrap().to_owned()),
        ("--listen", address),
        ("--replica", (REPLICAS + 1).to_string()),
        ("--replicas", all),
    ];
    for (name, value) in values {
        let at = args.iter().position(|arg| arg == name).unwrap();
        args[at + 1] = value;
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let added = Server::start(&args, &data.with_extension("log"));
    let old = (lost + 1).to_string();
    for _ in 0..2 {
        let args = ["replica", "replace", "broker-r", "--old", &old, "--new", &new];
        let output = run(&[&args[..], &["--namesrv", &cluster.namesrv]].concat());
        assert!(output.status.success(), "{output:?}");
    }
    cluster.send_until("with-the-new-one");
    // Of the three replicas that are left, two can continue.
    cluster.replicas[leader].take().unwrap().kill();
    cluster.send_until("without-the-leader");
    let args = ["replica", "remove", "broker-r", "--replica", &(REPLICAS + 1).to_string()];
    let refused = run(&[&args[..], &["--namesrv", &cluster.namesrv]].concat());
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("RINGMQ-2015"), "{text}");
    let bodies = cluster.bodies(3);
    for body in ["before", "with-the-new-one", "without-the-leader"] {
        assert!(bodies.iter().any(|found| found == body), "{body}: {bodies:?}");
    }
    assert!(added.terminate().success());
    cluster.stop();
}

/// Clients are no longer sent to the removed replica, although it runs. It can be added again, with
/// the log that it has.
#[test]
fn a_removed_replica_is_unregistered_until_it_is_added_again() {
    let cluster = Cluster::start("removed-replica");
    cluster.create_topic();
    cluster.send_until("before");
    let removed = (cluster.leader() + 1) % REPLICAS;
    let address = cluster.ports[removed].broker_address();
    let is_listed = || cluster.rows().iter().any(|(_, listed, _)| *listed == address);
    wait_until("all replicas are registered", LOOK_EVERY, PATIENCE, is_listed);
    let number = (removed + 1).to_string();
    let order = |args: &[&str]| {
        let output = run(&[args, &["broker-r", "--namesrv", &cluster.namesrv]].concat());
        assert!(output.status.success(), "{output:?}");
    };
    order(&["replica", "remove", "--replica", &number]);
    wait_until("it is not registered any more", LOOK_EVERY, PATIENCE, || !is_listed());
    let log = std::fs::read_to_string(cluster.data(removed).with_extension("log")).unwrap();
    assert!(log.contains("was removed from the set"), "{log}");
    cluster.send_until("without-it");
    order(&["replica", "add", "--replica", &format!("{number}={address}")]);
    wait_until("it is registered again", LOOK_EVERY, PATIENCE, is_listed);
    cluster.stop();
}

/// The replica has forgotten its votes and what it has acknowledged. The others continue without
/// it.
#[test]
fn an_emptied_directory_is_refused() {
    let mut cluster = Cluster::start("emptied-directory");
    cluster.create_topic();
    cluster.send_until("before");
    let emptied = (cluster.leader() + 1) % REPLICAS;
    cluster.replicas[emptied].take().unwrap().kill();
    let data = cluster.data(emptied);
    std::fs::rename(&data, data.with_extension("own")).unwrap();
    cluster.begin(emptied);
    let log = data.with_extension("log");
    wait_until("the refusal", LOOK_EVERY, PATIENCE, || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("RINGMQ-5003"))
    });
    cluster.send_until("without it");
    cluster.replicas[emptied].take().unwrap().kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(data.with_extension("own"), &data).unwrap();
    cluster.begin(emptied);
    cluster.send_until("after");
    cluster.caught_up();
    cluster.stop();
}

/// What our own clients do meanwhile.
#[derive(Default)]
struct Traffic {
    is_over: AtomicBool,
    /// Bodies, each with the time of its acknowledgement.
    acknowledged: Mutex<Vec<(String, SystemTime)>>,
    consumed: Mutex<Vec<String>>,
}

impl Traffic {
    fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Sends one message after another until told to stop. Each must be acknowledged.
    fn produce(&self, namesrv: &str) {
        let group = GroupName::new("followers").unwrap();
        let options = ProducerOptions::new(ClientOptions::new(namesrv), group);
        let mut producer = Producer::new(options).unwrap();
        for number in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let body = format!("m-{number}");
            producer.send(Message::new(orders(), body.clone())).unwrap();
            let outcomes = producer.flush();
            assert!(matches!(&outcomes[0].delivery, Delivery::Stored { .. }), "{outcomes:?}");
            self.acknowledged.lock().unwrap().push((body, wall_clock()));
        }
    }

    /// Consumes as the only member of a group until told to stop.
    fn consume(&self, namesrv: &str) {
        let group = GroupName::new("followers").unwrap();
        let options = GroupOptions::new(ClientOptions::new(namesrv), group);
        let options = GroupOptions { start_at: StartAt::First, ..options };
        let mut consumer = GroupConsumer::join(options.subscribe(orders(), "*")).unwrap();
        while !self.is_over.load(Ordering::Relaxed) {
            for event in consumer.poll(50) {
                let GroupEvent::Messages(batch) = event else { continue };
                let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
                let bodies = batch.messages().map(|message| text(message.unwrap().body));
                self.consumed.lock().unwrap().extend(bodies);
                consumer.acknowledge(&batch);
            }
        }
        consumer.close().unwrap();
    }
}

fn orders() -> TopicName {
    TopicName::new("orders").unwrap()
}

/// When a replica last became the leader, according to its log, in seconds of the day.
fn led_at(log: &str) -> Option<f64> {
    let line = log.lines().rev().find(|line| line.contains(" leads in term "))?;
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let parts: Vec<f64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = parts[..] else { return None };
    Some(hours * 3_600.0 + minutes * 60.0 + seconds)
}

#[expect(clippy::disallowed_methods, reason = "it is compared with times in logs")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn seconds_of_day(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() % 86_400.0
}

#[test]
fn our_client_finds_a_new_leader_at_once_and_stores_nothing_twice() {
    let mut cluster = Cluster::start("followed-leader");
    cluster.create_topic();
    let traffic = Traffic::default();
    let namesrv = cluster.namesrv.clone();
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| traffic.produce(&namesrv));
        let consuming = scope.spawn(|| traffic.consume(&namesrv));
        for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
            // Leadership returns to the first replica some time after a restart.
            wait_until("the first leader", LOOK_EVERY, PATIENCE, || cluster.leader() == 0);
            let (before, leader) = (traffic.acknowledged_count(), 0);
            wait_until("acknowledgements", LOOK_EVERY, PATIENCE, || {
                traffic.acknowledged_count() > before + 20
            });
            let struck_at = wall_clock();
            cluster.replicas[leader].as_ref().unwrap().signal(signal);
            let next = cluster.successor(leader);
            let mut again = None;
            wait_until("an acknowledgement", LOOK_EVERY, FAILOVER_MAX, || {
                let log = cluster.replicas[next].as_ref().unwrap().log();
                let led_at = led_at(&log).unwrap();
                let acknowledged = traffic.acknowledged.lock().unwrap();
                let mut times = acknowledged.iter().map(|(_, at)| seconds_of_day(*at));
                again = times.find(|at| *at > led_at).map(|at| (at - led_at, at));
                again.is_some()
            });
            let (followed, at) = again.unwrap();
            let gap = at - seconds_of_day(struck_at);
            println!("{signal}: acknowledged after {gap:.2} s, {followed:.2} s after the election");
            assert!(followed < FOLLOWED_MAX.as_secs_f64());
            if signal == Signal::SIGSTOP {
                cluster.replicas[leader].as_ref().unwrap().signal(Signal::SIGCONT);
            } else {
                cluster.replicas[leader].take().unwrap().kill();
                cluster.begin(leader);
                wait_until("three replicas", LOOK_EVERY, PATIENCE, || {
                    cluster.rows().iter().filter(|(.., end)| end.is_some()).count() == REPLICAS
                });
            }
        }
        let before = traffic.acknowledged_count();
        wait_until("acknowledgements", LOOK_EVERY, PATIENCE, || {
            traffic.acknowledged_count() > before + 20
        });
        wait_until("consumption", LOOK_EVERY, PATIENCE, || {
            traffic.consumed.lock().unwrap().len() >= before
        });
        traffic.is_over.store(true, Ordering::Relaxed);
        producing.join().unwrap();
        consuming.join().unwrap();
    });
    let sent: Vec<String> =
        traffic.acknowledged.into_inner().unwrap().into_iter().map(|(body, _)| body).collect();
    let mut consumer = Consumer::new(ConsumerOptions::new(ClientOptions::new(&namesrv))).unwrap();
    let queues = consumer.queues(&orders()).unwrap();
    let ends = queues.iter().map(|queue| consumer.max_offset(queue).unwrap().0);
    assert_eq!(ends.sum::<u64>(), sent.len() as u64, "each message is stored once");
    assert_eq!(cluster.bodies(sent.len()), sent);
    let consumed = traffic.consumed.into_inner().unwrap();
    assert!(consumed.len() > sent.len() / 2);
    assert_eq!(consumed, sent[..consumed.len()], "nothing is missing, and nothing comes twice");
    cluster.stop();
}

/// A command that sends a message or changes a topic while the leader dies waits for the next
/// leader.
#[test]
fn what_is_asked_for_while_the_leader_dies_is_done_by_the_next() {
    let mut cluster = Cluster::start("dying-leader");
    cluster.create_topic();
    cluster.send_until("before");
    let leader = cluster.leader();
    cluster.replicas[leader].take().unwrap().kill();
    let begin = Instant::now();
    assert!(cluster.send("meanwhile"), "at the first attempt");
    println!("sent after {:?}", begin.elapsed());
    assert_eq!(cluster.bodies(2), ["before", "meanwhile"]);
    cluster.begin(leader);
    cluster.caught_up();
    // Commands that change topics wait as well.
    let leader = cluster.leader();
    cluster.replicas[leader].take().unwrap().kill();
    let output = run(&["topic", "create", "more", "--namesrv", &cluster.namesrv]);
    assert!(output.status.success(), "{output:?}");
    cluster.begin(leader);
    cluster.caught_up();
    cluster.stop();
}

#[test]
fn a_data_directory_runs_only_as_the_replica_that_it_belongs_to() {
    let mut cluster = Cluster::start("wrong-directory");
    for replica in &mut cluster.replicas {
        assert!(replica.take().unwrap().terminate().success());
    }
    let fails = |args: &[String], reason: &str| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = run(&args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(reason), "{text}");
    };
    fails(&cluster.args(0, 2), "belongs to replica 1 and cannot run as replica 2");
    let mut alone = cluster.args(0, 1);
    alone.truncate(alone.len() - 4);
    fails(&alone, "Alone it could contradict the others");
    let mut renamed = cluster.args(0, 1);
    let name = renamed.iter().position(|arg| arg == "broker-r").unwrap();
    renamed[name] = "broker-x".into();
    fails(&renamed, "does not belong to the broker DefaultCluster/broker-x");
    cluster.stop();
}
