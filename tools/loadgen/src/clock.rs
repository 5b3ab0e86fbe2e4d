//! The clock of one run.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Counts nanoseconds from the moment at which the first message may be due. Clones share one
/// clock.
#[derive(Clone, Debug, Default)]
pub struct RunClock {
    /// The zero, also in nanoseconds since 1970; unset until everything is ready.
    zero: Arc<OnceLock<(Instant, u64)>>,
}

impl RunClock {
    /// A clock that reads 0 until it is [started](Self::start).
    pub fn unset() -> Self {
        Self::default()
    }

    /// A clock that reads 0 until `zero`, which may be in the future.
    pub fn starting_at(zero: Instant) -> Self {
        let clock = Self::unset();
        clock.start(zero);
        clock
    }

    /// Sets the zero, which may be in the future. Only the first call has an effect.
    pub fn start(&self, zero: Instant) {
        let until_zero = zero.saturating_duration_since(Instant::now());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = self.zero.set((zero, (unix + until_zero).as_nanos() as u64));
    }

    pub fn now_ns(&self) -> u64 {
        self.zero.get().map_or(0, |(zero, _)| {
            Instant::now().saturating_duration_since(*zero).as_nanos() as u64
        })
    }

    /// Milliseconds since 1970 at `ns` of this clock.
    pub fn unix_ms(&self, ns: u64) -> u64 {
        (self.zero_unix_ns() + ns) / 1_000_000
    }

    /// 0 until the clock is started.
    pub fn zero_unix_ns(&self) -> u64 {
        self.zero.get().map_or(0, |(_, unix_ns)| *unix_ns)
    }
}

/// Measures the share of a core that one thread uses in an interval of the run.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    from_ns: u64,
    cpu_from: Duration,
}

impl CpuMeter {
    /// Starts to measure the calling thread.
    pub fn start(now_ns: u64) -> Self {
        Self { from_ns: now_ns, cpu_from: cpu_of_this_thread() }
    }

    /// Share of a core used since the start. Must be called on the same thread.
    pub fn share(&self, now_ns: u64) -> f64 {
        let used = cpu_of_this_thread().saturating_sub(self.cpu_from);
        let length_ns = now_ns.saturating_sub(self.from_ns).max(1);
        used.as_nanos() as f64 / length_ns as f64
    }
}

fn cpu_of_this_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Nanoseconds since 1970 at `time`; `None` for times before 1970.
pub fn unix_ns(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_nanos() as u64)
}

/// `2026-11-25T01:16:00Z` for seconds since 1970, by the civil calendar of 400-year eras.
pub fn rfc3339(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let day_of_era = (days + 719_468) % 146_097;
    let era = (days + 719_468) / 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_the_calendar() {
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (unix_s, text) in rows {
            assert_eq!(rfc3339(unix_s), text);
        }
    }
}
