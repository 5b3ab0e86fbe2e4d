//! The topics of one shard: their configuration, and the visible end of each queue.
//!
//! Every topic has a number that is never reused, not even for a topic of the same name that is
//! created later: log entries and index files refer to topics by number.
//!
//! ```text
//!   TOPIC   TopicSet, the topic's name     sets its configuration; a new number is a new topic
//!           TopicRemoved                   deletes it with its offsets and messages
//!           TopicTable                     numbers below the next one are used; in snapshots only
//! ```
//!
//! Invariant of each queue: `visible <= next offset of the index`; messages below `visible` are
//! committed, so consumers may see them.

use std::collections::{BTreeSet, HashMap};
use std::mem::size_of;
use std::ops::Bound;

use rustc_hash::FxHashMap;
use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{Fact, Facts, ITEMS_PER_SLICE, TOPIC};
use crate::model::nameserver::parts_of_shard;
use crate::model::topic::{
    AUTO_CREATE_TEMPLATE, DELAY_LEVEL_TOPIC, PERM_INHERIT, PERM_READ, PERM_WRITE, QUEUES_MAX,
    QUEUES_PER_TOPIC_MAX, TOPICS_MAX, is_for_traces, reply_topic,
};
use crate::model::topic::{DataVersion, TopicChange};
use crate::model::{QueueId, QueueOffset, Refusal, Timestamp, TopicConfig, TopicName};

/// Queues of the template topic (remoting reference, 5.11).
const TEMPLATE_QUEUE_COUNT: u32 = 8;
/// Queues of the topic for replies, in which nothing is stored.
const REPLY_QUEUE_COUNT: u32 = 1;
/// Queues of the topic that represents delayed messages, which are not stored in its queues.
const DELAY_QUEUE_COUNT: u32 = 1;
/// The kinds of topic facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum FactKind {
    Set = 1,
    Removed = 2,
    Table = 3,
}

/// Sets a topic's configuration. Followed by the topic's name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TopicSet {
    /// 1.
    pub says: u8,
    /// 1 for an ordered topic.
    pub order: u8,
    pub name_size: U16,
    pub number: U32,
    pub read_queue_count: U32,
    pub write_queue_count: U32,
    pub perm: U32,
    pub system_flag: U32,
    pub changed_at_ms: U64,
}

/// Deletes a topic.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TopicRemoved {
    /// 2.
    pub says: u8,
    pub reserved: [u8; 3],
    pub number: U32,
    pub changed_at_ms: U64,
}

/// State that cannot be derived from the existing topics.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TopicTable {
    /// 3.
    pub says: u8,
    pub reserved: [u8; 3],
    /// Lower numbers have been used, some by deleted topics.
    pub next_number: U32,
    pub version_counter: I64,
    pub version_state: I64,
    pub version_timestamp: I64,
}

const _: () = {
    assert!(size_of::<TopicSet>() == 32);
    assert!(size_of::<TopicRemoved>() == 16);
    assert!(size_of::<TopicTable>() == 32);
};

/// The fact that sets the configuration of topic `number` to `config`.
pub fn set(number: u32, config: &TopicConfig, now: Timestamp) -> Facts {
    let mut facts = Facts::default();
    add_set(&mut facts, number, config, now);
    facts
}

/// Adds the fact that sets the configuration of topic `number` to `config`.
pub fn add_set(facts: &mut Facts, number: u32, config: &TopicConfig, now: Timestamp) {
    let name = config.name.as_str().as_bytes();
    let head = TopicSet {
        says: FactKind::Set as u8,
        order: u8::from(config.order),
        name_size: U16::new(name.len() as u16),
        number: U32::new(number),
        read_queue_count: U32::new(config.read_queue_count),
        write_queue_count: U32::new(config.write_queue_count),
        perm: U32::new(config.perm),
        system_flag: U32::new(config.system_flag),
        changed_at_ms: U64::new(now.0),
    };
    facts.push(TOPIC, number, |out| {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(name);
    });
}

