//! Starts and stops the threads of a process.
//!
//! Start: check the machine, lock the data directory, start the NameServer (`dev`), start every
//! shard (recover its log, listen last), register, report ready. If a shard fails to start, the
//! process exits with the reason.
//!
//! Stop, on SIGTERM or SIGINT: transfer leaderships to other replicas, if there are any, unregister
//! from the NameServers, so that clients go elsewhere, then stop every shard: no new connections,
//! no new requests, all replies sent, offsets and snapshot written. A second signal exits
//! immediately, which is as safe as kill -9.

use std::io::Write;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::announce::Announcer;
use super::connection_limit::ConnectionLimit;
use super::data::{DataDirectory, SetIdentity};
use super::error::RunError;
use super::executor::{self, Executor, Starting};
use super::mesh::{Envelope, Inbox, Mesh};
use super::nameserver::NameService;
use super::nudge::{Nudger, Pulse};
use super::plan::{Plan, Replication, advertised_address, check_names, listen_address, reachable};
use super::preflight::{Needs, State};
use super::shard::Shard;
use super::shard_thread::ShardThread;
use super::signals::Signals;
use super::{listener, preflight};
use crate::client::registrar::{Registrar, RegistrarOptions};
use crate::config::{
    BrokerOptions, DEV_SHARDS_MAX, DevOptions, EngineOptions, NameServerOptions, SHARDS_MAX, Size,
};
use crate::model::replicas::ReplicaOrder;
use crate::model::{Request, ShardId};
use crate::reactor;
use crate::reactor::net::TcpListener;

/// How often the executor makes a pass over its own rings even if nothing asks for it. What a shard
/// waits for is in the reactor's ring.
const PREEMPT: Duration = Duration::from_millis(100);
/// Memory that each shard registers with the kernel in addition to its tail cache: open and
/// in-flight write buffers, and reads.
const IO_MEMORY_SLACK: usize = 24 << 20;
/// Submission queue entries per ring.
const RING_DEPTH: usize = 1024;
/// Memory that the NameServer's executor registers; it writes no files.
const NAMESERVER_MEMORY: usize = 1 << 20;
/// Number of connections that there should be file descriptors for; fewer is a warning.
const CONNECTIONS_EXPECTED: u64 = 1000;
/// How long shards may take to start before the process reports a hang. Recovery reads at disk
/// speed, so this is long.
const START_MAX: Duration = Duration::from_secs(600);
/// How often the progress of opening is logged.
const SAY_AGAIN: Duration = Duration::from_secs(5);
/// How long the broker waits for the first registration before it serves without it, ms.
const REGISTER_MAX_MS: u64 = 5_000;
/// How long a stopping broker waits for other replicas to lead its shards and register.
const STEP_DOWN_MAX: Duration = Duration::from_secs(6);

/// Reports once whether a server has opened.
type IsReady = flume::Receiver<Result<(), RunError>>;

fn failed(what: impl ToString) -> RunError {
    RunError::new(what)
}

/// Runs a NameServer until a signal arrives.
pub fn run_nameserver(options: &NameServerOptions) -> Result<(), RunError> {
    let listen = listen_address("--listen", &options.listen)?;
    let connections = require(&Needs {
        shard_count: 1,
        io_memory_bytes: NAMESERVER_MEMORY as u64,
        connections_max: CONNECTIONS_EXPECTED,
        data_directory: None,
        allow_buffered: false,
    })?;
    let signals = Signals::catch().map_err(failed)?;
    let nudger = Nudger::start(1).map_err(failed)?;
    let server = NameServer::start(listen, connections, nudger.pulse(0))?;
    say_ready(&format!("nameserver listen={listen}"))?;
    let (_never, ended) = flume::bounded(1);
    signals.wait(&ended);
    nudger.expect_close();
    server.stop()
}

