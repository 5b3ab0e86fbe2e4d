//! What scripts rely on: forms of the output, exit codes, the file, completions, pipes.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::server::{PATIENCE, Ports, Scratch, Server, ringmq, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}


/// Waits until a command has ended by itself, and gives its exit code and what it complained of.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it goes on for ever");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stderr))
}

/// As in `ringmq msg tail T | head -n 1`: whether more comes or not.
#[test]
fn a_tail_ends_quietly_when_nobody_reads_it_any_more() {
    let scratch = Scratch::new("pipe");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let namesrv = ports.nameserver_address().to_string();
    let at = ["--namesrv", namesrv.as_str()];
    let ordered = |args: &[&str]| assert!(run(&[args, &at].concat()).status.success(), "{args:?}");
    ordered(&["topic", "create", "lines", "--queues", "1"]);
    ordered(&["msg", "send", "lines", "one", "--repeat", "3"]);
    for more in [false, true] {
        let tail = [&["msg", "tail", "lines", "--from", "first"], &at[..]].concat();
        let mut tail = ringmq(&tail).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(tail.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("one"), "{line}");
        if more {
            ordered(&["msg", "send", "lines", "more"]);
        }
        assert_eq!(ended(tail), (Some(0), String::new()));
    }
    assert!(server.terminate().success());
}
