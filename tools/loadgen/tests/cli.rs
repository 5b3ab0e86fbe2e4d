//! The program as scripts see it: exit codes, last line, files.
//!
//! The runs use `--rate max`: a generator that shares its cores with a test suite falls behind any
//! schedule, so its latencies would not be valid.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/broker.rs"]
mod broker;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use broker::Fault;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn loadgen(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments.split_whitespace());
    command
}

/// A short run against `address`, with additional options.
fn steady(address: SocketAddr, more: &str) -> Command {
    loadgen(&format!(
        "steady --namesrv {address} --rate max --duration 300ms --warmup 0 --message-size 200 \
         --in-flight 4 {more}"
    ))
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().unwrap_or_default().to_owned()
}

fn assert_ends(output: &Output, code: i32, begins: &str, case: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{case}: {}\n{errors}", last_line(output));
    let line = last_line(output);
    let names_loss = line.contains("lost ") || line.contains("loss not checked");
    assert!(line.starts_with(begins) && names_loss, "{case}: {line}");
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("loadgen-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.join("report.json")).unwrap()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_clean_run_passes_and_leaves_its_files() {
    for more in ["", "--header binary --batch 7", "--header fixed --batch 7", "--threads 2"] {
        let address = broker::start(Fault::None);
        let out = Scratch::new("clean");
        let more = format!("{more} --connections 2 --out {}", out.0.display());
        let output = steady(address, &more).output().unwrap();
        assert_ends(&output, 0, "PASS  lost 0 of ", &more);

        let report = out.report();
        assert_eq!((&report["schema"], &report["verdict"]), (&2.into(), &"PASS".into()));
        let sent = report["send"]["sent"].as_u64().unwrap();
        assert!(sent > 100, "{more}: {sent}");
        for count in [
            &report["send"]["acknowledged"],
            &report["end_to_end"]["received"],
            &report["audit"]["acknowledged"],
        ] {
            assert_eq!(count.as_u64(), Some(sent), "{more}");
        }
        assert_eq!(report["figures"]["valid"], report["figures"]["reasons"] == json!([]));
        assert!(report["send"]["latency_ns"]["p99_99"].as_u64().unwrap() > 0);
        let log = fs::read_to_string(out.0.join("latency.hlog")).unwrap();
        assert!(log.contains("Tag=latency,") && log.contains("Tag=end_to_end,"), "{more}");
        assert!(fs::read_to_string(out.0.join("latency.hgrm")).unwrap().contains("#[Max"));
    }
}

/// Each broken promise is detected, counted, and determines the exit code.
#[test]
fn broken_promises_are_found() {
    let rows = [
        (Fault::Lose, "", 1, "FAILED  lost 1 of ", "lost"),
        (Fault::Flip, "", 1, "FAILED  lost 1 of ", "corrupted"),
        (Fault::Repeat, "", 0, "PASS  lost 0 of ", "duplicated"),
        (Fault::Swap, "--in-flight 4 --connections 1", 0, "PASS  lost 0 of ", "out_of_order"),
        (Fault::Swap, "--in-flight 1 --connections 1", 1, "FAILED  lost 0 of ", "out_of_order"),
    ];
    for (fault, more, code, begins, found) in rows {
        let out = Scratch::new("broken");
        let case = format!("{fault:?} {more}");
        let address = broker::start(fault);
        let arguments = format!(
            "steady --namesrv {address} --rate max --duration 300ms --message-size 200 {more} \
             --out {}",
            out.0.display()
        );
        let output = loadgen(&arguments).output().unwrap();
        assert_ends(&output, code, begins, &case);
        assert_eq!(out.report()["audit"][found], 1, "{case}");
    }
}

/// Neither a refusal nor a missing reply is a failure: a refused message is counted, one without a
/// reply is unknown.
#[test]
fn refusals_and_silence_are_no_failures() {
    let rows = [(Fault::Refuse, "refused", "lost"), (Fault::Silence, "unknown", "unknown_present")];
    for (fault, sent, audited) in rows {
        let out = Scratch::new("answers");
        let more = format!("--out {}", out.0.display());
        let output = steady(broker::start(fault), &more).output().unwrap();
        assert_ends(&output, 0, "PASS  lost 0 of ", &more);
        let report = out.report();
        assert_eq!(report["send"][sent], 1, "{fault:?}");
        assert_eq!(report["audit"][audited], u64::from(fault == Fault::Silence), "{fault:?}");
    }
}

/// If no message was accepted, nothing is lost, but the run does not pass.
#[test]
fn a_broker_that_refuses_everything_is_overloaded() {
    let out = Scratch::new("refuse-all");
    let more = format!("--out {}", out.0.display());
    let output = steady(broker::start(Fault::RefuseAll), &more).output().unwrap();
    assert_ends(&output, 5, "OVERLOADED  lost 0 of 0", "all refused");
    // Above the last line if the generator was late, beside the latencies of refusals too.
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("0.0 % of the load delivered"), "{text}");
    let report = out.report();
    assert_eq!(report["verdict"], "OVERLOADED");
    assert_eq!((&report["send"]["acknowledged"], &report["audit"]["lost"]), (&json!(0), &json!(0)));
    assert!(report["send"]["refused"].as_u64().unwrap() > 100);
}

