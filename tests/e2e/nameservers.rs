//! NameServers that hang.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use crate::server::{Ports, Scratch, Server, run};

fn nameserver(scratch: &Path, ports: Ports) -> Server {
    let listen = ports.nameserver_address().to_string();
    Server::start(&["nameserver", "--listen", &listen], &scratch.join("nameserver.log"))
}

fn broker(scratch: &Path, name: &str, ports: Ports, namesrv: &str, shards: &str) -> Server {
    let (data, listen) = (scratch.join(name), ports.broker_address().to_string());
    let place = ["--data", data.to_str().unwrap(), "--listen", &listen];
    let args = [&["broker", "--namesrv", namesrv, "--shards", shards], &place[..]].concat();
    Server::start(&args, &data.with_extension("log"))
}

/// The machine is there and its NameServer answers nothing: changes go on at the other one, within
/// the time that a client allows.
#[test]
fn topics_are_created_and_deleted_in_time_while_one_nameserver_hangs() {
    let scratch = Scratch::new("hanging");
    let (ports, other) = (Ports::free(), Ports::free());
    let _nameserver = nameserver(&scratch.0, ports);
    // The kernel takes connections, and nobody ever reads from them.
    let _hanging = TcpListener::bind((Ipv4Addr::LOCALHOST, other.nameserver)).unwrap();
    let namesrv = ports.nameserver_address().to_string();
    let both = format!("{namesrv};{}", other.nameserver_address());
    let broker = broker(&scratch.0, "broker", ports, &both, "3");
    let orders = [
        ["topic", "create", "first"],
        ["topic", "create", "second"],
        ["topic", "delete", "first"],
        ["topic", "create", "third"],
    ];
    for order in orders {
        let output = run(&[&order[..], &["--namesrv", &namesrv]].concat());
        assert!(output.status.success(), "{order:?}: {output:?}");
    }
    assert!(broker.terminate().success());
}
