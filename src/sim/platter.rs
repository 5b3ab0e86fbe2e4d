//! The contents of the simulated medium: files, names, and how much of each a power cut keeps.
//!
//! Every file is a sparse map of blocks in two layers: `durable`, and per block the `volatile`
//! versions written since, oldest first. A sync moves versions down; a power cut keeps any of them.
//! Names are durable, current, and the list of changes between the two.
//!
//! No futures here: [`super::disk`] decides when an operation takes effect, this file what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::rng::Rng;
use crate::storage::disk::BLOCK_SIZE;

/// What a device writes in one piece; a power cut can fall between two of them.
pub const SECTOR_SIZE: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u64);

type Block = Rc<[u8]>;

#[derive(Clone, Default)]
pub struct Platter {
    files: BTreeMap<FileId, Content>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    /// What happened to `durable_names` since the last directory sync, oldest first.
    name_changes: Vec<NameChange>,
    files_made: u64,
    /// Orders writes: every write gets the next number when it takes effect.
    writes_made: u64,
}

#[derive(Clone, Default)]
struct Content {
    size: u64,
    durable: BTreeMap<u64, Block>,
    volatile: BTreeMap<u64, Vec<Version>>,
    /// Blocks that cannot be read.
    unreadable: BTreeSet<u64>,
    /// Held by open handles, so that a removed file lives as long as it is in use.
    handles: Rc<()>,
}

#[derive(Clone)]
struct Version {
    write: u64,
    /// A sync of it failed, so no later sync makes it durable.
    abandoned: bool,
    bytes: Block,
}

#[derive(Clone)]
pub enum NameChange {
    Create { name: String, file: FileId },
    Rename { to: String, file: FileId },
    Remove { file: FileId },
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Rename { to, file } => {
                names.retain(|_, named| named != file);
                names.insert(to.clone(), *file);
            }
            Self::Remove { file } => names.retain(|_, named| named != file),
        }
    }
}

impl Platter {
    pub fn find(&self, name: &str) -> Option<FileId> {
        self.names.get(name).copied()
    }

    pub fn listing(&self) -> Vec<(String, u64)> {
        self.names.iter().map(|(name, file)| (name.clone(), self.files[file].size)).collect()
    }

