//! A comparison as one HTML page: the same tables and plots for all candidates, on the same scales.

use crate::engine::histogram;
use crate::engine::measure::{Counters, Interval, Kind};
use crate::findings::report::Report;
use crate::findings::verdict::Verdict;
use crate::show::compare::Comparison;
use crate::show::compare::candidates::Candidate;
use crate::show::compare::rows::{Cell, Row};
use crate::show::page::charts::{ms_axis, percentile_axis, spectrum_line};
use crate::show::page::html::{
    self, Bar, Table, bars, facts, list, note, paragraph, section, text, word,
};
use crate::show::page::timeline::{Point, Timeline};
use crate::show::plot::{Axis, Line, Plot, Scale, Stroke};
use crate::units::ms;

impl Comparison {
    pub fn page(&self) -> String {
        let names: Vec<String> =
            self.candidates.iter().map(|candidate| candidate.label.clone()).collect();
        let title = format!("Comparison of {}", names.join(", "));
        let mut body = html::title("loadgen compare");
        body.push_str(&paragraph(
            "Every row is shown, whichever side is better; plots of one kind share their scales. Runs \
             with the same name, workload and kind of target are repeats of one candidate, whatever their seeds.",
        ));
        body.push_str(&section("What was compared", &self.who()));
        body.push_str(&section("Why this comparison may mislead", &list(&self.doubts)));
        body.push_str(&section("Figures", &self.table()));
        body.push_str(&section("Side by side", &self.bars()));
        body.push_str(&section("All percentiles", &self.spectrum()));
        body.push_str(&section("Second by second", &self.over_time()));
        html::page(&title, &body)
    }

    fn who(&self) -> String {
        fn row(candidate: &Candidate) -> (&str, String) {
            let runs = candidate.runs.len();
            let mut verdicts: Vec<String> =
                candidate.runs.iter().map(|run| run.verdict().to_string()).collect();
            verdicts.dedup();
            let plural = if runs == 1 { "" } else { "s" };
            let first = &candidate.runs[0].subject;
            let text = format!(
                "{}. {} ({runs} run{plural}: {}); {}",
                candidate.name,
                first.name,
                verdicts.join(", "),
                first.load
            );
            (candidate.label.as_str(), text)
        }
        facts(&self.candidates.iter().map(row).collect::<Vec<_>>())
    }

    fn table(&self) -> String {
        let mut columns = vec!["".to_owned()];
        for (index, candidate) in self.candidates.iter().enumerate() {
            columns.push(format!(">{}", candidate.label));
            if index > 0 {
                columns.push(format!(">{} / A", candidate.label));
            }
        }
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new("", &columns);
        for row in &self.rows {
            let mut cells = vec![word(format!("{}, {}", row.name, row.unit))];
            for index in 0..row.cells.len() {
                let interval = row.interval(index);
                let interval =
                    interval.map_or(String::new(), |(low, high)| format!(" [{low} – {high}]"));
                cells.push(html::number(format!("{}{interval}", row.figure(index))));
                let of_times = row.times_interval(index);
                let of_times =
                    of_times.map_or(String::new(), |(low, high)| format!(" [{low} – {high}]"));
                let times = row.times(index);
                let times = times.map_or(String::new(), |times| format!("{times} ×{of_times}"));
                cells.extend((index > 0).then(|| html::number(times)));
            }
            table.row(&cells);
        }
        table.html() + &note(&self.certainty()) + &self.failures()
    }

    /// Candidates that broke a promise; they have no figures.
    fn failures(&self) -> String {
        let mut table = Table::new("Runs that broke a promise", &["", "what was broken"]);
        let mut is_any = false;
        for candidate in &self.candidates {
            for run in candidate.runs.iter().filter(|run| run.verdict() == Verdict::Failed) {
                table.row(&[word(&candidate.label), text(run.reasons().join("; "))]);
                is_any = true;
            }
        }
        if is_any { table.html() } else { String::new() }
    }

    fn bars(&self) -> String {
        let wanted = ["acknowledged", "latency p50", "latency p99", "latency p99.9", "broker CPU"];
        let rows = self.rows.iter().filter(|row| wanted.contains(&row.name.as_str()));
        let rows = rows.filter(|row| row.cells.iter().any(|cell| cell.value().is_some()));
        let figure = |row: &Row| {
            let bar = |(index, cell): (usize, &Cell)| {
                let value = cell.value()?;
                Some(Bar {
                    name: self.candidates[index].label.clone(),
                    value: value.median,
                    text: row.figure(index),
                    colour: index % crate::show::plot::COLOURS,
                })
            };
            let better = if row.is_more_better { "more is better" } else { "less is better" };
            let title = format!("{}, {} ({better})", row.name, row.unit);
            bars(&title, &row.cells.iter().enumerate().filter_map(bar).collect::<Vec<_>>())
        };
        rows.map(figure).collect()
    }

    /// Candidates that kept their promises, with their indexes.
    fn kept(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        let has_kept = |candidate: &Candidate| {
            candidate.runs.iter().all(|run| run.verdict() != Verdict::Failed)
        };
        self.candidates.iter().enumerate().filter(move |(_, candidate)| has_kept(candidate))
    }

    fn spectrum(&self) -> String {
        let mut plot = Plot::new("Latency from due to acknowledged", percentile_axis(), ms_axis());
        for (index, candidate) in self.kept() {
            let mut all = Interval::default();
            for run in candidate.valid() {
                histogram::merge(&mut all.latency, &run.total_of(Kind::Latency));
                histogram::merge(&mut all.given_up, &run.total_of(Kind::GivenUp));
            }
            if !all.latency.is_empty() {
                plot.lines.push(spectrum_line(&candidate.label, index, &all.waits()));
            }
        }
        plot.note = "All repeats of a candidate whose latencies are valid, together.".to_owned();
        if plot.is_blank() { String::new() } else { plot.figure() }
    }

