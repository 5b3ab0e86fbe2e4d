//! One run: executes a scenario on a target, audits it, and reports.
//!
//! ```text
//!   assign ─▶ workers (threads) ─▶ brokers ─▶ consumers (a thread per member of a group)
//!                  └───── outcomes ────────────▶ audit ─▶ report
//! ```
//!
//! Every command that sends consists of such runs on one target:
//! [`steady`](crate::commands::steady) of one, [`ramp`](crate::commands::ramp) of as many as its
//! search takes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use ringmq::client::consumer::QueueRef;
use ringmq::model::{GroupName, TopicName};
use ringmq::wire::HeaderEncoding;
use rustc_hash::FxHashMap;

use crate::background::Background;
use crate::clock::{RunClock, unix_ns};
use crate::commands::conclusion::{Ended, Sums, conclude};
use crate::commands::consuming::{Consuming, join_thread};
use crate::engine::assignment::{Assigned, assign};
use crate::engine::audit::{Arrived, Outcomes};
use crate::engine::consumer::{Consumed, Consumer, ConsumerOptions, GONE_MAX, GROUP_PREFIX};
use crate::engine::measure::{Collector, PhaseEnds, Recorder, Report as Measured};
use crate::engine::members::{Member, Team, TeamOptions};
use crate::engine::pace::Pace;
use crate::engine::producer::{Job, JobTopic, Post, Producer, UNSENT_MAX};
use crate::engine::template::{Template, TemplateError, TemplateOptions};
use crate::engine::worker::{Worker, WorkerOptions};
use crate::findings::merge::MergeError;
use crate::findings::report::Report;
use crate::findings::text::labelled;
use crate::findings::verdict::Verdict;
use crate::interrupt::Interrupt;
use crate::last_ack::LastAck;
use crate::options::TargetOptions;
use crate::plan::keys::QueueChoice;
use crate::plan::scenario::Scenario;
use crate::plan::schedule::Schedule;
use crate::plan::workload::WorkloadError;
use crate::show::compare::CompareError;
use crate::show::files::{FileError, write_files};
use crate::show::live::Live;
use crate::target::cluster::{QueueStart, Target, TargetError};
use crate::target::faults;
use crate::target::routes::{self, Routes};
use crate::target::samples;

/// Time for all threads to start before the first message may be due.
const LEAD: Duration = Duration::from_millis(50);
/// Interval of checks whether threads are done, and whether brokers answer again.
const POLL: Duration = Duration::from_millis(20);

/// Why a command has no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error("{0}")]
    Usage(String),
    #[error("part {index} of {count} has no connection of {connections}")]
    EmptyPart { index: u32, count: u32, connections: u32 },
    #[error("{address} cannot be connected: {cause}")]
    Connect { address: String, cause: io::Error },
    #[error("the generator itself failed: {0}")]
    Generator(io::Error),
    #[error("{path}: {cause}")]
    Files { path: String, cause: io::Error },
}

impl RunError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Template(_) | Self::EmptyPart { .. } | Self::Files { .. } => 2,
            Self::Workload(_) | Self::Merge(_) | Self::Compare(_) => 2,
            Self::Target(error) if error.is_usage() => 2,
            // The run did not complete, so it says nothing about the target.
            Self::Generator(_) => Verdict::Incomplete.exit_code(),
            Self::Target(_) | Self::Connect { .. } => 4,
        }
    }
}

