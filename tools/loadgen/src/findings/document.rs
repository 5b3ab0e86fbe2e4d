//! The content of `report.json`: an interface for scripts, versioned by [`SCHEMA`].
//!
//! The keys that scripts read come first; durations are in nanoseconds, rates per second. `detail`
//! is the whole [`Report`], from which pages, comparisons and merged reports are made. The keys are
//! described in `tools/loadgen/README.md`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock::rfc3339;
use crate::engine::histogram::Percentiles;
use crate::findings::report::{Report, rate};
use crate::findings::verdict::{Figures, Verdict};

/// Incremented when a key changes its meaning. New keys do not change it.
pub const SCHEMA: u32 = 2;

/// The whole file. Fields are written in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    pub schema: u32,
    pub verdict: Verdict,
    pub figures: Figures,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub duration_s: f64,
    pub target: String,
    pub seed: u64,
    pub send: Send,
    pub end_to_end: EndToEnd,
    pub audit: Reconciled,
    /// Machine, versions, options, notes; for people.
    pub environment: Map<String, Value>,
    pub detail: Report,
}

/// Message counts, and durations of the messages sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Send {
    pub due: u64,
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub not_sent: u64,
    pub one_way: u64,
    pub rate_per_s: f64,
    pub bytes_per_s: f64,
    /// Messages without a latency: not sent, or without a clear answer. They rank behind all
    /// acknowledged ones.
    pub censored: u64,
    pub latency_ns: Percentiles,
    /// Keys of `latency_ns` that fall among the censored messages and are lower bounds.
    #[serde(default)]
    pub latency_at_least: Vec<String>,
    pub service_ns: Percentiles,
    pub slip_ns: Percentiles,
    /// From due to each refusal.
    pub refused_ns: Percentiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndToEnd {
    pub received: u64,
    pub rate_per_s: f64,
    pub latency_ns: Percentiles,
}

/// `null` if nothing was consumed, so that nothing could be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    pub acknowledged: u64,
    pub lost: Option<u64>,
    pub duplicated: Option<u64>,
    pub out_of_order: Option<u64>,
    pub corrupted: Option<u64>,
    /// Delayed messages that arrived before they were due.
    #[serde(default)]
    pub early: Option<u64>,
    pub unknown_present: Option<u64>,
    pub unknown_absent: Option<u64>,
}

impl Document {
    /// When the run began: RFC 3339, UTC.
    pub fn of_started(report: &Report) -> String {
        rfc3339(report.started_unix_ns / 1_000_000_000)
    }

    pub fn of(report: &Report) -> Self {
        let total = report.total();
        let counters = &total.counters;
        let (latency_ns, latency_at_least) = total.waits().percentiles();
        let audit = report.audit();
        let checked = |count: u64| report.is_audited().then_some(count);
        Self {
            schema: SCHEMA,
            verdict: report.verdict(),
            figures: report.figures(),
            started_at: Self::of_started(report),
            duration_s: report.sending().as_secs_f64(),
            target: report.subject.target.clone(),
            seed: report.subject.seed,
            send: Send {
                due: counters.due,
                sent: counters.sent,
                acknowledged: counters.acknowledged,
                refused: counters.refused,
                unknown: counters.unknown,
                not_sent: counters.not_sent,
                one_way: counters.one_way,
                rate_per_s: rate(counters.acknowledged, report.sending()),
                bytes_per_s: report.bytes_per_s(),
                censored: total.given_up.len(),
                latency_ns,
                latency_at_least,
                service_ns: Percentiles::of(&total.service),
                slip_ns: Percentiles::of(&total.lateness),
                refused_ns: Percentiles::of(&total.refused),
            },
            end_to_end: EndToEnd {
                received: counters.received,
                rate_per_s: rate(counters.received, report.consuming()),
                latency_ns: Percentiles::of(&total.end_to_end),
            },
            audit: Reconciled {
                acknowledged: checked(audit.acknowledged).unwrap_or(counters.acknowledged),
                lost: checked(audit.lost),
                duplicated: checked(audit.duplicated),
                out_of_order: checked(audit.out_of_order),
                corrupted: checked(audit.corrupted + audit.never_sent),
                early: checked(audit.early),
                unknown_present: checked(audit.unknown_present),
                unknown_absent: checked(audit.unknown_absent),
            },
            environment: environment(report),
            detail: report.clone(),
        }
    }
}

fn environment(report: &Report) -> Map<String, Value> {
    let mut environment = report.subject.environment.clone();
    environment.insert("load".to_owned(), json!(report.subject.load));
    environment.insert("reasons".to_owned(), json!(report.reasons()));
    environment.insert("notes".to_owned(), json!(report.notes));
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::tests::example;

    /// The keys before `detail`, in the form that scripts read.
    #[test]
    fn a_report_as_json() {
        let mut document = serde_json::to_value(Document::of(&example())).unwrap();
        document.as_object_mut().unwrap().remove("detail");
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/golden/report.json")).unwrap();
        assert_eq!(document, golden);
    }
}
