//! Storing messages: admission, append, and a reply that is sent once the log is committed.
//!
//! Queue offset and log position are assigned in one synchronous step, so log order, queue order
//! and arrival order agree.

use smallvec::{SmallVec, smallvec};
use zerocopy::FromBytes;

use super::delaying::Delay;
use super::facts::MESSAGES;
use super::outcome::Stored;
use super::sent::{self, Key, SentRow};
use super::{Broker, Handled, Origin, Pending};
use crate::model::batch::{BatchItem, BatchItems};
use crate::model::ids::TOPIC_NAME_SIZE_MAX;
use crate::model::record::{
    BODY_SIZE_MAX, Handling, Host, MAGIC_V2, NewRecord, PROPERTIES_SIZE_MAX, PROPERTY_END,
    PROPERTY_NAME_END, PROPERTY_REGION, PROPERTY_UNIQUE_KEY, Placement, REGION, RecordHead,
    RecordView, SYSTEM_FLAGS_OF_LAYOUT, body_checksum, handling_of, property, push_property,
    tag_hash_of,
};
use crate::model::reply::Produced;
use crate::model::request::{Produce, ProduceRecords};
use crate::model::topic::{GROUP_TOPIC_SIGN, is_for_traces};
use crate::model::{
    LogOffset, Now, QueueId, QueueOffset, Refusal, Timestamp, TopicConfig, TopicName,
};
use crate::storage::disk::Disk;
use crate::storage::{Append, AppendError, Located, PAYLOAD_SIZE_MAX, QueueKey, SpaceClass};

/// Maximum size of the fact of a new topic, bytes.
const TOPIC_FACT_SIZE: usize = 512;
/// Maximum number of messages in a batch.
pub const BATCH_COUNT_MAX: usize = 65_536;

/// Room that a region leaves for the other properties that the broker adds, bytes.
const REGION_ROOM: usize = 1024;

/// What the index stores for each message of an append: its size and the hash of its tag.
pub type Sizes = SmallVec<[(u32, i32); 1]>;

impl<D: Disk> Broker<D> {
    /// Stores one message or one batch in the reference's encoding (remoting reference, 5.11).
    pub(super) fn produce(
        &self,
        request: &Produce,
        origin: Origin,
        now: Now,
    ) -> Result<Handled, Refusal> {
        match request.topic.as_str().starts_with(GROUP_TOPIC_SIGN) {
            true => self.produce_retry(request, origin, now),
            false => self.produce_here(request, origin, now),
        }
    }

