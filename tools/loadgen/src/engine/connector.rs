//! Re-establishes lost connections on a separate thread, so that a slow connect never blocks a sending
//! thread.
//!
//! Orders are queued by address. While an address does not answer, there is one connect at a time,
//! every 100 ms, however many orders are queued: a thousand producers do not storm a broker that is
//! down. Once that connect succeeds, the others follow, many at a time. Connects do not block, so an
//! address that drops packets delays no other.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt,
};

use crate::engine::connection::Connection;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed connect, before the next to the same address.
const PAUSE: Duration = Duration::from_millis(100);
/// Connects in flight to an address that answers.
const IN_FLIGHT_MAX: usize = 64;
/// Interval of checks for new orders while connects are in flight, ms.
const POLL_MS: u8 = 5;

/// Takes orders identified by the caller's numbers. At most one order per number may be open.
pub struct Connector {
    orders: flume::Sender<(u32, SocketAddr)>,
    made: flume::Receiver<(u32, Connection)>,
    /// Orders whose connection has not been taken yet.
    open: Cell<usize>,
}

impl Connector {
    /// Starts the thread, which ends when the connector is dropped.
    pub fn start() -> io::Result<Self> {
        let (orders, to_make) = flume::unbounded();
        let (connected, made) = flume::unbounded();
        let work = move || Work { connected, by_address: BTreeMap::new() }.run(&to_make);
        thread::Builder::new().name("connect".to_owned()).spawn(work)?;
        Ok(Self { orders, made, open: Cell::new(0) })
    }

    /// Orders a connection to `address`.
    pub fn order(&self, number: u32, address: SocketAddr) {
        self.open.set(self.open.get() + 1);
        self.orders.send((number, address)).expect("the thread lives as long as its connector");
    }

    /// Takes the next established connection. Costs nothing when none is ordered.
    pub fn next_made(&self) -> Option<(u32, Connection)> {
        if !self.has_open_orders() {
            return None;
        }
        let made = self.made.try_recv().ok()?;
        self.open.set(self.open.get() - 1);
        Some(made)
    }

    /// Whether any order is open.
    pub fn has_open_orders(&self) -> bool {
        self.open.get() > 0
    }
}

/// Orders for one address, and when it may be tried. Does no I/O.
#[derive(Debug)]
struct Orders {
    queued: VecDeque<u32>,
    in_flight: usize,
    /// Whether the last completed connect succeeded.
    is_up: bool,
    not_before: Instant,
}

impl Orders {
    fn new(now: Instant) -> Self {
        Self { queued: VecDeque::new(), in_flight: 0, is_up: false, not_before: now }
    }

    /// The order to try now. It counts as in flight from then on.
    fn next_try(&mut self, now: Instant) -> Option<u32> {
        let in_flight_max = if self.is_up { IN_FLIGHT_MAX } else { 1 };
        if self.in_flight >= in_flight_max || now < self.not_before {
            return None;
        }
        let number = self.queued.pop_front()?;
        self.in_flight += 1;
        Some(number)
    }

    fn handle_made(&mut self) {
        self.in_flight -= 1;
        self.is_up = true;
    }

    fn handle_failed(&mut self, number: u32, now: Instant) {
        self.in_flight -= 1;
        self.is_up = false;
        self.not_before = now + PAUSE;
        self.queued.push_front(number);
    }
}

/// A connect in flight.
struct Attempt {
    number: u32,
    socket: OwnedFd,
    deadline: Instant,
}

struct Work {
    connected: flume::Sender<(u32, Connection)>,
    by_address: BTreeMap<SocketAddr, (Orders, Vec<Attempt>)>,
}

impl Work {
    fn run(mut self, orders: &flume::Receiver<(u32, SocketAddr)>) {
        loop {
            let order = match self.wake_at() {
                _ if self.is_any_in_flight() => orders.try_recv().ok(),
                None => orders.recv().ok(),
                Some(wake_at) => orders.recv_deadline(wake_at).ok(),
            };
            if order.is_none() && orders.is_disconnected() {
                return;
            }
            order.into_iter().chain(orders.try_iter()).for_each(|order| self.take(order));
            self.try_next();
            if self.is_any_in_flight() && (!self.wait() || !self.complete()) {
                return;
            }
        }
    }

    fn take(&mut self, (number, address): (u32, SocketAddr)) {
        let new = || (Orders::new(Instant::now()), Vec::new());
        self.by_address.entry(address).or_insert_with(new).0.queued.push_back(number);
    }

    fn is_any_in_flight(&self) -> bool {
        self.by_address.values().any(|(_, attempts)| !attempts.is_empty())
    }

    /// When the first address may be tried again.
    fn wake_at(&self) -> Option<Instant> {
        let queued = self.by_address.values().filter(|(orders, _)| !orders.queued.is_empty());
        queued.map(|(orders, _)| orders.not_before).min()
    }

