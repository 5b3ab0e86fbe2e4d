//! One shard, from the start of its thread to its end.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use futures_util::future::select;

use super::announce::Announcer;
use super::broker::BrokerService;
use super::connection_limit::ConnectionLimit;
use super::error::RunError;
use super::listener;
use super::mesh::{Inbox, Mesh};
use super::nudge::Pulse;
use super::plan::{Replication, replication_port};
use super::replication::ReplicationSetup;
use super::shard::Shard;
use crate::broker::{Broker, BrokerConfig};
use crate::model::ShardId;
use crate::reactor;
use crate::reactor::net::TcpListener;
use crate::replication::link::Identity;
use crate::storage::StoreConfig;
use crate::storage::file::{FileDisk, FileDiskOptions, Mode};

const DAMAGED_REPLICA: &str = "its log has lost entries that it had on stable media (see the .damaged \
    files), so this replica could help to elect a leader that lacks acknowledged messages. \
    Replace it by a replica with a new number and an empty directory (ringmq replica replace)";

/// What a shard needs to start.
pub struct ShardThread {
    pub shard: u16,
    pub directory: PathBuf,
    pub store: StoreConfig,
    pub broker: BrokerConfig,
    pub address: SocketAddr,
    pub allow_buffered: bool,
    pub mesh: Mesh,
    pub connections: ConnectionLimit,
    pub announcer: Announcer,
    pub replication: Option<Replication>,
}

/// A shard that has recovered its log and is listening.
pub struct OpenShard {
    shard: Rc<Shard<BrokerService<FileDisk>>>,
    listeners: Vec<Rc<TcpListener>>,
    replica: Option<ReplicationSetup>,
}

impl ShardThread {
    pub async fn open(self, pulse: Pulse) -> Result<OpenShard, RunError> {
        let in_shard =
            |error: &dyn Display| RunError::new(format!("shard {}: {error}", self.shard));
        let options = FileDiskOptions { allow_buffered: self.allow_buffered };
        let disk = FileDisk::open(&self.directory, options).await.map_err(|e| in_shard(&e))?;
        say_mode(self.shard, &disk);
        let started = Instant::now();
        let identity = self.replication.as_ref().map(|replication| Identity {
            id: replication.id,
            seed: self.store.checksum_seed,
            segment_size: self.store.segment_size,
        });
        let name = self.broker.broker_name.to_string();
        let opened = Broker::open(disk, self.store, self.broker).await;
        let (broker, report) = opened.map_err(|e| in_shard(&e))?;
        tracing::info!(shard = self.shard, took_ms = started.elapsed().as_millis(), "{report}");
        if self.replication.is_some() && !report.recovery.damaged.is_empty() {
            return Err(in_shard(&DAMAGED_REPLICA));
        }
        let listeners = listen(self.address).await.map_err(|e| in_shard(&e))?;
        let service = BrokerService::new(broker, self.mesh, self.announcer.clone());
        let shard = Shard::new(ShardId(self.shard), service, self.connections, pulse);
        let mut replica = None;
        if let (Some(replication), Some(identity)) = (self.replication, identity) {
            let address = SocketAddr::new(self.address.ip(), replication_port(self.address.port()));
            let setup = ReplicationSetup {
                name,
                identity,
                peers: replication.peers(self.shard),
                listener: listener::bind(address).await.map_err(|e| in_shard(&e))?,
                announcer: self.announcer,
            };
            setup.begin_as_follower(shard.id);
            replica = Some(setup);
        }
        shard.service.introduce().await;
        Ok(OpenShard { shard, listeners, replica })
    }
}

impl OpenShard {
    pub async fn serve(self, inbox: Inbox) {
        let Self { shard, listeners, replica } = self;
        shard.start_serving();
        shard.start_committers();
        let replica = match replica {
            None => None,
            Some(setup) => match setup.open(shard.clone()).await {
                Ok(opened) => Some(opened),
                Err(error) => {
                    return tracing::error!(
                        shard = shard.id.0,
                        "replication did not start: {error}"
                    );
                }
            },
        };
        for listener in &listeners {
            reactor::spawn(listener::accept_all(listener.clone(), shard.clone())).detach();
        }
        reactor::spawn(shard.clone().tick()).detach();
        reactor::spawn(shard.clone().meet_deadlines()).detach();
        reactor::spawn(shard.clone().send_to_clients()).detach();
        let maintenance = reactor::spawn(reactor::background(shard.clone().maintain()));
        let delivery = reactor::spawn(shard.clone().deliver());
        match &replica {
            None => shard.take_asks(inbox).await,
            Some(replica) => {
                let asks = pin!(shard.take_asks(inbox));
                select(asks, pin!(shard.run_replica(replica))).await;
            }
        }
        shard.stop_accepting(&listeners);
        shard.service.broker.stop_delivery();
        delivery.await;
        maintenance.await;
        if let Some(replica) = replica {
            shard.leave(&replica.replica).await;
        }
        shard.stop().await;
    }
}

/// Listens on the shard's own port, and on the port two below it, which old clients use (remoting
/// reference, 5.21).
async fn listen(address: SocketAddr) -> io::Result<Vec<Rc<TcpListener>>> {
    let mut listeners = vec![Rc::new(listener::bind(address).await?)];
    if let Some(port) = address.port().checked_sub(2).filter(|port| *port > 0) {
        let old = SocketAddr::new(address.ip(), port);
        listeners.push(Rc::new(listener::bind(old).await?));
    }
    Ok(listeners)
}

fn say_mode(shard: u16, disk: &FileDisk) {
    match disk.mode() {
        Mode::Direct => {}
        Mode::Buffered => tracing::warn!(
            shard,
            "the file system does not support direct I/O: using buffered I/O, which is slower"
        ),
        Mode::Memory => tracing::warn!(
            shard,
            "the data directory is on a file system in memory: nothing survives a reboot"
        ),
    }
}
