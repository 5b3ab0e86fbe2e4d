//! A growing set of message numbers, one bit each.

use std::ops::Range;

/// Numbers `0..` as bits. Memory follows the largest number in it: 100 million take 12.5 MB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Adds `number`; tells whether it was new.
    pub fn insert(&mut self, number: u64) -> bool {
        let (index, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let is_new = self.words[index] & bit == 0;
        self.words[index] |= bit;
        is_new
    }

    pub fn insert_range(&mut self, numbers: Range<u64>) {
        let mut from = numbers.start;
        while from < numbers.end {
            let index = (from / 64) as usize;
            let to = numbers.end.min((from / 64 + 1) * 64);
            if index >= self.words.len() {
                self.words.resize(index + 1, 0);
            }
            let bits = if to - from == 64 { u64::MAX } else { (1 << (to - from)) - 1 };
            self.words[index] |= bits << (from % 64);
            from = to;
        }
    }

    pub fn contains(&self, number: u64) -> bool {
        self.word((number / 64) as usize) >> (number % 64) & 1 == 1
    }

    /// Bits of the numbers `64 * index..`; zero behind the end.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    pub fn word_count(&self) -> usize {
        self.words.len()
    }

    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_numbers_in_them() {
        for (start, end) in [(0, 0), (0, 1), (3, 64), (60, 70), (64, 128), (1, 300), (127, 129)] {
            let mut by_range = Bitmap::default();
            by_range.insert_range(start..end);
            let mut one_by_one = Bitmap::default();
            assert!((start..end).all(|number| one_by_one.insert(number)));
            assert_eq!(by_range, one_by_one, "{start}..{end}");
            assert_eq!(by_range.count(), end - start);
        }
    }

    #[test]
    fn a_number_is_new_once() {
        let mut bitmap = Bitmap::default();
        assert!(bitmap.insert(1_000));
        assert!(!bitmap.insert(1_000));
        assert!(bitmap.contains(1_000) && !bitmap.contains(1_001) && !bitmap.contains(1 << 40));
    }
}
