//! Facts: all changes of durable state, as stored in the log.
//!
//! ```text
//!   request ──▶ decide ──▶ facts ──▶ one entry of the log ──▶ apply ──▶ state
//!                                                              ▲
//!   replay at start, a snapshot, a replica ────────────────────┘
//! ```
//!
//! An entry carries one fact and has that fact's kind, or it carries several ([`SEVERAL`]), which
//! take effect together. A snapshot is a sequence of the same facts. The module that owns a kind of
//! state also defines the layout and the effect of its facts; [`state`](super::state) has the
//! table.
//!
//! Every fact *sets* a value and never adds to it, so replaying part of the log on a state that
//! already reflects some of it gives the same result. A snapshot taken while the state changes
//! relies on this.
//!
//! [`Facts`] writes them, [`Fact::each`] splits several. Layouts are fixed: all numbers are
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
/// The state of message queues ([`messages`](super::messages)); only in snapshots.
pub const QUEUES: EntryKind = EntryKind(6);
/// The ages of segments ([`ages`](super::ages)); only in snapshots.
pub const AGES: EntryKind = EntryKind(7);
/// Which delayed messages are no longer pending ([`delays`](super::delays)).
pub const DELAYS: EntryKind = EntryKind(8);
/// Delayed messages ([`delays`](super::delays)).
pub const DELAYED: EntryKind = EntryKind(9);
/// The configuration of a consumer group ([`group_configs`](super::group_configs)).
pub const GROUP: EntryKind = EntryKind(10);
/// The end of an entry of the consensus engine ([`raft_entries`](super::raft_entries)).
pub const RAFT_ENTRY: EntryKind = EntryKind(11);
/// Owners of queues ([`locks`](super::locks)).
pub const LOCKS: EntryKind = EntryKind(12);
/// Keys of recent messages ([`sent`](super::sent)); only in snapshots.
pub const SENT: EntryKind = EntryKind(13);
/// Numbers of delayed messages by topic ([`delayed_topics`](super::delayed_topics)); only in snapshots.
pub const DELAYED_TOPICS: EntryKind = EntryKind(14);
/// Delayed messages that have been recalled ([`recalled`](super::recalled)).
pub const RECALLED: EntryKind = EntryKind(15);
/// When the newest messages of queues were stored ([`messages`](super::messages)); only in snapshots.
pub const LAST_STORED: EntryKind = EntryKind(16);

/// Precedes each of several facts.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FactHead {
    /// Bytes after this head, without padding.
    pub size: U32,
    /// What the fact concerns; for messages, the topic.
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

/// A fact that cannot be decoded although its checksum is correct, so a newer version wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {what}: {why}; was it written by a newer version?")]
pub struct FactError {
    what: &'static str,
    why: String,
}

pub fn unreadable(what: &'static str, why: impl std::fmt::Display) -> FactError {
    FactError { what, why: why.to_string() }
}

/// A fact as stored in an entry of the log, or in a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Fact<'a> {
    pub kind: EntryKind,
    pub subject: u32,
    /// Log offset of the entry that carries it; 0 in a snapshot.
    pub entry_offset: LogOffset,
    /// Log offset of `payload`; 0 in a snapshot.
    pub payload_offset: LogOffset,
    pub payload: &'a [u8],
}

impl<'a> Fact<'a> {
    /// All facts in a snapshot's payload, which has the form of an entry with several facts.
    pub fn of_snapshot(payload: &'a [u8]) -> Self {
        let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
        Self { kind: SEVERAL, subject: 0, entry_offset, payload_offset, payload }
    }

    /// The content of an entry.
    pub fn of_entry(entry: &Replayed<'a>) -> Self {
        let Replayed { kind, subject, entry_offset, payload_offset, payload, .. } = *entry;
        Self { kind, subject, entry_offset, payload_offset, payload }
    }

    /// The individual facts: its parts, or the fact itself.
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

    /// The fact at `at` in a sequence, and the position of the next one.
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

/// Facts to be written to the log or to a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Heads and payloads in the form of an entry with several facts.
    bytes: Vec<u8>,
    count: usize,
}

impl Facts {
    /// A single fact, whose payload `write` appends.
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

    /// Whether these facts are enough for a slice of a snapshot.
    pub fn fill_a_slice(&self) -> bool {
        self.size() >= SLICE_SIZE
    }

    /// Size so far, including heads.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes so far, for filling in what is known only at the append.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The facts as bytes, in the form of a snapshot.
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

/// Maximum number of items that one slice of a snapshot visits: a few hundred microseconds of the
/// shard's time.
pub const ITEMS_PER_SLICE: usize = 2_000;
/// Approximate size of one slice, bytes.
pub const SLICE_SIZE: usize = 128 << 10;

/// Pads with zeros to a multiple of [`FACT_ALIGN`] bytes after `begin`.
pub fn pad(out: &mut Vec<u8>, begin: usize) {
    let size = (out.len() - begin).next_multiple_of(FACT_ALIGN);
    out.resize(begin + size, 0);
}

/// Splits `size` bytes and their padding off the front of `rest`.
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
                // At or before the end of the first one's padding.
                (..=24, true) => &[true],
                (_, true) => &[true, false],
            };
            assert_eq!(found, expected, "cut at {cut}");
        }
    }
}