/// The fact that deletes topic `number`.
pub fn removed(number: u32, now: Timestamp) -> Facts {
    let fact = TopicRemoved {
        says: FactKind::Removed as u8,
        reserved: [0; 3],
        number: U32::new(number),
        changed_at_ms: U64::new(now.0),
    };
    Facts::one(TOPIC, number, |out| out.extend_from_slice(fact.as_bytes()))
}

impl Topics {
    /// Applies a fact. Returns the number of a deleted topic.
    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<Option<u32>, String> {
        let says = fact.payload.first().copied().unwrap_or(0);
        let cut = |_| format!("{} bytes are too few", fact.payload.len());
        if says == FactKind::Set as u8 {
            let (head, rest) = TopicSet::ref_from_prefix(fact.payload).map_err(|_| cut(()))?;
            let name = rest.get(..usize::from(head.name_size.get())).ok_or_else(|| cut(()))?;
            let name = std::str::from_utf8(name).map_err(|error| error.to_string())?;
            let config = TopicConfig {
                name: TopicName::new(name.to_owned()).map_err(|error| error.to_string())?,
                read_queue_count: head.read_queue_count.get(),
                write_queue_count: head.write_queue_count.get(),
                perm: head.perm.get(),
                system_flag: head.system_flag.get(),
                order: head.order == 1,
            };
            self.set(head.number.get(), config, Timestamp(head.changed_at_ms.get()));
        } else if says == FactKind::Removed as u8 {
            let (gone, _) = TopicRemoved::ref_from_prefix(fact.payload).map_err(|_| cut(()))?;
            self.remove(gone.number.get(), Timestamp(gone.changed_at_ms.get()));
            return Ok(Some(gone.number.get()));
        } else if says == FactKind::Table as u8 {
            let (table, _) = TopicTable::ref_from_prefix(fact.payload).map_err(|_| cut(()))?;
            let version = DataVersion {
                counter: table.version_counter.get(),
                state_version: table.version_state.get(),
                timestamp: table.version_timestamp.get(),
            };
            self.restore(table.next_number.get(), version);
        } else {
            return Err(format!("it says {says}"));
        }
        Ok(None)
    }
}

/// All topics by number, then the table: the progress of adding them to a snapshot.
pub struct AllTopics {
    /// The last topic that was added.
    at: Bound<u32>,
}

impl Default for AllTopics {
    fn default() -> Self {
        Self { at: Bound::Unbounded }
    }
}

impl AllTopics {
    pub fn add(&mut self, topics: &Topics, facts: &mut Facts) -> bool {
        for _ in 0..ITEMS_PER_SLICE {
            let Some((number, topic)) = topics.first_from(self.at) else {
                facts.push(TOPIC, 0, |out| out.extend_from_slice(topics.table().as_bytes()));
                return false;
            };
            add_set(facts, number, &topic.config, Timestamp(topics.version.timestamp as u64));
            self.at = Bound::Excluded(number);
            if facts.fill_a_slice() {
                break;
            }
        }
        true
    }
}

/// The state of one queue besides its index.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue {
    /// Messages below this offset are committed.
    pub visible: QueueOffset,
    /// Whether pulls may wait for a message here; certainly none do if this is false.
    pub may_have_held: bool,
}

#[derive(Clone, Debug)]
pub struct Topic {
    pub config: TopicConfig,
    pub queues: Vec<Queue>,
    /// The queue for the next message that does not name one.
    next_queue: u32,
}

#[derive(Debug, Default)]
pub struct Topics {
    /// Hashed with a random seed, because clients choose the names. Never iterated, because the
    /// order differs between processes.
    numbers: HashMap<TopicName, u32>,
    by_number: FxHashMap<u32, Topic>,
    /// The keys of `by_number` in order, to iterate over them in steps.
    in_order: BTreeSet<u32>,
    next_number: u32,
    /// Number of queues of all topics, including those that a topic no longer offers.
    queue_count: usize,
    /// Number of topics to which clients send traces.
    trace_topic_count: usize,
    version: DataVersion,
    /// Topics that have changed since NameServers were last notified; `None` until they have
    /// received all topics.
    changed: Option<BTreeSet<TopicName>>,
}

impl Topics {
    pub fn number(&self, name: &TopicName) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub fn topic(&self, number: u32) -> Option<&Topic> {
        self.by_number.get(&number)
    }

