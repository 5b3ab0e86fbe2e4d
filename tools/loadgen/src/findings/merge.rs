//! `loadgen merge`: merges the reports of all parts of one run (`--part I/N`) into the report of
//! that run.
//!
//! Parts share the schedule, but each has its own producers. So what a part counts of its own
//! messages adds up: counters, histograms, audits. What it sees of the whole topic does not: every
//! part reads every message, so all parts see each corrupted message, and to each part the messages
//! of the others are foreign.
//!
//! Reports that cannot belong to one run are an error: different schedules, or a part twice. A
//! missing part makes the run INCOMPLETE. Clocks or durations that disagree make its figures not
//! valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::engine::measure::{Interval, Second};
use crate::findings::report::{
    Answered, BrokerShare, FaultMark, Finding, Report, ThreadCpu, Unattributed,
};
use crate::findings::reports::{ReadError, read};
use crate::findings::rows;
use crate::options::Part;

/// Maximum difference between the starts of the parts of one run, ns.
const START_APART_MAX_NS: u64 = 1_000_000_000;
/// The durations of sending disagree if they differ by more than this and by more than this share
/// of the longest.
const END_APART_MAX_NS: u64 = 1_000_000_000;
const END_APART_MAX_PART: f64 = 0.1;

#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{one} and {other} are not of one run: they differ in {what}")]
    Differ { one: String, other: String, what: &'static str },
    #[error("part {part} of {count} is there twice: {one} and {other}")]
    Twice { part: u32, count: u32, one: String, other: String },
    #[error("nothing to join")]
    Nothing,
}

/// Merges the `report.json` files at `paths`.
pub fn run(paths: &[PathBuf]) -> Result<Report, MergeError> {
    let read = |path: &PathBuf| Ok((path.display().to_string(), read(path)?));
    merge(paths.iter().map(read).collect::<Result<Vec<_>, MergeError>>()?)
}

