//! Sends a copy of the log to a replica that is empty or is missing what retention has deleted at
//! the leader, over a separate connection.
//!
//! ```text
//!   leader     offer: the list of files ─▶  ◀─ fetch … piece ─▶ … ─▶  ◀─ taken, or refused
//!   receiver                               staged, file by file ─▶ complete: the engine installs it
//! ```
//!
//! The receiver fetches what it is missing, a few pieces ahead. After an interruption on either
//! side, the engine begins again with a newer list, and complete files that are still in it are not
//! sent again. Both sides work in the background, and the leader reads the disk in turn with
//! consumers of old messages.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::type_config::TypeConfigExt;

use super::arrivals::Arrival;
use super::host::Host;
use super::link::{self, FrameReceiver, FrameSender, Identity, Target, Transport, broken};
use super::log::RaftLog;
use super::machine::Engine;
use super::types::{CopyData, ReplicaId, Runtime, Types, Vote, WholeCopy, failed, term_of};
use super::wire::{self, FRAME_SIZE_MAX, Frame, FrameKind, Offer, Purpose};
use crate::storage::{CopyFile, CopyPart, CopyReadError, Staging, StagingError};

/// Bytes of a file in one frame; a multiple of the block size.
const PIECE_BYTES: usize = 1 << 20;
/// Number of pieces that the receiver requests ahead.
const PIECES_AHEAD: usize = 4;
/// How long the other side may take to send its next frame before the copy is abandoned. The
/// receiver reads the end of the log before it sends its last one.
const FRAME_MAX: Duration = Duration::from_secs(120);
/// How often a file that arrives damaged is fetched.
const TRIES_MAX: usize = 2;

/// Sends a copy of this log.
pub struct CopySender<H: Host, R: Runtime, T> {
    pub log: RaftLog<H, R>,
    pub transport: T,
    pub identity: Identity,
    pub target: Target,
}

impl<H: Host, R: Runtime, T: Transport> CopySender<H, R, T> {
    /// Sends the copy, in the background. Returns the vote of the other replica, which has replaced
    /// its log or has a higher vote.
    pub async fn send(self, vote: Vote, copy: WholeCopy) -> io::Result<Vote> {
        let (give, sent) = flume::bounded(1);
        let host = self.log.host().clone();
        host.spawn_background(async move {
            let outcome = self.send_files(vote, copy, || give.is_disconnected()).await;
            // Nothing waits for the outcome if this replica has stopped leading.
            let _ = give.send(outcome);
        });
        sent.recv_async().await.map_err(failed)?
    }

    async fn send_files(
        &self,
        vote: Vote,
        copy: WholeCopy,
        is_over: impl Fn() -> bool,
    ) -> io::Result<Vote> {
        let (host, target) = (self.log.host(), self.target.id);
        let (CopyData::Here { snapshot: Some(snapshot) }, Some(last)) =
            (copy.snapshot, copy.meta.last_log_id)
        else {
            return Err(failed("there is no snapshot of the state yet"));
        };
        // Before that, the snapshot may contain more than is known to be committed.
        if term_of(&last) != vote.leader_id.term {
            return Err(failed("this leader has not committed anything yet"));
        }
        let place = host.broker().with_raft_entries(|entries| entries.place(last.index));
        let end = place.ok_or_else(|| failed("its last entry is too old"))?.end;
        let mut source = host.broker().store().begin_copy(snapshot, end).await.map_err(failed)?;
        let (identity, purpose) = (self.identity, Purpose::Copy);
        let mut link =
            link::connect(&self.log, &self.transport, identity, &self.target, purpose).await?;
        let offer = Offer { vote, meta: copy.meta, copy: source.copy().clone() };
        let bytes: u64 = offer.copy.files.iter().map(|file| file.size).sum();
        tracing::info!("replica {target} is missing deleted entries; it can copy {bytes} bytes");
        link.sender.send(wire::offer(&offer)).await?;
        loop {
            let frame = link.frame::<R>(FRAME_MAX).await?;
            if is_over() {
                return Err(failed("this replica has stopped leading"));
            }
            if frame.kind == FrameKind::Taken as u8 {
                return frame.taken().map_err(broken)?.map_err(failed);
            }
            let asked = frame.fetch().map_err(broken)?;
            let (file, size) = (asked.file.get() as usize, asked.size.get() as usize);
            let size = size.min(PIECE_BYTES);
            self.log.pace(size as u64).await;
            let read = {
                let _turn = host.cold_read().await;
                source.read(file, asked.position.get(), size).await
            };
            let piece = match read {
                Ok(bytes) => wire::piece(&asked, Some(&bytes)),
                Err(CopyReadError::Gone(_)) => wire::piece(&asked, None),
                Err(error) => return Err(failed(error)),
            };
            link.sender.send(piece).await?;
        }
    }
}

/// Why a copy did not arrive.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// The leader is told why.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Connection(#[from] io::Error),
}

