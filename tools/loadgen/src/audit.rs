//! Every acknowledgement, reconciled with what arrived.
//!
//! The generators keep, per producer, one bit for each message that was acknowledged and one for
//! each that was refused; the consumer keeps one bit for each that arrived. Sequences have no gaps,
//! so three bits per message say everything: 100 million messages take 38 MB. Only here, after
//! the run, do the two sides meet.
//!
//! Not here: what the findings mean for the verdict (`report`).

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::bitmap::Bitmap;
use crate::payload::Identity;

/// What the sending side knows of one producer's messages `0..sent`.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    pub producer: u32,
    /// Messages handed to the socket. Those neither acknowledged nor refused are unknown: the
    /// answer never came, so they may or may not be stored.
    pub sent: u64,
    acknowledged: Bitmap,
    refused: Bitmap,
}

impl Outcomes {
    pub fn of(producer: u32) -> Self {
        Self { producer, ..Self::default() }
    }

    pub fn acknowledge(&mut self, sequences: Range<u64>) {
        self.acknowledged.insert_range(sequences);
    }

    pub fn refuse(&mut self, sequences: Range<u64>) {
        self.refused.insert_range(sequences);
    }
}

/// What the consuming side has seen.
#[derive(Debug, Default)]
pub struct Arrived {
    run: u64,
    producers: BTreeMap<u32, usize>,
    seen: Vec<Bitmap>,
    /// Highest sequence seen per queue and producer. Bounded by queues × producers of this run.
    newest: FxHashMap<(u32, u32), u64>,
    count: u64,
    duplicated: u64,
    out_of_order: u64,
    corrupted: u64,
    foreign: u64,
}

/// What became of one arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    First,
    Again,
    /// Of another run, or of a producer of another part of this one.
    Foreign,
}

impl Arrived {
    /// Takes in messages of `run` from these producers; all others are foreign.
    pub fn new(run: u64, producers: &[u32]) -> Self {
        let producers: BTreeMap<u32, usize> =
            producers.iter().enumerate().map(|(index, &producer)| (producer, index)).collect();
        let seen = vec![Bitmap::default(); producers.len()];
        Self { run, producers, seen, ..Self::default() }
    }

    /// An intact message arrived from queue number `queue`, in the order of calls.
    pub fn take(&mut self, queue: u32, identity: &Identity) -> Arrival {
        let index = (identity.run == self.run).then(|| self.producers.get(&identity.producer));
        let Some(&index) = index.flatten() else {
            self.foreign += 1;
            return Arrival::Foreign;
        };
        if !self.seen[index].insert(identity.sequence) {
            self.duplicated += 1;
            return Arrival::Again;
        }
        self.count += 1;
        let newest = self.newest.entry((queue, identity.producer)).or_insert(identity.sequence);
        if identity.sequence < *newest {
            self.out_of_order += 1;
        }
        *newest = (*newest).max(identity.sequence);
        Arrival::First
    }

    /// A message of a load generator arrived that is not what was sent. It cannot be told whose it
    /// was, so if it was acknowledged and no good copy arrives, it counts as lost as well.
    pub fn take_corrupted(&mut self) {
        self.corrupted += 1;
    }

    /// A message of somebody else arrived.
    pub fn take_foreign(&mut self) {
        self.foreign += 1;
    }

    /// Different intact messages of this run.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many acknowledged messages have not arrived so far.
    pub fn missing(&self, outcomes: &[Outcomes]) -> u64 {
        outcomes.iter().map(|sent| self.compare(sent).lost).sum()
    }

    pub fn reconcile(&self, outcomes: &[Outcomes]) -> Audit {
        let mut audit = Audit {
            duplicated: self.duplicated,
            out_of_order: self.out_of_order,
            corrupted: self.corrupted,
            foreign: self.foreign,
            ..Audit::default()
        };
        for sent in outcomes {
            let found = self.compare(sent);
            audit.acknowledged += found.acknowledged;
            audit.lost += found.lost;
            audit.unknown_present += found.unknown_present;
            audit.unknown_absent += found.unknown_absent;
            audit.refused_present += found.refused_present;
            audit.never_sent += found.never_sent;
        }
        audit
    }

    fn compare(&self, sent: &Outcomes) -> Audit {
        let empty = Bitmap::default();
        let seen = self.producers.get(&sent.producer).map_or(&empty, |&index| &self.seen[index]);
        let word_count = seen.word_count().max(sent.sent.div_ceil(64) as usize);
        let mut audit = Audit::default();
        for index in 0..word_count {
            let arrived = seen.word(index);
            let acknowledged = sent.acknowledged.word(index);
            let refused = sent.refused.word(index) & !acknowledged;
            let existing = bits_below(sent.sent.saturating_sub(index as u64 * 64));
            let unknown = existing & !acknowledged & !refused;
            let count = |bits: u64| u64::from(bits.count_ones());
            audit.acknowledged += count(acknowledged);
            audit.lost += count(acknowledged & !arrived);
            audit.unknown_present += count(unknown & arrived);
            audit.unknown_absent += count(unknown & !arrived);
            audit.refused_present += count(refused & arrived);
            audit.never_sent += count(arrived & !existing);
        }
        audit
    }
}

