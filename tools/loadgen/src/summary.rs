//! A report as text of at most 80 columns, the last line of which is the verdict.

use std::fmt::{self, Display};

use crate::audit::Audit;
use crate::histogram::Percentiles;
use crate::measure::Interval;
use crate::report::{Report, rate};
use crate::units::grouped;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        writeln!(f, "{:<11}{}", "load", self.subject.load)?;
        writeln!(f, "{:<11}{}\n", "target", self.subject.target)?;
        self.write_counts(f, &total)?;
        write_percentiles(f, &total)?;
        let audit = self.audit();
        self.write_audit(f, &audit)?;
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{:<11}{note}", "note")?;
        }
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
        write!(f, "\n{:<11}acknowledged {sent}/s, {mb_per_s:.1} MB/s", "rate")?;
        if self.is_audited() {
            write!(f, "; consumed {consumed}/s")?;
        }
        writeln!(f, "; over {seconds:.2} s")
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
            write!(f, "{:>11.3}", value as f64 / 1e6)?;
        }
        writeln!(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::report::tests::example;

    #[test]
    fn a_report_as_printed() {
        let text = example().to_string();
        assert_eq!(text, include_str!("../tests/golden/report.txt"));
        assert!(text.lines().all(|line| line.len() <= 80), "80 columns");
    }
}
