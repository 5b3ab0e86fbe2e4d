//! One descriptor of a file, with direct I/O or through the page cache.

use std::io;
use std::path::Path;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaBuffer, DmaFile, OpenOptions, ReadResult};
use nix::errno::Errno;

/// The I/O mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Direct I/O.
    Direct,
    /// Through the page cache, because the file system does not support direct I/O.
    Buffered,
    /// A file system in memory: nothing survives a reboot.
    Memory,
}

/// One descriptor, in either mode.
#[derive(Debug)]
pub enum Handle {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

impl Handle {
    pub async fn open(mode: Mode, path: &Path, options: &OpenOptions) -> io::Result<Self> {
        match mode {
            Mode::Direct | Mode::Memory => {
                Ok(Self::Direct(options.dma_open(path).await.map_err(plain)?))
            }
            Mode::Buffered => Ok(Self::Buffered(options.buffered_open(path).await.map_err(plain)?)),
        }
    }

    /// Closes it now; a dropped handle is closed some time later.
    pub async fn close(self) -> io::Result<()> {
        let closed = match self {
            Self::Direct(file) => file.close().await,
            Self::Buffered(file) => file.close().await,
        };
        closed.map_err(plain)
    }

    pub async fn write(&self, offset: u64, buffer: Rc<DmaBuffer>) -> io::Result<usize> {
        let done = match self {
            Self::Direct(file) => file.write_rc_at(buffer, offset).await,
            Self::Buffered(file) => file.write_at(buffer.as_bytes().to_vec(), offset).await,
        };
        done.map_err(plain)
    }

    /// Never `DmaFile::read_at`: near the end of a file it returns bytes that are not there.
    pub async fn read(&self, offset: u64, size: usize) -> io::Result<ReadResult> {
        let found = match self {
            Self::Direct(file) => file.read_at_aligned(offset, size).await,
            Self::Buffered(file) => file.read_at(offset, size).await,
        };
        found.map_err(plain)
    }

    pub async fn sync(&self) -> io::Result<()> {
        let synced = match self {
            Self::Direct(file) => file.fdatasync().await,
            Self::Buffered(file) => file.fdatasync().await,
        };
        synced.map_err(plain)
    }

    /// Reserves space and sets the size; if the file system cannot reserve, only sets the size.
    pub async fn reserve(&self, size: u64) -> io::Result<()> {
        let reserved = match self {
            Self::Direct(file) => file.pre_allocate(size, false).await,
            Self::Buffered(file) => file.pre_allocate(size, false).await,
        };
        match reserved.map_err(plain) {
            Err(error) if is(&error, Errno::EOPNOTSUPP) => {}
            outcome => return outcome,
        }
        let extended = match self {
            Self::Direct(file) => file.truncate(size).await,
            Self::Buffered(file) => file.truncate(size).await,
        };
        extended.map_err(plain)
    }
}

pub fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

pub fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// The kernel's error, unwrapped from glommio's.
pub fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}
