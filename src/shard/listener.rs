//! Accepts connections for a shard.

use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::reactor;
use crate::reactor::net::{TcpListener, TcpStream};

use super::service::Service;
use super::shard::Shard;

/// How long an existing listener may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(200);
/// How long the listener of a dead process may linger.
const PREDECESSOR_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Pause after a failed accept: running out of file descriptors must neither end the listener nor
/// make it spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Refused connections are logged no more often than this.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Binds `address`, or reports who may be using it.
///
/// The runtime's listeners set SO_REUSEPORT, so a second broker would start without an error and
/// take half of the connections. Connecting to the address shows whether a process already listens
/// there. (A plain bind would not work: connections of a killed broker block it for a minute.) The
/// kernel tears down the rings of a killed broker, and with them its listener, a little after the
/// process is gone, so a listener that answers gets [`PREDECESSOR_MAX`] to disappear.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let in_context = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there, stop it or use --listen",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{remedy}"))
    };
    let deadline = Instant::now() + PREDECESSOR_MAX;
    while is_served(address) {
        if Instant::now() >= deadline {
            return Err(in_context(io::ErrorKind::AddrInUse.into()));
        }
        reactor::sleep(LOOK_AGAIN).await;
    }
    TcpListener::bind(address).map_err(in_context)
}

fn is_served(address: SocketAddr) -> bool {
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let target = SocketAddr::new(host, address.port());
    // If the kernel chose this very port as the socket's local port, it connects to itself.
    let is_other = |stream: net::TcpStream| stream.local_addr().is_ok_and(|own| own != target);
    net::TcpStream::connect_timeout(&target, ANSWER_MAX).is_ok_and(is_other)
}

/// Accepts connections of clients until the shard stops.
pub async fn accept_all<S: Service>(listener: Rc<TcpListener>, shard: Rc<Shard<S>>) {
    accept_each(&listener, &shard, |stream| shard.accept(stream)).await;
}

/// Passes each connection to `accept`, until the shard stops.
pub async fn accept_each<S: Service>(
    listener: &TcpListener,
    shard: &Shard<S>,
    accept: impl Fn(TcpStream) -> io::Result<()>,
) {
    let mut said_at: Option<Instant> = None;
    while !shard.is_stopping.get() {
        match listener.accept().await {
            Ok(stream) => {
                if let Err(error) = accept(stream)
                    && said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY)
                {
                    said_at = Some(Instant::now());
                    tracing::warn!(shard = shard.id.0, "connection refused: {error}");
                }
                reactor::pass().await;
            }
            // Closed.
            Err(_) if shard.is_stopping.get() => return,
            Err(error) => {
                tracing::warn!(shard = shard.id.0, "accept failed: {error}");
                reactor::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
