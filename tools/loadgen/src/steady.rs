//! `loadgen steady`: one rate for a while.

use std::path::Path;

use crate::curve::RateCurve;
use crate::interrupt::Interrupt;
use crate::options::{Header, LoadOptions, Rate, SteadyOptions};
use crate::report::{Report, write_files};
use crate::run::{Plan, RunError, execute};
use crate::schedule::Arrivals;
use crate::target::Target;
use crate::units::grouped;

pub fn run(options: &SteadyOptions, interrupt: &Interrupt) -> Result<Report, RunError> {
    let load = &options.load;
    if let Some(directory) = &options.out {
        // A run whose files cannot be written is not worth starting.
        std::fs::create_dir_all(directory).map_err(|cause| files(directory, cause))?;
    }
    let target = Target::prepare(&options.target, load)?;
    if let Some(embedded) = target.embedded() {
        interrupt.take_along(embedded.pid());
    }
    if load.header == Header::Fixed {
        target.require_fixed_header()?;
    }
    let curve = match load.rate {
        Rate::PerSecond(rate) => Some(RateCurve::constant(rate, load.duration)),
        Rate::Max => None,
    };
    let plan = Plan { load, curve, length: load.duration, load_text: describe(load) };
    let report = execute(&plan, &target, interrupt)?;
    if let Some(directory) = &options.out {
        write_files(&report, directory).map_err(|cause| files(directory, cause))?;
    }
    Ok(report)
}

fn files(path: &Path, cause: std::io::Error) -> RunError {
    RunError::Files { path: path.display().to_string(), cause }
}

/// One line of at most 69 columns.
fn describe(load: &LoadOptions) -> String {
    let rate = match load.rate {
        Rate::PerSecond(rate) => format!("{}/s", grouped(rate as u64)),
        Rate::Max => "max".to_owned(),
    };
    let arrivals = match (load.rate, load.arrivals) {
        (Rate::Max, _) => String::new(),
        (_, Arrivals::Poisson) => " poisson".to_owned(),
        (_, Arrivals::Uniform) => " uniform".to_owned(),
        (_, Arrivals::Burst(size)) => format!(" burst:{size}"),
    };
    let header = format!("{:?}", load.header).to_lowercase();
    let seconds = load.duration.as_secs_f64();
    let (size, batch) = (load.message_size, load.batch);
    let (connections, in_flight) = (load.connections, load.in_flight);
    format!(
        "{rate}{arrivals} x {size} B, {seconds} s, batch {batch}, \
         {connections} conn x {in_flight}, {header}"
    )
}
