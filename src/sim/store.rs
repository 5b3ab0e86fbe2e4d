//! A small log for simulations.

use crate::storage::{CommitRule, Epoch, Flush, StoreConfig};

/// Segments and budgets of a few dozen small messages, so that a short run fills them. Nothing is
/// deleted. A simulation that is about one of the values sets that one.
pub fn small_store() -> StoreConfig {
    StoreConfig {
        segment_size: 64 << 10,
        ready_segments: 1,
        tail_cache_bytes: 8 << 10,
        append_budget_bytes: 32 << 10,
        index_cache_bytes: 64 << 10,
        flush: Flush::Sync,
        commit: CommitRule::Local,
        epoch: Epoch::Found,
        retention_age_ms: u64::MAX,
        retention_bytes: u64::MAX,
        reserve_bytes: 0,
        checksum_seed: 7,
    }
}
