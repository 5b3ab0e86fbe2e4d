//! Brokers whose log is committed by its owner: cuts, what is visible after a start, and what
//! operators learn of replicas and order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Wake, Waker};

use ringmq::broker::raft_entries::RaftContent;
use ringmq::model::replicas::{ReplicaLag, ReplicaOrder, ReplicaSet, ReplicaState};

use ringmq::model::request::{ResetGroup, ResetTo};
use ringmq::sim::copies::entries_on;

use super::*;

/// Opens a broker whose log is committed by its owner.
pub async fn open_driven(disk: &SimDisk) -> Broker<SimDisk> {
    let store = StoreConfig { commit: CommitRule::Driven, ..store_config() };
    Broker::open(disk.clone(), store, broker_config(true)).await.unwrap().0
}

pub async fn write_all(broker: &Broker<SimDisk>) {
    while broker.store().written() < broker.store().end() {
        broker.store().commit_step().await.unwrap();
    }
}

/// Commits everything in the log.
pub async fn commit_all(broker: &Broker<SimDisk>) -> Vec<Released> {
    write_all(broker).await;
    broker.store().commit_to(broker.store().end());
    broker.advance()
}

/// Appends a message that is not visible yet.
pub async fn put(broker: &Broker<SimDisk>, name: &str, queue: u32) -> LogOffset {
    let request = Request::Produce(produce(name, queue, "a", name.as_bytes()));
    loop {
        match try_ask(broker, request.clone()) {
            Handled::Done(Outcome::Committed { mark, .. }) => return mark,
            Handled::NoRoom { .. } => _ = broker.store().commit_step().await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// Runs an operation and commits its entries.
async fn operate(broker: &Broker<SimDisk>, request: Request) -> Result<Reply, Refusal> {
    let mut operation = pin!(broker.operate(&request, &Here));
    loop {
        if let Some(answer) = poll_once(&mut operation).await {
            return answer.reply;
        }
        let moment = broker.next_deadline().unwrap();
        assert!(broker.act(Now { moment, ..NOW }).is_empty(), "nothing is held meanwhile");
        commit_all(broker).await;
    }
}

/// Returns everything that clients can observe.
async fn seen(broker: &Broker<SimDisk>) -> Vec<String> {
    let mut seen = Vec::new();
    for config in broker.published_topics().1 {
        seen.push(format!("{config:?}"));
        for id in 0..config.read_queue_count {
            let of = queue(config.name.as_str(), id);
            for request in [
                Request::MinOffset(of.clone()),
                Request::MaxOffset(of.clone()),
                Request::CommittedOffset { group: group(), queue: of, zero_if_missing: false },
            ] {
                seen.push(format!("{:?}", broker.operate(&request, &Here).await.reply));
            }
            if let Outcome::Now(answer) =
                ask(broker, Request::Pull(pull(config.name.as_str(), id, 0)))
            {
                seen.push(format!("{:?}", answer.reply));
            }
        }
    }
    seen
}

/// The engine applies what follows that entry, and the committed watermark never moves back.
#[test]
fn a_start_finds_the_last_committed_entry_however_many_follow_it() {
    /// More entries than have their positions in memory.
    const FOLLOWING: u64 = 20_000;
    sim::run(async {
        let disk = SimDisk::new(1);
        let broker = open_driven(&disk).await;
        let end_entry = async |index| loop {
            match broker.end_raft_entry(index, 1, &RaftContent::Blank) {
                Ok(place) => return place,
                Err(_) => _ = broker.store().commit_step().await.unwrap(),
            }
        };
        let mut last = None;
        for index in 0..700 {
            last = Some(end_entry(index).await);
        }
        commit_all(&broker).await;
        broker.maintain(NOW, true).await.unwrap();
        for index in 700..700 + FOLLOWING {
            end_entry(index).await;
        }
        write_all(&broker).await;
        drop(broker);

        let broker = open_driven(&disk).await;
        let committed = broker.store().committed();
        assert_eq!(Some(committed), last.map(|last| last.end), "there is a snapshot");
        let found = broker.with_raft_entries(|entries| entries.ending_by(committed));
        assert_eq!(found, last);
        assert_eq!(broker.last_raft_entry().unwrap().index, 699 + FOLLOWING);
    });
}

#[test]
fn after_a_cut_a_broker_has_never_seen_the_cut_entries() {
    sim::run(async {
        let disks = [SimDisk::new(1), SimDisk::new(2)];
        let brokers = [open_driven(&disks[0]).await, open_driven(&disks[1]).await];
        let [broker, other] = &brokers;
        for broker in &brokers {
            for nth in 0..60 {
                put(broker, ["t0", "t1", "t2"][nth % 3], nth as u32 % 4).await;
            }
            assert_eq!(operate(broker, commit_offset("t0", 3)).await, Ok(Reply::Done));
            commit_all(broker).await;
            broker.maintain(NOW, true).await.unwrap();
            put(broker, "t2", 0).await;
            commit_all(broker).await;
            broker.published_topics();
        }
        let kept = broker.store().newest_ordinal();
        let held_pull = |name: &str, offset| {
            let pull = Pull { hold_ms: Some(60_000), ..pull(name, 0, offset) };
            assert!(matches!(ask(broker, Request::Pull(pull)), Outcome::Held));
        };
        held_pull("t0", 5);
        for name in ["t0", "t3", "t2", "t0"] {
            put(broker, name, 0).await;
        }
        held_pull("t3", 0);
        let deletion = Request::DeleteTopic { topic: topic("t1") };
        let mut deletion = pin!(broker.operate(&deletion, &Here));
        assert!(poll_once(&mut deletion).await.is_none());
        let offset = commit_offset("t0", 4);
        let mut offset = pin!(broker.operate(&offset, &Here));
        assert!(poll_once(&mut offset).await.is_none());
        write_all(broker).await;
        assert!(broker.advance().is_empty(), "nothing of that is committed");

        broker.cut_to(kept, NOW.wall).await.unwrap();
        let released = broker.advance();
        let [Released { outcome: Outcome::Now(answer), .. }] = &released[..] else {
            panic!("{released:?}")
        };
        assert_eq!(answer.reply, Err(Refusal::UnknownTopic(topic("t3"))));
        let (_, changes) = broker.take_topic_changes();
        let t1 = broker.published_topics().1.into_iter().find(|config| config.name == topic("t1"));
        let expected = [TopicChange::Set(t1.unwrap()), TopicChange::Removed(topic("t3"))];
        assert_eq!(changes, expected);
        for waiting in [poll_once(&mut deletion).await, poll_once(&mut offset).await] {
            assert_eq!(waiting.unwrap().reply, Err(Refusal::OutcomeUnknown));
        }
        assert_eq!(seen(broker).await, seen(other).await);

        let mut answered = 0;
        for broker in &brokers {
            for name in ["t1", "t0", "t4"] {
                put(broker, name, 0).await;
            }
            answered += commit_all(broker).await.len();
        }
        assert_eq!(answered, 1, "the pull that was held before");
        assert_eq!(seen(broker).await, seen(other).await);
        let refused = broker.cut_to(kept, NOW.wall).await.unwrap_err();
        assert!(matches!(refused, CutError::Store(_)), "{refused}");
        let again = [open_driven(&disks[0]).await, open_driven(&disks[1]).await];
        for broker in &again {
            broker.store().commit_to(broker.store().end());
            broker.advance();
        }
        assert_eq!(seen(&again[0]).await, seen(&again[1]).await);
    });
}

/// Whatever a member pulls from a copy that does not lead, the next leader knows of the reset.
#[test]
fn a_reset_that_no_member_has_noticed_is_pending_on_the_next_leader() {
    sim::run(async {
        let disks = [SimDisk::new(1), SimDisk::new(2)];
        let [leader, next] = [open_driven(&disks[0]).await, open_driven(&disks[1]).await];
        next.follow();
        for _ in 0..6 {
            put(&leader, "t", 0).await;
        }
        assert_eq!(operate(&leader, commit_offset("t", 5)).await, Ok(Reply::Done));
        let (topic, queue, to) = (topic("t"), Some(QueueId(0)), ResetTo::Offset(QueueOffset(2)));
        let reset = ResetGroup { group: group(), topic, queue, to, is_forced: true };
        operate(&leader, Request::ResetGroup(reset)).await.unwrap();
        leader.end_raft_entry(1, 1, &RaftContent::Group).unwrap();
        write_all(&leader).await;
        for entry in entries_on(&disks[0], store_config().checksum_seed) {
            next.append_raw(&entry.bytes).await.unwrap();
        }
        commit_all(&next).await;
        let pull_at = |offset| pulled(ask(&next, Request::Pull(pull("t", 0, offset)))).0;
        assert_eq!(pull_at(5), PullStatus::Found, "a follower cannot end the reset");
        next.lead(2, NOW).unwrap();
        assert_eq!(operate(&next, commit_offset("t", 6)).await, Ok(Reply::Done));
        let now_at = Request::CommittedOffset {
            group: group(),
            queue: super::queue("t", 0),
            zero_if_missing: false,
        };
        assert_eq!(operate(&next, now_at).await, Ok(Reply::Offset(QueueOffset(2))));
        assert_eq!(pull_at(5), PullStatus::OffsetMoved);
        assert_eq!(pull_at(5), PullStatus::Found, "once");
    });
}

/// Uncommitted entries found at a start become visible once they are committed.
#[test]
fn an_opened_broker_shows_what_is_committed() {
    sim::run(async {
        let disk = SimDisk::new(1);
        let broker = open_driven(&disk).await;
        put(&broker, "t", 0).await;
        commit_all(&broker).await;
        broker.maintain(NOW, true).await.unwrap();
        let marks = [put(&broker, "t", 0).await, put(&broker, "t", 0).await];
        write_all(&broker).await;
        let broker = open_driven(&disk).await;
        let max = async || broker.operate(&Request::MaxOffset(queue("t", 0)), &Here).await.reply;
        let offset = |offset| Ok(Reply::Offset(QueueOffset(offset)));
        assert_eq!(max().await, offset(1));
        for (mark, visible) in marks.into_iter().zip(2..) {
            broker.store().commit_to(mark);
            broker.advance();
            assert_eq!(max().await, offset(visible));
        }
    });
}

/// A leadership that the test controls.
pub struct Decided(pub Rc<Cell<Standing>>);

impl Leadership for Decided {
    fn standing(&self) -> Standing {
        self.0.get()
    }

    fn read_from(&self) -> u64 {
        2
    }
}

/// Opens a broker with one message. Returns it and its standing, which is that of a leader at
/// first.
async fn open_led() -> (Broker<SimDisk>, Rc<Cell<Standing>>) {
    let broker = open_driven(&SimDisk::new(1)).await;
    put(&broker, "t", 0).await;
    commit_all(&broker).await;
    let standing = Rc::new(Cell::new(Standing::Leads));
    broker.set_leadership(Box::new(Decided(standing.clone())));
    (broker, standing)
}

/// Status, next offset and where to read next.
fn pulled(outcome: Outcome) -> (PullStatus, u64, u64) {
    match outcome {
        Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) => {
            (pulled.status, pulled.next_offset.0, pulled.read_from)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_leader_with_a_lease_says_what_is_newest() {
    sim::run(async {
        let broker = open_driven(&SimDisk::new(1)).await;
        for _ in 0..2 {
            put(&broker, "t", 0).await;
        }
        commit_all(&broker).await;
        let standing = Rc::new(Cell::new(Standing::Leads));
        broker.set_leadership(Box::new(Decided(standing.clone())));
        let at = |offset| pulled(ask(&broker, Request::Pull(pull("t", 0, offset))));
        let max = Request::MaxOffset(queue("t", 0));
        assert_eq!(at(0), (PullStatus::Found, 2, 0));
        assert_eq!(at(2), (PullStatus::NothingNew, 2, 0));
        assert_eq!(at(5), (PullStatus::OffsetMoved, 2, 0));
        assert_eq!(broker.operate(&max, &Here).await.reply, Ok(Reply::Offset(QueueOffset(2))));
        let refused = Err(Refusal::NotLeader { shard: 0 });
        for other in [Standing::Elected, Standing::Follows] {
            standing.set(other);
            assert_eq!(at(0), (PullStatus::Found, 2, 0), "messages are messages");
            assert_eq!(at(2), (PullStatus::NothingMatched, 2, 2));
            assert_eq!(at(5), (PullStatus::NothingMatched, 5, 2), "another copy may have it");
        }
        assert_eq!(broker.operate(&max, &Here).await.reply, refused);
        // The request waits until a leader that was just elected has its lease.
        standing.set(Standing::Elected);
        let mut waiting = pin!(broker.operate(&max, &Here));
        assert!(poll_once(&mut waiting).await.is_none());
        standing.set(Standing::Leads);
        broker.leadership_moved();
        let answer = poll_once(&mut waiting).await.unwrap();
        assert_eq!(answer.reply, Ok(Reply::Offset(QueueOffset(2))));
        // A message that is committed but not visible yet makes it wait as well.
        put(&broker, "t", 0).await;
        write_all(&broker).await;
        broker.store().commit_to(broker.store().end());
        assert_eq!(at(2), (PullStatus::NothingMatched, 2, 2));
        broker.advance();
        assert_eq!(at(2), (PullStatus::Found, 3, 0));
    });
}

/// A pull is held for what this replica does not have yet, and a lost lease is noticed when the
/// hold ends.
#[test]
fn a_held_pull_ends_with_what_the_copy_is_then() {
    sim::run(async {
        let (broker, standing) = open_led().await;
        let hold = |offset| {
            let pull = Pull { hold_ms: Some(1_000), ..pull("t", 0, offset) };
            assert!(matches!(ask(&broker, Request::Pull(pull)), Outcome::Held));
        };
        let later = |ms| Now { moment: NOW.moment.plus_ms(ms), ..NOW };
        let end = |ms| broker.act(later(ms)).into_iter().map(|one| pulled(one.outcome));
        hold(1);
        standing.set(Standing::Elected);
        assert_eq!(end(1_000).collect::<Vec<_>>(), [(PullStatus::NothingMatched, 1, 2)]);
        standing.set(Standing::Follows);
        hold(2);
        put(&broker, "t", 0).await;
        assert!(commit_all(&broker).await.is_empty(), "that is before what it asks for");
        put(&broker, "t", 0).await;
        let released = commit_all(&broker).await;
        let [Released { outcome: Outcome::Now(answer), .. }] = &released[..] else {
            panic!("{released:?}")
        };
        assert!(matches!(&answer.reply, Ok(Reply::Pulled(pulled)) if pulled.count == 1));
    });
}

#[test]
fn a_leader_without_a_lease_sends_those_who_wait_elsewhere_after_a_second() {
    sim::run(async {
        let (broker, standing) = open_led().await;
        let hold = || {
            let pull = Pull { hold_ms: Some(15_000), ..pull("t", 0, 1) };
            assert!(matches!(ask(&broker, Request::Pull(pull)), Outcome::Held));
        };
        let end = |ms| {
            let has_ended = broker.end_holds_without_lease(NOW.moment.plus_ms(ms));
            let ended = if has_ended { broker.advance() } else { Vec::new() };
            ended.into_iter().map(|one| pulled(one.outcome)).collect::<Vec<_>>()
        };
        hold();
        assert_eq!(end(0), []);
        standing.set(Standing::Elected);
        assert_eq!(end(100), [], "the lease may come back");
        standing.set(Standing::Leads);
        assert_eq!(end(1_100), []);
        standing.set(Standing::Elected);
        assert_eq!(end(1_200), []);
        hold();
        let elsewhere = (PullStatus::NothingMatched, 1, 2);
        assert_eq!(end(2_200), [elsewhere, elsewhere]);
        // A client that comes back anyway does not get an immediate reply again.
        hold();
        assert_eq!(end(2_300), []);
        assert_eq!(end(3_200), [elsewhere]);
        standing.set(Standing::Follows);
        hold();
        assert_eq!(end(9_000), [], "a follower has its messages from its leader");
    });
}

fn replica(id: u64, bytes: u64, silent_ms: u64) -> ReplicaState {
    let lag = Some(ReplicaLag { bytes, ms: bytes / 10, silent_ms: Some(silent_ms) });
    ReplicaState {
        id,
        address: Some(format!("10.0.0.{id}:10911")),
        is_voter: true,
        is_full: false,
        lag,
    }
}

fn replica_set() -> ReplicaSet {
    let replicas = vec![replica(1, 0, 0), replica(2, 70, 20), replica(3, 900_000, 5_000)];
    ReplicaSet { id: 1, leader: Some(1), term: 4, replicas }
}

#[test]
fn a_broker_without_replicas_takes_no_orders_about_them() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        let transfer = Request::ChangeReplicas(ReplicaOrder::Transfer { to: 2 });
        for request in [Request::Replicas, transfer] {
            let refused = broker.operate(&request, &Here).await.reply.unwrap_err();
            assert_eq!(refused, Refusal::NotReplicated { shard: 0 });
        }
    });
}

#[test]
fn orders_are_carried_out_one_after_another_and_answered() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        broker.set_replicas(replica_set());
        let reply = broker.operate(&Request::Replicas, &Here).await.reply;
        assert_eq!(reply, Ok(Reply::Replicas(replica_set())));
        let request = Request::ChangeReplicas(ReplicaOrder::Transfer { to: 2 });
        let mut first = pin!(broker.operate(&request, &Here));
        assert!(poll_once(&mut first).await.is_none());
        let busy = broker.operate(&request, &Here).await.reply.unwrap_err();
        assert_eq!(busy.reason(), "replica_change");
        assert_eq!(broker.next_order().await, ReplicaOrder::Transfer { to: 2 });
        assert_eq!(broker.operate(&request, &Here).await.reply.unwrap_err().number(), 2001);
        broker.complete_order(Ok(()));
        assert_eq!(poll_once(&mut first).await.unwrap().reply, Ok(Reply::Done));
        // An order whose connection has closed does not block the next one.
        {
            let mut dropped = pin!(broker.operate(&request, &Here));
            assert!(poll_once(&mut dropped).await.is_none());
        }
        broker.next_order().await;
        broker.complete_order(Err(Refusal::ShuttingDown));
        let mut next = pin!(broker.operate(&request, &Here));
        assert!(poll_once(&mut next).await.is_none());
        broker.next_order().await;
        broker.complete_order(Ok(()));
        assert_eq!(poll_once(&mut next).await.unwrap().reply, Ok(Reply::Done));
    });
}