/// Runs a broker until a signal arrives.
pub fn run_broker(options: &BrokerOptions) -> Result<(), RunError> {
    let listen = listen_address("--listen", &options.listen)?;
    check_names(&options.engine.cluster, &options.name)?;
    let namesrv = options.namesrv.0.clone();
    let advertised = advertised_address(listen.ip(), options.advertise.as_deref(), &namesrv)?;
    let signals = Signals::catch().map_err(failed)?;
    let replication = match (options.replica, &options.replicas) {
        (Some(id), Some(members)) => Some(Replication::new(id, members.0.clone())?),
        _ => None,
    };
    let identity = replication.as_ref().map(|replication| SetIdentity {
        set: format!("{}/{}", options.engine.cluster, options.name),
        replica: replication.id,
    });
    let allow_buffered = options.allow_buffered_io;
    let machine = Machine::claim(&options.engine, identity, allow_buffered, SHARDS_MAX)?;
    let nudger = Nudger::start(machine.shard_count()).map_err(failed)?;
    let plan = Plan {
        listen,
        advertised,
        name: options.name.clone(),
        namesrv,
        auto_create_topics: options.auto_create_topics,
        allow_buffered,
        engine: options.engine.clone(),
        replication,
    };
    let process = Process::start(plan, machine, &nudger)?;
    say_ready(&process.describe())?;
    process.run_until(&signals, &nudger)
}

/// Runs a NameServer and a broker until a signal arrives.
pub fn run_dev(options: &DevOptions) -> Result<(), RunError> {
    let listen = listen_address("--listen", &options.listen)?;
    let namesrv_listen = listen_address("--namesrv-listen", &options.namesrv_listen)?;
    let namesrv = vec![reachable(namesrv_listen)];
    let advertised = advertised_address(listen.ip(), options.advertise.as_deref(), &namesrv)?;
    check_names(&options.engine.cluster, &options.name)?;
    let signals = Signals::catch().map_err(failed)?;
    let machine = Machine::claim(&options.engine, None, true, DEV_SHARDS_MAX)?;
    let shards = machine.shard_count();
    let nudger = Nudger::start(shards + 1).map_err(failed)?;
    let server =
        NameServer::start(namesrv_listen, machine.connections.clone(), nudger.pulse(shards))?;
    let plan = Plan {
        listen,
        advertised,
        name: options.name.clone(),
        namesrv,
        auto_create_topics: true,
        allow_buffered: true,
        engine: options.engine.clone(),
        replication: None,
    };
    let process = Process::start(plan, machine, &nudger)?;
    say_ready(&format!("{} namesrv={namesrv_listen}", process.describe()))?;
    let ended = process.run_until(&signals, &nudger);
    server.stop()?;
    ended
}

/// Refuses budgets that exceed this machine's memory, before anything is created.
fn check_budgets(engine: &EngineOptions) -> Result<(), RunError> {
    let Some(memory) = preflight::memory_bytes() else { return Ok(()) };
    let budgets = [
        ("--tail-cache", engine.tail_cache),
        ("--append-budget", engine.append_budget),
        ("--index-cache", engine.index_cache),
    ];
    match budgets.iter().find(|(_, size)| size.0 > memory) {
        None => Ok(()),
        Some((option, size)) => Err(RunError::usage(format!(
            "{option} gives each shard {}, and this machine has {} of memory; give it less",
            preflight::bytes(size.0),
            preflight::bytes(memory)
        ))),
    }
}

/// Refuses to start if the machine lacks something, and says how to fix it; logs warnings. Returns how
/// many connections the process may accept.
fn require(needs: &Needs) -> Result<ConnectionLimit, RunError> {
    preflight::raise_limits();
    let findings = preflight::check(needs);
    for finding in &findings {
        match finding.state {
            State::Warn => tracing::warn!("{finding}"),
            State::Ok => tracing::debug!("{finding}"),
            State::Fail => {}
        }
    }
    if let Some(finding) = findings.iter().find(|finding| finding.name == preflight::NOFILE) {
        tracing::info!("open files: {}", finding.found);
    }
    if !preflight::refuses(&findings) {
        return Ok(ConnectionLimit::new(preflight::connections(needs)));
    }
    let failed: Vec<String> = findings
        .iter()
        .filter(|finding| finding.state == State::Fail)
        .map(ToString::to_string)
        .collect();
    Err(RunError::new(format!("this machine cannot run the server\n{}", failed.join("\n"))))
}

/// Memory that one shard registers with the kernel.
pub fn io_memory(tail_cache: Size) -> usize {
    (tail_cache.0 as usize).saturating_add(IO_MEMORY_SLACK)
}

/// Prints the line that scripts wait for.
pub fn say_ready(what: &str) -> Result<(), RunError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ringmq ready {what}").and_then(|()| out.flush()).map_err(failed)
}

struct NameServer {
    stop: flume::Sender<Envelope>,
    thread: Executor<()>,
}

