//! The durable state of a shard, and the one place where it changes: [`Durable::apply`].
//!
//! Requests, replay, snapshots and replicas all go through it. Each kind of state is one file of
//! this module, which owns the layout of its facts, how they are applied, and its part of a
//! snapshot; [`TABLE`] has a row for each kind of fact. Messages are in the log, so their state is
//! the storage engine's index.
//!
//! A snapshot is taken in slices ([`Snapshot`]) while the state keeps changing. See
//! [`facts`](super::facts) for why that is sound.

use super::ages::{self, AllAges};
use super::delayed_topics::{AllDelayedTopics, DelayedTopics};
use super::delays::{self, Delays};
use super::facts::{self, Fact, FactError, Facts, unreadable};
use super::group_configs::{AllGroups, GroupConfigs};
use super::locks::{AllLocks, Locks};
use super::messages::{self, AllQueues};
use super::offsets::{AllOffsets, Offsets};
use super::raft_entries::{AllRaftEntries, RaftEntries};
use super::recalled::{self, AllRecalled};
use super::sent::{self, AllSent, SentKeys, SentRow};
use super::topics::{AllTopics, Topics};
use crate::model::record::RecordView;
use crate::model::{QueueId, Timestamp, TopicName};
use crate::storage::{EntryKind, Index};

/// Everything derived from the log's entries, except the index.
#[derive(Debug, Default)]
pub struct Durable {
    pub topics: Topics,
    pub offsets: Offsets,
    pub groups: GroupConfigs,
    pub delays: Delays,
    pub delayed_topics: DelayedTopics,
    pub locks: Locks,
    pub raft: RaftEntries,
    /// None if repeated messages are not recognized.
    pub sent: Option<Box<SentKeys>>,
}

