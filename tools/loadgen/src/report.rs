//! What a run found: a plain value, rendered as a text of at most 80 columns and as `report.json`.
//!
//! The verdict is worked out here and nowhere else. The files a directory receives are written by
//! [`write_files`]; the JSON keys are a contract with scripts.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::audit::Audit;
use crate::clock::rfc3339;
use crate::document::{Document, EndToEnd, Reconciled, SCHEMA, Send, Verdict};
use crate::histogram::{Percentiles, write_distribution, write_interval_log};
use crate::measure::{Interval, Second};
use crate::page;
use crate::units::grouped;

/// A generator whose own lateness exceeds this in one of a hundred sends measures itself.
pub const SLIP_P99_MAX_NS: u64 = 1_000_000;

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Failed => 1,
            Self::Invalid => 3,
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Failed => "FAILED",
            Self::Invalid => "INVALID",
        })
    }
}

/// What was run on what.
#[derive(Clone, Debug)]
pub struct Subject {
    /// One line: what was sent.
    pub load: String,
    /// One line: where it went.
    pub target: String,
    pub seed: u64,
    pub message_size: usize,
    /// Order is part of the verdict: one request in flight per producer.
    pub is_ordered: bool,
    /// Machine, versions and options, for whoever repeats the run.
    pub environment: Map<String, Value>,
}

