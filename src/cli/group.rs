//! `ringmq group`: list, describe, reset, delete.

use std::net::SocketAddrV4;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::target::Target;
use super::topic::parse_name;
use super::{Failure, output};
use crate::client::admin::groups::GroupDescription;
use crate::client::{Admin, ClientError};
use crate::model::reply::QueueProgress;
use crate::model::request::{ResetGroup, ResetTo};
use crate::model::{GroupConfig, GroupName, QueueId, QueueOffset, Timestamp};
use crate::shard::clock;
use crate::wire::codes::response::SUBSCRIPTION_GROUP_NOT_EXIST;
use crate::wire::header::head::Language;

/// Lists, describes, resets and deletes consumer groups.
#[derive(Args, Debug)]
pub struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Lists all consumer groups, and how many members of each are online.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Shows the members of a group, their addresses and subscriptions, and how far it is in each queue.
    Describe {
        /// Name of the group.
        name: String,

        #[command(flatten)]
        target: Target,
    },
    /// Has a group go on at other offsets, whether its members are online or not.
    Reset {
        /// Name of the group.
        name: String,

        /// Topic whose offsets are reset.
        topic: String,

        /// Where to go on: `first`, `last`, a time in milliseconds since 1970, or the number of an offset
        /// with `--queue`.
        #[arg(long, value_name = "PLACE")]
        to: String,

        /// Resets only this queue of each shard, and takes PLACE for an offset.
        #[arg(long, value_name = "N")]
        queue: Option<u32>,

        #[command(flatten)]
        target: Target,
    },
    /// Deletes a group without members: its configuration, its offsets and the messages that it would
    /// have consumed again. Its dead letters are kept.
    Delete {
        /// Name of the group.
        name: String,

        /// Shows what would be deleted, without deleting it.
        #[arg(long)]
        dry_run: bool,

        #[command(flatten)]
        target: Target,
    },
}

#[derive(Serialize)]
struct GroupRow {
    group: String,
    members: usize,
    /// Further attempts before a message becomes a dead letter.
    retries: i32,
}

#[derive(Serialize)]
struct MemberRow {
    client: String,
    address: String,
    language: &'static str,
    version: i32,
    /// Whether two processes have this client id.
    shared: bool,
}

#[derive(Serialize)]
struct SubscriptionRow {
    topic: String,
    expression: String,
}

#[derive(Serialize)]
struct QueueRow {
    topic: String,
    broker: String,
    queue: u32,
    /// `None` if the group has not committed an offset.
    committed: Option<u64>,
    end: u64,
    lag: u64,
    /// Age of the first message that has not been consumed.
    lag_seconds: u64,
}

#[derive(Serialize)]
struct Description {
    group: String,
    last_commit_ms: Option<u64>,
    members: Vec<MemberRow>,
    subscriptions: Vec<SubscriptionRow>,
    queues: Vec<QueueRow>,
}

#[derive(Serialize)]
struct ResetRow {
    topic: String,
    broker: String,
    queue: u32,
    offset: i64,
}

#[derive(Serialize)]
struct ChangeRow {
    group: String,
    broker: String,
}

pub fn run(args: GroupArgs) -> Result<(), Failure> {
    match args.command {
        GroupCommand::List { target } => list(&target),
        GroupCommand::Describe { name, target } => describe(&name, &target),
        GroupCommand::Reset { name, topic, to, queue, target } => {
            reset(&name, &topic, &to, queue, &target)
        }
        GroupCommand::Delete { name, dry_run, target } => delete(&name, dry_run, &target),
    }
}

fn parse_group(name: &str) -> Result<GroupName, Failure> {
    GroupName::new(name.to_owned()).map_err(Failure::usage)
}

fn list(target: &Target) -> Result<(), Failure> {
    let groups = Admin::new(target.client())?.groups()?;
    let row = |(config, members): (GroupConfig, usize)| GroupRow {
        group: config.name.to_string(),
        members,
        retries: config.retry_count_max,
    };
    let rows: Vec<GroupRow> = groups.into_iter().map(row).collect();
    output::print(target.output, &rows, &["GROUP", "MEMBERS", "RETRIES"], |row| {
        vec![row.group.clone(), row.members.to_string(), row.retries.to_string()]
    })
}

