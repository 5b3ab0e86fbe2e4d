//! Why the figures are not valid, and what they do not show.
//!
//! The report itself decides whether figures are valid. This chapter adds the usual objections to
//! benchmarks, where they apply: they limit the conclusions, not the figures.

use crate::engine::histogram::Percentiles;
use crate::engine::measure::Kind;
use crate::findings::report::Report;
use crate::show::page::html::{heading, list, paragraph};
use crate::show::page::words::{counted, listed, seconds, spoken};
use crate::units::grouped;

/// Minimum length of a run for claims about rates and about tails, hours.
const RATE_CLAIM_H: f64 = 1.0;
const TAIL_CLAIM_H: f64 = 12.0;
/// In a phase with fewer messages, p99.9 is meaningless.
const TAIL_COUNT_MIN: u64 = 1_000;
/// Lateness affects the figures visibly if its p99 exceeds this share of the p50 of latency.
const LATENESS_SEEN: f64 = 0.1;

/// Invalid figures, limits and notes.
pub fn section(report: &Report) -> String {
    let figures = report.figures();
    let mut out = match figures.valid {
        true => paragraph("The latencies are valid: the generator was on time."),
        false => heading("Why the latencies are not valid") + &list(&figures.reasons),
    };
    let limits = limits(report);
    if !limits.is_empty() {
        out.push_str(&heading("What they do not say"));
        out.push_str(&list(&limits));
    }
    if !report.notes.is_empty() {
        out.push_str(&heading("Notes of the run"));
        out.push_str(&list(&report.notes));
    }
    out
}

fn limits(report: &Report) -> Vec<String> {
    let limits = [length(report), place(report), governor(report), part(report), unaudited(report)];
    let counted =
        [not_sent(report), late_generator(report), thin_phases(report), stand_ins(report)];
    limits.into_iter().chain(counted).flatten().collect()
}

fn length(report: &Report) -> Option<String> {
    let length_s = report.sending().as_secs_f64();
    let hours = length_s / 3600.0;
    let missing = match hours {
        hours if hours < RATE_CLAIM_H => {
            "a claim about a rate takes an hour, one about a tail twelve"
        }
        hours if hours < TAIL_CLAIM_H => "a claim about a tail takes twelve hours",
        _ => return None,
    };
    Some(format!("It lasted {}; {missing}.", seconds(length_s)))
}

fn place(report: &Report) -> Option<String> {
    let is_embedded = report.subject.target.starts_with("embedded");
    let text = "Broker and generator shared one machine: they took processor time from each other, \
                and there was no network between them.";
    is_embedded.then(|| text.to_owned())
}

fn governor(report: &Report) -> Option<String> {
    let governor = report.subject.environment.get("governor")?.as_str()?;
    (governor != "performance").then(|| {
        format!("The processor's frequency governor is {governor}: its clock may have changed.")
    })
}

fn part(report: &Report) -> Option<String> {
    let part = report.subject.part;
    (part.count > 1).then(|| {
        format!(
            "This is part {} of {}; the run is all of them together.",
            part.index + 1,
            part.count
        )
    })
}

fn unaudited(report: &Report) -> Option<String> {
    let text = "Nothing was consumed, so a loss would not have been noticed.";
    (!report.is_audited()).then(|| text.to_owned())
}

fn not_sent(report: &Report) -> Option<String> {
    let counters = report.counters();
    (counters.not_sent > 0).then(|| {
        format!(
            "{} were due and never sent, because windows were full or connections gone. Of their \
             latencies only a lower bound is known: how long they had waited.",
            counted(counters.not_sent, "message")
        )
    })
}

fn late_generator(report: &Report) -> Option<String> {
    let p99 = Percentiles::of(&report.total_of(Kind::Lateness)).p99;
    let latency = Percentiles::of(&report.total_of(Kind::Latency)).p50;
    (p99 as f64 > LATENESS_SEEN * latency as f64 && latency > 0).then(|| {
        format!(
            "The generator's own lateness (p99 {}) is part of every latency, and not small beside \
             the median of {}.",
            spoken(p99),
            spoken(latency)
        )
    })
}

fn thin_phases(report: &Report) -> Option<String> {
    let thin = report.phases.iter().enumerate().filter_map(|(index, phase)| {
        let count = report.phase_total(index).latency.len();
        (count < TAIL_COUNT_MIN).then(|| format!("{} ({})", phase.name, grouped(count)))
    });
    let thin: Vec<String> = thin.collect();
    (!thin.is_empty()).then(|| format!("Too few messages for a p99.9: {}.", listed(&thin)))
}

fn stand_ins(report: &Report) -> Option<String> {
    let streams = report.streams().filter(|(.., facts)| facts.stands_in_for.is_some());
    let names: Vec<String> = streams.map(|(_, track, _)| track.name.clone()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "Ordinary messages stood in for broker features in {}: what those features cost is not \
             in the figures.",
            listed(&names)
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::findings::report::TrackKind;
    use crate::findings::report::tests::example;

    /// Each limit is stated where it applies, and nowhere else.
    #[test]
    fn a_limit_is_said_where_it_applies() {
        fn faultless() -> Report {
            let mut report = example();
            report.sending_ns = 13 * 3_600_000_000_000;
            report.totals[0][0].counters.not_sent = 0;
            report
        }
        fn set_stand_in(report: &mut Report) {
            if let TrackKind::Stream(facts) = &mut report.tracks[0].kind {
                facts.stands_in_for = Some("transactions".to_owned());
            }
        }
        fn set_governor(report: &mut Report) {
            report.subject.environment.insert("governor".to_owned(), json!("powersave"));
        }
        assert_eq!(limits(&faultless()), Vec::<String>::new());
        type Change = fn(&mut Report);
        let rows: [(&str, Change); 9] = [
            ("takes an hour", |r| r.sending_ns = 20_000_000_000),
            ("takes twelve hours", |r| r.sending_ns = 2 * 3_600_000_000_000),
            ("shared one machine", |r| r.subject.target.insert_str(0, "embedded ")),
            ("governor is powersave", set_governor),
            ("part 1 of 3", |r| r.subject.part.count = 3),
            ("would not have been noticed", |r| r.tracks.truncate(1)),
            ("never sent", |r| r.totals[0][0].counters.not_sent = 7),
            ("Too few messages", |r| r.totals[0][0].latency.reset()),
            ("stood in", set_stand_in),
        ];
        for (said, change) in rows {
            let mut report = faultless();
            change(&mut report);
            let limits = limits(&report);
            assert!(limits.len() == 1 && limits[0].contains(said), "{said}: {limits:?}");
        }
    }

    #[test]
    fn what_is_not_valid_comes_before_limits() {
        let mut report = example();
        report.not_valid.push("the parts began 1.5 s apart".to_owned());
        let html = section(&report);
        let at = |text: &str| html.find(text).unwrap();
        assert!(at("1.5 s apart") < at("takes an hour") && at("takes an hour") < at("80 requests"));
    }
}
