//! One descriptor of a file, with direct I/O or through the page cache.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use nix::errno::Errno;

use crate::reactor;

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
                let opened = reactor::hosted(options.dma_open(path)).await;
                Ok(Self::Direct(opened.map_err(plain)?))
            }
            Mode::Buffered => {
                let opened = reactor::hosted(options.buffered_open(path)).await;
                Ok(Self::Buffered(opened.map_err(plain)?))
            }
        }
    }

    /// Closes it now; a dropped handle is closed some time later.
    pub async fn close(self) -> io::Result<()> {
        let closed = match self {
            Self::Direct(file) => reactor::hosted(file.close()).await,
            Self::Buffered(file) => reactor::hosted(file.close()).await,
        };
        closed.map_err(plain)
    }

    /// Reserves space and sets the size; if the file system cannot reserve, only sets the size.
    pub async fn reserve(&self, size: u64) -> io::Result<()> {
        let reserved = match self {
            Self::Direct(file) => reactor::hosted(file.pre_allocate(size, false)).await,
            Self::Buffered(file) => reactor::hosted(file.pre_allocate(size, false)).await,
        };
        match reserved.map_err(plain) {
            Err(error) if is(&error, Errno::EOPNOTSUPP) => {}
            outcome => return outcome,
        }
        let extended = match self {
            Self::Direct(file) => reactor::hosted(file.truncate(size)).await,
            Self::Buffered(file) => reactor::hosted(file.truncate(size)).await,
        };
        extended.map_err(plain)
    }
}

impl reactor::TransferFile for Handle {}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Direct(file) => file.as_raw_fd(),
            Self::Buffered(file) => file.as_raw_fd(),
        }
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
