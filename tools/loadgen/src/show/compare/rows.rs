//! The rows of a comparison.

use crate::engine::histogram::{Percentiles, Wait, Waits};
use crate::engine::measure::Kind;
use crate::findings::report::{Report, rate};
use crate::findings::verdict::Verdict;
use crate::show::compare::candidates::Candidate;
use crate::show::compare::certainty::{interval, median, ratio_interval};
use crate::units::{grouped, ms};

/// One figure for all candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// More is better; otherwise less is.
    pub is_more_better: bool,
    /// Indexed by candidate.
    pub cells: Vec<Cell>,
    /// Confidence intervals of the ratio to the first candidate, indexed by candidate.
    pub ratios: Vec<Option<(f64, f64)>>,
}

/// The value of one figure for one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    Value(Value),
    /// Milliseconds. A percentile among messages that were given up is longer than they had waited,
    /// so it has no ratio to others.
    AtLeast(f64),
    /// The candidate has no such figure.
    Absent,
    /// One of its runs broke a promise, so the figure is of no interest.
    Failed,
    /// No run of the candidate has valid latencies.
    NotValid,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Over the repeats. For what must not happen, the worst of them instead, which a median would
    /// hide.
    pub median: f64,
    /// Over the repeats, see [`interval`].
    pub interval: Option<(f64, f64)>,
}

impl Cell {
    pub fn value(&self) -> Option<Value> {
        match self {
            Self::Value(value) => Some(*value),
            Self::AtLeast(_) | Self::Absent | Self::Failed | Self::NotValid => None,
        }
    }
}

/// Formatting, common to text and page.
impl Row {
    /// The value for candidate number `index`, or the reason why there is none.
    pub fn figure(&self, index: usize) -> String {
        match self.cells[index] {
            Cell::Value(value) => number(value.median),
            Cell::AtLeast(value) => {
                let wait = Wait { ns: (value * 1e6) as u64, is_at_least: true };
                wait.shown(|ns| format!("{} ms", number(ms(ns))))
            }
            Cell::Absent => "–".to_owned(),
            Cell::Failed => "FAILED".to_owned(),
            Cell::NotValid => "not valid".to_owned(),
        }
    }

    /// The ends of its confidence interval.
    pub fn interval(&self, index: usize) -> Option<(String, String)> {
        let (low, high) = self.cells[index].value()?.interval?;
        Some((number(low), number(high)))
    }

    /// The ends of the confidence interval of [`times`](Self::times).
    pub fn times_interval(&self, index: usize) -> Option<(String, String)> {
        self.times(index)?;
        let (low, high) = self.ratios[index]?;
        Some((times(low), times(high)))
    }

    /// The ratio to the first candidate's value; `None` for the first itself.
    pub fn times(&self, index: usize) -> Option<String> {
        let (first, own) = (self.cells[0].value()?.median, self.cells[index].value()?.median);
        if index == 0 || first <= 0.0 {
            return None;
        }
        Some(times(own / first))
    }
}

fn times(ratio: f64) -> String {
    if ratio < 9.995 { format!("{ratio:.2}") } else { number(ratio) }
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => grouped(value.round() as u64),
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Which runs have a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// All runs, including those that broke a promise.
    All,
    /// Runs that kept their promises.
    Kept,
    /// Of those, the runs with valid latencies.
    Valid,
}

/// A figure of one run.
#[derive(Clone, Copy, Debug)]
struct Reading {
    value: f64,
    /// See [`Cell::AtLeast`].
    is_at_least: bool,
}

/// How to read a figure of one run.
#[derive(Clone, Copy, Debug)]
enum Source {
    Number(fn(&Report) -> Option<f64>),
    /// A quantile of send latency, in milliseconds.
    Latency(f64),
}

impl Source {
    fn read(self, report: &Report) -> Option<Reading> {
        match self {
            Self::Number(of) => of(report).map(|value| Reading { value, is_at_least: false }),
            Self::Latency(quantile) => report.waits().at(quantile).map(Reading::of),
        }
    }
}