    /// Stores the request in the topic and queue that it names.
    pub(super) fn produce_here(
        &self,
        request: &Produce,
        origin: Origin,
        now: Now,
    ) -> Result<Handled, Refusal> {
        let Some(key) = self.admit(request, now.wall)? else {
            return Ok(Handled::NoRoom { size: TOPIC_FACT_SIZE });
        };
        let handling = handling_of(request.system_flag, &request.properties);
        let mut shared = match handling {
            Some(_) if !request.is_batch => self.added_to_request(&request.properties),
            _ => shared_properties(request),
        };
        if !request.is_batch && self.state.borrow().durable.topics.has_trace_topic() {
            add_region(&mut shared, request);
        }
        let record =
            Template { request, queue: key.queue, born_host: origin.host, shared: &shared };
        if !request.is_batch {
            let single = record.single();
            check_sizes(&single)?;
            let sent = self.key_of(&request.topic, key.topic, 1, single.properties);
            let checksum = || body_checksum(&request.body);
            if let Some(row) = self.find_sent(sent, checksum, now.wall) {
                let mut produced = self.stored_before(&row, [single.size() as u32].into_iter());
                produced.recall_handle = self.recall_handle_at(row.position());
                return Ok(self.committed_before(produced));
            }
            if let Some(handling) = handling
                && let Some(delay) = self.delay_of(handling, &request.properties, now)?
            {
                return self.produce_delayed(&single, delay, now);
            }
            let sizes = smallvec![(single.size() as u32, tag_hash_of(&request.properties))];
            return self.append_sent(key, sizes, sent, now.wall, |placements, out| {
                single.write(&placements.at(0), out);
            });
        }
        let mut is_delayed = is_delayed_by(handling)?;
        let mut sizes = Sizes::new();
        let mut first = None;
        for next in BatchItems::new(&request.body) {
            let next = next?;
            let item = record.item(next);
            first.get_or_insert(item);
            check_sizes(&item)?;
            is_delayed |= is_delayed_by(handling_of(request.system_flag, next.properties))?;
            if sizes.len() == BATCH_COUNT_MAX {
                return Err(Refusal::BadBatch(format!("more than {BATCH_COUNT_MAX} messages")));
            }
            sizes.push((item.size() as u32, tag_hash_of(next.properties)));
        }
        let first = first.ok_or_else(|| Refusal::BadBatch("it holds no message".into()))?;
        let sent = self.key_of(&request.topic, key.topic, sizes.len(), first.properties);
        if let Some(row) = self.find_sent(sent, || body_checksum(first.body), now.wall) {
            let produced = self.stored_before(&row, sizes.iter().map(|(size, _)| *size));
            return Ok(self.committed_before(produced));
        }
        if is_delayed {
            let items = BatchItems::new(&request.body);
            let records = items.map(|item| record.item(item.expect("the items were read above")));
            return self.produce_mixed(key, &self.with_delays(records, now)?, now);
        }
        self.append_sent(key, sizes, sent, now.wall, |placements, mut out| {
            let mut position = 0;
            for next in BatchItems::new(&request.body) {
                let record = record.item(next.expect("the items were read above"));
                let (to, rest) = out.split_at_mut(record.size());
                record.write(&placements.at(position), to);
                position += record.size() as u64;
                placements.queue_offset = placements.queue_offset.plus(1);
                out = rest;
            }
        })
    }

    /// Stores a batch of records: validates them in place, copies them once, and fills in the
    /// fields that only this shard knows.
    pub(super) fn produce_records(
        &self,
        request: &ProduceRecords,
        origin: Origin,
        now: Now,
    ) -> Result<Handled, Refusal> {
        if crc32c::crc32c(&request.records) != request.checksum {
            return Err(Refusal::BadBatch("the checksum over its records does not match".into()));
        }
        let CheckedRecords { topic, sizes, is_delayed } = check_records(request)?;
        let topic = TopicName::new(topic.to_owned())?;
        if topic.retrying_group().is_some() {
            return Err(Refusal::BadBatch("a retry topic takes single messages only".into()));
        }
        let key = self.writable_queue(&topic, request.queue)?;
        let first = || RecordView::parse(&request.records).expect("whole records were checked");
        let sent = match self.config.dedup_window_ms {
            0 => None,
            _ => self.key_of(&topic, key.topic, sizes.len(), [first().properties, &[]]),
        };
        if let Some(row) = self.find_sent(sent, || first().body_checksum, now.wall) {
            let produced = self.stored_before(&row, sizes.iter().map(|(size, _)| *size));
            return Ok(self.committed_before(produced));
        }
        if is_delayed {
            let records = records_of(&request.records, origin.host);
            return self.produce_mixed(key, &self.with_delays(records, now)?, now);
        }
        self.append_sent(key, sizes, sent, now.wall, |placements, out| {
            out.copy_from_slice(&request.records);
            let mut position = 0;
            while position < out.len() {
                let (head, _) = RecordHead::mut_from_prefix(&mut out[position..])
                    .expect("whole records were checked");
                head.place(&placements.at(position as u64));
                head.born_host = origin.host;
                placements.queue_offset = placements.queue_offset.plus(1);
                position += head.size.get() as usize;
            }
        })
    }

