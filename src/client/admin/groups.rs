//! Administration of consumer groups.

use std::collections::{BTreeMap, BTreeSet};

use super::{Admin, Outcomes};
use crate::client::ask::Ask;
use crate::client::error::ClientError;
use crate::model::reply::{GroupConnections, MemberConnections, QueueProgress};
use crate::model::request::BrokerQueue;
use crate::model::request::{ResetGroup, SubscriptionData};
use crate::model::{ClientId, GroupConfig, GroupName, Request, Timestamp, TopicName};
use crate::wire::Response;
use crate::wire::codes::response::{CONSUMER_NOT_ONLINE, TOPIC_NOT_EXIST};

/// Number of groups requested at a time.
const GROUPS_AT_A_TIME: usize = 5_000;

/// A consumer group, over all brokers.
#[derive(Clone, Debug)]
pub struct GroupDescription {
    pub group: GroupName,
    /// By client id.
    pub members: Vec<MemberConnections>,
    /// By topic.
    pub subscriptions: Vec<SubscriptionData>,
    /// By topic, broker and queue.
    pub queues: Vec<QueueProgress>,
    pub committed_at: Option<Timestamp>,
}

impl Admin {
    /// All groups by name, with the number of members that are online.
    pub fn groups(&mut self) -> Result<Vec<(GroupConfig, usize)>, ClientError> {
        let masters = self.masters(None)?;
        let mut configs = BTreeMap::new();
        for (name, address) in &masters {
            let mut first = 0;
            loop {
                let request = Request::GroupConfigs { first, count_max: GROUPS_AT_A_TIME };
                let some = self.ask_leader(name, address, &request, Response::group_configs)?;
                first += some.len();
                let is_last = some.len() < GROUPS_AT_A_TIME;
                configs.extend(some.into_iter().map(|config| (config.name.clone(), config)));
                if is_last {
                    break;
                }
            }
        }
        let mut groups = Vec::with_capacity(configs.len());
        for (name, config) in configs {
            let mut members = BTreeSet::new();
            for (broker, address) in &masters {
                let found = self.consumers_at(broker, address, &name)?.map(|of| of.members);
                let found = found.into_iter().flatten();
                members.extend(found.map(|member: MemberConnections| member.client));
            }
            groups.push((config, members.len()));
        }
        Ok(groups)
    }

    pub fn describe_group(&mut self, group: &GroupName) -> Result<GroupDescription, ClientError> {
        let mut members: BTreeMap<ClientId, MemberConnections> = BTreeMap::new();
        let mut subscriptions = BTreeMap::new();
        let (mut queues, mut committed_at) = (Vec::new(), None);
        for (name, address) in self.masters(None)? {
            if let Some(found) = self.consumers_at(&name, &address, group)? {
                for member in found.members {
                    match members.get_mut(&member.client) {
                        Some(known) => known.add(member),
                        None => _ = members.insert(member.client.clone(), member),
                    }
                }
                let by_topic = found.subscriptions.into_iter().map(|of| (of.topic.clone(), of));
                subscriptions.extend(by_topic);
            }
            let request = Request::GroupProgress { group: group.clone(), topic: None };
            let progress = self.ask_leader(&name, &address, &request, Response::progress)?;
            queues.extend(progress.queues);
            committed_at = committed_at.max(progress.committed_at);
        }
        if members.is_empty() && queues.is_empty() {
            self.check_known(group)?;
        }
        queues.sort_by(|a, b| key(a).cmp(&key(b)));
        let members = members.into_values().collect();
        let subscriptions = subscriptions.into_values().collect();
        let group = group.clone();
        Ok(GroupDescription { group, members, subscriptions, queues, committed_at })
    }

    /// Fails unless a broker has a configuration of the group.
    fn check_known(&mut self, group: &GroupName) -> Result<(), ClientError> {
        let mut known = Ok(());
        for (name, address) in self.masters(None)? {
            let request = Request::GroupConfig { group: group.clone() };
            known = self.ask_leader(&name, &address, &request, Response::done);
            if known.is_ok() {
                break;
            }
        }
        known
    }

    /// Makes a group continue at other offsets of a topic; returns the new offsets.
    pub fn reset_group(
        &mut self,
        reset: &ResetGroup,
    ) -> Result<Vec<(BrokerQueue, i64)>, ClientError> {
        let route = self.remote.fetch_route(reset.topic.as_str())?;
        let mut offsets = Vec::new();
        let request = Request::ResetGroup(reset.clone());
        for (name, address) in self.masters_in(&route)? {
            match self.ask_leader(&name, &address, &request, Response::offsets_reset) {
                Ok(of_broker) => offsets.extend(of_broker),
                // The topic was deleted between the two requests.
                Err(ClientError::Refused { code: TOPIC_NOT_EXIST, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(offsets)
    }

    /// Deletes a group with its offsets and its retry topic on all masters. Returns the brokers'
    /// names.
    pub fn delete_group(&mut self, group: &GroupName) -> Result<Vec<String>, ClientError> {
        let request = Request::DeleteGroup { group: group.clone(), with_offsets: true };
        let mut outcomes = Outcomes::default();
        for (name, address) in self.masters(None)? {
            let outcome = self.ask_leader(&name, &address, &request, Response::done);
            outcomes.note(&name, &address, outcome);
        }
        let brokers = outcomes.conclude(request.what())?;
        self.delete_topic(&TopicName::retry_of(group), None)?;
        Ok(brokers)
    }

    /// The members of a group that a broker knows; empty if none is online.
    fn consumers_at(
        &mut self,
        broker: &str,
        address: &str,
        group: &GroupName,
    ) -> Result<Option<GroupConnections>, ClientError> {
        let request = Request::Consumers { group: group.clone() };
        match self.ask_leader(broker, address, &request, Response::consumers) {
            Ok(found) => Ok(Some(found)),
            Err(ClientError::Refused { code: CONSUMER_NOT_ONLINE, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn key(of: &QueueProgress) -> (&str, &str, u32) {
    let BrokerQueue { broker_name, queue } = &of.queue;
    (queue.topic.as_str(), broker_name, queue.queue.0)
}
