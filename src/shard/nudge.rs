//! Wakes shards that are parked although they have work, and reports those that do not respond.
//!
//! If the latency ring of a glommio 0.9 executor gets a completion between the beginning of a pass
//! and its first task, the executor treats its queues as empty and parks. Runnable tasks then stay
//! stranded until an unrelated event wakes the executor; without one, the shard hangs. The reactor
//! makes passes rare, and has a timer end the parking after most of them. For the remaining cases,
//! a separate thread wakes the shards; it is also their watchdog:
//!
//! ```text
//!   shard:   beat() per batch ──▶ beats ────┐            ┌─▶ listen(): counts what it saw
//!   thread:  every 100 ms ──────────────────┴─ decide ───┘   (a foreign wake always gets through)
//! ```
//!
//! Start reading at [`Nudger`]; `Watch::decide` holds the rules. Invariants:
//! - A shard whose progress stops is nudged at the next tick, so a stranded one resumes within two
//!   ticks. One that makes progress at every tick is awake, and a nudge would only cost it a pass.
//! - An idle shard is nudged once a second, which costs almost nothing and still shows that it is
//!   alive.
//! - A shard that opens or closes is nudged every tick: it makes no countable progress, and someone
//!   is waiting for it.
//! - A shard that does not see its nudge for 5 s is reported, and again every 5 s while that lasts.
//!   It is not nudged indefinitely, because the runtime counts unprocessed wakes of an executor in
//!   15 bits.
//!
//! `executor` makes sure that a shard starts listening, and that it leaves when it ends. The nudger
//! stops after all shards have ended, because a closing shard can be stranded like any other.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::reactor;

/// Each tick wakes this thread, and often a shard.
const TICK_MS: u64 = 100;
/// Every shard is nudged this often, whatever its counters say.
const IDLE_NUDGE_MS: u64 = 1_000;
/// A nudge that has not been seen for this long is reported, and again after each further period.
const REPORT_MS: u64 = 5_000;
/// Maximum number of unseen nudges. If that many had no effect, one more will not either.
const UNSEEN_MAX: u32 = 10_000;
/// How often the nudged task yields, to find out whether others were waiting to run.
const TURNS_AFTER_SILENCE: u32 = 4;

/// The thread that nudges all shards of the process. Dropping this stops it.
pub struct Nudger {
    shards: Arc<[Arc<Shared>]>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by one shard and the nudging thread.
#[derive(Default)]
struct Shared {
    /// Written only by the shard.
    beats: AtomicU64,
    /// The number of the newest nudge. Written only by the nudging thread.
    sent: AtomicU64,
    /// The newest nudge that the shard has seen.
    seen: AtomicU64,
    strandings: AtomicU64,
    /// The shard had made no progress for a tick when it was nudged.
    was_silent: AtomicBool,
    /// The shard is neither opening nor closing, so it may be idle.
    serves: AtomicBool,
    listener: Mutex<Listener>,
}

/// The task that receives the nudges.
#[derive(Default)]
enum Listener {
    #[default]
    NotBegun,
    Wakes(Waker),
    Left,
}

/// Counters of one shard, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NudgeStats {
    pub beats: u64,
    pub nudges_sent: u64,
    /// Nudges after which a shard that had been silent for a tick made progress in the same
    /// pass: it was stranded or, rarely, work arrived at that very moment. Counted only while the
    /// shard serves.
    pub strandings: u64,
}

impl Nudger {
    pub fn start(shard_count: usize) -> std::io::Result<Self> {
        let shards: Arc<[Arc<Shared>]> = (0..shard_count).map(|_| Arc::default()).collect();
        let stopping = Arc::new(AtomicBool::new(false));
        let (watched, stop) = (shards.clone(), stopping.clone());
        let builder = std::thread::Builder::new().name("nudge".into());
        let thread = builder.spawn(move || nudge_until(&stop, &watched))?;
        Ok(Self { shards, stopping, thread: Some(thread) })
    }

