//! What all parts of the client share: NameServers, routes, and the header encoding of each broker.
//!
//! Requests about the cluster block ([`Remote::ask`], [`Remote::ask_nameserver`]). Refreshing a
//! route and greeting a broker, which happen during traffic, do not: they are started here, and
//! [`Remote::turn`] handles the replies.
//!
//! A client that has its routes keeps working while all NameServers are down. Of a broker with replicas
//! it asks the leader, and another replica as soon as that one does not reply ([`replicas`]): a
//! replica that does not reply within [`REPLICA_ANSWER_MS`] counts as hanging.
//!
//! [`replicas`]: crate::client::replicas

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use crate::client::ask::Ask;
use crate::client::blocking::{Call, Caller, Connections};
use crate::client::error::{Attempts, ClientError};
use crate::client::nameservers::NameServers;
use crate::client::replicas::Replicas;
use crate::client::route_cache::RouteCache;
use crate::client::session::{CallResult, ServerRequest};
use crate::model::nameserver::{ClusterInfo, Route};
use crate::model::request::{Expression, Heartbeat};
use crate::model::{ClientReply, GroupName, NameServerRequest, Refusal, Request, Timestamp};
use crate::wire::codes::response::TOPIC_NOT_EXIST;
use crate::wire::{HeaderEncoding, ReplyError, ReplyTo, Response};

/// A broker is greeted again after this long, ms, as stock clients do (remoting reference, 6.1).
const GREETING_PERIOD_MS: u64 = 30_000;
/// After a failed greeting, the broker counts as unreachable for this long, ms.
const GREETING_BACKOFF_MS: u64 = 200;
/// How long to wait for a broker when this client leaves, ms.
const SIGN_OFF_TIMEOUT_MS: u64 = 500;

/// Request timeout, ms, that of stock clients (remoting reference, 1.7 and 6.1).
pub const CALL_TIMEOUT_MS: u64 = 3_000;

/// Time limit for a replica's reply, ms; then another replica is asked. Brokers write offsets once
/// a second, before they reply.
const REPLICA_ANSWER_MS: u64 = 2_000;
/// The same for messages, greetings and probes, ms. An election takes longer.
const REPLICA_ANSWER_SOON_MS: u64 = 1_000;
/// How often a replica that holds requests is probed, ms.
const PROBE_PERIOD_MS: u64 = 1_000;
/// Pause before the next replica is asked, ms: all of them may refuse while they elect a leader.
pub const NEXT_REPLICA_MS: u64 = 50;

#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port,host:port`.
    pub nameservers: String,
    /// The client id; unique in a cluster.
    pub client_id: String,
    pub connect_timeout_ms: u64,
    pub call_timeout_ms: u64,
}

impl ClientOptions {
    /// Uses the timeouts of stock clients (remoting reference, 1.7 and 6.1).
    pub fn new(nameservers: impl Into<String>) -> Self {
        Self {
            nameservers: nameservers.into(),
            client_id: new_client_id(),
            connect_timeout_ms: 3_000,
            call_timeout_ms: CALL_TIMEOUT_MS,
        }
    }
}

/// Two clients with one id would be one member of a group, also on different machines.
fn new_client_id() -> String {
    format!("ringmq@{}#{:016x}", std::process::id(), random())
}

/// Returns a number that no other client has.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

pub struct Remote {
    options: ClientOptions,
    connections: Connections,
    nameservers: NameServers,
    routes: RouteCache,
    replicas: Replicas,
    /// Replicas that hold requests, and when each is probed next.
    probed: HashMap<String, Timestamp>,
    peers: HashMap<String, Peer>,
    /// Internal requests that no caller waits for.
    background_calls: HashMap<Call, BackgroundCall>,
}

enum BackgroundCall {
    Greeting { address: String },
    Route { topic: String, nameserver: String },
    Probe { address: String },
}

/// A broker's state, from its replies to greetings.
#[derive(Clone, Debug)]
struct Peer {
    /// The connection on which it was greeted; a new connection may lead to another server.
    line: u64,
    greeted_at: Timestamp,
    speaks_fixed: Result<Option<bool>, String>,
    /// Whether it has supported the fixed header at any time.
    is_ours: bool,
}

