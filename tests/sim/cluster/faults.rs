//! What happens to the machines of a cluster, by seed, and how it ends.

use std::rc::Rc;

use ringmq::replication::preference::HandOver;
use ringmq::replication::types::ReplicaId;
use ringmq::sim::network::Node;

use super::world::{Crash, IDS, World};

/// How long faults go on, ms.
const STRIKES_MS: u64 = 4_000;

/// Faults until the time is over. What they have broken is repaired by [`heal`], or before.
pub async fn strike(world: &Rc<World>) {
    let end = world.clock.now() + std::time::Duration::from_millis(STRIKES_MS);
    world.sleep_ms(world.below(2_000)).await;
    let pace = 100 + world.below(700);
    while world.clock.now() < end {
        world.sleep_ms(world.below(pace)).await;
        strike_once(world);
    }
}

fn strike_once(world: &Rc<World>) {
    let id = match leader(world).filter(|_| world.below(2) == 0) {
        Some(leader) => leader,
        None => world.pick_id(),
    };
    match world.below(24) {
        0..8 => crash(world, id),
        8 => IDS.into_iter().for_each(|id| crash(world, id)),
        9..11 => {
            world.pause(id);
            later(world, world.below(3_000), move |world| world.resume(id));
        }
        11..14 => block(world, World::links_of(id)),
        14..18 => {
            // Some directions only.
            let mut links = World::links_of(id);
            links.retain(|_| world.below(2) == 0);
            block(world, links);
        }
        18 => world.network.break_streams(Node(id)),
        19..22 => {
            world.set_slow(id, true);
            later(world, world.below(2_000), move |world| world.set_slow(id, false));
        }
        _ => transfer(world, id),
    }
}

/// The process ends at one of its next steps, and another one starts later.
fn crash(world: &Rc<World>, id: ReplicaId) {
    let how = if world.below(3) == 0 { Crash::Kill } else { Crash::Power };
    let steps_max = [4, 40, 400][world.below(3) as usize];
    world.crash_after(id, world.below(steps_max), how);
    later(world, 100 + world.below(1_500), move |world| world.start(id));
}

fn block(world: &Rc<World>, links: Vec<(ReplicaId, ReplicaId)>) {
    links.iter().for_each(|&(from, to)| world.block(from, to));
    later(world, 50 + world.below(2_500), move |world| {
        links.iter().for_each(|&(from, to)| world.unblock(from, to));
    });
}

/// The leader gives its place to another replica, which may be unreachable.
fn transfer(world: &Rc<World>, to: ReplicaId) {
    let Some(leader) = leader(world).filter(|leader| *leader != to) else { return };
    let replica = world.process(leader).and_then(|process| process.replica.borrow().clone());
    let Some(replica) = replica else { return };
    let is_orderly = world.below(2) == 0;
    world.tasks.spawn("transfer", async move {
        // A refusal means that it cannot be done, or that its process has ended.
        match is_orderly {
            true => drop(replica.hand_over(to, HandOver::Ordered).await),
            false => drop(replica.engine().trigger().transfer_leader(to).await),
        }
    });
}

fn leader(world: &World) -> Option<ReplicaId> {
    IDS.into_iter().find(|&id| world.process(id).is_some_and(|process| process.broker.leads()))
}

fn later(world: &Rc<World>, ms: u64, repair: impl FnOnce(&Rc<World>) + 'static) {
    let repairing = world.clone();
    world.repairs.set(world.repairs.get() + 1);
    world.tasks.spawn("repair", async move {
        repairing.sleep_ms(ms).await;
        repair(&repairing);
        repairing.repairs.set(repairing.repairs.get() - 1);
    });
}

/// Repairs everything.
pub async fn heal(world: &Rc<World>) {
    while world.repairs.get() > 0 {
        world.sleep_ms(10).await;
    }
    for id in IDS {
        world.disarm(id);
        world.resume(id);
        world.set_slow(id, false);
        world.start(id);
    }
}
