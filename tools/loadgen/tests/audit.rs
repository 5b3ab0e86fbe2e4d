//! A million messages through the audit itself: it finds what was planted, in the memory that it
//! promises.

#[path = "support/audit_load.rs"]
mod audit_load;

use audit_load::Load;
use loadgen::engine::spill::{HELD_SIZE_MAX, Spill};

/// Bytes of a chunk, and how many of them a set keeps in any case.
const CHUNK_SIZE: usize = 1 << 10;
const WORKING: usize = 2;

const LOAD: Load =
    Load { messages: 64 * 16_000, producers: 2, groups: 2, planted: 10, gap_every: None };

/// Sets that the audit of this load keeps bits in.
fn set_count(load: &Load) -> usize {
    (load.producers * (1 + load.groups)) as usize
}

#[test]
fn what_is_acknowledged_and_seen_takes_next_to_nothing() {
    let spill = Spill::start(HELD_SIZE_MAX, std::env::temp_dir()).expect("a thread");
    for found in LOAD.carry_out(&spill) {
        assert_eq!(found, LOAD.expected());
    }
    let gaps = LOAD.planted as usize * LOAD.groups as usize;
    let bound = (gaps + WORKING * set_count(&LOAD)) * CHUNK_SIZE;
    let held = spill.held_size_most();
    assert!(held <= bound, "{held} bytes held, {bound} promised");
}

/// Every chunk of every set has a gap, and the sets may hold a fraction of what they take.
#[test]
fn what_has_gaps_is_put_away_and_still_found() {
    let load = Load { gap_every: Some(1_000), planted: 1_000, ..LOAD };
    let held_size_max = 16 << 10;
    let spill = Spill::start(held_size_max, std::env::temp_dir()).expect("a thread");
    for found in load.carry_out(&spill) {
        assert_eq!(found, load.expected());
    }
    assert_eq!((spill.unwritable(), spill.unreadable()), (None, None));
    let bound = held_size_max + WORKING * set_count(&load) * CHUNK_SIZE;
    let all = load.messages as usize / 8 * (1 + load.groups as usize);
    assert!(bound < all / 8, "the bound says nothing");
    let held = spill.held_size_most();
    assert!(held <= bound, "{held} bytes held, {bound} promised");
}

/// With a file that cannot be made the audit is the same, in memory.
#[test]
fn without_a_file_the_audit_is_the_same() {
    let load = Load { gap_every: Some(1_000), messages: LOAD.messages / 4, ..LOAD };
    let spill = Spill::start(0, "/dev/null/none".into()).expect("a thread");
    for found in load.carry_out(&spill) {
        assert_eq!(found, load.expected());
    }
    assert!(spill.unwritable().is_some());
}
