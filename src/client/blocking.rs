//! Sessions over real sockets, on one thread: all waiting happens in [`Connections::turn`].
//!
//! One connection per address, opened on first use and reopened after it was lost. A lost
//! connection ends only the requests in flight on it; the caller decides whether to repeat them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use crate::client::ask::Ask;
use crate::client::error::ClientError;
use crate::client::session::{CallError, CallResult, Opaque, ServerRequest, Session, StartError};
use crate::model::{ClientReply, Refusal, Timestamp};
use crate::wire::{HeaderEncoding, ReplyTo, Response};

/// Maximum bytes read from a socket at a time.
const READ_SIZE: usize = 256 << 10;
/// Maximum number of reads from one socket before the others get a turn.
const READS_PER_TURN: usize = 16;
/// A server that has let a request time out and has sent nothing for this long, ms, is considered
/// gone: the network may have dropped the connection silently.
const SILENCE_MAX_MS: u64 = 10_000;
/// Maximum number of connections per client. To open another, one without requests in flight is
/// closed.
const LINES_MAX: usize = 1_024;

/// Wall clock time without jumps: read once, then advanced by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    read_at: Instant,
    read_ms: u64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the client's edge: where its clock is read")]
    pub fn start() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let read_ms = since_epoch.map_or(0, |elapsed| elapsed.as_millis() as u64);
        Self { read_at: Instant::now(), read_ms }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.read_ms).plus_ms(self.read_at.elapsed().as_millis() as u64)
    }
}

/// A request in flight: the connection's number and the request's number on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub line: u64,
    opaque: Opaque,
}

/// The sender of a server request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub address: String,
    line: u64,
}

pub struct Connections {
    clock: Clock,
    connect_timeout_ms: u64,
    silence_max_ms: u64,
    lines: BTreeMap<String, Line>,
    next_line: u64,
    finished: VecDeque<(Call, CallResult)>,
    buffer: Box<[u8]>,
}

struct Line {
    number: u64,
    stream: TcpStream,
    peer: SocketAddr,
    /// Deadline for connecting, until the connection is established.
    connecting_until: Option<Timestamp>,
    session: Session,
    /// When something last arrived, or when the first request after an idle time was sent.
    heard_at: Timestamp,
    /// Whether a request has timed out since `heard_at`.
    is_late: bool,
}

