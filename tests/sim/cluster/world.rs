//! The machines, the network between them, and the lives of the processes on them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::async_runtime::{Oneshot, OneshotSender};
use ringmq::broker::operation::Context;
use ringmq::broker::{Answer, Broker, BrokerConfig, Handled, Origin, Outcome, Released};
use ringmq::model::record::RecordView;
use ringmq::model::reply::PullStatus;
use ringmq::model::{Moment, Now, Refusal, Reply, Request, Timestamp};
use ringmq::replication::channel;
use ringmq::replication::host::{Host, Role};
use ringmq::replication::link::Identity;
use ringmq::replication::replica::Replica;
use ringmq::replication::types::ReplicaId;
use ringmq::sim::copies::entries_from;
use ringmq::sim::network::{Address, Conditions, Network, Node};
use ringmq::sim::run::{Group, Tasks};
use ringmq::sim::{Clock, Rng, SimDisk, SimRuntime, small_store};
use ringmq::storage::disk::DiskErrorKind;
use ringmq::storage::segment::FileName;
use ringmq::storage::{CommitRule, CommitStep, StoreConfig, WRITES_IN_FLIGHT_MAX};

use super::super::shard::broker_config;
use super::clients::TOPIC;
use super::features::{Features, MOVED};
use super::machine::{Edge, PORT, SimTransport, TimedDisk, halves};
use super::oracle::{Newest, Oracle};

/// The replicas are on the machines with these numbers.
pub const IDS: [ReplicaId; 3] = [1, 2, 3];
/// Maximum time of an operation on a usual disk, and on a slow one, µs.
const DISK_MICROS: u64 = 300;
const SLOW_DISK_MICROS: u64 = 60_000;
/// Size of a disk.
const CAPACITY: u64 = 1 << 40;
/// How long a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
pub const DELAY_LEVELS_MS: [u64; 2] = [1_000, 3_000];
/// How far each machine's wall clock is ahead of the previous machine's, ms.
const SKEW_MS: u64 = 700;
/// Maximum difference between the wall clocks of two machines, ms.
pub const SKEW_MAX_MS: u64 = SKEW_MS * 2;

pub type SimReplica = Replica<SimHost, SimRuntime>;

pub fn store_config() -> StoreConfig {
    StoreConfig { commit: CommitRule::Driven, ..small_store() }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Its machine loses power.
    Power,
    /// It is killed; its machine keeps running.
    Kill,
}

pub struct World {
    pub seed: u64,
    store: StoreConfig,
    pub tasks: Rc<Tasks<'static>>,
    pub clock: Rc<Clock>,
    pub network: Network<Vec<u8>>,
    pub oracle: Oracle,
    pub features: Features,
    pub rng: RefCell<Rng>,
    machines: [Machine; 3],
    /// How many reasons there are to block each link.
    blocks: RefCell<BTreeMap<(ReplicaId, ReplicaId), usize>>,
    pub crashes: Cell<usize>,
    /// Number of faults that will be repaired.
    pub repairs: Cell<usize>,
    /// Replicas that must not run, and why.
    pub refused: RefCell<BTreeMap<ReplicaId, String>>,
    /// The faults to inject, by their numbers; `None`: all.
    pub faults: Option<BTreeSet<usize>>,
    /// What has happened, with the time.
    events: RefCell<Vec<(Duration, String)>>,
}

struct Machine {
    disk: RefCell<SimDisk>,
    is_slow: Cell<bool>,
    is_cut_off: Cell<bool>,
    is_paused: Cell<bool>,
    lives: Cell<u64>,
    life: RefCell<Option<Life>>,
}

/// A process.
struct Life {
    group: Group,
    edge: Rc<Edge>,
    process: Option<Rc<Process>>,
}

/// A process whose broker is open.
pub struct Process {
    pub world: Rc<World>,
    pub id: ReplicaId,
    pub life: u64,
    pub broker: Broker<TimedDisk>,
    pub replica: RefCell<Option<SimReplica>>,
    /// Held pulls.
    held: RefCell<BTreeMap<u64, <channel::Oneshot as Oneshot>::Sender<Outcome>>>,
    tickets: Cell<u64>,
    /// The oracle knows the engine's entries below this index.
    compared: Cell<u64>,
}