    /// The delay after which the message becomes visible; `None` if it has none.
    fn delay_of(
        &self,
        handling: Handling,
        properties: &[u8],
        now: Now,
    ) -> Result<Option<Delay>, Refusal> {
        match handling {
            Handling::Request => Ok(None),
            Handling::Transaction => Err(Refusal::NotOffered("transactions")),
            Handling::Delay => {
                Delay::of_properties(properties, &self.config.delay_levels_ms, now.wall)
            }
        }
    }

    /// The messages of a batch, each with its delay.
    fn with_delays<'a>(
        &self,
        records: impl Iterator<Item = NewRecord<'a>>,
        now: Now,
    ) -> Result<Vec<(NewRecord<'a>, Option<Delay>)>, Refusal> {
        let levels_ms = &self.config.delay_levels_ms;
        let with_delay = |record: NewRecord<'a>| {
            for properties in record.properties {
                if let Some(delay) = Delay::of_properties(properties, levels_ms, now.wall)? {
                    return Ok((record, Some(delay)));
                }
            }
            Ok((record, None))
        };
        records.map(with_delay).collect()
    }

    /// Returns the queue of a message. Creates its topic if that is allowed; `None` while the log
    /// has no room for the topic.
    fn admit(&self, request: &Produce, now: Timestamp) -> Result<Option<QueueKey>, Refusal> {
        let known = self.state.borrow().durable.topics.number(&request.topic);
        let number = match known {
            Some(number) => number,
            None => match self.create_automatically(request, now)? {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        let state = &mut *self.state.borrow_mut();
        let topic = state.durable.topics.topic_mut(number).expect("a numbered topic has a slot");
        topic.check_writable()?;
        let queue = topic.choose_queue(request.queue)?;
        Ok(Some(QueueKey { topic: number, queue }))
    }

    fn create_automatically(
        &self,
        request: &Produce,
        now: Timestamp,
    ) -> Result<Option<u32>, Refusal> {
        self.config.check_topic_name(&request.topic)?;
        let config = self.state.borrow().durable.topics.automatic(
            &request.topic,
            &request.default_topic,
            request.default_queue_count,
            self.config.auto_create_topics,
        )?;
        self.create_now(config, now)
    }

    /// Creates a topic that a producer needs; `None` while the log has no room for it.
    fn create_now(&self, config: TopicConfig, now: Timestamp) -> Result<Option<u32>, Refusal> {
        let number = match self.create_topic(&config, now) {
            Ok(number) => number,
            Err(AppendError::NoRoom) => return Ok(None),
            Err(error) => return Err(self.refuse_append(error, TOPIC_FACT_SIZE)),
        };
        self.state.borrow_mut().created.push(config);
        Ok(Some(number))
    }

    /// Creates a topic of a group; returns the outcome if the log has no room for it.
    pub(super) fn create_of_group(
        &self,
        config: TopicConfig,
        now: Timestamp,
    ) -> Result<Option<Handled>, Refusal> {
        self.state.borrow().durable.topics.check(&config)?;
        Ok(match self.create_now(config, now)? {
            Some(_) => None,
            None => Some(Handled::NoRoom { size: TOPIC_FACT_SIZE }),
        })
    }

    fn writable_queue(&self, topic: &TopicName, queue: QueueId) -> Result<QueueKey, Refusal> {
        let state = self.state.borrow();
        let (number, topic) = state.durable.topics.find(topic)?;
        topic.check_writable()?;
        topic.check_queue(queue)?;
        Ok(QueueKey { topic: number, queue })
    }

    /// The key by which a resend of these messages is recognized; `None` if it is not to be.
    fn key_of(
        &self,
        topic: &TopicName,
        number: u32,
        count: usize,
        properties: [&[u8]; 2],
    ) -> Option<Key> {
        let is_covered = self.config.dedup_window_ms > 0 && sent::is_covered(topic.as_str());
        is_covered.then(|| sent::key_of(number, count, properties)).flatten()
    }

    /// The first attempt to send these messages, if this is a resend.
    fn find_sent(
        &self,
        key: Option<Key>,
        body_checksum: impl FnOnce() -> u32,
        now: Timestamp,
    ) -> Option<SentRow> {
        let key = key?;
        let row = self.state.borrow().durable.sent.as_ref()?.find(&key, now)?;
        (row.body_checksum.get() == body_checksum()).then_some(row)
    }

    /// What the first attempt of a resend has stored.
    #[cold]
    fn stored_before(&self, row: &SentRow, sizes: impl Iterator<Item = u32>) -> Produced {
        let mut next = row.position();
        let position_of = |size: u32| {
            let position = next;
            next = next.plus(u64::from(size));
            position
        };
        let positions = sizes.map(position_of).collect();
        let (queue, queue_offset) = (row.queue(), row.queue_offset());
        let store_host = self.config.store_host;
        self.store.metrics().messages_repeated.add(1);
        Produced { queue, queue_offset, positions, store_host, recall_handle: None }
    }

    /// Replies to a resend as to the first attempt, which may not be committed yet.
    fn committed_before(&self, produced: Produced) -> Handled {
        Stored { mark: self.store.end(), produced }.into()
    }

    /// Appends what a producer sent, as [`append`](Self::append) does.
    fn append_sent(
        &self,
        queue: QueueKey,
        sizes: Sizes,
        sent: Option<Key>,
        now: Timestamp,
        write: impl FnOnce(&mut Placements, &mut [u8]),
    ) -> Result<Handled, Refusal> {
        let size = total_of(&sizes);
        match self.append(queue, sizes, sent, now, write) {
            Ok(stored) => Ok(stored.into()),
            Err(AppendError::NoRoom) => Ok(Handled::NoRoom { size }),
            Err(error) => Err(self.refuse_append(error, size)),
        }
    }

    /// Appends one entry with a record for each of `sizes`, and indexes them. A resend is
    /// recognized by `sent`.
    pub(super) fn append(
        &self,
        queue: QueueKey,
        sizes: Sizes,
        sent: Option<Key>,
        now: Timestamp,
        write: impl FnOnce(&mut Placements, &mut [u8]),
    ) -> Result<Stored, AppendError> {
        let total = total_of(&sizes);
        let first = self.store.with_index(|index| index.next_offset(queue));
        let store_host = self.config.store_host;
        let mut body_checksum = 0;
        let fill = |out: &mut [u8], begin: LogOffset| {
            let mut placements =
                Placements { begin, queue_offset: first, stored_at: now, store_host };
            write(&mut placements, out);
            if sent.is_some() {
                let (head, _) = RecordHead::ref_from_prefix(out).expect("a record was written");
                body_checksum = head.body_checksum.get();
            }
        };
        let append = Append {
            kind: MESSAGES,
            subject: queue.topic,
            payload_size: total,
            space: SpaceClass::Ordinary,
        };
        let appended = self.store.append(append, fill)?;
        let mut positions = SmallVec::with_capacity(sizes.len());
        let mut offset = appended.payload_offset;
        let stored = sizes.iter().zip(first.0..).map(|(&(size, tag_hash), nth)| {
            let entry_offset = appended.entry_offset;
            let located = Located { offset, size, tag_hash, stored_at: now, entry_offset };
            positions.push(offset);
            offset = offset.plus(u64::from(size));
            (queue, QueueOffset(nth), located)
        });
        let sent = sent.map(|key| {
            let place = (appended.payload_offset, queue.queue, first);
            (SentRow::new(key, place, body_checksum), now)
        });
        let next = first.plus(sizes.len() as u64);
        let state = &mut *self.state.borrow_mut();
        self.store.with_index(|index| state.durable.store_messages(index, sent, stored));
        state.pending.push_back(Pending { end: appended.end, queue, next });
        let metrics = self.store.metrics();
        metrics.messages_stored.add(sizes.len() as u64);
        metrics.stored_bytes.add(total as u64);
        let produced = Produced {
            queue: queue.queue,
            queue_offset: first,
            positions,
            store_host,
            recall_handle: None,
        };
        Ok(Stored { mark: appended.end, produced })
    }

    /// Refuses a request that has waited for room in the log.
    pub(super) fn refuse_no_room(&self, wait_ms: u64) -> Refusal {
        Refusal::Busy {
            reason: "append_queue",
            wait_ms,
            retry_after_ms: super::RETRY_AFTER_MS,
            shard: self.config.shard.0,
        }
    }

    pub(super) fn refuse_append(&self, error: AppendError, size: usize) -> Refusal {
        match error {
            AppendError::NoRoom => self.refuse_no_room(0),
            AppendError::DiskFull => Refusal::DiskFull,
            AppendError::Fenced => Refusal::Fenced,
            AppendError::NotLeader => Refusal::NotLeader { shard: self.config.shard.0 },
            AppendError::TooLarge => {
                Refusal::TooLarge { what: "batch", size, size_max: PAYLOAD_SIZE_MAX }
            }
        }
    }
}

/// The size of all records together.
fn total_of(sizes: &Sizes) -> usize {
    sizes.iter().map(|(size, _)| *size as usize).sum()
}

/// The common parts of one append's records, and the write position.
pub struct Placements {
    begin: LogOffset,
    queue_offset: QueueOffset,
    stored_at: Timestamp,
    store_host: Host,
}

impl Placements {
    pub fn at(&self, position: u64) -> Placement {
        Placement {
            queue_offset: self.queue_offset,
            physical_offset: self.begin.plus(position),
            stored_at: self.stored_at,
            store_host: self.store_host,
        }
    }
}

/// The common parts of a request's records.
struct Template<'a> {
    request: &'a Produce,
    queue: QueueId,
    born_host: Host,
    /// Properties that every message gets in addition to its own.
    shared: &'a [u8],
}

