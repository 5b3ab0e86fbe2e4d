//! The identity of a data directory: its layout, its number of shards, and the seed of their
//! checksums.
//!
//! ```text
//!   broker.json       {"version":2,"shards":4,"seed":…,"checksum":…}
//!   broker.json.copy  the same
//! ```
//!
//! Both are written when the directory is created and never change. If either is lost or damaged,
//! it is restored from the other. Without the seed, entries of the logs cannot be told from foreign
//! bytes, so a directory that has lost both copies is refused and never treated as new.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Version of the directory layout and of the log format; any other is refused.
const LAYOUT_VERSION: u32 = 2;
/// Names of the copies, in order of precedence.
pub const COPIES: [&str; 2] = ["broker.json", "broker.json.copy"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub shards: u16,
    /// Random, drawn when the directory is created: entries of another directory never pass the
    /// checksum here.
    pub seed: u32,
    /// Number of the replica that the directory belongs to; 0 without replicas.
    pub replica: u64,
}

/// A copy as stored in its file.
#[derive(Deserialize, Serialize)]
struct Stored {
    version: u32,
    shards: u16,
    seed: u32,
    /// Left out if it is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    replica: u64,
    /// CRC32C of the preceding fields.
    checksum: u32,
}

/// The field that all layouts share, to tell another layout from damage.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{} has layout {found}, but this release uses layout {LAYOUT_VERSION}, whose log has another \
         format. Start the release that created it, let consumers read the remaining messages, and \
         start this one with an empty --data directory",
        directory.display()
    )]
    Layout { directory: PathBuf, found: u32 },
    #[error(
        "{} has no intact copy of its number of shards and checksum seed, without which its logs \
         cannot be read:\n{}\nTo repair it, restore one of these files from a backup of this \
         directory; the other one is then recreated. A file of another directory does not work",
        directory.display(),
        faults.join("\n")
    )]
    Unusable { directory: PathBuf, faults: Vec<String> },
    #[error(
        "{} and its copy are both intact but differ: one belongs to another directory. To repair \
         it, remove the one that does not belong here",
        path.display()
    )]
    Differ { path: PathBuf },
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The state of one copy.
#[derive(Debug, PartialEq, Eq)]
enum Copy {
    Whole(Manifest),
    Missing,
    /// Written by another release, or damaged.
    OtherLayout(u32),
    Damaged(String),
}

impl Manifest {
    /// Loads the manifest of `directory` and repairs its copies; `None` if the directory has
    /// neither a manifest nor files of a broker. One intact copy is enough, also on a full disk,
    /// where the other one cannot be repaired.
    pub fn load(directory: &Path) -> Result<Option<Self>, ManifestError> {
        let found = COPIES.map(|name| (directory.join(name), Copy::read(&directory.join(name))));
        let mut whole = None;
        for (path, copy) in &found {
            match (copy, whole) {
                (Ok(Copy::Whole(copy)), None) => whole = Some(*copy),
                (Ok(Copy::Whole(copy)), Some(first)) if *copy != first => {
                    return Err(ManifestError::Differ { path: path.clone() });
                }
                _ => {}
            }
        }
        let Some(whole) = whole else { return none_whole(directory, found) };
        for (path, copy) in found {
            if copy.as_ref().is_ok_and(|copy| *copy == Copy::Whole(whole)) {
                continue;
            }
            let fault = fault_of(copy);
            let outcome = match whole.store_as(directory, &path) {
                Ok(()) => "it was repaired from the other copy".to_owned(),
                Err(error) => format!("it cannot be repaired from the other copy: {error}"),
            };
            tracing::warn!("{} {fault}; {outcome}", path.display());
        }
        Ok(Some(whole))
    }

    /// Writes both copies of a new directory.
    pub fn store(self, directory: &Path) -> Result<(), ManifestError> {
        COPIES.iter().try_for_each(|name| {
            let path = directory.join(name);
            self.store_as(directory, &path).map_err(|error| io_error(&path, error))
        })
    }

