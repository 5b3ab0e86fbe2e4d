//! `ringmq msg tail --group`: members of a group, each in its own process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::commands::parsed;
use crate::server::{PATIENCE, Ports, Scratch, Server, ringmq, run, wait_until};

const TICK: Duration = Duration::from_millis(20);

/// A running `ringmq msg tail`, and the bodies that it has printed.
struct Tail {
    child: Child,
    lines: flume::Receiver<String>,
    printed: Vec<String>,
}

impl Tail {
    fn start(ports: Ports, more: &[&str]) -> Self {
        let namesrv = ports.nameserver_address().to_string();
        let args = ["msg", "tail", "orders", "-o", "json", "--namesrv", &namesrv];
        let mut command = ringmq(&[&args, more].concat());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = flume::unbounded();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines, printed: Vec::new() }
    }

    fn of_group(ports: Ports) -> Self {
        Self::start(ports, &["--group", "readers"])
    }

    fn printed(&mut self) -> &[String] {
        for line in self.lines.try_iter() {
            let message: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(message["topic"], "orders", "{line}");
            self.printed.push(message["body"].as_str().unwrap().to_owned());
        }
        &self.printed
    }

    fn has_printed(&mut self, bodies: &[String]) -> bool {
        let printed = BTreeSet::from_iter(self.printed());
        bodies.iter().all(|body| printed.contains(body))
    }

    /// Ctrl-C. Returns everything that it has printed.
    fn interrupt(mut self) -> Vec<String> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        wait_until("the end of the tail", TICK, PATIENCE, || {
            self.child.try_wait().unwrap().is_some()
        });
        assert!(self.child.wait().unwrap().success());
        for line in self.lines.iter() {
            let message: Value = serde_json::from_str(&line).unwrap();
            self.printed.push(message["body"].as_str().unwrap().to_owned());
        }
        std::mem::take(&mut self.printed)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(ports: Ports, args: &[&str]) {
    let namesrv = ports.nameserver_address().to_string();
    let output = run(&[args, &["--namesrv", &namesrv]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends `count` messages named `name`; returns the bodies.
fn send(ports: Ports, name: &str, count: u64) -> Vec<String> {
    let send = |number| {
        let body = format!("{name} {number}");
        command(ports, &["msg", "send", "orders", &body]);
        body
    };
    (0..count).map(send).collect()
}

fn server(directory: &Path, ports: Ports) -> Server {
    let server = Server::dev(&directory.join("data"), ports, 2);
    command(ports, &["topic", "create", "orders", "--queues", "2"]);
    server
}

#[test]
fn members_of_a_group_share_a_topic_and_nothing_is_missed_when_they_leave() {
    let scratch = Scratch::new("tails");
    let ports = Ports::free();
    let server = server(&scratch.0, ports);
    let mut all = send(ports, "before", 4);
    let [mut first, mut second] = [Tail::of_group(ports), Tail::of_group(ports)];
    let mut round = 0;
    wait_until("both have a share", TICK, PATIENCE, || {
        round += 1;
        let sent = send(ports, &format!("round {round}"), 4);
        all.extend(sent.iter().cloned());
        let is_printed = |tail: &mut Tail| tail.printed().iter().any(|body| sent.contains(body));
        wait_until("the round is printed", TICK, PATIENCE, || {
            let mut printed = BTreeSet::from_iter(first.printed().to_vec());
            printed.extend(second.printed().to_vec());
            sent.iter().all(|body| printed.contains(body))
        });
        is_printed(&mut first) && is_printed(&mut second)
    });

    let by_second = second.interrupt();
    let rest = send(ports, "alone", 8);
    all.extend(rest.iter().cloned());
    wait_until("the other one has all queues", TICK, PATIENCE, || first.has_printed(&rest));
    let by_first = first.interrupt();
    let printed: BTreeSet<&String> = by_first.iter().chain(&by_second).collect();
    assert_eq!(printed, all.iter().collect(), "each message, whoever printed it");

    // Both have committed what they printed, and the broker has stored it.
    assert!(server.terminate().success());
    let server = Server::dev(&scratch.0.join("data"), ports, 2);
    let new = send(ports, "new", 4);
    let mut third = Tail::of_group(ports);
    wait_until("the new ones are printed", TICK, PATIENCE, || third.has_printed(&new));
    let mut printed = third.interrupt();
    printed.sort();
    assert_eq!(printed, new, "and nothing twice");
    assert!(server.terminate().success());
}

/// A killed member has not committed its latest messages, so others print some of them again.
#[test]
fn a_killed_member_loses_nothing_and_a_reset_is_followed_at_once() {
    let scratch = Scratch::new("tails-killed");
    let ports = Ports::free();
    let server = server(&scratch.0, ports);
    let [mut first, mut second] = [Tail::of_group(ports), Tail::of_group(ports)];
    let all = send(ports, "message", 8);
    wait_until("all is printed", TICK, PATIENCE, || {
        let printed: BTreeSet<_> =
            [first.printed(), second.printed()].concat().into_iter().collect();
        all.iter().all(|body| printed.contains(body))
    });
    second.child.kill().unwrap();
    let more = send(ports, "more", 8);
    wait_until("the other one takes over", TICK, PATIENCE, || first.has_printed(&more));

    let before = first.printed().iter().filter(|body| all.contains(body)).count();
    command(ports, &["group", "reset", "readers", "orders", "--to", "first"]);
    wait_until("everything is printed again", TICK, PATIENCE, || {
        let again = first.printed().iter().filter(|body| all.contains(body)).count();
        again >= before + all.len()
    });
    assert!(server.terminate().success());
}

#[test]
fn a_tail_with_a_count_commits_only_what_it_printed() {
    let scratch = Scratch::new("tails-count");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    command(ports, &["topic", "create", "orders", "--queues", "1"]);
    let sent = send(ports, "message", 5);
    for part in [&sent[..2], &sent[2..4], &sent[4..]] {
        let count = part.len().to_string();
        let more = ["--group", "readers", "--tag", "*", "--count", &count];
        let mut tail = Tail::start(ports, &more);
        wait_until("it ends by itself", TICK, PATIENCE, || {
            tail.child.try_wait().unwrap().is_some()
        });
        assert!(tail.child.wait().unwrap().success());
        wait_until("all is read", TICK, PATIENCE, || tail.printed().len() >= part.len());
        assert_eq!(tail.printed(), part);
    }
    assert!(server.terminate().success());
}

/// What `ringmq group` prints for scripts, and that a group with members is not deleted.
#[test]
fn groups_are_listed_described_reset_and_deleted() {
    let scratch = Scratch::new("group-commands");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let namesrv = ports.nameserver_address().to_string();
    let ask = |args: &[&str]| parsed(&[&["group"], args, &["--namesrv", &namesrv]].concat());
    command(ports, &["topic", "create", "orders", "--queues", "1"]);
    for body in ["one", "two", "three"] {
        command(ports, &["msg", "send", "orders", body]);
    }
    let mut tail = Tail::of_group(ports);
    let all = ["one", "two", "three"].map(String::from);
    wait_until("all messages", TICK, PATIENCE, || tail.has_printed(&all));

    let listed = ask(&["list"]);
    let row = |members: usize| json!({"group": "readers", "members": members, "retries": 16});
    assert!(listed.as_array().unwrap().contains(&row(1)), "{listed}");
    let described = ask(&["describe", "readers"])[0].clone();
    let member = &described["members"][0];
    assert!(member["client"].as_str().is_some_and(|id| !id.is_empty()), "{described}");
    assert!(member["address"].as_str().is_some_and(|at| at.starts_with("127.0.0.1:")), "{member}");
    assert_eq!(member["shared"], false);
    let subscriptions = described["subscriptions"].as_array().unwrap();
    assert!(subscriptions.contains(&json!({"topic": "orders", "expression": "*"})), "{described}");
    let delete = ["group", "delete", "readers", "--namesrv", &namesrv];
    let refused = run(&delete);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("1 members online"), "{said}");

    // What it has read is committed when it ends.
    tail.interrupt();
    command(ports, &["msg", "send", "orders", "four"]);
    wait_until("that the member has left", TICK, PATIENCE, || {
        ask(&["list"]).as_array().unwrap().contains(&row(0))
    });
    let described = ask(&["describe", "readers"])[0].clone();
    assert!(described["last_commit_ms"].as_u64().is_some_and(|at| at > 1_700_000_000_000));
    let of_orders = |described: &Value| {
        let queues = described["queues"].as_array().unwrap();
        let row = queues.iter().find(|row| row["topic"] == "orders");
        row.unwrap_or_else(|| panic!("{described}")).clone()
    };
    let mut queue = of_orders(&described);
    assert!(queue["lag_seconds"].take().is_u64());
    let broker = "s00-broker-a";
    assert_eq!(
        queue,
        json!({"topic": "orders", "broker": broker, "queue": 0, "committed": 3, "end": 4, "lag": 1,
               "lag_seconds": null})
    );
    let reset = ask(&["reset", "readers", "orders", "--to", "2", "--queue", "0"]);
    assert_eq!(reset, json!([{"topic": "orders", "broker": broker, "queue": 0, "offset": 2}]));
    assert_eq!(of_orders(&ask(&["describe", "readers"])[0])["committed"], 2);

    let would_delete = ask(&["delete", "readers", "--dry-run"]);
    assert_eq!(would_delete[0]["group"], "readers");
    assert!(ask(&["list"]).as_array().unwrap().contains(&row(0)), "it is still there");
    assert_eq!(ask(&["delete", "readers"]), json!([{"group": "readers", "broker": broker}]));
    assert!(!ask(&["list"]).as_array().unwrap().contains(&row(0)));
    assert!(server.terminate().success());
}
