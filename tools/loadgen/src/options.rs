//! The command line. These texts are the manual.

pub mod values;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringmq::model::TopicName;
use ringmq::wire::HeaderEncoding;

pub use crate::options::values::Part;
use crate::options::values::{
    parse_arrivals, parse_fault, parse_message_size, parse_part, parse_rate, parse_rate_per_s,
    parse_start, parse_topic, parse_warm_up,
};
use crate::plan::fault::{Fault, has_partition, nameservers};
use crate::plan::schedule::Arrivals;
use crate::plan::threshold::Threshold;
pub use crate::units::Rate;
use crate::units::{self, grouped};

/// Peak rate of the profile, as a multiple of the base rate.
pub const PEAK_OF_BASE: f64 = 25.0;

/// Open-loop load generator for RocketMQ and RingMQ that audits every acknowledgement.
///
/// The schedule is fixed before anything is sent, and latency counts from the moment a message was
/// due. After the run every acknowledgement is reconciled with what was consumed.
///
/// The verdict is about the broker: PASS, FAILED (an acknowledged message was lost or corrupted, or
/// came out of order in a stream that asked for order), OVERLOADED (less than 99 % of what was due
/// was acknowledged) or INCOMPLETE (the run was cut short, or queues were not read to their end).
/// Whether the latencies are valid is reported beside it: they are not when the generator itself was
/// late. The last line of standard output starts with the verdict and names what was lost.
///
/// Exit codes: 0 PASS; 1 FAILED; 2 wrong usage or files; 3 the latencies are not valid and the run
/// needs valid ones (--strict, --fail-if, ramp); 4 the target cannot be reached or used; 5 OVERLOADED; 6 a
/// threshold (--fail-if, or one of the profile) was missed; 7 INCOMPLETE. If several apply, the order is 1, 7, 5, 3, 6.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadgen", version)]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Sends at a constant rate.
    Steady(SteadyOptions),
    /// Searches for the highest rate that the target sustains.
    ///
    /// Each run takes --duration. The rate starts at --rate and doubles while it is sustained; then
    /// the search narrows it down to 5 %. A rate that is not sustained is tried twice. Sustained
    /// means: everything is acknowledged in time, nothing refused, the p99 of latency at most
    /// --p99-max, and everything consumed within 1 s of the last send. The report is that of the best
    /// run, whose latencies must be valid. A lost message ends the search.
    Ramp(RampOptions),
    /// Simulates the night of a big sale: the order system of a shop around midnight.
    ///
    /// Six streams of messages (orders, payments, inventory, marketing, timeouts, logs) rise
    /// twentyfold within one second. Five consumer groups receive them at different rates. Times are
    /// in seconds from midnight; --compress shortens everything but that one second. The report
    /// lists the assumptions, because no such shop has published its traffic.
    Double11(Double11Options),
    /// Runs a workload file.
    ///
    /// The file is YAML with the field names of OpenMessaging Benchmark, or TOML with the same names;
    /// streams, groups, phases and faults are additions. The file says what is sent, the options
    /// where. producerRate 0 searches for the highest rate that the target sustains.
    Run(RunOptions),
    /// Compares the reports of several runs.
    ///
    /// Runs with the same target and workload are repeats, whatever their seeds. Six or more repeats
    /// give confidence intervals. Latencies that are not valid are left out.
    Compare(CompareOptions),
    /// Merges the reports of all parts (--part) of a run.
    Merge(MergeOptions),
}

#[derive(Args, Clone, Debug)]
pub struct SteadyOptions {
    #[command(flatten)]
    pub target: TargetOptions,

    #[command(flatten)]
    pub load: LoadOptions,

    /// When the first message may be due, so that all parts of a run start together: RFC 3339 in
    /// UTC, such as `2026-11-10T16:00:00Z`, or seconds since 1970. Without it, immediately.
    #[arg(long, value_name = "TIME", value_parser = parse_start, help_heading = "Load")]
    pub start_at: Option<SystemTime>,

    #[command(flatten)]
    pub report: ReportOptions,
}

