//! How the store of a shard is configured.

/// When an append is committed, if this log decides it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// When it is on stable media.
    Sync,
    /// When the device has it; stable media follow within half a second.
    Async,
}

/// Who decides up to where the log is committed, and so acknowledged and readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitRule {
    /// This log alone, by its [`Flush`].
    Local,
    /// Its owner, through [`Store::commit_to`](super::Store::commit_to), because copies of the log on
    /// other machines count as well. After a start nothing behind the newest snapshot is committed
    /// until it says so.
    Driven,
}

/// The epoch of what will be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// That of the newest entry found; 1 in an empty log.
    Found,
    /// What an election gave. A log with a higher one is not opened.
    Given(u32),
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of a segment file, a multiple of the block size.
    pub segment_size: u64,
    /// Written files kept ahead of need. More of them carry a longer flood at full speed.
    pub ready_segments: usize,
    /// The most recent log kept in memory, bytes.
    pub tail_cache_bytes: usize,
    /// Appended and not yet written, bytes; appends beyond wait or are refused.
    pub append_budget_bytes: usize,
    /// Pages of index files kept in memory, bytes.
    pub index_cache_bytes: usize,
    pub flush: Flush,
    pub commit: CommitRule,
    pub epoch: Epoch,
    /// Segments whose messages are all older than this go, milliseconds.
    pub retention_age_ms: u64,
    /// More of the log than this is not kept, bytes.
    pub retention_bytes: u64,
    /// Space that is left free on the file system, bytes.
    pub reserve_bytes: u64,
    /// Of this data directory and shard: what others have written never passes for ours.
    pub checksum_seed: u32,
}
