//! `ringmq msg`: send, tail, get.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::output::{Format, Reader};
use super::target::Target;
use super::topic::parse_name;
use super::{Failure, output};
use crate::client::admin::MessageId;
use crate::client::consumer::{ConsumerOptions, Event};
use crate::client::group_consumer::{Batch, GroupEvent, GroupOptions, StartAt};
use crate::client::producer::{Delivery, Message, Outcome, ProducerOptions};
use crate::client::{Admin, Consumer, GroupConsumer, Producer};
use crate::model::record::{PROPERTY_TAGS, RecordView, property};
use crate::model::{GroupName, QueueOffset, TopicName};

/// Delivery timeout of a message, ms. Short, because a person waits; long enough for a broker restart.
const SEND_TIMEOUT_MS: u64 = 5_000;
/// Maximum number of messages in flight.
const IN_FLIGHT_MAX: usize = 64;
/// How long one fetch waits for new messages, ms.
const FETCH_WAIT_MS: u64 = 500;

/// Sends messages, follows a topic, shows a single message.
#[derive(Args, Debug)]
pub struct MsgArgs {
    #[command(subcommand)]
    command: MsgCommand,
}

#[derive(Debug, Subcommand)]
enum MsgCommand {
    /// Sends a message and waits until it is stored.
    Send {
        /// Topic to send to.
        topic: String,

        /// Body of the message; `-` reads it from standard input.
        body: String,

        /// Tag, for consumers to filter by.
        #[arg(long)]
        tag: Option<String>,

        /// Key to find the message by; may be repeated.
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,

        /// How many times to send the message.
        #[arg(long, default_value_t = 1, value_name = "N")]
        repeat: u64,

        #[command(flatten)]
        target: Target,
    },
    /// Follows a topic: prints the messages of all its queues as they arrive.
    Tail {
        /// Topic to follow.
        topic: String,

        /// Consume as a member of this group, whose members divide the queues among them. What was printed
        /// is committed every 5 s and on Ctrl-C; the group goes on behind it.
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,

        /// Tags to consume, such as `new || changed`.
        #[arg(long, value_name = "TAGS", requires = "group")]
        tag: Option<String>,

        /// Where to start. A group goes on where it was, and begins a new queue with its first message as
        /// long as the queue has that.
        #[arg(long, default_value = "last", value_name = "WHERE")]
        from: From,

        /// Exit after this many messages. Default: run until stopped.
        #[arg(long, value_name = "N")]
        count: Option<u64>,

        #[command(flatten)]
        target: Target,
    },
    /// Shows the message with this id.
    Get {
        /// Message id, 32 hexadecimal digits, as printed by `msg send`.
        id: String,

        #[command(flatten)]
        target: Target,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// The oldest message in each queue.
    First,
    /// New messages only.
    Last,
}

#[derive(Serialize)]
struct SentRow {
    broker: String,
    queue: u32,
    offset: u64,
    /// For `msg get`; only for brokers with an IPv4 address.
    id: Option<String>,
}

#[derive(Serialize)]
struct MessageRow {
    topic: String,
    broker: String,
    queue: u32,
    offset: u64,
    id: Option<String>,
    stored_at_ms: u64,
    tag: String,
    body: String,
}

pub fn run(args: MsgArgs) -> Result<(), Failure> {
    match args.command {
        MsgCommand::Send { topic, body, tag, keys, repeat, target } => {
            send(&topic, body, tag, keys, repeat, &target)
        }
        MsgCommand::Tail { topic, group: None, from, count, target, .. } => {
            tail(&topic, from, count, &target)
        }
        MsgCommand::Tail { topic, group: Some(group), tag, from, count, target } => {
            let tags = tag.as_deref().unwrap_or("*");
            let start_at = match from {
                From::First => StartAt::First,
                From::Last => StartAt::Last,
            };
            let group = GroupName::new(group).map_err(Failure::usage)?;
            let options = GroupOptions { start_at, ..GroupOptions::new(target.client(), group) };
            consume(options.subscribe(parse_name(&topic)?, tags), count, &target)
        }
        MsgCommand::Get { id, target } => get(&id, &target),
    }
}

fn send(
    topic: &str,
    body: String,
    tag: Option<String>,
    keys: Vec<String>,
    repeat: u64,
    target: &Target,
) -> Result<(), Failure> {
    let body = match body.as_str() {
        "-" => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).map_err(Failure::failed)?;
            body
        }
        _ => body.into_bytes(),
    };
    let message = Message { tag, keys, ..Message::new(parse_name(topic)?, body) };
    let group = GroupName::new("RINGMQ_CLI").expect("the name is legal");
    let mut options = ProducerOptions::new(target.client(), group);
    options.outbox.delivery_timeout_ms = SEND_TIMEOUT_MS;
    // A broker reports only the position of a batch's first message.
    options.outbox.batch_count_max = 1;
    let mut producer = Producer::new(options)?;
    let (mut outcomes, mut stopped) = (Vec::new(), None);
    for _ in 0..repeat {
        if let Err(error) = producer.send(message.clone()) {
            stopped = Some(error);
            break;
        }
        outcomes.extend(producer.poll(0));
        // Bounded; otherwise messages at the end of a long queue would time out before their first
        // attempt.
        while producer.waiting_count() >= IN_FLIGHT_MAX {
            outcomes.extend(producer.poll(SEND_TIMEOUT_MS));
        }
    }
    outcomes.extend(producer.flush());
    let rows: Vec<SentRow> = outcomes
        .iter()
        .filter_map(|outcome| sent_row(&producer, &message.topic, &outcome.delivery))
        .collect();
    producer.close();
    let failure = stopped.map(Failure::from).or_else(|| failure_of(&outcomes));
    if !rows.is_empty() || failure.is_none() {
        output::print(target.output, &rows, &["BROKER", "QUEUE", "OFFSET", "ID"], |row| {
            let id = row.id.clone().unwrap_or_else(|| "-".to_owned());
            vec![row.broker.clone(), row.queue.to_string(), row.offset.to_string(), id]
        })?;
    }
    failure.map_or(Ok(()), Err)
}