pub struct Report {
    pub subject: Subject,
    pub started_unix_ns: u64,
    /// From the first due time to the last answer.
    pub sending: Duration,
    /// From the first due time to the last arrival.
    pub consuming: Duration,
    pub total: Interval,
    pub seconds: Vec<Second>,
    /// `None`: nothing was consumed, so only acknowledgements were counted.
    pub audit: Option<Audit>,
    /// Why the figures do not count, as far as the run itself knows.
    pub doubts: Vec<String>,
    /// What the reader should know before believing the figures.
    pub notes: Vec<String>,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        if self.failures().next().is_some() {
            Verdict::Failed
        } else if self.doubts().next().is_some() {
            Verdict::Invalid
        } else {
            Verdict::Pass
        }
    }

    /// Broken promises of the target.
    fn failures(&self) -> impl Iterator<Item = String> {
        let audit = self.audit.unwrap_or_default();
        let disorder = if self.subject.is_ordered { audit.out_of_order } else { 0 };
        let found = [
            (audit.lost, "acknowledged, then lost"),
            (audit.corrupted, "arrived corrupted"),
            (audit.never_sent, "arrived and were never sent"),
            (disorder, "out of order with one request in flight"),
        ];
        let found = found.into_iter().filter(|(count, _)| *count > 0);
        found.map(|(count, what)| format!("{} {what}", grouped(count)))
    }

    /// Why the figures do not count.
    fn doubts(&self) -> impl Iterator<Item = String> {
        let slip = Percentiles::of(&self.total.slip).p99;
        let slow = (slip > SLIP_P99_MAX_NS)
            .then(|| format!("the generator fell behind: slip p99 {:.3} ms", ms(slip)));
        let idle = (self.total.counters.sent == 0).then(|| "nothing was sent".to_owned());
        self.doubts.iter().cloned().chain(slow).chain(idle)
    }

    /// Why the verdict is not PASS, most important first.
    pub fn reasons(&self) -> Vec<String> {
        self.failures().chain(self.doubts()).collect()
    }

    fn rate(count: u64, time: Duration) -> f64 {
        let seconds = time.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    fn bytes_per_s(&self) -> f64 {
        let bytes = self.total.counters.acknowledged * self.subject.message_size as u64;
        Self::rate(bytes, self.sending)
    }

    /// The content of `report.json`.
    pub fn document(&self) -> Document {
        let counters = &self.total.counters;
        let checked = |of: fn(&Audit) -> u64| self.audit.as_ref().map(of);
        let mut environment = self.subject.environment.clone();
        environment.insert("load".to_owned(), json!(self.subject.load));
        environment.insert("reasons".to_owned(), json!(self.reasons()));
        environment.insert("notes".to_owned(), json!(self.notes));
        Document {
            schema: SCHEMA,
            verdict: self.verdict(),
            started_at: rfc3339(self.started_unix_ns / 1_000_000_000),
            duration_s: self.sending.as_secs_f64(),
            target: self.subject.target.clone(),
            seed: self.subject.seed,
            send: Send {
                due: counters.due,
                sent: counters.sent,
                acknowledged: counters.acknowledged,
                refused: counters.refused,
                unknown: counters.unknown,
                not_sent: counters.not_sent,
                rate_per_s: Self::rate(counters.acknowledged, self.sending),
                bytes_per_s: self.bytes_per_s(),
                latency_ns: Percentiles::of(&self.total.latency),
                service_ns: Percentiles::of(&self.total.service),
                slip_ns: Percentiles::of(&self.total.slip),
            },
            end_to_end: EndToEnd {
                received: counters.received,
                rate_per_s: Self::rate(counters.received, self.consuming),
                latency_ns: Percentiles::of(&self.total.end_to_end),
            },
            audit: Reconciled {
                acknowledged: counters.acknowledged,
                lost: checked(|audit| audit.lost),
                duplicated: checked(|audit| audit.duplicated),
                out_of_order: checked(|audit| audit.out_of_order),
                corrupted: checked(|audit| audit.corrupted + audit.never_sent),
                unknown_present: checked(|audit| audit.unknown_present),
                unknown_absent: checked(|audit| audit.unknown_absent),
            },
            environment,
        }
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = &self.total.counters;
        let columns = [
            ("due", counters.due),
            ("sent", counters.sent),
            ("acked", counters.acknowledged),
            ("refused", counters.refused),
            ("unknown", counters.unknown),
            ("not sent", counters.not_sent),
        ];
        write!(f, "{:<8}", "messages")?;
        columns.iter().try_for_each(|(name, _)| write!(f, "{name:>WIDTH$}"))?;
        write!(f, "\n{:<8}", "")?;
        columns.iter().try_for_each(|(_, count)| write!(f, "{:>WIDTH$}", grouped(*count)))?;
        const WIDTH: usize = 11 + 1;
        let per_s = |count, time| grouped(Self::rate(count, time) as u64);
        let sent = per_s(counters.acknowledged, self.sending);
        let consumed = per_s(counters.received, self.consuming);
        let mb_per_s = self.bytes_per_s() / 1e6;
        let seconds = self.sending.as_secs_f64();
        write!(f, "\n{:<11}acknowledged {sent}/s, {mb_per_s:.1} MB/s", "rate")?;
        if self.audit.is_some() {
            write!(f, "; consumed {consumed}/s")?;
        }
        writeln!(f, "; over {seconds:.2} s")
    }

    fn write_percentiles(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<14}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "ms", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, histogram) in [
            ("latency", &self.total.latency),
            ("service time", &self.total.service),
            ("slip", &self.total.slip),
            ("end to end", &self.total.end_to_end),
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

    fn write_audit(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(audit) = &self.audit else {
            return writeln!(
                f,
                "\naudit      nothing was consumed: acknowledgements were only counted"
            );
        };
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

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<11}{}", "load", self.subject.load)?;
        writeln!(f, "{:<11}{}\n", "target", self.subject.target)?;
        self.write_counts(f)?;
        self.write_percentiles(f)?;
        self.write_audit(f)?;
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{:<11}{note}", "note")?;
        }
        let lost = match &self.audit {
            Some(audit) => format!("lost {} of {}", audit.lost, grouped(audit.acknowledged)),
            None => "lost 0 (not audited: nothing was consumed)".to_owned(),
        };
        write!(f, "\n{}  {lost}", self.verdict())?;
        for reason in self.reasons() {
            write!(f, "; {reason}")?;
        }
        writeln!(f)
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Writes `report.json`, `report.html`, `latency.hlog` and `latency.hgrm` into `directory`, made when missing.
pub fn write_files(report: &Report, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let create = |name| Ok::<_, io::Error>(BufWriter::new(File::create(directory.join(name))?));

    let mut out = create("report.json")?;
    serde_json::to_writer_pretty(&mut out, &report.document())?;
    out.write_all(b"\n")?;
    out.flush()?;

    let mut out = create("latency.hlog")?;
    let begin = UNIX_EPOCH + Duration::from_nanos(report.started_unix_ns);
    write_interval_log(&mut out, begin, &report.subject.load, &report.seconds)?;
    out.flush()?;

    let mut out = create("latency.hgrm")?;
    write_distribution(&mut out, &report.total.latency)?;
    out.flush()?;

    fs::write(directory.join("report.html"), page::render(report))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::histogram::record;
    use crate::measure::Counters;

    pub fn example() -> Report {
        let mut total = Interval {
            counters: Counters {
                due: 200_000,
                sent: 199_990,
                acknowledged: 199_900,
                refused: 80,
                unknown: 10,
                not_sent: 10,
                received: 199_905,
            },
            ..Interval::default()
        };
        record(&mut total.latency, 412_000, 199_000);
        record(&mut total.latency, 9_000_000, 1_000);
        record(&mut total.service, 380_000, 199_900);
        record(&mut total.slip, 20_000, 199_990);
        record(&mut total.end_to_end, 900_000, 199_905);
        let audit = Audit {
            acknowledged: 199_900,
            unknown_present: 5,
            unknown_absent: 5,
            duplicated: 3,
            out_of_order: 2,
            ..Audit::default()
        };
        let mut environment = Map::new();
        environment.insert("cores".to_owned(), json!(2));
        Report {
            subject: Subject {
                load: "10,000 msg/s of 1,024 B for 20 s, 16 connections x 64, json".to_owned(),
                target: "127.0.0.1:9876: 1 broker, topic loadgen, 8 queues".to_owned(),
                seed: 1,
                message_size: 1024,
                is_ordered: false,
                environment,
            },
            started_unix_ns: 1_700_000_000_000_000_000,
            sending: Duration::from_secs(20),
            consuming: Duration::from_secs(20),
            total,
            seconds: Vec::new(),
            audit: Some(audit),
            doubts: Vec::new(),
            notes: vec!["80 requests were refused: 80 x code 2".to_owned()],
        }
    }

    #[test]
    fn a_report_as_printed() {
        let text = example().to_string();
        assert_eq!(text, include_str!("../tests/golden/report.txt"));
        assert!(text.lines().all(|line| line.len() <= 80), "80 columns");
    }

    #[test]
    fn a_report_as_json() {
        let text = serde_json::to_string_pretty(&example().document()).unwrap() + "\n";
        assert_eq!(text, include_str!("../tests/golden/report.json"));
    }

    #[test]
    fn the_verdict_follows_from_the_findings() {
        type Change = fn(&mut Report);
        let audit = |report: &mut Report| report.audit.unwrap();
        let rows: [(&str, Change, Verdict); 9] = [
            ("clean", |_| {}, Verdict::Pass),
            ("lost", |r| r.audit.as_mut().unwrap().lost = 1, Verdict::Failed),
            ("corrupted", |r| r.audit.as_mut().unwrap().corrupted = 1, Verdict::Failed),
            ("never sent", |r| r.audit.as_mut().unwrap().never_sent = 1, Verdict::Failed),
            ("disorder, one in flight", |r| r.subject.is_ordered = true, Verdict::Failed),
            ("cut short", |r| r.doubts.push("cut".to_owned()), Verdict::Invalid),
            ("late", |r| record(&mut r.total.slip, 2_000_000, 9_000), Verdict::Invalid),
            ("idle", |r| r.total.counters.sent = 0, Verdict::Invalid),
            ("not audited", |r| r.audit = None, Verdict::Pass),
        ];
        for (case, change, verdict) in rows {
            let mut report = example();
            change(&mut report);
            assert_eq!(report.verdict(), verdict, "{case}");
            let text = report.to_string();
            let last = text.lines().last().unwrap();
            assert!(last.starts_with(&verdict.to_string()) && last.contains("lost "), "{last}");
        }
        let mut both = example();
        both.doubts.push("the run was cut short".to_owned());
        both.audit.as_mut().unwrap().lost = 7;
        assert!(both.to_string().ends_with("; 7 acknowledged, then lost; the run was cut short\n"));
        assert_eq!(audit(&mut both).lost, 7);
    }

    #[test]
    fn a_directory_receives_all_files() {
        let directory = std::env::temp_dir().join(format!("loadgen-report-{}", std::process::id()));
        write_files(&example(), &directory.join("made/for/it")).unwrap();
        for name in ["report.json", "report.html", "latency.hlog", "latency.hgrm"] {
            assert!(fs::metadata(directory.join("made/for/it").join(name)).unwrap().len() > 100);
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
