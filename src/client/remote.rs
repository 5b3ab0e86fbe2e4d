//! What all parts of the client share: NameServers, routes, and which header each broker speaks.
//!
//! Questions about the cluster block ([`Remote::ask`], [`Remote::ask_nameserver`]). What happens while
//! traffic flows does not: refreshing a route and greeting a broker are started here, and their
//! answers are taken in by [`Remote::turn`].
//!
//! A client that has its routes goes on while all NameServers are gone.

use std::collections::HashMap;
use std::sync::Arc;

use crate::client::ask::Ask;
use crate::client::blocking::{Call, Caller, Connections};
use crate::client::error::{Attempts, ClientError};
use crate::client::nameservers::NameServers;
use crate::client::route_cache::RouteCache;
use crate::client::session::{CallResult, ServerRequest};
use crate::model::nameserver::{ClusterInfo, Route};
use crate::model::request::Heartbeat;
use crate::model::{ClientReply, GroupName, NameServerRequest, Refusal, Request, Timestamp};
use crate::wire::codes::response::TOPIC_NOT_EXIST;
use crate::wire::{HeaderEncoding, ReplyError, ReplyTo, Response};

/// A broker is greeted again after this long, ms, as stock clients do (remoting reference, 6.1).
const GREETING_PERIOD_MS: u64 = 30_000;
/// After a greeting failed, the broker counts as unreachable for this long, ms.
const GREETING_BACKOFF_MS: u64 = 200;
/// How long to wait for a broker when this client leaves, ms.
const SIGN_OFF_TIMEOUT_MS: u64 = 500;

/// How long a client waits for an answer, ms, as stock clients do (remoting reference, 1.7 and 6.1).
pub const CALL_TIMEOUT_MS: u64 = 3_000;

#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port,host:port`.
    pub nameservers: String,
    /// What this client calls itself; unique among the clients of a cluster.
    pub client_id: String,
    pub connect_timeout_ms: u64,
    pub call_timeout_ms: u64,
}

impl ClientOptions {
    /// The time-outs of stock clients (remoting reference, 1.7 and 6.1).
    pub fn new(nameservers: impl Into<String>) -> Self {
        Self {
            nameservers: nameservers.into(),
            client_id: format!("ringmq@{}", std::process::id()),
            connect_timeout_ms: 3_000,
            call_timeout_ms: CALL_TIMEOUT_MS,
        }
    }
}

pub struct Remote {
    options: ClientOptions,
    connections: Connections,
    nameservers: NameServers,
    routes: RouteCache,
    peers: HashMap<String, Peer>,
    /// Requests of our own that nobody waits for.
    errands: HashMap<Call, Errand>,
}

enum Errand {
    Greeting { address: String },
    Route { topic: String, nameserver: String },
}

/// A broker as known from its answers to greetings.
#[derive(Clone, Debug)]
struct Peer {
    /// The connection that was greeted: behind another there may be another server.
    line: u64,
    greeted_at: Timestamp,
    speaks_fixed: Result<Option<bool>, String>,
}

/// Whether a broker may be sent something, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    Known(HeaderEncoding),
    /// The greeting is under way; a later [`Remote::turn`] brings the answer.
    Asking,
    Unreachable(String),
}