    /// Atomic: a copy exists as a whole or not at all.
    fn store_as(self, directory: &Path, path: &Path) -> io::Result<()> {
        let temporary = directory.join("broker.json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&self.encoded())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    }

    fn encoded(self) -> Vec<u8> {
        let Self { shards, seed, replica } = self;
        let (version, checksum) = (LAYOUT_VERSION, self.checksum());
        let stored = Stored { version, shards, seed, replica, checksum };
        let mut text = serde_json::to_vec(&stored).expect("a plain struct always encodes");
        text.push(b'\n');
        text
    }

    fn checksum(self) -> u32 {
        let fields = crc32c::crc32c(&LAYOUT_VERSION.to_le_bytes());
        let fields = crc32c::crc32c_append(fields, &self.shards.to_le_bytes());
        let fields = crc32c::crc32c_append(fields, &self.seed.to_le_bytes());
        match self.replica {
            0 => fields,
            replica => crc32c::crc32c_append(fields, &replica.to_le_bytes()),
        }
    }
}

impl Copy {
    fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(Self::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing),
            Err(error) => Err(error),
        }
    }

    /// A copy is intact only if encoding it again gives the same bytes.
    fn parse(bytes: &[u8]) -> Self {
        match serde_json::from_slice(bytes) {
            Ok(Versioned { version: LAYOUT_VERSION }) => {}
            Ok(Versioned { version }) => return Self::OtherLayout(version),
            Err(error) => return Self::Damaged(error.to_string()),
        }
        match serde_json::from_slice(bytes) {
            Ok(Stored { shards, seed, replica, .. }) => {
                let manifest = Manifest { shards, seed, replica };
                match manifest.encoded() == bytes {
                    true => Self::Whole(manifest),
                    false => Self::Damaged("its checksum is wrong".into()),
                }
            }
            Err(error) => Self::Damaged(error.to_string()),
        }
    }
}

fn none_whole(
    directory: &Path,
    copies: [(PathBuf, io::Result<Copy>); COPIES.len()],
) -> Result<Option<Manifest>, ManifestError> {
    let are_missing = copies.iter().all(|(_, copy)| matches!(copy, Ok(Copy::Missing)));
    if are_missing && !has_logs(directory).map_err(|error| io_error(directory, error))? {
        return Ok(None);
    }
    let directory = directory.to_owned();
    let other = copies.iter().find_map(|(_, copy)| match copy {
        Ok(Copy::OtherLayout(version)) => Some(*version),
        _ => None,
    });
    if let Some(found) = other {
        return Err(ManifestError::Layout { directory, found });
    }
    let fault = |(path, copy): (PathBuf, _)| format!("  {} {}", path.display(), fault_of(copy));
    Err(ManifestError::Unusable { directory, faults: copies.map(fault).into() })
}

/// Describes a copy that is not intact.
fn fault_of(copy: io::Result<Copy>) -> String {
    match copy {
        Ok(Copy::Whole(_)) => "is intact".into(),
        Ok(Copy::Missing) => "is missing".into(),
        Ok(Copy::OtherLayout(version)) => format!("claims layout {version}"),
        Ok(Copy::Damaged(why)) => format!("is damaged: {why}"),
        Err(error) => format!("cannot be read: {error}"),
    }
}

