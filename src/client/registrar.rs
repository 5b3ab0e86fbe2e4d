//! Keeps a broker's shards registered with every NameServer.
//!
//! One thread per NameServer, so that a hanging one does not delay the others. Each thread keeps
//! one connection, registers as soon as it is established, again whenever the tables change, and
//! every 30 s in between. So a NameServer that restarts, or whose name resolves to a new address,
//! knows the broker again within seconds. Channels carry orders to the threads, and reports back.
//!
//! Invariants: the tables are stored once ([`tables`]), and a thread that is behind sends whatever
//! its NameServer is missing, so nothing accumulates while a NameServer is away. It sends the whole
//! table on every new connection, and only changes after that. Publishing waits only for
//! NameServers that accepted the last registration.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};

use crate::client::ask::Ask;
use crate::client::blocking::{Call, Clock, Connections};
use crate::client::error::ClientError;
use crate::client::nameservers::NameServers;
use crate::model::nameserver::{BrokerId, ClusterInfo, Registration};
use crate::model::topic::TopicChange;
use crate::model::{DataVersion, NameServerRequest, Timestamp};
use crate::wire::HeaderEncoding;
use crate::wire::response::{ReplyError, Response};

mod tables;

pub use tables::Role;
use tables::{Position, Table, Update};

/// Maximum number of unread reports; further ones are dropped, because each replaces the one
/// before.
const REPORTS_MAX: usize = 1_024;

#[derive(Clone, Debug)]
pub struct RegistrarOptions {
    /// `host:port,host:port`.
    pub nameservers: String,
    /// How often to repeat a registration, ms (remoting reference, 2.1).
    pub period_ms: u64,
    /// First delay before another attempt, ms; doubled with each failure.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    pub connect_timeout_ms: u64,
    pub call_timeout_ms: u64,
    /// How often to check whether the NameServer has closed the connection, ms.
    pub watch_ms: u64,
    /// How often to check whether the NameServer's name resolves to another address, ms.
    pub resolve_ms: u64,
    /// How long unregistering may take at each NameServer, ms.
    pub sign_off_timeout_ms: u64,
}

impl RegistrarOptions {
    pub fn new(nameservers: impl Into<String>) -> Self {
        Self {
            nameservers: nameservers.into(),
            period_ms: 30_000,
            backoff_ms: 100,
            backoff_max_ms: 3_000,
            connect_timeout_ms: 3_000,
            call_timeout_ms: 3_000,
            watch_ms: 250,
            resolve_ms: 5_000,
            sign_off_timeout_ms: 1_000,
        }
    }
}

/// A thread's state, reported when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub nameserver: String,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All shards are registered there.
    Registered,
    /// Not registered, or possibly no longer; attempts continue.
    Failing(ClientError),
    /// Another broker is registered under the name or at the address of one of the shards. Reported
    /// once while that lasts.
    Contested(Rival),
}

/// A broker with our name at another address, or with another name at our address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rival {
    pub name: String,
    pub address: String,
}

enum Order {
    /// The tables have changed. Holds a sender for every waiter; it is dropped when the
    /// registration has succeeded or failed.
    Register(Vec<Sender<Infallible>>),
    Stop,
}

/// The tables of all shards, in the order of their numbers.
type Tables = Arc<Vec<Table>>;

/// Completes when every NameServer that accepted the previous table has a published one, or a newer
/// one, or has failed to accept it.
#[derive(Debug)]
pub struct Receipt(Vec<Delivery>);

/// A registration in flight to one NameServer.
#[derive(Debug)]
struct Delivery {
    done: Receiver<Infallible>,
    is_prompt: Arc<AtomicBool>,
}

impl Receipt {
    /// Waits without a limit. A NameServer that accepts data but does not respond makes this long;
    /// then call [`give_up`](Self::give_up).
    pub async fn delivered(&self) {
        for delivery in &self.0 {
            // Nothing is ever sent: the channel closes when the thread drops its side.
            let _ = delivery.done.recv_async().await;
        }
    }