/// Whether a broker can be sent requests, and in which encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    Known(HeaderEncoding),
    /// The greeting is in flight; a later [`Remote::turn`] brings the reply.
    Asking,
    Unreachable(String),
}

impl Remote {
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let nameservers = NameServers::parse(&options.nameservers)?;
        let connections = Connections::new(options.connect_timeout_ms);
        let (routes, replicas, probed, peers, background_calls) = Default::default();
        Ok(Self {
            options,
            connections,
            nameservers,
            routes,
            replicas,
            probed,
            peers,
            background_calls,
        })
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

    /// Sends a request to `address`, waits for the reply, and decodes it with `read`.
    pub fn ask<T>(
        &mut self,
        address: &str,
        request: &impl Ask,
        read: impl FnOnce(&Response) -> Result<T, ReplyError>,
    ) -> Result<T, ClientError> {
        let timeout_ms = self.answer_ms(address);
        let response = self.connections.call(address, HeaderEncoding::Json, request, timeout_ms)?;
        read(&response).map_err(|error| refused(request, address, error))
    }

    /// Asks the NameServers one after another until `read` can decode a reply. One that refuses may
    /// just know less than the next.
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

    /// The route of `topic`: from the cache if present, even if old; a refresh is then started in
    /// the background.
    pub fn route(&mut self, topic: &str) -> Result<Arc<Route>, ClientError> {
        let Some(route) = self.routes.find(topic) else { return self.fetch_route(topic) };
        self.refresh_route(topic);
        Ok(route)
    }

    /// The cached route of `topic`.
    pub fn known_route(&self, topic: &str) -> Option<Arc<Route>> {
        self.routes.find(topic)
    }

