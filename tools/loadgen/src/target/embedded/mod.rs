//! Embedded servers: child processes that exist for the length of a run and can be killed and
//! restarted meanwhile.
//!
//! ```text
//!   Embedded (owns the servers, which stop when it is dropped)
//!      └─ Handle ─┬─ brokers: `ringmq dev`, or `ringmq broker` with separate NameServers; several
//!        (cloned) │  with `--replicas`, each of which stands for a machine
//!                 ├─ NameServers: `ringmq nameserver` each, or none
//!                 ├─ Network: relays between the replicas, if the run has partitions
//!                 └─ Ground: data directory, and the disk image under it
//! ```
//!
//! Invariants:
//! - A restarted server has the arguments, ports and data that it had before.
//! - Once [`Embedded`] is dropped, nothing is restarted, no process runs, and temporary files are
//!   removed.
//!
//! Start reading at [`Embedded::start`]. One process is in [`server`], the directories are in
//! [`ground`]. Not here: when a server is killed or frozen ([`crate::target::faults`]).

mod error;
mod ground;
mod program;
mod relay;
mod server;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use ringmq::config::PORTS_PER_SHARD;
use serde_json::{Map, Value};

use crate::options::{Flush, TargetOptions};
use crate::target::device;
pub use error::EmbeddedError;
use ground::Ground;
pub use program::SERVER_COMMAND;
pub use relay::Cut;
use relay::{Network, local};
pub use server::Launch;
use server::Server;

/// A shard also listens on two ports below its own, for old clients.
const PORTS_BELOW: u16 = 2;
/// Maximum number of attempts to find free ports.
const PORT_TRIES: usize = 100;
/// Free ports may be taken before the servers listen on them.
const START_TRIES: usize = 3;
/// Free space below which a broker on an image refuses producers: the image's size divided by this.
/// The broker's own default may be more than the image holds.
const IMAGE_RESERVE_PART: u64 = 20;
/// Segment size on an image, so that even a small one holds several segments, and of replicas.
const SMALL_SEGMENT_SIZE: &str = "64MiB";
/// Segment size and ready segments elsewhere: the defaults of `ringmq broker`.
const SEGMENT_SIZE: &str = "256MiB";
const READY_SEGMENTS: &str = "2";

/// Owns the servers of one run, which stop when it is dropped.
pub struct Embedded {
    handle: Handle,
}

/// A cloneable handle to the same servers, for sampling and fault injection.
#[derive(Clone)]
pub struct Handle(Arc<Servers>);

struct Servers {
    /// One, or one for each replica.
    brokers: Vec<Broker>,
    /// Not empty if the run has partitions.
    network: Network,
    /// Empty if the broker's process is also the NameServer.
    nameservers: Vec<Server>,
    /// Addresses separated by `;`.
    namesrv: String,
    ground: Ground,
    facts: Map<String, Value>,
}

struct Broker {
    server: Server,
    /// The port of its first shard.
    port: u16,
    shards: u16,
}

impl Broker {
    fn has(&self, address: SocketAddr) -> bool {
        let behind = address.port().checked_sub(self.port);
        behind.is_some_and(|behind| behind < self.shards * PORTS_PER_SHARD)
    }
}

impl Embedded {
    /// Starts the servers and waits until they are ready: `ringmq dev`, or with `--nameservers`
    /// that many NameServers and a broker that registers with all of them.
    pub fn start(options: &TargetOptions) -> Result<Self, EmbeddedError> {
        for _ in 1..START_TRIES {
            match Self::try_start(options) {
                // Another process was faster.
                Err(EmbeddedError::NotReady { said, .. })
                    if said.contains("Address already in use") => {}
                outcome => return outcome,
            }
        }
        Self::try_start(options)
    }

