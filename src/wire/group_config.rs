//! Configuration of consumer groups (remoting reference, 3.12).

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{DataVersion, GroupConfig, GroupName, NameError, Refusal, Request};
use crate::wire::body;
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::types::{Entries, List};
use crate::wire::route::Nothing;

/// `SubscriptionGroupConfig` of the reference. What is missing has the reference's default.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupBody<'a> {
    broker_id: i64,
    consume_broadcast_enable: bool,
    consume_enable: bool,
    consume_from_min_enable: bool,
    consume_message_orderly: bool,
    consume_timeout_minute: i32,
    group_name: Cow<'a, str>,
    group_sys_flag: i32,
    notify_consumer_ids_changed_enable: bool,
    retry_max_times: i32,
    retry_queue_nums: i32,
    which_broker_when_consume_slowly: i64,
}

impl Default for GroupBody<'_> {
    fn default() -> Self {
        let defaults = GroupConfig::new(GroupName::new("default").expect("a legal name"));
        GroupBody { group_name: Cow::Borrowed(""), ..GroupBody::of(&defaults).into_owned() }
    }
}

impl<'a> GroupBody<'a> {
    pub fn of(config: &'a GroupConfig) -> Self {
        Self {
            broker_id: config.broker_id,
            consume_broadcast_enable: config.may_broadcast,
            consume_enable: config.may_consume,
            consume_from_min_enable: config.from_min,
            consume_message_orderly: config.is_orderly,
            consume_timeout_minute: config.consume_timeout_minutes,
            group_name: config.name.as_str().into(),
            group_sys_flag: config.system_flag,
            notify_consumer_ids_changed_enable: config.notifies,
            retry_max_times: config.retry_count_max,
            retry_queue_nums: config.retry_queue_count as i32,
            which_broker_when_consume_slowly: config.slow_broker_id,
        }
    }

    fn into_owned<'b>(self) -> GroupBody<'b> {
        GroupBody { group_name: Cow::Owned(self.group_name.into_owned()), ..self }
    }

    pub fn read(self) -> Result<GroupConfig, NameError> {
        Ok(GroupConfig {
            name: GroupName::new(self.group_name.into_owned())?,
            may_consume: self.consume_enable,
            may_broadcast: self.consume_broadcast_enable,
            from_min: self.consume_from_min_enable,
            is_orderly: self.consume_message_orderly,
            notifies: self.notify_consumer_ids_changed_enable,
            // The reference drops messages with any number below 1.
            retry_queue_count: self.retry_queue_nums.max(0) as u32,
            retry_count_max: self.retry_max_times,
            system_flag: self.group_sys_flag,
            broker_id: self.broker_id,
            slow_broker_id: self.which_broker_when_consume_slowly,
            consume_timeout_minutes: self.consume_timeout_minute,
        })
    }
}

/// `SubscriptionGroupWrapper` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupsBody<'a> {
    data_version: DataVersion,
    #[serde(skip_deserializing)]
    forbidden_table: Nothing,
    subscription_group_table: Entries<Cow<'a, str>, GroupBody<'a>>,
}

impl<'a> GroupsBody<'a> {
    pub fn of(configs: &'a [GroupConfig]) -> Self {
        let entry = |config: &'a GroupConfig| (config.name.as_str().into(), GroupBody::of(config));
        Self { subscription_group_table: configs.iter().map(entry).collect(), ..Self::default() }
    }

    pub fn read(self) -> Result<Vec<GroupConfig>, NameError> {
        self.subscription_group_table.0.into_iter().map(|(_, group)| group.read()).collect()
    }
}

/// `SubscriptionGroupList` of the reference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupConfigsBody<'a> {
    group_config_list: List<GroupBody<'a>>,
}

impl<'a> GroupConfigsBody<'a> {
    pub fn of(configs: &'a [GroupConfig]) -> Self {
        Self { group_config_list: configs.iter().map(GroupBody::of).collect() }
    }
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP.
pub fn decode_update_group(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let body: GroupBody<'_> = body::decode("UPDATE_AND_CREATE_SUBSCRIPTIONGROUP", body)?;
    Ok(Request::UpdateGroup(body.read()?))
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST.
pub fn decode_update_groups(_: &mut Fields<'_>, body: &Bytes) -> Result<Request, Refusal> {
    let body: GroupConfigsBody<'_> =
        body::decode("UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST", body)?;
    let configs: Result<_, NameError> =
        body.group_config_list.0.into_iter().map(GroupBody::read).collect();
    Ok(Request::UpdateGroups(configs?))
}

/// DELETE_SUBSCRIPTIONGROUP. Tools of 4.9 have another name for the second field.
pub fn decode_delete_group(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let with_offsets = ["cleanOffset", "removeOffset"];
    Ok(Request::DeleteGroup {
        group: GroupName::new(fields.needed("groupName")?)?,
        with_offsets: with_offsets.iter().any(|name| fields.boolean(name).unwrap_or(false)),
    })
}

pub fn encode_delete_group(fields: &mut FieldWriter<'_>, group: &GroupName, with_offsets: bool) {
    fields.text("groupName", group.as_str());
    fields.boolean("cleanOffset", with_offsets);
    fields.boolean("removeOffset", with_offsets);
}

/// GET_SUBSCRIPTIONGROUP_CONFIG.
pub fn decode_group(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::GroupConfig { group: GroupName::new(fields.needed("group")?)? })
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG. Tools of 4.9 want all of them.
pub fn decode_groups(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let number = |name| -> Result<Option<usize>, Refusal> {
        let number: Option<i64> = fields.optional_number(name)?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    };
    Ok(Request::GroupConfigs {
        first: number("groupSeq")?.unwrap_or(0),
        count_max: number("maxGroupNum")?.unwrap_or(usize::MAX),
    })
}

pub fn encode_groups(fields: &mut FieldWriter<'_>, first: usize, count_max: usize) {
    fields.number("groupSeq", first);
    if count_max != usize::MAX {
        fields.number("maxGroupNum", count_max);
    }
}