impl Connections {
    pub fn new(connect_timeout_ms: u64) -> Self {
        Self {
            clock: Clock::start(),
            connect_timeout_ms,
            silence_max_ms: SILENCE_MAX_MS,
            lines: BTreeMap::new(),
            next_line: 0,
            finished: VecDeque::new(),
            buffer: vec![0; READ_SIZE].into(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Sends `request` to `address`, connecting if needed. Does not wait: the result comes from
    /// [`poll_finished`](Self::poll_finished), after at most `timeout_ms`.
    pub fn start(
        &mut self,
        address: &str,
        encoding: HeaderEncoding,
        request: &impl Ask,
        timeout_ms: u64,
    ) -> Result<Call, ClientError> {
        let what = || request.what().to_owned();
        let not_reached =
            |why: String| ClientError::of_call(&what(), address, CallError::NotSent(why));
        self.ensure_line(address).map_err(|error| not_reached(error.to_string()))?;
        let now = self.now();
        let deadline = now.plus_ms(timeout_ms);
        let line = self.lines.get_mut(address).expect("it was just ensured");
        if line.session.is_idle() {
            line.handle_heard(now);
        }
        let opaque =
            line.session.start(encoding, request, deadline).map_err(|error| match error {
                StartError::Full => not_reached(error.to_string()),
                StartError::Encode(error) => ClientError::Encoding(error.to_string()),
            })?;
        let call = Call { line: line.number, opaque };
        // Most requests fit in the socket's buffer, so this saves a `poll`.
        if line.connecting_until.is_none()
            && let Err(error) = line.send()
        {
            self.close_line(address, &error.to_string());
        }
        Ok(call)
    }

    /// Sends a request and waits for the reply. Other requests proceed meanwhile.
    pub fn call(
        &mut self,
        address: &str,
        encoding: HeaderEncoding,
        request: &impl Ask,
        timeout_ms: u64,
    ) -> Result<Response, ClientError> {
        let call = self.start(address, encoding, request, timeout_ms)?;
        let result = self.wait_for(call);
        result.map_err(|error| ClientError::of_call(request.what(), address, error))
    }

    /// Waits until `call`, which must be in flight, has ended.
    pub fn wait_for(&mut self, call: Call) -> CallResult {
        loop {
            if let Some(index) = self.finished.iter().position(|(of, _)| *of == call) {
                return self.finished.remove(index).expect("it was just found").1;
            }
            let until = self.now().plus_ms(self.connect_timeout_ms);
            self.turn_sockets(until);
        }
    }

    /// The number of the connection to `address`, if there is one. A different number means a
    /// different connection, and possibly a different server.
    pub fn line_to(&self, address: &str) -> Option<u64> {
        self.lines.get(address).map(|line| line.number)
    }

    /// Whether the name in `address` no longer resolves to the address of the open connection.
    /// False if it cannot be resolved.
    pub fn has_moved(&self, address: &str) -> bool {
        let Some(line) = self.lines.get(address) else { return false };
        let is_number = address.parse::<SocketAddr>().is_ok();
        !is_number && resolve(address).is_ok_and(|found| !found.contains(&line.peer))
    }

    /// Closes the connection to `address`, which ends the requests in flight on it.
    pub fn close(&mut self, address: &str, why: &str) {
        self.close_line(address, why);
    }

    /// Whether nothing is in flight to `address`.
    pub fn is_idle(&self, address: &str) -> bool {
        self.lines.get(address).is_none_or(|line| line.session.is_idle())
    }

    /// Whether another request may be sent to `address` now.
    pub fn has_room(&self, address: &str) -> bool {
        self.lines.get(address).is_none_or(|line| line.session.has_room())
    }

    /// The next server request and its sender. Requests that are not taken wait with their
    /// connection; see [`SERVER_REQUESTS_MAX`](crate::client::session::SERVER_REQUESTS_MAX).
    pub fn poll_server_request(&mut self) -> Option<(Caller, ServerRequest)> {
        self.lines.iter_mut().find_map(|(address, line)| {
            let request = line.session.poll_server_request()?;
            Some((Caller { address: address.clone(), line: line.number }, request))
        })
    }

    /// Replies to a server request; the reply is sent by the next [`turn`](Self::turn). If the
    /// connection was lost meanwhile, the reply is dropped.
    pub fn reply(&mut self, caller: &Caller, to: ReplyTo, reply: &Result<ClientReply, Refusal>) {
        let line = self.lines.get_mut(&caller.address);
        if let Some(line) = line.filter(|line| line.number == caller.line) {
            line.session.reply(to, reply);
        }
    }

    pub fn poll_finished(&mut self) -> Option<(Call, CallResult)> {
        self.finished.pop_front()
    }

    /// Sends, receives and expires requests, waiting until `until` for the first event.
    pub fn turn(&mut self, until: Timestamp) {
        let until = if self.finished.is_empty() { until } else { Timestamp(0) };
        self.turn_sockets(until);
    }

    /// Sends, receives and expires requests until `until`. Their results wait.
    pub fn pause(&mut self, until: Timestamp) {
        while self.now() < until {
            self.turn_sockets(until);
        }
    }

    fn turn_sockets(&mut self, until: Timestamp) {
        let due = self.lines.values().filter_map(Line::poll_timeout).min();
        let until = due.map_or(until, |due| due.min(until));
        let ready = self.wait(until.ms_since(self.now()));
        let now = self.now();
        let mut lost = Vec::new();
        for ((address, line), is_ready) in self.lines.iter_mut().zip(ready) {
            let outcome = if is_ready { line.exchange(&mut self.buffer, now) } else { Ok(()) };
            match outcome.and_then(|()| line.handle_timeout(now, self.silence_max_ms)) {
                Ok(()) => collect(&mut self.finished, line),
                Err(error) => lost.push((address.clone(), error)),
            }
        }
        for (address, error) in lost {
            self.close_line(&address, &error.to_string());
        }
    }

    /// Waits for the sockets; returns which connections are ready, in order.
    fn wait(&self, wait_ms: u64) -> Vec<bool> {
        let mut polled: Vec<PollFd<'_>> = self
            .lines
            .values()
            .map(|line| PollFd::new(line.stream.as_fd(), line.interest()))
            .collect();
        let timeout = PollTimeout::try_from(wait_ms.min(60_000)).unwrap_or(PollTimeout::ZERO);
        // A signal ends the wait early, which callers of `turn` expect anyway.
        let _ = poll(&mut polled, timeout);
        polled.iter().map(|polled| polled.any().unwrap_or(true)).collect()
    }

    /// Makes sure there is a connection to `address` that its server has not closed meanwhile.
    fn ensure_line(&mut self, address: &str) -> io::Result<()> {
        let now = self.now();
        if let Some(line) = self.lines.get_mut(address) {
            let is_unused = line.connecting_until.is_none() && line.session.is_idle();
            // Servers close idle connections. Detecting that now does not cost a request.
            match if is_unused { line.receive(&mut self.buffer, now) } else { Ok(()) } {
                Ok(()) => return Ok(()),
                Err(error) => self.close_line(address, &error.to_string()),
            }
        }
        self.make_room_for_line()?;
        let number = self.next_line;
        let peer = nth_address(&resolve(address)?, number)?;
        let stream = start_connecting(peer)?;
        self.next_line += 1;
        let line = Line {
            number,
            stream,
            peer,
            connecting_until: Some(now.plus_ms(self.connect_timeout_ms)),
            session: Session::default(),
            heard_at: now,
            is_late: false,
        };
        self.lines.insert(address.to_owned(), line);
        Ok(())
    }

    fn make_room_for_line(&mut self) -> io::Result<()> {
        if self.lines.len() < LINES_MAX {
            return Ok(());
        }
        let idle = self.lines.iter().filter(|(_, line)| line.session.is_idle());
        let oldest = idle.min_by_key(|(_, line)| line.number).map(|(address, _)| address.clone());
        let address = oldest.ok_or_else(|| {
            io::Error::other(format!("{LINES_MAX} connections are open and all are in use"))
        })?;
        self.close_line(&address, "closed to make room");
        Ok(())
    }

    fn close_line(&mut self, address: &str, why: &str) {
        if let Some(mut line) = self.lines.remove(address) {
            line.session.handle_closed(why);
            collect(&mut self.finished, &mut line);
        }
    }
}

fn collect(finished: &mut VecDeque<(Call, CallResult)>, line: &mut Line) {
    while let Some((opaque, result)) = line.session.poll_finished() {
        finished.push_back((Call { line: line.number, opaque }, result));
    }
}

impl Line {
    fn interest(&self) -> PollFlags {
        if self.connecting_until.is_some() {
            PollFlags::POLLOUT
        } else if self.session.poll_bytes().is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.session.poll_timeout().into_iter().chain(self.connecting_until).min()
    }

    fn handle_heard(&mut self, now: Timestamp) {
        self.heard_at = now;
        self.is_late = false;
    }

    fn handle_timeout(&mut self, now: Timestamp, silence_max_ms: u64) -> io::Result<()> {
        self.is_late |= self.session.handle_timeout(now);
        let timed_out = |what| Err(io::Error::new(io::ErrorKind::TimedOut, what));
        match self.connecting_until {
            Some(until) if until <= now => timed_out("no connection in time"),
            None if self.is_late && now.ms_since(self.heard_at) >= silence_max_ms => {
                timed_out("the server has been silent for too long")
            }
            _ => Ok(()),
        }
    }

    fn exchange(&mut self, buffer: &mut [u8], now: Timestamp) -> io::Result<()> {
        if self.connecting_until.is_some() {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.connecting_until = None;
        }
        self.send()?;
        self.receive(buffer, now)
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.session.poll_bytes().is_empty() {
            match self.stream.write(self.session.poll_bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.session.handle_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], now: Timestamp) -> io::Result<()> {
        for _ in 0..READS_PER_TURN {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::other("the server closed the connection")),
                Ok(count) => {
                    self.handle_heard(now);
                    self.session.handle_bytes(&buffer[..count]).map_err(io::Error::other)?;
                    if count < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The addresses of a server, IPv4 first. Calls the system's resolver, which may take seconds if it
/// does not answer.
fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let mut resolved: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    resolved.sort_by_key(SocketAddr::is_ipv6);
    Ok(resolved)
}

/// The address for the connection with this number: rotates through the IPv4 addresses if there are
/// any, so that a dead one is not retried forever.
fn nth_address(resolved: &[SocketAddr], number: u64) -> io::Result<SocketAddr> {
    let ipv4_count = resolved.iter().take_while(|address| address.is_ipv4()).count();
    let count = if ipv4_count > 0 { ipv4_count } else { resolved.len() };
    let nth = (number as usize).checked_rem(count);
    nth.map(|nth| resolved[nth]).ok_or_else(|| io::Error::other("the name has no address"))
}

/// Starts to connect without waiting.
fn start_connecting(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
pub(in crate::client) mod testing;
#[cfg(test)]
mod tests;
