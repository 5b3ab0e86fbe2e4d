//! Requests of stock tools to replicas and controllers (remoting reference, 8.4; the fields are
//! those of the 5.x classes named below).

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::model::controller::{
    ControllerAnswer, ControllerRequest, ControllerView, IN_SYNC_MAX_MS,
};
use crate::model::replicas::ReplicaState;
use crate::model::{Refusal, Request};
use crate::wire::codes::response::SUCCESS;
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;
use crate::wire::json::ser;
use crate::wire::reply::NewReply;

/// GET_BROKER_HA_STATUS.
pub fn decode_ha_status(_: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Controller(ControllerRequest::HaStatus))
}

/// CONTROLLER_GET_METADATA_INFO.
pub fn decode_metadata(_: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Controller(ControllerRequest::Metadata))
}

/// CONTROLLER_GET_SYNC_STATE_DATA. The body names brokers; the reply is about this one.
pub fn decode_sync_state(_: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Controller(ControllerRequest::SyncState))
}

/// GET_BROKER_EPOCH_CACHE.
pub fn decode_epochs(_: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    Ok(Request::Controller(ControllerRequest::Epochs))
}

/// CONTROLLER_ELECT_MASTER.
pub fn decode_elect(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let broker_name = fields.needed("brokerName")?;
    let replica: Option<i64> = fields.optional_number("brokerId")?;
    let replica = replica.and_then(|id| u64::try_from(id).ok());
    Ok(Request::Controller(ControllerRequest::Elect { broker_name, replica }))
}

pub fn encode(to: NewReply<'_>, answer: ControllerAnswer, view: &ControllerView) {
    match answer {
        ControllerAnswer::HaStatus => to.json(&HaStatusBody::of(view)),
        ControllerAnswer::Metadata => to.fields(|fields| encode_metadata(fields, view)),
        ControllerAnswer::SyncState => to.json(&SyncStateBody::of(view)),
        ControllerAnswer::Epochs => to.json(&EpochsBody::of(view)),
        ControllerAnswer::Elected => to.whole(
            SUCCESS,
            None,
            |fields| encode_elected(fields, view),
            |out| ser::push(out, &MembersBody::of(view)),
        ),
    }
}

/// Followers of the leader, as the leader sees them.
fn followers(view: &ControllerView) -> impl Iterator<Item = &ReplicaState> {
    let set = view.set.as_ref().filter(|set| set.leads());
    set.into_iter().flat_map(|set| set.replicas.iter().filter(|replica| replica.id != set.id))
}

fn is_in_sync(replica: &ReplicaState) -> bool {
    replica.lag.is_some_and(|lag| lag.is_reachable() && lag.ms < IN_SYNC_MAX_MS)
}

fn address_of(replica: &ReplicaState) -> Cow<'_, str> {
    replica.address.as_deref().unwrap_or_default().into()
}

/// `HARuntimeInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HaStatusBody<'a> {
    master: bool,
    master_commit_log_max_offset: u64,
    in_sync_slave_nums: usize,
    ha_connection_info: Vec<HaConnection<'a>>,
    ha_client_runtime_info: HaClient,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HaConnection<'a> {
    addr: Cow<'a, str>,
    slave_ack_offset: u64,
    diff: u64,
    in_sync: bool,
    transferred_byte_in_second: u64,
    transfer_from_where: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HaClient {
    master_addr: String,
    transferred_byte_in_second: u64,
    max_offset: u64,
    last_read_timestamp: u64,
    last_write_timestamp: u64,
    master_flush_offset: u64,
    is_activated: bool,
}

impl<'a> HaStatusBody<'a> {
    fn of(view: &'a ControllerView) -> Self {
        let connection = |replica: &'a ReplicaState| {
            let diff = replica.lag.map_or(0, |lag| lag.bytes);
            let at = view.end.saturating_sub(diff);
            HaConnection {
                addr: address_of(replica),
                slave_ack_offset: at,
                diff,
                in_sync: is_in_sync(replica),
                transferred_byte_in_second: 0,
                transfer_from_where: at,
            }
        };
        Self {
            master: view.leads(),
            master_commit_log_max_offset: view.end,
            in_sync_slave_nums: followers(view).filter(|replica| is_in_sync(replica)).count(),
            ha_connection_info: followers(view).map(connection).collect(),
            ha_client_runtime_info: HaClient {
                master_addr: view.leader_address(),
                transferred_byte_in_second: 0,
                max_offset: view.end,
                last_read_timestamp: 0,
                last_write_timestamp: 0,
                master_flush_offset: view.committed,
                is_activated: !view.leads(),
            },
        }
    }
}

