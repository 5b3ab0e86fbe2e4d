//! The cost of three replicas, and what producers notice when one of them is slow or down. Runs the
//! release builds of `ringmq` and `loadgen`: the leader of one shard on one core; its followers,
//! the NameServer and the generator share another one.
//!
//! ```text
//! cargo build --release --workspace && cargo bench --bench replicas
//! cargo bench --bench replicas -- --only catch-up --behind 10
//! ```
//!
//! Rounds of the compared cases alternate; the figures are medians. Two cores cannot run three
//! brokers at full speed, so costs are the processor time of each process.

#[path = "dev.rs"]
mod dev;
#[path = "nameserver.rs"]
mod nameserver;
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

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use ringmq::client::{Admin, ClientOptions};
use ringmq::model::replicas::{ReplicaLag, ReplicaSet};

use self::dev::dev;
use self::nameserver::nameserver;
use self::place::Place;
use self::processes::{BROKER, NAMESERVER, PATIENCE, Server, create_topic, median, pinned};
use self::report::{Latency, Report};
use self::throttle::Throttle;
use self::usage::cpu;

const TOPIC: &str = "replicas";
const QUEUES: u32 = 8;
/// Where the replicas listen; the first one leads if it can.
const REPLICAS: [&str; 3] = [BROKER, "127.0.0.1:20921", "127.0.0.1:20931"];
/// How many times slower the disk of a slow replica is.
const SLOWER: f64 = 100.0;
/// A replica whose lag is below this has caught up, bytes.
const CAUGHT_UP: u64 = 4 << 20;
/// Maximum time for a copy and all that is sent meanwhile.
const COPY_MAX: Duration = Duration::from_secs(600);
const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// p50 of one message at a time.
    Single,
    /// Processor time per message of a leader and of a follower.
    Cost,
    /// p99 of producers while the disk of one follower is 100 times slower.
    Slow,
    /// How fast a replica that was away gets what it lacks, and p99 of producers meanwhile.
    CatchUp,
    /// The same for one that lacks what was deleted meanwhile, and gets a copy of the log.
    Copy,
}

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures replicated brokers.")]
struct Options {
    /// Only this measurement.
    #[arg(long)]
    only: Option<What>,

    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Seconds of load in one round.
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,

    /// Messages a second for latencies.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    rate: u32,

    /// GiB that a replica lacks when it comes back.
    #[arg(long, default_value_t = 4.0, value_name = "N")]
    behind: f64,

    /// MiB of a segment.
    #[arg(long, default_value_t = 256, value_name = "N")]
    segment: u64,

    /// CPUs of the leader and of all others.
    #[arg(long, default_values_t = [0, 1], num_args = 2, value_name = "CPU")]
    cpus: Vec<u32>,

    #[command(flatten)]
    place: Place,
}

impl Options {
    fn segments(&self) -> [String; 4] {
        let size = format!("{}MiB", self.segment);
        ["--segment-size", &size, "--ready-segments", "2"].map(str::to_owned)
    }
}

fn main() {
    let mut options = Options::parse();
    if options.place.test {
        (options.rounds, options.seconds, options.rate, options.behind) = (1, 1, 500, 0.01);
        options.segment = 16;
    }
    let scratch = options.place.scratch("replicas");
    let directory = scratch.path();
    let is_wanted = |what| options.only.is_none_or(|only| only == what);
    if is_wanted(What::Single) {
        single(&options, directory);
    }
    if is_wanted(What::Cost) {
        cost(&options, directory, Load { rate: "20000", ..Load::default() });
        if !options.place.test {
            cost(&options, directory, Load { rate: "60000", batch: 100, ..Load::default() });
        }
    }
    if is_wanted(What::Slow) {
        slow(&options, directory);
    }
    if is_wanted(What::CatchUp) {
        catch_up(&options, directory, None);
    }
    if is_wanted(What::Copy) {
        catch_up(&options, directory, Some(options.behind));
    }
}

// ---- servers

/// Three replicas of a broker with one shard, and a NameServer.
struct Set<'a> {
    options: &'a Options,
    directory: PathBuf,
    more: Vec<String>,
    replicas: Vec<Option<Server>>,
    admin: Admin,
    /// Stopped last.
    _nameserver: Server,
}

