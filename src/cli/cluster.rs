//! `ringmq cluster`: the brokers that are online, and their totals.

use clap::Args;
use serde::Serialize;

use super::target::Target;
use super::{Failure, output};
use crate::client::Admin;

/// Lists all brokers known to the NameServers; every shard is listed as a broker.
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
        for (id, address) in &broker.addresses {
            let info = admin.runtime_info(address).unwrap_or_default();
            let value = |name: &str| {
                let found = info.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            };
            let number = |name: &str| value(name)?.parse().ok();
            rows.push(Row {
                cluster: broker.cluster.clone(),
                broker: broker.name.clone(),
                id: *id,
                address: address.clone(),
                version: value("brokerVersionDesc"),
                messages_in: number("msgPutTotalTodayNow"),
                messages_out: number("msgGetTotalTodayNow"),
                log_bytes: number("commitLogMaxOffset"),
            });
        }
    }
    let header = ["CLUSTER", "BROKER", "ID", "ADDRESS", "VERSION", "IN", "OUT", "LOG"];
    let text = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    output::print(args.target.output, &rows, &header, |row| {
        vec![
            row.cluster.clone(),
            row.broker.clone(),
            row.id.to_string(),
            row.address.clone(),
            row.version.clone().unwrap_or_default(),
            text(row.messages_in),
            text(row.messages_out),
            text(row.log_bytes),
        ]
    })
}
