//! The entry, the unit of the log: a fixed header, then a payload.
//!
//! ```text
//!   0 checksum u32 | 4 payload size u32 | 8 own offset u64 | 16 ordinal u64
//!  24 epoch u32 | 28 subject u32 | 32 durable lag u32 | 36 kind u8 | 37 version u8 | 38 zero u16
//!  40 payload | zeros up to a multiple of 8
//! ```
//!
//! An entry contains its own offset, so a misdirected write, a block that was never overwritten and
//! a recycled file cannot pass for data. Its ordinal reveals a missing neighbour. Its checksum is
//! seeded per shard, so entries of other logs do not pass either. Everything here is pure.

use std::mem::{offset_of, size_of};

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::LogOffset;
use crate::model::record::RECORD_SIZE_MAX;
use crate::planted::{self, Bug};

/// The kind of an entry. Storage knows the kinds below; every other kind belongs to the broker,
/// which interprets its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKind(pub u8);

impl EntryKind {
    /// Fills the rest of a block or of a segment. Its payload is arbitrary and not part of the
    /// checksum.
    pub const FILLER: Self = Self(1);
}

/// The only supported version of the entry layout.
pub const ENTRY_VERSION: u8 = 1;
/// Entries begin at multiples of this many bytes.
pub const ENTRY_ALIGN: usize = 8;
/// Bytes of the header.
pub const HEADER_SIZE: usize = size_of::<EntryHeader>();
/// Maximum payload size, bytes: one largest message record, or a batch of smaller ones.
pub const PAYLOAD_SIZE_MAX: usize = RECORD_SIZE_MAX.next_multiple_of(ENTRY_ALIGN);
/// An unknown durable lag.
pub const DURABLE_LAG_UNKNOWN: u32 = u32::MAX;

/// Precedes every payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EntryHeader {
    /// CRC32C of the rest of the header and, except for a filler, the payload; starts from the
    /// shard's seed.
    pub checksum: U32,
    pub payload_size: U32,
    /// The log offset of this entry.
    pub own_offset: U64,
    /// 1, 2, 3, … over the whole log.
    pub ordinal: U64,
    /// The owner that appended it, if a log can change owners. Never decreases.
    pub epoch: U32,
    /// What the entry concerns, in the broker's numbering.
    pub subject: U32,
    /// Own offset minus the durable watermark when the entry was appended; [`DURABLE_LAG_UNKNOWN`]
    /// if that does not fit. Recovery uses it to decide whether a hole before this entry had been
    /// acknowledged.
    pub durable_lag: U32,
    pub kind: u8,
    pub version: u8,
    pub reserved: [u8; 2],
}

const _: () = {
    assert!(size_of::<EntryHeader>() == 40);
    assert!(align_of::<EntryHeader>() == 1);
    assert!(size_of::<EntryHeader>().is_multiple_of(ENTRY_ALIGN));
    assert!(offset_of!(EntryHeader, own_offset) == 8);
    assert!(offset_of!(EntryHeader, ordinal) == 16);
    assert!(offset_of!(EntryHeader, durable_lag) == 32);
    assert!(offset_of!(EntryHeader, kind) == 36);
};

/// Position of the own offset in an entry, for the search for entries after a hole.
pub const OWN_OFFSET_AT: usize = offset_of!(EntryHeader, own_offset);

/// Size in the log of an entry with `payload_size`.
pub const fn entry_size(payload_size: usize) -> usize {
    (HEADER_SIZE + payload_size).next_multiple_of(ENTRY_ALIGN)
}

/// The header fields of a new entry that do not follow from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry {
    pub kind: EntryKind,
    pub subject: u32,
    pub at: LogOffset,
    pub ordinal: u64,
    pub epoch: u32,
    /// Everything below is on stable media.
    pub durable: LogOffset,
}

impl NewEntry {
    /// Writes the header at the start of `entry` and zeros after the payload, which is already in
    /// place.
    pub fn seal(&self, entry: &mut [u8], payload_size: usize, seed: u32) {
        let (head, rest) = entry.split_at_mut(HEADER_SIZE);
        let (payload, padding) = rest.split_at_mut(payload_size);
        padding.fill(0);
        let covered = if self.kind == EntryKind::FILLER { &[] } else { &*payload };
        let header = self.header(payload_size).sealed(covered, seed);
        head.copy_from_slice(header.as_bytes());
    }

