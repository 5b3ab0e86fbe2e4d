//! A file that takes nearly all space of a file system. Only for a mounted image, where nothing
//! else needs the space.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use crate::target::device::mount_of;

const NAME: &str = "loadgen-filler";
/// Size of one write where space cannot be reserved, bytes.
const PIECE_SIZE: usize = 1 << 20;

/// On drop, the file is removed and its space is free again.
#[derive(Debug)]
pub struct Filler {
    path: PathBuf,
}

impl Filler {
    /// Fills the file system of the directory `data` up to the share `to` of its size. Refuses a
    /// file system that others use, unless it exists only for this run (`is_own`).
    pub fn fill(data: &Path, to: f64, is_own: bool) -> io::Result<Self> {
        let mount = mount_of(data)?;
        if !is_own && !mount.is_loop() {
            let (point, kind) = (mount.point.display(), &mount.kind);
            let why = format!("{point} ({kind}) is not a file system of its own: use --disk-image");
            return Err(io::Error::other(why));
        }
        let system = statvfs(data)?;
        let block = system.fragment_size();
        let missing = size_of_filler(system.blocks(), system.blocks_available(), to) * block;
        let filler = Self { path: beside(data)?.join(NAME) };
        // An error drops the filler, which removes what was written.
        reserve(&mut File::create(&filler.path)?, missing)?;
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Blocks to take so that the share `to` of all `blocks` is unavailable.
fn size_of_filler(blocks: u64, available: u64, to: f64) -> u64 {
    let left = (blocks as f64 * (1.0 - to.clamp(0.0, 1.0))) as u64;
    available.saturating_sub(left)
}

/// The parent of the broker's directory `data`, if it is on the same file system.
fn beside(data: &Path) -> io::Result<PathBuf> {
    let data = data.canonicalize()?;
    let above = data.parent().unwrap_or(&data);
    let is_same = fs::metadata(above)?.dev() == fs::metadata(&data)?.dev();
    Ok(if is_same { above.to_owned() } else { data })
}

fn reserve(file: &mut File, size: u64) -> io::Result<()> {
    match fallocate(&*file, FallocateFlags::empty(), 0, size.max(1) as i64) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP) => {
            let piece = vec![0; PIECE_SIZE];
            for _ in 0..size.div_ceil(PIECE_SIZE as u64) {
                file.write_all(&piece)?;
            }
            file.sync_all()
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filler_takes_what_is_missing_and_no_more() {
        let rows = [
            // blocks, available, up to, takes
            (1_000, 1_000, 0.95, 950),
            (1_000, 300, 0.95, 250),
            (1_000, 50, 0.95, 0),
            (1_000, 10, 0.95, 0),
            (1_000, 300, 1.0, 300),
            (1_000, 300, 7.0, 300),
        ];
        for (blocks, available, to, takes) in rows {
            let found = size_of_filler(blocks, available, to);
            assert!(found.abs_diff(takes) <= 1, "{available} of {blocks} to {to}: {found}");
        }
    }

    /// The file systems of `/proc` and of temporary files are shared with the whole machine.
    #[test]
    fn a_shared_file_system_is_not_filled() {
        let error = Filler::fill(Path::new("/proc"), 0.95, false).unwrap_err();
        assert!(error.to_string().contains("--disk-image"), "{error}");
    }
}
