//! The configuration of the consumer groups of one shard (remoting reference, 3.12, 5.23).
//!
//! A group is configured by an operator, or with defaults by the first heartbeat of a member. It has a retry
//! topic; [`group_requests`](super::group_requests) keeps the two consistent.
//!
//! ```text
//!   GROUP   GroupSet, the group's name         the group has this configuration
//!           GroupRemoved, the group's name     the group does not exist
//! ```
//!
//! Invariant: `restricted` counts the groups that are not [unrestricted](GroupConfig::is_unrestricted).

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Bound;

use zerocopy::byteorder::little_endian::{I32, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{Fact, Facts, GROUP, ITEMS_PER_SLICE};
use crate::model::group::{GROUPS_MAX, RETRY_QUEUES_MAX};
use crate::model::{GroupConfig, GroupName, Refusal, Timestamp};

/// The kinds of group facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum FactKind {
    Set = 1,
    Removed = 2,
}

/// Bits of [`GroupSet::flags`].
const MAY_CONSUME: u8 = 1;
const MAY_BROADCAST: u8 = 2;
const FROM_MIN: u8 = 4;
const IS_ORDERLY: u8 = 8;
const NOTIFIES: u8 = 16;

/// Sets a group's configuration. Followed by the group's name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GroupSet {
    /// 1.
    pub says: u8,
    /// 1: may consume; 2: may broadcast; 4: from min; 8: orderly; 16: notifies.
    pub flags: u8,
    pub name_size: U16,
    pub retry_queue_count: U32,
    pub retry_count_max: I32,
    pub system_flag: I32,
    pub broker_id: I64,
    pub slow_broker_id: I64,
    pub consume_timeout_minutes: I32,
    pub reserved: [u8; 4],
    pub changed_at_ms: U64,
}

/// Removes a group. Followed by the group's name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GroupRemoved {
    /// 2.
    pub says: u8,
    pub reserved: [u8; 5],
    pub name_size: U16,
    pub changed_at_ms: U64,
}

const _: () = {
    assert!(size_of::<GroupSet>() == 48);
    assert!(size_of::<GroupRemoved>() == 16);
};

#[derive(Debug, Default)]
pub struct GroupConfigs {
    /// Sorted rather than hashed, because clients choose the names and could provoke collisions.
    groups: BTreeMap<GroupName, GroupConfig>,
    restricted: usize,
}

impl GroupConfigs {
    pub fn find(&self, group: &GroupName) -> Option<&GroupConfig> {
        self.groups.get(group)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &GroupConfig> {
        self.groups.values()
    }

    /// The configuration of `group`; the default if it has none.
    pub fn of(&self, group: &GroupName) -> GroupConfig {
        self.find(group).cloned().unwrap_or_else(|| GroupConfig::new(group.detached()))
    }

    /// Refuses pulls of groups that may not consume (remoting reference, 5.3). Costs nothing while
    /// no group is restricted.
    pub fn check_pull(&self, group: Option<&GroupName>) -> Result<(), Refusal> {
        match (self.restricted, group) {
            (0, _) | (_, None) => Ok(()),
            (_, Some(group)) => match self.find(group) {
                Some(config) if !config.may_consume => {
                    Err(Refusal::NotConsumable(group.detached()))
                }
                _ => Ok(()),
            },
        }
    }

    /// Refuses broadcasting consumption to a group that may not use it.
    pub fn check_broadcast(&self, group: &GroupName) -> Result<(), Refusal> {
        match self.find(group) {
            Some(config) if !config.may_broadcast => Err(Refusal::NotBroadcast(group.detached())),
            _ => Ok(()),
        }
    }

    pub fn is_any_restricted(&self) -> bool {
        self.restricted > 0
    }

    /// Validates a configuration. `new_count` is the number of groups that are being added with it.
    pub fn check(&self, config: &GroupConfig, new_count: usize) -> Result<(), Refusal> {
        if config.retry_queue_count > RETRY_QUEUES_MAX {
            return Err(Refusal::Malformed(format!(
                "retryQueueNums is {}, allowed are 0 to {RETRY_QUEUES_MAX}",
                config.retry_queue_count
            )));
        }
        if self.find(&config.name).is_none() && self.groups.len() + new_count >= GROUPS_MAX {
            return Err(Refusal::Full { what: "configured groups", count_max: GROUPS_MAX });
        }
        Ok(())
    }

    /// Applies a fact.
    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let cut = || format!("{} bytes are too few", fact.payload.len());
        match fact.payload.first().copied().unwrap_or(0) {
            says if says == FactKind::Set as u8 => {
                let (head, rest) = GroupSet::ref_from_prefix(fact.payload).map_err(|_| cut())?;
                let name = name_in(rest, head.name_size).ok_or_else(cut)??;
                self.put(config_of(head, name));
            }
            says if says == FactKind::Removed as u8 => {
                let (head, rest) =
                    GroupRemoved::ref_from_prefix(fact.payload).map_err(|_| cut())?;
                let name = name_in(rest, head.name_size).ok_or_else(cut)??;
                self.remove(&name);
            }
            says => return Err(format!("it says {says}")),
        }
        Ok(())
    }