#[derive(Args, Clone, Debug)]
pub struct RampOptions {
    #[command(flatten)]
    pub target: TargetOptions,

    #[command(flatten)]
    pub load: LoadOptions,

    /// A rate whose p99 of latency, counted from the due time, is higher is not sustained.
    #[arg(long, value_name = "TIME", default_value = "100ms", help_heading = "Search")]
    #[arg(value_parser = units::parse_duration)]
    pub p99_max: Duration,

    #[command(flatten)]
    pub report: ReportOptions,
}

#[derive(Args, Clone, Debug)]
pub struct Double11Options {
    /// What the run tests.
    #[arg(value_name = "NIGHT", value_enum, default_value_t = Night::Pulse)]
    pub night: Night,

    #[command(flatten)]
    pub target: TargetOptions,

    #[command(flatten)]
    pub profile: ProfileOptions,

    #[command(flatten)]
    pub process: ProcessOptions,

    #[command(flatten)]
    pub report: ReportOptions,
}

/// What a run is to show; after the four load tests that Alibaba holds before its own sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Night {
    /// The whole night: does the broker absorb the step at midnight without losing anything?
    Pulse,
    /// A search without the night: what rate of this mixture of messages does the target sustain?
    Ceiling,
    /// Twice the peak: is the excess refused rather than queued, and does the rest keep its latency?
    Limits,
    /// The night with faults around midnight: does everything acknowledged survive?
    Break,
}

/// The shop and its night.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Profile")]
pub struct ProfileOptions {
    /// Messages per second at the peak, 26 s after midnight: `50000`, `50k`, `1.5M`; less than 10M,
    /// because a night follows a schedule. Without --peak and --base, a search finds the ceiling first,
    /// and the peak is 80 % of it.
    #[arg(long, value_name = "RATE", value_parser = parse_rate_per_s)]
    pub peak: Option<f64>,

    /// Messages per second before the sale. The peak is 25 times as high.
    #[arg(long, value_name = "RATE", value_parser = parse_rate_per_s, conflicts_with = "peak")]
    pub base: Option<f64>,

    /// Divides all times of the night, except the second after midnight in which the load rises
    /// twentyfold. With 1 the night takes 80 minutes, with 60 81 seconds. A short night has fewer
    /// messages per phase, so its highest percentiles mean less.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=600))]
    pub compress: u32,

    /// Producers of the whole run, one connection each. One in ten connects at the start, the others
    /// in the last minute before midnight. More producers mean more system calls for the same
    /// messages, and so more CPU in generator and broker.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(20..=50_000))]
    pub connections: u32,

    /// Queues of each of the six topics on each broker (shard). Existing topics must have this number.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub queues: u32,

    /// Consumers of each of the five groups. With one, it reads all queues. Several are members of a
    /// consumer group as stock consumers are: they divide the queues among them, and each has a thread of
    /// its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub consumers: u32,

    /// Header encoding: `json` and `binary` are RocketMQ's, `fixed` is RingMQ's.
    #[arg(long, value_enum, default_value_t = Header::Json)]
    pub header: Header,

    /// Arrival process: `poisson`, `uniform` (evenly spaced), or `burst:K` (K requests of a producer
    /// at once).
    #[arg(long, value_name = "KIND", default_value = "poisson", value_parser = parse_arrivals)]
    pub arrivals: Arrivals,

    /// Seed of the schedule.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// In the search for the ceiling, a rate whose p99 of latency, counted from the due time, is
    /// higher is not sustained.
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    #[arg(value_parser = units::parse_duration)]
    pub p99_max: Duration,
}

/// This process of possibly several.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
pub struct ProcessOptions {
    /// Runs part I of N (I from 1 to N) of the producers. N processes with the same options make up
    /// one run; `loadgen merge` merges their reports.
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = parse_part)]
    pub part: Part,

    /// When the run starts, so that all its parts start together: RFC 3339 in UTC, such as
    /// `2026-11-10T16:00:00Z`, or seconds since 1970. Without it, immediately.
    #[arg(long, value_name = "TIME", value_parser = parse_start)]
    pub start_at: Option<SystemTime>,

    /// Sending threads. The connections are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,

    /// Never sleep between messages: less lateness, but every sending thread uses a whole core.
    #[arg(long)]
    pub spin: bool,
}

