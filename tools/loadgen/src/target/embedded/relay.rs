//! Relays between replicas, so that the network between them can be cut without root.
//!
//! ```text
//!   replica 1 ── connects ──▶ relay 1 ─▶ 2 ── connects ──▶ replica 2
//!                             each direction passes bytes on, or holds them back
//! ```
//!
//! Each replica gets the addresses of its relays as those of the other replicas. A cut holds bytes
//! back, as a network that loses packets does: connections stay open, new ones can be made, and
//! nothing arrives until the cut is healed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Interval of checks for new connections, and for the end of a cut.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Bytes passed on at a time.
const PIECE_SIZE: usize = 256 << 10;

/// What a cut holds back, as seen from one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// The others do not hear the machine.
    Out,
    /// The machine does not hear the others.
    In,
}

/// All relays of a set of replicas. They end when this is dropped.
#[derive(Default)]
pub struct Network {
    relays: Vec<Relay>,
    is_over: Arc<AtomicBool>,
}

/// Passes connections of the machine `from` on to the machine `to`.
struct Relay {
    from: usize,
    to: usize,
    holds: Arc<Holds>,
}

/// Which bytes are held back: those of the machine that connected, and those of the other one.
#[derive(Default)]
struct Holds {
    there: AtomicBool,
    back: AtomicBool,
}

impl Network {
    /// Passes connections to `listen` on to `target`: those that machine `from` makes to machine `to`.
    pub fn add(
        &mut self,
        (from, to): (usize, usize),
        listen: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<()> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let holds = Arc::<Holds>::default();
        let (is_over, relay) = (self.is_over.clone(), holds.clone());
        thread::Builder::new()
            .name(format!("relay-{from}-{to}"))
            .spawn(move || accept_all(&listener, target, &relay, &is_over))?;
        self.relays.push(Relay { from, to, holds });
        Ok(())
    }

    /// Starts a cut between a machine and the others, or ends it.
    pub fn set(&self, machine: usize, cut: Cut, is_cut: bool) {
        let (out, into) = (matches!(cut, Cut::Both | Cut::Out), matches!(cut, Cut::Both | Cut::In));
        for relay in &self.relays {
            let (there, back) = match (relay.from == machine, relay.to == machine) {
                (true, _) => (out, into),
                (_, true) => (into, out),
                _ => continue,
            };
            if there {
                relay.holds.there.store(is_cut, Ordering::Release);
            }
            if back {
                relay.holds.back.store(is_cut, Ordering::Release);
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

fn accept_all(
    listener: &TcpListener,
    target: SocketAddr,
    holds: &Arc<Holds>,
    is_over: &Arc<AtomicBool>,
) {
    while !is_over.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((client, _)) => {
                // The replica may be down. Then the connection closes, as if it had been refused.
                let Ok(server) = TcpStream::connect(target) else { continue };
                let pass = |from: &TcpStream, to: &TcpStream, is_back: bool| {
                    let (from, to) = (from.try_clone()?, to.try_clone()?);
                    let (holds, is_over) = (holds.clone(), is_over.clone());
                    let hold = move || {
                        let held = if is_back { &holds.back } else { &holds.there };
                        held.load(Ordering::Acquire) && !is_over.load(Ordering::Acquire)
                    };
                    thread::Builder::new().spawn(move || pass_on(from, to, hold))
                };
                let _ = client.set_nonblocking(false);
                // Without threads, both ends are dropped and closed.
                let _ = pass(&client, &server, false).and_then(|_| pass(&server, &client, true));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_EVERY),
            Err(_) => return,
        }
    }
}

/// Passes bytes on until one side closes.
fn pass_on(mut from: TcpStream, mut to: TcpStream, is_held: impl Fn() -> bool) {
    let _ = to.set_nodelay(true);
    let mut piece = vec![0; PIECE_SIZE];
    while let Ok(size) = from.read(&mut piece) {
        while is_held() {
            thread::sleep(LOOK_EVERY);
        }
        if size == 0 || to.write_all(&piece[..size]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// An address of this machine.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection of machine 0 to machine 1 through a relay, and the other end of it.
    fn connected() -> (Network, TcpStream, TcpStream) {
        let server = TcpListener::bind(local(0)).unwrap();
        let listen = TcpListener::bind(local(0)).unwrap().local_addr().unwrap();
        let mut network = Network::default();
        network.add((0, 1), listen, server.local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(listen).unwrap();
        let (server, _) = server.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
        (network, client, server)
    }

    fn arrives(mut from: &TcpStream, mut to: &TcpStream) -> bool {
        from.write_all(b"x").unwrap();
        let mut piece = [0; 64];
        to.read(&mut piece).is_ok_and(|size| size > 0)
    }

    #[test]
    fn a_cut_holds_back_what_it_is_to_and_nothing_is_lost() {
        let cases = [
            // machine, cut, arrives at the server, at the client
            (0, Cut::Both, false, false),
            (1, Cut::Both, false, false),
            (0, Cut::Out, false, true),
            (1, Cut::Out, true, false),
            (0, Cut::In, true, false),
            (1, Cut::In, false, true),
            (2, Cut::Both, true, true),
        ];
        for (machine, cut, there, back) in cases {
            let (network, client, server) = connected();
            assert!(arrives(&client, &server) && arrives(&server, &client));
            network.set(machine, cut, true);
            let found = (arrives(&client, &server), arrives(&server, &client));
            assert_eq!(found, (there, back), "{machine} {cut:?}");
            network.set(machine, cut, false);
            assert!(arrives(&client, &server) && arrives(&server, &client), "{machine} {cut:?}");
        }
    }
}
