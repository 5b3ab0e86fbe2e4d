//! The consensus engine's calls to the other replicas, over any transport of frames.
//!
//! ```text
//!   engine ─▶ requests ─▶ window in bytes ─▶ frames ──────────────▶ serve ─▶ engine of the other replica
//!          ◀─ answers in order ◀─ reader task ◀── frames ◀──────────┘
//! ```
//!
//! A connection is opened only once the engine has a first request, because the engine's pauses
//! after failures are part of its stream of requests. Dropping a [`Link`] closes the connection,
//! which ends its reader.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt, stream};
use openraft::async_runtime::WatchReceiver;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use super::copying::{self, CopySender};
use super::host::Host;
use super::link::{
    self, ANSWER_MAX, FrameReceiver, FrameSender, Identity, Link, Target, Transport, broken,
};
use super::log::RaftLog;
use super::machine::Engine;
use super::preference::TransferReason;
use super::types::{
    Body, CopyData, Entry, LogId, Place, ReplicaId, Runtime, Types, Vote, WholeCopy,
};
use super::wire::{self, FRAME_SIZE_MAX, Frame, FrameKind, HELLO_SIZE_MAX, Purpose};
use crate::planted::{self, Bug};
use crate::storage::RawReader;

/// Maximum bytes of entries in flight to a replica, unless a single request is larger.
const WINDOW_BYTES: usize = 8 << 20;
/// The same for old entries, of which there are always more: a larger window would only make the
/// other replica's disk slower for everyone else.
const OLD_WINDOW_BYTES: usize = 2 << 20;
/// Maximum requests of one connection that the engine has and has not answered.
const REQUESTS_MAX: usize = 64;

/// Makes the engine's clients.
pub struct Network<H: Host, R: Runtime, T> {
    log: RaftLog<H, R>,
    transport: T,
    identity: Identity,
}

impl<H: Host, R: Runtime, T: Transport> Network<H, R, T> {
    pub fn new(log: RaftLog<H, R>, transport: T, identity: Identity) -> Self {
        Self { log, transport, identity }
    }
}

impl<H: Host, R: Runtime, T: Transport> RaftNetworkFactory<Types<R>> for Network<H, R, T> {
    type Network = Peer<H, R, T>;

    async fn new_client(&mut self, target: ReplicaId, place: &Place) -> Peer<H, R, T> {
        Peer {
            log: self.log.clone(),
            transport: self.transport.clone(),
            identity: self.identity,
            target: Target { id: target, place: place.clone() },
            raw: RawReader::new(self.log.host().broker().store().clone()),
            stream: None,
            calls: None,
        }
    }
}

/// Another replica, as one of the engine's tasks sees it. Connections are kept between calls.
pub struct Peer<H: Host, R: Runtime, T: Transport> {
    log: RaftLog<H, R>,
    transport: T,
    identity: Identity,
    target: Target,
    raw: RawReader<H::Disk>,
    stream: Option<Link<T::Sender>>,
    calls: Option<Link<T::Sender>>,
}

impl<H: Host, R: Runtime, T: Transport> Peer<H, R, T> {
    async fn connect(&self, purpose: Purpose) -> io::Result<Link<T::Sender>> {
        link::connect(&self.log, &self.transport, self.identity, &self.target, purpose).await
    }

    async fn call(&mut self, frame: Vec<u8>) -> Result<Frame, RPCError<Types<R>>> {
        let mut link = match self.calls.take() {
            Some(link) => link,
            None => self.connect(Purpose::Calls).await.map_err(unreachable)?,
        };
        let answer = link.call::<R>(frame).await.map_err(lost)?;
        self.calls = Some(link);
        Ok(answer)
    }

    /// Requests a vote, or asks what it would be.
    async fn ask_vote(
        &mut self,
        request: &VoteRequest<Types<R>>,
        is_pre: bool,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let answer = self.call(wire::ask_vote(request, is_pre)).await?;
        let (response, is_removed) = answer.voted().map_err(|error| lost(broken(error)))?;
        if is_removed {
            self.log.note_removed();
        }
        Ok(response)
    }

    async fn encode(&mut self, request: &AppendEntriesRequest<Types<R>>) -> io::Result<Vec<u8>> {
        let mut append = wire::NewAppend::new(request);
        for entry in &request.entries {
            let before = append.bytes().len();
            match &entry.body {
                Body::Stored(range) => {
                    let read = self.raw.read(range.start, range.end, append.bytes());
                    read.await.map_err(broken)?;
                }
                Body::Raw(bytes) => append.bytes().extend_from_slice(bytes),
                Body::Gone => return Err(broken("retention has deleted it")),
                Body::New => unreachable!("entries are read from the log after they were appended"),
            }
            append.end_entry(before);
        }
        Ok(append.sealed())
    }
}

fn unreachable<R: Runtime>(error: io::Error) -> RPCError<Types<R>> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn lost<R: Runtime>(error: io::Error) -> RPCError<Types<R>> {
    RPCError::Network(NetworkError::new(&error))
}