impl Reading {
    fn of(wait: Wait) -> Self {
        Self { value: ms(wait.ns), is_at_least: wait.is_at_least }
    }
}

/// Name, unit, whether more is better, which runs have it, and how to read it.
type Figure = (&'static str, &'static str, bool, Of, Source);

use Source::{Latency, Number};

const FIGURES: [Figure; 14] = [
    (
        "acknowledged",
        "msg/s",
        true,
        Of::Kept,
        Number(|it| Some(rate(it.counters().acknowledged, it.sending()))),
    ),
    ("acknowledged", "MB/s", true, Of::Kept, Number(|it| Some(it.bytes_per_s() / 1e6))),
    ("latency p50", "ms", false, Of::Valid, Latency(0.5)),
    ("latency p99", "ms", false, Of::Valid, Latency(0.99)),
    ("latency p99.9", "ms", false, Of::Valid, Latency(0.999)),
    ("latency max", "ms", false, Of::Valid, Latency(1.0)),
    ("end to end p50", "ms", false, Of::Valid, Number(|it| end_to_end(it, 0.5))),
    ("end to end p99", "ms", false, Of::Valid, Number(|it| end_to_end(it, 0.99))),
    (
        "not acknowledged",
        "%",
        false,
        Of::Kept,
        Number(|it| {
            let counters = it.counters();
            let failed = counters.refused + counters.unknown + counters.not_sent;
            Some(failed as f64 / counters.due.max(1) as f64 * 100.0)
        }),
    ),
    ("broker CPU", "us/msg", false, Of::Kept, Number(cpu_per_message)),
    (
        "generator lateness p99",
        "ms",
        false,
        Of::Kept,
        Number(|it| Some(ms(Percentiles::of(&it.total_of(Kind::Lateness)).p99))),
    ),
    (
        "lost",
        "msg, max",
        false,
        Of::All,
        Number(|it| it.is_audited().then(|| it.audit().lost as f64)),
    ),
    (
        "out of order",
        "msg, max",
        false,
        Of::All,
        Number(|it| it.is_audited().then(|| it.disorder() as f64)),
    ),
    (
        "repeated",
        "msg, max",
        false,
        Of::All,
        Number(|it| it.is_audited().then(|| it.audit().duplicated as f64)),
    ),
];

/// All figures, then p99.9 by phase.
pub fn rows(candidates: &[Candidate]) -> Vec<Row> {
    let mut rows: Vec<Row> = FIGURES.iter().map(|figure| of_figure(figure, candidates)).collect();
    rows.extend(by_phase(candidates));
    rows.retain(|row| row.cells.iter().any(|cell| *cell != Cell::Absent));
    rows
}

fn of_figure(figure: &Figure, candidates: &[Candidate]) -> Row {
    let &(name, unit, is_more_better, which, of) = figure;
    row(name.to_owned(), unit, is_more_better, candidates, which, |report| of.read(report))
}

fn row(
    name: String,
    unit: &'static str,
    is_more_better: bool,
    candidates: &[Candidate],
    which: Of,
    of: impl Fn(&Report) -> Option<Reading>,
) -> Row {
    let (cells, values): (Vec<Cell>, Vec<Vec<f64>>) =
        candidates.iter().map(|candidate| cell(candidate, which, &of)).unzip();
    let ratios = values.iter().map(|own| ratio_interval(own, &values[0])).collect();
    Row { name, unit, is_more_better, cells, ratios }
}

