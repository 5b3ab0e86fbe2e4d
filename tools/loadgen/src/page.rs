//! The report as one HTML page that needs nothing else: no scripts, no fonts, no network.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::document::Document;
use crate::histogram::Percentiles;
use crate::measure::{Counters, Interval, Second};
use crate::plot::{Axis, Cells, Line, Plot, Scale, escaped};
use crate::report::Report;

/// Points along the time axis at most; longer runs share a point among several seconds, so that a
/// page stays below 5 MB however long the run was.
const POINTS_MAX: usize = 300;
/// Rows of the heat map per factor of ten.
const ROWS_PER_DECADE: f64 = 8.0;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
pre{overflow-x:auto;font-size:13px;line-height:1.35}\
.verdict{font-size:1.6rem;font-weight:600;padding:.4rem .8rem;border-radius:.3rem;color:#fff}\
.PASS{background:#228833}.FAILED{background:#aa3344}.INVALID{background:#996600}\
svg{width:100%;height:auto;margin:.8rem 0}\
svg text{font:11px system-ui,sans-serif;fill:currentColor}\
svg .title{font-size:13px;font-weight:600}svg .end{text-anchor:end}svg .middle{text-anchor:middle}\
svg .grid{stroke:currentColor;stroke-opacity:.15}\
td{padding:.1rem .8rem .1rem 0;vertical-align:top}";

/// The whole page.
pub fn render(report: &Report) -> String {
    let verdict = report.verdict();
    let text = report.to_string();
    let last = text.lines().last().unwrap_or_default();
    let points = points(report);
    let mut out = String::new();
    let plots = [
        rates(&points),
        latencies(&points, "Latency from due to acknowledged", |point| point.latency),
        latencies(&points, "Latency from due to consumed", |point| point.end_to_end),
        heat_map(&points),
        spectrum(report),
    ];
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>loadgen: {verdict}</title><style>{STYLE}</style></head><body>\n\
         <p class=\"verdict {verdict}\">{}</p>\n<pre>{}</pre>\n",
        escaped(last),
        escaped(text.trim_end().strip_suffix(last).unwrap_or(&text).trim_end()),
    );
    plots.iter().flatten().for_each(|plot| out.push_str(&plot.svg()));
    out.push_str("<h2>Environment</h2>\n<table>\n");
    for (name, value) in &Document::of(report).environment {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(&value));
    }
    out.push_str("</table>\n</body></html>\n");
    out
}

/// A stretch of the run: its begin in seconds, its length, and what is plotted of it.
struct Point {
    at_s: f64,
    length_s: f64,
    counters: Counters,
    /// `None` when nothing was recorded.
    latency: Option<Percentiles>,
    end_to_end: Option<Percentiles>,
    /// Messages by row of the heat map.
    rows: BTreeMap<i64, u64>,
}

impl Point {
    fn of(seconds: &[Second]) -> Self {
        let mut sum = Interval::default();
        seconds.iter().for_each(|second| second.unpack().for_each(|(_, it)| sum.add(&it)));
        let mut rows = BTreeMap::new();
        for value in sum.latency.iter_recorded() {
            let row = (ms(value.value_iterated_to()).log10() * ROWS_PER_DECADE).floor() as i64;
            *rows.entry(row).or_default() += value.count_at_value();
        }
        let recorded = |histogram: &Histogram<u64>| {
            (!histogram.is_empty()).then(|| Percentiles::of(histogram))
        };
        Self {
            at_s: seconds[0].number as f64,
            length_s: seconds.len() as f64,
            counters: sum.counters,
            latency: recorded(&sum.latency),
            end_to_end: recorded(&sum.end_to_end),
            rows,
        }
    }
}

fn points(report: &Report) -> Vec<Point> {
    let seconds = &report.seconds;
    let group = seconds.len().div_ceil(POINTS_MAX).max(1);
    seconds.chunks(group).map(Point::of).collect()
}

fn time_axis() -> Axis {
    Axis::new("seconds", Scale::Linear)
}

fn rates(points: &[Point]) -> Option<Plot> {
    let line = |name, of: fn(&Counters) -> u64| Line {
        name,
        points: points
            .iter()
            .map(|point| (point.at_s, of(&point.counters) as f64 / point.length_s))
            .collect(),
    };
    let mut lines = vec![
        line("due", |counters| counters.due),
        line("acknowledged", |counters| counters.acknowledged),
        line("consumed", |counters| counters.received),
        line("refused", |counters| counters.refused),
        line("not sent", |counters| counters.not_sent),
    ];
    lines.retain(|line| line.points.iter().any(|point| point.1 > 0.0));
    let y = Axis::new("msg/s", Scale::Linear);
    let title = "Messages per second".to_owned();
    Some(Plot { title, x: time_axis(), y, lines, cells: Cells::default() })
}

