//! The result of a run in two independent halves: the *verdict* is about the broker's promises, the
//! *figures* are about the generator.
//!
//! A busy laptop must not turn a correct broker into a failure, and a clean audit must not validate
//! latencies that the generator caused. [`crate::findings::report`] decides which reasons lead to
//! which verdict.

use std::fmt::{self, Display};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::engine::histogram::Percentiles;
use crate::units::ms;

/// In ascending order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Everything acknowledged was received, intact and in order, and the load was delivered.
    Pass,
    /// Less of the load was acknowledged than [`DELIVERED_MIN`].
    Overloaded,
    /// Losses cannot be ruled out: the run was cut short, or queues were not read to their end.
    Incomplete,
    /// An acknowledged message was lost or corrupted, or came out of order in a stream that
    /// requires order, or a delayed one came before it was due.
    Failed,
}

/// Minimum share of the due messages that must be acknowledged.
pub const DELIVERED_MIN: f64 = 0.99;

/// A sending thread that uses more than this share of its core has no headroom to send on time.
pub const SENDER_SHARE_MAX: f64 = 0.9;

/// Exit code of a run that needs valid figures and has none.
const EXIT_NOT_VALID: u8 = 3;
/// Exit code of a run that missed a threshold.
const EXIT_THRESHOLD: u8 = 6;

/// Whether the latencies describe the broker, or the machine that measured it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub valid: bool,
    /// Why not, most important first.
    pub reasons: Vec<String>,
}

/// What determines the exit code.
#[derive(Clone, Copy, Debug)]
pub struct Conclusion {
    pub verdict: Verdict,
    pub has_valid_figures: bool,
    /// The run has `--strict` or a requested threshold, or is a search.
    pub needs_valid_figures: bool,
    pub misses_a_threshold: bool,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Failed => 1,
            Self::Overloaded => 5,
            Self::Incomplete => 7,
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Overloaded => "OVERLOADED",
            Self::Incomplete => "INCOMPLETE",
            Self::Failed => "FAILED",
        })
    }
}

impl Conclusion {
    /// Precedence: broken promises of the broker, then what the run cannot say, then what it says.
    pub fn exit_code(self) -> u8 {
        match self.verdict {
            Verdict::Pass if self.needs_valid_figures && !self.has_valid_figures => EXIT_NOT_VALID,
            Verdict::Pass if self.misses_a_threshold => EXIT_THRESHOLD,
            verdict => verdict.exit_code(),
        }
    }
}

/// Reasons why the generator's lateness makes the latencies not valid: those of acknowledgements, or
/// of refusals if there are no others. Without any, every message that was sent late still counts.
pub fn lateness(
    generator: &Histogram<u64>,
    latency: &Histogram<u64>,
    refused: &Histogram<u64>,
) -> Vec<String> {
    /// Lateness below this is never a material part of a latency.
    const LATE_NS: u64 = 1_000_000;
    /// Lateness above the latency divided by this is material.
    const PART_MAX: u64 = 4;
    /// Messages later than this count as sent late, unless the tail of the latency is long.
    const SENT_LATE_NS: u64 = 5_000_000;
    const SENT_LATE_PART_MAX: f64 = 0.001;
    if generator.is_empty() {
        return Vec::new();
    }
    let latency = if latency.is_empty() { refused } else { latency };
    let (late, all) = (Percentiles::of(generator), Percentiles::of(latency));
    let rows =
        [("p50", late.p50, all.p50), ("p99", late.p99, all.p99), ("p99.9", late.p99_9, all.p99_9)];
    let is_material = |(_, late, all): &(&str, u64, u64)| {
        !latency.is_empty() && *late > LATE_NS && *late > all / PART_MAX
    };
    let reason = |(name, late, all): (&str, u64, u64)| {
        format!("lateness {:.1} of {:.1} ms at {name}", ms(late), ms(all))
    };
    let mut reasons: Vec<String> = rows.into_iter().filter(is_material).map(reason).collect();
    let limit_ns = SENT_LATE_NS.max(all.p99_9 / PART_MAX);
    let in_time = generator.count_between(0, limit_ns).min(generator.len());
    let part = (generator.len() - in_time) as f64 / generator.len() as f64;
    if part > SENT_LATE_PART_MAX {
        reasons.push(format!("{:.1} % sent over {:.0} ms late", part * 100.0, ms(limit_ns)));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::histogram::{empty, record};

    #[test]
    fn the_first_of_several_reasons_decides_the_exit_code() {
        use Verdict::{Failed, Incomplete, Overloaded, Pass};
        let rows = [
            (Failed, [1, 1, 1]),
            (Incomplete, [7, 7, 7]),
            (Overloaded, [5, 5, 5]),
            (Pass, [3, 6, 0]),
        ];
        for (verdict, codes) in rows {
            let of = |has_valid_figures, misses_a_threshold| {
                let needs_valid_figures = true;
                Conclusion { verdict, has_valid_figures, needs_valid_figures, misses_a_threshold }
                    .exit_code()
            };
            assert_eq!([of(false, true), of(true, true), of(true, false)], codes, "{verdict}");
        }
        let busy = Conclusion {
            verdict: Pass,
            has_valid_figures: false,
            needs_valid_figures: false,
            misses_a_threshold: false,
        };
        assert_eq!(busy.exit_code(), 0, "a busy machine is no failure");
    }

    /// Both histograms as (milliseconds, count).
    #[test]
    fn figures_are_not_valid_when_lateness_is_a_material_part_of_them() {
        type Values = &'static [(f64, u64)];
        let rows: [(Values, Values, &[&str]); 10] = [
            (&[(9.0, 1_000)], &[], &["100.0 % sent over 5 ms late"]),
            (&[(4.0, 1_000)], &[], &[]),
            (&[(0.02, 1_000)], &[(0.4, 1_000)], &[]),
            // A large share of the latency, but too small to matter.
            (&[(0.9, 1_000)], &[(1.0, 1_000)], &[]),
            // Two of eight milliseconds are one quarter; two of seven are more.
            (&[(1.9, 1_000)], &[(8.0, 1_000)], &[]),
            (&[(2.0, 1_000)], &[(7.0, 1_000)], &["lateness 2.0 of 7.0 ms at p50", "p99", "p99.9"]),
            (&[(0.1, 980), (3.0, 20)], &[(0.4, 980), (4.0, 20)], &["at p99", "at p99.9"]),
            (&[(0.1, 9_980), (3.0, 20)], &[(0.4, 9_980), (4.0, 20)], &["at p99.9"]),
            // One stall of the generator, visible in the latencies too.
            (
                &[(0.1, 9_980), (150.0, 20)],
                &[(0.4, 9_980), (150.0, 20)],
                &["at p99.9", "0.2 % sent over 38 ms late"],
            ),
            // Late, but latencies that are much longer hardly show it.
            (&[(0.1, 9_980), (20.0, 20)], &[(500.0, 10_000)], &[]),
        ];
        let histogram = |values: Values| {
            let mut histogram = empty();
            values.iter().for_each(|(ms, count)| record(&mut histogram, (ms * 1e6) as u64, *count));
            histogram
        };
        for (generator, latency, wanted) in rows {
            let reasons = lateness(&histogram(generator), &histogram(latency), &empty());
            let are_there =
                reasons.iter().zip(wanted).all(|(found, wanted)| found.ends_with(wanted));
            assert!(reasons.len() == wanted.len() && are_there, "{generator:?}: {reasons:?}");
        }
    }
}
