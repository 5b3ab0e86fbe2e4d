//! Where the entries of the consensus engine end in the log of a shard with replicas.
//!
//! ```text
//!   log:   message, offsets, message, RAFT ENTRY 7 │ message, RAFT ENTRY 8 │ RAFT ENTRY 9 │ …
//!          └──────────────── 7 ─────────────────┘   └─────── 8 ────────┘   └──── 9 ─────┘
//! ```
//!
//! An entry of the engine is a group of entries of the log, replicated and committed as a whole. It
//! ends with a fact: its index, its term and, if it changes the members, the new members. So the
//! engine's log *is* the shard's log, and the terms are its epochs.
//!
//! The places of the newest entries are all in memory; of the older ones, some are kept at
//! intervals as *marks*, from which the log is read. Both are bounded.

use std::collections::VecDeque;
use std::mem::size_of;

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{Fact, Facts, ITEMS_PER_SLICE, RAFT_ENTRY};
use crate::model::LogOffset;
use crate::storage::EntryKind;
use crate::storage::entry::{EntryHeader, HEADER_SIZE};

/// Number of newest entries whose places are all in memory.
const RECENT_MAX: usize = 16_384;
/// Distance between marks, in entries or bytes of the log, whichever is reached first.
const MARK_EVERY: u64 = 1_024;
const MARK_BYTES: u64 = 4 << 20;
/// Maximum number of marks: enough for more than a terabyte of log.
const MARKS_MAX: usize = 300_000;
/// Maximum number of membership changes remembered. The engine needs the last two.
const MEMBERSHIPS_MAX: usize = 16;

/// The fact that ends an entry of the engine. The members follow if `kind` is [`MEMBERS`], and
/// places if it is [`PLACES`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RaftEntryHead {
    pub place: RaftPlaceRow,
    /// [`BLANK`], [`GROUP`], [`MEMBERS`] or, in snapshots only, [`PLACES`].
    pub kind: u8,
    pub reserved: [u8; 7],
}

/// An entry of the engine and where it ends.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RaftPlaceRow {
    pub index: U64,
    pub term: U64,
    /// Log offset at which it ends; 0 in the log itself, where it ends with this fact.
    pub end: U64,
}

const _: () = {
    assert!(size_of::<RaftEntryHead>() == 32);
    assert!(size_of::<RaftPlaceRow>() == 24);
};

/// The first entry of a leader; it carries nothing of its own.
pub const BLANK: u8 = 0;
/// What clients have stored.
pub const GROUP: u8 = 1;
/// The members: the replicas of the shard.
pub const MEMBERS: u8 = 2;
/// Places of earlier entries.
pub const PLACES: u8 = 3;

/// An entry of the engine and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftPlace {
    pub index: u64,
    pub term: u64,
    pub end: LogOffset,
}

/// What an entry of the engine contains besides what clients have stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RaftContent {
    Blank,
    Group,
    /// The members, in the caller's encoding.
    Members(Vec<u8>),
}

/// All entries of the engine in the log, oldest first.
#[derive(Debug, Default)]
pub struct RaftEntries {
    marks: VecDeque<RaftPlace>,
    /// Without gaps in their indexes.
    recent: VecDeque<RaftPlace>,
    memberships: VecDeque<(RaftPlace, Vec<u8>)>,
    /// The committed watermark when the log was opened. The last entry up to there keeps a mark,
    /// because the engine continues after it.
    opened_at: LogOffset,
}

impl RaftEntries {
    /// To be called when the log is opened; it is committed up to `committed`.
    pub fn begin(&mut self, committed: LogOffset) {
        self.opened_at = committed;
    }

    pub fn last(&self) -> Option<RaftPlace> {
        self.recent.back().copied()
    }

    /// The place of the entry with this index, if it is in memory.
    pub fn place(&self, index: u64) -> Option<RaftPlace> {
        let first = self.recent.front()?.index;
        self.recent.get(usize::try_from(index.checked_sub(first)?).ok()?).copied()
    }

    /// Log offset at which the entry with this index begins, if that is in memory.
    pub fn start(&self, index: u64) -> Option<LogOffset> {
        match index.checked_sub(1) {
            None => Some(LogOffset(0)),
            Some(before) => self.place(before).map(|place| place.end),
        }
    }

    /// The terms in the log and the log offset at which each begins, as far as the places in memory
    /// show: of the older terms, those that lasted long.
    pub fn terms(&self) -> Vec<(u64, u64)> {
        let (mut terms, mut end): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
        for place in self.marks.iter().chain(&self.recent) {
            if terms.last().is_none_or(|(term, _)| *term < place.term) {
                terms.push((place.term, end));
            }
            end = place.end.0;
        }
        terms
    }

