//! The plan of a run, fixed before it starts: who sends what and when, who consumes it at which
//! rate, and which faults occur when.
//!
//! A scenario is a plain value. `steady` makes one with a single stream and group, a profile or a
//! workload file one with many; [`run`](crate::commands::run) executes both. It does not depend on
//! the target, so all parts of a run on several machines use the same scenario.
//!
//! Times are nanoseconds since the start of the run, rates are messages per second.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ringmq::model::TopicName;
use ringmq::wire::HeaderEncoding;
use serde::{Deserialize, Serialize};

use crate::clock::unix_ns;
use crate::options::{LoadOptions, Part, ProcessOptions, Rate};
use crate::plan::curve::RateCurve;
pub use crate::plan::fault::{Fault, FaultKind, Heard};
use crate::plan::keys::Keys;
use crate::plan::schedule::Arrivals;
use crate::plan::sizes::Sizes;
use crate::plan::threshold::Threshold;
use crate::units;

/// Maximum number of streams and groups together.
pub const TRACKS_MAX: usize = 64;
/// Maximum number of members of a group.
pub const MEMBERS_MAX: u32 = 256;
/// Maximum number of requests that one producer may have in flight.
pub const IN_FLIGHT_MAX: u32 = 65_536;

#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name, such as `steady` or `double11 pulse`.
    pub name: String,
    /// One line of at most 69 columns for reports.
    pub text: String,
    /// Contiguous, from 0 on; at least one.
    pub phases: Vec<Phase>,
    /// At least one.
    pub streams: Vec<Stream>,
    /// Empty: nothing is consumed, so losses cannot be detected. The first group receives every
    /// stream, and its end-to-end latencies are those of the run.
    pub groups: Vec<Group>,
    /// In ascending order of time.
    pub faults: Vec<Fault>,
    pub seed: u64,
    pub arrivals: Arrivals,
    pub part: Part,
    /// When the run starts, ns since 1970, so that parts on several machines start together;
    /// `None`: as soon as everything is ready.
    pub start_unix_ns: Option<u64>,
    /// Number of sending threads.
    pub threads: u32,
    /// Never sleep between messages.
    pub spin: bool,
    /// Assumptions about the workload, and which messages substitute for a broker feature.
    pub assumptions: Vec<String>,
    /// The thresholds, judged by [`crate::findings::rows`].
    pub asked: Vec<Criterion>,
    /// The load exceeds the target's capacity on purpose.
    pub is_overload: bool,
}

/// A named stretch of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub start_ns: u64,
    pub end_ns: u64,
    /// `false` for a warm-up, which is plotted but excluded from all figures.
    pub counts: bool,
    /// What this phase proves, for the report.
    pub proves: String,
}

/// Messages of one kind, and the producers that send them.
#[derive(Clone, Debug)]
pub struct Stream {
    /// One word of letters, digits and `-`; a tag in files.
    pub name: String,
    /// One sentence for a reader who has never run a broker.
    pub role: String,
    /// At least one. Producer I of the stream uses topic I mod topics.
    pub topics: Vec<TopicName>,
    /// Queues of each topic on each broker.
    pub queues: u32,
    pub header: HeaderEncoding,
    /// Rate of all producers together; `None`: as much as the windows allow.
    pub curve: Option<Arc<RateCurve>>,
    pub sizes: Sizes,
    /// Messages per request.
    pub batch: u32,
    /// Number of producers, with one connection each.
    pub connections: u32,
    /// The producers that join late, and when: those with the highest numbers.
    pub late: Option<LateJoin>,
    /// Requests that a producer may have in flight.
    pub in_flight: u32,
    /// Which queue a message goes to.
    pub keys: Keys,
    /// The events of one order are sent one after another to one queue, one in flight at a time,
    /// and their order is part of the verdict. If a producer may have several requests in flight,
    /// it has that many orders in flight.
    pub is_ordered: bool,
    /// One-way: no reply is requested. A loss is counted, but is not a failure.
    pub is_one_way: bool,
    /// How often a refused request is retried.
    pub retries: u32,
    /// Delay of each message at the broker, counted from when it was sent, ms; 0: none.
    pub delay_ms: u64,
    /// The broker feature that these messages substitute for.
    pub stands_in_for: Option<String>,
}