/// p99.9 of send latency in each phase that counts and that all candidates have. A run in which the
/// generator was late in the phase has no value.
fn by_phase(candidates: &[Candidate]) -> Vec<Row> {
    let Some(first) = candidates.first().map(|candidate| &candidate.runs[0]) else {
        return Vec::new();
    };
    if first.phases.iter().filter(|phase| phase.counts).count() < 2 {
        return Vec::new();
    }
    let counted = first.phases.iter().enumerate().filter(|(_, phase)| phase.counts);
    let of_phase = |(index, phase): (usize, &crate::plan::scenario::Phase)| {
        let of = |report: &Report| {
            let known = report.phases.get(index).filter(|it| it.name == phase.name)?;
            let total = report.phase_total(index);
            let is_valid = !known.name.is_empty() && total.not_valid().is_empty();
            total.waits().at(0.999).filter(|_| is_valid).map(Reading::of)
        };
        row(format!("p99.9 in {}", phase.name), "ms", false, candidates, Of::Valid, of)
    };
    counted.map(of_phase).collect()
}

/// The cell, and the values of the repeats behind it. A failed candidate has no figures but those
/// of its failure. For those, every candidate gets its worst value.
fn cell(
    candidate: &Candidate,
    which: Of,
    of: impl Fn(&Report) -> Option<Reading>,
) -> (Cell, Vec<f64>) {
    let values = |runs: &[&Report]| runs.iter().filter_map(|run| of(run)).collect::<Vec<_>>();
    let none = |cell| (cell, Vec::new());
    let all: Vec<&Report> = candidate.runs.iter().collect();
    let Some(worst) = values(&all).into_iter().map(|it| it.value).reduce(f64::max) else {
        return none(Cell::Absent);
    };
    let is_failed = all.iter().any(|run| run.verdict() == Verdict::Failed);
    let values = match which {
        Of::All => return none(Cell::Value(Value { median: worst, interval: None })),
        Of::Kept | Of::Valid if is_failed => return none(Cell::Failed),
        Of::Kept => values(&all),
        Of::Valid => values(&candidate.valid().collect::<Vec<_>>()),
    };
    if values.is_empty() { none(Cell::NotValid) } else { of_repeats(&values) }
}

/// The median of the repeats, in which lower bounds rank behind all measured values.
fn of_repeats(readings: &[Reading]) -> (Cell, Vec<f64>) {
    let rank = |it: &Reading| if it.is_at_least { f64::INFINITY } else { it.value };
    let middle = median(&readings.iter().map(rank).collect::<Vec<_>>());
    let values: Vec<f64> = readings.iter().map(|it| it.value).collect();
    if middle.is_infinite() {
        return (Cell::AtLeast(median(&values)), Vec::new());
    }
    if readings.iter().any(|it| it.is_at_least) {
        return (Cell::Value(Value { median: middle, interval: None }), Vec::new());
    }
    (Cell::Value(Value { median: middle, interval: interval(&values) }), values)
}

fn end_to_end(report: &Report, quantile: f64) -> Option<f64> {
    let total = Waits::all_measured(&report.total_of(Kind::EndToEnd));
    total.at(quantile).map(|wait| ms(wait.ns))
}

