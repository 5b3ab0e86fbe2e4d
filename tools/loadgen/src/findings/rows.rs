//! Judges a run's thresholds.
//!
//! A missed threshold does not change the verdict, which is about promises; it has its own exit
//! code. Latencies that are not valid neither meet nor miss a threshold: neither those of a run nor
//! those of a phase or second of it in which the generator was late. If a threshold cannot be judged,
//! its row has the reason.

use std::time::Duration;

use crate::engine::histogram::{Wait, Waits};
use crate::engine::measure::{Interval, Kind};
use crate::findings::flow::Flow;
use crate::findings::report::{Report, Row, rate};
use crate::options::ReportOptions;
use crate::plan::scenario::Criterion;
use crate::plan::threshold::{Figure, Threshold};
use crate::units::grouped;

/// The value found and whether it meets the threshold, or why it cannot be judged.
type Found = Result<(String, bool), String>;

/// Checks before a run that the thresholds of the command line can be judged after it.
pub fn check(fail_if: &[Threshold], is_consumed: bool) -> Result<(), String> {
    let needs_consumers = |it: &&Threshold| matches!(it.figure, Figure::EndToEnd(_));
    match fail_if.iter().find(needs_consumers).filter(|_| !is_consumed) {
        None => Ok(()),
        Some(Threshold { figure, .. }) => {
            Err(format!("--fail-if {figure}: a run that consumes nothing cannot be judged by it"))
        }
    }
}

/// Adds the thresholds of the command line to a finished run.
pub fn ask(report: &mut Report, options: &ReportOptions) {
    report.needs_valid_figures |= options.strict || !options.fail_if.is_empty();
    let asked: Vec<Criterion> = options.fail_if.iter().copied().map(Criterion::FailIf).collect();
    report.rows.extend(judge(&asked, report));
    report.asked.extend(asked);
}

/// Judges a finished run, whose `rows` are still empty.
pub fn judge(asked: &[Criterion], report: &Report) -> Vec<Row> {
    asked.iter().map(|asked| row(asked, report)).collect()
}

fn row(asked: &Criterion, report: &Report) -> Row {
    let is_of_latency = match asked {
        Criterion::TailWithin { .. }
        | Criterion::TailBack { .. }
        | Criterion::AnsweredWithin { .. } => true,
        Criterion::FailIf(threshold) => threshold.figure.is_latency(),
        _ => false,
    };
    let (what, wanted, found) = match *asked {
        Criterion::NothingLost => {
            ("nothing lost".to_owned(), "0 lost, in order".to_owned(), nothing_lost(report))
        }
        Criterion::TailWithin { phase, beside, factor } => (
            format!("p99.9 in {}", phase_name(report, phase)),
            format!("{factor} x {}", phase_name(report, beside)),
            tail_within(report, phase, beside, factor),
        ),
        Criterion::TailBack { after, beside, factor, within } => (
            format!("p99.9 after {}", phase_name(report, after)),
            format!("{factor} x within {}", seconds(within)),
            tail_back(report, after, beside, factor, within),
        ),
        Criterion::AnsweredWithin { phase, part, within } => (
            format!("acks in {}", phase_name(report, phase)),
            format!("{} < {}", percent(part), milliseconds(within.as_nanos() as u64)),
            answered_within(report, phase, part, within),
        ),
        Criterion::Drain { group, factor } => (
            format!("{} catches up", group_name(report, group)),
            format!("{factor} x production"),
            drain(report, group, factor),
        ),
        Criterion::BackWithin { fault, within } => (
            fault_name(report, fault).to_owned(),
            format!("acks within {}", seconds(within)),
            back_within(report, fault, within),
        ),
        Criterion::Refused { part_max } => (
            "refused or not sent".to_owned(),
            format!("< {}", percent(part_max)),
            refused(report, part_max),
        ),
        Criterion::FailIf(threshold) => {
            (threshold.figure.to_string(), threshold.wanted(), fail_if(report, threshold))
        }
    };
    let found = match is_of_latency && !report.figures().valid {
        true => Err("latencies not valid".to_owned()),
        false => found,
    };
    let (found, is_met) = match found {
        Ok((found, is_met)) => (found, Some(is_met)),
        Err(why_not) => (why_not, None),
    };
    let is_required = matches!(asked, Criterion::FailIf(_));
    Row { what, wanted, found, is_met, is_required }
}

