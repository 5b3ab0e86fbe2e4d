//! What can go wrong on a simulated disk, and when.

use crate::storage::disk::DiskErrorKind;

/// A kind of disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    List,
    Create,
    Open,
    Rename,
    Remove,
    SyncDirectory,
    Space,
    Write,
    Sync,
    Read,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Create => "create",
            Self::Open => "open",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDirectory => "sync directory",
            Self::Space => "space",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Read => "read",
        }
    }
}

/// Which operation a fault strikes.
#[derive(Clone, Debug)]
pub struct On {
    pub operation: Operation,
    /// The file's name starts with this; empty for any file.
    pub name_start: &'static str,
    /// How many matching operations pass first; 0 strikes the next one.
    pub skip: u64,
}

impl On {
    /// The next operation of this kind after `skip` others, on any file.
    pub fn nth(operation: Operation, skip: u64) -> Self {
        Self { operation, name_start: "", skip }
    }

    pub(super) fn matches(&self, operation: Operation, name: &str) -> bool {
        self.operation == operation && name.starts_with(self.name_start)
    }
}

#[derive(Clone, Debug)]
pub enum Fault {
    /// The operation fails. Of a failed write any blocks may have landed. After a failed sync, the
    /// writes it covered never become durable, even if a later sync succeeds: kernels mark pages
    /// that they could not write as clean.
    Fails(DiskErrorKind),
    /// A write or read transfers this many bytes, then fails.
    Short(usize),
    /// A write or sync is acknowledged without effect.
    Lost,
    /// A write is acknowledged, but lands on another block of any file.
    Misdirected,
    /// The operation takes this many turns longer.
    Slow(u32),
    /// The machine loses power during this operation.
    PowerLoss,
}

impl Fault {
    pub fn io_error() -> Self {
        Self::Fails(DiskErrorKind::Io("injected".into()))
    }
}
