//! What a connection asks to have requests carried out: a broker's shard or a NameServer.

use std::rc::Rc;

use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::broker::operation::Context;
use crate::broker::{Answer, Origin, Outcome, PullTask};
use crate::model::record::Host;
use crate::model::{ClientReply, Metrics, Now, Principal, Refusal};
use crate::storage::{AppendError, Awaited, Standing, Ticket};
use crate::wire::{DecodeRequest, EncodeReply, Head};

/// Two implementations: `shard::broker::BrokerService` and `shard::nameserver::NameService`.
#[allow(async_fn_in_trait)] // Futures stay on the shard that made them and need not be Send.
pub trait Service: 'static {
    /// Requests that are served; others are refused by their code, before they are read.
    type Request: DecodeRequest + Clone;
    type Reply: EncodeReply;

    /// On whose behalf the request with this head comes, sent by `peer`. The only place that decides
    /// it, and it comes before the fields of the command are read.
    fn principal(&self, _head: &Head<'_>, _peer: Host) -> Result<Principal, Refusal> {
        Ok(Principal::Anonymous)
    }

    /// Whether this request appends a client's messages, so that it is refused rather than kept
    /// waiting for long.
    fn stores(_request: &Self::Request) -> bool {
        false
    }

    /// Carries out a request as far as that is possible without waiting.
    fn handle(&self, request: &Self::Request, origin: Origin, now: Now) -> Outcome<Self::Reply>;

    /// Goes on with a request for which [`handle`](Self::handle) gave [`Outcome::Operation`].
    async fn operate(&self, request: Self::Request, context: &impl Context) -> Answer<Self::Reply>;

    /// Goes on with a pull for which [`handle`](Self::handle) gave [`Outcome::Cold`].
    async fn pull_cold(&self, task: Box<PullTask>, context: &impl Context) -> Outcome<Self::Reply>;

    /// The registry in which the connections count, too.
    fn metrics(&self) -> Rc<Metrics>;

    /// Up to which mark answers may be sent, and whether those that still wait will ever be true.
    fn standing(&self) -> Standing;

    /// Whether what an answer waits for has been cut off the log since.
    fn was_cut(&self, _awaited: Awaited) -> bool {
        false
    }

    /// Bytes that one connection may have appended before they are safe.
    fn connection_budget(&self) -> usize;

    /// A place among those who wait for room in the log, for an append of `size` bytes.
    fn ticket(&self, size: usize) -> Result<Ticket, AppendError>;

    fn connection_closed(&self, connection: u64);

    /// The next request to a client.
    fn take_outgoing(&self) -> Option<Outgoing> {
        None
    }

    /// A client has answered a request, or it could not be sent.
    fn reply_arrived(&self, _call: CallId, _reply: Result<ClientReply, CallError>) {}
}