/// The lowest `count` bits, all of them from 64 on.
fn bits_below(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// What the reconciliation found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub acknowledged: u64,
    /// Acknowledged and never seen.
    pub lost: u64,
    /// Seen more than once; counted once per repetition.
    pub duplicated: u64,
    /// Seen in a queue after a later message of the same producer.
    pub out_of_order: u64,
    /// Arrived with a wrong checksum.
    pub corrupted: u64,
    /// Sent, never answered, and arrived all the same.
    pub unknown_present: u64,
    /// Sent, never answered, never seen.
    pub unknown_absent: u64,
    /// Refused, and arrived all the same.
    pub refused_present: u64,
    /// Arrived intact under a number that was never sent.
    pub never_sent: u64,
    /// Messages of other runs in the same topic.
    pub foreign: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::SplitMix64;

    const RUN: u64 = 42;
    const PRODUCERS: [u32; 3] = [1, 5, 9];
    const COUNT: u64 = 1_000;

    fn identity(producer: u32, sequence: u64) -> Identity {
        Identity { run: RUN, stream: 0, producer, sequence, due_ns: 0 }
    }

    fn all_acknowledged() -> Vec<Outcomes> {
        let of = |producer| {
            let mut outcomes = Outcomes { sent: COUNT, ..Outcomes::of(producer) };
            outcomes.acknowledge(0..COUNT);
            outcomes
        };
        PRODUCERS.map(of).into()
    }

    /// All messages in order, one queue per producer.
    fn stream() -> Vec<Identity> {
        let of = |sequence| PRODUCERS.map(|producer| identity(producer, sequence));
        (0..COUNT).flat_map(of).collect()
    }

    fn audit_of(outcomes: &[Outcomes], stream: &[Identity]) -> Audit {
        let mut arrived = Arrived::new(RUN, &PRODUCERS);
        for identity in stream {
            arrived.take(identity.producer, identity);
        }
        arrived.reconcile(outcomes)
    }

    #[test]
    fn a_clean_run_finds_nothing() {
        let audit = audit_of(&all_acknowledged(), &stream());
        assert_eq!(audit, Audit { acknowledged: 3 * COUNT, ..Audit::default() });
    }

    /// Every planted fault is found, one at a time, wherever it is.
    #[test]
    fn every_planted_loss_duplicate_and_swap_is_found() {
        let (outcomes, whole) = (all_acknowledged(), stream());
        let mut random = SplitMix64::of(1, 1);
        for _ in 0..300 {
            let place = (random.number() % (whole.len() as u64 - 3)) as usize;
            let clean = Audit { acknowledged: 3 * COUNT, ..Audit::default() };

            let mut lossy = whole.clone();
            lossy.remove(place);
            assert_eq!(audit_of(&outcomes, &lossy), Audit { lost: 1, ..clean }, "at {place}");

            let mut repeated = whole.clone();
            repeated.insert(place + 1, whole[place]);
            let expected = Audit { duplicated: 1, ..clean };
            assert_eq!(audit_of(&outcomes, &repeated), expected, "at {place}");

            let mut swapped = whole.clone();
            swapped.swap(place, place + 3);
            let expected = Audit { out_of_order: 1, ..clean };
            assert_eq!(audit_of(&outcomes, &swapped), expected, "at {place}");
        }
    }

    #[test]
    fn an_unanswered_message_is_unknown_whether_it_arrived_or_not() {
        let mut outcomes = Outcomes { sent: 130, ..Outcomes::of(1) };
        outcomes.acknowledge(0..100);
        outcomes.refuse(100..110);
        let mut arrived = Arrived::new(RUN, &PRODUCERS);
        let sequences = (0..100).chain([105, 110, 129]);
        for sequence in sequences {
            arrived.take(0, &identity(1, sequence));
        }
        let expected = Audit {
            acknowledged: 100,
            unknown_present: 2,
            unknown_absent: 18,
            refused_present: 1,
            ..Audit::default()
        };
        assert_eq!(arrived.reconcile(&[outcomes]), expected);
    }

    #[test]
    fn messages_of_others_do_not_count() {
        let mut arrived = Arrived::new(RUN, &PRODUCERS);
        let other_run = Identity { run: 43, ..identity(1, 0) };
        assert_eq!(arrived.take(0, &other_run), Arrival::Foreign);
        assert_eq!(arrived.take(0, &identity(2, 0)), Arrival::Foreign);
        arrived.take_foreign();
        assert_eq!(arrived.take(0, &identity(1, 7)), Arrival::First);
        let audit = arrived.reconcile(&[Outcomes::of(1)]);
        assert_eq!((audit.foreign, audit.never_sent, audit.lost), (3, 1, 0));
    }

    #[test]
    fn a_repeated_message_still_in_order_is_no_disorder() {
        let mut arrived = Arrived::new(RUN, &PRODUCERS);
        for sequence in [0, 1, 2, 0, 1, 2, 3] {
            arrived.take(0, &identity(1, sequence));
        }
        let audit = arrived.reconcile(&[]);
        assert_eq!((audit.duplicated, audit.out_of_order), (3, 0));
    }

    /// The bound of the module header, checked at a tenth of its size.
    #[test]
    fn ten_million_messages_take_a_few_megabytes() {
        let mut outcomes = Outcomes { sent: 10_000_000, ..Outcomes::of(1) };
        outcomes.acknowledge(0..10_000_000);
        assert!(outcomes.acknowledged.word_count() * 8 < 2 << 20);
    }
}
