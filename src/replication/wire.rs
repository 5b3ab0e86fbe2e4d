//! The frames between the replicas of a shard.
//!
//! ```text
//!   frame:    size u32 | checksum u32 | kind u8, zeros | head, rows | entries in raw form
//!             size counts what follows the checksum; the checksum covers everything up to the entries,
//!             which have checksums of their own
//! ```
//!
//! A connection begins with a [`HelloRow`] that states which replica set and shard it is for, and
//! its [`Purpose`]: calls, one at a time; a stream of appends with answers in order; or a copy of
//! the log, whose receiver fetches its files piece by piece. All numbers are little-endian. Pure:
//! bytes to messages and back.

use std::mem::size_of;

use bytes::Bytes;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::members;
use super::types::{
    Body, CopyMeta, Entry, LogId, Payload, Proposal, Runtime, StoredMembers, Types, Vote, log_id,
    term_of, vote,
};
use crate::broker::raft_entries::members_of_raw;
use crate::model::LogOffset;
use crate::storage::copy::CopyRow;
use crate::storage::{CopyFile, LogCopy, Mark};
use openraft::EntryPayload;
use openraft::entry::RaftPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

/// Version of the frames; any other is refused.
pub const WIRE_VERSION: u32 = 2;
/// Maximum size of a frame, bytes: entries for one append, and their rows.
pub const FRAME_SIZE_MAX: usize = 64 << 20;

/// Maximum size of the first frame of a connection.
pub const HELLO_SIZE_MAX: usize = 256;

/// Precedes every frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHead {
    /// Bytes after `checksum`.
    pub size: U32,
    /// CRC32C of kind, head and rows.
    pub checksum: U32,
    pub kind: u8,
    pub reserved: [u8; 3],
    /// Bytes of head and rows.
    pub head_size: U32,
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Hello = 1,
    Append = 2,
    Appended = 3,
    Vote = 4,
    PreVote = 5,
    Voted = 6,
    Transfer = 7,
    Transferred = 8,
    /// A copy of the log can be fetched.
    Offer = 9,
    Fetch = 10,
    Piece = 11,
    /// The copy has replaced the log, or will not.
    Taken = 12,
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    Calls = 0,
    Appends = 1,
    Copy = 2,
}