#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// The workload: a `.yaml`, `.yml` or `.toml` file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    #[command(flatten)]
    pub target: TargetOptions,

    #[command(flatten)]
    pub process: ProcessOptions,

    /// In the search for a rate (producerRate 0), a rate whose p99 of latency, counted from the due
    /// time, is higher is not sustained.
    #[arg(long, value_name = "TIME", default_value = "100ms", help_heading = "Search")]
    #[arg(value_parser = units::parse_duration)]
    pub p99_max: Duration,

    #[command(flatten)]
    pub report: ReportOptions,
}

#[derive(Args, Clone, Debug)]
pub struct CompareOptions {
    /// Two or more `report.json` files, as `FILE` or `NAME=FILE`. Runs with the same name are repeats,
    /// whatever their target.
    #[arg(value_name = "REPORT", required = true, num_args = 2..)]
    pub reports: Vec<String>,

    /// Directory for compare.html. Created if missing.
    #[arg(long, value_name = "DIR", help_heading = "Report")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct MergeOptions {
    /// The `report.json` files of all parts of a run.
    #[arg(value_name = "REPORT", required = true, num_args = 2..)]
    pub reports: Vec<PathBuf>,

    #[command(flatten)]
    pub report: ReportOptions,
}

/// What becomes of the results.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Report")]
pub struct ReportOptions {
    /// Directory for report.json, report.html, latency.hlog and latency.hgrm. Created if missing.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Exits with code 3 if the latencies are not valid because the generator was late, as `ramp`
    /// always does.
    #[arg(long)]
    pub strict: bool,

    /// Exits with code 6 if a figure is beyond a limit: `p99>20ms`, `rate<50k`, `refused>1%`. May be
    /// given several times. Figures: p50, p90, p99, p99.9, p99.99 and max of latency; the same with
    /// the prefix `e2e-` for the time from due to consumed; rate, the acknowledged messages per
    /// second; refused, not-sent and unanswered, as shares of the messages due. Requires valid
    /// latencies, as --strict does. A limit that the run cannot be judged by is missed.
    #[arg(long, value_name = "LIMIT", value_parser = Threshold::parse)]
    pub fail_if: Vec<Threshold>,
}

/// Where the load goes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Target")]
pub struct TargetOptions {
    /// Starts `ringmq dev` for the run and stops it afterwards. The default.
    ///
    /// The program is $RINGMQ_BIN if that is set, otherwise the broker built into loadgen.
    #[arg(long, conflicts_with = "namesrv")]
    pub embedded: bool,

    /// Shards of the embedded broker, one per core.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "namesrv")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(ringmq::config::SHARDS_MAX)))]
    pub shards: u16,

    /// Data directory of the embedded broker, which is kept. Without it, a temporary directory is used
    /// and removed.
    #[arg(long, value_name = "DIR", conflicts_with = "namesrv")]
    pub data: Option<PathBuf>,

    /// When the embedded broker acknowledges: `sync`, once the message is on stable media; `async`,
    /// once the device has accepted the write.
    #[arg(long, value_enum, default_value_t = Flush::Sync, conflicts_with = "namesrv")]
    pub flush: Flush,

    /// NameServers of the embedded broker, each in its own process. 0: one, inside the broker's
    /// process. With 2 or more, a fault can kill one.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "namesrv")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=9))]
    pub nameservers: u16,

    /// Puts the data directory of the embedded broker on its own file system, an ext4 image of this
    /// size, such as `2GiB`. Faults can then fill or slow down that disk. Needs root.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, conflicts_with = "namesrv")]
    pub disk_image: Option<usize>,

