//! Addresses of the brokers during a run, so that a broker that comes back at another address is
//! found.
//!
//! A thread queries the NameServers four times a second, so that a new leader is found soon. It
//! keeps one address per broker and a count of changes; threads that lose a connection look there.
//! If a NameServer does not answer, or no longer knows a broker, the address is kept.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringmq::client::Remote;

use crate::background::Background;
use crate::target::cluster::{self, Broker, client_options};

/// Time between two queries, and the number of checks meanwhile whether the run is over.
const PERIOD: Duration = Duration::from_millis(250);
const STEPS: u32 = 5;

/// The brokers of a run, by index. Shared by all threads.
#[derive(Debug)]
pub struct Routes {
    brokers: Mutex<Vec<Broker>>,
    changes: AtomicU64,
}

impl Routes {
    pub fn new(brokers: Vec<Broker>) -> Self {
        Self { brokers: Mutex::new(brokers), changes: AtomicU64::new(0) }
    }

    /// Incremented by each change of an address.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub fn address(&self, broker: usize) -> SocketAddr {
        self.brokers.lock().expect("no thread panics while it holds the routes")[broker].address
    }

    /// Adopts the addresses that a NameServer knows.
    fn learn(&self, known: &[Broker]) {
        let mut brokers = self.brokers.lock().expect("no thread panics while it holds the routes");
        for broker in brokers.iter_mut() {
            let Some(now) = known.iter().find(|known| known.name == broker.name) else { continue };
            if now.address != broker.address {
                broker.address = now.address;
                self.changes.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Keeps `routes` up to date until the run is over.
pub fn watch(routes: Arc<Routes>, namesrv: String) -> io::Result<Background<()>> {
    let mut remote = Remote::new(client_options(&namesrv)).map_err(io::Error::other)?;
    Background::start("routes", move |is_over| {
        while !is_over.load(Ordering::Relaxed) {
            if let Ok(known) = cluster::masters(&mut remote) {
                routes.learn(&known);
            }
            for _ in 0..STEPS {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(PERIOD / STEPS);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(name: &str, port: u16) -> Broker {
        Broker { name: name.to_owned(), address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    #[test]
    fn a_broker_keeps_its_place_and_gets_its_new_address() {
        let routes = Routes::new(vec![broker("a", 1), broker("b", 2)]);
        routes.learn(&[broker("c", 9), broker("b", 2), broker("a", 1)]);
        assert_eq!(routes.changes(), 0);
        routes.learn(&[broker("b", 7)]);
        assert_eq!(
            (routes.changes(), routes.address(0).port(), routes.address(1).port()),
            (1, 1, 7)
        );
    }
}