impl NameServer {
    fn start(
        listen: SocketAddr,
        connections: ConnectionLimit,
        pulse: Pulse,
    ) -> Result<Self, RunError> {
        let (stop, inbox) = flume::bounded(1);
        let (ready, is_ready) = flume::bounded(1);
        let serve = async move |pulse: Pulse| match listener::bind(listen).await {
            Ok(listener) => {
                let _ = ready.send(Ok(()));
                serve_routes(listener, connections, pulse, inbox).await;
            }
            Err(error) => {
                let _ = ready.send(Err(failed(error)));
            }
        };
        let builder = settings(Placement::Unbound, NAMESERVER_MEMORY);
        let starting = executor::start("nameserver", builder, Duration::ZERO, pulse, serve);
        let starting = starting.map_err(failed)?;
        let thread = starting.begin().map_err(failed)?;
        wait_ready(&is_ready, "the NameServer")?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<(), RunError> {
        let _ = self.stop.send(Envelope::Stop);
        self.thread.join().map_err(failed)
    }
}

async fn serve_routes(
    listener: TcpListener,
    connections: ConnectionLimit,
    pulse: Pulse,
    inbox: Inbox,
) {
    let shard = Shard::new(ShardId(0), NameService::default(), connections, pulse);
    shard.start_serving();
    let listener = Rc::new(listener);
    reactor::spawn(listener::accept_all(listener.clone(), shard.clone())).detach();
    reactor::spawn(shard.clone().expire()).detach();
    let _ = reactor::reachable(inbox.recv_async()).await;
    shard.stop_accepting(&[listener]);
    shard.stop_reading();
}

/// What a broker occupies: its locked data directory and its CPUs.
struct Machine {
    data: DataDirectory,
    cpus: Vec<usize>,
    connections: ConnectionLimit,
}

impl Machine {
    /// A new directory gets one shard per CPU, at most `shards_max`, unless a number is given.
    fn claim(
        engine: &EngineOptions,
        identity: Option<SetIdentity>,
        allow_buffered: bool,
        shards_max: u16,
    ) -> Result<Self, RunError> {
        check_budgets(engine)?;
        let cpus = match &engine.cpus {
            Some(list) => list.0.clone(),
            None => preflight::allowed_cpus(),
        };
        let default = cpus.len().clamp(1, usize::from(shards_max)) as u16;
        let data =
            DataDirectory::open(&engine.data, engine.shards, default, identity).map_err(failed)?;
        let connections = require(&Needs {
            shard_count: usize::from(data.shard_count()),
            io_memory_bytes: io_memory(engine.tail_cache) as u64,
            connections_max: CONNECTIONS_EXPECTED,
            data_directory: Some(engine.data.clone()),
            allow_buffered,
        })?;
        Ok(Self { data, cpus, connections })
    }

    fn shard_count(&self) -> usize {
        usize::from(self.data.shard_count())
    }

    /// One CPU per shard if there are enough; otherwise the kernel places them.
    fn placement(&self, shard: u16) -> Placement {
        match self.shard_count() <= self.cpus.len() {
            true => Placement::Fixed(self.cpus[usize::from(shard)]),
            false => Placement::Unbound,
        }
    }
}

/// The running shards of a broker.
struct Process {
    plan: Plan,
    /// Held until the last shard has ended.
    machine: Machine,
    mesh: Mesh,
    threads: Vec<Executor<()>>,
    ended: flume::Receiver<ShardId>,
    registrar: Registrar,
    announcer: Announcer,
}

impl Process {
    fn start(plan: Plan, machine: Machine, nudger: &Nudger) -> Result<Self, RunError> {
        let shards = machine.data.shard_count();
        let (mesh, inboxes) = Mesh::new(shards);
        let registrar = start_registrar(&plan)?;
        let announcer = Announcer::new(plan.brokers(shards)?, registrar.publisher());
        let (end, ended) = flume::unbounded();
        let threads = Vec::new();
        let mut process = Self { plan, machine, mesh, threads, ended, registrar, announcer };
        let (mut starting, mut opening) = (Vec::new(), Vec::new());
        for (shard, inbox) in (0..shards).zip(inboxes) {
            let pulse = nudger.pulse(usize::from(shard));
            let (executor, is_ready) = process.start_shard(shard, inbox, pulse, end.clone())?;
            starting.push(executor);
            opening.push(is_ready);
        }
        for executor in starting {
            process.threads.push(executor.begin().map_err(failed)?);
        }
        for (shard, is_ready) in opening.iter().enumerate() {
            wait_ready(is_ready, &process.plan.broker_name(shard as u16))?;
        }
        process.wait_registered();
        Ok(process)
    }

