//! NameServers that hang, and brokers whose registrations conflict.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::server::{PATIENCE, Ports, Scratch, Server, broker, nameserver, run};

/// Waits until the log of `server` contains `text`. Returns how often it does.
fn count(server: &Server, text: &str) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = server.log();
        match log.matches(text).count() {
            0 => assert!(Instant::now() < deadline, "it does not say {text:?}\n{log}"),
            count => return count,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The machine is up but its NameServer does not reply: changes succeed at the other one, within
/// the client's timeout.
#[test]
fn topics_are_created_and_deleted_in_time_while_one_nameserver_hangs() {
    let scratch = Scratch::new("hanging");
    let (ports, other) = (Ports::free(), Ports::free());
    let _nameserver = nameserver(&scratch.0, ports);
    // The kernel accepts connections, and no process ever reads from them.
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

#[test]
fn brokers_of_one_name_are_reported_by_the_nameserver_and_the_newcomer() {
    let scratch = Scratch::new("rivals");
    let (ports, other) = (Ports::free(), Ports::free());
    let nameserver = nameserver(&scratch.0, ports);
    let namesrv = ports.nameserver_address().to_string();
    let first = broker(&scratch.0, "first", ports, &namesrv, "1");
    let second = broker(&scratch.0, "second", other, &namesrv, "1");

    let (at_first, at_second) = (ports.broker_address(), other.broker_address());
    let taken = format!("s00-broker-a at {at_second} replaces {at_first}");
    assert_eq!(count(&nameserver, &taken), 1);
    let rival = format!("s00-broker-a is also the name of a broker at {at_first}");
    assert_eq!(count(&second, &rival), 1);
    for server in [second, first, nameserver] {
        assert!(server.terminate().success());
    }
}
