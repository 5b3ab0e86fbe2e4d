//! Groups with several members, which divide the queues among them: whatever they do, the audit holds.
//!
//! Every run here uses real servers of this program, and asserts only what does not depend on how fast the
//! machine is.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;

use std::fs;

use loadgen::findings::document::Document;
use program::{Ended, Running, Scratch, loadgen};
use serde_json::{Value, json};

fn run(scratch: &Scratch, arguments: &str) -> (Ended, Document, Value) {
    let mut command =
        loadgen(&format!("{arguments} --shards 2 --flush async --out {}", scratch.shown()));
    command.env("TMPDIR", &scratch.0);
    let ended = Running::start(&mut command, &scratch.0).end();
    let document = scratch.document();
    (ended, document, scratch.report())
}

fn assert_clean(ended: &Ended, document: &Document) {
    let said = format!("{}\n{}", ended.out, ended.errors);
    // A busy machine may not deliver the whole load.
    assert!(matches!(ended.code, Some(0 | 5)), "{said}");
    let audit = &document.audit;
    assert_eq!((audit.lost, audit.corrupted), (Some(0), Some(0)), "{said}");
    assert_eq!(audit.out_of_order, Some(0), "one in flight per producer\n{said}");
    assert!(document.send.acknowledged > 0, "{said}");
}

#[test]
fn several_members_of_a_group_receive_everything_together() {
    let scratch = Scratch::new("members");
    let line = "steady --rate 300 --duration 2s --warmup 0 --message-size 200 --queues 3 \
                --in-flight 1 --consumers 4";
    let (ended, document, report) = run(&scratch, line);
    assert_clean(&ended, &document);
    assert_eq!(document.audit.duplicated, Some(0), "nobody came or left during the run");
    let members = &report["detail"]["tracks"][1]["kind"]["group"]["members"];
    assert_eq!(members, &json!(4), "{}", report["detail"]["tracks"]);
}

/// The members leave in the middle of the run and join again, and the broker is killed, so the
/// queues change owners several times.
#[test]
fn nothing_is_lost_when_members_come_and_go() {
    let scratch = Scratch::new("members-go");
    let workload = "name: members\nproducerRate: 300\ntestDuration: 6s\nwarmupDurationMinutes: 0\n\
        partitionsPerTopic: 6\nproducersPerTopic: 8\nmessageSize: 200\nordered: true\n\
        consumerPerSubscription: 3\n\
        groups:\n  - name: all\n  - name: sleepy\n    consumers: 2\n    pauses:\n      - {from: 1s, to: 3s, down: true}\n\
        faults:\n  - {at: 4s, kind: killBroker, duration: 500ms}\n";
    let file = scratch.0.join("workload.yaml");
    fs::write(&file, workload).unwrap();
    let (ended, document, _) = run(&scratch, &format!("run {}", file.display()));
    let said = format!("{}\n{}", ended.out, ended.errors);
    // A threshold may be missed, or the load not delivered.
    assert!(matches!(ended.code, Some(0 | 5 | 6)), "{said}");
    let audit = &document.audit;
    assert_eq!((audit.lost, audit.corrupted), (Some(0), Some(0)), "{said}");
    assert_eq!(audit.out_of_order, Some(0), "{said}");
    assert!(document.send.acknowledged > 0, "{said}");
}
