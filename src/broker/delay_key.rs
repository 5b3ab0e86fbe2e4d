//! The order in which delayed messages are delivered.

/// The place of a delayed message in the order of delivery: by due time, then by arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub due_ms: u64,
    /// Its queue offset in the bucket of `due_ms`.
    pub offset: u64,
}