/// `GetMetaDataResponseHeader`.
fn encode_metadata(fields: &mut FieldWriter<'_>, view: &ControllerView) {
    fields.text("group", &view.broker_name);
    fields.text("controllerLeaderId", &view.leader().unwrap_or_default().to_string());
    fields.text("controllerLeaderAddress", &view.leader_address());
    fields.boolean("isLeader", view.leads());
    let replicas = view.set.iter().flat_map(|set| &set.replicas);
    let peers: Vec<String> =
        replicas.map(|replica| format!("{}:{}", replica.id, address_of(replica))).collect();
    fields.text("peers", &peers.join(";"));
}

/// `BrokerReplicasInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SyncStateBody<'a> {
    replicas_info_table: BTreeMap<&'a str, ReplicasInfo<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicasInfo<'a> {
    master_broker_id: u64,
    master_address: String,
    master_epoch: u64,
    sync_state_set_epoch: u64,
    in_sync_replicas: Vec<ReplicaIdentity<'a>>,
    not_in_sync_replicas: Vec<ReplicaIdentity<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaIdentity<'a> {
    broker_name: &'a str,
    broker_id: u64,
    broker_address: Cow<'a, str>,
    alive: bool,
}

impl<'a> SyncStateBody<'a> {
    fn of(view: &'a ControllerView) -> Self {
        let term = view.set.as_ref().map_or(0, |set| set.term);
        let identity = |replica: &'a ReplicaState| ReplicaIdentity {
            broker_name: &view.broker_name,
            broker_id: replica.id,
            broker_address: address_of(replica),
            alive: replica.lag.is_some_and(|lag| lag.is_reachable()),
        };
        let all = || view.set.iter().flat_map(|set| &set.replicas);
        let info = ReplicasInfo {
            master_broker_id: view.leader().unwrap_or_default(),
            master_address: view.leader_address(),
            master_epoch: term,
            sync_state_set_epoch: term,
            in_sync_replicas: all().filter(|it| is_in_sync(it)).map(identity).collect(),
            not_in_sync_replicas: all().filter(|it| !is_in_sync(it)).map(identity).collect(),
        };
        Self { replicas_info_table: [(&*view.broker_name, info)].into() }
    }
}

/// `EpochEntryCache`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EpochsBody<'a> {
    cluster_name: &'a str,
    broker_name: &'a str,
    broker_id: u64,
    epoch_list: Vec<EpochEntry>,
    max_offset: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EpochEntry {
    epoch: u64,
    start_offset: u64,
    end_offset: u64,
}

impl<'a> EpochsBody<'a> {
    fn of(view: &'a ControllerView) -> Self {
        let ends = view.epochs.iter().skip(1).map(|(_, start)| *start).chain([i64::MAX as u64]);
        let entry = |((epoch, start_offset), end_offset): (&(u64, u64), u64)| EpochEntry {
            epoch: *epoch,
            start_offset: *start_offset,
            end_offset,
        };
        let id = view.set.as_ref().map_or(0, |set| if set.leads() { 0 } else { set.id });
        Self {
            cluster_name: &view.cluster,
            broker_name: &view.broker_name,
            broker_id: id,
            epoch_list: view.epochs.iter().zip(ends).map(entry).collect(),
            max_offset: view.end,
        }
    }
}

/// `ElectMasterResponseHeader`.
fn encode_elected(fields: &mut FieldWriter<'_>, view: &ControllerView) {
    let term = view.set.as_ref().map_or(0, |set| set.term);
    fields.number("masterBrokerId", view.leader().unwrap_or_default());
    fields.text("masterAddress", &view.leader_address());
    fields.number("masterEpoch", term);
    fields.number("syncStateSetEpoch", term);
}

/// `BrokerMemberGroup`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MembersBody<'a> {
    cluster: &'a str,
    broker_name: &'a str,
    broker_addrs: BTreeMap<u64, Cow<'a, str>>,
}

impl<'a> MembersBody<'a> {
    fn of(view: &'a ControllerView) -> Self {
        let id = |replica: &ReplicaState| match Some(replica.id) == view.leader() {
            true => 0,
            false => replica.id,
        };
        let all = view.set.iter().flat_map(|set| &set.replicas);
        let broker_addrs = all.map(|replica| (id(replica), address_of(replica))).collect();
        Self { cluster: &view.cluster, broker_name: &view.broker_name, broker_addrs }
    }
}
