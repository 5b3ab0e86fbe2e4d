//! `ringmq topic`: create, update, list, describe, delete.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::target::Target;
use super::{Failure, output};
use crate::client::Admin;
use crate::model::topic::QUEUES_PER_TOPIC_MAX;
use crate::model::{TopicConfig, TopicName};

/// Maximum time for a created topic to appear in the routes, ms.
const ROUTE_WAIT_MS: u64 = 5_000;

/// Creates, changes, lists, describes and deletes topics.
#[derive(Args, Debug)]
pub struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Creates a topic on every shard, and waits until clients can find it. An existing topic that
    /// differs is not changed.
    Create {
        /// Name of the topic: letters, digits, and any of % | _ -
        name: String,

        /// Number of queues per shard.
        #[arg(long, default_value_t = 4, value_name = "N")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=QUEUES_PER_TOPIC_MAX as i64))]
        queues: u32,

        #[command(flatten)]
        target: Target,
    },
    /// Changes the queues or the permission of a topic on every shard that has it. Removed queues
    /// keep their messages, which return with the queue.
    Update {
        /// Name of the topic.
        name: String,

        #[command(flatten)]
        change: TopicChange,

        #[command(flatten)]
        target: Target,
    },
    /// Lists all topics.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Shows the queues of a topic, their offsets, and how many messages are delayed.
    ///
    /// The row of each shard's first queue has two more numbers of the topic's messages there, or `-` if the broker
    /// does not know them. DELAYED messages are not due yet. RETRIES were returned by consumer groups, and wait to be
    /// delivered to the groups' retry topics. The topic `SCHEDULE_TOPIC_XXXX` has, on each shard, the messages of all
    /// topics that are not due yet.
    Describe {
        /// Name of the topic.
        name: String,

        #[command(flatten)]
        target: Target,
    },
    /// Deletes a topic and its messages on every shard.
    Delete {
        /// Name of the topic.
        name: String,

        /// Shows what would be deleted, without deleting it.
        #[arg(long)]
        dry_run: bool,

        #[command(flatten)]
        target: Target,
    },
}

/// The settings that `update` changes; the others stay.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = true)]
struct TopicChange {
    /// Number of queues per shard.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=QUEUES_PER_TOPIC_MAX as i64))]
    queues: Option<u32>,

    /// Permission. 6: read and write, 4: read only, 2: write only, 0: neither.
    #[arg(long, value_name = "PERM")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=7))]
    perm: Option<u32>,
}

impl TopicChange {
    fn apply(self, config: &mut TopicConfig) {
        if let Some(queues) = self.queues {
            (config.read_queue_count, config.write_queue_count) = (queues, queues);
        }
        config.perm = self.perm.unwrap_or(config.perm);
    }
}

#[derive(Serialize)]
struct TopicRow {
    topic: String,
}

/// A topic was created, changed or deleted on this broker.
#[derive(Serialize)]
struct ChangeRow {
    topic: String,
    broker: String,
}

#[derive(Serialize)]
struct QueueRow {
    broker: String,
    queue: u32,
    min_offset: u64,
    max_offset: u64,
    messages: u64,
    /// Milliseconds since 1970; nothing without a message.
    last_stored_at_ms: Option<u64>,
    /// Messages of the topic on this broker that are not due yet; only in the row of its first queue.
    delayed: Option<u64>,
    /// Messages of the topic that groups have returned and that are not due yet; likewise.
    retries: Option<u64>,
}

pub fn run(args: TopicArgs) -> Result<(), Failure> {
    match args.command {
        TopicCommand::Create { name, queues, target } => create(&name, queues, &target),
        TopicCommand::Update { name, change, target } => update(&name, change, &target),
        TopicCommand::List { target } => list(&target),
        TopicCommand::Describe { name, target } => describe(&name, &target),
        TopicCommand::Delete { name, dry_run, target } => delete(&name, dry_run, &target),
    }
}

pub fn parse_name(name: &str) -> Result<TopicName, Failure> {
    TopicName::new(name.to_owned()).map_err(Failure::usage)
}

fn create(name: &str, queues: u32, target: &Target) -> Result<(), Failure> {
    let topic = parse_name(name)?;
    let mut admin = Admin::new(target.client())?;
    let brokers = admin.create_topic(&TopicConfig::new(topic.clone(), queues), None)?;
    admin.await_route(&topic, &brokers, ROUTE_WAIT_MS)?;
    print_changes(target, name, brokers)
}

fn update(name: &str, change: TopicChange, target: &Target) -> Result<(), Failure> {
    let topic = parse_name(name)?;
    let mut admin = Admin::new(target.client())?;
    let brokers = admin.update_topic(&topic, |config| change.apply(config))?;
    print_changes(target, name, brokers)
}

fn list(target: &Target) -> Result<(), Failure> {
    let topics = Admin::new(target.client())?.topics()?;
    let rows: Vec<TopicRow> = topics.into_iter().map(|topic| TopicRow { topic }).collect();
    output::print(target.output, &rows, &["TOPIC"], |row| vec![row.topic.clone()])
}

/// Prints the brokers on which the topic was changed.
fn print_changes(target: &Target, topic: &str, brokers: Vec<String>) -> Result<(), Failure> {
    let change = |broker| ChangeRow { topic: topic.to_owned(), broker };
    let rows: Vec<ChangeRow> = brokers.into_iter().map(change).collect();
    output::print(target.output, &rows, &["TOPIC", "BROKER"], |row| {
        vec![row.topic.clone(), row.broker.clone()]
    })
}

fn describe(name: &str, target: &Target) -> Result<(), Failure> {
    let topic = parse_name(name)?;
    let description = Admin::new(target.client())?.describe_topic(&topic)?;
    let mut delayed = description.delayed;
    let row = |queue: &crate::model::reply::QueueStats| {
        let counts = delayed.remove(&*queue.broker_name);
        QueueRow {
            broker: queue.broker_name.to_string(),
            queue: queue.queue.queue.0,
            min_offset: queue.min_offset.0,
            max_offset: queue.max_offset.0,
            messages: queue.max_offset.0 - queue.min_offset.0,
            last_stored_at_ms: queue.last_stored_at.map(|at| at.0),
            delayed: counts.map(|counts| counts.delayed),
            retries: counts.map(|counts| counts.retries),
        }
    };
    let rows: Vec<QueueRow> = description.queues.iter().map(row).collect();
    let header =
        ["BROKER", "QUEUE", "MIN", "MAX", "MESSAGES", "DELAYED", "RETRIES", "LAST STORED (UTC)"];
    output::print(target.output, &rows, &header, |row| {
        vec![
            row.broker.clone(),
            row.queue.to_string(),
            row.min_offset.to_string(),
            row.max_offset.to_string(),
            row.messages.to_string(),
            row.delayed.map_or("-".to_owned(), |count| count.to_string()),
            row.retries.map_or("-".to_owned(), |count| count.to_string()),
            row.last_stored_at_ms.map_or("-".to_owned(), output::time_of_day),
        ]
    })
}

fn delete(name: &str, dry_run: bool, target: &Target) -> Result<(), Failure> {
    if dry_run {
        return describe(name, target);
    }
    let topic = parse_name(name)?;
    let brokers = Admin::new(target.client())?.delete_topic(&topic, None)?;
    print_changes(target, name, brokers)
}
