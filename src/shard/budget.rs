//! Memory budgets shared by the connections of a shard: the total, and the share of each
//! connection. Those that wait for memory get it in order of arrival.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A bound on the bytes that all connections of a shard hold for one purpose.
pub struct Budget(Rc<Pool>);

/// Invariant: whenever the first of those that wait may be given what it waits for, it is awake.
struct Pool {
    taken: Cell<usize>,
    size: usize,
    /// By order of arrival.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next_place: Cell<u64>,
}

/// The share of one connection, returned on drop.
pub struct Share {
    pool: Rc<Pool>,
    own: Cell<usize>,
    /// Its place among those that wait for memory, while it waits.
    place: Cell<Option<u64>>,
}

impl Budget {
    pub fn new(size: usize) -> Self {
        let (taken, waiting, next_place) = Default::default();
        Self(Rc::new(Pool { taken, size, waiting, next_place }))
    }

    pub fn share(&self) -> Share {
        Share { pool: self.0.clone(), own: Cell::new(0), place: Cell::new(None) }
    }
}

impl Share {
    pub fn get(&self) -> usize {
        self.own.get()
    }

    /// Sets the share to `bytes`, even if that exceeds the budget.
    pub fn set(&self, bytes: usize) {
        let before = self.own.replace(bytes);
        self.pool.taken.set(self.pool.taken.get() - before + bytes);
        if bytes < before {
            self.pool.wake_first();
        }
    }

    /// Changes the share to `bytes`. Returns false and changes nothing if that is an increase that
    /// the budget does not allow, or for which others wait.
    pub fn try_set(&self, bytes: usize) -> bool {
        let is_free = self.pool.waiting.borrow().is_empty() && self.fits(bytes);
        let is_granted = bytes <= self.own.get() || is_free;
        if is_granted {
            self.set(bytes);
        }
        is_granted
    }

    /// Changes the share to `bytes` as soon as the budget allows it, after those that wait already.
    pub async fn set_in_turn(&self, bytes: usize) {
        if self.try_set(bytes) {
            return;
        }
        let place = Place::take(self);
        poll_fn(|context| place.poll(context, || self.fits(bytes))).await;
        self.set(bytes);
    }

    fn fits(&self, bytes: usize) -> bool {
        self.pool.taken.get() - self.own.get() + bytes <= self.pool.size
    }

    /// Whether memory that becomes free is given to this connection first.
    pub fn is_next(&self) -> bool {
        let first = self.pool.waiting.borrow().keys().next().copied();
        first.is_some() && first == self.place.get()
    }

    /// Whether more than half of the budget is in use.
    pub fn is_scarce(&self) -> bool {
        self.pool.taken.get() > self.pool.size / 2
    }
}

/// Memory up to this size, bytes, is also given while it is scarce: heartbeats are small.
const SMALL_MAX: usize = 16 << 10;

/// Memory that several requests of one read keep. Counted until the last of them is done.
#[derive(Default)]
pub struct KeptMemory(Option<(Rc<Share>, usize)>);

impl KeptMemory {
    /// `None` if the budget does not allow it, or if that is scarce, the connection has a part of it
    /// and asks for more than a little.
    pub fn take(share: &Rc<Share>, bytes: usize) -> Option<Rc<Self>> {
        let own = share.get();
        let may_have = own == 0 || bytes <= SMALL_MAX || !share.is_scarce();
        let fits = may_have && share.try_set(own + bytes);
        fits.then(|| Rc::new(Self(Some((share.clone(), bytes)))))
    }
}

