//! Runs the replication of a shard on this runtime: how it connects to the shard, TCP connections
//! between the replicas, and its start and end.
//!
//! Replicas listen one port above the shard's (`plan::replication_port`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::reactor;
use crate::reactor::net::{TcpListener, TcpStream};
use bytes::Bytes;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::sync::Permit;
use nix::sys::socket;
use zerocopy::{FromZeros, IntoBytes};

use super::announce::Announcer;
use super::broker::BrokerService;
use super::clock;
use super::listener;
use super::plan::client_port;
use super::raft_runtime::GlommioRuntime;
use super::shard::Shard;
use crate::broker::Broker;
use crate::client::registrar;
use crate::config::Address;
use crate::model::{Now, ShardId};
use crate::replication::host::{Host, Role};
use crate::replication::leader_transfer::TAKE_OVER_EXPECTED;
use crate::replication::link::{FrameReceiver, FrameSender, Identity, Target, Transport, frame_of};
use crate::replication::replica::Replica;
use crate::replication::wire::{Frame, FrameHead, rest_size};
use crate::storage::disk::Disk;
use crate::storage::file::FileDisk;

/// How long a stopping leader waits for its last entries to be committed.
const LEAVE_MAX: Duration = Duration::from_secs(2);

pub type ShardReplica = Replica<ShardHost<FileDisk>, GlommioRuntime>;

/// What replication of a shard needs to start.
pub struct ReplicationSetup {
    pub name: String,
    pub identity: Identity,
    pub peers: BTreeMap<u64, Address>,
    pub listener: TcpListener,
    pub announcer: Announcer,
}

impl ReplicationSetup {
    /// Makes this replica register as a follower before a leader is elected.
    pub fn begin_as_follower(&self, shard: ShardId) {
        let id = self.identity.id;
        self.announcer.set_role(shard, registrar::Role::Follower { id });
    }

    /// Opens the replica, and serves connections from others. The committers must be running.
    pub async fn open(
        self,
        shard: Rc<Shard<BrokerService<FileDisk>>>,
    ) -> io::Result<OpenedReplica> {
        let Self { name, identity, peers, listener, announcer } = self;
        let (id, peers) = (identity.id, Rc::new(peers));
        let (shared, role_changes) = (peers.clone(), Rc::default());
        let host = ShardHost { shard: shard.clone(), announcer, id, peers: shared, role_changes };
        let replica = Replica::open(host, identity).await?;
        let serving = replica.clone();
        let accept = move |stream| {
            let (sender, receiver) = halves(stream)?;
            let replica = serving.clone();
            reactor::spawn(async move { replica.serve(sender, receiver).await }).detach();
            Ok(())
        };
        let accept_all = async move { listener::accept_each(&listener, &shard, accept).await };
        reactor::spawn(accept_all).detach();
        Ok(OpenedReplica { replica, name, peers })
    }
}

/// An opened replica, ready to start.
pub struct OpenedReplica {
    pub replica: ShardReplica,
    name: String,
    peers: Rc<BTreeMap<u64, Address>>,
}

impl OpenedReplica {
    /// Starts the engine. A new directory waits for the others first.
    async fn start(&self) -> io::Result<()> {
        let members = self.peers.keys().copied().collect();
        self.replica.start(self.name.clone(), &members, Tcp(self.peers.clone())).await
    }
}

/// The shard as its replica sees it.
pub struct ShardHost<D: Disk> {
    shard: Rc<Shard<BrokerService<D>>>,
    announcer: Announcer,
    id: u64,
    /// Where the replicas reach each other.
    peers: Rc<BTreeMap<u64, Address>>,
    /// How often the role has changed.
    role_changes: Rc<Cell<u64>>,
}

impl<D: Disk> Clone for ShardHost<D> {
    fn clone(&self) -> Self {
        let (shard, announcer) = (self.shard.clone(), self.announcer.clone());
        let (peers, role_changes) = (self.peers.clone(), self.role_changes.clone());
        Self { shard, announcer, id: self.id, peers, role_changes }
    }
}

impl<D: Disk> Host for ShardHost<D> {
    type Disk = D;
    type ColdRead<'a> = Permit<'a>;

    fn broker(&self) -> &Broker<D> {
        &self.shard.service.broker
    }

    fn now(&self) -> Now {
        clock::now()
    }

    fn handle_commit(&self) {
        if self.shard.handle_commit(Duration::ZERO) {
            let shard = self.shard.clone();
            reactor::spawn_first(async move { shard.answer_committed().await });
        }
    }

    fn address_of(&self, replica: u64) -> Option<String> {
        let Address { host, port } = self.peers.get(&replica)?;
        let address = Address { host: host.clone(), port: client_port(*port) };
        Some(address.to_string())
    }

