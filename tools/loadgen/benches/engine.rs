//! The capacity of the generator itself: one thread against a server that acknowledges immediately.
//!
//! `cargo bench -p loadgen --bench engine` prints one table; `-- --test` runs each case for
//! milliseconds. Generator and server are pinned to one core each if there are two.

#[path = "support/sink.rs"]
mod sink;

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use loadgen::clock::RunClock;
use loadgen::engine::histogram::Percentiles;
use loadgen::engine::measure::{Collector, PhaseEnds, Recorder};
use loadgen::engine::payload::Identity;
use loadgen::engine::producer::{Job, JobTopic, Post, Producer, UNSENT_MAX};
use loadgen::engine::template::{NewRequest, Template, TemplateOptions};
use loadgen::engine::worker::{Worker, WorkerOptions};
use loadgen::plan::curve::RateCurve;
use loadgen::plan::keys::{Keys, QueueChoice};
use loadgen::plan::schedule::{Arrivals, Schedule, Source};
use loadgen::plan::sizes::Sizes;
use loadgen::target::cluster::Broker;
use loadgen::target::routes::Routes;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use ringmq::model::TopicName;
use ringmq::wire::HeaderEncoding;

const MESSAGE_SIZE: usize = 1024;
const QUEUES: u32 = 8;
const GENERATOR_CORE: usize = 0;
const SINK_CORE: usize = 1;

struct Case {
    name: &'static str,
    encoding: HeaderEncoding,
    batch: u32,
    connections: u32,
    in_flight: u32,
    /// Messages per second; `None`: as many as go.
    rate: Option<f64>,
}

const CASES: [Case; 6] = [
    Case::new("fixed, batch 100, flat out", HeaderEncoding::Fixed, 100, 4, 8, None),
    Case::new("fixed, batch 100, 500 k/s", HeaderEncoding::Fixed, 100, 4, 8, Some(500e3)),
    Case::new("json, single, flat out", HeaderEncoding::Json, 1, 64, 32, None),
    Case::new("json, single, 200 k/s", HeaderEncoding::Json, 1, 64, 32, Some(200e3)),
    Case::new("binary, single, flat out", HeaderEncoding::Binary, 1, 64, 32, None),
    Case::new("json, single, 10 k/s", HeaderEncoding::Json, 1, 64, 32, Some(10e3)),
];

impl Case {
    const fn new(
        name: &'static str,
        encoding: HeaderEncoding,
        batch: u32,
        connections: u32,
        in_flight: u32,
        rate: Option<f64>,
    ) -> Self {
        Self { name, encoding, batch, connections, in_flight, rate }
    }
}

fn main() {
    let is_test = env::args().any(|argument| argument == "--test");
    let length = Duration::from_millis(if is_test { 50 } else { 3_000 });
    let address = sink::start(|| pin(SINK_CORE)).expect("a server on loopback");
    println!("encoding alone, ns per message of {MESSAGE_SIZE} B:");
    for (encoding, batch) in [(HeaderEncoding::Json, 1), (HeaderEncoding::Fixed, 100)] {
        let ns = encoding_ns(encoding, batch, length / 4);
        println!("  {encoding:?}, batch {batch}: {ns:.0}");
    }
    println!("\n{:<28}{:>12}{:>10}{:>10}{:>11}", "case", "msg/s", "MB/s", "CPU ns", "late p99");
    for case in &CASES {
        run(case, address, length);
    }
}

