//! Addresses that clients cannot reach, and host names that are not accepted.
//!
//! Kind of report: "clients in other containers connect to 127.0.0.1:10911" (brokerIP1, the most
//! frequent question about Docker), "namesrvAddr with the name of a Kubernetes service is refused",
//! "brokers do not come back after the NameServer's pod got another address".
//!
//! Source: alibaba/rocketmq issue 287 and apache/rocketmq issue 3405.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::client::{Client, ROUTE};
use crate::server::{
    Scratch, Server, build_library, dev, free_ports, local, ringmq, run, wait_until,
};

/// The address of a broker's shard, according to the NameServer at `nameserver`.
fn advertised(nameserver: SocketAddr, topic: &str) -> Option<SocketAddr> {
    let said = Client::connect(nameserver).ask(ROUTE, &json!({"topic": topic}), b"");
    if said.code != 0 {
        return None;
    }
    let address = said.json()["brokerDatas"][0]["brokerAddrs"]["0"].take();
    Some(address.as_str().unwrap().parse().unwrap())
}

fn broker(scratch: &Scratch, namesrv: &str, more: &[&str]) -> Server {
    let mut command = ringmq(&["broker", "--data", &scratch.path("broker"), "--shards", "1"]);
    command.args(["--namesrv", namesrv, "--tail-cache", "4MiB", "--allow-buffered-io"]).args(more);
    command.args(["--disk-reserve", "64MiB", "--segment-size", "16MiB", "--ready-segments", "0"]);
    Server::start(command, &scratch.path("broker.log"))
}

fn nameserver(scratch: &Scratch, listen: &str) -> Server {
    let log = scratch.path(&format!("{listen}.log"));
    Server::start(ringmq(&["nameserver", "--listen", listen]), &log)
}

/// Checks that clients on other machines can reach the address, or that the operator is warned.
fn check_reachable(address: SocketAddr, server: &Server) {
    if address.ip().is_loopback() {
        let log = server.log();
        assert!(log.contains("WARN") && log.contains("--advertise"), "{address}\n{log}");
    }
    assert_eq!(Client::connect(address).set_topic("reached", 1, 6).code, 0);
    assert!(server.ready.contains(&format!("advertised={address}")), "{}", server.ready);
}

#[test]
fn a_broker_on_all_interfaces_does_not_advertise_the_loopback() {
    let scratch = Scratch::new("advertised");
    let port = free_ports();
    let _nameserver = nameserver(&scratch, &local(port).to_string());
    let listen = format!("0.0.0.0:{}", port + 3);
    let server = broker(&scratch, &local(port).to_string(), &["--listen", &listen]);
    check_reachable(advertised(local(port), "DefaultCluster").unwrap(), &server);

    let port = free_ports();
    let listen = format!("0.0.0.0:{}", port + 3);
    let mut command = ringmq(&["dev", "--shards", "1", "--data", &scratch.path("dev")]);
    command.args(["--listen", &listen, "--namesrv-listen", &local(port).to_string()]);
    let server = Server::start(command, &scratch.path("dev.log"));
    check_reachable(advertised(local(port), "DefaultCluster").unwrap(), &server);
    assert!(server.stop().success());
}

/// The second NameServer is in a network for documentation, where nothing replies.
#[test]
fn a_loopback_address_that_a_nameserver_elsewhere_gives_to_clients_is_warned_of() {
    let scratch = Scratch::new("loopback");
    let port = free_ports();
    let (here, elsewhere) = (local(port).to_string(), "198.51.100.7:9876");
    let _nameserver = nameserver(&scratch, &here);
    let (both, listen) = (format!("{here},{elsewhere}"), local(port + 3).to_string());
    for (namesrv, more, is_warned) in [
        (&both, &[][..], true),
        (&both, &["--advertise", "127.0.0.2"], true),
        (&both, &["--advertise", "198.51.100.8"], false),
        (&here, &[], false),
    ] {
        let scratch = Scratch::new("loopback-broker");
        let server = broker(&scratch, namesrv, &[&["--listen", &listen][..], more].concat());
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains("WARN"));
        let said = lines.any(|line| line.contains("--advertise") && line.contains(elsewhere));
        assert_eq!(said, is_warned, "{namesrv} {more:?}\n{log}");
        assert!(server.stop().success());
    }
}

