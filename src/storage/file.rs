//! The disk on a real file system: direct I/O through glommio.
//!
//! ```text
//!   FileDisk::open ── probe: may this directory do direct I/O? ──▶ Mode
//!   create, open ──▶ StoredFile: up to two descriptors of one file, open while they are used
//!                      plain   ◀── Written, read, sync
//!                      O_DSYNC ◀── Durable: one submission, on stable media when it returns
//! ```
//!
//! Start reading at [`FileDisk`]. Invariants:
//! - Offset, size and memory of every transfer are whole blocks, asserted only in `whole_blocks`.
//! - Sizes are recorded when a file is created or opened; asking the kernel again by path would be
//!   wrong after a rename.
//! - The number of descriptors is bounded, whatever the number of files (`open_files`). If the
//!   process has none left, a write waits for one instead of failing.
//! - A transfer of another size than requested is an error, except for a read at the end of the
//!   file.
//! - A created file has its space reserved and its size is durable; its name is durable after
//!   `sync_directory`.
//!
//! The contents of a new buffer are undefined, so the caller must fill all of it. Names that begin
//! with a dot are not data; listings omit them.
//!
//! Must run on a glommio executor. Not here: when to write what ([`super`]), checks of the machine
//! before there is an executor (`shard::preflight`).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use glommio::io::OpenOptions;
use nix::errno::Errno;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use crate::reactor::{self, blocking};

use super::disk::{
    BLOCK_SIZE, BlockBuffer, Disk, DiskError, DiskErrorKind, DiskFile, Durability, Space,
};

pub use glommio::io::DmaBuffer;

mod handle;
mod lock;
mod open_files;

use self::handle::{is, plain};
use self::open_files::{KnownFile, OpenFiles, Which, is_out_of_descriptors};

pub use self::handle::Mode;
pub use self::open_files::OPEN_MAX;
pub use lock::{LockError, LockGuard, lock_directory};

/// Assumed space of a file system that does not report it.
const UNCOUNTED_BYTES: u64 = i64::MAX as u64;

/// The file used to probe a directory. Not data.
const PROBE_NAME: &str = ".probe";

#[derive(Clone, Copy, Debug, Default)]
pub struct FileDiskOptions {
    /// Use the page cache if direct I/O is not supported. Slower, and uses memory twice.
    pub allow_buffered: bool,
}

/// One directory of a real file system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    directory: Rc<Path>,
    /// Always open, so that a sync needs no further descriptor.
    opened: Arc<fs::File>,
    mode: Mode,
    files: Rc<OpenFiles>,
    opened_at: Instant,
}

impl FileDisk {
    /// Opens an existing directory, and probes how its file system handles direct I/O.
    ///
    /// Call this before anything else opens a file on this thread.
    pub async fn open(directory: &Path, options: FileDiskOptions) -> Result<Self, DiskError> {
        let faulted = |error| fault("open directory", &directory.to_string_lossy(), 0, error);
        let directory: Rc<Path> = fs::canonicalize(directory).map_err(faulted)?.into();
        let probed = probe(&directory).await;
        let mode = choose(probed, options.allow_buffered).map_err(faulted)?;
        Self::new(directory, mode).map_err(faulted)
    }

    /// Opens an existing directory with the page cache, whatever its file system supports.
    pub fn open_buffered(directory: &Path) -> Result<Self, DiskError> {
        let faulted = |error| fault("open directory", &directory.to_string_lossy(), 0, error);
        let directory = fs::canonicalize(directory).map_err(faulted)?.into();
        Self::new(directory, Mode::Buffered).map_err(faulted)
    }

    fn new(directory: Rc<Path>, mode: Mode) -> io::Result<Self> {
        let opened = Arc::new(fs::File::open(&directory)?);
        let files = OpenFiles::new(directory.clone(), mode);
        Ok(Self { directory, opened, mode, files, opened_at: Instant::now() })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    async fn make(&self, name: &str, size: u64) -> io::Result<StoredFile> {
        // A reservation that does not fit takes all free space before it fails, and blocks other
        // writers for that moment.
        if self.space_now().await?.free_bytes < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(StoredFile(self.files.create(name, size).await?))
    }

    async fn space_now(&self) -> io::Result<Space> {
        let directory = self.directory.to_path_buf();
        let found = blocking(move || Ok(statvfs(&directory)?)).await?;
        if found.blocks() == 0 {
            // Some in-memory file systems do not report it.
            return Ok(Space { free_bytes: UNCOUNTED_BYTES, total_bytes: UNCOUNTED_BYTES });
        }
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok(Space {
            free_bytes: bytes(found.blocks_available()),
            total_bytes: bytes(found.blocks()),
        })
    }
}

impl Disk for FileDisk {
    type Buffer = DmaBuffer;
    type File = StoredFile;

