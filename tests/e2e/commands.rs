//! What scripts rely on: output formats, exit codes, the configuration file, completions, pipes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{PATIENCE, Ports, Scratch, Server, nameserver, ringmq, run};
use crate::wire::{answer, connect, frame, header};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed. Parses its JSON output.
pub fn parsed(args: &[&str]) -> Value {
    let output = run(&[args, &["-o", "json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn json_as_printed() {
    let scratch = Scratch::new("json");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 2);
    let namesrv = ports.nameserver_address().to_string();
    let ask = |args: &[&str]| parsed(&[args, &["--namesrv", &namesrv]].concat());
    let brokers = ["s00-broker-a", "s01-broker-a"];
    let on_both = json!([
        {"topic": "orders", "broker": brokers[0]},
        {"topic": "orders", "broker": brokers[1]},
    ]);
    assert_eq!(ask(&["topic", "create", "orders", "--queues", "1"]), on_both);
    let listed = ask(&["topic", "list"]);
    assert!(listed.as_array().unwrap().contains(&json!({"topic": "orders"})), "{listed}");

    let sent = ask(&["msg", "send", "orders", "第一", "--tag", "new"]);
    let broker = sent[0]["broker"].as_str().unwrap();
    let id = sent[0]["id"].as_str().unwrap();
    assert_eq!(sent, json!([{"broker": broker, "queue": 0, "offset": 0, "id": id}]));
    let shard = brokers.iter().position(|name| *name == broker).unwrap();
    let queue = |nth: usize| {
        let count = u64::from(nth == shard);
        json!({"broker": brokers[nth], "queue": 0, "min_offset": 0, "max_offset": count,
               "messages": count, "last_stored_at_ms": null, "delayed": 0, "retries": 0})
    };
    let described = json!([queue(0), queue(1)]);
    for args in [&["topic", "describe", "orders"][..], &["topic", "delete", "orders", "--dry-run"]]
    {
        let mut said = ask(args);
        let last_stored_at = said[shard]["last_stored_at_ms"].take();
        assert!(last_stored_at.as_u64().is_some_and(|at| at > 1_700_000_000_000), "{said}");
        assert_eq!(said, described);
    }

    let mut cluster = ask(&["cluster"]);
    let port = ports.broker + 4 * shard as u16;
    let row = cluster[shard].take();
    assert_eq!(
        row,
        json!({"cluster": "DefaultCluster", "broker": broker, "id": 0,
               "address": format!("127.0.0.1:{port}"), "version": row["version"],
               "messages_in": 1, "messages_out": 0, "log_bytes": row["log_bytes"]})
    );
    assert!(row["log_bytes"].is_u64(), "{row}");
    assert!(row["version"].as_str().unwrap().starts_with("RingMQ"), "{row}");

    let mut tailed = ask(&["msg", "tail", "orders", "--from", "first", "--count", "1"]);
    let stored_at_ms = tailed["stored_at_ms"].take();
    assert!(stored_at_ms.as_u64().is_some_and(|at| at > 1_700_000_000_000), "{stored_at_ms}");
    assert_eq!(
        tailed,
        json!({"topic": "orders", "broker": broker, "queue": 0, "offset": 0, "id": id,
               "stored_at_ms": null, "tag": "new", "body": "第一"})
    );
    assert_eq!(ask(&["msg", "get", id])["body"], "第一");

    let many = ask(&["msg", "send", "orders", "again", "--repeat", "300"]);
    let ids: BTreeSet<&str> =
        many.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 300, "each has an id of its own");
    for id in [ids.first().unwrap(), ids.last().unwrap()] {
        assert_eq!(ask(&["msg", "get", id])["body"], "again");
    }
    assert_eq!(ask(&["msg", "send", "orders", "never", "--repeat", "0"]), json!([]));

    // Stock clients get an id by which the message can be read.
    let ext = r#""a":"g","b":"orders","c":"TBW102","d":"4","e":"0","f":"0","g":"1","h":"0","i":"","j":"0","k":"false","m":"false""#;
    let mut stream = connect(ports);
    stream.write_all(&frame(&header(310, 1, 0, ext), b"by hand")).unwrap();
    let stored: Value = serde_json::from_str(&answer(&mut stream)).unwrap();
    let fields = &stored["extFields"];
    let id = fields["msgId"].as_str().unwrap();
    let mut got = ask(&["msg", "get", id]);
    let offset: u64 = fields["queueOffset"].as_str().unwrap().parse().unwrap();
    assert!(got["stored_at_ms"].take().is_u64());
    assert_eq!(
        got,
        json!({"topic": "orders", "broker": ports.broker_address().to_string(), "queue": 0,
               "offset": offset, "id": id, "stored_at_ms": null, "tag": "", "body": "by hand"})
    );

    assert_eq!(ask(&["topic", "delete", "orders"]), on_both);
    assert!(server.terminate().success());
}

/// Nothing listens at the NameServer's address, or a registered broker does not answer.
#[test]
fn unreachable_servers_have_their_own_exit_code() {
    let scratch = Scratch::new("unreachable");
    let ports = Ports::free();
    let namesrv = ports.nameserver_address().to_string();
    let code_of = |args: &[&str]| {
        let output = run(&[args, &["--namesrv", &namesrv]].concat());
        (output.status.code(), text(&output.stderr))
    };
    let nobody = "7F00000100000009000000000000000F";
    let of_messages =
        [&["msg", "send", "t", "x"][..], &["msg", "tail", "t"], &["msg", "get", nobody]];
    for args in of_messages {
        let (code, error) = code_of(args);
        assert_eq!(code, Some(4), "{args:?}: {error}");
        assert!(error.contains("Connection refused"), "{args:?}: {error}");
    }

    let nameserver = nameserver(&scratch.0, ports);
    let (data, listen) = (scratch.0.join("data"), ports.broker_address().to_string());
    // The broker listens on one address and advertises another.
    let args = ["broker", "--namesrv", &namesrv, "--listen", &listen, "--advertise", "127.0.0.2"];
    let more = ["--auto-create-topics", "--shards", "1", "--data", data.to_str().unwrap()];
    let broker = Server::start(&[&args[..], &more[..]].concat(), &scratch.0.join("broker.log"));
    let of_topics = [
        &["msg", "tail", "TBW102"][..],
        &["topic", "create", "t"],
        &["topic", "describe", "TBW102"],
        &["msg", "send", "TBW102", "x"],
    ];
    let elsewhere = format!("127.0.0.2:{}", ports.broker);
    for args in of_topics {
        let (code, error) = code_of(args);
        assert_eq!(code, Some(4), "{args:?}: {error}");
        assert!(error.contains(&elsewhere), "{args:?} does not say where: {error}");
    }
    assert!(broker.terminate().success());
    assert!(nameserver.terminate().success());
}

/// Waits until a command has ended. Returns its exit code and stderr.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the command does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stderr))
}

