//! What a connection keeps about a request besides its content.

use std::time::Instant;

use crate::model::{Moment, Now, Principal};
use crate::wire::ReplyTo;

/// One request until it is answered: the id by which the service knows it, and where its reply
/// goes.
#[derive(Clone, Copy)]
pub struct Asked {
    pub ticket: u64,
    /// `None` for a one-way request.
    pub to: Option<ReplyTo>,
    pub principal: Principal,
    /// Bytes of the request.
    pub size: usize,
    pub read_at: Instant,
}

/// The time at which a request is handled. Requests of one read that did not wait share it, because
/// reading the clock twice per request costs as much as finding its queue.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub now: Now,
    /// When the request was read.
    pub read_at: Moment,
    /// Requests with the same number are in the same memory: that of one read, or a copy of its end.
    pub read: u64,
    /// Size of that memory, bytes.
    pub memory: usize,
}

impl Arrival {
    pub fn waited_ms(&self) -> u64 {
        self.now.moment.ms_since(self.read_at)
    }
}