/// Producers that connect shortly before the peak and carry load only from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateJoin {
    /// When each connects, ascending; these are the last `joins.len()` producers of the stream.
    pub joins_ns: Vec<u64>,
    /// When they begin to share the load.
    pub loaded_from_ns: u64,
}

/// Consumers that together receive every message of their streams once.
#[derive(Clone, Debug)]
pub struct Group {
    /// One word; a tag in files, and, with the prefix `loadgen-`, the group's name at the broker.
    pub name: String,
    pub role: String,
    /// Indexes of the streams that it receives.
    pub streams: Vec<usize>,
    /// Messages per second it receives until the last message is due; `None`: all it can.
    pub rate: Option<f64>,
    /// When it receives nothing.
    pub pauses: Vec<Pause>,
    /// Number of consumers that divide the queues among them.
    pub members: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub from_ns: u64,
    pub to_ns: u64,
    /// The consumers are down and have no connections; otherwise they only pause.
    pub is_down: bool,
}

/// A threshold, judged by [`crate::findings::rows`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Criterion {
    /// No acknowledged message is lost, corrupted, or out of order where order is required.
    NothingLost,
    /// p99.9 during phase `phase` is at most `factor` times that of phase `beside`.
    TailWithin { phase: usize, beside: usize, factor: f64 },
    /// p99.9 is back to `factor` times that of phase `beside` within `within` after `after` ends.
    TailBack { after: usize, beside: usize, factor: f64, within: Duration },
    /// In phase `phase`, the share `part` of the acknowledgements came within the time `within`.
    AnsweredWithin { phase: usize, part: f64, within: Duration },
    /// The backlog of group `group` is drained at `factor` times the mean rate of production.
    Drain { group: usize, factor: f64 },
    /// After fault number `fault`, which took a broker away, the next acknowledgement comes within
    /// `within` of the start of the fault, so this includes the time in which the broker is kept
    /// away. For a machine whose work others take over: no shard goes without acknowledgements for
    /// longer.
    BackWithin { fault: usize, within: Duration },
    /// Less than this share of the due messages was refused or not sent.
    Refused { part_max: f64 },
    /// A limit from the command line or the workload file.
    FailIf(Threshold),
}

/// Maximum time until a broker serves again after the fault has ended.
const RETURN_MAX: Duration = Duration::from_secs(3);

/// Maximum time until another replica acknowledges after its leader was taken away.
const TAKE_OVER_MAX: Duration = Duration::from_secs(5);

/// The thresholds for faults that take a broker away.
pub fn asked_of_faults(faults: &[Fault]) -> Vec<Criterion> {
    let asked = faults.iter().enumerate().filter_map(|(fault, Fault { kind, .. })| match kind {
        FaultKind::KillBroker { down: away } | FaultKind::FreezeBroker { length: away } => {
            Some(Criterion::BackWithin { fault, within: *away + RETURN_MAX })
        }
        _ if kind.is_of_machine() => Some(Criterion::BackWithin { fault, within: TAKE_OVER_MAX }),
        _ => None,
    });
    asked.collect()
}

impl Scenario {
    /// A scenario without streams and groups.
    pub fn frame(process: &ProcessOptions, seed: u64, arrivals: Arrivals) -> Self {
        Self {
            name: String::new(),
            text: String::new(),
            phases: Vec::new(),
            streams: Vec::new(),
            groups: Vec::new(),
            faults: Vec::new(),
            seed,
            arrivals,
            part: process.part,
            start_unix_ns: process.start_at.and_then(unix_ns),
            threads: process.threads,
            spin: process.spin,
            assumptions: Vec::new(),
            asked: Vec::new(),
            is_overload: false,
        }
    }

    /// When the last message may be due.
    pub fn end_ns(&self) -> u64 {
        self.phases.last().map_or(0, |phase| phase.end_ns)
    }

    /// When the last message may be due at its consumers.
    pub fn last_arrival_ns(&self) -> u64 {
        self.end_ns() + self.delays_ns().into_iter().max().unwrap_or(0)
    }

