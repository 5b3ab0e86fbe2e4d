//! Waiting for room in the log: the async interface of [`room`](super::room).

use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::storage::append::{AppendError, SpaceClass};
use crate::storage::entry::entry_size;
use crate::storage::room::{Gate, Room, TicketId};

/// The room of one log. A clone is a second handle.
#[derive(Clone, Debug)]
pub(super) struct SharedRoom(Rc<RefCell<Room>>);

/// A waiting ticket, then the room itself. Dropping it releases both, and the next tickets proceed.
#[derive(Debug)]
pub struct Ticket {
    room: SharedRoom,
    id: TicketId,
}

impl SharedRoom {
    pub fn new(budget: u64) -> Self {
        Self(Rc::new(Room::new(budget).into()))
    }

    /// Whether an append of `size` bytes could take place now.
    pub fn admits(&self, class: SpaceClass, size: usize) -> bool {
        self.0.borrow().admits(class, size as u64)
    }

    /// Admits an append that is about to be made.
    pub fn admit(&self, class: SpaceClass, size: usize) -> Result<(), AppendError> {
        let room = &mut *self.0.borrow_mut();
        if room.admits(class, size as u64) {
            return Ok(());
        }
        room.handle_refused(size as u64);
        Err(AppendError::NoRoom)
    }

    pub fn handle_append(&self, size: usize, in_flight: u64) {
        self.0.borrow_mut().handle_append(size as u64, in_flight);
    }

    pub fn handle_written(&self, took: Range<u64>, written: u64, in_flight: u64) {
        self.0.borrow_mut().handle_written(took, written, in_flight);
    }

    pub fn in_flight_max(&self) -> u64 {
        self.0.borrow().in_flight_max()
    }

    pub fn spare(&self) -> u64 {
        self.0.borrow().spare()
    }

    pub fn handle_no_segment(&self) {
        self.0.borrow_mut().handle_no_segment();
    }

    pub fn gate(&self) -> Gate {
        self.0.borrow().gate()
    }

    pub fn handle_in_flight(&self, in_flight: u64, gate: Gate) {
        self.update(|room| room.handle_in_flight(in_flight, gate));
    }

    pub fn ticket(&self, payload_size: usize) -> Result<Ticket, AppendError> {
        let id = self.update(|room| room.take_ticket(entry_size(payload_size) as u64));
        Ok(Ticket { room: self.clone(), id: id.ok_or(AppendError::NoRoom)? })
    }

    /// Wakes newly granted tickets.
    fn update<T>(&self, change: impl FnOnce(&mut Room) -> T) -> T {
        let (outcome, woken) = {
            let room = &mut *self.0.borrow_mut();
            (change(room), room.take_woken())
        };
        woken.into_iter().for_each(Waker::wake);
        outcome
    }
}

impl Ticket {
    /// Waits until the ticket is granted, or until waiting is pointless; the append then reports
    /// the reason.
    pub async fn granted(&self) {
        poll_fn(|context| self.poll_granted(context)).await;
    }

    pub fn is_granted(&self) -> bool {
        self.room.0.borrow().is_granted(self.id)
    }

    pub fn poll_granted(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.room.0.borrow_mut().poll_granted(self.id, context.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Appends made by `append` use the room that this ticket holds.
    pub fn spend<T>(&self, append: impl FnOnce() -> T) -> T {
        self.room.0.borrow_mut().begin_spending(self.id);
        let outcome = append();
        self.room.0.borrow_mut().end_spending();
        outcome
    }

    /// Call it if an append found no room anyway, because there was no segment or it was larger
    /// than the room held. Waits in the old place, before all later tickets, for at least what the
    /// append needed.
    pub fn wait_again(&self, payload_size: usize) {
        self.room.update(|room| room.wait_again(self.id, entry_size(payload_size) as u64));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.room.update(|room| room.drop_ticket(self.id));
    }
}