impl<'a> Template<'a> {
    fn single(&self) -> NewRecord<'a> {
        self.record(self.request.flag, &self.request.body, [&self.request.properties, self.shared])
    }

    /// One message of a batch: the batch's own properties follow the message's (remoting
    /// reference, 4.5).
    fn item(&self, item: BatchItem<'a>) -> NewRecord<'a> {
        self.record(item.flag, item.body, [item.properties, self.shared])
    }

    fn record(&self, flag: i32, body: &'a [u8], properties: [&'a [u8]; 2]) -> NewRecord<'a> {
        NewRecord {
            topic: self.request.topic.as_str(),
            queue: self.queue,
            flag,
            system_flag: self.request.system_flag & !SYSTEM_FLAGS_OF_LAYOUT,
            born_at: self.request.born_at,
            born_host: self.born_host,
            reconsume_times: self.request.reconsume_times,
            body,
            properties,
        }
    }
}

/// The properties that a batch's messages inherit (remoting reference, 4.5). The batch's unique key
/// is excluded: some clients set one on the batch too, and consumers would see it instead of the
/// message's own.
fn shared_properties(request: &Produce) -> Vec<u8> {
    if !request.is_batch {
        return Vec::new();
    }
    let pairs = request.properties.split_inclusive(|byte| *byte == PROPERTY_END);
    let is_unique_key = |pair: &&[u8]| {
        let value = pair.strip_prefix(PROPERTY_UNIQUE_KEY.as_bytes());
        value.is_some_and(|value| value.first() == Some(&PROPERTY_NAME_END))
    };
    pairs.filter(|pair| !is_unique_key(pair)).flatten().copied().collect()
}

