//! Reads entries from the log for the engine: to commit them, and to send them to other replicas.
//!
//! ```text
//!   newest    places in memory     ──▶ Body::Stored, whose bytes are mostly in memory too
//!   older     marks in memory only ──▶ walked from the last mark, or from where this reader has stopped
//! ```
//!
//! A replica that is catching up gets old entries in sequence, so each is read from the disk once:
//! what has been walked is kept in raw form and sent.

use std::cell::Cell;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use bytes::Bytes;
use openraft::entry::RaftPayload;
use openraft::{EntryPayload, RaftLogReader};

use super::host::Host;
use super::members;
use super::types::{
    Body, Entry, Members, Payload, Proposal, Runtime, Types, Vote, failed, log_id_of,
};
use crate::broker::raft_entries::{RaftEntries, RaftPlace, ended_by};
use crate::model::LogOffset;
use crate::storage::{RawReader, ReadError, push_raw};

/// Maximum bytes of the log in one result of the reader, unless a single entry is larger.
const READ_BYTES_MAX: u64 = 1 << 20;

/// One of the engine's readers. Each has its own position.
pub struct EntryReader<H: Host> {
    host: H,
    /// The last vote of this replica.
    vote: Rc<Cell<Option<Vote>>>,
    raw: RawReader<H::Disk>,
    /// The last entry that was walked, and the number of cuts at that time.
    stopped_at: Option<(RaftPlace, u32)>,
}

/// What the caller needs of old entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Places,
    Bytes,
}

/// Why entries were not read.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Members(#[from] io::Error),
}

impl<H: Host> EntryReader<H> {
    pub fn new(host: H, vote: Rc<Cell<Option<Vote>>>) -> Self {
        let raw = RawReader::new(host.broker().store().clone());
        Self { host, vote, raw, stopped_at: None }
    }

    /// The entry with this index, if the log has it.
    pub async fn entry(&mut self, index: u64) -> Result<Option<Entry>, EntriesError> {
        Ok(self.read(index, index + 1, u64::MAX, Wanted::Places).await?.into_iter().next())
    }

    /// The entries with indexes in `from..to`: at least one if there is any, otherwise no more than
    /// `bytes_max` bytes.
    async fn read(
        &mut self,
        from: u64,
        to: u64,
        bytes_max: u64,
        wanted: Wanted,
    ) -> Result<Vec<Entry>, EntriesError> {
        let recent = self.host.broker().with_raft_entries(RaftEntries::first_recent);
        let mut entries = match recent {
            Some(recent) if from < recent => {
                self.read_old(from, to.min(recent), recent, bytes_max, wanted).await?
            }
            _ => {
                self.raw.forget();
                Vec::new()
            }
        };
        let mut bytes: u64 = entries.iter().map(size_of).sum();
        let behind_old = from + entries.len() as u64;
        self.host.broker().with_raft_entries(|all| {
            for index in behind_old..to {
                let Some((place, start)) = all.place(index).zip(all.start(index)) else { break };
                bytes += place.end.0 - start.0;
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                let members = all.members_at(index).map(members::read).transpose()?;
                entries.push(entry(place, members, Body::Stored(start..place.end)));
            }
            Ok(entries)
        })
    }

    /// Reads entries whose places are not in memory, up to the first one whose place is: what
    /// follows may not be written yet.
    async fn read_old(
        &mut self,
        from: u64,
        to: u64,
        recent: u64,
        bytes_max: u64,
        wanted: Wanted,
    ) -> Result<Vec<Entry>, EntriesError> {
        let host = self.host.clone();
        let (mark, end) = host.broker().with_raft_entries(|all| {
            let mark = from.checked_sub(1).and_then(|before| all.place_before(before));
            (mark, all.start(recent).expect("it is in memory where it begins"))
        });
        let cut_count = host.broker().store().standing().cut_count;
        let stopped_at = self
            .stopped_at
            .filter(|(place, cuts)| place.index < from && place.end <= end && *cuts == cut_count);
        let begins = mark.into_iter().chain(stopped_at.map(|(place, _)| place));
        let begins = begins.map(|place| place.end);
        let mut start = begins.max().unwrap_or(LogOffset(0));
        let (mut found, mut bytes, mut broken) = (Vec::new(), 0, None);
        let (mut raw, mut last) = (Vec::new(), None);
        // Entries are committed from any position; only those that are sent are read in sequence.
        let mut fresh = RawReader::new(host.broker().store().clone());
        let reader = if wanted == Wanted::Bytes { &mut self.raw } else { &mut fresh };
        let walked = reader.walk(start, end, |read| {
            if wanted == Wanted::Bytes {
                push_raw(&read.header, read.payload, &mut raw);
            }
            let ended = ended_by(&read.header, read.kind, read.payload);
            let Some((place, members)) = ended else { return true };
            let range = std::mem::replace(&mut start, place.end)..place.end;
            let raw = std::mem::take(&mut raw);
            last = Some(place);
            if place.index < from {
                return true;
            }
            match members.map(members::read).transpose() {
                Ok(members) => {
                    bytes += range.end.0 - range.start.0;
                    let body = match wanted {
                        Wanted::Places => Body::Stored(range),
                        Wanted::Bytes => Body::Raw(Bytes::from(raw)),
                    };
                    found.push(entry(place, members, body));
                    place.index + 1 < to && bytes < bytes_max
                }
                Err(error) => {
                    broken = Some(error);
                    false
                }
            }
        });
        walked.await?;
        self.stopped_at = last.filter(|_| wanted == Wanted::Bytes).map(|last| (last, cut_count));
        broken.map_or(Ok(found), |error| Err(error.into()))
    }

    /// The entry with this index, which retention has deleted. The returned term may be later than
    /// the original one.
    fn gone(&self, index: u64) -> Entry {
        let after = self.host.broker().with_raft_entries(|all| all.place_after(index));
        let place = RaftPlace { index, ..after.expect("the newest entry is not deleted") };
        entry(place, None, Body::Gone)
    }
}

fn size_of(entry: &Entry) -> u64 {
    match &entry.body {
        Body::Stored(range) => range.end.0 - range.start.0,
        Body::Raw(bytes) => bytes.len() as u64,
        Body::New | Body::Gone => 0,
    }
}

fn entry(place: RaftPlace, members: Option<Members>, body: Body) -> Entry {
    let payload = match members {
        Some(members) => Payload::membership(members),
        None => EntryPayload::Normal(Proposal),
    };
    Entry { log_id: log_id_of(place), payload, body }
}

impl<H: Host, R: Runtime> RaftLogReader<Types<R>> for EntryReader<H> {
    async fn try_get_log_entries<B: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: B,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, u64::MAX, Wanted::Places).await.map_err(failed)
    }

    /// Reads entries for other replicas. An entry that retention has deleted is not an error here:
    /// sending it fails.
    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        match self.read(from, to, READ_BYTES_MAX, Wanted::Bytes).await {
            Err(EntriesError::Read(ReadError::Gone(_))) => Ok(vec![self.gone(from)]),
            read => read.map_err(failed),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote.get())
    }
}