fn nothing_lost(report: &Report) -> Found {
    if !report.is_audited() {
        return Err("nothing was consumed".to_owned());
    }
    if report.gaps().next().is_some() {
        return Err("not all was read".to_owned());
    }
    let audit = report.audit();
    let found = [
        (audit.lost, "lost"),
        (audit.corrupted + audit.never_sent, "corrupted"),
        (report.disorder(), "out of order"),
    ];
    let mut bad = found.iter().filter(|(count, _)| *count > 0);
    Ok(match bad.next() {
        None => (format!("0 of {}", grouped(audit.acknowledged)), true),
        Some((count, what)) => (format!("{} {what}", grouped(*count)), false),
    })
}

fn tail_within(report: &Report, phase: usize, beside: usize, factor: f64) -> Found {
    let (found, beside) = (tail(report, phase)?, measured_tail_ns(report, beside)?);
    if found.is_at_least {
        return Ok((found.shown(milliseconds), false));
    }
    let times = found.ns as f64 / beside.max(1) as f64;
    Ok((beside_text(found.ns, times), times <= factor))
}

/// The tail is back in the first whole second after the phase whose p99.9 is low enough. The result
/// is the number of whole seconds before it.
fn tail_back(report: &Report, after: usize, beside: usize, factor: f64, within: Duration) -> Found {
    const SECOND_NS: u64 = 1_000_000_000;
    let beside_ns = measured_tail_ns(report, beside)?.max(1);
    let end_ns = report.phases.get(after).ok_or("there is no such phase")?.end_ns;
    let first = end_ns.div_ceil(SECOND_NS);
    let streams: Vec<usize> = report.streams().map(|(track, ..)| track).collect();
    let behind = report.seconds.iter().filter(|second| second.number >= first);
    let tails = behind.filter_map(|second| {
        let mut sum = Interval::default();
        let mine = second.tracks.iter().filter(|packed| streams.contains(&packed.track));
        mine.for_each(|packed| sum.add(&packed.unpack()));
        let waits = sum.waits();
        (waits.count() > 0).then(|| (second.number, waits.at_any_count(0.999), sum.not_valid()))
    });
    let is_back = |tail: Wait| !tail.is_at_least && tail.ns as f64 <= factor * beside_ns as f64;
    let mut least_ns = None::<u64>;
    // The first second in time in which the generator was late: the tail may have been back in it.
    let mut not_valid = None::<String>;
    for (number, tail, reasons) in tails {
        let (tail_ns, after_s) = (tail.ns, number - first);
        let is_in_time = Duration::from_secs(after_s) <= within;
        if let Some(reason) = reasons.first() {
            if is_in_time {
                not_valid.get_or_insert(format!("not valid after {after_s} s: {reason}"));
            }
            continue;
        }
        if is_back(tail) {
            let found = (format!("{} after {after_s} s", milliseconds(tail_ns)), is_in_time);
            return not_valid.filter(|_| !is_in_time).map_or(Ok(found), Err);
        }
        least_ns = Some(least_ns.map_or(tail_ns, |least| least.min(tail_ns)));
    }
    if let Some(not_valid) = not_valid {
        return Err(not_valid);
    }
    let least_ns = least_ns.ok_or("nothing was answered later")?;
    Ok((format!("never: at best {}", milliseconds(least_ns)), false))
}

fn answered_within(report: &Report, phase: usize, part: f64, within: Duration) -> Found {
    let interval = of_phase(report, phase)?;
    let count = interval.latency.len() + interval.given_up.len();
    // There must be enough messages that one late one is allowed; otherwise chance decides.
    let count_min = (1.0 / (1.0 - part).max(1e-9)).round() as u64;
    if count < count_min {
        return Err(format!("too few messages: {}", grouped(count)));
    }
    let in_time = interval.latency.count_between(0, within.as_nanos() as u64).min(count);
    let found = in_time as f64 / count as f64;
    Ok((format!("{} of {}", percent(found), grouped(count)), found >= part))
}

