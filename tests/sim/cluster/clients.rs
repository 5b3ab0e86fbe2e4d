//! Producers and consumers of a cluster. They send to whichever replica they think leads, and
//! continue with another one when that refuses or does not reply.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use ringmq::model::reply::{PullStatus, Pulled};
use ringmq::model::request::{Produce, QueueOf};
use ringmq::model::{GroupName, QueueId, Reply, Request, Timestamp, TopicName};

use super::super::shard::pull;
use super::world::World;

pub const QUEUES: u32 = 3;
pub const TOPIC: &str = "orders";

pub fn queue_of(queue: u32) -> QueueOf {
    QueueOf { topic: TopicName::new(TOPIC).unwrap(), queue: QueueId(queue) }
}

pub fn group_name(group: &str) -> GroupName {
    GroupName::new(group.to_owned()).unwrap()
}

pub fn pull_from(group: &str, queue: u32, offset: u64, count_max: u32) -> Request {
    pull(group_name(group), TopicName::new(TOPIC).unwrap(), queue, offset, count_max)
}

/// A message that carries a name by which a repetition is recognized.
pub fn produce(queue: u32, name: &str, body: &str) -> Request {
    Request::Produce(Produce {
        group: "senders".into(),
        topic: TopicName::new(TOPIC).unwrap(),
        default_topic: "TBW102".into(),
        default_queue_count: QUEUES,
        queue: Some(QueueId(queue)),
        system_flag: 0,
        born_at: Timestamp(1_700_000_000_000),
        flag: 0,
        properties: Bytes::from(format!("UNIQ_KEY\u{1}{name}\u{2}")),
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: false,
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

/// Sends messages until told to stop. Messages that are not acknowledged are often sent again, to
/// another replica and sometimes to another queue.
pub async fn produce_all(world: Rc<World>, name: u32, stops: Rc<Cell<bool>>) {
    let mut target = world.pick_id();
    let size_max = [100, 2_000, 12_000][world.below(3) as usize];
    for number in 0.. {
        if stops.get() {
            return;
        }
        let queue = world.below(u64::from(QUEUES)) as u32;
        let filler = "x".repeat(world.below(size_max) as usize);
        let (unique, mut queue) = (format!("{name}-{number}"), queue);
        let body = format!("{unique} {filler}");
        loop {
            let request = produce(queue, &unique, &body);
            if let Some(Ok(_)) = world.ask(target, request).await.map(|answer| answer.reply) {
                world.sleep_ms(world.below(100)).await;
                break;
            }
            target = world.pick_id();
            world.sleep_ms(1 + world.below(60)).await;
            if stops.get() || world.below(8) == 0 {
                break;
            }
            if world.below(4) == 0 {
                queue = world.below(u64::from(QUEUES)) as u32;
            }
        }
    }
}

/// Reads all queues from any replica, and commits its offsets to the leader.
pub async fn consume_all(world: Rc<World>, name: u32, stops: Rc<Cell<bool>>) {
    let group = format!("group-{name}");
    let mut leader = world.pick_id();
    let mut source = world.pick_id();
    let mut next = [0; QUEUES as usize];
    while !stops.get() {
        let queue = world.below(u64::from(QUEUES)) as u32;
        let at = &mut next[queue as usize];
        let is_again = world.below(10) == 0;
        let offset = if is_again { world.below(*at + 1) } else { *at };
        let mut request = pull_from(&group, queue, offset, 1 + world.below(32) as u32);
        if let Request::Pull(pull) = &mut request {
            pull.hold_ms = (world.below(3) == 0).then_some(200);
        }
        match world.ask(source, request).await.map(|answer| answer.reply) {
            Some(Ok(Reply::Pulled(Pulled {
                status: PullStatus::Found | PullStatus::OffsetMoved,
                next_offset,
                ..
            }))) => *at = next_offset.0.max(*at),
            _ => {
                source = world.pick_id();
                world.sleep_ms(world.below(100)).await;
            }
        }
        if world.below(3) == 0 && *at > 0 {
            world.oracle.ask_commit(&group, queue, *at);
            let (name, queue) = (group_name(&group), queue_of(queue));
            let request = Request::CommitOffset { group: name, queue, offset: *at as i64 };
            if !matches!(world.ask(leader, request).await, Some(answer) if answer.reply.is_ok()) {
                leader = world.pick_id();
            }
        }
        if world.below(4) == 0 {
            let (group, of) = (group_name(&group), queue_of(queue));
            let request = match world.below(2) {
                0 => Request::MaxOffset(of),
                _ => Request::CommittedOffset { group, queue: of, zero_if_missing: true },
            };
            world.ask(source, request).await;
        }
        world.sleep_ms(world.below(60)).await;
    }
}
