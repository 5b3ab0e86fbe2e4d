//! Runs with faults: a broker that is killed, frozen, or gone; a NameServer that dies; disks that
//! are slow or full, the broker's and loadgen's own; and Ctrl-C.
//!
//! Every run here uses real servers of this program. None of them requires the verdict PASS: a
//! fault costs part of the load, more of it on a busy machine. The assertions hold on any machine.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;
#[path = "support/proxy.rs"]
mod proxy;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use loadgen::findings::document::Document;
use loadgen::findings::report::FaultMark;
use loadgen::findings::verdict::Verdict;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use program::{Ended, PATIENCE, Running, Scratch, Server, loadgen};

/// A few hundred messages per second for some seconds, with these faults.
fn workload(seconds: u32, faults: &str) -> String {
    format!(
        "name: faults\nproducerRate: 300\ntestDuration: {seconds}s\nwarmupDurationMinutes: 0\n\
         partitionsPerTopic: 4\nproducersPerTopic: 8\nmessageSize: 200\ninFlight: 64\nfaults:\n{faults}"
    )
}

/// Starts `loadgen run` with embedded servers; temporary files are below `scratch`.
fn start(scratch: &Scratch, workload: &str, more: &str) -> Running {
    let file = scratch.0.join("workload.yaml");
    fs::write(&file, workload).unwrap();
    let out = scratch.0.join("out");
    let (file, out) = (file.display(), out.display());
    let mut command = loadgen(&format!("run {file} --flush async --out {out} {more}"));
    command.env("TMPDIR", &scratch.0);
    Running::start(&mut command, &scratch.0)
}

/// The report of a completed run.
fn document(scratch: &Scratch, ended: &Ended) -> Document {
    let report = fs::read(scratch.0.join("out/report.json"));
    let report = report.unwrap_or_else(|error| panic!("{error}: {}\n{}", ended.out, ended.errors));
    serde_json::from_slice(&report).unwrap()
}

/// No acknowledged message was lost, and for every unknown one the audit found whether it was
/// stored.
fn assert_audited(ended: &Ended, document: &Document) {
    let said = format!("{}\n{}", ended.out, ended.errors);
    // A part of the load was not delivered, or a threshold was missed.
    assert!(matches!(ended.code, Some(0 | 5 | 6)), "{said}");
    assert_eq!(document.audit.lost, Some(0), "{said}");
    assert!(document.send.acknowledged > 0, "{said}");
    let unknown = document.audit.unknown_present.unwrap() + document.audit.unknown_absent.unwrap();
    assert_eq!(unknown, document.send.unknown, "{said}");
}

/// Returns the only mark, which must belong to a fault that was injected.
fn mark(document: &Document) -> FaultMark {
    let [mark] = &document.detail.faults[..] else { panic!("{:?}", document.detail.faults) };
    assert_eq!(mark.failed, None, "{mark:?}");
    mark.clone()
}

#[test]
fn a_broker_that_is_killed_and_comes_back_has_lost_nothing() {
    let scratch = Scratch::new("kill");
    let faults = "  - {at: 1s, kind: killBroker, duration: 500ms}\n";
    let ended = start(&scratch, &workload(6, faults), "").end();
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    let mark = mark(&document);
    let down_ns = mark.until_ns.unwrap() - mark.at_ns;
    assert!(mark.at_ns >= 1_000_000_000 && down_ns >= 400_000_000, "{mark:?}");
    // The first acknowledgement comes after the restart, not before.
    assert!(mark.back_after_ns.unwrap() >= 400_000_000, "{mark:?}");
    let samples = &document.detail.samples;
    assert!(!samples.is_empty(), "the process was watched");
    assert!(samples.is_sorted_by_key(|sample| sample.cpu_ns), "values go on: {samples:?}");
}

/// The broker comes back only after sending has ended, yet its queues are read to their end:
/// messages that were stored but not acknowledged are found.
#[test]
fn a_broker_that_is_killed_at_the_very_end_is_audited_when_it_is_back() {
    let scratch = Scratch::new("late");
    let faults = "  - {at: 2800ms, kind: killBroker, duration: 10m}\n";
    let ended = start(&scratch, &workload(3, faults), "").end();
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    assert!(mark(&document).until_ns.is_some(), "it was started again for the audit");
    assert!(!ended.last_line().contains("gone at the end"), "{}", ended.last_line());
    let received = document.audit.acknowledged + document.audit.unknown_present.unwrap();
    assert_eq!(document.end_to_end.received, received);
}

