//! Reconciles every acknowledgement with the messages that arrived.
//!
//! Per producer, the sending side keeps one bit for each acknowledged message and one for each refused
//! message; each consumer group keeps one bit for each message that arrived. Sequences have no gaps, so
//! these bits are complete. Full and empty ranges take almost no memory ([`crate::engine::bitmap`]);
//! the worst case is one bit per message and set, 90 MB for 100 million messages and five groups. The
//! two sides are compared here only, after the run.
//!
//! Not here: what the findings mean for the verdict (`report`).

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::engine::bitmap::{Bitmap, CHUNK, Chunk, WORDS};
use crate::engine::payload::Identity;

/// A sequence this far beyond all others of its producer cannot be genuine. Accepting it would
/// allocate memory for all sequences in between.
const REACH_MAX: u64 = 1 << 32;
/// A delayed message that arrives at most this long before it is due, ns, is not early: brokers
/// count in whole milliseconds, from when they receive it.
const EARLY_MIN_NS: u64 = 2_000_000;

/// Outcomes of one producer's messages `0..sent`, as known to the sending side.
#[derive(Debug)]
pub struct Outcomes {
    pub stream: u16,
    pub producer: u32,
    /// Messages handed to the socket. Those neither acknowledged nor refused have an unknown
    /// outcome: no reply came, so they may or may not be stored.
    pub sent: u64,
    acknowledged: Bitmap,
    refused: Bitmap,
}

impl Outcomes {
    /// The outcomes of a producer that has sent nothing yet.
    pub fn of(stream: u16, producer: u32) -> Self {
        let (acknowledged, refused) = Default::default();
        Self { stream, producer, sent: 0, acknowledged, refused }
    }

    pub fn acknowledged_count(&self) -> u64 {
        self.acknowledged.count()
    }

    pub fn acknowledge(&mut self, sequences: Range<u64>) {
        self.acknowledged.insert_range(sequences);
    }

    pub fn refuse(&mut self, sequences: Range<u64>) {
        self.refused.insert_range(sequences);
    }
}

/// The messages that one group has received.
#[derive(Debug)]
pub struct Arrived {
    run: u64,
    /// Index in `seen` by producer number.
    producers: FxHashMap<u32, usize>,
    seen: Vec<Bitmap>,
    /// Highest sequence seen per queue, producer and lane. Bounded by their numbers in the run.
    newest: FxHashMap<(u32, u32, u16), u64>,
    streams: BTreeMap<u16, StreamSeen>,
    /// By stream; streams beyond the end have none.
    delays_ns: Vec<u64>,
    count: u64,
    corrupted: u64,
    foreign: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct StreamSeen {
    duplicated: u64,
    out_of_order: u64,
    early: u64,
}

/// The classification of one arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    First,
    Again,
    /// From another run, or from a producer of another process of this run.
    Foreign,
    /// Its sequence cannot have been sent.
    Impossible,
}

impl Arrived {
    /// Expects messages of `run` from these producers, listed with their streams. All other messages
    /// are foreign.
    pub fn new(run: u64, producers: &[(u16, u32)]) -> Self {
        let streams = producers.iter().map(|(stream, _)| (*stream, StreamSeen::default()));
        let numbers = producers.iter().map(|(_, number)| *number);
        Self {
            run,
            streams: streams.collect(),
            seen: producers.iter().map(|_| Bitmap::default()).collect(),
            producers: numbers.zip(0..).collect(),
            newest: FxHashMap::default(),
            delays_ns: Vec::new(),
            count: 0,
            corrupted: 0,
            foreign: 0,
        }
    }

    /// Sets the delay of each stream, ns.
    pub fn with_delays(self, delays_ns: Vec<u64>) -> Self {
        Self { delays_ns, ..self }
    }

    /// Returns when a message was due at its consumers. It arrived at `now_ns`, for the first time.
    /// If it was delayed and is early, it is counted.
    pub fn due_ns(&mut self, identity: &Identity, now_ns: u64) -> u64 {
        let delay_ns = self.delays_ns.get(usize::from(identity.stream)).copied().unwrap_or(0);
        let due_ns = identity.due_ns.saturating_add(delay_ns);
        if delay_ns > 0
            && now_ns.saturating_add(EARLY_MIN_NS) < due_ns
            && let Some(stream) = self.streams.get_mut(&identity.stream)
        {
            stream.early += 1;
        }
        due_ns
    }