impl Purpose {
    pub fn of(number: u64) -> Result<Self, FrameError> {
        let all = [Self::Calls, Self::Appends, Self::Copy];
        let found = all.into_iter().find(|purpose| *purpose as u64 == number);
        found.ok_or(FrameError::Damaged)
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HelloRow {
    pub version: U32,
    /// Seed of the checksums of the shard's log: the same on all replicas.
    pub seed: U32,
    pub segment_size: U64,
    pub from: U64,
    pub to: U64,
    /// A [`Purpose`].
    pub purpose: U64,
    /// What the sender is.
    pub own: MarkRow,
    /// What it remembers of the receiver.
    pub known: MarkRow,
}

/// A directory, and how far it has got.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MarkRow {
    pub directory: U64,
    pub starts: U64,
    pub term: U64,
    pub index: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VoteRow {
    pub term: U64,
    pub voted_for: U64,
    pub is_committed: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogIdRow {
    /// 0 if there is no entry.
    pub is_some: U64,
    pub term: U64,
    pub index: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AppendRow {
    pub vote: VoteRow,
    pub previous: LogIdRow,
    pub committed: LogIdRow,
    pub entry_count: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EntryRow {
    pub term: U64,
    pub index: U64,
    /// Bytes in raw form.
    pub size: U32,
    /// 1 if it changes the members.
    pub has_members: U32,
}

/// The answer to an append or to a leadership transfer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AppendedRow {
    /// 0: stored up to `log_id`, or taken over; 1: `log_id` is not what this replica has, or is all
    /// that it has; 2: `vote` is higher or different.
    pub outcome: U64,
    pub log_id: LogIdRow,
    pub vote: VoteRow,
}

/// The answer to an append. Older versions send only the first part.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StoredRow {
    pub appended: AppendedRow,
    /// 1 if the disk is full.
    pub is_full: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AskVoteRow {
    pub vote: VoteRow,
    pub last: LogIdRow,
    pub is_transfer: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VotedRow {
    pub vote: VoteRow,
    pub last: LogIdRow,
    pub is_granted: U64,
}

/// The answer to a request for a vote. Older versions send only the first part.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BallotRow {
    pub voted: VotedRow,
    /// 1 if the replica that asks is no longer a member.
    pub is_removed: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TransferRow {
    pub from: VoteRow,
    pub to: U64,
    pub last: LogIdRow,
    /// 1 if an operator ordered it.
    pub is_ordered: U64,
}

/// A copy of the log. [`CopyRow`]s follow, and then the members.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OfferRow {
    pub vote: VoteRow,
    /// The copy's last entry.
    pub last: LogIdRow,
    /// The entry that set the current members.
    pub members_at: LogIdRow,
    /// Log offset at which the copy ends.
    pub end: U64,
    pub file_count: U64,
}

/// Asks for a part of a file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FetchRow {
    /// Its position in the list of files.
    pub file: U64,
    pub position: U64,
    pub size: U64,
}

/// The answer; the bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PieceRow {
    pub file: U64,
    pub position: U64,
    /// 1 if retention has deleted the file.
    pub is_gone: U32,
    /// CRC32C of the bytes.
    pub checksum: U32,
}

/// The end of a copy. If it was refused, the reason follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TakenRow {
    pub vote: VoteRow,
    pub is_refused: U64,
}

const _: () = {
    assert!(size_of::<OfferRow>() == 88);
    assert!(size_of::<FetchRow>() == 24);
    assert!(size_of::<PieceRow>() == 24);
    assert!(size_of::<TakenRow>() == 32);
    assert!(size_of::<FrameHead>() == 16);
    assert!(size_of::<HelloRow>() == 104);
    assert!(size_of::<AppendRow>() == 80);
    assert!(size_of::<EntryRow>() == 24);
    assert!(size_of::<AppendedRow>() == 56);
    assert!(size_of::<StoredRow>() == 64);
    assert!(size_of::<AskVoteRow>() == 56);
    assert!(size_of::<VotedRow>() == 56);
    assert!(size_of::<BallotRow>() == 64);
    assert!(size_of::<TransferRow>() == 64);
};

/// Bytes that precede kind and head.
const PREFIX_SIZE: usize = 2 * size_of::<U32>();

/// Why bytes are not a valid frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes exceeds the limit")]
    TooLarge(usize),
    #[error("a frame is damaged")]
    Damaged,
    #[error("a frame of kind {0} was not expected")]
    Unexpected(u8),
}

/// The number of bytes that follow the first [`FrameHead`]; they must be received before
/// [`Frame::parse`]. Refuses a frame of more than `size_max` bytes.
pub fn rest_size(head: &FrameHead, size_max: usize) -> Result<usize, FrameError> {
    let size = head.size.get() as usize + PREFIX_SIZE;
    let rest = size.checked_sub(size_of::<FrameHead>()).ok_or(FrameError::Damaged)?;
    if size > size_max { Err(FrameError::TooLarge(size)) } else { Ok(rest) }
}

/// A received frame: its kind, its head with rows, and the entries.
pub struct Frame {
    pub kind: u8,
    head: Bytes,
    entries: Bytes,
}

impl Frame {
    /// Checks what follows `head`.
    pub fn parse(head: &FrameHead, rest: Bytes) -> Result<Self, FrameError> {
        let head_size = head.head_size.get() as usize;
        if rest.len() < head_size {
            return Err(FrameError::Damaged);
        }
        let covered = crc32c::crc32c(&head.as_bytes()[PREFIX_SIZE..]);
        if crc32c::crc32c_append(covered, &rest[..head_size]) != head.checksum.get() {
            return Err(FrameError::Damaged);
        }
        let (kind, entries) = (head.kind, rest.slice(head_size..));
        Ok(Self { kind, head: rest.slice(..head_size), entries })
    }