#[test]
fn a_frozen_broker_answers_late_and_everything() {
    let scratch = Scratch::new("freeze");
    let faults = "  - {at: 1s, kind: freezeBroker, duration: 800ms}\n";
    let ended = start(&scratch, &workload(4, faults), "").end();
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    let mark = mark(&document);
    assert!(mark.back_after_ns.unwrap() >= 700_000_000, "{mark:?}");
    assert_eq!(document.send.unknown, 0, "no connection was lost");
    // Latency counts from when a message was due, so the whole stall shows.
    assert!(document.send.latency_ns.max > 500_000_000, "{:?}", document.send.latency_ns);
}

/// Three replicas. Whatever happens to the machine that leads, the others continue, and nothing is
/// lost; the report says for how long nothing was acknowledged.
#[test]
fn machines_that_are_taken_away_one_after_another_take_nothing_with_them() {
    let scratch = Scratch::new("machines");
    let faults = "  - {at: 1500ms, kind: killMachine, duration: 1s}\n  \
                  - {at: 6s, kind: pauseMachine, duration: 3s}\n  \
                  - {at: 11s, kind: partition, heard: others, duration: 3s}\n";
    let ended = start(&scratch, &workload(15, faults), "--replicas 3").end();
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    let marks = &document.detail.faults;
    assert_eq!(marks.len(), 3);
    for mark in marks {
        assert_eq!(mark.failed, None, "{mark:?}");
        assert!(mark.text.contains("leads s00-broker-a"), "{mark:?}");
        let gap = &mark.gaps[0];
        assert!(gap.broker == "s00-broker-a" && gap.length_ns > 300_000_000, "{mark:?}");
        assert_eq!(mark.back_after_ns, Some(gap.length_ns));
    }
    assert!(ended.out.contains("no acknowledgement from s00-broker-a"), "{}", ended.out);
    assert!(ended.out.contains("3 replicas"), "{}", ended.out);
}

#[test]
fn a_nameserver_that_stays_dead_stops_nobody() {
    let scratch = Scratch::new("nameserver");
    let faults = "  - {at: 1s, kind: killNameServer, index: 0}\n";
    let ended = start(&scratch, &workload(4, faults), "").end();
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    assert_eq!(mark(&document).until_ns, None);
    assert_eq!(document.send.acknowledged, document.send.due);
    assert!(document.target.contains(';'), "two NameServers: {}", document.target);
}

/// A shared file system is left alone, because others need the space. The report says why.
#[test]
fn a_shared_disk_is_not_filled() {
    let scratch = Scratch::new("shared");
    let faults = "  - {at: 1s, kind: fillDisk, duration: 1s}\n";
    let ended = start(&scratch, &workload(3, faults), "").end();
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    let why = document.detail.faults[0].failed.clone().unwrap();
    assert!(why.contains("--disk-image"), "{why}");
}

/// Mounting needs root; without it, the test says so.
#[test]
fn a_disk_that_is_slow_and_then_full_costs_no_acknowledged_message() {
    let scratch = Scratch::new("disk");
    let faults = "  - {at: 1s, kind: slowDisk, duration: 1s, writesPerSecond: 50}\n  \
                  - {at: 3s, kind: fillDisk, duration: 1500ms, to: 98%}\n";
    let ended = start(&scratch, &workload(8, faults), "--disk-image 1GiB").end();
    if ended.code == Some(4) && ended.errors.contains("disk image") {
        assert!(fs::read_dir(&scratch.0).unwrap().count() <= 3, "an image is left");
        eprintln!("skipped: {}", ended.errors);
        return;
    }
    let document = document(&scratch, &ended);
    assert_audited(&ended, &document);
    let [slow, full] = &document.detail.faults[..] else { panic!("two faults") };
    // Even root may not have access to control groups; then the mark says why.
    assert!(slow.failed.as_ref().is_none_or(|why| !why.is_empty()), "{slow:?}");
    assert_eq!(full.failed, None, "{full:?}");
    assert!(full.until_ns.unwrap() - full.at_ns >= 1_300_000_000, "{full:?}");
    assert!(document.send.refused > 0, "a full disk refuses: {:?}", document.detail.answers);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&scratch.shown()), "the image is still mounted");
}

#[test]
fn a_broker_that_is_gone_before_the_run_ends_it_at_once() {
    let server = Server::start();
    // The NameServer knows a broker, but nothing listens at its address.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let namesrv = proxy::start_routes(server.namesrv, server.broker, nobody);
    let scratch = Scratch::new("gone-before");
    let mut command = loadgen(&format!("steady --namesrv {namesrv} --duration 1s"));
    let ended = Running::start(&mut command, &scratch.0).end();
    assert_eq!(ended.code, Some(4), "{}", ended.errors);
    assert!(ended.errors.contains(&nobody.to_string()), "{}", ended.errors);
}

