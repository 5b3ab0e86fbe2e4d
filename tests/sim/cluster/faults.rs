//! What happens to the machines of a cluster, by seed, and how it ends.

use std::rc::Rc;

use ringmq::replication::preference::HandOver;
use ringmq::replication::types::ReplicaId;
use ringmq::sim::network::Node;

use super::world::{Crash, IDS, World};

/// How long faults go on, ms.
const STRIKES_MS: u64 = 4_000;

/// Something that can happen to a machine.
#[derive(Clone, Copy)]
enum Fault {
    Crash,
    /// It and another one lose power, nearly at once.
    CrashMost,
    CrashAll,
    Pause,
    CutOff,
    /// Of its links, some directions only.
    CutOffPartly,
    BreakStreams,
    SlowDisk,
    FullDisk,
    Transfer,
}

/// How likely each is.
const FAULTS: [(Fault, u64); 10] = [
    (Fault::Crash, 8),
    (Fault::CrashMost, 2),
    (Fault::CrashAll, 1),
    (Fault::Pause, 2),
    (Fault::CutOff, 3),
    (Fault::CutOffPartly, 4),
    (Fault::BreakStreams, 1),
    (Fault::SlowDisk, 3),
    (Fault::FullDisk, 1),
    (Fault::Transfer, 2),
];

/// The faults of a run. Runs differ: one has many of a kind and none of another, so that sequences
/// occur which are rare where everything happens.
struct Mix(Vec<(Fault, u64)>);

impl Mix {
    fn draw(world: &World) -> Self {
        let share = |(fault, share)| (fault, share * [0, 1, 1, 6][world.below(4) as usize]);
        let mix: Vec<_> = FAULTS.into_iter().map(share).collect();
        match mix.iter().any(|(_, share)| *share > 0) {
            true => Self(mix),
            false => Self(FAULTS.to_vec()),
        }
    }

    fn pick(&self, world: &World) -> Fault {
        let mut at = world.below(self.0.iter().map(|(_, share)| share).sum());
        for &(fault, share) in &self.0 {
            match at.checked_sub(share) {
                Some(rest) => at = rest,
                None => return fault,
            }
        }
        unreachable!("it is below the sum");
    }
}

/// Faults until the time is over. What they have broken is repaired by [`heal`], or before.
pub async fn strike(world: &Rc<World>) {
    let end = world.clock.now() + std::time::Duration::from_millis(STRIKES_MS);
    let mix = Mix::draw(world);
    world.sleep_ms(world.below(2_000)).await;
    let pace = 100 + world.below(700);
    while world.clock.now() < end {
        world.sleep_ms(world.below(pace)).await;
        strike_once(world, mix.pick(world));
    }
}

fn strike_once(world: &Rc<World>, fault: Fault) {
    let id = match world.leader().filter(|_| world.below(2) == 0) {
        Some(leader) => leader,
        None => world.pick_id(),
    };
    match fault {
        Fault::Crash => crash(world, id),
        Fault::CrashMost => {
            let other = 1 + id % IDS.len() as ReplicaId;
            for id in [id, other] {
                world.crash_after(id, world.below(6), Crash::Power);
                later(world, 100 + world.below(1_500), move |world| world.start(id));
            }
        }
        Fault::CrashAll => IDS.into_iter().for_each(|id| crash(world, id)),
        Fault::Pause => {
            world.pause(id);
            later(world, world.below(3_000), move |world| world.resume(id));
        }
        Fault::CutOff => block(world, World::links_of(id)),
        Fault::CutOffPartly => {
            let mut links = World::links_of(id);
            links.retain(|_| world.below(2) == 0);
            block(world, links);
        }
        Fault::BreakStreams => world.network.break_streams(Node(id)),
        Fault::SlowDisk => {
            world.set_slow(id, true);
            later(world, world.below(2_000), move |world| world.set_slow(id, false));
        }
        Fault::FullDisk => {
            world.set_full(id, true);
            later(world, world.below(3_000), move |world| world.set_full(id, false));
        }
        Fault::Transfer => transfer(world, id),
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
    let Some(leader) = world.leader().filter(|leader| *leader != to) else { return };
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
        world.set_full(id, false);
        world.start(id);
    }
}
