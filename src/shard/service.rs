//! What a connection asks to have requests carried out: a broker's shard or a NameServer.

use crate::broker::{Answer, ColdRead, Origin, Outcome};
use crate::model::{LogOffset, Now, Request};
use crate::wire::Server;

/// Two implementations: `shard::broker::BrokerService` and `shard::nameserver::NameService`.
#[allow(async_fn_in_trait)] // Futures stay on the shard that made them and need not be Send.
pub trait Service: 'static {
    /// Requests for servers of another kind are refused before they are read.
    const KIND: Server;

    /// Carries out a request as far as that is possible without waiting.
    fn handle(&self, request: &Request, origin: Origin, now: Now) -> Served;

    /// Reads what an outcome said must be read, and goes on.
    async fn finish(&self, read: Box<ColdRead>) -> Outcome;

    /// Carries out a request that concerns more than this shard.
    async fn control(&self, request: Request) -> Answer;

    /// Answers with a mark at or below this may be sent.
    fn safe(&self) -> LogOffset;

    /// Whether answers that still wait will never be true.
    fn is_fenced(&self) -> bool;

    /// Waits until an append of `size` bytes may find room, or never will.
    async fn wait_for_room(&self, size: usize);

    fn connection_closed(&self, connection: u64);
}

/// What became of a request.
pub enum Served {
    Outcome(Outcome),
    /// To be awaited with [`Service::control`].
    Control,
}
