//! Three processes make up one run: `merge` reports the same for their parts as one process reports
//! for the same schedule.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loadgen::findings::document::Document;
use program::{Running, Scratch, Server, loadgen};

const PARTS: u32 = 3;
/// Six producers, 3,000 messages, at a rate that any machine sustains.
fn steady(server: &Server, more: &str) -> String {
    format!(
        "steady --namesrv {} --rate 600 --duration 5s --warmup 0 --message-size 200 --connections 6 \
         --in-flight 64 --seed 7 {more}",
        server.namesrv
    )
}

/// Runs all parts concurrently, and returns the paths of their reports, separated by spaces.
fn run_parts(server: &Server, scratch: &Scratch) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let start_at = (now + Duration::from_secs(3)).as_secs();
    let running: Vec<Running> = (1..=PARTS)
        .map(|part| {
            let directory = scratch.0.join(part.to_string());
            std::fs::create_dir(&directory).unwrap();
            let out = directory.display();
            let more = format!("--part {part}/{PARTS} --start-at {start_at} --out {out}");
            Running::start(&mut loadgen(&steady(server, &more)), &directory)
        })
        .collect();
    for part in running {
        let ended = part.end();
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.errors);
        assert!(ended.last_line().contains("lost 0 of "), "{}", ended.out);
    }
    let file = |part: u32| format!("{}/{part}/report.json", scratch.shown());
    (1..=PARTS).map(file).collect::<Vec<_>>().join(" ")
}

/// The merged percentile must lie between those of the parts, whatever the load on the machine. The
/// difference from the percentile of a separate run is only printed, because it is noise between
/// runs.
fn assert_between(
    what: &str,
    quantile: f64,
    parts: &[Document],
    merged: &Document,
    single: &Document,
) {
    let of = |it: &Document| it.detail.total().latency.value_at_quantile(quantile);
    let low = parts.iter().map(of).min().unwrap();
    let high = parts.iter().map(of).max().unwrap();
    let found = of(merged);
    assert!((low..=high).contains(&found), "{what}: {found} ns of parts with {low} to {high} ns");
    println!("{what}: {found} ns merged, {} ns in one process", of(single));
}

fn document(file: &str) -> Document {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn the_parts_make_the_whole() {
    let server = Server::start();
    let scratch = Scratch::new("merge");
    let parts = run_parts(&server, &scratch);
    let whole = scratch.0.join("whole");
    let command = format!("merge {parts} --out {}", whole.display());
    let ended = Running::start(&mut loadgen(&command), &scratch.0).end();
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.errors);
    let merged = document(&format!("{}/report.json", whole.display()));

    let single = Scratch::new("single");
    let command = steady(&server, &format!("--out {}", single.shown()));
    let ended = Running::start(&mut loadgen(&command), &single.0).end();
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.errors);
    let single = single.document();

    assert_eq!(merged.detail.subject.schedule, single.detail.subject.schedule);
    assert!(single.send.due > 2_000, "{}", single.send.due);
    assert_eq!(merged.send.due, single.send.due);
    assert_eq!(merged.send.acknowledged, single.send.acknowledged);
    assert_eq!(merged.audit, single.audit);
    assert_eq!((merged.audit.lost, merged.audit.acknowledged), (Some(0), merged.send.due));
    assert_eq!(merged.end_to_end.received, single.end_to_end.received);
    assert_eq!(merged.detail.audit().foreign, 0, "parts are no strangers to each other");
    assert_eq!(merged.detail.total().latency.len(), single.detail.total().latency.len());
    let parts: Vec<Document> = parts.split(' ').map(document).collect();
    for (what, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        assert_between(what, quantile, &parts, &merged, &single);
    }
}

/// Neither the same part twice nor a set with a missing part is a whole run.
#[test]
fn what_is_no_whole_run_is_not_called_one() {
    let server = Server::start();
    let scratch = Scratch::new("merge-wrong");
    let parts = run_parts(&server, &scratch);
    let [one, two, _] = parts.split(' ').collect::<Vec<_>>()[..] else { panic!("{parts}") };
    let merge = |files: &str| Running::start(&mut loadgen(files), &scratch.0).end();

    let twice = merge(&format!("merge {one} {two} {one}"));
    assert_eq!(twice.code, Some(2));
    assert!(twice.errors.contains("part 1 of 3 is there twice"), "{}", twice.errors);
    let missing = merge(&format!("merge {one} {two}"));
    missing.assert(7, "INCOMPLETE  lost 0 of ");
    assert!(missing.out.contains("part 3 of 3 is missing"), "{}", missing.out);
}
