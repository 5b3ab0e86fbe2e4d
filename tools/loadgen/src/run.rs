//! One run: schedule, threads, live lines, drain, audit, report.
//!
//! Every mode is one or more of these on the same target: [`steady`](crate::steady) is one,
//! [`ramp`](crate::ramp) as many as its search takes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::audit::{Arrived, Outcomes};
use crate::clock::RunClock;
use crate::consumer::{Consumed, Consumer, ConsumerOptions, QueueStart};
use crate::curve::RateCurve;
use crate::environment;
use crate::interrupt::Interrupt;
use crate::live::Live;
use crate::measure::{Collector, Recorder, Report as Measured};
use crate::options::{Header, LoadOptions, TargetOptions};
use crate::producer::{Job, Producer};
use crate::report::{Report, Subject, write_files};
use crate::schedule::Schedule;
use crate::target::{Target, TargetError};
use crate::template::{Template, TemplateError, TemplateOptions};
use crate::worker::{Finished, Supply, Worker, WorkerOptions};

/// Time for all threads to be at their posts before the first message is due.
const LEAD: Duration = Duration::from_millis(50);

/// What stands between the command and a report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Template(#[from] TemplateError),
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
            Self::Target(TargetError::NoFixedHeader(_)) => 2,
            Self::Generator(_) => 3,
            Self::Target(_) | Self::Connect { .. } => 4,
        }
    }
}

/// What one run sends.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    pub load: &'a LoadOptions,
    /// Messages per second over time; `None`: as many as windows allow.
    pub curve: Option<RateCurve>,
    pub length: Duration,
    /// One line for the report.
    pub load_text: String,
}

impl<'a> Plan<'a> {
    /// One rate, in messages per second, for as long as `load` says.
    pub fn constant(load: &'a LoadOptions, rate: f64) -> Self {
        let curve = Some(RateCurve::constant(rate, load.duration));
        Self { load, curve, length: load.duration, load_text: load.describe() }
    }

    /// As many messages as windows allow.
    pub fn flat_out(load: &'a LoadOptions) -> Self {
        Self { load, curve: None, length: load.duration, load_text: load.describe() }
    }
}

