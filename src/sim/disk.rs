//! A disk in memory that can lose power, tear, lose and misdirect writes, fail, fill up and be slow.
//!
//! ```text
//!   operation:  begin ──▶ wait some turns ──▶ take effect ──▶ return
//!               (a step)   (in flight)         (platter)
//! ```
//!
//! An operation is a step; the fault for it is decided when it begins, and it takes effect when it
//! ends. With [`slow`](SimDisk::slow) several are in flight at once and end in any seeded order. A
//! power cut can fall anywhere: what was in flight may have landed in part, also durable writes,
//! because they had not returned. [`after_crash`](SimDisk::after_crash) is what a restart then
//! finds; it can be asked many times with different seeds.
//!
//! What holds at all times:
//! - A write that returned and was durable, or was followed by a sync that returned, survives.
//! - A write that was submitted lands even when its future is dropped, at some later step.
//! - Once power is lost every call returns `PowerLost` and nothing changes any more.
//!
//! Not here: what the medium keeps (`platter`), which faults there are ([`super::fault`]).

use std::cell::RefCell;
use std::rc::Rc;

use super::fault::{Fault, On, Operation};
use super::platter::{FileId, NameChange, Platter};
use super::rng::{Rng, mix};
use super::run::pause;
use crate::storage::disk::{
    BLOCK_SIZE, BlockBuffer, Disk, DiskError, DiskErrorKind, DiskFile, Durability, Space,
};

/// Size of the simulated file system when nobody set one.
const CAPACITY_BYTES_DEFAULT: u64 = 1 << 40;

/// What a new buffer holds, so that a byte nobody filled shows.
const UNFILLED: u8 = 0xA5;

/// One simulated disk. A clone is a second handle on it.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<Machine>>);

struct Machine {
    platter: Platter,
    rng: Rng,
    trace: u64,
    steps: u64,
    /// The step with this number, counted from 1, still succeeds; in the next one power is lost.
    last_step: u64,
    power_is_on: bool,
    capacity_bytes: u64,
    turns_max: u32,
    faults: Vec<(On, Fault)>,
    in_flight: Vec<InFlight>,
    writes_begun: u64,
}

#[derive(Clone)]
struct InFlight {
    ticket: u64,
    file: FileId,
    offset: u64,
    buffer: Rc<SimBuffer>,
    /// The future was dropped; the write lands at some later step.
    orphaned: bool,
}

impl SimDisk {
    /// An empty disk without faults. The seed decides the order of what is in flight, and where
    /// misdirected writes go.
    pub fn new(seed: u64) -> Self {
        Self::with_platter(Platter::default(), seed)
    }

    fn with_platter(platter: Platter, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Machine {
            platter,
            rng: Rng::from_seed(seed),
            trace: seed,
            steps: 0,
            last_step: u64::MAX,
            power_is_on: true,
            capacity_bytes: CAPACITY_BYTES_DEFAULT,
            turns_max: 0,
            faults: Vec::new(),
            in_flight: Vec::new(),
            writes_begun: 0,
        })))
    }

    /// From now on every operation takes 0 to `turns_max` turns of the executor.
    pub fn slow(&self, turns_max: u32) {
        self.0.borrow_mut().turns_max = turns_max;
    }

    /// Sets the size of the file system; what is there already stays.
    pub fn limit(&self, capacity_bytes: u64) {
        self.0.borrow_mut().capacity_bytes = capacity_bytes;
    }

    /// Power is lost during the operation after the next `steps` ones.
    pub fn lose_power_after(&self, steps: u64) {
        let mut machine = self.0.borrow_mut();
        machine.last_step = machine.steps.saturating_add(steps);
    }

    /// Power is lost now.
    pub fn lose_power(&self) {
        self.0.borrow_mut().power_is_on = false;
    }

    pub fn has_power(&self) -> bool {
        self.0.borrow().power_is_on
    }

    /// Plans one fault. Several may be planned; the first that matches an operation strikes.
    pub fn inject(&self, on: On, fault: Fault) {
        self.0.borrow_mut().faults.push((on, fault));
    }

    /// Planned faults that have not struck.
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
            platter.write(write.file, write.offset, (*write.buffer).as_ref());
        }
        machine.restarted(platter.after_power_loss(&mut rng), rng.next_u64())
    }

    /// What a restart of the process alone finds: everything that was written, synced or not, which
    /// a power cut can still take. Of what was in flight any blocks have landed.
    pub fn after_kill(&self, seed: u64) -> Self {
        let machine = self.0.borrow();
        let mut rng = Rng::from_seed(seed);
        let mut platter = machine.platter.after_kill();
        for write in &machine.in_flight {
            write.land_in_part(&mut platter, &mut rng);
        }
        machine.restarted(platter, rng.next_u64())
    }

    /// The bytes of a file as a reader would see them now; not a step.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let machine = self.0.borrow();
        let file = machine.platter.find(name)?;
        machine.platter.read(file, 0, machine.platter.size(file) as usize).ok()
    }

    /// Changes bytes of a file on the medium, as decay does. Panics when there is no such file.
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

    /// From now on the block at `offset` cannot be read, until it is written again.
    pub fn make_unreadable(&self, name: &str, offset: u64) {
        let mut machine = self.0.borrow_mut();
        let file = machine.platter.find(name).expect("a file to damage");
        machine.platter.make_unreadable(file, offset);
    }

    /// Cuts or extends a file behind everybody's back.
    pub fn resize(&self, name: &str, size: u64) {
        let mut machine = self.0.borrow_mut();
        let file = machine.platter.find(name).expect("a file to resize");
        machine.platter.resize(file, size);
    }

    /// Begins, waits, and returns the fault that is left to the operation itself.
    async fn step(&self, what: &What<'_>) -> Result<Option<Fault>, DiskError> {
        let begun = self.0.borrow_mut().begin(what)?;
        self.wait(what, begun.turns).await?;
        match begun.fault {
            Some(Fault::Fails(kind)) => Err(what.error(kind)),
            fault => Ok(fault),
        }
    }

    /// A step that changes names. The operation in which power is lost may have happened.
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

