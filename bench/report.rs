//! The report of a `loadgen` run. Other benches include this file as a module.

use std::fs;
use std::path::Path;

use serde_json::Value;

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

    /// Returns a latency, or the generator's lateness, by its path in the report, ms.
    pub fn ms(&self, path: &str) -> f64 {
        self.number(path) / 1e6
    }
}
