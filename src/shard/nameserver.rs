//! A NameServer as a service: the route table, and the clock that its leases need.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::clock;
use super::service::{Served, Service};
use super::shard::Shard;
use crate::broker::{Answer, ColdRead, Origin, Outcome};
use crate::model::{LogOffset, Request, Timestamp};
use crate::nameserver::{ConnectionId, Routes};
use crate::wire::Server;

/// How often leases are looked at (remoting reference, 2.1).
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct NameService {
    routes: RefCell<Routes>,
}

impl Service for NameService {
    const KIND: Server = Server::NameServer;

    fn handle(&self, request: &Request, origin: Origin, now: Timestamp) -> Served {
        let connection = ConnectionId(origin.connection);
        let reply = self.routes.borrow_mut().handle(request, connection, now);
        Served::Outcome(Outcome::Now(Answer { reply, chunks: Vec::new() }))
    }

    async fn finish(&self, _read: Box<ColdRead>) -> Outcome {
        unreachable!("a NameServer has no disk")
    }

    async fn control(&self, _request: Request) -> Answer {
        unreachable!("a NameServer has one shard")
    }

    fn safe(&self) -> LogOffset {
        LogOffset(u64::MAX)
    }

    fn is_fenced(&self) -> bool {
        false
    }

    async fn wait_for_room(&self, _size: usize) {}

    fn connection_closed(&self, connection: u64) {
        self.routes.borrow_mut().connection_closed(ConnectionId(connection));
    }
}

impl Shard<NameService> {
    /// Ends leases that were not renewed, until the shard stops.
    pub async fn expire(self: Rc<Self>) {
        while !self.is_stopping.get() {
            glommio::timer::sleep(EXPIRE_EVERY).await;
            self.service.routes.borrow_mut().expire(clock::now());
        }
    }
}
