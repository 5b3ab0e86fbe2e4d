//! A report as text of at most 80 columns. The last line is the verdict.
//!
//! A run of one stream in one phase is a few lines; a larger one has tables by stream, phase and
//! group. If an acknowledged message was lost or corrupted, no durations are printed: how fast a
//! broker loses messages is of no interest.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use crate::engine::histogram::{self, Wait, Waits};
use crate::engine::measure::Interval;
use crate::findings::flow::Flow;
use crate::findings::report::{FaultMark, Gap, Report, rate};
use crate::findings::text::{COLUMNS, figures, labelled, texts};
use crate::findings::verdict::{Figures, Verdict};
use crate::units::{fitted, fitted_decimal, grouped, ms};

/// Sections are separated by an empty line.
impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let counted = self.phases.iter().filter(|phase| phase.counts).count();
        let is_night = self.streams().count() > 1 || counted > 1;
        let has_latencies = self.verdict() != Verdict::Failed;
        let judged = self.figures();
        let mut sections = vec![self.subject_text(), self.counts(&total)];
        if is_night {
            sections.push(self.stream_table());
        }
        if has_latencies {
            sections.push(percentiles(&total, judged.valid) + &self.cpu());
        } else {
            sections.push("No durations are given for a run that broke its promises.\n".to_owned());
        }
        if is_night && has_latencies {
            sections.push(self.phase_table());
        }
        if is_night && self.is_audited() {
            sections.push(self.group_table(has_latencies));
        }
        sections.push(self.threshold_table());
        sections.push(self.audit_text());
        sections.push(self.faults.iter().map(fault_text).collect());
        sections.push(self.notes.iter().map(|note| labelled("note", note)).collect());
        sections.push(self.verdict_text(&judged));
        sections.retain(|section| !section.is_empty());
        f.write_str(&sections.join("\n"))
    }
}

/// Only a run with delayed messages can have early ones.
fn early_text(report: &Report, early: u64) -> String {
    let is_any_delayed = report.streams().any(|(.., facts)| facts.delay_ms > 0);
    let text = format!("before they were due {}", grouped(early));
    if is_any_delayed { labelled("", &text) } else { String::new() }
}

impl Report {
    fn subject_text(&self) -> String {
        labelled("load", &self.subject.load) + &labelled("target", &self.subject.target)
    }

    fn counts(&self, total: &Interval) -> String {
        let counters = &total.counters;
        let counts = [
            counters.due,
            counters.sent,
            counters.acknowledged,
            counters.refused,
            counters.unknown,
            counters.not_sent,
        ]
        .map(count);
        let header = ["messages", "due", "sent", "acked", "refused", "unknown", "not sent"];
        let row = [String::new()].into_iter().chain(counts);
        let mut text = figures(&header, [row.collect()]);
        let per_s = |count, time| grouped(rate(count, time) as u64);
        let mut rates = format!("acknowledged {}/s", per_s(counters.acknowledged, self.sending()));
        rates += &format!(", {:.1} MB/s", self.bytes_per_s() / 1e6);
        if self.is_audited() {
            rates += &format!("; consumed {}/s", per_s(counters.received, self.consuming()));
        }
        rates += &format!("; over {:.2} s", self.sending().as_secs_f64());
        text += &labelled("rate", &rates);
        let warm_up_s = self.warm_up().as_secs_f64();
        if warm_up_s > 0.0 {
            let excluded = format!("{warm_up_s:.1} s before, in none of these figures");
            text += &labelled("warm-up", &excluded);
        }
        text
    }

    fn audit_text(&self) -> String {
        if !self.is_audited() {
            return labelled("audit", "nothing was consumed: acknowledgements were only counted");
        }
        let audit = self.audit();
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
        labelled(
            "audit",
            &format!("acknowledged {acknowledged}: lost {lost}, corrupted {corrupted}"),
        ) + &labelled("", &format!("duplicated {duplicated}, out of order {disorder}"))
            + &early_text(self, audit.early)
            + &labelled("", &format!("unknown: {present} stored anyway, {absent} not"))
    }

