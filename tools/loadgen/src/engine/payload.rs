//! The layout of a message body.
//!
//! ```text
//!   0 magic u32 | 4 CRC32C of the rest u32 | 8 run u64 | 16 sequence u64
//!  24 due u64, ns | 32 stream u16 | 34 lane u16 | 36 producer u32 | 40 filler, identical in all messages
//! ```
//!
//! The filler is half-compressible: 64 random bytes, 64 equal ones, and so on.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::engine::crc::FixedTail;
use crate::plan::schedule::SplitMix64;

/// Minimum message size: the stamp alone.
pub const MESSAGE_SIZE_MIN: usize = size_of::<Stamp>();
const MAGIC: u32 = 0x4C47_0001;
/// Bytes before the range that the checksum covers.
const UNCHECKED_SIZE: usize = 8;

/// The fixed head of a message body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Stamp {
    magic: U32,
    checksum: U32,
    run: U64,
    sequence: U64,
    due_ns: U64,
    stream: U16,
    lane: U16,
    producer: U32,
}

const _: () = assert!(size_of::<Stamp>() == 40);

/// Who sent a message, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub run: u64,
    pub stream: u16,
    /// Messages of one lane of a producer keep their order; 0 in an unordered stream.
    pub lane: u16,
    pub producer: u32,
    pub sequence: u64,
    pub due_ns: u64,
}

/// Builds bodies of one size.
#[derive(Clone)]
pub struct PayloadMaker {
    filler: Vec<u8>,
    filler_crc: FixedTail,
}

impl PayloadMaker {
    /// For bodies of `size` bytes, at least [`MESSAGE_SIZE_MIN`].
    pub fn new(size: usize) -> Self {
        let mut filler = vec![b'.'; size - MESSAGE_SIZE_MIN];
        let mut random = SplitMix64::of(0, 0);
        for piece in filler.chunks_mut(64).step_by(2) {
            for bytes in piece.chunks_mut(8) {
                bytes.copy_from_slice(&random.number().to_be_bytes()[..bytes.len()]);
            }
        }
        let filler_crc = FixedTail::crc32c(&filler);
        Self { filler, filler_crc }
    }

    /// The bytes after the stamp, identical in all bodies.
    pub fn filler(&self) -> &[u8] {
        &self.filler
    }

    /// The stamp of message `identity`; the filler follows it.
    pub fn stamp(&self, identity: &Identity) -> Stamp {
        let mut stamp = Stamp {
            magic: U32::new(MAGIC),
            checksum: U32::ZERO,
            run: U64::new(identity.run),
            sequence: U64::new(identity.sequence),
            due_ns: U64::new(identity.due_ns),
            stream: U16::new(identity.stream),
            lane: U16::new(identity.lane),
            producer: U32::new(identity.producer),
        };
        let head = crc32c::crc32c(&stamp.as_bytes()[UNCHECKED_SIZE..]);
        stamp.checksum.set(self.filler_crc.append_to(head));
        stamp
    }
}

/// Why a body is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// No load generator sent it.
    Foreign,
    /// A load generator sent it, and it has changed since.
    Corrupted,
}

/// Reads a body and checks every byte of it: the checksum covers its length too.
pub fn read(body: &[u8]) -> Result<Identity, BodyError> {
    let Ok((stamp, _)) = Stamp::ref_from_prefix(body) else { return Err(BodyError::Foreign) };
    let is_intact = stamp.checksum.get() == crc32c::crc32c(&body[UNCHECKED_SIZE..]);
    if stamp.magic.get() != MAGIC {
        // A message with a flipped bit in the magic alone is still recognisable.
        return Err(if is_intact { BodyError::Corrupted } else { BodyError::Foreign });
    }
    if !is_intact {
        return Err(BodyError::Corrupted);
    }
    Ok(Identity {
        run: stamp.run.get(),
        stream: stamp.stream.get(),
        lane: stamp.lane.get(),
        producer: stamp.producer.get(),
        sequence: stamp.sequence.get(),
        due_ns: stamp.due_ns.get(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        run: 0x1122_3344_5566_7788,
        stream: 3,
        lane: 4,
        producer: 77,
        sequence: 9,
        due_ns: 5,
    };

    fn body(size: usize) -> Vec<u8> {
        let maker = PayloadMaker::new(size);
        [maker.stamp(&IDENTITY).as_bytes(), maker.filler()].concat()
    }

    #[test]
    fn a_body_tells_who_it_is() {
        for size in [MESSAGE_SIZE_MIN, 41, 100, 1024, 65_536] {
            assert_eq!(body(size).len(), size);
            assert_eq!(read(&body(size)), Ok(IDENTITY), "{size}");
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let whole = body(200);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&flipped), Err(BodyError::Corrupted), "bit {bit}");
        }
    }

    #[test]
    fn cut_grown_and_foreign_bodies_are_told_apart() {
        let whole = body(200);
        assert_eq!(read(&whole[..199]), Err(BodyError::Corrupted));
        assert_eq!(read(&[&whole[..], b"x"].concat()), Err(BodyError::Corrupted));
        assert_eq!(read(b"hello"), Err(BodyError::Foreign));
        assert_eq!(read(&[0; 200]), Err(BodyError::Foreign));
    }
}
