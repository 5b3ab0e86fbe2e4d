//! A broker and a NameServer in one process. Other benches include this file as a module.

use std::path::Path;

use super::processes::{BROKER, NAMESERVER, Server, pinned};

/// Starts `ringmq dev` with one shard and waits until it is ready.
pub fn dev(cpu: u32, data: &Path, more: &[&str]) -> Server {
    let mut command = pinned(cpu, "ringmq");
    command.args(["dev", "--shards", "1", "--listen", BROKER, "--namesrv-listen", NAMESERVER]);
    command.arg("--data").arg(data).args(more);
    Server::start(command)
}
