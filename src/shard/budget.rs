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
