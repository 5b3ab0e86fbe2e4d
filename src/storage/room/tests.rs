use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

use SpaceClass::{Ordinary, Reserved};

/// A seeded random number generator.
struct Rng(u64);

impl Rng {
    fn from_seed(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }
}

/// Counts how often a waiter is woken.
#[derive(Default)]
struct Waiter(AtomicUsize);

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A room, the appends in flight, and the tickets by arrival.
struct Scene {
    room: Room,
    in_flight: VecDeque<u64>,
    tickets: Vec<(TicketId, u64, Arc<Waiter>)>,
    /// Tickets that were granted and wait again.
    again: Vec<TicketId>,
}

impl Scene {
    fn new(budget: u64) -> Self {
        Self { room: Room::new(budget), in_flight: VecDeque::new(), tickets: vec![], again: vec![] }
    }

    fn total(&self) -> u64 {
        self.in_flight.iter().sum()
    }

    fn append(&mut self, class: SpaceClass, size: u64) -> bool {
        let is_admitted = self.room.admits(class, size);
        if is_admitted {
            self.in_flight.push_back(size);
            self.room.handle_append(size, self.total());
        } else {
            self.room.handle_refused(size);
        }
        is_admitted
    }

    fn take(&mut self, size: u64) -> TicketId {
        let id = self.room.take_ticket(size).unwrap();
        let waiter = Arc::new(Waiter::default());
        self.room.poll_granted(id, &waiter.clone().into());
        self.tickets.push((id, size, waiter));
        id
    }

    fn is_granted(&mut self, id: TicketId) -> bool {
        self.room.poll_granted(id, Waker::noop())
    }

    fn spend(&mut self, id: TicketId, size: u64) -> bool {
        self.room.begin_spending(id);
        let is_admitted = self.append(Ordinary, size);
        self.room.end_spending();
        is_admitted
    }

    /// Wakes the granted tickets. Returns their number.
    fn wake(&mut self) -> usize {
        let woken = self.room.take_woken();
        let count = woken.len();
        woken.into_iter().for_each(Waker::wake);
        count
    }

    fn commit(&mut self, count: usize) {
        self.in_flight.drain(..count.min(self.in_flight.len()));
        let gate = if self.room.gate() == Gate::Over { Gate::Over } else { Gate::Open };
        self.room.handle_in_flight(self.total(), gate);
    }
}

#[test]
fn small_appends_do_not_overtake_a_waiting_large_one() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 60));
    let large = scene.take(90);
    for _ in 0..10 {
        assert!(!scene.append(Ordinary, 1), "there is room for it, but a ticket waits");
    }
    let small = scene.take(1);
    assert!(!scene.is_granted(large) && !scene.is_granted(small));
    scene.commit(1);
    assert!(scene.is_granted(large) && scene.is_granted(small));
    assert!(scene.spend(small, 1) && scene.spend(large, 90));
}

#[test]
fn granted_room_is_held_until_it_is_spent_or_dropped() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 100));
    let first = scene.take(70);
    scene.commit(1);
    assert!(scene.is_granted(first));
    assert!(!scene.append(Ordinary, 31), "70 are held");
    assert!(scene.append(Ordinary, 30));
    let second = scene.take(50);
    assert!(scene.spend(first, 40));
    assert!(!scene.is_granted(second), "30 and 40 are in flight, and 30 held");
    scene.room.drop_ticket(first);
    scene.commit(1);
    assert!(scene.is_granted(second));
}

#[test]
fn one_append_always_fits_however_small_the_budget() {
    let mut scene = Scene::new(1);
    assert!(scene.append(Ordinary, 4000) && !scene.append(Ordinary, 1));
    let (first, second) = (scene.take(5000), scene.take(1));
    scene.commit(1);
    assert!(scene.is_granted(first) && !scene.is_granted(second));
    assert!(scene.spend(first, 5000));
    scene.room.drop_ticket(first);
    scene.commit(1);
    assert!(scene.is_granted(second));
}

#[test]
fn facts_of_the_broker_pass_waiting_tickets_within_their_margin() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 100));
    scene.take(50);
    assert!(scene.append(Reserved, RESERVED_MARGIN));
    assert!(!scene.append(Reserved, 1));
}

