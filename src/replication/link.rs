//! Connections between the copies of a shard: how they begin, over any transport of frames.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use openraft::type_config::TypeConfigExt;

use super::types::{ReplicaId, Runtime, Types};
use super::wire::{self, FRAME_SIZE_MAX, Frame, HelloRow, Purpose, WIRE_VERSION};

/// How long an answer may take before the connection counts as lost.
pub const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Connections that carry frames.
pub trait Transport: Clone + 'static {
    type Sender: FrameSender;
    type Receiver: FrameReceiver;

    fn connect(
        &self,
        target: ReplicaId,
    ) -> impl Future<Output = io::Result<(Self::Sender, Self::Receiver)>>;
}

pub trait FrameSender: 'static {
    fn send(&mut self, frame: Vec<u8>) -> impl Future<Output = io::Result<()>>;

    /// Closes the connection in both directions.
    fn close(&self);
}

pub trait FrameReceiver: 'static {
    /// Receives a frame of at most `size_max` bytes; a larger one is an error, and takes no memory.
    fn receive(&mut self, size_max: usize) -> impl Future<Output = io::Result<Frame>>;
}

/// Who this copy is, and what all copies of its shard have in common.
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

/// Connects with another copy, and checks that it is one.
pub async fn connect<R: Runtime, T: Transport>(
    transport: &T,
    identity: Identity,
    target: ReplicaId,
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
    let hello = wire::hello(&identity.hello(target, purpose));
    let answer = link.call::<R>(hello).await?;
    let other = answer.hello().map_err(broken)?;
    match other == identity.answer(target, purpose) {
        true => Ok(link),
        false => Err(broken("it is not a copy of this shard")),
    }
}

impl Identity {
    pub fn hello(self, to: ReplicaId, purpose: Purpose) -> HelloRow {
        HelloRow {
            version: WIRE_VERSION.into(),
            seed: self.seed.into(),
            segment_size: self.segment_size.into(),
            from: self.id.into(),
            to: to.into(),
            purpose: (purpose as u64).into(),
        }
    }

    /// The hello that the other copy answers with.
    pub fn answer(self, from: ReplicaId, purpose: Purpose) -> HelloRow {
        let other = Self { id: from, ..self };
        other.hello(self.id, purpose)
    }
}

impl PartialEq for HelloRow {
    fn eq(&self, other: &Self) -> bool {
        zerocopy::IntoBytes::as_bytes(self) == zerocopy::IntoBytes::as_bytes(other)
    }
}

/// Bytes of a frame that has been received.
pub fn frame_of(head: &wire::FrameHead, rest: Bytes) -> io::Result<Frame> {
    Frame::parse(head, rest).map_err(broken)
}