    /// The shard's handle, to be moved into its executor.
    pub fn pulse(&self, shard: usize) -> Pulse {
        Pulse(self.shards[shard].clone())
    }

    pub fn stats(&self, shard: usize) -> NudgeStats {
        self.shards[shard].stats()
    }

    /// The shards are about to close: from now on none of them may be idle.
    pub fn expect_close(&self) {
        self.shards.iter().for_each(|shard| shard.serves.store(false, Ordering::Release));
    }

    #[cfg(test)]
    pub fn listens(&self, shard: usize) -> bool {
        self.shards[shard].listens()
    }
}

impl Drop for Nudger {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A failed join means that the thread panicked, which has been reported.
            thread.join().ok();
        }
    }
}

/// A shard's handle to the nudger. Clones refer to the same shard.
#[derive(Clone)]
pub struct Pulse(Arc<Shared>);

impl Pulse {
    /// Records progress: a batch parsed, a commit completed, an inbox drained. Called only on the
    /// shard's own thread.
    pub fn beat(&self) {
        // With a single writer, a load and a store suffice; a locked increment would cost ten times
        // as much.
        let beats = self.0.beats.load(Ordering::Relaxed);
        self.0.beats.store(beats + 1, Ordering::Relaxed);
    }

    pub fn stats(&self) -> NudgeStats {
        self.0.stats()
    }

    /// The shard is open and may be idle from now on.
    pub fn start_serving(&self) {
        self.0.serves.store(true, Ordering::Release);
    }

    /// Receives the nudges, forever: spawn it, detached, in the shard's default queue.
    pub async fn listen(self) {
        loop {
            self.nudged().await;
            if self.0.was_silent.load(Ordering::Relaxed) {
                self.look_for_stranded_work().await;
            }
        }
    }

    /// The shard is about to end: no more nudges or reports.
    pub fn leave(&self) {
        *self.0.listener() = Listener::Left;
    }

