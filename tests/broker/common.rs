//! What the tests share: a broker on a simulated disk, requests, and the loop that drives them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Wake, Waker};

use super::*;

pub const NOW: Now = Now { wall: Timestamp(1_700_000_000_000), moment: Moment(7) };

pub fn store_config() -> StoreConfig {
    StoreConfig {
        segment_size: 256 << 10,
        tail_cache_bytes: 128 << 10,
        append_budget_bytes: 8 << 20,
        index_cache_bytes: 1 << 20,
        ..sim::small_store()
    }
}

pub fn broker_config(auto_create_topics: bool) -> BrokerConfig {
    BrokerConfig {
        cluster: "DefaultCluster".into(),
        broker_name: "s00-broker-a".into(),
        shard: ShardId(0),
        store_host: ringmq::model::record::Host { address: [127, 0, 0, 1], port: 10_911.into() },
        auto_create_topics,
        started: NOW,
        offset_retention_ms: u64::MAX,
        dedup_window_ms: 60_000,
        catch_up_bytes_per_s: 0,
        delay_levels_ms: vec![1_000, 5_000],
    }
}

pub async fn open(disk: &SimDisk) -> Broker<SimDisk> {
    Broker::open(disk.clone(), store_config(), broker_config(true)).await.unwrap().0
}

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name.to_owned()).unwrap()
}

pub fn group() -> GroupName {
    GroupName::new("readers").unwrap()
}

pub fn queue(name: &str, queue: u32) -> QueueOf {
    QueueOf { topic: topic(name), queue: QueueId(queue) }
}

pub fn produce(name: &str, queue: u32, tag: &str, body: &[u8]) -> Produce {
    Produce {
        group: "senders".into(),
        topic: topic(name),
        default_topic: "TBW102".into(),
        default_queue_count: 4,
        queue: Some(QueueId(queue)),
        system_flag: 0,
        born_at: NOW.wall,
        flag: 5,
        properties: Bytes::from(format!("TAGS\x01{tag}\x02KEYS\x01k\x02")),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: Bytes::copy_from_slice(body),
    }
}

pub fn pull(name: &str, queue_id: u32, offset: i64) -> Pull {
    Pull {
        group: Some(group()),
        queue: queue(name, queue_id),
        offset,
        count_max: 32,
        bytes_max: None,
        commit: None,
        hold_ms: None,
        subscription: Some(Expression { kind: "TAG".into(), text: "*".into() }),
        subscription_version: 0,
    }
}

pub fn commit_offset(name: &str, offset: i64) -> Request {
    Request::CommitOffset { group: group(), queue: queue(name, 0), offset }
}

