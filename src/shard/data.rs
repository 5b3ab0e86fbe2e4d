//! The data directory of a broker: its identity, its number of shards, and its lock.
//!
//! ```text
//!   LOCK                            held while a broker runs
//!   broker.json, broker.json.copy   layout, shard count, and the seed of every checksum in here
//!   shard-00/                       the files of one shard (docs/format.md)
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, ManifestError};
use crate::storage::file::{LockError, LockGuard, lock_directory};

/// A data directory that is locked for this process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    manifest: Manifest,
    _lock: LockGuard,
}

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(
        "{} was created with {has} shards and cannot run with {wanted}, because queues belong to \
         shards. Start with --shards {has}, or with another --data directory",
        path.display()
    )]
    ShardCount { path: PathBuf, has: u16, wanted: u16 },
    #[error(
        "{} is missing, and with it the log of that shard: is a file system not mounted? To continue \
         without its messages, create the directory",
        path.display()
    )]
    ShardMissing { path: PathBuf },
    #[error(
        "{} belongs to a broker without replicas. Replicas begin with empty directories: start with \
         another --data directory, or without --replicas",
        path.display()
    )]
    NotReplicated { path: PathBuf },
    #[error(
        "{} belongs to replica {has} of a broker. Alone it could contradict the others: start it \
         with its --replicas and --replica {has}",
        path.display()
    )]
    Replicated { path: PathBuf, has: u64 },
    #[error(
        "{} belongs to replica {has} and cannot run as replica {wanted}: the others would count it \
         twice. Start with --replica {has}, or with another --data directory",
        path.display()
    )]
    OtherReplica { path: PathBuf, has: u64, wanted: u64 },
    #[error(
        "{} does not belong to the broker {wanted}: cluster and name must be those that it was \
         created with",
        path.display()
    )]
    OtherSet { path: PathBuf, wanted: String },
}

/// Which replica of which broker a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetIdentity {
    /// Cluster and broker name: what the replicas have in common, and no other broker has.
    pub set: String,
    /// Number of the replica.
    pub replica: u64,
}

impl SetIdentity {
    /// Replicas have the same bytes in their logs, so they have the same seed.
    fn seed(&self) -> u32 {
        crc32c::crc32c(self.set.as_bytes())
    }
}

/// Refuses a directory of another replica, of another set, or of a broker without replicas.
fn check_identity(
    path: &Path,
    manifest: Manifest,
    identity: Option<&SetIdentity>,
) -> Result<(), DataError> {
    let path = path.to_owned();
    match (manifest.replica, identity) {
        (0, None) => Ok(()),
        (0, Some(_)) => Err(DataError::NotReplicated { path }),
        (has, None) => Err(DataError::Replicated { path, has }),
        (has, Some(SetIdentity { replica, .. })) if has != *replica => {
            Err(DataError::OtherReplica { path, has, wanted: *replica })
        }
        (_, Some(identity)) if manifest.seed != identity.seed() => {
            Err(DataError::OtherSet { path, wanted: identity.set.clone() })
        }
        _ => Ok(()),
    }
}

impl DataDirectory {
    /// Locks the directory at `path`, creating it if necessary: with `wanted` shards or, if that is
    /// not given, with `default`.
    pub fn open(
        path: &Path,
        wanted: Option<u16>,
        default: u16,
        identity: Option<SetIdentity>,
    ) -> Result<Self, DataError> {
        let io_error = |error| DataError::Io { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(io_error)?;
        let lock = lock_directory(path)?;
        let manifest = match Manifest::load(path)? {
            Some(manifest) => manifest,
            None => make(path, wanted.unwrap_or(default), identity.as_ref())?,
        };
        check_identity(path, manifest, identity.as_ref())?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != manifest.shards) {
            let (path, has) = (path.to_owned(), manifest.shards);
            return Err(DataError::ShardCount { path, has, wanted });
        }
        let directory = Self { path: path.to_owned(), manifest, _lock: lock };
        for shard in 0..manifest.shards {
            let path = directory.shard_path(shard);
            if !path.is_dir() {
                return Err(DataError::ShardMissing { path });
            }
        }
        Ok(directory)
    }

    pub fn shard_count(&self) -> u16 {
        self.manifest.shards
    }

    pub fn shard_path(&self, shard: u16) -> PathBuf {
        shard_path(&self.path, shard)
    }

    /// Checksum seed of one shard: entries of another directory or of another shard never pass the
    /// checksum.
    pub fn checksum_seed(&self, shard: u16) -> u32 {
        crc32c::crc32c_append(self.manifest.seed, &shard.to_le_bytes())
    }
}

/// Creates the shards' directories, and then the manifest.
fn make(path: &Path, shards: u16, identity: Option<&SetIdentity>) -> Result<Manifest, DataError> {
    let io_error = |error| DataError::Io { path: path.to_owned(), error };
    for shard in 0..shards {
        fs::create_dir_all(shard_path(path, shard)).map_err(io_error)?;
    }
    File::open(path).and_then(|path| path.sync_all()).map_err(io_error)?;
    let manifest = match identity {
        None => Manifest { shards, seed: draw_seed().map_err(io_error)?, replica: 0 },
        Some(identity) => Manifest { shards, seed: identity.seed(), replica: identity.replica },
    };
    manifest.store(path)?;
    Ok(manifest)
}

fn shard_path(directory: &Path, shard: u16) -> PathBuf {
    directory.join(format!("shard-{shard:02}"))
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
        let made = DataDirectory::open(&path, None, 3, None).unwrap();
        let seed = made.checksum_seed(1);
        assert_ne!(seed, made.checksum_seed(2));
        drop(made);
        let error = DataDirectory::open(&path, Some(2), 3, None).unwrap_err();
        assert!(error.to_string().contains("--shards 3"), "{error}");
        let again = DataDirectory::open(&path, None, 8, None).unwrap();
        assert_eq!((again.shard_count(), again.checksum_seed(1)), (3, seed));
        drop(again);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn two_brokers_cannot_share_a_directory() {
        let path = scratch("lock");
        let first = DataDirectory::open(&path, None, 1, None).unwrap();
        assert!(matches!(DataDirectory::open(&path, None, 1, None), Err(DataError::Lock(_))));
        drop(first);
        assert!(DataDirectory::open(&path, None, 1, None).is_ok());
        fs::remove_dir_all(&path).unwrap();
    }

    /// Otherwise an unmounted file system would look like an empty log.
    #[test]
    fn a_shard_without_its_directory_is_refused() {
        let path = scratch("unmounted");
        drop(DataDirectory::open(&path, None, 2, None).unwrap());
        fs::remove_dir(path.join("shard-01")).unwrap();
        let error = DataDirectory::open(&path, None, 2, None).unwrap_err();
        assert!(error.to_string().contains("shard-01 is missing"), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }
}
