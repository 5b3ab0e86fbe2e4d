//! The report as one HTML page below 5 MB that loads nothing. Without JavaScript, only the plots
//! are missing.
//!
//! ```text
//!   report ─▶ timeline (pooled seconds) ─▶ charts ─┐
//!          └─▶ story, tables, three uses ──────────┴─▶ html ─▶ page
//! ```
//!
//! Start reading at [`render`]. The first screen is enough for a reader who stops there: the
//! verdict, six numbers, and the curve of the load with its latency. The rest follows a reader's
//! questions: what happened, how good was it, what is a broker for, what happened when, and why the
//! result may mislead. Sections without content are left out. A failed run shows what failed
//! instead of durations.

pub mod charts;
mod decoupling;
mod distribution;
mod doubts;
mod first;
pub mod html;
mod shaving;
mod story;
mod tables;
pub mod timeline;
pub mod words;

use serde_json::Value;

use crate::findings::document::Document;
use crate::findings::report::Report;
use crate::findings::verdict::Verdict;
use crate::show::page::html::{facts, list, note, page, paragraph, section, verdict_line};
use crate::show::page::timeline::Timeline;
use crate::show::plot::Plot;
use crate::units::grouped;

/// The whole page.
pub fn render(report: &Report) -> String {
    let verdict = report.verdict();
    let timeline = Timeline::of(report);
    let has_figures = verdict != Verdict::Failed;
    let figures =
        |content: &dyn Fn() -> String| if has_figures { content() } else { String::new() };
    let mut body = head(report);
    body.push_str(&first::screen(report, &timeline));
    body.push_str(&subject(report));
    let chapters = [
        ("What happened", story::what_happened(report)),
        ("What was asked, and what was found", tables::asked(report)),
        ("How long it took", figures(&|| durations(report))),
        ("What a broker is for", uses(report, &timeline, has_figures)),
        ("The run, second by second", over_time(report, &timeline, has_figures)),
        ("All percentiles", figures(&|| charts::spectrum(report).figure())),
        ("What became of the messages", tables::audit(report)),
        ("Errors", tables::errors(report)),
        ("Faults", tables::faults(report)),
        ("Shards", tables::skew(report)),
        ("Phases", tables::phases(report)),
        ("Why this run may mislead", doubts::section(report)),
        ("Assumptions", list(&report.subject.assumptions)),
        ("Environment", environment(report)),
    ];
    chapters.iter().for_each(|(title, content)| body.push_str(&section(title, content)));
    page(&format!("{verdict}: {}", report.subject.name), &body)
}

/// Name and verdict, with the reasons for it.
fn head(report: &Report) -> String {
    let audit = report.audit();
    let lost = match report.is_audited() {
        true => format!("lost {} of {}", grouped(audit.lost), grouped(audit.acknowledged)),
        false => "loss not checked: nothing was consumed".to_owned(),
    };
    let verdict = report.verdict();
    let mut out = html::title(&report.subject.name);
    out.push_str(&verdict_line(verdict, &lost));
    let figures = report.figures();
    if !figures.valid {
        out.push_str(&paragraph(
            "The latencies below are not valid; they describe the generator, not the broker:",
        ));
        out.push_str(&list(&figures.reasons));
    }
    if matches!(verdict, Verdict::Incomplete | Verdict::Overloaded) {
        out.push_str(&paragraph("What is behind this verdict:"));
        out.push_str(&list(&report.reasons()));
    }
    if verdict == Verdict::Failed {
        out.push_str(&paragraph(
            "A promise was broken, so no durations are shown: how fast a broker loses or damages \
             messages is of no interest. What was broken:",
        ));
        out.push_str(&list(&story::failures(report)));
    }
    out
}

/// The main facts of the run.
fn subject(report: &Report) -> String {
    let subject = &report.subject;
    facts(&[
        ("load", subject.load.clone()),
        ("target", subject.target.clone()),
        ("durability", story::durability(report)),
        ("begun", Document::of_started(report)),
        ("schedule", format!("{}, seed {}", subject.schedule, subject.seed)),
    ])
}