/// Only for brokers whose process was sampled. A restarted process counts from zero.
fn cpu_per_message(report: &Report) -> Option<f64> {
    let counters = report.counters();
    let messages = counters.acknowledged + counters.one_way;
    let warm_up_ns = report.warm_up().as_nanos() as u64;
    let samples = report.samples.iter().filter(|sample| sample.at_ns >= warm_up_ns);
    let samples: Vec<_> = samples.collect();
    let growth = samples.windows(2).map(|pair| {
        let (before, after) = (pair[0].cpu_ns, pair[1].cpu_ns);
        after.checked_sub(before).unwrap_or(after)
    });
    let cpu_ns: f64 = growth.map(|ns| ns as f64).sum();
    (messages > 0 && cpu_ns > 0.0).then(|| cpu_ns / 1e3 / messages as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::Sample;
    use crate::plan::scenario::Phase;
    use crate::show::compare::candidates::candidates;
    use crate::show::compare::tests::taking;

    fn found<'a>(rows: &'a [Row], name: &str) -> &'a Row {
        rows.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn a_row_has_the_median_of_each_candidate() {
        let runs = [3, 9, 4].map(|ms| taking("a", ms)).into_iter().chain([taking("b", 7)]);
        let rows = rows(&candidates(runs.collect()));
        let p99 = found(&rows, "latency p99");
        let medians: Vec<i64> =
            p99.cells.iter().map(|cell| cell.value().unwrap().median.round() as i64).collect();
        assert_eq!(medians, [4, 7]);
        assert!(p99.interval(0).is_some_and(|(low, high)| low < high), "lowest to highest");
        assert_eq!(p99.interval(1), None, "one run");
        assert_eq!(p99.times_interval(1), Some(("0.78".to_owned(), "2.33".to_owned())));
        assert_eq!(p99.times_interval(0), None);
    }

    #[test]
    fn a_candidate_that_lost_something_has_no_other_figures() {
        let mut lossy = taking("b", 1);
        lossy.findings[0].audit.lost = 5;
        let rows = rows(&candidates(vec![taking("a", 9), lossy]));
        let p99 = found(&rows, "latency p99");
        assert_eq!((p99.cells[1], p99.figure(1), p99.times(1)), (Cell::Failed, failed(), None));
        assert_eq!(found(&rows, "lost").figure(1), "5.00");
        let cpu = rows.iter().find(|row| row.name == "broker CPU");
        assert_eq!(cpu, None, "of neither was a process watched");
    }

    /// Repeats with a late generator do not shift the median, and rates do not need valid
    /// latencies.
    #[test]
    fn latencies_that_are_not_valid_are_left_out() {
        let late = |ms: u64| {
            let mut run = taking("a", ms);
            run.totals[0][0].record(Kind::Lateness, ms * 1_000_000, 100_000);
            run
        };
        let rows = |runs| rows(&candidates(runs));
        let some = rows(vec![taking("a", 3), late(70), late(90)]);
        assert_eq!(found(&some, "latency p99").figure(0), "3.00");
        let none = rows(vec![late(70), late(90)]);
        assert_eq!(found(&none, "latency p99").cells[0], Cell::NotValid);
        assert_eq!(found(&none, "latency p99").figure(0), "not valid");
        assert_eq!(found(&none, "acknowledged").figure(0), "9,995");
    }

    /// Of a run that gave up waiting after three seconds, only a lower bound is known.
    #[test]
    fn what_was_given_up_has_a_lower_bound_and_no_ratio() {
        let mut some = taking("b", 7);
        some.totals[0][0].record(Kind::GivenUp, 3_020_000_000, 10_000);
        let mut all = taking("c", 7);
        all.totals[0][0].latency.reset();
        all.totals[0][0].record(Kind::GivenUp, 12_038_000_000, 10_000);
        let rows = rows(&candidates(vec![taking("a", 4), some, all]));
        let (p50, p99) = (found(&rows, "latency p50"), found(&rows, "latency p99"));
        assert_eq!([1, 2].map(|index| p50.figure(index)), ["7.00", "≥ 12 s"]);
        assert_eq!([1, 2].map(|index| p99.figure(index)), ["≥ 3 s", "≥ 12 s"]);
        assert_eq!([p99.times(1), p99.times(2), p50.times(2)], [None, None, None]);
        assert_eq!(p50.times(1), Some("1.75".to_owned()));
    }

    #[test]
    fn a_warm_up_has_no_row() {
        let mut run = taking("a", 4);
        run.phases = ["warm-up", "one", "two"]
            .map(|name| Phase {
                name: name.to_owned(),
                counts: name != "warm-up",
                ..run.phases[0].clone()
            })
            .into();
        run.totals = vec![run.totals[0].clone(); 3];
        let rows = rows(&candidates(vec![run]));
        let names = rows.iter().filter_map(|row| row.name.strip_prefix("p99.9 in "));
        assert_eq!(names.collect::<Vec<_>>(), ["one", "two"]);
    }

    /// In one short phase, so that the run's figures are valid.
    #[test]
    fn a_phase_in_which_the_generator_was_late_has_no_value() {
        let mut run = taking("a", 4);
        run.phases = ["one", "two"]
            .map(|name| Phase { name: name.to_owned(), ..run.phases[0].clone() })
            .into();
        run.totals = vec![run.totals[0].clone(); 2];
        for kind in [Kind::Latency, Kind::Lateness] {
            run.totals[0][0].record(kind, 1_000, 100_000_000);
        }
        run.totals[1][0].record(Kind::Lateness, 4_000_000, 10_000);
        assert!(run.figures().valid, "{:?}", run.figures());
        let rows = rows(&candidates(vec![run]));
        let names = rows.iter().filter_map(|row| row.name.strip_prefix("p99.9 in "));
        assert_eq!(names.collect::<Vec<_>>(), ["one"]);
    }

    #[test]
    fn repeats_that_gave_up_rank_behind_those_that_did_not() {
        let reading = |value, is_at_least| Reading { value, is_at_least };
        let rows = [
            (vec![reading(5.0, false), reading(3_000.0, true), reading(7.0, false)], Some(7.0)),
            (vec![reading(5.0, false), reading(3_000.0, true)], None),
        ];
        for (readings, median) in rows {
            let (cell, behind) = of_repeats(&readings);
            assert_eq!(cell.value().map(|value| value.median), median);
            assert!(behind.is_empty(), "no interval");
        }
    }

    fn failed() -> String {
        "FAILED".to_owned()
    }

    /// The cell says why there are no latencies.
    #[test]
    fn a_row_stays_where_all_have_failed() {
        let mut lossy = taking("b", 1);
        lossy.findings[0].audit.lost = 5;
        let rows = rows(&candidates(vec![lossy.clone(), lossy]));
        assert_eq!(found(&rows, "latency p99").figure(0), failed());
    }

    #[test]
    fn a_figure_is_so_many_times_the_first() {
        let value = |median| Cell::Value(Value { median, interval: None });
        let row = |first| Row {
            name: String::new(),
            unit: "ms",
            is_more_better: false,
            cells: vec![first, value(3.0), value(5_000.0), Cell::Absent],
            ratios: vec![None; 4],
        };
        let times = |row: &Row| (0..4).map(|index| row.times(index)).collect::<Vec<_>>();
        let said = [None, Some("1.50".to_owned()), Some("2,500".to_owned()), None];
        assert_eq!(times(&row(value(2.0))), said);
        for first in [value(0.0), Cell::Failed, Cell::Absent] {
            assert_eq!(times(&row(first)), [None, None, None, None]);
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [(0.0, "0"), (0.1234, "0.123"), (1.234, "1.23"), (12345.6, "12,346")] {
            assert_eq!(number(value), text);
        }
    }

    /// A median of five runs, one of which lost messages, would be zero losses.
    #[test]
    fn one_run_that_lost_something_is_not_outvoted() {
        let mut runs: Vec<Report> = (0..5).map(|_| taking("a", 3)).collect();
        runs[2].findings[0].audit.lost = 7;
        let lost = found(&rows(&candidates(runs)), "lost").cells[0].value().unwrap();
        assert_eq!((lost.median, lost.interval), (7.0, None));
    }

    #[test]
    fn processor_time_goes_on_counting_after_a_restart() {
        let sample =
            |at_ns, cpu_ns| Sample { at_ns, cpu_ns, rss_bytes: 0, written_bytes: 0, read_bytes: 0 };
        let mut run = taking("a", 3);
        let messages = run.counters().acknowledged as f64;
        run.samples = vec![
            sample(0, 1_000_000),
            sample(1, 9_000_000),
            sample(2, 500_000),
            sample(3, 2_000_000),
        ];
        let us = cpu_per_message(&run).unwrap() * messages;
        assert_eq!(us.round(), 8_000.0 + 500.0 + 1_500.0);
    }
}