/// Percentiles over time; nothing when nothing was recorded.
fn latencies(points: &[Point], title: &str, of: fn(&Point) -> Option<Percentiles>) -> Option<Plot> {
    let recorded: Vec<(f64, Percentiles)> =
        points.iter().filter_map(|point| Some((point.at_s, of(point)?))).collect();
    let line = |name, of: fn(&Percentiles) -> u64| Line {
        name,
        points: recorded.iter().map(|(at, percentiles)| (*at, ms(of(percentiles)))).collect(),
    };
    let lines = vec![
        line("p50", |percentiles| percentiles.p50),
        line("p99", |percentiles| percentiles.p99),
        line("p99.9", |percentiles| percentiles.p99_9),
        line("max", |percentiles| percentiles.max),
    ];
    let y = Axis::new("ms", Scale::Logarithmic);
    let title = title.to_owned();
    let plot = Plot { title, x: time_axis(), y, lines, cells: Cells::default() };
    (!recorded.is_empty()).then_some(plot)
}

fn heat_map(points: &[Point]) -> Option<Plot> {
    let mut cells = Cells::default();
    for point in points {
        for (&row, &count) in &point.rows {
            let edge = |row: i64| 10f64.powf(row as f64 / ROWS_PER_DECADE);
            let (left, right) = (point.at_s, point.at_s + point.length_s);
            cells.cells.push((left, right, edge(row), edge(row + 1), count));
        }
    }
    let y = Axis::new("ms", Scale::Logarithmic);
    let title = "Latency from due to acknowledged, how many".to_owned();
    let is_empty = cells.cells.is_empty();
    (!is_empty).then_some(Plot { title, x: time_axis(), y, lines: Vec::new(), cells })
}

/// All percentiles of the run; the further right, the rarer.
fn spectrum(report: &Report) -> Option<Plot> {
    let line = |name, histogram: &Histogram<u64>| Line {
        name,
        points: histogram
            .iter_quantiles(10)
            .map(|value| {
                let rest = (1.0 - value.quantile_iterated_to()).max(1.0 / histogram.len() as f64);
                (1.0 / rest, ms(value.value_iterated_to()))
            })
            .collect(),
    };
    let total = &report.total();
    let all = [
        ("latency", &total.latency),
        ("service time", &total.service),
        ("slip", &total.slip),
        ("end to end", &total.end_to_end),
    ];
    let recorded = all.into_iter().filter(|(_, histogram)| !histogram.is_empty());
    let lines: Vec<Line> = recorded.map(|(name, histogram)| line(name, histogram)).collect();
    let mark = |nines: i32| {
        let text = match nines {
            0 => "0".to_owned(),
            1 => "90".to_owned(),
            2 => "99".to_owned(),
            _ => format!("99.{}", "9".repeat(nines as usize - 2)),
        };
        (10f64.powi(nines), text)
    };
    let mut x = Axis::new("per cent of messages", Scale::Logarithmic);
    x.marks = (0..=9).map(mark).collect();
    let y = Axis::new("ms", Scale::Logarithmic);
    let title = "Percentiles of the whole run".to_owned();
    (!lines.is_empty()).then_some(Plot { title, x, y, lines, cells: Cells::default() })
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Kind;
    use crate::report::tests::example;

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
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("<p class=\"verdict PASS\">PASS  lost 0 of 199,900</p>"));
        assert_eq!(page.matches("<svg").count(), 4, "end to end was not recorded over time");
        assert!(!page.contains("http") && !page.contains("<script"), "nothing is fetched");
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn a_long_run_is_no_larger_than_a_page() {
        let points = points(&Report { seconds: seconds(2_000), ..example() });
        assert!(points.len() <= POINTS_MAX);
        let due: u64 = points.iter().map(|point| point.counters.due).sum();
        assert_eq!(due, 2_000_000);
        let report = Report { seconds: seconds(1_000), ..example() };
        assert!(render(&report).len() < 5 << 20);
    }

    #[test]
    fn a_run_without_any_second_has_a_page() {
        let page = render(&example());
        assert!(page.contains("Percentiles of the whole run") && !page.contains("NaN"));
    }
}