    fn buffer(&self, size: usize) -> DmaBuffer {
        whole_blocks(0, size);
        glommio::allocate_dma_buffer(size)
    }

    fn clock_ns(&self) -> u64 {
        self.opened_at.elapsed().as_nanos() as u64
    }

    async fn list(&self) -> Result<Vec<(String, u64)>, DiskError> {
        let directory = self.directory.to_path_buf();
        let listed = blocking(move || list_files(&directory)).await;
        listed.map_err(|error| fault("list", "", 0, error))
    }

    async fn create(&self, name: &str, size: u64) -> Result<StoredFile, DiskError> {
        whole_blocks(size, 0);
        self.make(name, size).await.map_err(|error| fault("create", name, 0, error))
    }

    async fn open(&self, name: &str) -> Result<StoredFile, DiskError> {
        let path = self.directory.join(name);
        let found = blocking(move || fs::metadata(path)).await;
        let found = found.map_err(|error| fault("open", name, 0, error))?;
        Ok(StoredFile(self.files.known(name, found.len())))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let renamed = self.files.rename(from, to).await;
        renamed.map_err(|error| fault("rename", from, 0, error))
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.files.remove(name).await.map_err(|error| fault("remove", name, 0, error))
    }

    /// A whole fsync, not the fdatasync of glommio's `Directory`: a new name in an old block of the
    /// directory is metadata, which fdatasync may leave out.
    async fn sync_directory(&self) -> Result<(), DiskError> {
        let directory = self.opened.clone();
        let synced = blocking(move || directory.sync_all()).await;
        synced.map_err(|error| fault("sync directory", "", 0, error))
    }

    async fn space(&self) -> Result<Space, DiskError> {
        self.space_now().await.map_err(|error| fault("space", "", 0, error))
    }
}

/// An open file: with up to two descriptors, so that each write can choose when it counts as done,
/// or with none while it is unused.
#[derive(Clone, Debug)]
pub struct StoredFile(Rc<KnownFile>);

impl DiskFile for StoredFile {
    type Buffer = DmaBuffer;

    fn size(&self) -> u64 {
        self.0.size
    }

