//! Facts: every change of durable state, as it stands in the log.
//!
//! ```text
//!   request ──▶ decide ──▶ facts ──▶ one entry of the log ──▶ apply ──▶ state
//!                                                              ▲
//!   replay at start, a snapshot, (later) a replica ────────────┘
//! ```
//!
//! An entry carries one fact, and its kind is the fact's; or it carries several ([`SEVERAL`]), which
//! take effect together. A snapshot is a sequence of the same facts. What the facts of a kind look
//! like, and what they do, is the business of the module that owns the state: [`state`](super::state)
//! has the table.
//!
//! What holds of every fact: it *sets* something and never adds to it, so that applying a stretch of
//! the log again, to a state that has seen some of it, comes to the same end. A snapshot that is taken
//! while the state changes relies on that.
//!
//! [`Facts`] writes them, [`Fact::each`] takes several apart. Layouts are fixed: all numbers are
//! little-endian, and a fact begins at a multiple of [`FACT_ALIGN`] bytes.

use std::mem::{offset_of, size_of};

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::LogOffset;
use crate::storage::{EntryKind, Replayed};

/// Several facts that take effect together.
pub const SEVERAL: EntryKind = EntryKind(2);
/// Messages of one topic ([`messages`](super::messages)).
pub const MESSAGES: EntryKind = EntryKind(3);
/// A topic ([`topics`](super::topics)).
pub const TOPIC: EntryKind = EntryKind(4);
/// Consume offsets of groups ([`offsets`](super::offsets)).
pub const OFFSETS: EntryKind = EntryKind(5);
/// How far message queues have got ([`messages`](super::messages)); in snapshots only.
pub const QUEUES: EntryKind = EntryKind(6);
/// How old segments are ([`ages`](super::ages)); in snapshots only.
pub const AGES: EntryKind = EntryKind(7);

/// In front of each of several facts.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FactHead {
    /// Bytes behind this head, without padding.
    pub size: U32,
    /// Whom the fact concerns; for messages the topic.
    pub subject: U32,
    pub kind: u8,
    pub reserved: [u8; 7],
}

/// Several facts begin at multiples of this many bytes from the first.
pub const FACT_ALIGN: usize = 8;
const HEAD_SIZE: usize = size_of::<FactHead>();

const _: () = {
    assert!(HEAD_SIZE == 16 && HEAD_SIZE.is_multiple_of(FACT_ALIGN));
    assert!(align_of::<FactHead>() == 1);
    assert!(offset_of!(FactHead, kind) == 8);
};

/// A fact in the log that cannot be read: its checksum was right, so a newer version wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {what}: {why}; was it written by a newer version?")]
pub struct FactError {
    what: &'static str,
    why: String,
}

pub fn unreadable(what: &'static str, why: impl std::fmt::Display) -> FactError {
    FactError { what, why: why.to_string() }
}

/// A fact as it lies in an entry of the log, or in a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Fact<'a> {
    pub kind: EntryKind,
    pub subject: u32,
    /// Where the entry begins that carries it; 0 in a snapshot.
    pub entry_offset: LogOffset,
    /// Where `payload` begins in the log; 0 in a snapshot.
    pub payload_offset: LogOffset,
    pub payload: &'a [u8],
}

impl<'a> Fact<'a> {
    /// All facts in the payload of a snapshot, which holds several as an entry does.
    pub fn of_snapshot(payload: &'a [u8]) -> Self {
        let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
        Self { kind: SEVERAL, subject: 0, entry_offset, payload_offset, payload }
    }

    /// What an entry of the log holds.
    pub fn of_entry(entry: &Replayed<'a>) -> Self {
        let Replayed { kind, subject, entry_offset, payload_offset, payload, .. } = *entry;
        Self { kind, subject, entry_offset, payload_offset, payload }
    }

    /// The single facts: those it is made of, or itself.
    pub fn each(self) -> impl Iterator<Item = Result<Self, FactError>> {
        let mut single = (self.kind != SEVERAL).then_some(self);
        let mut at = if self.kind == SEVERAL { 0 } else { self.payload.len() };
        std::iter::from_fn(move || {
            if let Some(single) = single.take() {
                return Some(Ok(single));
            }
            let (fact, end) = match self.at(at)? {
                Ok(found) => found,
                Err(error) => {
                    at = self.payload.len();
                    return Some(Err(error));
                }
            };
            at = end;
            Some(Ok(fact))
        })
    }

    /// The fact at `at` of several, and where the next one begins.
    fn at(&self, at: usize) -> Option<Result<(Self, usize), FactError>> {
        let rest = self.payload.get(at..).filter(|rest| !rest.is_empty())?;
        let cut = || Some(Err(unreadable("a list of facts", format!("it is cut at byte {at}"))));
        let Ok((head, body)) = FactHead::ref_from_prefix(rest) else { return cut() };
        let size = head.size.get() as usize;
        let Some(payload) = body.get(..size) else { return cut() };
        let fact = Fact {
            kind: EntryKind(head.kind),
            subject: head.subject.get(),
            entry_offset: self.entry_offset,
            payload_offset: self.payload_offset.plus((at + HEAD_SIZE) as u64),
            payload,
        };
        Some(Ok((fact, at + HEAD_SIZE + size.next_multiple_of(FACT_ALIGN))))
    }
}

