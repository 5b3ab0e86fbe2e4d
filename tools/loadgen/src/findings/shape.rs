//! Checks a report that was read from a file, beyond the names and types of its keys.
//!
//! Code everywhere indexes a report by phase and track, and adds and subtracts its counts and
//! times. The check here is the only one, and establishes:
//! - `totals` has an interval for every phase and track; every reference to a track is to an
//!   existing one of the right kind.
//! - Phases are contiguous from 0 on; seconds are ascending and within the run.
//! - All counts together are below [`COUNT_MAX`], so that no sum of them overflows; times are below
//!   [`TIME_MAX_NS`].
//! - Packed data decodes as a histogram, and names can be tags in files.
//!
//! Not here: whether the figures are plausible. Figures that contradict each other come from a
//! forged report.

use crate::engine::audit::Audit;
use crate::engine::histogram::try_unpack;
use crate::engine::measure::{Counters, Second};
use crate::findings::document::Document;
use crate::findings::report::{GroupFacts, Report, TrackKind};
use crate::options::Part;
use crate::plan::scenario::{Criterion, TRACKS_MAX};

/// Exact as a floating-point number, and thousands of times what a week at full speed counts.
const COUNT_MAX: u64 = 1 << 53;
/// A hundred days: no run is longer, and an array with one entry per second still fits in memory.
const TIME_MAX_NS: u64 = 100 * 86_400 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
/// Seconds are reported until the last thread has ended, which may be after the last arrival.
const SECONDS_BEHIND_MAX: u64 = 3_600;
/// Rates, mean sizes, factors.
const NUMBER_MAX: f64 = 1e15;
/// Maximum number of parts of a run, far beyond actual use.
const PARTS_MAX: u32 = 10_000;

/// The error says what is wrong, and names the key.
type Checked = Result<(), String>;

pub fn check(document: &Document) -> Checked {
    let report = &document.detail;
    numbers(document)?;
    part(report.subject.part)?;
    phases(report)?;
    tracks(report)?;
    totals(report)?;
    times(report)?;
    seconds(report)?;
    references(report)?;
    counts(report)
}

fn need(is_so: bool, what: impl FnOnce() -> String) -> Checked {
    if is_so { Ok(()) } else { Err(what()) }
}

/// Checks every floating-point number.
fn numbers(document: &Document) -> Checked {
    let (send, end_to_end) = (&document.send, &document.end_to_end);
    let mut all = vec![
        ("duration_s", document.duration_s),
        ("send.rate_per_s", send.rate_per_s),
        ("send.bytes_per_s", send.bytes_per_s),
        ("end_to_end.rate_per_s", end_to_end.rate_per_s),
    ];
    for track in &document.detail.tracks {
        match &track.kind {
            TrackKind::Stream(facts) => all.push(("message_size_mean", facts.message_size_mean)),
            TrackKind::Group(facts) => all.extend(facts.rate.map(|rate| ("rate", rate))),
        }
    }
    all.extend(document.detail.threads.iter().map(|thread| ("share", thread.share)));
    for asked in &document.detail.asked {
        match *asked {
            Criterion::TailWithin { factor, .. }
            | Criterion::TailBack { factor, .. }
            | Criterion::Drain { factor, .. } => all.push(("factor", factor)),
            Criterion::AnsweredWithin { part, .. } => all.push(("part", part)),
            Criterion::Refused { part_max } => all.push(("part_max", part_max)),
            Criterion::FailIf(threshold) => all.push(("limit", threshold.limit)),
            Criterion::NothingLost | Criterion::BackWithin { .. } => {}
        }
    }
    let mut wrong = all.iter().filter(|(_, number)| !(0.0..=NUMBER_MAX).contains(number));
    wrong.next().map_or(Ok(()), |(key, number)| Err(format!("`{key}` cannot be {number}")))
}

fn part(Part { index, count }: Part) -> Checked {
    need(index < count && count <= PARTS_MAX, || {
        format!("`part` cannot have index {index} of {count}")
    })
}

fn phases(report: &Report) -> Checked {
    need(!report.phases.is_empty(), || "`phases` is empty".to_owned())?;
    let mut end_ns = 0;
    for phase in &report.phases {
        need(phase.start_ns == end_ns && phase.end_ns >= end_ns, || {
            format!("phase `{}` does not begin where the one before it ends", phase.name)
        })?;
        end_ns = phase.end_ns;
    }
    Ok(())
}

/// Streams must come first, then groups that receive some of them.
fn tracks(report: &Report) -> Checked {
    let streams = report.streams().count();
    need(streams > 0, || "`tracks` has no stream".to_owned())?;
    need(report.tracks.len() <= TRACKS_MAX, || format!("more than {TRACKS_MAX} `tracks`"))?;
    for (index, track) in report.tracks.iter().enumerate() {
        let is_word = |name: &str| {
            !name.is_empty() && !name.contains(|it: char| it.is_whitespace() || it == ',')
        };
        need(is_word(&track.name), || format!("track {index}: `{}` is no name", track.name))?;
        need(track.stream().is_some() == (index < streams), || {
            "`tracks` has a group before a stream".to_owned()
        })?;
        track.group().map_or(Ok(()), |facts| group(&track.name, facts, streams))?;
    }
    Ok(())
}

fn group(name: &str, facts: &GroupFacts, streams: usize) -> Checked {
    let stranger = facts.streams.iter().find(|stream| **stream >= streams);
    need(stranger.is_none(), || format!("group `{name}` takes a stream that there is not"))?;
    let mut end_ns = 0;
    for pause in &facts.pauses {
        need(end_ns <= pause.from_ns && pause.from_ns <= pause.to_ns, || {
            format!("group `{name}` has pauses out of order")
        })?;
        end_ns = pause.to_ns;
    }
    Ok(())
}