    fn head<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
        kind: FrameKind,
    ) -> Result<&T, FrameError> {
        if self.kind != kind as u8 {
            return Err(FrameError::Unexpected(self.kind));
        }
        T::ref_from_prefix(&self.head).map(|(head, _)| head).map_err(|_| FrameError::Damaged)
    }

    pub fn hello(&self) -> Result<HelloRow, FrameError> {
        self.head::<HelloRow>(FrameKind::Hello).copied()
    }

    pub fn append<R: Runtime>(&self) -> Result<AppendEntriesRequest<Types<R>>, FrameError> {
        let row = self.head::<AppendRow>(FrameKind::Append)?;
        let rows = <[EntryRow]>::ref_from_bytes(&self.head[size_of::<AppendRow>()..])
            .map_err(|_| FrameError::Damaged)?;
        if rows.len() as u64 != row.entry_count.get() {
            return Err(FrameError::Damaged);
        }
        let (mut at, mut entries) = (0, Vec::with_capacity(rows.len()));
        for entry in rows {
            let end = at + entry.size.get() as usize;
            if end > self.entries.len() {
                return Err(FrameError::Damaged);
            }
            let bytes = self.entries.slice(at..end);
            let payload = match entry.has_members.get() {
                0 => EntryPayload::Normal(Proposal),
                _ => {
                    let members = members_of_raw(&bytes).and_then(members::decode);
                    Payload::membership(members.ok_or(FrameError::Damaged)?)
                }
            };
            let log_id = log_id(entry.term.get(), entry.index.get());
            entries.push(Entry { log_id, payload, body: Body::Raw(bytes) });
            at = end;
        }
        Ok(AppendEntriesRequest {
            vote: row.vote.get(),
            prev_log_id: row.previous.get(),
            entries,
            leader_commit: row.committed.get(),
        })
    }

    /// The outcome of an append, and whether the disk of the replica that answers is full.
    pub fn appended<R: Runtime>(&self) -> Result<(Appended<R>, bool), FrameError> {
        let row = self.head::<AppendedRow>(FrameKind::Appended)?;
        let outcome = match (row.outcome.get(), row.log_id.get()) {
            (0, log_id) => Ok(log_id),
            (1, Some(log_id)) => Err(StreamAppendError::Conflict(log_id)),
            (2, _) => Err(StreamAppendError::HigherVote(row.vote.get())),
            _ => return Err(FrameError::Damaged),
        };
        let row = self.head::<StoredRow>(FrameKind::Appended);
        Ok((outcome, row.is_ok_and(|row| row.is_full.get() != 0)))
    }

    /// A request for a vote, or for what the vote would be.
    pub fn ask_vote<R: Runtime>(&self) -> Result<VoteRequest<Types<R>>, FrameError> {
        let is_pre = self.kind == FrameKind::PreVote as u8;
        let kind = if is_pre { FrameKind::PreVote } else { FrameKind::Vote };
        let row = self.head::<AskVoteRow>(kind)?;
        let mut request = VoteRequest::new(row.vote.get(), row.last.get());
        request.leadership_transfer = row.is_transfer.get() != 0;
        Ok(request)
    }

    /// The answer to a request for a vote, and whether the replica that asked is no longer a
    /// member.
    pub fn voted<R: Runtime>(&self) -> Result<(VoteResponse<Types<R>>, bool), FrameError> {
        let row = self.head::<VotedRow>(FrameKind::Voted)?;
        let response = VoteResponse::new(row.vote.get(), row.last.get(), row.is_granted.get() != 0);
        let row = self.head::<BallotRow>(FrameKind::Voted);
        Ok((response, row.is_ok_and(|row| row.is_removed.get() != 0)))
    }

    /// A leadership transfer, and whether an operator ordered it.
    pub fn transfer<R: Runtime>(
        &self,
    ) -> Result<(TransferLeaderRequest<Types<R>>, bool), FrameError> {
        let row = self.head::<TransferRow>(FrameKind::Transfer)?;
        let request = TransferLeaderRequest::new(row.from.get(), row.to.get(), row.last.get());
        Ok((request, row.is_ordered.get() != 0))
    }

    /// The answer to `request`.
    pub fn transferred<R: Runtime>(
        &self,
        request: &TransferLeaderRequest<Types<R>>,
    ) -> Result<TransferLeaderResponse<Types<R>>, FrameError> {
        let row = self.head::<AppendedRow>(FrameKind::Transferred)?;
        Ok(match row.outcome.get() {
            0 => Ok(()),
            1 => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: row.log_id.get(),
            }),
            _ => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: row.vote.get(),
            }),
        })
    }
}

