//! What a connection still has to send: encoded headers and slices of the log, in order.
//!
//! Headers are appended to one reused buffer; slices of the log stay where they are. One `sendmsg`
//! takes up to [`SLICES_MAX`] of both. Nothing here waits: sending stops when the socket is full.
//!
//! A slice keeps its whole buffer alive, so the memory accounted is that of the buffers, each once,
//! not that of the bytes to send. For a connection that keeps up, slices are sent as they are.
//! While one does not, slices that are a small part of their buffers are copied, so a client that
//! reads nothing holds at most [`COPY_FRACTION`] times the bytes that are to be sent to it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::model::Chunk;

/// Maximum number of slices per system call.
const SLICES_MAX: usize = 64;
/// While the socket is full, slices are copied if they are together smaller than their buffer
/// divided by this.
const COPY_FRACTION: usize = 4;
/// Number of sent bytes at the front that makes moving the rest worthwhile.
const RECLAIM_SIZE: usize = 64 << 10;

#[derive(Default)]
pub struct Output {
    /// Headers and small bodies, referenced by ranges in `parts`.
    bytes: Vec<u8>,
    parts: VecDeque<Part>,
    /// Bytes of the first part that have been sent.
    sent: usize,
    unsent: usize,
    /// Buffers that the chunks in `parts` hold, by id.
    kept: FxHashMap<usize, RetainedBuffer>,
    /// Sum over `kept`.
    kept_memory: usize,
    /// The socket was full, and not everything has been sent since then.
    is_behind: bool,
}

/// A buffer with unsent slices.
struct RetainedBuffer {
    slices: usize,
    /// Bytes of these slices.
    size: usize,
    memory: usize,
}

enum Part {
    Bytes(Range<usize>),
    Chunk(Chunk),
}

/// Result of an attempt to send.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The socket is full.
    Blocked,
}

impl Output {
    /// Unsent bytes.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Memory held by unsent output, bytes.
    pub fn held(&self) -> usize {
        self.bytes.len() + self.kept_memory
    }

    /// Appends what `write` writes, followed by `chunks`.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>), chunks: Vec<Chunk>) {
        self.reclaim();
        let begin = self.bytes.len();
        write(&mut self.bytes);
        self.push_bytes(begin);
        for chunk in chunks {
            if self.is_behind && is_small(chunk.len(), chunk.buffer_size()) {
                let begin = self.bytes.len();
                self.bytes.extend_from_slice(&chunk);
                self.push_bytes(begin);
                continue;
            }
            self.unsent += chunk.len();
            self.keep(&chunk);
            self.parts.push_back(Part::Chunk(chunk));
        }
    }

    /// Queues the bytes of the buffer from `begin` on.
    fn push_bytes(&mut self, begin: usize) {
        let range = begin..self.bytes.len();
        self.unsent += range.len();
        match self.parts.back_mut() {
            Some(Part::Bytes(last)) if last.end == range.start => last.end = range.end,
            _ => self.parts.push_back(Part::Bytes(range)),
        }
    }

    fn keep(&mut self, chunk: &Chunk) {
        let memory = chunk.buffer_size();
        let kept = self.kept.entry(chunk.buffer_id()).or_insert_with(|| {
            self.kept_memory += memory;
            RetainedBuffer { slices: 0, size: 0, memory }
        });
        kept.slices += 1;
        kept.size += chunk.len();
    }

    fn let_go(&mut self, chunk: &Chunk) {
        let kept = self.kept.get_mut(&chunk.buffer_id()).expect("chunks among the parts are kept");
        kept.slices -= 1;
        kept.size -= chunk.len();
        if kept.slices == 0 {
            self.kept_memory -= kept.memory;
            self.kept.remove(&chunk.buffer_id());
        }
    }

    /// Frees buffers of which only a small part is unsent, because the client does not keep up.
    fn copy_small_slices(&mut self) {
        for index in 0..self.parts.len() {
            let Part::Chunk(chunk) = &self.parts[index] else { continue };
            let kept = &self.kept[&chunk.buffer_id()];
            if is_small(kept.size, kept.memory) {
                let copy = Chunk::from_vec(chunk.to_vec());
                self.keep(&copy);
                let before = std::mem::replace(&mut self.parts[index], Part::Chunk(copy));
                if let Part::Chunk(chunk) = before {
                    self.let_go(&chunk);
                }
            }
        }
    }

    /// Sends as much as the socket accepts, without waiting.
    pub fn send(&mut self, socket: RawFd) -> io::Result<Sent> {
        while self.unsent > 0 {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(socket, &self.slices(), &[], flags, None);
            match sent {
                Ok(size) => self.advance(size),
                Err(Errno::EAGAIN) => {
                    if !std::mem::replace(&mut self.is_behind, true) {
                        self.copy_small_slices();
                    }
                    return Ok(Sent::Blocked);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Sent::All)
    }

    /// A copy of the next bytes, for a caller that can wait for the socket.
    pub fn next_bytes(&self, size_max: usize) -> Vec<u8> {
        let Some(first) = self.parts.front() else { return Vec::new() };
        let unsent = &self.bytes_of(first)[self.sent..];
        unsent[..unsent.len().min(size_max)].to_vec()
    }

    /// Removes the first `size` bytes, which have been sent.
    pub fn advance(&mut self, size: usize) {
        self.unsent -= size;
        self.sent += size;
        while let Some(part) = self.parts.front() {
            let part_size = self.bytes_of(part).len();
            if self.sent < part_size {
                break;
            }
            self.sent -= part_size;
            if let Some(Part::Chunk(chunk)) = self.parts.pop_front() {
                self.let_go(&chunk);
            }
        }
        if self.parts.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(RECLAIM_SIZE);
            self.is_behind = false;
        }
    }

    /// Moves the unsent bytes to the front once most of the buffer has been sent. Otherwise a
    /// connection that never drains completely would grow it without bound.
    fn reclaim(&mut self) {
        let range_of = |part: &Part| match part {
            Part::Bytes(range) => Some(range.start),
            Part::Chunk(_) => None,
        };
        let unsent = self.parts.iter().find_map(range_of).unwrap_or(self.bytes.len());
        if unsent < RECLAIM_SIZE || unsent < self.bytes.len() / 2 {
            return;
        }
        self.bytes.drain(..unsent);
        self.bytes.shrink_to(2 * self.bytes.len().max(RECLAIM_SIZE));
        for part in &mut self.parts {
            if let Part::Bytes(range) = part {
                *range = range.start - unsent..range.end - unsent;
            }
        }
    }

    fn slices(&self) -> SmallVec<[IoSlice<'_>; SLICES_MAX]> {
        let bytes = self.parts.iter().take(SLICES_MAX).map(|part| self.bytes_of(part));
        let mut slices: SmallVec<[IoSlice<'_>; SLICES_MAX]> = bytes.map(IoSlice::new).collect();
        if let Some(first) = slices.first_mut() {
            first.advance(self.sent);
        }
        slices
    }

    fn bytes_of<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Bytes(range) => &self.bytes[range.clone()],
            Part::Chunk(chunk) => chunk,
        }
    }
}

