//! A run over time: the data behind every plot on the common time axis.
//!
//! Seconds are pooled into at most [`POINTS_MAX`] points, so that a page stays below 5 MB however
//! long the run was. Reports omit seconds without events; here each is a point like any other, with
//! nothing in it.

use std::collections::BTreeMap;
use std::ops::Range;

use hdrhistogram::Histogram;

use crate::engine::histogram::{self, Percentiles};
use crate::engine::measure::{Counters, Interval, Kind, Second};
use crate::findings::report::{FaultMark, Report};
use crate::show::page::words::{ns_at, seconds};
use crate::show::plot::{Axis, Backdrop, Band, Line, Mark, Plot};

/// Maximum number of points along the time axis.
pub const POINTS_MAX: usize = 300;
/// Rows of the heat map per decade of latency.
pub const ROWS_PER_DECADE: f64 = 8.0;

pub struct Timeline {
    /// End of the run, drain included, in seconds.
    pub end_s: f64,
    /// Seconds per point.
    pub pool: u64,
    pub points: Vec<Point>,
    backdrop: Backdrop,
}

/// One pooled interval of the run.
pub struct Point {
    pub at_s: f64,
    /// By track.
    pub tracks: Vec<TrackPoint>,
    /// Over all streams; `None` if nothing was recorded.
    pub latency: Option<Percentiles>,
    /// Message counts by row of the heat map.
    pub rows: BTreeMap<i64, u64>,
}

/// One track in one pooled interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackPoint {
    pub counters: Counters,
    /// Latency of a stream, or end-to-end latency of a group: p50 and p99, or the maximum if there
    /// were too few messages for a p99.
    pub p50: Option<u64>,
    pub p99: Option<u64>,
}

impl Timeline {
    pub fn of(report: &Report) -> Self {
        let end_s = end_s(report);
        let pool = (end_s.ceil() as usize).div_ceil(POINTS_MAX).max(1) as u64;
        let count = (end_s / pool as f64).ceil() as u64;
        let pooled = |index: u64| {
            Point::of(
                report,
                index * pool,
                in_range(&report.seconds, index * pool..(index + 1) * pool),
            )
        };
        let points = (0..count).map(pooled).collect();
        Self { end_s, pool, points, backdrop: backdrop(report) }
    }

    /// An empty plot over the run's time, with its phases and faults in the background.
    pub fn plot(&self, title: &str, y: Axis) -> Plot {
        let mut plot = Plot::new(title, Axis::time(self.end_s), y);
        plot.backdrop = self.backdrop.clone();
        plot
    }

    /// A line with one value per point, in the middle of its interval.
    pub fn line(&self, name: &str, colour: usize, of: impl Fn(&Point) -> Option<f64>) -> Line {
        let half = self.pool as f64 / 2.0;
        let at = |point: &Point| (point.at_s + half).min(self.end_s);
        let points = self.points.iter().map(|point| (at(point), of(point)));
        Line::new(name, colour, points.collect())
    }

    /// A count per second.
    pub fn rate(&self, name: &str, colour: usize, of: impl Fn(&Point) -> u64) -> Line {
        self.line(name, colour, |point| Some(of(point) as f64 / self.pool as f64))
    }

    /// Says how many seconds share a point, if more than one.
    pub fn pooled_note(&self) -> String {
        match self.pool {
            1 => "One point per second.".to_owned(),
            pool => format!("One point per {}: the mean of that time.", seconds(pool as f64)),
        }
    }
}

impl Point {
    fn of(report: &Report, at: u64, seconds: &[Second]) -> Self {
        let mut tracks = vec![Interval::default(); report.tracks.len()];
        for second in seconds {
            for (track, interval) in second.unpack() {
                if let Some(sum) = tracks.get_mut(track) {
                    sum.add(&interval);
                }
            }
        }
        let mut latency = histogram::empty();
        tracks.iter().for_each(|track| histogram::merge(&mut latency, track.of(Kind::Latency)));
        let mut rows = BTreeMap::new();
        for value in latency.iter_recorded() {
            let ms = value.value_iterated_to().max(1) as f64 / 1e6;
            let row = (ms.log10() * ROWS_PER_DECADE).floor() as i64;
            *rows.entry(row).or_default() += value.count_at_value();
        }
        Self {
            at_s: at as f64,
            tracks: tracks.iter().map(TrackPoint::of).collect(),
            latency: (!latency.is_empty()).then(|| Percentiles::of(&latency)),
            rows,
        }
    }

    /// The sum of a counter over these tracks.
    pub fn sum(&self, tracks: &[usize], of: fn(&Counters) -> u64) -> u64 {
        tracks.iter().filter_map(|track| self.tracks.get(*track)).map(|it| of(&it.counters)).sum()
    }
}

impl TrackPoint {
    fn of(interval: &Interval) -> Self {
        let histogram = match interval.latency.is_empty() {
            true => &interval.end_to_end,
            false => &interval.latency,
        };
        let p99 = || ns_at(histogram, 0.99).unwrap_or_else(|| histogram.max());
        let p99 = (!histogram.is_empty()).then(p99);
        Self { counters: interval.counters, p50: ns_at(histogram, 0.5), p99 }
    }
}

/// One histogram of these tracks over these seconds.
pub fn merged(
    report: &Report,
    seconds: Range<u64>,
    tracks: &[usize],
    kind: Kind,
) -> Histogram<u64> {
    let mut sum = histogram::empty();
    for second in in_range(&report.seconds, seconds) {
        for packed in second.tracks.iter().filter(|packed| tracks.contains(&packed.track)) {
            let held = packed.histograms.get(&kind);
            if let Some(held) = held.and_then(|held| histogram::try_unpack(&held.0)) {
                histogram::merge(&mut sum, &held);
            }
        }
    }
    sum
}