#[test]
fn a_ticket_that_could_not_be_used_is_again_before_later_ones() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 100));
    let (first, second) = (scene.take(10), scene.take(100));
    scene.commit(1);
    assert!(scene.is_granted(first) && !scene.is_granted(second));
    assert!(!scene.spend(first, 20), "more than it holds, while another waits");
    scene.room.handle_no_segment();
    scene.room.wait_again(first, 20);
    let third = scene.take(1);
    assert!(![first, second, third].map(|id| scene.is_granted(id)).contains(&true));
    scene.commit(0);
    assert!(scene.is_granted(first) && !scene.is_granted(second) && !scene.is_granted(third));
    assert!(scene.spend(first, 20));
}

#[test]
fn a_ticket_whose_append_was_larger_waits_for_what_the_append_needs() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 70) && scene.append(Ordinary, 30));
    let first = scene.take(20);
    scene.commit(1);
    assert!(scene.is_granted(first) && !scene.spend(first, 75));
    scene.room.wait_again(first, 20);
    assert!(!scene.is_granted(first), "75 are needed, and 30 are in flight");
    scene.commit(1);
    assert!(scene.is_granted(first) && scene.spend(first, 75));
}

#[test]
fn when_waiting_is_pointless_an_append_that_found_no_room_waits_for_a_write() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 100));
    let id = scene.take(60);
    scene.room.handle_in_flight(100, Gate::Over);
    assert!(scene.is_granted(id) && !scene.spend(id, 60));
    scene.room.wait_again(id, 60);
    assert!(!scene.is_granted(id), "nothing has been written since");
    scene.commit(1);
    assert!(scene.is_granted(id) && scene.spend(id, 60));
}

/// One MiB in 20 ms is 2.5 MiB in 50 ms.
#[test]
fn while_the_device_is_behind_the_rest_of_the_budget_is_not_given() {
    const MIB: u64 = 1 << 20;
    let mut scene = Scene::new(64 * MIB);
    assert!((0..64).all(|_| scene.append(Ordinary, MIB)));
    for nth in 0..3 {
        scene.room.handle_written(
            nth * 20_000_000..(nth + 1) * 20_000_000,
            nth * MIB,
            scene.total(),
        );
        scene.commit(1);
    }
    assert_eq!(scene.room.in_flight_max(), 5 * MIB / 2);
    let waiting = scene.take(MIB);
    scene.commit(59);
    assert!(!scene.is_granted(waiting), "2 MiB are in flight");
    assert!(scene.append(Reserved, 3 * MIB), "facts of the broker have all of it");
    scene.commit(4);
    assert!(scene.is_granted(waiting));
    assert!(scene.spend(waiting, MIB));
    scene.room.drop_ticket(waiting);
    scene.room.handle_written(60_000_000..61_000_000, 64 * MIB, 0);
    assert_eq!(scene.room.in_flight_max(), 64 * MIB, "it has caught up");
}

#[test]
fn when_waiting_is_pointless_every_ticket_is_granted_without_room() {
    let mut scene = Scene::new(100);
    assert!(scene.append(Ordinary, 100));
    let ids: Vec<_> = (0..50).map(|_| scene.take(60)).collect();
    scene.room.handle_in_flight(100, Gate::Over);
    assert_eq!(scene.wake(), 50);
    assert!(ids.iter().all(|id| scene.is_granted(*id)));
    assert_eq!(scene.room.held, 0);
    let late = scene.take(60);
    assert!(scene.is_granted(late));
}

#[test]
fn too_many_tickets_are_refused() {
    let mut room = Room::new(1);
    room.handle_append(1, 1);
    assert!((0..WAITING_MAX).all(|_| room.take_ticket(1).is_some()));
    assert_eq!(room.take_ticket(1), None);
    room.drop_ticket(TicketId(0));
    assert!(room.take_ticket(1).is_some());
}

/// Counted, not timed: with 5,000 waiters, a write wakes exactly those that it makes room for, each
/// of them once.
#[test]
fn a_write_wakes_only_those_it_admits() {
    const WAITERS: usize = 5000;
    const FIT: usize = 20;
    let mut scene = Scene::new(FIT as u64 * 10);
    for _ in 0..FIT {
        assert!(scene.append(Ordinary, 10));
    }
    let ids: Vec<_> = (0..WAITERS).map(|_| scene.take(10)).collect();
    let mut next = 0;
    while next < WAITERS {
        let written = 1 + next % FIT;
        scene.commit(written);
        let woken = scene.wake();
        assert_eq!(woken, written.min(WAITERS - next));
        for id in &ids[next..next + woken] {
            assert!(scene.spend(*id, 10));
            scene.room.drop_ticket(*id);
        }
        assert_eq!(scene.wake(), 0, "spending makes no room");
        next += woken;
    }
    let wakes = scene.tickets.iter().map(|(.., waiter)| waiter.0.load(Ordering::Relaxed));
    assert!(wakes.eq(std::iter::repeat_n(1, WAITERS)));
}

