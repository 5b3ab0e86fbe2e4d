//! `ringmq dev --replicas`: several brokers and NameServers in one process tree.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::{PATIENCE, Ports, Scratch, Server, run, wait_until};

const LOOK_EVERY: Duration = Duration::from_millis(50);
const PROCESSES: [&str; 5] = ["nameserver-1", "nameserver-2", "broker-1", "broker-2", "broker-3"];

struct Tree {
    server: Server,
    namesrv: String,
    /// Names and ids of the processes.
    processes: Vec<(String, i32)>,
    _scratch: Scratch,
}

impl Tree {
    fn start(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let ports = Ports::free();
        let (listen, namesrv) = (ports.broker + 1, ports.nameserver_address().to_string());
        let listen = format!("127.0.0.1:{listen}");
        let data = scratch.0.join("data");
        let args = [
            ["dev", "--replicas", "3", "--shards", "1"].as_slice(),
            &["--listen", &listen, "--namesrv-listen", &namesrv],
            &["--data", data.to_str().unwrap(), "--tail-cache", "4MiB"],
        ];
        let server = Server::start(&args.concat(), &scratch.0.join("parent.log"));
        let process = |line: String| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[0].to_owned(), words[2].parse().unwrap())
        };
        let processes = (0..PROCESSES.len()).map(|_| process(server.next_line().unwrap()));
        let processes = processes.collect();
        Self { server, namesrv, processes, _scratch: scratch }
    }

    fn pid(&self, name: &str) -> i32 {
        self.processes.iter().find(|(known, _)| known == name).unwrap().1
    }

    fn send(&self) -> bool {
        let output = run(&["msg", "send", "orders", "a", "--namesrv", &self.namesrv]);
        output.status.success()
    }
}

fn is_running(pid: i32) -> bool {
    // A process that has ended and is not waited for is a zombie.
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn wait_ended(pids: &[i32]) {
    wait_until("the processes' end", LOOK_EVERY, PATIENCE, || {
        pids.iter().all(|pid| !is_running(*pid))
    });
}

#[test]
fn a_tree_goes_on_without_one_of_its_brokers_and_ends_as_one() {
    let tree = Tree::start("tree");
    let names: Vec<&str> = tree.processes.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, PROCESSES);
    assert!(tree.send());
    let killed = tree.pid("broker-1");
    kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
    wait_until("an acknowledgement", LOOK_EVERY, PATIENCE, || tree.send());
    wait_until("a report", LOOK_EVERY, PATIENCE, || {
        let log = tree.server.log();
        log.contains(&format!("broker-1 (process {killed}) exited: signal: 9"))
    });
    let pids: Vec<i32> = tree.processes.iter().map(|(_, pid)| *pid).collect();
    assert!(tree.server.interrupt().success());
    wait_ended(&pids);
}

#[test]
fn nothing_of_a_tree_outlives_its_parent() {
    let tree = Tree::start("orphans");
    let pids: Vec<i32> = tree.processes.iter().map(|(_, pid)| *pid).collect();
    assert!(pids.iter().all(|pid| is_running(*pid)));
    tree.server.kill();
    wait_ended(&pids);
}
