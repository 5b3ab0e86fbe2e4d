//! Bytes that a connection has received and not yet split into frames.
//!
//! ```text
//!   room ─▶ (a read) ─▶ received ─▶ take ─▶ frames, all dropped ─▶ give_back ─┐
//!    ▲                                                                        │
//!    └──────── what is left of a cut frame, moved to the front ◀──────────────┘
//! ```
//!
//! The memory is zeroed once and then reused, because zeroing it for every read costs as much as
//! checksumming the data. Reuse requires that all frames of one read are dropped before the next
//! read. If one is kept (a held pull references its topic name), the connection allocates new
//! memory.
//!
//! The size follows the traffic: it doubles when a read fills the memory or a frame does not fit,
//! and halves after [`QUIET_READS`] reads that needed only a quarter of it.

use bytes::{Bytes, BytesMut};

const SIZE_MIN: usize = 4 << 10;
/// The memory exceeds this only for a frame that does not fit.
pub const SIZE_MAX: usize = 256 << 10;
const QUIET_READS: u32 = 16;

/// Invariant: `filled <= buffer.len()`, except between `take` and `give_back`.
#[derive(Default)]
pub struct Input {
    /// Fully initialized; received bytes are at the front.
    buffer: BytesMut,
    filled: usize,
    /// The buffer, while frames point into it.
    taken: Bytes,
    /// Target size of the buffer.
    size: usize,
    quiet_reads: u32,
}

impl Input {
    /// Memory that the next read needs, bytes.
    pub fn next_size(&self) -> usize {
        match self.filled == self.buffer.len() {
            true => (2 * self.filled).max(SIZE_MIN),
            false => self.buffer.len(),
        }
    }

    /// Memory that kept frames hold, bytes.
    pub fn memory(&self) -> usize {
        self.buffer.len()
    }

    /// The space for the next read.
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            self.size = self.next_size();
            self.resize();
        }
        &mut self.buffer[self.filled..]
    }

    /// A read has written `size` bytes.
    pub fn received(&mut self, size: usize) {
        self.filled += size;
        let is_quiet = self.filled <= self.buffer.len() / 4;
        self.quiet_reads = if is_quiet { self.quiet_reads + 1 } else { 0 };
        if self.filled == self.buffer.len() && self.size < SIZE_MAX {
            self.size = 2 * self.filled;
        }
        if self.quiet_reads == QUIET_READS {
            self.quiet_reads = 0;
            self.size = (self.size / 2).max(SIZE_MIN);
        }
    }

    /// All received bytes, to split frames off the front. The rest must be given back.
    pub fn take(&mut self) -> Bytes {
        self.taken = std::mem::take(&mut self.buffer).freeze();
        self.taken.slice(..self.filled)
    }

    /// Takes back `rest`, the bytes that follow the frames.
    pub fn give_back(&mut self, rest: Bytes) {
        let begin = self.filled - rest.len();
        drop(rest);
        let rest = begin..self.filled;
        self.filled = rest.len();
        match std::mem::take(&mut self.taken).try_into_mut() {
            Ok(buffer) => {
                self.buffer = buffer;
                self.buffer.copy_within(rest, 0);
                if self.buffer.len() != self.size && self.filled < self.size {
                    self.resize();
                }
            }
            Err(kept) => {
                self.buffer = BytesMut::zeroed(self.size.max(2 * rest.len()));
                self.buffer[..self.filled].copy_from_slice(&kept[rest]);
            }
        }
    }

    fn resize(&mut self) {
        let mut buffer = BytesMut::zeroed(self.size);
        buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
        self.buffer = buffer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in reads of whatever size fits.
    fn receive(input: &mut Input, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = input.room();
            let size = room.len().min(bytes.len());
            room[..size].copy_from_slice(&bytes[..size]);
            input.received(size);
            bytes = &bytes[size..];
        }
    }

    fn pattern(size: usize) -> Vec<u8> {
        (0..size).map(|index| (index % 251) as u8).collect()
    }

    /// Whatever the sizes of reads and frames, and whether frames are kept or not, every byte
    /// arrives once and in order.
    #[test]
    fn what_is_received_is_taken_once_and_in_order() {
        let sent = pattern(3_000_000);
        for (read, frame, keeps) in
            [(1_000, 300, false), (7_000, 5_000, true), (70_000, 600_000, false)]
        {
            let mut input = Input::default();
            let (mut taken, mut kept) = (Vec::new(), Vec::new());
            for bytes in sent.chunks(read) {
                receive(&mut input, bytes);
                let mut unread = input.take();
                while unread.len() >= frame {
                    let frame = unread.split_to(frame);
                    taken.extend_from_slice(&frame);
                    if keeps {
                        kept.push(frame);
                    }
                }
                input.give_back(unread);
            }
            taken.extend_from_slice(&input.take());
            assert!(taken == sent, "reads of {read}, frames of {frame}");
            assert!(kept.concat() == sent[..kept.len() * frame], "kept frames have changed");
        }
    }

    #[test]
    fn memory_is_used_again_unless_a_frame_is_kept() {
        let mut input = Input::default();
        let mut kept = Vec::new();
        let mut turn = |keep: bool| {
            receive(&mut input, &pattern(1_000));
            let mut unread = input.take();
            let frame = unread.split_to(unread.len() - 400);
            kept.extend(keep.then_some(frame));
            input.give_back(unread);
            assert_eq!(input.filled, 400);
            input.buffer.as_ptr()
        };
        let address = turn(false);
        assert_eq!(turn(false), address);
        assert_ne!(turn(true), address);
    }

    #[test]
    fn memory_follows_the_traffic() {
        let mut input = Input::default();
        let mut turn = |size: usize| {
            receive(&mut input, &pattern(size));
            let end = input.take().slice(input.filled..);
            input.give_back(end);
            input.buffer.len()
        };
        assert_eq!(turn(100), SIZE_MIN);
        assert_eq!(turn(SIZE_MIN), 2 * SIZE_MIN);
        assert!(turn(3 << 20) >= 3 << 20);
        let mut size = 0;
        for _ in 0..16 * QUIET_READS {
            size = turn(100);
        }
        assert_eq!(size, SIZE_MIN);
    }

    #[test]
    fn full_reads_grow_memory_only_so_far() {
        let mut input = Input::default();
        for _ in 0..20 {
            let size = input.room().len();
            receive(&mut input, &pattern(size));
            let end = input.take().slice(size..);
            input.give_back(end);
        }
        assert_eq!(input.buffer.len(), SIZE_MAX);
    }
}
