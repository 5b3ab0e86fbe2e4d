//! Waits for room in the log, while segments end and appends are dropped.

use std::cell::{Cell, RefCell};

use ringmq::sim::{Rng, SimDisk, Tasks, pause, run};
use ringmq::storage::AppendError;

use super::shard::{Shard, config};

/// Every producer gets room, whatever the order in which writes complete, across many segments, while
/// others drop their tickets before or after the grant.
#[test]
fn every_waiting_producer_gets_its_turn() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        disk.slow(6);
        let shard = run(Shard::open(&disk, config())).unwrap();
        let (done, rng) = (Cell::new(0), RefCell::new(Rng::from_seed(seed)));
        let tasks = Tasks::new(seed);
        shard.spawn_committers(&tasks);
        for queue in 0..40 {
            let (shard, done, rng) = (&shard, &done, &rng);
            tasks.spawn(format!("producer {queue}"), async move {
                for _ in 0..10 {
                    let size = 100 + rng.borrow_mut().below(20_000) as usize;
                    if rng.borrow_mut().chance(1, 4) {
                        let ticket = shard.store.ticket(size).unwrap();
                        if rng.borrow_mut().coin() {
                            ticket.granted().await;
                        }
                        pause().await;
                        continue;
                    }
                    let send = || shard.send(queue, &[size]);
                    shard.store.with_room(size, send).await.unwrap();
                }
                done.set(done.get() + 1);
            });
        }
        tasks.run_while_possible();
        assert_eq!(done.get(), 40, "seed {seed}: {:?} wait forever", tasks.blocked());
        assert!(shard.store.stats().segment_count > 2, "seed {seed}: no segment has ended");
    }
}

/// An endless stream of small appends does not starve a large one: they do not overtake it.
#[test]
fn a_large_append_is_admitted_under_a_stream_of_small_ones() {
    const SMALL: usize = 200;
    /// Nothing else fits while an append of this size is in flight.
    const LARGE: usize = 32_500;
    let disk = SimDisk::new(1);
    disk.slow(6);
    let shard = run(Shard::open(&disk, config())).unwrap();
    let is_over = Cell::new(false);
    let tasks = Tasks::new(1);
    shard.spawn_committers(&tasks);
    for queue in 0..SMALL as u32 {
        let (shard, is_over) = (&shard, &is_over);
        tasks.spawn(format!("small {queue}"), async move {
            while !is_over.get() {
                // This producer takes no ticket, so it appends whenever there is room.
                match shard.send(queue, &[500]) {
                    Ok(_) | Err(AppendError::NoRoom) => pause().await,
                    Err(refusal) => panic!("{refusal}"),
                }
            }
        });
    }
    let overtaken_by = tasks.run_until(async {
        while shard.store.has_room(LARGE) {
            pause().await;
        }
        let ticket = shard.store.ticket(LARGE).unwrap();
        let before = shard.sent.borrow().len();
        ticket.granted().await;
        let overtaken_by = shard.sent.borrow().len() - before;
        ticket.spend(|| shard.send(1000, &[LARGE])).unwrap();
        is_over.set(true);
        overtaken_by
    });
    assert_eq!(overtaken_by, 0);
    tasks.run_while_possible();
}
