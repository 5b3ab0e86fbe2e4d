//! The tables: thresholds, percentiles, outcomes of messages, errors, faults, phases.

use crate::engine::audit::Audit;
use crate::engine::measure::{Interval, Kind};
use crate::findings::report::Report;
use crate::show::page::html::{Bar, Cell, Table, bars, details, note, number, text, word};
use crate::show::page::words::{clock, counted, ms, percentile, spoken};
use crate::units::grouped;

/// The thresholds, and the values found.
pub fn asked(report: &Report) -> String {
    if report.rows.is_empty() {
        return String::new();
    }
    let verdict = report.verdict();
    let mut table = Table::new("", &["", "threshold", "wanted", "found"]);
    for row in &report.rows {
        let (found, is_met) = row.shown(verdict);
        let badge = match is_met {
            Some(false) => Cell::Badge("MISSED", "missed"),
            Some(true) => Cell::Badge("met", "met"),
            None => Cell::Badge("not judged", "unjudged"),
        };
        table.row(&[badge, text(&row.what), text(&row.wanted), text(found.unwrap_or("–"))]);
    }
    let mut out = table.html();
    out.push_str(&note(
        "A threshold that was missed does not change the verdict, which is about promises: PASS means \
         that the load was delivered and nothing acknowledged was lost.",
    ));
    out
}

const COLUMNS: [&str; 9] =
    ["", ">due", ">acked", ">p50", ">p90", ">p99", ">p99.9", ">p99.99", ">max"];

/// Send latency: by phase, by stream, and both.
pub fn send_percentiles(report: &Report) -> String {
    let total = report.total();
    let mut out = String::new();
    let mut table = Table::new("Send latency, ms: from due to acknowledged", &COLUMNS);
    if report.phases.len() > 1 {
        table.part("by phase in which a message was due, all streams");
        for (index, phase) in report.phases.iter().enumerate() {
            let warm_up = if phase.counts { "" } else { " (does not count)" };
            let total = report.phase_total(index);
            let not_valid = if total.not_valid().is_empty() { "" } else { " (not valid)" };
            let name = format!("{}{warm_up}{not_valid}", phase.name);
            table.row(&send_row(&name, &total));
        }
    }
    if report.streams().count() > 1 {
        table.part("by stream, all phases that count");
        for (index, track, _) in report.streams() {
            table.row(&send_row(&track.name, &report.track_total(index)));
        }
        table.part("in all");
    }
    table.sum(&send_row("latency", &total));
    table.row(&duration_row("lateness of the generator", &total, Kind::Lateness));
    table.row(&duration_row("service time", &total, Kind::Service));
    if !total.refused.is_empty() {
        table.row(&duration_row("until refused", &total, Kind::Refused));
    }
    out.push_str(&table.html());
    let threads = report.cpu_shares();
    if !threads.is_empty() {
        out.push_str(&note(&format!("CPU of the generator's threads: {}.", threads.join(", "))));
    }
    out.push_str(&note(
        "A dash: fewer messages than such a percentile takes. Messages that were given up have no \
         latency and rank behind all others; where a percentile falls among them, it says how long they had waited at least. Service time counts from the send call, as closed-loop \
         tools do; lateness is that of the generator itself, in sending and in reading replies.",
    ));
    if (0..report.phases.len()).any(|phase| !report.lateness_in(phase).is_empty()) {
        out.push_str(&note(
            "Not valid: the generator was late in this phase, so these latencies describe it and not \
             the broker. No threshold is judged by them.",
        ));
    }
    if report.phases.len() > 1 && report.streams().count() > 1 {
        out.push_str(&by_phase_and_stream(report));
    }
    out
}

fn by_phase_and_stream(report: &Report) -> String {
    let mut table = Table::new("Send latency, ms, by phase and stream", &COLUMNS);
    for (index, phase) in report.phases.iter().enumerate() {
        table.part(&phase.name);
        for (stream, track, _) in report.streams() {
            let interval = report.of(index, stream);
            if interval.counters.due > 0 {
                table.row(&send_row(&track.name, interval));
            }
        }
        table.sum(&send_row("all", &report.phase_total(index)));
    }
    details("Every phase and stream", &table.html())
}

