//! Who may append now, and in which order the others may: the append budget as a value.
//!
//! ```text
//!   append that fits, nobody waits ──────────────────▶ in flight ──▶ committed
//!   else a ticket: waiting ──▶ granted (room is held) ──▶ in flight
//!                     └──── dropped ────┘
//! ```
//!
//! Tickets are granted in the order in which they were taken: the front ones that now fit, together,
//! and nobody behind one that does not fit. While tickets wait no ordinary append without one passes,
//! so a large append is not overtaken by small ones until its client gives up. Small facts of the
//! broker ([`SpaceClass::Reserved`]) take no ticket and have a margin of their own.
//!
//! No I/O and no clock here. [`ticket`](super::ticket) is the asynchronous face; the log says what is
//! in flight.

use std::collections::BTreeMap;
use std::task::Waker;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::storage::append::SpaceClass;

/// Tickets that wait at a time. Each is a connection with requests that found no room or an operation
/// of the broker; whoever comes beyond that is refused as if it had waited too long.
const WAITING_MAX: usize = 1 << 17;
/// What facts of the broker may take beyond the budget, bytes, so that producers in a flood do not
/// keep it from writing down offsets and topics.
const RESERVED_MARGIN: u64 = 1 << 20;

/// Invariants:
/// - `held` is the sum of what the granted tickets hold.
/// - `in_flight + held <= budget`, but for [`RESERVED_MARGIN`], and but for one append that is larger
///   than the budget and gets it all.
/// - The front ticket waits only while it does not fit, or while there is no segment to append to.
#[derive(Debug)]
pub struct Room {
    budget: u64,
    /// Bytes appended and not yet committed.
    in_flight: u64,
    held: u64,
    gate: Gate,
    /// By arrival.
    waiting: BTreeMap<TicketId, Waiting>,
    /// What each granted ticket still holds.
    granted: FxHashMap<TicketId, u64>,
    /// Whose append this is, while one with a ticket runs.
    spending: Option<TicketId>,
    next_ticket: u64,
    /// Wakers of tickets that were granted and are not told yet.
    woken: Woken,
}

pub type Woken = SmallVec<[Waker; 4]>;

/// Names a ticket; one taken later has a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(u64);

#[derive(Debug)]
struct Waiting {
    size: u64,
    waker: Option<Waker>,
}

/// Whether room is all that an append needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// The log cannot go on before the next segment is there.
    NoSegment,
    /// To wait cannot help: the log is fenced or the disk is full. Everybody is let through, and the
    /// append says why not.
    Over,
}

impl Room {
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            in_flight: 0,
            held: 0,
            gate: Gate::Open,
            waiting: BTreeMap::new(),
            granted: FxHashMap::default(),
            spending: None,
            next_ticket: 0,
            woken: Woken::new(),
        }
    }

    /// Whether an append of `size` bytes may take place now.
    pub fn admits(&self, class: SpaceClass, size: u64) -> bool {
        match class {
            SpaceClass::Reserved => self.fits(size, self.budget.saturating_add(RESERVED_MARGIN)),
            SpaceClass::Ordinary => {
                size <= self.own() || self.waiting.is_empty() && self.fits(size, self.budget)
            }
        }
    }

    /// An append of `size` bytes took place; `in_flight` are under way now.
    pub fn handle_append(&mut self, size: u64, in_flight: u64) {
        if let Some(own) = self.spending.and_then(|id| self.granted.get_mut(&id)) {
            let used = size.min(*own);
            *own -= used;
            self.held -= used;
        }
        self.in_flight = in_flight;
    }

    /// Something has moved: `in_flight` are under way now, and `gate` is what the log can do.
    pub fn handle_progress(&mut self, in_flight: u64, gate: Gate) {
        self.in_flight = in_flight;
        self.gate = gate;
        self.grant();
    }

    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// An append found no segment to go to.
    pub fn handle_no_segment(&mut self) {
        self.gate = Gate::NoSegment;
    }

    /// A place behind all others, for `size` bytes; `None` when too many wait.
    pub fn take_ticket(&mut self, size: u64) -> Option<TicketId> {
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        let id = TicketId(self.next_ticket);
        self.next_ticket += 1;
        self.wait(id, size);
        Some(id)
    }

    /// Whether it is granted; if not, `waker` is woken when it is.
    pub fn poll_granted(&mut self, id: TicketId, waker: &Waker) -> bool {
        match self.waiting.get_mut(&id) {
            Some(Waiting { waker: Some(known), .. }) => known.clone_from(waker),
            Some(waiting) => waiting.waker = Some(waker.clone()),
            None => return true,
        }
        false
    }

    /// Appends from here to [`end_spending`](Self::end_spending) use what `id` holds.
    pub fn begin_spending(&mut self, id: TicketId) {
        assert!(self.spending.is_none(), "one append at a time");
        self.spending = Some(id);
    }

    pub fn end_spending(&mut self) {
        self.spending = None;
    }

    /// A granted ticket that was of no use (there is no segment, or `size` is more than it holds) takes
    /// its old place again: before all who came later.
    pub fn wait_again(&mut self, id: TicketId, size: u64) {
        self.give_back(id);
        self.wait(id, size);
    }

    /// The ticket is gone, and with it its place or what it still held.
    pub fn drop_ticket(&mut self, id: TicketId) {
        self.waiting.remove(&id);
        self.give_back(id);
        self.grant();
    }

    /// Who has been granted since this was last called.
    pub fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.woken)
    }

    fn wait(&mut self, id: TicketId, size: u64) {
        self.waiting.insert(id, Waiting { size, waker: None });
        self.grant();
    }

    fn give_back(&mut self, id: TicketId) {
        self.held -= self.granted.remove(&id).unwrap_or(0);
    }

    /// Grants the front tickets that fit.
    fn grant(&mut self) {
        while let Some((&id, front)) = self.waiting.first_key_value() {
            let size = match self.gate {
                Gate::Open if self.fits(front.size, self.budget) => front.size,
                Gate::Over => 0,
                Gate::Open | Gate::NoSegment => break,
            };
            let front = self.waiting.remove(&id).expect("it is the first");
            self.granted.insert(id, size);
            self.held += size;
            self.woken.extend(front.waker);
        }
        self.check();
    }

    /// An append always fits when nothing else is under way, however small the budget.
    fn fits(&self, size: u64, budget: u64) -> bool {
        let taken = self.in_flight + self.held - self.own();
        taken == 0 || taken + size <= budget
    }

    /// What the ticket in use holds.
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
