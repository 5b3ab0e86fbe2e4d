//! The content of `report.json`: a contract with scripts, versioned by [`SCHEMA`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::histogram::Percentiles;

/// Grows when a key changes its meaning. New keys do not change it.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    /// The target broke a promise.
    Failed,
    /// The figures do not count.
    Invalid,
}

/// Everything, in the order in which it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub schema: u32,
    pub verdict: Verdict,
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
}

/// Counts of messages, and durations of those sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Send {
    pub due: u64,
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub not_sent: u64,
    pub rate_per_s: f64,
    pub bytes_per_s: f64,
    pub latency_ns: Percentiles,
    pub service_ns: Percentiles,
    pub slip_ns: Percentiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndToEnd {
    pub received: u64,
    pub rate_per_s: f64,
    pub latency_ns: Percentiles,
}

/// `null` where nothing was consumed, so nothing could be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    pub acknowledged: u64,
    pub lost: Option<u64>,
    pub duplicated: Option<u64>,
    pub out_of_order: Option<u64>,
    pub corrupted: Option<u64>,
    pub unknown_present: Option<u64>,
    pub unknown_absent: Option<u64>,
}
