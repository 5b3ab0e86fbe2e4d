//! A comparison as text of at most 80 columns.

use std::fmt::{self, Display};

use crate::show::compare::Comparison;
use crate::show::compare::certainty::REPEATS_MIN;
use crate::show::compare::rows::Row;
use crate::units::cut;

/// Candidates beside each other; more get tables of their own.
const BESIDE: usize = 3;
const NAME: usize = 23;
const VALUE: usize = 19;

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doubt in &self.doubts {
            writeln!(f, "{:<8}{}", "doubt", cut(doubt, 72))?;
        }
        if !self.doubts.is_empty() {
            writeln!(f)?;
        }
        for candidate in &self.candidates {
            let count = candidate.runs.len();
            let runs = if count == 1 { "1 run".to_owned() } else { format!("{count} runs") };
            let text = format!("{} ({runs})", candidate.name);
            writeln!(f, "{:<8}{}", candidate.label, cut(&text, 72))?;
        }
        let most = self.candidates.len().max(1);
        for first in (0..most).step_by(BESIDE) {
            self.write_table(f, first..(first + BESIDE).min(self.candidates.len()))?;
        }
        writeln!(f, "\n{}", self.certainty())
    }
}

impl Comparison {
    /// The first candidate is what the others are measured by.
    fn write_table(
        &self,
        f: &mut fmt::Formatter<'_>,
        which: std::ops::Range<usize>,
    ) -> fmt::Result {
        write!(f, "\n{:<NAME$}", "")?;
        for candidate in &self.candidates[which.clone()] {
            write!(f, "{:>VALUE$}", candidate.label)?;
        }
        writeln!(f)?;
        for row in &self.rows {
            let name = cut(&format!("{}, {}", row.name, row.unit), NAME - 1);
            write!(f, "{name:<NAME$}")?;
            for index in which.clone() {
                write!(f, "{:>VALUE$}", cell(row, index))?;
            }
            writeln!(f)?;
            write_intervals(f, "", which.clone().map(|index| row.interval(index)))?;
            write_intervals(f, "  times A", which.clone().map(|index| row.times_interval(index)))?;
        }
        Ok(())
    }

    /// How sure the medians are.
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

/// A line with the ends of what each candidate has an interval of, unless none has.
fn write_intervals(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    intervals: impl Iterator<Item = Option<(String, String)>>,
) -> fmt::Result {
    let intervals: Vec<_> = intervals.collect();
    if intervals.iter().all(Option::is_none) {
        return Ok(());
    }
    write!(f, "{name:<NAME$}")?;
    for interval in intervals {
        let text = interval.map_or(String::new(), |(low, high)| format!("{low} to {high}"));
        write!(f, "{:>VALUE$}", cut(&text, VALUE - 1))?;
    }
    writeln!(f)
}

/// The figure, and how many times that of the first candidate it is.
fn cell(row: &Row, index: usize) -> String {
    let times = row.times(index).map_or(String::new(), |times| format!("{times}x"));
    format!("{} {times:>7}", row.figure(index))
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
        assert!(text.contains("A       RingMQ, embedded: 2 brokers"), "{text}");
        assert!(text.contains("B       at 10.0.0.1:9876: 1 broker (5 runs)"), "{text}");
        let p99 = text.lines().find(|line| line.starts_with("latency p99, ms")).unwrap();
        assert!(p99.contains("3.00") && p99.contains("12.0") && p99.contains("4.00x"), "{p99}");
        assert!(text.contains("from min to max") && text.contains("  times A"), "{text}");
        let width = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(width <= 80, "{width} columns");
    }

    /// The same words as on the page, and the figures of the failure.
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
