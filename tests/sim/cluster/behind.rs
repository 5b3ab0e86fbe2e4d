//! A replica that was down while so much was appended that the leader no longer has the position of
//! each entry in memory, and reads them from its disk.

use std::cell::Cell;
use std::rc::Rc;

use openraft::async_runtime::AsyncRuntime;
use ringmq::sim::SimRuntime;

use super::clients::{QUEUES, produce};
use super::world::{Crash, IDS, World, store_config};
use super::{Repeats, begin, end, wait_for};

/// More entries than those whose positions are in memory.
const ENTRIES: u64 = 20_000;
const SENDERS: u32 = 4;

/// Sends messages to the leader without pause until there are enough entries.
async fn send_many(world: Rc<World>, name: u32, ends: Rc<Cell<bool>>) {
    for number in 0.. {
        if ends.get() {
            return;
        }
        let (queue, body) = (number % QUEUES, format!("many-{name}-{number}"));
        match world.leader() {
            Some(leader) => drop(world.ask(leader, produce(queue, &body, &body)).await),
            None => world.sleep_ms(10).await,
        }
    }
}

#[test]
fn a_replica_that_is_far_behind_gets_every_entry() {
    for seed in super::seeds(0..1) {
        let mut runtime = SimRuntime::from_seed(seed);
        let world = World::new(seed, runtime.tasks(), store_config());
        let _repeats = Repeats(seed, "cluster::behind");
        runtime.block_on(async {
            let stops = begin(&world);
            wait_for(&world, "a leader", || world.leader().is_some()).await;
            let away = IDS.into_iter().find(|id| Some(*id) != world.leader()).unwrap();
            world.crash(away, Crash::Kill);
            let ends = Rc::<Cell<bool>>::default();
            for name in 0..SENDERS {
                let sending = send_many(world.clone(), name, ends.clone());
                world.tasks.spawn(format!("sender {name}"), sending);
            }
            let last = || {
                let leader = world.leader().and_then(|id| world.process(id));
                leader
                    .and_then(|leader| leader.broker.last_raft_entry())
                    .map_or(0, |last| last.index)
            };
            for target in (1_000..=ENTRIES).step_by(1_000) {
                wait_for(&world, "there are many entries", || last() >= target).await;
            }
            ends.set(true);
            wait_for(&world, "the senders have ended", || Rc::strong_count(&ends) == 1).await;
            world.start(away);
            end(&world, stops).await;
        });
    }
}