    /// The first index from which on the beginnings and ends of all entries are in memory.
    pub fn first_recent(&self) -> Option<u64> {
        let first = self.recent.front()?.index;
        Some(if first == 0 { 0 } else { first + 1 })
    }

    /// The last place in memory at or before that of the entry with this index. `None` if the entry
    /// precedes all of them.
    pub fn place_before(&self, index: u64) -> Option<RaftPlace> {
        if let Some(place) = self.place(index) {
            return Some(place);
        }
        let after = self.marks.partition_point(|mark| mark.index <= index);
        self.marks.get(after.checked_sub(1)?).copied()
    }

    /// The first place in memory at or after that of the entry with this index.
    pub fn place_after(&self, index: u64) -> Option<RaftPlace> {
        let first_from = |places: &VecDeque<RaftPlace>| {
            places.get(places.partition_point(|place| place.index < index)).copied()
        };
        first_from(&self.marks).or_else(|| first_from(&self.recent))
    }

    /// The first entry that ends at or after `offset`, as far as places are in memory.
    pub fn first_from(&self, offset: LogOffset) -> Option<RaftPlace> {
        self.places().find(|place| place.end >= offset).copied()
    }

    /// The last entry that ends at or before `offset`, as far as places are in memory.
    pub fn ending_by(&self, offset: LogOffset) -> Option<RaftPlace> {
        let last_by = |places: &VecDeque<RaftPlace>| {
            let after = places.partition_point(|place| place.end <= offset);
            after.checked_sub(1).map(|last| places[last])
        };
        last_by(&self.recent).or_else(|| last_by(&self.marks))
    }

    /// The members as of the last change at or before the entry with index `to`.
    pub fn members_by(&self, to: u64) -> Option<(RaftPlace, &[u8])> {
        let found = self.memberships.iter().rev().find(|(place, _)| place.index <= to)?;
        Some((found.0, &found.1))
    }