fn sent_row(producer: &Producer, topic: &TopicName, delivery: &Delivery) -> Option<SentRow> {
    let Delivery::Stored { broker, queue, offset, position, .. } = delivery else { return None };
    let address = producer.address_of(topic, broker).and_then(|address| address.parse().ok());
    let id = address.zip(*position).map(|(broker, offset)| MessageId { broker, offset });
    let id = id.map(|id| id.to_string());
    Some(SentRow { broker: broker.to_string(), queue: queue.0, offset: offset.0, id })
}

/// The error for messages that were not stored. Unknown outcomes take precedence over refusals.
fn failure_of(outcomes: &[Outcome]) -> Option<Failure> {
    let unknown = outcomes.iter().find_map(|outcome| match &outcome.delivery {
        Delivery::Unknown { reason } => {
            Some(Failure::failed(format!("outcome unknown, the message may be stored: {reason}")))
        }
        _ => None,
    });
    let refused = || {
        outcomes.iter().find_map(|outcome| match &outcome.delivery {
            Delivery::Refused { code: None, reason } => Some(Failure::unreachable(reason)),
            Delivery::Refused { code: Some(code), reason } => {
                Some(Failure::failed(format!("not stored: {reason} (code {code})")))
            }
            _ => None,
        })
    };
    let failure = unknown.or_else(refused)?;
    let is_stored = |outcome: &&Outcome| matches!(outcome.delivery, Delivery::Stored { .. });
    match outcomes.len() - outcomes.iter().filter(is_stored).count() {
        1 => Some(failure),
        count => {
            let message =
                format!("{}; {count} of {} messages failed", failure.message, outcomes.len());
            Some(Failure { message, ..failure })
        }
    }
}

