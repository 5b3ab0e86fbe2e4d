//! A disk in memory that can lose power, tear, lose and misdirect writes, fail, fill up and be
//! slow.
//!
//! ```text
//!   operation:  begin ──▶ wait some turns ──▶ take effect ──▶ return
//!               (a step)   (in flight)         (platter)
//! ```
//!
//! An operation is a step. Its fault is decided when it begins, and it takes effect when it ends.
//! With [`slow`](SimDisk::slow) several are in flight at once and end in a seeded order. A power
//! cut can fall anywhere: any part of what was in flight may have reached the disk, including
//! durable writes, because they had not returned. [`after_crash`](SimDisk::after_crash) is what a
//! restart then finds; it can be called many times with different seeds.
//!
//! Invariants:
//! - A write that returned and was durable, or was followed by a sync that returned, survives.
//! - A submitted write reaches the disk even if its future is dropped, at some later step.
//! - Once power is lost, every call returns `PowerLost` and nothing changes.
//!
//! Not here: what the medium keeps (`platter`), the fate of an operation (`machine`), the kinds of
//! faults ([`super::fault`]).

use std::cell::RefCell;
use std::rc::Rc;

use super::buffer::SimBuffer;
use super::fault::{Fault, On, Operation};
use super::machine::{InFlight, Machine, What};
use super::platter::{FileId, NameChange, Platter};
use super::rng::Rng;
use super::run::pause;
use crate::storage::disk::{
    BLOCK_SIZE, Disk, DiskError, DiskErrorKind, DiskFile, Durability, Space,
};

/// How long one step takes, as far as metrics are concerned.
const STEP_NS: u64 = 100_000;

/// One simulated disk. A clone is a second handle on it.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<Machine>>);

impl SimDisk {
    /// An empty disk without faults. The seed decides the order of what is in flight, and where
    /// misdirected writes go.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Machine::new(Platter::default(), seed))))
    }

    /// From now on, every operation takes 0 to `turns_max` turns of the executor.
    pub fn slow(&self, turns_max: u32) {
        self.0.borrow_mut().turns_max = turns_max;
    }

    /// Sets the size of the file system; what is there already stays.
    pub fn limit(&self, capacity_bytes: u64) {
        self.0.borrow_mut().capacity_bytes = capacity_bytes;
    }

    /// Cuts the power during the operation after the next `steps` ones.
    pub fn lose_power_after(&self, steps: u64) {
        let mut machine = self.0.borrow_mut();
        machine.last_step = machine.steps.saturating_add(steps);
    }

    /// Cuts the power now.
    pub fn lose_power(&self) {
        self.0.borrow_mut().power_is_on = false;
    }

    pub fn has_power(&self) -> bool {
        self.0.borrow().power_is_on
    }

    /// Plans a fault. Several may be planned; the first that matches an operation strikes.
    pub fn inject(&self, on: On, fault: Fault) {
        self.0.borrow_mut().faults.push((on, fault));
    }

    /// Planned faults that have not struck yet.
    pub fn faults_left(&self) -> usize {
        self.0.borrow().faults.len()
    }

    /// Operations begun so far.
    pub fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    /// A hash of all operations and outcomes so far.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// What a restart after a power cut at this moment finds. This disk is left as it is.
    pub fn after_crash(&self, seed: u64) -> Self {
        let machine = self.0.borrow();
        let mut rng = Rng::from_seed(seed);
        let mut platter = machine.platter.clone();
        let mut in_flight = machine.in_flight.clone();
        rng.shuffle(&mut in_flight);
        for write in in_flight {
            write.land_whole(&mut platter);
        }
        let platter = platter.after_power_loss(&mut rng);
        Self(Rc::new(RefCell::new(machine.restarted(platter, rng.next_u64()))))
    }

    /// What a restart of only the process finds: everything that was written, synced or not, which
    /// a power cut can still destroy. Any blocks of writes in flight may have reached the disk.
    pub fn after_kill(&self, seed: u64) -> Self {
        let machine = self.0.borrow();
        let mut rng = Rng::from_seed(seed);
        let mut platter = machine.platter.after_kill();
        for write in &machine.in_flight {
            write.land_in_part(&mut platter, &mut rng);
        }
        Self(Rc::new(RefCell::new(machine.restarted(platter, rng.next_u64()))))
    }

    /// Bytes written that are not on the medium yet.
    pub fn volatile_bytes(&self) -> u64 {
        self.0.borrow().platter.volatile_bytes()
    }

    /// The bytes of a file as a reader would see them now; not a step.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let machine = self.0.borrow();
        let file = machine.platter.find(name)?;
        machine.platter.read(file, 0, machine.platter.size(file) as usize).ok()
    }

    /// Changes bytes of a file on the medium, as bit rot does. Panics if there is no such file.
    pub fn damage(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut machine = self.0.borrow_mut();
        let file = machine.platter.find(name).expect("a file to damage");
        let from = offset / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
        let size = (offset - from) as usize + bytes.len();
        let mut blocks = machine
            .platter
            .read(file, from, size.next_multiple_of(BLOCK_SIZE))
            .expect("the blocks to damage can be read");
        blocks[(offset - from) as usize..size].copy_from_slice(bytes);
        blocks.resize(blocks.len().next_multiple_of(BLOCK_SIZE), 0);
        machine.platter.write_durably(file, from, &blocks);
    }

    /// Makes the block at `offset` unreadable until it is written again.
    pub fn make_unreadable(&self, name: &str, offset: u64) {
        let mut machine = self.0.borrow_mut();
        let file = machine.platter.find(name).expect("a file to damage");
        machine.platter.make_unreadable(file, offset);
    }

    /// Truncates or extends a file silently.
    pub fn resize(&self, name: &str, size: u64) {
        let mut machine = self.0.borrow_mut();
        let file = machine.platter.find(name).expect("a file to resize");
        machine.platter.resize(file, size);
    }

    /// Begins an operation, waits, and returns the fault that the operation itself must apply.
    async fn step(&self, what: &What<'_>) -> Result<Option<Fault>, DiskError> {
        let begun = self.0.borrow_mut().begin(what)?;
        self.wait(what, begun.turns).await?;
        match begun.fault {
            Some(Fault::Fails(kind)) => Err(what.error(kind)),
            fault => Ok(fault),
        }
    }

    /// A step that changes names. If power is lost during it, it may have happened or not.
    async fn name_step(
        &self,
        what: &What<'_>,
        cut: impl FnOnce(&mut Machine),
    ) -> Result<(), DiskError> {
        let had_power = self.has_power();
        let outcome = self.step(what).await;
        if had_power && !self.has_power() {
            cut(&mut self.0.borrow_mut());
        }
        outcome.map(|_| ())
    }

    async fn wait(&self, what: &What<'_>, turns: u32) -> Result<(), DiskError> {
        for _ in 0..turns {
            pause().await;
        }
        if self.has_power() { Ok(()) } else { Err(what.error(DiskErrorKind::PowerLost)) }
    }

    fn end<T>(&self, outcome: Result<T, DiskError>) -> Result<T, DiskError> {
        self.0.borrow_mut().note(u64::from(outcome.is_ok()));
        outcome
    }

    fn file(&self, name: &str, id: FileId) -> SimFile {
        let machine = self.0.borrow();
        let (size, handle) = (machine.platter.size(id), machine.platter.handle(id));
        SimFile { disk: self.clone(), id, name: name.into(), size, _handle: handle }
    }
}

