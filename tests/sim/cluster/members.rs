//! Replicas that are removed and added again while machines fail.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use openraft::async_runtime::{AsyncRuntime, WatchReceiver};
use ringmq::replication::change::ChangeError;
use ringmq::replication::types::{Place, ReplicaId};
use ringmq::sim::SimRuntime;

use super::faults::{heal, strike};
use super::world::{IDS, SimReplica, World, store_config};
use super::{Repeats, begin, end, wait_for};

/// Returns the leader, and the voters as it sees them.
fn leader(world: &World) -> Option<(SimReplica, BTreeSet<ReplicaId>)> {
    let leader = world.process(world.leader()?)?;
    let replica = leader.replica.borrow().clone()?;
    let metrics = replica.engine().metrics();
    let voters = metrics.borrow_watched().membership_config.membership().voter_ids().collect();
    Some((replica, voters))
}

async fn add(world: &Rc<World>, id: ReplicaId) -> Option<Result<(), ChangeError>> {
    let (replica, _) = leader(world)?;
    Some(replica.add(id, Place::default()).await)
}

/// Removes replicas and adds them again until told to stop. Counts the changes that succeed.
async fn change_all(world: Rc<World>, stops: Rc<Cell<bool>>, changes: Rc<Cell<usize>>) {
    while !stops.get() {
        world.sleep_ms(50 + world.below(500)).await;
        let Some((replica, voters)) = leader(&world) else { continue };
        let missing = IDS.into_iter().find(|id| !voters.contains(id));
        let outcome = match missing {
            Some(missing) => replica.add(missing, Place::default()).await,
            None => replica.remove(world.pick_id(), world.below(8) == 0).await,
        };
        changes.set(changes.get() + usize::from(outcome.is_ok()));
    }
}

#[test]
fn changes_of_the_members_lose_nothing() {
    let total = Rc::<Cell<usize>>::default();
    for seed in super::seeds(0..64) {
        let mut runtime = SimRuntime::from_seed(seed);
        let world = World::new(seed, runtime.tasks(), store_config());
        let _repeats = Repeats(seed, "cluster::members");
        runtime.block_on(async {
            let stops = begin(&world);
            let ends = Rc::<Cell<bool>>::default();
            let changing = change_all(world.clone(), ends.clone(), total.clone());
            world.tasks.spawn("changes", changing);
            strike(&world).await;
            heal(&world).await;
            ends.set(true);
            wait_for(&world, "no change is in progress", || Rc::strong_count(&ends) == 1).await;
            for id in IDS {
                let deadline = world.clock.now() + super::REPAIRED_MAX;
                while add(&world, id).await != Some(Ok(())) {
                    assert!(world.clock.now() < deadline, "seed {seed}: {}", world.describe());
                    world.sleep_ms(20).await;
                }
            }
            end(&world, stops).await;
        });
    }
    assert!(total.get() > 64, "only {} changes", total.get());
}

/// While one of three replicas is down, removing another one would leave no majority running.
#[test]
fn a_removal_that_would_stop_the_others_is_refused() {
    let mut runtime = SimRuntime::from_seed(1);
    let world = World::new(1, runtime.tasks(), store_config());
    runtime.block_on(async {
        let stops = begin(&world);
        wait_for(&world, "a leader", || leader(&world).is_some()).await;
        world.sleep_ms(1_000).await;
        let (replica, _) = leader(&world).unwrap();
        let own = replica.id();
        let others: Vec<_> = IDS.into_iter().filter(|id| *id != own).collect();
        assert_eq!(replica.remove(own, false).await, Err(ChangeError::Leads(own)));
        world.crash(others[0], super::Crash::Kill);
        world.sleep_ms(1_500).await;
        let refused = replica.remove(others[1], false).await;
        let silent = vec![others[0]];
        let mut rest = vec![own, others[0]];
        rest.sort_unstable();
        let needed = 2;
        let expected = ChangeError::LosesMajority { replica: others[1], needed, rest, silent };
        assert_eq!(refused, Err(expected));
        assert_eq!(replica.remove(others[0], false).await, Ok(()), "the others run");
        assert_eq!(replica.remove(others[0], false).await, Ok(()), "it has happened");
        let before = world.oracle.acknowledged_count();
        let works = || world.oracle.acknowledged_count() > before;
        wait_for(&world, "a message is acknowledged", works).await;
        world.start(others[0]);
        let knows_it = || {
            let process = world.process(others[0]);
            let replica = process.and_then(|process| process.replica.borrow().clone());
            replica.is_some_and(|replica| replica.log().is_removed())
        };
        wait_for(&world, "the replica has learned that it was removed", knows_it).await;
        while add(&world, others[0]).await != Some(Ok(())) {
            world.sleep_ms(20).await;
        }
        wait_for(&world, "the replica is a member again", || !knows_it()).await;
        end(&world, stops).await;
    });
}
