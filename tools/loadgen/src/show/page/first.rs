//! The first screen below the verdict: six numbers, and the curve of the load with its latency.

use crate::findings::report::{Report, rate};
use crate::findings::verdict::Verdict;
use crate::show::page::timeline::Timeline;
use crate::show::page::words::{self, ms};
use crate::show::page::{charts, html};
use crate::show::plot::Plot;
use crate::units::grouped;

pub fn screen(report: &Report, timeline: &Timeline) -> String {
    let has_figures = report.verdict() != Verdict::Failed;
    let mut plots = vec![charts::rates(report, timeline)];
    plots.extend(has_figures.then(|| charts::latencies(timeline)));
    plots.retain(|plot| !plot.is_blank());
    html::numbers(&numbers(report, has_figures))
        + &plots.iter().map(Plot::figure).collect::<String>()
}

/// Six numbers with their names. A run that broke its promises has no latencies.
fn numbers(report: &Report, has_figures: bool) -> Vec<(String, String)> {
    let per_s = rate(report.counters().acknowledged, report.sending());
    let waits = report.waits();
    let percentile = |name: &str, quantile| {
        let shown = waits.at(quantile).map(|wait| wait.shown(|ns| format!("{} ms", ms(ns))));
        (name.to_owned(), shown.unwrap_or_else(|| "–".to_owned()))
    };
    let audit = report.audit();
    let lost = match report.is_audited() {
        true => format!("{} of {}", grouped(audit.lost), grouped(audit.acknowledged)),
        false => "not checked".to_owned(),
    };
    let (peak, base) = peak_and_base(report);
    let times = if base > 0.0 { format!("{:.1} × base", peak / base) } else { "–".to_owned() };
    let mut numbers = vec![
        ("acknowledged".to_owned(), format!("{}/s", words::rate(per_s))),
        (format!("peak, {}/s due", words::rate(peak)), times),
    ];
    if has_figures {
        let rows = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
        numbers.extend(rows.map(|(name, quantile)| percentile(name, quantile)));
    }
    numbers.push(("lost".to_owned(), lost));
    numbers
}

/// Messages due in the busiest second, and per second in the quietest phase that counts.
fn peak_and_base(report: &Report) -> (f64, f64) {
    let streams: Vec<usize> = report.streams().map(|(track, ..)| track).collect();
    let due = |second: &crate::engine::measure::Second| {
        let tracks = second.tracks.iter().filter(|it| streams.contains(&it.track));
        tracks.map(|it| it.counters.due).sum::<u64>()
    };
    let peak = report.seconds.iter().map(due).max().unwrap_or(0) as f64;
    let of_phase = |(index, phase): (usize, &crate::plan::scenario::Phase)| {
        let length_s = (phase.end_ns - phase.start_ns) as f64 / 1e9;
        let due = report.phase_total(index).counters.due as f64;
        (phase.counts && due > 0.0 && length_s > 0.0).then(|| due / length_s)
    };
    let rates = report.phases.iter().enumerate().filter_map(of_phase);
    let base = rates.reduce(f64::min).unwrap_or(0.0);
    (peak.max(base), base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::{Counters, Interval, Kind, Second};
    use crate::findings::report::tests::example;

    fn shown(report: &Report) -> Vec<String> {
        let has_figures = report.verdict() != Verdict::Failed;
        numbers(report, has_figures)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }

    #[test]
    fn six_numbers_say_how_it_went() {
        let mut report = example();
        let counters = Counters { due: 25_000, ..Counters::default() };
        report.seconds =
            vec![Second::pack(3, &[(0, Interval { counters, ..Interval::default() })])];
        let wanted = [
            "acknowledged: 10,000/s",
            "peak, 25,000/s due: 2.5 × base",
            "p50: 0.412 ms",
            "p99: 0.412 ms",
            "p99.9: 9.003 ms",
            "lost: 0 of 199,900",
        ];
        assert_eq!(shown(&report), wanted);
        report.totals[0][0].record(Kind::GivenUp, 3_020_000_000, 9_000);
        assert_eq!(shown(&report)[3], "p99: ≥ 3 s");
        report.findings[0].audit.lost = 7;
        assert_eq!(shown(&report)[2..], ["lost: 7 of 199,900"]);
    }
}
