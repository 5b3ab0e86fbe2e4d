//! The plan of a run, fixed before it starts: who sends what and when, who consumes it at which rate,
//! and which faults occur when.
//!
//! A scenario is a plain value. `steady` makes one with a single stream and group, a profile or a
//! workload file one with many; [`run`](crate::commands::run) executes both. It does not depend on
//! the target, so all parts of a run on several machines use the same scenario.
//!
//! Times are nanoseconds since the beginning of the run, rates are messages per second.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ringmq::model::TopicName;
use ringmq::wire::HeaderEncoding;
use serde::{Deserialize, Serialize};

use crate::clock::unix_ns;
use crate::options::{LoadOptions, Part, ProcessOptions, Rate};
use crate::plan::curve::RateCurve;
use crate::plan::keys::Keys;
use crate::plan::schedule::Arrivals;
use crate::plan::sizes::Sizes;
use crate::plan::threshold::Threshold;

/// Maximum number of streams and groups together.
pub const TRACKS_MAX: usize = 64;
/// Maximum number of requests that one producer may have in flight.
pub const IN_FLIGHT_MAX: u32 = 65_536;

#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name, such as `steady` or `double11 pulse`.
    pub name: String,
    /// One line of at most 69 columns for reports.
    pub text: String,
    /// Without gaps, from 0 on; at least one.
    pub phases: Vec<Phase>,
    /// At least one.
    pub streams: Vec<Stream>,
    /// Empty: nothing is consumed, so losses cannot be found. The first takes every stream, and its
    /// delays stand for the run's.
    pub groups: Vec<Group>,
    /// In the order of their times.
    pub faults: Vec<Fault>,
    pub seed: u64,
    pub arrivals: Arrivals,
    pub part: Part,
    /// When the run begins, ns since 1970, so that parts on several machines begin together;
    /// `None`: as soon as all is ready.
    pub start_unix_ns: Option<u64>,
    /// Threads that send.
    pub threads: u32,
    /// Never sleep between messages.
    pub spin: bool,
    /// Assumptions about the workload, and which messages substitute for a broker feature.
    pub assumptions: Vec<String>,
    /// The thresholds, judged by [`crate::findings::rows`].
    pub asked: Vec<Asked>,
    /// The load exceeds the target's capacity on purpose.
    pub is_overload: bool,
}

/// A stretch of the run with a name.
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
    /// Of all producers together; `None`: as many as windows allow.
    pub curve: Option<Arc<RateCurve>>,
    pub sizes: Sizes,
    /// Messages per request.
    pub batch: u32,
    /// Producers, a connection each.
    pub connections: u32,
    /// How many of them join late, and when: those with the highest numbers.
    pub late: Option<LateJoin>,
    /// Requests that a producer may have in flight.
    pub in_flight: u32,
    /// Which queue a message goes to.
    pub keys: Keys,
    /// Events of one order follow each other to one queue, one in flight at a time, and their order
    /// is part of the verdict. With more than one in flight per producer, a producer has several
    /// orders in flight.
    pub is_ordered: bool,
    /// One-way: no reply is requested. A loss is counted, but is no failure.
    pub is_one_way: bool,
    /// How often a refused request is retried.
    pub retries: u32,
    /// The broker feature that these messages substitute for.
    pub stands_in_for: Option<String>,
}

/// Producers that connect shortly before the peak and carry load only from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateJoin {
    /// When each connects, ascending: the last `joins.len()` producers of the stream.
    pub joins_ns: Vec<u64>,
    /// From when on they share the load.
    pub loaded_from_ns: u64,
}

/// Consumers that together receive every message of their streams once.
#[derive(Clone, Debug)]
pub struct Group {
    /// One word; a tag in files, and the group's name at the broker behind `loadgen-`.
    pub name: String,
    pub role: String,
    /// Indexes of its streams.
    pub streams: Vec<usize>,
    /// Messages per second it takes until the last message is due; `None`: all it can.
    pub rate: Option<f64>,
    /// When it takes nothing.
    pub pauses: Vec<Pause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub from_ns: u64,
    pub to_ns: u64,
    /// The consumers are down and have no connections; otherwise they only pause.
    pub is_down: bool,
}

