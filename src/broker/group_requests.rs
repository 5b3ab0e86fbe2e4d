//! The life of consumer groups: created by their first member or an operator, configured, deleted (remoting
//! reference, 3.12, 5.8, 5.23). A group's configuration and its retry topic change in one entry.
//!
//! The retry topic is written to as many queues as the group's configuration says, and can be read
//! from every queue that it ever had, so messages in queues that are no longer written to are still
//! consumed.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::group_configs;
use super::operation::Context;
use super::state::Durable;
use super::{Broker, offsets, topics};
use crate::model::group::LISTED_GROUPS_MAX;
use crate::model::{
    GroupConfig, GroupName, Refusal, Reply, Request, Timestamp, TopicConfig, TopicName,
};
use crate::storage::disk::Disk;

impl<D: Disk> Broker<D> {
    /// Groups that a request implies and that lack a configuration or a retry topic here. The
    /// caller that executes the request creates them on all shards.
    pub fn missing_groups(&self, request: &Request) -> Vec<GroupName> {
        match request {
            Request::Heartbeat(heartbeat) => self.missing(heartbeat.joined_groups()),
            Request::SendBack(back) => self.missing(std::iter::once(&back.group)),
            _ => Vec::new(),
        }
    }

    /// A replica that does not lead creates no groups; the leader does.
    fn missing<'a>(&self, groups: impl Iterator<Item = &'a GroupName>) -> Vec<GroupName> {
        if !self.leads() {
            return Vec::new();
        }
        let durable = &self.state.borrow().durable;
        groups.filter(|group| !is_complete(durable, group)).map(GroupName::detached).collect()
    }

    /// Creates what is missing for `groups`. What does not fit is refused after the rest has been
    /// created.
    pub(super) async fn create_groups(
        &self,
        groups: impl Iterator<Item = &GroupName>,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let missing = self.missing(groups);
        if missing.is_empty() {
            return Ok(Reply::Done);
        }
        let mut refused = Ok(());
        let create = |durable: &Durable| {
            let mut setting = Setting::begin(durable);
            let now = context.now().wall;
            refused = missing.iter().try_for_each(|group| setting.create(group, now));
            Ok(setting.facts)
        };
        self.transact(create, context).await?;
        refused.map(|()| Reply::Done)
    }

    /// Creates or changes groups, all or none. Of several configurations of one group, the last one
    /// counts.
    pub(super) async fn update_groups(
        &self,
        configs: &[GroupConfig],
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let detached = |config: &GroupConfig| {
            let name = config.name.detached();
            (name.clone(), GroupConfig { name, ..config.clone() })
        };
        let configs: BTreeMap<GroupName, GroupConfig> = configs.iter().map(detached).collect();
        let set = |durable: &Durable| {
            let mut setting = Setting::begin(durable);
            configs.values().try_for_each(|config| setting.set(config, context.now().wall))?;
            Ok(setting.facts)
        };
        let mark = self.transact_until(set, context).await?;
        let is_changed = |group: &GroupName| configs.contains_key(group);
        self.state.borrow_mut().end_holds_of_groups(is_changed, mark);
        self.committed(mark).await?;
        Ok(Reply::Done)
    }

    /// Removes a group's configuration; succeeds if it has none. Its topics are deleted by requests of
    /// their own, as tools do.
    pub(super) async fn delete_group(
        &self,
        group: &GroupName,
        with_offsets: bool,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let remove = |durable: &Durable| {
            let (mut facts, now) = (Facts::default(), context.now().wall);
            // Also without a configuration: the commit of this fact ends the group's held pulls.
            group_configs::add_removed(&mut facts, group, now);
            if with_offsets && durable.offsets.has(group) {
                offsets::add_forgotten(&mut facts, std::slice::from_ref(group), now);
            }
            Ok(facts)
        };
        let mark = self.transact_until(remove, context).await?;
        self.state.borrow_mut().end_holds_of_groups(|changed| changed == group, mark);
        self.committed(mark).await?;
        Ok(Reply::Done)
    }

    pub(super) fn group_config(&self, group: &GroupName) -> Result<Reply, Refusal> {
        let state = self.state.borrow();
        let config = state.durable.groups.find(group).cloned();
        config.map(Reply::GroupConfig).ok_or_else(|| Refusal::UnknownGroup(group.detached()))
    }

    pub(super) fn group_configs(&self, first: usize, count_max: usize) -> Result<Reply, Refusal> {
        let state = self.state.borrow();
        let all = state.durable.groups.iter();
        let count = all.len();
        let configs: Vec<GroupConfig> =
            all.skip(first).take(count_max.min(LISTED_GROUPS_MAX + 1)).cloned().collect();
        if configs.len() > LISTED_GROUPS_MAX {
            return Err(Refusal::TooLarge {
                what: "list of groups",
                size: count,
                size_max: LISTED_GROUPS_MAX,
            });
        }
        Ok(Reply::GroupConfigs { configs, count })
    }
}