impl World {
    pub fn new(seed: u64, tasks: &Rc<Tasks<'static>>, store: StoreConfig) -> Rc<Self> {
        Self::with_faults(seed, tasks, store, None)
    }

    /// Creates the world of a run in which only these faults are injected.
    pub fn with_faults(
        seed: u64,
        tasks: &Rc<Tasks<'static>>,
        store: StoreConfig,
        faults: Option<BTreeSet<usize>>,
    ) -> Rc<Self> {
        let mut rng = Rng::from_seed(seed);
        let conditions =
            Conditions { breaks_per_million: *rng.pick(&[0, 100, 5_000]), ..Conditions::default() };
        let machines = IDS.map(|_| {
            let disk = SimDisk::new(rng.next_u64());
            disk.slow(2);
            Machine {
                disk: RefCell::new(disk),
                is_slow: Cell::default(),
                is_cut_off: Cell::default(),
                is_paused: Cell::default(),
                lives: Cell::default(),
                life: RefCell::default(),
            }
        });
        Rc::new(Self {
            seed,
            store,
            clock: tasks.clock().clone(),
            network: Network::new(tasks.clock(), rng.next_u64(), conditions),
            tasks: tasks.clone(),
            oracle: Oracle::default(),
            features: Features::default(),
            rng: RefCell::new(rng),
            machines,
            blocks: RefCell::default(),
            crashes: Cell::default(),
            repairs: Cell::default(),
            refused: RefCell::default(),
            faults,
            events: RefCell::default(),
        })
    }

    /// Records an event, to be printed if the run fails.
    pub fn note(&self, event: String) {
        self.events.borrow_mut().push((self.clock.now(), event));
    }

    /// Returns all recorded events, one per line.
    pub fn events(&self) -> String {
        let line =
            |(at, event): &(Duration, String)| format!("{:8.3} s  {event}\n", at.as_secs_f64());
        self.events.borrow().iter().map(line).collect()
    }

    /// Replaces a machine's disk. No process may be running on it.
    pub fn swap_disk(&self, id: ReplicaId, disk: SimDisk) -> SimDisk {
        self.machine(id).disk.replace(disk)
    }

    /// Returns a copy of a machine's disk. No process may be running on it.
    pub fn copy_of_disk(&self, id: ReplicaId) -> SimDisk {
        let seed = self.rng.borrow_mut().next_u64();
        self.machine(id).disk.borrow().after_kill(seed)
    }

