//! Messages stored for a group of consumers, messages that it received, and its backlog, second by
//! second.
//!
//! The *backlog* at the end of a second is the number of messages stored in the group's streams
//! (acknowledged, or sent one-way; delayed messages from when they are due) minus the number that
//! the group has received. It needs only counters, so even a run of hours is cheap to analyse. The
//! resolution is one second, so all times are whole seconds.

use crate::findings::report::Report;

/// Seconds of one group, from the first of the run to the last with any activity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// Indexed by second.
    pub seconds: Vec<FlowSecond>,
    /// The second in which the last message was due.
    last_due: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSecond {
    /// Messages of the group's streams.
    pub due: u64,
    pub stored: u64,
    pub taken: u64,
    /// At the end of the second.
    pub backlog: u64,
}

/// The drain at the end of a run: the backlog when the last message had been due, and how fast it
/// was received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drain {
    pub messages: u64,
    /// Whole seconds; at least one.
    pub seconds: u64,
    /// Messages received per second meanwhile.
    pub rate: f64,
}

/// How the highest backlog was drained, wherever in the run it occurred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// Messages.
    pub highest: u64,
    /// The second at whose end it was highest.
    pub from_s: u64,
    /// How long the drain took; `None`: it was not complete by the end.
    pub length_s: Option<u64>,
    /// Receive rate meanwhile, as a multiple of the mean rate of production.
    pub times_production: f64,
}

/// A group is behind if its backlog is at least this many seconds of mean production.
const BEHIND_S: f64 = 1.0;
/// A backlog counts as drained when this share of its maximum is left: while messages are produced,
/// some are in flight, so it never reaches zero.
const DRAINED: f64 = 0.02;

/// The delay of a stream's messages, in whole seconds.
fn delay_s(report: &Report, track: usize) -> usize {
    let facts = report.tracks.get(track).and_then(|track| track.stream());
    facts.map_or(0, |facts| (facts.delay_ms / 1_000) as usize)
}

impl Flow {
    /// The flow of the group with this track; empty if the track is not a group.
    pub fn of(report: &Report, group: usize) -> Self {
        let facts = report.tracks.get(group).and_then(|track| track.group());
        let (Some(facts), Some(last)) = (facts, report.seconds.last()) else {
            return Self::default();
        };
        let last = last.number as usize;
        let mut seconds = vec![FlowSecond::default(); last + 1];
        for second in &report.seconds {
            let now = second.number as usize;
            for packed in &second.tracks {
                let counters = &packed.counters;
                if facts.streams.contains(&packed.track) {
                    // A delayed message is there for the group when it is due.
                    let delay_s = delay_s(report, packed.track);
                    let flow = &mut seconds[now.saturating_add(delay_s).min(last)];
                    flow.due += counters.due;
                    flow.stored += counters.acknowledged + counters.one_way;
                } else if packed.track == group {
                    seconds[now].taken += counters.received;
                }
            }
        }
        let (mut stored, mut taken) = (0u64, 0u64);
        for second in &mut seconds {
            stored += second.stored;
            taken += second.taken;
            second.backlog = stored.saturating_sub(taken);
        }
        let last_due = seconds.iter().rposition(|second| second.due > 0).unwrap_or(0);
        Self { seconds, last_due }
    }

    /// The largest backlog, and the second at whose end it was reached.
    pub fn largest(&self) -> (usize, u64) {
        let backlogs = self.seconds.iter().map(|second| second.backlog).enumerate();
        // Of equal ones, the first.
        backlogs.rev().max_by_key(|(_, backlog)| *backlog).unwrap_or((0, 0))
    }

    /// The first second from `from` on at whose end the backlog is at most what was stored in that
    /// second, or what it was before `before`; `None` if it never was.
    pub fn caught_up(&self, before: usize, from: usize) -> Option<usize> {
        let usual = before.checked_sub(1).and_then(|index| self.seconds.get(index));
        let usual = usual.map_or(0, |second| second.backlog);
        let is_level = |second: &FlowSecond| second.backlog <= usual.max(second.stored);
        let later = self.seconds.iter().enumerate().skip(from);
        later.into_iter().find(|(_, second)| is_level(second)).map(|(index, _)| index)
    }

    /// The drain at the end of the run; `None` if there was no backlog to drain.
    pub fn drain(&self) -> Option<Drain> {
        let messages = self.seconds.get(self.last_due)?.backlog;
        let rest = self.seconds.last()?.backlog;
        let after = &self.seconds[self.last_due + 1..];
        let seconds = after.iter().position(|second| second.backlog <= rest)? as u64 + 1;
        let taken: u64 = after[..seconds as usize].iter().map(|second| second.taken).sum();
        (messages > rest).then(|| Drain { messages, seconds, rate: taken as f64 / seconds as f64 })
    }

    /// How the highest backlog was drained; `None` if the group never fell behind.
    pub fn recovery(&self) -> Option<Recovery> {
        let highest = self.seconds.iter().map(|second| second.backlog).max()?;
        let per_s = self.stored_per_s();
        if (highest as f64) < BEHIND_S * per_s || highest == 0 {
            return None;
        }
        let from = self.seconds.iter().rposition(|second| second.backlog == highest)?;
        let is_drained = |second: &FlowSecond| (second.backlog as f64) <= DRAINED * highest as f64;
        let seconds = self.seconds[from..].iter().position(is_drained);
        let until = seconds.map_or(self.seconds.len(), |seconds| from + seconds + 1);
        let taken: u64 = self.seconds[from + 1..until].iter().map(|second| second.taken).sum();
        Some(Recovery {
            highest,
            from_s: from as u64,
            length_s: seconds.map(|seconds| seconds as u64),
            times_production: taken as f64 / (until - from - 1).max(1) as f64 / per_s,
        })
    }

