//! The data directory of a broker: whose it is, how many shards it has, and that nobody else uses it.
//!
//! ```text
//!   LOCK         held while a broker runs
//!   broker.json  layout version, shard count, and the seed of every checksum in here
//!   shard-00/    the files of one shard (docs/format.md)
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::file::{LockError, LockGuard, lock_directory};

/// Layout of the directory; another one is refused.
const LAYOUT_VERSION: u32 = 1;
const MANIFEST: &str = "broker.json";

/// A data directory that is locked for this process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    manifest: Manifest,
    _lock: LockGuard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    shards: u16,
    /// Drawn when the directory was made: entries of another directory never validate here.
    seed: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{}: {why}", path.display())]
    Manifest { path: PathBuf, why: String },
    #[error(
        "{} was made for {has} shards and cannot run with {wanted}: queues belong to shards. \
         Start with --shards {has}, or with another --data directory",
        path.display()
    )]
    ShardCount { path: PathBuf, has: u16, wanted: u16 },
}

impl DataDirectory {
    /// Locks the directory at `path`, and makes it when it is not there: with `wanted` shards, or
    /// with `default` when that is left open.
    pub fn open(path: &Path, wanted: Option<u16>, default: u16) -> Result<Self, DataError> {
        let io_error = |error| DataError::Io { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(io_error)?;
        let lock = lock_directory(path)?;
        let file = path.join(MANIFEST);
        let manifest = match fs::read(&file) {
            Ok(bytes) => Manifest::parse(&file, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let shards = wanted.unwrap_or(default);
                let seed = draw_seed().map_err(io_error)?;
                let manifest = Manifest { version: LAYOUT_VERSION, shards, seed };
                manifest.store(path).map_err(io_error)?;
                manifest
            }
            Err(error) => return Err(DataError::Io { path: file, error }),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != manifest.shards) {
            let (path, has) = (path.to_owned(), manifest.shards);
            return Err(DataError::ShardCount { path, has, wanted });
        }
        let directory = Self { path: path.to_owned(), manifest, _lock: lock };
        for shard in 0..manifest.shards {
            fs::create_dir_all(directory.shard_path(shard)).map_err(io_error)?;
        }
        File::open(path).and_then(|path| path.sync_all()).map_err(io_error)?;
        Ok(directory)
    }

    pub fn shard_count(&self) -> u16 {
        self.manifest.shards
    }

    pub fn shard_path(&self, shard: u16) -> PathBuf {
        self.path.join(format!("shard-{shard:02}"))
    }

    /// Seed of the checksums of one shard: neither another directory's entries validate, nor those
    /// of another shard.
    pub fn checksum_seed(&self, shard: u16) -> u32 {
        crc32c::crc32c_append(self.manifest.seed, &shard.to_le_bytes())
    }
}

impl Manifest {
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let refuse = |why: String| DataError::Manifest { path: path.to_owned(), why };
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if manifest.version != LAYOUT_VERSION {
            let version = manifest.version;
            return Err(refuse(format!(
                "layout version {version} is not {LAYOUT_VERSION}; use the release that made it"
            )));
        }
        Ok(manifest)
    }

    fn store(self, directory: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self).expect("a plain struct always encodes");
        let temporary = directory.join("broker.json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(MANIFEST))?;
        File::open(directory)?.sync_all()
    }
}

fn draw_seed() -> io::Result<u32> {
    let mut seed = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(u32::from_le_bytes(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ringmq-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_directory_keeps_its_shard_count_and_its_seed() {
        let path = scratch("data");
        let made = DataDirectory::open(&path, None, 3).unwrap();
        let seed = made.checksum_seed(1);
        assert_ne!(seed, made.checksum_seed(2));
        drop(made);
        let error = DataDirectory::open(&path, Some(2), 3).unwrap_err();
        assert!(error.to_string().contains("--shards 3"), "{error}");
        let again = DataDirectory::open(&path, None, 8).unwrap();
        assert_eq!((again.shard_count(), again.checksum_seed(1)), (3, seed));
        drop(again);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn two_brokers_cannot_share_a_directory() {
        let path = scratch("lock");
        let first = DataDirectory::open(&path, None, 1).unwrap();
        assert!(matches!(DataDirectory::open(&path, None, 1), Err(DataError::Lock(_))));
        drop(first);
        assert!(DataDirectory::open(&path, None, 1).is_ok());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let path = scratch("layout");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(MANIFEST), r#"{"version":2,"shards":1,"seed":0}"#).unwrap();
        let error = DataDirectory::open(&path, None, 1).unwrap_err();
        assert!(error.to_string().contains("layout version 2"), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }
}
