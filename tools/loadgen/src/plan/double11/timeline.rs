//! Times and curves of the night.
//!
//! Times of the night are real seconds around midnight, T = 0; rates are multiples of the base
//! rate. A [`Timeline`] maps these times to nanoseconds of the run, which `--compress` shortens.
//! The second in which the load steps up is never shortened: a step within a millisecond would be
//! the same as an instantaneous one.

use std::f64::consts::PI;

use crate::plan::curve::RateCurve;
use crate::plan::scenario::Phase;

/// Start and end of the night.
pub const START_S: f64 = -600.0;
pub const END_S: f64 = 4_200.0;
/// Duration of the step at midnight, in the night and in the run.
const STEP_S: f64 = 1.0;
/// Start, peak (as in 2017) and end of the payment wave.
pub const PAYMENTS_S: (f64, f64, f64) = (202.0, 322.0, 622.0);
/// Time after which an unpaid order times out.
pub const UNPAID_S: f64 = 1_800.0;
/// The first minute of orders, whose timeouts come as one block.
pub const FIRST_MINUTE_S: (f64, f64) = (0.0, 60.0);

/// Rates of the night in base rates, before the load decays.
const RISE: [(f64, f64); 8] = [
    (START_S, 0.0),
    (-300.0, 1.0),
    (-10.0, 3.0),
    (0.0, 1.0),
    (STEP_S, 20.0),
    (26.0, 25.0),
    (30.0, PLATEAU),
    (60.0, PLATEAU),
];
const PLATEAU: f64 = 20.0;
/// The rate to which the load decays, and the time constant.
const SETTLED: f64 = 3.0;
const DECAY_S: f64 = 180.0;
/// The wave of the morning: it rises within a minute and then stays.
const MORNING: [(f64, f64); 3] = [(3_600.0, SETTLED), (3_660.0, 6.0), (END_S, 6.0)];
/// The peak of the payment wave.
const PAYMENTS_PEAK: f64 = 12.0;
/// Number of linear pieces of each flank of the payment wave, and of the decay.
const FLANK_PIECES: u32 = 24;
const DECAY_PIECE_S: f64 = 10.0;
const DECAY_UNTIL_S: f64 = 1_800.0;

/// Name, start, whether it counts, and what it proves.
type PhaseRow = (&'static str, f64, bool, &'static str);

/// Where two waves overlap, the phase has the name of the later one.
const PHASES: [PhaseRow; 12] = [
    ("warm-up", START_S, false, "fills caches; left out of the figures"),
    ("gathering", -300.0, true, "takes a storm of new connections"),
    ("hush", -10.0, true, "people wait on the button"),
    ("step", 0.0, true, "takes twentyfold load within one second and does not collapse"),
    ("first peak", STEP_S, true, "the tail at the top"),
    ("plateau", 30.0, true, "holds a load that stays"),
    ("decay", 60.0, true, "comes back to normal while the load falls"),
    ("payment wave", PAYMENTS_S.0, true, "a second wave of other producers, a consumer down"),
    ("quiet", PAYMENTS_S.2, true, "consumers that fell behind catch up"),
    ("timeout wave", UNPAID_S, true, "timers of unpaid orders fire at once"),
    ("small hours", UNPAID_S + 60.0, true, "the steady state that all else is compared with"),
    ("morning wave", MORNING[0].0, true, "recovered completely, takes the next wave"),
];

/// Maps the time of the night to that of the run.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    compress: f64,
}

impl Timeline {
    pub fn new(compress: u32) -> Self {
        Self { compress: f64::from(compress) }
    }

    /// Nanoseconds of the run at second `real_s` of the night.
    pub fn at(&self, real_s: f64) -> u64 {
        let step_s = real_s.clamp(0.0, STEP_S);
        let run_s = (real_s - step_s - START_S) / self.compress + step_s;
        (run_s.max(0.0) * 1e9).round() as u64
    }

    pub fn phases(&self) -> Vec<Phase> {
        let ends = PHASES[1..].iter().map(|(_, start_s, ..)| *start_s).chain([END_S]);
        let phase = |(&(name, start_s, counts, proves), end_s): (&PhaseRow, f64)| Phase {
            name: name.to_owned(),
            start_ns: self.at(start_s),
            end_ns: self.at(end_s),
            counts,
            proves: proves.to_owned(),
        };
        PHASES.iter().zip(ends).map(phase).collect()
    }

