//! The frame of every request and reply (remoting reference, 1.1):
//!
//! ```text
//!   0 size u32, of what follows | 4 header encoding u8 | 5 header size u24 | 8 header | body
//! ```
//!
//! A length is checked against its limit before waiting for that many bytes. If it is invalid, the
//! framing is lost, and the connection must be closed. Everything else that can be wrong concerns one
//! frame only: [`Frame::bad_prefix`] says what.

use std::mem::size_of;

use bytes::{Buf, Bytes, BytesMut};
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Maximum size of a frame including its size field, bytes. The limit of stock clients.
pub const FRAME_SIZE_MAX: usize = 16 << 20;

/// Encoding of a header. The number is the frame's fifth byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderEncoding {
    /// RocketMQ's own; the default of every stock client.
    Json = 0,
    /// RocketMQ's own.
    Binary = 1,
    /// Ours, for the hot requests only.
    Fixed = 2,
}

/// The eight bytes before every header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Prefix {
    /// Number of bytes after this field.
    pub size: U32,
    /// Header encoding in the top byte, header size in the low three.
    pub header_word: U32,
}

const _: () = assert!(size_of::<Prefix>() == 8);

/// Maximum header size that the prefix can express, bytes.
pub(crate) const HEADER_SIZE_MAX: usize = 0x00FF_FFFF;

/// One complete request or reply. Header and body share the receive buffer; nothing is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub encoding: HeaderEncoding,
    /// If the prefix is bad: everything after it.
    pub header: Bytes,
    pub body: Bytes,
    pub bad_prefix: Option<BadPrefix>,
}

impl Frame {
    pub fn new(encoding: HeaderEncoding, header: Bytes, body: Bytes) -> Self {
        Self { encoding, header, body, bad_prefix: None }
    }

