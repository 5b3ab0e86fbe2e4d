//! Topics, offsets and what operators ask: short operations without a story of their own.

use super::facts::{Facts, MESSAGES};
use super::{Answer, Broker, ColdRead, Outcome, refuse_read, topics};
use crate::model::record::RecordView;
use crate::model::reply::QueueStats;
use crate::model::request::QueueOf;
use crate::model::{
    GroupName, LogOffset, QueueId, QueueOffset, Refusal, Reply, Timestamp, TopicConfig, TopicName,
};
use crate::storage::disk::{Disk, Space};
use crate::storage::{Lookup, QueueKey};

impl<D: Disk> Broker<D> {
    /// Sets a topic as an operator or another shard wants it. Setting it to what it is costs
    /// nothing, so that every shard may be told, and told again.
    pub(super) fn update_topic(
        &self,
        config: &TopicConfig,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        self.state.borrow().durable.topics.check(config)?;
        let known = {
            let state = self.state.borrow();
            state.durable.topics.find(&config.name).is_ok_and(|(_, topic)| topic.config == *config)
        };
        if known {
            // The entry that made it so may not be safe yet.
            return Ok(Outcome::Safe { mark: self.store.end(), reply: Reply::Done });
        }
        let config = TopicConfig { name: config.name.detached(), ..config.clone() };
        let (_, mark) = self.set_topic(&config, now)?;
        Ok(Outcome::Safe { mark, reply: Reply::Done })
    }

    /// Deletes a topic; one that is not there is as good as deleted.
    pub(super) fn delete_topic(
        &self,
        name: &TopicName,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        if super::topics::is_reserved(name.as_str()) {
            return Err(Refusal::ReservedTopic(name.detached()));
        }
        let Some(number) = self.state.borrow().durable.topics.number(name) else {
            return Ok(Outcome::Safe { mark: self.store.end(), reply: Reply::Done });
        };
        let mark = self.record_or_refuse(&topics::removed(number, now))?;
        Ok(Outcome::Safe { mark, reply: Reply::Done })
    }

    pub(super) fn set_topic(
        &self,
        config: &TopicConfig,
        now: Timestamp,
    ) -> Result<(u32, LogOffset), Refusal> {
        let number = {
            let topics = &self.state.borrow().durable.topics;
            topics.number(&config.name).unwrap_or(topics.next_number())
        };
        let mark = self.record_or_refuse(&topics::set(number, config, now))?;
        Ok((number, mark))
    }

    fn record_or_refuse(&self, facts: &Facts) -> Result<LogOffset, Refusal> {
        self.record(facts).map_err(|error| self.refuse_append(error, facts.size()))
    }

    /// Commits and answers once the offset is in the log.
    pub(super) fn commit_offset(
        &self,
        group: &GroupName,
        queue: &QueueOf,
        offset: i64,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        let queue = self.queue(queue)?;
        self.commit_in_memory(group, queue, offset)?;
        // Another request may have written this very offset a moment ago: then all that is in the
        // log must become safe before it may be promised.
        let mark = self.flush_offsets(now)?.unwrap_or(self.store.end());
        Ok(Outcome::Safe { mark, reply: Reply::Done })
    }

    /// Commits without waiting; the next [`flush_offsets`](Self::flush_offsets) writes it.
    /// Negative offsets are what one stock client sends when it has none (remoting reference, 5.6).
    pub(super) fn commit_in_memory(
        &self,
        group: &GroupName,
        queue: QueueKey,
        offset: i64,
    ) -> Result<(), Refusal> {
        let Ok(offset) = u64::try_from(offset) else { return Ok(()) };
        self.state.borrow_mut().durable.offsets.commit(group, queue, QueueOffset(offset))
    }

    /// Appends the offsets that changed. Gives the place up to which the log must be safe for them
    /// to be; `None` when nothing had changed.
    pub fn flush_offsets(&self, now: Timestamp) -> Result<Option<LogOffset>, Refusal> {
        let mut mark = None;
        loop {
            let facts = self.state.borrow().durable.offsets.next_fact(now);
            if facts.is_empty() {
                return Ok(mark);
            }
            mark = Some(self.record_or_refuse(&facts)?);
        }
    }