    pub fn topic_mut(&mut self, number: u32) -> Option<&mut Topic> {
        self.by_number.get_mut(&number)
    }

    pub fn queue_mut(&mut self, number: u32, queue: QueueId) -> Option<&mut Queue> {
        self.topic_mut(number)?.queues.get_mut(queue.0 as usize)
    }

    /// The topic called `name` and its number.
    pub fn find(&self, name: &TopicName) -> Result<(u32, &Topic), Refusal> {
        let number = self.number(name).ok_or_else(|| Refusal::UnknownTopic(name.detached()))?;
        Ok((number, self.topic(number).expect("a numbered topic is there")))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Topic)> {
        self.by_number.iter().map(|(number, topic)| (*number, topic))
    }

    /// The topic with the lowest number in the range from `at`.
    pub fn first_from(&self, at: Bound<u32>) -> Option<(u32, &Topic)> {
        let number = *self.in_order.range((at, Bound::Unbounded)).next()?;
        Some((number, self.topic(number)?))
    }

    pub fn count(&self) -> usize {
        self.numbers.len()
    }

    /// Whether clients may send traces.
    pub fn has_trace_topic(&self) -> bool {
        self.trace_topic_count > 0
    }

    /// The number that the next new topic gets.
    pub fn next_number(&self) -> u32 {
        self.next_number
    }

    pub fn version(&self) -> DataVersion {
        self.version
    }

    /// Validates a requested configuration, whose name has been checked.
    pub fn check(&self, config: &TopicConfig) -> Result<(), Refusal> {
        for (what, count) in [
            ("readQueueNums", config.read_queue_count),
            ("writeQueueNums", config.write_queue_count),
        ] {
            if count > QUEUES_PER_TOPIC_MAX || (count == 0 && what == "writeQueueNums") {
                return Err(Refusal::Malformed(format!(
                    "{what} is {count}, allowed are 1 to {QUEUES_PER_TOPIC_MAX}"
                )));
            }
        }
        if config.perm & !(PERM_READ | PERM_WRITE | PERM_INHERIT) != 0 {
            return Err(Refusal::Malformed(format!("perm is {}, allowed are 0 to 7", config.perm)));
        }
        let known = self.number(&config.name).and_then(|number| self.topic(number));
        if known.is_none() {
            // A shard of some machine has this name or may get it. An existing topic keeps it.
            if parts_of_shard(config.name.as_str()).is_some() {
                return Err(Refusal::ReservedTopic(config.name.detached()));
            }
            self.check_more(0)?;
        }
        let known_queues = known.map_or(0, |topic| topic.queues.len());
        let new_queues = (config.queue_count() as usize).saturating_sub(known_queues);
        if self.queue_count + new_queues > QUEUES_MAX {
            return Err(Refusal::Full { what: "queues", count_max: QUEUES_MAX });
        }
        Ok(())
    }

    /// Checks that there may be another topic besides the existing ones and `count` being created.
    pub fn check_more(&self, count: usize) -> Result<(), Refusal> {
        match self.count() + count < TOPICS_MAX {
            true => Ok(()),
            false => Err(Refusal::Full { what: "topics", count_max: TOPICS_MAX }),
        }
    }

    /// The configuration of a topic that is created by sending to it, if `template` allows that
    /// (remoting reference, 5.11).
    pub fn automatic(
        &self,
        name: &TopicName,
        template: &str,
        queue_count: u32,
        is_enabled: bool,
    ) -> Result<TopicConfig, Refusal> {
        let unknown = || Refusal::UnknownTopic(name.detached());
        if !is_enabled || template != AUTO_CREATE_TEMPLATE {
            return Err(unknown());
        }
        let config = TopicConfig::new(name.detached(), queue_count.clamp(1, TEMPLATE_QUEUE_COUNT));
        self.check(&config)?;
        Ok(config)
    }