    /// Ends the wait. The NameServers that it was for are not waited for again until they have
    /// replied.
    pub fn give_up(self) {
        for delivery in self.0 {
            if !delivery.done.is_disconnected() {
                delivery.is_prompt.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// Publishes tables; usable from any thread.
#[derive(Clone)]
pub struct Publisher {
    tables: Arc<Mutex<Tables>>,
    slots: Vec<Slot>,
}

/// Holds a thread's newest order.
#[derive(Clone)]
struct Slot {
    put: Sender<Order>,
    /// To replace an order that has not been read.
    take: Receiver<Order>,
    /// Whether its NameServer accepted the last registration or has not been sent one yet: then it
    /// is worth waiting for.
    is_prompt: Arc<AtomicBool>,
}

pub struct Registrar {
    publisher: Publisher,
    reports: Receiver<Report>,
    threads: Vec<JoinHandle<()>>,
}

impl Registrar {
    /// Starts to register `shards`, one registration each.
    pub fn start(
        options: &RegistrarOptions,
        shards: Vec<Registration>,
    ) -> Result<Self, ClientError> {
        let nameservers = NameServers::parse(&options.nameservers)?;
        let (report, reports) = flume::bounded(REPORTS_MAX);
        let tables = Arc::new(Mutex::new(Tables::default()));
        let mut slots = Vec::new();
        let mut threads = Vec::new();
        for address in nameservers.addresses() {
            let (put, take) = flume::bounded(1);
            let slot = Slot { put, take, is_prompt: Arc::new(AtomicBool::new(true)) };
            let keeper = Keeper::new(address, options, &tables, &slot, report.clone());
            slots.push(slot);
            threads.push(std::thread::spawn(move || keeper.run()));
        }
        let publisher = Publisher { tables, slots };
        publisher.publish(shards);
        Ok(Self { publisher, reports, threads })
    }

    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// State changes at the NameServers, as they are detected.
    pub fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }

    /// Waits until a NameServer has all shards. If none has within `wait_ms`, returns the reports
    /// so far; attempts continue either way.
    pub fn wait_registered(&self, wait_ms: u64) -> Result<(), Vec<Report>> {
        let clock = Clock::start();
        let until = clock.now().plus_ms(wait_ms);
        let mut failing = Vec::new();
        loop {
            let left = Duration::from_millis(until.ms_since(clock.now()));
            match self.reports.recv_timeout(left) {
                Ok(Report { state: State::Registered, .. }) => return Ok(()),
                // It says nothing about our registration.
                Ok(Report { state: State::Contested(_), .. }) => {}
                Ok(report) => failing.push(report),
                Err(_) => return Err(failing),
            }
        }
    }

    /// Unregisters all shards and waits for that, within a limit.
    pub fn stop(self) {
        for slot in &self.publisher.slots {
            slot.order(Order::Stop);
        }
        for thread in self.threads {
            // A panic has been reported, and there is nothing left to do.
            let _ = thread.join();
        }
    }
}

impl Publisher {
    /// From now on registers exactly these shards. Does not wait; the receipt does.
    pub fn publish(&self, shards: Vec<Registration>) -> Receipt {
        let tables = shards.into_iter().map(Table::new).collect();
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
        self.tell()
    }

    /// Registers a change of one shard. Costs as much as the change.
    pub fn change(&self, shard: usize, version: DataVersion, changes: Vec<TopicChange>) -> Receipt {
        newest(&self.tables)[shard].apply(version, changes);
        self.tell()
    }

    /// Registers a shard under another id, because it has begun or ceased to lead. Has no effect
    /// before the tables are published.
    pub fn set_role(&self, shard: usize, role: Role) -> Receipt {
        if let Some(table) = newest(&self.tables).get(shard) {
            table.set_role(role);
        }
        self.tell()
    }

    fn tell(&self) -> Receipt {
        let tell = |slot: &Slot| {
            let (waiting, done) = flume::bounded(1);
            let is_prompt = slot.is_prompt.clone();
            // `None` drops the sender immediately, so no one waits for it.
            let waiting = is_prompt.load(Ordering::Relaxed).then_some(waiting);
            slot.order(Order::Register(waiting.into_iter().collect()));
            Delivery { done, is_prompt }
        };
        Receipt(self.slots.iter().map(tell).collect())
    }
}

fn newest(tables: &Mutex<Tables>) -> Tables {
    tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Slot {
    /// Stores an order, replacing one that has not been read.
    fn order(&self, mut order: Order) {
        while let Err(TrySendError::Full(back)) = self.put.try_send(order) {
            order = match self.take.try_recv() {
                Ok(older) => back.replacing(older),
                Err(_) => back,
            };
        }
    }
}

impl Order {
    /// The newest order supersedes earlier ones, including for their waiters; nothing supersedes
    /// Stop.
    fn replacing(self, older: Self) -> Self {
        match (self, older) {
            (Self::Register(mut waiting), Self::Register(older)) => {
                waiting.extend(older);
                Self::Register(waiting)
            }
            _ => Self::Stop,
        }
    }
}

/// One thread and the state of its NameServer.
struct Keeper {
    address: String,
    options: RegistrarOptions,
    orders: Receiver<Order>,
    reports: Sender<Report>,
    is_prompt: Arc<AtomicBool>,
    connections: Connections,
    published: Arc<Mutex<Tables>>,
    tables: Tables,
    /// How much of each table the NameServer has received over `line`.
    known: Vec<Option<Position>>,
    waiting: Vec<Sender<Infallible>>,
    /// The connection over which all shards were last registered, while it is open.
    line: Option<u64>,
    next_at: Timestamp,
    /// When to verify the registration, which also renews the leases.
    renew_at: Timestamp,
    failures: u32,
    last_state: Option<State>,
    /// When to look up the NameServer's name next.
    resolve_at: Timestamp,
    /// When to look for rivals next, and the rivals found last.
    look_at: Timestamp,
    rivals: BTreeSet<Rival>,
}

impl Keeper {
    fn new(
        address: &str,
        options: &RegistrarOptions,
        published: &Arc<Mutex<Tables>>,
        slot: &Slot,
        reports: Sender<Report>,
    ) -> Self {
        Self {
            address: address.to_owned(),
            options: options.clone(),
            orders: slot.take.clone(),
            reports,
            is_prompt: slot.is_prompt.clone(),
            connections: Connections::new(options.connect_timeout_ms),
            published: published.clone(),
            tables: Tables::default(),
            known: Vec::new(),
            waiting: Vec::new(),
            line: None,
            next_at: Timestamp(0),
            renew_at: Timestamp(0),
            failures: 0,
            last_state: None,
            resolve_at: Timestamp(0),
            look_at: Timestamp(0),
            rivals: BTreeSet::new(),
        }
    }

    fn run(mut self) {
        loop {
            let wait_ms = self.options.watch_ms.min(self.until_next_ms().unwrap_or(u64::MAX));
            match self.orders.recv_timeout(Duration::from_millis(wait_ms)) {
                Ok(Order::Register(waiting)) => self.take_over(waiting),
                Ok(Order::Stop) => return self.sign_off(&self.brokers()),
                // The sender is gone without having sent Stop.
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.watch();
            if self.until_next_ms() == Some(0) {
                self.register();
            }
        }
    }

    /// Time until the next registration; `None` if there is nothing to register. Sending nothing
    /// must not be reported as success.
    fn until_next_ms(&self) -> Option<u64> {
        let wait_ms = self.next_at.ms_since(self.connections.now());
        (!self.tables.is_empty()).then_some(wait_ms)
    }

    fn take_over(&mut self, waiting: Vec<Sender<Infallible>>) {
        self.waiting.extend(waiting);
        self.next_at = Timestamp(0);
        let tables = newest(&self.published);
        if Arc::ptr_eq(&tables, &self.tables) {
            return;
        }
        let before = self.brokers();
        self.tables = tables;
        self.forget_known();
        let gone: Vec<BrokerId> = {
            let now: BTreeSet<String> = self.brokers().into_iter().map(key_of).collect();
            before.into_iter().filter(|broker| !now.contains(&key_of(broker.clone()))).collect()
        };
        self.sign_off(&gone);
    }

    fn brokers(&self) -> Vec<BrokerId> {
        self.tables.iter().map(Table::broker).collect()
    }

    /// Has everything sent again, because what was sent may not have been applied.
    fn forget_known(&mut self) {
        self.known = vec![None; self.tables.len()];
    }

    /// Checks whether the connection is still open; if not, registers again immediately.
    fn watch(&mut self) {
        let now = self.connections.now();
        self.connections.turn(now);
        self.follow_name(now);
        let stands = self.line.is_none() || self.connections.line_to(&self.address) == self.line;
        if !stands {
            self.line = None;
            self.forget_known();
            self.next_at = now;
        }
    }

    /// Follows a NameServer that has moved: its name resolves to another address, while the old one
    /// may still answer.
    fn follow_name(&mut self, now: Timestamp) {
        if self.line.is_none() || now < self.resolve_at {
            return;
        }
        self.resolve_at = now.plus_ms(self.options.resolve_ms);
        if self.connections.has_moved(&self.address) {
            tracing::info!(
                nameserver = self.address,
                "its name now resolves to a different address"
            );
            self.connections.close(&self.address, "its name leads elsewhere");
        }
    }

    fn register(&mut self) {
        let outcome = self.look_for_rivals().and_then(|()| self.register_all());
        let now = self.connections.now();
        self.is_prompt.store(outcome.is_ok(), Ordering::Relaxed);
        // There is no point in waiting for a NameServer that is away.
        self.waiting.clear();
        let state = match outcome {
            Ok(()) => {
                self.failures = 0;
                self.next_at = self.renew_at;
                let line = self.connections.line_to(&self.address);
                if self.line.is_some() && self.line != line {
                    // It may have got a partial table over a connection on which it had no whole
                    // one.
                    self.forget_known();
                    self.next_at = now;
                }
                self.line = line;
                State::Registered
            }
            Err(error) => {
                let RegistrarOptions { backoff_ms, backoff_max_ms, .. } = self.options;
                let wait_ms = (backoff_ms << self.failures.min(16)).min(backoff_max_ms);
                self.failures += 1;
                self.forget_known();
                self.next_at = now.plus_ms(wait_ms);
                State::Failing(error)
            }
        };
        if self.last_state.as_ref() != Some(&state) {
            self.report(state.clone());
            self.last_state = Some(state);
        }
    }

    fn report(&self, state: State) {
        // Reading the reports is optional.
        let _ = self.reports.try_send(Report { nameserver: self.address.clone(), state });
    }

    /// Checks whether others are registered under our names before we replace them. Once per
    /// period, and on every new connection.
    fn look_for_rivals(&mut self) -> Result<(), ClientError> {
        let now = self.connections.now();
        if self.line.is_some() && now < self.look_at {
            return Ok(());
        }
        self.look_at = now.plus_ms(self.options.period_ms);
        let (request, timeout_ms) = (NameServerRequest::ClusterInfo, self.options.call_timeout_ms);
        let call =
            self.connections.start(&self.address, HeaderEncoding::Json, &request, timeout_ms)?;
        let response = self.connections.wait_for(call);
        let response =
            response.map_err(|e| ClientError::of_call(request.what(), &self.address, e))?;
        // If it does not answer, we register anyway.
        let Ok(info) = response.cluster() else { return Ok(()) };
        let rivals = rivals(&self.tables, &info);
        for rival in rivals.difference(&self.rivals) {
            self.warn_of(rival);
            self.report(State::Contested(rival.clone()));
        }
        self.rivals = rivals;
        Ok(())
    }

    fn warn_of(&self, Rival { name, address }: &Rival) {
        let nameserver = &self.address;
        match self.tables.iter().any(|shard| shard.broker().name == *name) {
            true => tracing::warn!(
                nameserver,
                "{name} is also the name of a broker at {address}: if that one is still running, the \
                 two keep replacing each other's route; give one of them another --name"
            ),
            false => tracing::warn!(
                nameserver,
                "{name} is registered at {address}, where this broker listens: until that \
                 registration expires, clients use the same queues under both names; it expires \
                 within two minutes unless it is renewed"
            ),
        }
    }

    /// Sends what the NameServer is missing, for all shards together; returns the first failure. If
    /// a lease is due and there are no changes, asks whether the table is still known, and sends
    /// all of it if not.
    fn register_all(&mut self) -> Result<(), ClientError> {
        let now = self.connections.now();
        let is_due = now >= self.renew_at;
        self.send_updates(is_due)?;
        if is_due {
            self.send_updates(false)?;
            self.renew_at = now.plus_ms(self.options.period_ms);
        }
        Ok(())
    }

    fn send_updates(&mut self, is_due: bool) -> Result<(), ClientError> {
        let (tables, known) = (self.tables.clone(), self.known.clone());
        let request = |(shard, table): (usize, &Table)| {
            let (update, position) = table.update(known[shard]);
            let request = match update {
                Update::Part(table) | Update::Whole(table) => {
                    NameServerRequest::RegisterBroker(table)
                }
                Update::Gone(broker) => NameServerRequest::UnregisterBroker(broker),
                Update::Nothing if is_due && table.is_listed() => {
                    NameServerRequest::QueryDataVersion {
                        broker: table.broker(),
                        version: table.version(),
                    }
                }
                Update::Nothing => return None,
            };
            let is_question = matches!(request, NameServerRequest::QueryDataVersion { .. });
            Some(((shard, position, is_question), request))
        };
        let requests = tables.iter().enumerate().filter_map(request);
        let mut outcome = Ok(());
        let told = self.ask_all(requests, self.options.call_timeout_ms);
        for ((shard, position, is_question), told) in told {
            let is_known = told.as_ref().is_ok_and(|response| {
                !is_question || response.data_version().is_ok_and(|(is_changed, _)| !is_changed)
            });
            self.known[shard] = is_known.then_some(position);
            outcome = outcome.and(told.map(|_| ()));
        }
        outcome
    }

    fn sign_off(&mut self, brokers: &[BrokerId]) {
        // Without a connection, the NameServer soon removes the registrations anyway.
        if brokers.is_empty() || self.connections.line_to(&self.address).is_none() {
            return;
        }
        let requests = brokers.iter().cloned().map(NameServerRequest::UnregisterBroker);
        // If this fails, the lease expires.
        self.ask_all(requests.map(|request| ((), request)), self.options.sign_off_timeout_ms);
    }

    /// Sends all requests, as many at a time as a connection accepts, and returns their results.
    fn ask_all<T>(
        &mut self,
        requests: impl Iterator<Item = (T, NameServerRequest)>,
        timeout_ms: u64,
    ) -> Vec<(T, Result<Response, ClientError>)> {
        let mut told = Vec::new();
        let mut calls: VecDeque<(T, &'static str, Call)> = VecDeque::new();
        for (of, request) in requests {
            while !self.connections.has_room(&self.address)
                && let Some((of, what, call)) = calls.pop_front()
            {
                told.push((of, self.answer(what, call)));
            }
            let json = HeaderEncoding::Json;
            match self.connections.start(&self.address, json, &request, timeout_ms) {
                Ok(call) => calls.push_back((of, request.what(), call)),
                Err(error) => told.push((of, Err(error))),
            }
        }
        for (of, what, call) in calls {
            told.push((of, self.answer(what, call)));
        }
        told
    }

    fn answer(&mut self, what: &'static str, call: Call) -> Result<Response, ClientError> {
        let response = self.connections.wait_for(call);
        let response = response.map_err(|e| ClientError::of_call(what, &self.address, e))?;
        match response.done() {
            Ok(()) => Ok(response),
            Err(ReplyError { code, remark }) => {
                let (what, address) = (what.to_owned(), self.address.clone());
                Err(ClientError::Refused { what, address, code, remark })
            }
        }
    }
}

/// Brokers registered under the name of one of `shards` but at another address, or at its address
/// under a foreign name.
fn rivals(shards: &[Table], info: &ClusterInfo) -> BTreeSet<Rival> {
    let own: Vec<(BrokerId, bool)> =
        shards.iter().map(|shard| (shard.broker(), shard.is_replicated())).collect();
    let by_name: BTreeMap<&str, &(BrokerId, bool)> =
        own.iter().map(|shard| (shard.0.name.as_str(), shard)).collect();
    let addresses: BTreeSet<&str> = own.iter().map(|(own, _)| own.address.as_str()).collect();
    let is_rival = |name: &str, id: u64, address: &str| match by_name.get(name) {
        // In a replicated shard, another address is that of the previous leader.
        Some((own, is_replicated)) => !is_replicated && own.id == id && own.address != address,
        None => addresses.contains(address),
    };
    let registered = info.brokers.iter().flat_map(|broker| {
        broker.addresses.iter().map(|(id, address)| (&broker.name, *id, address))
    });
    registered
        .filter(|(name, id, address)| is_rival(name, *id, address))
        .map(|(name, _, address)| Rival { name: name.clone(), address: address.clone() })
        .collect()
}

fn key_of(broker: BrokerId) -> String {
    format!("{}/{}/{}", broker.name, broker.id, broker.address)
}

#[cfg(test)]
mod tests;
