//! Starting, stopping, and what an operator sees.

use std::process::{Command, Stdio};

use crate::server::{Ports, Scratch, Server, ringmq, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed. Returns its output.
fn output(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_message_is_delivered_and_survives_a_restart() {
    let scratch = Scratch::new("restart");
    let data = scratch.0.join("data");
    let ports = Ports::free();
    let namesrv = ports.nameserver_address().to_string();
    let server = Server::dev(&data, ports, 2);
    let at = ["--namesrv", namesrv.as_str()];
    output(&[&["topic", "create", "orders", "--queues", "1"], &at[..]].concat());
    let sent = output(&[&["msg", "send", "orders", "第一", "--tag", "new"], &at[..]].concat());
    assert!(sent.contains("-broker-a"), "{sent}");
    let tail = ["msg", "tail", "orders", "--from", "first", "--count", "1", "-o", "json"];
    let before = output(&[&tail, &at[..]].concat());
    assert!(before.contains("第一") && before.contains("new"), "{before}");

    assert!(server.terminate().success(), "SIGTERM is an orderly end");
    let server = Server::dev(&data, ports, 2);
    assert_eq!(output(&[&tail, &at[..]].concat()), before);
    let topics = output(&[&["topic", "list"], &at[..]].concat());
    assert!(topics.contains("orders"), "{topics}");
    let log = server.log();
    assert!(log.contains("torn tail of 0 bytes"), "an orderly stop leaves nothing torn: {log}");

    output(&[&["topic", "delete", "orders"], &at[..]].concat());
    let gone = run(&[&["topic", "describe", "orders"], &at[..]].concat());
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone.stderr));
}

#[test]
fn a_failed_start_says_why_and_what_to_do() {
    let scratch = Scratch::new("refused");
    let data = scratch.0.join("data");
    let ports = Ports::free();
    let _server = Server::dev(&data, ports, 2);
    let other = Ports::free();
    let dev = |data: &str, ports: Ports, more: &[&str]| {
        let listen = ports.broker_address().to_string();
        let namesrv = ports.nameserver_address().to_string();
        let args = ["dev", "--data", data, "--listen", &listen, "--namesrv-listen", &namesrv];
        let output = run(&[&args, more].concat());
        (output.status.code(), text(&output.stderr))
    };
    let used = data.to_str().unwrap().to_owned();
    let unused = scratch.0.join("other").to_str().unwrap().to_owned();
    let rows = [
        (dev(&used, other, &[]), 1, "in use by process"),
        (
            dev(&unused, Ports { nameserver: other.nameserver, ..ports }, &["--shards", "1"]),
            1,
            "--listen",
        ),
        (dev(&unused, other, &["--shards", "2"]), 1, "--shards 1"),
        (dev(&unused, other, &["--shards", "0"]), 2, "--shards"),
        (dev(&unused, other, &["--flush", "often"]), 2, "often"),
    ];
    for ((code, error), expected_code, expected) in rows {
        assert_eq!(code, Some(expected_code), "{error}");
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    let nobody = run(&["topic", "list", "--namesrv", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", text(&nobody.stderr));
}

#[test]
fn a_broker_registers_with_every_nameserver_and_outlives_one() {
    let scratch = Scratch::new("nameservers");
    let (first, second) = (Ports::free(), Ports::free());
    let start = |ports: Ports| {
        let listen = ports.nameserver_address().to_string();
        let log = scratch.0.join(format!("ns-{}.log", ports.nameserver));
        Server::start(&["nameserver", "--listen", &listen], &log)
    };
    let (one, _two) = (start(first), start(second));
    let (one_address, two_address) = (first.nameserver_address(), second.nameserver_address());
    let both = format!("{one_address};{two_address}");
    let data = scratch.0.join("data");
    let listen = first.broker_address().to_string();
    let args = ["broker", "--namesrv", &both, "--listen", &listen, "--shards", "3"];
    let args = [&args[..], &["--data", data.to_str().unwrap()]].concat();
    let broker = Server::start(&args, &scratch.0.join("broker.log"));

    output(&["topic", "create", "orders", "--namesrv", &both]);
    for namesrv in [one_address.to_string(), two_address.to_string()] {
        let found = output(&["topic", "describe", "orders", "--namesrv", &namesrv]);
        for shard in ["s00-broker-a", "s01-broker-a", "s02-broker-a"] {
            assert!(found.contains(shard), "{namesrv}: {found}");
        }
    }
    one.kill();
    output(&["msg", "send", "orders", "still here", "--namesrv", &both]);
    // Without automatic creation an unknown topic stays unknown.
    let unknown = run(&["msg", "send", "unknown", "x", "--namesrv", &both]);
    assert_eq!(unknown.status.code(), Some(1), "{}", text(&unknown.stderr));
    assert!(broker.terminate().success());
}

#[test]
fn a_closed_pipe_and_a_mistyped_command_end_with_exit_codes() {
    let mut child =
        ringmq(&["help", "broker"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code().is_some(), "it ends, and not by a signal");
    for shell in ["bash", "zsh", "fish"] {
        assert!(output(&["completions", shell]).contains("ringmq"));
    }
    assert_eq!(run(&["brokr"]).status.code(), Some(2));
    let check = run(&["check", "-o", "json"]);
    assert!(text(&check.stdout).contains("\"kernel\""), "{}", text(&check.stdout));
}

/// A limit that the process cannot raise itself is reported before anything starts.
#[test]
fn a_start_without_lockable_memory_is_refused_with_the_remedy() {
    let scratch = Scratch::new("memlock");
    let data = scratch.0.join("data");
    let ports = Ports::free();
    let limited = "ulimit -l 64 && exec \"$0\" \"$@\"";
    let dev = ["dev", "--data", data.to_str().unwrap(), "--shards", "1"];
    let listen = [ports.broker_address().to_string(), ports.nameserver_address().to_string()];
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_ringmq")])
        .args(dev)
        .args(["--listen", &listen[0], "--namesrv-listen", &listen[1]])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["memlock", "limit 64 KiB", "512 KiB", "prlimit --pid $$ --memlock=unlimited"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// A change to this text is a change to the product.
#[test]
fn help_as_printed() {
    let commands = [
        &[][..],
        &["dev"],
        &["nameserver"],
        &["broker"],
        &["topic"],
        &["topic", "create"],
        &["topic", "update"],
        &["group"],
        &["group", "describe"],
        &["group", "reset"],
        &["group", "delete"],
        &["msg"],
        &["msg", "send"],
        &["msg", "tail"],
        &["cluster"],
        &["replica"],
        &["replica", "transfer"],
        &["replica", "add"],
        &["replica", "remove"],
        &["replica", "replace"],
        &["check"],
        &["completions"],
    ];
    let mut text = String::new();
    for command in commands {
        let arguments = [command, &["--help"]].concat();
        text.push_str(&format!("$ ringmq {}\n", arguments.join(" ")));
        text.push_str(&output(&arguments));
        text.push('\n');
    }
    let expected = include_str!("../golden/ringmq-help.txt");
    // For the next version of the file.
    let found = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("ringmq-help.txt");
    std::fs::write(&found, &text).unwrap();
    assert!(text == expected, "the help is now as in {}", found.display());
}
