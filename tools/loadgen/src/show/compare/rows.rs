//! The figures that are compared.

use crate::engine::histogram::Percentiles;
use crate::engine::measure::Kind;
use crate::findings::document::Verdict;
use crate::findings::report::{Report, rate};
use crate::show::compare::bootstrap::{interval, median};
use crate::show::compare::candidates::Candidate;
use crate::units::ms;

/// One figure of all candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// More is better; else less.
    pub is_more_better: bool,
    /// By candidate; `None` where it has no such figure, or lost something.
    pub values: Vec<Option<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Of the repeats; for what must not happen the worst of them, which a median would hide.
    pub median: f64,
    /// Of the repeats, 95 %.
    pub interval: Option<(f64, f64)>,
}

/// Name, unit, whether more is better, whether a failed run has it, and where it is found.
type Figure = (&'static str, &'static str, bool, bool, fn(&Report) -> Option<f64>);

const FIGURES: [Figure; 14] = [
    ("acknowledged", "msg/s", true, false, |it| {
        Some(rate(it.counters().acknowledged, it.sending()))
    }),
    ("acknowledged", "MB/s", true, false, |it| Some(it.bytes_per_s() / 1e6)),
    ("latency p50", "ms", false, false, |it| Some(ms(latency(it).p50))),
    ("latency p99", "ms", false, false, |it| Some(ms(latency(it).p99))),
    ("latency p99.9", "ms", false, false, |it| Some(ms(latency(it).p99_9))),
    ("latency max", "ms", false, false, |it| Some(ms(latency(it).max))),
    ("end to end p50", "ms", false, false, |it| end_to_end(it).map(|all| ms(all.p50))),
    ("end to end p99", "ms", false, false, |it| end_to_end(it).map(|all| ms(all.p99))),
    ("not acknowledged", "%", false, false, |it| {
        let counters = it.counters();
        let failed = counters.refused + counters.unknown + counters.not_sent;
        Some(failed as f64 / counters.due.max(1) as f64 * 100.0)
    }),
    ("broker CPU", "us/msg", false, false, cpu_per_message),
    ("generator slip p99", "ms", false, false, |it| {
        Some(ms(Percentiles::of(&it.total_of(Kind::Slip)).p99))
    }),
    ("lost", "msg, max", false, true, |it| it.is_audited().then(|| it.audit().lost as f64)),
    ("out of order", "msg, max", false, true, |it| it.is_audited().then(|| it.disorder() as f64)),
    ("repeated", "msg, max", false, true, |it| {
        it.is_audited().then(|| it.audit().duplicated as f64)
    }),
];

/// All figures, then the tail by phase.
pub fn rows(candidates: &[Candidate]) -> Vec<Row> {
    let mut rows: Vec<Row> = FIGURES.iter().map(|figure| of_figure(figure, candidates)).collect();
    rows.extend(by_phase(candidates));
    rows.retain(|row| row.values.iter().any(Option::is_some));
    rows
}

fn of_figure(figure: &Figure, candidates: &[Candidate]) -> Row {
    let &(name, unit, is_more_better, is_of_failed, of) = figure;
    let value = |candidate: &Candidate| value(candidate, is_of_failed, of);
    Row {
        name: name.to_owned(),
        unit,
        is_more_better,
        values: candidates.iter().map(value).collect(),
    }
}

/// p99.9 of sending in each phase that all candidates have.
fn by_phase(candidates: &[Candidate]) -> Vec<Row> {
    let Some(first) = candidates.first().map(|candidate| &candidate.runs[0]) else {
        return Vec::new();
    };
    if first.phases.len() < 2 {
        return Vec::new();
    }
    let row = |(index, phase): (usize, &crate::plan::scenario::Phase)| {
        let of = |report: &Report| {
            let known = report.phases.get(index).filter(|it| it.name == phase.name)?;
            let total = report.phase_total(index);
            let is_known = !total.latency.is_empty() && !known.name.is_empty();
            is_known.then(|| ms(Percentiles::of(&total.latency).p99_9))
        };
        Row {
            name: format!("p99.9 in {}", phase.name),
            unit: "ms",
            is_more_better: false,
            values: candidates.iter().map(|candidate| value(candidate, false, of)).collect(),
        }
    };
    first.phases.iter().enumerate().map(row).collect()
}

/// The median over repeats. A candidate that failed has no figures but those of its failure, and of
/// those every candidate has the worst.
fn value(
    candidate: &Candidate,
    is_of_failed: bool,
    of: impl Fn(&Report) -> Option<f64>,
) -> Option<Value> {
    let has_failed = candidate.runs.iter().any(|run| run.verdict() == Verdict::Failed);
    if has_failed && !is_of_failed {
        return None;
    }
    let values: Vec<f64> = candidate.runs.iter().filter_map(of).collect();
    if is_of_failed {
        let worst = values.into_iter().reduce(f64::max)?;
        return Some(Value { median: worst, interval: None });
    }
    let interval = interval(&values);
    (!values.is_empty()).then(|| Value { median: median(&values), interval })
}

fn latency(report: &Report) -> Percentiles {
    Percentiles::of(&report.total_of(Kind::Latency))
}

fn end_to_end(report: &Report) -> Option<Percentiles> {
    let total = report.total_of(Kind::EndToEnd);
    (!total.is_empty()).then(|| Percentiles::of(&total))
}

/// Of brokers whose process was watched. A process that was started anew counts from zero.
fn cpu_per_message(report: &Report) -> Option<f64> {
    let counters = report.counters();
    let messages = counters.acknowledged + counters.one_way;
    let growth = report.samples.windows(2).map(|pair| {
        let (before, after) = (pair[0].cpu_ns, pair[1].cpu_ns);
        after.checked_sub(before).unwrap_or(after)
    });
    let cpu_ns: u64 = growth.sum();
    (messages > 0 && cpu_ns > 0).then(|| cpu_ns as f64 / 1e3 / messages as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::Sample;
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
            p99.values.iter().map(|value| value.unwrap().median.round() as i64).collect();
        assert_eq!(medians, [4, 7]);
        assert_eq!(p99.values[0].unwrap().interval, None, "three repeats");
    }

    #[test]
    fn a_candidate_that_lost_something_has_no_other_figures() {
        let mut lossy = taking("b", 1);
        lossy.findings[0].audit.lost = 5;
        let rows = rows(&candidates(vec![taking("a", 9), lossy]));
        assert_eq!(found(&rows, "latency p99").values[1], None);
        assert_eq!(found(&rows, "lost").values[1].unwrap().median, 5.0);
    }

    /// The median of five runs, one of which lost something, is that nothing was lost.
    #[test]
    fn one_run_that_lost_something_is_not_outvoted() {
        let mut runs: Vec<Report> = (0..5).map(|_| taking("a", 3)).collect();
        runs[2].findings[0].audit.lost = 7;
        let lost = found(&rows(&candidates(runs)), "lost").values[0].unwrap();
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