/// Whether the directory contains a shard's files.
fn has_logs(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_shard = entry.file_name().to_string_lossy().starts_with("shard-");
        if is_shard && entry.file_type()?.is_dir() && fs::read_dir(entry.path())?.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn io_error(path: &Path, error: io::Error) -> ManifestError {
    ManifestError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: Manifest = Manifest { shards: 3, seed: 0x1234_5678, replica: 0 };

    /// A directory with both copies and a log.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("ringmq-manifest-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("shard-00")).unwrap();
            fs::write(path.join("shard-00").join("00000000000000000000"), "log").unwrap();
            MANIFEST.store(&path).unwrap();
            Self(path)
        }

        fn path(&self, copy: usize) -> PathBuf {
            self.0.join(COPIES[copy])
        }

        fn is_repaired(&self) -> bool {
            let is_whole = |copy: usize| fs::read(self.path(copy)).unwrap() == MANIFEST.encoded();
            is_whole(0) && is_whole(1)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Every kind of damage: each byte changed, each shorter size, one byte more.
    fn damaged() -> Vec<Vec<u8>> {
        let whole = MANIFEST.encoded();
        let mut all: Vec<Vec<u8>> = (0..whole.len()).map(|size| whole[..size].to_vec()).collect();
        for at in 0..whole.len() {
            for bits in [0x01, 0x02, 0x20, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                all.push(bytes);
            }
        }
        all.push([whole, b" ".to_vec()].concat());
        all
    }

    #[test]
    fn one_damaged_copy_is_repaired_from_the_other() {
        let scratch = Scratch::new("repair");
        for copy in 0..COPIES.len() {
            for bytes in damaged() {
                fs::write(scratch.path(copy), &bytes).unwrap();
                let found = Manifest::load(&scratch.0).unwrap();
                assert_eq!(found, Some(MANIFEST), "{:?}", String::from_utf8_lossy(&bytes));
                assert!(scratch.is_repaired(), "{:?}", String::from_utf8_lossy(&bytes));
            }
            fs::remove_file(scratch.path(copy)).unwrap();
            assert_eq!(Manifest::load(&scratch.0).unwrap(), Some(MANIFEST));
            assert!(scratch.is_repaired());
        }
    }

    #[test]
    fn one_intact_copy_is_enough_on_a_full_disk() {
        let scratch = Scratch::new("full");
        std::os::unix::fs::symlink("/dev/full", scratch.0.join("broker.json.new")).unwrap();
        for copy in 0..COPIES.len() {
            let intact = fs::read(scratch.path(copy)).unwrap();
            fs::write(scratch.path(copy), b"damaged").unwrap();
            assert_eq!(Manifest::load(&scratch.0).unwrap(), Some(MANIFEST), "copy {copy}");
            assert!(!scratch.is_repaired(), "nothing can be written");
            fs::write(scratch.path(copy), intact).unwrap();
        }
    }

    #[test]
    fn two_damaged_copies_are_an_error_that_says_how_to_repair_them() {
        let scratch = Scratch::new("lost");
        for bytes in damaged() {
            fs::write(scratch.path(0), &bytes).unwrap();
            fs::write(scratch.path(1), b"").unwrap();
            let error = Manifest::load(&scratch.0).unwrap_err();
            if matches!(error, ManifestError::Layout { .. }) {
                continue;
            }
            let text = error.to_string();
            for part in [COPIES[0], COPIES[1], "is damaged", "backup"] {
                assert!(text.contains(part), "{text} does not say {part:?}");
            }
        }
    }

    /// It would be treated as new, and its logs as garbage.
    #[test]
    fn a_directory_with_logs_and_no_copies_is_not_new() {
        let scratch = Scratch::new("removed");
        for copy in 0..COPIES.len() {
            fs::remove_file(scratch.path(copy)).unwrap();
        }
        let error = Manifest::load(&scratch.0).unwrap_err();
        assert!(error.to_string().contains("broker.json is missing"), "{error}");
        fs::remove_file(scratch.0.join("shard-00").join("00000000000000000000")).unwrap();
        assert_eq!(Manifest::load(&scratch.0).unwrap(), None);
    }

    #[test]
    fn whole_copies_of_different_directories_are_refused() {
        let scratch = Scratch::new("differ");
        let other = Manifest { seed: 1, ..MANIFEST };
        fs::write(scratch.path(1), other.encoded()).unwrap();
        let error = Manifest::load(&scratch.0).unwrap_err();
        assert!(error.to_string().contains("belongs to another directory"), "{error}");
    }

    #[test]
    fn other_layouts_are_refused() {
        let scratch = Scratch::new("layout");
        for (text, found) in [
            (r#"{"version":1,"shards":1,"seed":0}"#, "has layout 1"),
            (r#"{"version":3,"cells":[1]}"#, "has layout 3"),
        ] {
            fs::write(scratch.path(0), text).unwrap();
            let _ = fs::remove_file(scratch.path(1));
            let error = Manifest::load(&scratch.0).unwrap_err();
            assert!(error.to_string().contains(found), "{error}");
        }
    }
}