#[test]
fn dev_advertises_the_given_address() {
    let scratch = Scratch::new("dev-advertise");
    let port = free_ports();
    let server =
        Server::start(dev(&scratch, port, &["--advertise", "127.0.0.2"]), &scratch.path("dev.log"));
    let expected = (Ipv4Addr::new(127, 0, 0, 2), port + 3).into();
    assert_eq!(advertised(local(port), "DefaultCluster"), Some(expected));
    assert!(server.stop().success());
}

#[test]
fn every_address_may_be_a_name() {
    let scratch = Scratch::new("names");
    let port = free_ports();
    let namesrv = format!("localhost:{port}");
    let _nameserver = nameserver(&scratch, &namesrv);
    let listen = format!("localhost:{}", port + 3);
    let server = broker(&scratch, &namesrv, &["--listen", &listen, "--advertise", "localhost"]);
    assert_eq!(advertised(local(port), "DefaultCluster"), Some(local(port + 3)));
    // The first of several NameServers does not exist.
    let list = format!("localhost:{},{namesrv}", port + 1);
    for args in [
        &["topic", "create", "named"][..],
        &["topic", "list"],
        &["msg", "send", "named", "hello"],
        &["cluster"],
    ] {
        let said = run(&[args, &["--namesrv", &namesrv]].concat());
        assert!(said.status.success(), "{args:?}: {said:?}");
    }
    let said = run(&["topic", "describe", "named", "--namesrv", &list]);
    assert!(said.status.success(), "{said:?}");
    assert!(server.stop().success());

    let port = free_ports();
    let (listen, namesrv) = (format!("localhost:{}", port + 3), format!("localhost:{port}"));
    let mut command = ringmq(&["dev", "--shards", "1", "--data", &scratch.path("dev")]);
    command.args(["--listen", &listen, "--namesrv-listen", &namesrv, "--advertise", "localhost"]);
    let server = Server::start(command, &scratch.path("dev.log"));
    assert_eq!(advertised(local(port), "TBW102"), Some(local(port + 3)));
    assert!(server.stop().success());
}

/// Resolves `ns.field` from a file.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    char text[64] = "";
    if (node && strcmp(node, "ns.field") == 0) {
        FILE *file = fopen(getenv("NS_FIELD"), "r");
        if (!file || fscanf(file, "%63s", text) != 1) return EAI_AGAIN;
        fclose(file);
        node = text;
    }
    return next(node, service, hints, found);
}
"#;

/// The old NameServer keeps replying, like a pod that is about to be stopped.
#[test]
fn a_broker_follows_a_nameserver_to_another_address() {
    let scratch = Scratch::new("moved");
    let shim = build_library(&scratch, "resolve", SHIM);
    let port = free_ports();
    let (first, second) = (local(port), SocketAddr::from(([127, 0, 0, 2], port)));
    let hosts = scratch.path("hosts");
    let move_to = |address: SocketAddr| {
        std::fs::write(format!("{hosts}.next"), address.ip().to_string()).unwrap();
        std::fs::rename(format!("{hosts}.next"), &hosts).unwrap();
    };
    let _first = nameserver(&scratch, &first.to_string());
    let _second = nameserver(&scratch, &second.to_string());
    move_to(first);
    let mut command = ringmq(&["broker", "--data", &scratch.path("broker"), "--shards", "1"]);
    command.args(["--namesrv", &format!("ns.field:{port}")]).args(["--tail-cache", "4MiB"]);
    command.args(["--allow-buffered-io", "--listen", &local(port + 3).to_string()]);
    command.env("LD_PRELOAD", shim).env("NS_FIELD", &hosts);
    let server = Server::start(command, &scratch.path("broker.log"));
    assert_eq!(advertised(first, "DefaultCluster"), Some(local(port + 3)));
    assert_eq!(advertised(second, "DefaultCluster"), None);
    move_to(second);
    let is_there = || advertised(second, "DefaultCluster") == Some(local(port + 3));
    let lasted = wait_until("the broker is at the second NameServer", is_there);
    assert!(lasted.as_secs() < 30, "{lasted:?}");
    assert!(server.stop().success());
}