fn tail(topic: &str, from: From, count: Option<u64>, target: &Target) -> Result<(), Failure> {
    let mut consumer = Consumer::new(ConsumerOptions::new(target.client()))?;
    for queue in consumer.queues(&parse_name(topic)?)? {
        let offset = match from {
            From::First => consumer.min_offset(&queue)?,
            From::Last => consumer.max_offset(&queue)?,
        };
        consumer.assign(queue, offset);
    }
    let mut left = count.unwrap_or(u64::MAX);
    let mut troubled = BTreeSet::new();
    while left > 0 && output::reader() == Reader::There {
        for event in consumer.fetch(FETCH_WAIT_MS) {
            match event {
                Event::Messages(fetched) => {
                    troubled.remove(&fetched.queue);
                    for record in fetched.records().take(left as usize) {
                        let record = record.map_err(Failure::failed)?;
                        let row = row_of(&record, &fetched.queue.broker, record.queue_offset);
                        if show(&row, target)? == Reader::Gone {
                            return Ok(());
                        }
                        left -= 1;
                    }
                }
                Event::Moved { queue, from, to } => {
                    eprintln!(
                        "ringmq: {} queue {}: offset {from} no longer exists, continuing at {to}",
                        queue.broker, queue.queue.0
                    );
                }
                // There is no filter, so this does not happen.
                Event::Passed { .. } => {}
                Event::Trouble { queue, error } => {
                    // Printed once per queue until the queue answers again.
                    if troubled.insert(queue) {
                        eprintln!("ringmq: {error}; retrying");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Prints what the group receives, until it is stopped. Only what was printed is committed.
fn consume(options: GroupOptions, count: Option<u64>, target: &Target) -> Result<(), Failure> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stopped.clone()).map_err(Failure::failed)?;
    }
    let mut consumer = GroupConsumer::join(options)?;
    let mut left = count.unwrap_or(u64::MAX);
    let mut troubles = BTreeSet::new();
    let is_wanted = |left| left > 0 && !stopped.load(Ordering::Relaxed);
    while is_wanted(left) && output::reader() == Reader::There {
        for event in consumer.poll(FETCH_WAIT_MS) {
            match event {
                GroupEvent::Messages(batch) => {
                    troubles.clear();
                    if print_batch(&mut consumer, &batch, &mut left, target)? == Reader::Gone {
                        left = 0;
                    }
                }
                GroupEvent::Moved { queue, to } => {
                    eprintln!(
                        "ringmq: {} queue {}: continuing at {to}",
                        queue.broker, queue.queue.0
                    );
                }
                GroupEvent::Trouble(error) => {
                    // Printed once until messages arrive again.
                    let error = error.to_string();
                    if !troubles.contains(&error) {
                        eprintln!("ringmq: {error}; retrying");
                        troubles.insert(error);
                    }
                }
            }
        }
    }
    consumer.close().map_err(Failure::from)
}

/// Prints up to `left` messages of a batch, and acknowledges those.
fn print_batch(
    consumer: &mut GroupConsumer,
    batch: &Batch,
    left: &mut u64,
    target: &Target,
) -> Result<Reader, Failure> {
    for message in batch.messages() {
        let record = message.map_err(Failure::failed)?;
        if *left == 0 {
            consumer.acknowledge_before(batch, record.queue_offset);
            return Ok(Reader::There);
        }
        let row = row_of(&record, &batch.queue().broker, record.queue_offset);
        if show(&row, target)? == Reader::Gone {
            consumer.acknowledge_before(batch, record.queue_offset);
            return Ok(Reader::Gone);
        }
        *left -= 1;
    }
    consumer.acknowledge(batch);
    Ok(Reader::There)
}

fn get(id: &str, target: &Target) -> Result<(), Failure> {
    let id: MessageId = id.parse()?;
    let message = Admin::new(target.client())?.message(&id)?;
    let record = message.record().map_err(Failure::failed)?;
    show(&row_of(&record, &id.broker.to_string(), record.queue_offset), target).map(|_| ())
}

fn row_of(record: &RecordView<'_>, broker: &str, offset: QueueOffset) -> MessageRow {
    let tag = property(record.properties, PROPERTY_TAGS).unwrap_or_default();
    MessageRow {
        topic: record.topic.to_owned(),
        broker: broker.to_owned(),
        queue: record.queue.0,
        offset: offset.0,
        id: MessageId::of(record).map(|id| id.to_string()),
        stored_at_ms: record.stored_at.0,
        tag: String::from_utf8_lossy(tag).into_owned(),
        body: String::from_utf8_lossy(record.body).into_owned(),
    }
}

/// One line per message, for use in a pipe.
fn show(row: &MessageRow, target: &Target) -> Result<Reader, Failure> {
    let line = match target.output {
        Format::Json => serde_json::to_string(row).map_err(Failure::failed)?,
        Format::Table => format!(
            "{} {}@{} {}{}{}",
            row.broker,
            row.queue,
            row.offset,
            row.tag,
            if row.tag.is_empty() { "" } else { " " },
            row.body
        ),
    };
    output::write_out(format!("{line}\n").as_bytes())
}
