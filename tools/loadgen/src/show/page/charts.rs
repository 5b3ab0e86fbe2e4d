//! The plots over the run's time, all on one axis, and the distributions over the whole run.

use crate::engine::histogram::{Percentiles, Waits};
use crate::engine::measure::Counters;
use crate::findings::report::{Report, Sample};
use crate::show::page::timeline::{Point, ROWS_PER_DECADE, Timeline};
use crate::show::page::words::seconds;
use crate::show::plot::{Axis, Cell, Line, Marks, Plot, Scale, Stroke};
use crate::units::ms;

/// Messages per second: due, and by outcome.
pub fn rates(report: &Report, timeline: &Timeline) -> Plot {
    let streams: Vec<usize> = report.streams().map(|(track, ..)| track).collect();
    let of = |name: &str, colour, of: fn(&Counters) -> u64| {
        timeline.rate(name, colour, |point| point.sum(&streams, of))
    };
    let mut plot = timeline.plot("Messages per second", Axis::new("msg/s", Scale::Linear));
    plot.lines = vec![
        of("due", 7, |counters| counters.due).with(Stroke::Dashed),
        of("sent", 4, |counters| counters.sent),
        of("acknowledged", 0, |counters| counters.acknowledged),
        of("sent one-way", 6, |counters| counters.one_way),
        of("refused", 3, |counters| counters.refused).sparse(),
        of("outcome unknown", 5, |counters| counters.unknown).sparse(),
        of("not sent", 1, |counters| counters.not_sent).sparse(),
    ];
    if let Some((track, group, _)) = report.groups().next() {
        let name = format!("received by {}", group.name);
        let received = |point: &Point| point.sum(&[track], |counters| counters.received);
        plot.lines.insert(3, timeline.rate(&name, 2, received));
    }
    plot.lines.retain(has_values);
    plot.note = timeline.pooled_note();
    plot
}

/// From due to acknowledged, all streams.
pub fn latencies(timeline: &Timeline) -> Plot {
    let of = |name: &str, colour, of: fn(&Percentiles) -> u64| {
        timeline.line(name, colour, |point| point.latency.as_ref().map(|all| ms(of(all))))
    };
    let title = "Latency from due to acknowledged";
    let mut plot = timeline.plot(title, Axis::new("ms", Scale::Logarithmic));
    plot.lines = vec![
        of("p50", 0, |all| all.p50),
        of("p90", 4, |all| all.p90),
        of("p99", 2, |all| all.p99),
        of("p99.9", 1, |all| all.p99_9),
        of("max", 3, |all| all.max),
    ];
    plot.note =
        "By the second of the acknowledgement; a gap is a second without any. Messages that were \
                 given up have no latency."
            .to_owned();
    plot
}

/// The p99 of each stream, if there are several.
pub fn latency_by_stream(report: &Report, timeline: &Timeline) -> Plot {
    let title = "p99 of latency by stream";
    let mut plot = timeline.plot(title, Axis::new("ms", Scale::Logarithmic));
    let line = |(track, name): (usize, &str)| {
        timeline.line(name, track, |point| point.tracks[track].p99.map(ms))
    };
    let streams = report.streams().map(|(index, track, _)| (index, track.name.as_str()));
    plot.lines = streams.map(line).filter(has_values).collect();
    plot.note = "The maximum in seconds with fewer than 100 messages.".to_owned();
    plot
}

/// From due to received, by group.
pub fn delays(report: &Report, timeline: &Timeline) -> Plot {
    let title = "Delay from due to received, p99 by group";
    let mut plot = timeline.plot(title, Axis::new("ms", Scale::Logarithmic));
    let groups: Vec<(usize, &str)> =
        report.groups().map(|(index, track, _)| (index, track.name.as_str())).collect();
    for (colour, &(track, name)) in groups.iter().enumerate() {
        if let [_] = groups[..] {
            plot.title = format!("Delay from due to received by {name}");
            plot.lines.push(timeline.line("p50", 0, |point| point.tracks[track].p50.map(ms)));
            plot.lines.push(timeline.line("p99", 2, |point| point.tracks[track].p99.map(ms)));
        } else {
            plot.lines.push(timeline.line(name, colour, |point| point.tracks[track].p99.map(ms)));
        }
    }
    plot.lines.retain(has_values);
    plot.note = "The maximum in seconds with fewer than 100 messages.".to_owned();
    plot
}

/// The distribution of latency, second by second.
pub fn heat_map(timeline: &Timeline) -> Plot {
    let title = "Latency from due to acknowledged: how many messages took how long";
    let mut plot = timeline.plot(title, Axis::new("ms", Scale::Logarithmic));
    let edge = |row: i64| 10f64.powf(row as f64 / ROWS_PER_DECADE);
    for point in &timeline.points {
        let (left, right) = (point.at_s, point.at_s + timeline.pool as f64);
        plot.cells.extend(point.rows.iter().map(|(&row, &count)| Cell {
            left,
            right,
            low: edge(row),
            high: edge(row + 1),
            count,
        }));
    }
    plot.note =
        "Two dark bands are two kinds of messages, which percentiles would hide.".to_owned();
    plot
}

