//! Connections between the replicas of a shard: how they begin, over any transport of frames.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use openraft::type_config::TypeConfigExt;
use zerocopy::IntoBytes;

use super::host::Host;
use super::log::RaftLog;
use super::types::{Place, ReplicaId, Runtime, Types};
use super::wire::{self, FRAME_SIZE_MAX, Frame, HelloRow, MarkRow, Purpose, WIRE_VERSION};
use crate::storage::Mark;

/// How long an answer may take before the connection is considered lost.
pub const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Connections that carry frames.
pub trait Transport: Clone + 'static {
    type Sender: FrameSender;
    type Receiver: FrameReceiver;

    fn connect(
        &self,
        target: &Target,
    ) -> impl Future<Output = io::Result<(Self::Sender, Self::Receiver)>>;
}

/// Another replica, and its address if that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub id: ReplicaId,
    pub place: Place,
}

pub trait FrameSender: 'static {
    fn send(&mut self, frame: Vec<u8>) -> impl Future<Output = io::Result<()>>;

    /// Closes the connection in both directions.
    fn close(&self);
}

pub trait FrameReceiver: 'static {
    /// Receives a frame of at most `size_max` bytes; a larger one is an error and allocates
    /// nothing.
    fn receive(&mut self, size_max: usize) -> impl Future<Output = io::Result<Frame>>;
}

/// The identity of this replica, and what all replicas of its shard have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: ReplicaId,
    pub seed: u32,
    pub segment_size: u64,
}

/// An open connection. Its reader task passes frames on until it is closed.
pub struct Link<S: FrameSender> {
    pub sender: S,
    frames: flume::Receiver<Frame>,
}

impl<S: FrameSender> Drop for Link<S> {
    fn drop(&mut self) {
        self.sender.close();
    }
}

impl<S: FrameSender> Link<S> {
    pub async fn answer<R: Runtime>(&self) -> io::Result<Frame> {
        self.frame::<R>(ANSWER_MAX).await
    }

    /// The next frame, if it arrives within this time.
    pub async fn frame<R: Runtime>(&self, within: Duration) -> io::Result<Frame> {
        let frame = pin!(self.frames.recv_async());
        match select(frame, pin!(Types::<R>::sleep(within))).await {
            Either::Left((frame, _)) => frame.map_err(|_| io::ErrorKind::ConnectionReset.into()),
            Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    pub async fn call<R: Runtime>(&mut self, frame: Vec<u8>) -> io::Result<Frame> {
        self.sender.send(frame).await?;
        self.answer::<R>().await
    }
}

pub fn broken(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Connects to another replica. Both sides state their identity, and check that the other one is
/// what it was.
pub async fn connect<H: Host, R: Runtime, T: Transport>(
    log: &RaftLog<H, R>,
    transport: &T,
    identity: Identity,
    target: &Target,
    purpose: Purpose,
) -> io::Result<Link<T::Sender>> {
    let connecting = pin!(transport.connect(target));
    let (sender, mut receiver) = match select(connecting, pin!(Types::<R>::sleep(ANSWER_MAX))).await
    {
        Either::Left((connected, _)) => connected?,
        Either::Right(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let (put, frames) = flume::unbounded();
    drop(Types::<R>::spawn(async move {
        while let Ok(frame) = receiver.receive(FRAME_SIZE_MAX).await {
            if put.send(frame).is_err() {
                break;
            }
        }
    }));
    let mut link = Link { sender, frames };
    let id = target.id;
    let (own, known) = (log.own_mark(), log.known_peers().known(id));
    let hello = identity.hello(id, purpose, &own, &known);
    let answer = link.call::<R>(wire::hello(&hello)).await?.hello().map_err(broken)?;
    if !identity.is_from(&answer, id, purpose) {
        return Err(broken("it is not a replica of this shard"));
    }
    meet(log, id, &answer).await?;
    Ok(link)
}

/// Compares with what this replica is now, not with what it was when it sent its own hello: the
/// other one may have learned more on another connection. Runs in its own task: it writes a file,
/// and the engine may stop waiting for a connection.
async fn meet<H: Host, R: Runtime>(
    log: &RaftLog<H, R>,
    other: ReplicaId,
    hello: &HelloRow,
) -> io::Result<()> {
    let (known_peers, own) = (log.known_peers().clone(), log.own_mark());
    let (theirs, known) = (hello.own.get(), hello.known.get());
    let task = async move { known_peers.meet(other, &theirs, &own, &known).await };
    Types::<R>::spawn(task).await.map_err(broken)?
}

/// Answers the hello of another replica. Both sides check that the other one is what it was.
pub async fn answer_hello<H: Host, R: Runtime>(
    log: &RaftLog<H, R>,
    identity: Identity,
    hello: &HelloRow,
    sender: &mut impl FrameSender,
) -> io::Result<Purpose> {
    let from = hello.from.get();
    let purpose = Purpose::of(hello.purpose.get()).map_err(broken)?;
    let own = log.own_mark();
    let met = match identity.is_from(hello, from, purpose) {
        false => Err(broken(format!("replica {from} is not a replica of this shard"))),
        true => meet(log, from, hello).await,
    };
    // Sent even if the hello is refused, so that the other side learns why.
    let answer = identity.hello(from, purpose, &own, &log.known_peers().known(from));
    sender.send(wire::hello(&answer)).await?;
    met.map(|()| purpose)
}

impl Identity {
    fn hello(self, to: ReplicaId, purpose: Purpose, own: &Mark, known: &Mark) -> HelloRow {
        HelloRow {
            version: WIRE_VERSION.into(),
            seed: self.seed.into(),
            segment_size: self.segment_size.into(),
            from: self.id.into(),
            to: to.into(),
            purpose: (purpose as u64).into(),
            own: MarkRow::of(own),
            known: MarkRow::of(known),
        }
    }

    /// Whether `hello` is from the replica `from` of this shard, and addressed to this one.
    fn is_from(self, hello: &HelloRow, from: ReplicaId, purpose: Purpose) -> bool {
        let other = Self { id: from, ..self };
        let expected = other.hello(self.id, purpose, &hello.own.get(), &hello.known.get());
        hello.as_bytes() == expected.as_bytes()
    }
}

/// Bytes of a frame that has been received.
pub fn frame_of(head: &wire::FrameHead, rest: Bytes) -> io::Result<Frame> {
    Frame::parse(head, rest).map_err(broken)
}