/// Messages that could not be read back are neither lost nor found.
#[test]
fn a_broker_that_stops_to_answer_pulls_has_lost_nothing_yet() {
    let out = Scratch::new("no-pulls");
    let more = format!("--out {}", out.0.display());
    let output = steady(broker::start(Fault::NoPulls), &more).output().unwrap();
    assert_ends(&output, 7, "INCOMPLETE  lost 0 of ", "no pulls");
    let report = out.report();
    assert_eq!((&report["verdict"], &report["audit"]["lost"]), (&json!("INCOMPLETE"), &json!(0)));
    let reasons = report["environment"]["reasons"].to_string();
    assert!(reasons.contains("queues not read to their end"), "{reasons}");
}

/// The answer to one pull of each queue is lost. The broker answers the next ones.
#[test]
fn a_pull_whose_answer_is_lost_is_sent_again() {
    let output = steady(broker::start(Fault::LostPulls), "").output().unwrap();
    assert_ends(&output, 0, "PASS  lost 0 of ", "lost pulls");
}

/// The broker stalls for longer than any test is late. The stall shows in the latencies and belongs
/// to the broker: they stay valid, and a threshold is missed.
#[test]
fn a_broker_that_stalls_is_not_taken_for_a_late_generator() {
    for (more, code, ends) in [
        ("--strict", 0, ""),
        ("--fail-if p50>10s --fail-if p99>1s", 6, "; threshold missed: p99: "),
    ] {
        let out = Scratch::new("stall");
        let address = broker::start(Fault::Stall);
        let arguments = format!(
            "steady --namesrv {address} --rate 500 --duration 6s --warmup 0 --message-size 200 \
             --connections 2 --in-flight 1000 {more} --out {}",
            out.0.display()
        );
        let output = loadgen(&arguments).output().unwrap();
        assert_ends(&output, code, "PASS  lost 0 of ", more);
        assert!(last_line(&output).contains(ends), "{}", last_line(&output));
        let report = out.report();
        assert_eq!(report["figures"], json!({"valid": true, "reasons": []}));
        assert!(report["send"]["latency_ns"]["p99"].as_u64().unwrap() > 3_000_000_000);
    }
}

/// Message 50 is refused during the warm-up, which is audited like the rest but counts in no other
/// figure.
#[test]
fn a_warm_up_is_sent_and_audited_and_does_not_count() {
    let out = Scratch::new("warm-up");
    let address = broker::start(Fault::Refuse);
    let arguments = format!(
        "steady --namesrv {address} --rate 300 --duration 1s --warmup 1s --message-size 200 \
         --connections 2 --out {}",
        out.0.display()
    );
    let output = loadgen(&arguments).output().unwrap();
    assert_ends(&output, 0, "PASS  lost 0 of ", "warm-up");
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("\nwarm-up    1.0 s before, in none of these figures")
    );
    let report = out.report();
    assert_eq!(report["send"]["refused"], 0);
    let count = |part: &str| report[part]["acknowledged"].as_u64().unwrap();
    assert!(count("send") > 100 && count("audit") > count("send") + 100, "{}", report["audit"]);
    assert!(report["duration_s"].as_f64().unwrap() < 1.5, "{}", report["duration_s"]);
}

