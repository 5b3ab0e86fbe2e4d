//! The command line. These texts are the manual.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringmq::model::TopicName;
use ringmq::wire::HeaderEncoding;
use serde::{Deserialize, Serialize};

use crate::payload::MESSAGE_SIZE_MIN;
use crate::schedule::Arrivals;
use crate::units::{self, grouped};

/// Open-loop load generator for RocketMQ and RingMQ that audits every acknowledgement.
///
/// The schedule is fixed before anything is sent, and latency counts from the moment a message was
/// due. After the run every acknowledgement is reconciled with what was consumed.
///
/// Exit codes: 0 PASS; 1 FAILED, an acknowledged message was lost or corrupted, or came out of
/// order with one request in flight; 2 wrong usage or files; 3 INVALID, the generator fell behind
/// its schedule or the run was cut short; 4 the target could not be reached. The last line of
/// standard output begins with the verdict.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadgen", version)]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Sends at one rate for a while.
    Steady(SteadyOptions),
    /// Searches for the highest rate that the target sustains.
    ///
    /// Runs of --duration each, from --rate on: doubled while sustained, then narrowed down to
    /// 5 %. Sustained means: all acknowledged in time, none refused, the latency's p99 within
    /// --p99-max, and consumed no later than 1 s after the sending. The report is that of the best
    /// run; a lost message ends the search at once.
    Ramp(RampOptions),
}

#[derive(Args, Clone, Debug)]
pub struct SteadyOptions {
    #[command(flatten)]
    pub target: TargetOptions,

    #[command(flatten)]
    pub load: LoadOptions,

    /// Directory for report.json, report.html, latency.hlog and latency.hgrm; created when missing.
    #[arg(long, value_name = "DIR", help_heading = "Report")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct RampOptions {
    #[command(flatten)]
    pub target: TargetOptions,

    #[command(flatten)]
    pub load: LoadOptions,

    /// Latency p99, counted from the due time, above which a rate is not sustained.
    #[arg(long, value_name = "TIME", default_value = "100ms", help_heading = "Search")]
    #[arg(value_parser = units::parse_duration)]
    pub p99_max: Duration,

    /// Directory for report.json, report.html, latency.hlog and latency.hgrm; created when missing.
    #[arg(long, value_name = "DIR", help_heading = "Report")]
    pub out: Option<PathBuf>,
}

/// Where the load goes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Target")]
pub struct TargetOptions {
    /// Starts `ringmq dev` for the run and stops it afterwards. The default.
    ///
    /// The program is $RINGMQ_BIN when that is set, else the broker that loadgen itself contains.
    #[arg(long, conflicts_with = "namesrv")]
    pub embedded: bool,

    /// Shards of the embedded broker, one per core.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "namesrv")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=99))]
    pub shards: u16,

    /// Data directory of the embedded broker; kept. Without it a temporary one is used and removed.
    #[arg(long, value_name = "DIR", conflicts_with = "namesrv")]
    pub data: Option<PathBuf>,

    /// What the embedded broker waits for before it acknowledges: `sync`, stable media; `async`,
    /// the device has taken the write.
    #[arg(long, value_enum, default_value_t = Flush::Sync, conflicts_with = "namesrv")]
    pub flush: Flush,

    /// NameServers of a running cluster, `ip:port` joined by `;`. Anything that speaks RocketMQ.
    #[arg(long, value_name = "ADDRS")]
    pub namesrv: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Flush {
    Sync,
    Async,
}

/// What is sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub struct LoadOptions {
    /// Topic to use; created on every broker unless it exists.
    #[arg(long, default_value = "loadgen", value_name = "NAME", value_parser = parse_topic)]
    pub topic: TopicName,

    /// Queues per broker (per shard) when the topic is created.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub queues: u32,

    /// Messages per second of the whole run, all parts together: `50000`, `50k`, `1.5M`; or `max`:
    /// every connection keeps its window full, and a message is due the moment it is sent.
    #[arg(long, value_name = "RATE", default_value = "10k", value_parser = parse_rate)]
    pub rate: Rate,

    /// How long messages are due: `500ms`, `20s`, `5m`, `1h`.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = units::parse_duration)]
    pub duration: Duration,

    /// Size of a message body: `128`, `1KiB`, `64KiB`. Half of it is compressible.
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = parse_message_size)]
    pub message_size: usize,

    /// Messages per request; all of a batch are due at the same moment and go to the same queue.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,

    /// Producers of the whole run, a connection each. Producer P sends to broker P mod brokers.
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub connections: u32,

    /// Requests a connection may have unanswered. A due message that finds the window full waits
    /// on the generator's side, and its wait counts; after 3 s it is given up as not sent. With 1
    /// the order of each producer's messages is part of the verdict.
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,

    /// Header encoding: `json` and `binary` are RocketMQ's own, `fixed` is RingMQ's.
    #[arg(long, value_enum, default_value_t = Header::Json)]
    pub header: Header,

    /// How requests are spread within the rate: `poisson`, `uniform` (evenly), or `burst:K` (K of
    /// one producer at once).
    #[arg(long, value_name = "KIND", default_value = "poisson", value_parser = parse_arrivals)]
    pub arrivals: Arrivals,

    /// Seed of the schedule.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Takes share I of N of the producers (I from 0), so that N processes with the same options
    /// make up one run.
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = parse_part)]
    pub part: Part,

    /// Sends only. Nothing is consumed, so losses cannot be found.
    #[arg(long)]
    pub no_consume: bool,

    /// Threads that send; the connections are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,

    /// Never sleep between messages: less slip, for machines with a core to spare per thread.
    #[arg(long)]
    pub spin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Messages per second.
    PerSecond(f64),
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Header {
    Json,
    Binary,
    Fixed,
}

