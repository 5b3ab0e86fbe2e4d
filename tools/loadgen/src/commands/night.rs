//! `loadgen double11`: searches for the peak unless it is given, then runs the night.

use crate::commands::ramp::{self, Found};
use crate::commands::run::{RunError, execute, prepare, save};
use crate::findings::report::Report;
use crate::findings::rows;
use crate::interrupt::Interrupt;
use crate::options::{Double11Options, Night, Part};
use crate::plan::double11::{self, PEAK_OF_CEILING, PROBE};
use crate::target::cluster::Target;
use crate::units::grouped;

/// Rate at which the search for the ceiling starts, messages per second.
const FIRST_PROBE: f64 = 8_000.0;

pub fn run(options: &Double11Options, interrupt: &Interrupt) -> Result<Report, RunError> {
    let is_given = options.profile.peak().is_some() && options.night != Night::Ceiling;
    if !is_given && options.process.part != Part::WHOLE {
        let text = "a part cannot search for the ceiling alone: give all parts the same --peak";
        return Err(RunError::Usage(text.to_owned()));
    }
    if let Some(peak) = options.profile.peak() {
        double11::check_peak(options, peak).map_err(RunError::Usage)?;
    }
    let mut target = prepare(&options.target(), options.report.out.as_deref(), interrupt)?;
    let mut report = match options.night {
        Night::Ceiling => ceiling(options, &mut target, interrupt)?.report,
        Night::Pulse | Night::Limits | Night::Break => night(options, &mut target, interrupt)?,
    };
    rows::ask(&mut report, &options.report);
    save(&report, options.report.out.as_deref())?;
    Ok(report)
}

fn ceiling(
    options: &Double11Options,
    target: &mut Target,
    interrupt: &Interrupt,
) -> Result<Found, RunError> {
    let brokers = target.brokers.len() as u32;
    let mixture = |rate| double11::mixture(options, rate, PROBE, brokers);
    ramp::search(FIRST_PROBE, options.profile.p99_max, mixture, target, interrupt)
}

fn night(
    options: &Double11Options,
    target: &mut Target,
    interrupt: &Interrupt,
) -> Result<Report, RunError> {
    let mut found_by_search = None;
    let peak = match options.profile.peak() {
        Some(peak) => peak,
        None => {
            let found = ceiling(options, target, interrupt)?;
            // Without a ceiling there is no night; the report of the search says why.
            let Some(rate) = found.rate else { return Ok(found.report) };
            found_by_search = Some(rate);
            rate * PEAK_OF_CEILING
        }
    };
    double11::check_peak(options, peak).map_err(RunError::Usage)?;
    let scenario = double11::scenario(options, peak, target.brokers.len() as u32);
    let mut report = execute(&scenario, target, interrupt)?;
    if let Some(rate) = found_by_search {
        let (rate, part) = (grouped(rate as u64), PEAK_OF_CEILING * 100.0);
        let text =
            format!("the peak is {part:.0} % of {rate} msg/s, which a search found sustained");
        report.notes.insert(0, text);
    }
    Ok(report)
}
