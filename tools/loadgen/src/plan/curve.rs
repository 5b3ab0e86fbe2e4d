//! The rate of a run as a function of time.

use std::time::Duration;

/// A piecewise linear rate, and the number of events due up to any time.
///
/// Arrivals are drawn in units of expected events ("after 1, 2.3, 3.1 … expected events") and
/// mapped back to time. So one generator of arrivals serves constant rates, ramps and whole
/// profiles.
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

/// One stretch of the curve: the rate changes linearly from `from` to `to`, per second, over
/// `length`.
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
    /// If a rate is negative or not a number. Options are validated before.
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

    /// A polyline through points of time, ns, and rate. The first time is 0, and times do not
    /// decrease; two points at the same time are a jump.
    ///
    /// # Panics
    /// As [`new`](Self::new), or if times decrease.
    pub fn through(points: &[(u64, f64)]) -> Self {
        assert!(points.first().is_none_or(|(ns, _)| *ns == 0), "a curve begins at 0");
        assert!(points.is_sorted_by_key(|(ns, _)| *ns), "time does not fall");
        let stretch = |pair: &[(u64, f64)]| {
            let ((from_ns, from), (to_ns, to)) = (pair[0], pair[1]);
            Stretch { length: Duration::from_nanos(to_ns - from_ns), from, to }
        };
        Self::new(&points.windows(2).map(stretch).collect::<Vec<_>>())
    }

    /// The same curve multiplied by a factor that changes at these times, ns; the first is 0.
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

    /// Events due over the whole curve.
    pub fn total(&self) -> f64 {
        self.total
    }

    pub fn end_ns(&self) -> u64 {
        self.end_ns
    }

    /// Messages per second at `ns`: at a jump the new rate, after the end 0.
    pub fn rate_at(&self, ns: u64) -> f64 {
        self.segment_at(ns)
            .map_or(0.0, |(segment, within_s)| (segment.rate + segment.slope * within_s).max(0.0))
    }

    /// Events due before `ns`.
    pub fn due_before(&self, ns: u64) -> f64 {
        self.segment_at(ns).map_or(self.total, |(segment, within_s)| {
            let mean = segment.rate + segment.slope * within_s / 2.0;
            (segment.before + mean * within_s).min(self.total)
        })
    }

    /// The highest rate.
    pub fn peak(&self) -> f64 {
        highest(&[self])
    }

    /// The segment that contains `ns`, and the offset in it.
    fn segment_at(&self, ns: u64) -> Option<(&Segment, f64)> {
        if ns >= self.end_ns {
            return None;
        }
        let at_s = ns as f64 / 1e9;
        let after = self.segments.partition_point(|segment| segment.start_s <= at_s);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        Some((segment, at_s - segment.start_s))
    }

    /// The points where segments meet, ns, each with its two neighbours; and the last ns.
    fn bends(&self) -> impl Iterator<Item = u64> {
        let starts = self.segments.iter().map(|segment| (segment.start_s * 1e9).round() as u64);
        let both = starts.flat_map(|ns| [ns.saturating_sub(1), ns, ns + 1]);
        both.chain([self.end_ns.saturating_sub(1)])
    }

    /// When event number `count` (which may be fractional) is due; `None` after the end.
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

/// The highest rate of the sum of all curves, to within a few nanoseconds. A sum of piecewise
/// linear curves is highest where one of them bends.
pub fn highest(curves: &[&RateCurve]) -> f64 {
    let rate = |ns| curves.iter().map(|curve| curve.rate_at(ns)).sum::<f64>();
    curves.iter().flat_map(|curve| curve.bends()).map(rate).fold(0.0, f64::max)
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
        // 0 to 100/s in one second: 50 events, 12.5 of them in the first half.
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

    #[test]
    fn a_curve_goes_through_its_points() {
        let (second, points) = (1_000_000_000, [(0, 10.0), (1, 20.0), (1, 5.0), (3, 15.0)]);
        let curve = RateCurve::through(&points.map(|(s, rate)| (s * second, rate)));
        for (ms, rate, before) in
            [(0, 10.0, 0.0), (500, 15.0, 6.25), (1_000, 5.0, 15.0), (2_000, 10.0, 22.5)]
        {
            assert!((curve.rate_at(ms * 1_000_000) - rate).abs() < 1e-9, "{ms} ms");
            assert!((curve.due_before(ms * 1_000_000) - before).abs() < 1e-9, "{ms} ms");
        }
        assert_eq!((curve.rate_at(3 * second), curve.due_before(3 * second)), (0.0, 35.0));
        assert!((curve.peak() - 20.0).abs() < 1e-6, "before the jump: {}", curve.peak());
    }

    /// The number of events due before the time of event number N is N.
    #[test]
    fn time_and_count_are_inverse() {
        let second = 1_000_000_000;
        let points = [(0, 0.0), (second, 100.0), (second, 40.0), (4 * second, 0.0)];
        let curve = RateCurve::through(&points);
        for count in [0.5, 12.0, 50.0, 80.0, 109.0] {
            let ns = curve.time_of(count).unwrap();
            assert!((curve.due_before(ns) - count).abs() < 1e-4, "{count}");
        }
    }

    #[test]
    fn curves_together_are_highest_at_a_bend() {
        let second = 1_000_000_000;
        let falling = RateCurve::through(&[(0, 10.0), (4 * second, 0.0)]);
        let wave = RateCurve::through(&[(0, 0.0), (second, 8.0), (4 * second, 0.0)]);
        assert!((highest(&[&falling, &wave]) - 15.5).abs() < 1e-6);
    }
}
