//! `loadgen ramp`: the highest rate that a target sustains.
//!
//! A sequence of steady runs on one target, each audited like any other. The rate is doubled until
//! a run is not sustained. Then the gap between the highest sustained rate and the lowest other one
//! is halved, on a logarithmic scale, until it is small. Only these runs decide, never the
//! throughput of a run at full speed: a flooded broker shows its throughput and hides its latency.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::commands::run::{RunError, execute, prepare, save};
use crate::findings::report::{Report, Row};
use crate::findings::rows;
use crate::findings::verdict::Verdict;
use crate::interrupt::Interrupt;
use crate::options::{LoadOptions, RampOptions, Rate};
use crate::plan::scenario::{self, Scenario};
use crate::target::cluster::Target;
use crate::units::{FLAT_OUT, grouped, ms, scheduled};

/// The search ends when the lowest rate that is not sustained is at most this factor above the
/// highest that is.
const PRECISION: f64 = 1.05;
/// Maximum number of runs: ten doublings or halvings, halvings of the gap to five per cent, the
/// second tries of rates that are not sustained, and a margin.
const STEPS_MAX: usize = 48;
/// Minimum share of the due messages that must be acknowledged within the run.
const KEPT_MIN: f64 = 0.99;
/// Maximum time from the end of sending to the end of consuming.
const BACKLOG_MAX: Duration = Duration::from_secs(1);

pub fn run(options: &RampOptions, interrupt: &Interrupt) -> Result<Report, RunError> {
    let first = match options.load.rate {
        Rate::PerSecond(first) => Ok(first),
        Rate::Max { instead_of: None } => Err("--rate max: a ramp begins at a rate".to_owned()),
        Rate::Max { instead_of: Some(rate) } => scheduled("--rate", rate)
            .map_err(|text| format!("{text}, and a ramp begins at a rate: give a lower one")),
    };
    let first = first.map_err(RunError::Usage)?;
    if !options.target.faults.is_empty() {
        return Err(RunError::Usage("a ramp has no faults".to_owned()));
    }
    rows::check(&options.report.fail_if, !options.load.no_consume).map_err(RunError::Usage)?;
    let mut target = prepare(&options.target, options.report.out.as_deref(), interrupt)?;
    let scenario = |rate: f64| {
        scenario::steady(&LoadOptions { rate: Rate::PerSecond(rate), ..options.load.clone() })
    };
    let mut found = search(first, options.p99_max, scenario, &mut target, interrupt)?;
    rows::ask(&mut found.report, &options.report);
    save(&found.report, options.report.out.as_deref())?;
    Ok(found.report)
}

/// The result of a search.
pub struct Found {
    /// Highest rate that was sustained, messages per second.
    pub rate: Option<f64>,
    /// The report of the best run, or of the last if no rate was sustained.
    pub report: Report,
}

/// Searches for the highest rate at which `scenario` is sustained, starting with `first`.
pub fn search(
    first: f64,
    p99_max: Duration,
    scenario: impl Fn(f64) -> Scenario,
    target: &mut Target,
    interrupt: &Interrupt,
) -> Result<Found, RunError> {
    let mut search = Search::starting_at(first);
    let mut steps: Vec<Step> = Vec::new();
    let (mut best, mut other) = (None, None);
    while let Some(rate) = search.next_rate().filter(|_| steps.len() < STEPS_MAX) {
        let scenario = scenario(rate);
        let report = execute(&scenario, target, interrupt)?;
        let step = Step::of(&report, rate, &scenario, p99_max);
        eprintln!("{}", step.line());
        search.tell(step.trouble.is_none());
        // A broken promise is a result at any rate; an interrupted run has none.
        if report.verdict() == Verdict::Failed || interrupt.is_raised() {
            (best, other) = (None, Some(report));
            steps.push(step);
            break;
        }
        *(if step.trouble.is_none() { &mut best } else { &mut other }) = Some(report);
        steps.push(step);
    }
    let rate = best.is_some().then_some(search.sustained);
    Ok(Found { rate, report: conclude(best, other, &search, &steps)? })
}

