//! A non-blocking socket with its input and output buffers.
//!
//! The kernel timestamps incoming data, so the time that a reply waits in the socket counts as the
//! generator's lateness, not as the broker's latency.
//!
//! Frames are parsed in place in the input buffer: a generator reads a million replies a second and
//! needs two numbers from each. Replies other than a plain success are copied and decoded by
//! `ringmq::wire`.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use ringmq::wire::{Frame, HeaderEncoding};
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Initial size of the input buffer, bytes. Reads into a larger one miss the L2 cache.
const INPUT_SIZE: usize = 64 << 10;
/// Maximum frame size, bytes; the limit of the protocol.
const FRAME_SIZE_MAX: usize = 16 << 20;

pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// `head <= tail <= input.len()`; unread frames lie between head and tail.
    input: Vec<u8>,
    head: usize,
    tail: usize,
    /// Frames to send; the first `written` bytes are sent.
    output: Vec<u8>,
    written: usize,
    /// Control message buffer for a timestamp.
    control: Vec<u8>,
}

/// The eight bytes in front of every frame.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Prefix {
    /// Bytes that follow this field.
    size: U32,
    encoding: u8,
    header_size: [u8; 3],
}

/// A whole frame, still in the input buffer.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    pub encoding: HeaderEncoding,
    pub header: &'a [u8],
    pub body: &'a [u8],
}

impl FrameView<'_> {
    /// An owned copy of the frame without its body.
    pub fn header_only(&self) -> Frame {
        let header = Bytes::copy_from_slice(self.header);
        Frame::new(self.encoding, header, Bytes::new())
    }
}

impl Connection {
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::from_stream(TcpStream::connect_timeout(&address, timeout)?)
    }

    /// Wraps a socket that is already connected.
    pub fn from_stream(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        setsockopt(&stream, ReceiveTimestampns, &true)?;
        Ok(Self {
            peer: stream.peer_addr()?,
            stream,
            input: vec![0; INPUT_SIZE],
            head: 0,
            tail: 0,
            output: Vec::new(),
            written: 0,
            control: nix::cmsg_space!(TimeSpec),
        })
    }

    /// The address of the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Reads once. Returns how long the data had waited in the socket, ns; if several segments were
    /// read, how long the last one had. `None` if there was no data. End of stream is an error.
    pub fn receive(&mut self) -> io::Result<Option<u64>> {
        self.make_room();
        let mut room = [IoSliceMut::new(&mut self.input[self.tail..])];
        let control = Some(&mut self.control[..]);
        let received =
            recvmsg::<()>(self.stream.as_raw_fd(), &mut room, control, MsgFlags::empty());
        match received.map_err(io::Error::from) {
            Ok(message) if message.bytes == 0 => Err(ErrorKind::UnexpectedEof.into()),
            Ok(message) => {
                let mut stamps = message.cmsgs()?.filter_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(arrived) => Some(Duration::from(arrived)),
                    _ => None,
                });
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let waited = stamps.next().map_or(Duration::ZERO, |at| now.saturating_sub(at));
                self.tail += message.bytes;
                Ok(Some(waited.as_nanos() as u64))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Moves a partial frame to the front; grows the buffer if the frame fills it.
    fn make_room(&mut self) {
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
        if self.tail == self.input.len() {
            if self.head > 0 {
                self.input.copy_within(self.head..self.tail, 0);
                self.tail -= self.head;
                self.head = 0;
            } else {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }

    /// The next complete frame in the buffer. An error means that framing is lost.
    pub fn next_frame(&mut self) -> io::Result<Option<FrameView<'_>>> {
        let lost = |what: &str| io::Error::new(ErrorKind::InvalidData, what);
        let unread = &self.input[self.head..self.tail];
        let Ok((prefix, rest)) = Prefix::ref_from_prefix(unread) else { return Ok(None) };
        let size = prefix.size.get() as usize;
        let [high, middle, low] = prefix.header_size;
        let header_size = u32::from_be_bytes([0, high, middle, low]) as usize;
        let encoding = match prefix.encoding {
            0 => HeaderEncoding::Json,
            1 => HeaderEncoding::Binary,
            2 => HeaderEncoding::Fixed,
            _ => return Err(lost("unknown header encoding")),
        };
        let after_size = size_of::<U32>();
        if size > FRAME_SIZE_MAX || header_size + after_size > size {
            return Err(lost("impossible frame size"));
        }
        let Some(content) = rest.get(..size - after_size) else { return Ok(None) };
        self.head += after_size + size;
        let (header, body) = content.split_at(header_size);
        Ok(Some(FrameView { encoding, header, body }))
    }

    /// The output buffer. Append frames to it, then flush.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    pub fn unsent_size(&self) -> usize {
        self.output.len() - self.written
    }

    /// Sends as much as the socket accepts. Returns whether the output is empty.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(size) => self.written += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connection = Connection::connect(address, Duration::from_secs(1)).unwrap();
        (connection, listener.accept().unwrap().0)
    }

    /// Reads until `count` frames have arrived, and returns the sizes of their bodies.
    fn bodies(connection: &mut Connection, count: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        while sizes.len() < count {
            connection.receive().unwrap();
            while let Some(frame) = connection.next_frame().unwrap() {
                assert_eq!(frame.header, b"hi");
                sizes.push(frame.body.len());
            }
        }
        sizes
    }

    fn frame(body_size: usize) -> Vec<u8> {
        let size = (4 + 2 + body_size) as u32;
        [&size.to_be_bytes()[..], &[0, 0, 0, 2], b"hi", &vec![b'x'; body_size]].concat()
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let (mut connection, mut peer) = pair();
        let sizes = [0, 1, 70_000, 5, 300_000, 0];
        let stream: Vec<u8> = sizes.iter().flat_map(|&size| frame(size)).collect();
        let writer = std::thread::spawn(move || {
            for piece in stream.chunks(10_007) {
                peer.write_all(piece).unwrap();
            }
            peer
        });
        assert_eq!(bodies(&mut connection, sizes.len()), sizes);
        drop(writer.join().unwrap());
        while connection.receive().is_ok() {}
    }

    #[test]
    fn what_is_read_late_is_known_to_have_waited() {
        const WAIT: Duration = Duration::from_millis(30);
        let (mut connection, mut peer) = pair();
        assert_eq!(connection.receive().unwrap(), None);
        // The kernel starts timestamping a moment after the first socket enables it.
        let mut waited_ns = (0..100).map(|_| {
            peer.write_all(&frame(1)).unwrap();
            std::thread::sleep(WAIT);
            connection.receive().unwrap().unwrap()
        });
        let waited_ns = waited_ns.find(|ns| *ns > 0).expect("a stamp comes");
        assert!(waited_ns >= WAIT.as_nanos() as u64, "{waited_ns} ns");
    }

    #[test]
    fn lost_framing_is_an_error() {
        for bytes in [b"\x7f\xff\xff\xff\x00\x00\x00\x02", b"\x00\x00\x00\x06\x09\x00\x00\x02"] {
            let (mut connection, mut peer) = pair();
            peer.write_all(bytes).unwrap();
            while connection.tail < bytes.len() {
                connection.receive().unwrap();
            }
            assert!(connection.next_frame().is_err());
        }
    }
}
