//! Fault injection: a thread takes away servers, disk space and disk speed at scheduled times, and
//! restores them.
//!
//! ```text
//!   scenario's faults ──▶ plan ──▶ thread ──▶ embedded::Handle, Filler, Limit
//!                                    │
//!        last_ack (workers write) ───┴──▶ marks: what was done when, and when the broker was back
//! ```
//!
//! Invariants:
//! - Every fault has one mark, in the order of the list, even if it could not be carried out.
//! - When [`Background::stop`] returns, no fault is in force, except a NameServer that was to stay
//!   dead.
//!
//! Start reading at [`start`]. Not here: how a process is killed or frozen
//! ([`crate::target::embedded`]); which faults a run has ([`crate::plan::scenario`]).

mod filler;
mod limit;
mod silence;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::background::Background;
use crate::clock::RunClock;
use crate::findings::report::FaultMark;
use crate::last_ack::LastAck;
use crate::plan::scenario::{Fault, FaultKind, Heard};
use crate::target::cluster::{self, Broker, client_options};
use crate::target::embedded::{Cut, Handle, Launch};
use crate::units::grouped;
use filler::Filler;
use limit::{Limit, Rates};
use ringmq::client::Remote;
use silence::Silences;

/// Polling interval while a server restarts, or while the first acknowledgement after a fault is
/// awaited. It bounds the error of both times.
const WATCH: Duration = Duration::from_micros(500);
/// Polling interval otherwise.
const POLL: Duration = Duration::from_millis(10);

/// Injects `faults` into the embedded servers by the clock of the run, until the run is over or
/// `stop` is set. Then undoes the faults in force, waits until the servers serve again, and returns
/// the marks. Without embedded servers, each mark says so.
pub fn start(
    faults: Vec<Fault>,
    servers: Option<Servers>,
    clock: RunClock,
    last_ack: Arc<LastAck>,
    stop: Arc<AtomicBool>,
) -> io::Result<Background<Vec<FaultMark>>> {
    Background::start("faults", move |is_over| {
        let actions = plan(&faults);
        let courses = faults.iter().map(FaultProgress::of).collect();
        let silences = None;
        Run { faults, actions, courses, servers, clock, last_ack, stop, is_over, silences }.run()
    })
}

/// The servers of a run.
pub struct Servers {
    pub embedded: Handle,
    /// Names of the brokers, by index.
    pub brokers: Vec<String>,
}

impl Servers {
    /// The machine that leads the first broker, and the names of all brokers that it leads; the
    /// first machine if the leader is unknown.
    fn leader(&self) -> (usize, Vec<String>) {
        let found = || {
            let options = client_options(self.embedded.namesrv());
            let masters = cluster::masters(&mut Remote::new(options).ok()?).ok()?;
            let machine = |broker: &Broker| self.embedded.machine_of(broker.address);
            let first = masters.iter().find(|it| Some(&it.name) == self.brokers.first())?;
            let leader = machine(first)?;
            let led = masters.iter().filter(|broker| machine(broker) == Some(leader));
            Some((leader, led.map(|broker| broker.name.clone()).collect()))
        };
        found().unwrap_or_default()
    }
}

/// One step of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action {
    at_ns: u64,
    /// Index of the fault.
    fault: usize,
    step: Step,
}

/// Declared in the order in which simultaneous steps are taken: a fault that ends when another
/// begins is over before that one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    End,
    Begin,
}

/// All steps, in order of time.
fn plan(faults: &[Fault]) -> Vec<Action> {
    let mut actions = Vec::new();
    for (index, fault) in faults.iter().enumerate() {
        actions.push(Action { at_ns: fault.at_ns, fault: index, step: Step::Begin });
        if let Some(length) = fault.kind.length() {
            let at_ns = fault.at_ns + length.as_nanos() as u64;
            actions.push(Action { at_ns, fault: index, step: Step::End });
        }
    }
    // The sort is stable: steps of the same kind at the same time keep the order of the list.
    actions.sort_by_key(|action| (action.at_ns, action.step));
    actions
}