    /// Starts all connects that are allowed now.
    fn try_next(&mut self) {
        for (address, (orders, attempts)) in &mut self.by_address {
            let now = Instant::now();
            while let Some(number) = orders.next_try(now) {
                match begin(*address) {
                    Ok(socket) => {
                        let deadline = now + CONNECT_TIMEOUT;
                        attempts.push(Attempt { number, socket, deadline });
                    }
                    Err(_) => orders.handle_failed(number, now),
                }
            }
        }
    }

    /// Waits until a connect may have completed. `false` if polling fails.
    fn wait(&self) -> bool {
        let attempts = self.by_address.values().flat_map(|(_, attempts)| attempts);
        let mut sockets: Vec<PollFd<'_>> =
            attempts.map(|it| PollFd::new(it.socket.as_fd(), PollFlags::POLLOUT)).collect();
        match poll(&mut sockets, PollTimeout::from(POLL_MS)) {
            Ok(_) | Err(Errno::EINTR) => true,
            Err(_) => false,
        }
    }

    /// Delivers the established connections. `false` if the receiver is gone.
    fn complete(&mut self) -> bool {
        for (orders, attempts) in self.by_address.values_mut() {
            for attempt in std::mem::take(attempts) {
                let now = Instant::now();
                match state_of(&attempt.socket) {
                    Ok(false) if now < attempt.deadline => attempts.push(attempt),
                    Ok(true) => match Connection::from_stream(TcpStream::from(attempt.socket)) {
                        Ok(connection) => {
                            orders.handle_made();
                            if self.connected.send((attempt.number, connection)).is_err() {
                                return false;
                            }
                        }
                        Err(_) => orders.handle_failed(attempt.number, now),
                    },
                    Ok(false) | Err(_) => orders.handle_failed(attempt.number, now),
                }
            }
        }
        true
    }
}

/// Starts a non-blocking connect.
fn begin(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connect has completed; an error if it failed.
fn state_of(socket: &OwnedFd) -> io::Result<bool> {
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut sockets, PollTimeout::ZERO)? == 0 {
        return Ok(false);
    }
    match getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(true),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_that_does_not_answer_is_tried_once_per_pause() {
        let begin = Instant::now();
        let mut orders = Orders::new(begin);
        orders.queued.extend(0..1_000);
        let mut tries = 0;
        for ms in 0..1_000 {
            let now = begin + Duration::from_millis(ms);
            while let Some(number) = orders.next_try(now) {
                tries += 1;
                orders.handle_failed(number, now);
            }
        }
        assert_eq!(tries, 10);
        assert_eq!(orders.queued.len(), 1_000, "no order is lost");
        assert_eq!(orders.queued.front(), Some(&0), "nor overtaken");
    }

    #[test]
    fn an_address_that_answers_takes_many_at_a_time() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        orders.queued.extend(0..1_000);
        assert_eq!((orders.next_try(now), orders.next_try(now)), (Some(0), None));
        orders.handle_made();
        assert_eq!(std::iter::from_fn(|| orders.next_try(now)).count(), IN_FLIGHT_MAX);
        orders.handle_failed(7, now);
        assert_eq!(orders.next_try(now + PAUSE), None, "those in flight must end first");
    }

    /// Waits for `count` connections with different numbers, for a limited time.
    fn made(connector: &Connector, count: usize) -> Vec<(u32, Connection)> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut made = Vec::new();
        while made.len() < count {
            assert!(Instant::now() < deadline, "{} of {count}", made.len());
            match connector.next_made() {
                Some(connection) => made.push(connection),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        made
    }

    /// Reserves the port first and listens later, like a broker that restarts.
    #[test]
    fn all_come_back_when_the_broker_is_back() {
        const COUNT: u32 = 300;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let connector = Connector::start().unwrap();
        (0..COUNT).for_each(|number| connector.order(number, address));
        thread::sleep(PAUSE * 2);
        assert!(connector.next_made().is_none());
        assert!(connector.has_open_orders());
        let listener = TcpListener::bind(address).unwrap();
        let accepted = thread::spawn(move || {
            (0..COUNT).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>()
        });
        let mut numbers: Vec<u32> =
            made(&connector, COUNT as usize).iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
        assert_eq!(accepted.join().unwrap().len(), COUNT as usize);
        assert!(!connector.has_open_orders());
    }

    /// The address is reserved for documentation: packets to it get no reply, not even a reset.
    #[test]
    fn an_address_that_swallows_connects_keeps_no_other_waiting() {
        let silent = "192.0.2.1:9".parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connector = Connector::start().unwrap();
        connector.order(0, silent);
        connector.order(1, address);
        let made = made(&connector, 1);
        assert_eq!(made[0].0, 1);
    }
}