/// Adds the region without which 5.x consumers do not trace a message (remoting reference, 5.11), if
/// the message has none and there is room for it. Messages of a batch get none: it would change the
/// positions by which a resend of the batch is answered.
#[cold]
fn add_region(shared: &mut Vec<u8>, request: &Produce) {
    let own = &request.properties;
    let is_given = property(own, PROPERTY_REGION).is_some();
    let has_room = own.len() + shared.len() + REGION_ROOM <= PROPERTIES_SIZE_MAX;
    if !is_given && has_room && !is_for_traces(request.topic.as_str()) {
        push_property(shared, PROPERTY_REGION, REGION.as_bytes());
    }
}

/// Checks the sizes that [`NewRecord::write`] relies on.
pub fn check_sizes(record: &NewRecord<'_>) -> Result<(), Refusal> {
    check_parts(record.body, record.properties_size())
}

fn check_parts(body: &[u8], properties_size: usize) -> Result<(), Refusal> {
    if body.is_empty() {
        return Err(Refusal::EmptyBody);
    }
    for (what, size, size_max) in [
        ("message body", body.len(), BODY_SIZE_MAX),
        ("message properties", properties_size, PROPERTIES_SIZE_MAX),
    ] {
        if size > size_max {
            return Err(Refusal::TooLarge { what, size, size_max });
        }
    }
    Ok(())
}