/// A copy of the log that the leader offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub vote: Vote,
    pub meta: CopyMeta,
    pub copy: LogCopy,
}

impl Frame {
    pub fn offer(&self) -> Result<Offer, FrameError> {
        let row = self.head::<OfferRow>(FrameKind::Offer)?;
        let count = usize::try_from(row.file_count.get()).map_err(|_| FrameError::Damaged)?;
        let rest = &self.head[size_of::<OfferRow>()..];
        let rows = <[CopyRow]>::ref_from_prefix_with_elems(rest, count);
        let (rows, members) = rows.map_err(|_| FrameError::Damaged)?;
        let files = rows.iter().map(CopyFile::of).collect::<Option<_>>();
        let members = members::decode(members).ok_or(FrameError::Damaged)?;
        let meta = CopyMeta {
            last_log_id: row.last.get(),
            last_membership: StoredMembers::new(row.members_at.get(), members),
        };
        let (end, files) = (LogOffset(row.end.get()), files.ok_or(FrameError::Damaged)?);
        Ok(Offer { vote: row.vote.get(), meta, copy: LogCopy { end, files } })
    }

    pub fn fetch(&self) -> Result<FetchRow, FrameError> {
        self.head::<FetchRow>(FrameKind::Fetch).copied()
    }

    /// A piece and its bytes, which are intact.
    pub fn piece(&self) -> Result<(PieceRow, &[u8]), FrameError> {
        let row = *self.head::<PieceRow>(FrameKind::Piece)?;
        match crc32c::crc32c(&self.entries) == row.checksum.get() {
            true => Ok((row, &self.entries)),
            false => Err(FrameError::Damaged),
        }
    }

    /// The vote of the other replica, or the reason why it did not replace its log with the copy.
    pub fn taken(&self) -> Result<Result<Vote, String>, FrameError> {
        let row = self.head::<TakenRow>(FrameKind::Taken)?;
        let reason = &self.head[size_of::<TakenRow>()..];
        Ok(match row.is_refused.get() {
            0 => Ok(row.vote.get()),
            _ => Err(String::from_utf8_lossy(reason).into_owned()),
        })
    }
}

/// A frame with `head`, to which rows and then entries may be added before it is sealed.
struct NewFrame(Vec<u8>);

impl NewFrame {
    fn new(kind: FrameKind, head: &(impl IntoBytes + Immutable)) -> Self {
        let frame = FrameHead {
            size: U32::ZERO,
            checksum: U32::ZERO,
            kind: kind as u8,
            reserved: [0; 3],
            head_size: U32::ZERO,
        };
        let mut bytes = frame.as_bytes().to_vec();
        bytes.extend_from_slice(head.as_bytes());
        Self(bytes)
    }