    /// The curve through points of the night, multiplied by `factor`.
    fn curve(&self, points: &[(f64, f64)], factor: f64) -> RateCurve {
        let point = |&(real_s, rate): &(f64, f64)| (self.at(real_s), rate * factor);
        RateCurve::through(&points.iter().map(point).collect::<Vec<_>>())
    }

    /// The load from the shop's visitors; `factor` is the base rate in messages per second.
    pub fn visitors(&self, factor: f64) -> RateCurve {
        self.curve(&visitors(), factor)
    }

    pub fn payments(&self, factor: f64) -> RateCurve {
        self.curve(&payments(), factor)
    }

    /// The rate at which timeouts are sent, for the share `part` of the orders. Those that would be
    /// due after the night are left out.
    pub fn unpaid(&self, orders: &RateCurve, part: f64) -> RateCurve {
        let last_s = END_S - UNPAID_S;
        let bends = visitors().into_iter().map(|(real_s, _)| real_s).chain([last_s]);
        let mut bends: Vec<f64> = bends.filter(|real_s| *real_s <= last_s).collect();
        bends.sort_by(f64::total_cmp);
        bends.dedup();
        let point = |real_s| (self.at(real_s), part * orders.rate_at(self.at(real_s)));
        let mut points: Vec<(u64, f64)> = bends.into_iter().map(point).collect();
        points.extend([(self.at(last_s), 0.0), (self.at(END_S), 0.0)]);
        RateCurve::through(&points)
    }

    /// Time after which an unpaid order times out, in the run, ms.
    pub fn unpaid_ms(&self) -> u64 {
        (self.at(FIRST_MINUTE_S.1 + UNPAID_S) - self.at(FIRST_MINUTE_S.1)) / 1_000_000
    }
}

fn visitors() -> Vec<(f64, f64)> {
    let pieces = ((DECAY_UNTIL_S - FIRST_MINUTE_S.1) / DECAY_PIECE_S) as u32;
    let decay = (1..=pieces).map(|piece| {
        let after_s = f64::from(piece) * DECAY_PIECE_S;
        (FIRST_MINUTE_S.1 + after_s, decayed(after_s))
    });
    RISE.into_iter().chain(decay).chain(MORNING).collect()
}

/// The rate `after_s` seconds after the plateau.
fn decayed(after_s: f64) -> f64 {
    SETTLED + (PLATEAU - SETTLED) * (-after_s / DECAY_S).exp()
}

fn payments() -> Vec<(f64, f64)> {
    let (from_s, top_s, to_s) = PAYMENTS_S;
    let flank = |begin_s: f64, end_s: f64, first: u32| {
        (first..=FLANK_PIECES).map(move |piece| {
            let part = f64::from(piece) / f64::from(FLANK_PIECES);
            (begin_s + part * (end_s - begin_s), part)
        })
    };
    let rise = flank(from_s, top_s, 0).map(|(at_s, part)| (at_s, swell(part)));
    let fall = flank(top_s, to_s, 1).map(|(at_s, part)| (at_s, swell(1.0 - part)));
    [(START_S, 0.0)].into_iter().chain(rise).chain(fall).chain([(END_S, 0.0)]).collect()
}

