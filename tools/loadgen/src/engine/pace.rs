//! The rate limit and the pauses of a group: a token bucket that gets the time as an argument.

use crate::plan::scenario::Pause;

/// The allowance of a group without a rate limit.
const UNLIMITED: u32 = u32::MAX;
/// Burst size of the bucket, as time at the group's rate, ns.
const BURST_NS: u64 = 100_000_000;
/// Smallest allowance, as time at the group's rate, ns. Makes pulls fewer and larger.
const STEP_NS: u64 = 10_000_000;

/// The pace of one group: a bucket that fills at the group's rate, and pauses.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Messages per second; `None` if unlimited.
    rate: Option<f64>,
    pauses: Vec<Pause>,
    /// Messages that may be requested now; negative if pulls returned more than requested.
    level: f64,
    filled_ns: u64,
    /// Number of queues that share the bucket.
    queues: usize,
    is_open: bool,
}

impl Pace {
    pub fn new(rate: Option<f64>, pauses: Vec<Pause>) -> Self {
        Self { rate, pauses, level: 0.0, filled_ns: 0, queues: 1, is_open: false }
    }

    /// Shares the bucket among this many queues. A pull of an empty queue holds its tokens until
    /// the broker replies, so each pull is limited to its queue's share.
    pub fn shared_by(self, queues: usize) -> Self {
        Self { queues: queues.max(1), ..self }
    }

    /// Limits the rate to the share of one of `count` members of a group.
    pub fn divided_by(self, count: u32) -> Self {
        Self { rate: self.rate.map(|rate| rate / f64::from(count)), ..self }
    }

    /// Removes the limit and the pauses, to drain the backlog.
    pub fn open(&mut self) {
        self.is_open = true;
    }

    /// Takes the tokens of a pull for `count` messages.
    pub fn take(&mut self, count: u32) {
        if self.rate.is_some() {
            self.level -= f64::from(count);
        }
    }

    /// Returns the tokens of `count` requested messages that were not received; negative if more were
    /// received than requested.
    pub fn give_back(&mut self, count: i64) {
        if self.rate.is_some() {
            self.level += count as f64;
        }
    }

    /// How many messages may be requested at `now_ns`; `None` if none yet.
    pub fn allowance(&mut self, now_ns: u64) -> Option<u32> {
        if self.is_open {
            return Some(UNLIMITED);
        }
        if self.pause_at(now_ns).is_some() {
            // The bucket does not fill during a pause, so the group does not catch up afterwards.
            self.filled_ns = now_ns;
            return None;
        }
        let Some(rate) = self.rate else { return Some(UNLIMITED) };
        let passed_s = now_ns.saturating_sub(self.filled_ns) as f64 / 1e9;
        let burst = (rate * BURST_NS as f64 / 1e9).max(1.0);
        self.level = (self.level + rate * passed_s).min(burst);
        self.filled_ns = now_ns;
        let step = (rate * STEP_NS as f64 / 1e9).max(1.0);
        let share = (burst / self.queues as f64).max(1.0);
        (self.level >= step).then_some(self.level.min(share) as u32)
    }

    /// When to call [`allowance`](Self::allowance) again.
    pub fn next_ns(&self, now_ns: u64) -> u64 {
        if self.is_open {
            return u64::MAX;
        }
        match (self.pause_at(now_ns), self.rate) {
            (Some(pause), _) => pause.to_ns,
            (None, Some(_)) => now_ns + STEP_NS,
            (None, None) => u64::MAX,
        }
    }

    /// Whether the group is down, without connections.
    pub fn is_down(&self, now_ns: u64) -> bool {
        !self.is_open && self.pause_at(now_ns).is_some_and(|pause| pause.is_down)
    }

    fn pause_at(&self, now_ns: u64) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.from_ns <= now_ns && now_ns < pause.to_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes the whole allowance every `step_ns`, until `to_ns`.
    fn taken(pace: &mut Pace, from_ns: u64, to_ns: u64, step_ns: u64) -> u64 {
        let mut sum = 0;
        for now_ns in (from_ns..to_ns).step_by(step_ns as usize) {
            while let Some(count) = pace.allowance(now_ns) {
                pace.take(count);
                sum += u64::from(count);
            }
        }
        sum
    }

    #[test]
    fn a_rate_is_kept_however_often_it_is_asked() {
        for step_ns in [100_000, 1_000_000, 40_000_000] {
            let mut pace = Pace::new(Some(5_000.0), Vec::new());
            let taken = taken(&mut pace, 0, 10 * SECOND, step_ns);
            assert!(taken.abs_diff(50_000) < 1_000, "{step_ns}: {taken}");
        }
    }

    #[test]
    fn a_slow_group_of_less_than_one_a_step_still_moves() {
        let mut pace = Pace::new(Some(3.0), Vec::new());
        assert_eq!(taken(&mut pace, 0, 10 * SECOND, 1_000_000).abs_diff(30), 1);
    }

    #[test]
    fn too_much_at_once_is_made_up_for() {
        let mut pace = Pace::new(Some(1_000.0), Vec::new());
        pace.give_back(-5_000);
        assert_eq!(taken(&mut pace, 0, 5 * SECOND, 1_000_000), 0);
        assert!(taken(&mut pace, 5 * SECOND, 6 * SECOND, 1_000_000) > 900);
    }

    /// Pulls return half of the requested messages; the other half may be requested again.
    #[test]
    fn what_does_not_come_is_not_counted() {
        let mut pace = Pace::new(Some(1_000.0), Vec::new());
        let mut come = 0;
        for now_ns in (0..10 * SECOND).step_by(1_000_000) {
            while let Some(count) = pace.allowance(now_ns) {
                pace.take(count);
                come += u64::from(count.div_ceil(2));
                pace.give_back(i64::from(count / 2));
            }
        }
        assert!(come.abs_diff(10_000) < 400, "{come}");
    }

    /// Queues with messages progress, however many empty queues hold tokens.
    #[test]
    fn empty_queues_do_not_keep_the_others_waiting() {
        let mut pace = Pace::new(Some(10_000.0), Vec::new()).shared_by(100);
        let mut empty = 99;
        let mut come = 0;
        for now_ns in (0..10 * SECOND).step_by(1_000_000) {
            while let Some(count) = pace.allowance(now_ns) {
                pace.take(count);
                if empty > 0 {
                    empty -= 1;
                } else {
                    come += u64::from(count);
                }
            }
        }
        assert!(come > 95_000, "{come}");
    }

    #[test]
    fn a_pause_takes_nothing_and_is_not_made_up_for() {
        let pause = Pause { from_ns: SECOND, to_ns: 3 * SECOND, is_down: true };
        let mut pace = Pace::new(Some(1_000.0), vec![pause]);
        taken(&mut pace, 0, SECOND, 1_000_000);
        assert!(!pace.is_down(SECOND - 1) && pace.is_down(SECOND));
        assert_eq!(taken(&mut pace, SECOND, 3 * SECOND, 1_000_000), 0);
        assert_eq!(pace.next_ns(2 * SECOND), 3 * SECOND);
        let after = taken(&mut pace, 3 * SECOND, 4 * SECOND, 1_000_000);
        assert!(after.abs_diff(1_000) < 120, "{after}");
    }

    #[test]
    fn an_open_pace_holds_nothing_back() {
        let pause = Pause { from_ns: 0, to_ns: SECOND, is_down: true };
        let mut pace = Pace::new(Some(1.0), vec![pause]);
        assert_eq!(pace.allowance(5), None);
        pace.open();
        assert_eq!(pace.allowance(6), Some(UNLIMITED));
        assert!(!pace.is_down(6));
    }
}
