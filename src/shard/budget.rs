//! Memory budgets shared by the connections of a shard: the total, and the share of each
//! connection.

use std::cell::Cell;
use std::rc::Rc;

/// A bound on the bytes that all connections of a shard hold for one purpose.
pub struct Budget {
    taken: Rc<Cell<usize>>,
    size: usize,
}

/// The share of one connection, returned on drop.
pub struct Share {
    taken: Rc<Cell<usize>>,
    size: usize,
    own: Cell<usize>,
}

impl Budget {
    pub fn new(size: usize) -> Self {
        Self { taken: Rc::default(), size }
    }

    pub fn share(&self) -> Share {
        Share { taken: self.taken.clone(), size: self.size, own: Cell::new(0) }
    }
}

impl Share {
    pub fn get(&self) -> usize {
        self.own.get()
    }

    /// Sets the share to `bytes`, even if that exceeds the budget.
    pub fn set(&self, bytes: usize) {
        self.taken.set(self.taken.get() - self.own.replace(bytes) + bytes);
    }

    /// Changes the share to `bytes`. Returns false and changes nothing if that is an increase that
    /// the budget does not allow.
    pub fn try_set(&self, bytes: usize) -> bool {
        let others = self.taken.get() - self.own.get();
        let fits = bytes <= self.own.get() || others + bytes <= self.size;
        if fits {
            self.set(bytes);
        }
        fits
    }

    /// Whether more than half of the budget is in use.
    pub fn is_scarce(&self) -> bool {
        self.taken.get() > self.size / 2
    }
}

/// Memory that several requests of one read keep. Counted until the last of them is done.
#[derive(Default)]
pub struct KeptMemory(Option<(Rc<Share>, usize)>);

impl KeptMemory {
    /// `None` if the budget does not allow it, or if that is scarce and the connection has a part
    /// of it.
    pub fn take(share: &Rc<Share>, bytes: usize) -> Option<Rc<Self>> {
        let own = share.get();
        let fits = (own == 0 || !share.is_scarce()) && share.try_set(own + bytes);
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

#[cfg(test)]
mod tests {
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
        let budget = Budget::new(100);
        let (first, second) = (Rc::new(budget.share()), Rc::new(budget.share()));
        let kept: Vec<_> = (0..3).map(|_| KeptMemory::take(&first, 20).unwrap()).collect();
        assert!(KeptMemory::take(&first, 20).is_none(), "more than half of it is in use");
        let seconds = KeptMemory::take(&second, 40).unwrap();
        assert!(KeptMemory::take(&second, 0).is_none());
        drop(seconds);
        let copies = kept.clone();
        drop(kept);
        assert_eq!(first.get(), 60, "another request keeps the same memory");
        drop(copies);
        assert_eq!(first.get(), 0);
    }
}