    /// The delay of each stream.
    pub fn delays_ns(&self) -> Vec<u64> {
        self.streams.iter().map(|stream| stream.delay_ms * 1_000_000).collect()
    }

    /// Number of tracks: streams, then groups.
    pub fn track_count(&self) -> usize {
        self.streams.len() + self.groups.len()
    }

    /// The track of group number `group`.
    pub fn group_track(&self, group: usize) -> usize {
        self.streams.len() + group
    }

    pub fn topics(&self) -> impl Iterator<Item = (&TopicName, u32)> {
        self.streams
            .iter()
            .flat_map(|stream| stream.topics.iter().map(|topic| (topic, stream.queues)))
    }

    /// Producers of all streams, all parts together.
    pub fn connection_count(&self) -> u32 {
        self.streams.iter().map(|stream| stream.connections).sum()
    }

    /// The numbers of the producers of stream number `stream`: unique over all streams.
    pub fn numbers(&self, stream: usize) -> Range<u32> {
        let first = self.streams[..stream].iter().map(|stream| stream.connections).sum();
        first..first + self.streams[stream].connections
    }

    /// Equal for all parts of a run, and different for different schedules.
    pub fn schedule_id(&self) -> String {
        let whole = Self {
            part: Part { index: 0, count: 1 },
            start_unix_ns: None,
            threads: 1,
            spin: false,
            ..self.clone()
        };
        format!("{:08x}", crc32c::crc32c(format!("{whole:?}").as_bytes()))
    }

    /// Equal for runs that differ only in their seed or their thresholds.
    pub fn workload_id(&self) -> String {
        Self { seed: 0, asked: Vec::new(), ..self.clone() }.schedule_id()
    }

    /// Whether this part of the run has producer `number`.
    pub fn is_mine(&self, number: u32) -> bool {
        number % self.part.count == self.part.index
    }
}

/// One stream of `load`, one group that receives it, one phase.
pub fn steady(load: &LoadOptions) -> Scenario {
    let curve = match load.rate {
        Rate::PerSecond(rate) => Some(RateCurve::constant(rate, load.warm_up() + load.duration)),
        Rate::Max { .. } => None,
    };
    let stream = Stream {
        name: "load".to_owned(),
        role: "messages of one kind at one rate".to_owned(),
        topics: vec![load.topic.clone()],
        queues: load.queues,
        header: load.header.into(),
        curve: curve.map(Arc::new),
        sizes: Sizes::fixed(load.message_size),
        batch: load.batch,
        connections: load.connections,
        late: None,
        in_flight: load.in_flight,
        keys: Keys::None,
        is_ordered: load.in_flight == 1,
        is_one_way: false,
        retries: 0,
        delay_ms: 0,
        stands_in_for: None,
    };
    let group = Group {
        name: "consumer".to_owned(),
        role: "takes everything as it comes".to_owned(),
        streams: vec![0],
        rate: None,
        pauses: Vec::new(),
        members: load.consumers,
    };
    let begin_ns = load.warm_up().as_nanos() as u64;
    let steady = Phase {
        name: "steady".to_owned(),
        start_ns: begin_ns,
        end_ns: begin_ns + load.duration.as_nanos() as u64,
        counts: true,
        proves: "one rate for a while".to_owned(),
    };
    let warm_up = Phase {
        name: "warm-up".to_owned(),
        start_ns: 0,
        end_ns: begin_ns,
        counts: false,
        proves: "fills caches".to_owned(),
    };
    Scenario {
        name: "steady".to_owned(),
        text: load.describe(),
        phases: vec![warm_up, steady]
            .into_iter()
            .filter(|phase| phase.end_ns > phase.start_ns)
            .collect(),
        streams: vec![stream],
        groups: if load.no_consume { Vec::new() } else { vec![group] },
        faults: Vec::new(),
        seed: load.seed,
        arrivals: load.arrivals,
        part: load.part,
        start_unix_ns: None,
        threads: load.threads,
        spin: load.spin,
        assumptions: match load.rate {
            Rate::Max { instead_of: Some(rate) } => vec![units::max_rate_note("--rate", rate)],
            _ => Vec::new(),
        },
        asked: Vec::new(),
        is_overload: false,
    }
}
