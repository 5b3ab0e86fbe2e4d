//! A report as text of at most 80 columns, the last line of which is the verdict.
//!
//! A run of one stream in one phase is a few lines; a night has tables by stream, phase and group.
//! Where something acknowledged was lost or broken no durations are printed: how fast a broker loses
//! messages is of no interest.

use std::fmt::{self, Display};

use crate::engine::audit::Audit;
use crate::engine::histogram::Percentiles;
use crate::engine::measure::Interval;
use crate::findings::document::Verdict;
use crate::findings::flow::Flow;
use crate::findings::report::{Report, rate};
use crate::findings::rows::WIDTHS;
use crate::units::{cut, grouped, ms};

const COLUMNS: usize = 80;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let is_night = self.streams().count() > 1 || self.phases.len() > 1;
        let has_figures = self.verdict() != Verdict::Failed;
        writeln!(f, "{:<11}{}", "load", cut(&self.subject.load, 69))?;
        writeln!(f, "{:<11}{}\n", "target", cut(&self.subject.target, 69))?;
        self.write_counts(f, &total)?;
        if is_night {
            self.write_streams(f)?;
        }
        if !has_figures {
            writeln!(f, "\nNo durations are given for a run that broke its promises.")?;
        } else {
            write_percentiles(f, &total)?;
            if is_night {
                self.write_phases(f)?;
            }
        }
        if is_night {
            self.write_groups(f, has_figures)?;
        }
        self.write_rows(f)?;
        self.write_audit(f, &self.audit())?;
        self.write_faults(f)?;
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{:<11}{}", "note", cut(note, 69))?;
        }
        self.write_verdict(f)
    }
}

impl Report {
    fn write_counts(&self, f: &mut fmt::Formatter<'_>, total: &Interval) -> fmt::Result {
        let counters = &total.counters;
        let columns = [
            ("due", counters.due),
            ("sent", counters.sent),
            ("acked", counters.acknowledged),
            ("refused", counters.refused),
            ("unknown", counters.unknown),
            ("not sent", counters.not_sent),
        ];
        const WIDTH: usize = 11 + 1;
        write!(f, "{:<8}", "messages")?;
        columns.iter().try_for_each(|(name, _)| write!(f, "{name:>WIDTH$}"))?;
        write!(f, "\n{:<8}", "")?;
        columns.iter().try_for_each(|(_, count)| write!(f, "{:>WIDTH$}", grouped(*count)))?;
        let per_s = |count, time| grouped(rate(count, time) as u64);
        let sent = per_s(counters.acknowledged, self.sending());
        let consumed = per_s(counters.received, self.consuming());
        let mb_per_s = self.bytes_per_s() / 1e6;
        let seconds = self.sending().as_secs_f64();
        let mut text = format!("acknowledged {sent}/s, {mb_per_s:.1} MB/s");
        if self.is_audited() {
            text += &format!("; consumed {consumed}/s");
        }
        text += &format!("; over {seconds:.2} s");
        writeln!(f, "\n{:<11}{}", "rate", cut(&text, 69))
    }

    fn write_audit(&self, f: &mut fmt::Formatter<'_>, audit: &Audit) -> fmt::Result {
        if !self.is_audited() {
            return writeln!(
                f,
                "\naudit      nothing was consumed: acknowledgements were only counted"
            );
        }
        let [acknowledged, lost, duplicated, disorder, corrupted, present, absent] = [
            audit.acknowledged,
            audit.lost,
            audit.duplicated,
            audit.out_of_order,
            audit.corrupted + audit.never_sent,
            audit.unknown_present,
            audit.unknown_absent,
        ]
        .map(grouped);
        writeln!(
            f,
            "\naudit      acknowledged {acknowledged}: lost {lost}, corrupted {corrupted}"
        )?;
        writeln!(f, "           duplicated {duplicated}, out of order {disorder}")?;
        writeln!(f, "           unanswered: {present} stored all the same, {absent} not")
    }
}

