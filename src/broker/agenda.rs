//! Finds the delayed messages that are due, in the order of their keys.
//!
//! ```text
//!   begin a bucket ─▶ scan its messages in the index ─▶ take keys that are due ─▶ next bucket
//!                          ▲                                  │
//!                          └── more have arrived, or did not fit ◀┘
//! ```
//!
//! All of it is derived state: losing it costs another scan of a bucket. It does no I/O: if the
//! index must load a page first, the step is [`Step::Load`].
//!
//! New messages get keys above all that have been taken (`Delivery::due_ms`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::delay_key::Key;
use super::delays::{Bucket, Delays};
use crate::model::QueueOffset;
use crate::storage::{Index, IndexPage, Located, Lookup};

/// Maximum number of keys held: 8 MiB. A bucket with more is scanned several times.
const KEYS_MAX: usize = 1 << 20;
/// Index entries fetched at a time, and per step.
const LOOKUP_COUNT: usize = 32;
const SCAN_COUNT: usize = 1_024;
/// Bits of a queue offset in a packed key; the rest is the millisecond in the bucket.
const OFFSET_BITS: u32 = 48;

/// The result of a step.
#[derive(Debug)]
pub enum Step {
    /// A message is due. It is not returned again.
    Due(Key, Located),
    /// There was some progress; call again.
    Scanned,
    /// Load this page of the index, then call again.
    Load(IndexPage),
    /// Nothing is due before this time, ms.
    Later(u64),
    /// Nothing is pending.
    Empty,
}

#[derive(Debug)]
pub struct Agenda {
    /// Buckets below this one have been taken completely.
    from: Option<Bucket>,
    current: Option<Current>,
    /// The last message that was taken.
    taken: Option<Key>,
    keys_max: usize,
}

impl Default for Agenda {
    fn default() -> Self {
        Self { from: None, current: None, taken: None, keys_max: KEYS_MAX }
    }
}

/// The bucket that is being taken.
#[derive(Debug)]
struct Current {
    bucket: Bucket,
    /// Queue offset up to which its messages are in `keys` or have been taken.
    scanned_to: u64,
    /// Packed: millisecond in the bucket, queue offset.
    keys: BinaryHeap<Reverse<u64>>,
    /// The lowest key that did not fit.
    left_out: Option<u64>,
}

impl Agenda {
    /// Takes one step, in which messages are due by `now_ms`.
    pub fn step(&mut self, delays: &Delays, index: &Index, now_ms: u64) -> Step {
        let Some(current) = &mut self.current else {
            return self.begin_bucket(delays, index, now_ms);
        };
        if current.scanned_to < index.next_offset(current.bucket.queue()).0 {
            let taken = self.taken;
            let is_wanted = |key, located: &Located| {
                Some(key) > taken && delays.is_pending(key, located.offset)
            };
            return current.scan(index, self.keys_max, is_wanted);
        }
        match current.keys.peek() {
            Some(&Reverse(packed)) => {
                let step = current.take(packed, delays, index, now_ms);
                if let Step::Due(key, _) = step {
                    self.taken = Some(key);
                }
                step
            }
            None if current.left_out.is_some() => {
                *current = Current::begin(current.bucket, index);
                Step::Scanned
            }
            None if current.bucket.end_ms() <= now_ms => {
                self.from = Some(current.bucket.successor());
                self.current = None;
                Step::Scanned
            }
            None => match delays.first_bucket(index, current.bucket.successor()) {
                Some(next) => Step::Later(next.start_ms()),
                None => Step::Empty,
            },
        }
    }

    fn begin_bucket(&mut self, delays: &Delays, index: &Index, now_ms: u64) -> Step {
        let from = self.from.unwrap_or(Bucket::of(delays.cursor().due_ms));
        match delays.first_bucket(index, from) {
            None => Step::Empty,
            Some(bucket) if bucket.start_ms() > now_ms => Step::Later(bucket.start_ms()),
            Some(bucket) => {
                self.current = Some(Current::begin(bucket, index));
                Step::Scanned
            }
        }
    }
}

impl Current {
    fn begin(bucket: Bucket, index: &Index) -> Self {
        let scanned_to = index.bounds(bucket.queue()).start;
        Self { bucket, scanned_to, keys: BinaryHeap::new(), left_out: None }
    }

    fn scan(
        &mut self,
        index: &Index,
        keys_max: usize,
        is_wanted: impl Fn(Key, &Located) -> bool,
    ) -> Step {
        for _ in 0..SCAN_COUNT / LOOKUP_COUNT {
            let at = QueueOffset(self.scanned_to);
            match index.lookup(self.bucket.queue(), at, LOOKUP_COUNT) {
                Lookup::Here(found) => {
                    for located in found {
                        let key = self.bucket.key(QueueOffset(self.scanned_to), &located);
                        if is_wanted(key, &located) {
                            self.insert(key, keys_max);
                        }
                        self.scanned_to += 1;
                    }
                }
                Lookup::Sealed(page) => return Step::Load(page),
                Lookup::Lost { next } => self.scanned_to = next.0,
                Lookup::Nothing => break,
            }
        }
        Step::Scanned
    }