    /// Runs the embedded broker as this many replicas, each a process of its own that stands for a
    /// machine, with two NameServers. A message is acknowledged when most replicas have it.
    #[arg(long, value_name = "N", conflicts_with = "namesrv")]
    #[arg(value_parser = clap::value_parser!(u16).range(3..=9))]
    pub replicas: Option<u16>,

    /// Takes away the machine that leads the first shard, `KIND@TIME+LENGTH` such as
    /// `kill-machine@20s+5s`; TIME counts from the start of the run, warm-up included. May be given
    /// several times. kill-machine: kill -9, started again after LENGTH. pause-machine: SIGSTOP.
    /// partition: it and the other replicas do not reach each other; partition-out: they do not hear
    /// it; partition-in: it does not hear them. The report says for how long each shard acknowledged
    /// nothing.
    #[arg(long = "fault", value_name = "FAULT", value_parser = parse_fault, requires = "replicas")]
    pub faults: Vec<Fault>,

    /// Replicas reach each other through relays, because the run has a partition.
    #[arg(skip)]
    pub has_relays: bool,

    /// NameServers of a running cluster, `HOST:PORT`; separate several with `,` or `;`. Anything that
    /// speaks the RocketMQ protocol.
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    pub namesrv: Option<String>,
}

impl TargetOptions {
    /// The same options with what these faults and those of the command line need, if the target is
    /// embedded: NameServers in processes of their own, and relays.
    pub fn with_faults(&self, faults: &[Fault]) -> Self {
        let wanted = if self.namesrv.is_some() { 0 } else { nameservers(faults) };
        let has_relays = has_partition(faults) || has_partition(&self.faults);
        Self { nameservers: self.nameservers.max(wanted), has_relays, ..self.clone() }
    }
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
    /// Topic to use. Created on every broker unless it exists. An existing topic must have the number
    /// of queues given by --queues and be readable and writable: loadgen changes no topic.
    #[arg(long, default_value = "loadgen", value_name = "NAME", value_parser = parse_topic)]
    pub topic: TopicName,

    /// Queues of the topic on each broker (shard).
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub queues: u32,

    /// Messages per second, all parts together: `50000`, `50k`, `1.5M`; or `max`, which every rate
    /// from 10M means: each connection keeps its window full, and a message is due when it is sent.
    #[arg(long, value_name = "RATE", default_value = "10k", value_parser = parse_rate)]
    pub rate: Rate,

    /// How long to send, after the warm-up: `500ms`, `20s`, `5m`, `1h`.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = units::parse_duration)]
    pub duration: Duration,

    /// Warm-up: how long the same load is sent first, excluded from all figures: `2s`; `0` for none.
    /// Without it, 10 % of the duration, at most 30 s.
    #[arg(long, value_name = "TIME", value_parser = parse_warm_up)]
    pub warmup: Option<Duration>,

    /// Size of a message body: `128`, `1KiB`, `64KiB`. Bodies are half compressible.
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = parse_message_size)]
    pub message_size: usize,

    /// Messages per request. All messages of a batch are due at the same time and go to the same queue.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,

    /// Producers of the whole run, one connection each. They are divided evenly among the brokers.
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub connections: u32,

    /// Requests that a connection may have in flight. A message that is due while the window is full
    /// waits in the generator, and the wait counts as latency; after 3 s it is given up as not sent.
    /// With 1, the order of each producer's messages is part of the verdict.
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,

    /// Header encoding: `json` and `binary` are RocketMQ's, `fixed` is RingMQ's.
    #[arg(long, value_enum, default_value_t = Header::Json)]
    pub header: Header,

    /// Arrival process: `poisson`, `uniform` (evenly spaced), or `burst:K` (K requests of a producer
    /// at once).
    #[arg(long, value_name = "KIND", default_value = "poisson", value_parser = parse_arrivals)]
    pub arrivals: Arrivals,

    /// Seed of the schedule.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Runs part I of N (I from 1 to N) of the producers. N processes with the same options make up
    /// one run; `loadgen merge` merges their reports.
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = parse_part)]
    pub part: Part,

    /// Consumers of the group. With one, it reads all queues. Several are members of a consumer group as
    /// stock consumers are: they divide the queues among them, and each has a thread of its own. They read
    /// with RocketMQ's header whatever --header says.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub consumers: u32,

    /// Sends only. Nothing is consumed, so losses are not detected.
    #[arg(long)]
    pub no_consume: bool,

    /// Sending threads. The connections are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,

    /// Never sleep between messages: less lateness, but every sending thread uses a whole core.
    #[arg(long)]
    pub spin: bool,
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