    /// Fills in sizes and checksum; the last `entries_size` bytes are entries.
    fn sealed(mut self, entries_size: usize) -> Vec<u8> {
        let size = self.0.len();
        let head_end = size - entries_size;
        let head_size = U32::new((head_end - size_of::<FrameHead>()) as u32);
        let (head, _) = FrameHead::mut_from_prefix(&mut self.0).expect("it begins with its head");
        head.size = U32::new((size - PREFIX_SIZE) as u32);
        head.head_size = head_size;
        let checksum = crc32c::crc32c(&self.0[PREFIX_SIZE..head_end]);
        self.0[size_of::<U32>()..PREFIX_SIZE].copy_from_slice(&checksum.to_le_bytes());
        self.0
    }
}

pub fn hello(row: &HelloRow) -> Vec<u8> {
    NewFrame::new(FrameKind::Hello, row).sealed(0)
}

pub fn offer(offer: &Offer) -> Vec<u8> {
    let row = OfferRow {
        vote: VoteRow::of(&offer.vote),
        last: LogIdRow::of(offer.meta.last_log_id.as_ref()),
        members_at: LogIdRow::of(offer.meta.last_membership.log_id().as_ref()),
        end: U64::new(offer.copy.end.0),
        file_count: U64::new(offer.copy.files.len() as u64),
    };
    let mut frame = NewFrame::new(FrameKind::Offer, &row);
    frame.0.extend_from_slice(offer.copy.rows().as_bytes());
    frame.0.extend_from_slice(&members::encode(offer.meta.last_membership.membership()));
    frame.sealed(0)
}

pub fn fetch(file: usize, position: u64, size: usize) -> Vec<u8> {
    let row = FetchRow {
        file: U64::new(file as u64),
        position: U64::new(position),
        size: U64::new(size as u64),
    };
    NewFrame::new(FrameKind::Fetch, &row).sealed(0)
}

/// The answer to `asked`; without bytes if the file was deleted.
pub fn piece(asked: &FetchRow, bytes: Option<&[u8]>) -> Vec<u8> {
    let row = PieceRow {
        file: asked.file,
        position: asked.position,
        is_gone: U32::new(u32::from(bytes.is_none())),
        checksum: U32::new(crc32c::crc32c(bytes.unwrap_or_default())),
    };
    let mut frame = NewFrame::new(FrameKind::Piece, &row);
    frame.0.extend_from_slice(bytes.unwrap_or_default());
    frame.sealed(bytes.map_or(0, <[u8]>::len))
}

pub fn taken(outcome: Result<&Vote, &str>) -> Vec<u8> {
    let vote = outcome.copied().unwrap_or(Vote::new(0, 0));
    let is_refused = U64::new(u64::from(outcome.is_err()));
    let mut frame =
        NewFrame::new(FrameKind::Taken, &TakenRow { vote: VoteRow::of(&vote), is_refused });
    if let Err(reason) = outcome {
        frame.0.extend_from_slice(reason.as_bytes());
    }
    frame.sealed(0)
}

/// An append being built: its head, a row for each entry, and the entries in raw form, which are
/// read into it.
pub struct NewAppend {
    frame: NewFrame,
    /// Where the entries begin.
    begin: usize,
    /// How many rows have their size filled in.
    measured: usize,
}

impl NewAppend {
    pub fn new<R: Runtime>(request: &AppendEntriesRequest<Types<R>>) -> Self {
        let row = AppendRow {
            vote: VoteRow::of(&request.vote),
            previous: LogIdRow::of(request.prev_log_id.as_ref()),
            committed: LogIdRow::of(request.leader_commit.as_ref()),
            entry_count: U64::new(request.entries.len() as u64),
        };
        let mut frame = NewFrame::new(FrameKind::Append, &row);
        for entry in &request.entries {
            let row = EntryRow {
                term: U64::new(term_of(&entry.log_id)),
                index: U64::new(entry.log_id.index),
                size: U32::ZERO,
                has_members: U32::new(u32::from(entry.payload.get_membership().is_some())),
            };
            frame.0.extend_from_slice(row.as_bytes());
        }
        let begin = frame.0.len();
        Self { frame, begin, measured: 0 }
    }

