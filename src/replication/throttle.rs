//! Limits how fast the old part of a log is sent to replicas that are missing it. Pure: the caller
//! passes in the time.

use std::time::Duration;

use crate::model::Moment;

/// Limits the rate over any longer period to `bytes_per_s`.
#[derive(Debug)]
pub struct Throttle {
    /// 0: no limit.
    bytes_per_s: u64,
    /// When what was sent has used up its share of time, µs.
    free_at_us: u64,
}

impl Throttle {
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, free_at_us: 0 }
    }

    /// How long to wait before sending this many bytes. Without a limit, or for no bytes, never
    /// waits.
    pub fn take(&mut self, bytes: u64, now: Moment) -> Duration {
        if self.bytes_per_s == 0 || bytes == 0 {
            return Duration::ZERO;
        }
        let now_us = now.0 * 1_000;
        let begin_us = self.free_at_us.max(now_us);
        self.free_at_us = begin_us + bytes.saturating_mul(1_000_000) / self.bytes_per_s;
        Duration::from_micros(begin_us - now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_sent_than_is_allowed_whatever_the_sizes() {
        const MIB: u64 = 1 << 20;
        for size in [MIB / 16, MIB, 3 * MIB] {
            let mut throttle = Throttle::new(8 * MIB);
            let (mut now_us, mut sent) = (0, 0);
            while sent < 64 * MIB {
                now_us += throttle.take(size, Moment(now_us / 1_000)).as_micros() as u64;
                sent += size;
            }
            assert!((7_600_000..=8_000_000).contains(&now_us), "{sent} bytes in {now_us} µs");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut throttle = Throttle::new(1_000);
        assert_eq!(throttle.take(500, Moment(0)), Duration::ZERO);
        assert_eq!(throttle.take(500, Moment(10_000)), Duration::ZERO);
        assert_eq!(throttle.take(500, Moment(10_000)), Duration::from_millis(500));
    }

    /// New entries, which are not limited, are sent in between.
    #[test]
    fn no_bytes_do_not_wait_for_those_before_them() {
        let mut throttle = Throttle::new(1_000);
        assert_eq!(throttle.take(500, Moment(0)), Duration::ZERO);
        assert_eq!(throttle.take(0, Moment(1)), Duration::ZERO);
        assert_eq!(throttle.take(500, Moment(1)), Duration::from_millis(499));
    }

    #[test]
    fn zero_is_no_limit() {
        let mut throttle = Throttle::new(0);
        assert_eq!([u64::MAX; 3].map(|bytes| throttle.take(bytes, Moment(7))), [Duration::ZERO; 3]);
    }
}