    /// The header alone of an entry that takes up `size` bytes of log.
    pub fn filler(&self, size: u64, seed: u32) -> EntryHeader {
        assert!(self.kind == EntryKind::FILLER && size.is_multiple_of(ENTRY_ALIGN as u64));
        let payload_size = usize::try_from(size).expect("a filler stays within a segment");
        self.header(payload_size - HEADER_SIZE).sealed(&[], seed)
    }

    fn header(&self, payload_size: usize) -> EntryHeader {
        let lag =
            self.at.0.checked_sub(self.durable.0).expect("the durable mark is behind the end");
        EntryHeader {
            checksum: U32::ZERO,
            payload_size: U32::new(u32::try_from(payload_size).expect("payloads are bounded")),
            own_offset: U64::new(self.at.0),
            ordinal: U64::new(self.ordinal),
            epoch: U32::new(self.epoch),
            subject: U32::new(self.subject),
            durable_lag: U32::new(u32::try_from(lag).unwrap_or(DURABLE_LAG_UNKNOWN)),
            kind: self.kind.0,
            version: ENTRY_VERSION,
            reserved: [0; 2],
        }
    }
}

impl EntryHeader {
    fn sealed(mut self, covered: &[u8], seed: u32) -> Self {
        self.checksum.set(self.compute_checksum(covered, seed));
        self
    }

    fn compute_checksum(&self, covered: &[u8], seed: u32) -> u32 {
        let head = crc32c::crc32c_append(seed, &self.as_bytes()[size_of::<U32>()..]);
        crc32c::crc32c_append(head, covered)
    }

    /// Everything below this was on stable media before the entry was written.
    pub fn proves_durable(&self) -> LogOffset {
        match self.durable_lag.get() {
            DURABLE_LAG_UNKNOWN => LogOffset(0),
            lag => LogOffset(self.own_offset.get().saturating_sub(u64::from(lag))),
        }
    }

    /// Bytes the entry takes in the log.
    pub fn size(&self) -> u64 {
        entry_size(self.payload_size.get() as usize) as u64
    }

    /// Bytes of the entry in raw form ([`raw`](super::raw)).
    pub fn raw_size(&self) -> usize {
        match self.kind == EntryKind::FILLER.0 {
            true => HEADER_SIZE,
            false => entry_size(self.payload_size.get() as usize),
        }
    }

    pub fn end(&self) -> LogOffset {
        LogOffset(self.own_offset.get()).plus(self.size())
    }
}

/// An entry whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub header: EntryHeader,
    pub kind: EntryKind,
    /// Empty for a filler.
    pub payload: &'a [u8],
}

/// What is found at a log offset.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<'a> {
    Entry(Entry<'a>),
    /// Possibly an entry; this many bytes are needed to decide.
    Truncated {
        needs: usize,
    },
    /// An intact entry in an unsupported layout.
    Unsupported {
        version: u8,
    },
    /// No entry. `claimed_size` is the size in its header, if the header at least has the right own
    /// offset.
    Nothing {
        claimed_size: Option<u64>,
    },
}

/// Parses `bytes` at log offset `at`, with `room` bytes to the end of the segment.
pub fn parse(bytes: &[u8], at: LogOffset, room: u64, seed: u32) -> Parsed<'_> {
    let Ok((header, rest)) = EntryHeader::ref_from_prefix(bytes) else {
        let fits = room >= HEADER_SIZE as u64;
        return if fits { Parsed::Truncated { needs: HEADER_SIZE } } else { NOTHING };
    };
    // Versions begin at 1, so zeros at offset 0 do not look like an entry.
    let is_own = header.own_offset.get() == at.0 || planted::is(Bug::TakesStaleEntries);
    if !is_own || header.version == 0 {
        return NOTHING;
    }
    let payload_size = header.payload_size.get() as usize;
    let is_filler = header.kind == EntryKind::FILLER.0;
    let size = header.size();
    if size > room || (!is_filler && payload_size > PAYLOAD_SIZE_MAX) {
        return NOTHING;
    }
    let covered = if is_filler { Some(&rest[..0]) } else { rest.get(..payload_size) };
    let Some(payload) = covered else {
        return Parsed::Truncated { needs: HEADER_SIZE + payload_size };
    };
    let is_intact = || header.checksum.get() == header.compute_checksum(payload, seed);
    if !planted::is(Bug::SkipsChecksums) && !is_intact() {
        return Parsed::Nothing { claimed_size: Some(size) };
    }
    if header.version != ENTRY_VERSION {
        return Parsed::Unsupported { version: header.version };
    }
    Parsed::Entry(Entry { header: *header, kind: EntryKind(header.kind), payload })
}

