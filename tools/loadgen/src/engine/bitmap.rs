//! A growing set of message numbers, one bit each.
//!
//! Numbers lie in chunks of [`CHUNK`]. A chunk in which nothing or everything is set has no bits of
//! its own, so what is acknowledged and seen without a gap takes 16 bytes per chunk; any other takes
//! 1 KiB. Nothing is moved when a set grows but those 16 bytes. When the sets of a run hold more than
//! they may, a set that needs another chunk puts away those it has held longest ([`Spill`]).
//!
//! What always holds:
//! - A set holds its [`WORKING`] newest chunks whatever the others hold. So the sets of a run hold
//!   at most what they may and [`WORKING`] chunks each, as long as the spill takes what it is given.
//! - Inserting waits for a disk only where a chunk that was put away is needed again; a number that
//!   comes that late is rare. Such a chunk is read back whole.
//! - A chunk that cannot be read back is [`Chunk::Unknown`] from then on, and never guessed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::spill::{Spill, Stored, WORDS, Words};

/// Numbers per chunk. Small, because each set of a run has one that is half full: 50,000 producers
/// and five groups have 300,000 sets.
pub const CHUNK: u64 = WORDS as u64 * 64;
/// Chunks a set keeps in any case: the one that fills, and one for what comes late or early.
const WORKING: usize = 2;

/// Numbers `0..` as bits.
#[derive(Debug)]
pub struct Bitmap {
    slots: Vec<Slot>,
    /// Indexes of the held chunks, the longest held first.
    held: VecDeque<u32>,
    spill: Arc<Spill>,
}

/// A chunk of the set, with how many of its numbers are missing where that is not plain.
#[derive(Debug)]
enum Slot {
    Empty,
    Full,
    /// `0 < missing < CHUNK` after an insertion.
    Held {
        missing: u16,
        words: Box<Words>,
    },
    Stored {
        missing: u16,
        stored: Stored,
    },
    /// Was stored and could not be read.
    Unknown {
        missing: u16,
    },
}

/// The bits of one chunk, to be looked at.
#[derive(Debug)]
pub enum Chunk<'a> {
    Empty,
    Full,
    Held(&'a Words),
    Read(Box<Words>),
    /// It was put away and cannot be read.
    Unknown,
}

impl Chunk<'_> {
    /// Bits of the numbers `64 * index..` of the chunk; none of an unknown one.
    pub fn word(&self, index: usize) -> u64 {
        match self {
            Self::Empty | Self::Unknown => 0,
            Self::Full => u64::MAX,
            Self::Held(words) => words[index],
            Self::Read(words) => words[index],
        }
    }
}

impl Bitmap {
    /// An empty set that shares `spill` with the others of its run.
    pub fn new(spill: Arc<Spill>) -> Self {
        Self { slots: Vec::new(), held: VecDeque::new(), spill }
    }

    /// Adds `number`; tells whether it was new. In a chunk that cannot be read every number is.
    pub fn insert(&mut self, number: u64) -> bool {
        let (index, place) = ((number / CHUNK) as usize, number % CHUNK);
        if !self.hold(index) {
            return matches!(self.slots[index], Slot::Unknown { .. });
        }
        self.add(index, (place / 64) as usize, 1 << (place % 64)) != 0
    }

    pub fn insert_range(&mut self, numbers: Range<u64>) {
        // Most requests hold one message.
        if numbers.end == numbers.start + 1 {
            self.insert(numbers.start);
            return;
        }
        let mut from = numbers.start;
        while from < numbers.end {
            let index = (from / CHUNK) as usize;
            let start = index as u64 * CHUNK;
            let to = numbers.end.min(start + CHUNK);
            if to - from == CHUNK {
                self.fill(index);
            } else if self.hold(index) {
                self.add_range(index, from - start..to - start);
            }
            from = to;
        }
    }

    /// Numbers from here on are not in the set, and have never been.
    pub fn end(&self) -> u64 {
        self.slots.len() as u64 * CHUNK
    }

    /// Number of the first chunk from which on all are empty.
    pub fn chunk_count(&self) -> usize {
        self.slots.len()
    }