    /// Records an intact message of queue number `queue`. Calls follow the order of arrival.
    pub fn take(&mut self, queue: u32, identity: &Identity) -> Arrival {
        let index = (identity.run == self.run).then(|| self.producers.get(&identity.producer));
        let stream = self.streams.get_mut(&identity.stream);
        let (Some(&index), Some(stream)) = (index.flatten(), stream) else {
            self.foreign += 1;
            return Arrival::Foreign;
        };
        let seen = &mut self.seen[index];
        if identity.sequence > seen.end() + REACH_MAX {
            self.corrupted += 1;
            return Arrival::Impossible;
        }
        if !seen.insert(identity.sequence) {
            stream.duplicated += 1;
            return Arrival::Again;
        }
        self.count += 1;
        let place = (queue, identity.producer, identity.lane);
        let newest = self.newest.entry(place).or_insert(identity.sequence);
        if identity.sequence < *newest {
            stream.out_of_order += 1;
        }
        *newest = (*newest).max(identity.sequence);
        Arrival::First
    }

    /// Records a corrupted message of a load generator. Its producer is unknown, so if it was
    /// acknowledged and no intact copy arrives, it also counts as lost.
    pub fn take_corrupted(&mut self) {
        self.corrupted += 1;
    }

    /// Records a message that no load generator sent.
    pub fn take_foreign(&mut self) {
        self.foreign += 1;
    }

    /// Number of distinct intact messages of this run.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Number of acknowledged messages that have not arrived yet.
    pub fn missing(&self, outcomes: &[Outcomes]) -> u64 {
        let mine = outcomes.iter().filter(|sent| self.streams.contains_key(&sent.stream));
        mine.map(|sent| self.compare(sent).lost).sum()
    }

    /// The audit of each stream. Where `is_readable` is false for a producer's broker, its missing
    /// messages count as unread, not as lost.
    pub fn reconcile(
        &self,
        outcomes: &[Outcomes],
        is_readable: impl Fn(u32) -> bool,
    ) -> BTreeMap<u16, Audit> {
        let audit_of = |(stream, seen): (&u16, &StreamSeen)| {
            let StreamSeen { duplicated, out_of_order, early } = *seen;
            (*stream, Audit { duplicated, out_of_order, early, ..Audit::default() })
        };
        let mut audits: BTreeMap<u16, Audit> = self.streams.iter().map(audit_of).collect();
        for sent in outcomes {
            let Some(audit) = audits.get_mut(&sent.stream) else { continue };
            let mut found = self.compare(sent);
            if !is_readable(sent.producer) {
                (found.unread, found.lost) = (found.lost, 0);
            }
            audit.add(&found);
        }
        audits
    }

    /// Number of corrupted messages, and of messages that no load generator sent.
    pub fn unattributed(&self) -> (u64, u64) {
        (self.corrupted, self.foreign)
    }

    fn compare(&self, sent: &Outcomes) -> Audit {
        let seen = self.producers.get(&sent.producer).map(|&index| &self.seen[index]);
        let seen_count = seen.map_or(0, Bitmap::chunk_count);
        let mut audit = Audit::default();
        for index in 0..seen_count.max(sent.sent.div_ceil(CHUNK) as usize) {
            let arrived = seen.map_or(&Chunk::Empty, |seen| seen.chunk(index));
            let sent_before = index as u64 * CHUNK;
            let chunks = SentChunks {
                sent: sent.sent.saturating_sub(sent_before),
                acknowledged: sent.acknowledged.chunk(index),
                refused: sent.refused.chunk(index),
            };
            audit.compare(&chunks, arrived);
        }
        audit
    }
}

/// Outcomes of the messages of one chunk, as known to the sending side.
struct SentChunks<'a> {
    /// Number of messages sent from the start of this chunk on; more than a chunk holds if later chunks
    /// exist.
    sent: u64,
    acknowledged: &'a Chunk,
    refused: &'a Chunk,
}

