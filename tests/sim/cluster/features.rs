//! Clients that use features built on messages while leaders change, and what must hold for them:
//!
//! - A delayed message is delivered exactly once, whatever the number of attempts to send it, if it was
//!   acknowledged; at most once otherwise. It is never early by more than the difference between
//!   the wall clocks of two leaders.
//! - A delayed message whose recall was acknowledged is never delivered, and one whose recall was
//!   refused is.
//! - A message whose return by a consumer was acknowledged is delivered again, or is among the dead
//!   letters after its last attempt.
//! - Two clients never own a queue at the same time.
//! - A group stays where it was reset to, whatever a member commits that has not noticed.
//!
//! Replies to requests between clients are not stored, so there is nothing to check after a
//! failover.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringmq::model::record::{RecordView, property};
use ringmq::model::reply::Produced;
use ringmq::model::request::{
    BrokerQueue, LockQueues, Produce, QueueOf, ResetGroup, ResetTo, SendBack,
};
use ringmq::model::{
    ClientId, GroupName, LogOffset, QueueId, Refusal, Reply, Request, Timestamp, TopicName,
};

use super::super::shard::pull;
use super::clients::{QUEUES, group_name, pull_from, queue_of};
use super::world::{DELAY_LEVELS_MS, IDS, SKEW_MAX_MS, World};

/// Topic of the delayed messages.
const LATER: &str = "later";
/// How long after it was sent a delayed message may be delivered.
const EARLIEST_DELIVERY: Duration = Duration::from_millis(DELAY_LEVELS_MS[1] - SKEW_MAX_MS);
/// Consumers of this group send messages back.
const FAILING: &str = "failing";
/// Number of attempts after which a message becomes a dead letter.
const ATTEMPTS: i32 = 2;
/// Consumers of this group lock queues.
const ORDERLY: &str = "orderly";
const LOCKERS: u32 = 2;
/// An operator resets this group.
pub const MOVED: &str = "moved";
/// A member that has not noticed commits an offset so much higher.
const BEYOND: u64 = 1_000_000;

#[derive(Default)]
pub struct Features(RefCell<Known>);

#[derive(Default)]
struct Known {
    /// When the first attempt to send each delayed message was made.
    delayed: BTreeMap<String, (Duration, Fate)>,
    /// Keys of messages whose return was acknowledged, and after how many attempts.
    returned: BTreeMap<String, i32>,
    /// The client that believes it owns each queue.
    owners: BTreeMap<u32, u32>,
    granted: usize,
    reset: usize,
    recalled: usize,
}

/// What is known of a delayed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No attempt to send it was acknowledged.
    Sent,
    Acknowledged,
    /// The outcome of a recall is unknown.
    PerhapsRecalled,
    Recalled,
}

fn produce(topic: &str, key: &str, more: &str) -> Request {
    Request::Produce(Produce {
        group: "senders".into(),
        topic: TopicName::new(topic.to_owned()).unwrap(),
        default_topic: "TBW102".into(),
        default_queue_count: QUEUES,
        queue: Some(QueueId(0)),
        system_flag: 0,
        born_at: Timestamp(1_700_000_000_000),
        flag: 0,
        properties: Bytes::from(format!("UNIQ_KEY\u{1}{key}\u{2}{more}")),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: Bytes::from(key.to_owned()),
    })
}

/// Sends delayed messages until told to stop, each until it is acknowledged or given up.
pub async fn delay_all(world: Rc<World>, stops: Rc<Cell<bool>>) {
    let mut target = world.pick_id();
    for number in 0.. {
        let key = format!("later-{number}");
        let begin = world.clock.now();
        world.features.0.borrow_mut().delayed.insert(key.clone(), (begin, Fate::Sent));
        let delay = match world.below(2) {
            0 => "DELAY\u{1}2\u{2}".to_owned(),
            _ => format!("TIMER_DELAY_MS\u{1}{}\u{2}", DELAY_LEVELS_MS[1]),
        };
        loop {
            let request = produce(LATER, &key, &delay);
            let reply = world.ask(target, request).await.map(|answer| answer.reply);
            if let Some(Ok(reply)) = reply {
                world.features.set_fate(&key, Fate::Acknowledged);
                if let Reply::Produced(Produced { recall_handle: Some(handle), .. }) = reply {
                    let ends = stops.clone();
                    let recall = recall(world.clone(), key.clone(), handle, ends);
                    world.tasks.spawn(format!("recalling {key}"), recall);
                }
                break;
            }
            target = world.pick_id();
            world.sleep_ms(1 + world.below(60)).await;
            if stops.get() || world.below(8) == 0 {
                break;
            }
        }
        world.sleep_ms(world.below(400)).await;
        if stops.get() {
            return;
        }
    }
}

