//! Replicas that were down until the others no longer had the entries they are missing, and get a
//! copy of the log.

use std::rc::Rc;

use openraft::async_runtime::AsyncRuntime;
use ringmq::replication::types::ReplicaId;
use ringmq::sim::SimRuntime;
use ringmq::sim::network::Node;
use ringmq::storage::StoreConfig;

use super::faults::strike;
use super::world::{Crash, World, store_config};
use super::{Repeats, begin, end, wait_for};

fn keeps_little() -> StoreConfig {
    StoreConfig { retention_bytes: 192 << 10, ..store_config() }
}

/// Whether a running replica leads and has deleted everything below `place`.
fn is_beyond(world: &World, place: u64) -> bool {
    let processes = super::IDS.iter().filter_map(|&id| world.process(id));
    let mut leaders = processes.filter(|process| process.broker.leads());
    leaders.any(|leader| leader.broker.store().begin().0 > place)
}

fn begin_of(world: &World, id: ReplicaId) -> u64 {
    world.process(id).map_or(0, |process| process.broker.store().begin().0)
}

/// A replica goes down and comes back; it or the others crash while it gets a copy.
async fn be_away(world: &Rc<World>) {
    world.sleep_ms(300 + world.below(2_000)).await;
    let id = world.pick_id();
    let place = world.process(id).map_or(0, |process| process.broker.store().end().0);
    world.crash(id, if world.below(2) == 0 { Crash::Kill } else { Crash::Power });
    wait_for(world, "retention has deleted what a replica lacks", || is_beyond(world, place)).await;
    for _ in 0..world.below(4) {
        world.start(id);
        // The replica begins to copy about a second later.
        let steps = [30, 300, 1_500][world.below(3) as usize];
        world.crash_after(id, world.below(steps), Crash::Power);
        world.sleep_ms(world.below(2_500)).await;
        match world.below(4) {
            0 => world.network.break_streams(Node(id)),
            1 => {
                if let Some(leader) = world.leader().filter(|leader| *leader != id) {
                    world.crash(leader, Crash::Kill);
                    world.start(leader);
                }
            }
            _ => {}
        }
        world.crash(id, Crash::Power);
    }
    world.start(id);
    wait_for(world, "the copy has arrived", || begin_of(world, id) > place).await;
}

fn simulate(seed: u64, scenario: impl AsyncFnOnce(&Rc<World>)) {
    let mut runtime = SimRuntime::from_seed(seed);
    let world = World::new(seed, runtime.tasks(), keeps_little());
    let _repeats = Repeats(seed, "cluster::copies");
    runtime.block_on(async {
        let stops = begin(&world);
        scenario(&world).await;
        end(&world, stops).await;
    });
}

#[test]
fn a_replica_that_was_away_for_too_long_gets_a_copy() {
    for seed in super::seeds(0..6) {
        simulate(seed, async |world| be_away(world).await);
    }
}

/// All faults, while retention deletes segments.
#[test]
fn retention_loses_nothing_to_faults() {
    for seed in super::seeds(500..506) {
        simulate(seed, async |world| strike(world).await);
    }
}
