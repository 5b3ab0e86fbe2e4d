//! `ringmq dev --replicas N`: several brokers and two NameServers as processes of one tree, for
//! trying failovers on one machine.
//!
//! ```text
//!   ringmq dev --replicas 3 ─┬─ nameserver-1, nameserver-2
//!                            └─ broker-1, broker-2, broker-3
//! ```
//!
//! Each process is this program with the same command line and `--process NAME`, so it has the same
//! options. The parent only starts, watches and stops them. A process that exits by itself is
//! restarted after a while; every exit is reported.
//!
//! Invariant: no process outlives the parent, however the parent ends. Each asks the kernel for a
//! signal at the parent's death.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use super::error::RunError;
use super::plan::{listen_address, reachable};
use super::run::{self, say_ready};
use super::signals::Signals;
use crate::client::{Admin, ClientOptions};
use crate::config::{
    Address, BrokerOptions, DevOptions, DevProcess, NameServerOptions, NameServers,
    PORTS_PER_SHARD, Replicas,
};

/// Number of NameServers.
const NAMESERVERS: u16 = 2;
/// Default of `--shards`: with three replicas, each leads one.
const SHARDS_DEFAULT: u16 = 3;
/// How long a process may take to become ready, the shards to get leaders, and a process to stop.
const READY_MAX: Duration = Duration::from_secs(60);
const LEADERS_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long after its exit a process is restarted: long enough to see that the other brokers take
/// over.
const START_AGAIN_AFTER: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Number of last log lines shown for a process that does not start.
const LINES_SHOWN: usize = 10;

/// Runs the tree until a signal arrives, or runs as one of its processes.
pub fn run(options: &DevOptions, replicas: u16) -> Result<(), RunError> {
    let layout = Layout::of(options, replicas)?;
    match options.process {
        Some(process) => layout.run_process(process, options.parent),
        None => layout.run_tree(),
    }
}

/// The addresses and directory of each process.
struct Layout<'a> {
    options: &'a DevOptions,
    shards: u16,
    nameservers: Vec<Address>,
    brokers: Vec<Address>,
}

impl<'a> Layout<'a> {
    fn of(options: &'a DevOptions, replicas: u16) -> Result<Self, RunError> {
        let shards = options.engine.shards.unwrap_or(SHARDS_DEFAULT);
        let step = shards * PORTS_PER_SHARD;
        let nameservers = addresses("--namesrv-listen", &options.namesrv_listen, NAMESERVERS, 1)?;
        let brokers = addresses("--listen", &options.listen, replicas, step)?;
        Ok(Self { options, shards, nameservers, brokers })
    }

    /// The NameServers that clients use.
    fn namesrv(&self) -> Result<NameServers, RunError> {
        let reached =
            |address: &Address| listen_address("--namesrv-listen", address).map(reachable);
        self.nameservers.iter().map(reached).collect::<Result<_, _>>().map(NameServers)
    }

    fn directory(&self, broker: u16) -> PathBuf {
        self.options.engine.data.join(format!("replica-{broker}"))
    }

    fn log_file(&self, process: DevProcess) -> PathBuf {
        self.options.engine.data.join(format!("{process}.log"))
    }

    fn run_process(&self, process: DevProcess, parent: Option<i32>) -> Result<(), RunError> {
        set_pdeathsig(Signal::SIGKILL).map_err(RunError::new)?;
        if parent.is_some_and(|parent| getppid() != Pid::from_raw(parent)) {
            return Err(RunError::new("the process that started this one has ended"));
        }
        let at = |all: &[Address], number: u16| {
            let address = number.checked_sub(1).and_then(|index| all.get(usize::from(index)));
            address.cloned().ok_or_else(|| RunError::usage(format!("there is no {process}")))
        };
        match process {
            DevProcess::NameServer(number) => {
                let listen = at(&self.nameservers, number)?;
                run::run_nameserver(&NameServerOptions { listen })
            }
            DevProcess::Broker(number) => {
                let (options, listen) = (self.options, at(&self.brokers, number)?);
                let mut engine = options.engine.clone();
                engine.data = self.directory(number);
                engine.shards = Some(self.shards);
                run::run_broker(&BrokerOptions {
                    namesrv: self.namesrv()?,
                    listen,
                    advertise: options.advertise.clone(),
                    engine,
                    name: options.name.clone(),
                    replica: Some(number.into()),
                    replicas: Some(Replicas((1..).zip(self.brokers.iter().cloned()).collect())),
                    auto_create_topics: true,
                    allow_buffered_io: true,
                })
            }
        }
    }

    fn run_tree(&self) -> Result<(), RunError> {
        let data = &self.options.engine.data;
        fs::create_dir_all(data)
            .map_err(|error| RunError::new(format!("{}: {error}", data.display())))?;
        let signals = Signals::catch().map_err(RunError::new)?;
        let names = (1..=NAMESERVERS).map(DevProcess::NameServer);
        let brokers = (1..=self.brokers.len() as u16).map(DevProcess::Broker);
        let mut tree = Tree { layout: self, members: Vec::new() };
        for process in names.chain(brokers) {
            tree.members.push(Member::start(self, process)?);
        }
        for member in &tree.members {
            member.wait_ready(self)?;
        }
        self.wait_for_leaders(&signals)?;
        tree.describe()?;
        while !signals.come_within(LOOK_EVERY) {
            tree.look_after()?;
        }
        tracing::info!("shutting down");
        tree.stop();
        Ok(())
    }

