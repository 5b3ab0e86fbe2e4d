//! `ringmq cluster`: which brokers there are, and how they do.

use clap::Args;
use serde::Serialize;

use super::target::Target;
use super::{Failure, output};
use crate::client::Admin;

/// Lists all brokers that the NameServers know; every shard is one.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct Row {
    cluster: String,
    broker: String,
    id: u64,
    address: String,
    /// What the broker says of itself; empty when it does not answer.
    version: String,
    messages_in: String,
    messages_out: String,
    log_bytes: String,
}

pub fn run(args: ClusterArgs) -> Result<(), Failure> {
    let mut admin = Admin::new(args.target.client())?;
    let mut rows = Vec::new();
    for broker in admin.cluster()?.brokers {
        for (id, address) in &broker.addresses {
            let info = admin.runtime_info(address).unwrap_or_default();
            let value = |name: &str| {
                let found = info.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            rows.push(Row {
                cluster: broker.cluster.clone(),
                broker: broker.name.clone(),
                id: *id,
                address: address.clone(),
                version: value("brokerVersionDesc"),
                messages_in: value("msgPutTotalTodayNow"),
                messages_out: value("msgGetTotalTodayNow"),
                log_bytes: value("commitLogMaxOffset"),
            });
        }
    }
    let header = ["CLUSTER", "BROKER", "ID", "ADDRESS", "VERSION", "IN", "OUT", "LOG"];
    output::print(args.target.output, &rows, &header, |row| {
        vec![
            row.cluster.clone(),
            row.broker.clone(),
            row.id.to_string(),
            row.address.clone(),
            row.version.clone(),
            row.messages_in.clone(),
            row.messages_out.clone(),
            row.log_bytes.clone(),
        ]
    })
}
