//! `loadgen run FILE`: executes a workload file, at its own rate or at one that is searched for.

use std::time::Duration;

use crate::commands::ramp;
use crate::commands::run::{RunError, announce, execute, prepare, save};
use crate::findings::report::Report;
use crate::findings::rows;
use crate::interrupt::Interrupt;
use crate::options::{Part, RunOptions};
use crate::plan::scenario::{Criterion, Scenario, asked_of_faults};
use crate::plan::workload::{self, Workload};
use crate::target::cluster::Target;
use crate::units::grouped;

/// Rate at which a search starts, messages per second: that of OpenMessaging Benchmark.
const FIRST_PROBE: f64 = 10_000.0;
/// Duration of each step of the search.
const PROBE: Duration = Duration::from_secs(5);

pub fn run(options: &RunOptions, interrupt: &Interrupt) -> Result<Report, RunError> {
    let workload = workload::read(&options.file)?;
    if workload.is_search() && options.process.part != Part::WHOLE {
        let text = "a part cannot search for a rate alone: give the file a producerRate";
        return Err(RunError::Usage(text.to_owned()));
    }
    rows::check(&options.report.fail_if, workload.is_consumed()).map_err(RunError::Usage)?;
    let target = options.target.with_faults(workload.faults());
    let mut target = prepare(&target, options.report.out.as_deref(), interrupt)?;
    let mut report = carry_out(&workload, options, &mut target, interrupt)?;
    rows::ask(&mut report, &options.report);
    save(&report, options.report.out.as_deref())?;
    Ok(report)
}

fn carry_out(
    workload: &Workload,
    options: &RunOptions,
    target: &mut Target,
    interrupt: &Interrupt,
) -> Result<Report, RunError> {
    let brokers = target.brokers.len() as u32;
    if !workload.is_search() {
        let scenario = with_faults(workload.scenario(&options.process, None, brokers), options);
        announce(&scenario);
        return execute(&scenario, target, interrupt);
    }
    let probe = |rate| workload.probe(&options.process, rate, PROBE, brokers);
    let found = ramp::search(FIRST_PROBE, options.p99_max, probe, target, interrupt)?;
    // Without a rate there is no run; the report of the search says why.
    let Some(rate) = found.rate else { return Ok(found.report) };
    let scenario = workload.scenario(&options.process, Some(rate), brokers);
    let scenario = with_faults(scenario, options);
    announce(&scenario);
    let mut report = execute(&scenario, target, interrupt)?;
    report.notes.insert(0, format!("{} msg/s were found by a search", grouped(rate as u64)));
    Ok(report)
}

/// With the faults of the command line in addition.
fn with_faults(mut scenario: Scenario, options: &RunOptions) -> Scenario {
    if !options.target.faults.is_empty() {
        scenario.faults.extend(options.target.faults.iter().cloned());
        scenario.faults.sort_by_key(|fault| fault.at_ns);
        scenario.asked.retain(|asked| !matches!(asked, Criterion::BackWithin { .. }));
        scenario.asked.extend(asked_of_faults(&scenario.faults));
    }
    scenario
}