fn describe(name: &str, target: &Target) -> Result<(), Failure> {
    let group = parse_group(name)?;
    let description = Admin::new(target.client())?.describe_group(&group)?;
    let now = clock::wall();
    let rows = described(&description, now);
    if target.output == output::Format::Json {
        return output::print(target.output, &[rows], &[], |_| Vec::new());
    }
    let committed = rows.last_commit_ms.map_or("never".to_owned(), output::time_of_day);
    let title = format!("group {name}, last commit {committed}\n\n");
    let _ = output::write_out(title.as_bytes())?;
    let header = ["CLIENT", "ADDRESS", "LANGUAGE", "VERSION", "NOTE"];
    output::print(target.output, &rows.members, &header, |row| {
        let note = if row.shared { "two processes have this client id" } else { "" };
        let (language, version) = (row.language.to_owned(), row.version.to_string());
        vec![row.client.clone(), row.address.clone(), language, version, note.to_owned()]
    })?;
    let _ = output::write_out(b"\n")?;
    output::print(target.output, &rows.subscriptions, &["TOPIC", "EXPRESSION"], |row| {
        vec![row.topic.clone(), row.expression.clone()]
    })?;
    let _ = output::write_out(b"\n")?;
    let header = ["TOPIC", "BROKER", "QUEUE", "COMMITTED", "END", "LAG", "LAG (S)"];
    output::print(target.output, &rows.queues, &header, |row| {
        vec![
            row.topic.clone(),
            row.broker.clone(),
            row.queue.to_string(),
            row.committed.map_or("-".to_owned(), |offset| offset.to_string()),
            row.end.to_string(),
            row.lag.to_string(),
            row.lag_seconds.to_string(),
        ]
    })
}

fn described(description: &GroupDescription, now: Timestamp) -> Description {
    let GroupDescription { group, members, subscriptions, queues, committed_at } = description;
    let members = members.iter().flat_map(|member| {
        member.peers.iter().map(move |peer| MemberRow {
            client: member.client.to_string(),
            address: SocketAddrV4::from(peer.host).to_string(),
            language: Language::of_number(peer.language).name(),
            version: peer.version,
            shared: member.is_shared,
        })
    });
    let subscriptions = subscriptions.iter().map(|of| SubscriptionRow {
        topic: of.topic.to_string(),
        expression: of.expression.text.clone(),
    });
    let queue = |of: &QueueProgress| {
        let committed = of.committed.map(|offset| offset.0);
        QueueRow {
            topic: of.queue.queue.topic.to_string(),
            broker: of.queue.broker_name.to_string(),
            queue: of.queue.queue.queue.0,
            committed,
            end: of.end.0,
            lag: of.lag(),
            lag_seconds: of.waiting_since.map_or(0, |since| now.ms_since(since) / 1000),
        }
    };
    Description {
        group: group.to_string(),
        last_commit_ms: committed_at.map(|at| at.0),
        members: members.collect(),
        subscriptions: subscriptions.collect(),
        queues: queues.iter().map(queue).collect(),
    }
}

fn reset(
    name: &str,
    topic: &str,
    to: &str,
    queue: Option<u32>,
    target: &Target,
) -> Result<(), Failure> {
    let number = || to.parse::<u64>();
    let bad = |_| {
        let places = "first, last, a time in milliseconds since 1970, or an offset with --queue";
        Failure::usage(format!("--to is {to:?}, allowed are {places}"))
    };
    let place = match (to, queue) {
        ("first", _) => ResetTo::Time(Timestamp(0)),
        ("last", _) => ResetTo::End,
        (_, Some(_)) => ResetTo::Offset(QueueOffset(number().map_err(bad)?)),
        (_, None) => ResetTo::Time(Timestamp(number().map_err(bad)?)),
    };
    let reset = ResetGroup {
        group: parse_group(name)?,
        topic: parse_name(topic)?,
        queue: queue.map(QueueId),
        to: place,
        is_forced: true,
    };
    let offsets = Admin::new(target.client())?.reset_group(&reset)?;
    let rows: Vec<ResetRow> = offsets
        .into_iter()
        .map(|(queue, offset)| ResetRow {
            topic: queue.queue.topic.to_string(),
            broker: queue.broker_name.to_string(),
            queue: queue.queue.queue.0,
            offset,
        })
        .collect();
    output::print(target.output, &rows, &["TOPIC", "BROKER", "QUEUE", "OFFSET"], |row| {
        let (queue, offset) = (row.queue.to_string(), row.offset.to_string());
        vec![row.topic.clone(), row.broker.clone(), queue, offset]
    })
}

fn delete(name: &str, dry_run: bool, target: &Target) -> Result<(), Failure> {
    if dry_run {
        return describe(name, target);
    }
    let group = parse_group(name)?;
    let mut admin = Admin::new(target.client())?;
    let online = match admin.describe_group(&group) {
        Ok(description) => description.members.len(),
        // Its retry topic may be left over from an attempt that failed halfway.
        Err(ClientError::Refused { code: SUBSCRIPTION_GROUP_NOT_EXIST, .. }) => 0,
        Err(error) => return Err(error.into()),
    };
    if online > 0 {
        return Err(Failure::failed(format!(
            "group {name} has {online} members online, whose next heartbeat would create it again; stop them first"
        )));
    }
    let brokers = admin.delete_group(&group)?;
    let change = |broker| ChangeRow { group: name.to_owned(), broker };
    let rows: Vec<ChangeRow> = brokers.into_iter().map(change).collect();
    output::print(target.output, &rows, &["GROUP", "BROKER"], |row| {
        vec![row.group.clone(), row.broker.clone()]
    })
}