/// Prepares for runs: creates the output directory, finds or starts the brokers.
pub fn prepare(
    options: &TargetOptions,
    out: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Target, RunError> {
    if let Some(directory) = out {
        // Fail before the run if its files cannot be written.
        fs::create_dir_all(directory).map_err(|cause| files(directory, cause))?;
    }
    let target = Target::find(options)?;
    if let Some(embedded) = target.embedded() {
        interrupt.take_along(embedded);
    }
    Ok(target)
}

/// Says on standard error what the run does otherwise than it was asked to.
pub fn announce(scenario: &Scenario) {
    scenario.assumptions.iter().for_each(|text| eprintln!("{}", labelled("note", text).trim_end()));
}

/// Writes the result files, if there is a directory for them. If they cannot be written, prints the
/// report, so that the result of a long run is not lost.
pub fn save(report: &Report, out: Option<&Path>) -> Result<(), RunError> {
    let Some(directory) = out else { return Ok(()) };
    write_files(report, directory).map_err(|FileError { path, cause }| {
        print!("{report}");
        files(&path, cause)
    })
}

fn files(path: &Path, cause: io::Error) -> RunError {
    RunError::Files { path: path.display().to_string(), cause }
}

/// Executes `scenario` and audits it.
pub fn execute(
    scenario: &Scenario,
    target: &mut Target,
    interrupt: &Interrupt,
) -> Result<Report, RunError> {
    target.ensure_topics(scenario)?;
    if scenario.streams.iter().any(|stream| stream.header == HeaderEncoding::Fixed) {
        target.require_fixed_header()?;
    }
    Run::new(scenario, target, interrupt)?.execute()
}

/// State that the threads of a run share.
struct Run<'a> {
    scenario: &'a Scenario,
    target: &'a Target,
    interrupt: &'a Interrupt,
    clock: RunClock,
    phases: PhaseEnds,
    last_ack: Arc<LastAck>,
    routes: Arc<Routes>,
    jobs: Vec<Arc<Job>>,
    /// The producers of this part.
    mine: Vec<Assigned>,
    /// The broker of each of these producers, by producer number.
    broker_of: Arc<FxHashMap<u32, usize>>,
    /// Start of the run's messages in the queues of all topics; empty if nothing is consumed.
    queues: Vec<QueueStart>,
    id: u64,
}

impl<'a> Run<'a> {
    fn new(
        scenario: &'a Scenario,
        target: &'a Target,
        interrupt: &'a Interrupt,
    ) -> Result<Self, RunError> {
        let choices: Vec<QueueChoice> = scenario
            .streams
            .iter()
            .map(|stream| {
                let queue_count = target.queue_count(&stream.topics[0]);
                QueueChoice::new(&stream.keys, &vec![queue_count; target.brokers.len()])
            })
            .collect();
        let mut mine = assign(scenario, target.brokers.len(), &choices);
        mine.retain(|assigned| scenario.is_mine(assigned.number));
        if mine.is_empty() {
            let (index, count) = (scenario.part.index + 1, scenario.part.count);
            let connections = scenario.connection_count();
            return Err(RunError::EmptyPart { index, count, connections });
        }
        let broker_of = mine.iter().map(|assigned| (assigned.number, assigned.broker));
        let broker_of = Arc::new(broker_of.collect());
        let topics: BTreeSet<&TopicName> = scenario.topics().map(|(topic, _)| topic).collect();
        let queues =
            if scenario.groups.is_empty() { Vec::new() } else { target.queue_ends(&topics)? };
        let id = unix_ns(SystemTime::now()).unwrap_or_default() ^ u64::from(process::id()) << 48;
        let clock = RunClock::unset();
        let jobs = (0..scenario.streams.len())
            .map(|stream| {
                let choice = choices[stream].clone();
                job(scenario, stream, target, id, choice, clock.clone())
            })
            .collect::<Result<_, _>>()?;
        let phases = PhaseEnds::new(scenario.phases.iter().map(|phase| phase.end_ns));
        let last_ack = Arc::new(LastAck::of_brokers(target.brokers.len()));
        let routes = Arc::new(Routes::new(target.brokers.clone()));
        Ok(Self {
            scenario,
            target,
            interrupt,
            clock,
            phases,
            last_ack,
            routes,
            jobs,
            mine,
            broker_of,
            queues,
            id,
        })
    }