/// An operation, for traces and errors.
struct What<'a> {
    operation: Operation,
    name: &'a str,
    offset: u64,
    size: u64,
}

impl What<'_> {
    fn error(&self, kind: DiskErrorKind) -> DiskError {
        let operation = self.operation.name();
        DiskError { operation, file: self.name.into(), offset: self.offset, kind }
    }
}

struct Begun {
    fault: Option<Fault>,
    turns: u32,
}

impl Machine {
    fn begin(&mut self, what: &What<'_>) -> Result<Begun, DiskError> {
        if !self.power_is_on {
            return Err(what.error(DiskErrorKind::PowerLost));
        }
        self.steps += 1;
        self.note(what.operation as u64);
        self.note(u64::from(crc32c::crc32c(what.name.as_bytes())));
        self.note(what.offset);
        self.note(what.size);
        self.land_orphans();
        let fault = self.fault_for(what);
        let mut turns = self.rng.below(u64::from(self.turns_max) + 1) as u32;
        match fault {
            Some(Fault::Slow(more)) => turns += more,
            Some(Fault::PowerLoss) => self.power_is_on = false,
            _ => {}
        }
        if self.steps > self.last_step {
            self.power_is_on = false;
        }
        Ok(Begun { fault, turns })
    }

    fn fault_for(&mut self, what: &What<'_>) -> Option<Fault> {
        let mut struck = None;
        for (index, (on, _)) in self.faults.iter_mut().enumerate() {
            if !on.matches(what.operation, what.name) {
                continue;
            }
            if on.skip > 0 {
                on.skip -= 1;
            } else if struck.is_none() {
                struck = Some(index);
            }
        }
        struck.map(|index| self.faults.remove(index).1)
    }

    fn note(&mut self, value: u64) {
        self.trace = mix(self.trace ^ mix(value));
    }

    fn land_orphans(&mut self) {
        let (platter, rng) = (&mut self.platter, &mut self.rng);
        self.in_flight.retain(|write| {
            let lands = write.orphaned && rng.coin();
            if lands {
                platter.write(write.file, write.offset, (*write.buffer).as_ref());
            }
            !lands
        });
    }

    fn submit(&mut self, file: FileId, offset: u64, buffer: Rc<SimBuffer>) -> u64 {
        self.note(u64::from(crc32c::crc32c(&buffer.0)));
        self.writes_begun += 1;
        let ticket = self.writes_begun;
        self.in_flight.push(InFlight { ticket, file, offset, buffer, orphaned: false });
        ticket
    }

    /// A write ends: what lands, and what its caller is told.
    fn land(
        &mut self,
        write: &InFlight,
        fault: Option<Fault>,
        durability: Durability,
    ) -> Result<(), DiskErrorKind> {
        let bytes: &[u8] = (*write.buffer).as_ref();
        match fault {
            None | Some(Fault::Slow(_) | Fault::PowerLoss) => {
                self.store(write.file, write.offset, bytes, durability);
                Ok(())
            }
            Some(Fault::Lost) => Ok(()),
            Some(Fault::Misdirected) => {
                let (file, offset, size) = self.another_place(write);
                self.store(file, offset, &bytes[..size], durability);
                Ok(())
            }
            Some(Fault::Fails(kind)) => {
                write.land_in_part(&mut self.platter, &mut self.rng);
                Err(kind)
            }
            Some(Fault::Short(done)) => {
                let done = done.min(bytes.len());
                self.platter.write(write.file, write.offset, &bytes[..done]);
                Err(DiskErrorKind::Short { done, wanted: bytes.len() })
            }
        }
    }