/// Recalls a message some time after it was sent.
async fn recall(world: Rc<World>, key: String, handle: Box<str>, stops: Rc<Cell<bool>>) {
    let sleep_max_ms =
        if world.below(2) == 0 { DELAY_LEVELS_MS[0] } else { 2 * DELAY_LEVELS_MS[1] };
    world.sleep_ms(world.below(sleep_max_ms)).await;
    let mut leader = world.pick_id();
    for _ in 0..10 {
        if stops.get() {
            return;
        }
        let topic = TopicName::new(LATER).unwrap();
        let request = Request::Recall { topic, handle: handle.to_string().into() };
        match world.ask(leader, request).await.map(|answer| answer.reply) {
            Some(Ok(_)) => {
                world.features.set_fate(&key, Fate::Recalled);
                world.features.0.borrow_mut().recalled += 1;
                return;
            }
            // It has been delivered, unless an earlier attempt has recalled it.
            Some(Err(Refusal::NoRecall(why))) => {
                let (begin, fate) = world.features.0.borrow().delayed[&key];
                let age = world.clock.now() - begin;
                let is_pending = fate == Fate::Acknowledged && age < EARLIEST_DELIVERY;
                assert!(!is_pending, "seed {}: {key} is {age:?} old: {why}", world.seed);
                return;
            }
            Some(Err(Refusal::NotLeader { .. })) => {}
            _ => world.features.set_fate(&key, Fate::PerhapsRecalled),
        }
        leader = world.pick_id();
        world.sleep_ms(1 + world.below(60)).await;
    }
}