fn drain(report: &Report, group: usize, factor: f64) -> Found {
    let track = report.groups().nth(group).map(|(track, ..)| track);
    let flow = Flow::of(report, track.ok_or("there is no such group")?);
    let Some(drain) = flow.recovery() else { return Err("it never fell behind".to_owned()) };
    let (times, highest) = (drain.times_production, grouped(drain.highest));
    Ok(match drain.length_s {
        Some(length_s) => (format!("{times:.1} x: {highest} in {length_s} s"), times >= factor),
        None => (format!("never, after {highest}"), false),
    })
}

fn back_within(report: &Report, fault: usize, within: Duration) -> Found {
    let fault = report.faults.get(fault).ok_or("there was no such fault")?;
    if let Some(why) = &fault.failed {
        return Err(why.clone());
    }
    let Some(back_ns) = fault.back_after_ns else { return Ok(("none came".to_owned(), false)) };
    let is_met = back_ns <= within.as_nanos() as u64;
    Ok((format!("after {:.2} s", back_ns as f64 / 1e9), is_met))
}

fn refused(report: &Report, part_max: f64) -> Found {
    let phases = report.phases.iter().enumerate().filter(|(_, phase)| phase.counts);
    let (mut failed, mut due) = (0, 0);
    for (phase, _) in phases {
        let counters = report.phase_total(phase).counters;
        failed += counters.refused + counters.not_sent;
        due += counters.due;
    }
    if due == 0 {
        return Err("nothing was due".to_owned());
    }
    let part = failed as f64 / due as f64;
    Ok((format!("{} of {}", percent(part), grouped(due)), part < part_max))
}

/// A percentile among messages that were given up exceeds every maximum: it is only known to be
/// longer than they had waited.
fn fail_if(report: &Report, threshold: Threshold) -> Found {
    let counters = report.counters();
    let of_waits = |waits: Waits, quantile| {
        let too_few = || format!("too few messages: {}", grouped(waits.count()));
        let wait: Wait = waits.at(quantile).ok_or_else(too_few)?;
        let is_kept = threshold.is_kept(wait.ns as f64) && !wait.is_at_least;
        Ok((wait.shown(milliseconds), is_kept))
    };
    let of = |value: f64, text: String| Ok((text, threshold.is_kept(value)));
    let part = |count: u64| {
        let part = count as f64 / counters.due.max(1) as f64;
        of(part, percent(part))
    };
    match threshold.figure {
        Figure::Latency(quantile) => of_waits(report.waits(), quantile),
        Figure::EndToEnd(quantile) => {
            of_waits(Waits::all_measured(&report.total_of(Kind::EndToEnd)), quantile)
        }
        Figure::Rate => {
            let per_s = rate(counters.acknowledged, report.sending());
            of(per_s, threshold.figure.shown(per_s))
        }
        Figure::Refused => part(counters.refused),
        Figure::NotSent => part(counters.not_sent),
        Figure::Unanswered => part(counters.unknown),
    }
}

/// The measurements of a phase, if its latencies are valid.
fn of_phase(report: &Report, phase: usize) -> Result<Interval, String> {
    let exists = report.totals.get(phase).is_some();
    let total = exists.then(|| report.phase_total(phase)).ok_or("there is no such phase")?;
    match total.not_valid().first() {
        None => Ok(total),
        Some(reason) => Err(format!("{} not valid: {reason}", phase_name(report, phase))),
    }
}

/// p99.9 over all streams.
fn tail(report: &Report, phase: usize) -> Result<Wait, String> {
    let waits = of_phase(report, phase)?.waits();
    waits.at(0.999).ok_or_else(|| {
        let count = grouped(waits.count());
        format!("{}: {count} messages", phase_name(report, phase))
    })
}

/// As [`tail`], for comparing another one with it.
fn measured_tail_ns(report: &Report, phase: usize) -> Result<u64, String> {
    let tail = tail(report, phase)?;
    let unknown = || format!("{}: {}", phase_name(report, phase), tail.shown(milliseconds));
    (!tail.is_at_least).then_some(tail.ns).ok_or_else(unknown)
}