    fn store(&mut self, file: FileId, offset: u64, bytes: &[u8], durability: Durability) {
        match durability {
            Durability::Written => self.platter.write(file, offset, bytes),
            Durability::Durable => self.platter.write_durably(file, offset, bytes),
        }
    }

    /// Where a misdirected write goes: any other block, and how much of it fits there.
    fn another_place(&mut self, write: &InFlight) -> (FileId, u64, usize) {
        let places = self.platter.places();
        let &(file, size) = self.rng.pick(&places);
        let blocks = (size / BLOCK_SIZE as u64).max(1);
        let mut offset = self.rng.below(blocks) * BLOCK_SIZE as u64;
        if (file, offset) == (write.file, write.offset) {
            offset = (offset / BLOCK_SIZE as u64 + 1) % blocks * BLOCK_SIZE as u64;
        }
        (file, offset, write.buffer.0.len().min((size - offset) as usize))
    }

    /// Lays what is in flight over what a read found: the device may serve either.
    fn mix_in_flight(&mut self, file: FileId, offset: u64, found: &mut [u8]) {
        let end = offset + found.len() as u64;
        for write in self.in_flight.iter().filter(|write| write.file == file) {
            for (index, block) in write.buffer.0.chunks(BLOCK_SIZE).enumerate() {
                let at = write.offset + (index * BLOCK_SIZE) as u64;
                if at >= offset && at < end && self.rng.coin() {
                    let from = (at - offset) as usize;
                    let size = block.len().min(found.len() - from);
                    found[from..from + size].copy_from_slice(&block[..size]);
                }
            }
        }
    }

    fn restarted(&self, platter: Platter, seed: u64) -> SimDisk {
        let disk = SimDisk::with_platter(platter, seed);
        disk.limit(self.capacity_bytes);
        disk.slow(self.turns_max);
        disk
    }
}

impl InFlight {
    fn land_in_part(&self, platter: &mut Platter, rng: &mut Rng) {
        for (index, block) in self.buffer.0.chunks(BLOCK_SIZE).enumerate() {
            if rng.coin() {
                platter.write(self.file, self.offset + (index * BLOCK_SIZE) as u64, block);
            }
        }
    }
}

impl Disk for SimDisk {
    type Buffer = SimBuffer;
    type File = SimFile;

    fn buffer(&self, size: usize) -> SimBuffer {
        assert!(size.is_multiple_of(BLOCK_SIZE), "a buffer of {size} bytes is not whole blocks");
        SimBuffer(vec![UNFILLED; size])
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
        // A file that was being made may be there with any part of its size.
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

impl Machine {
    fn create(&mut self, name: &str, size: u64) -> Result<FileId, DiskErrorKind> {
        if self.platter.find(name).is_some() {
            return Err(DiskErrorKind::Io("the file exists".into()));
        }
        if self.platter.used_bytes().saturating_add(size) > self.capacity_bytes {
            return Err(DiskErrorKind::NoSpace);
        }
        Ok(self.platter.create(name, size))
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
        let landing = Landing::submit(self, offset, buffer);
        self.disk.wait(&what, begun.turns).await?;
        let outcome = landing.land(begun.fault, durability).map_err(|kind| what.error(kind));
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

/// A write that has been submitted; dropped before it ended, it lands later.
struct Landing {
    disk: SimDisk,
    ticket: u64,
}

impl Landing {
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

impl Drop for Landing {
    fn drop(&mut self) {
        let mut machine = self.disk.0.borrow_mut();
        let mine = machine.in_flight.iter_mut().find(|write| write.ticket == self.ticket);
        if let Some(write) = mine {
            write.orphaned = true;
        }
    }
}

/// Memory of a simulated disk. A new one is filled with a pattern, not with zeros.
pub struct SimBuffer(Vec<u8>);

impl AsRef<[u8]> for SimBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for SimBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl BlockBuffer for SimBuffer {
    fn truncate(&mut self, size: usize) {
        assert!(size.is_multiple_of(BLOCK_SIZE) && size <= self.0.len());
        self.0.truncate(size);
    }
}
