//! A comparison as text of at most 80 columns.

use std::fmt::{self, Display};
use std::ops::Range;

use crate::findings::text::{labelled, texts};
use crate::show::compare::Comparison;
use crate::show::compare::certainty::REPEATS_MIN;
use crate::show::compare::rows::Row;

/// Number of candidates side by side; further ones get tables of their own.
const BESIDE: usize = 3;

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doubt in &self.doubts {
            f.write_str(&labelled("doubt", doubt))?;
        }
        if !self.doubts.is_empty() {
            writeln!(f)?;
        }
        for candidate in &self.candidates {
            let count = candidate.runs.len();
            let runs = if count == 1 { "1 run".to_owned() } else { format!("{count} runs") };
            f.write_str(&labelled(&candidate.label, &format!("{} ({runs})", candidate.name)))?;
        }
        for first in (0..self.candidates.len()).step_by(BESIDE) {
            let last = (first + BESIDE).min(self.candidates.len());
            write!(f, "\n{}", self.text_table(first..last))?;
        }
        writeln!(f, "\n{}", self.certainty())
    }
}

impl Comparison {
    /// The first candidate is the baseline of the others.
    fn text_table(&self, which: Range<usize>) -> String {
        let labels = self.candidates[which.clone()].iter().map(|it| it.label.as_str());
        let header: Vec<&str> = [""].into_iter().chain(labels).collect();
        let rows = self.rows.iter().map(|row| {
            let name = format!("{}, {}", row.name, row.unit);
            [name].into_iter().chain(which.clone().map(|index| cell(row, index))).collect()
        });
        texts(&header, rows)
    }

    /// Explains how certain the medians are.
    pub fn certainty(&self) -> String {
        let repeats = self.candidates.iter().map(|candidate| candidate.runs.len());
        match repeats.min().unwrap_or(0) {
            few if few < REPEATS_MIN => format!(
                "Medians, from min to max: fewer than {REPEATS_MIN} runs of each say no more."
            ),
            _ => "Medians and their ratios, each with a 95 % confidence interval.".to_owned(),
        }
    }
}

/// The value, its ratio to that of the first candidate, and below them their intervals.
fn cell(row: &Row, index: usize) -> String {
    let mut text = row.figure(index);
    if let Some(times) = row.times(index) {
        text += &format!("  {times}x");
    }
    let intervals = [(row.interval(index), ""), (row.times_interval(index), "x")];
    for ((low, high), unit) in intervals.into_iter().filter_map(|(it, unit)| Some((it?, unit))) {
        text += &format!("\n{low} to {high}{unit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::compare::tests::taking;

    #[test]
    fn a_comparison_as_printed() {
        let long =
            "embedded 127.0.0.1:1: 2 brokers, 6 topics, 96 queues, and a lot more to say here";
        let mut runs: Vec<_> = (1..=5).map(|ms| taking(long, ms)).collect();
        runs.extend((10..=14).map(|ms| taking("10.0.0.1:9876: 1 broker", ms)));
        let text = Comparison::of(runs).to_string();
        assert!(text.contains("A          RingMQ, embedded: 2 brokers"), "{text}");
        assert!(text.contains("B          at 10.0.0.1:9876: 1 broker (5 runs)"), "{text}");
        let p99 = text.lines().find(|line| line.starts_with("latency p99, ms")).unwrap();
        assert!(p99.contains("3.00") && p99.contains("12.0") && p99.contains("4.00x"), "{p99}");
        assert!(text.contains("from min to max"), "{text}");
        assert!(text.lines().any(|line| line.contains(" to ") && line.ends_with('x')), "{text}");
        let width = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(width <= 80, "{width} columns");
    }

    /// The same words as on the page, and the counts of the failure.
    #[test]
    fn a_candidate_that_lost_something_is_said_to_have_failed() {
        let mut lossy = taking("b", 1);
        lossy.findings[0].audit.lost = 5;
        let text = Comparison::of(vec![taking("a", 9), lossy]).to_string();
        let words = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("latency p99, ms"), ["9.00", "FAILED"], "{text}");
        assert_eq!(words("lost, msg, max"), ["0", "5.00"], "{text}");
    }

    #[test]
    fn few_repeats_have_no_interval() {
        let text = Comparison::of(vec![taking("a", 1), taking("b", 2)]).to_string();
        assert!(text.contains("fewer than 6 runs"), "{text}");
    }

    #[test]
    fn more_candidates_than_fit_get_further_tables() {
        let runs = (0..7).map(|index| taking(&format!("10.0.0.{index}:9876: 1 broker"), 5));
        let text = Comparison::of(runs.collect()).to_string();
        assert_eq!(text.lines().filter(|line| line.starts_with("latency p99, ms")).count(), 3);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }
}