    fn try_start(options: &TargetOptions) -> Result<Self, EmbeddedError> {
        let replicas = options.replicas.unwrap_or(1);
        // Replicas must survive the loss of a NameServer, so they have at least two.
        let nameservers =
            if replicas > 1 { options.nameservers.max(2) } else { options.nameservers };
        let ground = Ground::prepare(options)?;
        let ports: Vec<u16> =
            (0..replicas).map(|_| broker_port(options.shards)).collect::<Result<_, _>>()?;
        let addresses: Result<Vec<_>, _> = (0..nameservers.max(1)).map(|_| free_ports(1)).collect();
        let addresses: Vec<String> = addresses?.iter().map(SocketAddr::to_string).collect();
        let namesrv = addresses.join(";");

        let nameserver = |(number, address): (usize, &String)| {
            let arguments = ["nameserver", "--listen", address].map(OsString::from);
            Server::new(format!("NameServer {number}"), arguments.into())
        };
        let apart = addresses.iter().enumerate().take(usize::from(nameservers));
        let mut base: Vec<OsString> = match nameservers {
            0 => ["dev", "--namesrv-listen", &namesrv].map(OsString::from).into(),
            _ => {
                ["broker", "--namesrv", &namesrv, "--allow-buffered-io"].map(OsString::from).into()
            }
        };
        base.extend(engine_arguments(options));
        let mut network = Network::default();
        let mut brokers = Vec::new();
        for (index, &port) in ports.iter().enumerate() {
            let (mut arguments, mut data) = (base.clone(), ground.data().to_owned());
            let mut what = "broker".to_owned();
            if replicas > 1 {
                let number = (index + 1).to_string();
                data = data.join(format!("replica-{number}"));
                what = format!("machine {number}");
                let seen = seen_by(index, &ports, options, &mut network)?;
                arguments.extend(["--replica", &number, "--replicas", &seen].map(OsString::from));
            }
            arguments.extend(["--listen".into(), local(port).to_string().into()]);
            arguments.extend(["--data".into(), data.into()]);
            let server = Server::new(what, arguments);
            brokers.push(Broker { server, port, shards: options.shards });
        }
        let facts = device::of_ground(ground.data(), &brokers[0].server.describe());
        let nameservers = apart.map(nameserver).collect();
        let servers = Servers { brokers, network, nameservers, namesrv, ground, facts };
        // From here on, an error drops `embedded`, which stops what was started.
        let embedded = Self { handle: Handle(Arc::new(servers)) };
        let servers = &embedded.handle.0;
        for nameserver in &servers.nameservers {
            nameserver.start()?;
        }
        let starting: Vec<Launch> =
            servers.brokers.iter().map(|it| it.server.launch()).collect::<Result<_, _>>()?;
        starting.into_iter().try_for_each(Launch::wait)?;
        Ok(embedded)
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let Servers { brokers, nameservers, ground, .. } = &*self.handle.0;
        brokers.iter().for_each(|broker| broker.server.close());
        nameservers.iter().for_each(Server::close);
        ground.remove();
    }
}

impl Handle {
    /// NameServer addresses separated by `;`.
    pub fn namesrv(&self) -> &str {
        &self.0.namesrv
    }

    /// The broker's data directory.
    pub fn data(&self) -> &Path {
        self.0.ground.data()
    }

    /// Whether the data is on a file system that exists only for this run.
    pub fn is_on_image(&self) -> bool {
        self.0.ground.is_image()
    }

    /// For the report: the broker's command, the device under its data, and that device's measured
    /// speed.
    pub fn facts(&self) -> &Map<String, Value> {
        &self.0.facts
    }

    /// Number of machines: one, or one for each replica.
    pub fn machines(&self) -> usize {
        self.0.brokers.len()
    }

    /// The machine whose broker has this address.
    pub fn machine_of(&self, address: SocketAddr) -> Option<usize> {
        self.0.brokers.iter().position(|broker| broker.has(address))
    }

