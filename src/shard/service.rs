//! The interface through which a connection has requests executed: a broker's shard or a
//! NameServer.

use std::rc::Rc;

use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::broker::operation::Context;
use crate::broker::{Answer, Handled, Origin, Outcome, PullTask};
use crate::model::record::Host;
use crate::model::{ClientReply, Metrics, Now, Principal, Refusal};
use crate::storage::{AppendError, Awaited, Standing, Ticket};
use crate::wire::{DecodeRequest, EncodeReply, Head};

/// What a connection needs to execute requests. Has two implementations:
/// `shard::broker::BrokerService` and `shard::nameserver::NameService`.
#[allow(async_fn_in_trait)] // Futures stay on the shard that made them and need not be Send.
pub trait Service: 'static {
    /// Supported requests; others are refused by code, before they are decoded.
    type Request: DecodeRequest + Clone;
    type Reply: EncodeReply;

    /// The principal of the request with this head, sent by `peer`. This is the only place that
    /// decides it, and it is called before the command's fields are decoded.
    fn principal(&self, _head: &Head<'_>, _peer: Host) -> Result<Principal, Refusal> {
        Ok(Principal::Anonymous)
    }

    /// Whether this request appends a client's messages. Such a request is refused rather than made
    /// to wait long.
    fn stores(_request: &Self::Request) -> bool {
        false
    }

    /// Executes a request as far as possible without waiting.
    fn handle(&self, request: &Self::Request, origin: Origin, now: Now) -> Handled<Self::Reply>;

    /// Continues a request for which [`handle`](Self::handle) returned [`Handled::Operation`].
    async fn operate(&self, request: Self::Request, context: &impl Context) -> Answer<Self::Reply>;

    /// Continues a pull for which [`handle`](Self::handle) returned [`Outcome::Cold`].
    async fn pull_cold(&self, task: Box<PullTask>, context: &impl Context) -> Outcome<Self::Reply>;

    /// The registry that the connections update too.
    fn metrics(&self) -> Rc<Metrics>;

    /// The committed watermark, and whether replies that are still waiting can never be sent.
    fn standing(&self) -> Standing;

    /// Whether the entries that a reply waits for have been cut off the log since.
    fn was_cut(&self, _awaited: Awaited) -> bool {
        false
    }

    /// Maximum bytes that one connection may have appended but not committed.
    fn connection_budget(&self) -> usize;

    /// A ticket to wait for room in the log, for an append of `size` bytes.
    fn ticket(&self, size: usize) -> Result<Ticket, AppendError>;

    /// How many more bytes of requests may wait for room in the log before they exceed what can be
    /// in flight.
    fn spare_room(&self) -> u64 {
        u64::MAX
    }

    fn connection_closed(&self, connection: u64);

    /// The next request to a client.
    fn take_outgoing(&self) -> Option<Outgoing> {
        None
    }

    /// A client has answered a request, or the request could not be sent.
    fn reply_arrived(&self, _call: CallId, _reply: Result<ClientReply, CallError>) {}
}