impl Disk for SimDisk {
    type Buffer = SimBuffer;
    type File = SimFile;

    fn buffer(&self, size: usize) -> SimBuffer {
        assert!(size.is_multiple_of(BLOCK_SIZE), "a buffer of {size} bytes is not whole blocks");
        SimBuffer::new(size)
    }

    /// Every step takes [`STEP_NS`].
    fn clock_ns(&self) -> u64 {
        self.0.borrow().steps * STEP_NS
    }

    async fn list(&self) -> Result<Vec<(String, u64)>, DiskError> {
        let what = What { operation: Operation::List, name: "", offset: 0, size: 0 };
        self.step(&what).await?;
        let mut machine = self.0.borrow_mut();
        let mut listing = machine.platter.listing();
        machine.rng.shuffle(&mut listing);
        Ok(listing)
    }

    async fn create(&self, name: &str, size: u64) -> Result<SimFile, DiskError> {
        assert!(
            size.is_multiple_of(BLOCK_SIZE as u64),
            "a file of {size} bytes is not whole blocks"
        );
        let what = What { operation: Operation::Create, name, offset: 0, size };
        // A file whose creation was interrupted may exist with any part of its size.
        self.name_step(&what, |machine| {
            if machine.platter.find(name).is_none() {
                let blocks = machine.rng.below(size / BLOCK_SIZE as u64 + 1);
                machine.platter.create(name, blocks * BLOCK_SIZE as u64);
            }
        })
        .await?;
        let outcome = self.0.borrow_mut().create(name, size).map_err(|kind| what.error(kind));
        let id = self.end(outcome)?;
        Ok(self.file(name, id))
    }

