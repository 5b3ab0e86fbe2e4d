//! Admission to the log: which append may proceed now, and in which order the others follow. The
//! append budget as a value.
//!
//! ```text
//!   append that fits, nobody waits ──────────────────▶ in flight ──▶ committed
//!   else a ticket: waiting ──▶ granted (room is held) ──▶ in flight
//!                     └──── dropped ────┘
//! ```
//!
//! Tickets are granted in order: all front ones that now fit, and none after one that does not.
//! While tickets wait, no ordinary append without a ticket is admitted, so small appends cannot
//! starve a large one until its client gives up. Small facts of the broker
//! ([`SpaceClass::Reserved`]) take no ticket and have their own margin.
//!
//! No I/O and no clock here. [`ticket`](super::ticket) is the async interface; the log reports what
//! is in flight.

use std::collections::BTreeMap;
use std::ops::Range;
use std::task::Waker;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::storage::append::SpaceClass;
use crate::storage::pace::Pace;

/// Maximum number of waiting tickets. Each is a connection with requests that found no room, or an
/// operation of the broker; beyond the limit, requests are refused as if they had waited too long.
const WAITING_MAX: usize = 1 << 17;
/// What the broker's facts may use beyond the budget, bytes, so that a flood of messages does not
/// prevent it from writing offsets and topics.
const RESERVED_MARGIN: u64 = 1 << 20;

/// Invariants:
/// - `held` is the sum of the room held by granted tickets, `asked` that of the sizes of waiting ones.
/// - `in_flight + held <= budget`, except for [`RESERVED_MARGIN`], and for a single append that is
///   larger than the budget and gets all of it.
/// - While the device is the bottleneck, ordinary appends get only what [`Pace`] allows of the budget.
/// - The front ticket waits only while it does not fit, or while there is no segment to append to.
#[derive(Debug)]
pub struct Room {
    budget: u64,
    pace: Pace,
    /// Bytes appended and not yet committed.
    in_flight: u64,
    held: u64,
    gate: Gate,
    /// By arrival.
    waiting: BTreeMap<TicketId, Waiting>,
    /// Bytes that they request.
    asked: u64,
    /// Room that each granted ticket still holds.
    granted: FxHashMap<TicketId, u64>,
    /// The ticket in use, during its append.
    spending: Option<TicketId>,
    /// The last ticket whose append found no room anyway, and the bytes that it needed.
    refused: Option<(TicketId, u64)>,
    next_ticket: u64,
    /// Wakers of granted tickets that have not been woken yet.
    woken: Woken,
}

pub type Woken = SmallVec<[Waker; 4]>;

/// Identifies a ticket; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(u64);

#[derive(Debug)]
struct Waiting {
    size: u64,
    waker: Option<Waker>,
}

/// What an append needs besides room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// The log cannot continue before the next segment exists.
    NoSegment,
    /// Waiting is pointless: the log is fenced or the disk is full. All are admitted, and the
    /// append reports the reason.
    Over,
}