    fn insert(&mut self, key: Key, keys_max: usize) {
        assert!(key.offset >> OFFSET_BITS == 0, "a bucket has fewer messages");
        let packed = (key.due_ms - self.bucket.start_ms()) << OFFSET_BITS | key.offset;
        if self.left_out.is_some_and(|left_out| packed > left_out) {
            return;
        }
        self.keys.push(Reverse(packed));
        if self.keys.len() > keys_max {
            let mut keys = std::mem::take(&mut self.keys).into_vec();
            let (_, _, above) = keys.select_nth_unstable_by_key(keys_max / 2, |key| key.0);
            self.left_out = above.iter().map(|key| key.0).min();
            keys.truncate(keys_max / 2 + 1);
            self.keys = keys.into();
        }
    }

    fn take(&mut self, packed: u64, delays: &Delays, index: &Index, now_ms: u64) -> Step {
        let due_ms = self.bucket.start_ms() + (packed >> OFFSET_BITS);
        let offset = packed & ((1 << OFFSET_BITS) - 1);
        if due_ms > now_ms {
            return Step::Later(due_ms);
        }
        let found = match index.lookup(self.bucket.queue(), QueueOffset(offset), 1) {
            Lookup::Here(found) => found.first().copied(),
            Lookup::Sealed(page) => return Step::Load(page),
            Lookup::Lost { .. } | Lookup::Nothing => None,
        };
        self.keys.pop();
        let key = Key { due_ms, offset };
        match found {
            Some(located) if delays.is_pending(key, located.offset) => Step::Due(key, located),
            // Recalled, carried forward, or lost to damage, since the scan.
            _ => Step::Scanned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::delays::located;
    use crate::model::{LogOffset, Timestamp};
    use crate::sim::Rng;

    /// An index with a message for each due time, in this order of arrival.
    fn index_of(due_ms: &[u64]) -> (Index, Vec<Key>) {
        let mut index = Index::new(0);
        index.begin_segment(LogOffset(0)..LogOffset(1 << 30));
        let mut keys = Vec::new();
        for (at, &due_ms) in (0..).step_by(100).map(LogOffset).zip(due_ms) {
            let queue = Bucket::of(due_ms).queue();
            let offset = index.next_offset(queue);
            index.push(queue, offset, located(due_ms, at, 100, Timestamp(0), at));
            keys.push(Key { due_ms, offset: offset.0 });
        }
        (index, keys)
    }

    fn take_due(agenda: &mut Agenda, index: &Index, now_ms: u64) -> (Vec<Key>, Step) {
        let (delays, mut keys) = (Delays::default(), Vec::new());
        loop {
            match agenda.step(&delays, index, now_ms) {
                Step::Due(key, _) => keys.push(key),
                Step::Scanned => {}
                step => return (keys, step),
            }
        }
    }

    #[test]
    fn messages_are_taken_by_due_time_and_arrival_however_few_keys_fit() {
        for seed in 0..60 {
            let mut rng = Rng::from_seed(seed);
            let due_ms: Vec<u64> = (0..300).map(|_| 7_000_000 + rng.below(4_000)).collect();
            let (index, mut expected) = index_of(&due_ms);
            expected.sort_unstable();
            for keys_max in [2, 7, 1_000] {
                let mut agenda = Agenda { keys_max, ..Agenda::default() };
                let (mut taken, mut now_ms) = (Vec::new(), 6_999_999);
                while taken.len() < expected.len() {
                    let (keys, _) = take_due(&mut agenda, &index, now_ms);
                    assert!(keys.iter().all(|key| key.due_ms <= now_ms), "seed {seed}: early");
                    taken.extend(keys);
                    now_ms += 1 + rng.below(700);
                }
                assert_eq!(taken, expected, "seed {seed}, {keys_max} keys");
            }
        }
    }

    #[test]
    fn an_agenda_says_when_to_look_again_and_finds_what_has_arrived() {
        let (mut index, _) = index_of(&[5_300, 9_000_100]);
        let mut agenda = Agenda::default();
        let later = |step: Step| match step {
            Step::Later(due_ms) => due_ms,
            step => panic!("{step:?}"),
        };
        // The bucket, then the message in it, then the next bucket.
        assert_eq!(later(take_due(&mut agenda, &index, 100).1), 5_000);
        assert_eq!(later(take_due(&mut agenda, &index, 5_000).1), 5_300);
        let (taken, step) = take_due(&mut agenda, &index, 5_300);
        assert_eq!((taken.len(), later(step)), (1, 9_000_000));
        let (queue, at) = (Bucket::of(5_300).queue(), LogOffset(5_000));
        index.push(queue, QueueOffset(1), located(5_310, at, 100, Timestamp(0), at));
        assert_eq!(later(take_due(&mut agenda, &index, 5_305).1), 5_310);
        assert_eq!(take_due(&mut agenda, &index, 20_000).0, [Key { due_ms: 5_310, offset: 1 }]);
        assert_eq!(take_due(&mut agenda, &index, 9_000_100).0.len(), 1);
        assert!(matches!(take_due(&mut agenda, &index, 9_001_000).1, Step::Empty));
    }
}