    fn stream_table(&self) -> String {
        let header =
            ["stream", "due", "sent", "acked", "refused", "unknown", "not sent", "one-way"];
        let rows = self.streams().map(|(track, of, _)| {
            let counters = self.track_counters(track);
            let counts = [
                counters.due,
                counters.sent,
                counters.acknowledged,
                counters.refused,
                counters.unknown,
                counters.not_sent,
                counters.one_way,
            ]
            .map(|of| fitted(of, 9));
            [of.name.clone()].into_iter().chain(counts).collect()
        });
        figures(&header, rows)
    }

    fn phase_table(&self) -> String {
        let header = ["phase, ms", "s", "acked", "p50", "p99", "p99.9", "max"];
        let rows = self.phases.iter().enumerate().map(|(index, phase)| {
            let total = self.phase_total(index);
            let length_s = (phase.end_ns - phase.start_ns) as f64 / 1e9;
            let waits = total.waits();
            let percentiles = [0.5, 0.99, 0.999, 1.0].map(|quantile| {
                let shown = |wait: Wait| wait.shown(|ns| fitted_decimal(ms(ns), 2, 8));
                waits.at(quantile).map_or("-".to_owned(), shown)
            });
            let lead = [
                phase.name.clone(),
                fitted_decimal(length_s, 1, 7),
                fitted(total.counters.acknowledged, 11),
            ];
            lead.into_iter().chain(percentiles).collect()
        });
        figures(&header, rows) + &self.late_phases()
    }

    /// The phases whose latencies are not valid, with the most important reason.
    fn late_phases(&self) -> String {
        let phases = self.phases.iter().enumerate();
        let late = phases.filter_map(|(index, phase)| {
            let reason = self.lateness_in(index).into_iter().next()?;
            Some(labelled("not valid", &format!("latencies of {}: {reason}", phase.name)))
        });
        late.collect()
    }

    fn group_table(&self, has_latencies: bool) -> String {
        let header = ["group", "received", "lost", "repeated", "p99, ms", "behind", "drained, s"];
        let rows = self.groups().map(|(track, of, _)| {
            let total = self.track_total(track);
            let found = self.findings.iter().filter(|finding| finding.group == track);
            let (lost, duplicated) = found.fold((0, 0), |(lost, duplicated), finding| {
                (lost + finding.audit.lost, duplicated + finding.audit.duplicated)
            });
            let flow = Flow::of(self, track);
            let (_, behind) = flow.largest();
            let drained = match flow.recovery() {
                None => "-".to_owned(),
                Some(it) => it.length_s.map_or("never".to_owned(), |s| fitted(s, 11)),
            };
            let p99 = match has_latencies {
                true => Waits::all_measured(&total.end_to_end)
                    .at(0.99)
                    .map_or("-".to_owned(), |p99| fitted_decimal(ms(p99.ns), 2, 11)),
                false => "-".to_owned(),
            };
            let [received, behind] = [total.counters.received, behind].map(count);
            let [lost, duplicated] = [lost, duplicated].map(|of| fitted(of, 8));
            vec![of.name.clone(), received, lost, duplicated, p99, behind, drained]
        });
        figures(&header, rows)
    }

    fn cpu(&self) -> String {
        let shares = self.cpu_shares();
        if shares.is_empty() { String::new() } else { labelled("CPU", &shares.join(", ")) }
    }

