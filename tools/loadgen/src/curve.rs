//! How many messages per second a run asks for, over its time.

use std::time::Duration;

/// A piecewise linear rate, and the number of events due up to any time.
///
/// Arrivals are drawn on the axis of that number ("after 1, 2.3, 3.1 … expected events") and mapped
/// back to time, so one generator of arrivals serves constant rates, ramps and whole profiles.
#[derive(Clone, Debug)]
pub struct RateCurve {
    segments: Vec<Segment>,
    end_ns: u64,
    total: f64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    start_s: f64,
    rate: f64,
    /// Change of the rate per second.
    slope: f64,
    /// Events due before this segment.
    before: f64,
}

/// Where a stretch of the curve leads: after `length` the rate is `to`, per second.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    pub length: Duration,
    pub from: f64,
    pub to: f64,
}

impl RateCurve {
    pub fn constant(rate: f64, length: Duration) -> Self {
        Self::new(&[Stretch { length, from: rate, to: rate }])
    }

    /// # Panics
    /// When a rate is negative or not a number: options are checked before.
    pub fn new(stretches: &[Stretch]) -> Self {
        let mut segments = Vec::with_capacity(stretches.len());
        let (mut start_s, mut before, mut end_ns) = (0.0, 0.0, 0);
        for stretch in stretches {
            assert!(stretch.from >= 0.0 && stretch.to >= 0.0, "rates are not negative");
            let length_s = stretch.length.as_secs_f64();
            let slope = (stretch.to - stretch.from) / length_s.max(f64::MIN_POSITIVE);
            segments.push(Segment { start_s, rate: stretch.from, slope, before });
            start_s += length_s;
            before += (stretch.from + stretch.to) / 2.0 * length_s;
            end_ns += stretch.length.as_nanos() as u64;
        }
        Self { segments, end_ns, total: before }
    }

    /// The same curve times a factor that changes at these times, ns, the first at 0.
    pub fn times(&self, factors: &[(u64, f64)]) -> Self {
        let at = |second: f64| {
            let ns = (second * 1e9).round() as u64;
            let after = factors.partition_point(|(from_ns, _)| *from_ns <= ns);
            after.checked_sub(1).map_or(0.0, |index| factors[index].1)
        };
        let ends = self.segments.iter().skip(1).map(|segment| segment.start_s);
        let ends = ends.chain([self.end_ns as f64 / 1e9]);
        let mut stretches = Vec::new();
        for (segment, end_s) in self.segments.iter().zip(ends) {
            let mut from_s = segment.start_s;
            let changes = factors.iter().map(|(from_ns, _)| *from_ns as f64 / 1e9);
            let inside = changes.filter(|second| segment.start_s < *second && *second < end_s);
            for to_s in inside.chain([end_s]) {
                let rate = |second: f64| segment.rate + segment.slope * (second - segment.start_s);
                let factor = at(from_s);
                stretches.push(Stretch {
                    length: Duration::from_secs_f64((to_s - from_s).max(0.0)),
                    from: (rate(from_s) * factor).max(0.0),
                    to: (rate(to_s) * factor).max(0.0),
                });
                from_s = to_s;
            }
        }
        Self::new(&stretches)
    }

    /// Events per second at `ns`; 0 behind the end.
    pub fn rate_at(&self, ns: u64) -> f64 {
        if ns >= self.end_ns {
            return 0.0;
        }
        let second = ns as f64 / 1e9;
        let after = self.segments.partition_point(|segment| segment.start_s <= second);
        let segment = after.checked_sub(1).map(|index| &self.segments[index]);
        segment.map_or(0.0, |it| (it.rate + it.slope * (second - it.start_s)).max(0.0))
    }

    /// Events due over the whole curve.
    pub fn total(&self) -> f64 {
        self.total
    }

    pub fn end_ns(&self) -> u64 {
        self.end_ns
    }

    /// When the event number `count` (fractions count) is due; `None` behind the end.
    pub fn time_of(&self, count: f64) -> Option<u64> {
        if count >= self.total {
            return None;
        }
        let after = self.segments.partition_point(|segment| segment.before <= count);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let within = count - segment.before;
        let root = (segment.rate * segment.rate + 2.0 * segment.slope * within).max(0.0).sqrt();
        let divisor = segment.rate + root;
        let offset_s = if divisor > 0.0 { 2.0 * within / divisor } else { 0.0 };
        Some((((segment.start_s + offset_s) * 1e9) as u64).min(self.end_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_constant_rate_spaces_events_evenly() {
        let curve = RateCurve::constant(1000.0, 2 * SECOND);
        assert_eq!(curve.total(), 2000.0);
        for (count, ns) in [(0.0, 0), (1.0, 1_000_000), (1500.0, 1_500_000_000)] {
            assert_eq!(curve.time_of(count), Some(ns));
        }
        assert_eq!(curve.time_of(2000.0), None);
    }

    #[test]
    fn a_ramp_is_the_area_under_the_line() {
        // 0 to 100/s in one second: 50 events, the first 12.5 in the first half.
        let ramp = Stretch { length: SECOND, from: 0.0, to: 100.0 };
        let flat = Stretch { length: SECOND, from: 100.0, to: 100.0 };
        let curve = RateCurve::new(&[ramp, flat]);
        assert_eq!(curve.total(), 150.0);
        assert_eq!(curve.time_of(0.0), Some(0));
        assert_eq!(curve.time_of(12.5), Some(500_000_000));
        assert_eq!(curve.time_of(100.0), Some(1_500_000_000));
    }

    #[test]
    fn factors_apply_from_their_times_on() {
        let ramp = Stretch { length: 2 * SECOND, from: 0.0, to: 100.0 };
        let flat = Stretch { length: SECOND, from: 100.0, to: 100.0 };
        let curve = RateCurve::new(&[ramp, flat]).times(&[(0, 0.0), (1_000_000_000, 0.5)]);
        assert_eq!(curve.end_ns(), 3_000_000_000);
        for (ns, rate) in
            [(0, 0.0), (999_999_999, 0.0), (1_500_000_000, 37.5), (2_500_000_000, 50.0)]
        {
            assert!((curve.rate_at(ns) - rate).abs() < 1e-6, "{ns}: {}", curve.rate_at(ns));
        }
        assert!((curve.total() - (37.5 + 50.0)).abs() < 1e-6, "{}", curve.total());
        assert_eq!(curve.rate_at(3_000_000_000), 0.0);
    }

    #[test]
    fn a_pause_has_no_events() {
        let burst = Stretch { length: SECOND, from: 10.0, to: 10.0 };
        let pause = Stretch { length: SECOND, from: 0.0, to: 0.0 };
        let curve = RateCurve::new(&[burst, pause, burst]);
        assert!(curve.time_of(9.9).unwrap() < 1_000_000_000);
        assert!(curve.time_of(10.1).unwrap() >= 2_000_000_000);
    }
}
