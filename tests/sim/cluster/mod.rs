//! A cluster: three replicas of a shard, with their storage, broker and consensus engine, in one
//! thread and in virtual time. Processes are killed and lose power at any of their steps, machines
//! are paused, links between them are blocked and break, disks are slow.
//!
//! [`oracle`] states what must hold, and [`features`] does for what is built on messages. One seed
//! determines everything; a failure prints the command that repeats it. `RINGMQ_SEEDS=A..B` runs
//! other seeds. A seed of [`seeds_keep_every_promise`] that fails is repeated with as few faults as
//! it needs to fail, and the events of that run are printed; `RINGMQ_FAULTS=2,9` injects only these
//! of a seed's faults.

mod behind;
mod clients;
mod copies;
mod faults;
mod features;
mod identity;
mod machine;
mod members;
mod oracle;
mod returning;
pub mod shrink;
mod world;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use openraft::async_runtime::AsyncRuntime;
use ringmq::model::reply::{PullStatus, QueueProgress};
use ringmq::model::{Reply, Request};
use ringmq::planted::{self, Bug};
use ringmq::sim::SimRuntime;

use clients::{QUEUES, consume_all, group_name, produce_all, pull_from, queue_of};
use world::{Crash, IDS, World, store_config};

/// Time after the last fault within which everything works again.
const REPAIRED_MAX: Duration = Duration::from_secs(30);
const PRODUCERS: u32 = 3;
const CONSUMERS: u32 = 2;

/// Counts of what happened in a run, and a hash of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    acknowledged: usize,
    leaders: usize,
    crashes: usize,
    /// Numbers of delayed messages, returned ones, granted locks, resets and recalls.
    features: [usize; 5],
    trace: u64,
}

/// Prints how to repeat a run that panics.
struct Repeats(u64, &'static str);

impl Drop for Repeats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, next, tests) = (self.0, self.0 + 1, self.1);
            eprintln!(
                "repeat: RINGMQ_SEEDS={seed}..{next} cargo test --workspace --test sim {tests}"
            );
        }
    }
}

/// Prints what has happened in a run that panics.
struct Tells(Rc<World>);

impl Drop for Tells {
    fn drop(&mut self) {
        if std::thread::panicking() && !shrink::is_quiet() {
            eprint!("{}", self.0.events());
        }
    }
}

pub fn simulate(seed: u64) -> Summary {
    simulate_with(seed, None)
}

/// Simulates a seed with only these of its faults, or all for `None`.
fn simulate_with(seed: u64, faults: Option<BTreeSet<usize>>) -> Summary {
    let mut runtime = SimRuntime::from_seed(seed);
    let world = World::with_faults(seed, runtime.tasks(), store_config(), faults);
    let _tells = Tells(world.clone());
    runtime.block_on(run(world.clone()));
    Summary {
        acknowledged: world.oracle.acknowledged_count(),
        leaders: world.oracle.leader_count(),
        crashes: world.crashes.get(),
        features: world.features.counts(),
        trace: world.trace(),
    }
}

/// Simulates a seed. If it fails, simulates it again with as few faults as it needs to fail.
fn simulate_and_shrink(seed: u64) -> Summary {
    if let Some(chosen) = chosen_faults() {
        return simulate_with(seed, Some(chosen));
    }
    let mut summary = None;
    if !shrink::fails(|| summary = Some(simulate(seed))) {
        return summary.expect("it has come to its end");
    }
    let count = faults::count(seed);
    eprintln!("seed {seed} fails; looking for those of its {count} faults that it needs");
    let needed = needed_faults(seed);
    let list: Vec<String> = needed.iter().map(ToString::to_string).collect();
    eprintln!(
        "repeat: RINGMQ_SEEDS={seed}..{} RINGMQ_FAULTS={} cargo test --workspace --test sim cluster::seeds",
        seed + 1,
        list.join(",")
    );
    simulate_with(seed, Some(needed))
}

/// Returns as few of a failing seed's faults as it needs to fail.
fn needed_faults(seed: u64) -> BTreeSet<usize> {
    shrink::shrink(faults::count(seed), |left| {
        shrink::fails(|| simulate_with(seed, Some(left.clone())))
    })
}

/// Parses `RINGMQ_FAULTS=2,9`; an empty value means no faults.
fn chosen_faults() -> Option<BTreeSet<usize>> {
    let given = std::env::var("RINGMQ_FAULTS").ok()?;
    let numbers = given.split(',').filter(|number| !number.is_empty());
    Some(numbers.map(|number| number.parse().expect("RINGMQ_FAULTS=A,B")).collect())
}

async fn run(world: Rc<World>) {
    let stops = begin(&world);
    features::start(&world, &stops);
    faults::strike(&world).await;
    end(&world, stops).await;
}

/// Starts replicas and clients.
fn begin(world: &Rc<World>) -> Rc<Cell<bool>> {
    let stops = Rc::new(Cell::new(false));
    IDS.into_iter().for_each(|id| world.start(id));
    for name in 0..PRODUCERS {
        let producer = produce_all(world.clone(), name, stops.clone());
        world.tasks.spawn(format!("producer {name}"), producer);
    }
    for name in 0..CONSUMERS {
        let consumer = consume_all(world.clone(), name, stops.clone());
        world.tasks.spawn(format!("consumer {name}"), consumer);
    }
    stops
}

