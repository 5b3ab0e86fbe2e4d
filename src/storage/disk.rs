//! What the storage engine needs from an operating system.

use std::rc::Rc;

/// Offset, size and memory of all disk I/O are multiples of this, bytes. Devices with 512-byte
/// sectors take it, and devices with larger physical blocks need it.
pub const BLOCK_SIZE: usize = 4096;

/// A failed disk operation: what, where, and why. A fault, never a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {file} at {offset}: {kind}")]
pub struct DiskError {
    pub operation: &'static str,
    pub file: String,
    pub offset: u64,
    pub kind: DiskErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskErrorKind {
    #[error("no space left")]
    NoSpace,
    /// The process or the system is out of file descriptors. Never a reason to close a log, because
    /// some become free.
    #[error("out of file descriptors; raise the limit (ulimit -n, LimitNOFILE=)")]
    NoDescriptor,
    #[error("no such file")]
    NotFound,
    #[error("short transfer: {done} of {wanted} bytes")]
    Short { done: usize, wanted: usize },
    /// The simulated machine has lost power; nothing works until it is restarted.
    #[error("power is off")]
    PowerLost,
    #[error("{0}")]
    Io(String),
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is written; survives a crash of the process, but not a power cut.
    Written,
    /// When it is on stable media.
    Durable,
}

/// Memory the device can write from directly. Its content is unspecified: a caller must fill every
/// byte before writing it.
pub trait BlockBuffer: AsRef<[u8]> + AsMut<[u8]> + 'static {
    /// Truncates to `size`, a multiple of [`BLOCK_SIZE`].
    fn truncate(&mut self, size: usize);
}

/// One directory on one device: the files of one shard. A clone is a second handle.
///
/// Two implementations: `storage::file` on direct I/O and `sim::disk`, which can lose power, tear,
/// lose and misdirect writes, fail and fill up. Both pass the same suite, `sim::conformance`.
///
/// Names are plain file names. Creating, renaming and removing are durable only after
/// [`sync_directory`](Disk::sync_directory) returned.
#[allow(async_fn_in_trait)] // Futures stay on the shard that made them and need not be Send.
pub trait Disk: Clone + 'static {
    type Buffer: BlockBuffer;
    type File: DiskFile<Buffer = Self::Buffer>;

    /// A buffer of `size` bytes, a multiple of [`BLOCK_SIZE`].
    fn buffer(&self, size: usize) -> Self::Buffer;

    /// Names and sizes in bytes of all files, in no order.
    async fn list(&self) -> Result<Vec<(String, u64)>, DiskError>;

    /// Makes a new file of `size` bytes with its space reserved; its content reads as zeros.
    async fn create(&self, name: &str, size: u64) -> Result<Self::File, DiskError>;

    async fn open(&self, name: &str) -> Result<Self::File, DiskError>;

    /// Atomically replaces `to` if it exists.
    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    async fn remove(&self, name: &str) -> Result<(), DiskError>;

    async fn sync_directory(&self) -> Result<(), DiskError>;

    /// A monotonic clock for timing operations, nanoseconds.
    fn clock_ns(&self) -> u64;

    /// Free and total bytes of the file system.
    async fn space(&self) -> Result<Space, DiskError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// An open file. Dropping it closes it in the background; a clone is a second handle.
#[allow(async_fn_in_trait)]
pub trait DiskFile: Clone + 'static {
    type Buffer: BlockBuffer;

    /// Size when it was opened or created, bytes.
    fn size(&self) -> u64;

    /// Writes all of `buffer` at `offset`. The future must be driven to completion, because a
    /// submitted write takes effect even if nothing waits for it. A short write is an error.
    async fn write(
        &self,
        offset: u64,
        buffer: Rc<Self::Buffer>,
        durability: Durability,
    ) -> Result<(), DiskError>;

    /// Makes durable all writes that returned before this call.
    async fn sync(&self) -> Result<(), DiskError>;

    /// Reads `size` bytes; short only at the end of the file. The memory is shared, not copied.
    async fn read(&self, offset: u64, size: usize) -> Result<Rc<dyn AsRef<[u8]>>, DiskError>;
}
