//! Configuration of a shard's store.

/// When an append is committed, with [`CommitRule::Local`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// When it is on stable media.
    Sync,
    /// When the device has it; it is on stable media within half a second.
    Async,
}

/// Who advances the committed watermark, below which entries are acknowledged and readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitRule {
    /// This log alone, by its [`Flush`].
    Local,
    /// The owner, through [`Store::commit_to`](super::Store::commit_to), because replicas of the
    /// log on other machines count too. After a start, nothing after the newest snapshot is
    /// committed until the owner says so.
    Driven,
}

/// The epoch of new entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// That of the newest entry; 1 in an empty log.
    Found,
    /// The result of an election. A log with a higher epoch is not opened.
    Given(u32),
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of a segment file, a multiple of the block size.
    pub segment_size: u64,
    /// Number of prewritten files kept ahead of need. More of them sustain full speed through a
    /// longer flood.
    pub ready_segments: usize,
    /// Memory for the most recent part of the log, bytes.
    pub tail_cache_bytes: usize,
    /// Maximum bytes appended and not yet written; further appends wait or are refused.
    pub append_budget_bytes: usize,
    /// Memory for pages of index files, bytes.
    pub index_cache_bytes: usize,
    pub flush: Flush,
    pub commit: CommitRule,
    pub epoch: Epoch,
    /// Segments whose messages are all older than this are deleted, milliseconds.
    pub retention_age_ms: u64,
    /// Maximum size of the log, bytes.
    pub retention_bytes: u64,
    /// Space to leave free on the file system, bytes.
    pub reserve_bytes: u64,
    /// Seed of this data directory and shard, so that files of others never pass as ours.
    pub checksum_seed: u32,
}