    /// A group's offset; a group that is new to a queue which still has its first message begins
    /// there (remoting reference, 5.6).
    pub(super) fn committed_offset(
        &self,
        group: &GroupName,
        queue: &QueueOf,
        zero_if_missing: bool,
    ) -> Result<Outcome, Refusal> {
        let missing = || Refusal::NoOffset(group.detached());
        let key = self.queue(queue).map_err(|_| missing())?;
        if let Some(offset) = self.state.borrow().durable.offsets.find(group, key) {
            return Ok(Outcome::ok(Reply::Offset(offset)));
        }
        let min = self.store.with_index(|index| index.bounds(key).start);
        if zero_if_missing && min == 0 {
            return Ok(Outcome::ok(Reply::Offset(QueueOffset(0))));
        }
        Err(missing())
    }

    pub(super) fn max_offset(&self, queue: &QueueOf) -> Result<Outcome, Refusal> {
        let key = self.queue(queue)?;
        Ok(Outcome::ok(Reply::Offset(self.visible(key))))
    }

    pub(super) fn min_offset(&self, queue: &QueueOf) -> Result<Outcome, Refusal> {
        let key = self.queue(queue)?;
        let min = self.store.with_index(|index| index.bounds(key).start);
        Ok(Outcome::ok(Reply::Offset(QueueOffset(min))))
    }

    pub(super) fn earliest_store_time(&self, queue: &QueueOf) -> Result<Outcome, Refusal> {
        let key = self.queue(queue)?;
        let min = QueueOffset(self.store.with_index(|index| index.bounds(key).start));
        if min >= self.visible(key) {
            return Ok(Outcome::ok(Reply::StoreTime(None)));
        }
        let found = self.store.with_index(|index| index.lookup(key, min, 1));
        match found {
            Lookup::Here(entries) => {
                let stored_at = entries.first().map(|located| located.stored_at);
                Ok(Outcome::ok(Reply::StoreTime(stored_at)))
            }
            Lookup::Sealed(page) => {
                Ok(Outcome::read(ColdRead::StoreTime { queue: queue.clone(), page }))
            }
            Lookup::Lost { .. } | Lookup::Nothing => Ok(Outcome::ok(Reply::StoreTime(None))),
        }
    }

    /// The message whose record begins at `offset`, which a client may have made up.
    pub(super) async fn message_at(&self, offset: LogOffset) -> Answer {
        let entry = match self.store.read_entry_at(offset).await {
            Ok(entry) => entry,
            Err(error) => return Answer::refused(refuse_read(self.config.shard, error)),
        };
        let record = RecordView::parse(&entry.rest);
        match record {
            Ok(record) if entry.kind == MESSAGES && record.physical_offset == offset => {
                let chunks = vec![entry.rest.slice(0..record.size)];
                Answer { reply: Ok(Reply::Message), chunks }
            }
            _ => Answer::refused(Refusal::NoMessage(offset)),
        }
    }

    pub(super) fn topic_stats(&self, name: &TopicName) -> Result<Outcome, Refusal> {
        let (number, count) = {
            let state = self.state.borrow();
            let (number, topic) = state.durable.topics.find(name)?;
            (number, topic.config.queue_count())
        };
        let name = name.detached();
        let stats = |queue| {
            let queue = QueueId(queue);
            let key = QueueKey { topic: number, queue };
            let min = QueueOffset(self.store.with_index(|index| index.bounds(key).start));
            let max = self.visible(key);
            QueueStats {
                queue: QueueOf { topic: name.clone(), queue },
                min_offset: min,
                max_offset: max,
                last_stored_at: self.last_stored_at(key, min, max),
                broker_name: self.config.broker_name.clone(),
            }
        };
        Ok(Outcome::ok(Reply::TopicStats((0..count).map(stats).collect())))
    }

    /// When the newest message was stored, as far as memory tells.
    fn last_stored_at(
        &self,
        queue: QueueKey,
        min: QueueOffset,
        max: QueueOffset,
    ) -> Option<Timestamp> {
        let last = QueueOffset(max.0.checked_sub(1)?);
        if last < min {
            return None;
        }
        match self.store.with_index(|index| index.lookup(queue, last, 1)) {
            Lookup::Here(entries) => entries.first().map(|located| located.stored_at),
            _ => None,
        }
    }

