//! Workload files: YAML with the field names of OpenMessaging Benchmark's workloads, or TOML with
//! the same names. `streams`, `groups`, `phases`, `faults` and some smaller fields are additions.
//!
//! ```text
//!   text ──▶ tree ──▶ fields ──▶ spec ──▶ Scenario
//!           (lines)   (names)   (values)  (given a rate and the number of brokers)
//! ```
//!
//! Start reading at [`read`]. Invariants:
//! - Every error in a file is reported with its line; nothing panics.
//! - The report names every field that is accepted but has no effect, or a different one.
//!
//! The fields are described in `tools/loadgen/workloads/README.md`.

pub mod course;
pub mod fields;
pub mod spec;
mod stream;
pub mod tree;
pub mod values;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ringmq::model::TopicName;

use crate::options::{ProcessOptions, header_name};
use crate::plan::curve::RateCurve;
use crate::plan::scenario::{Criterion, Fault, Phase, Scenario, Stream, asked_of_faults};
use crate::plan::workload::spec::Spec;
use crate::plan::workload::stream::{Load, StreamSpec};
use crate::plan::workload::tree::Wrong;
use crate::units::{grouped, max_rate};

/// Maximum size of a file, bytes.
const FILE_SIZE_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("{}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}: a workload file is called .yaml, .yml or .toml", path.display())]
    Language { path: PathBuf },
    #[error("{}:{}: {}", path.display(), wrong.line, wrong.text)]
    Wrong { path: PathBuf, wrong: Wrong },
}

/// A validated file.
#[derive(Clone, Debug)]
pub struct Workload {
    spec: Spec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Yaml,
    Toml,
}

/// Reads and validates the file.
pub fn read(path: &Path) -> Result<Workload, WorkloadError> {
    let failed = |cause| WorkloadError::Read { path: path.to_owned(), cause };
    let language = match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Language::Yaml,
        Some("toml") => Language::Toml,
        _ => return Err(WorkloadError::Language { path: path.to_owned() }),
    };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_SIZE_MAX {
        return Err(failed(io::Error::other("no workload is larger than 1 MiB")));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    parse(&text, language).map_err(|wrong| WorkloadError::Wrong { path: path.to_owned(), wrong })
}

fn parse(text: &str, language: Language) -> Result<Workload, Wrong> {
    let root = match language {
        Language::Yaml => tree::from_yaml(text)?,
        Language::Toml => tree::from_toml(text)?,
    };
    Ok(Workload { spec: spec::spec(&root)? })
}

impl Workload {
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn faults(&self) -> &[Fault] {
        &self.spec.faults
    }

    /// Whether anything receives what is sent.
    pub fn is_consumed(&self) -> bool {
        !self.spec.groups.is_empty()
    }

    /// Whether the highest sustained rate must be searched for, with [`probe`](Self::probe).
    pub fn is_search(&self) -> bool {
        self.spec.streams.iter().any(|stream| stream.load == Load::Searched)
    }

    /// The whole run for a target of `brokers` brokers. `found` is the rate from a search, messages
    /// per second.
    pub fn scenario(&self, process: &ProcessOptions, found: Option<f64>, brokers: u32) -> Scenario {
        let spec = &self.spec;
        let end_ns = spec.phases.last().map_or(0, |phase| phase.end_ns);
        let stream = |of: &StreamSpec| stream(of, curve(&of.load, end_ns, found), brokers);
        Scenario {
            name: format!("run {}", spec.name),
            text: self.describe(found),
            phases: spec.phases.clone(),
            streams: spec.streams.iter().map(stream).collect(),
            groups: spec.groups.clone(),
            faults: spec.faults.clone(),
            assumptions: self.notes(brokers),
            asked: self.asked(),
            ..Scenario::frame(process, self.spec.seed, self.spec.arrivals)
        }
    }

    /// One step of a search: a run at `rate`, without warm-up, pauses and faults.
    pub fn probe(
        &self,
        process: &ProcessOptions,
        rate: f64,
        length: Duration,
        brokers: u32,
    ) -> Scenario {
        let end_ns = length.as_nanos() as u64;
        let stream = |of: &StreamSpec| stream(of, Some(RateCurve::constant(rate, length)), brokers);
        let mut groups = self.spec.groups.clone();
        groups.iter_mut().for_each(|group| (group.rate, group.pauses) = (None, Vec::new()));
        Scenario {
            name: format!("search {}", self.spec.name),
            text: self.describe(Some(rate)),
            phases: vec![Phase {
                name: "search".to_owned(),
                start_ns: 0,
                end_ns,
                counts: true,
                proves: "one rate for a while".to_owned(),
            }],
            streams: self.spec.streams.iter().map(stream).collect(),
            groups,
            assumptions: self.notes(brokers),
            asked: vec![Criterion::NothingLost],
            ..Scenario::frame(process, self.spec.seed, self.spec.arrivals)
        }
    }

