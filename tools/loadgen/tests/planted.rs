//! Does the audit find every fault? A proxy between generator and broker plants 1,000 each of
//! losses, duplicates, swaps and flipped bits in one run, and the report must count exactly that
//! many.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;
#[path = "support/proxy.rs"]
mod proxy;

use program::{Running, Scratch, Server, loadgen};
use proxy::{Planted, Proxy};

const OF_EACH: usize = 1_000;

/// All kinds in turn. The flipped bits are spread over the whole body, including its stamp.
fn plan() -> Vec<Planted> {
    let of_round =
        |round| [Planted::Loss, Planted::Duplicate, Planted::Swap, Planted::BitFlip(round * 7_919)];
    (0..OF_EACH).flat_map(of_round).collect()
}

/// Uses one queue, so that swapped messages of a producer are in the same queue. Runs at full speed
/// until it has sent a number of messages that any machine reaches; the proxy reports if it was not
/// enough.
fn run(header: &str) {
    let server = Server::start();
    let proxy = Proxy::start(server.namesrv, server.broker, plan());
    let out = Scratch::new("planted");
    let mut command = loadgen(&format!(
        "steady --namesrv {} --topic planted --queues 1 --rate max --duration 10s --warmup 0 \
         --message-size 200 --connections 4 --in-flight 16 --header {header} --out {}",
        proxy.namesrv,
        out.shown()
    ));
    let ended = Running::start(&mut command, &out.0).end();
    assert_eq!(proxy.unplanted(), 0, "too few messages were sent for the plan");

    let report = out.report();
    let count = |of: &str| report["audit"][of].as_u64().unwrap() as usize;
    assert_eq!(count("corrupted"), OF_EACH);
    // An acknowledged message that arrives with a flipped bit is lost.
    assert_eq!(count("lost"), 2 * OF_EACH);
    assert_eq!(count("duplicated"), OF_EACH);
    assert_eq!(count("out_of_order"), OF_EACH);
    let received = report["end_to_end"]["received"].as_u64().unwrap() as usize;
    assert_eq!(received, count("acknowledged") - 2 * OF_EACH + count("unknown_present"));
    ended.assert(1, "FAILED  lost 2,000 of ");
}

#[test]
fn every_planted_fault_is_found_in_json() {
    run("json");
}

#[test]
fn every_planted_fault_is_found_in_binary() {
    run("binary");
}