    fn handle_role(&self, role: Role) {
        let shard = self.shard.id;
        self.role_changes.set(self.role_changes.get() + 1);
        match role {
            Role::Leader { term } => {
                tracing::info!(shard = shard.0, "replica {} leads in term {term}", self.id);
                let epoch = i64::try_from(term).unwrap_or(i64::MAX);
                // The leader's table replaces what NameServers have, so it must include a topic
                // that was created a moment ago. The next tick would be too late.
                drop(self.shard.service.announce());
                self.announcer.set_role(shard, registrar::Role::Leader { epoch });
            }
            Role::Follower => {
                tracing::info!(shard = shard.0, "replica {} follows", self.id);
                self.announce_follower();
            }
            Role::Removed => {
                let id = self.id;
                tracing::warn!(
                    shard = shard.0,
                    "replica {id} was removed from the set: it receives no new entries, and clients are not sent to \
                     it. Stop it, or add it again with `ringmq replica add`"
                );
                self.announcer.set_role(shard, registrar::Role::Removed { id });
            }
        }
        // Requests that wait for room notice the new role.
        self.handle_commit();
    }

    fn spawn_background(&self, task: impl Future<Output = ()> + 'static) {
        reactor::spawn(reactor::background(task)).detach();
    }

    async fn cold_read(&self) -> Permit<'_> {
        self.shard.cold_permit().await
    }
}

impl<D: Disk> ShardHost<D> {
    /// Registers as a follower once the next leader has had time to take over the name. Without a
    /// leader, NameServers would tell clients that there is no queue to send to.
    fn announce_follower(&self) {
        let host = self.clone();
        let change = self.role_changes.get();
        reactor::spawn(async move {
            reactor::sleep(TAKE_OVER_EXPECTED).await;
            if host.role_changes.get() == change {
                host.announcer.set_role(host.shard.id, registrar::Role::Follower { id: host.id });
            }
        })
        .detach();
    }
}

impl Shard<BrokerService<FileDisk>> {
    /// Runs the engine. Returns if it ends although the shard could continue: then the process must
    /// exit. If the shard is fenced, this does not return: the shard refuses everything, and the
    /// others have elected another leader.
    pub async fn run_replica(&self, opened: &OpenedReplica) {
        let why = match opened.start().await {
            Ok(()) => opened.replica.watch().await,
            Err(error) => error.to_string(),
        };
        self.service.broker.follow();
        tracing::error!(shard = self.id.0, "replication has ended: {why}");
        if self.service.broker.store().is_fenced() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops the replica. If it still leads, what clients have stored is committed if possible, and
    /// the others elect a leader after an election timeout.
    pub async fn leave(&self, replica: &ShardReplica) {
        let broker = &self.service.broker;
        if broker.leads() {
            // A refusal means that this replica no longer leads.
            let _ = broker.flush_offsets(clock::moment());
            let end = broker.store().end();
            let deadline = Instant::now() + LEAVE_MAX;
            while broker.store().committed() < end && Instant::now() < deadline {
                reactor::sleep(Duration::from_millis(5)).await;
            }
        }
        replica.stop().await;
        broker.follow();
    }
}

/// TCP connections to the other replicas.
#[derive(Clone)]
struct Tcp(Rc<BTreeMap<u64, Address>>);

impl Transport for Tcp {
    type Sender = TcpSender;
    type Receiver = TcpReceiver;

    /// The command line takes precedence over the log, because it can be changed.
    async fn connect(&self, target: &Target) -> io::Result<(TcpSender, TcpReceiver)> {
        let stream = match self.0.get(&target.id) {
            Some(Address { host, port }) => TcpStream::connect((host.as_str(), *port)).await?,
            None => TcpStream::connect(target.place.0.as_str()).await?,
        };
        halves(stream)
    }
}

struct TcpSender {
    stream: Rc<TcpStream>,
}

struct TcpReceiver(Rc<TcpStream>);

fn halves(stream: TcpStream) -> io::Result<(TcpSender, TcpReceiver)> {
    stream.set_nodelay(true)?;
    let stream = Rc::new(stream);
    Ok((TcpSender { stream: stream.clone() }, TcpReceiver(stream)))
}

impl FrameSender for TcpSender {
    async fn send(&mut self, frame: Vec<u8>) -> io::Result<()> {
        (&*self.stream).write_all(&frame).await
    }

    fn close(&self) {
        // The socket may be shut down already.
        let _ = socket::shutdown(self.stream.as_raw_fd(), socket::Shutdown::Both);
    }
}

impl FrameReceiver for TcpReceiver {
    async fn receive(&mut self, size_max: usize) -> io::Result<Frame> {
        if self.0.has_more() {
            reactor::pass().await;
        }
        let mut head = FrameHead::new_zeroed();
        (&*self.0).read_exact(head.as_mut_bytes()).await?;
        let size = rest_size(&head, size_max)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let mut rest = vec![0; size];
        (&*self.0).read_exact(&mut rest).await?;
        frame_of(&head, Bytes::from(rest))
    }
}
