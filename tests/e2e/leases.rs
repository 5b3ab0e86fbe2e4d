//! Timeouts of two minutes: of leases, and of connections whose client does not read. Not part of
//! an ordinary test run, because they take that long.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::server::{Ports, Scratch, Server, broker, nameserver, run, wait_until};
use crate::wire::{answer, connect, connect_to, frame, header};

/// Neither a lease nor such a connection ends before this.
const LEAST: Duration = Duration::from_secs(115);
/// Both have ended by this time.
const PATIENCE: Duration = Duration::from_secs(170);

fn time_until(what: &str, is_so: impl FnMut() -> bool) -> Duration {
    wait_until(what, Duration::from_secs(1), PATIENCE, is_so)
}

#[test]
#[ignore = "takes two minutes"]
fn a_broker_that_hangs_leaves_the_routes_and_returns_when_it_resumes() {
    let scratch = Scratch::new("lease");
    let ports = Ports::free();
    let namesrv = ports.nameserver_address().to_string();
    let nameserver = nameserver(&scratch.0, ports);
    let broker = broker(&scratch.0, "broker", ports, &namesrv, "1");
    let created = run(&["topic", "create", "t", "--namesrv", &namesrv]);
    assert!(created.status.success(), "{created:?}");

    let mut asker = connect_to(ports.nameserver_address());
    let mut has_route = || {
        asker.write_all(&frame(&header(105, 1, 0, r#""topic":"t""#), b"")).unwrap();
        let header = answer(&mut asker);
        let is_gone = header.contains(r#""code":17"#);
        assert!(is_gone || header.contains(r#""code":0"#), "{header}");
        !is_gone
    };
    assert!(has_route());
    broker.signal(Signal::SIGSTOP);
    let lasted = time_until("the route goes", || !has_route());
    // The newest registration may already be half a minute old.
    assert!(lasted + Duration::from_secs(30) > LEAST, "gone after {lasted:?}");
    broker.signal(Signal::SIGCONT);
    time_until("the route returns", has_route);
    assert!(broker.terminate().success());
    assert!(nameserver.terminate().success());
}

#[test]
#[ignore = "takes two minutes"]
fn a_connection_whose_client_does_not_read_is_closed() {
    let scratch = Scratch::new("unread-closed");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let namesrv = ports.nameserver_address().to_string();
    let created = run(&["topic", "create", "t", "--queues", "16384", "--namesrv", &namesrv]);
    assert!(created.status.success(), "{created:?}");
    let mut stream = connect(ports);
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let ask = frame(&header(202, 1, 0, r#""topic":"t""#), b"");
    // The broker stops reading once enough replies wait, so this ends with a timeout.
    let _ = stream.write_all(&ask.repeat(20_000));

    let is_told = || server.log().contains("closed: ");
    let lasted = time_until("the connection is closed", is_told);
    assert!(lasted > LEAST, "closed after {lasted:?}\n{}", server.log());
    assert!(ends(&mut stream), "the log says so and the connection is open");
    assert!(server.terminate().success());
}

/// Whether the other side has closed the connection after what it sent.
fn ends(stream: &mut TcpStream) -> bool {
    let mut taken = vec![0; 1 << 20];
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    loop {
        match stream.read(&mut taken) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}
