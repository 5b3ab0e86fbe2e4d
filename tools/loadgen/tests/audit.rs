//! The audit on its own, with a million messages: it finds all planted faults.

#[path = "support/audit_load.rs"]
mod audit_load;

use audit_load::Load;

const LOAD: Load =
    Load { messages: 64 * 16_000, producers: 2, groups: 2, planted: 1_000, gap_every: None };

#[test]
fn planted_losses_and_duplicates_are_found() {
    for found in LOAD.carry_out() {
        assert_eq!(found, LOAD.expected());
    }
}

/// Every chunk of every set has a gap.
#[test]
fn they_are_found_among_unanswered_messages() {
    let load = Load { gap_every: Some(1_000), ..LOAD };
    for found in load.carry_out() {
        assert_eq!(found, load.expected());
    }
}