/// For any sequence of operations: tickets are granted in order of arrival, none that fits keeps
/// waiting, and no more room is granted than there is.
#[test]
fn tickets_are_granted_in_order_and_none_is_lost() {
    for seed in 0..100 {
        let mut rng = Rng::from_seed(seed);
        let budget = 1 + rng.below(200);
        let mut scene = Scene::new(budget);
        for _ in 0..300 {
            step(&mut scene, &mut rng);
            check(&mut scene, budget, seed);
        }
        // All tickets are dropped in random order; the front one is always granted.
        scene.in_flight.clear();
        scene.room.handle_in_flight(0, Gate::Open);
        while !scene.tickets.is_empty() {
            let front = scene.tickets[0].0;
            assert!(scene.is_granted(front), "seed {seed}: the front one must be granted");
            let (gone, ..) = scene.tickets.remove(rng.index(scene.tickets.len()));
            scene.room.drop_ticket(gone);
        }
        assert_eq!((scene.room.held, scene.room.waiting.len()), (0, 0), "seed {seed}");
        assert!(scene.room.granted.is_empty(), "seed {seed}");
        assert!(scene.append(Ordinary, budget), "seed {seed}: all room is back");
    }
}

fn step(scene: &mut Scene, rng: &mut Rng) {
    match rng.below(6) {
        0 => _ = scene.append(Ordinary, 1 + rng.below(60)),
        1 | 2 => _ = scene.take(1 + rng.below(60)),
        3 if !scene.tickets.is_empty() => {
            let (gone, ..) = scene.tickets.remove(rng.index(scene.tickets.len()));
            scene.room.drop_ticket(gone);
        }
        4 if !scene.tickets.is_empty() => {
            let index = rng.index(scene.tickets.len());
            let (id, size, _) = scene.tickets[index];
            if !scene.is_granted(id) {
                return;
            }
            if rng.below(4) == 0 {
                scene.again.push(id);
                scene.room.wait_again(id, size);
                return;
            }
            assert!(scene.spend(id, size), "a granted ticket finds its room");
            scene.room.drop_ticket(id);
            scene.tickets.remove(index);
        }
        _ => scene.commit(rng.index(3)),
    }
}

fn check(scene: &mut Scene, budget: u64, seed: u64) {
    scene.wake();
    let granted: Vec<_> =
        scene.tickets.clone().into_iter().map(|(id, ..)| scene.is_granted(id)).collect();
    let sizes = scene.tickets.iter().zip(&granted);
    let held: u64 = sizes.clone().filter(|(_, granted)| **granted).map(|(t, _)| t.1).sum();
    assert_eq!(scene.room.held, held, "seed {seed}");
    let taken = scene.total() + held;
    let count = scene.in_flight.len() + granted.iter().filter(|granted| **granted).count();
    assert!(taken <= budget || count == 1, "seed {seed}: {taken} of {budget}");
    if let Some((front, _)) = sizes.clone().find(|(_, granted)| !**granted) {
        assert!(taken > 0 && taken + front.1 > budget, "seed {seed}: the front one fits and waits");
    }
    let of_order = sizes.filter(|(ticket, _)| !scene.again.contains(&ticket.0));
    let is_in_order = of_order.map(|(_, granted)| *granted).is_sorted_by(|a, b| a >= b);
    assert!(is_in_order, "seed {seed}: one was overtaken");
}

#[test]
fn as_much_may_wait_as_may_be_in_flight() {
    let mut room = Room::new(100);
    room.handle_append(90, 90);
    assert_eq!(room.spare(), 100);
    let first = room.take_ticket(60).unwrap();
    let second = room.take_ticket(50).unwrap();
    assert_eq!(room.spare(), 0);
    room.drop_ticket(second);
    assert_eq!(room.spare(), 40);
    let third = room.take_ticket(50).unwrap();
    room.handle_in_flight(20, Gate::Open);
    assert!(room.is_granted(first) && !room.is_granted(third));
    assert_eq!(room.spare(), 50);
    room.wait_again(first, 90);
    assert_eq!(room.spare(), 0, "at its old place");
}
