//! `ringmq replica`: who leads the shards of a replicated broker, and who has copies of them.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::target::Target;
use super::{Failure, output};
use crate::client::{Admin, ClientOptions};
use crate::model::replicas::ReplicaOrder;

/// How long a broker may take to carry out a change, ms.
const CHANGE_MAX_MS: u64 = 10_000;

/// Moves the leadership of the shards of a replicated broker.
#[derive(Args, Debug)]
pub struct ReplicaArgs {
    #[command(subcommand)]
    command: ReplicaCommand,
}

#[derive(Debug, Subcommand)]
enum ReplicaCommand {
    /// Makes another replica the leader, without a failed request. It stays the leader until it
    /// stops or fails, or until the next transfer.
    Transfer {
        /// Name of the broker, such as `broker-a` for all of its shards, or of one shard, such as
        /// `s00-broker-a`.
        name: String,

        /// Number of the replica that is to lead.
        #[arg(long, value_name = "N")]
        to: u64,

        #[command(flatten)]
        target: Target,
    },
}

#[derive(Serialize)]
struct Row {
    shard: String,
    leader: u64,
}

pub fn run(args: ReplicaArgs) -> Result<(), Failure> {
    match args.command {
        ReplicaCommand::Transfer { name, to, target } => transfer(&name, to, &target),
    }
}

fn transfer(name: &str, to: u64, target: &Target) -> Result<(), Failure> {
    let client = ClientOptions { call_timeout_ms: CHANGE_MAX_MS, ..target.client() };
    let mut admin = Admin::new(client)?;
    let shards = admin.change_replicas(name, &ReplicaOrder::Transfer { to })?;
    let rows: Vec<Row> = shards.into_iter().map(|shard| Row { shard, leader: to }).collect();
    output::print(target.output, &rows, &["SHARD", "LEADER"], |row| {
        vec![row.shard.clone(), row.leader.to_string()]
    })
}