    async fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        let what = What { operation: Operation::Open, name, offset: 0, size: 0 };
        self.step(&what).await?;
        let found = self.0.borrow().platter.find(name);
        let id = self.end(found.ok_or_else(|| what.error(DiskErrorKind::NotFound)))?;
        Ok(self.file(name, id))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let what = What { operation: Operation::Rename, name: from, offset: 0, size: 0 };
        let rename = |machine: &mut Machine| {
            let file = machine.platter.find(from)?;
            machine.platter.change_names(NameChange::Rename { to: to.into(), file });
            Some(())
        };
        self.name_step(&what, |machine| {
            rename(machine);
        })
        .await?;
        let renamed = rename(&mut self.0.borrow_mut());
        self.end(renamed.ok_or_else(|| what.error(DiskErrorKind::NotFound)))
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        let what = What { operation: Operation::Remove, name, offset: 0, size: 0 };
        let remove = |machine: &mut Machine| {
            let file = machine.platter.find(name)?;
            machine.platter.change_names(NameChange::Remove { file });
            Some(())
        };
        self.name_step(&what, |machine| {
            remove(machine);
        })
        .await?;
        let removed = remove(&mut self.0.borrow_mut());
        self.end(removed.ok_or_else(|| what.error(DiskErrorKind::NotFound)))
    }

    async fn sync_directory(&self) -> Result<(), DiskError> {
        let what = What { operation: Operation::SyncDirectory, name: "", offset: 0, size: 0 };
        let fault = self.step(&what).await?;
        if !matches!(fault, Some(Fault::Lost)) {
            self.0.borrow_mut().platter.sync_names();
        }
        Ok(())
    }

    async fn space(&self) -> Result<Space, DiskError> {
        let what = What { operation: Operation::Space, name: "", offset: 0, size: 0 };
        self.step(&what).await?;
        let machine = self.0.borrow();
        let total_bytes = machine.capacity_bytes;
        let free_bytes = total_bytes.saturating_sub(machine.platter.used_bytes());
        Ok(Space { free_bytes, total_bytes })
    }
}

/// An open file on a [`SimDisk`].
#[derive(Clone)]
pub struct SimFile {
    disk: SimDisk,
    id: FileId,
    name: Rc<str>,
    size: u64,
    _handle: Rc<()>,
}

impl SimFile {
    fn what(&self, operation: Operation, offset: u64, size: usize) -> What<'_> {
        assert!(
            offset.is_multiple_of(BLOCK_SIZE as u64) && size.is_multiple_of(BLOCK_SIZE),
            "{size} bytes at {offset} are not whole blocks"
        );
        What { operation, name: &self.name, offset, size: size as u64 }
    }
}

impl DiskFile for SimFile {
    type Buffer = SimBuffer;

    fn size(&self) -> u64 {
        self.size
    }

    async fn write(
        &self,
        offset: u64,
        buffer: Rc<SimBuffer>,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let size = buffer.0.len();
        assert!(offset + size as u64 <= self.size, "writes past the end of {}", self.name);
        let what = self.what(Operation::Write, offset, size);
        let begun = self.disk.0.borrow_mut().begin(&what)?;
        let write = UnendedWrite::submit(self, offset, buffer);
        self.disk.wait(&what, begun.turns).await?;
        let outcome = write.land(begun.fault, durability).map_err(|kind| what.error(kind));
        self.disk.end(outcome)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let what = self.what(Operation::Sync, 0, 0);
        let newest = self.disk.0.borrow().platter.newest_write();
        let outcome = self.disk.step(&what).await;
        let platter = &mut self.disk.0.borrow_mut().platter;
        match outcome {
            Ok(Some(Fault::Lost)) => Ok(()),
            Ok(_) => {
                platter.sync(self.id, newest);
                Ok(())
            }
            // Without power nothing was attempted. Writes of a killed process stay for the next
            // one.
            Err(error) if error.kind == DiskErrorKind::PowerLost => Err(error),
            Err(error) => {
                platter.abandon(self.id, newest);
                Err(error)
            }
        }
    }

    async fn read(&self, offset: u64, size: usize) -> Result<Rc<dyn AsRef<[u8]>>, DiskError> {
        let what = self.what(Operation::Read, offset, size);
        let fault = self.disk.step(&what).await?;
        if let Some(Fault::Short(done)) = fault {
            return Err(what.error(DiskErrorKind::Short { done, wanted: size }));
        }
        let mut machine = self.disk.0.borrow_mut();
        let unreadable = |offset| DiskError {
            offset,
            ..what.error(DiskErrorKind::Io("the block cannot be read".into()))
        };
        let mut bytes = machine.platter.read(self.id, offset, size).map_err(unreadable)?;
        machine.mix_in_flight(self.id, offset, &mut bytes);
        Ok(Rc::new(bytes))
    }
}

/// A submitted write. If dropped before it has ended, it lands later.
struct UnendedWrite {
    disk: SimDisk,
    ticket: u64,
}

impl UnendedWrite {
    fn submit(file: &SimFile, offset: u64, buffer: Rc<SimBuffer>) -> Self {
        let ticket = file.disk.0.borrow_mut().submit(file.id, offset, buffer);
        Self { disk: file.disk.clone(), ticket }
    }

    fn land(self, fault: Option<Fault>, durability: Durability) -> Result<(), DiskErrorKind> {
        let mut machine = self.disk.0.borrow_mut();
        let mine = |write: &InFlight| write.ticket == self.ticket;
        let index = machine.in_flight.iter().position(mine).expect("submitted and not yet landed");
        let write = machine.in_flight.remove(index);
        machine.land(&write, fault, durability)
    }
}

impl Drop for UnendedWrite {
    fn drop(&mut self) {
        let mut machine = self.disk.0.borrow_mut();
        let mine = machine.in_flight.iter_mut().find(|write| write.ticket == self.ticket);
        if let Some(write) = mine {
            write.orphaned = true;
        }
    }
}