    /// The members set by the entry with this index, if it changes them.
    pub fn members_at(&self, index: u64) -> Option<&[u8]> {
        let found = self.memberships.iter().find(|(place, _)| place.index == index)?;
        Some(&found.1)
    }

    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let (head, rest) = RaftEntryHead::ref_from_prefix(fact.payload)
            .map_err(|_| format!("it has {} bytes", fact.payload.len()))?;
        let mut place = RaftPlace::of(&head.place);
        if place.end == LogOffset(0) {
            let end = fact.payload_offset.0 + fact.payload.len() as u64;
            place.end = LogOffset(end.next_multiple_of(8));
        }
        match head.kind {
            PLACES => {
                let rows = <[RaftPlaceRow]>::ref_from_bytes(rest)
                    .map_err(|_| format!("{} bytes of places", rest.len()))?;
                rows.iter().for_each(|row| self.note(RaftPlace::of(row)));
            }
            BLANK | GROUP => self.note(place),
            MEMBERS => {
                self.note(place);
                self.memberships.retain(|(known, _)| known.index < place.index);
                self.memberships.push_back((place, rest.to_vec()));
                if self.memberships.len() > MEMBERSHIPS_MAX {
                    self.memberships.pop_front();
                }
            }
            other => return Err(format!("an entry of kind {other}")),
        }
        Ok(())
    }

    /// Ignores an entry that is known already, so replaying part of the log again changes nothing.
    fn note(&mut self, place: RaftPlace) {
        if self.last().is_some_and(|last| place.index <= last.index) {
            return;
        }
        if self.last().is_some_and(|last| place.index > last.index + 1) {
            // A snapshot lists the marks first.
            self.marks.extend(self.recent.drain(..));
        }
        self.recent.push_back(place);
        if self.recent.len() > RECENT_MAX {
            let oldest = self.recent.pop_front().expect("it is not empty");
            let is_far = self.marks.back().is_none_or(|mark| {
                oldest.index - mark.index >= MARK_EVERY || oldest.end.0 - mark.end.0 >= MARK_BYTES
            });
            let goes_beyond = |place: &RaftPlace| place.end > self.opened_at;
            let is_kept = !goes_beyond(&oldest) && self.recent.front().is_some_and(goes_beyond);
            if is_far || is_kept {
                self.marks.push_back(oldest);
            }
            if self.marks.len() > MARKS_MAX {
                self.marks.pop_front();
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = &RaftPlace> {
        self.marks.iter().chain(&self.recent)
    }
}

impl RaftPlace {
    fn of(row: &RaftPlaceRow) -> Self {
        let end = LogOffset(row.end.get());
        Self { index: row.index.get(), term: row.term.get(), end }
    }

    fn row(self) -> RaftPlaceRow {
        let Self { index, term, end } = self;
        RaftPlaceRow { index: U64::new(index), term: U64::new(term), end: U64::new(end.0) }
    }
}

/// The fact that ends an entry.
pub fn ended(index: u64, term: u64, content: &RaftContent) -> Facts {
    let place = RaftPlace { index, term, end: LogOffset(0) };
    let (kind, members): (u8, &[u8]) = match content {
        RaftContent::Blank => (BLANK, &[]),
        RaftContent::Group => (GROUP, &[]),
        RaftContent::Members(members) => (MEMBERS, members),
    };
    Facts::one(RAFT_ENTRY, 0, |out| push(out, place, kind, members))
}

fn push(out: &mut Vec<u8>, place: RaftPlace, kind: u8, rest: &[u8]) {
    let head = RaftEntryHead { place: place.row(), kind, reserved: [0; 7] };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(rest);
}

/// The entry of the engine that ends with this entry of the log, if any, and the members if it
/// changes them.
pub fn ended_by<'a>(
    header: &EntryHeader,
    kind: EntryKind,
    payload: &'a [u8],
) -> Option<(RaftPlace, Option<&'a [u8]>)> {
    let (head, rest) =
        RaftEntryHead::ref_from_prefix(payload).ok().filter(|_| kind == RAFT_ENTRY)?;
    let place = RaftPlace { end: header.end(), ..RaftPlace::of(&head.place) };
    Some((place, (head.kind == MEMBERS).then_some(rest)))
}

/// All places, then the members: the progress of adding them to a snapshot.
#[derive(Default)]
pub struct AllRaftEntries {
    /// Continues after this index.
    after: Option<u64>,
    has_places: bool,
}

impl AllRaftEntries {
    /// Adds the next slice; returns whether there is more.
    pub fn add(&mut self, entries: &RaftEntries, facts: &mut Facts) -> bool {
        if !self.has_places {
            let next = entries.places().filter(|place| Some(place.index) > self.after);
            let rows: Vec<RaftPlace> = next.take(ITEMS_PER_SLICE).copied().collect();
            if let Some(last) = rows.last() {
                self.after = Some(last.index);
                let bytes: Vec<u8> =
                    rows.iter().flat_map(|place| place.row().as_bytes().to_vec()).collect();
                facts.push(RAFT_ENTRY, 0, |out| push(out, *last, PLACES, &bytes));
                return true;
            }
            self.has_places = true;
        }
        for (place, members) in &entries.memberships {
            facts.push(RAFT_ENTRY, 0, |out| push(out, *place, MEMBERS, members));
        }
        false
    }
}

/// The members set by an entry of the engine in raw form, if it changes them. Its last entry of the
/// log contains them.
pub fn members_of_raw(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let (header, _) = EntryHeader::ref_from_prefix(rest).ok()?;
        let size = header.raw_size();
        if size < rest.len() {
            rest = &rest[size..];
            continue;
        }
        let payload = rest.get(HEADER_SIZE..)?.get(..header.payload_size.get() as usize)?;
        return ended_by(header, EntryKind(header.kind), payload)?.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::entry::{NewEntry, entry_size};

    fn fact(payload: &[u8], payload_offset: u64) -> Fact<'_> {
        let (kind, payload_offset) = (RAFT_ENTRY, LogOffset(payload_offset));
        Fact { kind, subject: 0, entry_offset: LogOffset(0), payload_offset, payload }
    }

    fn apply(entries: &mut RaftEntries, index: u64, term: u64, at: u64, content: &RaftContent) {
        let (_, _, payload) = ended(index, term, content).into_entry();
        entries.apply(&fact(&payload, at)).unwrap();
    }

    /// Entries of 96 bytes; the members change at the fourth and at every ten thousandth.
    fn sample(count: u64) -> RaftEntries {
        let mut entries = RaftEntries::default();
        for index in 0..count {
            let content = match index {
                0 => RaftContent::Blank,
                _ if index == 3 || index % 10_000 == 0 => {
                    RaftContent::Members(vec![index as u8; 9])
                }
                _ => RaftContent::Group,
            };
            apply(&mut entries, index, 1 + index / 7, index * 96 + 40, &content);
        }
        entries
    }

    #[test]
    fn an_entry_ends_where_its_fact_does() {
        let entries = sample(5);
        let place = RaftPlace { index: 4, term: 1, end: LogOffset(4 * 96 + 40 + 32) };
        assert_eq!(entries.last(), Some(place));
        // Nine bytes of members, and zeros up to a multiple of eight.
        assert_eq!(entries.place(3).unwrap().end, LogOffset(3 * 96 + 40 + 48));
        assert_eq!(entries.place(5), None);
        assert_eq!(entries.members_at(3), Some(&[3; 9][..]));
        assert_eq!(entries.members_at(2), None);
        assert_eq!(entries.members_by(2), None);
        assert_eq!(entries.members_by(4).unwrap().0.index, 3);
        assert_eq!(entries.ending_by(LogOffset(95)).unwrap().index, 0);
        assert_eq!(entries.first_from(LogOffset(96)).unwrap().index, 1);
    }

    #[test]
    fn old_entries_have_marks_at_intervals() {
        let entries = sample(RECENT_MAX as u64 + 50_000);
        assert_eq!(entries.recent.len(), RECENT_MAX);
        assert!((48..=50).contains(&entries.marks.len()), "{}", entries.marks.len());
        assert_eq!(entries.place(40_000), None);
        let mark = entries.place_before(40_000).unwrap();
        assert!(mark.index <= 40_000 && 40_000 - mark.index < MARK_EVERY, "{mark:?}");
        let newest = entries.last().unwrap().index;
        assert_eq!(entries.place_before(newest).unwrap().index, newest);
    }

    #[test]
    fn the_last_entry_that_is_committed_at_a_start_keeps_its_place() {
        for last in [0, 700, 20_000, RECENT_MAX as u64 + 49_000] {
            let mut entries = RaftEntries::default();
            let committed = LogOffset(last * 96 + 80);
            entries.begin(committed);
            for index in 0..RECENT_MAX as u64 + 50_000 {
                apply(&mut entries, index, 1, index * 96 + 40, &RaftContent::Group);
            }
            assert_eq!(entries.ending_by(committed).unwrap().index, last);
            assert!(entries.marks.len() <= 51, "{}", entries.marks.len());
        }
    }

    #[test]
    fn a_snapshot_restores_the_places_and_what_follows_it_continues_them() {
        let entries = sample(RECENT_MAX as u64 + 5_000);
        let (mut all, mut restored) = (AllRaftEntries::default(), RaftEntries::default());
        loop {
            let mut facts = Facts::default();
            let has_more = all.add(&entries, &mut facts);
            let bytes = facts.into_bytes();
            for fact in Fact::of_snapshot(&bytes).each() {
                restored.apply(&fact.unwrap()).unwrap();
            }
            if !has_more {
                break;
            }
        }
        let both = |entries: &RaftEntries| {
            (entries.marks.clone(), entries.recent.clone(), entries.memberships.clone())
        };
        assert_eq!(both(&restored), both(&entries));
        let next = entries.last().unwrap().index + 1;
        for index in next - 3..next + 3 {
            apply(&mut restored, index, 9_999, index * 96 + 40, &RaftContent::Group);
        }
        assert_eq!(restored.last().unwrap().index, next + 2);
        assert_eq!(restored.place(next - 1), entries.place(next - 1), "it was known");
    }

    #[test]
    fn the_members_are_found_in_the_last_entry_of_raw_bytes() {
        let entry = |kind: EntryKind, payload: &[u8]| {
            let mut bytes = vec![0; entry_size(payload.len())];
            bytes[HEADER_SIZE..HEADER_SIZE + payload.len()].copy_from_slice(payload);
            let (at, durable) = (LogOffset(0), LogOffset(0));
            let new = NewEntry { kind, subject: 0, at, ordinal: 1, epoch: 1, durable };
            new.seal(&mut bytes, payload.len(), 7);
            bytes
        };
        let end = |content| entry(RAFT_ENTRY, &ended(7, 1, &content).into_entry().2);
        let message = entry(EntryKind(3), b"a message");
        let members = end(RaftContent::Members(vec![5; 24]));
        assert_eq!(members_of_raw(&[&message[..], &members].concat()), Some(&[5; 24][..]));
        assert_eq!(members_of_raw(&[&members[..], &end(RaftContent::Group)].concat()), None);
        for cut in 0..members.len() {
            assert_eq!(members_of_raw(&members[..cut]), None, "cut at {cut}");
        }
    }
}