fn durations(report: &Report) -> String {
    tables::send_percentiles(report) + &tables::end_to_end_percentiles(report)
}

/// The three uses of a broker, as far as this run shows them.
fn uses(report: &Report, timeline: &Timeline, has_figures: bool) -> String {
    let shaving = || shaving::section(report, timeline);
    let uses = [
        decoupling::section(report, timeline),
        if has_figures { shaving() } else { String::new() },
        distribution::section(report, timeline),
    ];
    uses.concat()
}

fn over_time(report: &Report, timeline: &Timeline, has_figures: bool) -> String {
    let mut plots = Vec::new();
    if has_figures {
        if report.streams().count() > 1 {
            plots.push(charts::latency_by_stream(report, timeline));
        }
        plots.push(charts::delays(report, timeline));
        plots.push(charts::heat_map(timeline));
    }
    plots.push(distribution::backlogs(report, timeline));
    plots.extend(charts::resources(report, timeline));
    plots.retain(|plot| !plot.is_blank());
    if plots.is_empty() {
        return String::new();
    }
    let figures: String = plots.iter().map(Plot::figure).collect();
    note(&charts::length_note(timeline)) + &figures
}

/// All facts about the machine and the configuration; nested values as indented text.
fn environment(report: &Report) -> String {
    let mut simple = Vec::new();
    let mut nested = String::new();
    for (name, value) in &report.subject.environment {
        match value {
            Value::Object(_) | Value::Array(_) => {
                let text = serde_json::to_string_pretty(value).unwrap_or_default();
                nested.push_str(&html::details(name, &html::plain(&text)));
            }
            Value::String(text) => simple.push((name.as_str(), text.clone())),
            other => simple.push((name.as_str(), other.to_string())),
        }
    }
    facts(&simple) + &nested
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::{Interval, Kind, Second};
    use crate::findings::report::tests::example;

    fn seconds(count: u64) -> Vec<Second> {
        let second = |number| {
            let mut interval = Interval::default();
            interval.counters.due = 1_000;
            for step in 0..200 {
                interval.record(Kind::Latency, 100_000 + step * 37_000, 5);
            }
            Second::pack(number, &[(0, interval)])
        };
        (0..count).map(second).collect()
    }

    #[test]
    fn a_page_is_complete_and_needs_nothing_else() {
        let report = Report { seconds: seconds(20), ..example() };
        let page = render(&report);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(page.contains("<strong>PASS</strong><span>lost 0 of 199,900</span>"));
        assert!(page.contains("class=\"plot\"") && page.contains("All percentiles"));
        let at = |text: &str| page.find(text).unwrap();
        let order =
            ["<strong>PASS", "class=\"numbers\"", "Messages per second", "Latency from due"];
        let order =
            order.map(at).into_iter().chain([at("<dl class=\"facts\""), at("What happened")]);
        assert!(order.is_sorted(), "numbers and curve come first");
        assert!(!page.contains(" src=") && !page.contains("href=\"http"), "nothing is fetched");
    }

    #[test]
    fn a_long_run_is_no_larger_than_a_page() {
        let report = Report { seconds: seconds(5_000), ..example() };
        let size = render(&report).len();
        assert!(size < 5 << 20, "{size}");
    }

    #[test]
    fn a_run_without_any_second_has_a_page() {
        let page = render(&example());
        assert!(page.contains("Percentiles of the whole run"));
    }

    #[test]
    fn a_failed_run_shows_no_durations() {
        let mut report = Report { seconds: seconds(20), ..example() };
        report.findings[0].audit.lost = 3;
        let page = render(&report);
        assert!(
            page.contains("<strong>FAILED</strong>")
                && page.contains("consumer never received 3 of 199,900 of load")
        );
        for absent in ["p99", "Percentiles of the whole run", "Latency from due"] {
            assert!(!page.contains(absent), "{absent}");
        }
    }
}