impl Report {
    fn write_streams(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<10}{:>12}{:>12}{:>12}{:>9}{:>8}{:>9}{:>8}",
            "stream", "due", "sent", "acked", "refused", "unknown", "not sent", "one-way"
        )?;
        for (track, of, _) in self.streams() {
            let counters = self.track_counters(track);
            let [due, sent, acknowledged, refused, unknown, not_sent, one_way] = [
                counters.due,
                counters.sent,
                counters.acknowledged,
                counters.refused,
                counters.unknown,
                counters.not_sent,
                counters.one_way,
            ]
            .map(grouped);
            let name = cut(&of.name, 10);
            write!(f, "{name:<10}{due:>12}{sent:>12}{acknowledged:>12}{refused:>9}{unknown:>8}")?;
            writeln!(f, "{not_sent:>9}{one_way:>8}")?;
        }
        Ok(())
    }

    fn write_phases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<15}{:>8}{:>13}{:>11}{:>11}{:>11}{:>11}",
            "phase, ms", "s", "acked", "p50", "p99", "p99.9", "max"
        )?;
        for (index, phase) in self.phases.iter().enumerate() {
            let total = self.phase_total(index);
            let seconds = (phase.end_ns - phase.start_ns) as f64 / 1e9;
            let name = cut(&phase.name, 15);
            let acknowledged = grouped(total.counters.acknowledged);
            write!(f, "{name:<15}{seconds:>8.1}{acknowledged:>13}")?;
            let p = Percentiles::of(&total.latency);
            for value in [p.p50, p.p99, p.p99_9, p.max] {
                match total.latency.is_empty() {
                    true => write!(f, "{:>11}", "-")?,
                    false => write!(f, "{:>11.2}", ms(value))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_groups(&self, f: &mut fmt::Formatter<'_>, has_figures: bool) -> fmt::Result {
        if !self.is_audited() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<12}{:>13}{:>9}{:>10}{:>12}{:>11}{:>12}",
            "group", "received", "lost", "repeated", "p99, ms", "behind", "drained, s"
        )?;
        for (track, of, _) in self.groups() {
            let total = self.track_total(track);
            let findings = self.findings.iter().filter(|finding| finding.group == track);
            let (lost, duplicated) = findings.fold((0, 0), |(lost, duplicated), finding| {
                (lost + finding.audit.lost, duplicated + finding.audit.duplicated)
            });
            let flow = Flow::of(self, track);
            let (_, behind) = flow.largest();
            let drained = match flow.recovery() {
                None => "-".to_owned(),
                Some(it) => it.length_s.map_or("never".to_owned(), |s| s.to_string()),
            };
            let p99 = match has_figures {
                true => format!("{:.2}", ms(Percentiles::of(&total.end_to_end).p99)),
                false => "-".to_owned(),
            };
            let name = cut(&of.name, 12);
            let [received, lost, duplicated, behind] =
                [total.counters.received, lost, duplicated, behind].map(grouped);
            write!(f, "{name:<12}{received:>13}{lost:>9}{duplicated:>10}{p99:>12}")?;
            writeln!(f, "{behind:>11}{drained:>12}")?;
        }
        Ok(())
    }

    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let verdict = self.verdict();
        let [what, wanted, _] = WIDTHS;
        writeln!(f, "\n{:<what$} {:<wanted$} found", "asked", "")?;
        for row in &self.rows {
            let (text, is_met) = row.shown(verdict);
            let met = match is_met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "-",
            };
            // The column of the longest word gives way to a found text of full length.
            let found = COLUMNS - what - wanted - 3 - met.len();
            let text = cut(text.unwrap_or("-"), found);
            writeln!(f, "{:<what$} {:<wanted$} {text:<found$} {met}", row.what, row.wanted)?;
        }
        Ok(())
    }

    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.faults.is_empty() {
            writeln!(f)?;
        }
        for fault in &self.faults {
            let at_s = fault.at_ns as f64 / 1e9;
            let then = match (&fault.failed, fault.back_after_ns) {
                (Some(failed), _) => format!("; not done: {failed}"),
                (None, Some(back)) => {
                    format!("; back after {:.2} s", back as f64 / 1e9)
                }
                (None, None) => String::new(),
            };
            let text = format!("at {at_s:.1} s {}{then}", fault.text);
            writeln!(f, "{:<11}{}", "fault", cut(&text, 69))?;
        }
        Ok(())
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audit = self.audit();
        let lost = match self.is_audited() {
            true => format!("lost {} of {}", audit.lost, grouped(audit.acknowledged)),
            false => "lost 0 (not audited: nothing was consumed)".to_owned(),
        };
        write!(f, "\n{}  {lost}", self.verdict())?;
        for reason in self.reasons() {
            write!(f, "; {reason}")?;
        }
        writeln!(f)
    }
}