#[test]
fn the_leaders_metrics_say_what_each_replica_lacks() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        let Ok(Reply::RuntimeInfo(rows)) = broker.operate(&Request::RuntimeInfo, &Here).await.reply
        else {
            panic!()
        };
        assert!(!rows.iter().any(|(name, _)| name.starts_with("ringmq_replica")));
        broker.set_replicas(replica_set());
        let Ok(Reply::RuntimeInfo(rows)) = broker.operate(&Request::RuntimeInfo, &Here).await.reply
        else {
            panic!()
        };
        let value = |name: &str| rows.iter().find(|row| row.0 == name).unwrap().1.clone();
        let expected = [
            ("ringmq_epoch", "4"),
            ("ringmq_leads", "1"),
            ("ringmq_replica_lag_bytes.2", "70"),
            ("ringmq_replica_lag.2", "7000000"),
            ("ringmq_replica_reachable.2", "1"),
            ("ringmq_replica_reachable.3", "0"),
        ];
        for (name, text) in expected {
            assert_eq!(value(name), text, "{name}");
        }
    });
}

/// Whether a task has been woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A leader could not reach the others for a moment.
#[test]
fn what_became_due_while_a_leader_took_no_requests_is_delivered_when_it_does_again() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        let delayed = Produce {
            properties: Bytes::from_static(b"DELAY\x011\x02"),
            ..produce("t", 0, "a", b"later")
        };
        assert!(matches!(ask(&broker, Request::Produce(delayed)), Outcome::Committed { .. }));
        write_all(&broker).await;
        let context = At(Cell::new(NOW));
        let mut delivery = pin!(broker.deliver(&context));
        assert!(poll_once(&mut delivery).await.is_none());
        broker.follow();
        let moment = NOW.moment.plus_ms(3_000);
        let later = Now { moment, wall: Timestamp(NOW.wall.0 + 3_000) };
        context.0.set(later);
        broker.act(later);
        let is_woken = Arc::<Woken>::default();
        let waker = Waker::from(is_woken.clone());
        assert!(delivery.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
        let stored = || broker.store().metrics().messages_stored.get();
        let before = stored();
        assert!(!is_woken.0.load(Ordering::Relaxed));
        broker.lead_again();
        assert!(is_woken.0.load(Ordering::Relaxed), "it looks again");
        for _ in 0..5 {
            assert!(poll_once(&mut delivery).await.is_none());
        }
        assert_eq!(stored(), before + 1);
    });
}