/// Messages that such a broker has acknowledged cannot be read back, so they are neither lost nor
/// found, and the run is INCOMPLETE.
#[test]
fn a_broker_that_is_gone_for_good_ends_the_run_in_bounded_time() {
    let server = Server::start();
    let scratch = Scratch::new("gone");
    let mut command = loadgen(&format!(
        "steady --namesrv {} --rate 300 --duration 4s --message-size 200 --connections 4 --out {}",
        server.namesrv,
        scratch.0.join("out").display()
    ));
    let running = Running::start(&mut command, &scratch.0);
    running.wait_for("   2 s");
    drop(server);
    let ended = running.end();
    ended.assert(7, "INCOMPLETE  lost 0 of ");
    let document = document(&scratch, &ended);
    assert_eq!(document.verdict, Verdict::Incomplete);
    let send = &document.send;
    assert!(send.acknowledged > 0 && send.unknown + send.not_sent > 0, "{send:?}");
    let ended = send.acknowledged + send.refused + send.unknown + send.not_sent;
    assert_eq!(ended, send.due, "every due message ended in one way: {send:?}");
}

/// Every write to `/dev/full` fails because the device is full.
#[test]
fn a_full_output_directory_is_named_and_the_result_is_not_lost() {
    let server = Server::start();
    for name in ["report.json", "latency.hlog", "report.html"] {
        let scratch = Scratch::new("full");
        let out = scratch.0.join("out");
        fs::create_dir(&out).unwrap();
        symlink("/dev/full", out.join(name)).unwrap();
        let mut command = loadgen(&format!(
            "steady --namesrv {} --rate 300 --duration 1s --out {}",
            server.namesrv,
            out.display()
        ));
        let ended = Running::start(&mut command, &scratch.0).end();
        assert_eq!(ended.code, Some(2), "{name}: {}", ended.errors);
        let path = out.join(name).display().to_string();
        assert!(ended.errors.contains(&path), "{path}: {}", ended.errors);
        assert!(ended.last_line().contains("lost 0 of "), "{name}: {}", ended.out);
    }
}

/// Child processes of `parent`.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let found: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        (found == parent).then_some(pid)
    });
    processes.collect()
}

/// Whether a process runs. A zombie does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

fn assert_all_end(pids: &[u32]) {
    let begin = Instant::now();
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(begin.elapsed() < PATIENCE, "some of {pids:?} still run");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_interrupted_run_leaves_a_marked_report_and_no_process() {
    let scratch = Scratch::new("interrupted");
    // The broker is frozen when the run is interrupted, and the fault would have lasted much
    // longer.
    let faults = "  - {at: 1s, kind: freezeBroker, duration: 10m}\n";
    let running = start(&scratch, &workload(900, faults), "--nameservers 2");
    running.wait_for("   2 s");
    let pid = running.pid();
    let children = children_of(pid);
    assert_eq!(children.len(), 3, "a broker and two NameServers");
    kill(Pid::from_raw(pid as i32), Signal::SIGINT).unwrap();
    let ended = running.end();
    ended.assert(7, "INCOMPLETE  lost 0 of ");
    assert!(ended.out.contains("the run was cut short"), "{}", ended.out);
    let document = document(&scratch, &ended);
    assert_eq!(document.verdict, Verdict::Incomplete);
    assert!(document.send.acknowledged > 0);
    assert!(mark(&document).until_ns.is_some(), "it was thawed");
    assert_all_end(&children);
    assert!(!scratch.0.join(format!("loadgen-{pid}")).exists(), "the data is left");
}

#[test]
fn a_second_interrupt_takes_every_server_along() {
    let scratch = Scratch::new("twice");
    let faults = "  - {at: 1s, kind: freezeBroker, duration: 10m}\n";
    let running = start(&scratch, &workload(900, faults), "--nameservers 2");
    running.wait_for("   2 s");
    let pid = running.pid();
    let children = children_of(pid);
    assert_eq!(children.len(), 3);
    for _ in 0..2 {
        kill(Pid::from_raw(pid as i32), Signal::SIGINT).unwrap();
        // Two signals at the same moment would be merged into one.
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(running.end().code, Some(7));
    assert_all_end(&children);
    assert!(!scratch.0.join(format!("loadgen-{pid}")).exists(), "the data is left");
}
