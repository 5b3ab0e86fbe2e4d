//! The report of a `loadgen` run. Other benches include this file as a module.
//!
//! A latency counts only if the run's figures are valid: otherwise the generator was late, and the
//! latency describes this machine.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::processes::median;

pub struct Report(Value);

impl Report {
    /// Reads the report in this directory and removes it, so that it is not taken for the next
    /// run's.
    pub fn take(directory: &Path) -> Self {
        let path = directory.join("report.json");
        let report = fs::read(&path).expect("loadgen writes it");
        fs::remove_file(path).expect("it is there");
        Self(serde_json::from_slice(&report).expect("it is JSON"))
    }

    /// Returns a number by its path in the report.
    pub fn number(&self, path: &str) -> f64 {
        self.0.pointer(path).and_then(Value::as_f64).expect("the report has it")
    }

    /// Returns a latency by its path in the report, ms. `None`: the figures are not valid.
    pub fn latency_ms(&self, path: &str) -> Option<f64> {
        let is_valid = self.0.pointer("/figures/valid").and_then(Value::as_bool);
        let latency = self.number(path) / 1e6;
        is_valid.expect("the report has it").then_some(latency)
    }
}

/// A latency of several rounds, ms: the median of those whose figures are valid.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    valid: Vec<f64>,
    rounds: usize,
}

impl Latency {
    /// Adds a round. `None`: its figures are not valid.
    pub fn push(&mut self, ms: Option<f64>) {
        self.rounds += 1;
        self.valid.extend(ms);
    }

    /// The median; not a number if no round was valid.
    pub fn ms(&self) -> f64 {
        if self.valid.is_empty() { f64::NAN } else { median(&mut self.valid.clone()) }
    }
}

impl FromIterator<Option<f64>> for Latency {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(rounds: I) -> Self {
        let mut latency = Self::default();
        rounds.into_iter().for_each(|ms| latency.push(ms));
        latency
    }
}

impl Display for Latency {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.valid.len(), self.rounds) {
            (0, _) => f.write_str("not valid"),
            (valid, rounds) if valid == rounds => write!(f, "{:.2} ms", self.ms()),
            (valid, rounds) => {
                write!(f, "{:.2} ms ({valid} of {rounds} rounds are valid)", self.ms())
            }
        }
    }
}