    fn put(&mut self, config: GroupConfig) {
        self.restricted += usize::from(!config.is_unrestricted());
        if let Some(before) = self.groups.insert(config.name.clone(), config) {
            self.restricted -= usize::from(!before.is_unrestricted());
        }
    }

    fn remove(&mut self, name: &GroupName) {
        if let Some(before) = self.groups.remove(name) {
            self.restricted -= usize::from(!before.is_unrestricted());
        }
    }
}

fn name_in(rest: &[u8], size: U16) -> Option<Result<GroupName, String>> {
    let name = std::str::from_utf8(rest.get(..usize::from(size.get()))?);
    let name = name.map_err(|error| error.to_string());
    Some(name.and_then(|name| GroupName::new(name.to_owned()).map_err(|error| error.to_string())))
}

fn config_of(head: &GroupSet, name: GroupName) -> GroupConfig {
    let is_set = |flag| head.flags & flag != 0;
    GroupConfig {
        name,
        may_consume: is_set(MAY_CONSUME),
        may_broadcast: is_set(MAY_BROADCAST),
        from_min: is_set(FROM_MIN),
        is_orderly: is_set(IS_ORDERLY),
        notifies: is_set(NOTIFIES),
        retry_queue_count: head.retry_queue_count.get(),
        retry_count_max: head.retry_count_max.get(),
        system_flag: head.system_flag.get(),
        broker_id: head.broker_id.get(),
        slow_broker_id: head.slow_broker_id.get(),
        consume_timeout_minutes: head.consume_timeout_minutes.get(),
    }
}

/// Adds the fact that sets a group's configuration.
pub fn add_set(facts: &mut Facts, config: &GroupConfig, now: Timestamp) {
    let name = config.name.as_str().as_bytes();
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let head = GroupSet {
        says: FactKind::Set as u8,
        flags: flag(config.may_consume, MAY_CONSUME)
            | flag(config.may_broadcast, MAY_BROADCAST)
            | flag(config.from_min, FROM_MIN)
            | flag(config.is_orderly, IS_ORDERLY)
            | flag(config.notifies, NOTIFIES),
        name_size: U16::new(name.len() as u16),
        retry_queue_count: U32::new(config.retry_queue_count),
        retry_count_max: I32::new(config.retry_count_max),
        system_flag: I32::new(config.system_flag),
        broker_id: I64::new(config.broker_id),
        slow_broker_id: I64::new(config.slow_broker_id),
        consume_timeout_minutes: I32::new(config.consume_timeout_minutes),
        reserved: [0; 4],
        changed_at_ms: U64::new(now.0),
    };
    facts.push(GROUP, 0, |out| {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(name);
    });
}

/// Adds the fact that removes a group.
pub fn add_removed(facts: &mut Facts, name: &GroupName, now: Timestamp) {
    let name = name.as_str().as_bytes();
    let head = GroupRemoved {
        says: FactKind::Removed as u8,
        reserved: [0; 5],
        name_size: U16::new(name.len() as u16),
        changed_at_ms: U64::new(now.0),
    };
    facts.push(GROUP, 0, |out| {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(name);
    });
}

/// All groups by name: the progress of adding them to a snapshot.
#[derive(Default)]
pub struct AllGroups {
    /// The last group that was added.
    last: Option<GroupName>,
}

