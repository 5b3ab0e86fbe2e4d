//! Requests of one connection that wait for room in the log, in order of arrival.
//!
//! The connection does not wait with them: it keeps reading, and serves requests that need no room.
//! They share one ticket, up to [`BATCH_SIZE`] bytes, so connections take turns, and one that sends
//! more does not get more turns.

use std::collections::VecDeque;
use std::task::Waker;

use crate::model::Moment;
use crate::storage::Ticket;

/// Maximum number of parked requests of one connection; at the limit it takes no further request.
const COUNT_MAX: usize = 1024;
/// The same limit in bytes of their read buffers. A single request always fits.
const MEMORY_MAX: usize = 1 << 20;
/// Maximum bytes that a connection requests at a time.
const BATCH_SIZE: usize = 64 << 10;

/// Invariants: there is a ticket only while there are requests; `memory` is the sum over `queue`.
#[derive(Debug)]
pub struct Parked<R> {
    queue: VecDeque<ParkedRequest<R>>,
    memory: usize,
    /// The ticket of the requests at the front; while there is none, they wait for the connection's
    /// own share.
    pub ticket: Option<Ticket>,
    /// The waker of the task that executes them, while it waits.
    pub waker: Option<Waker>,
    /// The shard has a deadline for this connection.
    pub has_deadline: bool,
}

/// A parked request.
#[derive(Debug)]
pub struct ParkedRequest<R> {
    pub request: R,
    pub read_at: Moment,
    /// Bytes of the request.
    pub size: usize,
    /// Bytes of the log that it needs, as far as known. If this were less, the last request of a
    /// batch would find no room and wait once more.
    pub append_size: usize,
    /// Size of its read buffer; 0 if a later request shares the buffer.
    pub memory: usize,
}

impl<R> Default for Parked<R> {
    fn default() -> Self {
        let queue = VecDeque::new();
        Self { queue, memory: 0, ticket: None, waker: None, has_deadline: false }
    }
}

impl<R> Parked<R> {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether no further request may be parked. `is_scarce`: all connections together hold a large
    /// part of the budget.
    pub fn is_full(&self, is_scarce: bool) -> bool {
        self.queue.len() >= COUNT_MAX
            || self.memory >= MEMORY_MAX
            || is_scarce && !self.queue.is_empty()
    }

    /// Whether room is held for the front requests.
    pub fn is_granted(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_granted)
    }

    /// Bytes of the buffers held by these requests.
    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn front(&self) -> Option<&ParkedRequest<R>> {
        self.queue.front()
    }

    /// Appends a request. A buffer counts with the last request in it, because that one frees it.
    pub fn push(&mut self, request: ParkedRequest<R>, is_same_read: bool) {
        if is_same_read && let Some(last) = self.queue.back_mut() {
            self.memory -= std::mem::take(&mut last.memory);
        }
        self.memory += request.memory;
        self.queue.push_back(request);
    }

    /// Removes the front request, and the ticket with the last one.
    pub fn pop(&mut self) -> Option<ParkedRequest<R>> {
        let request = self.queue.pop_front()?;
        self.memory -= request.memory;
        if self.queue.is_empty() {
            self.ticket = None;
        }
        Some(request)
    }

    /// Puts back the front request, for which there was no room.
    pub fn put_back(&mut self, request: ParkedRequest<R>) {
        self.memory += request.memory;
        self.queue.push_front(request);
    }

    /// Bytes to request with the next ticket.
    pub fn batch_size(&self) -> usize {
        let mut size = 0;
        for request in &self.queue {
            let with_this = size + request.append_size;
            if size > 0 && with_this > BATCH_SIZE {
                break;
            }
            size = with_this;
        }
        size
    }

    /// Wakes the executing task: the connection's share may allow more now, or there may be nothing
    /// left to wait for.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(nth: u32, append_size: usize, memory: usize) -> ParkedRequest<u32> {
        let read_at = Moment(u64::from(nth));
        ParkedRequest { request: nth, read_at, size: append_size, append_size, memory }
    }

    #[test]
    fn a_buffer_counts_once_and_until_its_last_request_is_gone() {
        let mut parked = Parked::default();
        parked.push(request(0, 1, 100), false);
        parked.push(request(1, 1, 100), true);
        parked.push(request(2, 1, 50), false);
        assert_eq!(parked.memory(), 150);
        let first = parked.pop().unwrap();
        assert_eq!(parked.memory(), 150, "the second has the same buffer");
        parked.put_back(first);
        let order: Vec<_> = std::iter::from_fn(|| {
            let request = parked.pop()?.request;
            Some((request, parked.memory()))
        })
        .collect();
        assert_eq!(order, [(0, 150), (1, 50), (2, 0)]);
    }

    #[test]
    fn a_batch_holds_what_fits_and_at_least_the_front_request() {
        for (sizes, expected) in [
            (&[1000, 2000][..], 3000),
            (&[BATCH_SIZE, 1], BATCH_SIZE),
            (&[1, BATCH_SIZE], 1),
            (&[5 * BATCH_SIZE, 1], 5 * BATCH_SIZE),
        ] {
            let mut parked = Parked::default();
            for size in sizes {
                parked.push(request(0, *size, 0), false);
            }
            assert_eq!(parked.batch_size(), expected, "{sizes:?}");
        }
    }

    #[test]
    fn one_request_always_finds_a_place() {
        let mut parked = Parked::default();
        assert!(!parked.is_full(true));
        parked.push(request(0, 1, 100), false);
        assert!(parked.is_full(true) && !parked.is_full(false));
        parked.push(request(1, 1, MEMORY_MAX), false);
        assert!(parked.is_full(false));
        assert!(parked.pop().is_some() && parked.pop().is_some());
        (0..COUNT_MAX).for_each(|_| parked.push(request(0, 1, 0), true));
        assert!(parked.is_full(false));
    }
}