    /// The bytes so far; the next entry follows them.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.frame.0
    }

    /// Completes the next entry, which began when the bytes had this size.
    pub fn end_entry(&mut self, size_before: usize) {
        let size = u32::try_from(self.frame.0.len() - size_before);
        let size = U32::new(size.expect("an entry is smaller than a segment"));
        let rows = size_of::<FrameHead>() + size_of::<AppendRow>()..self.begin;
        let rows = <[EntryRow]>::mut_from_bytes(&mut self.frame.0[rows]).expect("whole rows");
        rows[self.measured].size = size;
        self.measured += 1;
    }

    pub fn sealed(self) -> Vec<u8> {
        let entries_size = self.frame.0.len() - self.begin;
        self.frame.sealed(entries_size)
    }
}

/// How far a replica has stored what was sent, or why it has not.
pub type Appended<R> = Result<Option<LogId>, StreamAppendError<Types<R>>>;

pub fn appended<R: Runtime>(outcome: &Appended<R>, is_full: bool) -> Vec<u8> {
    let none = Vote::new(0, 0);
    let (outcome, log_id, vote) = match outcome {
        Ok(log_id) => (0, *log_id, none),
        Err(StreamAppendError::Conflict(log_id)) => (1, Some(*log_id), none),
        Err(StreamAppendError::HigherVote(vote)) => (2, None, *vote),
    };
    let appended = AppendedRow {
        outcome: U64::new(outcome),
        log_id: LogIdRow::of(log_id.as_ref()),
        vote: VoteRow::of(&vote),
    };
    let row = StoredRow { appended, is_full: U64::new(u64::from(is_full)) };
    NewFrame::new(FrameKind::Appended, &row).sealed(0)
}

pub fn ask_vote<R: Runtime>(request: &VoteRequest<Types<R>>, is_pre: bool) -> Vec<u8> {
    let row = AskVoteRow {
        vote: VoteRow::of(&request.vote),
        last: LogIdRow::of(request.last_log_id.as_ref()),
        is_transfer: U64::new(u64::from(request.leadership_transfer)),
    };
    let kind = if is_pre { FrameKind::PreVote } else { FrameKind::Vote };
    NewFrame::new(kind, &row).sealed(0)
}

pub fn voted<R: Runtime>(response: &VoteResponse<Types<R>>, is_removed: bool) -> Vec<u8> {
    let voted = VotedRow {
        vote: VoteRow::of(&response.vote),
        last: LogIdRow::of(response.last_log_id.as_ref()),
        is_granted: U64::new(u64::from(response.vote_granted)),
    };
    let row = BallotRow { voted, is_removed: U64::new(u64::from(is_removed)) };
    NewFrame::new(FrameKind::Voted, &row).sealed(0)
}

pub fn transfer<R: Runtime>(
    request: &TransferLeaderRequest<Types<R>>,
    is_ordered: bool,
) -> Vec<u8> {
    let row = TransferRow {
        from: VoteRow::of(request.from_leader()),
        to: U64::new(*request.to_node_id()),
        last: LogIdRow::of(request.last_log_id()),
        is_ordered: U64::new(u64::from(is_ordered)),
    };
    NewFrame::new(FrameKind::Transfer, &row).sealed(0)
}

pub fn transferred<R: Runtime>(response: &TransferLeaderResponse<Types<R>>) -> Vec<u8> {
    let none = Vote::new(0, 0);
    let (outcome, log_id, vote) = match response {
        Ok(()) => (0, None, none),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => (1, *actual, none),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => (2, None, *actual),
    };
    let row = AppendedRow {
        outcome: U64::new(outcome),
        log_id: LogIdRow::of(log_id.as_ref()),
        vote: VoteRow::of(&vote),
    };
    NewFrame::new(FrameKind::Transferred, &row).sealed(0)
}