    /// Sets `config` for `number`: an existing number changes that topic, a new one creates a
    /// topic.
    fn set(&mut self, number: u32, config: TopicConfig, now: Timestamp) {
        self.next_number = self.next_number.max(number + 1);
        let is_new = self.numbers.insert(config.name.clone(), number).is_none();
        self.trace_topic_count += usize::from(is_new && is_for_traces(config.name.as_str()));
        self.in_order.insert(number);
        self.note_change(&config.name);
        let queue_count = config.queue_count() as usize;
        let new = || Topic { config: config.clone(), queues: Vec::new(), next_queue: 0 };
        let topic = self.by_number.entry(number).or_insert_with(new);
        topic.config = config;
        // Queues that are no longer offered keep their state, because they may return.
        let new_queues = queue_count.saturating_sub(topic.queues.len());
        topic.queues.resize(topic.queues.len() + new_queues, Queue::default());
        self.queue_count += new_queues;
        self.change(now);
    }

    fn remove(&mut self, number: u32, now: Timestamp) {
        if let Some(topic) = self.by_number.remove(&number) {
            self.numbers.remove(&topic.config.name);
            self.trace_topic_count -= usize::from(is_for_traces(topic.config.name.as_str()));
            self.in_order.remove(&number);
            self.note_change(&topic.config.name);
            self.queue_count -= topic.queues.len();
            self.change(now);
        }
    }

    fn table(&self) -> TopicTable {
        TopicTable {
            says: FactKind::Table as u8,
            reserved: [0; 3],
            next_number: U32::new(self.next_number),
            version_counter: I64::new(self.version.counter),
            version_state: I64::new(self.version.state_version),
            version_timestamp: I64::new(self.version.timestamp),
        }
    }

    /// Restores the table from a snapshot. Numbers that have been used stay used.
    fn restore(&mut self, next_number: u32, version: DataVersion) {
        self.next_number = self.next_number.max(next_number);
        self.version = version;
    }

