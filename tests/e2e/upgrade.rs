//! Data directories of earlier releases (`tests/golden/data`) are read by this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::server::{Ports, Scratch, Server, run};

/// The archives, each made by one release with `tests/golden/data/make`.
fn archives() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut archives: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|it| it == "gz")).collect();
    archives.sort();
    archives
}

fn json(ports: Ports, command: &[&str]) -> Value {
    let namesrv = ports.nameserver_address().to_string();
    let ran = run(&[command, &["--output", "json", "--namesrv", &namesrv]].concat());
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?}: {error}: {text}"))
}

/// The sum of a field over all queues.
fn sum(rows: &Value, field: &str) -> i64 {
    rows.as_array().unwrap().iter().map(|row| row[field].as_i64().unwrap()).sum()
}

#[test]
fn data_of_earlier_releases_is_all_there() {
    let archives = archives();
    assert!(!archives.is_empty());
    for archive in archives {
        let scratch = Scratch::new("earlier");
        let mut unpack = Command::new("tar");
        unpack.arg("-xzf").arg(&archive).arg("-C").arg(&scratch.0);
        assert!(unpack.status().unwrap().success(), "{}", archive.display());
        // The second start reads what the first one has written over it.
        for start in 1..=2 {
            let ports = Ports::free();
            let server = open(&scratch.0.join("data"), ports);
            check(ports, &format!("{}, start {start}", archive.display()));
            assert!(server.terminate().success());
        }
    }
}

/// Starts a broker that keeps messages for longer than the archives will be used.
fn open(data: &Path, ports: Ports) -> Server {
    let (listen, namesrv) = (ports.broker_address(), ports.nameserver_address());
    let (listen, namesrv) = (listen.to_string(), namesrv.to_string());
    let at = ["dev", "--data", data.to_str().unwrap(), "--listen", &listen];
    let rest = ["--namesrv-listen", &namesrv, "--retention", "36500d"];
    Server::start(&[&at[..], &rest].concat(), &data.with_extension("log"))
}

/// Checks what `tests/golden/data/make` has stored.
fn check(ports: Ports, what: &str) {
    let orders = json(ports, &["topic", "describe", "orders"]);
    assert_eq!(orders.as_array().unwrap().len(), 2, "{what}: {orders}");
    assert_eq!(sum(&orders, "messages"), 9, "{what}: {orders}");
    let closed = json(ports, &["topic", "describe", "closed"]);
    assert_eq!(closed.as_array().unwrap().len(), 3, "{what}: {closed}");

    let namesrv = ports.nameserver_address().to_string();
    let send = ["msg", "send", "closed", "x", "--namesrv", &namesrv];
    let refused = run(&send);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("no queue that may be written"),
        "{what}: {said}"
    );

    for (group, committed) in [("readers", 5), ("others", 3)] {
        let found = json(ports, &["group", "describe", group]);
        assert_eq!(sum(&found[0]["queues"], "committed"), committed, "{what}: {found}");
    }

    let tail = ["msg", "tail", "orders", "--from", "first", "--count", "9"];
    let ran = run(&[&tail[..], &["--output", "json", "--namesrv", &namesrv]].concat());
    let text = String::from_utf8(ran.stdout).unwrap();
    let mut found: Vec<(String, String)> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|message| {
            [&message["tag"], &message["body"]].map(|it| it.as_str().unwrap().to_owned())
        })
        .map(|[tag, body]| (tag, body))
        .collect();
    found.sort();
    let message = |number: usize| (format!("tag-{number}"), number.to_string().repeat(12_000));
    assert!(found == (1..=9).map(message).collect::<Vec<_>>(), "{what}: {text:.2000}");
}