    /// Requests the route of `topic` and waits for it.
    pub fn fetch_route(&mut self, topic: &str) -> Result<Arc<Route>, ClientError> {
        let request = NameServerRequest::Route { topic: topic.into() };
        match self.ask_nameserver(&request, Response::route) {
            Ok(route) => {
                self.replicas.handle_route(&route);
                Ok(self.routes.handle_route(topic, route, self.now()))
            }
            Err(ClientError::Refused { code: TOPIC_NOT_EXIST, .. }) => {
                Err(ClientError::UnknownTopic(topic.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Uses `route` for `topic` until a NameServer returns one.
    pub fn assume_route(&mut self, topic: &str, route: Route) -> Arc<Route> {
        let route = self.routes.handle_route(topic, route, self.now());
        self.routes.doubt(topic);
        route
    }

    /// Notes that a broker has contradicted the route of `topic`, or is unreachable.
    pub fn doubt_route(&mut self, topic: &str) {
        self.routes.doubt(topic);
    }

    pub fn forget_route(&mut self, topic: &str) {
        self.routes.forget(topic);
    }

    /// The replica of `broker` to ask: the leader, if it is known.
    pub fn leader<'a>(&self, route: &'a Route, broker: &str) -> Option<&'a str> {
        self.replicas.find(route, broker, self.now())
    }

    /// Stops asking the replica of `broker` at `address`: it does not lead or, if it `is_silent`,
    /// did not reply. Returns whether there is another one to ask.
    pub fn leave_replica(
        &mut self,
        topic: &str,
        broker: &str,
        address: &str,
        is_silent: bool,
    ) -> bool {
        self.routes.doubt(topic);
        let (now, route) = (self.now(), self.routes.find(topic));
        route.is_some_and(|route| self.replicas.leave(&route, broker, address, is_silent, now))
    }

    /// Whether the broker at this address has replicas and recognizes messages that it has stored,
    /// which means that it is one of ours.
    pub fn recognizes(&self, address: &str) -> bool {
        self.replicas.are_at(address) && self.peers.get(address).is_some_and(|peer| peer.is_ours)
    }

    /// Whether this is the address of a broker with replicas.
    pub fn is_replica(&self, address: &str) -> bool {
        self.replicas.are_at(address)
    }

    /// Time limit for a reply, ms.
    fn answer_ms(&self, address: &str) -> u64 {
        match self.replicas.are_at(address) {
            true => self.options.call_timeout_ms.min(REPLICA_ANSWER_MS),
            false => self.options.call_timeout_ms,
        }
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

    /// Starts a request that a broker answers immediately.
    pub fn start_soon(
        &mut self,
        address: &str,
        encoding: HeaderEncoding,
        request: &impl Ask,
    ) -> Result<Call, ClientError> {
        let timeout_ms = match self.replicas.are_at(address) {
            true => self.options.call_timeout_ms.min(REPLICA_ANSWER_SOON_MS),
            false => self.options.call_timeout_ms,
        };
        self.connections.start(address, encoding, request, timeout_ms)
    }

    /// Starts a request that the broker may hold for `hold_ms` before replying.
    pub fn start_held(
        &mut self,
        address: &str,
        encoding: HeaderEncoding,
        request: &impl Ask,
        hold_ms: u64,
    ) -> Result<Call, ClientError> {
        let timeout_ms = self.answer_ms(address) + hold_ms;
        let call = self.connections.start(address, encoding, request, timeout_ms)?;
        if hold_ms > 0 && self.replicas.are_at(address) && !self.probed.contains_key(address) {
            let at = self.now().plus_ms(PROBE_PERIOD_MS);
            self.probed.insert(address.to_owned(), at);
        }
        Ok(call)
    }

    pub fn has_room(&self, address: &str) -> bool {
        self.connections.has_room(address)
    }

    /// Waits for all of `ms`, even if something happens meanwhile.
    pub fn wait_ms(&mut self, ms: u64) {
        self.connections.pause(self.now().plus_ms(ms));
    }

    /// Processes events until `until` or until the first event.
    pub fn turn(&mut self, until: Timestamp) {
        self.probe();
        let next = self.probed.values().min().map_or(until, |next| (*next).min(until));
        self.connections.turn(next);
    }

    /// Sends the probes that are due. A replica that hangs would hold requests until they time out;
    /// one probe per connection detects that sooner.
    fn probe(&mut self) {
        let now = self.now();
        let due = self.probed.iter().filter(|(_, at)| **at <= now);
        let due: Vec<String> = due.map(|(address, _)| address.clone()).collect();
        for address in due {
            if self.connections.is_idle(&address) {
                self.probed.remove(&address);
                continue;
            }
            let everything = Expression { kind: "TAG".into(), text: "*".into() };
            let probe = Request::CheckFilter(everything);
            if let Ok(call) = self.start_soon(&address, HeaderEncoding::Json, &probe) {
                self.background_calls
                    .insert(call, BackgroundCall::Probe { address: address.clone() });
            }
            self.probed.insert(address, now.plus_ms(PROBE_PERIOD_MS));
        }
    }

    /// The next result of a request started by the caller. `None` with `true`: an internal request
    /// has ended, so [`Asking`](Dialect::Asking) may have changed.
    pub fn poll_finished(&mut self) -> (Option<(Call, CallResult)>, bool) {
        let mut was_background = false;
        while let Some((call, result)) = self.connections.poll_finished() {
            match self.background_calls.remove(&call) {
                Some(background) => self.complete_background(background, call.line, result),
                None => return (Some((call, result)), was_background),
            }
            was_background = true;
        }
        (None, was_background)
    }

    /// The next server request and its sender.
    pub fn poll_server_request(&mut self) -> Option<(Caller, ServerRequest)> {
        self.connections.poll_server_request()
    }

    /// Replies to a server request.
    pub fn reply(&mut self, caller: &Caller, to: ReplyTo, reply: &Result<ClientReply, Refusal>) {
        self.connections.reply(caller, to, reply);
    }

    /// The encoding for the broker at `address`. Greets the broker if that is unknown, and
    /// periodically, as a member of `group` if it sends messages.
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
                    // The known value stays in use until the reply arrives.
                    let _ = self.greet(address, producer, Some(fixed));
                }
                let encoding = if fixed { HeaderEncoding::Fixed } else { HeaderEncoding::Json };
                Dialect::Known(encoding)
            }
        }
    }