    async fn write(
        &self,
        offset: u64,
        buffer: Rc<DmaBuffer>,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let wanted = buffer.len();
        whole_blocks(offset, wanted);
        assert!(offset + wanted as u64 <= self.0.size, "writes past the end of {}", self.0.name());
        let which = match durability {
            Durability::Written => Which::Plain,
            Durability::Durable => Which::Durable,
        };
        let failed = |error| fault("write", &self.0.name(), offset, error);
        let handle = self.0.handle_to_write(which).await.map_err(failed)?;
        match reactor::write(handle, buffer, offset).await {
            Ok(done) if done == wanted => Ok(()),
            Ok(done) => Err(self.short("write", offset, done, wanted)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.0.sync().await.map_err(|error| fault("sync", &self.0.name(), 0, error))
    }

    async fn read(&self, offset: u64, size: usize) -> Result<Rc<dyn AsRef<[u8]>>, DiskError> {
        whole_blocks(offset, size);
        let wanted = self.0.size.saturating_sub(offset).min(size as u64) as usize;
        if wanted == 0 {
            return Ok(Rc::new([]));
        }
        let failed = |error| fault("read", &self.0.name(), offset, error);
        let handle = self.0.handle(Which::Plain).await.map_err(failed)?;
        match reactor::read(handle, glommio::allocate_dma_buffer(size), offset).await {
            // A file extended by someone else returns more than requested.
            Ok((bytes, done)) if done >= wanted => Ok(Rc::new(ReadBytes { bytes, size: wanted })),
            Ok((_, done)) => Err(self.short("read", offset, done, wanted)),
            Err(error) => Err(failed(error)),
        }
    }
}

impl StoredFile {
    fn short(&self, operation: &'static str, offset: u64, done: usize, wanted: usize) -> DiskError {
        let kind = DiskErrorKind::Short { done, wanted };
        DiskError { operation, file: self.0.name(), offset, kind }
    }
}

struct ReadBytes {
    bytes: DmaBuffer,
    size: usize,
}

impl AsRef<[u8]> for ReadBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes.as_bytes()[..self.size]
    }
}

impl BlockBuffer for DmaBuffer {
    fn truncate(&mut self, size: usize) {
        whole_blocks(0, size);
        self.trim_to_size(size);
    }
}

/// The one place where alignment is checked: 4096 for offset, size and memory, whatever the device
/// reports, because some report 512 and then refuse it.
#[track_caller]
fn whole_blocks(offset: u64, size: usize) {
    assert!(
        offset.is_multiple_of(BLOCK_SIZE as u64) && size.is_multiple_of(BLOCK_SIZE),
        "{size} bytes at {offset} are not whole blocks"
    );
}

thread_local! {
    /// Devices on which this thread has opened a file of written blocks.
    static PROBED: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
}

/// Opens a file of written blocks before any other on this device and thread.
///
/// glommio reads a block of the first file it opens to learn whether the device can poll. We do not poll, but it
/// reports an error if there is nothing to read.
async fn probe(directory: &Path) -> io::Result<Mode> {
    let in_memory = statfs(directory)?.filesystem_type() == TMPFS_MAGIC;
    let mode = if in_memory { Mode::Memory } else { Mode::Direct };
    let device = fs::metadata(directory)?.dev();
    if PROBED.with_borrow(|probed| probed.contains(&device)) {
        return Ok(mode);
    }
    let path = directory.join(PROBE_NAME);
    write_probe(&path)?;
    let opened =
        reactor::hosted(OpenOptions::new().read(true).dma_open(&path)).await.map_err(plain);
    let closed = match opened {
        Ok(file) => reactor::hosted(file.close()).await.map_err(plain),
        Err(error) => Err(error),
    };
    fs::remove_file(&path)?;
    closed?;
    PROBED.with_borrow_mut(|probed| probed.insert(device));
    Ok(mode)
}

fn write_probe(path: &Path) -> io::Result<()> {
    fs::write(path, [0; BLOCK_SIZE])?;
    fs::File::open(path)?.sync_all()
}

fn list_files(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // A name that is not UTF-8 is not ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if metadata.is_file() && !name.starts_with('.') {
            files.push((name, metadata.len()));
        }
    }
    Ok(files)
}

/// A file system without direct I/O returns "invalid argument" for it.
fn choose(probed: io::Result<Mode>, allow_buffered: bool) -> io::Result<Mode> {
    match probed {
        Err(error) if !is(&error, Errno::EINVAL) => Err(error),
        Err(_) if allow_buffered => Ok(Mode::Buffered),
        Err(_) => Err(io::Error::other(
            "the file system refuses direct I/O (O_DIRECT); use ext4, xfs or btrfs, or allow \
             buffered I/O",
        )),
        Ok(mode) => Ok(mode),
    }
}

fn fault(operation: &'static str, file: &str, offset: u64, error: io::Error) -> DiskError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => DiskErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::NoSpace,
        _ if is_out_of_descriptors(&error) => DiskErrorKind::NoDescriptor,
        _ => DiskErrorKind::Io(error.to_string()),
    };
    DiskError { operation, file: file.into(), offset, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_only_where_direct_is_refused_and_it_is_allowed() {
        let refused = || Err(io::Error::from(Errno::EINVAL));
        assert_eq!(choose(Ok(Mode::Direct), true).unwrap(), Mode::Direct);
        assert_eq!(choose(refused(), true).unwrap(), Mode::Buffered);
        let error = choose(refused(), false).unwrap_err();
        assert!(error.to_string().contains("O_DIRECT"), "{error}");
        let error = choose(Err(io::Error::from(Errno::EACCES)), true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn kernel_errors_become_kinds() {
        let kind = |errno: Errno| fault("write", "log", 8192, io::Error::from(errno)).kind;
        assert_eq!(kind(Errno::ENOENT), DiskErrorKind::NotFound);
        assert_eq!(kind(Errno::ENOSPC), DiskErrorKind::NoSpace);
        assert_eq!(kind(Errno::EDQUOT), DiskErrorKind::NoSpace);
        assert_eq!(kind(Errno::EMFILE), DiskErrorKind::NoDescriptor);
        assert_eq!(kind(Errno::ENFILE), DiskErrorKind::NoDescriptor);
        let error = fault("write", "log", 8192, io::Error::from(Errno::EIO));
        assert_eq!(error.to_string(), "write log at 8192: Input/output error (os error 5)");
    }
}