fn is_small(size: usize, memory: usize) -> bool {
    size * COPY_FRACTION <= memory
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use super::*;

    /// However little the socket accepts at a time, what arrives is what was pushed, in order.
    #[test]
    fn everything_arrives_once_and_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut output = Output::default();
        let mut expected = Vec::new();
        for nth in 0..200u32 {
            let head = format!("head {nth} ").into_bytes();
            let chunk = vec![nth as u8; 5000];
            expected.extend_from_slice(&head);
            expected.extend_from_slice(&chunk);
            output.push(|out| out.extend_from_slice(&head), vec![Chunk::from_vec(chunk)]);
        }
        assert_eq!(output.unsent(), expected.len());
        let mut received = Vec::new();
        let mut blocked = 0;
        while received.len() < expected.len() {
            blocked += u32::from(output.send(ours.as_raw_fd()).unwrap() == Sent::Blocked);
            let mut buffer = vec![0; 3000];
            let size = theirs.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..size]);
        }
        assert!(blocked > 0, "the socket was never full, so the test shows nothing");
        assert_eq!(received, expected);
        assert_eq!((output.unsent(), output.bytes.len()), (0, 0));
    }

    fn buffer(byte: u8) -> Rc<Vec<u8>> {
        Rc::new(vec![byte; 1 << 20])
    }

    #[test]
    fn a_buffer_counts_once_and_with_all_its_memory() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (first, second) = (buffer(1), buffer(2));
        let mut output = Output::default();
        let slices = [0..10, 5000..6000].map(|range| Chunk::new(first.clone(), range));
        output.push(|out| out.push(0), slices.into());
        assert_eq!(output.held(), 1 + (1 << 20));
        output.push(|_| {}, vec![Chunk::with_memory(second.clone(), 0..10, 2 << 20)]);
        assert_eq!(output.held(), 1 + (3 << 20));
        assert_eq!(Rc::strong_count(&first), 3, "who keeps up gets the buffer itself");
        assert_eq!(output.send(ours.as_raw_fd()).unwrap(), Sent::All);
        assert_eq!((output.held(), Rc::strong_count(&first)), (0, 1));
    }

    /// A client that reads nothing is sent one message out of each of a thousand buffers.
    #[test]
    fn a_client_that_does_not_read_keeps_little_more_than_it_is_to_get() {
        const SIZE: usize = 1000;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut output = Output::default();
        let mut expected = Vec::new();
        let mut buffers = Vec::new();
        for nth in 0..1000u32 {
            let whole = buffer(nth as u8);
            let size = if nth % 100 == 99 { 300_000 } else { SIZE };
            output.push(|out| out.push(7), vec![Chunk::new(whole.clone(), 0..size)]);
            expected.push(7);
            expected.extend_from_slice(&whole[..size]);
            buffers.push(Rc::downgrade(&whole));
            drop(whole);
            if output.send(ours.as_raw_fd()).unwrap() == Sent::Blocked {
                let kept = buffers.iter().filter(|buffer| buffer.strong_count() > 0).count();
                assert!(kept <= 10, "{kept} buffers are kept after {nth}");
                assert!(output.held() <= COPY_FRACTION * output.unsent() + 2 * RECLAIM_SIZE);
            }
        }
        assert!(output.is_behind, "the socket was never full");
        let mut received = vec![0; expected.len()];
        let mut at = 0;
        while at < received.len() {
            output.send(ours.as_raw_fd()).unwrap();
            at += theirs.read(&mut received[at..]).unwrap();
        }
        assert!(received == expected);
        assert_eq!((output.held(), output.is_behind, output.kept.len()), (0, false, 0));
        assert!(output.bytes.capacity() <= RECLAIM_SIZE, "memory that does not count");
    }
}