/// A kind of fact.
struct Row {
    kind: EntryKind,
    /// For error messages.
    name: &'static str,
    /// The error describes what is wrong with the payload.
    apply: fn(&mut Durable, &mut Index, &Fact<'_>) -> Result<(), String>,
    /// Whether facts below the snapshot must be applied too: they are not in the snapshot, and are
    /// needed to rebuild a missing index file.
    is_indexed: bool,
    /// Begins the facts of this kind in a snapshot.
    snapshot: Option<fn() -> Section>,
}

/// One kind's part of a snapshot in progress. It remembers its progress and holds none of the
/// state. It adds facts until there are no more, or until a slice is full or has visited
/// [`ITEMS_PER_SLICE`](facts::ITEMS_PER_SLICE); returns whether there are more.
type Section = Box<dyn FnMut(&Durable, &Index, &mut Facts) -> bool>;

/// A kind of fact that concerns one field of [`Durable`] and nothing else.
macro_rules! own {
    ($kind:ident, $name:literal, $field:ident, $all:ident) => {
        Row {
            kind: facts::$kind,
            name: $name,
            apply: |durable, _, fact| durable.$field.apply(fact),
            is_indexed: false,
            snapshot: Some(|| {
                let mut all = $all::default();
                Box::new(move |durable, _, facts| all.add(&durable.$field, facts))
            }),
        }
    };
}

/// Every kind of fact, in snapshot order.
const TABLE: [Row; 14] = [
    Row {
        kind: facts::TOPIC,
        name: "a topic",
        apply: |durable, index, fact| {
            if let Some(gone) = durable.topics.apply(fact)? {
                durable.forget_topic(index, gone);
            }
            Ok(())
        },
        is_indexed: false,
        snapshot: Some(|| {
            let mut all = AllTopics::default();
            Box::new(move |durable, _, facts| all.add(&durable.topics, facts))
        }),
    },
    Row {
        kind: facts::QUEUES,
        name: "positions of queues",
        apply: |_, index, fact| messages::apply_queues(index, fact),
        is_indexed: false,
        snapshot: Some(|| {
            let mut all = AllQueues::default();
            Box::new(move |_, index, facts| all.add(index, facts))
        }),
    },
    Row {
        kind: facts::LAST_STORED,
        name: "times of newest messages",
        apply: |_, index, fact| messages::apply_last_stored(index, fact),
        is_indexed: false,
        // Added with the queues.
        snapshot: None,
    },
    Row {
        kind: facts::AGES,
        name: "ages of segments",
        apply: |_, index, fact| ages::apply(index, fact),
        is_indexed: false,
        snapshot: Some(|| {
            let mut all = AllAges::default();
            Box::new(move |_, index, facts| all.add(index, facts))
        }),
    },
    own!(OFFSETS, "consume offsets", offsets, AllOffsets),
    own!(GROUP, "a consumer group", groups, AllGroups),
    Row {
        kind: facts::DELAYS,
        name: "the state of delayed messages",
        apply: |durable, index, fact| {
            durable.delayed_topics.apply_state(fact)?;
            durable.delays.apply_state(index, fact)
        },
        is_indexed: false,
        snapshot: Some(|| {
            Box::new(|durable, _, facts| {
                delays::add_to_snapshot(&durable.delays, facts);
                false
            })
        }),
    },
    Row {
        kind: facts::DELAYED,
        name: "delayed messages",
        apply: |durable, index, fact| {
            // What the snapshot reflects has been noted: by now, the topic's name may have another
            // number.
            if durable.delays.apply_messages(index, fact)? {
                durable.delayed_topics.apply_messages(fact);
                durable.note_delayed(fact);
            }
            Ok(())
        },
        is_indexed: true,
        snapshot: None,
    },
    Row {
        kind: facts::DELAYED_TOPICS,
        name: "numbers of delayed messages",
        apply: |durable, _, fact| durable.delayed_topics.apply_snapshot(fact),
        is_indexed: false,
        snapshot: Some(|| {
            let mut all = AllDelayedTopics::default();
            Box::new(move |durable, _, facts| all.add(&durable.delayed_topics, facts))
        }),
    },
    Row {
        kind: facts::RECALLED,
        name: "recalled messages",
        apply: |durable, _, fact| {
            for row in recalled::rows(fact)? {
                durable.delays.recall(row.key());
                if let Some(sent) = &mut durable.sent {
                    sent.forget(&row.sent_key);
                }
            }
            Ok(())
        },
        is_indexed: false,
        snapshot: Some(|| {
            let mut all = AllRecalled::default();
            Box::new(move |durable, _, facts| all.add(durable.delays.recalled(), facts))
        }),
    },
    own!(RAFT_ENTRY, "an entry of the consensus engine", raft, AllRaftEntries),
    own!(LOCKS, "queue locks", locks, AllLocks),
    Row {
        kind: facts::SENT,
        name: "keys of messages",
        apply: |durable, _, fact| match &mut durable.sent {
            Some(sent) => sent.apply(fact),
            None => Ok(()),
        },
        is_indexed: false,
        snapshot: Some(|| {
            let mut all = AllSent::default();
            Box::new(move |durable, _, facts| {
                durable.sent.as_ref().is_some_and(|sent| all.add(sent, facts))
            })
        }),
    },
    Row {
        kind: facts::MESSAGES,
        name: "messages",
        apply: |durable, index, fact| {
            let sent = match durable.sent {
                Some(_) => sent::row_of(fact)?,
                None => None,
            };
            let mut broken = Ok(());
            let stored = messages::stored(fact)
                .map_while(|stored| stored.map_err(|error| broken = Err(error)).ok());
            durable.store_messages(index, sent, stored);
            broken
        },
        is_indexed: true,
        snapshot: None,
    },
];

fn row(kind: EntryKind) -> Result<&'static Row, FactError> {
    let row = TABLE.iter().find(|row| row.kind == kind);
    row.ok_or_else(|| unreadable("an entry", format!("its kind is {}", kind.0)))
}

impl Row {
    fn apply(&self, to: &mut Durable, index: &mut Index, fact: &Fact<'_>) -> Result<(), FactError> {
        (self.apply)(to, index, fact).map_err(|why| unreadable(self.name, why))
    }
}

impl Durable {
    /// Recognizes messages that are sent again within this time, if it is not 0.
    pub fn new(dedup_window_ms: u64) -> Self {
        let sent = (dedup_window_ms > 0).then(|| Box::new(SentKeys::new(dedup_window_ms)));
        Self { sent, ..Self::default() }
    }

