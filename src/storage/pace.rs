//! How much may be in flight, so that what is admitted is committed soon.
//!
//! An append is committed after everything before it. On a device that has become slow, the append
//! budget can stand for seconds of writing, and each message would wait for all of it. So while
//! appends queue up, the rate of the device is measured, and only as much is admitted as it writes
//! within [`COMMIT_TIME_MAX`]. The rest waits for admission, where it can still be refused. Once the
//! device has caught up, only the budget limits.
//!
//! Only the time in which the device has something to write counts. Otherwise a shard that is busy
//! with other things would conclude that the device is slow, admit less, and be busy refusing the
//! rest.
//!
//! Pure: the caller passes in the time.

use std::ops::Range;
use std::time::Duration;

/// Longest time that an admitted append should wait for the device.
const COMMIT_TIME_MAX: Duration = Duration::from_millis(50);
/// Shortest time of writing over which the rate is measured. Single writes say little: a slow one is followed
/// by several that were held up behind it.
const WINDOW: Duration = Duration::from_millis(20);
/// Always allowed in flight, bytes: less would keep a fast device waiting for the next write.
const IN_FLIGHT_MIN: u64 = 512 << 10;
/// With this much in flight, the device is the bottleneck even if no append waits for admission,
/// bytes.
const SATURATED: u64 = 4 << 20;

/// The rate of the device while it is the bottleneck.
#[derive(Debug, Default)]
pub struct Pace {
    /// Bytes per second; `None` while the device keeps up.
    rate: Option<u64>,
    window: Option<Window>,
    /// The end of the last write.
    busy_until_ns: u64,
}

/// A measurement in progress.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// How long the device has been writing.
    busy_ns: u64,
    /// Log offset up to which everything was written when it began.
    written: u64,
}

impl Pace {
    /// Records the end of a write, which took place during `took` on a monotonic clock,
    /// nanoseconds. Everything up to log offset `written` has been written, and `in_flight` bytes
    /// have not. `has_waiting`: appends wait for admission.
    pub fn handle_written(
        &mut self,
        took: Range<u64>,
        written: u64,
        in_flight: u64,
        has_waiting: bool,
    ) {
        // Writes may overlap.
        let busy_ns = took.end.saturating_sub(took.start.max(self.busy_until_ns));
        self.busy_until_ns = self.busy_until_ns.max(took.end);
        if in_flight == 0 && !has_waiting {
            (self.rate, self.window) = (None, None);
        } else if !has_waiting && in_flight < SATURATED {
            self.window = None;
        } else if let Some(window) = &mut self.window {
            window.busy_ns += busy_ns;
            self.measure(written);
        } else {
            self.window = Some(Window { busy_ns: 0, written });
        }
    }

    fn measure(&mut self, written: u64) {
        let Some(Window { busy_ns, written: before }) = self.window else { return };
        let busy = Duration::from_nanos(busy_ns);
        if busy < WINDOW {
            return;
        }
        self.window = Some(Window { busy_ns: 0, written });
        let measured = ((written - before) as f64 / busy.as_secs_f64()) as u64;
        self.rate = Some(self.rate.map_or(measured, |rate| rate.midpoint(measured)));
    }

    /// Maximum bytes that may be in flight, out of `budget`.
    pub fn in_flight_max(&self, budget: u64) -> u64 {
        let Some(rate) = self.rate else { return budget };
        let in_time = (rate as f64 * COMMIT_TIME_MAX.as_secs_f64()) as u64;
        in_time.max(IN_FLIGHT_MIN).min(budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: u64 = 64 << 20;
    const MS: u64 = 1_000_000;

    /// A device and the log that it writes.
    #[derive(Default)]
    struct Device {
        pace: Pace,
        now_ms: u64,
        written: u64,
    }

    impl Device {
        /// Writes `rate` bytes per second, in a write per millisecond. There are always `demand`
        /// bytes to write, as far as that is allowed. Returns what is allowed at the end.
        fn run(&mut self, rate: u64, ms: u64, demand: u64) -> u64 {
            for _ in 0..ms {
                let allowed = self.pace.in_flight_max(BUDGET);
                (self.now_ms, self.written) = (self.now_ms + 1, self.written + rate / 1000);
                let (in_flight, has_waiting) = (demand.min(allowed), demand > allowed);
                let took = (self.now_ms - 1) * MS..self.now_ms * MS;
                self.pace.handle_written(took, self.written, in_flight, has_waiting);
            }
            self.pace.in_flight_max(BUDGET)
        }
    }

    #[test]
    fn a_slow_device_gets_as_much_as_it_commits_in_time() {
        let mut device = Device::default();
        assert_eq!(device.pace.in_flight_max(BUDGET), BUDGET);
        assert_eq!(device.run(100_000_000, 100, BUDGET), 5_000_000, "50 ms of 100 MB/s");
        assert_eq!(device.run(1_000_000, 500, BUDGET), IN_FLIGHT_MIN, "however slow it is");
    }

    #[test]
    fn a_device_that_is_fast_again_is_noticed_although_little_is_in_flight() {
        let mut device = Device::default();
        assert_eq!(device.run(1_000_000, 1000, BUDGET), IN_FLIGHT_MIN);
        assert!(device.run(400_000_000, 200, BUDGET) >= 19_000_000);
    }

    #[test]
    fn while_the_device_keeps_up_only_the_budget_limits() {
        let mut device = Device::default();
        assert_eq!(device.run(20_000_000, 1000, 100_000), BUDGET);
        device.now_ms += 4000;
        assert_eq!(device.run(20_000_000, 1, 100_000), BUDGET, "a stall with little in flight");
    }

    #[test]
    fn a_device_that_is_seldom_given_anything_is_not_slow() {
        let mut pace = Pace::default();
        for nth in 1..100 {
            let (begin, written) = (nth * 10 * MS, nth * 100_000);
            pace.handle_written(begin..begin + MS, written, 0, true);
        }
        assert_eq!(pace.in_flight_max(BUDGET), 5_000_000, "100 kB per millisecond of writing");
    }

    #[test]
    fn writes_at_the_same_time_count_once() {
        let mut pace = Pace::default();
        for nth in 1..100 {
            let end = nth * MS;
            pace.handle_written(end.saturating_sub(3 * MS)..end, nth * 100_000, 0, true);
        }
        assert_eq!(pace.in_flight_max(BUDGET), 5_000_000);
    }

    #[test]
    fn once_the_device_has_caught_up_the_limit_is_gone() {
        let mut device = Device::default();
        assert!(device.run(100_000_000, 100, BUDGET) < BUDGET);
        assert_eq!(device.run(100_000_000, 1, 0), BUDGET);
    }

    #[test]
    fn a_budget_below_the_minimum_stays_the_limit() {
        let mut device = Device::default();
        device.run(1_000_000, 1000, BUDGET);
        assert_eq!(device.pace.in_flight_max(1000), 1000);
    }
}
