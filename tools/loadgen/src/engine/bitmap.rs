//! A growing set of message numbers, one bit each.
//!
//! Numbers are grouped in chunks of [`CHUNK`]. A chunk that contains none or all of its numbers needs no
//! bits, so a run without gaps takes 16 bytes per chunk. Any other chunk takes 1 KiB. When a set grows,
//! only those 16 bytes per chunk are moved.

use std::ops::Range;

/// Words of 64 bits per chunk.
pub const WORDS: usize = 128;
/// Numbers per chunk. Small, because every set has one that is half full: 50,000 producers and five
/// groups have 300,000 sets.
pub const CHUNK: u64 = WORDS as u64 * 64;

/// Numbers `0..` as bits.
#[derive(Debug, Default)]
pub struct Bitmap {
    chunks: Vec<Chunk>,
}

/// The bits of [`CHUNK`] numbers.
#[derive(Debug, Default)]
pub enum Chunk {
    #[default]
    Empty,
    Full,
    /// `0 < missing < CHUNK` after an insertion.
    Mixed {
        missing: u16,
        words: Box<[u64; WORDS]>,
    },
}

const _: () = assert!(size_of::<Chunk>() == 16);

impl Chunk {
    /// Bits of the numbers `64 * index..` of the chunk.
    pub fn word(&self, index: usize) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => u64::MAX,
            Self::Mixed { words, .. } => words[index],
        }
    }

    /// Adds bits to a word; returns those that are new.
    fn add(&mut self, word: usize, bits: u64) -> u64 {
        if let Self::Empty = self {
            *self = Self::Mixed { missing: CHUNK as u16, words: Box::new([0; WORDS]) };
        }
        let Self::Mixed { missing, words } = self else { return 0 };
        let new = bits & !words[word];
        words[word] |= bits;
        *missing -= new.count_ones() as u16;
        if *missing == 0 {
            *self = Self::Full;
        }
        new
    }

    fn add_range(&mut self, places: Range<u64>) {
        let mut from = places.start;
        while from < places.end {
            let to = places.end.min((from / 64 + 1) * 64);
            let bits = u64::MAX >> (64 - (to - from));
            self.add((from / 64) as usize, bits << (from % 64));
            from = to;
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => CHUNK,
            Self::Mixed { missing, .. } => CHUNK - u64::from(*missing),
        }
    }
}

impl Bitmap {
    /// Adds `number`; returns whether it was new.
    pub fn insert(&mut self, number: u64) -> bool {
        let place = number % CHUNK;
        self.reach(number / CHUNK).add((place / 64) as usize, 1 << (place % 64)) != 0
    }

    pub fn insert_range(&mut self, numbers: Range<u64>) {
        // Most requests hold one message.
        if numbers.end == numbers.start + 1 {
            self.insert(numbers.start);
            return;
        }
        let mut from = numbers.start;
        while from < numbers.end {
            let start = from / CHUNK * CHUNK;
            let to = numbers.end.min(start + CHUNK);
            let chunk = self.reach(from / CHUNK);
            if to - from == CHUNK {
                *chunk = Chunk::Full;
            } else {
                chunk.add_range(from - start..to - start);
            }
            from = to;
        }
    }

    /// Numbers from here on are not in the set.
    pub fn end(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK
    }

    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Chunk number `index`; empty past the end.
    pub fn chunk(&self, index: usize) -> &Chunk {
        self.chunks.get(index).unwrap_or(&Chunk::Empty)
    }

    pub fn count(&self) -> u64 {
        self.chunks.iter().map(Chunk::count).sum()
    }

