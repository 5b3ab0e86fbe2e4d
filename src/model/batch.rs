//! Several messages in one body: the reference's batch encoding, and records back to back.
//!
//! Both are read in place, one message at a time, and never past the end. The request says which of
//! the two a body holds; the bytes do not.

use std::mem::size_of;

use zerocopy::byteorder::big_endian::{I32, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::record::{PROPERTIES_SIZE_MAX, RecordError, RecordView};
use crate::model::refusal::Refusal;

/// Fixed part of a batch item (remoting reference, 4.5). Body, properties size and properties
/// follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ItemHead {
    /// Size of the whole item, including this field.
    size: U32,
    /// Zero from every client; ignored.
    magic: U32,
    /// Zero from every client; the checksum is computed when the message is stored.
    body_checksum: U32,
    flag: I32,
    body_size: U32,
}

const _: () = assert!(size_of::<ItemHead>() == 20);

/// One message of a batch. Topic, queue and system flag are those of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    pub properties: &'a [u8],
}

impl BatchItem<'_> {
    /// Size of the item in a batch body.
    pub fn size(&self) -> usize {
        size_of::<ItemHead>() + self.body.len() + size_of::<U16>() + self.properties.len()
    }

    /// Appends the item as stock clients write it.
    ///
    /// # Panics
    /// If the properties are larger than [`PROPERTIES_SIZE_MAX`].
    pub fn write(&self, out: &mut Vec<u8>) {
        assert!(self.properties.len() <= PROPERTIES_SIZE_MAX);
        let head = ItemHead {
            size: U32::new(self.size() as u32),
            magic: U32::ZERO,
            body_checksum: U32::ZERO,
            flag: I32::new(self.flag),
            body_size: U32::new(self.body.len() as u32),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(self.body);
        out.extend_from_slice(U16::new(self.properties.len() as u16).as_bytes());
        out.extend_from_slice(self.properties);
    }
}

/// Why a batch body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("message {index} is truncated")]
    Short { index: usize },
    #[error("message {index} declares {said} bytes, but its parts add up to {parts}")]
    Size { index: usize, said: usize, parts: usize },
    #[error("message {index} has {size} bytes of properties, at most {max} are allowed", max = PROPERTIES_SIZE_MAX)]
    Properties { index: usize, size: usize },
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        Self::BadBatch(error.to_string())
    }
}

/// The messages of a batch body, first to last. Ends after the first error.
#[derive(Clone, Debug)]
pub struct BatchItems<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> BatchItems<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body, index: 0 }
    }

    fn parse(&self) -> Result<(BatchItem<'a>, &'a [u8]), BatchError> {
        let index = self.index;
        let short = BatchError::Short { index };
        let (head, rest) = ItemHead::ref_from_prefix(self.rest).map_err(|_| short.clone())?;
        let (body, rest) =
            rest.split_at_checked(head.body_size.get() as usize).ok_or(short.clone())?;
        let (properties_size, rest) = U16::ref_from_prefix(rest).map_err(|_| short.clone())?;
        let size = usize::from(properties_size.get());
        if size > PROPERTIES_SIZE_MAX {
            return Err(BatchError::Properties { index, size });
        }
        let (properties, rest) = rest.split_at_checked(size).ok_or(short)?;
        let item = BatchItem { flag: head.flag.get(), body, properties };
        let said = head.size.get() as usize;
        if said != item.size() {
            return Err(BatchError::Size { index, said, parts: item.size() });
        }
        Ok((item, rest))
    }
}

impl<'a> Iterator for BatchItems<'a> {
    type Item = Result<BatchItem<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = self.parse();
        self.index += 1;
        self.rest = parsed.as_ref().map_or(&[], |&(_, rest)| rest);
        Some(parsed.map(|(item, _)| item))
    }
}

/// Message records back to back, as in the body of a pull reply. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = RecordView::parse(self.rest);
        self.rest = record.as_ref().map_or(&[], |record| &self.rest[record.size..]);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remoting reference, appendix D, vector 7.
    const HELLO: &[u8] =
        b"\x00\x00\x00\x25\0\0\0\0\0\0\0\0\0\0\0\0\x00\x00\x00\x05hello\x00\x0aTAGS\x01TagA\x02";

    #[test]
    fn items_are_written_and_read_as_stock_clients_do() {
        let item = BatchItem { flag: 0, body: b"hello", properties: b"TAGS\x01TagA\x02" };
        let mut out = Vec::new();
        item.write(&mut out);
        assert_eq!(out, HELLO);

        let two = [HELLO, HELLO].concat();
        assert_eq!(BatchItems::new(&two).collect::<Result<Vec<_>, _>>(), Ok(vec![item, item]));
        assert_eq!(BatchItems::new(b"").next(), None);
    }

    #[test]
    fn every_cut_of_a_batch_is_refused() {
        let two = [HELLO, HELLO].concat();
        for cut in (1..two.len()).filter(|&cut| cut != HELLO.len()) {
            let items: Vec<_> = BatchItems::new(&two[..cut]).collect();
            let index = cut / HELLO.len();
            assert_eq!(items.last(), Some(&Err(BatchError::Short { index })), "cut at {cut}");
            assert_eq!(items.len(), index + 1, "cut at {cut}");
        }
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        let with = |at: usize, bytes: &[u8]| {
            let mut batch = HELLO.to_vec();
            batch[at..at + bytes.len()].copy_from_slice(bytes);
            BatchItems::new(&batch).next().unwrap().unwrap_err()
        };
        let rows = [
            (0, &b"\x00\x00\x00\x24"[..], BatchError::Size { index: 0, said: 36, parts: 37 }),
            (0, b"\xff\xff\xff\xff", BatchError::Size { index: 0, said: 0xFFFF_FFFF, parts: 37 }),
            (16, b"\xff\xff\xff\xff", BatchError::Short { index: 0 }),
            (16, b"\x00\x00\x00\x06", BatchError::Short { index: 0 }),
            (25, b"\x00\x0b", BatchError::Short { index: 0 }),
            (25, b"\x00\x09", BatchError::Size { index: 0, said: 37, parts: 36 }),
            (25, b"\x80\x00", BatchError::Properties { index: 0, size: 0x8000 }),
        ];
        for (at, bytes, expected) in rows {
            assert_eq!(with(at, bytes), expected, "{bytes:x?} at {at}");
        }
    }
}