/// Receives a copy of the leader's log and has the engine replace this replica's log with it.
pub async fn receive<H: Host, R: Runtime>(
    engine: Rc<Engine<H, R>>,
    log: RaftLog<H, R>,
    from: ReplicaId,
    sender: impl FrameSender,
    receiver: impl FrameReceiver,
) {
    let arrivals = log.arrivals().clone();
    let Some(arrival) = arrivals.begin().await else { return sender.close() };
    let mut session = Session { log, from, arrival, sender, receiver };
    if let Err(error) = session.run(&engine).await {
        tracing::warn!("a copy of the log of replica {from} has not arrived: {error}");
        if let Failed::Refused(reason) = error {
            // The leader finds out anyway.
            let _ = session.sender.send(wire::taken(Err(&reason))).await;
        }
    }
    session.sender.close();
}

/// One copy that is arriving.
struct Session<H: Host, R: Runtime, S, F> {
    log: RaftLog<H, R>,
    from: ReplicaId,
    arrival: Arrival,
    sender: S,
    receiver: F,
}

impl<H: Host, R: Runtime, S: FrameSender, F: FrameReceiver> Session<H, R, S, F> {
    async fn run(&mut self, engine: &Engine<H, R>) -> Result<(), Failed> {
        let Offer { vote, meta, mut copy } = self.frame().await?.offer().map_err(broken)?;
        let known = self.log.vote().filter(|known| *known > vote);
        if let Some(known) = known {
            self.sender.send(wire::taken(Ok(&known))).await?;
            return Ok(());
        }
        let staging = self.log.host().broker().store().staging();
        self.arrival.note_begun();
        let missing = staging.begin(&copy).await.map_err(|error| self.refused(&error))?;
        tracing::info!(
            "a copy of the log of replica {} arrives: {} files, {} of them are here",
            self.from,
            copy.files.len(),
            copy.files.len() - missing.len()
        );
        for file in missing {
            let number = copy.files.iter().position(|known| *known == file).expect("it is listed");
            if !self.fetch(&staging, number, file).await? {
                // The index file is rebuilt from its segment. Positions in the list stay the same.
                copy.files[number].size = 0;
            }
        }
        copy.files.retain(|file| file.size > 0);
        let snapshot = CopyData::Arrived(copy);
        let installed = engine.install_full_snapshot(vote, WholeCopy { meta, snapshot });
        let response = installed.await.map_err(failed)?;
        self.sender.send(wire::taken(Ok(&response.vote))).await?;
        Ok(())
    }

    /// Fetches a file. Returns false if it is an index file that is not available.
    async fn fetch(
        &mut self,
        staging: &Staging<H::Disk>,
        number: usize,
        file: CopyFile,
    ) -> Result<bool, Failed> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_fetch(staging, number, file).await? {
                Ok(()) => return Ok(true),
                Err(_) if file.part == CopyPart::Index => return Ok(false),
                Err(StagingError::Damaged { .. }) if tries < TRIES_MAX => {}
                Err(error) => return Err(self.refused(&error)),
            }
        }
    }

    /// The inner error is about the file.
    async fn try_fetch(
        &mut self,
        staging: &Staging<H::Disk>,
        number: usize,
        file: CopyFile,
    ) -> Result<Result<(), StagingError>, Failed> {
        let mut arriving = match staging.receive(file).await {
            Ok(arriving) => arriving,
            Err(error) => return Ok(Err(error)),
        };
        let (mut asked_to, mut asked) = (0, VecDeque::new());
        let mut outcome = Ok(());
        while arriving.position() < file.size || !asked.is_empty() {
            while asked_to < file.size && asked.len() < PIECES_AHEAD && outcome.is_ok() {
                self.sender.send(wire::fetch(number, asked_to, PIECE_BYTES)).await?;
                asked.push_back(asked_to);
                asked_to += (file.size - asked_to).min(PIECE_BYTES as u64);
            }
            let Some(position) = asked.pop_front() else { break };
            let frame = self.frame().await?;
            let (row, bytes) = frame.piece().map_err(broken)?;
            if (row.file.get(), row.position.get()) != (number as u64, position) {
                return Err(broken("unexpected piece").into());
            }
            let gone = StagingError::Damaged { file: file.name(), at: file.place };
            if outcome.is_ok() {
                outcome = match row.is_gone.get() {
                    0 => arriving.write(bytes).await,
                    _ if file.part == CopyPart::Index => Err(gone),
                    _ => return Err(failed("retention has deleted some of it meanwhile").into()),
                };
            }
        }
        match outcome {
            Ok(()) => Ok(arriving.complete().await),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The next frame from the leader, unless a newer copy arrives.
    async fn frame(&mut self) -> io::Result<Frame> {
        let (superseded, timer) =
            (pin!(self.arrival.superseded()), pin!(Types::<R>::sleep(FRAME_MAX)));
        let over = select(superseded, timer);
        match select(over, pin!(self.receiver.receive(FRAME_SIZE_MAX))).await {
            Either::Right((frame, _)) => frame,
            Either::Left((Either::Left(_), _)) => Err(failed("a newer copy arrives")),
            Either::Left((Either::Right(_), _)) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn refused(&self, error: &StagingError) -> Failed {
        let from = self.from;
        Failed::Refused(match error {
            StagingError::Damaged { .. } => format!(
                "RINGMQ-5001 {error}, as it is on replica {from}. To go on with the copy of another \
                 replica, let that one lead"
            ),
            StagingError::Disk(fault) => format!(
                "RINGMQ-5002 this replica cannot store a copy of the log beside its own: {fault}"
            ),
            StagingError::NotWhole => format!("RINGMQ-5001 {error}"),
        })
    }
}
