//! Makes lost connections anew, on a thread of its own: a connect can take its time, and a
//! generator has none to spare.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::connection::Connection;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed connect, before the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes orders under the caller's numbers. At most one order per number may be open.
pub struct Connector {
    orders: flume::Sender<(u32, SocketAddr)>,
    made: flume::Receiver<(u32, Option<Connection>)>,
}

impl Connector {
    /// The thread ends when the connector is dropped.
    pub fn start() -> io::Result<Self> {
        let (orders, to_make) = flume::unbounded::<(u32, SocketAddr)>();
        let (hand_over, made) = flume::unbounded();
        thread::Builder::new().name("connect".to_owned()).spawn(move || {
            for (number, address) in to_make {
                let connection = Connection::connect(address, CONNECT_TIMEOUT).ok();
                if connection.is_none() {
                    thread::sleep(PAUSE);
                }
                if hand_over.send((number, connection)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, made })
    }

    pub fn order(&self, number: u32, address: SocketAddr) {
        self.orders.send((number, address)).expect("the thread lives as long as its connector");
    }

    /// The next order that was carried out; without a connection it failed.
    pub fn next_made(&self) -> Option<(u32, Option<Connection>)> {
        self.made.try_recv().ok()
    }
}