/// A mask of the lowest `count` bits; all bits if `count` is 64 or more.
fn bits_below(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The result of the reconciliation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    pub acknowledged: u64,
    /// Acknowledged and never received.
    pub lost: u64,
    /// Acknowledged and not received, on a broker with queues that were not read to their end.
    #[serde(default)]
    pub unread: u64,
    /// Received more than once; counts each repetition.
    pub duplicated: u64,
    /// Received in a queue after a later message of the same producer or, in an ordered stream, of the
    /// same lane ([`crate::engine::producer`]).
    pub out_of_order: u64,
    /// Delayed, and received before it was due.
    #[serde(default)]
    pub early: u64,
    /// Arrived with a wrong checksum.
    pub corrupted: u64,
    /// Sent without a reply, and received.
    pub unknown_present: u64,
    /// Sent without a reply, and not received.
    pub unknown_absent: u64,
    /// Refused, but received.
    pub refused_present: u64,
    /// Received intact, with a sequence that was never sent.
    pub never_sent: u64,
    /// Messages of other runs in the same topic.
    pub foreign: u64,
}

impl Audit {
    /// Adds the outcomes of one chunk.
    fn compare(&mut self, sent: &SentChunks<'_>, arrived: &Chunk) {
        let count = |bits: u64| u64::from(bits.count_ones());
        for index in 0..WORDS {
            let arrived = arrived.word(index);
            let acknowledged = sent.acknowledged.word(index);
            let refused = sent.refused.word(index) & !acknowledged;
            let existing = bits_below(sent.sent.saturating_sub(index as u64 * 64));
            let unknown = existing & !acknowledged & !refused;
            self.acknowledged += count(acknowledged);
            self.lost += count(acknowledged & !arrived);
            self.unknown_present += count(unknown & arrived);
            self.unknown_absent += count(unknown & !arrived);
            self.refused_present += count(refused & arrived);
            self.never_sent += count(arrived & !existing);
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.unread += other.unread;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.early += other.early;
        self.corrupted += other.corrupted;
        self.unknown_present += other.unknown_present;
        self.unknown_absent += other.unknown_absent;
        self.refused_present += other.refused_present;
        self.never_sent += other.never_sent;
        self.foreign += other.foreign;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::schedule::SplitMix64;

    const RUN: u64 = 42;
    const PRODUCERS: [u32; 3] = [1, 5, 9];
    const COUNT: u64 = 1_000;

    fn identity(producer: u32, sequence: u64) -> Identity {
        Identity { run: RUN, stream: 0, lane: 0, producer, sequence, due_ns: 0 }
    }

    fn arrived() -> Arrived {
        Arrived::new(RUN, &PRODUCERS.map(|producer| (0, producer)))
    }

    fn outcomes(stream: u16, producer: u32, sent: u64) -> Outcomes {
        Outcomes { sent, ..Outcomes::of(stream, producer) }
    }

    fn all_acknowledged() -> Vec<Outcomes> {
        let of = |producer| {
            let mut outcomes = outcomes(0, producer, COUNT);
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
        let mut arrived = arrived();
        for identity in stream {
            arrived.take(identity.producer, identity);
        }
        arrived.reconcile(outcomes, |_| true)[&0]
    }

    #[test]
    fn a_clean_run_finds_nothing() {
        let audit = audit_of(&all_acknowledged(), &stream());
        assert_eq!(audit, Audit { acknowledged: 3 * COUNT, ..Audit::default() });
    }

    /// Every injected fault is found, wherever it is. One fault at a time.
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
        let mut outcomes = outcomes(0, 1, 130);
        outcomes.acknowledge(0..100);
        outcomes.refuse(100..110);
        let mut arrived = arrived();
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
        assert_eq!(arrived.reconcile(&[outcomes], |_| true)[&0], expected);
    }

    #[test]
    fn messages_of_others_do_not_count() {
        let mut arrived = arrived();
        let other_run = Identity { run: 43, ..identity(1, 0) };
        assert_eq!(arrived.take(0, &other_run), Arrival::Foreign);
        assert_eq!(arrived.take(0, &identity(2, 0)), Arrival::Foreign);
        arrived.take_foreign();
        assert_eq!(arrived.take(0, &identity(1, 7)), Arrival::First);
        let audit = arrived.reconcile(&[outcomes(0, 1, 0)], |_| true)[&0];
        assert_eq!((audit.never_sent, audit.lost), (1, 0));
        assert_eq!(arrived.unattributed(), (0, 3));
    }

    #[test]
    fn a_repeated_message_still_in_order_is_no_disorder() {
        let mut arrived = arrived();
        for sequence in [0, 1, 2, 0, 1, 2, 3] {
            arrived.take(0, &identity(1, sequence));
        }
        let audit = arrived.reconcile(&[], |_| true)[&0];
        assert_eq!((audit.duplicated, audit.out_of_order), (3, 0));
    }

    /// Latency counts from when a delayed message is due, not from when it was sent.
    #[test]
    fn a_delayed_message_is_due_later_and_must_not_come_before() {
        let mut arrived = arrived().with_delays(vec![5_000_000_000]);
        let rows = [(0, 5_000_000_000, 0), (1, 4_999_000_000, 0), (2, 4_990_000_000, 1)];
        for (sequence, now_ns, early) in rows {
            let identity = identity(1, sequence);
            assert_eq!(arrived.take(0, &identity), Arrival::First);
            assert_eq!(arrived.due_ns(&identity, now_ns), 5_000_000_000);
            assert_eq!(arrived.reconcile(&[], |_| true)[&0].early, early);
        }
    }

    /// Messages on an unreachable broker do not count as lost.
    #[test]
    fn what_cannot_be_read_is_not_lost() {
        let (outcomes, mut stream) = (all_acknowledged(), stream());
        stream.retain(|identity| identity.sequence != 7);
        let mut arrived = arrived();
        for identity in &stream {
            arrived.take(identity.producer, identity);
        }
        let audit = arrived.reconcile(&outcomes, |producer| producer != 5)[&0];
        assert_eq!((audit.lost, audit.unread), (2, 1));
    }

    /// Streams are reconciled separately, and a group ignores streams that it does not consume.
    #[test]
    fn each_stream_has_its_own_audit() {
        let mut arrived = Arrived::new(RUN, &[(0, 1), (2, 5)]);
        let of = |stream, producer, sequence| Identity { stream, ..identity(producer, sequence) };
        for identity in [of(0, 1, 0), of(2, 5, 0), of(2, 5, 0), of(1, 9, 0)] {
            arrived.take(0, &identity);
        }
        let sent = |stream, producer, count| {
            let mut outcomes = outcomes(stream, producer, count);
            outcomes.acknowledge(0..count);
            outcomes
        };
        let outcomes = [sent(0, 1, 1), sent(1, 9, 1), sent(2, 5, 3)];
        let audits = arrived.reconcile(&outcomes, |_| true);
        assert_eq!(audits.keys().collect::<Vec<_>>(), [&0, &2]);
        assert_eq!((audits[&0].lost, audits[&0].duplicated), (0, 0));
        assert_eq!((audits[&2].lost, audits[&2].duplicated), (2, 1));
        assert_eq!((arrived.missing(&outcomes), arrived.unattributed()), (2, (0, 1)));
    }

    /// Messages of different lanes may overtake each other; those of one lane may not.
    #[test]
    fn order_is_that_of_a_lane() {
        let of = |lane, sequence| Identity { lane, ..identity(1, sequence) };
        for (second, disorder) in [(of(1, 3), 0), (of(0, 3), 1)] {
            let mut arrived = arrived();
            arrived.take(0, &of(0, 4));
            arrived.take(0, &second);
            assert_eq!(arrived.reconcile(&[], |_| true)[&0].out_of_order, disorder);
        }
    }

    /// Accepting an impossible sequence would make the set as large as the sequence.
    #[test]
    fn a_number_that_cannot_have_been_given_costs_nothing() {
        let mut arrived = arrived();
        for sequence in [u64::MAX, 1 << 40] {
            assert_eq!(arrived.take(0, &identity(1, sequence)), Arrival::Impossible);
        }
        assert_eq!(arrived.take(0, &identity(1, 1 << 30)), Arrival::First);
        assert_eq!((arrived.count(), arrived.unattributed()), (1, (2, 0)));
    }
}
