//! A piece of a buffer that somebody else also holds.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// Bytes of the log as they lie in a write or read buffer, shared instead of copied.
///
/// Stays on the shard that owns the buffer. A chunk keeps its whole buffer alive, so whoever holds
/// chunks for long must have a bound on how many.
#[derive(Clone)]
pub struct Chunk {
    owner: Rc<dyn AsRef<[u8]>>,
    range: Range<usize>,
}

impl Chunk {
    pub fn new(owner: Rc<dyn AsRef<[u8]>>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len());
        Self { owner, range }
    }

    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Rc::new(bytes), range }
    }

    /// Bytes of the buffer that it keeps alive.
    pub fn buffer_size(&self) -> usize {
        (*self.owner).as_ref().len()
    }

    /// The part of this chunk at `range`, counted from its beginning.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.range.len());
        let start = self.range.start;
        Self { owner: self.owner.clone(), range: start + range.start..start + range.end }
    }

    /// Joins `next` when it lies right behind this chunk in the same buffer; else gives it back.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        if Rc::ptr_eq(&self.owner, &next.owner) && self.range.end == next.range.start {
            self.range.end = next.range.end;
            return Ok(());
        }
        Err(next)
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}
