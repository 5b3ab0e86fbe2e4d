//! `loadgen steady`: one rate for a while.

use crate::clock::unix_ns;
use crate::commands::run::{RunError, announce, execute, prepare, save};
use crate::findings::report::Report;
use crate::findings::rows;
use crate::interrupt::Interrupt;
use crate::options::SteadyOptions;
use crate::plan::scenario::{self, Scenario, asked_of_faults};

pub fn run(options: &SteadyOptions, interrupt: &Interrupt) -> Result<Report, RunError> {
    rows::check(&options.report.fail_if, !options.load.no_consume).map_err(RunError::Usage)?;
    let mut target =
        prepare(&options.target.with_faults(&[]), options.report.out.as_deref(), interrupt)?;
    let start_unix_ns = options.start_at.and_then(unix_ns);
    let mut faults = options.target.faults.clone();
    faults.sort_by_key(|fault| fault.at_ns);
    let asked = asked_of_faults(&faults);
    let scenario = Scenario { start_unix_ns, faults, asked, ..scenario::steady(&options.load) };
    announce(&scenario);
    let mut report = execute(&scenario, &mut target, interrupt)?;
    rows::ask(&mut report, &options.report);
    save(&report, options.report.out.as_deref())?;
    Ok(report)
}