    /// Plots of one run of each candidate, on the same scales.
    fn over_time<'a>(&'a self) -> String {
        // Lateness of the generator shows in latencies, so a run with valid ones is preferred.
        let run = |(_, candidate): (usize, &'a Candidate)| {
            let run = candidate.valid().next().unwrap_or(&candidate.runs[0]);
            (candidate, run, Timeline::of(run))
        };
        let runs: Vec<(&Candidate, &Report, Timeline)> = self.kept().map(run).collect();
        let end_s = runs.iter().map(|(.., timeline)| timeline.end_s).fold(0.0, f64::max);
        let kinds: [fn(&Candidate, &Report, &Timeline) -> Plot; 2] = [rates, tails];
        let mut out = String::new();
        for kind in kinds {
            let mut plots: Vec<Plot> = runs
                .iter()
                .map(|(candidate, run, timeline)| kind(candidate, run, timeline))
                .collect();
            share_scales(&mut plots, end_s);
            plots.retain(|plot| !plot.is_blank());
            plots.iter().for_each(|plot| out.push_str(&plot.figure()));
        }
        match out.is_empty() {
            true => out,
            false => note("One run of each: the first whose latencies are valid.") + &out,
        }
    }
}

fn rates(candidate: &Candidate, run: &Report, timeline: &Timeline) -> Plot {
    let streams: Vec<usize> = run.streams().map(|(track, ..)| track).collect();
    let line = |name: &str, colour, of: fn(&Counters) -> u64| {
        timeline.rate(name, colour, |point| point.sum(&streams, of))
    };
    let title = format!("{}: messages per second", candidate.label);
    let mut plot = timeline.plot(&title, Axis::new("msg/s", Scale::Linear));
    plot.lines = vec![
        line("due", 7, |counters| counters.due),
        line("acknowledged", 0, |counters| counters.acknowledged),
        line("refused, unknown or not sent", 1, |counters| {
            counters.refused + counters.unknown + counters.not_sent
        })
        .sparse(),
    ];
    plot.lines[0].stroke = Stroke::Dashed;
    plot.lines.retain(|line| line.points.iter().any(|point| point.1.is_some()));
    plot
}

fn tails(candidate: &Candidate, run: &Report, timeline: &Timeline) -> Plot {
    let line = |name: &str, colour, of: fn(&Point) -> Option<u64>| {
        timeline.line(name, colour, |point| of(point).map(ms))
    };
    let title = format!("{}: latency from due to acknowledged", candidate.label);
    let mut plot = timeline.plot(&title, ms_axis());
    if !run.figures().valid {
        return plot;
    }
    plot.lines = vec![
        line("p50", 0, |point| point.latency.map(|all| all.p50)),
        line("p99", 2, |point| point.latency.map(|all| all.p99)),
        line("max", 3, |point| point.latency.map(|all| all.max)),
    ];
    plot
}

/// Gives all plots the same time axis and the same value range.
fn share_scales(plots: &mut [Plot], end_s: f64) {
    let values = |line: &Line| line.points.iter().filter_map(|point| point.1).collect::<Vec<_>>();
    let all: Vec<f64> = plots.iter().flat_map(|plot| plot.lines.iter().flat_map(values)).collect();
    let positive = all.iter().copied().filter(|value| *value > 0.0);
    let low = positive.clone().fold(f64::INFINITY, f64::min);
    let high = positive.fold(0.0, f64::max);
    for plot in plots {
        plot.x = Axis::time(end_s);
        if low <= high {
            plot.y.spans = Some((low, high));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::compare::tests::taking;

    #[test]
    fn a_page_shows_every_candidate_and_fetches_nothing() {
        let page = Comparison::of(vec![taking("a", 3), taking("b", 7)]).page();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(page.contains("latency p99, ms") && page.contains("B / A"), "{page}");
        assert!(!page.contains(" src=") && !page.contains("href=\"http"), "nothing is fetched");
    }

    #[test]
    fn a_candidate_that_lost_something_is_named_and_has_no_line() {
        let mut lossy = taking("b", 1);
        lossy.findings[0].audit.lost = 5;
        let page = Comparison::of(vec![taking("a", 9), lossy]).page();
        assert!(page.contains("Runs that broke a promise"));
        assert!(page.contains("5 acknowledged, then lost"));
        assert!(page.contains("<td class=\"num\">FAILED</td>"), "in the place of figures");
    }

    #[test]
    fn where_all_have_failed_nothing_is_drawn() {
        let mut lossy = taking("b", 1);
        lossy.findings[0].audit.lost = 5;
        let page = Comparison::of(vec![lossy]).page();
        assert!(page.contains("latency p99, ms") && page.contains("FAILED"), "{page}");
        assert!(
            !page.contains("<table class=\"bars\"") && !page.contains("class=\"plot\""),
            "{page}"
        );
    }

    #[test]
    fn plots_side_by_side_have_the_same_scales() {
        let plot = |values: [f64; 2]| {
            let mut plot = Plot::new("", Axis::time(2.0), Axis::new("", Scale::Linear));
            let points = values.iter().map(|value| (0.0, Some(*value))).collect();
            plot.lines.push(Line::new("", 0, points));
            plot
        };
        let mut plots = [plot([1.0, 5.0]), plot([2.0, 900.0])];
        share_scales(&mut plots, 30.0);
        assert!(plots.iter().all(|plot| plot.y.spans == Some((1.0, 900.0))));
        assert!(plots.iter().all(|plot| plot.x.spans == Some((0.0, 30.0))));
    }
}