impl Drop for KeptMemory {
    fn drop(&mut self) {
        if let Some((share, bytes)) = self.0.take() {
            share.set(share.get() - bytes);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Pool {
    fn wake_first(&self) {
        let first = self.waiting.borrow().values().next().cloned();
        if let Some(waker) = first {
            waker.wake();
        }
    }
}

/// A place among those that wait for memory, until it is dropped. The next one then is the first.
struct Place<'a>(&'a Share);

impl<'a> Place<'a> {
    fn take(share: &'a Share) -> Self {
        let next = &share.pool.next_place;
        share.place.set(Some(next.replace(next.get() + 1)));
        Self(share)
    }

    fn poll(&self, context: &Context<'_>, fits: impl Fn() -> bool) -> Poll<()> {
        let Share { pool, place, .. } = self.0;
        let place = place.get().expect("it is kept until the drop");
        pool.waiting.borrow_mut().insert(place, context.waker().clone());
        if self.0.is_next() && fits() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Share { pool, place, .. } = self.0;
        if let Some(place) = place.take() {
            pool.waiting.borrow_mut().remove(&place);
        }
        pool.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[test]
    fn what_one_connection_holds_another_cannot_have() {
        let budget = Budget::new(100);
        let (first, second) = (budget.share(), budget.share());
        assert!(first.try_set(60) && !second.try_set(50) && second.try_set(40));
        assert!(!first.try_set(61) && first.try_set(10) && second.try_set(90));
        second.set(200);
        assert!(second.try_set(150), "less than before is always granted");
        assert!(first.is_scarce() && !first.try_set(11));
        drop(second);
        assert!(!first.is_scarce() && first.try_set(100));
    }

    #[test]
    fn while_memory_is_scarce_a_connection_keeps_no_more() {
        const LARGE: usize = SMALL_MAX + 1;
        let budget = Budget::new(5 * LARGE);
        let (first, second) = (Rc::new(budget.share()), Rc::new(budget.share()));
        let kept: Vec<_> = (0..3).map(|_| KeptMemory::take(&first, LARGE).unwrap()).collect();
        assert!(KeptMemory::take(&first, LARGE).is_none(), "more than half of it is in use");
        let seconds = KeptMemory::take(&second, LARGE).unwrap();
        assert!(KeptMemory::take(&second, LARGE).is_none());
        let small = KeptMemory::take(&second, SMALL_MAX).expect("there is room for little");
        assert!(KeptMemory::take(&second, SMALL_MAX).is_none(), "all is in use");
        drop((seconds, small));
        let copies = kept.clone();
        drop(kept);
        assert_eq!(first.get(), 3 * LARGE, "another request keeps the same memory");
        drop(copies);
        assert_eq!(first.get(), 0);
    }

    struct Waiting<'a> {
        set: Pin<Box<dyn Future<Output = ()> + 'a>>,
        wakes: Arc<Wakes>,
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl<'a> Waiting<'a> {
        fn new(share: &'a Share, bytes: usize) -> Self {
            let mut waiting =
                Self { set: Box::pin(share.set_in_turn(bytes)), wakes: Arc::default() };
            assert!(!waiting.poll());
            waiting
        }

        fn poll(&mut self) -> bool {
            let waker = Waker::from(self.wakes.clone());
            self.set.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        }

        /// How often it was woken since the last call.
        fn wakes(&self) -> usize {
            self.wakes.0.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn memory_is_granted_in_order_of_arrival_and_wakes_the_first_that_waits() {
        let budget = Budget::new(100);
        let [holder, first, small, last] = [(); 4].map(|()| budget.share());
        holder.set(90);
        let mut large = Waiting::new(&first, 60);
        let mut second = Waiting::new(&small, 10);
        let mut third = Waiting::new(&last, 80);
        let is_next = || [&holder, &first, &small, &last].map(Share::is_next);
        assert_eq!(is_next(), [false, true, false, false]);
        let newcomer = budget.share();
        assert!(!newcomer.try_set(5), "there is room for it, but others wait");
        let wakes = |waiting: [&Waiting<'_>; 3]| waiting.map(Waiting::wakes);
        assert_eq!(wakes([&large, &second, &third]), [0; 3], "nothing was freed");
        holder.set(80);
        assert_eq!(wakes([&large, &second, &third]), [1, 0, 0]);
        assert!(!large.poll() && !second.poll(), "20 are free, and the first waits for 60");
        holder.set(40);
        assert_eq!(wakes([&large, &second, &third]), [1, 0, 0]);
        assert!(!second.poll() && large.poll());
        assert_eq!(is_next(), [false, false, true, false]);
        assert_eq!(wakes([&large, &second, &third]), [0, 1, 0], "the next is the first now");
        assert!(!second.poll(), "all is taken");
        // One that gives up lets the next one go ahead.
        drop(second);
        assert_eq!(third.wakes(), 1);
        assert!(!third.poll());
        holder.set(0);
        assert_eq!(third.wakes(), 1);
        assert!(!third.poll(), "40 are free");
        drop(large);
        drop(third);
        assert_eq!(is_next(), [false; 4]);
        assert!(newcomer.try_set(40), "nobody waits any more");
    }
}
