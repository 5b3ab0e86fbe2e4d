//! A stream whose messages the broker delays, with real servers of this program.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;

use std::fs;

use program::{Running, Scratch, loadgen};

const WORKLOAD: &str = "name: delayed\ntestDuration: 2s\nwarmupDurationMinutes: 0\npartitionsPerTopic: 4\n\
    producersPerTopic: 4\nmessageSize: 200\nproducerRate: 100\nstreams:\n  - name: now\n  - name: later\n    \
    delay: 1500ms\n  - name: batches\n    delay: 700ms\n    batch: 5\n    header: fixed\n\
    groups:\n  - name: one\n  - name: several\n    consumers: 2\n";

/// Every message arrives once it is due and not before, and its latency counts from then.
#[test]
fn delayed_messages_arrive_when_they_are_due() {
    let scratch = Scratch::new("delayed");
    let file = scratch.0.join("workload.yaml");
    fs::write(&file, WORKLOAD).unwrap();
    let (file, out) = (file.display(), scratch.shown());
    let mut command = loadgen(&format!("run {file} --shards 2 --flush async --out {out}"));
    command.env("TMPDIR", &scratch.0);
    let ended = Running::start(&mut command, &scratch.0).end();
    let said = format!("{}\n{}", ended.out, ended.errors);
    // A busy machine may not deliver the whole load.
    assert!(matches!(ended.code, Some(0 | 5 | 6)), "{said}");
    let document = scratch.document();
    let audit = &document.audit;
    assert_eq!((audit.lost, audit.early, audit.corrupted), (Some(0), Some(0), Some(0)), "{said}");
    assert!(document.send.acknowledged > 0, "{said}");
    // Two in three are delayed by far more than this. On an idle machine it is a few milliseconds.
    let half_ns = document.end_to_end.latency_ns.p50;
    assert!(half_ns < 600_000_000, "{half_ns}\n{said}");
    let delayed = document.detail.streams().map(|(.., facts)| facts.delay_ms);
    assert_eq!(delayed.collect::<Vec<_>>(), [0, 1_500, 700], "{said}");
}