impl From<Header> for HeaderEncoding {
    fn from(header: Header) -> Self {
        match header {
            Header::Json => Self::Json,
            Header::Binary => Self::Binary,
            Header::Fixed => Self::Fixed,
        }
    }
}

/// One of several processes that make up a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub index: u32,
    pub count: u32,
}

impl LoadOptions {
    /// The producers of this process.
    pub fn producers(&self) -> Vec<u32> {
        (self.part.index..self.connections).step_by(self.part.count as usize).collect()
    }

    /// One line of at most 69 columns, for reports.
    pub fn describe(&self) -> String {
        let rate = match self.rate {
            Rate::PerSecond(rate) => format!("{}/s", grouped(rate as u64)),
            Rate::Max => "max".to_owned(),
        };
        let arrivals = match (self.rate, self.arrivals) {
            (Rate::Max, _) => String::new(),
            (_, Arrivals::Poisson) => " poisson".to_owned(),
            (_, Arrivals::Uniform) => " uniform".to_owned(),
            (_, Arrivals::Burst(size)) => format!(" burst:{size}"),
        };
        let header = format!("{:?}", self.header).to_lowercase();
        let seconds = self.duration.as_secs_f64();
        let (size, batch) = (self.message_size, self.batch);
        let (connections, in_flight) = (self.connections, self.in_flight);
        format!(
            "{rate}{arrivals} x {size} B, {seconds} s, batch {batch}, \
         {connections} conn x {in_flight}, {header}"
        )
    }
}

fn parse_topic(text: &str) -> Result<TopicName, String> {
    TopicName::new(text).map_err(|error| error.to_string())
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" { Ok(Rate::Max) } else { units::parse_rate(text).map(Rate::PerSecond) }
}

/// A batch must fit a frame, which is checked when the target is known; one message must fit here.
fn parse_message_size(text: &str) -> Result<usize, String> {
    let size = units::parse_size(text)?;
    let legal = MESSAGE_SIZE_MIN..=ringmq::model::record::BODY_SIZE_MAX;
    if legal.contains(&size) {
        return Ok(size);
    }
    Err(format!("a message has {} to {} bytes", legal.start(), legal.end()))
}

fn parse_arrivals(text: &str) -> Result<Arrivals, String> {
    let wrong = || "arrivals are `poisson`, `uniform` or `burst:K`".to_owned();
    match text {
        "poisson" => Ok(Arrivals::Poisson),
        "uniform" => Ok(Arrivals::Uniform),
        _ => {
            let size = text.strip_prefix("burst:").ok_or_else(wrong)?;
            let size = size.parse().ok().filter(|&size| size > 0).ok_or_else(wrong)?;
            Ok(Arrivals::Burst(size))
        }
    }
}

fn parse_part(text: &str) -> Result<Part, String> {
    let wrong = || "a part is I/N with I below N".to_owned();
    let (index, count) = text.split_once('/').ok_or_else(wrong)?;
    let part = Part {
        index: index.parse().map_err(|_| wrong())?,
        count: count.parse().map_err(|_| wrong())?,
    };
    if part.index < part.count { Ok(part) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<LoadOptions, clap::Error> {
        let options = Options::try_parse_from(format!("loadgen steady {line}").split_whitespace())?;
        match options.command {
            Command::Steady(steady) => Ok(steady.load),
            Command::Ramp(ramp) => Ok(ramp.load),
        }
    }

    #[test]
    fn options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_whole_line_is_read() {
        let load = parse(
            "--rate 50k --duration 2m --message-size 1KiB --batch 10 --connections 7 \
             --arrivals burst:8 --part 1/3 --header fixed --in-flight 4",
        )
        .unwrap();
        assert_eq!(load.rate, Rate::PerSecond(50_000.0));
        assert_eq!((load.message_size, load.batch, load.in_flight), (1024, 10, 4));
        assert_eq!(load.arrivals, Arrivals::Burst(8));
        assert_eq!(load.producers(), [1, 4]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "--rate fast",
            "--rate 0",
            "--duration 20",
            "--message-size 39",
            "--message-size 5MiB",
            "--part 3/3",
            "--part 1",
            "--arrivals burst:0",
            "--arrivals often",
            "--header xml",
            "--topic a.b",
            "--batch 0",
            "--queues 0",
            "--namesrv 127.0.0.1:9876 --shards 2",
            "--namesrv 127.0.0.1:9876 --embedded",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }
}
