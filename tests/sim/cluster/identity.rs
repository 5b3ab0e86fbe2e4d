//! Directories that have been changed: emptied, swapped with another replica's, or replaced by
//! older copies.

use std::rc::Rc;

use ringmq::replication::types::ReplicaId;
use ringmq::sim::{Rng, SimDisk, SimRuntime};

use openraft::async_runtime::AsyncRuntime;

use super::world::{Crash, IDS, World, store_config};
use super::{Repeats, begin, end, wait_for};

/// Runs a cluster, stops replica `id`, has its directory changed, and starts it again: it must refuse
/// to run, while the others continue.
fn refuses(seed: u64, code: &str, change: impl AsyncFnOnce(&Rc<World>, ReplicaId)) {
    let mut runtime = SimRuntime::from_seed(seed);
    let world = World::new(seed, runtime.tasks(), store_config());
    let _repeats = Repeats(seed, "cluster::identity");
    runtime.block_on(async {
        let stops = begin(&world);
        world.sleep_ms(1_500 + world.below(1_500)).await;
        let id = world.pick_id();
        change(&world, id).await;
        world.start(id);
        let told = || world.refused.borrow().contains_key(&id);
        wait_for(&world, "the replica refuses to run", told).await;
        let why = world.refused.borrow_mut().remove(&id).unwrap();
        assert!(why.starts_with(code), "seed {seed}: {why}");
        let before = world.oracle.acknowledged_count();
        let goes_on = || world.oracle.acknowledged_count() > before;
        wait_for(&world, "the others go on", goes_on).await;
        stops.set(true);
        while Rc::strong_count(&stops) > 1 {
            world.sleep_ms(20).await;
        }
        IDS.into_iter().for_each(|id| world.crash(id, Crash::Kill));
    });
}

async fn stop(world: &Rc<World>, id: ReplicaId) {
    world.crash(id, Crash::Kill);
    world.sleep_ms(10).await;
}

#[test]
fn an_emptied_directory_is_refused() {
    for seed in super::seeds(0..4) {
        refuses(seed, "RINGMQ-5003", async |world, id| {
            stop(world, id).await;
            world.swap_disk(id, empty_disk(world.seed));
        });
    }
}

fn empty_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(Rng::from_seed(seed).next_u64());
    disk.slow(2);
    disk
}

#[test]
fn a_directory_of_another_replica_is_refused() {
    for seed in super::seeds(10..12) {
        refuses(seed, "RINGMQ-5003", async |world, id| {
            let other = IDS.into_iter().find(|other| *other != id).unwrap();
            stop(world, id).await;
            world.crash(other, Crash::Kill);
            let disk = world.copy_of_disk(other);
            world.start(other);
            world.swap_disk(id, disk);
        });
    }
}

/// A copy from before the last start.
#[test]
fn an_older_copy_of_a_directory_is_refused() {
    for seed in super::seeds(20..24) {
        refuses(seed, "RINGMQ-5004", async |world, id| {
            stop(world, id).await;
            let copy = world.copy_of_disk(id);
            // Twice: the others may learn of the start only in the next life.
            for _ in 0..2 {
                world.start(id);
                world.sleep_ms(2_500).await;
                stop(world, id).await;
            }
            world.swap_disk(id, copy);
        });
    }
}

/// A copy from the same life, as when a virtual machine is reset to a snapshot: the leader
/// remembers more than the copy has.
#[test]
fn an_older_copy_from_the_same_life_is_refused() {
    for seed in super::seeds(31..33) {
        refuses(seed, "RINGMQ-5004", async |world, id| {
            let copy = world.copy_of_disk(id);
            world.sleep_ms(32_000).await;
            stop(world, id).await;
            world.swap_disk(id, copy);
        });
    }
}

/// The first start waits for all replicas, whoever crashes meanwhile.
#[test]
fn a_new_set_begins_once_all_have_met() {
    for seed in super::seeds(40..44) {
        let mut runtime = SimRuntime::from_seed(seed);
        let world = World::new(seed, runtime.tasks(), store_config());
        let _repeats = Repeats(seed, "cluster::identity");
        runtime.block_on(async {
            world.start(1);
            world.start(2);
            world.sleep_ms(3_000).await;
            assert_eq!(world.leader(), None, "replica 3 has not confirmed the others");
            for _ in 0..8 {
                let id = world.pick_id();
                world.start(3);
                world.crash_after(id, world.below(60), Crash::Power);
                world.sleep_ms(world.below(400)).await;
                world.crash(id, Crash::Power);
                world.start(id);
            }
            let stops = begin(&world);
            end(&world, stops).await;
        });
    }
}
