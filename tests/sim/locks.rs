//! Queue locks: two clients of a group must never believe at the same time that they own the same
//! queue, whatever happens to the broker, the requests and the replies.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use ringmq::broker::operation::Context;
use ringmq::broker::{Answer, Broker, BrokerConfig, Origin};
use ringmq::model::request::{BrokerQueue, LockQueues, Produce, QueueOf};
use ringmq::model::{
    GroupName, Moment, Now, QueueId, Reply, Request, Timestamp, TopicConfig, TopicName,
};
use ringmq::sim::{self, Rng, SimDisk, small_store};
use ringmq::storage::StoreConfig;

use super::shard;

/// How long a client believes that it owns a queue after a successful lock request, ms (remoting
/// reference, 5.14).
const BELIEF_MS: u64 = 30_000;
/// A client ignores replies that arrive later than this, ms.
const CALL_TIMEOUT_MS: u64 = 3_000;
/// A lock may be granted to another client after this time without a renewal, ms.
const LEASE_MS: u64 = 60_000;
const CLIENTS: usize = 3;
const QUEUES: u32 = 3;
const SEEDS: u64 = 1_000;
const STEPS: u64 = 250;
const NONE: [u32; 0] = [];
const BROKER: &str = "s00-broker-a";

fn store_config() -> StoreConfig {
    StoreConfig {
        segment_size: 256 << 10,
        tail_cache_bytes: 32 << 10,
        append_budget_bytes: 16 << 10,
        ..small_store()
    }
}

fn group() -> GroupName {
    GroupName::new("ordered").unwrap()
}

fn lock_request(client: usize, queues: &[u32]) -> LockQueues {
    let queue = |&queue| BrokerQueue {
        broker_name: BROKER.into(),
        queue: QueueOf { topic: TopicName::new("t").unwrap(), queue: QueueId(queue) },
    };
    LockQueues {
        group: group(),
        client: format!("client-{client}").into(),
        queues: queues.iter().map(queue).collect(),
        skipped: Vec::new(),
    }
}

fn leave_request(client: usize) -> Request {
    let client = format!("client-{client}").into();
    Request::Unregister { client, producer: None, consumer: Some(group()) }
}

/// The world's time, and that of a process in it, whose clock has its own origin.
#[derive(Clone)]
struct Clock {
    world: Rc<Cell<u64>>,
    born_at: u64,
}

impl Clock {
    fn now(&self) -> Now {
        let moment = Moment(1_000_000 + self.world.get() - self.born_at);
        Now { wall: Timestamp(1_700_000_000_000 + self.world.get()), moment }
    }
}

struct From {
    connection: u64,
    clock: Clock,
}

impl Context for From {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin { connection: self.connection, ..Origin::default() }
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// A broker process.
struct Process {
    disk: SimDisk,
    broker: Rc<Broker<SimDisk>>,
    clock: Clock,
}

type Operation = Pin<Box<dyn Future<Output = Answer>>>;

impl Process {
    async fn start(disk: SimDisk, world: &Rc<Cell<u64>>) -> Self {
        let clock = Clock { world: world.clone(), born_at: world.get() };
        let config = BrokerConfig {
            broker_name: BROKER.into(),
            auto_create_topics: false,
            ..shard::broker_config(clock.now(), &[1_000])
        };
        let opened = Broker::open(disk.clone(), store_config(), config).await;
        Self { disk, broker: Rc::new(opened.unwrap().0), clock }
    }

    async fn create_topic(&self) {
        let config = TopicConfig::new(TopicName::new("t").unwrap(), QUEUES);
        assert_eq!(self.answer(0, Request::UpdateTopic(config)).await, Reply::Done);
    }

    fn begin(&self, connection: u64, request: Request) -> Operation {
        let (broker, clock) = (self.broker.clone(), self.clock.clone());
        let from = From { connection, clock };
        Box::pin(async move { broker.operate(&request, &from).await })
    }

    async fn commit(&self) {
        while self.broker.store().committed() < self.broker.store().end() {
            self.broker.store().commit_step().await.unwrap();
        }
    }

    /// Returns the reply to a request that nothing interrupts.
    async fn answer(&self, connection: u64, request: Request) -> Reply {
        let mut operation = self.begin(connection, request);
        loop {
            match poll_once(&mut operation).await {
                Some(answer) => return answer.reply.unwrap(),
                None => self.commit().await,
            }
        }
    }

    /// Requests locks on `queues` for a client. Returns the queues that it then owns.
    async fn lock(&self, connection: u64, client: usize, queues: &[u32]) -> Vec<u32> {
        let request = Request::LockQueues(lock_request(client, queues));
        locked(&self.answer(connection, request).await)
    }