/// Name of a header encoding on the command line.
pub fn header_name(header: HeaderEncoding) -> &'static str {
    match header {
        HeaderEncoding::Json => "json",
        HeaderEncoding::Binary => "binary",
        HeaderEncoding::Fixed => "fixed",
    }
}

impl LoadOptions {
    pub fn warm_up(&self) -> Duration {
        const MAX: Duration = Duration::from_secs(30);
        self.warmup.unwrap_or_else(|| (self.duration / 10).min(MAX))
    }

    /// One line of at most 69 columns, for reports.
    pub fn describe(&self) -> String {
        let rate = match self.rate {
            Rate::PerSecond(rate) => format!("{}/s", grouped(rate as u64)),
            Rate::Max { instead_of } => units::max_rate(instead_of),
        };
        let arrivals = match (self.rate, self.arrivals) {
            (Rate::Max { .. }, _) => String::new(),
            (_, Arrivals::Poisson) => " poisson".to_owned(),
            (_, Arrivals::Uniform) => " uniform".to_owned(),
            (_, Arrivals::Burst(size)) => format!(" burst:{size}"),
        };
        let header = header_name(self.header.into());
        let seconds = self.duration.as_secs_f64();
        let (size, batch) = (self.message_size, self.batch);
        let (connections, in_flight) = (self.connections, self.in_flight);
        format!(
            "{rate}{arrivals} x {size} B, {seconds} s, batch {batch}, \
         {connections} conn x {in_flight}, {header}"
        )
    }
}