    /// Chunk number `index`; empty behind the end. Reads it when it was put away.
    pub fn chunk(&self, index: usize) -> Chunk<'_> {
        match self.slots.get(index) {
            None | Some(Slot::Empty) => Chunk::Empty,
            Some(Slot::Full) => Chunk::Full,
            Some(Slot::Held { words, .. }) => Chunk::Held(words),
            Some(Slot::Stored { stored, .. }) => {
                self.spill.read(*stored).map_or(Chunk::Unknown, Chunk::Read)
            }
            Some(Slot::Unknown { .. }) => Chunk::Unknown,
        }
    }

    pub fn count(&self) -> u64 {
        let of_slot = |slot: &Slot| match slot {
            Slot::Empty => 0,
            Slot::Full => CHUNK,
            Slot::Held { missing, .. }
            | Slot::Stored { missing, .. }
            | Slot::Unknown { missing } => CHUNK - u64::from(*missing),
        };
        self.slots.iter().map(of_slot).sum()
    }

    /// Sees to it that the chunk is held. `false`: it is full, or unknown, so nothing can be added.
    fn hold(&mut self, index: usize) -> bool {
        matches!(self.slots.get(index), Some(Slot::Held { .. })) || self.hold_another(index)
    }

    #[cold]
    fn hold_another(&mut self, index: usize) -> bool {
        self.reach(index);
        let (missing, words) = match self.slots[index] {
            Slot::Held { .. } => return true,
            Slot::Full | Slot::Unknown { .. } => return false,
            Slot::Empty => {
                self.make_room();
                self.spill.hold();
                (CHUNK as u16, Some(Box::new([0; WORDS])))
            }
            Slot::Stored { missing, stored } => {
                self.make_room();
                (missing, self.spill.take(stored))
            }
        };
        let is_held = words.is_some();
        self.slots[index] = match words {
            Some(words) => Slot::Held { missing, words },
            None => Slot::Unknown { missing },
        };
        if is_held {
            self.held.push_back(index as u32);
        }
        is_held
    }

    fn reach(&mut self, index: usize) {
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || Slot::Empty);
        }
    }

    /// Puts away what was held longest, as long as the run holds too much and the spill takes it.
    fn make_room(&mut self) {
        while self.held.len() >= WORKING && self.spill.is_full() {
            let slot = &mut self.slots[self.held[0] as usize];
            let Slot::Held { missing, words } = std::mem::replace(slot, Slot::Empty) else {
                unreachable!("what is listed as held is held");
            };
            match self.spill.put(words) {
                Ok(stored) => *slot = Slot::Stored { missing, stored },
                Err(words) => {
                    *slot = Slot::Held { missing, words };
                    return;
                }
            }
            self.held.pop_front();
        }
    }

    /// Adds bits to a word of a held chunk; gives those that are new.
    fn add(&mut self, index: usize, word: usize, bits: u64) -> u64 {
        let Slot::Held { missing, words } = &mut self.slots[index] else { return 0 };
        let new = bits & !words[word];
        words[word] |= bits;
        *missing -= new.count_ones() as u16;
        if *missing == 0 {
            self.fill(index);
        }
        new
    }

    /// Adds places of a held chunk.
    fn add_range(&mut self, index: usize, places: Range<u64>) {
        let mut from = places.start;
        while from < places.end {
            let to = places.end.min((from / 64 + 1) * 64);
            let bits = u64::MAX >> (64 - (to - from));
            self.add(index, (from / 64) as usize, bits << (from % 64));
            from = to;
        }
    }

    /// All numbers of the chunk are in the set.
    #[cold]
    fn fill(&mut self, index: usize) {
        self.reach(index);
        match std::mem::replace(&mut self.slots[index], Slot::Full) {
            Slot::Empty | Slot::Full | Slot::Unknown { .. } => {}
            Slot::Stored { stored, .. } => self.spill.forget(stored),
            Slot::Held { .. } => {
                self.spill.release();
                // What fills is nearly always among the newest.
                let place = self.held.iter().rposition(|held| *held as usize == index);
                place.and_then(|place| self.held.remove(place));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spill::tests::{on_a_full_disk, settle, with_file};
    use crate::plan::schedule::SplitMix64;

    /// Numbers of the sets under test: a little more than ten chunks.
    const END: u64 = 10 * CHUNK + 77;

    /// The set as one truth value per number.
    fn plain(bitmap: &Bitmap) -> Vec<bool> {
        let of_chunk = |index: usize| {
            let chunk = bitmap.chunk(index);
            assert!(!matches!(chunk, Chunk::Unknown), "chunk {index}");
            let of_word = |word: usize| {
                let bits = chunk.word(word);
                (0..64).map(move |bit| bits >> bit & 1 == 1)
            };
            (0..WORDS).flat_map(of_word).collect::<Vec<_>>()
        };
        (0..bitmap.chunk_count()).flat_map(of_chunk).collect()
    }

    /// How many numbers a set and its model differ in.
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

    /// Inserts at random and compares with a plain set after each seed; `settle_every` makes what
    /// was put away be read from the file.
    fn compare_with_model(seed: u32, spill: &Arc<Spill>, settle_every: u64) {
        let mut random = SplitMix64::of(u64::from(seed), 1);
        let mut sets = [Bitmap::new(spill.clone()), Bitmap::new(spill.clone())];
        let mut models = [(); 2].map(|()| vec![false; END as usize]);
        for step in 0..300 {
            let which = (random.number() % 2) as usize;
            let (set, model) = (&mut sets[which], &mut models[which]);
            let range = drawn(&mut random, step);
            if range.end - range.start == 1 {
                let number = range.start;
                let is_new = !std::mem::replace(&mut model[number as usize], true);
                assert_eq!(set.insert(number), is_new, "seed {seed}: {number}");
            } else {
                set.insert_range(range.clone());
                model[range.start as usize..range.end as usize].fill(true);
            }
            if random.number().is_multiple_of(settle_every) {
                settle(spill);
            }
        }
        for (set, model) in sets.iter().zip(&models) {
            let count = model.iter().filter(|is_in| **is_in).count();
            assert_eq!(set.count(), count as u64, "seed {seed}");
            assert_eq!(differences(set, model), 0, "seed {seed}");
        }
    }

    #[test]
    fn a_set_in_memory_equals_a_plain_set() {
        (0..20).for_each(|seed| compare_with_model(seed, &Spill::never(), u64::MAX));
    }

    #[test]
    fn a_set_that_is_put_away_equals_a_plain_set() {
        for seed in 0..30 {
            let (spill, file) = with_file(0);
            compare_with_model(seed, &spill, 1 + u64::from(seed % 10));
            assert!(file.metadata().unwrap().len() > 0, "seed {seed}: nothing was put away");
            assert_eq!((spill.unwritable(), spill.unreadable()), (None, None));
        }
    }

    #[test]
    fn a_set_on_a_full_disk_equals_a_plain_set() {
        for seed in 0..10 {
            let spill = on_a_full_disk(0);
            compare_with_model(seed, &spill, 3);
            assert!(spill.unwritable().is_some(), "seed {seed}: nothing was put away");
        }
    }

    #[test]
    fn ranges_are_the_numbers_in_them() {
        let at = |number: u64| CHUNK + number - 64;
        let few = [(0, 0), (0, 1), (3, 64), (60, 70), (64, 128), (1, 300), (127, 129)];
        let large = [(0, CHUNK), (5, 3 * CHUNK), (CHUNK, 2 * CHUNK), (at(0), at(128))];
        for (start, end) in few.into_iter().chain(large) {
            let mut by_range = Bitmap::new(Spill::never());
            by_range.insert_range(start..end);
            let mut one_by_one = Bitmap::new(Spill::never());
            assert!((start..end).all(|number| one_by_one.insert(number)));
            assert!((start..end).all(|number| !by_range.insert(number)));
            assert_eq!(plain(&by_range), plain(&one_by_one), "{start}..{end}");
            assert_eq!((by_range.count(), one_by_one.count()), (end - start, end - start));
        }
    }

    /// A gap costs one chunk, no gap costs none, and the order of numbers does not matter.
    #[test]
    fn only_chunks_of_two_kinds_take_memory() {
        let spill = Spill::never();
        let mut bitmap = Bitmap::new(spill.clone());
        for number in (0..100 * CHUNK).map(|number| number ^ 63).filter(|it| *it != 50 * CHUNK) {
            bitmap.insert(number);
        }
        assert_eq!(bitmap.held, [50]);
        assert_eq!(spill.held_size_most(), 2 * size_of::<Words>());
        bitmap.insert(50 * CHUNK);
        assert!(bitmap.held.is_empty() && !spill.is_full());
        assert_eq!(bitmap.count(), 100 * CHUNK);
    }

    /// With no budget at all a set still works on its newest chunks, and holds no others.
    #[test]
    fn a_set_keeps_what_it_works_on() {
        let (spill, _file) = with_file(0);
        let mut bitmap = Bitmap::new(spill.clone());
        for number in (0..200 * CHUNK).step_by(2) {
            bitmap.insert(number);
        }
        assert_eq!(bitmap.held, [198, 199]);
        assert_eq!(spill.held_size_most(), WORKING * size_of::<Words>());
    }

    #[test]
    fn a_chunk_that_cannot_be_read_is_unknown_and_no_other_is() {
        let (spill, file) = with_file(0);
        let mut bitmap = Bitmap::new(spill.clone());
        for chunk in 0..4 {
            assert!(bitmap.insert(chunk * CHUNK));
        }
        settle(&spill);
        file.set_len(0).unwrap();
        assert!(matches!(bitmap.chunk(0), Chunk::Unknown));
        assert!(bitmap.insert(0) && bitmap.insert(0), "nobody knows");
        assert!(matches!(bitmap.chunk(3), Chunk::Held(_)));
        assert!(!bitmap.insert(3 * CHUNK));
        assert_eq!(bitmap.count(), 4, "how many there were is still known");
        assert!(spill.unreadable().is_some());
    }
}