/// Whether this handling means that a message may have a delay. Half messages are refused.
fn is_delayed_by(handling: Option<Handling>) -> Result<bool, Refusal> {
    match handling {
        Some(Handling::Transaction) => Err(Refusal::NotOffered("transactions")),
        handling => Ok(handling == Some(Handling::Delay)),
    }
}

/// The records of a fixed-header batch, which have been checked.
fn records_of(mut bytes: &[u8], born_host: Host) -> impl Iterator<Item = NewRecord<'_>> {
    std::iter::from_fn(move || {
        let record = RecordView::parse(bytes).ok()?;
        bytes = &bytes[record.size..];
        Some(NewRecord {
            topic: record.topic,
            queue: record.queue,
            flag: record.flag,
            system_flag: record.system_flag,
            born_at: record.born_at,
            born_host,
            reconsume_times: record.reconsume_times,
            body: record.body,
            properties: [record.properties, &[]],
        })
    })
}

/// The contents of a fixed-header batch.
struct CheckedRecords<'a> {
    topic: &'a str,
    sizes: Sizes,
    /// Whether any message may have a delay.
    is_delayed: bool,
}

/// Checks the records of a fixed-header batch: they must be whole, of one topic and one queue, and
/// as many as announced.
fn check_records(request: &ProduceRecords) -> Result<CheckedRecords<'_>, Refusal> {
    let bad = |what: String| Refusal::BadBatch(what);
    let mut sizes = Sizes::with_capacity((request.count as usize).min(BATCH_COUNT_MAX));
    let (mut topic, mut is_delayed) = (None, false);
    let mut rest = &request.records[..];
    while !rest.is_empty() {
        let record = RecordView::parse(rest).map_err(|error| bad(error.to_string()))?;
        if record.born_host.is_none() || record.store_host.is_none() {
            return Err(bad("a record with IPv6 hosts".into()));
        }
        if (record.magic == MAGIC_V2) != (record.topic.len() > TOPIC_NAME_SIZE_MAX) {
            return Err(bad("a record of the wrong version for its topic".into()));
        }
        check_parts(record.body, record.properties.len())?;
        is_delayed |= is_delayed_by(handling_of(record.system_flag, record.properties))?;
        if record.system_flag & SYSTEM_FLAGS_OF_LAYOUT != 0 {
            return Err(bad("a record that holds several messages".into()));
        }
        if *topic.get_or_insert(record.topic) != record.topic || record.queue != request.queue {
            return Err(bad("records of several topics or queues".into()));
        }
        if sizes.len() == BATCH_COUNT_MAX {
            return Err(bad(format!("more than {BATCH_COUNT_MAX} messages")));
        }
        sizes.push((record.size as u32, tag_hash_of(record.properties)));
        rest = &rest[record.size..];
    }
    if sizes.len() != request.count as usize {
        return Err(bad(format!("{} records, {} announced", sizes.len(), request.count)));
    }
    let topic = topic.ok_or_else(|| bad("no messages".into()))?;
    Ok(CheckedRecords { topic, sizes, is_delayed })
}
