//! The faults that a seed injects into the machines of a cluster, and their repair.

use std::rc::Rc;

use ringmq::replication::preference::TransferReason;
use ringmq::replication::types::ReplicaId;
use ringmq::sim::Rng;
use ringmq::sim::network::Node;

use super::world::{Crash, IDS, World};

/// For how long new faults are injected, ms.
const STRIKES_MS: u64 = 4_000;

/// Something that can happen to a machine.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    /// The machine and another one lose power, nearly at the same time.
    CrashMost,
    /// As [`Self::CrashMost`], after the third one was cut off for a while and another one's disk
    /// was slow: only the two have what they acknowledged, and one of them has not flushed it.
    CrashMajority,
    CrashAll,
    Pause,
    CutOff,
    /// Blocks only some directions of the machine's links.
    CutOffPartly,
    BreakStreams,
    SlowDisk,
    FullDisk,
    Transfer,
}

/// The weight of each fault.
const FAULTS: [(Fault, u64); 11] = [
    (Fault::Crash, 8),
    (Fault::CrashMost, 2),
    (Fault::CrashMajority, 1),
    (Fault::CrashAll, 1),
    (Fault::Pause, 2),
    (Fault::CutOff, 3),
    (Fault::CutOffPartly, 4),
    (Fault::BreakStreams, 1),
    (Fault::SlowDisk, 3),
    (Fault::FullDisk, 1),
    (Fault::Transfer, 2),
];

/// One fault of a run.
struct Strike {
    /// Time since the previous fault, ms.
    after_ms: u64,
    fault: Fault,
    /// Determines the details of the fault.
    rng: Rng,
}

/// The faults of a run, determined by its seed before it begins: if some of them are left out, the
/// others do not change.
struct Plan(Vec<Strike>);

impl Plan {
    fn of(seed: u64) -> Self {
        let rng = &mut Rng::from_seed(!seed);
        let mix = draw_mix(rng);
        let mut at = rng.below(2_000);
        let mut after_ms = at;
        let pace = 100 + rng.below(700);
        let mut strikes = Vec::new();
        while at < STRIKES_MS {
            let pause = rng.below(pace);
            at += pause;
            after_ms += pause;
            let fault = pick(&mix, rng);
            strikes.push(Strike { after_ms, fault, rng: rng.fork() });
            after_ms = 0;
        }
        Self(strikes)
    }
}

/// Returns the number of faults of a run.
pub fn count(seed: u64) -> usize {
    Plan::of(seed).0.len()
}

/// Draws a different mix for each run: many faults of one kind and none of another, so that
/// sequences occur that are rare where everything happens.
fn draw_mix(rng: &mut Rng) -> Vec<(Fault, u64)> {
    let share = |(fault, share)| (fault, share * rng.pick(&[0, 1, 1, 6]));
    let mix: Vec<_> = FAULTS.into_iter().map(share).collect();
    match mix.iter().any(|(_, share)| *share > 0) {
        true => mix,
        false => FAULTS.to_vec(),
    }
}

fn pick(mix: &[(Fault, u64)], rng: &mut Rng) -> Fault {
    let mut at = rng.below(mix.iter().map(|(_, share)| share).sum());
    for &(fault, share) in mix {
        match at.checked_sub(share) {
            Some(rest) => at = rest,
            None => return fault,
        }
    }
    unreachable!("it is below the sum");
}

/// Injects all faults of the run, or only the chosen ones. [`heal`] repairs what they have broken,
/// unless that happens earlier.
pub async fn strike(world: &Rc<World>) {
    for (nth, strike) in Plan::of(world.seed).0.into_iter().enumerate() {
        world.sleep_ms(strike.after_ms).await;
        if world.faults.as_ref().is_none_or(|chosen| chosen.contains(&nth)) {
            strike_once(world, nth, strike);
        }
    }
}

fn strike_once(world: &Rc<World>, nth: usize, strike: Strike) {
    let Strike { fault, mut rng, .. } = strike;
    let rng = &mut rng;
    let (at_leader, any) = (rng.coin(), *rng.pick(&IDS));
    let id = world.leader().filter(|_| at_leader).unwrap_or(any);
    world.note(format!("fault {nth}: {fault:?} of {id}"));
    match fault {
        Fault::Crash => crash(world, id, rng),
        Fault::CrashMost => crash_two(world, [id, next_to(id)], rng),
        Fault::CrashMajority => crash_majority(world, id, rng),
        Fault::CrashAll => IDS.into_iter().for_each(|id| crash(world, id, rng)),
        Fault::Pause => {
            world.pause(id);
            later(world, rng.below(3_000), move |world| world.resume(id));
        }
        Fault::CutOff => block(world, World::links_of(id), rng),
        Fault::CutOffPartly => {
            let mut links = World::links_of(id);
            links.retain(|_| rng.coin());
            block(world, links, rng);
        }
        Fault::BreakStreams => world.network.break_streams(Node(id)),
        Fault::SlowDisk => {
            world.set_slow(id, true);
            later(world, rng.below(2_000), move |world| world.set_slow(id, false));
        }
        Fault::FullDisk => {
            world.set_full(id, true);
            later(world, rng.below(3_000), move |world| world.set_full(id, false));
        }
        Fault::Transfer => transfer(world, id, rng),
    }
}

/// Ends the process at one of its next steps, and starts another one later.
fn crash(world: &Rc<World>, id: ReplicaId, rng: &mut Rng) {
    let how = if rng.chance(1, 3) { Crash::Kill } else { Crash::Power };
    let steps_max = *rng.pick(&[4, 40, 400]);
    world.crash_after(id, rng.below(steps_max), how);
    later(world, 100 + rng.below(1_500), move |world| world.start(id));
}

fn next_to(id: ReplicaId) -> ReplicaId {
    1 + id % IDS.len() as ReplicaId
}

fn crash_two(world: &Rc<World>, two: [ReplicaId; 2], rng: &mut Rng) {
    for id in two {
        world.crash_after(id, rng.below(6), Crash::Power);
        later(world, 100 + rng.below(1_500), move |world| world.start(id));
    }
}

fn crash_majority(world: &Rc<World>, id: ReplicaId, rng: &mut Rng) {
    let other = next_to(id);
    block(world, World::links_of(next_to(other)), rng);
    world.set_slow(other, true);
    let mut rng = rng.fork();
    later(world, rng.below(500), move |world| {
        crash_two(world, [id, other], &mut rng);
        world.set_slow(other, false);
    });
}

fn block(world: &Rc<World>, links: Vec<(ReplicaId, ReplicaId)>, rng: &mut Rng) {
    world.note(format!("blocked: {links:?}"));
    links.iter().for_each(|&(from, to)| world.block(from, to));
    later(world, 50 + rng.below(2_500), move |world| {
        world.note(format!("not blocked any more: {links:?}"));
        links.iter().for_each(|&(from, to)| world.unblock(from, to));
    });
}

/// Has the leader transfer its leadership to another replica, which may be unreachable.
fn transfer(world: &Rc<World>, to: ReplicaId, rng: &mut Rng) {
    let Some(leader) = world.leader().filter(|leader| *leader != to) else { return };
    let replica = world.process(leader).and_then(|process| process.replica.borrow().clone());
    let Some(replica) = replica else { return };
    let is_orderly = rng.coin();
    world.tasks.spawn("transfer", async move {
        // A refusal means that the transfer is impossible, or that its process has ended.
        match is_orderly {
            true => drop(replica.transfer_leadership(to, TransferReason::Ordered).await),
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