    /// The effect of [`MESSAGES`](facts::MESSAGES). `sent` identifies the messages if they may be
    /// sent again, and says when they were stored.
    pub fn store_messages(
        &mut self,
        index: &mut Index,
        sent: Option<(SentRow, Timestamp)>,
        stored: impl Iterator<Item = messages::Placed>,
    ) {
        if let Some((row, stored_at)) = sent
            && let Some(keys) = &mut self.sent
        {
            keys.note(row, stored_at);
        }
        stored.for_each(|(queue, offset, located)| index.push(queue, offset, located));
    }

    /// A single delayed message may be sent again.
    fn note_delayed(&mut self, fact: &Fact<'_>) {
        if self.sent.is_none() {
            return;
        }
        let Some((record, position)) = delays::only_message(fact) else { return };
        let Some((key, queue)) = self.sent_key_of_delayed(&record) else { return };
        if let Some(sent) = &mut self.sent {
            let place = (position, queue, record.queue_offset);
            sent.note(SentRow::new(key, place, record.body_checksum), record.stored_at);
        }
    }

    /// The key by which a delayed message is recognized if it is sent again, and the queue that it is
    /// for.
    pub fn sent_key_of_delayed(&self, pending: &RecordView<'_>) -> Option<(sent::Key, QueueId)> {
        self.sent.as_ref()?;
        let number = |topic: &str| self.topics.number(&TopicName::new(topic.to_owned()).ok()?);
        sent::key_of_delayed(pending, number)
    }

    /// Applies an entry or a snapshot.
    pub fn apply(&mut self, index: &mut Index, fact: Fact<'_>) -> Result<(), FactError> {
        fact.each().try_for_each(|fact| {
            let fact = fact?;
            row(fact.kind)?.apply(self, index, &fact)
        })
    }

    /// Removes everything that belongs to a deleted topic. Its consume offsets and queue locks are
    /// unreachable, and go with the next sweeps; its delayed messages when they are due.
    fn forget_topic(&mut self, index: &mut Index, number: u32) {
        index.remove_topic(number);
    }

    /// Applies the part of an entry below the snapshot that the snapshot does not contain.
    pub fn apply_indexed(&mut self, index: &mut Index, fact: Fact<'_>) -> Result<(), FactError> {
        fact.each().try_for_each(|fact| {
            let fact = fact?;
            let row = row(fact.kind)?;
            if row.is_indexed { row.apply(self, index, &fact) } else { Ok(()) }
        })
    }
}

/// A snapshot in progress, taken slice by slice.
pub struct Snapshot {
    /// Unfinished parts, in order.
    sections: Vec<Section>,
}

impl Default for Snapshot {
    fn default() -> Self {
        let mut sections: Vec<_> =
            TABLE.iter().filter_map(|row| row.snapshot).map(|begin| begin()).collect();
        sections.reverse();
        Self { sections }
    }
}