/// The elements of `seconds`, which is ascending, with numbers in `range`.
fn in_range(seconds: &[Second], range: Range<u64>) -> &[Second] {
    let from = seconds.partition_point(|second| second.number < range.start);
    let to = seconds.partition_point(|second| second.number < range.end);
    &seconds[from..to.max(from)]
}

/// When the run ended.
fn end_s(report: &Report) -> f64 {
    let phases_ns = report.phases.last().map_or(0, |phase| phase.end_ns);
    let ns = phases_ns.max(report.sending_ns).max(report.consuming_ns);
    let seconds = report.seconds.last().map_or(0, |second| second.number + 1);
    // The last second is rarely a full one; its events must be on the axis nevertheless.
    (ns as f64 / 1e9).max(seconds as f64)
}

fn backdrop(report: &Report) -> Backdrop {
    let s = |ns: u64| ns as f64 / 1e9;
    let band = |phase: &crate::plan::scenario::Phase| Band {
        from: s(phase.start_ns),
        to: s(phase.end_ns),
        name: phase.name.clone(),
    };
    let mark = |(index, fault): (usize, &FaultMark)| Mark {
        at: s(fault.at_ns),
        // A fault that lasted to the end would colour the whole plot; its line marks when it began.
        until: s(fault.until_ns.unwrap_or(fault.at_ns)),
        text: format!("{} {}", index + 1, short_text(&fault.text)),
    };
    let happened = |it: &(usize, &FaultMark)| it.1.failed.is_none();
    // The name of the only phase says nothing.
    let phases =
        if report.phases.len() > 1 { report.phases.iter().map(band).collect() } else { Vec::new() };
    let gap = |(index, fault): (usize, &FaultMark)| {
        let longest = fault.gaps.first()?;
        let (from, length) = (s(longest.from_ns), s(longest.length_ns));
        let text = format!("{} {} silent {length:.1} s", index + 1, longest.broker);
        Some(Mark { at: from, until: from + length, text })
    };
    let marks = report.faults.iter().enumerate().filter(happened);
    let faults = marks.clone().map(mark).chain(marks.filter_map(gap)).collect();
    Backdrop { phases, faults }
}

/// The start of the fault's description, short enough for a label.
fn short_text(text: &str) -> &str {
    let ends = [",", ";", ":", "(", " for ", " to "].into_iter().filter_map(|end| text.find(end));
    text[..ends.min().unwrap_or(text.len())].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::Gap;
    use crate::findings::report::tests::example;

    fn report(numbers: impl Iterator<Item = u64>) -> Report {
        let second = |number| {
            let mut interval = Interval::default();
            interval.counters.due = 1_000;
            for step in 0..200 {
                interval.record(Kind::Latency, 100_000 + step * 37_000, 5);
            }
            Second::pack(number, &[(0, interval)])
        };
        Report { seconds: numbers.map(second).collect(), ..example() }
    }

    #[test]
    fn a_long_run_is_pooled_and_nothing_is_dropped() {
        let timeline = Timeline::of(&report(0..2_000));
        assert!(timeline.points.len() <= POINTS_MAX && timeline.pool == 7);
        let due: u64 = timeline.points.iter().map(|point| point.sum(&[0], |c| c.due)).sum();
        assert_eq!(due, 2_000_000);
    }

    /// Reports omit seconds without events; the line must not bridge such a gap.
    #[test]
    fn a_silent_second_is_a_gap_and_a_rate_of_zero() {
        let timeline = Timeline::of(&report([0, 1, 3].into_iter()));
        assert_eq!(timeline.end_s, 20.0, "the phase lasted that long");
        let latency = |point: &Point| point.latency.map(|p| p.p50 as f64);
        let line = timeline.line("p50", 0, latency);
        let known: Vec<_> = line.points[..4].iter().map(|point| point.1.is_some()).collect();
        assert_eq!(known, [true, true, false, true]);
        assert_eq!(
            timeline.rate("due", 0, |point| point.sum(&[0], |c| c.due)).points[2].1,
            Some(0.0)
        );
    }

    #[test]
    fn a_stretch_can_be_measured_by_itself() {
        let report = report(0..5);
        assert_eq!(merged(&report, 1..3, &[0], Kind::Latency).len(), 2_000);
        assert_eq!(merged(&report, 1..3, &[1], Kind::Latency).len(), 0);
    }

    #[test]
    fn a_gap_is_marked_beside_its_fault() {
        let mut report = report(0..3);
        let gap = Gap { broker: "s00".to_owned(), from_ns: 900_000_000, length_ns: 1_500_000_000 };
        report.faults = vec![FaultMark {
            at_ns: 1_000_000_000,
            until_ns: Some(2_000_000_000),
            text: "kill -9 of a leader's machine, down 1 s (machine 1 leads s00)".to_owned(),
            failed: None,
            back_after_ns: Some(gap.length_ns),
            gaps: vec![gap],
        }];
        let marks = backdrop(&report).faults;
        let texts: Vec<&str> = marks.iter().map(|mark| mark.text.as_str()).collect();
        assert_eq!(texts, ["1 kill -9 of a leader's machine", "1 s00 silent 1.5 s"]);
        assert_eq!((marks[1].at, marks[1].until), (0.9, 2.4));
    }

    #[test]
    fn a_fault_is_named_by_the_beginning_of_its_text() {
        for (text, short) in [
            ("broker killed, back after 2 s", "broker killed"),
            ("SIGSTOP of the broker for 125 ms", "SIGSTOP of the broker"),
            ("disk filled to 95 % for 1 s", "disk filled"),
        ] {
            assert_eq!(short_text(text), short);
        }
    }
}
