//! Memory that the connections of one shard share: how much all of them hold, and what each has of it.

use std::cell::Cell;
use std::rc::Rc;

/// A bound on the bytes that all connections of a shard hold for one purpose.
pub struct Budget {
    taken: Rc<Cell<usize>>,
    size: usize,
}

/// What one connection holds. Gives it back when it is dropped.
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

    /// This connection now holds `bytes`, whether there was room or not.
    pub fn set(&self, bytes: usize) {
        self.taken.set(self.taken.get() - self.own.replace(bytes) + bytes);
    }

    /// Takes `bytes` in the place of what it holds. False, and nothing is changed, when that is more
    /// and the budget does not allow it.
    pub fn try_set(&self, bytes: usize) -> bool {
        let others = self.taken.get() - self.own.get();
        let fits = bytes <= self.own.get() || others + bytes <= self.size;
        if fits {
            self.set(bytes);
        }
        fits
    }

    /// More than half of the budget is taken.
    pub fn is_scarce(&self) -> bool {
        self.taken.get() > self.size / 2
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
}