impl<'a> Set<'a> {
    fn start(options: &'a Options, directory: &Path, more: &[String]) -> Self {
        let nameserver = nameserver(options.cpus[1]);
        let admin = Admin::new(ClientOptions::new(NAMESERVER)).expect("it is an address");
        let mut set = Self {
            options,
            directory: directory.join("set"),
            more: more.to_vec(),
            replicas: Vec::new(),
            admin,
            _nameserver: nameserver,
        };
        let start = |nth| Some(set.start_replica(nth));
        set.replicas = (0..REPLICAS.len()).map(start).collect();
        let is_complete =
            |all: &ReplicaSet| all.id == 1 && (2..=3).all(|id| lag(all, id).is_some());
        set.wait_for("the first of three leads", PATIENCE, is_complete);
        create_topic(TOPIC, QUEUES);
        set
    }

    fn start_replica(&self, nth: usize) -> Server {
        let cpu = self.options.cpus[usize::from(nth > 0)];
        self.start_with(pinned(cpu, "ringmq"), nth)
    }

    /// Starts a replica that yields to the other processes on its core, as if it had its own
    /// machine.
    fn start_aside(&self, nth: usize) -> Server {
        let command = pinned(self.options.cpus[1], "ringmq");
        let mut nice = Command::new("nice");
        nice.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
        self.start_with(nice, nth)
    }

    fn start_with(&self, mut command: Command, nth: usize) -> Server {
        let all = REPLICAS.iter().enumerate().map(|(nth, at)| format!("{}={at}", nth + 1));
        command.args(["broker", "--name", "set", "--shards", "1", "--namesrv", NAMESERVER]);
        command.args(["--listen", REPLICAS[nth], "--replica", &(nth + 1).to_string()]);
        command.args(["--replicas", &all.collect::<Vec<_>>().join(",")]).args(&self.more);
        command.args(self.options.segments());
        command.arg("--data").arg(self.directory.join((nth + 1).to_string()));
        Server::start(command)
    }

    fn kill(&mut self, nth: usize) {
        drop(self.replicas[nth].take());
    }

    fn pid(&self, nth: usize) -> u32 {
        self.replicas[nth].as_ref().expect("it runs").child.id()
    }

    /// The replicas as the leader sees them.
    fn leaders_view(&mut self) -> Option<ReplicaSet> {
        let views = REPLICAS.iter().filter_map(|at| self.admin.replicas(at).ok());
        views.filter(ReplicaSet::leads).max_by_key(|set| set.term)
    }