/// Makes everything ready for runs: the directory, the brokers, the topic.
pub fn prepare(
    target: &TargetOptions,
    load: &LoadOptions,
    out: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Target, RunError> {
    if let Some(directory) = out {
        // A run whose files cannot be written is not worth starting.
        fs::create_dir_all(directory).map_err(|cause| files(directory, cause))?;
    }
    let target = Target::prepare(target, load)?;
    if let Some(embedded) = target.embedded() {
        interrupt.take_along(embedded.pid());
    }
    if load.header == Header::Fixed {
        target.require_fixed_header()?;
    }
    Ok(target)
}

/// Writes the report's files, if there is a directory for them.
pub fn save(report: &Report, out: Option<&Path>) -> Result<(), RunError> {
    let Some(directory) = out else { return Ok(()) };
    write_files(report, directory).map_err(|cause| files(directory, cause))
}

fn files(path: &Path, cause: io::Error) -> RunError {
    RunError::Files { path: path.display().to_string(), cause }
}

/// Carries out `plan` and audits it.
pub fn execute(
    plan: &Plan<'_>,
    target: &Target,
    interrupt: &Interrupt,
) -> Result<Report, RunError> {
    let load = plan.load;
    let mine = load.producers();
    if mine.is_empty() {
        let (index, count) = (load.part.index, load.part.count);
        return Err(RunError::EmptyPart { index, count, connections: load.connections });
    }
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
        ^ u64::from(process::id()) << 48;
    let threads = (load.threads as usize).min(mine.len());
    let (reports, measured) = flume::unbounded();
    let starts = if load.no_consume { Vec::new() } else { target.queue_ends(&load.topic)? };
    let clock = RunClock::starting_at(Instant::now() + LEAD + connect_time(mine.len()));

    let mut sending = Vec::with_capacity(threads);
    for thread in 0..threads {
        let numbers: Vec<u32> = mine.iter().copied().skip(thread).step_by(threads).collect();
        let recorder = Recorder::new(thread, reports.clone());
        let worker = worker(plan, target, run, clock, &numbers, recorder, interrupt)?;
        sending.push(spawn(&format!("generate-{thread}"), move || worker.run())?);
    }
    let mut consuming = None;
    if !load.no_consume {
        let recorder = Recorder::new(threads, reports.clone());
        let arrived = Arrived::new(run, &mine);
        let (hand_over, outcomes) = flume::bounded(1);
        let consumer = consumer(plan, target, starts, clock, arrived, recorder, outcomes)?;
        consuming = Some((spawn("consume", move || consumer.run())?, hand_over));
    }
    drop(reports);

    let mut collector = Collector::new(threads + usize::from(consuming.is_some()));
    let mut live = Live::on_stderr();
    let mut sent = Sums::default();
    watch(&measured, &mut collector, &mut live, || sending.iter().all(JoinHandle::is_finished));
    for thread in sending {
        sent.add(join(thread)?);
    }
    let consumed = match consuming {
        Some((thread, hand_over)) => {
            // A consumer that failed is heard of when it is joined.
            let _ = hand_over.send(std::mem::take(&mut sent.outcomes));
            watch(&measured, &mut collector, &mut live, || thread.is_finished());
            Some(join(thread)?)
        }
        None => None,
    };
    while let Ok(report) = measured.try_recv() {
        collector.take(report);
    }
    while collector.next_complete().is_some() {}
    live.finish();
    Ok(report(plan, target, clock, interrupt, collector, &sent, consumed))
}

/// More connections take longer to make; the run begins when all exist.
fn connect_time(connections: usize) -> Duration {
    Duration::from_micros(200) * connections as u32
}

/// What all sending threads have told.
#[derive(Default)]
struct Sums {
    outcomes: Vec<Outcomes>,
    codes: BTreeMap<i32, u64>,
    last_answer_ns: u64,
    disconnects: u64,
}

impl Sums {
    fn add(&mut self, finished: Finished) {
        self.outcomes.extend(finished.outcomes);
        for (code, count) in finished.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.last_answer_ns = self.last_answer_ns.max(finished.last_answer_ns);
        self.disconnects += finished.disconnects;
    }
}

fn worker(
    plan: &Plan<'_>,
    target: &Target,
    run: u64,
    clock: RunClock,
    numbers: &[u32],
    recorder: Recorder,
    interrupt: &Interrupt,
) -> Result<Worker, RunError> {
    let load = plan.load;
    let brokers = &target.brokers;
    let template = Template::new(&TemplateOptions {
        encoding: load.header.into(),
        topic: &load.topic,
        queue_count: brokers.iter().map(|broker| broker.queue_count).max().unwrap_or(1),
        message_size: load.message_size,
        batch: load.batch,
    })?;
    let (batch, in_flight) = (load.batch, load.in_flight);
    let job = Arc::new(Job { run, stream: 0, batch, in_flight, template, clock });
    let producer = |&number: &u32| {
        let broker = &brokers[number as usize % brokers.len()];
        (number, Producer::new(number, broker.address, broker.queue_count, &job))
    };
    let supply = match &plan.curve {
        None => Supply::Endless,
        Some(curve) => {
            let requests = Arc::new(curve.divided_by(f64::from(batch)));
            let (arrivals, seed) = (load.arrivals, load.seed);
            Supply::Scheduled(Schedule::new(requests, arrivals, seed, load.connections, numbers))
        }
    };
    let options = WorkerOptions {
        producers: numbers.iter().map(producer).collect(),
        job: job.clone(),
        supply,
        end_ns: plan.length.as_nanos() as u64,
        spin: load.spin,
        stop: interrupt.flag(),
    };
    let connect = |cause| RunError::Connect { address: addresses(target), cause };
    Worker::new(options, recorder).map_err(connect)
}

fn consumer(
    plan: &Plan<'_>,
    target: &Target,
    starts: Vec<(usize, ringmq::model::QueueId, u64)>,
    clock: RunClock,
    arrived: Arrived,
    recorder: Recorder,
    outcomes: flume::Receiver<Vec<Outcomes>>,
) -> Result<Consumer, RunError> {
    let start = |(broker, queue, offset)| QueueStart { broker, queue, offset };
    let options = ConsumerOptions {
        clock,
        topic: plan.load.topic.clone(),
        encoding: plan.load.header.into(),
        message_size: plan.load.message_size,
        brokers: target.brokers.iter().map(|broker| broker.address).collect(),
        queues: starts.into_iter().map(start).collect(),
        arrived,
    };
    let connect = |cause| RunError::Connect { address: addresses(target), cause };
    Consumer::new(options, recorder, outcomes).map_err(connect)
}

fn addresses(target: &Target) -> String {
    let addresses: Vec<String> =
        target.brokers.iter().map(|broker| broker.address.to_string()).collect();
    addresses.join(", ")
}

/// Shows a line for every second that is complete, until `is_done`.
fn watch(
    measured: &flume::Receiver<Measured>,
    collector: &mut Collector,
    live: &mut Live,
    is_done: impl Fn() -> bool,
) {
    const POLL: Duration = Duration::from_millis(20);
    while !is_done() {
        match measured.recv_timeout(POLL) {
            Ok(report) => collector.take(report),
            Err(flume::RecvTimeoutError::Timeout) => continue,
            Err(flume::RecvTimeoutError::Disconnected) => return,
        }
        while let Some((second, interval)) = collector.next_complete() {
            live.show(second, &interval);
        }
    }
}

fn report(
    plan: &Plan<'_>,
    target: &Target,
    clock: RunClock,
    interrupt: &Interrupt,
    collector: Collector,
    sent: &Sums,
    consumed: Option<Consumed>,
) -> Report {
    let load = plan.load;
    let subject = Subject {
        load: plan.load_text.clone(),
        target: target.describe(&load.topic),
        seed: load.seed,
        message_size: load.message_size,
        is_ordered: load.in_flight == 1,
        environment: environment::describe(),
    };
    let last_arrival_ns = consumed.as_ref().map_or(0, |consumed| consumed.last_arrival_ns);
    Report {
        subject,
        started_unix_ns: clock.zero_unix_ns(),
        sending: Duration::from_nanos(sent.last_answer_ns),
        consuming: Duration::from_nanos(last_arrival_ns),
        total: collector.total,
        seconds: collector.seconds,
        audit: consumed.as_ref().map(|consumed| consumed.audit),
        doubts: if interrupt.is_raised() {
            vec!["the run was cut short".to_owned()]
        } else {
            vec![]
        },
        notes: notes(load, target, sent, consumed.as_ref()),
    }
}

/// What the reader should know before believing the figures.
fn notes(
    load: &LoadOptions,
    target: &Target,
    sent: &Sums,
    consumed: Option<&Consumed>,
) -> Vec<String> {
    let mut notes = Vec::new();
    for (code, requests) in &sent.codes {
        notes.push(format!("{requests} requests were answered with code {code}"));
    }
    if sent.disconnects > 0 {
        notes.push(format!("producers lost their connection {} times", sent.disconnects));
    }
    let (brokers, connections) = (target.brokers.len(), load.connections as usize);
    if connections < brokers {
        notes.push(format!("{} of {brokers} brokers got no load", brokers - connections));
    }
    let Some(consumed) = consumed else { return notes };
    if consumed.disconnects > 0 {
        notes.push(format!("the consumer lost its connection {} times", consumed.disconnects));
    }
    if let Some((text, count)) = &consumed.refused_pulls {
        let text: String = text.chars().take(40).collect();
        notes.push(format!("{count} pulls were refused, the last: {text}"));
    }
    if consumed.audit.refused_present > 0 {
        let count = consumed.audit.refused_present;
        notes.push(format!("{count} messages were refused and arrived all the same"));
    }
    if consumed.audit.foreign > 0 {
        let count = consumed.audit.foreign;
        notes.push(format!("{count} messages of others in the topic were left out"));
    }
    notes
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, RunError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(RunError::Generator)
}

fn join<T>(thread: JoinHandle<io::Result<T>>) -> Result<T, RunError> {
    thread.join().expect("a thread that panics has said why").map_err(RunError::Generator)
}