fn totals(report: &Report) -> Checked {
    let (phases, tracks) = (report.phases.len(), report.tracks.len());
    need(report.totals.len() == phases, || {
        format!("`totals` has {} phases, and there are {phases}", report.totals.len())
    })?;
    let odd = report.totals.iter().find(|phase| phase.len() != tracks);
    odd.map_or(Ok(()), |phase| {
        Err(format!("`totals` has a phase of {} tracks, and there are {tracks}", phase.len()))
    })
}

fn times(report: &Report) -> Checked {
    let mut all = vec![("sending_ns", report.sending_ns), ("consuming_ns", report.consuming_ns)];
    all.extend(report.phases.iter().map(|phase| ("end_ns", phase.end_ns)));
    for (.., facts) in report.groups() {
        all.extend(facts.pauses.iter().map(|pause| ("to_ns", pause.to_ns)));
    }
    for fault in &report.faults {
        let until_ns = fault.until_ns.unwrap_or(fault.at_ns);
        need(fault.at_ns <= until_ns, || format!("fault `{}` ends before it begins", fault.text))?;
        all.extend([("until_ns", until_ns), ("back_after_ns", fault.back_after_ns.unwrap_or(0))]);
    }
    all.extend(report.samples.iter().map(|sample| ("at_ns", sample.at_ns)));
    let mut wrong = all.iter().filter(|(_, ns)| *ns > TIME_MAX_NS);
    wrong.next().map_or(Ok(()), |(key, ns)| Err(format!("`{key}` cannot be {ns}")))
}

/// Seconds must be ascending, refer to existing tracks, and hold valid histograms.
fn seconds(report: &Report) -> Checked {
    let phases_ns = report.phases.last().map_or(0, |phase| phase.end_ns);
    let end_ns = phases_ns.max(report.sending_ns).max(report.consuming_ns);
    let number_max = end_ns.div_ceil(SECOND_NS) + SECONDS_BEHIND_MAX;
    let mut before = None;
    for second in &report.seconds {
        let number = second.number;
        need(before < Some(number), || format!("second {number} is not behind the one before"))?;
        need(number <= number_max, || format!("second {number} is after the run"))?;
        packed(second, report.tracks.len())?;
        before = Some(number);
    }
    Ok(())
}

fn packed(second: &Second, tracks: usize) -> Checked {
    let number = second.number;
    for packed in &second.tracks {
        let track = packed.track;
        need(track < tracks, || format!("second {number} has track {track}, which there is not"))?;
        for (kind, histogram) in &packed.histograms {
            need(try_unpack(&histogram.0).is_some(), || {
                let kind = kind.name();
                format!("second {number}, track {track}: `{kind}` does not read as a histogram")
            })?;
        }
    }
    Ok(())
}

/// References to streams must be to streams, and those to groups to groups.
fn references(report: &Report) -> Checked {
    let is_stream = |track: usize| report.tracks.get(track).is_some_and(|it| it.stream().is_some());
    let is_group = |track: usize| report.tracks.get(track).is_some_and(|it| it.group().is_some());
    let findings = report.findings.iter().all(|it| is_group(it.group) && is_stream(it.stream));
    let rows = [
        ("findings", findings),
        ("unattributed", report.unattributed.iter().all(|it| is_group(it.group))),
        ("answers", report.answers.iter().all(|it| is_stream(it.stream))),
    ];
    let wrong = rows.iter().find(|(_, is_so)| !is_so);
    wrong.map_or(Ok(()), |(key, _)| Err(format!("`{key}` names a stream or group there is not")))
}

/// Checks the sum of all counts, because each count is part of some sum.
fn counts(report: &Report) -> Checked {
    let totals = report.totals.iter().flatten().map(|interval| &interval.counters);
    let seconds = report.seconds.iter().flat_map(|second| &second.tracks);
    let counters = totals.chain(seconds.map(|packed| &packed.counters)).flat_map(of_counters);
    let audits = report.findings.iter().flat_map(|finding| of_audit(&finding.audit));
    let others = report.unattributed.iter().flat_map(|group| [group.corrupted, group.foreign]);
    let answers = report.answers.iter().map(|answer| answer.requests);
    let brokers = report.brokers.iter().map(|broker| broker.acknowledged);
    let all = counters.chain(audits).chain(others).chain(answers).chain(brokers);
    let sum = all.fold(0, u64::saturating_add);
    need(sum < COUNT_MAX, || format!("its counts add up to {COUNT_MAX} or more"))
}

/// Exhaustive, so that a new counter does not compile until it is added here.
fn of_counters(counters: &Counters) -> [u64; 10] {
    let Counters {
        due,
        sent,
        acknowledged,
        refused,
        unknown,
        undecided,
        not_sent,
        one_way,
        retried,
        received,
    } = *counters;
    [due, sent, acknowledged, refused, unknown, undecided, not_sent, one_way, retried, received]
}

/// Exhaustive, as [`of_counters`].
fn of_audit(audit: &Audit) -> [u64; 12] {
    let Audit {
        acknowledged,
        lost,
        unread,
        duplicated,
        out_of_order,
        early,
        corrupted,
        unknown_present,
        unknown_absent,
        refused_present,
        never_sent,
        foreign,
    } = *audit;
    [
        acknowledged,
        lost,
        unread,
        duplicated,
        out_of_order,
        early,
        corrupted,
        unknown_present,
        unknown_absent,
        refused_present,
        never_sent,
        foreign,
    ]
}
