//! What operators ask about consumer groups, and where they let them go on (remoting reference, 3.12, 5.7):
//! members, progress per queue, reset of offsets.

use std::collections::BTreeSet;

use super::Broker;
use super::operation::Context;
use crate::model::client::ResetOffsets;
use crate::model::reply::{GroupProgress, QueueProgress};
use crate::model::request::{BrokerQueue, QueueOf, ResetGroup, ResetTo};
use crate::model::{
    ClientRequest, GroupName, QueueId, QueueOffset, Refusal, Reply, Timestamp, TopicName,
};
use crate::storage::disk::Disk;
use crate::storage::{Lookup, QueueKey};

impl<D: Disk> Broker<D> {
    pub(super) fn consumers(&self, group: &GroupName) -> Result<Reply, Refusal> {
        let found = self.state.borrow().groups.consumers(group);
        found.map(Reply::Consumers).ok_or_else(|| Refusal::NotOnline(group.detached()))
    }

    pub(super) fn producers(&self, group: &GroupName) -> Result<Reply, Refusal> {
        let found = self.state.borrow().groups.producers(group);
        found.map(Reply::Producers).ok_or_else(|| Refusal::NoProducer(group.detached()))
    }

    /// Groups that subscribe to a topic or have offsets for it.
    pub(super) fn groups_of(&self, topic: &TopicName) -> Result<Reply, Refusal> {
        let state = self.state.borrow();
        let mut groups: BTreeSet<GroupName> = state.groups.subscribed_to(topic).cloned().collect();
        if let Some(number) = state.durable.topics.number(topic) {
            groups.extend(state.durable.offsets.groups_of(number).cloned());
        }
        Ok(Reply::Groups(groups.into_iter().collect()))
    }

    /// How far a group is in the queues of `topic`, or of all topics for which it has offsets. Reads index
    /// files where the times of messages are not in memory.
    pub(super) async fn progress(
        &self,
        group: &GroupName,
        topic: Option<&TopicName>,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let (queues, committed_at) = {
            let state = self.state.borrow();
            let (topics, offsets) = (&state.durable.topics, &state.durable.offsets);
            let numbers = match topic {
                Some(topic) => topics.number(topic).into_iter().collect(),
                None => offsets.topics_of(group),
            };
            let mut queues = Vec::new();
            for (number, topic) in numbers.into_iter().filter_map(|n| Some((n, topics.topic(n)?))) {
                let name = &topic.config.name;
                let ids = (0..topic.config.read_queue_count).map(QueueId);
                queues.extend(ids.map(|queue| {
                    let of = QueueOf { topic: name.clone(), queue };
                    (of, QueueKey { topic: number, queue })
                }));
            }
            (queues, offsets.committed_at(group))
        };
        let mut progress = Vec::with_capacity(queues.len());
        for (queue, key) in queues {
            progress.push(self.progress_in(group, queue, key, context).await);
        }
        Ok(Reply::Progress(GroupProgress { queues: progress, committed_at }))
    }

    async fn progress_in(
        &self,
        group: &GroupName,
        queue: QueueOf,
        key: QueueKey,
        context: &impl Context,
    ) -> QueueProgress {
        let committed = self.state.borrow().durable.offsets.find(group, key);
        let (min, end) = self.visible_bounds(key);
        let next = committed.unwrap_or(QueueOffset(0));
        let last = next.0.checked_sub(1).map(QueueOffset);
        let last_at = match last {
            Some(last) => self.stored_at(key, last, context).await,
            None => None,
        };
        let waiting_since = match next < end {
            true => self.stored_at(key, next.max(min), context).await,
            false => None,
        };
        let broker_name = self.config.broker_name.clone();
        QueueProgress {
            queue: BrokerQueue { broker_name, queue },
            committed,
            min,
            end,
            last_at,
            waiting_since,
        }
    }