    /// Unregisters from `group` at the greeted brokers. Those that do not answer notice when the
    /// connection closes.
    pub fn sign_off(&mut self, group: &GroupName) {
        let request = Request::Unregister {
            client: self.options.client_id.as_str().into(),
            producer: Some(group.clone()),
            consumer: None,
        };
        let is_open = |(address, peer): &(&String, &Peer)| {
            self.connections.line_to(address) == Some(peer.line)
        };
        let greeted = self.peers.iter().filter(is_open).map(|(address, _)| address.clone());
        let greeted = greeted.collect();
        self.tell_all(greeted, &request);
    }

    /// Sends a last request to each of these brokers, and waits briefly for their replies.
    pub(super) fn tell_all(&mut self, addresses: Vec<String>, request: &Request) {
        let timeout_ms = SIGN_OFF_TIMEOUT_MS.min(self.options.call_timeout_ms);
        let mut calls = Vec::new();
        for address in addresses {
            let encoding = HeaderEncoding::Json;
            calls.extend(self.connections.start(&address, encoding, request, timeout_ms));
        }
        for call in calls {
            let _ = self.connections.wait_for(call);
        }
    }

    /// The number of the connection to `address`, if there is one.
    pub(super) fn line_to(&self, address: &str) -> Option<u64> {
        self.connections.line_to(address)
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
        let call = self.start_soon(address, HeaderEncoding::Json, &request)?;
        let is_ours = self.peers.get(address).is_some_and(|peer| peer.is_ours);
        let (line, greeted_at) = (call.line, self.now());
        let peer = Peer { line, greeted_at, speaks_fixed: Ok(so_far), is_ours };
        self.peers.insert(address.to_owned(), peer);
        self.background_calls
            .insert(call, BackgroundCall::Greeting { address: address.to_owned() });
        Ok(())
    }

    /// Refreshes a route in the background when it is due.
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
                self.background_calls.insert(call, BackgroundCall::Route { topic, nameserver });
            }
            Err(_) => self.prefer_another(&address),
        }
    }

    fn complete_background(&mut self, background: BackgroundCall, line: u64, result: CallResult) {
        let now = self.now();
        match (background, result) {
            (BackgroundCall::Greeting { address }, result) => {
                // The state of an earlier connection does not apply to this one.
                let peer = self.peers.get_mut(&address).filter(|peer| peer.line == line);
                let Some(peer) = peer else { return };
                peer.greeted_at = now;
                peer.speaks_fixed = match result {
                    Ok(response) => Ok(Some(response.speaks_fixed())),
                    Err(error) => Err(error.to_string()),
                };
                peer.is_ours |= peer.speaks_fixed == Ok(Some(true));
            }
            (BackgroundCall::Route { topic, nameserver }, Ok(response)) => match response.route() {
                Ok(route) => {
                    self.replicas.handle_route(&route);
                    let is_guessed = self.replicas.guess_for(&route, now);
                    self.routes.handle_route(&topic, route, now);
                    if is_guessed {
                        // The route does not name the new leader yet.
                        self.routes.doubt(&topic);
                    }
                }
                // It may have restarted and know less than the others.
                Err(_) => self.prefer_another(&nameserver),
            },
            (BackgroundCall::Route { nameserver, .. }, Err(_)) => self.prefer_another(&nameserver),
            (BackgroundCall::Probe { .. }, Ok(_)) => {}
            (BackgroundCall::Probe { address }, Err(error)) => {
                if self.connections.line_to(&address) == Some(line) {
                    self.connections.close(&address, &error.to_string());
                }
            }
        }
    }

    fn prefer_another(&mut self, than: &str) {
        let another = self.nameservers.in_order().find(|address| *address != than);
        if let Some(another) = another.map(str::to_owned) {
            self.nameservers.prefer(&another);
        }
    }
}

/// Address of the master of `broker`.
pub fn master_address<'a>(route: &'a Route, broker: &str) -> Option<&'a str> {
    route.brokers.iter().find(|known| known.name == broker)?.master()
}

pub(crate) fn refused(request: &impl Ask, address: &str, error: ReplyError) -> ClientError {
    let (what, address) = (request.what().to_owned(), address.to_owned());
    ClientError::Refused { what, address, code: error.code, remark: error.remark }
}