    fn execute(self) -> Result<Report, RunError> {
        let scenario = self.scenario;
        let threads = (scenario.threads as usize).min(self.mine.len());
        let (reports, measured) = flume::unbounded();
        let recorder = |thread| {
            let tracks = scenario.track_count();
            Recorder::new(thread, tracks, self.phases.clone(), reports.clone())
        };
        let mut consuming: Vec<Consuming> = Vec::new();
        let mut consumers = 0;
        for group in 0..scenario.groups.len() {
            consuming.push(self.consume(group, || {
                consumers += 1;
                recorder(threads + consumers - 1)
            })?);
        }
        let divided = consuming.iter().try_for_each(Consuming::await_members);
        divided.map_err(RunError::Generator)?;
        let mut sending = Vec::new();
        for thread in 0..threads {
            let worker = self.worker(thread, threads, recorder(thread))?;
            sending.push(spawn(&format!("generate-{thread}"), move || worker.run())?);
        }
        drop(reports);
        let watch_routes = routes::watch(self.routes.clone(), self.target.namesrv.clone())
            .map_err(RunError::Generator)?;
        let brokers = self.target.brokers.iter().map(|broker| broker.name.clone()).collect();
        let servers = self.target.embedded().map(|embedded| faults::Servers { embedded, brokers });
        let faults = faults::start(
            scenario.faults.clone(),
            servers,
            self.clock.clone(),
            self.last_ack.clone(),
            self.interrupt.flag(),
        );
        let faults = faults.map_err(RunError::Generator)?;
        let samples = self.target.embedded().map(|it| samples::start(it, self.clock.clone()));
        let samples = samples.transpose().map_err(RunError::Generator)?;
        // No message is due before all threads and connections exist.
        self.clock.start(begin(scenario));

        let all = threads + consumers;
        let mut collector = Collector::new(all, scenario.track_count(), &self.phases);
        let mut live = Live::new(scenario);
        watch(&measured, &mut collector, &mut live, || sending.iter().all(JoinHandle::is_finished));
        let mut sent = Sums::default();
        for thread in sending {
            sent.add(join(thread)?);
        }
        // Undo the faults, so that the consumers can read everything.
        let marks = faults.stop();
        let outcomes: Arc<[Outcomes]> = mem::take(&mut sent.outcomes).into();
        // Delayed messages may not be due yet.
        let last_ns = scenario.last_arrival_ns();
        if last_ns > scenario.end_ns() && !consuming.is_empty() {
            let is_due = || self.clock.now_ns() >= last_ns || self.interrupt.is_raised();
            watch(&measured, &mut collector, &mut live, is_due);
        }
        let ends = self.ends(&consuming);
        for group in &consuming {
            group.sending_ended(&outcomes, ends.as_deref());
        }
        let are_done = || consuming.iter().all(Consuming::is_finished);
        watch(&measured, &mut collector, &mut live, are_done);
        let consumed = consuming.into_iter().map(Consuming::join);
        let consumed = consumed.collect::<io::Result<Vec<Consumed>>>();
        let consumed = consumed.map_err(RunError::Generator)?;
        while let Ok(report) = measured.try_recv() {
            collector.take(report);
        }
        while collector.next_complete().is_some() {}
        watch_routes.stop();
        Ok(conclude(Ended {
            scenario,
            target: self.target,
            clock: self.clock,
            is_cut_short: self.interrupt.is_raised(),
            broker_of: &self.broker_of,
            collector,
            outcomes: &outcomes,
            sent: &sent,
            faults: marks,
            samples: samples.map_or(Vec::new(), Background::stop),
            consumed,
        }))
    }

    /// Sending thread number `thread` of `threads`, with every `threads`-th producer.
    fn worker(
        &self,
        thread: usize,
        threads: usize,
        recorder: Recorder,
    ) -> Result<Worker, RunError> {
        let of_thread = self.mine.iter().skip(thread).step_by(threads);
        let (mut mine, endless): (Vec<&Assigned>, Vec<&Assigned>) =
            of_thread.partition(|assigned| assigned.source.is_some());
        let sources = mine.iter().filter_map(|assigned| assigned.source.clone());
        let schedule = Schedule::new(self.scenario.arrivals, self.scenario.seed, sources);
        let scheduled = mine.len();
        mine.extend(endless);
        let producer = |assigned: &&Assigned| {
            let post =
                Post { number: assigned.number, topic: assigned.topic, broker: assigned.broker };
            (Producer::new(post, self.jobs[assigned.stream].clone()), assigned.joins_ns)
        };
        let options = WorkerOptions {
            clock: self.clock.clone(),
            producers: mine.iter().map(producer).collect(),
            schedule,
            scheduled,
            end_ns: self.scenario.end_ns(),
            spin: self.scenario.spin,
            last_ack: self.last_ack.clone(),
            routes: self.routes.clone(),
            stop: self.interrupt.flag(),
        };
        let connect = |cause| RunError::Connect { address: addresses(self.target), cause };
        Worker::new(options, recorder).map_err(connect)
    }