/// All percentiles of the whole run; the scale expands towards the rare ones.
pub fn spectrum(report: &Report) -> Plot {
    let total = report.total();
    let all = [
        ("latency: from due to acknowledged", total.waits()),
        ("service time: from sent to acknowledged", Waits::all_measured(&total.service)),
        ("lateness of the generator", Waits::all_measured(&total.lateness)),
        ("end to end: from due to received", Waits::all_measured(&total.end_to_end)),
    ];
    let mut plot = Plot::new("Percentiles of the whole run", percentile_axis(), ms_axis());
    let recorded = all.into_iter().enumerate().filter(|(_, (_, all))| !all.measured().is_empty());
    plot.lines = recorded.map(|(colour, (name, all))| spectrum_line(name, colour, &all)).collect();
    plot.note = "Where latency lies above service time, messages waited to be sent: a tool that \
                 counts from the send call would not have seen it."
        .to_owned();
    plot
}

pub fn ms_axis() -> Axis {
    Axis::new("ms", Scale::Logarithmic)
}

/// 0, 90, 99, 99.9 … per cent at equal distances.
pub fn percentile_axis() -> Axis {
    Axis { marks: Marks::Nines, ..Axis::new("of messages took no longer", Scale::Linear) }
}

/// Ends where the messages begin that were given up.
pub fn spectrum_line(name: &str, colour: usize, waits: &Waits) -> Line {
    let least = 1.0 / waits.count().max(1) as f64;
    let values = waits.distribution(10).map(|(quantile, ns, _)| {
        let rarer = (1.0 - quantile).max(least);
        (-rarer.log10(), Some(ms(ns)))
    });
    Line::new(name, colour, values.collect())
}

/// The embedded broker's process: CPU, memory, disk.
pub fn resources(report: &Report, timeline: &Timeline) -> Vec<Plot> {
    let step = report.samples.len().div_ceil(crate::show::page::timeline::POINTS_MAX).max(1);
    let samples: Vec<Sample> = report.samples.iter().copied().step_by(step).collect();
    let level = |name: &str, colour, of: fn(&Sample) -> f64| {
        let points = samples.iter().map(|sample| (sample.at_ns as f64 / 1e9, Some(of(sample))));
        Line::new(name, colour, points.collect())
    };
    let plot = |title: &str, unit: &str, lines: Vec<Line>| {
        let mut plot = timeline.plot(title, Axis::new(unit, Scale::Linear));
        plot.lines = lines;
        plot
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let cores = per_second("cores busy", 0, &samples, |sample| sample.cpu_ns as f64 / 1e9);
    let written = per_second("written", 1, &samples, |sample| sample.written_bytes as f64 / 1e6);
    let read = per_second("read", 4, &samples, |sample| sample.read_bytes as f64 / 1e6);
    let memory = level("resident", 6, move |sample| sample.rss_bytes as f64 / f64::from(1 << 20));
    let largest = samples.iter().map(|sample| mib(sample.rss_bytes)).fold(0.0, f64::max);
    let mut plots = vec![
        plot("Processor time of the broker", "cores", vec![cores.with(Stroke::Filled)]),
        plot("Memory of the broker", "MiB", vec![memory.with(Stroke::Filled)]),
        plot("Disk traffic of the broker", "MB/s", vec![written, read]),
    ];
    plots[1].note = format!("At most {largest:.0} MiB.");
    plots.retain(|plot| !plot.is_blank());
    plots
}

/// Increase per second of a counter. A decrease means a new process, and leaves a gap.
fn per_second(name: &str, colour: usize, samples: &[Sample], of: fn(&Sample) -> f64) -> Line {
    let growth = samples.windows(2).map(|pair| {
        let length_s = pair[1].at_ns.saturating_sub(pair[0].at_ns) as f64 / 1e9;
        let growth = of(&pair[1]) - of(&pair[0]);
        let at_s = pair[1].at_ns as f64 / 1e9 - length_s / 2.0;
        (at_s, (growth >= 0.0 && length_s > 0.0).then(|| growth / length_s))
    });
    Line::new(name, colour, growth.collect())
}

/// Says that all plots over time span the same length.
pub fn length_note(timeline: &Timeline) -> String {
    format!("All plots over time span the same {}, draining included.", seconds(timeline.end_s))
}

fn has_values(line: &Line) -> bool {
    line.points.iter().any(|point| point.1.is_some_and(|value| value > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::histogram::{empty, record};

    #[test]
    fn a_restart_is_a_gap_and_no_negative_growth() {
        let sample = |at_s: u64, cpu_ns| Sample {
            at_ns: at_s * 1_000_000_000,
            cpu_ns,
            rss_bytes: 0,
            written_bytes: 0,
            read_bytes: 0,
        };
        let samples = [
            sample(0, 0),
            sample(1, 500_000_000),
            sample(2, 100_000_000),
            sample(4, 2_100_000_000),
        ];
        let line = per_second("cpu", 0, &samples, |sample| sample.cpu_ns as f64 / 1e9);
        assert_eq!(line.points, [(0.5, Some(0.5)), (1.5, None), (3.0, Some(1.0))]);
    }

    #[test]
    fn a_spectrum_ends_at_the_rarest_message() {
        let mut histogram = empty();
        record(&mut histogram, 1_000_000, 999);
        record(&mut histogram, 50_000_000, 1);
        let line = spectrum_line("x", 0, &Waits::all_measured(&histogram));
        let last = line.points.last().unwrap();
        assert!((last.0 - 3.0).abs() < 1e-6 && last.1.unwrap() >= 50.0);
    }
}