fn send_row(name: &str, interval: &Interval) -> Vec<Cell> {
    let counters = &interval.counters;
    let acknowledged = match (counters.acknowledged, counters.one_way) {
        (0, 1..) => "one way".to_owned(),
        (count, _) => grouped(count),
    };
    let mut cells = vec![word(name), number(grouped(counters.due)), number(acknowledged)];
    let waits = interval.waits();
    let shown =
        |quantile: f64| number(waits.at(quantile).map_or("–".to_owned(), |wait| wait.shown(ms)));
    cells.extend([0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(shown));
    cells
}

fn duration_row(name: &str, interval: &Interval, kind: Kind) -> Vec<Cell> {
    let mut cells = vec![word(name), number(""), number("")];
    cells.extend(percentile_cells(interval, kind));
    cells
}

fn percentile_cells(interval: &Interval, kind: Kind) -> impl Iterator<Item = Cell> {
    let histogram = interval.of(kind);
    let quantiles = [0.5, 0.9, 0.99, 0.999, 0.9999].map(|q| number(percentile(histogram, q)));
    let max = if histogram.is_empty() { "–".to_owned() } else { ms(histogram.max()) };
    quantiles.into_iter().chain([number(max)])
}

/// From due to received, by group.
pub fn end_to_end_percentiles(report: &Report) -> String {
    if !report.is_audited() {
        return String::new();
    }
    let columns = ["", ">received", ">p50", ">p90", ">p99", ">p99.9", ">p99.99", ">max"];
    let mut table = Table::new("End to end, ms: from due to received", &columns);
    let row = |name: &str, interval: &Interval| {
        let mut cells = vec![word(name), number(grouped(interval.counters.received))];
        cells.extend(percentile_cells(interval, Kind::EndToEnd));
        cells
    };
    for (index, track, _) in report.groups() {
        table.row(&row(&track.name, &report.track_total(index)));
    }
    let mut out = table.html();
    if report.phases.len() > 1 {
        let mut table = Table::new("End to end, ms, by group and phase", &columns);
        for (index, track, _) in report.groups() {
            table.part(&track.name);
            for (phase, it) in report.phases.iter().enumerate() {
                table.row(&row(&it.name, report.of(phase, index)));
            }
        }
        out.push_str(&format!(
            "<details><summary>Every group and phase</summary>\n{}</details>\n",
            table.html()
        ));
    }
    out
}

/// What each group received of each stream, reconciled with what was acknowledged.
pub fn audit(report: &Report) -> String {
    if !report.is_audited() {
        return note("Nothing was consumed: acknowledgements were only counted.");
    }
    let columns = [
        "group",
        "stream",
        ">acked",
        ">lost",
        ">duplicates",
        ">out of order",
        ">unknown, stored",
        ">unknown, not",
    ];
    let mut table = Table::new("Every acknowledgement, looked up", &columns);
    let name = |track: usize| report.tracks.get(track).map_or("?", |track| track.name.as_str());
    for finding in &report.findings {
        let Audit { acknowledged, lost, duplicated, out_of_order, .. } = finding.audit;
        let (present, absent) = (finding.audit.unknown_present, finding.audit.unknown_absent);
        let counts = [acknowledged, lost, duplicated, out_of_order, present, absent];
        let mut cells = vec![word(name(finding.group)), word(name(finding.stream))];
        cells.extend(counts.map(|count| number(grouped(count))));
        table.row(&cells);
    }
    let mut out = table.html();
    let audit = report.audit();
    let odd = [
        (audit.corrupted, "arrived with a wrong checksum"),
        (audit.never_sent, "arrived under a number that was never sent"),
        (audit.refused_present, "had been refused and arrived anyway"),
        (audit.foreign, "of other runs lay in the same topics and were left out"),
    ];
    let odd = odd.into_iter().filter(|(count, _)| *count > 0);
    odd.for_each(|(count, what)| {
        out.push_str(&note(&format!("{} {what}.", counted(count, "message"))))
    });
    out
}

/// Replies other than success, by code and reason.
pub fn errors(report: &Report) -> String {
    if report.answers.is_empty() {
        return String::new();
    }
    let mut table = Table::new("", &["stream", ">code", "reason", ">requests"]);
    for answer in &report.answers {
        let stream = report.tracks.get(answer.stream).map_or("?", |track| track.name.as_str());
        table.row(&[
            word(stream),
            number(answer.code),
            text(&answer.reason),
            number(grouped(answer.requests)),
        ]);
    }
    table.html()
}

/// The faults, by the numbers that they have in the plots.
pub fn faults(report: &Report) -> String {
    if report.faults.is_empty() {
        return String::new();
    }
    let columns = [">", ">at", ">until", "what was done", ">acknowledged again after"];
    let mut table = Table::new("What was broken on purpose", &columns);
    let at = |ns: u64| clock(ns as f64 / 1e9);
    for (index, fault) in report.faults.iter().enumerate() {
        let done = match &fault.failed {
            Some(why) => format!("{} – not carried out: {why}", fault.text),
            None => fault.text.clone(),
        };
        table.row(&[
            number(index + 1),
            number(at(fault.at_ns)),
            number(match (&fault.failed, fault.until_ns) {
                (Some(_), _) => "–".to_owned(),
                (None, until_ns) => until_ns.map_or("the end".to_owned(), at),
            }),
            text(done),
            number(fault.back_after_ns.map_or(String::new(), spoken)),
        ]);
    }
    table.html()
}

/// When each phase was, and what it tests.
pub fn phases(report: &Report) -> String {
    if report.phases.len() < 2 {
        return String::new();
    }
    let mut table = Table::new("Phases", &["", ">from", ">to", ">due", "what it proves"]);
    for (index, phase) in report.phases.iter().enumerate() {
        let at = |ns: u64| number(clock(ns as f64 / 1e9));
        let due = report.phase_total(index).counters.due;
        let name = word(&phase.name);
        let proves = text(&phase.proves);
        table.row(&[name, at(phase.start_ns), at(phase.end_ns), number(grouped(due)), proves]);
    }
    table.html()
}

/// How evenly the load was distributed over the brokers; for RingMQ, its shards.
pub fn skew(report: &Report) -> String {
    let total: u64 = report.brokers.iter().map(|broker| broker.acknowledged).sum();
    if report.brokers.len() < 2 || total == 0 {
        return String::new();
    }
    let bar = |broker: &crate::findings::report::BrokerShare| Bar {
        name: broker.name.clone(),
        value: broker.acknowledged as f64,
        text: format!(
            "{} ({:.1} %)",
            grouped(broker.acknowledged),
            broker.acknowledged as f64 / total as f64 * 100.0
        ),
        colour: 0,
    };
    let rows: Vec<Bar> = report.brokers.iter().map(bar).collect();
    let largest = report.brokers.iter().map(|broker| broker.acknowledged).max().unwrap_or(0);
    let even = total as f64 / report.brokers.len() as f64;
    let mut out = bars("Messages acknowledged by each", &rows);
    out.push_str(&note(&format!(
        "The busiest took {:.2} times an even share. Hot keys make a skew: all messages of a key go \
         to one queue, and a queue is at one broker.",
        largest as f64 / even
    )));
    out
}