impl AllGroups {
    pub fn add(&mut self, groups: &GroupConfigs, facts: &mut Facts) -> bool {
        let begin = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = groups.groups.range::<GroupName, _>((begin, Bound::Unbounded));
        let mut last = None;
        for (name, config) in rest.take(ITEMS_PER_SLICE) {
            add_set(facts, config, Timestamp(0));
            last = Some(name.clone());
            if facts.fill_a_slice() {
                break;
            }
        }
        let has_more = last.is_some();
        self.last = last.or(self.last.take());
        has_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LogOffset;

    fn name(text: &str) -> GroupName {
        GroupName::new(text.to_owned()).unwrap()
    }

    fn write(groups: &mut GroupConfigs, facts: &Facts) {
        let (kind, subject, payload) = facts.entry();
        let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
        let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
        groups.apply(&fact).unwrap();
    }

    fn set(groups: &mut GroupConfigs, config: &GroupConfig) {
        let mut facts = Facts::default();
        add_set(&mut facts, config, Timestamp(1));
        write(groups, &facts);
    }

    #[test]
    fn a_group_is_restored_with_every_setting() {
        let mut groups = GroupConfigs::default();
        let config = GroupConfig {
            may_consume: false,
            may_broadcast: false,
            from_min: false,
            is_orderly: true,
            notifies: false,
            retry_queue_count: 3,
            retry_count_max: -1,
            system_flag: 2,
            broker_id: 5,
            slow_broker_id: 6,
            consume_timeout_minutes: 7,
            name: name(&"g".repeat(255)),
        };
        set(&mut groups, &config);
        set(&mut groups, &GroupConfig::new(name("plain")));
        assert_eq!(groups.iter().cloned().collect::<Vec<_>>()[0], config);
        assert_eq!(groups.find(&name("plain")), Some(&GroupConfig::new(name("plain"))));
        let mut facts = Facts::default();
        assert!(AllGroups::default().add(&groups, &mut facts));
        let mut restored = GroupConfigs::default();
        for fact in Fact::of_snapshot(&facts.into_bytes()).each() {
            restored.apply(&fact.unwrap()).unwrap();
        }
        assert_eq!(restored.groups, groups.groups);
        assert_eq!(restored.restricted, 1);
    }

    #[test]
    fn only_restricted_groups_are_refused_and_only_while_they_are() {
        let mut groups = GroupConfigs::default();
        let (closed, open) = (name("closed"), name("open"));
        set(&mut groups, &GroupConfig::new(open.clone()));
        assert!(!groups.is_any_restricted());
        let config = GroupConfig { may_consume: false, ..GroupConfig::new(closed.clone()) };
        (0..2).for_each(|_| set(&mut groups, &config));
        assert_eq!(groups.check_pull(Some(&closed)), Err(Refusal::NotConsumable(closed.clone())));
        for group in [None, Some(&open), Some(&name("unknown"))] {
            assert_eq!(groups.check_pull(group), Ok(()));
        }
        let config = GroupConfig { may_broadcast: false, ..GroupConfig::new(closed.clone()) };
        set(&mut groups, &config);
        assert_eq!(groups.check_pull(Some(&closed)), Ok(()));
        assert_eq!(groups.check_broadcast(&closed), Err(Refusal::NotBroadcast(closed.clone())));
        let mut facts = Facts::default();
        add_removed(&mut facts, &closed, Timestamp(2));
        (0..2).for_each(|_| write(&mut groups, &facts));
        assert_eq!((groups.check_broadcast(&closed), groups.is_any_restricted()), (Ok(()), false));
        assert_eq!(groups.of(&closed), GroupConfig::new(closed));
    }

    #[test]
    fn no_byte_of_a_fact_may_be_missing_unnoticed() {
        let mut facts = Facts::default();
        add_set(&mut facts, &GroupConfig::new(name("g")), Timestamp(1));
        let (kind, subject, payload) = facts.entry();
        for cut in 0..payload.len() {
            let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
            let payload = &payload[..cut];
            let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
            assert!(GroupConfigs::default().apply(&fact).is_err(), "cut at {cut}");
        }
    }
}
