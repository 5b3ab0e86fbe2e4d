//! One producer: its connection, its requests under way, and what waits for them.
//!
//! What always holds: a message is in exactly one place: due and waiting, in the window, or counted
//! with its outcome. Sequences are given when a message is sent, so those `0..sent` exist and no
//! others.
//!
//! Not here: when to send (`schedule`), when to wait (`worker`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::audit::Outcomes;
use crate::clock::RunClock;
use crate::connection::Connection;
use crate::histogram::record;
use crate::measure::{Interval, Recorder};
use crate::payload::Identity;
use crate::reply::{self, Outcome};
use crate::template::{NewRequest, Template};
use crate::window::{InFlight, Window};

/// A message that could not be sent for this long is given up; what a stock client waits.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Frames are handed to the kernel in pieces of about this size, bytes.
const OUTPUT_SIZE: usize = 256 << 10;

/// What all producers of a thread share.
pub struct Job {
    pub run: u64,
    pub stream: u32,
    pub batch: u32,
    pub in_flight: u32,
    pub template: Template,
    pub clock: RunClock,
}

/// What sending led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing more can or needs to be sent until something happens.
    AllThatGoes,
    /// The kernel took only a part: go on when the socket has room.
    SocketFull,
    /// Enough for one turn; there is more.
    More,
}

pub struct Producer {
    pub address: SocketAddr,
    /// Queues of its broker.
    queue_count: u32,
    connection: Option<Connection>,
    window: Window,
    /// When the requests were due that wait for window, socket or connection.
    waiting: VecDeque<u64>,
    /// Since when a due request could have been sent at once.
    open_since_ns: u64,
    requests: u64,
    outcomes: Outcomes,
}

/// What a thread writes down while its producers run.
pub struct Notebook {
    pub recorder: Recorder,
    /// Requests per code with which they were answered, successes left out.
    pub codes: BTreeMap<i32, u64>,
    pub last_answer_ns: u64,
}

impl Notebook {
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, codes: BTreeMap::new(), last_answer_ns: 0 }
    }
}

impl Producer {
    pub fn new(number: u32, address: SocketAddr, queue_count: u32, job: &Job) -> Self {
        Self {
            address,
            queue_count,
            connection: None,
            window: Window::new(job.in_flight),
            waiting: VecDeque::new(),
            open_since_ns: 0,
            requests: 0,
            outcomes: Outcomes::of(number),
        }
    }

    pub fn connect(&mut self, connection: Connection, now_ns: u64) -> &Connection {
        self.open_since_ns = now_ns;
        self.connection.insert(connection)
    }

    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// A request is due.
    pub fn take_due(&mut self, due_ns: u64) {
        self.waiting.push_back(due_ns);
    }

