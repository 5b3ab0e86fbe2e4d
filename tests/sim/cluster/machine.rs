//! A machine of the cluster: its disk and its connections, whose operations take virtual time, and
//! the fuse that ends its process at a chosen step.

use std::cell::Cell;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringmq::replication::link::{FrameReceiver, FrameSender, Target, Transport, frame_of};
use ringmq::replication::types::ReplicaId;
use ringmq::replication::wire::{Frame, FrameHead, rest_size};
use ringmq::sim::SimDisk;
use ringmq::sim::buffer::SimBuffer;
use ringmq::sim::disk::SimFile;
use ringmq::sim::network::{Address, Node, RecvHalf, SendHalf};
use ringmq::storage::disk::{Disk, DiskError, DiskFile, Durability, Space};
use zerocopy::FromBytes;

use super::world::{Crash, World};

/// Port of replication.
pub const PORT: u16 = 10_912;

/// The boundary between one process and the outside: crossing it takes time, and the process may
/// end there.
pub struct Edge {
    pub world: Rc<World>,
    pub id: ReplicaId,
    /// Steps until the process ends, and how; `None` to let it run.
    pub fuse: Cell<Option<(u64, Crash)>>,
}

impl Edge {
    /// Takes a step of the process, which may be its last one.
    async fn step(&self) {
        let Some((left, how)) = self.fuse.get() else { return };
        self.fuse.set(left.checked_sub(1).map(|left| (left, how)));
        if left == 0 {
            self.world.crash(self.id, how);
            pending::<()>().await;
        }
    }

    /// Waits for half the time of a disk operation.
    async fn disk_time(&self) {
        self.step().await;
        let micros = self.world.draw_disk_micros(self.id);
        if micros > 0 {
            self.world.clock.sleep(Duration::from_micros(micros)).await;
        }
    }
}

/// A disk whose operations take virtual time and take effect in the middle of it.
#[derive(Clone)]
pub struct TimedDisk {
    pub inner: SimDisk,
    pub edge: Rc<Edge>,
}

#[derive(Clone)]
pub struct TimedFile {
    inner: SimFile,
    edge: Rc<Edge>,
}

async fn timed<T>(edge: &Edge, operation: impl Future<Output = T>) -> T {
    edge.disk_time().await;
    let outcome = operation.await;
    edge.disk_time().await;
    outcome
}

impl TimedDisk {
    fn file(&self, inner: SimFile) -> TimedFile {
        TimedFile { inner, edge: self.edge.clone() }
    }
}

impl Disk for TimedDisk {
    type Buffer = SimBuffer;
    type File = TimedFile;

    fn buffer(&self, size: usize) -> SimBuffer {
        self.inner.buffer(size)
    }

    async fn list(&self) -> Result<Vec<(String, u64)>, DiskError> {
        timed(&self.edge, self.inner.list()).await
    }

    async fn create(&self, name: &str, size: u64) -> Result<TimedFile, DiskError> {
        timed(&self.edge, self.inner.create(name, size)).await.map(|file| self.file(file))
    }

    async fn open(&self, name: &str) -> Result<TimedFile, DiskError> {
        timed(&self.edge, self.inner.open(name)).await.map(|file| self.file(file))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        timed(&self.edge, self.inner.rename(from, to)).await
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        timed(&self.edge, self.inner.remove(name)).await
    }

    async fn sync_directory(&self) -> Result<(), DiskError> {
        timed(&self.edge, self.inner.sync_directory()).await
    }

    fn clock_ns(&self) -> u64 {
        self.edge.world.clock.now().as_nanos() as u64
    }

    async fn space(&self) -> Result<Space, DiskError> {
        self.inner.space().await
    }
}

impl DiskFile for TimedFile {
    type Buffer = SimBuffer;

    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn write(
        &self,
        offset: u64,
        buffer: Rc<SimBuffer>,
        durability: Durability,
    ) -> Result<(), DiskError> {
        timed(&self.edge, self.inner.write(offset, buffer, durability)).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        timed(&self.edge, self.inner.sync()).await
    }

    async fn read(&self, offset: u64, size: usize) -> Result<Rc<dyn AsRef<[u8]>>, DiskError> {
        timed(&self.edge, self.inner.read(offset, size)).await
    }
}

/// Connections to the other machines.
#[derive(Clone)]
pub struct SimTransport(pub Rc<Edge>);

pub struct Sender {
    half: SendHalf<Vec<u8>>,
    edge: Rc<Edge>,
}

pub struct Receiver {
    half: RecvHalf<Vec<u8>>,
    edge: Rc<Edge>,
}

pub fn halves(
    edge: &Rc<Edge>,
    send: SendHalf<Vec<u8>>,
    recv: RecvHalf<Vec<u8>>,
) -> (Sender, Receiver) {
    (Sender { half: send, edge: edge.clone() }, Receiver { half: recv, edge: edge.clone() })
}

impl Transport for SimTransport {
    type Sender = Sender;
    type Receiver = Receiver;

    async fn connect(&self, target: &Target) -> io::Result<(Sender, Receiver)> {
        self.0.step().await;
        let to = Address { node: Node(target.id), port: PORT };
        let (send, recv) = self.0.world.network.connect(Node(self.0.id), to).await?;
        Ok(halves(&self.0, send, recv))
    }
}

impl FrameSender for Sender {
    async fn send(&mut self, frame: Vec<u8>) -> io::Result<()> {
        self.edge.step().await;
        self.half.send(frame).await
    }

    fn close(&self) {
        self.half.close();
    }
}

impl FrameReceiver for Receiver {
    async fn receive(&mut self, size_max: usize) -> io::Result<Frame> {
        let bytes = self.half.recv().await?.ok_or(ErrorKind::UnexpectedEof)?;
        self.edge.step().await;
        let (head, rest) = FrameHead::read_from_prefix(&bytes).unwrap();
        assert_eq!(rest_size(&head, size_max), Ok(rest.len()));
        frame_of(&head, Bytes::copy_from_slice(rest))
    }
}