    fn machine(&self, id: ReplicaId) -> &Machine {
        &self.machines[id as usize - 1]
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    pub fn pick_id(&self) -> ReplicaId {
        *self.rng.borrow_mut().pick(&IDS)
    }

    pub async fn sleep_ms(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    pub fn draw_disk_micros(&self, id: ReplicaId) -> u64 {
        let micros = if self.machine(id).is_slow.get() { SLOW_DISK_MICROS } else { DISK_MICROS };
        self.below(micros)
    }

    pub fn set_slow(&self, id: ReplicaId, is_slow: bool) {
        self.machine(id).is_slow.set(is_slow);
    }

    /// Makes a disk full, or ends that. A full disk creates no files, and accepts what fits into
    /// existing ones.
    pub fn set_full(&self, id: ReplicaId, is_full: bool) {
        let capacity = if is_full { 0 } else { CAPACITY };
        self.machine(id).disk.borrow().limit(capacity);
    }

    pub fn block(&self, from: ReplicaId, to: ReplicaId) {
        let reasons = &mut *self.blocks.borrow_mut();
        *reasons.entry((from, to)).or_default() += 1;
        self.network.block(Node(from), Node(to));
    }

    pub fn unblock(&self, from: ReplicaId, to: ReplicaId) {
        let left = {
            let reasons = &mut *self.blocks.borrow_mut();
            let left = reasons.get_mut(&(from, to)).unwrap();
            *left -= 1;
            *left
        };
        if left == 0 {
            self.network.unblock(Node(from), Node(to));
        }
    }

    /// Returns the replica that leads in its own view: the first, if there are two.
    pub fn leader(&self) -> Option<ReplicaId> {
        let leads = |&id: &ReplicaId| self.process(id).is_some_and(|one| one.broker.leads());
        IDS.into_iter().find(leads)
    }

    /// All links from and to a machine.
    pub fn links_of(id: ReplicaId) -> Vec<(ReplicaId, ReplicaId)> {
        IDS.into_iter().filter(|&other| other != id).flat_map(|o| [(id, o), (o, id)]).collect()
    }

    pub fn process(&self, id: ReplicaId) -> Option<Rc<Process>> {
        self.machine(id).life.borrow().as_ref().and_then(|life| life.process.clone())
    }

    /// Ends the process after this many of its steps.
    pub fn crash_after(&self, id: ReplicaId, steps: u64, how: Crash) {
        if let Some(life) = &*self.machine(id).life.borrow() {
            life.edge.fuse.set(Some((steps, how)));
        }
    }

    pub fn disarm(&self, id: ReplicaId) {
        if let Some(life) = &*self.machine(id).life.borrow() {
            life.edge.fuse.set(None);
        }
    }

    /// Ends the process now, if there is one.
    pub fn crash(&self, id: ReplicaId, how: Crash) {
        let machine = self.machine(id);
        let Some(life) = machine.life.take() else { return };
        self.crashes.set(self.crashes.get() + 1);
        self.note(format!("{id} ends: {how:?}"));
        if how == Crash::Power {
            machine.is_cut_off.set(true);
            Self::links_of(id).into_iter().for_each(|(from, to)| self.block(from, to));
        }
        self.tasks.kill(life.group);
        machine.is_paused.set(false);
        if let Some(process) = &life.process {
            self.compare_log(process);
            // The replica holds a reference to its process, so neither would ever be freed.
            process.replica.take();
        }
        let seed = self.rng.borrow_mut().next_u64();
        let left = {
            let disk = machine.disk.borrow();
            match how {
                Crash::Power => disk.after_crash(seed),
                Crash::Kill => disk.after_kill(seed),
            }
        };
        machine.disk.replace(left);
    }

    /// Compares the committed part of a replica's log on disk with that of the others.
    pub fn compare_log(&self, process: &Process) {
        let disk = self.machine(process.id).disk.borrow();
        let store = process.broker.store();
        let (taken, first) = (FileName::CopyTaken, FileName::Segment(store.begin()));
        if disk.contents(&taken.to_string()).is_some()
            || disk.contents(&first.to_string()).is_none()
        {
            // A copy is replacing the log.
            return;
        }
        let committed = store.committed();
        let entries = entries_from(&disk, store.begin(), 7);
        let end = entries.last().map_or(store.begin().0, |entry| entry.end.0);
        assert!(end >= committed.0, "{process}: the log ends at {end}, committed {committed}");
        let committed = entries.into_iter().filter(|entry| entry.end <= committed);
        self.oracle.compare_log(committed, process);
    }

    pub fn pause(&self, id: ReplicaId) {
        if let Some(life) = &*self.machine(id).life.borrow()
            && !self.machine(id).is_paused.replace(true)
        {
            self.note(format!("{id} is stopped"));
            self.tasks.pause(life.group);
        }
    }

    pub fn resume(&self, id: ReplicaId) {
        if let Some(life) = &*self.machine(id).life.borrow()
            && self.machine(id).is_paused.replace(false)
        {
            self.note(format!("{id} goes on"));
            self.tasks.resume(life.group);
        }
    }

    /// Starts a process on a machine that has none.
    pub fn start(self: &Rc<Self>, id: ReplicaId) {
        let machine = self.machine(id);
        if machine.life.borrow().is_some() {
            return;
        }
        if machine.is_cut_off.replace(false) {
            self.network.break_streams(Node(id));
            Self::links_of(id).into_iter().for_each(|(from, to)| self.unblock(from, to));
        }
        machine.lives.set(machine.lives.get() + 1);
        self.note(format!("{id} starts"));
        let group = self.tasks.group();
        let edge = Rc::new(Edge { world: self.clone(), id, fuse: Cell::default() });
        machine.life.replace(Some(Life { group, edge: edge.clone(), process: None }));
        let life = machine.lives.get();
        let disk = TimedDisk { inner: machine.disk.borrow().clone(), edge: edge.clone() };
        let world = self.clone();
        self.tasks.spawn_in(group, format!("replica {id}"), async move {
            world.live(id, life, disk, edge).await;
        });
    }

    async fn live(self: Rc<Self>, id: ReplicaId, life: u64, disk: TimedDisk, edge: Rc<Edge>) {
        let config: BrokerConfig = broker_config(self.now(id, life), &DELAY_LEVELS_MS);
        let opened = Broker::open(disk, self.store.clone(), config).await;
        let (broker, _) = opened.unwrap_or_else(|error| panic!("replica {id}: {error}"));
        broker.follow();
        let process = Rc::new(Process {
            world: self.clone(),
            id,
            life,
            broker,
            replica: RefCell::default(),
            held: RefCell::default(),
            tickets: Cell::default(),
            compared: Cell::default(),
        });
        for _ in 0..WRITES_IN_FLIGHT_MAX {
            self.tasks.spawn(format!("committer of {id}"), process.clone().commit());
        }
        self.machine(id).life.borrow_mut().as_mut().unwrap().process = Some(process.clone());
        let (host, name) = (SimHost(process.clone()), "s00-broker-a".into());
        let identity = Identity { id, seed: 7, segment_size: self.store.segment_size };
        let members = BTreeSet::from(IDS);
        let transport = SimTransport(edge.clone());
        let replica = match Replica::open(host, identity).await {
            Ok(replica) => replica,
            Err(error) => return self.refuse(&process, error.to_string()),
        };
        let serving = self.clone().serve(id, edge.clone(), replica.clone());
        self.tasks.spawn(format!("connections of {id}"), serving);
        if let Err(error) = replica.start(name, &members, transport).await {
            return self.refuse(&process, error.to_string());
        }
        process.replica.replace(Some(replica.clone()));
        self.tasks.spawn(format!("tick of {id}"), process.clone().tick());
        self.tasks.spawn(format!("maintenance of {id}"), process.clone().maintain());
        self.tasks.spawn(format!("delivery of {id}"), process.clone().deliver());
        let why = replica.watch().await;
        self.refuse(&process, why);
    }

    /// Ends a replica whose identity the others do not accept, and records why. Any other end of
    /// the engine is a bug.
    fn refuse(&self, process: &Process, why: String) {
        assert!(why.starts_with("RINGMQ-"), "{process}: the engine has ended: {why}");
        self.refused.borrow_mut().insert(process.id, why);
        self.crash_after(process.id, 0, Crash::Kill);
    }

    async fn serve(self: Rc<Self>, id: ReplicaId, edge: Rc<Edge>, replica: SimReplica) {
        let mut listener = self.network.listen(Address { node: Node(id), port: PORT });
        loop {
            let incoming = listener.accept().await;
            let (sender, receiver) = halves(&edge, incoming.send, incoming.recv);
            let replica = replica.clone();
            self.tasks.spawn(format!("connection of {id}"), async move {
                replica.serve(sender, receiver).await;
            });
        }
    }

    /// The clocks of machines differ, and each process counts its moments from its own origin.
    fn now(&self, id: ReplicaId, life: u64) -> Now {
        let ms = self.clock.now().as_millis() as u64;
        Now {
            wall: Timestamp(1_700_000_000_123 + ms + id * SKEW_MS),
            moment: Moment(ms + life * 10_000),
        }
    }

    /// Sends a request to the process on a machine. Returns `None` if there is no answer.
    pub async fn ask(self: &Rc<Self>, id: ReplicaId, request: Request) -> Option<Answer> {
        let (group, process) = {
            let life = self.machine(id).life.borrow();
            let life = life.as_ref()?;
            (life.group, life.process.clone()?)
        };
        let (give, answer) = channel::Oneshot::channel();
        let newest = self.newest(&request);
        self.tasks.spawn_in(group, "request", async move {
            give.send(process.serve(request, newest).await).ok();
        });
        match select(answer, pin!(self.clock.sleep(ANSWER_MAX))).await {
            Either::Left((answer, _)) => answer.ok(),
            Either::Right(_) => None,
        }
    }

    /// The minimum that the reply to a request for the newest state must reflect.
    fn newest(&self, request: &Request) -> Newest {
        match request {
            Request::Pull(pull) => self.oracle.known(pull.queue.queue.0, None),
            Request::MaxOffset(queue) => self.oracle.known(queue.queue.0, None),
            Request::CommittedOffset { group, queue, .. } => {
                self.oracle.known(queue.queue.0, Some(group.as_str()))
            }
            _ => Newest::default(),
        }
    }

    /// A hash that depends on everything that has happened.
    pub fn trace(&self) -> u64 {
        let disks = self.machines.iter().map(|machine| machine.disk.borrow().trace());
        disks.fold(self.tasks.trace(), |trace, disk| trace.rotate_left(9) ^ disk)
    }

    pub fn describe(&self) -> String {
        let describe = |&id: &ReplicaId| match self.process(id) {
            None => format!("{id}: down\n"),
            Some(process) => {
                let (broker, store) = (&process.broker, process.broker.store());
                format!(
                    "{process}: leads {}, last {:?}, committed {}, written {}, end {}\n",
                    broker.leads(),
                    broker.last_raft_entry(),
                    store.committed(),
                    store.written(),
                    store.end(),
                )
            }
        };
        IDS.iter().map(describe).collect()
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, replica {} in life {}", self.world.seed, self.id, self.life)
    }
}

impl Process {
    async fn commit(self: Rc<Self>) {
        loop {
            let step = self.broker.store().commit_step().await;
            self.handle_commit();
            match step {
                Ok(CommitStep::Stopped) => return,
                Ok(_) => {}
                Err(fault) => panic!("{self}: {fault}"),
            }
        }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            self.world.sleep_ms(50).await;
            let now = self.now();
            while self.broker.next_deadline().is_some_and(|due| due <= now.moment) {
                let released = self.broker.act(now);
                self.release(released);
            }
        }
    }

    async fn deliver(self: Rc<Self>) {
        self.broker.deliver(&*self).await;
    }

    async fn maintain(self: Rc<Self>) {
        loop {
            self.world.sleep_ms(100).await;
            match self.broker.maintain(self.now(), false).await {
                // It is retried.
                Err(error) if error.kind == DiskErrorKind::NoSpace => {}
                Err(error) => panic!("{self}: {error}"),
                Ok(_) => {}
            }
        }
    }

    fn handle_commit(&self) {
        self.release(self.broker.advance());
        while self.broker.has_woken() {
            self.release(self.broker.advance());
        }
        let committed = self.broker.store().committed();
        loop {
            let index = self.compared.get();
            let place = self.broker.with_raft_entries(|entries| {
                entries.place(index.max(entries.first_recent().unwrap_or(0)))
            });
            let Some(place) = place.filter(|place| place.end <= committed) else { return };
            self.world.oracle.commit_entry(place, self);
            self.compared.set(place.index + 1);
        }
    }

    fn release(&self, released: Vec<Released>) {
        for Released { origin, outcome } in released {
            // Its client may be gone.
            if let Some(give) = self.held.borrow_mut().remove(&origin.ticket) {
                give.send(outcome).ok();
            }
        }
    }

    async fn serve(&self, request: Request, newest: Newest) -> Answer {
        self.tickets.set(self.tickets.get() + 1);
        let ticket = self.tickets.get();
        let origin = Origin { connection: 1, ticket, ..Origin::default() };
        let (give, mut released) = channel::Oneshot::channel();
        self.held.borrow_mut().insert(ticket, give);
        let answer = match self.broker.handle(&request, origin, self.now()) {
            Handled::Done(outcome) => self.settle(outcome, &mut released).await,
            Handled::NoRoom { .. } => Answer::refused(Refusal::OutcomeUnknown),
            Handled::Operation => self.broker.operate(&request, self).await,
        };
        self.held.borrow_mut().remove(&ticket);
        // Acknowledged messages are visible.
        self.handle_commit();
        self.note(&request, &answer, newest);
        answer
    }

    async fn settle(
        &self,
        mut outcome: Outcome,
        released: &mut <channel::Oneshot as Oneshot>::Receiver<Outcome>,
    ) -> Answer {
        loop {
            outcome = match outcome {
                Outcome::Now(answer) => return answer,
                Outcome::Committed { mark, reply } => {
                    match self.broker.store().reached(mark).await {
                        true => return Answer { reply: Ok(reply), chunks: Vec::new() },
                        false => return Answer::refused(Refusal::OutcomeUnknown),
                    }
                }
                Outcome::Held => match (&mut *released).await {
                    Ok(outcome) => outcome,
                    Err(_) => panic!("{self}: a pull was forgotten"),
                },
                Outcome::Cold(task) => self.broker.pull_cold(task, self).await,
            };
        }
    }

    /// Tells the oracle what the client is about to learn.
    fn note(&self, request: &Request, answer: &Answer, newest: Newest) {
        let (oracle, who) = (&self.world.oracle, self);
        match (request, &answer.reply) {
            (Request::Produce(produce), Ok(Reply::Produced(produced)))
                if produce.topic.as_str() == TOPIC =>
            {
                let place = (produced.queue.0, produced.queue_offset.0);
                oracle.acknowledge(place, &produce.body, who);
            }
            // Its commits may be ignored.
            (Request::CommitOffset { group, .. }, Ok(_)) if group.as_str() == MOVED => {}
            (Request::CommitOffset { group, queue, offset }, Ok(_)) => {
                oracle.acknowledge_commit(group.as_str(), queue.queue.0, *offset as u64);
            }
            (Request::Pull(pull), Ok(Reply::Pulled(pulled)))
                if pull.queue.topic.as_str() == TOPIC =>
            {
                let mut expected = pull.offset as u64;
                for chunk in &answer.chunks {
                    let mut rest: &[u8] = chunk;
                    while !rest.is_empty() {
                        let record = RecordView::parse(rest).unwrap();
                        rest = &rest[record.size..];
                        assert_eq!(record.queue_offset.0, expected, "{who}: a gap in the queue");
                        oracle.see((record.queue.0, record.queue_offset.0), record.body, who);
                        expected += 1;
                    }
                }
                let next = pulled.next_offset.0;
                match pulled.status {
                    PullStatus::Found => assert_eq!(next, expected, "{who}"),
                    PullStatus::NothingMatched => assert_eq!(next, expected, "{who}"),
                    // The queue begins later.
                    PullStatus::OffsetMoved if next > expected => {}
                    PullStatus::NothingNew | PullStatus::OffsetMoved => {
                        assert!(next >= newest.end, "{who}: ends at {next}, but {newest:?}");
                    }
                }
            }
            (Request::MaxOffset(_), Ok(Reply::Offset(end))) => {
                assert!(end.0 >= newest.end, "{who}: ends at {end}, but {newest:?}");
            }
            (Request::CommittedOffset { .. }, Ok(Reply::Offset(offset))) => {
                assert!(offset.0 >= newest.committed, "{who}: at {offset}, but {newest:?}");
            }
            _ => {}
        }
    }
}

impl Context for Process {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        self.world.now(self.id, self.life)
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// A process as its replica sees it.
#[derive(Clone)]
pub struct SimHost(Rc<Process>);

impl Host for SimHost {
    type Disk = TimedDisk;
    type ColdRead<'a> = ();

    fn broker(&self) -> &Broker<TimedDisk> {
        &self.0.broker
    }

    fn now(&self) -> Now {
        Context::now(&*self.0)
    }

    fn handle_commit(&self) {
        self.0.handle_commit();
    }

    fn address_of(&self, _replica: ReplicaId) -> Option<String> {
        None
    }

    fn handle_role(&self, role: Role) {
        if let Role::Leader { term } = role {
            self.0.world.note(format!("{} leads in term {term}", self.0.id));
            self.0.world.oracle.lead(term, (self.0.id, self.0.life));
        }
    }

    fn spawn_background(&self, task: impl Future<Output = ()> + 'static) {
        self.0.world.tasks.spawn(format!("background of {}", self.0.id), task);
    }

    async fn cold_read(&self) {}
}