    /// Chunk number `index`, added if the set does not extend to it yet.
    fn reach(&mut self, index: u64) -> &mut Chunk {
        let index = index as usize;
        if index >= self.chunks.len() {
            self.chunks.resize_with(index + 1, Chunk::default);
        }
        &mut self.chunks[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::schedule::SplitMix64;

    /// Numbers of the sets under test: a little more than ten chunks.
    const END: u64 = 10 * CHUNK + 77;

    /// The set as one `bool` per number.
    fn plain(bitmap: &Bitmap) -> Vec<bool> {
        let of_word = |chunk: &Chunk, word| {
            let bits = chunk.word(word);
            (0..64).map(move |bit| bits >> bit & 1 == 1)
        };
        let of_chunk =
            |chunk| (0..WORDS).flat_map(move |word| of_word(chunk, word)).collect::<Vec<_>>();
        bitmap.chunks.iter().flat_map(of_chunk).collect()
    }

    /// Number of chunks that store bits.
    fn mixed_count(bitmap: &Bitmap) -> usize {
        bitmap.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Mixed { .. })).count()
    }

    /// Number of differences between a set and its model.
    fn differences(bitmap: &Bitmap, model: &[bool]) -> usize {
        let mut plain = plain(bitmap);
        assert!(plain.len() <= model.len().next_multiple_of(CHUNK as usize));
        plain.resize(model.len().max(plain.len()), false);
        let model = model.iter().chain(std::iter::repeat(&false));
        plain.iter().zip(model).filter(|(of_set, of_model)| of_set != of_model).count()
    }

    /// A number or a range to insert: near the front of a run, anywhere, or whole chunks.
    fn drawn(random: &mut SplitMix64, step: u64) -> Range<u64> {
        let mut below = |end: u64| random.number() % end;
        let start = match below(4) {
            0 | 1 => (step * CHUNK / 40 + below(200)).min(END - 1),
            2 => below(END),
            _ => below(10) * CHUNK,
        };
        let length = match below(4) {
            0 | 1 => 1,
            2 => below(300),
            _ => below(3 * CHUNK),
        };
        start..(start + length).min(END)
    }

    #[test]
    fn a_set_equals_a_plain_set() {
        for seed in 0..50 {
            let mut random = SplitMix64::of(seed, 1);
            let (mut set, mut model) = (Bitmap::default(), vec![false; END as usize]);
            for step in 0..300 {
                let range = drawn(&mut random, step);
                if range.end - range.start == 1 {
                    let number = range.start;
                    let is_new = !std::mem::replace(&mut model[number as usize], true);
                    assert_eq!(set.insert(number), is_new, "seed {seed}: {number}");
                } else {
                    set.insert_range(range.clone());
                    model[range.start as usize..range.end as usize].fill(true);
                }
            }
            let count = model.iter().filter(|is_in| **is_in).count();
            assert_eq!(set.count(), count as u64, "seed {seed}");
            assert_eq!(differences(&set, &model), 0, "seed {seed}");
        }
    }

    #[test]
    fn ranges_are_the_numbers_in_them() {
        let at = |number: u64| CHUNK + number - 64;
        let few = [(0, 0), (0, 1), (3, 64), (60, 70), (64, 128), (1, 300), (127, 129)];
        let large = [(0, CHUNK), (5, 3 * CHUNK), (CHUNK, 2 * CHUNK), (at(0), at(128))];
        for (start, end) in few.into_iter().chain(large) {
            let mut by_range = Bitmap::default();
            by_range.insert_range(start..end);
            let mut one_by_one = Bitmap::default();
            assert!((start..end).all(|number| one_by_one.insert(number)));
            assert!((start..end).all(|number| !by_range.insert(number)));
            assert_eq!(plain(&by_range), plain(&one_by_one), "{start}..{end}");
            assert_eq!((by_range.count(), one_by_one.count()), (end - start, end - start));
        }
    }

    /// A gap costs the bits of one chunk, no gap costs none, and the order of numbers does not matter.
    #[test]
    fn only_chunks_with_gaps_take_memory() {
        let mut bitmap = Bitmap::default();
        for number in (0..100 * CHUNK).map(|number| number ^ 63).filter(|it| *it != 50 * CHUNK) {
            bitmap.insert(number);
        }
        assert_eq!(mixed_count(&bitmap), 1);
        bitmap.insert(50 * CHUNK);
        assert_eq!((mixed_count(&bitmap), bitmap.count()), (0, 100 * CHUNK));
    }
}