    /// Waits until the leader's view matches, and returns it.
    fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        matches: impl Fn(&ReplicaSet) -> bool,
    ) -> ReplicaSet {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(set) = self.leaders_view().filter(|set| matches(set)) {
                return set;
            }
            assert!(Instant::now() < deadline, "not after {patience:?}: {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the replicas: if they were stopped one after another, each would transfer its
    /// leadership first.
    fn end(mut self) {
        self.replicas.clear();
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// A replica's lag, if it answers the leader.
fn lag(set: &ReplicaSet, id: u64) -> Option<ReplicaLag> {
    set.replica(id)?.lag.filter(|lag| lag.is_reachable())
}

// ---- load

#[derive(Clone, Copy)]
struct Load<'a> {
    rate: &'a str,
    batch: u32,
    connections: u32,
    in_flight: u32,
}

impl Default for Load<'_> {
    fn default() -> Self {
        Self { rate: "2000", batch: 1, connections: 16, in_flight: 32 }
    }
}

impl Load<'_> {
    /// Starts `loadgen steady`.
    fn start(self, options: &Options, directory: &Path, seconds: u64) -> Child {
        // Not ahead of the others: the followers are on the same core.
        let mut command = pinned(options.cpus[1], "loadgen");
        command.args(["steady", "--namesrv", NAMESERVER, "--topic", TOPIC, "--no-consume"]);
        command.args(["--queues", &QUEUES.to_string(), "--header", "fixed", "--warmup", "0s"]);
        command.args(["--rate", self.rate, "--batch", &self.batch.to_string()]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--in-flight", &self.in_flight.to_string()]);
        command.args(["--duration", &format!("{seconds}s"), "--out"]).arg(directory.join("report"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("loadgen starts")
    }

    fn run(self, options: &Options, directory: &Path) -> Report {
        self.start(options, directory, options.seconds).wait().expect("loadgen ends");
        Report::take(&directory.join("report"))
    }
}

// ---- one message at a time

fn single(options: &Options, directory: &Path) {
    let one = Load { rate: "max", batch: 1, connections: 1, in_flight: 1 };
    let [mut alone_p50, mut set_p50] = <[Latency; 2]>::default();
    for _ in 0..options.rounds {
        let alone = unreplicated(options, directory);
        alone_p50.push(one.run(options, directory).latency_ms("/send/latency_ns/p50"));
        stop(alone, directory);
        let set = Set::start(options, directory, &[]);
        set_p50.push(one.run(options, directory).latency_ms("/send/latency_ns/p50"));
        set.end();
    }
    println!(
        "single         p50 without replicas {alone_p50}; with three {set_p50}; ratio {:.2}",
        set_p50.ms() / alone_p50.ms()
    );
}

fn unreplicated(options: &Options, directory: &Path) -> Server {
    let segments = options.segments();
    let segments = segments.each_ref().map(String::as_str);
    let broker = dev(options.cpus[0], &directory.join("alone"), &segments);
    create_topic(TOPIC, QUEUES);
    broker
}

fn stop(broker: Server, directory: &Path) {
    broker.stop();
    fs::remove_dir_all(directory.join("alone")).ok();
}

// ---- processor time

fn cost(options: &Options, directory: &Path, load: Load) {
    let mut found: [Vec<f64>; 3] = Default::default();
    for _ in 0..options.rounds {
        let alone = unreplicated(options, directory);
        found[0].extend(us_per_message(options, directory, load, &[alone.child.id()]));
        stop(alone, directory);
        let set = Set::start(options, directory, &[]);
        let used = us_per_message(options, directory, load, &[0, 1, 2].map(|nth| set.pid(nth)));
        found[1].push(used[0]);
        found[2].extend(&used[1..]);
        set.end();
    }
    let [alone, leader, follower] = found.each_mut().map(|values| median(values));
    println!(
        "cost           {} msg/s, {} a request: without replicas {alone:.2} µs each; leader {leader:.2} µs, ratio \
         {:.2}; follower {follower:.2} µs, ratio {:.2}",
        load.rate,
        load.batch,
        leader / alone,
        follower / alone
    );
}

fn us_per_message(options: &Options, directory: &Path, load: Load, processes: &[u32]) -> Vec<f64> {
    let before: Vec<_> = processes.iter().map(|pid| cpu(*pid)).collect();
    let count = load.run(options, directory).number("/send/acknowledged");
    let used = processes.iter().zip(before).map(|(pid, before)| cpu(*pid) - before);
    used.map(|used| used.as_secs_f64() * 1e6 / count).collect()
}

// ---- a slow disk

fn slow(options: &Options, directory: &Path) {
    let device_ms = device_ms(options, directory);
    let per_s = (1_000.0 / (device_ms * SLOWER)).max(1.0) as u64;
    let throttle = match Throttle::new(directory, "wiops", per_s) {
        Ok(throttle) => throttle,
        Err(why) => return println!("slow           skipped: {why}"),
    };
    let rate = options.rate.to_string();
    let load = Load { rate: &rate, ..Load::default() };
    let set = Set::start(options, directory, &[]);
    let [mut fast, mut slow] = <[Latency; 2]>::default();
    for _ in 0..options.rounds {
        fast.push(load.run(options, directory).latency_ms("/send/latency_ns/p99"));
        throttle.hold(set.pid(2));
        slow.push(load.run(options, directory).latency_ms("/send/latency_ns/p99"));
        throttle.release(set.pid(2));
    }
    set.end();
    println!(
        "slow           p99 {fast}; while the disk of a follower takes {:.1} ms for a write instead of \
         {device_ms:.3} ms: {slow}; ratio {:.2}",
        1_000.0 / per_s as f64,
        slow.ms() / fast.ms()
    );
}

/// Median time to write one block to stable media, ms.
fn device_ms(options: &Options, directory: &Path) -> f64 {
    let device = Device::new(directory, 16 * MIB);
    let count = if options.place.test { 10 } else { 2_000 };
    let write = |nth: usize| {
        let begin = Instant::now();
        device.write(BLOCK, nth * BLOCK % (16 * MIB));
        begin.elapsed().as_secs_f64() * 1e3
    };
    median(&mut (0..count).map(write).collect::<Vec<_>>())
}

// ---- a replica that comes back

/// With `kept`, retention keeps only that many GiB of the log.
fn catch_up(options: &Options, directory: &Path, kept: Option<f64>) {
    let name = if kept.is_some() { "copy" } else { "catch-up" };
    let bytes = |gib: f64| (gib * f64::from(1 << 30)) as u64;
    let more = kept.map(|gib| ["--retention-size".to_owned(), bytes(gib).to_string()]);
    let mut set = Set::start(options, directory, more.as_ref().map_or(&[], |more| more));
    set.kill(2);
    // Deletions matter only once the leader has deleted the last entry that the replica has.
    let deleted = kept.map_or(0, |_| 3 * options.segment * MIB as u64);
    let lacks = bytes(options.behind) + deleted;
    let lag_of = |set: &ReplicaSet| set.replica(3).and_then(|one| one.lag).unwrap_or_default();
    let fill = Load { rate: "max", batch: 100, connections: 8, in_flight: 4 };
    while lag_of(&set.wait_for("a leader", PATIENCE, |_| true)).bytes < lacks {
        fill.start(options, directory, options.seconds.min(3)).wait().expect("loadgen ends");
        Report::take(&directory.join("report"));
    }
    let rate = options.rate.to_string();
    let load = Load { rate: &rate, ..Load::default() };
    let alone: Latency = (0..options.rounds)
        .map(|_| load.run(options, directory).latency_ms("/send/latency_ns/p99"))
        .collect();
    let device = copied_per_s(options, directory);
    let mut beside = load.start(options, directory, COPY_MAX.as_secs());
    let size = lag_of(&set.wait_for("a leader", PATIENCE, |_| true)).bytes;
    let begin = Instant::now();
    set.replicas[2] = Some(set.start_aside(2));
    let has_caught_up = |set: &ReplicaSet| lag(set, 3).is_some_and(|lag| lag.bytes < CAUGHT_UP);
    set.wait_for("it has caught up", COPY_MAX, has_caught_up);
    let took = begin.elapsed().as_secs_f64();
    let pid = nix::unistd::Pid::from_raw(beside.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    beside.wait().expect("loadgen ends");
    let report = Report::take(&directory.join("report"));
    let beside = Latency::from_iter([report.latency_ms("/send/latency_ns/p99")]);
    set.end();
    let size = kept.map_or(size, bytes);
    let per_s = size as f64 / took;
    println!(
        "{name:<14} {:.2} GiB in {took:.1} s: {:.0} MB/s; copied on this device: {:.0} MB/s; ratio {:.2}; producers' \
         p99 {alone} without, {beside} meanwhile, ratio {:.2}",
        size as f64 / f64::from(1 << 30),
        per_s / 1e6,
        device / 1e6,
        per_s / device,
        beside.ms() / alone.ms()
    );
}

/// Rate of copying a file on this device to stable media, four chunks of 1 MiB at a time, bytes per
/// second.
fn copied_per_s(options: &Options, directory: &Path) -> f64 {
    const LANES: usize = 4;
    let size = if options.place.test { 16 * MIB } else { 1024 * MIB };
    let device = Device::new(directory, 2 * size);
    let begin = Instant::now();
    thread::scope(|scope| {
        for lane in 0..LANES {
            let device = &device;
            scope.spawn(move || {
                for position in (lane * MIB..size).step_by(LANES * MIB) {
                    device.read(MIB, position);
                    device.write(MIB, size + position);
                }
            });
        }
    });
    size as f64 / begin.elapsed().as_secs_f64()
}

/// A written file, for direct I/O. Writes return once they are on stable media.
struct Device {
    file: fs::File,
    path: PathBuf,
}

impl Device {
    fn new(directory: &Path, size: usize) -> Self {
        let path = directory.join("device");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let flags = nix::fcntl::OFlag::O_DIRECT | nix::fcntl::OFlag::O_DSYNC;
        let file = options.custom_flags(flags.bits()).open(&path).expect("the file can be made");
        let device = Self { file, path };
        (0..size).step_by(MIB).for_each(|position| device.write(MIB, position));
        device
    }

    fn write(&self, size: usize, position: usize) {
        let buffer = vec![b'x'; size + BLOCK];
        let from = buffer.as_ptr().align_offset(BLOCK);
        self.file.write_all_at(&buffer[from..from + size], position as u64).expect("it is written");
    }

    fn read(&self, size: usize, position: usize) {
        let mut buffer = vec![0; size + BLOCK];
        let from = buffer.as_ptr().align_offset(BLOCK);
        let buffer = &mut buffer[from..from + size];
        self.file.read_exact_at(buffer, position as u64).expect("it is read");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}
