//! What scripts rely on: forms of the output, exit codes, the file, completions, pipes.

use std::fs;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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

/// The file gives what the environment leaves open, the environment what the command line does.
#[test]
fn commands_below_a_command_have_their_options_from_its_section() {
    let scratch = Scratch::new("section");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let (there, nobody) = (ports.nameserver_address().to_string(), "127.0.0.1:1");
    let code_of = |file: &str, environment: Option<&str>, args: &[&str]| {
        let path = scratch.0.join("ringmq.toml");
        fs::write(&path, file).unwrap();
        let mut command = ringmq(args);
        command.env("RINGMQ_CONFIG", &path).envs(environment.map(|at| ("RINGMQ_NAMESRV", at)));
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let good =
        format!("[topic]\nnamesrv = '{there}'\noutput = 'json'\n[msg]\nnamesrv = '{there}'\n");
    let bad = format!("[topic]\nnamesrv = '{nobody}'\n");
    let list = ["topic", "list"];
    let elsewhere = ["topic", "list", "--namesrv", nobody];
    let here = ["topic", "list", "--namesrv", &there];
    let rows = [
        (code_of(&good, None, &list), 0, "\"topic\": \"TBW102\""),
        (code_of(&good, None, &["msg", "send", "sections", "x"]), 0, "OFFSET"),
        (code_of(&bad, None, &list), 4, nobody),
        (code_of(&good, Some(nobody), &list), 4, nobody),
        (code_of(&bad, Some(&there), &list), 0, "TBW102"),
        (code_of(&good, Some(&there), &elsewhere), 4, nobody),
        (code_of(&bad, Some(nobody), &here), 0, "TBW102"),
        (code_of("[topic]\nnamsrv = 'x'\n", None, &list), 2, "did you mean \"namesrv\"?"),
        (code_of("[topic]\nnamesrv = '127.0.0.1'\n", None, &list), 2, "write it as ip:port"),
    ];
    for ((code, said), expected_code, expected) in rows {
        assert_eq!(code, Some(expected_code), "{said}");
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
    assert!(server.terminate().success());
}

/// Nothing is made or started for options that cannot be meant.
#[test]
fn options_that_cannot_be_meant_are_refused_at_start_as_wrong_usage() {
    let scratch = Scratch::new("meant");
    let data = scratch.0.join("data");
    let ports = Ports::free();
    let listen = ports.broker_address().to_string();
    let namesrv = ports.nameserver_address().to_string();
    let dev = |option: &str, value: &str| {
        let mut args = vec!["dev", "--data", data.to_str().unwrap(), "--shards", "1"];
        for (name, usual) in [("--listen", &listen), ("--namesrv-listen", &namesrv)] {
            if name != option {
                args.extend([name, usual]);
            }
        }
        args.extend([option, value]);
        let output = run(&args);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let rows = [
        ("--tail-cache", "99999GiB", "of memory; give it less"),
        ("--append-budget", "99999GiB", "--append-budget gives each shard"),
        ("--index-cache", "16777215TiB", "--index-cache gives each shard"),
        ("--name", "a b", "broker name holds ' '"),
        ("--name", "a,b", "choose another --name"),
        ("--cluster", "my cluster", "cluster name holds ' '"),
        ("--listen", "127.0.0.1:0", "--listen 127.0.0.1:0: with port 0"),
        ("--namesrv-listen", "127.0.0.1:0", "name a port"),
    ];
    for (option, value, expected) in rows {
        let (code, said) = dev(option, value);
        assert_eq!(code, Some(2), "{option} {value}: {said}");
        assert!(said.contains(expected), "{option} {value}: {said:?} does not say {expected:?}");
        assert!(!data.exists(), "{option} {value} leaves a data directory");
    }
    let nameserver = run(&["nameserver", "--listen", "127.0.0.1:0"]);
    assert_eq!(nameserver.status.code(), Some(2), "{}", text(&nameserver.stderr));
    let check = run(&["check", "--tail-cache", "99999999GiB", "-o", "json"]);
    assert_eq!(check.status.code(), Some(1), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("lower --tail-cache"), "{}", text(&check.stdout));
}
