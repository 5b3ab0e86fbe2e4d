//! `ringmq replica`: transfers the leadership of a broker's shards, and changes their replicas.

use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::target::Target;
use super::{Failure, output};
use crate::client::error::ClientError;
use crate::client::{Admin, ClientOptions};
use crate::config::{Address, PORTS_PER_SHARD};
use crate::model::nameserver::parts_of_shard;
use crate::model::replicas::ReplicaOrder;
use crate::shard::replication_port;

/// How long a broker may take to carry out a change, ms.
const CHANGE_MAX_MS: u64 = 10_000;

/// How long a removal is repeated while leaders change, and the pause between attempts.
const SETTLE_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

const FORCED: &str = "the change is made although most of the other replicas do not answer. Until they \
    do, the shard may take no requests. What only the removed replica has acknowledged is lost";

/// Moves the leadership of the shards of a replicated broker, and changes its replicas.
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
    /// Adds a replica that was started with an empty directory and a new number. It gets the log
    /// first, and then counts for the majority. Waits for that; after an interruption, repeat the command.
    Add {
        /// Name of the broker, such as `broker-a`.
        name: String,

        /// Number of the new replica, and the address that it listens on.
        #[arg(long, value_name = "N=HOST:PORT")]
        replica: NewReplica,

        #[command(flatten)]
        target: Target,
    },
    /// Removes a replica, which may be lost or running; stop it afterwards. Refused if the others
    /// would not have a majority without it. Never use its number again.
    Remove {
        /// Name of the broker, such as `broker-a`.
        name: String,

        /// Number of the replica.
        #[arg(long, value_name = "N")]
        replica: u64,

        /// Removes it even if most of the others do not answer.
        #[arg(long)]
        force_unsafe: bool,

        #[command(flatten)]
        target: Target,
    },
    /// Adds a replica, and then removes another one.
    Replace {
        /// Name of the broker, such as `broker-a`.
        name: String,

        /// Number of the replica to remove.
        #[arg(long, value_name = "N")]
        old: u64,

        /// Number of the new replica, and the address that it listens on.
        #[arg(long, value_name = "N=HOST:PORT")]
        new: NewReplica,

        #[command(flatten)]
        target: Target,
    },
}

/// Number and address of a replica.
#[derive(Clone, Debug)]
struct NewReplica {
    number: u64,
    address: Address,
}

impl FromStr for NewReplica {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, address) =
            text.split_once('=').ok_or_else(|| format!("{text}: expected N=HOST:PORT"))?;
        let number = number.parse().map_err(|_| format!("{text}: {number} is not a number"))?;
        Ok(Self { number, address: address.parse()? })
    }
}

#[derive(Serialize)]
struct Changed {
    shard: String,
    change: String,
}

#[derive(Serialize)]
struct Row {
    shard: String,
    leader: u64,
}

pub fn run(args: ReplicaArgs) -> Result<(), Failure> {
    match args.command {
        ReplicaCommand::Transfer { name, to, target } => transfer(&name, to, &target),
        ReplicaCommand::Add { name, replica, target } => {
            let rows = Change::new(&name, &target)?.add(&replica)?;
            print_changed(&target, &rows)
        }
        ReplicaCommand::Remove { name, replica, force_unsafe, target } => {
            if force_unsafe {
                eprintln!("ringmq: {FORCED}");
            }
            let rows = Change::new(&name, &target)?.remove(replica, force_unsafe)?;
            print_changed(&target, &rows)
        }
        ReplicaCommand::Replace { name, old, new, target } => {
            let mut change = Change::new(&name, &target)?;
            let mut rows = change.add(&new)?;
            rows.extend(change.remove(old, false)?);
            print_changed(&target, &rows)
        }
    }
}

fn print_changed(target: &Target, rows: &[Changed]) -> Result<(), Failure> {
    output::print(target.output, rows, &["SHARD", "CHANGE"], |row| {
        vec![row.shard.clone(), row.change.clone()]
    })
}

/// A change of the replicas of all shards of a broker, one shard after another. It is idempotent:
/// steps that are already done succeed immediately.
struct Change {
    admin: Admin,
    shards: Vec<String>,
}