    fn do_what_is_due(&self) {
        while self.broker.next_deadline().is_some_and(|due| due <= self.clock.now().moment) {
            assert!(self.broker.act(self.clock.now()).is_empty(), "nothing is held");
        }
    }
}

fn locked(reply: &Reply) -> Vec<u32> {
    let Reply::Locked(queues) = reply else { panic!("{reply:?}") };
    queues.iter().map(|queue| queue.queue.queue.0).collect()
}

async fn poll_once(operation: &mut Operation) -> Option<Answer> {
    let poll = |context: &mut std::task::Context<'_>| match operation.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => Poll::Ready(None),
    };
    poll_fn(poll).await
}

#[derive(Default)]
struct Client {
    /// 0: the client must connect first.
    connection: u64,
    /// Until when the client believes that it owns each queue.
    believes: BTreeMap<u32, u64>,
    /// The newest request by which it gave up each queue. Replies to earlier ones do not count.
    gave_up: BTreeMap<u32, u64>,
}

/// A request that a client has sent.
#[derive(Clone)]
struct Sent {
    nth: u64,
    client: usize,
    connection: u64,
    at: u64,
    queues: Vec<u32>,
    request: Request,
}

/// Clients, a broker, and the requests and replies in transit between them.
struct World {
    rng: Rng,
    time: Rc<Cell<u64>>,
    process: Process,
    clients: [Client; CLIENTS],
    connections: u64,
    sent: u64,
    /// Requests that the broker has not read: in order on each connection, in any order otherwise.
    lines: BTreeMap<u64, VecDeque<Sent>>,
    executing: Vec<(Sent, Operation)>,
    replies: Vec<(Sent, Answer)>,
    /// How often a client began to believe that it owns a queue.
    beliefs: u64,
    /// The last client that believed it owned each queue, and how often that changed.
    last_owner: BTreeMap<u32, usize>,
    handovers: u64,
    crashes: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let time = Rc::new(Cell::new(1_000_000));
        let process = Process::start(SimDisk::new(seed), &time).await;
        process.create_topic().await;
        Self {
            rng: Rng::from_seed(seed),
            time,
            process,
            clients: Default::default(),
            connections: 0,
            sent: 0,
            lines: BTreeMap::new(),
            executing: Vec::new(),
            replies: Vec::new(),
            beliefs: 0,
            last_owner: BTreeMap::new(),
            handovers: 0,
            crashes: 0,
        }
    }

    async fn step(&mut self) {
        match self.rng.below(100) {
            0..22 => self.send(),
            22..48 => self.read().await,
            48..64 => self.write().await,
            64..89 => self.deliver(),
            89..97 => self.pass_time(),
            97 => self.flood(),
            98 => self.snapshot().await,
            _ => self.crash().await,
        }
        self.check();
    }

    fn send(&mut self) {
        let number = self.rng.index(CLIENTS);
        let is_new = self.clients[number].connection == 0 || self.rng.chance(1, 10);
        if is_new {
            // Requests in transit on the old connection may still be read.
            self.connections += 1;
            self.clients[number].connection = self.connections;
        }
        let mut queues: Vec<u32> = (0..QUEUES).filter(|_| self.rng.coin()).collect();
        self.sent += 1;
        let request = match self.rng.below(10) {
            0..7 => Request::LockQueues(lock_request(number, &queues)),
            7..9 => Request::UnlockQueues(lock_request(number, &queues)),
            _ => {
                queues = (0..QUEUES).collect();
                leave_request(number)
            }
        };
        let client = &mut self.clients[number];
        if !matches!(request, Request::LockQueues(_)) {
            for queue in &queues {
                client.believes.remove(queue);
                client.gave_up.insert(*queue, self.sent);
            }
        }
        let connection = client.connection;
        let (nth, at) = (self.sent, self.time.get());
        let sent = Sent { nth, client: number, connection, at, queues, request };
        let is_repeated = matches!(sent.request, Request::LockQueues(_)) && self.rng.chance(1, 8);
        let line = self.lines.entry(connection).or_default();
        line.extend(is_repeated.then(|| sent.clone()));
        line.push_back(sent);
    }

    /// The broker reads a request from some connection.
    async fn read(&mut self) {
        let lines: Vec<u64> = self.lines.keys().copied().collect();
        if lines.is_empty() {
            return;
        }
        let connection = *self.rng.pick(&lines);
        let line = self.lines.get_mut(&connection).expect("it was listed");
        let sent = line.pop_front().expect("no line is empty");
        if line.is_empty() {
            self.lines.remove(&connection);
        }
        let operation = self.process.begin(connection, sent.request.clone());
        self.executing.push((sent, operation));
        self.execute().await;
    }

    async fn write(&mut self) {
        if self.process.broker.store().committed() < self.process.broker.store().end() {
            self.process.broker.store().commit_step().await.unwrap();
            self.process.broker.advance();
            self.execute().await;
        }
    }

    async fn execute(&mut self) {
        for (sent, mut operation) in std::mem::take(&mut self.executing) {
            match poll_once(&mut operation).await {
                Some(answer) => self.replies.push((sent, answer)),
                None => self.executing.push((sent, operation)),
            }
        }
    }

    /// A client receives a reply, or the reply is lost.
    fn deliver(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        let (sent, answer) = self.replies.remove(self.rng.index(self.replies.len()));
        let now = self.time.get();
        let client = &mut self.clients[sent.client];
        let is_heard = now - sent.at <= CALL_TIMEOUT_MS && sent.connection == client.connection;
        let Ok(reply @ Reply::Locked(_)) = &answer.reply else { return };
        if !is_heard || self.rng.chance(1, 10) {
            return;
        }
        let locked = locked(reply);
        for queue in sent.queues {
            let has_given_up = client.gave_up.get(&queue).is_some_and(|nth| *nth > sent.nth);
            if has_given_up {
                continue;
            }
            if !locked.contains(&queue) {
                client.believes.remove(&queue);
                continue;
            }
            client.believes.insert(queue, now + BELIEF_MS);
            self.beliefs += 1;
            let before = self.last_owner.insert(queue, sent.client);
            self.handovers += u64::from(before.is_some_and(|before| before != sent.client));
        }
    }

    fn pass_time(&mut self) {
        let ms = *self.rng.pick(&[1, 100, 500, 1_000, 2_500, 20_000, 29_000, 61_000]);
        self.time.set(self.time.get() + ms);
        self.process.do_what_is_due();
    }

    /// A producer takes up the room in the log, so that requests have to wait.
    fn flood(&mut self) {
        let produce = Produce {
            group: "senders".into(),
            topic: TopicName::new("t").unwrap(),
            default_topic: "TBW102".into(),
            default_queue_count: 1,
            queue: Some(QueueId(0)),
            system_flag: 0,
            born_at: Timestamp(1),
            flag: 0,
            properties: Default::default(),
            reconsume_times: 0,
            retry_count_max: None,
            is_batch: false,
            body: vec![7; 5_000].into(),
        };
        for _ in 0..4 {
            let request = Request::Produce(produce.clone());
            self.process.broker.handle(&request, Origin::default(), self.process.clock.now());
        }
    }

    async fn snapshot(&mut self) {
        self.process.commit().await;
        self.process.broker.maintain(self.process.clock.now(), true).await.unwrap();
        self.execute().await;
    }

    /// The process is killed, or the machine loses power; some time later it is back.
    async fn crash(&mut self) {
        self.crashes += 1;
        self.executing.clear();
        self.lines.clear();
        self.connections = 0;
        self.clients.iter_mut().for_each(|client| client.connection = 0);
        let disk = &self.process.disk;
        disk.lose_power();
        let seed = self.rng.next_u64();
        let disk = if self.rng.coin() { disk.after_crash(seed) } else { disk.after_kill(seed) };
        self.time.set(self.time.get() + self.rng.below(20_000));
        self.process = Process::start(disk, &self.time).await;
    }

    fn check(&self) {
        let now = self.time.get();
        for queue in 0..QUEUES {
            let believes =
                |client: &Client| client.believes.get(&queue).is_some_and(|&until| until > now);
            let owners: Vec<usize> =
                (0..CLIENTS).filter(|&client| believes(&self.clients[client])).collect();
            assert!(owners.len() <= 1, "clients {owners:?} believe that they own queue {queue}");
        }
    }

    /// Once no client renews its locks, another client gets all queues.
    async fn end(mut self) -> [u64; 3] {
        self.executing.clear();
        self.time.set(self.time.get() + LEASE_MS + 1);
        self.process.do_what_is_due();
        let all: Vec<u32> = (0..QUEUES).collect();
        assert_eq!(self.process.lock(1 << 40, CLIENTS, &all).await, all);
        [self.beliefs, self.handovers, self.crashes]
    }
}

