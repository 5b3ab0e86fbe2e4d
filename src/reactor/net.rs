//! TCP sockets: readiness from the ring, bytes by direct system calls.
//!
//! A read goes straight into the reader's memory, so no memory is bound to connections that send
//! nothing, and a large body can be read where it is needed. A read that fills only part of its
//! buffer counts as the last one until the kernel reports more; so urgent data, at which reads
//! stop, is not supported.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use nix::errno::Errno;
use nix::libc::{POLLIN, POLLOUT, POLLRDHUP};
use nix::sys::socket::{
    self, AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, sockopt,
};

use super::core::{Reactor, current};
use super::readiness::Readiness;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

pub struct TcpListener {
    listener: net::TcpListener,
    readiness: Rc<Readiness>,
    reactor: Rc<Reactor>,
}

impl TcpListener {
    /// Listens on `address`. Other sockets may listen there too (SO_REUSEPORT): after a crash,
    /// connections of the dead process would otherwise block the address for a minute.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(address)?;
        socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        let listener = net::TcpListener::from(socket);
        let readiness = Readiness::new(listener.as_raw_fd(), POLLIN);
        Ok(Self { listener, readiness, reactor: current() })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Refuses connections from now on, including those that wait to be accepted. Ends
    /// [`accept`](Self::accept) with an error.
    pub fn close(&self) {
        // An error means that it is closed already.
        let _ = socket::shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }

    /// # Errors
    ///
    /// The kernel refuses, for example because there are too many open files; or the listener is
    /// closed.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    return Ok(TcpStream::new(stream));
                }
                Err(error) if is_blocked(&error) => {
                    poll_fn(|context| self.reactor.poll_ready(&self.readiness, context)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.reactor.ring().unwatch(&self.readiness);
    }
}

/// A connection. One task may read, and one may write.
pub struct TcpStream {
    stream: net::TcpStream,
    readable: Rc<Readiness>,
    writable: Rc<Readiness>,
    reactor: Rc<Reactor>,
}

impl TcpStream {
    fn new(stream: net::TcpStream) -> Self {
        let descriptor = stream.as_raw_fd();
        let readable = Readiness::new(descriptor, POLLIN | POLLRDHUP);
        let writable = Readiness::new(descriptor, POLLOUT);
        Self { stream, readable, writable, reactor: current() }
    }

    /// Connects to the first address that accepts. A name is looked up first, which blocks.
    pub async fn connect(target: impl ToSocketAddrs) -> io::Result<Self> {
        let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in target.to_socket_addrs()? {
            match Self::connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_to(address: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(address)?;
        let begun = socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address));
        let stream = Self::new(net::TcpStream::from(socket));
        match begun {
            Ok(()) => return Ok(stream),
            Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        poll_fn(|context| stream.reactor.poll_ready(&stream.writable, context)).await;
        match stream.stream.take_error()? {
            None => {
                stream.writable.restore();
                Ok(stream)
            }
            Some(error) => Err(error),
        }
    }

    /// Whether the last read has left something, as far as is known.
    pub fn has_more(&self) -> bool {
        self.readable.is_ready()
    }

    pub fn set_nodelay(&self, value: bool) -> io::Result<()> {
        self.stream.set_nodelay(value)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Waits until a read may find something.
    pub async fn readable(&self) {
        poll_fn(|context| self.reactor.poll_ready(&self.readable, context)).await;
        self.readable.restore();
    }

    /// Reads what is available, at most what fits in `buffer`. 0: the peer has closed.
    pub fn poll_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.reactor.poll_ready(&self.readable, context));
            match (&self.stream).read(buffer) {
                Ok(size) => {
                    if size == buffer.len() {
                        self.readable.restore();
                    }
                    return Poll::Ready(Ok(size));
                }
                Err(error) if is_blocked(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.readable.restore(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes as much of `bytes` as there is room for.
    pub fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match (&self.stream).write(bytes) {
                Err(error) if is_blocked(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => return Poll::Ready(outcome),
            }
            ready!(self.reactor.poll_ready(&self.writable, context));
        }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let ring = &mut *self.reactor.ring();
        ring.unwatch(&self.readable);
        ring.unwatch(&self.writable);
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl AsyncRead for &TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        TcpStream::poll_read(*self, context, buffer)
    }
}

impl AsyncWrite for &TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        TcpStream::poll_write(*self, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(net::Shutdown::Write))
    }
}

fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket::socket(family, SockType::Stream, flags, None)?)
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