    fn start_shard(
        &self,
        shard: u16,
        inbox: Inbox,
        pulse: Pulse,
        end: flume::Sender<ShardId>,
    ) -> Result<(Starting<()>, IsReady), RunError> {
        let (ready, is_ready) = flume::bounded(1);
        let (plan, data) = (&self.plan, &self.machine.data);
        let shard_thread = ShardThread {
            shard,
            directory: data.shard_path(shard),
            store: plan.store_config(data, shard),
            broker: plan.broker_config(shard)?,
            address: plan.address(shard)?,
            allow_buffered: plan.allow_buffered,
            mesh: self.mesh.clone(),
            connections: self.machine.connections.clone(),
            announcer: self.announcer.clone(),
            replication: plan.replication.clone(),
        };
        let name = plan.broker_name(shard);
        let serve = async move |pulse: Pulse| {
            match shard_thread.open(pulse).await {
                Ok(opened) => {
                    let _ = ready.send(Ok(()));
                    opened.serve(inbox).await;
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
            let _ = end.send(ShardId(shard));
        };
        let memory = io_memory(plan.engine.tail_cache);
        let builder = settings(self.machine.placement(shard), memory);
        let spin = Duration::from_micros(plan.engine.spin_us);
        let starting = executor::start(&name, builder, spin, pulse, serve).map_err(failed)?;
        Ok((starting, is_ready))
    }

    /// Waits, for a limited time, until a NameServer knows all shards.
    fn wait_registered(&self) {
        let Err(found) = self.registrar.wait_registered(REGISTER_MAX_MS) else { return };
        for report in found {
            tracing::warn!("{}: {:?}", report.nameserver, report.state);
        }
        tracing::warn!("not registered with any NameServer yet; serving requests, and retrying");
    }

    fn describe(&self) -> String {
        let plan = &self.plan;
        let shards = self.threads.len();
        let advertised = SocketAddrV4::new(plan.advertised, plan.listen.port());
        format!(
            "broker={} shards={shards} listen={} advertised={advertised}",
            plan.name, plan.listen
        )
    }

    /// Serves until a signal arrives or a shard stops unexpectedly, then stops all shards.
    fn run_until(self, signals: &Signals, nudger: &Nudger) -> Result<(), RunError> {
        let fallen = signals.wait(&self.ended);
        tracing::info!("shutting down");
        nudger.expect_close();
        if self.plan.replication.is_some() {
            self.step_down();
        }
        self.registrar.stop();
        self.mesh.stop_all();
        for thread in self.threads {
            thread.join().map_err(failed)?;
        }
        match fallen {
            Some(shard) => Err(failed(format!("shard {} ended by itself", shard.0))),
            None => Ok(()),
        }
    }
}

impl Process {
    /// Transfers the leaderships of this replica to others while clients can still reach it.
    fn step_down(&self) {
        let request = Request::ChangeReplicas(ReplicaOrder::StepDown);
        for refusal in self.mesh.ask_all(&request, STEP_DOWN_MAX) {
            tracing::warn!("a leader stops before another one takes over: {refusal}");
        }
    }
}

fn start_registrar(plan: &Plan) -> Result<Registrar, RunError> {
    let addresses: Vec<String> = plan.namesrv.iter().map(ToString::to_string).collect();
    let options = RegistrarOptions::new(addresses.join(";"));
    Registrar::start(&options, Vec::new()).map_err(failed)
}

fn settings(placement: Placement, io_memory: usize) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement)
        .preempt_timer(PREEMPT)
        .io_memory(io_memory)
        .ring_depth(RING_DEPTH)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
}

fn wait_ready(is_ready: &IsReady, who: &str) -> Result<(), RunError> {
    let begin = Instant::now();
    loop {
        match is_ready.recv_timeout(SAY_AGAIN) {
            Ok(opened) => return opened,
            Err(RecvTimeoutError::Timeout) if begin.elapsed() < START_MAX => {
                tracing::info!("{who} has been opening for {} s", begin.elapsed().as_secs());
            }
            Err(error) => return Err(failed(format!("{who} did not start: {error}"))),
        }
    }
}