/// The outcome of a request that needs neither room that is not there nor an operation.
pub fn ask(broker: &Broker<SimDisk>, request: Request) -> Outcome {
    match try_ask(broker, request) {
        Handled::Done(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

pub fn try_ask(broker: &Broker<SimDisk>, request: Request) -> Handled {
    broker.handle(&request, Origin::default(), NOW)
}

/// Writes until everything appended so far is committed.
pub async fn commit(broker: &Broker<SimDisk>) {
    while broker.store().committed() < broker.store().end() {
        broker.store().commit_step().await.unwrap();
    }
    let released = broker.advance();
    assert!(released.is_empty(), "nothing is held here");
}

pub async fn set_topic(broker: &Broker<SimDisk>, config: TopicConfig) {
    assert_eq!(answer(broker, Request::UpdateTopic(config)).await.reply, Ok(Reply::Done));
}

pub async fn send(broker: &Broker<SimDisk>, request: Produce) -> Result<QueueOffset, Refusal> {
    send_request(broker, Request::Produce(request)).await
}

pub async fn send_request(
    broker: &Broker<SimDisk>,
    request: Request,
) -> Result<QueueOffset, Refusal> {
    loop {
        match try_ask(broker, request.clone()) {
            Handled::Done(Outcome::Committed { reply: Reply::Produced(produced), .. }) => {
                commit(broker).await;
                return Ok(produced.queue_offset);
            }
            Handled::NoRoom { .. } => _ = broker.store().commit_step().await.unwrap(),
            Handled::Done(Outcome::Now(answer)) => return Err(answer.reply.unwrap_err()),
            other => panic!("{other:?}"),
        }
    }
}

/// The context of requests here: no connection, and cold reads do not wait.
pub struct Here;

impl Context for Here {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        NOW
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// Returns the answer to any request, after all writes, reads and waits that it needs.
pub async fn answer(broker: &Broker<SimDisk>, request: Request) -> Answer {
    answer_to(broker, request, &Here).await
}

pub async fn answer_to(
    broker: &Broker<SimDisk>,
    request: Request,
    context: &impl Context,
) -> Answer {
    match broker.handle(&request, context.origin(), context.now()) {
        Handled::Done(Outcome::Now(answer)) => answer,
        Handled::Done(Outcome::Cold(task)) => match broker.pull_cold(task, context).await {
            Outcome::Now(answer) => answer,
            other => panic!("{other:?}"),
        },
        Handled::Operation => {
            let mut operation = pin!(broker.operate(&request, context));
            loop {
                if let Some(answer) = poll_once(&mut operation).await {
                    return answer;
                }
                go_on(broker).await;
            }
        }
        other => panic!("{other:?}"),
    }
}

pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let poll = |context: &mut std::task::Context<'_>| match Pin::new(&mut *future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    };
    poll_fn(poll).await
}

/// An operation, and how often it was woken.
pub struct Watched<'a> {
    operation: Pin<Box<dyn Future<Output = Answer> + 'a>>,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<'a> Watched<'a> {
    pub fn new(operation: impl Future<Output = Answer> + 'a) -> Self {
        Self { operation: Box::pin(operation), wakes: Arc::default() }
    }

    pub fn poll(&mut self) -> Option<Answer> {
        let waker = Waker::from(self.wakes.clone());
        match self.operation.as_mut().poll(&mut task::Context::from_waker(&waker)) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }
}

/// The indexes of those that were woken.
pub fn woken(operations: &[Watched<'_>]) -> Vec<usize> {
    (0..operations.len()).filter(|nth| operations[*nth].wakes() > 0).collect()
}

/// Lets time pass until something is due, then commits everything.
pub async fn go_on(broker: &Broker<SimDisk>) {
    if broker.store().committed() == broker.store().end() {
        let moment = broker.next_deadline().unwrap();
        let released = broker.act(Now { moment, ..NOW });
        assert!(released.is_empty(), "nothing is held here");
    }
    commit(broker).await;
}

/// Has the broker deliver what is due `after_ms` after `NOW`.
pub async fn deliver(broker: &Broker<SimDisk>, after_ms: u64) {
    let moment = NOW.moment.plus_ms(after_ms);
    let context = At(Cell::new(Now { moment, wall: Timestamp(NOW.wall.0 + after_ms) }));
    let mut delivery = pin!(broker.deliver(&context));
    broker.act(context.0.get());
    for _ in 0..50 {
        assert!(poll_once(&mut delivery).await.is_none());
        commit(broker).await;
    }
}

/// One message as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: u64,
    pub tag: String,
    pub body: Vec<u8>,
}

pub async fn read(broker: &Broker<SimDisk>, request: Pull) -> (Pulled, Vec<Seen>) {
    let answer = answer(broker, Request::Pull(request)).await;
    let Ok(Reply::Pulled(pulled)) = answer.reply else { panic!("{:?}", answer.reply) };
    let mut seen = Vec::new();
    for chunk in &answer.chunks {
        let mut rest: &[u8] = chunk;
        while !rest.is_empty() {
            let record = RecordView::parse(rest).unwrap();
            let tag = property(record.properties, "TAGS").unwrap_or_default();
            seen.push(Seen {
                offset: record.queue_offset.0,
                tag: String::from_utf8(tag.to_vec()).unwrap(),
                body: record.body.to_vec(),
            });
            rest = &rest[record.size..];
        }
    }
    assert_eq!(seen.len(), pulled.count as usize);
    (pulled, seen)
}

pub async fn read_all(broker: &Broker<SimDisk>, name: &str, queue_id: u32) -> Vec<Seen> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let (pulled, seen) = read(broker, pull(name, queue_id, at)).await;
        at = pulled.next_offset.0 as i64;
        all.extend(seen);
        if pulled.status != PullStatus::Found {
            return all;
        }
    }
}

/// The body of `request` as a client with the fixed header sends it.
pub fn records(request: &Produce) -> ProduceRecords {
    let queue = request.queue.unwrap();
    let mut batch = RecordBatch::new(queue, 1 << 20);
    let record = NewRecord {
        topic: request.topic.as_str(),
        queue,
        flag: request.flag,
        system_flag: request.system_flag,
        born_at: request.born_at,
        born_host: Origin::default().host,
        reconsume_times: 0,
        body: &request.body,
        properties: [&request.properties, &[]],
    };
    batch.append(&record).unwrap();
    batch.into_request()
}

pub async fn fill_segments(broker: &Broker<SimDisk>, tag: &str, segments: usize) {
    while broker.store().stats().segment_count < segments {
        send(broker, produce("t", 0, tag, &[7; 3000])).await.unwrap();
        broker.maintain(NOW, false).await.unwrap();
    }
}

pub fn heartbeat(client: &str, topics: &[&str]) -> Request {
    let subscription = |name: &&str| SubscriptionData {
        topic: topic(name),
        expression: Expression { kind: "TAG".into(), text: "*".into() },
        version: 1,
    };
    let consumer = ConsumerData {
        group: group(),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        subscriptions: topics.iter().map(subscription).collect(),
    };
    Request::Heartbeat(Heartbeat {
        client: client.to_owned().into(),
        consumers: vec![consumer],
        ..Heartbeat::default()
    })
}

/// The context of requests from this connection.
pub struct From(pub u64);

impl Context for From {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin { connection: self.0, ..Origin::default() }
    }

    fn now(&self) -> Now {
        NOW
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// A context whose clock is set.
pub struct At(pub Cell<Now>);

impl Context for At {
    type ColdRead<'a> = ();

    fn origin(&self) -> Origin {
        Origin::default()
    }

    fn now(&self) -> Now {
        self.0.get()
    }

    async fn cold_read(&self, _size_max: usize) {}
}

/// Returns the connections that the broker notifies, in order.
pub fn told(broker: &Broker<SimDisk>) -> Vec<u64> {
    let outgoing =
        std::iter::from_fn(|| broker.take_outgoing().or_else(|| broker.take_notice(NOW.moment)));
    let connection = |one: Outgoing| {
        assert_eq!(one.request, ClientRequest::MembersChanged { group: group() });
        one.connection
    };
    outgoing.map(connection).collect()
}