    /// Size of header and body.
    pub fn size(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

/// Why a frame cannot be divided into header and body, although its bounds are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// Such a frame counts as JSON, the encoding of every stock client.
    #[error("header encoding {0} is unknown")]
    UnknownEncoding(u8),
    #[error("header of {header_size} bytes in a frame of {size}")]
    HeaderTooLong { header_size: usize, size: usize },
}

/// Why the framing of a stream is lost, or why one frame cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {size} bytes is shorter than the prefix of one")]
    TooShort { size: usize },
    #[error("frame of {size} bytes exceeds the limit of {size_max}")]
    TooLarge { size: usize, size_max: usize },
    #[error(transparent)]
    BadPrefix(#[from] BadPrefix),
    #[error("cannot decode the header: {0}")]
    Header(String),
}

/// Splits the next whole frame off `input`; `None` means more bytes are needed. `size_max` counts
/// the whole frame; servers and clients pass [`FRAME_SIZE_MAX`].
pub fn next_frame(input: &mut BytesMut, size_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(layout) = next_layout(input, size_max)? else { return Ok(None) };
    Ok(Some(layout.frame(input.split_to(layout.size).freeze())))
}

/// Like [`next_frame`], for a buffer that will not grow.
pub fn next_frame_of(input: &mut Bytes, size_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(layout) = next_layout(input, size_max)? else { return Ok(None) };
    Ok(Some(layout.frame(input.split_to(layout.size))))
}

/// The size of the frame that begins with `bytes`, if they are enough to tell. It may be invalid.
pub fn announced_size(bytes: &[u8]) -> Option<usize> {
    let (size, _) = U32::ref_from_prefix(bytes).ok()?;
    Some((size.get() as usize).saturating_add(size_of::<U32>()))
}

/// The prefix of a complete frame.
struct Layout {
    encoding: HeaderEncoding,
    /// Of the whole frame.
    size: usize,
    header_size: usize,
    bad_prefix: Option<BadPrefix>,
}

impl Layout {
    fn frame(&self, mut header: Bytes) -> Frame {
        header.advance(size_of::<Prefix>());
        let body = header.split_off(self.header_size);
        Frame { encoding: self.encoding, header, body, bad_prefix: self.bad_prefix }
    }
}

/// The layout of the frame at the start of `input`, if it is complete.
fn next_layout(input: &[u8], size_max: usize) -> Result<Option<Layout>, FrameError> {
    let Ok((prefix, _)) = Prefix::ref_from_prefix(input) else { return Ok(None) };
    let Some(size) = announced_size(prefix.as_bytes()) else { return Ok(None) };
    if size > size_max {
        return Err(FrameError::TooLarge { size, size_max });
    }
    if size < size_of::<Prefix>() {
        return Err(FrameError::TooShort { size });
    }
    if input.len() < size {
        return Ok(None);
    }
    let header_word = prefix.header_word.get();
    let header_size = header_word as usize & HEADER_SIZE_MAX;
    let (encoding, unknown) = match (header_word >> 24) as u8 {
        0 => (HeaderEncoding::Json, None),
        1 => (HeaderEncoding::Binary, None),
        2 => (HeaderEncoding::Fixed, None),
        other => (HeaderEncoding::Json, Some(BadPrefix::UnknownEncoding(other))),
    };
    let size_left = size - size_of::<Prefix>();
    let too_long =
        (header_size > size_left).then_some(BadPrefix::HeaderTooLong { header_size, size });
    let bad_prefix = unknown.or(too_long);
    let header_size = if bad_prefix.is_some() { size_left } else { header_size };
    Ok(Some(Layout { encoding, size, header_size, bad_prefix }))
}

/// Appends one frame to `out`: `header` and `body` append their parts, then the prefix is filled
/// in. `chunk_bytes` more bytes of body follow on the wire.
pub(crate) fn write_frame(
    out: &mut Vec<u8>,
    encoding: HeaderEncoding,
    header: impl FnOnce(&mut Vec<u8>),
    body: impl FnOnce(&mut Vec<u8>),
    chunk_bytes: usize,
) {
    let start = out.len();
    out.extend_from_slice(&[0; size_of::<Prefix>()]);
    header(out);
    let header_size = out.len() - start - size_of::<Prefix>();
    assert!(header_size <= HEADER_SIZE_MAX, "a header is far below 16 MiB");
    body(out);
    let size = out.len() - start - size_of::<U32>() + chunk_bytes;
    let prefix = Prefix {
        size: U32::new(size as u32),
        header_word: U32::new((encoding as u32) << 24 | header_size as u32),
    };
    out[start..][..size_of::<Prefix>()].copy_from_slice(prefix.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, &'static [u8], Result<Option<Frame>, FrameError>);

    #[test]
    fn next_frame_table() {
        use BadPrefix::{HeaderTooLong, UnknownEncoding};
        use FrameError::{TooLarge, TooShort};
        let frame = |encoding, header: &'static str, body: &'static str| {
            Ok(Some(Frame::new(encoding, header.into(), body.into())))
        };
        let bad = |encoding, header: &'static str, bad_prefix| {
            let (header, body) = (header.into(), Bytes::new());
            Ok(Some(Frame { encoding, header, body, bad_prefix: Some(bad_prefix) }))
        };
        let json = |header, body| frame(HeaderEncoding::Json, header, body);
        #[rustfmt::skip]
        let rows: [Row; 18] = [
            // case             size            enc header-size payload
            ("empty",           b"",                                        Ok(None)),
            ("cut in prefix",   b"\x00\x00\x00\x09\x00\x00\x00",            Ok(None)),
            ("cut in body",     b"\x00\x00\x00\x09\x00\x00\x00\x02hibo",    Ok(None)),
            ("header and body", b"\x00\x00\x00\x09\x00\x00\x00\x02hibod",   json("hi", "bod")),
            ("no body",         b"\x00\x00\x00\x06\x00\x00\x00\x02hi",      json("hi", "")),
            ("no header",       b"\x00\x00\x00\x06\x00\x00\x00\x00hi",      json("", "hi")),
            ("more follows",    b"\x00\x00\x00\x06\x00\x00\x00\x02hi\x00",  json("hi", "")),
            ("binary",          b"\x00\x00\x00\x06\x01\x00\x00\x02hi",      frame(HeaderEncoding::Binary, "hi", "")),
            ("fixed",           b"\x00\x00\x00\x06\x02\x00\x00\x02hi",      frame(HeaderEncoding::Fixed, "hi", "")),
            ("at the limit",    b"\x00\x00\x00\x3c\x00\x00\x00\x02",        Ok(None)),
            ("over the limit",  b"\x00\x00\x00\x3d\x00\x00\x00\x02",        Err(TooLarge { size: 65, size_max: 64 })),
            ("negative size",   b"\xff\xff\xff\xff\x00\x00\x00\x02",        Err(TooLarge { size: 0x1_0000_0003, size_max: 64 })),
            ("no header word",  b"\x00\x00\x00\x03\x00\x00\x00\x00",        Err(TooShort { size: 7 })),
            ("size 0",          b"\x00\x00\x00\x00\x00\x00\x00\x06",        Err(TooShort { size: 4 })),
            ("header too long", b"\x00\x00\x00\x06\x01\x00\x00\x03hi",      bad(HeaderEncoding::Binary, "hi", HeaderTooLong { header_size: 3, size: 10 })),
            ("the same, cut",   b"\x00\x00\x00\x06\x01\x00\x00\x03h",       Ok(None)),
            ("bad encoding",    b"\x00\x00\x00\x06\x07\x00\x00\x01hi",      bad(HeaderEncoding::Json, "hi", UnknownEncoding(7))),
            ("both",            b"\x00\x00\x00\x06\x07\x00\x00\x03hi",      bad(HeaderEncoding::Json, "hi", UnknownEncoding(7))),
        ];
        for (case, input, expected) in rows {
            assert_eq!(next_frame(&mut BytesMut::from(input), 64), expected, "{case}");
            assert_eq!(next_frame_of(&mut Bytes::from(input), 64), expected, "{case}");
        }
    }

    /// The frames are the same however the bytes are split.
    #[test]
    fn framing_ignores_how_reads_are_cut() {
        let stream = b"\x00\x00\x00\x09\x00\x00\x00\x02hibod\x00\x00\x00\x05\x01\x00\x00\x01h";
        for cut in 0..=stream.len() {
            let mut input = BytesMut::new();
            let mut bodies = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                input.extend_from_slice(part);
                while let Some(frame) = next_frame(&mut input, 64).unwrap() {
                    bodies.push(frame.body);
                }
            }
            assert_eq!(bodies, ["bod", ""], "cut at {cut}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn the_largest_frame_is_16_mib_and_not_a_byte_more() {
        let prefix = |size: u32| {
            let header_word = U32::new(2);
            BytesMut::from(Prefix { size: U32::new(size), header_word }.as_bytes())
        };
        let largest = (FRAME_SIZE_MAX - 4) as u32;
        assert_eq!(next_frame(&mut prefix(largest), FRAME_SIZE_MAX), Ok(None));
        assert!(next_frame(&mut prefix(largest + 1), FRAME_SIZE_MAX).is_err());
    }

    #[test]
    fn a_written_frame_counts_the_chunks_that_follow() {
        let mut out = b"before".to_vec();
        let header = |out: &mut Vec<u8>| out.extend_from_slice(b"hi");
        let body = |out: &mut Vec<u8>| out.extend_from_slice(b"bod");
        write_frame(&mut out, HeaderEncoding::Binary, header, body, 7);
        assert_eq!(out, b"before\x00\x00\x00\x10\x01\x00\x00\x02hibod");
    }
}