/// Describes a fault in a few words.
pub fn describe(kind: &FaultKind) -> String {
    let seconds = |time: &Duration| format!("{} s", time.as_secs_f64());
    match kind {
        FaultKind::KillBroker { down } => format!("kill -9 of the broker, down {}", seconds(down)),
        FaultKind::KillNameServer { index, down: Some(down) } => {
            format!("kill -9 of NameServer {index}, down {}", seconds(down))
        }
        FaultKind::KillNameServer { index, down: None } => {
            format!("kill -9 of NameServer {index}, for good")
        }
        FaultKind::FreezeBroker { length } => {
            format!("SIGSTOP of the broker for {}", seconds(length))
        }
        FaultKind::KillMachine { down } => {
            format!("kill -9 of a leader's machine, down {}", seconds(down))
        }
        FaultKind::PauseMachine { length } => {
            format!("SIGSTOP of a leader's machine for {}", seconds(length))
        }
        FaultKind::Partition { heard, length } => {
            let what = match heard {
                Heard::Nothing => "partition of a leader's machine",
                Heard::Others => "what a leader's machine sends is lost",
                Heard::Itself => "what is sent to a leader's machine is lost",
            };
            format!("{what} for {}", seconds(length))
        }
        FaultKind::FillDisk { to, length } => {
            format!("disk filled to {} % for {}", (to * 1e4).round() / 1e2, seconds(length))
        }
        FaultKind::SlowDisk { writes_per_s, bytes_per_s, length } => {
            let limits = [(*writes_per_s, "writes/s"), (*bytes_per_s, "B/s")];
            let limits = limits.into_iter().filter(|(rate, _)| *rate > 0);
            let limits: Vec<_> =
                limits.map(|(rate, unit)| format!("{} {unit}", grouped(rate))).collect();
            format!("disk slowed to {} for {}", limits.join(" and "), seconds(length))
        }
    }
}

/// Progress of one fault.
struct FaultProgress {
    mark: FaultMark,
    state: State,
    /// The first acknowledgement at or after this time means that the broker is back, ns.
    back_from_ns: Option<u64>,
}

enum State {
    /// Not begun.
    Ahead,
    InForce(InForce),
    /// The server is starting.
    Returning(Launch),
    /// Undone, or never carried out.
    Over,
}

/// A fault in force, as far as it must be undone.
enum InForce {
    /// The broker of this machine is down.
    Broker(usize),
    NameServer(usize),
    Frozen(usize),
    Cut(usize, Cut),
    Filled(Filler),
    Slowed(Limit),
}

impl FaultProgress {
    fn of(fault: &Fault) -> Self {
        let mark = FaultMark {
            at_ns: fault.at_ns,
            until_ns: None,
            text: describe(&fault.kind),
            failed: None,
            back_after_ns: None,
            gaps: Vec::new(),
        };
        Self { mark, state: State::Ahead, back_from_ns: None }
    }

    fn fail(&mut self, why: impl ToString) {
        self.mark.failed = Some(why.to_string());
        self.state = State::Over;
    }

    /// Records that the server is ready, or has failed to start.
    fn returned(&mut self, outcome: Result<(), impl ToString>, now_ns: u64) {
        match outcome {
            Ok(()) => {
                self.mark.until_ns = Some(now_ns);
                self.state = State::Over;
            }
            Err(error) => self.fail(error),
        }
    }
}

/// State of the thread.
struct Run<'a> {
    faults: Vec<Fault>,
    actions: Vec<Action>,
    /// Indexed by fault.
    courses: Vec<FaultProgress>,
    servers: Option<Servers>,
    clock: RunClock,
    last_ack: Arc<LastAck>,
    stop: Arc<AtomicBool>,
    is_over: &'a AtomicBool,
    /// The last fault that took a machine away, and the brokers' silences since then.
    silences: Option<(usize, Silences)>,
}