    /// CPU usage of the generator: of each thread, or of each group of threads if there are many.
    /// `report.json` has each thread.
    pub fn cpu_shares(&self) -> Vec<String> {
        const EACH_MAX: usize = 8;
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        if self.threads.len() <= EACH_MAX {
            let each = self.threads.iter();
            return each.map(|it| format!("{} {}", it.name, percent(it.share))).collect();
        }
        let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for thread in &self.threads {
            let name = thread.name.rsplit_once('-').map_or(&*thread.name, |(name, _)| name);
            groups.entry(name).or_default().push(thread.share);
        }
        let shown = |(name, mut shares): (&str, Vec<f64>)| {
            shares.sort_by(f64::total_cmp);
            let (count, middle) = (shares.len(), shares[shares.len() / 2]);
            let (lowest, highest) = (shares[0], shares[count - 1]);
            match count {
                1 => format!("{name} {}", percent(highest)),
                _ => format!(
                    "{count} x {name} {:.0} to {}, median {}",
                    lowest * 100.0,
                    percent(highest),
                    percent(middle)
                ),
            }
        };
        groups.into_iter().map(shown).collect()
    }

    fn threshold_table(&self) -> String {
        let verdict = self.verdict();
        let rows = self.rows.iter().map(|row| {
            let (found, is_met) = row.shown(verdict);
            let met = match is_met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None if row.is_required => "NOT JUDGED",
                None => "-",
            };
            [&row.what, &row.wanted, found.unwrap_or("-"), met].map(str::to_owned).into()
        });
        match self.rows.is_empty() {
            true => String::new(),
            false => texts(&["threshold", "", "found", ""], rows),
        }
    }

    /// The last line starts with the verdict, states what was lost and whether the latencies are
    /// valid; scripts rely on it. Reasons follow, most important first. Those that do not fit are
    /// printed above it.
    fn verdict_text(&self, judged: &Figures) -> String {
        let audit = self.audit();
        let lost = match self.is_audited() {
            true => {
                let [lost, of] = [audit.lost, audit.acknowledged].map(count);
                format!("lost {lost} of {of}")
            }
            false => "loss not checked".to_owned(),
        };
        let mut line = format!("{}  {lost}", self.verdict());
        let mut above: Vec<(&str, String)> = Vec::new();
        let missed = self.missed().map(|missed| format!("threshold missed: {missed}"));
        let reasons: Vec<String> = self.reasons().into_iter().chain(missed).collect();
        if let Some(reason) = judged.reasons.first() {
            let room = COLUMNS - if reasons.is_empty() { 0 } else { MORE_WIDTH };
            let validity = format!(" (latencies not valid: {reason})");
            let is_whole = line.chars().count() + validity.chars().count() <= room;
            line += if is_whole { &validity } else { " (latencies not valid: see above)" };
            let rest = judged.reasons.iter().skip(usize::from(is_whole));
            above.extend(rest.map(|reason| ("not valid", reason.clone())));
        }
        let mut more = reasons.len();
        for reason in &reasons {
            let rest = if more > 1 { more_above(more - 1) } else { String::new() };
            if format!("{line}; {reason}{rest}").chars().count() > COLUMNS {
                break;
            }
            line += &format!("; {reason}");
            more -= 1;
        }
        above.extend(reasons[reasons.len() - more..].iter().map(|it| ("reason", it.clone())));
        if more > 0 {
            line += &more_above(more);
        }
        let above: String = above.iter().map(|(label, reason)| labelled(label, reason)).collect();
        format!("{above}{line}\n")
    }
}

/// Space on the last line for the number of reasons printed above it.
const MORE_WIDTH: usize = "; 9 more above".len();

fn more_above(count: usize) -> String {
    format!("; {count} more above")
}

/// A message count, for a narrow column.
fn count(of: u64) -> String {
    fitted(of, 11)
}

