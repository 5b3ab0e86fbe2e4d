//! One shard, from the start of its thread to its end.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::net::TcpListener;
use glommio::{Latency, Shares, TaskQueueHandle};

use super::announce::Announcer;
use super::broker::{BrokerService, Queues};
use super::error::RunError;
use super::listener;
use super::mesh::{Inbox, Mesh};
use super::nudge::Pulse;
use super::shard::Shard;
use crate::broker::{Broker, BrokerConfig};
use crate::model::ShardId;
use crate::storage::StoreConfig;
use crate::storage::file::{FileDisk, FileDiskOptions, Mode};

/// Maximum latency of a woken committer.
const COMMIT_LATENCY: Duration = Duration::from_millis(1);

/// What a shard needs to start.
pub struct Seat {
    pub shard: u16,
    pub directory: PathBuf,
    pub store: StoreConfig,
    pub broker: BrokerConfig,
    pub address: SocketAddr,
    pub allow_buffered: bool,
    pub mesh: Mesh,
    pub announcer: Announcer,
}

/// A shard that has recovered its log and is listening.
pub struct OpenShard {
    shard: Rc<Shard<BrokerService<FileDisk>>>,
    listeners: Vec<TcpListener>,
    queues: Queues,
}

impl Seat {
    pub async fn open(self, pulse: Pulse) -> Result<OpenShard, RunError> {
        let in_shard =
            |error: &dyn Display| RunError::new(format!("shard {}: {error}", self.shard));
        let options = FileDiskOptions { allow_buffered: self.allow_buffered, poll: true };
        let disk = FileDisk::open(&self.directory, options).await.map_err(|e| in_shard(&e))?;
        say_mode(self.shard, &disk);
        let started = Instant::now();
        let opened = Broker::open(disk, self.store, self.broker).await;
        let (broker, report) = opened.map_err(|e| in_shard(&e))?;
        tracing::info!(shard = self.shard, took_ms = started.elapsed().as_millis(), "{report}");
        let listeners = listen(self.address).await.map_err(|e| in_shard(&e))?;
        let queues = Queues {
            commit: task_queue("commit", 1000, Latency::Matters(COMMIT_LATENCY)),
            background: task_queue("background", 50, Latency::NotImportant),
        };
        let service = BrokerService::new(broker, self.mesh, self.announcer);
        let shard = Shard::new(ShardId(self.shard), service, pulse);
        shard.service.introduce().await;
        Ok(OpenShard { shard, listeners, queues })
    }
}

impl OpenShard {
    pub async fn serve(self, inbox: Inbox) {
        let Self { shard, listeners, queues } = self;
        shard.start_serving();
        shard.start_committers(queues);
        for listener in listeners {
            glommio::spawn_local(listener::accept_all(listener, shard.clone())).detach();
        }
        glommio::spawn_local(shard.clone().tick()).detach();
        glommio::spawn_local(shard.clone().send_to_clients()).detach();
        let maintenance = glommio::spawn_local_into(shard.clone().maintain(), queues.background)
            .expect("the queue lives as long as the executor");
        let delivery = glommio::spawn_local(shard.clone().deliver());
        shard.take_asks(inbox).await;
        shard.is_stopping.set(true);
        shard.service.broker.stop_delivery();
        delivery.await;
        maintenance.await;
        shard.stop().await;
    }
}

/// The shard's own port, and the port two below it, which old clients send to (remoting reference,
/// 5.21).
async fn listen(address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![listener::bind(address).await?];
    if let Some(port) = address.port().checked_sub(2).filter(|port| *port > 0) {
        listeners.push(listener::bind(SocketAddr::new(address.ip(), port)).await?);
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

fn task_queue(name: &str, shares: usize, latency: Latency) -> TaskQueueHandle {
    glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
}