    /// Neither waits for anything nor has unanswered requests.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.window.is_empty()
    }

    /// Sends what is due, as far as window and socket allow. With `is_endless`, a request is due
    /// whenever the window has room.
    pub fn send(
        &mut self,
        job: &Job,
        is_endless: bool,
        interval: &mut Interval,
    ) -> io::Result<Sent> {
        let Some(connection) = &mut self.connection else { return Ok(Sent::AllThatGoes) };
        if connection.unsent_size() > 0 {
            return Ok(Sent::SocketFull);
        }
        let now_ns = job.clock.now_ns();
        let mut is_more = false;
        while self.window.has_room() {
            if connection.unsent_size() >= OUTPUT_SIZE {
                is_more = true;
                break;
            }
            let batch = u64::from(job.batch);
            let due_ns = match self.waiting.pop_front() {
                Some(due_ns) => due_ns,
                None if is_endless => {
                    interval.counters.due += batch;
                    now_ns
                }
                None => break,
            };
            let first = self.outcomes.sent;
            let identity = Identity {
                run: job.run,
                stream: job.stream,
                producer: self.outcomes.producer,
                sequence: first,
                due_ns,
            };
            let request = NewRequest {
                number: self.window.open(InFlight { due_ns, sent_ns: now_ns, first }),
                queue: (self.requests % u64::from(self.queue_count)) as u32,
                born_ms: job.clock.unix_ms(now_ns),
                first: identity,
            };
            job.template.append(connection.output(), &request);
            self.requests += 1;
            self.outcomes.sent += batch;
            interval.counters.sent += batch;
            record(
                &mut interval.slip,
                now_ns.saturating_sub(due_ns.max(self.open_since_ns)),
                batch,
            );
        }
        Ok(match (connection.flush()?, is_more) {
            (false, _) => Sent::SocketFull,
            (true, true) => Sent::More,
            (true, false) => Sent::AllThatGoes,
        })
    }

    /// The socket has room again. `true`: everything is out.
    pub fn flush(&mut self, now_ns: u64) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let is_out = connection.flush()?;
        if is_out {
            self.open_since_ns = now_ns;
        }
        Ok(is_out)
    }

    /// Reads answers and counts them.
    pub fn take_answers(&mut self, job: &Job, notebook: &mut Notebook) -> io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if !connection.receive()? {
            return Ok(());
        }
        let now_ns = job.clock.now_ns();
        let was_full = !self.window.has_room();
        while let Some(frame) = connection.next_frame()? {
            let Some((number, outcome)) = reply::read(&frame)? else { continue };
            let Some(request) = self.window.close(number) else { continue };
            notebook.last_answer_ns = now_ns;
            count_answer(&mut self.outcomes, request, outcome, now_ns, job.batch, notebook);
        }
        if was_full && self.window.has_room() {
            self.open_since_ns = now_ns;
        }
        Ok(())
    }

    /// The connection is gone: what was under way is unknown from now on.
    pub fn disconnect(&mut self, job: &Job, now_ns: u64, interval: &mut Interval) {
        self.connection = None;
        for request in self.window.close_all() {
            interval.counters.unknown += u64::from(job.batch);
            given_up(interval, request.due_ns, now_ns, job.batch);
        }
    }

    /// Gives up what has waited since before `due_before_ns` without being sent.
    pub fn expire(&mut self, job: &Job, due_before_ns: u64, now_ns: u64, interval: &mut Interval) {
        while let Some(due_ns) = self.waiting.pop_front_if(|due_ns| *due_ns < due_before_ns) {
            interval.counters.not_sent += u64::from(job.batch);
            given_up(interval, due_ns, now_ns, job.batch);
        }
    }

    /// Ends the run for this producer, whatever is still open.
    pub fn finish(mut self, job: &Job, now_ns: u64, interval: &mut Interval) -> Outcomes {
        self.expire(job, u64::MAX, now_ns, interval);
        self.disconnect(job, now_ns, interval);
        self.outcomes
    }
}

fn count_answer(
    outcomes: &mut Outcomes,
    request: InFlight,
    outcome: Outcome,
    now_ns: u64,
    batch: u32,
    notebook: &mut Notebook,
) {
    let count = u64::from(batch);
    let sequences = request.first..request.first + count;
    let interval = &mut notebook.recorder.now;
    match outcome {
        Outcome::Acknowledged => {
            outcomes.acknowledge(sequences);
            interval.counters.acknowledged += count;
            record(&mut interval.latency, now_ns.saturating_sub(request.due_ns), count);
            record(&mut interval.service, now_ns.saturating_sub(request.sent_ns), count);
        }
        Outcome::Refused(code) => {
            outcomes.refuse(sequences);
            interval.counters.refused += count;
            *notebook.codes.entry(code).or_default() += 1;
        }
        Outcome::Unknown(code) => {
            interval.counters.unknown += count;
            given_up(interval, request.due_ns, now_ns, batch);
            *notebook.codes.entry(code).or_default() += 1;
        }
    }
}

/// A message without an acknowledgement counts in the latency with the time it has waited:
/// otherwise the worst waits would be missing from the figures.
fn given_up(interval: &mut Interval, due_ns: u64, now_ns: u64, batch: u32) {
    record(&mut interval.latency, now_ns.saturating_sub(due_ns), u64::from(batch));
}
