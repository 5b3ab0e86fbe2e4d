//! Requests that a server sends over a client's connection, and the replies to them.
//!
//! They leave with the connection's other output, in order; a reply is recognised by its number, which
//! is the connection's own. What a client does not answer ends with the broker's deadline.

use std::collections::HashMap;

use super::connection::Connection;
use super::service::Service;
use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::model::{ClientReply, excerpt};
use crate::wire::header::head::{Dialect, Head};
use crate::wire::{self, Response};

/// Replies of one client that are waited for at a time; the further ones are refused.
const CALLS_MAX: usize = 1_000;
/// Characters of a client's remark that are kept.
const REMARK_SIZE_MAX: usize = 200;

/// What one connection was sent and has not answered.
#[derive(Default)]
pub struct Calls {
    waiting: HashMap<i32, CallId>,
    last_opaque: i32,
    /// How the client's own last request was written; requests to it are written the same way.
    dialect: Dialect,
}

impl Calls {
    pub fn note_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// A number that no waiting call has. Positive: one stock client takes 0 for none.
    fn next_opaque(&mut self) -> i32 {
        loop {
            self.last_opaque = self.last_opaque.checked_add(1).unwrap_or(1);
            if !self.waiting.contains_key(&self.last_opaque) {
                return self.last_opaque;
            }
        }
    }
}

impl<S: Service> Connection<S> {
    /// Puts a request to the client into the output; the caller flushes. Gives the call back when it
    /// cannot be sent.
    pub fn send_request(&self, outgoing: &Outgoing) -> Result<(), (CallId, CallError)> {
        let calls = &mut *self.calls.borrow_mut();
        let opaque = calls.next_opaque();
        if let Some(call) = outgoing.call {
            if calls.waiting.len() >= CALLS_MAX {
                return Err((call, CallError::TooMany));
            }
            calls.waiting.insert(opaque, call);
        }
        let mut bytes = Vec::new();
        let encoded =
            wire::encode_client_request(&mut bytes, calls.dialect, opaque, &outgoing.request);
        if let (Err(error), Some(call)) = (encoded, outgoing.call) {
            calls.waiting.remove(&opaque);
            return Err((call, CallError::Refused { code: 0, remark: error.to_string() }));
        }
        self.push_output(&bytes);
        Ok(())
    }

    /// Takes a client's reply to the service that waits for it; replies to nothing are ignored.
    pub fn take_reply(&self, head: Head<'_>) {
        let Ok(response) = Response::of(head) else { return };
        let Some(call) = self.calls.borrow_mut().waiting.remove(&response.opaque) else { return };
        self.shard.service.reply_arrived(call, read_reply(&response));
    }
}

/// The only request with a reply asks where a consumer is.
fn read_reply(response: &Response) -> Result<ClientReply, CallError> {
    let status = response.consumer_status().map(ClientReply::ConsumerStatus);
    status.map_err(|error| CallError::Refused {
        code: error.code,
        remark: excerpt(error.remark, REMARK_SIZE_MAX),
    })
}
