//! What there was for a group of consumers, what it took, and what waited, second by second.
//!
//! The *backlog* is what had been stored of the group's streams at the end of a second (acknowledged,
//! or sent without asking) less what the group had received. It is read off counters alone, so a run
//! of hours is cheap to go through. What a second cannot resolve is not claimed: times are whole
//! seconds.

use crate::findings::report::Report;

/// The seconds of one group from the first of the run to the last in which anything happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// By number of the second.
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

/// The end of a run: what waited when the last message had been due, and how fast it went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drain {
    pub messages: u64,
    /// Whole seconds; at least one.
    pub seconds: u64,
    /// Messages per second received meanwhile.
    pub rate: f64,
}

/// How the highest backlog went down, wherever in the run that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// Messages.
    pub highest: u64,
    /// Second at whose end it was highest.
    pub from_s: u64,
    /// How long it took; `None`: it was not drained by the end.
    pub length_s: Option<u64>,
    /// What was received meanwhile, per second, in mean rates of production.
    pub times_production: f64,
}

/// A group is behind when it has this many seconds of production to take, on average.
const BEHIND_S: f64 = 1.0;
/// A backlog counts as drained when this part of its highest is left: messages that are in flight
/// never sum up to nothing while others are produced.
const DRAINED: f64 = 0.02;

impl Flow {
    /// Of the group with this track; empty when it is none.
    pub fn of(report: &Report, group: usize) -> Self {
        let facts = report.tracks.get(group).and_then(|track| track.group());
        let (Some(facts), Some(last)) = (facts, report.seconds.last()) else {
            return Self::default();
        };
        let mut seconds = vec![FlowSecond::default(); last.number as usize + 1];
        for second in &report.seconds {
            let flow = &mut seconds[second.number as usize];
            for packed in &second.tracks {
                let counters = &packed.counters;
                if facts.streams.contains(&packed.track) {
                    flow.due += counters.due;
                    flow.stored += counters.acknowledged + counters.one_way;
                } else if packed.track == group {
                    flow.taken += counters.received;
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

    /// The largest backlog, and the second at the end of which it was reached.
    pub fn largest(&self) -> (usize, u64) {
        let backlogs = self.seconds.iter().map(|second| second.backlog).enumerate();
        // The first of equals.
        backlogs.rev().max_by_key(|(_, backlog)| *backlog).unwrap_or((0, 0))
    }

    /// The first second from `from` on after which no more waits than is stored in a second, or
    /// than waited before `before`; `None` when it never came to that.
    pub fn caught_up(&self, before: usize, from: usize) -> Option<usize> {
        let usual = before.checked_sub(1).and_then(|index| self.seconds.get(index));
        let usual = usual.map_or(0, |second| second.backlog);
        let is_level = |second: &FlowSecond| second.backlog <= usual.max(second.stored);
        let later = self.seconds.iter().enumerate().skip(from);
        later.into_iter().find(|(_, second)| is_level(second)).map(|(index, _)| index)
    }

    /// `None` when nothing waited at the end.
    pub fn drain(&self) -> Option<Drain> {
        let messages = self.seconds.get(self.last_due)?.backlog;
        let rest = self.seconds.last()?.backlog;
        let after = &self.seconds[self.last_due + 1..];
        let seconds = after.iter().position(|second| second.backlog <= rest)? as u64 + 1;
        let taken: u64 = after[..seconds as usize].iter().map(|second| second.taken).sum();
        (messages > rest).then(|| Drain { messages, seconds, rate: taken as f64 / seconds as f64 })
    }

    /// How the highest backlog was drained; `None` where the group never fell behind.
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

    /// While messages were stored, on average.
    fn stored_per_s(&self) -> f64 {
        let last = self.seconds.iter().rposition(|second| second.stored > 0);
        let length = last.map_or(0, |last| last + 1).max(1);
        self.seconds.iter().map(|second| second.stored).sum::<u64>() as f64 / length as f64
    }

    /// What was due at most in one second, and what was taken at most while messages were due.
    pub fn peaks(&self) -> (u64, u64) {
        let while_due = &self.seconds[..(self.last_due + 1).min(self.seconds.len())];
        let due = while_due.iter().map(|second| second.due).max();
        let taken = while_due.iter().map(|second| second.taken).max();
        (due.unwrap_or(0), taken.unwrap_or(0))
    }

    /// Sums over these seconds.
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

    /// Seconds as (stored, taken); a pause in which nothing is stored or taken is not reported.
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

    /// What was lost waits for ever, and is no reason to say that draining never ended.
    #[test]
    fn a_drain_ends_with_what_is_left() {
        let flow = flow(&[(100, 0), (0, 60), (0, 30), (0, 0), (0, 0), (0, 1)]);
        assert_eq!(flow.drain(), Some(Drain { messages: 100, seconds: 5, rate: 18.2 }));
        assert_eq!(self::flow(&[(100, 100)]).drain(), None);
    }

    /// 100 a second for four seconds, down for the last two of them, then 200 a second.
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