    pub fn used_bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[file].size).sum()
    }

    pub fn size(&self, file: FileId) -> u64 {
        self.files[&file].size
    }

    pub fn handle(&self, file: FileId) -> Rc<()> {
        self.files[&file].handles.clone()
    }

    pub fn create(&mut self, name: &str, size: u64) -> FileId {
        self.files_made += 1;
        let file = FileId(self.files_made);
        self.files.insert(file, Content { size, ..Content::default() });
        self.change_names(NameChange::Create { name: name.into(), file });
        file
    }

    pub fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    pub fn sync_names(&mut self) {
        self.name_changes.clear();
        self.durable_names = self.names.clone();
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        self.files
            .retain(|file, content| named.contains(file) || Rc::strong_count(&content.handles) > 1);
    }

    /// Bytes in the device's volatile cache, which a flush has to write to the medium.
    pub fn volatile_bytes(&self) -> u64 {
        let blocks: usize = self.files.values().map(|content| content.volatile.len()).sum();
        (blocks * BLOCK_SIZE) as u64
    }

    /// The number of the newest write that has taken effect.
    pub fn newest_write(&self) -> u64 {
        self.writes_made
    }

    /// Writes whole blocks to the device's volatile cache.
    pub fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        for (index, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
            self.write_block(file, offset / BLOCK_SIZE as u64 + index as u64, block);
        }
    }

    fn write_block(&mut self, file: FileId, block: u64, bytes: &[u8]) {
        self.writes_made += 1;
        let mut whole = [0; BLOCK_SIZE];
        let Some(content) = self.files.get_mut(&file) else { return };
        if bytes.len() < BLOCK_SIZE {
            whole.copy_from_slice(content.newest(block));
        }
        whole[..bytes.len()].copy_from_slice(bytes);
        content.unreadable.remove(&block);
        let version =
            Version { write: self.writes_made, abandoned: false, bytes: Rc::from(&whole[..]) };
        content.volatile.entry(block).or_default().push(version);
    }

    /// Writes whole blocks to the medium itself.
    pub fn write_durably(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        let Some(content) = self.files.get_mut(&file) else { return };
        for (index, bytes) in bytes.chunks(BLOCK_SIZE).enumerate() {
            let block = offset / BLOCK_SIZE as u64 + index as u64;
            content.volatile.remove(&block);
            content.unreadable.remove(&block);
            content.durable.insert(block, Rc::from(bytes));
        }
    }

    /// Makes all writes up to and including `newest` durable.
    pub fn sync(&mut self, file: FileId, newest: u64) {
        let Some(content) = self.files.get_mut(&file) else { return };
        for (block, versions) in &mut content.volatile {
            let synced = versions.iter().rposition(|v| v.write <= newest && !v.abandoned);
            if let Some(index) = synced {
                content.durable.insert(*block, versions[index].bytes.clone());
                versions.drain(..=index);
            }
        }
        content.volatile.retain(|_, versions| !versions.is_empty());
    }

    /// A sync failed: the writes it covered are kept until power is lost, but never become durable.
    pub fn abandon(&mut self, file: FileId, newest: u64) {
        let Some(content) = self.files.get_mut(&file) else { return };
        let versions = content.volatile.values_mut().flatten();
        versions.filter(|v| v.write <= newest).for_each(|v| v.abandoned = true);
    }

    /// What a read returns now; `Err` holds the offset of a block that cannot be read.
    pub fn read(&self, file: FileId, offset: u64, size: usize) -> Result<Vec<u8>, u64> {
        let content = &self.files[&file];
        let end = content.size.min(offset.saturating_add(size as u64));
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_SIZE as u64;
            if content.unreadable.contains(&block) {
                return Err(at);
            }
            let wanted = (end - at).min(BLOCK_SIZE as u64) as usize;
            bytes.extend_from_slice(&content.newest(block)[..wanted]);
            at += BLOCK_SIZE as u64;
        }
        Ok(bytes)
    }

    pub fn make_unreadable(&mut self, file: FileId, offset: u64) {
        if let Some(content) = self.files.get_mut(&file) {
            content.unreadable.insert(offset / BLOCK_SIZE as u64);
        }
    }

    /// Truncates or extends a file silently.
    pub fn resize(&mut self, file: FileId, size: u64) {
        let Some(content) = self.files.get_mut(&file) else { return };
        content.size = size;
        let blocks = size.div_ceil(BLOCK_SIZE as u64);
        content.durable.retain(|block, _| *block < blocks);
        content.volatile.retain(|block, _| *block < blocks);
    }

    /// Files with their sizes, as places where a misdirected write can land.
    pub fn places(&self) -> Vec<(FileId, u64)> {
        let sizes = self.names.values().map(|file| (*file, self.files[file].size));
        sizes.filter(|(_, size)| *size > 0).collect()
    }

    /// What is left after a power cut: everything durable, any of the volatile versions, also torn
    /// between sectors, and any of the name changes.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let mut names = self.durable_names.clone();
        for change in &self.name_changes {
            if rng.coin() {
                change.apply(&mut names);
            }
        }
        let survival = Survival::draw(rng);
        let mut left = Self { names: names.clone(), durable_names: names, ..Self::default() };
        left.files_made = self.files_made;
        for file in left.names.values() {
            let content = self.files[file].after_power_loss(survival, rng);
            left.files.insert(*file, content);
        }
        left
    }

    /// What is left after the process is killed: everything, still volatile, without handles.
    pub fn after_kill(&self) -> Self {
        let mut left = self.clone();
        for content in left.files.values_mut() {
            content.handles = Rc::default();
        }
        left
    }
}

impl Content {
    fn newest(&self, block: u64) -> &[u8] {
        let version = self.volatile.get(&block).and_then(|versions| versions.last());
        version.map_or_else(|| self.on_medium(block), |version| &version.bytes)
    }

    fn on_medium(&self, block: u64) -> &[u8] {
        const ZEROS: &[u8] = &[0; BLOCK_SIZE];
        self.durable.get(&block).map_or(ZEROS, |bytes| bytes)
    }

    fn after_power_loss(&self, survival: Survival, rng: &mut Rng) -> Self {
        let mut durable = self.durable.clone();
        for (block, versions) in &self.volatile {
            let mut bytes = self.on_medium(*block).to_vec();
            for version in versions {
                survival.land(&mut bytes, &version.bytes, rng);
            }
            durable.insert(*block, bytes.into());
        }
        let unreadable = self.unreadable.clone();
        Self { size: self.size, durable, unreadable, ..Self::default() }
    }
}

/// How much unsynced data a power cut keeps. Drawn once per cut, because cuts that keep nearly all
/// or nearly nothing find other bugs than those that keep half.
#[derive(Clone, Copy)]
struct Survival {
    kept_of_8: u64,
    torn_of_8: u64,
}

impl Survival {
    fn draw(rng: &mut Rng) -> Self {
        Self { kept_of_8: *rng.pick(&[0, 1, 4, 7, 8]), torn_of_8: *rng.pick(&[0, 1, 4]) }
    }

    fn land(self, medium: &mut [u8], written: &[u8], rng: &mut Rng) {
        if rng.chance(self.torn_of_8, 8) {
            for (old, new) in medium.chunks_mut(SECTOR_SIZE).zip(written.chunks(SECTOR_SIZE)) {
                if rng.coin() {
                    old.copy_from_slice(new);
                }
            }
        } else if rng.chance(self.kept_of_8, 8) {
            medium.copy_from_slice(written);
        }
    }
}