impl Room {
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            pace: Pace::default(),
            in_flight: 0,
            held: 0,
            gate: Gate::Open,
            waiting: BTreeMap::new(),
            asked: 0,
            granted: FxHashMap::default(),
            spending: None,
            refused: None,
            next_ticket: 0,
            woken: Woken::new(),
        }
    }

    /// Whether an append of `size` bytes may take place now.
    pub fn admits(&self, class: SpaceClass, size: u64) -> bool {
        match class {
            SpaceClass::Reserved | SpaceClass::Engine => {
                self.fits(size, self.budget.saturating_add(RESERVED_MARGIN))
            }
            SpaceClass::Ordinary => {
                size <= self.own()
                    || self.waiting.is_empty() && self.fits(size, self.in_flight_max())
            }
        }
    }

    /// Records that an append of `size` bytes was not admitted.
    pub fn handle_refused(&mut self, size: u64) {
        if let Some(id) = self.spending {
            self.refused = Some((id, size));
        }
    }

    /// Records an append of `size` bytes; `in_flight` is the new total.
    pub fn handle_append(&mut self, size: u64, in_flight: u64) {
        if let Some(own) = self.spending.and_then(|id| self.granted.get_mut(&id)) {
            let used = size.min(*own);
            *own -= used;
            self.held -= used;
        }
        self.in_flight = in_flight;
    }

    /// Records the end of a write, which took place during `took` on a monotonic clock,
    /// nanoseconds: everything up to log offset `written` is written, and `in_flight` is the new
    /// total. [`handle_in_flight`](Self::handle_in_flight) must follow.
    pub fn handle_written(&mut self, took: Range<u64>, written: u64, in_flight: u64) {
        self.pace.handle_written(took, written, in_flight, !self.waiting.is_empty());
    }

    /// Maximum bytes that ordinary appends may have in flight at present.
    pub fn in_flight_max(&self) -> u64 {
        self.pace.in_flight_max(self.budget)
    }

    /// Updates the state: `in_flight` is the new total, and `gate` the state of the log.
    pub fn handle_in_flight(&mut self, in_flight: u64, gate: Gate) {
        self.in_flight = in_flight;
        self.gate = gate;
        self.grant();
    }

    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Records that an append found no segment.
    pub fn handle_no_segment(&mut self) {
        self.gate = Gate::NoSegment;
    }

    /// Takes a ticket for `size` bytes, after all others; `None` if too many wait.
    pub fn take_ticket(&mut self, size: u64) -> Option<TicketId> {
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        let id = TicketId(self.next_ticket);
        self.next_ticket += 1;
        self.queue(id, size);
        self.grant();
        Some(id)
    }

    /// Whether the ticket is granted; if not, `waker` is woken when it is.
    pub fn poll_granted(&mut self, id: TicketId, waker: &Waker) -> bool {
        match self.waiting.get_mut(&id) {
            Some(Waiting { waker: Some(known), .. }) => known.clone_from(waker),
            Some(waiting) => waiting.waker = Some(waker.clone()),
            None => return true,
        }
        false
    }

    pub fn is_granted(&self, id: TicketId) -> bool {
        !self.waiting.contains_key(&id)
    }

    /// Appends from here to [`end_spending`](Self::end_spending) use the room that `id` holds.
    pub fn begin_spending(&mut self, id: TicketId) {
        assert!(self.spending.is_none(), "one append at a time");
        self.spending = Some(id);
    }

    pub fn end_spending(&mut self) {
        self.spending = None;
    }

    /// Makes a granted ticket that could not be used (there is no segment, or the append was larger
    /// than what it holds) wait again in its old place, before all later ones. It requests at least
    /// what was refused: otherwise the same would happen again, immediately and forever.
    pub fn wait_again(&mut self, id: TicketId, size: u64) {
        self.give_back(id);
        let refused = self.refused.take_if(|(refused, _)| *refused == id);
        let size = refused.map_or(size, |(_, needed)| size.max(needed));
        self.queue(id, size);
        // When the gate is `Over`, all tickets are granted, and only a write in flight makes room.
        if self.gate != Gate::Over {
            self.grant();
        }
    }

    /// Removes the ticket, and the room that it held.
    pub fn drop_ticket(&mut self, id: TicketId) {
        self.unqueue(id);
        self.give_back(id);
        self.grant();
    }

    /// How many more bytes may be requested before the waiting ones reach what may be in flight.
    /// More would only lengthen the queue.
    pub fn spare(&self) -> u64 {
        self.in_flight_max().saturating_sub(self.asked)
    }

    /// Tickets granted since the last call.
    pub fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.woken)
    }

    fn queue(&mut self, id: TicketId, size: u64) {
        self.waiting.insert(id, Waiting { size, waker: None });
        self.asked += size;
    }

    fn unqueue(&mut self, id: TicketId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.asked -= waiting.size;
        Some(waiting)
    }

    fn give_back(&mut self, id: TicketId) {
        self.held -= self.granted.remove(&id).unwrap_or(0);
    }

    /// Grants the front tickets that fit.
    fn grant(&mut self) {
        let in_flight_max = self.in_flight_max();
        while let Some((&id, front)) = self.waiting.first_key_value() {
            let size = match self.gate {
                Gate::Open if self.fits(front.size, in_flight_max) => front.size,
                Gate::Over => 0,
                Gate::Open | Gate::NoSegment => break,
            };
            let front = self.unqueue(id).expect("it is the first");
            self.granted.insert(id, size);
            self.held += size;
            self.woken.extend(front.waker);
        }
        self.check();
    }

    /// An append always fits if nothing else is in flight, however small the budget.
    fn fits(&self, size: u64, budget: u64) -> bool {
        let taken = self.in_flight + self.held - self.own();
        taken == 0 || taken + size <= budget
    }

    /// The room held by the ticket in use.
    fn own(&self) -> u64 {
        self.spending.and_then(|id| self.granted.get(&id)).copied().unwrap_or(0)
    }

    fn check(&self) {
        let holding = || self.granted.values().filter(|size| **size > 0).count();
        assert!(self.held <= self.budget || holding() == 1, "more is held than there is");
    }
}

#[cfg(test)]
mod tests;
