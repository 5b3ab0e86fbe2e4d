//! What a connection still has to send: encoded headers and slices of the log, in order.
//!
//! Headers are appended to one buffer that is reused, slices of the log stay where they are; one
//! `sendmsg` takes up to [`SLICES_MAX`] of both. Nothing here waits: a socket that is full says so.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use smallvec::SmallVec;

use crate::model::Chunk;

/// Slices given to the kernel at a time.
const SLICES_MAX: usize = 64;
/// Sent bytes at the front of the buffer that are worth moving the rest for.
const RECLAIM_SIZE: usize = 64 << 10;

#[derive(Default)]
pub struct Output {
    /// Headers and small bodies; ranges of it are named by `parts`.
    bytes: Vec<u8>,
    parts: VecDeque<Part>,
    /// Bytes of the first part that are sent already.
    sent: usize,
    waiting: usize,
}

enum Part {
    Bytes(Range<usize>),
    Chunk(Chunk),
}

/// What a try to send came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The socket takes no more for now.
    Blocked,
}

impl Output {
    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Appends what `write` adds to the buffer it is given, and `chunks` behind it.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>), chunks: Vec<Chunk>) {
        self.reclaim();
        let begin = self.bytes.len();
        write(&mut self.bytes);
        let range = begin..self.bytes.len();
        self.waiting += range.len();
        match self.parts.back_mut() {
            Some(Part::Bytes(last)) if last.end == range.start => last.end = range.end,
            _ => self.parts.push_back(Part::Bytes(range)),
        }
        for chunk in chunks {
            self.waiting += chunk.len();
            self.parts.push_back(Part::Chunk(chunk));
        }
    }

    /// Sends as much as the socket takes, without waiting.
    pub fn send(&mut self, socket: RawFd) -> io::Result<Sent> {
        while self.waiting > 0 {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(socket, &self.slices(), &[], flags, None);
            match sent {
                Ok(size) => self.advance(size),
                Err(Errno::EAGAIN) => return Ok(Sent::Blocked),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Sent::All)
    }

    /// A copy of what comes next, for a caller that can wait for the socket.
    pub fn next_bytes(&self, size_max: usize) -> Vec<u8> {
        let Some(first) = self.parts.front() else { return Vec::new() };
        let unsent = &self.bytes_of(first)[self.sent..];
        unsent[..unsent.len().min(size_max)].to_vec()
    }

    /// Forgets the first `size` bytes: they were sent.
    pub fn advance(&mut self, size: usize) {
        self.waiting -= size;
        self.sent += size;
        while let Some(part) = self.parts.front() {
            let part_size = self.bytes_of(part).len();
            if self.sent < part_size {
                break;
            }
            self.sent -= part_size;
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.bytes.clear();
        }
    }

    /// Moves the unsent bytes to the front once most of the buffer is sent: a connection that is
    /// never quite drained would grow it for ever.
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// However little the socket takes at a time, what arrives is what was pushed, in order.
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
        assert_eq!(output.waiting(), expected.len());
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
        assert_eq!((output.waiting(), output.bytes.len()), (0, 0));
    }
}
