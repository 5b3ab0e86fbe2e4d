//! Work driven by time. A shard has one queue of deadlines; its caller sleeps until
//! [`Broker::next_deadline`] and then calls [`Broker::act`].
//!
//! | What | When |
//! |---|---|
//! | a held pull times out | at its own deadline |
//! | committed offsets are written to the log | at once, but at most every [`FLUSH_EVERY_MS`](super::flush::FLUSH_EVERY_MS) |
//! | members of a group are notified of a change | within [`NOTIFY_AFTER_MS`], once for all changes until then |
//! | a request to a client times out | at its own deadline |
//! | clients without heartbeats are removed | every [`FORGET_EVERY_MS`] |
//! | delayed messages are delivered ([`delivery`](super::delivery)) | when the first one is due |
//! | offsets of unused groups are deleted | every [`SWEEP_EVERY_MS`], in small steps |
//! | expired queue locks are released | every [`SWEEP_LOCKS_EVERY_MS`], in small steps |
//!
//! Nothing here waits: if the log has no room, the work is retried later. A step does a bounded number of
//! these things, and the caller calls again.

use super::clients::CallError;
use super::due::Due;
use super::facts::Facts;
use super::held::HeldId;
use super::offsets::{self, SweepRule, Swept};
use super::state::Durable;
use super::waking::ANSWERS_PER_STEP;
use super::walk::Walk;
use super::{Broker, Outcome, Released};
use crate::model::deadlines::Deadlines;
use crate::model::{GroupName, LogOffset, Moment, Now, Refusal, Timestamp};
use crate::storage::AppendError;
use crate::storage::disk::Disk;

/// The deadline of work that continues as soon as other tasks have run.
const LONG_DUE: Moment = Moment(0);
/// Delay before failed work is tried again.
const RETRY_MS: u64 = 50;
/// Delay before members of a group are notified of a change. A new member is notified at once.
const NOTIFY_AFTER_MS: u64 = 100;
/// Interval of checks for silent clients.
const FORGET_EVERY_MS: u64 = 10_000;
/// Interval of checks for unused groups, and pause between two steps of a check.
const SWEEP_EVERY_MS: u64 = 60_000;
const SWEEP_STEP_MS: u64 = 20;
/// Interval of checks for expired queue locks. Another client need not wait for it.
const SWEEP_LOCKS_EVERY_MS: u64 = 60_000;

/// The deadlines of a newly opened broker.
pub fn first_deadlines() -> Deadlines<Due> {
    let mut deadlines = Deadlines::default();
    deadlines.insert(Moment(FORGET_EVERY_MS), Due::ForgetClients);
    deadlines.insert(Moment(SWEEP_EVERY_MS), Due::Sweep(Walk::default()));
    deadlines.insert(Moment(SWEEP_LOCKS_EVERY_MS), Due::SweepLocks(Walk::default()));
    deadlines
}

impl<D: Disk> Broker<D> {
    /// When [`act`](Self::act) is due next.
    pub fn next_deadline(&self) -> Option<Moment> {
        let state = self.state.borrow();
        [state.deadlines.next(), state.delivery.next()].into_iter().flatten().min()
    }

    /// Does some of what is due; returns the pulls that it answers. To be called again, after other
    /// work, while more is due.
    pub fn act(&self, now: Now) -> Vec<Released> {
        self.wake_delivery(now.moment);
        let mut released = Vec::new();
        let mut has_unlogged = false;
        for _ in 0..ANSWERS_PER_STEP {
            let due = self.state.borrow_mut().deadlines.take_due(now.moment);
            match due {
                None => break,
                Some(Due::Pull(id)) => released.extend(self.end_hold(id)),
                Some(Due::Call(id)) => self.reply_arrived(id, Err(CallError::TimedOut)),
                Some(Due::RoomLimit(reached)) => reached.set(),
                Some(Due::FlushOffsets) => has_unlogged |= self.flush_some(now.moment),
                Some(Due::NotifyMembers) => self.notify_changed_groups(),
                Some(Due::ForgetClients) => {
                    self.forget_clients(now.moment);
                    self.schedule_notifications(now.moment);
                    self.at(now.moment.plus_ms(FORGET_EVERY_MS), Due::ForgetClients);
                }
                Some(Due::Sweep(walk)) => self.sweep_some(walk, now.moment),
                Some(Due::SweepLocks(walk)) => self.sweep_locks(walk, now.moment),
            }
        }
        if has_unlogged {
            self.at(LONG_DUE, Due::FlushOffsets);
        }
        released
    }

    fn forget_clients(&self, now: Moment) {
        self.state.borrow_mut().groups.expire(now);
    }

    fn at(&self, moment: Moment, due: Due) {
        self.state.borrow_mut().deadlines.insert(moment, due);
    }

    /// Answers a pull that has timed out: there are no messages.
    fn end_hold(&self, id: HeldId) -> Option<Released> {
        let task = {
            let state = &mut *self.state.borrow_mut();
            state.held.expire(id, &mut state.deadlines)?
        };
        Some(Released { origin: task.origin, outcome: Outcome::Now(self.nothing(&task)) })
    }

