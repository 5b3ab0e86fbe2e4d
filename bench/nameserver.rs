//! A NameServer. Other benches include this file as a module.

use super::processes::{NAMESERVER, Server, pinned};

/// Starts `ringmq nameserver` and waits until it is ready.
pub fn nameserver(cpu: u32) -> Server {
    let mut command = pinned(cpu, "ringmq");
    command.args(["nameserver", "--listen", NAMESERVER]);
    Server::start(command)
}
