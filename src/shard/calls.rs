//! Requests that a server sends over a client's connection, and the replies to them.
//!
//! They leave with the connection's other output, in order; a reply is recognised by its number, which
//! is the connection's own. What a client does not answer ends with the broker's deadline.

use std::collections::HashMap;

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

    /// The frame of a request to the client. Gives the call back when it cannot be sent.
    pub fn encode(&mut self, outgoing: &Outgoing) -> Result<Vec<u8>, (Option<CallId>, CallError)> {
        if outgoing.call.is_some() && self.waiting.len() >= CALLS_MAX {
            return Err((outgoing.call, CallError::TooMany));
        }
        let opaque = self.next_opaque();
        let mut frame = Vec::new();
        wire::encode_client_request(&mut frame, self.dialect, opaque, &outgoing.request).map_err(
            |error| (outgoing.call, CallError::Refused { code: 0, remark: error.to_string() }),
        )?;
        if let Some(call) = outgoing.call {
            self.waiting.insert(opaque, call);
        }
        Ok(frame)
    }

    /// The call that a client's reply belongs to, and what it says. Replies to nothing are ignored.
    pub fn take_reply(
        &mut self,
        head: Head<'_>,
    ) -> Option<(CallId, Result<ClientReply, CallError>)> {
        let response = Response::of(head).ok()?;
        let call = self.waiting.remove(&response.opaque)?;
        Some((call, read_reply(&response)))
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

/// The only request with a reply asks where a consumer is.
fn read_reply(response: &Response) -> Result<ClientReply, CallError> {
    let status = response.consumer_status().map(ClientReply::ConsumerStatus);
    status.map_err(|error| CallError::Refused {
        code: error.code,
        remark: excerpt(error.remark, REMARK_SIZE_MAX),
    })
}
