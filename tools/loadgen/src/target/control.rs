//! Questions asked one at a time before a run: routes, topics, offsets. Plain blocking sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::BytesMut;
use ringmq::wire::{self, EncodeRequest, HeaderEncoding, Response};

/// How long a server may take to accept, and to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
const FRAME_SIZE_MAX: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{address} cannot be reached: {cause}")]
    Unreachable { address: String, cause: io::Error },
    #[error("{address} answers what cannot be read: {cause}")]
    Unreadable { address: String, cause: String },
    #[error("{address} refuses: code {code} {remark}")]
    Refused { address: String, code: i32, remark: String },
}

/// A connection to a NameServer or broker.
pub struct Client {
    address: String,
    stream: TcpStream,
    input: BytesMut,
    requests: i32,
}

/// The first address that `text` (`host:port`) stands for.
pub fn resolve(text: &str) -> Result<SocketAddr, ControlError> {
    let unreachable = |cause| ControlError::Unreachable { address: text.to_owned(), cause };
    let mut addresses = text.to_socket_addrs().map_err(unreachable)?;
    let none = || unreachable(io::Error::new(io::ErrorKind::NotFound, "no such host"));
    addresses.next().ok_or_else(none)
}

impl Client {
    pub fn connect(address: &str) -> Result<Self, ControlError> {
        let unreachable = |cause| ControlError::Unreachable { address: address.to_owned(), cause };
        let stream =
            TcpStream::connect_timeout(&resolve(address)?, TIMEOUT).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(unreachable)?;
        Ok(Self { address: address.to_owned(), stream, input: BytesMut::new(), requests: 0 })
    }

    /// Asks in RocketMQ's JSON, which every server understands, and waits for the answer.
    pub fn ask(&mut self, request: &impl EncodeRequest) -> Result<Response, ControlError> {
        let number = self.requests;
        self.requests += 1;
        let mut out = Vec::new();
        wire::encode_request(&mut out, HeaderEncoding::Json, number, false, request)
            .map_err(|error| self.unreadable(error.to_string()))?;
        self.stream.write_all(&out).map_err(|cause| self.unreachable(cause))?;
        loop {
            let response = self.next_response()?;
            if response.opaque == number {
                return Ok(response);
            }
        }
    }

    fn next_response(&mut self) -> Result<Response, ControlError> {
        loop {
            let frame = wire::next_frame(&mut self.input, FRAME_SIZE_MAX)
                .map_err(|error| self.unreadable(error.to_string()))?;
            if let Some(frame) = frame {
                return wire::decode_reply(&frame)
                    .map_err(|error| self.unreadable(error.to_string()));
            }
            let mut piece = [0; 16 << 10];
            let size = self.stream.read(&mut piece).map_err(|cause| self.unreachable(cause))?;
            if size == 0 {
                return Err(self.unreachable(io::ErrorKind::UnexpectedEof.into()));
            }
            self.input.extend_from_slice(&piece[..size]);
        }
    }

    /// An answer that says no, as an error.
    pub fn refused(&self, error: &wire::ReplyError) -> ControlError {
        let (address, code) = (self.address.clone(), error.code);
        ControlError::Refused { address, code, remark: error.remark.to_string() }
    }

    fn unreachable(&self, cause: io::Error) -> ControlError {
        ControlError::Unreachable { address: self.address.clone(), cause }
    }

    fn unreadable(&self, cause: String) -> ControlError {
        ControlError::Unreadable { address: self.address.clone(), cause }
    }
}
