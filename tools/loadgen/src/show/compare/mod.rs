//! `loadgen compare`: runs side by side, on the same scales.
//!
//! ```text
//!   reports ─▶ candidates (repeats of one thing) ─▶ rows (medians, intervals, ratios) ─▶ text, page
//!          └─▶ doubts: what makes the comparison unfair
//! ```
//!
//! A comparison names no winner: it prints every row, whichever candidate is better. Start reading
//! at [`run`]. The rows are in [`rows`], the confidence intervals in [`certainty`].

mod candidates;
mod certainty;
mod page;
mod rows;
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::findings::report::Report;
use crate::findings::reports::{ReadError, read};
use crate::findings::verdict::Verdict;
use crate::show::compare::candidates::{CANDIDATE, Candidate, candidates};
use crate::show::compare::rows::Row;

/// Runs whose durations differ by more than this share are not comparable.
const LENGTH_APART: f64 = 0.05;

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{file} is given twice: a run is not a repeat of itself")]
    Twice { file: String },
    #[error("{path}: {cause}")]
    Files { path: String, cause: io::Error },
}

/// The result of a comparison. Its text has at most 80 columns.
pub struct Comparison {
    candidates: Vec<Candidate>,
    rows: Vec<Row>,
    doubts: Vec<String>,
}

/// Compares the runs in `files`, each `FILE` or `NAME=FILE`, and writes `compare.html` to `out`.
pub fn run(files: &[String], out: Option<&Path>) -> Result<Comparison, CompareError> {
    distinct(files)?;
    let reports = files.iter().map(|file| named(file)).collect::<Result<Vec<_>, _>>()?;
    let comparison = Comparison::of(reports);
    if let Some(directory) = out {
        let path = directory.join("compare.html");
        let failed = |cause| CompareError::Files { path: path.display().to_string(), cause };
        fs::create_dir_all(directory).map_err(failed)?;
        fs::write(&path, comparison.page()).map_err(failed)?;
    }
    Ok(comparison)
}

/// No file may be given twice, under whatever path and name.
fn distinct(files: &[String]) -> Result<(), CompareError> {
    let mut known = BTreeSet::new();
    for file in files {
        let path = name_and_path(file).1;
        // Whether it can be read is checked when it is read.
        if !known.insert(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())) {
            return Err(CompareError::Twice { file: path.display().to_string() });
        }
    }
    Ok(())
}

/// `FILE` or `NAME=FILE`. An existing file whose path contains `=` takes precedence.
fn name_and_path(file: &str) -> (Option<&str>, &Path) {
    match file.split_once('=').filter(|_| !Path::new(file).exists()) {
        None => (None, Path::new(file)),
        Some((name, path)) => (Some(name), Path::new(path)),
    }
}

fn named(file: &str) -> Result<Report, ReadError> {
    let (name, path) = name_and_path(file);
    let mut report = read(path)?;
    if let Some(name) = name {
        report.subject.environment.insert(CANDIDATE.to_owned(), name.into());
    }
    Ok(report)
}

impl Comparison {
    /// Compares reports in the order in which they were named.
    pub fn of(reports: Vec<Report>) -> Self {
        let doubts = doubts(&reports);
        let candidates = candidates(reports);
        let rows = rows::rows(&candidates);
        Self { candidates, rows, doubts }
    }
}

/// What makes the comparison unfair, or its figures meaningless.
fn doubts(reports: &[Report]) -> Vec<String> {
    let mut doubts = Vec::new();
    let differ = |what: &str, of: &dyn Fn(&Report) -> String| {
        let values: BTreeSet<String> = reports.iter().map(of).collect();
        (values.len() > 1).then(|| {
            let values: Vec<String> = values.into_iter().collect();
            format!("{what} differ: {}", values.join(" | "))
        })
    };
    let environment = |name: &'static str| {
        move |report: &Report| {
            let value = report.subject.environment.get(name);
            value.map_or_else(String::new, |value| match value.as_str() {
                Some(text) => text.to_owned(),
                None => value.to_string(),
            })
        }
    };
    doubts.extend(differ("workloads", &|report| report.subject.workload.clone()));
    doubts.extend(differ("parts", &|report| report.subject.part.to_string()));
    for name in ["cpu", "cores", "kernel", "commit"] {
        doubts.extend(differ(name, &environment(name)));
    }
    let lengths = reports.iter().map(|report| report.sending_ns);
    let (shortest, longest) = (lengths.clone().min().unwrap_or(0), lengths.max().unwrap_or(0));
    if (longest - shortest) as f64 > LENGTH_APART * longest as f64 {
        let s = |ns: u64| ns as f64 / 1e9;
        doubts.push(format!("lengths differ: {:.1} s to {:.1} s", s(shortest), s(longest)));
    }
    for (index, report) in reports.iter().enumerate() {
        if report.verdict() != Verdict::Pass {
            let reasons = report.reasons().join("; ");
            doubts.push(format!("run {} is {}: {reasons}", index + 1, report.verdict()));
        }
        if let Some(reason) = report.figures().reasons.first() {
            doubts.push(format!("run {}: latencies not valid, left out: {reason}", index + 1));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::Kind;
    use crate::findings::report::tests::example;

    /// A run of `target` with latencies of about `ms`.
    pub fn taking(target: &str, ms: u64) -> Report {
        let mut report = example();
        target.clone_into(&mut report.subject.target);
        report.totals[0][0].latency.reset();
        report.totals[0][0].record(Kind::Latency, ms * 1_000_000, 199_000);
        report
    }

    #[test]
    fn runs_of_one_schedule_and_machine_raise_no_doubt() {
        assert_eq!(doubts(&[taking("a", 1), taking("b", 2)]), [""; 0]);
    }

    #[test]
    fn what_is_not_the_same_is_said() {
        let mut other = taking("b", 2);
        other.subject.workload = "feed".to_owned();
        other.sending_ns /= 2;
        other.findings[0].audit.lost = 1;
        other.subject.environment.insert("kernel".to_owned(), "5.8".into());
        let said = doubts(&[taking("a", 1), other]).join("\n");
        for word in ["workloads", "kernel", "lengths", "run 2 is FAILED"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }

    #[test]
    fn files_that_are_no_reports_are_named() {
        let directory =
            std::env::temp_dir().join(format!("loadgen-compare-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        for (path, wanted) in [
            (directory.join("none.json"), "none.json"),
            (file("text.json", "hello"), "text.json is not a report of loadgen"),
            (file("old.json", "{\"schema\":0}"), "old.json has schema 0"),
            (file("cut.json", "{\"schema\":2}"), "cut.json is not a report"),
        ] {
            let error = run(&[path.display().to_string()], None).err().unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let paths =
            ["a=", "b="].map(|name| format!("{name}{}", directory.join("text.json").display()));
        let error = run(&paths, None).err().unwrap().to_string();
        assert!(error.contains("text.json is given twice"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