impl ProfileOptions {
    /// The peak rate in messages per second, if it is given.
    pub fn peak(&self) -> Option<f64> {
        self.peak.or(self.base.map(|base| base * PEAK_OF_BASE))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::golden::assert_golden;
    use crate::plan::fault::{FaultKind, Heard};
    use crate::plan::scenario::steady;

    fn parse(line: &str) -> Result<LoadOptions, clap::Error> {
        let options = Options::try_parse_from(format!("loadgen steady {line}").split_whitespace())?;
        match options.command {
            Command::Steady(steady) => Ok(steady.load),
            other => panic!("not a steady run: {other:?}"),
        }
    }

    fn parse_double11(line: &str) -> Result<Double11Options, clap::Error> {
        let line = format!("loadgen double11 {line}");
        match Options::try_parse_from(line.split_whitespace())?.command {
            Command::Double11(options) => Ok(options),
            other => panic!("not a night: {other:?}"),
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
             --arrivals burst:8 --part 2/3 --header fixed --in-flight 4",
        )
        .unwrap();
        assert_eq!(load.rate, Rate::PerSecond(50_000.0));
        assert_eq!((load.message_size, load.batch, load.in_flight), (1024, 10, 4));
        assert_eq!(load.arrivals, Arrivals::Burst(8));
        let scenario = steady(&load);
        let mine = (0..load.connections).filter(|&number| scenario.is_mine(number));
        assert_eq!(mine.collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn a_warm_up_is_a_tenth_of_the_run_unless_it_is_said() {
        let rows = [
            ("", 2_000),
            ("--duration 10m", 30_000),
            ("--warmup 5s", 5_000),
            ("--warmup 0", 0),
            ("--warmup 0s --duration 10m", 0),
        ];
        for (line, ms) in rows {
            let load = parse(line).unwrap();
            assert_eq!(load.warm_up().as_millis(), ms, "{line}");
            let scenario = steady(&load);
            assert_eq!(scenario.end_ns(), (load.duration.as_nanos() + ms * 1_000_000) as u64);
            let counted: Vec<bool> = scenario.phases.iter().map(|phase| phase.counts).collect();
            assert_eq!(counted, if ms == 0 { vec![true] } else { vec![false, true] }, "{line}");
        }
    }

    #[test]
    fn faults_of_machines_are_given_with_their_times() {
        let load = "steady --replicas 3 --fault partition-out@1500ms+2s --fault kill-machine@0+1s";
        let options = Options::try_parse_from(format!("loadgen {load}").split(' ')).unwrap();
        let Command::Steady(SteadyOptions { target, .. }) = options.command else { panic!() };
        let length = Duration::from_secs(2);
        let expected = [
            Fault {
                at_ns: 1_500_000_000,
                kind: FaultKind::Partition { heard: Heard::Others, length },
            },
            Fault { at_ns: 0, kind: FaultKind::KillMachine { down: Duration::from_secs(1) } },
        ];
        assert_eq!(target.faults, expected);
        assert!(target.with_faults(&[]).has_relays);
        for wrong in [
            "steady --fault kill-machine@1s+1s",
            "steady --replicas 3 --fault kill-machine@1s",
            "steady --replicas 3 --fault kill-broker@1s+1s",
            "steady --replicas 2",
            "steady --replicas 3 --namesrv a:1",
        ] {
            assert!(Options::try_parse_from(format!("loadgen {wrong}").split(' ')).is_err());
        }
    }

    /// The load says so where the report is read first.
    #[test]
    fn a_rate_that_is_taken_as_max_is_said_to_be() {
        for (rate, said) in [("10M", "max (for 10,000,000/s) x "), ("max", "max x ")] {
            let load = parse(&format!("--rate {rate}")).unwrap();
            assert!(load.describe().starts_with(said), "{}", load.describe());
            assert!(load.describe().len() <= 69, "{}", load.describe());
            assert_eq!(steady(&load).assumptions.len(), usize::from(rate != "max"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "--rate fast",
            "--rate 0",
            "--duration 20",
            "--warmup soon",
            "--message-size 39",
            "--message-size 5MiB",
            "--part 4/3",
            "--part 0/3",
            "--part 1",
            "--start-at soon",
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

    #[test]
    fn a_night_is_a_pulse_unless_another_is_named() {
        let night = parse_double11("").unwrap();
        assert_eq!((night.night, night.profile.compress), (Night::Pulse, 1));
        assert_eq!(night.profile.peak(), None);
        let night = parse_double11("break --base 400 --compress 60 --nameservers 2").unwrap();
        assert_eq!((night.night, night.profile.peak()), (Night::Break, Some(10_000.0)));
        assert_eq!(parse_double11("--peak 50k").unwrap().profile.peak(), Some(50_000.0));
        for line in ["noon", "--peak max", "--peak 5 --base 5", "--compress 0", "--connections 9"] {
            assert_eq!(
                parse_double11(line).err().map(|error| error.exit_code()),
                Some(2),
                "{line}"
            );
        }
    }

    #[test]
    fn reports_are_joined_and_compared_from_two_on() {
        for command in ["compare", "merge"] {
            let parse = |line: &str| {
                let line = format!("loadgen {command} {line}");
                Options::try_parse_from(line.split_whitespace()).map(|options| options.command)
            };
            assert!(parse("a.json").is_err());
            let (count, out) = match parse("a.json b.json c.json --out d").unwrap() {
                Command::Compare(CompareOptions { reports, out }) => (reports.len(), out),
                Command::Merge(MergeOptions { reports, report }) => (reports.len(), report.out),
                other => panic!("{other:?}"),
            };
            assert_eq!((count, out), (3, Some(PathBuf::from("d"))));
        }
    }

    /// To change these texts is to change the product.
    #[test]
    fn help_as_printed() {
        for command in ["steady", "ramp", "double11", "run", "compare", "merge"] {
            let help = Options::try_parse_from(["loadgen", command, "--help"]).unwrap_err();
            assert_golden(&format!("{command}-help.txt"), &help.to_string());
        }
    }
}
