//! The memory that a simulated disk writes from.

use crate::storage::disk::{BLOCK_SIZE, BlockBuffer};

/// The contents of a new buffer, so that an unfilled byte is noticed.
const UNFILLED: u8 = 0xA5;

/// Memory of a simulated disk. A new one is filled with a pattern, not with zeros.
pub struct SimBuffer(pub(super) Vec<u8>);

impl SimBuffer {
    pub fn new(size: usize) -> Self {
        Self(vec![UNFILLED; size])
    }
}

impl AsRef<[u8]> for SimBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for SimBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl BlockBuffer for SimBuffer {
    fn truncate(&mut self, size: usize) {
        assert!(size.is_multiple_of(BLOCK_SIZE) && size <= self.0.len());
        self.0.truncate(size);
    }
}