/// The report of the best run, with a summary of the others.
fn conclude(
    best: Option<Report>,
    other: Option<Report>,
    search: &Search,
    steps: &[Step],
) -> Result<Report, RunError> {
    let is_found = best.is_some();
    let none = || RunError::Usage("no rate could be tried".to_owned());
    let mut report = best.or(other).ok_or_else(none)?;
    let mut notes = Vec::new();
    if is_found {
        let rate = grouped(search.sustained as u64);
        notes.push(format!("{rate} msg/s is the highest rate sustained; this is that run"));
    } else {
        report.rows.push(Row {
            what: "a rate is sustained".to_owned(),
            wanted: "one".to_owned(),
            found: "none".to_owned(),
            is_met: Some(false),
            is_required: true,
        });
    }
    // A rate below was sustained at its second try.
    let is_above = |step: &&Step| step.trouble.is_some() && step.rate > search.sustained;
    if let Some(step) = steps.iter().filter(is_above).min_by(|a, b| a.rate.total_cmp(&b.rate)) {
        let trouble = step.trouble.as_deref().unwrap_or_default();
        notes.push(format!("{} msg/s is not: {trouble}", grouped(step.rate as u64)));
    }
    if search.refused == Some(FLAT_OUT) {
        let max = grouped(FLAT_OUT as u64);
        notes.push(format!("{max} msg/s and more were not tried: such rates mean `max`"));
    }
    report.notes.splice(0..0, notes);
    // If the generator was late, the rate found may be its own limit.
    report.needs_valid_figures = true;
    report.subject.environment.insert("ramp".to_owned(), json!(steps));
    Ok(report)
}

/// One step of the search.
#[derive(Clone, Debug, Serialize)]
struct Step {
    rate: f64,
    acknowledged_per_s: f64,
    p99_ms: f64,
    /// Why the rate was not sustained.
    trouble: Option<String>,
}

impl Step {
    fn of(report: &Report, rate: f64, scenario: &Scenario, p99_max: Duration) -> Self {
        let total = report.total();
        let planned = Duration::from_nanos(scenario.end_ns()).saturating_sub(report.warm_up());
        let seconds = report.sending().max(planned).as_secs_f64();
        let counters = &total.counters;
        let done = counters.acknowledged + counters.one_way;
        let acknowledged_per_s = done as f64 / seconds;
        // Of few messages, their maximum.
        let p99 = total.waits().at_any_count(0.99);
        let p99_ms = ms(p99.ns);
        let backlog = report.consuming().saturating_sub(report.sending());
        let decisive = report.failures().chain(report.gaps()).next();
        let trouble = if decisive.is_some() {
            decisive
        } else if (done as f64) < counters.due as f64 * KEPT_MIN {
            let rate = grouped(acknowledged_per_s as u64);
            Some(format!("only {rate} msg/s were acknowledged"))
        } else if counters.refused + counters.unknown + counters.not_sent > 0 {
            Some("messages were refused or not answered".to_owned())
        } else if p99.is_at_least || Duration::from_nanos(p99.ns) > p99_max {
            Some(format!("latency p99 {}", p99.shown(|ns| format!("{:.1} ms", ms(ns)))))
        } else if backlog > BACKLOG_MAX {
            Some(format!("consuming ended {:.1} s after sending", backlog.as_secs_f64()))
        } else {
            None
        };
        Self { rate, acknowledged_per_s, p99_ms, trouble }
    }

    fn line(&self) -> String {
        let what = self.trouble.as_deref().unwrap_or("sustained");
        format!("ramp {:>12} msg/s  p99 {:.2} ms  {what}", grouped(self.rate as u64), self.p99_ms)
    }
}

/// Decides which rate to try next. Does not know how a rate is tried.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// Highest rate that was sustained; 0 if there is none yet.
    sustained: f64,
    /// Lowest rate that was not sustained, or [`FLAT_OUT`], from which on there are no schedules.
    refused: Option<f64>,
    next: f64,
    /// `next` was tried once and not sustained.
    is_second_try: bool,
}

impl Search {
    fn starting_at(rate: f64) -> Self {
        Self { sustained: 0.0, refused: None, next: rate, is_second_try: false }
    }