/// Repairs everything, ends the clients, and checks what every replica has.
async fn end(world: &Rc<World>, stops: Rc<Cell<bool>>) {
    faults::heal(world).await;
    agree(world).await;
    // The cluster works again.
    let before = world.oracle.acknowledged_count();
    let works = || world.oracle.acknowledged_count() > before;
    wait_for(world, "a message is acknowledged", works).await;
    stops.set(true);
    // Clients hold references to it until they have stopped.
    while Rc::strong_count(&stops) > 1 {
        world.sleep_ms(20).await;
    }
    agree(world).await;
    check(world).await;
    features::check(world).await;
    IDS.into_iter().for_each(|id| world.crash(id, Crash::Power));
    IDS.into_iter().for_each(|id| world.start(id));
    agree(world).await;
    check(world).await;
    features::check(world).await;
    IDS.into_iter().for_each(|id| world.crash(id, Crash::Kill));
}

/// Waits until one replica leads and all have committed the same.
async fn agree(world: &World) {
    let is_agreed = || {
        let processes: Vec<_> = IDS.iter().filter_map(|&id| world.process(id)).collect();
        let leaders = processes.iter().filter(|process| process.broker.leads()).count();
        let ends = processes.iter().map(|process| {
            let store = process.broker.store();
            let is_whole = store.committed() == store.end() && store.end().0 > 0;
            is_whole.then(|| store.end())
        });
        let ends: Vec<_> = ends.collect();
        leaders == 1
            && ends.len() == IDS.len()
            && ends[0].is_some()
            && ends.iter().all(|end| *end == ends[0])
    };
    wait_for(world, "the replicas agree", is_agreed).await;
}

/// Waits for a condition that must hold soon after everything is repaired.
async fn wait_for(world: &World, what: &str, is_so: impl Fn() -> bool) {
    let deadline = world.clock.now() + REPAIRED_MAX;
    while !is_so() {
        let is_late = world.clock.now() > deadline;
        assert!(!is_late, "seed {}: waits until {what}\n{}", world.seed, world.describe());
        world.sleep_ms(7).await;
    }
}

/// Checks everything that every replica has.
async fn check(world: &Rc<World>) {
    for id in IDS {
        let who = format!("seed {}, replica {id}", world.seed);
        let mut queues = [const { 0..0 }; QUEUES as usize];
        for queue in 0..QUEUES {
            let oldest = world.ask(id, Request::MinOffset(queue_of(queue))).await;
            let Some(Ok(Reply::Offset(oldest))) = oldest.map(|answer| answer.reply) else {
                panic!("{who}: no oldest offset");
            };
            queues[queue as usize] = oldest.0..oldest.0;
            loop {
                let at = queues[queue as usize].end;
                let answer = world.ask(id, pull_from("checkers", queue, at, 32)).await;
                let Some(Ok(Reply::Pulled(pulled))) = answer.as_ref().map(|answer| &answer.reply)
                else {
                    panic!("{who}: {answer:?}");
                };
                if pulled.status == PullStatus::OffsetMoved && pulled.next_offset.0 > at {
                    // Retention has just deleted more.
                    queues[queue as usize] = pulled.next_offset.0..pulled.next_offset.0;
                    continue;
                }
                if pulled.count == 0 {
                    break;
                }
                queues[queue as usize].end += u64::from(pulled.count);
            }
        }
        world.oracle.check_all(&queues, &who);
        for group in world.oracle.groups() {
            // The offsets that this replica has, whether it leads or not.
            let topic = Some(queue_of(group.1).topic);
            let request = Request::GroupProgress { group: group_name(&group.0), topic };
            let found = match world.ask(id, request).await.map(|answer| answer.reply) {
                Some(Ok(Reply::Progress(progress))) => {
                    let of = |queue: &QueueProgress| queue.queue.queue.queue.0 == group.1;
                    let queue = progress.queues.into_iter().find(of);
                    queue.and_then(|queue| queue.committed).map(|offset| offset.0)
                }
                _ => None,
            };
            world.oracle.check_progress(&group, found, &who);
        }
        world.compare_log(&world.process(id).unwrap());
    }
}

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(given) = std::env::var("RINGMQ_SEEDS") else { return default };
    let (first, end) = given.split_once("..").expect("RINGMQ_SEEDS=A..B");
    first.parse().unwrap()..end.parse().unwrap()
}

/// See [`oracle`].
#[test]
fn seeds_keep_every_promise() {
    let (mut acknowledged, mut leaders, mut crashes) = (0, 0, 0);
    let mut features = [0; 5];
    let seeds = seeds(0..500);
    let began = Instant::now();
    for seed in seeds.clone() {
        let summary = simulate_and_shrink(seed);
        acknowledged += summary.acknowledged;
        leaders += summary.leaders;
        crashes += summary.crashes;
        features.iter_mut().zip(summary.features).for_each(|(all, one)| *all += one);
    }
    let count = (seeds.end - seeds.start) as usize;
    eprintln!(
        "{count} seeds in {:?}: {acknowledged} acknowledged, {leaders} terms, {crashes} crashes, \
         {features:?} delayed, returned, locked, reset, recalled",
        began.elapsed()
    );
    if count < 50 {
        return;
    }
    assert!(acknowledged > 40 * count, "only {acknowledged} messages were acknowledged");
    assert!(leaders > 2 * count, "only {leaders} leaders");
    assert!(features.iter().all(|one| *one > count / 2), "too little was used: {features:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4] {
        assert_eq!(simulate(seed), simulate(seed));
    }
    assert_ne!(simulate(5).trace, simulate(6).trace);
}

#[test]
fn a_failing_seed_is_repeated_with_the_faults_that_it_needs() {
    planted::with(Bug::CutsOneEntryTooFew, || {
        let seed = (0..100).find(|&seed| shrink::fails(|| simulate(seed)));
        let seed = seed.expect("a seed finds the bug");
        let needed = needed_faults(seed);
        let count = faults::count(seed);
        eprintln!("seed {seed}: {needed:?} of {count} faults");
        assert!(needed.len() < count);
        assert!(shrink::fails(|| simulate_with(seed, Some(needed))));
    });
}
