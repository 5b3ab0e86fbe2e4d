//! A leader that was replaced returns while clients send, and each of their requests gets a reply.
//! A leader whose disk is full transfers its leadership.

use std::cell::Cell;
use std::rc::Rc;

use openraft::AsyncRuntime;
use ringmq::model::Refusal;
use ringmq::replication::preference::{STEADY_MS, TransferReason};
use ringmq::replication::types::ReplicaId;
use ringmq::sim::SimRuntime;

use super::clients::produce;
use super::world::{Crash, IDS, World, store_config};
use super::{Repeats, agree, check, seeds, wait_for};

/// The replica that is preferred to lead the first shard.
const PREFERRED: ReplicaId = 1;

/// Sends to whichever replica leads, one message after another.
async fn send_all(world: Rc<World>, name: u32, stops: Rc<Cell<bool>>) {
    let mut target = world.leader().unwrap();
    for number in 0.. {
        if stops.get() {
            return;
        }
        let name = format!("{name}-{number}");
        let request = produce(0, &name, &name);
        match world.ask(target, request).await.map(|answer| answer.reply) {
            Some(Ok(_)) => world.sleep_ms(20).await,
            // Until the leader has transferred its leadership.
            Some(Err(Refusal::DiskFull)) => world.sleep_ms(20).await,
            Some(Err(Refusal::NotLeader { .. })) => {
                target = world.leader().unwrap_or(target);
                world.sleep_ms(1).await;
            }
            other => panic!("seed {}: replica {target} answers {other:?}", world.seed),
        }
    }
}

/// Ends the senders, and checks what every replica has.
async fn finish(world: &Rc<World>, stops: Rc<Cell<bool>>) {
    stops.set(true);
    while Rc::strong_count(&stops) > 1 {
        world.sleep_ms(20).await;
    }
    agree(world).await;
    check(world).await;
}

async fn run(world: Rc<World>) {
    IDS.into_iter().for_each(|id| world.start(id));
    agree(&world).await;
    world.crash(PREFERRED, Crash::Kill);
    wait_for(&world, "another one leads", || world.leader().is_some()).await;
    let stops = Rc::new(Cell::new(false));
    for name in 0..3 {
        let sender = send_all(world.clone(), name, stops.clone());
        world.tasks.spawn(format!("sender {name}"), sender);
    }
    world.start(PREFERRED);
    wait_for(&world, "it leads again", || world.leader() == Some(PREFERRED)).await;
    // An operator moves the leadership, and it stays.
    let replica = world.process(PREFERRED).and_then(|process| process.replica.borrow().clone());
    let to = 2 + world.below(2);
    let replica = replica.unwrap();
    while let Err(refusal) = replica.transfer_leadership(to, TransferReason::Ordered).await {
        // The replica has just become leader.
        assert!(matches!(refusal, Refusal::NotReady { .. }), "seed {}: {refusal}", world.seed);
        world.sleep_ms(100).await;
    }
    wait_for(&world, "the chosen one leads", || world.leader() == Some(to)).await;
    world.sleep_ms(STEADY_MS + 2_000).await;
    assert_eq!(world.leader(), Some(to), "seed {}", world.seed);
    finish(&world, stops).await;
}

async fn run_with_full_disk(world: Rc<World>) {
    IDS.into_iter().for_each(|id| world.start(id));
    agree(&world).await;
    wait_for(&world, "the preferred one leads", || world.leader() == Some(PREFERRED)).await;
    let stops = Rc::new(Cell::new(false));
    world.tasks.spawn("sender", send_all(world.clone(), 0, stops.clone()));
    world.set_full(PREFERRED, true);
    wait_for(&world, "another one leads", || {
        world.leader().is_some_and(|leader| leader != PREFERRED)
    })
    .await;
    let before = world.oracle.acknowledged_count();
    world.sleep_ms(STEADY_MS + 2_000).await;
    assert_ne!(world.leader(), Some(PREFERRED), "seed {}: its disk is full", world.seed);
    let count = world.oracle.acknowledged_count() - before;
    assert!(count > 100, "seed {}: only {count} messages were acknowledged", world.seed);
    world.set_full(PREFERRED, false);
    wait_for(&world, "it leads again", || world.leader() == Some(PREFERRED)).await;
    finish(&world, stops).await;
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_and_returns_when_it_has_space() {
    for seed in seeds(0..3) {
        let mut runtime = SimRuntime::from_seed(seed);
        let world = World::new(seed, runtime.tasks(), store_config());
        let _repeats = Repeats(seed, "cluster::returning");
        runtime.block_on(run_with_full_disk(world.clone()));
    }
}

#[test]
fn a_leader_returns_and_every_request_is_answered_meanwhile() {
    for seed in seeds(0..1) {
        let mut runtime = SimRuntime::from_seed(seed);
        let world = World::new(seed, runtime.tasks(), store_config());
        let _repeats = Repeats(seed, "cluster::returning");
        runtime.block_on(run(world.clone()));
        assert!(world.oracle.acknowledged_count() > 500, "seed {seed}");
    }
}
