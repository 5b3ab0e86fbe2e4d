//! What a group has still to take, second by second.

use crate::report::Report;

/// What was produced for a group and what it received, by second of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Messages of its streams that were acknowledged, or sent without asking for an answer.
    pub produced: Vec<u64>,
    pub received: Vec<u64>,
}

impl Flow {
    /// Of the group on track `group`; empty for any other track.
    pub fn of(report: &Report, group: usize) -> Self {
        let Some(facts) = report.tracks.get(group).and_then(|track| track.group()) else {
            return Self::default();
        };
        let length = report.seconds.iter().map(|second| second.number as usize + 1).max();
        let zeros = vec![0; length.unwrap_or(0)];
        let mut flow = Self { produced: zeros.clone(), received: zeros };
        for second in &report.seconds {
            let at = second.number as usize;
            for interval in &second.tracks {
                if facts.streams.contains(&interval.track) {
                    flow.produced[at] += interval.counters.acknowledged + interval.counters.one_way;
                } else if interval.track == group {
                    flow.received[at] += interval.counters.received;
                }
            }
        }
        flow
    }

    /// Messages that waited for the group at the end of each second. One that was received before
    /// its acknowledgement arrived does not count as negative; one that is lost stays in it.
    pub fn backlog(&self) -> Vec<u64> {
        let (mut produced, mut received) = (0u64, 0u64);
        let seconds = self.produced.iter().zip(&self.received);
        let at_end = seconds.map(|(more, taken)| {
            produced += more;
            received += taken;
            produced.saturating_sub(received)
        });
        at_end.collect()
    }

    /// How the highest backlog was drained; `None` where the group never fell behind.
    pub fn drain(&self) -> Option<Drain> {
        let backlog = self.backlog();
        let highest = *backlog.iter().max()?;
        let per_s = self.produced_per_s();
        if (highest as f64) < BEHIND_S * per_s || highest == 0 {
            return None;
        }
        let from = backlog.iter().rposition(|waiting| *waiting == highest)?;
        let is_drained = |waiting: &u64| (*waiting as f64) <= DRAINED * highest as f64;
        let seconds = backlog[from..].iter().position(is_drained);
        let until = seconds.map_or(backlog.len(), |seconds| from + seconds + 1);
        let taken: u64 = self.received[from + 1..until].iter().sum();
        Some(Drain {
            highest,
            from_s: from as u64,
            length_s: seconds.map(|seconds| seconds as u64),
            times_production: taken as f64 / (until - from - 1).max(1) as f64 / per_s,
        })
    }

    /// While messages were produced, on average.
    fn produced_per_s(&self) -> f64 {
        let length = self.produced.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.produced.iter().sum::<u64>() as f64 / length.max(1) as f64
    }
}

/// A group is behind when it has this many seconds of production to take, on average.
const BEHIND_S: f64 = 1.0;
/// A backlog counts as drained when this part of its highest is left: messages that are under way
/// never sum up to nothing while others are produced.
const DRAINED: f64 = 0.02;

/// How a backlog went down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drain {
    /// Messages.
    pub highest: u64,
    /// Second at whose end it was highest.
    pub from_s: u64,
    /// How long it took; `None`: it was not drained by the end.
    pub length_s: Option<u64>,
    /// What was received meanwhile, per second, in mean rates of production.
    pub times_production: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Counters, Interval, Second};
    use crate::report::tests::example;

    fn flow(produced: &[u64], received: &[u64]) -> Flow {
        Flow { produced: produced.into(), received: received.into() }
    }

    #[test]
    fn a_flow_is_read_from_the_seconds() {
        let mut report = example();
        let of = |counters| Interval { counters, ..Interval::default() };
        let sent = |acknowledged, one_way| {
            of(Counters { acknowledged, one_way, sent: 99, ..Counters::default() })
        };
        let taken = |received| of(Counters { received, ..Counters::default() });
        report.seconds = vec![
            Second::pack(0, &[(0, sent(10, 2)), (1, taken(5))]),
            // Nothing happened in second 1.
            Second::pack(2, &[(0, sent(3, 0))]),
            Second::pack(3, &[(1, taken(10))]),
        ];
        let found = Flow::of(&report, 1);
        assert_eq!(found, flow(&[12, 0, 3, 0], &[5, 0, 0, 10]));
        assert_eq!(found.backlog(), [7, 7, 10, 0]);
        assert_eq!(Flow::of(&report, 0), Flow::default(), "a stream has no backlog");
        assert_eq!(Flow::of(&report, 9), Flow::default());
    }

    #[test]
    fn what_arrives_before_its_acknowledgement_is_no_debt() {
        assert_eq!(flow(&[5, 5], &[7, 3]).backlog(), [0, 0]);
    }

    /// 100 a second for four seconds, down for the last two of them, then 200 a second.
    #[test]
    fn a_drain_is_measured_from_the_highest_backlog_on() {
        let found = flow(&[100, 100, 100, 100, 0, 0], &[100, 100, 0, 0, 150, 50]).drain().unwrap();
        assert_eq!((found.highest, found.from_s, found.length_s), (200, 3, Some(2)));
        assert!((found.times_production - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn a_backlog_that_stays_is_not_drained() {
        let found = flow(&[100, 100, 100], &[0, 0, 50]).drain().unwrap();
        assert_eq!((found.highest, found.length_s), (250, None));
        let found = flow(&[100, 100, 100, 0], &[0, 0, 0, 30]).drain().unwrap();
        assert_eq!((found.highest, found.length_s), (300, None));
        assert!((found.times_production - 0.3).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn who_keeps_up_has_nothing_to_drain() {
        assert_eq!(flow(&[100, 100], &[60, 140]).drain(), None);
        assert_eq!(Flow::default().drain(), None);
        assert_eq!(flow(&[0, 0], &[0, 0]).drain(), None);
    }
}