impl Change {
    fn new(name: &str, target: &Target) -> Result<Self, Failure> {
        let client = ClientOptions { call_timeout_ms: CHANGE_MAX_MS, ..target.client() };
        let mut admin = Admin::new(client)?;
        let shards = admin.leaders_of(name)?.into_iter().map(|(shard, _)| shard).collect();
        Ok(Self { admin, shards })
    }

    fn add(&mut self, new: &NewReplica) -> Result<Vec<Changed>, Failure> {
        let mut rows = Vec::new();
        for shard in self.shards.clone() {
            let (number, address) = (new.number, replication_address(&shard, &new.address)?);
            let order = ReplicaOrder::Add { replica: number, address };
            // This takes as long as sending the log to the new replica.
            self.carry_out(&shard, &order, None)?;
            rows.push(Changed { shard, change: format!("replica {number} added") });
        }
        Ok(rows)
    }

    fn remove(&mut self, number: u64, is_forced: bool) -> Result<Vec<Changed>, Failure> {
        let mut rows = Vec::new();
        for shard in self.shards.clone() {
            let order = ReplicaOrder::Remove { replica: number, is_forced };
            self.carry_out(&shard, &order, Some(SETTLE_MAX))?;
            rows.push(Changed { shard, change: format!("replica {number} removed") });
        }
        Ok(rows)
    }

    /// Repeats an order until it is carried out, for a limited `time` or without a limit.
    fn carry_out(
        &mut self,
        shard: &str,
        order: &ReplicaOrder,
        time: Option<Duration>,
    ) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut said = String::new();
        loop {
            let error = match self.order(shard, order) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let text = error.to_string();
            let is_over = time.is_some_and(|time| begin.elapsed() > time);
            if is_over || !is_passing(&error) {
                return Err(error.into());
            }
            if text != said {
                eprintln!("ringmq: {shard}: {text}; trying again");
                said = text;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn order(&mut self, shard: &str, order: &ReplicaOrder) -> Result<(), ClientError> {
        let leaders = self.admin.leaders_of(shard)?;
        let leader = leaders.iter().find(|(name, _)| name == shard);
        let (_, address) =
            leader.ok_or_else(|| ClientError::UnknownBrokerName(shard.to_owned()))?;
        let outcome = self.admin.order_replicas(address, order);
        if let (Err(error), ReplicaOrder::Remove { replica, .. }) = (&outcome, order)
            && has_number(error, &["RINGMQ-2016"])
        {
            // Another replica must lead first; then the order is repeated.
            let voters = self.admin.replicas(address)?.voters();
            for to in voters.into_iter().filter(|voter| voter != replica) {
                if self.admin.order_replicas(address, &ReplicaOrder::Transfer { to }).is_ok() {
                    break;
                }
            }
        }
        outcome
    }
}

/// Whether the same order may succeed later.
fn is_passing(error: &ClientError) -> bool {
    const PASSING: [&str; 5] =
        ["RINGMQ-2001", "RINGMQ-2005", "RINGMQ-2009", "RINGMQ-2014", "RINGMQ-2016"];
    match error {
        ClientError::Refused { .. } => has_number(error, &PASSING),
        ClientError::NotReached { .. }
        | ClientError::Unanswered { .. }
        | ClientError::UnknownBrokerName(_)
        | ClientError::NoLeader(_) => true,
        _ => false,
    }
}

fn has_number(error: &ClientError, numbers: &[&str]) -> bool {
    let ClientError::Refused { remark, .. } = error else { return false };
    numbers.iter().any(|number| remark.contains(number))
}

/// The address at which the new replica of a shard listens for other replicas.
fn replication_address(shard: &str, base: &Address) -> Result<String, Failure> {
    let (number, _) = parts_of_shard(shard)
        .ok_or_else(|| Failure::failed(format!("{shard} has no shard number")))?;
    let port = replication_port(base.port.saturating_add(number * PORTS_PER_SHARD));
    Ok(Address { host: base.host.clone(), port }.to_string())
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
