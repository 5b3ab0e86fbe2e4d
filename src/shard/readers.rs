//! Who reads next, while requests are backed up at the log.
//!
//! With thousands of connections, a shard could spend all of its time on reading requests that it refuses
//! in the end, and leave none for those that it has accepted. So connections that bring more messages
//! then read in turn, a few at a time, and only as room becomes available. What they have not read, TCP
//! flow control holds back.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;

use futures_util::future::{Either, select};

use crate::reactor::{self, Turns};

/// How many may read at a time. More than one, because some find little.
const READING_MAX: u32 = 4;

/// The connections of a shard that queue for reading. Invariant: `reading` is the number of those that
/// have got a turn and have not finished it.
#[derive(Default)]
pub struct Readers {
    turns: Turns,
    reading: Cell<u32>,
}

impl Readers {
    /// Drives `intake`, which reads: at once, unless requests are backed up or others wait for their turn.
    /// Until it is its turn, in the background: a shard that has nothing better to do reads all the same,
    /// and refuses in time what it cannot store.
    pub async fn in_turn<T>(
        &self,
        is_backed_up: impl Fn() -> bool,
        intake: impl Future<Output = T>,
    ) -> T {
        let outcome = match self.turns.is_waiting() || is_backed_up() {
            true => self.wait(intake).await,
            false => intake.await,
        };
        self.let_next_read(is_backed_up);
        outcome
    }

    async fn wait<T>(&self, intake: impl Future<Output = T>) -> T {
        let mut intake = pin!(intake);
        let turn = self.turns.ask();
        let early = {
            let granted = poll_fn(|context| turn.poll(context));
            match select(granted, reactor::background(intake.as_mut())).await {
                Either::Left(_) => None,
                Either::Right((outcome, _)) => Some(outcome),
            }
        };
        let outcome = match early {
            Some(outcome) => outcome,
            None => intake.await,
        };
        if turn.was_granted() {
            self.reading.set(self.reading.get() - 1);
        }
        outcome
    }

    /// Some room has become available, or somebody has read: lets others read unless requests are still
    /// backed up.
    pub fn let_next_read(&self, is_backed_up: impl Fn() -> bool) {
        while self.turns.is_waiting() && self.reading.get() < READING_MAX && !is_backed_up() {
            self.reading.set(self.reading.get() + 1);
            self.turns.grant();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;
    use crate::reactor::Host;

    #[derive(Default)]
    struct Scene {
        readers: Readers,
        is_backed_up: Cell<bool>,
        /// Those that have begun to read.
        begun: RefCell<Vec<u32>>,
        may_end: Cell<bool>,
    }

    impl Scene {
        fn backed_up() -> Rc<Self> {
            Rc::new(Self { is_backed_up: Cell::new(true), ..Self::default() })
        }

        fn read(self: &Rc<Self>, nth: u32) {
            let scene = self.clone();
            reactor::spawn(async move {
                let intake = async {
                    scene.begun.borrow_mut().push(nth);
                    while !scene.may_end.get() {
                        reactor::pass().await;
                    }
                };
                scene.readers.in_turn(|| scene.is_backed_up.get(), intake).await;
            })
            .detach();
        }

        fn let_next_read(&self) {
            self.readers.let_next_read(|| self.is_backed_up.get());
        }

        /// The shard is busy meanwhile.
        async fn begun_after_a_while(&self) -> u32 {
            for _ in 0..20 {
                reactor::pass().await;
            }
            self.begun.borrow().len() as u32
        }
    }

    fn run(main: impl Future<Output = ()> + 'static) {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(0).ring_depth(64);
        Host::make(builder, Duration::ZERO).unwrap().run(async { reactor::spawn(main).await });
    }

    /// Background work gets no turn for a second, unless the shard is idle.
    async fn use_up_background() {
        let take_long = async {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(50) {}
        };
        reactor::background(take_long).await;
    }

    #[test]
    fn a_few_read_at_a_time_in_order_once_nothing_is_backed_up() {
        run(async {
            use_up_background().await;
            let scene = Scene::backed_up();
            (0..10).for_each(|nth| scene.read(nth));
            scene.let_next_read();
            assert_eq!(scene.begun_after_a_while().await, 0);
            scene.is_backed_up.set(false);
            scene.let_next_read();
            scene.let_next_read();
            assert_eq!(scene.begun_after_a_while().await, READING_MAX);
            scene.may_end.set(true);
            assert_eq!(scene.begun_after_a_while().await, 10);
            assert!(scene.begun.borrow().is_sorted());
            assert!(!scene.readers.turns.is_waiting() && scene.readers.reading.get() == 0);
        });
    }

    #[test]
    fn nobody_overtakes_those_that_wait_for_their_turn() {
        run(async {
            use_up_background().await;
            let scene = Scene::backed_up();
            scene.may_end.set(true);
            scene.read(0);
            scene.is_backed_up.set(false);
            scene.read(1);
            assert_eq!(scene.begun_after_a_while().await, 0);
            scene.let_next_read();
            assert_eq!(scene.begun_after_a_while().await, 2);
            assert!(scene.begun.borrow().is_sorted());
        });
    }

    #[test]
    fn a_shard_with_nothing_better_to_do_reads_however_much_is_backed_up() {
        run(async {
            let scene = Scene::backed_up();
            scene.may_end.set(true);
            (0..10).for_each(|nth| scene.read(nth));
            let deadline = Instant::now() + Duration::from_secs(10);
            while scene.begun.borrow().len() < 10 {
                assert!(Instant::now() < deadline);
                reactor::sleep(Duration::from_millis(1)).await;
            }
            assert!(scene.begun.borrow().is_sorted());
        });
    }
}