impl MarkRow {
    pub fn of(mark: &Mark) -> Self {
        Self {
            directory: U64::new(mark.directory),
            starts: U64::new(mark.starts),
            term: U64::new(mark.term),
            index: U64::new(mark.index),
        }
    }

    pub fn get(&self) -> Mark {
        Mark {
            directory: self.directory.get(),
            starts: self.starts.get(),
            term: self.term.get(),
            index: self.index.get(),
        }
    }
}

impl VoteRow {
    fn of(vote: &Vote) -> Self {
        Self {
            term: U64::new(vote.leader_id.term),
            voted_for: U64::new(vote.leader_id.voted_for),
            is_committed: U64::new(u64::from(vote.committed)),
        }
    }

    fn get(&self) -> Vote {
        vote(self.term.get(), self.voted_for.get(), self.is_committed.get() != 0)
    }
}

impl LogIdRow {
    fn of(log_id: Option<&LogId>) -> Self {
        let (is_some, term, index) = log_id.map_or((0, 0, 0), |id| (1, term_of(id), id.index));
        Self { is_some: U64::new(is_some), term: U64::new(term), index: U64::new(index) }
    }

    fn get(&self) -> Option<LogId> {
        (self.is_some.get() != 0).then(|| log_id(self.term.get(), self.index.get()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Debug;

    use super::*;
    use crate::replication::types::Members;
    use crate::sim::raft_runtime::SimRuntime;
    use crate::storage::CopyPart;

    type T = Types<SimRuntime>;

    fn parse(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (head, rest) = FrameHead::read_from_prefix(bytes).map_err(|_| FrameError::Damaged)?;
        if rest_size(&head, FRAME_SIZE_MAX)? != rest.len() {
            return Err(FrameError::Damaged);
        }
        Frame::parse(&head, Bytes::copy_from_slice(rest))
    }

    /// No bit of a frame without entries may change.
    fn check<M: PartialEq + Debug>(
        frame: &[u8],
        decode: impl Fn(&Frame) -> Result<M, FrameError>,
        expected: &M,
    ) {
        assert_eq!(decode(&parse(frame).unwrap()).as_ref(), Ok(expected));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn calls_and_answers_are_read_as_they_are_written() {
        let (vote, last) = (Vote::new_committed(7, 3), Some(log_id(6, 1 << 40)));
        let mut request = VoteRequest::<T>::new(Vote::new(8, 2), last);
        request.leadership_transfer = true;
        for is_pre in [false, true] {
            check(&ask_vote(&request, is_pre), Frame::ask_vote, &request);
        }
        let response = VoteResponse::<T>::new(vote, None, true);
        for is_removed in [false, true] {
            check(&voted(&response, is_removed), Frame::voted, &(response.clone(), is_removed));
        }
        for outcome in [
            Ok(None),
            Ok(last),
            Err(StreamAppendError::Conflict(log_id(1, 2))),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            for is_full in [false, true] {
                let frame = appended::<SimRuntime>(&outcome, is_full);
                check(&frame, Frame::appended, &(outcome.clone(), is_full));
            }
        }
        // A frame of an older version.
        let short = NewFrame::new(
            FrameKind::Appended,
            &AppendedRow {
                outcome: U64::new(0),
                log_id: LogIdRow::of(last.as_ref()),
                vote: VoteRow::of(&vote),
            },
        );
        check(&short.sealed(0), Frame::appended::<SimRuntime>, &(Ok(last), false));
        let request = TransferLeaderRequest::<T>::new(vote, 2, last);
        for is_ordered in [false, true] {
            let frame = transfer(&request, is_ordered);
            check(&frame, Frame::transfer, &(request.clone(), is_ordered));
        }
        let refusals = [
            Ok(()),
            Err(TransferLeaderError::LogNotFlushed { expected: last, actual: None }),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: Vote::new(9, 1) }),
        ];
        for outcome in refusals {
            check(
                &transferred::<SimRuntime>(&outcome),
                |frame| frame.transferred(&request),
                &outcome,
            );
        }
    }

    #[test]
    fn frames_of_a_copy_are_read_as_they_are_written() {
        let file = |part, place| CopyFile { part, place: LogOffset(place), size: 1 << 33 };
        let files = vec![file(CopyPart::Snapshot, 77), file(CopyPart::Segment, 0)];
        let voters = [BTreeSet::from([1, 2, 3])];
        let members = Members::new_with_defaults(voters.to_vec(), [4]);
        let offer = Offer {
            vote: Vote::new_committed(7, 3),
            meta: CopyMeta {
                last_log_id: Some(log_id(6, 4)),
                last_membership: StoredMembers::new(Some(log_id(2, 1)), members),
            },
            copy: LogCopy { end: LogOffset(1 << 34), files },
        };
        check(&super::offer(&offer), Frame::offer, &offer);
        let row = |frame: &Frame| frame.fetch().map(|row| (row.file.get(), row.position.get()));
        check(&fetch(3, 1 << 40, 4096), row, &(3, 1 << 40));
        check(&taken(Ok(&offer.vote)), Frame::taken, &Ok(offer.vote));
        let reason = "the disk is full";
        check(&taken(Err(reason)), Frame::taken, &Err(reason.to_owned()));
        let asked = parse(&fetch(3, 8192, 4096)).unwrap().fetch().unwrap();
        let bytes =
            |frame: &Frame| frame.piece().map(|(row, bytes)| (row.is_gone.get(), bytes.to_vec()));
        check(&piece(&asked, None), bytes, &(1, vec![]));
        let frame = piece(&asked, Some(b"some bytes"));
        assert_eq!(bytes(&parse(&frame).unwrap()), Ok((0, b"some bytes".to_vec())));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!parse(&bad).is_ok_and(|frame| frame.piece().is_ok()), "bit {bit}");
        }
    }

