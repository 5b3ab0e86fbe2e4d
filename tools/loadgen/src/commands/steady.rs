//! `loadgen steady`: one rate for a while.

use crate::clock::unix_ns;
use crate::commands::run::{RunError, execute, prepare, save};
use crate::findings::report::Report;
use crate::interrupt::Interrupt;
use crate::options::{Rate, SteadyOptions};
use crate::plan::curve::RateCurve;
use crate::plan::scenario::{self, Scenario};

pub fn run(options: &SteadyOptions, interrupt: &Interrupt) -> Result<Report, RunError> {
    let load = &options.load;
    let mut target = prepare(&options.target, 0, options.out.as_deref(), interrupt)?;
    let curve = match load.rate {
        Rate::PerSecond(rate) => Some(RateCurve::constant(rate, load.duration)),
        Rate::Max => None,
    };
    let start_unix_ns = options.start_at.and_then(unix_ns);
    let steady = scenario::steady(load, curve, load.duration);
    let scenario = Scenario { start_unix_ns, ..steady };
    let report = execute(&scenario, &mut target, interrupt)?;
    save(&report, options.out.as_deref())?;
    Ok(report)
}