    /// One line of at most 69 columns.
    fn describe(&self, found: Option<f64>) -> String {
        let end_ns = self.spec.phases.last().map_or(0, |phase| phase.end_ns);
        let seconds = end_ns as f64 / 1e9;
        let text = match &self.spec.streams[..] {
            [only] => {
                let rate = match (&only.load, found) {
                    (&Load::Constant(rate), _) | (Load::Searched, Some(rate)) => {
                        format!("{}/s", grouped(rate as u64))
                    }
                    (Load::Searched, None) => "the highest rate".to_owned(),
                    (&Load::Max { instead_of }, _) => max_rate(instead_of),
                    (Load::Points(_), _) => "a curve".to_owned(),
                };
                let header = header_name(only.header.into());
                let (size, batch) = (only.sizes.mean() as u64, only.batch);
                let (connections, in_flight) = (only.producers, only.in_flight);
                format!(
                    "{rate} x {size} B, {seconds:.0} s, batch {batch}, \
                     {connections} conn x {in_flight}, {header}"
                )
            }
            many => format!(
                "{} streams, {} groups, {} faults, {seconds:.0} s",
                many.len(),
                self.spec.groups.len(),
                self.spec.faults.len()
            ),
        };
        text.chars().take(69).collect()
    }

    fn notes(&self, brokers: u32) -> Vec<String> {
        let mut notes = self.spec.notes.clone();
        let uneven = self.spec.streams.iter().find(|it| it.partitions % brokers.max(1) != 0);
        if let Some(stream) = uneven {
            let queues = stream.partitions.div_ceil(brokers.max(1));
            let wanted = stream.partitions;
            notes.push(format!(
                "partitionsPerTopic {wanted}: {queues} on each of {brokers} brokers"
            ));
        }
        notes
    }

    fn asked(&self) -> Vec<Criterion> {
        let mut asked = vec![Criterion::NothingLost];
        if self.spec.faults.is_empty() {
            asked.push(Criterion::Refused { part_max: 0.001 });
        }
        asked.extend(asked_of_faults(&self.spec.faults));
        asked.extend(self.spec.fail_if.iter().copied().map(Criterion::FailIf));
        if self.spec.has_backlog {
            asked.push(Criterion::Drain { group: 0, factor: 1.0 });
        }
        asked
    }
}

/// The curve up to the end of the run; `None`: as much as the windows allow.
fn curve(load: &Load, end_ns: u64, found: Option<f64>) -> Option<RateCurve> {
    let constant = |rate| RateCurve::constant(rate, Duration::from_nanos(end_ns));
    match load {
        Load::Max { .. } => None,
        Load::Searched => Some(constant(found.unwrap_or(0.0))),
        Load::Constant(rate) => Some(constant(*rate)),
        Load::Points(points) => Some(RateCurve::through(&until(points, end_ns))),
    }
}

/// Points from 0 to `end_ns`: the first and the last rate are extended, and what is after the end
/// is cut off.
fn until(points: &[(u64, f64)], end_ns: u64) -> Vec<(u64, f64)> {
    let (first, last) =
        (points.first().map_or(0.0, |it| it.1), points.last().map_or(0.0, |it| it.1));
    let mut all = vec![(0, first)];
    all.extend(points.iter().filter(|(at_ns, _)| *at_ns <= end_ns));
    let (before_ns, before) = all.last().copied().unwrap_or((0, first));
    let end = match points.iter().find(|(at_ns, _)| *at_ns > end_ns) {
        None => last,
        Some((after_ns, after)) => {
            let part = (end_ns - before_ns) as f64 / (after_ns - before_ns) as f64;
            before + part * (after - before)
        }
    };
    all.push((end_ns, end));
    all
}

fn stream(of: &StreamSpec, curve: Option<RateCurve>, brokers: u32) -> Stream {
    let legal = |name| TopicName::new(name).expect("the longest was tried when the file was read");
    Stream {
        name: of.name.clone(),
        role: of.role.clone(),
        topics: of.topic_names().map(legal).collect(),
        queues: of.partitions.div_ceil(brokers.max(1)),
        header: of.header.into(),
        curve: curve.map(Arc::new),
        sizes: of.sizes.clone(),
        batch: of.batch,
        connections: of.producers,
        late: None,
        in_flight: of.in_flight,
        keys: of.keys.clone(),
        is_ordered: of.is_ordered,
        is_one_way: of.is_one_way,
        retries: of.retries,
        delay_ms: of.delay_ms,
        stands_in_for: None,
    }
}

#[cfg(test)]
mod tests;