impl Run<'_> {
    fn run(mut self) -> Vec<FaultMark> {
        for action in std::mem::take(&mut self.actions) {
            self.wait_until(action.at_ns);
            if self.is_ended() {
                break;
            }
            match action.step {
                Step::Begin => self.begin(action.fault),
                Step::End => self.end(action.fault),
            }
        }
        self.wait_until(u64::MAX);
        self.undo_all();
        self.note_gaps();
        self.courses.into_iter().map(|course| course.mark).collect()
    }

    fn is_ended(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    /// Watches restarting servers and awaited acknowledgements until `at_ns`, or until the run has
    /// ended.
    fn wait_until(&mut self, at_ns: u64) {
        while !self.is_ended() {
            let now_ns = self.clock.now_ns();
            // The clock reads 0 until the run begins.
            if now_ns >= at_ns.max(1) {
                return;
            }
            self.watch(now_ns);
            let step = if self.is_watching() { WATCH } else { POLL };
            thread::sleep(step.min(Duration::from_nanos(at_ns.max(1) - now_ns)));
        }
    }

    fn is_watching(&self) -> bool {
        let is_watched = |course: &FaultProgress| {
            matches!(course.state, State::Returning(_)) || course.back_from_ns.is_some()
        };
        self.silences.is_some() || self.courses.iter().any(is_watched)
    }

    /// Records the silences since the last fault of a machine as the gaps of that fault.
    fn note_gaps(&mut self) {
        let (Some((fault, silences)), Some(servers)) = (self.silences.take(), &self.servers) else {
            return;
        };
        let mark = &mut self.courses[fault].mark;
        mark.gaps = silences.into_gaps(&servers.brokers);
        mark.back_after_ns = mark.gaps.first().map(|gap| gap.length_ns);
    }

    fn watch(&mut self, now_ns: u64) {
        let acknowledged_ns = self.last_ack.at_ns();
        if let Some((_, silences)) = &mut self.silences {
            silences.note(self.last_ack.by_broker());
        }
        for course in &mut self.courses {
            if course.back_from_ns.is_some_and(|from_ns| acknowledged_ns >= from_ns) {
                course.mark.back_after_ns = Some(acknowledged_ns - course.mark.at_ns);
                course.back_from_ns = None;
            }
            if let State::Returning(launch) = &course.state {
                match launch.is_ready() {
                    Ok(false) => {}
                    Ok(true) => course.returned(Ok::<_, String>(()), now_ns),
                    Err(error) => course.returned(Err(error), now_ns),
                }
            }
        }
    }

    fn begin(&mut self, index: usize) {
        let kind = self.faults[index].kind.clone();
        // Looked up before the fault is timed, because the query takes a moment.
        let (machine, led) = self.servers.as_ref().map(Servers::leader).unwrap_or_default();
        if kind.is_of_machine() {
            self.note_gaps();
            let silences = Silences::from(self.last_ack.by_broker());
            self.silences = Some((index, silences));
            let led = if led.is_empty() { "nothing".to_owned() } else { led.join(", ") };
            let text = format!("{} (machine {} leads {led})", describe(&kind), machine + 1);
            self.courses[index].mark.text = text;
        }
        let at_ns = self.clock.now_ns();
        let outcome = match &self.servers {
            Some(servers) => take_away(&kind, &servers.embedded, machine),
            None => Err(io::Error::other(
                "the target is not embedded; faults need a broker that the run started (--embedded)",
            )),
        };
        let course = &mut self.courses[index];
        course.mark.at_ns = at_ns;
        match outcome {
            Ok(in_force) => course.state = State::InForce(in_force),
            Err(error) => course.fail(error),
        }
    }

    /// Does nothing for a fault that was not carried out.
    fn end(&mut self, index: usize) {
        let (now_ns, course) = (self.clock.now_ns(), &mut self.courses[index]);
        let State::InForce(in_force) = std::mem::replace(&mut course.state, State::Over) else {
            return;
        };
        let Some(Servers { embedded, .. }) = &self.servers else { return };
        let is_of_machine = self.faults[index].kind.is_of_machine();
        // An acknowledgement from before the fault that is recorded only now does not mean that the
        // broker is back.
        if matches!(in_force, InForce::Broker(_) | InForce::Frozen(_)) && !is_of_machine {
            course.back_from_ns = Some(now_ns);
        }
        let launched = match in_force {
            InForce::Broker(machine) => embedded.launch_broker(machine),
            InForce::NameServer(index) => embedded.launch_nameserver(index),
            InForce::Frozen(machine) => {
                return course.returned(embedded.thaw_broker(machine), now_ns);
            }
            InForce::Cut(machine, cut) => {
                embedded.cut(machine, cut, false);
                return course.returned(Ok::<_, String>(()), now_ns);
            }
            InForce::Filled(filler) => {
                drop(filler);
                return course.returned(Ok::<_, String>(()), self.clock.now_ns());
            }
            InForce::Slowed(limit) => {
                drop(limit);
                return course.returned(Ok::<_, String>(()), self.clock.now_ns());
            }
        };
        match launched {
            Ok(launch) => course.state = State::Returning(launch),
            Err(error) => course.fail(error),
        }
    }

    /// Undoes all faults in force, and waits for the servers.
    fn undo_all(&mut self) {
        self.watch(self.clock.now_ns());
        for index in 0..self.courses.len() {
            let stays_away = self.faults[index].kind.length().is_none();
            match &self.courses[index].state {
                State::Ahead => self.courses[index].fail("the run ended before"),
                State::InForce(_) if !stays_away => self.end(index),
                _ => {}
            }
        }
        for course in &mut self.courses {
            if let State::Returning(launch) = std::mem::replace(&mut course.state, State::Over) {
                course.returned(launch.wait(), self.clock.now_ns());
            }
        }
    }
}

