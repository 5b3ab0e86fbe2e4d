//! A slice of a shared buffer.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// Bytes of the log in a write or read buffer, shared instead of copied.
///
/// Stays on the shard that owns the buffer. A chunk keeps its whole buffer alive, so code that
/// holds chunks for long must bound their number.
#[derive(Clone)]
pub struct Chunk {
    owner: Rc<dyn AsRef<[u8]>>,
    range: Range<usize>,
    memory: usize,
}

impl Chunk {
    pub fn new(owner: Rc<dyn AsRef<[u8]>>, range: Range<usize>) -> Self {
        let memory = (*owner).as_ref().len();
        Self::with_memory(owner, range, memory)
    }

    /// A chunk of a buffer that occupies `memory` bytes, more than its contents.
    pub fn with_memory(owner: Rc<dyn AsRef<[u8]>>, range: Range<usize>, memory: usize) -> Self {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len());
        Self { owner, range, memory }
    }

    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::new(Rc::new(bytes), range)
    }

    /// Memory that it keeps alive, bytes.
    pub fn buffer_size(&self) -> usize {
        self.memory
    }

    /// Identifies the buffer among all buffers that are in use.
    pub fn buffer_id(&self) -> usize {
        Rc::as_ptr(&self.owner).cast::<()>().addr()
    }

    /// The part of this chunk at `range`, relative to its start.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.range.len());
        let start = self.range.start;
        let range = start + range.start..start + range.end;
        Self { owner: self.owner.clone(), range, memory: self.memory }
    }

    /// Appends `next` if it directly follows this chunk in the same buffer; otherwise returns it.
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