    /// `None`: the result is precise enough.
    fn next_rate(&self) -> Option<f64> {
        let is_found = self.refused.is_some_and(|refused| refused <= self.sustained * PRECISION);
        (!is_found && self.next >= 1.0).then_some(self.next)
    }

    /// Records whether [`next_rate`](Self::next_rate) was sustained.
    ///
    /// A rate is given up only when it was not sustained twice: machines stall now and then, and
    /// one stall at a low rate would end the search far below the limit.
    fn tell(&mut self, is_sustained: bool) {
        self.is_second_try = !is_sustained && !self.is_second_try;
        if self.is_second_try {
            return;
        }
        if is_sustained {
            self.sustained = self.sustained.max(self.next);
        } else {
            self.refused = Some(self.refused.map_or(self.next, |rate| rate.min(self.next)));
        }
        let doubled = self.next * 2.0;
        if self.refused.is_none() && matches!(Rate::of(doubled), Rate::Max { .. }) {
            self.refused = Some(FLAT_OUT);
        }
        self.next = match self.refused {
            None => doubled,
            Some(refused) if self.sustained == 0.0 => refused / 2.0,
            Some(refused) => (refused * self.sustained).sqrt(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::report::tests::example;

    /// However far the limit is from the first rate, the search converges to its precision.
    #[test]
    fn the_search_ends_just_below_the_limit() {
        for limit in [10.0, 900.0, 10_000.0, 123_456.0, 1e6, 9e6] {
            let mut search = Search::starting_at(10_000.0);
            let mut steps = 0;
            while let Some(rate) = search.next_rate() {
                search.tell(rate <= limit);
                steps += 1;
            }
            assert!(steps <= STEPS_MAX, "{limit}: {steps} runs");
            let found = search.sustained;
            assert!(found <= limit && limit <= found * PRECISION, "{limit}: {found}");
        }
    }

    /// From there on a rate has no schedule, so that it could not be kept nor missed.
    #[test]
    fn no_rate_is_tried_that_means_max() {
        let mut search = Search::starting_at(10_000.0);
        let mut highest: f64 = 0.0;
        while let Some(rate) = search.next_rate() {
            highest = highest.max(rate);
            search.tell(true);
        }
        assert!(highest < FLAT_OUT && highest * PRECISION >= FLAT_OUT, "{highest}");
        let report = conclude(Some(example()), None, &search, &[]).unwrap();
        let note = "10,000,000 msg/s and more were not tried: such rates mean `max`";
        assert_eq!(report.notes[1], note);
    }

    #[test]
    fn a_lower_rate_that_was_sustained_at_its_second_try_is_not_said_to_be_too_high() {
        let mut search = Search::starting_at(1_000.0);
        (search.sustained, search.refused) = (1_915.0, Some(2_000.0));
        let step = |rate, trouble: Option<&str>| Step {
            rate,
            acknowledged_per_s: rate,
            p99_ms: 1.0,
            trouble: trouble.map(str::to_owned),
        };
        let steps = [
            step(1_414.0, Some("a pause")),
            step(1_414.0, None),
            step(2_000.0, Some("too much")),
            step(1_915.0, None),
        ];
        let report = conclude(Some(example()), None, &search, &steps).unwrap();
        let wanted = [
            "1,915 msg/s is the highest rate sustained; this is that run",
            "2,000 msg/s is not: too much",
        ];
        assert_eq!(report.notes[..2], wanted);
    }

    #[test]
    fn one_pause_does_not_end_the_search() {
        let mut search = Search::starting_at(10_000.0);
        let mut tries = 0;
        while let Some(rate) = search.next_rate() {
            tries += 1;
            search.tell(rate <= 100_000.0 && tries != 2);
        }
        assert!(search.sustained > 95_000.0, "{}", search.sustained);
    }

    #[test]
    fn a_target_that_sustains_nothing_ends_the_search() {
        let mut search = Search::starting_at(10_000.0);
        let mut steps = 0;
        while search.next_rate().is_some() {
            search.tell(false);
            steps += 1;
        }
        assert!(steps < STEPS_MAX && search.sustained == 0.0, "{steps}");
    }
}
