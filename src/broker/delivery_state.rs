//! When the delivery of delayed messages looks for what is due, and what it takes next. Nothing here
//! is durable: the durable part, and what is pending, are in [`delays`](super::delays). The task that
//! delivers is in [`delivery`](super::delivery).
//!
//! Invariant: every new message gets a higher key than all that are planned, so setting the cursor
//! after a slice never skips one.

use super::agenda::{Agenda, Step};
use super::delay_key::Key;
use super::delays::{DelayClock, Delays};
use crate::model::{Moment, Now};
use crate::storage::Index;

/// Pause after a failure, for instance on a full disk.
const RETRY_MS: u64 = 1_000;
/// Least time between two looks for what is due. So a message that is due alone is delivered at once,
/// and many that are due one after the other share reads and entries.
const PACE_MS: u64 = 10;

/// The state of delivery besides what is durable.
#[derive(Debug, Default)]
pub struct Delivery {
    clock: DelayClock,
    agenda: Agenda,
    /// What is planned is not due after this, and what is new not before.
    horizon_ms: u64,
    /// The time of the last look for what is due.
    looked_at_ms: u64,
    /// Nothing with a lower due time is pending.
    settled_below_ms: u64,
    /// When the task shall look for what is due, unless that is before `rests_until`.
    wake: Option<Moment>,
    rests_until: Moment,
    /// The task shall look for what is due.
    is_due: bool,
    /// The agenda was empty, and no message has become pending since.
    is_nothing_left: bool,
    /// How often the agenda has begun again: what was planned before may be planned a second time.
    beginnings: u32,
    is_stopping: bool,
}

impl Delivery {
    pub fn begin(now: Now, delays: &Delays) -> Self {
        Self { clock: DelayClock::begin(now, delays), is_due: true, ..Self::default() }
    }

    pub fn clock(&self) -> DelayClock {
        self.clock
    }

    /// The due time of a new message, `delay_ms` from `now` unless that is planned already.
    pub fn due_ms(&self, now: Moment, delay_ms: u64) -> u64 {
        self.clock.at(now).saturating_add(delay_ms).max(self.horizon_ms)
    }

    /// The due time of a message that was pending in another place.
    pub fn due_ms_from(&self, due_ms: u64) -> u64 {
        due_ms.max(self.horizon_ms)
    }

    /// The cursor after a fact of another task: the highest that is below all that is pending.
    pub fn cursor(&self, delays: &Delays) -> Key {
        delays.cursor().max(Key { due_ms: self.settled_below_ms, offset: 0 })
    }

    /// This copy delivers from now on. The clock continues from what the previous leader has
    /// stored, so that nothing becomes due too early.
    pub fn take_over(&mut self, now: Now, delays: &Delays) {
        self.clock = DelayClock::begin(now, delays);
        self.begin_again();
    }

    /// When the task shall look for what is due.
    pub fn next(&self) -> Option<Moment> {
        Some(self.wake?.max(self.rests_until))
    }

    /// Pending messages may be others than before: looks at all of them again.
    pub fn begin_again(&mut self) {
        self.agenda = Agenda::default();
        self.settled_below_ms = 0;
        self.is_nothing_left = false;
        self.is_due = true;
        self.beginnings += 1;
    }

    /// Has the task look for what is due if it is time to; returns whether it is.
    pub fn wake(&mut self, now: Moment) -> bool {
        let is_time = self.next().is_some_and(|next| next <= now);
        if is_time {
            self.wake = None;
            self.rests_until = now.plus_ms(PACE_MS);
            self.is_due = true;
        }
        is_time
    }

    /// A message that is due at `due_ms` is pending. Returns whether the task wakes earlier for it.
    pub fn wake_at(&mut self, due_ms: u64) -> bool {
        let at = self.clock.moment_of(due_ms);
        self.is_nothing_left = false;
        let is_earlier = self.wake.is_none_or(|wake| at < wake);
        if is_earlier {
            self.wake = Some(at);
        }
        is_earlier
    }

    /// Nothing is due before `due_ms`, or nothing is pending.
    pub fn sleep_until(&mut self, due_ms: Option<u64>) {
        self.wake = due_ms.map(|due_ms| self.clock.moment_of(due_ms));
        self.is_nothing_left = due_ms.is_none();
    }

    /// After a failure: looks at all of what is pending again, after a pause.
    pub fn retry_later(&mut self, now: Moment) {
        self.agenda = Agenda::default();
        self.is_nothing_left = false;
        self.wake = Some(now);
        self.rests_until = now.plus_ms(RETRY_MS);
    }

    /// Whether the task shall look for what is due. It is told once.
    pub fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }

    /// Takes one step towards what is due at `now`.
    pub fn step(&mut self, delays: &Delays, index: &Index, now: Moment) -> Step {
        let now_ms = self.clock.at(now);
        self.looked_at_ms = now_ms;
        self.horizon_ms = self.horizon_ms.max(now_ms);
        self.agenda.step(delays, index, now_ms)
    }

    /// All that was due at the last look has been delivered.
    pub fn settle(&mut self) {
        self.settled_below_ms = self.looked_at_ms;
    }

    pub fn is_nothing_left(&self) -> bool {
        self.is_nothing_left
    }

    pub fn beginnings(&self) -> u32 {
        self.beginnings
    }

    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }
}