    /// The ends of all queues after sending, if a group needs them. Waits until the brokers answer,
    /// because a fault may have taken them away, but at most [`GONE_MAX`].
    fn ends(&self, consuming: &[Consuming]) -> Option<Vec<QueueStart>> {
        if !consuming.iter().any(|group| matches!(group, Consuming::Team { .. })) {
            return None;
        }
        let topics = self.scenario.topics().map(|(topic, _)| topic).collect();
        let deadline = Instant::now() + GONE_MAX;
        loop {
            match self.target.queue_ends(&topics) {
                Ok(ends) => return Some(ends),
                Err(_) if self.interrupt.is_raised() || Instant::now() >= deadline => return None,
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// Starts the consumers of a group.
    fn consume(
        &self,
        number: usize,
        mut recorder: impl FnMut() -> Recorder,
    ) -> Result<Consuming, RunError> {
        if self.scenario.groups[number].members == 1 {
            let (sender, outcomes) = flume::bounded(1);
            let consumer = self.consumer(number, recorder(), outcomes)?;
            let thread = spawn(&format!("group-{number}"), move || consumer.run())?;
            return Ok(Consuming::One { thread, sender });
        }
        let team = self.team(number)?;
        let queues = self.queues_of(number).map(|(place, _)| place).collect();
        let start = |member| {
            let of_team = Member::new(team.clone(), member, recorder());
            spawn(&format!("group-{number}-{member}"), move || of_team.run())
        };
        let members = 0..self.scenario.groups[number].members as usize;
        let threads = members.map(start).collect::<Result<_, _>>()?;
        Ok(Consuming::Team { team, threads, queues, stop: self.interrupt.flag() })
    }

    /// The queues of a group's topics, with their indexes among all queues.
    fn queues_of(&self, number: usize) -> impl Iterator<Item = (usize, &QueueStart)> {
        let topics = self.topics_of(number);
        self.queues.iter().enumerate().filter(move |(_, queue)| topics.contains(&queue.topic))
    }

    fn topics_of(&self, number: usize) -> BTreeSet<&TopicName> {
        let streams = self.scenario.groups[number].streams.iter();
        streams.flat_map(|stream| &self.scenario.streams[*stream].topics).collect()
    }

    /// The messages that a group is to receive.
    fn arrived(&self, number: usize) -> Arrived {
        let streams = &self.scenario.groups[number].streams;
        let taken = self.mine.iter().filter(|assigned| streams.contains(&assigned.stream));
        let producers: Vec<(u16, u32)> =
            taken.map(|assigned| (assigned.stream as u16, assigned.number)).collect();
        Arrived::new(self.id, &producers).with_delays(self.scenario.delays_ns())
    }

    /// The name of a group at the broker. A group with several members has a different name in each
    /// part of a run, or the parts would divide the messages among them.
    fn group_name(&self, number: usize) -> Result<GroupName, RunError> {
        let (group, part) = (&self.scenario.groups[number], self.scenario.part);
        let suffix = match group.members > 1 && part.count > 1 {
            true => format!("-part-{}", part.index + 1),
            false => String::new(),
        };
        let name = format!("{GROUP_PREFIX}{}{suffix}", group.name);
        GroupName::new(name).map_err(|error| RunError::Usage(error.to_string()))
    }

    /// A group with several members. Commits its offsets where the run begins.
    fn team(&self, number: usize) -> Result<Arc<Team>, RunError> {
        let (group, name) = (&self.scenario.groups[number], self.group_name(number)?);
        let starts: Vec<QueueStart> = self.queues_of(number).map(|(_, at)| at.clone()).collect();
        self.target.commit(&name, &starts)?;
        let queue = |start: QueueStart| {
            let broker = self.target.brokers[start.broker].name.clone();
            let (topic, queue) = (start.topic, start.queue);
            (QueueRef { topic, broker, queue }, start.broker, start.offset)
        };
        let pace = Pace::new(group.rate, group.pauses.clone());
        Ok(Team::new(TeamOptions {
            clock: self.clock.clone(),
            namesrv: self.target.namesrv.clone(),
            group: name,
            topics: self.topics_of(number).into_iter().cloned().collect(),
            count: group.members as usize,
            track: self.scenario.group_track(number),
            pace: pace.divided_by(group.members),
            queues: starts.into_iter().map(queue).collect(),
            arrived: self.arrived(number),
            broker_of: self.broker_of.clone(),
        }))
    }

    fn consumer(
        &self,
        number: usize,
        recorder: Recorder,
        outcomes: flume::Receiver<Arc<[Outcomes]>>,
    ) -> Result<Consumer, RunError> {
        let group = &self.scenario.groups[number];
        let encoding = self.scenario.streams[group.streams[0]].header;
        let options = ConsumerOptions {
            clock: self.clock.clone(),
            group: self.group_name(number)?,
            track: self.scenario.group_track(number),
            pace: Pace::new(group.rate, group.pauses.clone()),
            encoding,
            broker_count: self.target.brokers.len(),
            routes: self.routes.clone(),
            queues: self.queues_of(number).map(|(_, at)| at.clone()).collect(),
            arrived: self.arrived(number),
            broker_of: self.broker_of.clone(),
        };
        let connect = |cause| RunError::Connect { address: addresses(self.target), cause };
        Consumer::new(options, recorder, outcomes).map_err(connect)
    }
}

/// When the first message may be due: at the time agreed with the other parts, or now.
fn begin(scenario: &Scenario) -> Instant {
    let agreed_ns = scenario.start_unix_ns;
    let until_ns = agreed_ns.and_then(|agreed| agreed.checked_sub(unix_ns(SystemTime::now())?));
    Instant::now() + until_ns.map_or(LEAD, Duration::from_nanos)
}

fn job(
    scenario: &Scenario,
    stream: usize,
    target: &Target,
    run: u64,
    choice: QueueChoice,
    clock: RunClock,
) -> Result<Arc<Job>, RunError> {
    let of = &scenario.streams[stream];
    let sizes: Vec<usize> = of.sizes.classes().collect();
    let topic = |topic: &TopicName| {
        let queue_count = target.queue_count(topic);
        let options = TemplateOptions {
            encoding: of.header,
            topic,
            queue_count,
            sizes: &sizes,
            batch: of.batch,
            is_one_way: of.is_one_way,
            delay_ms: of.delay_ms,
        };
        let template = Template::new(&options)?;
        Ok::<_, TemplateError>(JobTopic { template, queue_count })
    };
    Ok(Arc::new(Job {
        run,
        stream: stream as u16,
        seed: scenario.seed,
        batch: of.batch,
        in_flight: of.in_flight,
        is_ordered: of.is_ordered,
        is_one_way: of.is_one_way,
        retries: of.retries,
        unsent_max: (UNSENT_MAX / scenario.connection_count().max(1)) as usize,
        sizes: of.sizes.clone(),
        choice,
        topics: of.topics.iter().map(topic).collect::<Result<_, _>>()?,
        clock,
    }))
}

fn addresses(target: &Target) -> String {
    let addresses: Vec<String> =
        target.brokers.iter().map(|broker| broker.address.to_string()).collect();
    addresses.join(", ")
}

/// Shows each complete second, until `is_done`.
fn watch(
    measured: &flume::Receiver<Measured>,
    collector: &mut Collector,
    live: &mut Live,
    is_done: impl Fn() -> bool,
) {
    while !is_done() {
        match measured.recv_timeout(POLL) {
            Ok(report) => collector.take(report),
            Err(flume::RecvTimeoutError::Timeout) => continue,
            Err(flume::RecvTimeoutError::Disconnected) => return,
        }
        while let Some((second, tracks)) = collector.next_complete() {
            live.show(second, &tracks);
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, RunError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(RunError::Generator)
}

fn join<T>(thread: JoinHandle<io::Result<T>>) -> Result<T, RunError> {
    join_thread(thread).map_err(RunError::Generator)
}