    #[test]
    fn an_append_carries_its_entries_and_every_length_is_checked() {
        let entry = |index, bytes: &'static [u8]| Entry {
            log_id: log_id(7, index),
            payload: EntryPayload::Normal(Proposal),
            body: Body::Raw(Bytes::from_static(bytes)),
        };
        let request = AppendEntriesRequest::<T> {
            vote: Vote::new_committed(7, 3),
            prev_log_id: Some(log_id(6, 4)),
            entries: vec![entry(5, b"first"), entry(6, b"another")],
            leader_commit: Some(log_id(6, 3)),
        };
        let append = |sizes: &[usize], bodies: &[u8]| {
            let (mut append, mut rest) = (NewAppend::new(&request), bodies);
            for size in sizes {
                let before = append.bytes().len();
                let (body, behind) = rest.split_at((*size).min(rest.len()));
                append.bytes().extend_from_slice(body);
                rest = behind;
                append.end_entry(before);
            }
            append.sealed()
        };
        let frame = append(&[5, 7], b"firstanother");
        let read = parse(&frame).unwrap().append::<SimRuntime>().unwrap();
        assert_eq!(read.entries, request.entries);
        assert_eq!(
            (read.vote, read.prev_log_id, read.leader_commit),
            (request.vote, request.prev_log_id, request.leader_commit)
        );
        let mut short = append(&[5, 7], b"firstanother");
        short.truncate(short.len() - 1);
        let size = u32::from_le_bytes(*short.first_chunk().unwrap()) - 1;
        short[..4].copy_from_slice(&size.to_le_bytes());
        let read = parse(&short).unwrap().append::<SimRuntime>();
        assert!(matches!(read, Err(FrameError::Damaged)));
        let other = voted(&VoteResponse::<T>::new(request.vote, None, true), false);
        let read = parse(&other).unwrap().append::<SimRuntime>();
        assert!(matches!(read, Err(FrameError::Unexpected(6))));
        let mut large = frame;
        large[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(parse(&large), Err(FrameError::TooLarge(_))));
    }
}