/// Bytes of an entry if it was read from the disk, else 0.
fn size_if_old(entry: &Entry) -> usize {
    if let Body::Raw(bytes) = &entry.body { bytes.len() } else { 0 }
}

/// A stream of appends in progress.
struct Flow<'s, H: Host, R: Runtime, T: Transport, S> {
    peer: &'s mut Peer<H, R, T>,
    link: Link<T::Sender>,
    input: S,
    /// The first request, until it is sent.
    first: Option<AppendEntriesRequest<Types<R>>>,
    /// Sizes of the requests in flight.
    in_flight: VecDeque<usize>,
    /// The last request carries entries that were read from the disk.
    is_behind: bool,
    has_ended: bool,
}

enum Event<R: Runtime> {
    Request(AppendEntriesRequest<Types<R>>),
    Reply(Frame),
    /// No more requests.
    Ended,
    /// No more requests, and all are answered.
    Done,
}

impl<H, R, T, S> Flow<'_, H, R, T, S>
where
    H: Host,
    R: Runtime,
    T: Transport,
    S: Stream<Item = AppendEntriesRequest<Types<R>>> + Unpin,
{
    async fn next(&mut self) -> io::Result<Option<StreamAppendResult<Types<R>>>> {
        loop {
            match self.event().await? {
                Event::Request(request) => {
                    let old_bytes: usize = request.entries.iter().map(size_if_old).sum();
                    self.is_behind = old_bytes > 0;
                    self.peer.log.pace(old_bytes as u64).await;
                    let frame = self.peer.encode(&request).await?;
                    self.in_flight.push_back(frame.len());
                    self.link.sender.send(frame).await?;
                }
                Event::Reply(frame) => {
                    self.in_flight.pop_front();
                    let (outcome, is_full) = frame.appended::<R>().map_err(broken)?;
                    self.peer.log.note_full(self.peer.target.id, is_full);
                    return Ok(Some(outcome));
                }
                Event::Ended => self.has_ended = true,
                Event::Done => return Ok(None),
            }
        }
    }

    async fn event(&mut self) -> io::Result<Event<R>> {
        if let Some(first) = self.first.take() {
            return Ok(Event::Request(first));
        }
        if self.has_ended && self.in_flight.is_empty() {
            return Ok(Event::Done);
        }
        let window = if self.is_behind { OLD_WINDOW_BYTES } else { WINDOW_BYTES };
        let is_full = self.in_flight.iter().sum::<usize>() >= window;
        if self.has_ended || is_full {
            return self.link.answer::<R>().await.map(Event::Reply);
        }
        let next = |request: Option<_>| request.map_or(Event::Ended, Event::Request);
        if self.in_flight.is_empty() {
            return Ok(next(self.input.next().await));
        }
        let answer = pin!(self.link.answer::<R>());
        match select(answer, self.input.next()).await {
            Either::Left((answer, _)) => answer.map(Event::Reply),
            Either::Right((request, _)) => Ok(next(request)),
        }
    }
}