fn write_percentiles(f: &mut fmt::Formatter<'_>, total: &Interval) -> fmt::Result {
    writeln!(
        f,
        "\n{:<14}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
        "ms", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    )?;
    for (name, histogram) in [
        ("latency", &total.latency),
        ("service time", &total.service),
        ("slip", &total.slip),
        ("end to end", &total.end_to_end),
    ] {
        if histogram.is_empty() {
            continue;
        }
        let p = Percentiles::of(histogram);
        write!(f, "{name:<14}")?;
        for value in [p.p50, p.p90, p.p99, p.p99_9, p.p99_99, p.max] {
            write!(f, "{:>11.3}", ms(value))?;
        }
        writeln!(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::{Counters, Kind, Second};
    use crate::findings::report::tests::example;
    use crate::findings::report::{FaultMark, Finding, Track, TrackKind};
    use crate::findings::rows::Row;
    use crate::plan::scenario::Phase;

    #[test]
    fn a_report_as_printed() {
        let text = example().to_string();
        assert_eq!(text, include_str!("../../tests/golden/report.txt"));
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "80 columns");
    }

    fn interval(counters: Counters, kind: Kind, ms: u64) -> Interval {
        let mut interval = Interval { counters, ..Interval::default() };
        interval.record(kind, ms * 1_000_000, 90_000);
        interval
    }

    /// Two streams, two groups, two phases, with something in every table.
    fn night() -> Report {
        let mut report = example();
        let phase = |name: &str, from_s: u64, to_s: u64| Phase {
            name: name.to_owned(),
            start_ns: from_s * 1_000_000_000,
            end_ns: to_s * 1_000_000_000,
            counts: true,
            proves: String::new(),
        };
        report.phases = vec![phase("hush", 0, 10), phase("the longest of all phases", 10, 20)];
        let named = |track: &Track, name: &str| {
            let mut track = track.clone();
            name.clone_into(&mut track.name);
            if let TrackKind::Group(facts) = &mut track.kind {
                facts.streams = vec![0, 1];
            }
            track
        };
        let (stream, group) = (report.tracks[0].clone(), report.tracks[1].clone());
        report.tracks = vec![
            named(&stream, "orders"),
            named(&stream, "a stream with a long name"),
            named(&group, "fulfilment"),
            named(&group, "logistics"),
        ];
        let due = 987_654_321;
        let sent = Counters {
            due,
            sent: due - 2,
            acknowledged: due - 9,
            refused: 7,
            not_sent: 2,
            ..Counters::default()
        };
        let received = Counters { received: 2 * due, ..Counters::default() };
        let of_phase = vec![
            interval(sent, Kind::Latency, 4),
            interval(Counters { one_way: 12, ..Counters::default() }, Kind::Slip, 0),
            interval(received, Kind::EndToEnd, 9),
            interval(received, Kind::EndToEnd, 5_000),
        ];
        let nothing = vec![Interval::default(); 4];
        report.seconds = (0..3)
            .map(|number| {
                let taken = if number == 2 { 3_000 } else { 0 };
                let counters = |acknowledged, received| Interval {
                    counters: Counters { acknowledged, received, ..Counters::default() },
                    ..Interval::default()
                };
                let produced = if number < 2 { 1_500 } else { 0 };
                Second::pack(number, &[(0, counters(produced, 0)), (3, counters(0, taken))])
            })
            .collect();
        report.totals = vec![of_phase, nothing];
        let finding = report.findings[0].clone();
        report.findings =
            vec![Finding { group: 2, ..finding.clone() }, Finding { group: 3, ..finding }];
        report.unattributed.clear();
        let row = |found: &str, is_met| Row {
            what: "p99.9 in the first of them!".to_owned(),
            wanted: "10 x small hours..".to_owned(),
            found: found.to_owned(),
            is_met,
        };
        report.rows = vec![
            row("1.4 x: 86.11 ms", Some(true)),
            row("98.759 % of 10,717,000 in all", Some(false)),
            row("nothing was consumed", None),
        ];
        let fault = |text: &str, failed: Option<&str>, back_after_ns| FaultMark {
            at_ns: 7_190_089_100,
            until_ns: None,
            text: text.to_owned(),
            failed: failed.map(str::to_owned),
            back_after_ns,
        };
        report.faults = vec![
            fault("kill -9 of the broker, down 1 s", None, Some(1_287_801_610)),
            fault("disk filled to 95 % for 1 s", Some("no file system of its own at all"), None),
        ];
        report
    }

    #[test]
    fn a_night_as_printed() {
        let text = night().to_string();
        assert_eq!(text, include_str!("../../tests/golden/night.txt"));
        let width = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(width <= COLUMNS, "{width}: 80 columns");
    }

    #[test]
    fn a_run_that_lost_something_has_no_durations() {
        for mut report in [example(), night()] {
            report.findings[0].audit.lost = 1;
            let text = report.to_string();
            for word in ["phase", "latency", "slip"] {
                let is_there = text.lines().any(|line| line.starts_with(word));
                assert!(!is_there, "{word}:\n{text}");
            }
            assert!(!text.contains("5000.") && text.contains("broke its promises"), "{text}");
            let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("p99.9")).collect();
            assert_eq!(rows.len(), report.rows.len());
            for (line, met) in rows.iter().zip(["-", "MISSED", "-"]) {
                let found: Vec<&str> = line.split_whitespace().rev().take(2).collect();
                assert_eq!(found, [met, "-"], "{line}");
            }
            assert!(text.lines().last().unwrap().starts_with("FAILED  lost 1 of "), "{text}");
        }
    }
}