/// Half a cosine from 0 to the payment peak.
fn swell(part: f64) -> f64 {
    PAYMENTS_PEAK * (1.0 - (PI * part).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTORS: [u32; 5] = [1, 10, 60, 100, 600];

    fn seconds(timeline: Timeline, real_s: f64) -> f64 {
        timeline.at(real_s) as f64 / 1e9
    }

    /// Reference points of the profile: the peak 26 s after midnight (2020), payments at 322 s
    /// (2017).
    #[test]
    fn the_night_is_shortened_except_for_its_step() {
        for (compress, midnight_s, peak_s, payments_s, end_s) in
            [(1, 600.0, 626.0, 922.0, 4_800.0), (60, 10.0, 11.0 + 25.0 / 60.0, 16.35, 80.983_333)]
        {
            let timeline = Timeline::new(compress);
            let rows = [(0.0, midnight_s), (26.0, peak_s), (322.0, payments_s), (END_S, end_s)];
            for (real_s, run_s) in rows {
                let found = seconds(timeline, real_s);
                assert!((found - run_s).abs() < 1e-6, "/{compress} T{real_s:+}: {found} s");
            }
        }
        for timeline in FACTORS.map(Timeline::new) {
            assert_eq!(timeline.at(START_S), 0);
            assert_eq!(timeline.at(1.0) - timeline.at(0.0), 1_000_000_000, "{timeline:?}");
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        for timeline in FACTORS.map(Timeline::new) {
            let times = (-6_000..=42_000).map(|tenth| timeline.at(f64::from(tenth) / 10.0));
            assert!(times.collect::<Vec<_>>().is_sorted_by(|a, b| a < b), "{timeline:?}");
        }
    }

    #[test]
    fn phases_have_no_gaps_and_fill_the_night() {
        for timeline in FACTORS.map(Timeline::new) {
            let phases = timeline.phases();
            assert_eq!(phases[0].start_ns, 0);
            assert!(phases.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns));
            assert!(phases.iter().all(|phase| phase.start_ns < phase.end_ns));
            assert_eq!(phases.last().unwrap().end_ns, timeline.at(END_S));
            assert_eq!(timeline.visitors(1.0).end_ns(), timeline.at(END_S));
            assert_eq!(timeline.payments(1.0).end_ns(), timeline.at(END_S));
        }
    }

    #[test]
    fn rates_are_those_of_the_profile() {
        let rows = [
            (-600.0, 0.0),
            (-450.0, 0.5),
            (-300.0, 1.0),
            (-10.0, 3.0),
            (0.0, 1.0),
            (1.0, 20.0),
            (26.0, 25.0),
            (45.0, 20.0),
            (60.0, 20.0),
            (240.0, 3.0 + 17.0 / std::f64::consts::E),
            (3_000.0, 3.0),
            (4_000.0, 6.0),
        ];
        for timeline in FACTORS.map(Timeline::new) {
            let curve = timeline.visitors(1.0);
            for (real_s, rate) in rows {
                let found = curve.rate_at(timeline.at(real_s));
                assert!((found - rate).abs() < 0.01, "{timeline:?} T{real_s:+}: {found}");
            }
            assert!((curve.peak() - 25.0).abs() < 1e-6, "{timeline:?}: {}", curve.peak());
            let payments = timeline.payments(1.0);
            for (real_s, rate) in [(202.0, 0.0), (262.0, 6.0), (322.0, 12.0), (472.0, 6.0)] {
                let found = payments.rate_at(timeline.at(real_s));
                assert!((found - rate).abs() < 0.01, "{timeline:?} T{real_s:+}: {found}");
            }
        }
    }

    /// Linear pieces approximate the exponential and the cosine.
    #[test]
    fn straight_pieces_are_within_half_a_percent_of_their_curves() {
        let timeline = Timeline::new(1);
        let (visitors, payments) = (timeline.visitors(1.0), timeline.payments(1.0));
        for tenth in 600..18_000 {
            let real_s = f64::from(tenth) / 10.0;
            let (found, exact) = (visitors.rate_at(timeline.at(real_s)), decayed(real_s - 60.0));
            assert!((found / exact - 1.0).abs() < 0.005, "T{real_s:+}: {found}, not {exact}");
        }
        for tenth in 2_020..6_220 {
            let real_s = f64::from(tenth) / 10.0;
            let part =
                if real_s < 322.0 { (real_s - 202.0) / 120.0 } else { (622.0 - real_s) / 300.0 };
            let (found, exact) = (payments.rate_at(timeline.at(real_s)), swell(part));
            assert!((found - exact).abs() < 0.005 * 12.0, "T{real_s:+}: {found}, not {exact}");
        }
        // Half of peak times length, as for a triangle.
        assert!((payments.total() / (12.0 * 420.0 / 2.0) - 1.0).abs() < 1e-3);
    }

    /// Every unpaid order from at least half an hour before the end times out within the night.
    #[test]
    fn unpaid_orders_time_out_once() {
        for timeline in FACTORS.map(Timeline::new) {
            let orders = timeline.visitors(40.0);
            let unpaid = timeline.unpaid(&orders, 0.15);
            assert_eq!(unpaid.end_ns(), timeline.at(END_S));
            let last_ns = timeline.at(END_S - UNPAID_S) + timeline.unpaid_ms() * 1_000_000;
            assert!(last_ns <= timeline.at(END_S), "{timeline:?}");
            for to_s in [-10.0, 1.0, 60.0, 600.0, END_S - UNPAID_S, END_S] {
                let until_s = to_s.min(END_S - UNPAID_S);
                let ordered = orders.due_before(timeline.at(until_s));
                let found = unpaid.due_before(timeline.at(to_s)) / (0.15 * ordered);
                assert!((found - 1.0).abs() < 1e-6, "{timeline:?}, T+{to_s}: {found}");
            }
        }
    }
}