    /// When the message at an offset was stored; `None` without one, or where that cannot be read.
    pub(super) async fn stored_at(
        &self,
        queue: QueueKey,
        offset: QueueOffset,
        context: &impl Context,
    ) -> Option<Timestamp> {
        loop {
            let (min, end) = self.visible_bounds(queue);
            if offset < min || offset >= end {
                return None;
            }
            let page = match self.store.with_index(|index| index.lookup(queue, offset, 1)) {
                Lookup::Here(entries) => return entries.first().map(|located| located.stored_at),
                Lookup::Sealed(page) => page,
                Lookup::Lost { .. } | Lookup::Nothing => return None,
            };
            let _permit = context.cold_read(0).await;
            self.store.load_index(page).await.ok()?;
        }
    }

    /// Resets a group's offsets, with or without members online. Members are notified; offsets that they
    /// commit before they have noticed are ignored ([`offsets`](super::offsets)). Answers once the log says
    /// so.
    pub(super) async fn reset_group(
        &self,
        request: &ResetGroup,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let ResetGroup { group, topic, queue, to, is_forced } = request;
        let keys = self.queues_to_reset(group, topic, *queue)?;
        let mut targets = Vec::with_capacity(keys.len());
        for key in keys {
            targets.push((key, self.target(key, *to, context).await?));
        }
        // Reading may have taken a while.
        if !self.leads() {
            return Err(Refusal::NotLeader { shard: self.config.shard.0 });
        }
        self.state.borrow().durable.offsets.check_resets(targets.len())?;
        let flush = self.begin_flush();
        for (key, target) in &mut targets {
            let offsets = &mut self.state.borrow_mut().durable.offsets;
            let committed = offsets.find(group, *key);
            if let Some(committed) = committed.filter(|offset| !*is_forced && *offset < *target) {
                *target = committed;
            }
            offsets.reset(group, *key, *target)?;
        }
        let keys: Vec<QueueKey> = targets.iter().map(|(key, _)| *key).collect();
        self.schedule_flush(context.now().moment);
        self.flushed_since(flush, group, topic, &keys).await?;
        let offsets = self.named(topic, &targets);
        let at = match to {
            ResetTo::Time(at) => Some(*at),
            ResetTo::Offset(_) | ResetTo::End => None,
        };
        let (topic, group) = (topic.detached(), group.detached());
        let reset = ResetOffsets { topic, at, is_forced: true, offsets: offsets.clone(), group };
        self.notify_reset(reset);
        Ok(Reply::OffsetsReset(offsets))
    }

    fn queues_to_reset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: Option<QueueId>,
    ) -> Result<Vec<QueueKey>, Refusal> {
        let state = self.state.borrow();
        let (number, topic) = state.durable.topics.find(topic)?;
        if !state.knows_group(group) {
            return Err(Refusal::UnknownGroup(group.detached()));
        }
        let key = |queue| QueueKey { topic: number, queue };
        match queue {
            None => Ok((0..topic.config.read_queue_count).map(QueueId).map(key).collect()),
            Some(queue) => topic.check_queue(queue).map(|()| vec![key(queue)]),
        }
    }

    async fn target(
        &self,
        queue: QueueKey,
        to: ResetTo,
        context: &impl Context,
    ) -> Result<QueueOffset, Refusal> {
        let (min, end) = self.visible_bounds(queue);
        match to {
            ResetTo::End => Ok(end),
            ResetTo::Offset(offset) if offset < min || offset > end => {
                Err(Refusal::Malformed(format!("offset is {offset}, allowed are {min} to {end}")))
            }
            ResetTo::Offset(offset) => Ok(offset),
            ResetTo::Time(at) => self.offset_at(queue, at, false, context).await,
        }
    }

    fn named(
        &self,
        topic: &TopicName,
        targets: &[(QueueKey, QueueOffset)],
    ) -> Vec<(BrokerQueue, i64)> {
        let topic = topic.detached();
        let named = |(key, offset): &(QueueKey, QueueOffset)| {
            let queue = QueueOf { topic: topic.clone(), queue: key.queue };
            let broker_name = self.config.broker_name.clone();
            (BrokerQueue { broker_name, queue }, offset.0 as i64)
        };
        targets.iter().map(named).collect()
    }

    fn notify_reset(&self, reset: ResetOffsets) {
        let connections = self.state.borrow().groups.connections_of(&reset.group);
        for connection in connections {
            if !self.notify_client(connection, ClientRequest::ResetOffsets(reset.clone())) {
                return;
            }
        }
    }
}
