//! Counts the handles of one kind that a channel has.

use std::cell::Cell;

#[derive(Debug)]
pub struct Handles(Cell<usize>);

impl Handles {
    pub fn new(count: usize) -> Self {
        Self(Cell::new(count))
    }

    pub fn count(&self) -> usize {
        self.0.get()
    }

    pub fn add(&self) {
        self.0.set(self.0.get() + 1);
    }

    /// Removes one handle. Returns whether it was the last.
    pub fn remove(&self) -> bool {
        self.0.set(self.0.get() - 1);
        self.0.get() == 0
    }
}