    /// All topics to register with NameServers. They include four without messages: the template for
    /// automatic creation, if enabled; one named after the cluster, whose route clients use to
    /// find the brokers on which to create a topic (remoting reference, 5.11); the one for replies;
    /// and the one that represents delayed messages.
    pub fn published(&self, cluster: &str, auto_create: bool) -> Vec<TopicConfig> {
        let mut topics: Vec<TopicConfig> =
            self.iter().map(|(_, topic)| topic.config.clone()).collect();
        let templates = [(AUTO_CREATE_TEMPLATE, auto_create), (cluster, true)];
        for (name, _) in templates.into_iter().filter(|(_, is_published)| *is_published) {
            // A cluster name may be an illegal topic name.
            let Ok(name) = TopicName::new(name.to_owned()) else { continue };
            let perm = PERM_READ | PERM_WRITE | PERM_INHERIT;
            topics.push(TopicConfig { perm, ..TopicConfig::new(name, TEMPLATE_QUEUE_COUNT) });
        }
        if let Ok(name) = TopicName::new(reply_topic(cluster)) {
            topics.push(TopicConfig::new(name, REPLY_QUEUE_COUNT));
        }
        // For operators only: it shows how many messages are not due yet.
        if let Ok(name) = TopicName::new(DELAY_LEVEL_TOPIC) {
            topics.push(TopicConfig { perm: 0, ..TopicConfig::new(name, DELAY_QUEUE_COUNT) });
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    pub fn has_changes(&self) -> bool {
        self.changed.as_ref().is_some_and(|changed| !changed.is_empty())
    }

    /// Takes the topic changes since the last call. The first call returns none, because the caller
    /// must publish all topics then.
    pub fn take_changes(&mut self) -> Vec<TopicChange> {
        let changed = self.changed.replace(BTreeSet::new()).unwrap_or_default();
        let change = |name: TopicName| match self.find(&name) {
            Ok((_, topic)) => TopicChange::Set(topic.config.clone()),
            Err(_) => TopicChange::Removed(name),
        };
        changed.into_iter().map(change).collect()
    }

    /// Replaces `before`, some of whose changes were cut off. NameServers that know that table are
    /// notified of the differences.
    pub fn succeed(&mut self, before: &Self, now: Timestamp) {
        self.version.counter = self.version.counter.max(before.version.counter);
        self.change(now);
        self.changed = before.changed.clone().map(|mut changed| {
            for number in before.in_order.union(&self.in_order) {
                let [old, new] =
                    [before, &*self].map(|topics| topics.topic(*number).map(|topic| &topic.config));
                if old != new {
                    changed.extend(old.into_iter().chain(new).map(|config| config.name.clone()));
                }
            }
            changed
        });
    }

    fn note_change(&mut self, name: &TopicName) {
        if let Some(changed) = &mut self.changed {
            changed.insert(name.clone());
        }
    }

    /// Advances the version, so that a NameServer that remembers the previous run notices the
    /// change.
    pub fn change(&mut self, now: Timestamp) {
        self.version.counter += 1;
        self.version.timestamp = now.0 as i64;
    }
}

impl Topic {
    /// Refuses producers if the topic is not writable (remoting reference, 5.11).
    pub fn check_writable(&self) -> Result<(), Refusal> {
        match self.config.perm & PERM_WRITE != 0 {
            true => Ok(()),
            false => Err(Refusal::NotWritable(self.config.name.detached())),
        }
    }

    /// Refuses consumers if the topic is not readable (remoting reference, 5.3).
    pub fn check_readable(&self) -> Result<(), Refusal> {
        match self.config.perm & PERM_READ != 0 {
            true => Ok(()),
            false => Err(Refusal::NotReadable(self.config.name.detached())),
        }
    }

    /// The queue that a producer named, or the next one in turn if it named none.
    pub fn choose_queue(&mut self, wanted: Option<QueueId>) -> Result<QueueId, Refusal> {
        let Some(queue) = wanted else {
            let queue = self.next_queue % self.config.write_queue_count.max(1);
            self.next_queue = queue + 1;
            return Ok(QueueId(queue));
        };
        self.check_queue(queue)?;
        Ok(queue)
    }

    pub fn check_queue(&self, queue: QueueId) -> Result<(), Refusal> {
        let count = self.config.queue_count();
        if queue.0 < count {
            return Ok(());
        }
        Err(Refusal::UnknownQueue { topic: self.config.name.detached(), queue, count })
    }

    /// Checks whether consumers may pull from this queue.
    pub fn check_pull(&self, queue: QueueId) -> Result<(), Refusal> {
        self.check_readable()?;
        self.check_queue(queue)
    }

    /// The state of a queue that has messages, even if the topic has fewer queues now: the queue
    /// may return with them.
    pub fn queue_kept(&mut self, queue: QueueId) -> &mut Queue {
        let index = queue.0 as usize;
        if index >= self.queues.len() {
            self.queues.resize(index + 1, Queue::default());
        }
        &mut self.queues[index]
    }

    pub fn visible(&self, queue: QueueId) -> QueueOffset {
        self.queues.get(queue.0 as usize).map_or(QueueOffset(0), |queue| queue.visible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    #[test]
    fn a_number_is_never_used_twice() {
        let mut topics = Topics::default();
        topics.set(0, TopicConfig::new(name("a"), 4), Timestamp(1));
        topics.remove(0, Timestamp(2));
        assert_eq!(topics.number(&name("a")), None);
        assert_eq!(topics.next_number(), 1);
    }

    #[test]
    fn changes_are_taken_once_and_not_before_there_is_a_listener() {
        let mut topics = Topics::default();
        let config = |text: &str| TopicConfig::new(name(text), 4);
        topics.set(0, config("a"), Timestamp(1));
        topics.set(1, config("b"), Timestamp(1));
        assert_eq!(topics.take_changes(), []);
        topics.set(2, config("c"), Timestamp(2));
        topics.set(2, config("c"), Timestamp(3));
        topics.remove(0, Timestamp(4));
        let expected = [TopicChange::Removed(name("a")), TopicChange::Set(config("c"))];
        assert_eq!(topics.take_changes(), expected);
        assert_eq!(topics.take_changes(), []);
    }

    #[test]
    fn shrinking_a_topic_keeps_what_its_queues_hold() {
        let mut topics = Topics::default();
        topics.set(0, TopicConfig::new(name("a"), 4), Timestamp(1));
        topics.queue_mut(0, QueueId(3)).unwrap().visible = QueueOffset(9);
        topics.set(0, TopicConfig::new(name("a"), 2), Timestamp(2));
        assert!(topics.topic(0).unwrap().check_queue(QueueId(3)).is_err());
        topics.set(0, TopicConfig::new(name("a"), 4), Timestamp(3));
        assert_eq!(topics.topic(0).unwrap().visible(QueueId(3)), QueueOffset(9));
    }

    #[test]
    fn automatic_creation_follows_the_template() {
        let topics = Topics::default();
        let make = |topic: &str, template: &str, count, enabled| {
            topics.automatic(&name(topic), template, count, enabled)
        };
        assert_eq!(make("a", "TBW102", 4, true).unwrap().write_queue_count, 4);
        assert_eq!(make("a", "TBW102", 99, true).unwrap().write_queue_count, 8);
        assert_eq!(make("a", "TBW102", 4, false), Err(Refusal::UnknownTopic(name("a"))));
        assert_eq!(make("a", "other", 4, true), Err(Refusal::UnknownTopic(name("a"))));
    }

    #[test]
    fn a_new_topic_has_no_name_of_a_shard_and_an_old_one_keeps_its_name() {
        let mut topics = Topics::default();
        let config = |text: &str| TopicConfig::new(name(text), 4);
        for legal in ["s1-orders", "s001-orders", "sales-01", "s01", "s01_orders"] {
            assert_eq!(topics.check(&config(legal)), Ok(()), "{legal}");
        }
        let shard = config("s07-orders");
        let refused = Refusal::ReservedTopic(shard.name.clone());
        assert_eq!(topics.check(&shard), Err(refused.clone()));
        assert_eq!(topics.automatic(&shard.name, "TBW102", 4, true), Err(refused));
        topics.set(0, shard.clone(), Timestamp(1));
        assert_eq!(topics.check(&shard), Ok(()));
    }

    #[test]
    fn created_and_deleted_topics_leave_nothing_behind() {
        let mut topics = Topics::default();
        for number in 0..1000 {
            assert_eq!(topics.next_number(), number);
            topics.set(number, TopicConfig::new(name("a"), 4), Timestamp(1));
            topics.remove(number, Timestamp(2));
        }
        assert!(topics.by_number.is_empty() && topics.numbers.is_empty());
        assert!(topics.in_order.is_empty());
        assert_eq!(topics.queue_count, 0);
    }

    #[test]
    fn all_topics_together_have_a_bound_on_their_queues() {
        let full = Err(Refusal::Full { what: "queues", count_max: QUEUES_MAX });
        let largest = QUEUES_PER_TOPIC_MAX as usize;
        let mut topics = Topics::default();
        for number in 0..QUEUES_MAX / largest {
            let config = TopicConfig::new(name(&format!("t{number}")), QUEUES_PER_TOPIC_MAX);
            topics.check(&config).unwrap();
            topics.set(number as u32, config, Timestamp(1));
        }
        let rest = (QUEUES_MAX % largest) as u32;
        let next = |count| TopicConfig::new(name("next"), count);
        assert_eq!(topics.check(&next(rest)), Ok(()));
        assert_eq!(topics.check(&next(rest + 1)), full);
        assert_eq!(topics.check(&TopicConfig::new(name("t0"), QUEUES_PER_TOPIC_MAX)), Ok(()));
        // A topic that shrinks keeps the state of its queues, so they still count.
        topics.set(0, TopicConfig::new(name("t0"), 1), Timestamp(2));
        assert_eq!(topics.check(&next(rest + 1)), full);
        topics.remove(0, Timestamp(3));
        assert_eq!(topics.check(&next(rest + 1)), Ok(()));
    }

    #[test]
    fn messages_without_a_queue_go_round() {
        let mut topics = Topics::default();
        topics.set(0, TopicConfig::new(name("a"), 3), Timestamp(1));
        let topic = topics.topic_mut(0).unwrap();
        let turns: Vec<u32> = (0..5).map(|_| topic.choose_queue(None).unwrap().0).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1]);
        assert!(topic.choose_queue(Some(QueueId(3))).is_err());
    }
}