/// An injected fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub at_ns: u64,
    pub kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// kill -9, and a start again after a while.
    KillBroker { down: Duration },
    /// kill -9 of the NameServer with this index; `None`: it stays dead.
    KillNameServer { index: usize, down: Option<Duration> },
    /// SIGSTOP, and SIGCONT after a while.
    FreezeBroker { length: Duration },
    /// The file system of the data directory is filled up to this part of its size, for a while.
    FillDisk { to: f64, length: Duration },
    /// The device of the data directory gives this many writes and bytes per second, for a while.
    SlowDisk { writes_per_s: u64, bytes_per_s: u64, length: Duration },
}

impl FaultKind {
    /// How long it lasts; `None`: to the end.
    pub fn length(&self) -> Option<Duration> {
        match self {
            Self::KillBroker { down } => Some(*down),
            Self::KillNameServer { down, .. } => *down,
            Self::FreezeBroker { length }
            | Self::FillDisk { length, .. }
            | Self::SlowDisk { length, .. } => Some(*length),
        }
    }
}

/// A threshold, judged by [`crate::findings::rows`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Asked {
    /// Nothing acknowledged is lost, corrupted, or out of order where order was asked for.
    NothingLost,
    /// p99.9 during phase `phase` is at most `factor` times that of phase `beside`.
    TailWithin { phase: usize, beside: usize, factor: f64 },
    /// p99.9 is back to `factor` times that of phase `beside` within `within` after `after` ends.
    TailBack { after: usize, beside: usize, factor: f64, within: Duration },
    /// In phase `phase` the part `part` of the acknowledgements came `within` this time.
    AnsweredWithin { phase: usize, part: f64, within: Duration },
    /// The backlog of group `group` is drained at `factor` times the mean rate of production.
    Drain { group: usize, factor: f64 },
    /// The first acknowledgement behind fault number `fault`, which took a broker away, comes this
    /// long after it, the time included in which the broker is kept away.
    BackWithin { fault: usize, within: Duration },
    /// Less than this part of what was due was refused or could not be sent.
    Refused { part_max: f64 },
    /// A limit from the command line or the workload file.
    FailIf(Threshold),
}

/// How long a broker may take to serve again once the fault is over.
const RETURN_MAX: Duration = Duration::from_secs(3);

/// What is asked of faults that take a broker away.
pub fn asked_of_faults(faults: &[Fault]) -> Vec<Asked> {
    let asked = faults.iter().enumerate().filter_map(|(fault, Fault { kind, .. })| match kind {
        FaultKind::KillBroker { down: away } | FaultKind::FreezeBroker { length: away } => {
            Some(Asked::BackWithin { fault, within: *away + RETURN_MAX })
        }
        _ => None,
    });
    asked.collect()
}

/// NameServers in processes of their own that `faults` need: one more than can die.
pub fn nameservers(faults: &[Fault]) -> u16 {
    let index = |fault: &Fault| match fault.kind {
        FaultKind::KillNameServer { index, .. } => Some(index as u16),
        _ => None,
    };
    faults.iter().filter_map(index).max().map_or(0, |highest| highest + 2)
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

    /// The same for all parts of a run, and different for different schedules.
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

    /// The same for runs that differ only in their seed, or in what is asked of them.
    pub fn workload_id(&self) -> String {
        Self { seed: 0, asked: Vec::new(), ..self.clone() }.schedule_id()
    }

    /// Whether this part of the run has producer `number`.
    pub fn is_mine(&self, number: u32) -> bool {
        number % self.part.count == self.part.index
    }
}

/// One stream of `load`, one group that takes all of it, one phase.
pub fn steady(load: &LoadOptions) -> Scenario {
    let curve = match load.rate {
        Rate::PerSecond(rate) => Some(RateCurve::constant(rate, load.warm_up() + load.duration)),
        Rate::Max => None,
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
        stands_in_for: None,
    };
    let group = Group {
        name: "consumer".to_owned(),
        role: "takes everything as it comes".to_owned(),
        streams: vec![0],
        rate: None,
        pauses: Vec::new(),
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
        assumptions: Vec::new(),
        asked: Vec::new(),
        is_overload: false,
    }
}