impl Remote {
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let nameservers = NameServers::parse(&options.nameservers)?;
        let connections = Connections::new(options.connect_timeout_ms);
        let (routes, peers, errands) = Default::default();
        Ok(Self { options, connections, nameservers, routes, peers, errands })
    }

    pub fn now(&self) -> Timestamp {
        self.connections.now()
    }

    pub fn nameservers(&self) -> &[String] {
        self.nameservers.addresses()
    }

    pub fn client_id(&self) -> &str {
        &self.options.client_id
    }

    /// Asks `address` and waits for the answer, which `read` understands.
    pub fn ask<T>(
        &mut self,
        address: &str,
        request: &impl Ask,
        read: impl FnOnce(&Response) -> Result<T, ReplyError>,
    ) -> Result<T, ClientError> {
        let timeout_ms = self.options.call_timeout_ms;
        let response = self.connections.call(address, HeaderEncoding::Json, request, timeout_ms)?;
        read(&response).map_err(|error| refused(request, address, error))
    }

    /// Asks the NameServers one after another until one gives an answer that `read` understands. One
    /// that refuses may merely know less than the next.
    pub fn ask_nameserver<T>(
        &mut self,
        request: &NameServerRequest,
        read: impl Fn(&Response) -> Result<T, ReplyError>,
    ) -> Result<T, ClientError> {
        let addresses: Vec<String> = self.nameservers.in_order().map(str::to_owned).collect();
        let mut tried = Attempts::default();
        let mut refusal = None;
        for address in addresses {
            match self.ask(&address, request, &read) {
                Ok(answer) => {
                    self.nameservers.prefer(&address);
                    return Ok(answer);
                }
                Err(error) => {
                    tried.push(&address, &error);
                    refusal = refusal.or((!error.is_about_reaching()).then_some(error));
                }
            }
        }
        let what = request.what().to_owned();
        Err(refusal.unwrap_or(ClientError::NoNameServer { what, tried }))
    }

    /// The route of `topic`: from memory when it is known, even if it is old; then a fresh one is
    /// asked for on the side.
    pub fn route(&mut self, topic: &str) -> Result<Arc<Route>, ClientError> {
        let Some(route) = self.routes.find(topic) else { return self.fetch_route(topic) };
        self.refresh_route(topic);
        Ok(route)
    }

    /// The route of `topic` as far as it is known.
    pub fn known_route(&self, topic: &str) -> Option<Arc<Route>> {
        self.routes.find(topic)
    }

    /// Asks for the route of `topic` and waits for it.
    pub fn fetch_route(&mut self, topic: &str) -> Result<Arc<Route>, ClientError> {
        let request = NameServerRequest::Route { topic: topic.into() };
        match self.ask_nameserver(&request, Response::route) {
            Ok(route) => Ok(self.routes.handle_route(topic, route, self.now())),
            Err(ClientError::Refused { code: TOPIC_NOT_EXIST, .. }) => {
                Err(ClientError::UnknownTopic(topic.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Uses `route` for `topic` until a NameServer knows better.
    pub fn assume_route(&mut self, topic: &str, route: Route) -> Arc<Route> {
        let route = self.routes.handle_route(topic, route, self.now());
        self.routes.doubt(topic);
        route
    }

    /// A broker contradicted the route of `topic`, or is not there.
    pub fn doubt_route(&mut self, topic: &str) {
        self.routes.doubt(topic);
    }

    pub fn forget_route(&mut self, topic: &str) {
        self.routes.forget(topic);
    }

    pub fn cluster_info(&mut self) -> Result<ClusterInfo, ClientError> {
        self.ask_nameserver(&NameServerRequest::ClusterInfo, Response::cluster)
    }

    /// Starts a request to a broker; see [`Connections::start`].
    pub fn start(
        &mut self,
        address: &str,
        encoding: HeaderEncoding,
        request: &impl Ask,
    ) -> Result<Call, ClientError> {
        self.start_held(address, encoding, request, 0)
    }

    /// Starts a request that the broker may hold for `hold_ms` before it answers.
    pub fn start_held(
        &mut self,
        address: &str,
        encoding: HeaderEncoding,
        request: &impl Ask,
        hold_ms: u64,
    ) -> Result<Call, ClientError> {
        let timeout_ms = self.options.call_timeout_ms + hold_ms;
        self.connections.start(address, encoding, request, timeout_ms)
    }

    pub fn has_room(&self, address: &str) -> bool {
        self.connections.has_room(address)
    }

    /// Lets things happen until `until` or until something did.
    pub fn turn(&mut self, until: Timestamp) {
        self.connections.turn(until);
    }

    /// The next result of a request that was started by the caller. `None` with `true`: something of
    /// our own has ended, and what was [`Asking`](Dialect::Asking) may not be so any more.
    pub fn poll_finished(&mut self) -> (Option<(Call, CallResult)>, bool) {
        let mut was_errand = false;
        while let Some((call, result)) = self.connections.poll_finished() {
            match self.errands.remove(&call) {
                Some(errand) => self.complete_errand(errand, call.line, result),
                None => return (Some((call, result)), was_errand),
            }
            was_errand = true;
        }
        (None, was_errand)
    }

    /// The next request of a server, and who sent it.
    pub fn poll_server_request(&mut self) -> Option<(Caller, ServerRequest)> {
        self.connections.poll_server_request()
    }

    /// Replies to a request of a server.
    pub fn reply(&mut self, caller: &Caller, to: ReplyTo, reply: &Result<ClientReply, Refusal>) {
        self.connections.reply(caller, to, reply);
    }

    /// How to speak to the broker at `address`. Greets it when that is not known, and every now and
    /// then, as a member of `group` if it sends messages.
    pub fn dialect(&mut self, address: &str, producer: Option<&GroupName>) -> Dialect {
        let now = self.now();
        let line = self.connections.line_to(address);
        let known = self.peers.get(address).cloned();
        let known = known.filter(|peer| match peer.speaks_fixed {
            Ok(_) => Some(peer.line) == line,
            Err(_) => now.ms_since(peer.greeted_at) < GREETING_BACKOFF_MS,
        });
        let Some(peer) = known else {
            return match self.greet(address, producer, None) {
                Ok(()) => Dialect::Asking,
                Err(error) => Dialect::Unreachable(error.to_string()),
            };
        };
        match peer.speaks_fixed {
            Err(why) => Dialect::Unreachable(why),
            Ok(None) => Dialect::Asking,
            Ok(Some(fixed)) => {
                if now.ms_since(peer.greeted_at) >= GREETING_PERIOD_MS {
                    // What is known stays in use until the answer comes.
                    let _ = self.greet(address, producer, Some(fixed));
                }
                let encoding = if fixed { HeaderEncoding::Fixed } else { HeaderEncoding::Json };
                Dialect::Known(encoding)
            }
        }
    }

    /// Tells the brokers that were greeted that this client leaves `group`. Those that do not answer
    /// find out when the connection closes.
    pub fn sign_off(&mut self, group: &GroupName) {
        let request = Request::Unregister {
            client: self.options.client_id.as_str().into(),
            producer: Some(group.clone()),
            consumer: None,
        };
        let addresses: Vec<String> = self.peers.keys().cloned().collect();
        let mut calls = Vec::new();
        for address in addresses {
            let known = self.peers[&address].line;
            if self.connections.line_to(&address) == Some(known) {
                let timeout_ms = SIGN_OFF_TIMEOUT_MS.min(self.options.call_timeout_ms);
                let encoding = HeaderEncoding::Json;
                calls.extend(self.connections.start(&address, encoding, &request, timeout_ms));
            }
        }
        for call in calls {
            let _ = self.connections.wait_for(call);
        }
    }

    fn greet(
        &mut self,
        address: &str,
        producer: Option<&GroupName>,
        so_far: Option<bool>,
    ) -> Result<(), ClientError> {
        let request = Request::Heartbeat(Heartbeat {
            client: self.options.client_id.as_str().into(),
            producers: producer.into_iter().cloned().collect(),
            ..Heartbeat::default()
        });
        let call = self.start(address, HeaderEncoding::Json, &request)?;
        let peer = Peer { line: call.line, greeted_at: self.now(), speaks_fixed: Ok(so_far) };
        self.peers.insert(address.to_owned(), peer);
        self.errands.insert(call, Errand::Greeting { address: address.to_owned() });
        Ok(())
    }

    /// Asks for a fresh route on the side when it is time to.
    pub fn refresh_route(&mut self, topic: &str) {
        let now = self.now();
        if !self.routes.is_due(topic, now) {
            return;
        }
        self.routes.handle_no_answer(topic, now);
        let request = NameServerRequest::Route { topic: topic.into() };
        let address = self.nameservers.in_order().next().expect("the list is not empty").to_owned();
        match self.start(&address, HeaderEncoding::Json, &request) {
            Ok(call) => {
                let (topic, nameserver) = (topic.to_owned(), address);
                self.errands.insert(call, Errand::Route { topic, nameserver });
            }
            Err(_) => self.prefer_another(&address),
        }
    }

    fn complete_errand(&mut self, errand: Errand, line: u64, result: CallResult) {
        let now = self.now();
        match (errand, result) {
            (Errand::Greeting { address }, result) => {
                // What an earlier connection said does not count for this one.
                let peer = self.peers.get_mut(&address).filter(|peer| peer.line == line);
                let Some(peer) = peer else { return };
                peer.greeted_at = now;
                peer.speaks_fixed = match result {
                    Ok(response) => Ok(Some(response.speaks_fixed())),
                    Err(error) => Err(error.to_string()),
                };
            }
            (Errand::Route { topic, nameserver }, Ok(response)) => match response.route() {
                Ok(route) => drop(self.routes.handle_route(&topic, route, now)),
                // It may have started anew and know less than the others.
                Err(_) => self.prefer_another(&nameserver),
            },
            (Errand::Route { nameserver, .. }, Err(_)) => self.prefer_another(&nameserver),
        }
    }

    fn prefer_another(&mut self, than: &str) {
        let another = self.nameservers.in_order().find(|address| *address != than);
        if let Some(another) = another.map(str::to_owned) {
            self.nameservers.prefer(&another);
        }
    }
}

/// Where the master of `broker` listens.
pub fn master_address<'a>(route: &'a Route, broker: &str) -> Option<&'a str> {
    let broker = route.brokers.iter().find(|known| known.name == broker)?;
    broker.addresses.iter().find(|(id, _)| *id == 0).map(|(_, address)| address.as_str())
}

pub(crate) fn refused(request: &impl Ask, address: &str, error: ReplyError) -> ClientError {
    let (what, address) = (request.what().to_owned(), address.to_owned());
    ClientError::Refused { what, address, code: error.code, remark: error.remark }
}