#[test]
fn no_two_clients_believe_that_they_own_a_queue() {
    let mut totals = [0; 3];
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            sim::run(async {
                let mut world = World::new(seed).await;
                for _ in 0..STEPS {
                    world.step().await;
                }
                world.end().await
            })
        });
        let counts = run.unwrap_or_else(|_| panic!("seed {seed}"));
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    let [beliefs, handovers, crashes] = totals;
    assert!(beliefs > 3 * SEEDS, "{beliefs} locks were granted");
    assert!(handovers > SEEDS, "{handovers} queues changed hands");
    assert!(crashes > SEEDS, "{crashes} crashes");
}

fn with_process<T>(test: impl AsyncFnOnce(Process, Rc<Cell<u64>>) -> T) -> T {
    sim::run(async {
        let time = Rc::new(Cell::new(5_000));
        let process = Process::start(SimDisk::new(1), &time).await;
        process.create_topic().await;
        test(process, time).await
    })
}

#[test]
fn a_lock_is_kept_by_renewals_which_are_not_logged_and_expires_without() {
    with_process(async |process, time| {
        assert_eq!(process.lock(1, 0, &[0, 1]).await, [0, 1]);
        let end = process.broker.store().end();
        for _ in 0..5 {
            time.set(time.get() + LEASE_MS);
            assert_eq!(process.lock(2, 1, &[0]).await, NONE, "it has been renewed");
            assert_eq!(process.lock(1, 0, &[0, 1]).await, [0, 1]);
        }
        assert_eq!(process.broker.store().end(), end);
        time.set(time.get() + LEASE_MS + 1);
        assert_eq!(process.lock(2, 1, &[0]).await, [0]);
        assert_eq!(process.lock(1, 0, &[0, 1]).await, [1]);
    });
}