    /// Waits until every shard has a leader, so that the first message finds one.
    fn wait_for_leaders(&self, signals: &Signals) -> Result<(), RunError> {
        let namesrv: Vec<String> = self.namesrv()?.0.iter().map(ToString::to_string).collect();
        let mut admin = Admin::new(ClientOptions::new(namesrv.join(","))).map_err(RunError::new)?;
        let deadline = Instant::now() + LEADERS_MAX;
        loop {
            let led = admin.cluster().map_or(0, |cluster| {
                let is_led = |addresses: &[(u64, String)]| addresses.iter().any(|(id, _)| *id == 0);
                cluster.brokers.iter().filter(|broker| is_led(&broker.addresses)).count()
            });
            if led >= usize::from(self.shards) || signals.come_within(LOOK_EVERY) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let shards = self.shards;
                return Err(RunError::new(format!(
                    "only {led} of {shards} shards have a leader after {LEADERS_MAX:?}; see the logs in {}",
                    self.options.engine.data.display()
                )));
            }
        }
    }
}

/// `count` addresses from `first` on, `step` ports apart.
fn addresses(
    option: &str,
    first: &Address,
    count: u16,
    step: u16,
) -> Result<Vec<Address>, RunError> {
    let address = |index: u16| {
        let port = index.checked_mul(step).and_then(|more| first.port.checked_add(more));
        port.map(|port| Address { host: first.host.clone(), port })
    };
    let all: Option<Vec<Address>> = (0..count).map(address).collect();
    all.ok_or_else(|| {
        RunError::usage(format!("{option} {first}: {count} processes do not fit behind this port"))
    })
}

struct Tree<'a> {
    layout: &'a Layout<'a>,
    /// In the order in which they start.
    members: Vec<Member>,
}

/// A process of the tree.
struct Member {
    process: DevProcess,
    child: Option<Child>,
    lines: flume::Receiver<String>,
    start_again_at: Option<Instant>,
}

impl Member {
    fn start(layout: &Layout<'_>, process: DevProcess) -> Result<Self, RunError> {
        let failed = |error: std::io::Error| RunError::new(format!("{process}: {error}"));
        let log = File::options().create(true).append(true).open(layout.log_file(process));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(std::env::args_os().skip(1));
        command.args(["--process", &process.to_string()]);
        command.args(["--parent", &std::process::id().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.map_err(failed)?);
        // Ctrl-C reaches the parent only, which stops the others in order.
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (put, lines) = flume::unbounded();
        if let Some(stdout) = child.stdout.take() {
            let forward = move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = put.send(line);
                }
            };
            std::thread::Builder::new().name(process.to_string()).spawn(forward).map_err(failed)?;
        }
        Ok(Self { process, child: Some(child), lines, start_again_at: None })
    }

    fn wait_ready(&self, layout: &Layout<'_>) -> Result<(), RunError> {
        match self.lines.recv_timeout(READY_MAX) {
            Ok(_) => Ok(()),
            Err(_) => {
                let log = layout.log_file(self.process);
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(LINES_SHOWN).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                Err(RunError::new(format!(
                    "{} did not start; the end of {}:\n{}",
                    self.process,
                    log.display(),
                    last.join("\n")
                )))
            }
        }
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Describes the end of the process, once it has ended.
    fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status.to_string())
    }

    /// Stops the process, by force if it takes too long.
    fn stop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let pid = Pid::from_raw(child.id() as i32);
        // The process may have ended, or be stopped by SIGSTOP.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = kill(pid, Signal::SIGCONT);
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                self.child = None;
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        tracing::warn!("{} did not stop in time; killing it", self.process);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Tree<'_> {
    /// Prints the line that scripts wait for, and one line for each process.
    fn describe(&self) -> Result<(), RunError> {
        let layout = self.layout;
        let namesrv: Vec<String> = layout.namesrv()?.0.iter().map(ToString::to_string).collect();
        let (replicas, shards) = (layout.brokers.len(), layout.shards);
        let mut text = format!("replicas={replicas} shards={shards} namesrv={}", namesrv.join(","));
        for member in &self.members {
            let address = match member.process {
                DevProcess::NameServer(number) => &layout.nameservers[usize::from(number) - 1],
                DevProcess::Broker(number) => &layout.brokers[usize::from(number) - 1],
            };
            let pid = member.pid().unwrap_or_default();
            let log = layout.log_file(member.process);
            let name = member.process.to_string();
            text += &format!("\n  {name:<12}  process {pid:<7}  {address}  log {}", log.display());
        }
        say_ready(&text)
    }

    /// Reports processes that have ended, and restarts them.
    fn look_after(&mut self) -> Result<(), RunError> {
        for member in &mut self.members {
            let (process, pid) = (member.process, member.pid().unwrap_or_default());
            if let Some(how) = member.ended() {
                let after = START_AGAIN_AFTER.as_secs();
                tracing::warn!("{process} (process {pid}) exited: {how}; restarting in {after} s");
                member.start_again_at = Some(Instant::now() + START_AGAIN_AFTER);
            }
            if member.start_again_at.is_some_and(|at| at <= Instant::now()) {
                *member = Member::start(self.layout, process)?;
                tracing::info!(
                    "{process} is started again as process {}",
                    member.pid().unwrap_or_default()
                );
            }
        }
        Ok(())
    }

    /// Stops one broker after another, so that each finds a replica to transfer its leaderships to;
    /// then the NameServers.
    fn stop(&mut self) {
        self.members.iter_mut().rev().for_each(Member::stop);
    }
}

impl Drop for Tree<'_> {
    /// Stops the processes after a failed start.
    fn drop(&mut self) {
        self.stop();
    }
}