    /// Mean rate until the last second in which messages were stored.
    fn stored_per_s(&self) -> f64 {
        let last = self.seconds.iter().rposition(|second| second.stored > 0);
        let length = last.map_or(0, |last| last + 1).max(1);
        self.seconds.iter().map(|second| second.stored).sum::<u64>() as f64 / length as f64
    }

    /// The highest number of messages due in one second, and the highest received in one while
    /// messages were due.
    pub fn peaks(&self) -> (u64, u64) {
        let while_due = &self.seconds[..(self.last_due + 1).min(self.seconds.len())];
        let due = while_due.iter().map(|second| second.due).max();
        let taken = while_due.iter().map(|second| second.taken).max();
        (due.unwrap_or(0), taken.unwrap_or(0))
    }

    /// Sums `of` over these seconds.
    pub fn sum(&self, seconds: std::ops::Range<usize>, of: fn(&FlowSecond) -> u64) -> u64 {
        let end = seconds.end.min(self.seconds.len());
        self.seconds[seconds.start.min(end)..end].iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::{Counters, Interval, Second};
    use crate::findings::report::tests::example;

    /// Seconds as (stored, received). Seconds without either are not reported.
    fn flow(seconds: &[(u64, u64)]) -> Flow {
        let interval = |counters| Interval { counters, ..Interval::default() };
        let mut report = example();
        for (number, &(stored, taken)) in (0..).zip(seconds).filter(|(_, it)| **it != (0, 0)) {
            let sent = Counters { due: stored, acknowledged: stored, ..Counters::default() };
            let received = Counters { received: taken, ..Counters::default() };
            let tracks = [(0, interval(sent)), (1, interval(received))];
            report.seconds.push(Second::pack(number, &tracks));
        }
        Flow::of(&report, 1)
    }

    #[test]
    fn a_backlog_is_what_was_stored_and_not_yet_taken() {
        let flow = flow(&[(100, 90), (100, 0), (0, 0), (100, 150), (0, 40), (0, 20)]);
        let backlogs: Vec<_> = flow.seconds.iter().map(|second| second.backlog).collect();
        assert_eq!(backlogs, [10, 110, 110, 60, 20, 0]);
        assert_eq!(flow.largest(), (1, 110));
        assert_eq!(flow.peaks(), (100, 150));
        assert_eq!(flow.drain(), Some(Drain { messages: 60, seconds: 2, rate: 30.0 }));
        assert_eq!(flow.sum(1..4, |second| second.stored), 200);
    }

    #[test]
    fn a_group_has_caught_up_when_less_than_a_second_waits() {
        let flow = flow(&[(100, 100), (100, 0), (100, 0), (100, 250), (100, 140), (10, 20)]);
        assert_eq!(flow.caught_up(1, 3), Some(3), "50 wait, of 100 a second");
        assert_eq!(self::flow(&[(100, 0), (100, 0), (0, 10)]).caught_up(0, 1), None);
    }

    /// Lost messages stay in the backlog for ever, and must not keep the drain from ending.
    #[test]
    fn a_drain_ends_with_what_is_left() {
        let flow = flow(&[(100, 0), (0, 60), (0, 30), (0, 0), (0, 0), (0, 1)]);
        assert_eq!(flow.drain(), Some(Drain { messages: 100, seconds: 5, rate: 18.2 }));
        assert_eq!(self::flow(&[(100, 100)]).drain(), None);
    }

    /// 100 a second for four seconds; the group is down for the last two, then receives 200 a
    /// second.
    #[test]
    fn a_recovery_is_measured_from_the_highest_backlog_on() {
        let flow = flow(&[(100, 100), (100, 100), (100, 0), (100, 0), (0, 150), (0, 50)]);
        let found = flow.recovery().unwrap();
        assert_eq!((found.highest, found.from_s, found.length_s), (200, 3, Some(2)));
        assert!((found.times_production - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn a_backlog_that_stays_is_not_drained() {
        let stays = flow(&[(100, 0), (100, 0), (0, 10)]).recovery().unwrap();
        assert_eq!((stays.highest, stays.length_s), (200, None));
        assert_eq!(flow(&[(100, 60), (100, 140)]).recovery(), None, "never a second behind");
    }

    #[test]
    fn what_arrives_before_its_acknowledgement_is_no_debt() {
        let backlogs: Vec<u64> =
            flow(&[(5, 7), (5, 3)]).seconds.iter().map(|second| second.backlog).collect();
        assert_eq!(backlogs, [0, 0]);
    }

    #[test]
    fn a_run_without_seconds_or_groups_has_no_flow() {
        let empty = Flow::of(&example(), 1);
        assert_eq!((empty.largest(), empty.drain(), empty.peaks()), ((0, 0), None, (0, 0)));
        assert_eq!(empty.caught_up(0, 0), None);
    }
}