/// Facts on their way into the log or a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Heads and payloads, as several facts lie in an entry.
    bytes: Vec<u8>,
    count: usize,
}

impl Facts {
    /// One fact, whose payload `write` appends.
    pub fn one(kind: EntryKind, subject: u32, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut facts = Self::default();
        facts.push(kind, subject, write);
        facts
    }

    /// Adds a fact, whose payload `write` appends.
    pub fn push(&mut self, kind: EntryKind, subject: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEAD_SIZE]);
        write(&mut self.bytes);
        let size = self.bytes.len() - begin - HEAD_SIZE;
        let head = FactHead {
            size: U32::new(u32::try_from(size).expect("facts fit an entry")),
            subject: U32::new(subject),
            kind: kind.0,
            reserved: [0; 7],
        };
        self.bytes[begin..begin + HEAD_SIZE].copy_from_slice(head.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(FACT_ALIGN), 0);
        self.count += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a slice of a snapshot has as much as one should have.
    pub fn fill_a_slice(&self) -> bool {
        self.size() >= SLICE_SIZE
    }

    /// Bytes so far, heads included.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of several facts, as a snapshot holds them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    #[cfg(test)]
    pub fn into_entry(self) -> (EntryKind, u32, Vec<u8>) {
        let (kind, subject, payload) = self.entry();
        (kind, subject, payload.to_vec())
    }

    /// Kind, subject and payload of the entry that carries these facts.
    pub fn entry(&self) -> (EntryKind, u32, &[u8]) {
        let several = Fact::of_snapshot(&self.bytes);
        match (self.count, several.at(0)) {
            (1, Some(Ok((only, _)))) => (only.kind, only.subject, only.payload),
            _ => (SEVERAL, 0, &self.bytes),
        }
    }
}

/// Items that one slice of a snapshot looks at: some hundred microseconds of the shard's time.
pub const ITEMS_PER_SLICE: usize = 2_000;
/// Bytes of one slice, about.
pub const SLICE_SIZE: usize = 128 << 10;

/// Appends zeros up to a multiple of [`FACT_ALIGN`] bytes behind `begin`.
pub fn pad(out: &mut Vec<u8>, begin: usize) {
    let size = (out.len() - begin).next_multiple_of(FACT_ALIGN);
    out.resize(begin + size, 0);
}

/// Takes `size` bytes and the padding behind them off the front of `rest`.
pub fn take_padded<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let bytes = rest.get(..size)?;
    *rest = rest.get(size.next_multiple_of(FACT_ALIGN)..).unwrap_or_default();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(fact: Fact<'a>) -> Vec<(EntryKind, u32, u64, &'a [u8])> {
        let each = fact.each().map(|fact| fact.unwrap());
        each.map(|fact| (fact.kind, fact.subject, fact.payload_offset.0, fact.payload)).collect()
    }

    fn in_log(facts: &Facts) -> Fact<'_> {
        let (kind, subject, payload) = facts.entry();
        let (entry_offset, payload_offset) = (LogOffset(960), LogOffset(1000));
        Fact { kind, subject, entry_offset, payload_offset, payload }
    }

    #[test]
    fn an_entry_carries_one_fact_as_it_is_or_several_with_heads() {
        let mut facts = Facts::one(TOPIC, 7, |out| out.extend_from_slice(b"topic"));
        assert_eq!(facts.entry(), (TOPIC, 7, &b"topic"[..]));
        assert_eq!(read(in_log(&facts)), [(TOPIC, 7, 1000, &b"topic"[..])]);

        facts.push(OFFSETS, 0, |_| {});
        facts.push(MESSAGES, 9, |out| out.extend_from_slice(b"12345678"));
        assert_eq!(facts.entry().0, SEVERAL);
        let expected: [(EntryKind, u32, u64, &[u8]); 3] =
            [(TOPIC, 7, 1016, b"topic"), (OFFSETS, 0, 1040, b""), (MESSAGES, 9, 1056, b"12345678")];
        assert_eq!(read(in_log(&facts)), expected);
    }

    #[test]
    fn a_list_that_is_cut_is_an_error_and_ends_there() {
        let mut facts = Facts::one(TOPIC, 7, |out| out.extend_from_slice(b"topic"));
        facts.push(OFFSETS, 0, |out| out.extend_from_slice(b"12345678"));
        let bytes = facts.into_bytes();
        for cut in 0..bytes.len() {
            let found: Vec<bool> =
                Fact::of_snapshot(&bytes[..cut]).each().map(|fact| fact.is_ok()).collect();
            let whole_first = cut >= HEAD_SIZE + 5;
            let expected: &[bool] = match (cut, whole_first) {
                (0, _) => &[],
                (_, false) => &[false],
                // The end of the first one's padding, or less.
                (..=24, true) => &[true],
                (_, true) => &[true, false],
            };
            assert_eq!(found, expected, "cut at {cut}");
        }
    }
}