impl Snapshot {
    /// The next slice; empty at the end.
    pub fn next_slice(&mut self, durable: &Durable, index: &Index) -> Vec<u8> {
        let mut facts = Facts::default();
        while facts.is_empty()
            && let Some(section) = self.sections.last_mut()
        {
            if !section(durable, index, &mut facts) {
                self.sections.pop();
            }
        }
        facts.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::broker::delay_key::Key;
    use crate::broker::delayed_topics::Settling;
    use crate::broker::delayed_topics::testing::{of_topic, properties_of, record_at};
    use crate::broker::delays::{Amount, Bucket, ClockReading, DelayedItem};
    use crate::broker::facts::{ITEMS_PER_SLICE, MESSAGES, SLICE_SIZE};
    use crate::broker::locks::Asker;
    use crate::broker::{group_configs, offsets, topics};
    use crate::model::record::{Host, NewRecord, Placement};
    use crate::model::{
        ClientId, GroupConfig, GroupName, LogOffset, Moment, QueueOffset, TopicConfig,
    };
    use crate::sim::Rng;
    use crate::storage::QueueKey;

    /// Two rows with the same kind, or a kind that storage uses, would make the log unreadable.
    #[test]
    fn every_kind_of_fact_has_one_row_and_a_number_of_its_own() {
        let mut kinds: Vec<u8> = TABLE.iter().map(|row| row.kind.0).collect();
        kinds.extend([facts::SEVERAL.0, EntryKind::FILLER.0]);
        let count = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), count);
    }

    /// A state, its index, and the entries that produced them.
    struct Shard {
        durable: Durable,
        index: Index,
        log: Vec<(EntryKind, u32, Vec<u8>)>,
    }

    const ENTRY_SIZE: u64 = 1 << 10;

    fn new_index() -> Index {
        let mut index = Index::new(0);
        index.begin_segment(LogOffset(0)..LogOffset(1 << 30));
        index
    }

    impl Shard {
        fn new() -> Self {
            Self { durable: Durable::default(), index: new_index(), log: Vec::new() }
        }

        fn write(&mut self, facts: &Facts) {
            let (kind, subject, payload) = facts.entry();
            self.log.push((kind, subject, payload.to_vec()));
            apply_nth(&mut self.durable, &mut self.index, &self.log, self.log.len() - 1);
        }

        /// Writes one change, sometimes two that take effect together.
        fn change(&mut self, rng: &mut Rng) {
            let now = Timestamp(rng.below(1000));
            let topics = &self.durable.topics;
            let name = TopicName::new(format!("t{}", rng.below(6))).unwrap();
            let known = topics.number(&name);
            let mut facts = match (known, rng.below(12)) {
                (Some(_), _) if rng.below(5) == 0 => self.lock(rng),
                (_, 7..10) => self.delayed(rng),
                (_, 10) => self.settled(rng),
                (Some(number), 0) => topics::removed(number, now),
                (Some(number), 1..5) => self.message(number, &name, rng),
                (Some(_), 5..7) => {
                    for _ in 0..rng.below(20) {
                        let group = GroupName::new(format!("g{}", rng.below(5))).unwrap();
                        let topic = rng.below(u64::from(topics.next_number())) as u32;
                        let queue = QueueKey { topic, queue: QueueId(rng.below(50) as u32) };
                        let offset = QueueOffset(rng.below(100));
                        let offsets = &mut self.durable.offsets;
                        match rng.below(4) {
                            0 => offsets.reset(&group, queue, offset).unwrap(),
                            1 => _ = offsets.end_reset(&group, queue),
                            _ => offsets.commit(&group, queue, offset).unwrap(),
                        }
                    }
                    self.durable.offsets.next_fact(now)
                }
                (Some(_), _) if rng.below(2) == 0 => {
                    let group = GroupName::new(format!("g{}", rng.below(5))).unwrap();
                    let config = GroupConfig {
                        retry_count_max: rng.below(9) as i32,
                        ..GroupConfig::new(group.clone())
                    };
                    let mut facts = Facts::default();
                    match rng.below(3) {
                        0 => group_configs::add_removed(&mut facts, &group, now),
                        _ => group_configs::add_set(&mut facts, &config, now),
                    }
                    facts
                }
                (Some(_), _) => {
                    let group = GroupName::new(format!("g{}", rng.below(5))).unwrap();
                    offsets::forgotten(&[group], now)
                }
                (None, _) => {
                    let config = TopicConfig::new(name, 1 + rng.below(4) as u32);
                    topics::set(topics.next_number(), &config, now)
                }
            };
            if rng.below(4) == 0 && known.is_none() {
                let other = TopicName::new(format!("u{}", rng.below(3))).unwrap();
                if let Some(number) = self.durable.topics.number(&other) {
                    let (kind, subject, payload) = topics::removed(number, now).into_entry();
                    facts.push(kind, subject, |out| out.extend_from_slice(&payload));
                }
            }
            if !facts.is_empty() {
                self.write(&facts);
            }
        }

        /// One client locks some queues, or gives up all of its locks.
        fn lock(&self, rng: &mut Rng) -> Facts {
            let (topics, locks) = (&self.durable.topics, &self.durable.locks);
            let group = GroupName::new(format!("g{}", rng.below(5))).unwrap();
            let client = ClientId::from(format!("c{}", rng.below(3)));
            let asker = Asker { group: &group, client: &client, connection: 1 };
            if rng.below(4) == 0 {
                return locks.released(&group, &client, &locks.claims(asker, None));
            }
            let queue = |_| QueueKey {
                topic: rng.below(u64::from(topics.next_number())) as u32,
                queue: QueueId(rng.below(50) as u32),
            };
            let queues: Vec<QueueKey> = (0..10).map(queue).collect();
            locks.granted(asker, &queues, Moment(0))
        }

        /// A delayed message, due in one of the next hours.
        fn delayed(&self, rng: &mut Rng) -> Facts {
            let delays = &self.durable.delays;
            let due_ms = delays.cursor().due_ms + rng.below(5_000_000);
            let queue_offset = self.index.next_offset(Bucket::of(due_ms).queue());
            let record = record_at(queue_offset, &properties_of(&format!("t{}", rng.below(6))));
            let amount = Amount { count: 1, bytes: record.len() as u64 };
            let now = ClockReading { clock_ms: delays.cursor().due_ms, wall: Timestamp(3) };
            Facts::one(facts::DELAYED, 0, |out| {
                out.extend_from_slice(delays.head(amount, now).as_bytes());
                out.extend_from_slice(DelayedItem { due_ms: due_ms.into() }.as_bytes());
                out.extend_from_slice(&record);
            })
        }

        /// Time has passed, and what was due has been delivered.
        fn settled(&self, rng: &mut Rng) -> Facts {
            let Durable { delays, delayed_topics, .. } = &self.durable;
            let pending = delays.pending().count;
            let first = rng.below(6);
            let topics = (0..6).map(|nth| format!("t{}", (first + nth) % 6));
            let mut topics = topics.filter(|topic| {
                delayed_topics.of(topic, pending).expect("all are counted").delayed > 0
            });
            let Some(topic) = topics.next() else { return Facts::default() };
            let due_ms = delays.cursor().due_ms + rng.below(700_000);
            let now = ClockReading { clock_ms: due_ms, wall: Timestamp(4) };
            let cursor = Key { due_ms, offset: rng.below(3) };
            let mut facts = Facts::default();
            let settled = Amount { count: 1, bytes: 10 };
            let place = LogOffset(rng.below(1 << 20));
            let state = delays.state_after(cursor, place, settled, now);
            let record = of_topic(&topic);
            let mut of_topics = Settling::begin(delayed_topics);
            of_topics.settle(&record, LogOffset(u64::MAX - 1));
            delays::push_state(&mut facts, &state, |out| of_topics.push_rows(out));
            facts
        }

        fn message(&self, topic: u32, name: &TopicName, rng: &mut Rng) -> Facts {
            let queue_count = self.durable.topics.topic(topic).unwrap().queues.len() as u64;
            self.message_in(QueueKey { topic, queue: QueueId(rng.below(queue_count) as u32) }, name)
        }

        fn message_in(&self, key: QueueKey, name: &TopicName) -> Facts {
            let host = Host { address: [0; 4], port: 0.into() };
            let record = NewRecord {
                topic: name.as_str(),
                queue: key.queue,
                flag: 0,
                system_flag: 0,
                born_at: Timestamp(0),
                born_host: host,
                reconsume_times: 0,
                body: b"x",
                properties: [b"", b""],
            };
            let placement = Placement {
                queue_offset: self.index.next_offset(key),
                physical_offset: LogOffset(0),
                stored_at: Timestamp(1),
                store_host: host,
            };
            Facts::one(MESSAGES, key.topic, |out| {
                let begin = out.len();
                out.resize(begin + record.size(), 0);
                record.write(&placement, &mut out[begin..]);
            })
        }

        /// Everything that requests can observe of the durable state.
        fn seen(&self) -> Vec<String> {
            let Durable { topics, offsets, groups, delays, delayed_topics, locks, .. } =
                &self.durable;
            let mut seen = vec![format!("next topic {}, {delays:?}", topics.next_number())];
            for topic in ["t0", "t1", "t2", "t3", "t4", "t5"] {
                let pending = delayed_topics.of(topic, delays.pending().count);
                seen.push(format!("{:?} are pending", pending.expect("all are counted")));
            }
            seen.extend(groups.iter().map(|group| format!("{group:?}")));
            let mut from = Bucket::of(0);
            while let Some(bucket) = delays.first_bucket(&self.index, from) {
                let next = self.index.next_offset(bucket.queue());
                seen.push(format!("{bucket:?}: next {next}"));
                from = bucket.successor();
            }
            for number in 0..topics.next_number() {
                let Some(topic) = topics.topic(number) else { continue };
                seen.push(format!("{number}: {:?}", topic.config));
                for queue in (0..50).map(QueueId) {
                    let key = QueueKey { topic: number, queue };
                    seen.push(format!("{key:?}: next {}", self.index.next_offset(key)));
                    for group in 0..5 {
                        let group = GroupName::new(format!("g{group}")).unwrap();
                        let (offset, is_reset) =
                            (offsets.find(&group, key), offsets.is_reset(&group, key));
                        seen.push(format!("{group} at {offset:?}, {is_reset}"));
                        let owns = |client: &str| locks.is_owner(&group, &client.into(), key);
                        seen.push(format!("owned by {:?}", ["c0", "c1", "c2"].map(owns)));
                    }
                }
            }
            seen
        }
    }

    fn apply_nth(
        durable: &mut Durable,
        index: &mut Index,
        log: &[(EntryKind, u32, Vec<u8>)],
        nth: usize,
    ) {
        let (kind, subject, payload) = &log[nth];
        let entry_offset = LogOffset(nth as u64 * ENTRY_SIZE);
        let payload_offset = entry_offset.plus(64);
        let fact = Fact { kind: *kind, subject: *subject, entry_offset, payload_offset, payload };
        durable.apply(index, fact).unwrap();
    }

    /// Slices are taken while the state changes; what was written since the snapshot began is
    /// applied again after it. Whatever the order, the result is the same state.
    #[test]
    fn a_snapshot_made_while_the_state_changes_and_the_log_behind_it_give_the_state() {
        let mut slice_counts = 0;
        for seed in 0..300 {
            let mut rng = Rng::from_seed(seed);
            let mut shard = Shard::new();
            for _ in 0..rng.below(200) {
                shard.change(&mut rng);
            }
            let (begin, mut snapshot, mut bytes) = (shard.log.len(), Snapshot::default(), vec![]);
            loop {
                let slice = snapshot.next_slice(&shard.durable, &shard.index);
                if slice.is_empty() {
                    break;
                }
                slice_counts += 1;
                bytes.extend_from_slice(&slice);
                for _ in 0..rng.below(10) {
                    shard.change(&mut rng);
                }
            }
            // Offsets that the group saw but that are not logged are lost in a crash.
            while shard.durable.offsets.has_changes() {
                let facts = shard.durable.offsets.next_fact(Timestamp(2000));
                shard.write(&facts);
            }
            let mut restored = Shard::new();
            let (durable, index) = (&mut restored.durable, &mut restored.index);
            durable.apply(index, Fact::of_snapshot(&bytes)).unwrap();
            for nth in begin..shard.log.len() {
                apply_nth(durable, index, &shard.log, nth);
            }
            assert_eq!(restored.seen(), shard.seen(), "seed {seed}");
        }
        assert!(slice_counts > 600, "nothing changed between slices: {slice_counts}");
    }

    /// However large the state, one slice is a bounded amount of work.
    #[test]
    fn a_slice_of_a_snapshot_is_small_whatever_the_state() {
        let mut shard = Shard::new();
        for number in 0..300 {
            let name = TopicName::new(format!("t{number}")).unwrap();
            shard.write(&topics::set(number, &TopicConfig::new(name.clone(), 100), Timestamp(1)));
            for queue in (0..10).map(QueueId) {
                let message = shard.message_in(QueueKey { topic: number, queue }, &name);
                shard.write(&message);
            }
        }
        for (group, topic, queue) in
            (0..10).flat_map(|g| (0..300).flat_map(move |t| (0..10).map(move |q| (g, t, q))))
        {
            let group = GroupName::new(format!("g{group}")).unwrap();
            let key = QueueKey { topic, queue: QueueId(queue) };
            shard.durable.offsets.commit(&group, key, QueueOffset(7)).unwrap();
        }
        while shard.durable.offsets.has_changes() {
            let facts = shard.durable.offsets.next_fact(Timestamp(1));
            shard.write(&facts);
        }
        let mut snapshot = Snapshot::default();
        let mut sizes = Vec::new();
        loop {
            let slice = snapshot.next_slice(&shard.durable, &shard.index);
            if slice.is_empty() {
                break;
            }
            sizes.push(slice.len());
        }
        let largest = *sizes.iter().max().unwrap();
        assert!(largest <= SLICE_SIZE + 1024, "{largest}");
        assert!(sizes.len() >= 30_000 / ITEMS_PER_SLICE, "{sizes:?}");
    }
}
