//! What a run was asked to reach, beside what it reached.
//!
//! A row that is missed does not change the verdict: that is about promises kept and figures that
//! count. Rows say how good the figures are.

use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::scenario::Asked;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was asked, in a few words.
    pub what: String,
    pub wanted: String,
    pub found: String,
    /// `None`: it could not be judged, and `found` says why.
    pub is_met: Option<bool>,
}

/// Judges a finished run, whose `rows` are not yet filled in.
pub fn judge(asked: &[Asked], report: &Report) -> Vec<Row> {
    asked.iter().map(|asked| row(asked, report)).collect()
}

fn row(asked: &Asked, report: &Report) -> Row {
    let _ = report;
    Row { what: format!("{asked:?}"), wanted: String::new(), found: String::new(), is_met: None }
}