    /// Waits for a nudge.
    async fn nudged(&self) {
        let shared = &self.0;
        poll_fn(|context| {
            shared.keep_waker(context.waker());
            let sent = shared.sent.load(Ordering::Acquire);
            match shared.seen.swap(sent, Ordering::AcqRel) == sent {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    async fn look_for_stranded_work(&self) {
        let before = self.0.beats.load(Ordering::Relaxed);
        for _ in 0..TURNS_AFTER_SILENCE {
            reactor::pass().await;
            if self.0.beats.load(Ordering::Relaxed) != before {
                self.0.strandings.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

impl Shared {
    fn stats(&self) -> NudgeStats {
        NudgeStats {
            beats: self.beats.load(Ordering::Relaxed),
            nudges_sent: self.sent.load(Ordering::Relaxed),
            strandings: self.strandings.load(Ordering::Relaxed),
        }
    }

    fn listener(&self) -> MutexGuard<'_, Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_waker(&self, waker: &Waker) {
        let mut listener = self.listener();
        match &*listener {
            Listener::Left => {}
            Listener::Wakes(kept) if kept.will_wake(waker) => {}
            Listener::Wakes(_) | Listener::NotBegun => *listener = Listener::Wakes(waker.clone()),
        }
    }

    /// Whether the shard has started to listen and has not left.
    fn listens(&self) -> bool {
        matches!(&*self.listener(), Listener::Wakes(_))
    }

    fn nudge(&self, was_silent: bool) {
        if let Listener::Wakes(waker) = &*self.listener() {
            self.was_silent.store(was_silent, Ordering::Relaxed);
            self.sent.fetch_add(1, Ordering::AcqRel);
            waker.wake_by_ref();
        }
    }
}

fn nudge_until(stop: &AtomicBool, shards: &[Arc<Shared>]) {
    let started = Instant::now();
    let mut watches: Vec<Watch> = shards.iter().map(|_| Watch::default()).collect();
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(TICK_MS));
        let now_ms = started.elapsed().as_millis() as u64;
        for (index, shard) in shards.iter().enumerate() {
            if shard.listens() {
                watches[index].tick(now_ms, index, shard);
            }
        }
    }
}

/// The nudging thread's view of one shard.
#[derive(Debug, Default)]
struct Watch {
    beats: u64,
    /// The shard had made progress at the last tick.
    was_moving: bool,
    nudged_at_ms: u64,
    /// Since when nudges have been unseen.
    unseen_since_ms: Option<u64>,
    /// Nudges sent since then.
    unseen: u32,
    reports: u64,
}

/// A sample of a shard's counters.
#[derive(Clone, Copy, Debug)]
struct Sample {
    beats: u64,
    sent: u64,
    seen: u64,
    serves: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Decision {
    nudge: bool,
    /// For how long no nudge was seen, if that is to be reported.
    unresponsive_ms: Option<u64>,
}

impl Watch {
    fn tick(&mut self, now_ms: u64, index: usize, shard: &Shared) {
        let sample = Sample {
            beats: shard.beats.load(Ordering::Relaxed),
            sent: shard.sent.load(Ordering::Relaxed),
            seen: shard.seen.load(Ordering::Acquire),
            serves: shard.serves.load(Ordering::Acquire),
        };
        let was_silent = sample.beats == self.beats;
        let decision = self.decide(now_ms, sample);
        if let Some(unresponsive_ms) = decision.unresponsive_ms {
            let Sample { beats, sent, seen, .. } = sample;
            tracing::error!(shard = index, unresponsive_ms, beats, sent, seen, "shard hangs");
        }
        if decision.nudge {
            shard.nudge(was_silent);
        }
    }

    fn decide(&mut self, now_ms: u64, sample: Sample) -> Decision {
        let is_moving = sample.beats != self.beats;
        let has_stopped = std::mem::replace(&mut self.was_moving, is_moving) && !is_moving;
        let unseen = sample.seen != sample.sent;
        let idle = now_ms.saturating_sub(self.nudged_at_ms) >= IDLE_NUDGE_MS;
        self.beats = sample.beats;
        let unresponsive_ms = self.unresponsive(now_ms, unseen);
        let nudge = (has_stopped || unseen || idle || !sample.serves) && self.unseen < UNSEEN_MAX;
        if nudge {
            self.nudged_at_ms = now_ms;
            self.unseen += 1;
        }
        Decision { nudge, unresponsive_ms }
    }

    fn unresponsive(&mut self, now_ms: u64, unseen: bool) -> Option<u64> {
        if !unseen {
            self.unseen_since_ms = None;
            self.unseen = 0;
            self.reports = 0;
            return None;
        }
        let lasted_ms = now_ms - *self.unseen_since_ms.get_or_insert(now_ms);
        if lasted_ms < REPORT_MS * (self.reports + 1) {
            return None;
        }
        self.reports += 1;
        Some(lasted_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::executor::{settings_of_tests, start};

    #[test]
    fn who_is_nudged() {
        let quiet = Sample { beats: 5, sent: 3, seen: 3, serves: true };
        let cases = [
            ("nothing happened", false, 500, quiet, false),
            ("progress began", false, 500, Sample { beats: 6, ..quiet }, false),
            ("progress goes on", true, 500, Sample { beats: 6, ..quiet }, false),
            ("progress stopped", true, 500, quiet, true),
            ("the last nudge was not seen", false, 500, Sample { sent: 4, ..quiet }, true),
            ("a second has passed", false, 1_000, quiet, true),
            ("it is not open yet", false, 500, Sample { serves: false, ..quiet }, true),
        ];
        for (name, was_moving, now_ms, sample, nudge) in cases {
            let mut watch = Watch { beats: 5, was_moving, ..Watch::default() };
            assert_eq!(watch.decide(now_ms, sample).nudge, nudge, "{name}");
        }
    }

    #[test]
    fn shard_that_sees_no_nudge_is_reported_every_five_seconds() {
        let mut watch = Watch::default();
        let hanging = Sample { beats: 5, sent: 3, seen: 2, serves: true };
        let mut reports = Vec::new();
        for now_ms in (0..12_000).step_by(10) {
            reports.extend(watch.decide(now_ms, hanging).unresponsive_ms);
        }
        assert_eq!(reports, [5_000, 10_000]);
        let alive = Sample { seen: 3, ..hanging };
        assert_eq!(watch.decide(12_000, alive).unresponsive_ms, None);
        assert_eq!(watch.decide(12_010, hanging).unresponsive_ms, None, "counts anew");
        assert_eq!(watch.decide(17_010, hanging).unresponsive_ms, Some(5_000));
    }

    #[test]
    fn shard_that_hangs_is_not_nudged_without_end() {
        let mut watch = Watch::default();
        let mut shard = Sample { beats: 0, sent: 0, seen: 0, serves: false };
        for now_ms in (0..1_000_000).step_by(20) {
            shard.sent += u64::from(watch.decide(now_ms, shard).nudge);
        }
        assert_eq!(shard.sent, u64::from(UNSEEN_MAX));
        shard.seen = shard.sent;
        assert!(watch.decide(1_000_000, shard).nudge, "it lives");
    }

    /// A task that always has work on an executor with a short quantum. Without `listen` it stalls
    /// for good within a second or so, because nothing else ever happens there.
    #[test]
    fn busy_shard_keeps_going() {
        let (gap, stats) = longest_gap_of_busy_shard(Duration::from_secs(3));
        assert!(gap < Duration::from_millis(1_500), "stood still for {gap:?}, {stats:?}");
        assert!(stats.nudges_sent >= 2, "{stats:?}");
    }

    /// An idle shard is nudged about once a second and no more often.
    #[test]
    fn idle_shard_is_left_alone_and_can_leave() {
        let nudger = Nudger::start(1).unwrap();
        let idle = async |pulse: Pulse| {
            pulse.start_serving();
            reactor::sleep(Duration::from_millis(1_500)).await;
        };
        let builder = settings_of_tests(Duration::from_millis(1));
        let starting = start("idle", builder, Duration::ZERO, nudger.pulse(0), idle);
        starting.unwrap().begin().unwrap().join().unwrap();
        let nudges_sent = nudger.stats(0).nudges_sent;
        // More on a busy machine, where a nudge may be seen late; one at every tick would make 75.
        assert!((1..=20).contains(&nudges_sent), "{nudges_sent}");
        std::thread::sleep(Duration::from_millis(1_200));
        assert_eq!(nudger.stats(0).nudges_sent, nudges_sent, "nudged after it left");
    }

    fn longest_gap_of_busy_shard(lasts: Duration) -> (Duration, NudgeStats) {
        let nudger = Nudger::start(1).unwrap();
        let watched = nudger.pulse(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let busy = async move |pulse: Pulse| {
            pulse.start_serving();
            while !stopped.load(Ordering::Relaxed) {
                pulse.beat();
                reactor::pass().await;
            }
        };
        let builder = settings_of_tests(Duration::from_micros(100));
        let starting = start("busy", builder, Duration::ZERO, nudger.pulse(0), busy);
        let executor = starting.unwrap().begin().unwrap();
        let gap = longest_gap(&watched, lasts);
        stop.store(true, Ordering::Relaxed);
        // A hanging shard cannot be joined; the process exits without it.
        if gap < lasts / 2 {
            executor.join().unwrap();
        }
        (gap, watched.stats())
    }

    fn longest_gap(pulse: &Pulse, lasts: Duration) -> Duration {
        let begin = Instant::now();
        let (mut longest, mut beats, mut moved_at) = (Duration::ZERO, 0, begin);
        while begin.elapsed() < lasts {
            std::thread::sleep(Duration::from_millis(1));
            let now = pulse.stats().beats;
            if now != beats {
                (beats, moved_at) = (now, Instant::now());
            }
            longest = longest.max(moved_at.elapsed());
        }
        longest
    }
}