/// Merges `parts`, given with their names, into the report of their run.
pub fn merge(mut parts: Vec<(String, Report)>) -> Result<Report, MergeError> {
    check(&parts)?;
    parts.sort_by_key(|(_, part)| part.subject.part.index);
    let parts: Vec<Report> = parts.into_iter().map(|(_, part)| part).collect();
    let Some(first) = parts.first() else { return Err(MergeError::Nothing) };
    let mut whole = Report {
        started_unix_ns: parts.iter().map(|part| part.started_unix_ns).min().unwrap_or(0),
        sending_ns: parts.iter().map(|part| part.sending_ns).max().unwrap_or(0),
        consuming_ns: parts.iter().map(|part| part.consuming_ns).max().unwrap_or(0),
        totals: totals(&parts),
        seconds: seconds(&parts),
        findings: findings(&parts),
        unattributed: unattributed(&parts),
        answers: answers(&parts),
        faults: faults(&parts),
        brokers: brokers(&parts),
        samples: parts
            .iter()
            .map(|part| part.samples.clone())
            .max_by_key(Vec::len)
            .unwrap_or_default(),
        threads: threads(&parts),
        rows: Vec::new(),
        is_overload: parts.iter().any(|part| part.is_overload),
        needs_valid_figures: parts.iter().any(|part| part.needs_valid_figures),
        incomplete: incomplete(&parts),
        not_valid: not_valid(&parts),
        notes: notes(&parts),
        ..first.clone()
    };
    whole.subject.part = Part::WHOLE;
    let environments = parts.iter().map(|part| Value::Object(part.subject.environment.clone()));
    whole.subject.environment.insert("parts".to_owned(), environments.collect());
    whole.subject.environment.insert("merged".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    let foreign = whole.unattributed.iter().map(|group| group.foreign).max().unwrap_or(0);
    if foreign > 0 {
        whole.notes.push(format!("{foreign} messages of others were left out"));
    }
    whole.rows = rows::judge(&whole.asked, &whole);
    Ok(whole)
}

/// Fails unless these are different parts of one run.
fn check(parts: &[(String, Report)]) -> Result<(), MergeError> {
    let Some((one, first)) = parts.first() else { return Err(MergeError::Nothing) };
    for (other, part) in &parts[1..] {
        let names = |report: &Report| {
            report.tracks.iter().map(|track| track.name.clone()).collect::<Vec<_>>()
        };
        let (a, b) = (&first.subject, &part.subject);
        let differences = [
            (a.seed != b.seed, "their seeds"),
            (a.part.count != b.part.count, "the number of parts"),
            (a.schedule != b.schedule, "their schedules"),
            (first.phases != part.phases, "their phases"),
            (names(first) != names(part), "their streams and groups"),
        ];
        if let Some((_, what)) = differences.iter().find(|(is_different, _)| *is_different) {
            let (one, other) = (one.clone(), other.clone());
            return Err(MergeError::Differ { one, other, what });
        }
    }
    let mut seen: BTreeMap<u32, &String> = BTreeMap::new();
    for (other, report) in parts {
        let Part { index, count } = report.subject.part;
        if let Some(one) = seen.insert(index, other) {
            let (one, other) = (one.clone(), other.clone());
            return Err(MergeError::Twice { part: index + 1, count, one, other });
        }
    }
    Ok(())
}

/// Indexed by phase, then track.
fn totals(parts: &[Report]) -> Vec<Vec<Interval>> {
    let mut sums = parts[0].totals.clone();
    for part in &parts[1..] {
        for (phase, of_part) in sums.iter_mut().zip(&part.totals) {
            phase.iter_mut().zip(of_part).for_each(|(sum, interval)| sum.add(interval));
        }
    }
    sums
}

/// Seconds with the same number, each counted from the start of its part, are merged.
fn seconds(parts: &[Report]) -> Vec<Second> {
    let mut by_number: BTreeMap<u64, Vec<&Second>> = BTreeMap::new();
    for second in parts.iter().flat_map(|part| &part.seconds) {
        by_number.entry(second.number).or_default().push(second);
    }
    let join = |(number, seconds): (u64, Vec<&Second>)| {
        let mut tracks: BTreeMap<usize, Interval> = BTreeMap::new();
        for (track, interval) in seconds.iter().flat_map(|second| second.unpack()) {
            tracks.entry(track).or_default().add(&interval);
        }
        Second::pack(number, &tracks.into_iter().collect::<Vec<_>>())
    };
    by_number.into_iter().map(join).collect()
}

fn findings(parts: &[Report]) -> Vec<Finding> {
    let mut sums: BTreeMap<(usize, usize), Finding> = BTreeMap::new();
    for finding in parts.iter().flat_map(|part| &part.findings) {
        sums.entry((finding.group, finding.stream))
            .and_modify(|sum| sum.audit.add(&finding.audit))
            .or_insert_with(|| finding.clone());
    }
    sums.into_values().collect()
}

/// All parts see the same corrupted messages, so they are counted once. Messages of the other parts
/// are not foreign to the run.
fn unattributed(parts: &[Report]) -> Vec<Unattributed> {
    let groups: BTreeSet<usize> =
        parts.iter().flat_map(|part| &part.unattributed).map(|it| it.group).collect();
    let of_group = |part: &Report, group: usize| {
        part.unattributed.iter().find(|it| it.group == group).copied().unwrap_or_default()
    };
    let join = |group: usize| {
        let seen: Vec<Unattributed> = parts.iter().map(|part| of_group(part, group)).collect();
        let own: Vec<u64> = parts.iter().map(|part| intact(part, group)).collect();
        let all: u64 = own.iter().sum();
        let foreign = seen.iter().zip(&own).map(|(it, own)| it.foreign.saturating_sub(all - own));
        Unattributed {
            group,
            corrupted: seen.iter().map(|it| it.corrupted).max().unwrap_or(0),
            foreign: foreign.min().unwrap_or(0),
        }
    };
    groups.into_iter().map(join).collect()
}

/// Messages of this part's producers that one group received, duplicates included.
fn intact(part: &Report, group: usize) -> u64 {
    let received: u64 = part.totals.iter().map(|phase| phase[group].counters.received).sum();
    let of_group = part.findings.iter().filter(|finding| finding.group == group);
    received + of_group.map(|finding| finding.audit.duplicated).sum::<u64>()
}

fn answers(parts: &[Report]) -> Vec<Answered> {
    let mut sums: BTreeMap<(usize, i32, &str), u64> = BTreeMap::new();
    for answer in parts.iter().flat_map(|part| &part.answers) {
        *sums.entry((answer.stream, answer.code, &answer.reason)).or_default() += answer.requests;
    }
    let answered = |((stream, code, reason), requests): ((usize, i32, &str), u64)| Answered {
        stream,
        code,
        reason: reason.to_owned(),
        requests,
    };
    sums.into_iter().map(answered).collect()
}

/// Every part's scenario has the faults, but only the part with the servers carries them out. That
/// the others could not is not reported.
fn faults(parts: &[Report]) -> Vec<FaultMark> {
    let all: Vec<&FaultMark> = parts.iter().flat_map(|part| &part.faults).collect();
    let done: BTreeSet<&str> =
        all.iter().filter(|mark| mark.failed.is_none()).map(|mark| mark.text.as_str()).collect();
    let mut failed = BTreeSet::new();
    let mut marks: Vec<FaultMark> = all
        .into_iter()
        .filter(|mark| match &mark.failed {
            None => true,
            Some(_) if done.contains(mark.text.as_str()) => false,
            Some(why) => failed.insert((mark.text.clone(), why.clone())),
        })
        .cloned()
        .collect();
    marks.sort_by_key(|mark| mark.at_ns);
    marks
}

fn brokers(parts: &[Report]) -> Vec<BrokerShare> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for share in parts.iter().flat_map(|part| &part.brokers) {
        *sums.entry(&share.name).or_default() += share.acknowledged;
    }
    let share =
        |(name, acknowledged): (&str, u64)| BrokerShare { name: name.to_owned(), acknowledged };
    sums.into_iter().map(share).collect()
}

