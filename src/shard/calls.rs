//! Requests that a server sends over a client's connection, and the replies to them.
//!
//! They are sent in order with the connection's other output. A reply is matched by its opaque
//! number, which the connection assigns. A call that the client does not answer ends at the
//! broker's deadline.

use std::collections::HashMap;

use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::model::{ClientReply, ClientRequest, excerpt};
use crate::wire::header::head::{Dialect, Head, Language};
use crate::wire::{self, ReplyError, Response};

/// Maximum number of calls in flight to one client; further ones are refused.
const CALLS_MAX: usize = 1_000;
/// Maximum number of characters kept of a client's remark.
const REMARK_SIZE_MAX: usize = 200;

/// How the reply to a call is read.
type ReadReply = fn(&Response) -> Result<ClientReply, ReplyError>;

/// The calls in flight on one connection.
#[derive(Default)]
pub struct Calls {
    in_flight: HashMap<i32, (CallId, ReadReply)>,
    last_opaque: i32,
    /// The header encoding of the client's last request, used for requests to it.
    dialect: Dialect,
}

impl Calls {
    pub fn note_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// The client's language, as in its last request.
    pub fn language(&self) -> Language {
        self.dialect.language
    }

    /// Encodes a request to the client. Returns the call if it cannot be sent.
    pub fn encode(&mut self, outgoing: &Outgoing) -> Result<Vec<u8>, (Option<CallId>, CallError)> {
        if outgoing.call.is_some() && self.in_flight.len() >= CALLS_MAX {
            return Err((outgoing.call, CallError::TooMany));
        }
        let opaque = self.next_opaque();
        let mut frame = Vec::new();
        wire::encode_client_request(&mut frame, self.dialect, opaque, &outgoing.request).map_err(
            |error| (outgoing.call, CallError::Refused { code: 0, remark: error.to_string() }),
        )?;
        if let Some(call) = outgoing.call {
            self.in_flight.insert(opaque, (call, reader(&outgoing.request)));
        }
        Ok(frame)
    }

    /// The call that a client's reply answers, and the reply's content. Unexpected replies are
    /// ignored.
    pub fn take_reply(
        &mut self,
        head: Head<'_>,
    ) -> Option<(CallId, Result<ClientReply, CallError>)> {
        let response = Response::of(head).ok()?;
        let (call, read) = self.in_flight.remove(&response.opaque)?;
        let refused = |error: ReplyError| CallError::Refused {
            code: error.code,
            remark: excerpt(error.remark, REMARK_SIZE_MAX),
        };
        Some((call, read(&response).map_err(refused)))
    }

    /// A number that no call in flight has. Positive, because one stock client treats 0 as none.
    fn next_opaque(&mut self) -> i32 {
        loop {
            self.last_opaque = self.last_opaque.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_opaque) {
                return self.last_opaque;
            }
        }
    }
}

fn reader(request: &ClientRequest) -> ReadReply {
    match request {
        ClientRequest::MembersChanged { .. }
        | ClientRequest::ResetOffsets(_)
        | ClientRequest::PushReply(_) => |reply| reply.done().map(|()| ClientReply::Done),
        ClientRequest::ConsumerStatus { .. } => {
            |reply| reply.consumer_status().map(ClientReply::ConsumerStatus)
        }
        ClientRequest::RunningInfo(_) | ClientRequest::ConsumeDirectly { .. } => {
            |reply| reply.relayed().map(ClientReply::Relayed)
        }
    }
}