    /// Schedules a flush of committed offsets: at once, or some time after the last one.
    pub(super) fn schedule_flush(&self, now: Moment) {
        let earliest = {
            let state = &mut *self.state.borrow_mut();
            if state.flush.is_due() || !state.durable.offsets.has_changes() {
                return;
            }
            state.flush.schedule(now)
        };
        match earliest <= now {
            true if self.flush_some(now) => self.at(LONG_DUE, Due::FlushOffsets),
            true => {}
            false => self.at(earliest, Due::FlushOffsets),
        }
    }

    /// Schedules the notification of members of changed groups: together, because many come and go
    /// at once when an application restarts.
    pub(super) fn schedule_notifications(&self, now: Moment) {
        let state = &mut *self.state.borrow_mut();
        // Whoever waits for the reply of a member that has left waits no longer.
        state.clients.notice_superseded(&state.groups.take_superseded());
        let changed = state.groups.take_changed();
        if !changed.is_empty() && state.to_notify.is_empty() {
            state.deadlines.insert(now.plus_ms(NOTIFY_AFTER_MS), Due::NotifyMembers);
        }
        state.to_notify.extend(changed);
    }

    fn notify_changed_groups(&self) {
        let groups = std::mem::take(&mut self.state.borrow_mut().to_notify);
        groups.iter().for_each(|group| self.notify_members(group));
    }

    /// Writes one fact about offsets. Returns whether there are more, which are to be written after
    /// other work.
    fn flush_some(&self, now: Moment) -> bool {
        let failed = match self.flush_one(self.store.elapsed_stamp(now)) {
            Ok(_) if self.state.borrow().durable.offsets.has_changes() => return true,
            Ok(_) => None,
            Err(AppendError::NoRoom) => {
                self.at(now.plus_ms(RETRY_MS), Due::FlushOffsets);
                return false;
            }
            // The new leader has its own.
            Err(AppendError::NotLeader) => Some(Refusal::NotLeader { shard: self.config.shard.0 }),
            Err(error) => {
                let refusal = self.refuse_append(error, 0);
                tracing::warn!(shard = self.config.shard.0, "cannot write offsets: {refusal}");
                Some(refusal)
            }
        };
        self.flushed(now, failed);
        false
    }

    /// Writes one fact about offsets; false if all are logged.
    fn flush_one(&self, now: Timestamp) -> Result<bool, AppendError> {
        let facts = self.state.borrow().durable.offsets.next_fact(now);
        match facts.is_empty() {
            true => Ok(false),
            false => self.record(&facts).map(|_| true),
        }
    }

    fn flushed(&self, now: Moment, failed: Option<Refusal>) {
        self.state.borrow_mut().flush.end(now, failed);
        // After a failure, the next commit retries; without one nothing has changed.
        self.flushes.notify();
    }

    /// Writes all offsets that groups have committed, for a clean shutdown.
    pub fn flush_offsets(&self, now: Moment) -> Result<LogOffset, Refusal> {
        let now = self.store.elapsed_stamp(now);
        while self.flush_one(now).map_err(|error| self.refuse_append(error, 0))? {}
        Ok(self.store.end())
    }

    fn sweep_some(&self, walk: Walk, now: Moment) {
        // Rows of deleted topics go everywhere, because that is not recorded; groups expire by facts.
        let leads = self.leads();
        let swept = {
            let state = &mut *self.state.borrow_mut();
            let (topics, groups) = (&state.durable.topics, &state.groups);
            let rule = SweepRule {
                now: self.store.elapsed(now),
                retention_ms: if leads { self.config.offset_retention_ms } else { u64::MAX },
                has_topic: &|number| topics.topic(number).is_some(),
                is_active: &|group| groups.has_members(group),
            };
            state.durable.offsets.sweep(walk, &rule)
        };
        let Swept { expired, rest } = swept;
        self.forget_groups(&expired, now);
        let pause_ms = if rest.is_some() { SWEEP_STEP_MS } else { SWEEP_EVERY_MS };
        self.at(now.plus_ms(pause_ms), Due::Sweep(rest.unwrap_or_default()));
        if leads {
            self.schedule_flush(now);
        }
    }

    fn sweep_locks(&self, walk: Walk, now: Moment) {
        let leads = self.leads();
        let swept = {
            let Durable { topics, locks, .. } = &mut self.state.borrow_mut().durable;
            locks.sweep(walk, now, |number| topics.topic(number).is_some())
        };
        if leads
            && !swept.released.is_empty()
            && let Err(error) = self.record(&swept.released)
        {
            // The next sweep finds them again.
            let shard = self.config.shard.0;
            tracing::warn!(shard, "cannot release expired queue locks: {error}");
        }
        let pause_ms = if swept.rest.is_some() { SWEEP_STEP_MS } else { SWEEP_LOCKS_EVERY_MS };
        self.at(now.plus_ms(pause_ms), Due::SweepLocks(swept.rest.unwrap_or_default()));
    }

    fn forget_groups(&self, expired: &[GroupName], now: Moment) {
        let facts: Facts = offsets::forgotten(expired, self.store.elapsed_stamp(now));
        if facts.is_empty() {
            return;
        }
        let shard = self.config.shard.0;
        match self.record(&facts) {
            Ok(_) => {
                let count = expired.len();
                tracing::info!(shard, "deleted the offsets of {count} unused groups");
            }
            // The next sweep finds them again.
            Err(error) => {
                tracing::warn!(shard, "cannot delete the offsets of unused groups: {error}")
            }
        }
    }
}
