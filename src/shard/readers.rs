//! Decides which connection reads next while requests are backed up at the log.
//!
//! With thousands of connections, a shard could spend all of its time on reading requests that it
//! refuses in the end, and have none left for those that it has accepted. So while requests are
//! backed up, connections that bring messages read in turn, as room becomes available or when the
//! shard is idle: a shard that waits for its device must still refuse in time what it cannot store.
//! TCP flow control holds back what is not read.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use futures_util::future::select;

use super::input::SHARED_SIZE;
use crate::reactor::{self, Turn, Turns};

/// Bytes that a read may bring; most bring less.
const READ_SIZE: u64 = SHARED_SIZE as u64;

/// The connections of a shard that queue for reading. Invariant: `called` is the number of
/// connections that have been granted a turn and have not taken it.
#[derive(Default)]
pub struct Readers {
    turns: Turns,
    called: Cell<u64>,
}

impl Readers {
    /// Waits until a connection that brings messages may read: returns immediately unless there is
    /// nothing to `spare` or others wait. `spare`: how many more bytes may wait for room in the
    /// log.
    pub async fn turn(&self, spare: impl Fn() -> u64) {
        if spare() > 0 && !self.turns.is_waiting() {
            return;
        }
        let place = Place { readers: self, turn: self.turns.ask() };
        let called = poll_fn(|context| place.turn.poll(context));
        select(called, pin!(reactor::spare_turn())).await;
    }

    /// Grants turns to waiting connections while there is something to `spare`: room has become
    /// available, or a connection has read.
    pub fn call_next(&self, spare: impl Fn() -> u64) {
        while self.turns.is_waiting() && self.called.get() * READ_SIZE < spare() {
            self.called.set(self.called.get() + 1);
            self.turns.grant();
        }
    }
}

/// A place in the queue, until it is dropped.
struct Place<'a> {
    readers: &'a Readers,
    turn: Rc<Turn>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.turn.was_granted() {
            self.readers.called.set(self.readers.called.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::{Duration, Instant};

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;
    use crate::reactor::Host;

    #[derive(Default)]
    struct Scene {
        readers: Readers,
        spare: Cell<u64>,
        /// Numbers of the connections that have read.
        read: RefCell<Vec<u32>>,
    }

    impl Scene {
        fn read(self: &Rc<Self>, nth: u32) {
            let scene = self.clone();
            reactor::spawn(async move {
                scene.readers.turn(|| scene.spare.get()).await;
                scene.read.borrow_mut().push(nth);
            })
            .detach();
        }

        fn call_next(&self) {
            self.readers.call_next(|| self.spare.get());
        }

        /// Which connections have read after the shard was busy for a moment, too short for a spare
        /// turn.
        async fn read_meanwhile(&self) -> Vec<u32> {
            for _ in 0..3 {
                reactor::pass().await;
            }
            self.read.borrow().clone()
        }
    }

    fn run(main: impl Future<Output = ()> + 'static) {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(0).ring_depth(64);
        Host::make(builder, Duration::ZERO).unwrap().run(async { reactor::spawn(main).await });
    }

    /// Takes the spare turn, so that no connection gets one for a while unless the shard is idle.
    async fn use_spare_turn() {
        reactor::spare_turn().await;
    }

    #[test]
    fn as_many_read_as_may_wait_for_room_in_order() {
        run(async {
            use_spare_turn().await;
            let scene = Rc::new(Scene::default());
            (0..10).for_each(|nth| scene.read(nth));
            scene.call_next();
            assert!(scene.read_meanwhile().await.is_empty());
            scene.spare.set(3 * READ_SIZE - 1);
            scene.call_next();
            scene.call_next();
            assert_eq!(scene.read_meanwhile().await, [0, 1, 2]);
            scene.spare.set(100 * READ_SIZE);
            scene.call_next();
            assert_eq!(scene.read_meanwhile().await, Vec::from_iter(0..10));
            assert!(!scene.readers.turns.is_waiting() && scene.readers.called.get() == 0);
        });
    }

    #[test]
    fn nobody_overtakes_those_that_wait_for_their_turn() {
        run(async {
            use_spare_turn().await;
            let scene = Rc::new(Scene::default());
            scene.read(0);
            scene.spare.set(READ_SIZE * 2);
            scene.read(1);
            assert!(scene.read_meanwhile().await.is_empty());
            scene.call_next();
            assert_eq!(scene.read_meanwhile().await, [0, 1]);
        });
    }

    #[test]
    fn one_that_leaves_gives_its_turn_back() {
        run(async {
            use_spare_turn().await;
            let scene = Rc::new(Scene::default());
            {
                let leaving = pin!(scene.readers.turn(|| 0));
                assert!(futures_util::poll!(leaving).is_pending());
                scene.read(1);
                scene.spare.set(1);
                scene.call_next();
                assert_eq!(scene.readers.called.get(), 1);
            }
            scene.call_next();
            assert_eq!(scene.read_meanwhile().await, [1]);
        });
    }

    #[test]
    fn a_shard_with_nothing_better_to_do_reads_however_much_is_backed_up() {
        run(async {
            let scene = Rc::new(Scene::default());
            (0..10).for_each(|nth| scene.read(nth));
            let deadline = Instant::now() + Duration::from_secs(10);
            while scene.read.borrow().len() < 10 {
                assert!(Instant::now() < deadline);
                reactor::sleep(Duration::from_millis(1)).await;
            }
            assert!(scene.read.borrow().is_sorted());
        });
    }
}
