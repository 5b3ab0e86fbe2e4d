//! `ringmq cluster`: the brokers that are online, their replicas, and their totals.

use clap::Args;
use serde::Serialize;

use super::target::Target;
use super::{Failure, output};
use crate::client::Admin;
use crate::model::nameserver::RouteBroker;
use crate::model::replicas::{ReplicaSet, ReplicaState};

/// Lists all brokers known to the NameServers; every shard is listed as a broker. Of shards with
/// replicas, also the replicas that are not online, who leads in which epoch, and what each replica
/// lacks.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Default, Serialize)]
struct Row {
    cluster: String,
    broker: String,
    id: u64,
    address: Option<String>,
    /// Number of the replica; like the fields up to `lag_ms`, absent without replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Epoch of the leader that this replica knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    /// Bytes of the leader's log that it is missing; reported by the leader, like the next field.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_bytes: Option<u64>,
    /// Age of the oldest part that it is missing, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    /// Reported by the broker, like the fields below; absent if it does not answer.
    version: Option<String>,
    messages_in: Option<u64>,
    messages_out: Option<u64>,
    log_bytes: Option<u64>,
}

pub fn run(args: ClusterArgs) -> Result<(), Failure> {
    let mut admin = Admin::new(args.target.client())?;
    let mut rows = Vec::new();
    for broker in admin.cluster()?.brokers {
        rows.extend(rows_of(&mut admin, &broker));
    }
    let header = [
        "CLUSTER", "BROKER", "ID", "ADDRESS", "VERSION", "REPLICA", "ROLE", "EPOCH", "LAG",
        "BEHIND", "IN", "OUT", "LOG",
    ];
    output::print(args.target.output, &rows, &header, |row| {
        vec![
            row.cluster.clone(),
            row.broker.clone(),
            row.id.to_string(),
            text(row.address.as_ref()),
            text(row.version.as_ref()),
            text(row.replica),
            text(row.role),
            text(row.epoch),
            text(row.lag_bytes.map(|bytes| format!("{bytes} B"))),
            text(row.lag_ms.map(|ms| format!("{:.1} s", ms as f64 / 1000.0))),
            text(row.messages_in),
            text(row.messages_out),
            text(row.log_bytes),
        ]
    })
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The members of a broker that are online, then its replicas that are offline.
fn rows_of(admin: &mut Admin, broker: &RouteBroker) -> Vec<Row> {
    let mut sets: Vec<Option<ReplicaSet>> = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    for (id, address) in &broker.addresses {
        // A broker that does not answer is listed with what is known about it.
        let info = admin.runtime_info(address).unwrap_or_default();
        let value = |name: &str| {
            let found = info.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let number = |name: &str| value(name)?.parse().ok();
        sets.push(if info.is_empty() { None } else { admin.replicas(address).ok() });
        rows.push(Row {
            cluster: broker.cluster.clone(),
            broker: broker.name.clone(),
            id: *id,
            address: Some(address.clone()),
            version: value("brokerVersionDesc"),
            messages_in: number("msgPutTotalTodayNow"),
            messages_out: number("msgGetTotalTodayNow"),
            log_bytes: number("commitLogMaxOffset"),
            ..Row::default()
        });
    }
    let leader = sets.iter().flatten().filter(|set| set.leads()).max_by_key(|set| set.term);
    for (row, set) in rows.iter_mut().zip(&sets) {
        if let Some(set) = set {
            row.replica = Some(set.id);
            row.epoch = Some(set.term);
            row.role = Some(if set.leads() { "leader" } else { "follower" });
        } else if let Some(id) = Some(row.id).filter(|id| *id > 0 && leader.is_some()) {
            row.replica = Some(id);
            row.role = Some("no answer");
        }
    }
    for state in leader.into_iter().flat_map(|leader| &leader.replicas) {
        match rows.iter_mut().find(|row| row.replica == Some(state.id)) {
            Some(row) => row.show_lag(state),
            None => {
                let (cluster, broker) = (broker.cluster.clone(), broker.name.clone());
                let mut row = Row { cluster, broker, id: state.id, ..Row::default() };
                row.address.clone_from(&state.address);
                row.replica = Some(state.id);
                row.role = Some("offline");
                row.show_lag(state);
                rows.push(row);
            }
        }
    }
    rows
}

impl Row {
    /// Adds what the leader knows about this replica.
    fn show_lag(&mut self, state: &ReplicaState) {
        // A new leader does not know the lag of a replica that it has not heard from yet.
        let known = state.lag.filter(|lag| lag.silent_ms.is_some());
        self.lag_bytes = known.map(|lag| lag.bytes);
        self.lag_ms = known.map(|lag| lag.ms);
        if self.role == Some("follower") {
            self.role = match (state.lag, state.is_voter) {
                (Some(lag), _) if !lag.is_reachable() => Some("unreachable"),
                (_, false) => Some("learner"),
                _ if state.is_full => Some("follower, disk full"),
                _ => self.role,
            };
        }
    }
}