const NOTHING: Parsed<'static> = Parsed::Nothing { claimed_size: None };

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 7;
    const AT: LogOffset = LogOffset(4096);
    const MESSAGES: EntryKind = EntryKind(3);

    fn sample(kind: EntryKind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xEE; entry_size(payload.len())];
        bytes[HEADER_SIZE..HEADER_SIZE + payload.len()].copy_from_slice(payload);
        let durable = LogOffset(4000);
        let new = NewEntry { kind, subject: 5, at: AT, ordinal: 9, epoch: 3, durable };
        new.seal(&mut bytes, payload.len(), SEED);
        bytes
    }

    fn is_entry(bytes: &[u8], at: LogOffset, room: u64, seed: u32) -> bool {
        matches!(parse(bytes, at, room, seed), Parsed::Entry(_))
    }

    #[test]
    fn a_sealed_entry_is_found_again() {
        let bytes = sample(MESSAGES, b"hello");
        let Parsed::Entry(entry) = parse(&bytes, AT, 4096, SEED) else { panic!("no entry") };
        assert_eq!((entry.kind, entry.payload), (MESSAGES, &b"hello"[..]));
        assert_eq!(entry.header.proves_durable(), LogOffset(4000));
        assert_eq!(entry.header.end(), AT.plus(48));
        assert_eq!(&bytes[45..], [0, 0, 0], "padding is zeros");
    }

    #[test]
    fn no_bit_of_an_entry_may_change() {
        let good = sample(MESSAGES, b"hello");
        for bit in 0..(HEADER_SIZE + 5) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_entry(&bad, AT, 4096, SEED), "bit {bit}");
        }
    }

    #[test]
    fn an_entry_counts_only_where_it_belongs() {
        let bytes = sample(MESSAGES, b"hello");
        assert!(!is_entry(&bytes, AT.plus(8), 4096, SEED), "another place");
        assert!(!is_entry(&bytes, AT, 4096, SEED + 1), "another shard");
        assert!(!is_entry(&bytes, AT, 47, SEED), "beyond the segment");
        assert!(is_entry(&bytes, AT, 48, SEED));
    }

    #[test]
    fn a_truncated_entry_says_how_many_bytes_it_needs() {
        let bytes = sample(MESSAGES, b"hello");
        for cut in 0..bytes.len() - 3 {
            let needs = if cut < HEADER_SIZE { HEADER_SIZE } else { HEADER_SIZE + 5 };
            let seen = parse(&bytes[..cut], AT, 4096, SEED);
            assert!(
                matches!(seen, Parsed::Truncated { needs: n } if n == needs),
                "cut at {cut}: {seen:?}"
            );
        }
    }

    #[test]
    fn a_filler_is_read_without_its_payload() {
        let durable = LogOffset(0);
        let kind = EntryKind::FILLER;
        let new = NewEntry { kind, subject: 0, at: AT, ordinal: 1, epoch: 1, durable };
        let header = new.filler(1 << 20, SEED);
        let Parsed::Entry(entry) = parse(header.as_bytes(), AT, 1 << 20, SEED) else {
            panic!("none")
        };
        assert_eq!(entry.header.end(), AT.plus(1 << 20));
    }

    #[test]
    fn a_lag_that_does_not_fit_proves_nothing() {
        let kind = MESSAGES;
        let at = LogOffset(u64::from(u32::MAX) + 8);
        let new = NewEntry { kind, subject: 0, at, ordinal: 1, epoch: 1, durable: LogOffset(0) };
        let mut bytes = vec![0; HEADER_SIZE];
        new.seal(&mut bytes, 0, SEED);
        let Parsed::Entry(entry) = parse(&bytes, at, 4096, SEED) else { panic!("none") };
        assert_eq!(entry.header.proves_durable(), LogOffset(0));
    }

    #[test]
    fn an_entry_of_a_later_release_is_not_taken_for_damage() {
        let mut bytes = sample(MESSAGES, b"hello");
        bytes[offset_of!(EntryHeader, version)] = 200;
        let header = EntryHeader::read_from_prefix(&bytes).unwrap().0.sealed(b"hello", SEED);
        bytes[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        let seen = parse(&bytes, AT, 4096, SEED);
        assert!(matches!(seen, Parsed::Unsupported { version: 200 }), "{seen:?}");
    }
}