/// Labelled with their part.
fn threads(parts: &[Report]) -> Vec<ThreadCpu> {
    let named = |part: &Report| {
        let number = part.subject.part.index + 1;
        let name =
            move |it: &ThreadCpu| ThreadCpu { name: format!("{number}/{}", it.name), ..it.clone() };
        part.threads.iter().map(name).collect::<Vec<_>>()
    };
    parts.iter().flat_map(named).collect()
}

/// What the parts could not find out, and which parts are missing.
fn incomplete(parts: &[Report]) -> Vec<String> {
    let count = parts[0].subject.part.count;
    let present: BTreeSet<u32> = parts.iter().map(|part| part.subject.part.index).collect();
    let missing = (0..count).filter(|index| !present.contains(index));
    let missing = missing.map(|index| format!("part {} of {count} is missing", index + 1));
    missing.chain(said_by(parts, |part| part.incomplete.clone())).collect()
}

/// Why the figures of parts are not valid, and where the parts disagree.
fn not_valid(parts: &[Report]) -> Vec<String> {
    let mut reasons = Vec::new();
    let apart_ns = spread(parts.iter().map(|part| part.started_unix_ns));
    if apart_ns > START_APART_MAX_NS {
        reasons.push(format!("the parts began {:.1} s apart", apart_ns as f64 / 1e9));
    }
    let apart_ns = spread(parts.iter().map(|part| part.sending_ns));
    let longest_ns = parts.iter().map(|part| part.sending_ns).max().unwrap_or(0);
    if apart_ns > END_APART_MAX_NS && apart_ns as f64 > longest_ns as f64 * END_APART_MAX_PART {
        reasons.push(format!("the parts took {:.1} s more and less", apart_ns as f64 / 1e9));
    }
    reasons.extend(said_by(parts, |part| part.figures().reasons));
    reasons
}

/// Largest minus smallest.
fn spread(values: impl Iterator<Item = u64> + Clone) -> u64 {
    values.clone().max().unwrap_or(0) - values.min().unwrap_or(0)
}

fn notes(parts: &[Report]) -> Vec<String> {
    let mut notes = vec![format!("joined from {} parts", parts.len())];
    let mut targets: Vec<&str> = parts.iter().map(|part| part.subject.target.as_str()).collect();
    targets.dedup();
    if targets.len() > 1 {
        notes.push(format!("the parts name their targets differently: {}", targets.join(", ")));
    }
    let commit = |part: &Report| part.subject.environment.get("commit").cloned();
    if parts.iter().any(|part| commit(part) != commit(&parts[0])) {
        notes.push("the parts were made by different versions of loadgen".to_owned());
    }
    notes.extend(said_by(parts, |part| part.notes.clone()));
    notes
}

/// The texts of all parts, each once: unchanged if all parts have it, else prefixed with the
/// numbers of those that do.
fn said_by(parts: &[Report], said: impl Fn(&Report) -> Vec<String>) -> Vec<String> {
    let mut by_text: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    let mut order = Vec::new();
    for part in parts {
        for text in said(part) {
            let speakers = by_text.entry(text.clone()).or_default();
            if speakers.is_empty() {
                order.push(text);
            }
            speakers.insert(part.subject.part.index + 1);
        }
    }
    let with_parts = |text: String| {
        let speakers = &by_text[&text];
        if speakers.len() == parts.len() {
            return text;
        }
        let numbers: Vec<String> = speakers.iter().map(u32::to_string).collect();
        format!("part {}: {text}", numbers.join(", "))
    };
    order.into_iter().map(with_parts).collect()
}

#[cfg(test)]
mod tests;