fn is_complete(durable: &Durable, group: &GroupName) -> bool {
    durable.groups.find(group).is_some_and(|config| {
        config.retry_queue_count == 0
            || durable.topics.number(&TopicName::retry_of(group)).is_some()
    })
}

/// Groups that are created or changed together, and what they add to the tables.
struct Setting<'a> {
    durable: &'a Durable,
    facts: Facts,
    group_count: usize,
    topic_count: u32,
}

impl<'a> Setting<'a> {
    fn begin(durable: &'a Durable) -> Self {
        Self { durable, facts: Facts::default(), group_count: 0, topic_count: 0 }
    }

    /// Creates what is missing for a group. No two calls may concern the same group.
    fn create(&mut self, group: &GroupName, now: Timestamp) -> Result<(), Refusal> {
        let config = self.durable.groups.of(group);
        let has_topic = self.durable.topics.number(&TopicName::retry_of(group)).is_some();
        self.add(&config, !has_topic, now)
    }

    /// Creates a group or changes it. No two calls may concern the same group.
    fn set(&mut self, config: &GroupConfig, now: Timestamp) -> Result<(), Refusal> {
        self.add(config, true, now)
    }

    /// Adds nothing if this is refused.
    fn add(
        &mut self,
        config: &GroupConfig,
        with_topic: bool,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Self { durable, facts, group_count, topic_count } = self;
        durable.groups.check(config, *group_count)?;
        let topic = if with_topic { retry_topic(durable, config)? } else { None };
        let is_new = |number| number == durable.topics.next_number();
        if topic.as_ref().is_some_and(|(number, _)| is_new(*number)) {
            durable.topics.check_more(*topic_count as usize)?;
        }
        let known = durable.groups.find(&config.name);
        if known != Some(config) {
            group_configs::add_set(facts, config, now);
            *group_count += usize::from(known.is_none());
        }
        if let Some((number, topic)) = topic {
            let more = if is_new(number) { *topic_count } else { 0 };
            topics::add_set(facts, number + more, &topic, now);
            *topic_count += u32::from(is_new(number));
        }
        Ok(())
    }
}

/// The number and the configuration that a group's retry topic needs; `None` if it has them
/// already.
fn retry_topic(
    durable: &Durable,
    config: &GroupConfig,
) -> Result<Option<(u32, TopicConfig)>, Refusal> {
    if config.retry_queue_count == 0 {
        return Ok(None);
    }
    let needed = TopicConfig::new(TopicName::retry_of(&config.name), config.retry_queue_count);
    let (number, needed) = match durable.topics.find(&needed.name) {
        Err(_) => (durable.topics.next_number(), needed),
        Ok((number, known)) => {
            // Including queues that were offered before and are no longer written to.
            let read_queue_count = known.config.queue_count().max(needed.read_queue_count);
            let write_queue_count = needed.write_queue_count;
            (number, TopicConfig { read_queue_count, write_queue_count, ..known.config.clone() })
        }
    };
    let is_as_needed = durable.topics.topic(number).is_some_and(|known| known.config == needed);
    durable.topics.check(&needed)?;
    Ok((!is_as_needed).then_some((number, needed)))
}