/// The generator is stopped and continued, so messages that fall due meanwhile are sent late
/// through the generator's own fault. The verdict on the broker does not change; only a run that
/// needs valid latencies fails.
#[test]
fn a_generator_that_is_late_says_so_and_blames_nobody() {
    const STOP: Duration = Duration::from_millis(800);
    for (more, code) in [("", 0), ("--strict", 3)] {
        let out = Scratch::new("late");
        let arguments = format!(
            "steady --namesrv {} --rate 500 --duration 3s --message-size 200 --in-flight 1000 \
             --connections 2 --out {} {more}",
            broker::start(Fault::None),
            out.0.display()
        );
        let mut command = loadgen(&arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        thread::sleep(Duration::from_millis(1_200));
        kill(pid, Signal::SIGSTOP).unwrap();
        thread::sleep(STOP);
        kill(pid, Signal::SIGCONT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_ends(&output, code, "PASS  lost 0 of ", more);
        assert!(last_line(&output).contains(" (latencies not valid: "), "{}", last_line(&output));
        let report = out.report();
        assert_eq!(report["figures"]["valid"], false, "{}", report["figures"]);
        let late_ms = report["send"]["slip_ns"]["max"].as_u64().unwrap() / 1_000_000;
        assert!(u128::from(late_ms) >= STOP.as_millis() - 100, "lateness {late_ms} ms");
        assert!(report["detail"]["threads"][0]["share"].as_f64().unwrap() > 0.0);
    }
}

/// Requests in flight on a lost connection are unknown; the producer continues over a new one. The
/// NameServer's reply changes during the run, and nothing listens at the broker's old address.
#[test]
fn a_broker_that_comes_back_elsewhere_is_found() {
    let out = Scratch::new("moved");
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let namesrv = listeners[1].local_addr().unwrap();
    broker::start_on(listeners, Fault::Move);
    let arguments = format!(
        "steady --namesrv {namesrv} --rate max --duration 4s --message-size 200 --in-flight 4 \
         --connections 3 --out {}",
        out.0.display()
    );
    let output = loadgen(&arguments).output().unwrap();
    assert_ends(&output, 0, "PASS  lost 0 of ", "moved");
    let notes = out.report()["environment"]["notes"].to_string();
    assert!(notes.contains("producers lost their connection"), "{notes}");
    assert!(out.report()["send"]["acknowledged"].as_u64().unwrap() > 100);
}

#[test]
fn a_lost_connection_leaves_unknowns_and_is_made_again() {
    let out = Scratch::new("hang-up");
    let address = broker::start(Fault::HangUp);
    let more = format!("--connections 1 --out {}", out.0.display());
    let output = steady(address, &more).output().unwrap();
    assert_ends(&output, 0, "PASS  lost 0 of ", "hang-up");
    let report = out.report();
    let unknown = report["send"]["unknown"].as_u64().unwrap();
    assert!((1..=4).contains(&unknown), "{unknown}");
    let notes = report["environment"]["notes"].to_string();
    assert!(notes.contains("lost their connection 1 times"), "{notes}");
    assert!(report["send"]["acknowledged"].as_u64().unwrap() > 100);
}

#[test]
fn without_consuming_the_report_says_that_nothing_was_audited() {
    let out = Scratch::new("no-consume");
    let more = format!("--no-consume --out {}", out.0.display());
    let output = steady(broker::start(Fault::Lose), &more).output().unwrap();
    assert_ends(&output, 0, "PASS  loss not checked", "no-consume");
    assert_eq!(out.report()["audit"]["lost"], Value::Null);
}

#[test]
fn wrong_usage_ends_with_2() {
    let file = Scratch::new("file");
    fs::write(&file.0, "not a directory").unwrap();
    let below_file = format!("steady --out {}/out", file.0.display());
    for arguments in [
        "",
        "steadily",
        "steady --rate fast",
        "steady --namesrv 127.0.0.1:9876 --shards 2",
        "steady --namesrv 127.0.0.1:9876 --no-consume --fail-if e2e-p99>1s",
        below_file.as_str(),
    ] {
        let output = loadgen(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(!output.stderr.is_empty(), "{arguments}");
    }
    fs::remove_file(&file.0).unwrap();
}

/// A search and a night follow schedules, which such rates do not have. Nothing is started.
#[test]
fn rates_that_mean_max_are_refused_where_there_is_a_schedule() {
    for (arguments, said) in [
        ("ramp --rate 20M", "--rate reaches 20,000,000/s"),
        ("double11 --peak 20M", "this night reaches 20,000,000/s"),
        ("double11 --base 1M", "this night reaches 25,000,000/s"),
        ("double11 limits --peak 6M", "this night reaches 12,000,000/s"),
    ] {
        let output = loadgen(arguments).env("RINGMQ_BIN", "/no/such/program").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let errors = String::from_utf8_lossy(&output.stderr);
        let rule = "rates from 10,000,000/s up mean `max`";
        assert!(errors.contains(said) && errors.contains(rule), "{arguments}: {errors}");
        assert!(errors.contains("give a lower "), "{arguments}: {errors}");
    }
}

/// A stream with a schedule keeps it next to one that sends as fast as it can.
#[test]
fn a_stream_at_max_leaves_the_schedule_of_another_alone() {
    let directory = Scratch::new("beside");
    fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("beside.yaml");
    let text = "warmupDuration: 0s\ntestDuration: 1s\nmessageSize: 200\nproducersPerTopic: 2\n\
                inFlight: 4\nstreams:\n  - name: flood\n    producerRate: 10M\n  - name: calm\n    \
                producerRate: 100\n";
    fs::write(&file, text).unwrap();
    let (file, out) = (file.display(), directory.0.display());
    for threads in [1, 3] {
        let address = broker::start(Fault::None);
        let run = format!("run {file} --namesrv {address} --threads {threads} --out {out}");
        assert_ends(&loadgen(&run).output().unwrap(), 0, "PASS  lost 0 of ", "beside");
        let due = |track: usize| {
            let counters = &directory.report()["detail"]["totals"][0][track]["counters"];
            counters["due"].as_u64().unwrap()
        };
        assert!((50..150).contains(&due(1)), "{}", due(1));
        assert!(due(0) > 500, "{}", due(0));
    }
}

#[test]
fn a_target_that_cannot_be_reached_ends_with_4() {
    let output = loadgen("steady --namesrv 127.0.0.1:1;127.0.0.1:2").output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let mut embedded = loadgen("steady");
    let output = embedded.env("RINGMQ_BIN", "/no/such/program").output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    // A program that ends without becoming ready.
    let mut embedded = loadgen("steady");
    let output = embedded.env("RINGMQ_BIN", Path::new("/bin/false")).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did not report that it is ready"));
}

/// The topic's permission and queues are not changed.
#[test]
fn an_existing_topic_is_used_as_it_is_or_refused() {
    let refused = |address, more, differs: [&str; 2]| {
        let output = steady(address, more).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{more}: {errors}");
        assert!(differs.iter().all(|text| errors.contains(text)), "{more}: {errors}");
    };
    refused(broker::start(Fault::Closed), "", ["8 queues and perm 4", "8 queues and perm 6"]);
    let address = broker::start(Fault::None);
    let passes = |more| assert_ends(&steady(address, more).output().unwrap(), 0, "PASS", more);
    passes("--queues 3");
    refused(address, "", ["3 queues and perm 6", "8 queues and perm 6"]);
    refused(address, "--queues 4", ["3 queues and perm 6", "4 queues and perm 6"]);
    passes("--queues 3");
    passes("--topic another");
}

/// Arguments of the embedded broker, when this test program acts as the broker.
const STAND_IN: &str = "LOADGEN_TEST_EMBEDDED";

/// Not a test: this is `ringmq dev` in the test below.
#[test]
fn stand_in_for_the_embedded_broker() {
    let Ok(arguments) = std::env::var(STAND_IN) else { return };
    let words: Vec<&str> = arguments.split_whitespace().collect();
    assert_eq!(words[0], "dev");
    let value = |name| words[words.iter().position(|word| *word == name).unwrap() + 1];
    assert_eq!((value("--shards"), value("--flush")), ("1", "async"));
    assert!(Path::new(value("--data")).is_dir());
    let listeners = ["--listen", "--namesrv-listen"]
        .map(|name| TcpListener::bind(value(name).parse::<SocketAddr>().unwrap()).unwrap());
    broker::start_on(listeners, Fault::None);
    println!("\nringmq ready, for a test");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn an_embedded_broker_is_started_for_the_run_and_leaves_nothing() {
    let scratch = Scratch::new("embedded");
    fs::create_dir_all(&scratch.0).unwrap();
    let program = scratch.0.join("ringmq");
    let own = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{STAND_IN}=\"$*\" exec {} --exact stand_in_for_the_embedded_broker --nocapture\n",
        own.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = loadgen("steady --flush async --rate max --duration 300ms --connections 2");
    let child = command
        .env("RINGMQ_BIN", &program)
        .env("TMPDIR", &scratch.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let data = scratch.0.join(format!("loadgen-{}", child.id()));
    let output = child.wait_with_output().unwrap();
    assert_ends(&output, 0, "PASS  lost 0 of ", "embedded");
    assert!(String::from_utf8_lossy(&output.stdout).contains("embedded 127.0.0.1:"));
    assert!(!data.exists(), "the temporary data directory is gone");
}

#[test]
fn an_interrupted_run_reports_what_it_has_and_is_incomplete() {
    let address = broker::start(Fault::None);
    let arguments = format!(
        "steady --namesrv {address} --rate max --duration 10m --message-size 200 \
         --connections 1 --in-flight 1"
    );
    let mut command = loadgen(&arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_ends(&output, 7, "INCOMPLETE  lost 0 of ", "Ctrl-C");
    assert!(String::from_utf8_lossy(&output.stdout).contains("the run was cut short"));
}

/// A search on a target that accepts any rate ends at the first broken promise.
#[test]
fn a_ramp_ends_at_once_when_a_message_is_lost() {
    let out = Scratch::new("ramp");
    let address = broker::start(Fault::Lose);
    let arguments = format!(
        "ramp --namesrv {address} --rate 200 --duration 1s --message-size 200 --connections 2 \
         --out {}",
        out.0.display()
    );
    let output = loadgen(&arguments).output().unwrap();
    assert_ends(&output, 1, "FAILED  lost 1 of ", "ramp");
    assert_eq!(out.report()["environment"]["ramp"].as_array().unwrap().len(), 1);
    assert_eq!(loadgen("ramp --rate max").output().unwrap().status.code(), Some(2));
}

/// Two streams in a file, consumed by two groups. The same file with a mistake is rejected with the
/// line number, before anything is started.
#[test]
fn a_workload_file_is_carried_out_or_refused() {
    let directory = Scratch::new("workload");
    fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("two.yaml");
    let text = "name: two\nwarmupDuration: 100ms\ntestDuration: 300ms\nproducerRate: max\n\
                messageSize: 200\ninFlight: 4\nsubscriptionsPerTopic: 2\nstreams:\n  - name: a\n  \
                - name: b\n    batch: 3\n";
    fs::write(&file, text).unwrap();
    let address = broker::start(Fault::None);
    let (file_name, out) = (file.display(), directory.0.display());
    let run = format!("run {file_name} --namesrv {address} --out {out}");
    assert_ends(&loadgen(&run).output().unwrap(), 0, "PASS  lost 0 of ", "two");
    let detail = &directory.report()["detail"];
    assert_eq!(detail["subject"]["name"], "run two");
    let names = ["a", "b", "subscription-1", "subscription-2"];
    for (track, name) in detail["tracks"].as_array().unwrap().iter().zip(names) {
        assert_eq!(track["name"], name);
    }

    fs::write(&file, text.replace("batch", "bacth")).unwrap();
    let output = loadgen(&run).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("two.yaml:11: `bacth` is not a field of a stream"), "{said}");
    assert!(said.contains("did you mean `batch`?"), "{said}");
}