/// Faults of a machine hit `machine`; others the first one.
fn take_away(kind: &FaultKind, embedded: &Handle, machine: usize) -> io::Result<InForce> {
    let kill = |machine| embedded.kill_broker(machine).map(|()| InForce::Broker(machine));
    let freeze = |machine| embedded.freeze_broker(machine).map(|()| InForce::Frozen(machine));
    match kind {
        FaultKind::KillBroker { .. } => kill(0),
        FaultKind::KillMachine { .. } => kill(machine),
        FaultKind::KillNameServer { index, .. } => {
            embedded.kill_nameserver(*index).map(|()| InForce::NameServer(*index))
        }
        FaultKind::FreezeBroker { .. } => freeze(0),
        FaultKind::PauseMachine { .. } => freeze(machine),
        FaultKind::Partition { .. } if embedded.machines() == 1 => {
            Err(io::Error::other("a partition needs --replicas"))
        }
        FaultKind::Partition { heard, .. } => {
            let cut = match heard {
                Heard::Nothing => Cut::Both,
                Heard::Others => Cut::Out,
                Heard::Itself => Cut::In,
            };
            embedded.cut(machine, cut, true);
            Ok(InForce::Cut(machine, cut))
        }
        FaultKind::FillDisk { to, .. } => {
            Filler::fill(embedded.data(), *to, embedded.is_on_image()).map(InForce::Filled)
        }
        FaultKind::SlowDisk { writes_per_s, bytes_per_s, .. } => {
            let pid = embedded.broker_pid(machine);
            let pid = pid.ok_or_else(|| io::Error::other("the broker does not run"))?;
            let rates = Rates { writes: *writes_per_s, bytes: *bytes_per_s };
            Limit::set(pid, embedded.data(), rates).map(InForce::Slowed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn kill(at_s: u64, down_s: u64) -> Fault {
        let down = Duration::from_secs(down_s);
        Fault { at_ns: at_s * SECOND_NS, kind: FaultKind::KillBroker { down } }
    }

    #[test]
    fn faults_begin_and_end_in_the_order_of_time() {
        let length = Duration::from_secs(3);
        let faults = [
            // Begins when the next one ends.
            kill(15, 1),
            kill(10, 5),
            Fault { at_ns: 12 * SECOND_NS, kind: FaultKind::FillDisk { to: 0.95, length } },
            Fault { at_ns: SECOND_NS, kind: FaultKind::KillNameServer { index: 0, down: None } },
        ];
        let planned: Vec<_> = plan(&faults)
            .iter()
            .map(|action| (action.at_ns / SECOND_NS, action.fault, action.step))
            .collect();
        assert_eq!(
            planned,
            [
                (1, 3, Step::Begin),
                (10, 1, Step::Begin),
                (12, 2, Step::Begin),
                (15, 1, Step::End),
                (15, 2, Step::End),
                (15, 0, Step::Begin),
                (16, 0, Step::End),
            ]
        );
    }

    #[test]
    fn faults_in_words() {
        let length = Duration::from_millis(1_500);
        let rows = [
            (FaultKind::KillBroker { down: length }, "kill -9 of the broker, down 1.5 s"),
            (
                FaultKind::KillNameServer { index: 1, down: None },
                "kill -9 of NameServer 1, for good",
            ),
            (FaultKind::FreezeBroker { length }, "SIGSTOP of the broker for 1.5 s"),
            (FaultKind::KillMachine { down: length }, "kill -9 of a leader's machine, down 1.5 s"),
            (FaultKind::PauseMachine { length }, "SIGSTOP of a leader's machine for 1.5 s"),
            (
                FaultKind::Partition { heard: Heard::Nothing, length },
                "partition of a leader's machine for 1.5 s",
            ),
            (
                FaultKind::Partition { heard: Heard::Others, length },
                "what a leader's machine sends is lost for 1.5 s",
            ),
            (
                FaultKind::Partition { heard: Heard::Itself, length },
                "what is sent to a leader's machine is lost for 1.5 s",
            ),
            (FaultKind::FillDisk { to: 0.95, length }, "disk filled to 95 % for 1.5 s"),
            (
                FaultKind::SlowDisk { writes_per_s: 2_000, bytes_per_s: 0, length },
                "disk slowed to 2,000 writes/s for 1.5 s",
            ),
        ];
        for (kind, text) in rows {
            assert_eq!(describe(&kind), text);
        }
    }

    #[test]
    fn without_servers_of_our_own_every_mark_says_why_nothing_was_done() {
        let flag = || Arc::new(AtomicBool::new(false));
        let clock = RunClock::starting_at(Instant::now());
        let far = kill(3_600, 1);
        let faults =
            start(vec![kill(0, 0), far], None, clock.clone(), Arc::default(), flag()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while clock.now_ns() < SECOND_NS / 10 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let marks = faults.stop();
        let why: Vec<_> = marks.iter().map(|mark| mark.failed.clone().unwrap()).collect();
        assert!(why[0].contains("not embedded"), "{why:?}");
        assert_eq!(why[1], "the run ended before");
        assert_eq!(marks[1].at_ns, 3_600 * SECOND_NS);
        assert!(marks.iter().all(|mark| mark.until_ns.is_none() && mark.back_after_ns.is_none()));
    }
}
