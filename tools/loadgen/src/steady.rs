//! `loadgen steady`: one rate for a while.

use crate::interrupt::Interrupt;
use crate::options::{Rate, SteadyOptions};
use crate::report::Report;
use crate::run::{Plan, RunError, execute, prepare, save};

pub fn run(options: &SteadyOptions, interrupt: &Interrupt) -> Result<Report, RunError> {
    let load = &options.load;
    let target = prepare(&options.target, load, options.out.as_deref(), interrupt)?;
    let plan = match load.rate {
        Rate::PerSecond(rate) => Plan::constant(load, rate),
        Rate::Max => Plan::flat_out(load),
    };
    let report = execute(&plan, &target, interrupt)?;
    save(&report, options.out.as_deref())?;
    Ok(report)
}