impl<H: Host, R: Runtime, T: Transport> RaftNetworkV2<Types<R>> for Peer<H, R, T> {
    type SnapshotData = CopyData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        let mut answers = self.stream_append(stream::iter([request]), option).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(lost(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>>,
            RPCError<Types<R>>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else {
                return Ok(Box::pin(stream::empty()) as BoxStream<'s, _>);
            };
            let link = match self.stream.take() {
                Some(link) => link,
                None => self.connect(Purpose::Appends).await.map_err(unreachable)?,
            };
            let (first, in_flight) = (Some(first), VecDeque::new());
            let (is_behind, has_ended) = (false, false);
            let flow = Flow { peer: self, link, input, first, in_flight, is_behind, has_ended };
            let answers = stream::unfold(Some(flow), |flow| async move {
                let mut flow = flow?;
                match flow.next().await {
                    Ok(Some(answer)) if answer.is_ok() => Some((Ok(answer), Some(flow))),
                    // The other replica ends the stream after that.
                    Ok(Some(answer)) => Some((Ok(answer), None)),
                    Ok(None) => {
                        flow.peer.stream = Some(flow.link);
                        None
                    }
                    Err(error) => Some((Err(lost(error)), None)),
                }
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        self.ask_vote(&request, false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        self.ask_vote(&request, true).await
    }

    /// Sends the other replica a copy of the log, because it is missing what retention has deleted
    /// here.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: WholeCopy,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let (log, transport) = (self.log.clone(), self.transport.clone());
        let sender =
            CopySender { log, transport, identity: self.identity, target: self.target.clone() };
        let sending = pin!(sender.send(vote, snapshot));
        match select(sending, pin!(cancel)).await {
            Either::Left((Ok(vote), _)) => Ok(SnapshotResponse::new(vote)),
            Either::Left((Err(error), _)) => {
                let target = self.target.id;
                tracing::warn!(
                    "replica {target} did not get a copy of the log, will retry: {error}"
                );
                Err(StreamingError::Unreachable(Unreachable::new(&error)))
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        self.log.give_up_lease();
        let is_ordered = self.log.leader_transfer() == Some(TransferReason::Ordered);
        let answer = self.call(wire::transfer(&request, is_ordered)).await?;
        answer.transferred(&request).map_err(|error| lost(broken(error)))
    }
}

/// Serves a connection from another replica until it closes or breaks. Before the engine runs, the
/// two sides only exchange their identities.
pub async fn serve<H: Host, R: Runtime>(
    engine: Option<Rc<Engine<H, R>>>,
    log: RaftLog<H, R>,
    identity: Identity,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
) -> io::Result<()> {
    // Until the peer has identified itself as a replica of this shard, anyone may have connected.
    let hello = {
        let hello = pin!(receiver.receive(HELLO_SIZE_MAX));
        match select(hello, pin!(Types::<R>::sleep(ANSWER_MAX))).await {
            Either::Left((hello, _)) => hello?.hello().map_err(broken)?,
            Either::Right(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    };
    let purpose = link::answer_hello(&log, identity, &hello, &mut sender).await?;
    let Some(engine) = engine else { return Ok(()) };
    match purpose {
        Purpose::Appends => serve_stream(engine, log, sender, receiver).await,
        Purpose::Calls => serve_calls(engine, log, hello.from.get(), sender, receiver).await,
        Purpose::Copy => {
            let host = log.host().clone();
            host.spawn_background(copying::receive(
                engine,
                log,
                hello.from.get(),
                sender,
                receiver,
            ));
            Ok(())
        }
    }
}

async fn serve_stream<H: Host, R: Runtime>(
    engine: Rc<Engine<H, R>>,
    log: RaftLog<H, R>,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
) -> io::Result<()> {
    let (put, requests) = flume::bounded(REQUESTS_MAX);
    let metrics = engine.metrics();
    drop(Types::<R>::spawn(async move {
        while let Ok(frame) = receiver.receive(FRAME_SIZE_MAX).await {
            let mut request = match frame.append::<R>() {
                Ok(request) => request,
                Err(error) => {
                    return tracing::error!("invalid append from another replica: {error}");
                }
            };
            if planted::is(Bug::AcceptsOldTerms) {
                let own = metrics.borrow_watched().vote;
                if own.leader_id.term > request.vote.leader_id.term {
                    request.vote = own;
                }
            }
            if put.send_async(request).await.is_err() {
                return;
            }
        }
    }));
    let mut answers = pin!(engine.stream_append(requests.into_stream()));
    while let Some(answer) = answers.next().await {
        let answer: Result<Option<LogId>, _> = answer.map_err(broken)?;
        if answer.is_ok() {
            log.hear_leader();
        }
        let is_full = log.host().broker().store().is_disk_full();
        sender.send(wire::appended::<R>(&answer, is_full)).await?;
        if answer.is_err() {
            break;
        }
    }
    sender.close();
    Ok(())
}

/// Whether a majority knows that a replica, whose last entry is `last`, is not a member. This
/// replica may not know yet that it was added again; then the log of that replica extends further.
fn is_removed<H: Host, R: Runtime>(
    engine: &Engine<H, R>,
    replica: ReplicaId,
    last: Option<LogId>,
) -> bool {
    let metrics = engine.metrics();
    let metrics = metrics.borrow_watched();
    let members = &metrics.membership_config;
    let is_committed = members.log_id().is_some() && *members.log_id() <= metrics.last_applied;
    let is_new = *members.log_id() >= last;
    is_committed && is_new && members.membership().get_node(&replica).is_none()
}

async fn serve_calls<H: Host, R: Runtime>(
    engine: Rc<Engine<H, R>>,
    log: RaftLog<H, R>,
    from: ReplicaId,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
) -> io::Result<()> {
    loop {
        let frame = receiver.receive(FRAME_SIZE_MAX).await?;
        let answer = if frame.kind == FrameKind::Transfer as u8 {
            let (request, is_ordered) = frame.transfer().map_err(broken)?;
            if is_ordered && *request.to_node_id() == log.id() {
                log.choose(request.from_leader().leader_id.term);
            }
            wire::transferred(&engine.handle_transfer_leader(request).await.map_err(broken)?)
        } else {
            let request = frame.ask_vote::<R>().map_err(broken)?;
            let last = request.last_log_id;
            let response = match frame.kind == FrameKind::PreVote as u8 {
                _ if log.has_promised() && !request.leadership_transfer => Ok(log.refused_vote()),
                true => engine.pre_vote(request).await,
                false => engine.vote(request).await,
            };
            wire::voted(&response.map_err(broken)?, is_removed(&engine, from, last))
        };
        sender.send(answer).await?;
    }
}
