//! A NameServer as a service: the route table, and the clock for its leases.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::clock;
use super::service::Service;
use super::shard::Shard;
use crate::broker::operation::Context;
use crate::broker::{Answer, Handled, Origin, Outcome, PullTask};
use crate::model::nameserver::Registration;
use crate::model::{LogOffset, Metrics, Moment, NameServerReply, NameServerRequest, Now, Refusal};
use crate::nameserver::{ConnectionId, Routes};
use crate::reactor;
use crate::storage::{AppendError, Standing, Ticket};

/// Interval of lease checks (remoting reference, 2.1).
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

/// How often a name conflict between brokers is logged while it lasts.
const CONTEST_EVERY_MS: u64 = 3_600_000;
/// Maximum number of names whose last log time is kept; conflicts of further names are not logged.
const CONTESTED_MAX: usize = 1_000;

#[derive(Default)]
pub struct NameService {
    routes: RefCell<Routes>,
    /// When a conflict of a name, or unusable or hidden topics of a broker, were last logged.
    contested: RefCell<HashMap<String, Moment>>,
    metrics: Rc<Metrics>,
}

impl NameService {
    fn answer(
        &self,
        request: &NameServerRequest,
        connection: u64,
        now: Moment,
    ) -> Result<NameServerReply, Refusal> {
        let connection = ConnectionId(connection);
        match request {
            NameServerRequest::RegisterBroker(registration) => {
                self.register(request, registration, connection, now)
            }
            _ => self.routes.borrow_mut().handle(request, connection, now),
        }
    }

    fn register(
        &self,
        request: &NameServerRequest,
        registration: &Registration,
        connection: ConnectionId,
        now: Moment,
    ) -> Result<NameServerReply, Refusal> {
        let broker = &registration.broker;
        let mut routes = self.routes.borrow_mut();
        let contested = routes.contested_by(registration).map(str::to_owned);
        let reply = routes.handle(request, connection, now)?;
        if !registration.skipped.is_empty()
            && self.is_to_be_said(&format!("topics of {}", broker.name), now)
        {
            let skipped = registration.skipped.join("; ");
            tracing::warn!("{} registers topics that cannot be used: {skipped}", broker.name);
        }
        if !registration.misnamed.is_empty()
            && self.is_to_be_said(&format!("names of {}", broker.name), now)
        {
            let misnamed = registration.misnamed.join(", ");
            tracing::info!(
                "{} registers names that are no topics, so they get no route: {misnamed}",
                broker.name
            );
        }
        // A broker that stops or falls silent loses its route first, so a broker that is replaced
        // is still running.
        if let Some(before) = contested
            && self.is_to_be_said(&broker.name, now)
        {
            tracing::warn!(
                "{} at {} replaces {before}, which is still connected: two brokers with the same \
                 name keep replacing each other's route; give one of them another --name",
                broker.name,
                broker.address
            );
        }
        Ok(reply)
    }

    /// Logs topics that are not shown because of their names.
    fn report_shadowed(&self, now: Moment) {
        for (topic, broker) in self.routes.borrow().shadowed() {
            if self.is_to_be_said(&format!("topic {topic} of {broker}"), now) {
                tracing::warn!(
                    "topic {topic} of {broker} is not routed, because another broker or a cluster \
                     has this name; give that another name to reach its messages, or delete it"
                );
            }
        }
    }

    /// Whether to log something about `name` now; the memory for this is bounded.
    fn is_to_be_said(&self, name: &str, now: Moment) -> bool {
        let mut contested = self.contested.borrow_mut();
        contested.retain(|_, said_at| now.ms_since(*said_at) < CONTEST_EVERY_MS);
        if contested.contains_key(name) || contested.len() >= CONTESTED_MAX {
            return false;
        }
        contested.insert(name.to_owned(), now);
        true
    }
}

impl Service for NameService {
    type Request = NameServerRequest;
    type Reply = NameServerReply;

    fn handle(&self, _: &NameServerRequest, _: Origin, _: Now) -> Handled<Self::Reply> {
        Handled::Operation
    }

    async fn operate(
        &self,
        request: NameServerRequest,
        context: &impl Context,
    ) -> Answer<Self::Reply> {
        let reply = self.answer(&request, context.origin().connection, context.now().moment);
        Answer { reply, chunks: Vec::new() }
    }

    async fn pull_cold(&self, _: Box<PullTask>, _: &impl Context) -> Outcome<Self::Reply> {
        panic!("a NameServer has no messages")
    }

    fn metrics(&self) -> Rc<Metrics> {
        self.metrics.clone()
    }

    fn standing(&self) -> Standing {
        Standing { committed: LogOffset(u64::MAX), is_fenced: false, cut_count: 0 }
    }

    fn connection_budget(&self) -> usize {
        usize::MAX
    }

    fn ticket(&self, _size: usize) -> Result<Ticket, AppendError> {
        unreachable!("a NameServer has no log")
    }

    fn connection_closed(&self, connection: u64) {
        self.routes.borrow_mut().connection_closed(ConnectionId(connection));
    }
}

impl Shard<NameService> {
    /// Expires leases, and reports hidden topics, until the shard stops.
    pub async fn expire(self: Rc<Self>) {
        while !self.is_stopping.get() {
            reactor::sleep(EXPIRE_EVERY).await;
            let now = clock::moment();
            self.service.routes.borrow_mut().expire(now);
            self.service.report_shadowed(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DataVersion;
    use crate::model::nameserver::BrokerId;

    #[test]
    fn a_contested_name_is_told_once_an_hour_and_a_thousand_of_them_at_most() {
        let service = NameService::default();
        let said = |at| (0..4).filter(|_| service.is_to_be_said("broker-a", Moment(at))).count();
        assert_eq!(said(0), 1);
        assert_eq!(said(CONTEST_EVERY_MS - 1), 0);
        assert_eq!(said(CONTEST_EVERY_MS), 1);
        for nth in 1..CONTESTED_MAX {
            assert!(service.is_to_be_said(&format!("broker-{nth}"), Moment(CONTEST_EVERY_MS)));
        }
        assert!(!service.is_to_be_said("one-more", Moment(CONTEST_EVERY_MS)));
    }

    #[test]
    fn only_another_address_contests_a_name() {
        let service = NameService::default();
        let register = |port: usize| {
            let (cluster, name) = ("c".to_owned(), "broker-a".to_owned());
            let registration = Registration {
                broker: BrokerId { cluster, name, address: format!("10.0.0.1:{port}"), id: 0 },
                ha_address: String::new(),
                lease_ms: None,
                version: DataVersion::default(),
                topics: Vec::new(),
                skipped: Vec::new(),
                misnamed: Vec::new(),
            };
            let request = NameServerRequest::RegisterBroker(registration);
            service.answer(&request, port as u64, Moment(0)).unwrap();
            service.contested.borrow().len()
        };
        assert_eq!(register(1), 0);
        assert_eq!(register(1), 0, "it repeats its own registration");
        service.connection_closed(1);
        assert_eq!(register(2), 0, "the first is gone");
        assert_eq!(register(1), 1);
    }
}