    /// The numbers behind `clusterList` and `brokerStatus` (remoting reference, 3.13).
    pub(super) fn runtime_info(&self, now: Timestamp) -> Answer {
        let counters = self.counters.totals();
        let zeros = [
            "msgPutTotalYesterdayMorning",
            "msgPutTotalTodayMorning",
            "msgGetTotalYesterdayMorning",
            "msgGetTotalTodayMorning",
            "sendThreadPoolQueueSize",
            "pullThreadPoolQueueSize",
            "sendThreadPoolQueueHeadWaitTimeMills",
            "pullThreadPoolQueueHeadWaitTimeMills",
            "queryThreadPoolQueueHeadWaitTimeMills",
            "litePullThreadPoolQueueHeadWaitTimeMills",
            "ackThreadPoolQueueHeadWaitTimeMills",
            "pageCacheLockTimeMills",
            "timerReadBehind",
            "timerOffsetBehind",
            "timerCongestNum",
            "timerEnqueueTps",
            "timerDequeueTps",
        ];
        let mut table: Vec<(String, String)> =
            zeros.iter().map(|name| ((*name).to_owned(), "0".to_owned())).collect();
        let rate = |per_second: f64| format!("{per_second:.2} {per_second:.2} {per_second:.2}");
        let uptime_ms = now.ms_since(self.config.started_at).max(1);
        let per_second = |count: u64| count as f64 * 1000.0 / uptime_ms as f64;
        let mut add = |name: &str, value: String| table.push((name.to_owned(), value));
        add("brokerActive", "true".into());
        add("brokerVersionDesc", format!("RingMQ_{}", env!("CARGO_PKG_VERSION")));
        add("bootTimestamp", self.config.started_at.0.to_string());
        add("runtime", format!("[ {} ms ]", uptime_ms));
        add("msgPutTotalTodayNow", counters.produced.to_string());
        add("msgGetTotalTodayNow", counters.pulled.to_string());
        add("putTps", rate(per_second(counters.produced)));
        add("getTransferredTps", rate(per_second(counters.pulled)));
        add("getTotalTps", rate(per_second(counters.pulled)));
        add("getFoundTps", rate(per_second(counters.pulled)));
        add("getMissTps", rate(0.0));
        add("putMessageTimesTotal", counters.produced.to_string());
        add("putMessageSizeTotal", counters.produced_bytes.to_string());
        add("commitLogMinOffset", self.store.begin().0.to_string());
        add("commitLogMaxOffset", self.store.end().0.to_string());
        add("dispatchBehindBytes", "0".into());
        add("remainHowManyDataToFlush", (self.store.end().0 - self.store.safe().0).to_string());
        let stats = self.store.stats();
        let oldest = stats.oldest_stored_at.map_or(-1, |at| at.0 as i64);
        add("earliestMessageTimeStamp", oldest.to_string());
        let used = |space: Space| 1.0 - space.free_bytes as f64 / space.total_bytes.max(1) as f64;
        // -1, as the reference has it where it does not know.
        let ratio = stats.disk_space.map_or("-1".to_owned(), |space| format!("{:.2}", used(space)));
        add("commitLogDiskRatio", ratio.clone());
        add("consumeQueueDiskRatio", ratio);
        table.sort();
        Answer { reply: Ok(Reply::RuntimeInfo(table)), chunks: Vec::new() }
    }

    /// The number and id of a queue that exists.
    pub(super) fn queue(&self, queue: &QueueOf) -> Result<QueueKey, Refusal> {
        let state = self.state.borrow();
        let (number, topic) = state.durable.topics.find(&queue.topic)?;
        topic.check_queue(queue.queue)?;
        Ok(QueueKey { topic: number, queue: queue.queue })
    }

    pub(super) fn readable_queue(&self, queue: &QueueOf) -> Result<QueueKey, Refusal> {
        let state = self.state.borrow();
        let (number, topic) = state.durable.topics.find(&queue.topic)?;
        topic.check_readable()?;
        topic.check_queue(queue.queue)?;
        Ok(QueueKey { topic: number, queue: queue.queue })
    }
}