#[test]
fn queues_are_free_at_once_when_their_owner_unlocks_them_or_leaves() {
    with_process(async |process, _| {
        assert_eq!(process.lock(1, 0, &[0, 1, 2]).await, [0, 1, 2]);
        let unlock = Request::UnlockQueues(lock_request(0, &[0]));
        assert_eq!(process.answer(1, unlock).await, Reply::Done);
        assert_eq!(process.lock(2, 1, &[0, 1, 2]).await, [0]);
        assert_eq!(process.answer(1, leave_request(0)).await, Reply::Unregistered);
        assert_eq!(process.lock(2, 1, &[0, 1, 2]).await, [0, 1, 2]);
        // No other client can unlock them.
        let unlock = Request::UnlockQueues(lock_request(0, &[0]));
        assert_eq!(process.answer(3, unlock).await, Reply::Done);
        assert_eq!(process.lock(4, 2, &[0]).await, NONE);
    });
}

/// The client may have renewed the lock just before the power cut.
#[test]
fn after_a_start_a_lock_counts_as_just_renewed() {
    with_process(async |process, time| {
        assert_eq!(process.lock(1, 0, &[0, 1]).await, [0, 1]);
        process.broker.maintain(process.clock.now(), true).await.unwrap();
        time.set(time.get() + 3 * LEASE_MS);
        process.disk.lose_power();
        let process = Process::start(process.disk.after_crash(2), &time).await;
        assert_eq!(process.lock(1, 1, &[0, 1, 2]).await, [2]);
        time.set(time.get() + LEASE_MS);
        assert_eq!(process.lock(2, 0, &[1]).await, [1], "its owner goes on");
        assert_eq!(process.lock(1, 1, &[0]).await, NONE);
        time.set(time.get() + 1);
        assert_eq!(process.lock(1, 1, &[0, 1]).await, [0]);
    });
}

#[test]
fn what_is_not_here_is_not_granted_and_does_not_matter_to_the_rest() {
    with_process(async |process, _| {
        let mut request = lock_request(0, &[0, 7, 1]);
        request.queues.push(BrokerQueue {
            broker_name: "s01-broker-a".into(),
            queue: QueueOf { topic: TopicName::new("t").unwrap(), queue: QueueId(2) },
        });
        request.queues.push(BrokerQueue {
            broker_name: BROKER.into(),
            queue: QueueOf { topic: TopicName::new("unknown").unwrap(), queue: QueueId(0) },
        });
        let reply = process.answer(1, Request::LockQueues(request)).await;
        assert_eq!(locked(&reply), [0, 1]);
    });
}

/// Locks on a deleted topic are gone with it, even when the name is used again.
#[test]
fn a_deleted_topic_takes_its_locks_along() {
    with_process(async |process, time| {
        assert_eq!(process.lock(1, 0, &[0]).await, [0]);
        let delete = Request::DeleteTopic { topic: TopicName::new("t").unwrap() };
        assert_eq!(process.answer(1, delete).await, Reply::Done);
        process.create_topic().await;
        assert_eq!(process.lock(2, 1, &[0]).await, [0]);
        let end = process.broker.store().end();
        time.set(time.get() + LEASE_MS);
        process.do_what_is_due();
        assert_eq!(process.broker.store().end(), end, "only the new one is left");
        assert_eq!(process.lock(2, 1, &[0]).await, [0]);
    });
}
