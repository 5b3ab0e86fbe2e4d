//! One process per data directory.
//!
//! A second broker on the same directory would overwrite the first one's log, and sockets do not
//! prevent it: several processes may listen on one port. The kernel releases the lock when the
//! process ends, however it ends, so a left-over file is harmless.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Name of the lock file in the directory.
const LOCK_NAME: &str = "LOCK";

/// Locks the directory until it is dropped.
#[derive(Debug)]
pub struct LockGuard {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is in use by process {holder}", .directory.display())]
    Held { directory: PathBuf, holder: String },
    #[error("cannot lock {}: {source}", .directory.display())]
    Io { directory: PathBuf, source: io::Error },
}

/// Locks `directory` for this process, or says which process holds the lock.
pub fn lock_directory(directory: &Path) -> Result<LockGuard, LockError> {
    let failed = |source| LockError::Io { directory: directory.into(), source };
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(directory.join(LOCK_NAME)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = holder(&mut file);
            return Err(LockError::Held { directory: directory.into(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // On a full disk the file stays empty. The lock holds all the same.
    let _ = sign(&mut file);
    Ok(LockGuard { _file: file })
}

/// Writes the process id, for the error of a second process.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process id in the lock file; unknown if the holder has not written it yet.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim()) {
        (Ok(_), pid) if !pid.is_empty() => pid.to_string(),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let directory = std::env::temp_dir().join(format!("ringmq-lock-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let guard = lock_directory(&directory).unwrap();
        let error = lock_directory(&directory).unwrap_err().to_string();
        let expected = format!("is in use by process {}", std::process::id());
        assert!(error.ends_with(&expected), "{error}");
        drop(guard);
        drop(lock_directory(&directory).expect("free again"));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_directory_on_a_full_disk_is_locked_too() {
        let directory = std::env::temp_dir().join(format!("ringmq-full-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.join(LOCK_NAME)).unwrap();
        // Another process that runs this test may hold the lock of the device.
        let deadline = Instant::now() + Duration::from_secs(10);
        let guard = loop {
            match lock_directory(&directory) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => {
                    std::thread::yield_now()
                }
                locked => break locked.unwrap(),
            }
        };
        assert!(matches!(lock_directory(&directory), Err(LockError::Held { .. })));
        drop(guard);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let error = lock_directory(Path::new("/nonexistent/data")).unwrap_err();
        assert!(error.to_string().starts_with("cannot lock /nonexistent/data: "), "{error}");
    }
}