fn percentiles(total: &Interval, is_valid: bool) -> String {
    let header = ["ms", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let nothing = histogram::empty();
    let kinds = [
        ("latency", &total.latency, &total.given_up),
        ("lateness", &total.lateness, &nothing),
        ("service time", &total.service, &nothing),
        ("refused", &total.refused, &nothing),
        ("end to end", &total.end_to_end, &nothing),
    ];
    let row = |(name, measured, given_up): (&str, _, _)| {
        let waits = Waits::of(measured, given_up);
        let shown = |wait: Wait| wait.shown(|ns| fitted_decimal(ms(ns), 3, 8));
        let of_quantile = |quantile| waits.at(quantile).map_or("-".to_owned(), shown);
        let texts = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(of_quantile);
        (waits.count() > 0).then(|| [name.to_owned()].into_iter().chain(texts).collect())
    };
    let mut text = String::new();
    if !is_valid {
        text +=
            "The latencies below are not valid: they describe the generator, not the broker.\n\n";
    }
    text += &figures(&header, kinds.into_iter().filter_map(row));
    if !total.given_up.is_empty() {
        let parts = total.counters.given_up();
        let parts: Vec<String> =
            parts.map(|(count, what)| format!("{} {what}", grouped(count))).collect();
        text += &labelled("given up", &parts.join(", "));
    }
    text
}

/// Shards that acknowledged nothing for at least this long are named, but at most this many.
const GAP_SHOWN_NS: u64 = 300_000_000;
const GAPS_SHOWN_MAX: usize = 4;

fn fault_text(fault: &FaultMark) -> String {
    let at_s = fault.at_ns as f64 / 1e9;
    let then = match (&fault.failed, fault.back_after_ns) {
        (Some(failed), _) => format!("; not done: {failed}"),
        (None, Some(back)) => format!("; back after {:.2} s", back as f64 / 1e9),
        (None, None) => String::new(),
    };
    let mut text = labelled("fault", &format!("at {at_s:.1} s {}{then}", fault.text));
    if !fault.gaps.is_empty() {
        text += &labelled("gap", &gaps_text(&fault.gaps));
    }
    text
}

/// The shards that were silent for long, at least one, then the longest silence of the others.
fn gaps_text(gaps: &[Gap]) -> String {
    let seconds = |gap: &Gap| format!("{:.2} s", gap.length_ns as f64 / 1e9);
    let count = gaps.iter().filter(|gap| gap.length_ns >= GAP_SHOWN_NS).count();
    let (long, short) = gaps.split_at(count.clamp(1, GAPS_SHOWN_MAX));
    let mut parts: Vec<String> =
        long.iter().map(|gap| format!("{} {}", gap.broker, seconds(gap))).collect();
    if let Some(longest) = short.first() {
        parts.push(format!("others at most {}", seconds(longest)));
    }
    format!("no acknowledgement from {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::measure::{Counters, Kind, Second};
    use crate::findings::report::tests::example;
    use crate::findings::report::{Finding, Row, ThreadCpu, Track, TrackKind};
    use crate::golden::assert_golden;
    use crate::plan::scenario::Phase;

    #[test]
    fn gaps_in_words() {
        let gap = |broker: &str, ms: u64| Gap {
            broker: broker.to_owned(),
            from_ns: 0,
            length_ns: ms * 1_000_000,
        };
        let rows = [
            (vec![gap("a", 120)], "a 0.12 s"),
            (vec![gap("a", 1_840), gap("b", 12)], "a 1.84 s, others at most 0.01 s"),
            (
                vec![gap("a", 1_840), gap("b", 900), gap("c", 20), gap("d", 10)],
                "a 1.84 s, b 0.90 s, others at most 0.02 s",
            ),
        ];
        for (gaps, text) in rows {
            assert_eq!(gaps_text(&gaps), format!("no acknowledgement from {text}"));
        }
    }

    /// No thread is left out, however many there are.
    #[test]
    fn every_thread_is_in_what_is_said_of_the_cpu() {
        let thread = |(name, share): (String, f64)| ThreadCpu { name, share, must_keep_up: false };
        let members = (0..6).map(|it| (format!("group-0-{it}"), f64::from(it) / 10.0));
        let mut threads: Vec<_> = [("generate-0".to_owned(), 0.41), ("group-1".to_owned(), 0.03)]
            .into_iter()
            .chain(members)
            .collect();
        let of = |threads: &[(String, f64)]| {
            let threads = threads.iter().cloned().map(thread).collect();
            Report { threads, ..example() }.cpu_shares().join(", ")
        };
        let each = "generate-0 41 %, group-1 3 %, group-0-0 0 %, group-0-1 10 %, group-0-2 20 %, \
                    group-0-3 30 %, group-0-4 40 %, group-0-5 50 %";
        assert_eq!(of(&threads), each);
        threads.extend([("generate-1".to_owned(), 0.6), ("2/generate-0".to_owned(), 0.2)]);
        let wanted = "2/generate 20 %, 2 x generate 41 to 60 %, median 60 %, group 3 %, \
                      6 x group-0 0 to 50 %, median 30 %";
        assert_eq!(of(&threads), wanted);
    }

    #[test]
    fn a_report_as_printed() {
        let text = example().to_string();
        assert_golden("report.txt", &text);
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "80 columns");
    }

    fn interval(counters: Counters, kind: Kind, ms: u64) -> Interval {
        let mut interval = Interval { counters, ..Interval::default() };
        interval.record(kind, ms * 1_000_000, 90_000);
        interval
    }

    /// Two streams, two groups and two phases, so that every table has rows.
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
            interval(Counters { one_way: 12, ..Counters::default() }, Kind::Lateness, 0),
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
            is_required: false,
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
            gaps: Vec::new(),
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
        assert_golden("night.txt", &text);
        assert_fits(&text);
    }

    /// Every number is as large as possible, and every text longer than a line.
    fn extreme() -> Report {
        const MOST: u64 = u64::MAX / 16;
        let mut report = night();
        let counters = Counters {
            due: MOST,
            sent: MOST,
            acknowledged: MOST,
            refused: MOST,
            unknown: MOST,
            undecided: 0,
            not_sent: MOST,
            one_way: MOST,
            retried: MOST,
            received: MOST,
        };
        let mut interval = Interval { counters, ..Interval::default() };
        for kind in [Kind::Latency, Kind::Service, Kind::EndToEnd] {
            interval.record(kind, u64::MAX / 4, 1_000);
        }
        report.totals = vec![vec![interval.clone(); 4]; 2];
        report.seconds = vec![Second::pack(3, &[(0, interval.clone()), (3, interval)])];
        for finding in &mut report.findings {
            let audit = &mut finding.audit;
            (audit.acknowledged, audit.lost, audit.duplicated) = (MOST, MOST, MOST);
            (audit.out_of_order, audit.never_sent) = (MOST, MOST);
            (audit.unknown_present, audit.unknown_absent) = (MOST, MOST);
        }
        (report.sending_ns, report.consuming_ns) = (u64::MAX, u64::MAX);
        report.phases[1].end_ns = u64::MAX;
        let long = "a word and averyveryverylongword ".repeat(9);
        for text in [&mut report.subject.load, &mut report.subject.target] {
            text.clone_from(&long);
        }
        report.tracks.iter_mut().for_each(|track| track.name.clone_from(&long));
        report.phases.iter_mut().for_each(|phase| phase.name.clone_from(&long));
        for row in &mut report.rows {
            let texts = [&mut row.what, &mut row.wanted, &mut row.found];
            texts.into_iter().for_each(|text| text.clone_from(&long));
        }
        for fault in &mut report.faults {
            (fault.at_ns, fault.back_after_ns) = (u64::MAX, Some(u64::MAX));
            fault.text.clone_from(&long);
        }
        report.notes = vec![long.clone()];
        report.incomplete = vec![long.clone(), long.replace(' ', "")];
        report
    }

    fn assert_fits(text: &str) {
        for line in text.lines() {
            let width = line.chars().count();
            assert!(width <= COLUMNS, "{width} columns: {line}\n{text}");
        }
    }

    #[test]
    fn whatever_the_figures_a_line_has_80_columns_and_its_figures_are_apart() {
        let lossy = extreme();
        let mut late = extreme();
        for finding in &mut late.findings {
            (finding.audit.lost, finding.audit.never_sent) = (0, 0);
        }
        let mut slow = late.clone();
        slow.totals
            .iter_mut()
            .flatten()
            .for_each(|it| it.record(Kind::Lateness, u64::MAX / 4, 9_000));
        for (report, verdict) in [(lossy, "FAILED"), (late, "INCOMPLETE"), (slow, "INCOMPLETE")] {
            let text = report.to_string();
            assert_fits(&text);
            let last = text.lines().last().unwrap();
            assert!(last.starts_with(&format!("{verdict}  lost ")), "{text}");
            assert!(last.ends_with(" more above"), "{text}");
            // Figures are never wrapped, and stay separated.
            let last_of = |begins: &str| {
                let header = text.lines().position(|line| line.starts_with(begins)).unwrap();
                let row = text.lines().nth(header + 1).unwrap();
                row.split("  ").filter(|cell| !cell.trim().is_empty()).count()
            };
            assert_eq!(last_of("messages "), 6, "{text}");
            assert_eq!(last_of("group "), 7, "{text}");
            assert_eq!(last_of("stream "), 8, "{text}");
        }
    }

    /// All reasons are printed, and those that fit are on the last line.
    #[test]
    fn reasons_that_do_not_fit_stand_above_the_verdict() {
        let mut report = example();
        report.findings[0].audit.lost = 7;
        let long = "the second of all reasons, which is so long that it takes more than one line \
                    of its own: 80 columns are soon full";
        report.incomplete = vec![long.to_owned(), "the third".to_owned()];
        let text = report.to_string();
        let end = "
reason     the second of all reasons, which is so long that it takes more than
           one line of its own: 80 columns are soon full
reason     the third
FAILED  lost 7 of 199,900; 7 acknowledged, then lost; 2 more above
";
        assert!(text.ends_with(end), "{text}");
    }

    /// They are printed nevertheless, marked in place and on the last line.
    #[test]
    fn latencies_that_are_not_valid_are_marked() {
        let mut report = example();
        report.totals[0][0].record(Kind::Lateness, 7_000_000, 9_000);
        let text = report.to_string();
        assert!(text.contains("The latencies below are not valid") && text.contains("lateness "));
        assert!(
            text.ends_with(
                "
not valid  lateness 7.0 of 9.0 ms at p99.9
not valid  4.3 % sent over 5 ms late
PASS  lost 0 of 199,900 (latencies not valid: lateness 7.0 of 0.4 ms at p99)
"
            ),
            "{text}"
        );
        report.not_valid =
            vec!["a part of the run began 1.5 s after --start-at, too late".to_owned()];
        report.totals[0][0].lateness.reset();
        let text = report.to_string();
        assert!(
            text.ends_with(
                "
not valid  a part of the run began 1.5 s after --start-at, too late
PASS  lost 0 of 199,900 (latencies not valid: see above)
"
            ),
            "{text}"
        );
    }

    /// An answer that leaves the outcome open is an answer.
    #[test]
    fn what_was_given_up_is_said_with_its_reason() {
        let mut report = example();
        let total = &mut report.totals[0][0];
        total.latency.reset();
        total.record(Kind::GivenUp, 700_000, 3_905);
        let counters = &mut total.counters;
        (counters.acknowledged, counters.refused, counters.not_sent) = (0, 0, 10);
        (counters.unknown, counters.undecided) = (3_895, 2_895);
        let text = report.to_string();
        let wanted = "
given up   10 not sent, 1,000 without an answer, 2,895 answered with a code that
           leaves the outcome open
";
        assert!(text.contains(wanted), "{text}");
        let counters = &mut report.totals[0][0].counters;
        (counters.not_sent, counters.unknown) = (0, counters.undecided);
        let text = report.to_string();
        assert!(text.contains("given up   2,895 answered"), "{text}");
        assert!(!text.contains("without an answer"), "{text}");
    }

    #[test]
    fn a_run_that_lost_something_has_no_durations() {
        for mut report in [example(), night()] {
            report.findings[0].audit.lost = 1;
            let text = report.to_string();
            for word in ["phase", "latency", "lateness"] {
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