/// Reads from a replica at `next`, which it advances, and passes each record to `take`.
async fn read(
    world: &Rc<World>,
    id: u64,
    (topic, queue): (&TopicName, u32),
    next: &mut u64,
    mut take: impl FnMut(&RecordView<'_>),
) -> bool {
    let request = pull(group_name("readers"), topic.clone(), queue, *next, 32);
    let Some(answer) = world.ask(id, request).await else { return false };
    let mut is_any = false;
    for chunk in &answer.chunks {
        let mut rest: &[u8] = chunk;
        while !rest.is_empty() {
            let record = RecordView::parse(rest).unwrap();
            rest = &rest[record.size..];
            *next = record.queue_offset.0 + 1;
            is_any = true;
            take(&record);
        }
    }
    is_any
}

fn key_of(record: &RecordView<'_>) -> String {
    String::from_utf8(property(record.properties, "UNIQ_KEY").unwrap().to_vec()).unwrap()
}

/// Consumes delayed messages, checks that none is early, and sends some of them back.
pub async fn consume_delayed(world: Rc<World>, stops: Rc<Cell<bool>>) {
    let topic = TopicName::new(LATER).unwrap();
    let (mut next, mut leader) = (0, world.pick_id());
    while !stops.get() {
        let mut places = Vec::new();
        let source = world.pick_id();
        read(&world, source, (&topic, 0), &mut next, |record| {
            let key = key_of(record);
            let known = world.features.0.borrow();
            let age = world.clock.now() - known.delayed[&key].0;
            assert!(age >= EARLIEST_DELIVERY, "seed {}: {key} came after {age:?}", world.seed);
            places.push((key, record.physical_offset));
        })
        .await;
        for (key, offset) in places {
            if world.below(3) == 0 {
                give_back(&world, &mut leader, key, offset, &stops).await;
            }
        }
        world.sleep_ms(world.below(150)).await;
    }
}

/// Returns a message that could not be processed: either it is delivered again, or its attempts are
/// used up.
async fn give_back(
    world: &Rc<World>,
    leader: &mut u64,
    key: String,
    offset: LogOffset,
    stops: &Cell<bool>,
) {
    // A negative level makes it a dead letter.
    let (delay_level, attempts) = if world.below(2) == 0 { (1, 1) } else { (-1, ATTEMPTS) };
    for _ in 0..6 {
        let (group, retry_count_max) = (group_name(FAILING), Some(ATTEMPTS));
        let back = Request::SendBack(SendBack { offset, group, delay_level, retry_count_max });
        match world.ask(*leader, back).await.map(|answer| answer.reply) {
            Some(Ok(_)) => {
                world.features.0.borrow_mut().returned.insert(key, attempts);
                return;
            }
            _ if stops.get() => return,
            _ => {
                *leader = world.pick_id();
                world.sleep_ms(1 + world.below(60)).await;
            }
        }
    }
}

/// Locks and unlocks queues until told to stop.
pub async fn lock_all(world: Rc<World>, name: u32, stops: Rc<Cell<bool>>) {
    let mut leader = world.pick_id();
    let queue_of = |queue: u32| BrokerQueue {
        broker_name: "s00-broker-a".into(),
        queue: QueueOf { topic: TopicName::new("orders").unwrap(), queue: QueueId(queue) },
    };
    let request = |queues: Vec<BrokerQueue>| LockQueues {
        group: GroupName::new(ORDERLY).unwrap(),
        client: ClientId::from(format!("client-{name}")),
        queues,
        skipped: Vec::new(),
    };
    while !stops.get() {
        let queue = world.below(u64::from(QUEUES)) as u32;
        let queues = vec![queue_of(queue)];
        let is_lock = world.below(3) > 0;
        let request = match is_lock {
            true => Request::LockQueues(request(queues)),
            false => {
                // From now on another client may own it.
                let owners = &mut world.features.0.borrow_mut().owners;
                if owners.get(&queue) == Some(&name) {
                    owners.remove(&queue);
                }
                Request::UnlockQueues(request(queues))
            }
        };
        match world.ask(leader, request).await.map(|answer| answer.reply) {
            Some(Ok(Reply::Locked(owned))) if !owned.is_empty() => {
                let known = &mut *world.features.0.borrow_mut();
                known.granted += 1;
                let before = *known.owners.entry(queue).or_insert(name);
                let seed = world.seed;
                assert_eq!(before, name, "seed {seed}: queue {queue} has two owners");
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => leader = world.pick_id(),
        }
        world.sleep_ms(world.below(120)).await;
    }
}

/// Resets a group to offsets of a queue, each of which a member commits over until it notices.
pub async fn reset_all(world: Rc<World>, stops: Rc<Cell<bool>>) {
    let (queue, mut leader) = (0, world.pick_id());
    // Offsets of resets whose outcome is unknown.
    let mut unsure = BTreeSet::new();
    while !stops.get() {
        world.sleep_ms(world.below(100)).await;
        let end = world.ask(leader, Request::MaxOffset(queue_of(queue))).await;
        let Some(Ok(Reply::Offset(to))) = end.map(|answer| answer.reply) else {
            leader = world.pick_id();
            continue;
        };
        // The group exists from its first commit on.
        let commit = |offset: u64| {
            let (group, queue) = (group_name(MOVED), queue_of(queue));
            Request::CommitOffset { group, queue, offset: offset as i64 }
        };
        world.ask(leader, commit(to.0)).await;
        let (topic, of) = (queue_of(queue).topic, Some(QueueId(queue)));
        let to_offset = ResetTo::Offset(to);
        let reset = ResetGroup {
            group: group_name(MOVED),
            topic,
            queue: of,
            to: to_offset,
            is_forced: true,
        };
        if !matches!(world.ask(leader, Request::ResetGroup(reset)).await, Some(answer) if answer.reply.is_ok())
        {
            unsure.insert(to.0);
            leader = world.pick_id();
            continue;
        }
        world.features.0.borrow_mut().reset += 1;
        for _ in 0..world.below(8) {
            world.ask(leader, commit(to.0 + BEYOND)).await;
            world.sleep_ms(world.below(200)).await;
            leader = world.pick_id();
            let (group, of) = (group_name(MOVED), queue_of(queue));
            let asked = Request::CommittedOffset { group, queue: of, zero_if_missing: false };
            if let Some(Ok(Reply::Offset(found))) =
                world.ask(leader, asked).await.map(|answer| answer.reply)
            {
                let is_there = found == to || unsure.contains(&found.0);
                assert!(is_there, "seed {}: reset to {to}, is at {found}", world.seed);
            }
        }
        world.ask(leader, pull_from(MOVED, queue, to.0, 1)).await;
    }
}

/// Starts all of these clients.
pub fn start(world: &Rc<World>, stops: &Rc<Cell<bool>>) {
    world.tasks.spawn("delaying", delay_all(world.clone(), stops.clone()));
    world.tasks.spawn("returning", consume_delayed(world.clone(), stops.clone()));
    world.tasks.spawn("resetting", reset_all(world.clone(), stops.clone()));
    for name in 0..LOCKERS {
        world.tasks.spawn(format!("locker {name}"), lock_all(world.clone(), name, stops.clone()));
    }
}

/// Waits until everything that is due has been delivered on all replicas, and checks it.
pub async fn check(world: &Rc<World>) {
    let later = TopicName::new(LATER).unwrap();
    let group = GroupName::new(FAILING).unwrap();
    let (retry, dead) = (TopicName::retry_of(&group), TopicName::dead_letters_of(&group));
    let deadline = world.clock.now() + Duration::from_secs(30);
    for id in IDS {
        loop {
            let mut delivered = BTreeMap::<String, usize>::new();
            let (mut next, mut back) = (0, BTreeSet::new());
            while read(world, id, (&later, 0), &mut next, |record| {
                *delivered.entry(key_of(record)).or_default() += 1;
            })
            .await
            {}
            for topic in [&retry, &dead] {
                let mut next = 0;
                while read(world, id, (topic, 0), &mut next, |record| {
                    back.insert((key_of(record), topic == &dead));
                })
                .await
                {}
            }
            let seed = world.seed;
            let missing = {
                let known = world.features.0.borrow();
                for (key, count) in &delivered {
                    assert_eq!(*count, 1, "seed {seed}, replica {id}: {key} was delivered");
                    let fate = known.delayed[key].1;
                    assert_ne!(fate, Fate::Recalled, "seed {seed}, replica {id}: {key}");
                }
                let is_delivered = |key: &String| delivered.contains_key(key);
                let mut missing =
                    known.delayed.iter().filter(|(_, (_, fate))| *fate == Fate::Acknowledged);
                let late = missing.find(|(key, _)| !is_delivered(key)).map(|(key, _)| key.clone());
                let mut returned = known.returned.iter();
                let lost = returned.find(|(key, attempts)| {
                    !back.contains(&((*key).clone(), **attempts == ATTEMPTS))
                });
                late.or(lost.map(|(key, _)| format!("the return of {key}")))
            };
            let Some(missing) = missing else { break };
            let is_late = world.clock.now() > deadline;
            assert!(
                !is_late,
                "seed {seed}, replica {id}: {missing} is missing\n{}",
                world.describe()
            );
            world.sleep_ms(50).await;
        }
    }
}

impl Features {
    fn set_fate(&self, key: &str, fate: Fate) {
        self.0.borrow_mut().delayed.get_mut(key).unwrap().1 = fate;
    }

    /// Numbers of delayed messages, returned ones, granted locks, resets and recalls.
    pub fn counts(&self) -> [usize; 5] {
        let known = self.0.borrow();
        let delayed = known.delayed.len();
        [delayed, known.returned.len(), known.granted, known.reset, known.recalled]
    }
}
