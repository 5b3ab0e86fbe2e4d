//! The simulated machine around a platter: power, faults, and what is in flight.
//!
//! Synchronous; [`super::disk`] waits. [`Machine::begin`] decides the fate of an operation, the
//! others apply it.

use std::rc::Rc;

use super::buffer::SimBuffer;
use super::fault::{Fault, On, Operation};
use super::platter::{FileId, Platter};
use super::rng::{Rng, mix};
use crate::storage::disk::{BLOCK_SIZE, DiskError, DiskErrorKind, Durability};

/// Size of the simulated file system by default.
const CAPACITY_BYTES_DEFAULT: u64 = 1 << 40;

pub struct Machine {
    pub platter: Platter,
    pub rng: Rng,
    pub trace: u64,
    pub steps: u64,
    /// The last step that succeeds, counted from 1; power is lost during the next one.
    pub last_step: u64,
    pub power_is_on: bool,
    pub capacity_bytes: u64,
    pub turns_max: u32,
    pub faults: Vec<(On, Fault)>,
    pub in_flight: Vec<InFlight>,
    writes_begun: u64,
}

#[derive(Clone)]
pub struct InFlight {
    pub ticket: u64,
    file: FileId,
    pub offset: u64,
    buffer: Rc<SimBuffer>,
    /// The future was dropped; the write lands at some later step.
    pub orphaned: bool,
}

/// An operation, for traces and errors.
pub struct What<'a> {
    pub operation: Operation,
    pub name: &'a str,
    pub offset: u64,
    pub size: u64,
}

impl What<'_> {
    pub fn error(&self, kind: DiskErrorKind) -> DiskError {
        let operation = self.operation.name();
        DiskError { operation, file: self.name.into(), offset: self.offset, kind }
    }
}

pub struct Begun {
    pub fault: Option<Fault>,
    pub turns: u32,
}

impl Machine {
    pub fn new(platter: Platter, seed: u64) -> Self {
        Self {
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
        }
    }

    /// The same machine, started again with what is left on `platter`.
    pub fn restarted(&self, platter: Platter, seed: u64) -> Self {
        let (capacity_bytes, turns_max) = (self.capacity_bytes, self.turns_max);
        Self { capacity_bytes, turns_max, ..Self::new(platter, seed) }
    }

    pub fn begin(&mut self, what: &What<'_>) -> Result<Begun, DiskError> {
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

    pub fn create(&mut self, name: &str, size: u64) -> Result<FileId, DiskErrorKind> {
        if self.platter.find(name).is_some() {
            return Err(DiskErrorKind::Io("the file exists".into()));
        }
        if self.platter.used_bytes().saturating_add(size) > self.capacity_bytes {
            return Err(DiskErrorKind::NoSpace);
        }
        Ok(self.platter.create(name, size))
    }

    pub fn note(&mut self, value: u64) {
        self.trace = mix(self.trace ^ mix(value));
    }

    fn land_orphans(&mut self) {
        let (platter, rng) = (&mut self.platter, &mut self.rng);
        self.in_flight.retain(|write| {
            let lands = write.orphaned && rng.coin();
            if lands {
                write.land_whole(platter);
            }
            !lands
        });
    }

    pub fn submit(&mut self, file: FileId, offset: u64, buffer: Rc<SimBuffer>) -> u64 {
        self.note(u64::from(crc32c::crc32c(&buffer.0)));
        self.writes_begun += 1;
        let ticket = self.writes_begun;
        self.in_flight.push(InFlight { ticket, file, offset, buffer, orphaned: false });
        ticket
    }

    /// Ends a write: decides what lands and what its caller gets.
    pub fn land(
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

    /// Where a misdirected write goes: any other block, and how much fits there; nothing if there
    /// are no files.
    fn another_place(&mut self, write: &InFlight) -> (FileId, u64, usize) {
        let places = self.platter.places();
        if places.is_empty() {
            return (write.file, write.offset, 0);
        }
        let &(file, size) = self.rng.pick(&places);
        let blocks = size.div_ceil(BLOCK_SIZE as u64);
        let mut offset = self.rng.below(blocks) * BLOCK_SIZE as u64;
        if (file, offset) == (write.file, write.offset) {
            offset = (offset / BLOCK_SIZE as u64 + 1) % blocks * BLOCK_SIZE as u64;
        }
        (file, offset, write.buffer.0.len().min((size - offset) as usize))
    }

    /// Overlays writes in flight on the result of a read: the device may return either.
    pub fn mix_in_flight(&mut self, file: FileId, offset: u64, found: &mut [u8]) {
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
}

impl InFlight {
    pub fn land_whole(&self, platter: &mut Platter) {
        platter.write(self.file, self.offset, &self.buffer.0);
    }

    pub fn land_in_part(&self, platter: &mut Platter, rng: &mut Rng) {
        for (index, block) in self.buffer.0.chunks(BLOCK_SIZE).enumerate() {
            if rng.coin() {
                platter.write(self.file, self.offset + (index * BLOCK_SIZE) as u64, block);
            }
        }
    }
}