fn phase_name(report: &Report, phase: usize) -> &str {
    report.phases.get(phase).map_or("?", |phase| &phase.name)
}

/// The description of a fault without its duration.
fn fault_name(report: &Report, fault: usize) -> &str {
    let text = report.faults.get(fault).map_or("?", |fault| &fault.text);
    let end = [", ", " for "].iter().filter_map(|end| text.find(end)).min();
    end.map_or(text, |end| &text[..end])
}

fn group_name(report: &Report, group: usize) -> &str {
    report.groups().nth(group).map_or("?", |(_, track, _)| &track.name)
}

fn beside_text(found_ns: u64, times: f64) -> String {
    format!("{times:.1} x: {}", milliseconds(found_ns))
}

fn milliseconds(ns: u64) -> String {
    match ns as f64 / 1e6 {
        ms if ms >= 100.0 || ms.fract() == 0.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// A share as a percentage, with enough digits to distinguish it from 100 and from 0.
fn percent(part: f64) -> String {
    const DIGITS_MAX: usize = 9;
    let is_whole = |text: &String| text.trim_end_matches('0') == "100." || text.parse() == Ok(0.0);
    let texts = (3..=DIGITS_MAX).map(|digits| format!("{:.digits$}", part * 100.0));
    let mut texts = texts.skip_while(|text| 0.0 < part && part < 1.0 && is_whole(text));
    let text = texts.next().unwrap_or_else(|| format!("{}", part * 100.0));
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::{Counters, Kind, Second};
    use crate::findings::report::FaultMark;
    use crate::findings::report::tests::example;
    use crate::plan::scenario::Phase;

    const MS: u64 = 1_000_000;
    const SECOND_NS: u64 = 1_000_000_000;

    /// Phases `calm` and `storm` of ten seconds, with 2,000 acknowledgements each.
    fn report(calm_ms: u64, storm_ms: u64) -> Report {
        let mut report = example();
        let phase = |name: &str, start_s: u64| Phase {
            name: name.to_owned(),
            start_ns: start_s * SECOND_NS,
            end_ns: (start_s + 10) * SECOND_NS,
            counts: true,
            proves: String::new(),
        };
        report.phases = vec![phase("calm", 0), phase("storm", 10)];
        report.totals = [calm_ms, storm_ms].map(|ms| vec![answers(ms), Interval::default()]).into();
        report
    }

    fn answers(ms: u64) -> Interval {
        let counters = Counters { due: 2_000, acknowledged: 2_000, ..Counters::default() };
        let mut interval = Interval { counters, ..Interval::default() };
        interval.record(Kind::Latency, ms * MS, 2_000);
        interval
    }

    fn judged(asked: Criterion, report: &Report) -> (String, Option<bool>) {
        let row = row(&asked, report);
        (row.found, row.is_met)
    }

    #[test]
    fn rows_as_they_read() {
        let row = row(&Criterion::TailWithin { phase: 1, beside: 0, factor: 10.0 }, &report(2, 9));
        let words = (row.what.as_str(), row.wanted.as_str(), row.found.as_str());
        assert_eq!(words, ("p99.9 in storm", "10 x calm", "4.5 x: 9.00 ms"));
        assert_eq!(row.is_met, Some(true));
    }

    #[test]
    fn a_tail_is_compared_with_that_of_another_phase() {
        let asked = Criterion::TailWithin { phase: 1, beside: 0, factor: 10.0 };
        assert_eq!(judged(asked, &report(1, 9)).1, Some(true));
        assert_eq!(judged(asked, &report(1, 11)).1, Some(false));
        let mut few = report(1, 9);
        few.totals[1][0].latency.reset();
        few.totals[1][0].record(Kind::Latency, MS, 999);
        assert_eq!(judged(asked, &few), ("storm: 999 messages".to_owned(), None));
    }

    #[test]
    fn a_limit_of_ones_own_is_a_threshold_like_any_other() {
        let mut report = example();
        let rows = [
            ("p50>1ms", "0.41 ms", Some(true)),
            ("p99.9>5ms", "9.00 ms", Some(false)),
            ("e2e-p99>1ms", "0.90 ms", Some(true)),
            ("rate<10k", "9,995/s", Some(false)),
            ("refused>1%", "0.04 %", Some(true)),
            ("not-sent>0.001%", "0.005 %", Some(false)),
        ];
        for (text, found, is_met) in rows {
            let asked = Criterion::FailIf(Threshold::parse(text).unwrap());
            assert_eq!(judged(asked, &report), (found.to_owned(), is_met), "{text}");
        }
        // How long the others would have taken is unknown.
        report.totals[0][0].record(Kind::GivenUp, 3_010_000_000, 5_000);
        let asked = Criterion::FailIf(Threshold::parse("p99>4s").unwrap());
        assert_eq!(judged(asked, &report), ("≥ 3 s".to_owned(), Some(false)));
        report.totals[0][0].record(Kind::Lateness, 40 * MS, 90_000);
        assert_eq!(judged(asked, &report), ("latencies not valid".to_owned(), None));
    }

    /// Exit code 6 if the threshold is missed, 3 if it cannot be judged.
    #[test]
    fn a_limit_of_ones_own_needs_valid_figures() {
        let codes = |limits: &[&str], slip_ns| {
            let mut report = example();
            report.totals[0][0].record(Kind::Lateness, slip_ns, 90_000);
            let fail_if = limits.iter().map(|text| Threshold::parse(text).unwrap()).collect();
            ask(&mut report, &ReportOptions { out: None, strict: false, fail_if });
            (report.exit_code(), report.missed().count())
        };
        assert_eq!(codes(&["p50>1ms", "p99.9>20ms"], 0), (0, 0));
        assert_eq!(codes(&["p50>1ms", "p99.9>5ms"], 0), (6, 1));
        assert_eq!(codes(&["rate<20k"], 40 * MS), (3, 1));
        assert_eq!(codes(&[], 40 * MS), (0, 0));
    }

    /// A late generator lengthens the latencies, so they do not describe the broker.
    #[test]
    fn latencies_that_are_not_valid_neither_meet_nor_miss_a_threshold() {
        let within = Duration::from_millis(10);
        let asked = Criterion::AnsweredWithin { phase: 0, part: 0.99, within };
        let mut report = report(50, 1);
        assert_eq!(judged(asked, &report).1, Some(false));
        report.totals[0][0].record(Kind::Lateness, 40 * MS, 2_000);
        assert_eq!(judged(asked, &report), ("latencies not valid".to_owned(), None));
        assert_eq!(judged(Criterion::Refused { part_max: 0.001 }, &report).1, Some(true));
    }

    /// The generator is late in a phase of the run so short that the run's figures are valid. What
    /// the lateness makes of the phase, too long or not, is not the broker's doing.
    #[test]
    fn a_phase_in_which_the_generator_was_late_neither_meets_nor_misses_a_threshold() {
        let within = Duration::from_millis(10);
        for storm_ms in [50, 9] {
            let mut report = report(1, storm_ms);
            let calm = &mut report.totals[0][0];
            calm.record(Kind::Latency, MS, 10_000_000);
            calm.record(Kind::Lateness, 0, 10_000_000);
            report.totals[1][0].record(Kind::Lateness, 6 * MS, 2_000);
            assert!(report.figures().valid, "{:?}", report.figures());
            let asked = [
                Criterion::TailWithin { phase: 1, beside: 0, factor: 10.0 },
                Criterion::TailWithin { phase: 0, beside: 1, factor: 10.0 },
                Criterion::TailBack { after: 0, beside: 1, factor: 1.2, within },
                Criterion::AnsweredWithin { phase: 1, part: 0.99, within },
            ];
            let is_late = storm_ms == 9;
            for asked in asked {
                let (found, is_met) = judged(asked, &report);
                if is_late {
                    assert_eq!(is_met, None, "{asked:?}: {found}");
                    let reason = "storm not valid: lateness 6.0 of 9.0 ms at p50";
                    assert!(found.starts_with(reason), "{asked:?}: {found}");
                } else if !matches!(asked, Criterion::TailBack { .. }) {
                    // 6 of 50 ms are no material part.
                    assert!(is_met.is_some(), "{asked:?}: {found}");
                }
            }
            let asked = Criterion::AnsweredWithin { phase: 0, part: 0.99, within };
            assert_eq!(judged(asked, &report).1, Some(true), "the generator was in time in calm");
            report.rows =
                judge(&[Criterion::AnsweredWithin { phase: 1, part: 0.99, within }], &report);
            assert_eq!(report.exit_code(), if is_late { 0 } else { 6 });
            let text = report.to_string();
            let marked = "not valid  latencies of storm: lateness 6.0 of 9.0 ms at p50";
            assert_eq!(text.contains(marked), is_late, "{text}");
            assert!(!text.contains("latencies of calm"), "{text}");
        }
    }

    /// A second in which the generator was late is not known to be back, nor not to be.
    #[test]
    fn a_second_in_which_the_generator_was_late_is_not_judged() {
        let asked = |within| Criterion::TailBack {
            after: 0,
            beside: 0,
            factor: 1.2,
            within: Duration::from_secs(within),
        };
        let late = |ms: u64| {
            let mut interval = answers(ms);
            interval.record(Kind::Lateness, ms * MS, 2_000);
            interval
        };
        let of = |seconds: [Interval; 3]| {
            let mut report = report(1, 9);
            let second = |(number, interval)| Second::pack(number, &[(0, interval)]);
            report.seconds = (10..).zip(seconds).map(second).collect();
            report
        };
        let late_first = of([late(50), answers(1), answers(1)]);
        assert_eq!(judged(asked(5), &late_first), ("1.00 ms after 1 s".to_owned(), Some(true)));
        let reason = "not valid after 0 s: lateness 50.0 of 50.0 ms at p50".to_owned();
        assert_eq!(judged(asked(0), &late_first), (reason.clone(), None));
        assert_eq!(judged(asked(5), &of([late(50), answers(9), answers(9)])), (reason, None));
        let late_last = of([answers(50), answers(9), late(50)]);
        assert_eq!(judged(asked(1), &late_last).1, Some(false), "it was not back in time");
        assert_eq!(judged(asked(2), &late_last).1, None);
    }

    #[test]
    fn a_tail_is_back_with_the_first_second_that_is_short_enough() {
        let asked = |within| Criterion::TailBack {
            after: 0,
            beside: 0,
            factor: 1.2,
            within: Duration::from_secs(within),
        };
        let mut report = report(1, 9);
        report.seconds = [(9, 1), (10, 50), (11, 9), (12, 1), (13, 9)]
            .map(|(number, ms)| Second::pack(number, &[(0, answers(ms))]))
            .into();
        assert_eq!(judged(asked(5), &report).1, Some(true));
        let (found, is_met) = judged(asked(1), &report);
        assert!(found.ends_with("after 2 s"), "{found}");
        assert_eq!(is_met, Some(false));
        report.seconds.remove(3);
        let (found, is_met) = judged(asked(5), &report);
        assert!(found.starts_with("never: at best 9.0"), "{found}");
        assert_eq!(is_met, Some(false));
        report.seconds.clear();
        assert_eq!(judged(asked(5), &report).1, None);
    }

    #[test]
    fn a_part_of_the_answers_is_in_time() {
        let asked =
            |part| Criterion::AnsweredWithin { phase: 0, part, within: Duration::from_millis(10) };
        let mut report = report(1, 1);
        assert_eq!(judged(asked(0.99), &report), ("100 % of 2,000".to_owned(), Some(true)));
        report.totals[0][0].record(Kind::Latency, 50 * MS, 100);
        assert_eq!(judged(asked(0.99), &report), ("95.238 % of 2,100".to_owned(), Some(false)));
        assert_eq!(judged(asked(0.9999), &report).1, None, "2,100 say nothing about 1 in 10,000");
    }

    #[test]
    fn whatever_is_wrong_with_messages_is_named() {
        type Change = fn(&mut Report);
        let rows: [(Change, &str, Option<bool>); 5] = [
            (|_| {}, "0 of 199,900", Some(true)),
            (|r| r.findings[0].audit.lost = 3, "3 lost", Some(false)),
            (|r| r.findings[0].audit.never_sent = 1, "1 corrupted", Some(false)),
            (|r| r.unattributed[0].corrupted = 2, "2 corrupted", Some(false)),
            (|r| r.tracks.truncate(1), "nothing was consumed", None),
        ];
        for (change, found, is_met) in rows {
            let mut report = example();
            change(&mut report);
            assert_eq!(judged(Criterion::NothingLost, &report), (found.to_owned(), is_met));
        }
    }

    #[test]
    fn a_backlog_is_drained_faster_than_it_grew_or_not() {
        let of = |produced, received| {
            let of = |counters| Interval { counters, ..Interval::default() };
            let sent = of(Counters { acknowledged: produced, ..Counters::default() });
            let taken = of(Counters { received, ..Counters::default() });
            [(0, sent), (1, taken)]
        };
        let mut report = example();
        report.seconds = [(0, 100, 0), (1, 100, 0), (2, 100, 300)]
            .map(|(number, produced, received)| Second::pack(number, &of(produced, received)))
            .into();
        let asked = |factor| Criterion::Drain { group: 0, factor };
        let found = "3.0 x: 200 in 1 s".to_owned();
        assert_eq!(judged(asked(2.0), &report), (found.clone(), Some(true)));
        assert_eq!(judged(asked(4.0), &report), (found, Some(false)));
        report.seconds.pop();
        assert_eq!(judged(asked(2.0), &report), ("never, after 200".to_owned(), Some(false)));
        report.seconds.clear();
        assert_eq!(judged(asked(2.0), &report).1, None);
        assert_eq!(judged(Criterion::Drain { group: 7, factor: 2.0 }, &report).1, None);
    }

    #[test]
    fn a_broker_is_back_with_its_first_acknowledgement() {
        let fault = |back_ms: Option<u64>, failed: Option<&str>| FaultMark {
            at_ns: 5 * SECOND_NS,
            until_ns: Some(6 * SECOND_NS),
            text: "kill -9 of the broker, down 1 s".to_owned(),
            failed: failed.map(str::to_owned),
            back_after_ns: back_ms.map(|back_ms| back_ms * MS),
            gaps: Vec::new(),
        };
        let mut report = example();
        report.faults =
            vec![fault(Some(2_500), None), fault(None, None), fault(None, Some("not embedded"))];
        let rows = [
            (0, 4, "after 2.50 s", Some(true)),
            (0, 2, "after 2.50 s", Some(false)),
            (1, 4, "none came", Some(false)),
            (2, 4, "not embedded", None),
            (3, 4, "there was no such fault", None),
        ];
        for (fault, within, found, is_met) in rows {
            let asked = Criterion::BackWithin { fault, within: Duration::from_secs(within) };
            assert_eq!(judged(asked, &report), (found.to_owned(), is_met));
        }
        assert_eq!(fault_name(&report, 0), "kill -9 of the broker");
    }

    #[test]
    fn what_the_warm_up_was_refused_does_not_count() {
        let mut report = report(1, 1);
        report.totals[0][0].counters.refused = 100;
        report.totals[1][0].counters.not_sent = 1;
        let asked = Criterion::Refused { part_max: 0.001 };
        assert_eq!(judged(asked, &report).1, Some(false));
        report.phases[0].counts = false;
        assert_eq!(judged(asked, &report), ("0.05 % of 2,000".to_owned(), Some(true)));
    }

    #[test]
    fn a_percentage_is_whole_only_when_it_is() {
        let rows = [(1.0, "100 %"), (0.0, "0 %"), (0.9999, "99.99 %"), (0.001, "0.1 %")];
        for (part, text) in
            rows.into_iter().chain([(0.999_999_9, "99.99999 %"), (2e-7, "0.00002 %")])
        {
            assert_eq!(percent(part), text);
        }
    }
}