    /// Process id of the broker on a machine, if it runs.
    pub fn broker_pid(&self, machine: usize) -> Option<u32> {
        self.broker(machine).ok()?.pid()
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub fn kill_broker(&self, machine: usize) -> io::Result<()> {
        self.broker(machine)?.kill()
    }

    /// Restarts the broker as it was, without waiting until it is ready.
    pub fn launch_broker(&self, machine: usize) -> Result<Launch, EmbeddedError> {
        let gone = |cause| EmbeddedError::Start { program: "broker".to_owned(), cause };
        self.broker(machine).map_err(gone)?.launch()
    }

    pub fn freeze_broker(&self, machine: usize) -> io::Result<()> {
        self.broker(machine)?.freeze()
    }

    pub fn thaw_broker(&self, machine: usize) -> io::Result<()> {
        self.broker(machine)?.thaw()
    }

    /// Cuts a machine off from the others, or ends the cut.
    pub fn cut(&self, machine: usize, cut: Cut, is_cut: bool) {
        self.0.network.set(machine, cut, is_cut);
    }

    fn broker(&self, machine: usize) -> io::Result<&Server> {
        let none = || io::Error::other(format!("there is no machine {}", machine + 1));
        self.0.brokers.get(machine).map(|broker| &broker.server).ok_or_else(none)
    }

    /// Sends SIGKILL to NameServer number `index`, and waits until it is gone.
    pub fn kill_nameserver(&self, index: usize) -> io::Result<()> {
        self.nameserver(index)?.kill()
    }

    /// Restarts a NameServer as it was, without waiting until it is ready.
    pub fn launch_nameserver(&self, index: usize) -> Result<Launch, EmbeddedError> {
        let gone = |cause| EmbeddedError::Start { program: "NameServer".to_owned(), cause };
        self.nameserver(index).map_err(gone)?.launch()
    }

    fn nameserver(&self, index: usize) -> io::Result<&Server> {
        let none = || io::Error::other(format!("there is no NameServer {index} of its own"));
        self.0.nameservers.get(index).ok_or_else(none)
    }

    /// Kills everything immediately, when there is no time for a graceful stop.
    pub fn give_up(&self) {
        let Servers { brokers, nameservers, ground, .. } = &*self.0;
        let brokers = brokers.iter().map(|broker| &broker.server);
        for server in nameservers.iter().chain(brokers) {
            server.forbid();
            // A process that is gone needs no signal.
            let _ = server.kill();
        }
        ground.remove();
    }
}

/// A port for the first of `shards` shards.
fn broker_port(shards: u16) -> Result<u16, EmbeddedError> {
    let first = free_ports(PORTS_BELOW + shards * PORTS_PER_SHARD)?;
    Ok(first.port() + PORTS_BELOW)
}

/// The list of replicas as passed to replica `own`. If the run has partitions, the others are
/// behind relays.
fn seen_by(
    own: usize,
    ports: &[u16],
    options: &TargetOptions,
    network: &mut Network,
) -> Result<String, EmbeddedError> {
    let mut all = Vec::new();
    for (index, &port) in ports.iter().enumerate() {
        let mut seen = port;
        if index != own && options.has_relays {
            seen = broker_port(options.shards)?;
            for shard in 0..options.shards {
                // Replicas reach each other at the ports above those of the shards.
                let above = shard * PORTS_PER_SHARD + 1;
                let (listen, target) = (local(seen + above), local(port + above));
                network
                    .add((own, index), listen, target)
                    .map_err(|cause| EmbeddedError::Relay { listen, cause })?;
            }
        }
        all.push(format!("{}={}", index + 1, local(seen)));
    }
    Ok(all.join(","))
}

/// Arguments that `ringmq dev` and `ringmq broker` have in common.
fn engine_arguments(options: &TargetOptions) -> Vec<OsString> {
    let flush = if options.flush == Flush::Sync { "sync" } else { "async" };
    let shards = options.shards.to_string();
    let mut arguments: Vec<OsString> =
        ["--shards", &shards, "--flush", flush].map(OsString::from).into();
    // A broker is measured, so it gets a broker's segments, not the small ones of `dev`.
    // Several on one disk get smaller ones.
    let is_small = options.disk_image.is_some() || options.replicas.is_some();
    let segment_size = if is_small { SMALL_SEGMENT_SIZE } else { SEGMENT_SIZE };
    let segments = ["--segment-size", segment_size, "--ready-segments", READY_SEGMENTS];
    arguments.extend(segments.map(OsString::from));
    if let Some(size) = options.disk_image {
        let reserve = (size as u64 / IMAGE_RESERVE_PART).to_string();
        arguments.extend(["--disk-reserve", &reserve].map(OsString::from));
    }
    arguments
}

/// The first of `count` consecutive ports that are free on loopback at present.
fn free_ports(count: u16) -> Result<SocketAddr, EmbeddedError> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..PORT_TRIES {
        let Ok(first) = bind(0).and_then(|listener| listener.local_addr()) else { continue };
        let rest = 0..count;
        let are_free =
            |offset| first.port().checked_add(offset).is_some_and(|port| bind(port).is_ok());
        if rest.into_iter().all(are_free) {
            return Ok(first);
        }
    }
    Err(EmbeddedError::Ports { count })
}