/// As in `ringmq msg tail T | head -n 1`, with and without more messages.
#[test]
fn a_tail_ends_quietly_when_its_reader_is_gone() {
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

#[test]
fn completions_load_in_bash() {
    let script = "set -eu; source /dev/stdin; complete -p ringmq; \
                  COMP_WORDS=(ringmq topic cre) COMP_CWORD=2; COMPREPLY=(); \
                  _ringmq ringmq cre topic; echo \"${COMPREPLY[@]}\"";
    let bash = |args: &[&str]| {
        let mut bash = Command::new("bash");
        bash.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        bash.spawn()
    };
    if let Err(why) = bash(&["-c", "true"]).and_then(|child| child.wait_with_output()) {
        return eprintln!("SKIPPED: no bash: {why}");
    }
    let completions = run(&["completions", "bash"]).stdout;
    for (args, expected) in [(&["-n"][..], ""), (&["-c", script], "create\n")] {
        let mut child = bash(args).unwrap();
        child.stdin.take().unwrap().write_all(&completions).unwrap();
        let output = child.wait_with_output().unwrap();
        let printed = text(&output.stdout);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        assert!(printed.ends_with(expected), "{args:?}: {printed}");
    }
}

/// The environment applies if the command line has no value, and the file if neither has one.
#[test]
fn subcommands_take_their_options_from_the_section_of_their_command() {
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
        (code_of("[topic]\nnamesrv = '127.0.0.1'\n", None, &list), 2, "write it as host:port"),
    ];
    for ((code, said), expected_code, expected) in rows {
        assert_eq!(code, Some(expected_code), "{said}");
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
    assert!(server.terminate().success());
}

/// Invalid options create and start nothing.
#[test]
fn invalid_options_are_refused_at_start_as_usage_errors() {
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
        ("--listen", "127.0.0.1:0", "--listen 127.0.0.1:0: port 0 would"),
        ("--namesrv-listen", "127.0.0.1:0", "give a port"),
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