fn run(case: &Case, address: SocketAddr, length: Duration) {
    let (reports, measured) = flume::unbounded();
    let clock = RunClock::starting_at(Instant::now() + Duration::from_millis(20));
    let phases = PhaseEnds::new([length.as_nanos() as u64]);
    let job = job(case, clock.clone());
    let sources = case.rate.map(|rate| {
        let curve = Arc::new(RateCurve::constant(rate / f64::from(case.batch), length));
        let source = move |number| Source {
            number,
            curve: curve.clone(),
            index: number,
            count: case.connections,
        };
        (0..case.connections).map(source)
    });
    let scheduled = case.rate.map_or(0, |_| case.connections as usize);
    let producer = |number| {
        let post = Post { number, topic: 0, broker: 0 };
        (Producer::new(post, job.clone()), 0)
    };
    let options = WorkerOptions {
        clock,
        producers: (0..case.connections).map(producer).collect(),
        schedule: Schedule::new(Arrivals::Poisson, 1, sources.into_iter().flatten()),
        scheduled,
        end_ns: length.as_nanos() as u64,
        spin: false,
        last_ack: Arc::default(),
        routes: Arc::new(Routes::new(vec![Broker { name: "sink".to_owned(), address }])),
        stop: Arc::new(AtomicBool::new(false)),
    };
    let recorder = Recorder::new(0, 1, phases.clone(), reports);
    let worker = Worker::new(options, recorder).expect("the server is there");
    let thread = thread::spawn(move || {
        pin(GENERATOR_CORE);
        let before = cpu_time();
        let finished = worker.run().expect("the generator runs");
        (finished.last_answer_ns, cpu_time() - before)
    });
    let (last_answer_ns, cpu) = thread.join().expect("the generator does not panic");
    let mut collector = Collector::new(1, 1, &phases);
    measured.try_iter().for_each(|report| collector.take(report));
    let total = &collector.totals[0][0];
    let acknowledged = total.counters.acknowledged;
    let rate = acknowledged as f64 / (last_answer_ns as f64 / 1e9);
    println!(
        "{:<28}{rate:>12.0}{:>10.0}{:>10.0}{:>8.3} ms",
        case.name,
        rate * MESSAGE_SIZE as f64 / 1e6,
        cpu.as_nanos() as f64 / acknowledged as f64,
        Percentiles::of(&total.lateness).p99 as f64 / 1e6,
    );
}

fn job(case: &Case, clock: RunClock) -> Arc<Job> {
    let topic = JobTopic { template: template(case.encoding, case.batch), queue_count: QUEUES };
    Arc::new(Job {
        run: 1,
        stream: 0,
        seed: 1,
        batch: case.batch,
        in_flight: case.in_flight,
        is_ordered: false,
        is_one_way: false,
        retries: 0,
        unsent_max: UNSENT_MAX as usize,
        sizes: Sizes::fixed(MESSAGE_SIZE),
        choice: QueueChoice::new(&Keys::None, &[QUEUES]),
        topics: vec![topic],
        clock,
    })
}

fn template(encoding: HeaderEncoding, batch: u32) -> Template {
    let topic = TopicName::new("bench").expect("a legal name");
    let options = TemplateOptions {
        encoding,
        topic: &topic,
        queue_count: QUEUES,
        sizes: &[MESSAGE_SIZE],
        batch,
        is_one_way: false,
        delay_ms: 0,
    };
    Template::new(&options).expect("a legal request")
}

/// The cost of building a request, without sending it.
fn encoding_ns(encoding: HeaderEncoding, batch: u32, length: Duration) -> f64 {
    let template = template(encoding, batch);
    let mut out = Vec::with_capacity(template.request_size());
    let (begin, mut messages) = (Instant::now(), 0u64);
    while begin.elapsed() < length {
        for number in 0..100u32 {
            let sequence = messages;
            let first = Identity { run: 1, stream: 0, lane: 0, producer: 1, sequence, due_ns: 1 };
            let queue = number % QUEUES;
            let number = 1_000_000_000 + number as i32;
            out.clear();
            template.append(&mut out, &NewRequest { number, queue, size: 0, born_ms: 1, first });
            messages += u64::from(batch);
        }
    }
    begin.elapsed().as_nanos() as f64 / messages as f64
}

/// Pins this thread to a core. Best effort: does nothing on a machine with one core or without
/// permission.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    if cores.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}
