//! `loadgen`: parses the options, runs one command, prints its report.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use loadgen::commands::run::{RunError, save};
use loadgen::interrupt::Interrupt;
use loadgen::options::{Command, Options};
use loadgen::target::embedded::SERVER_COMMAND;
use loadgen::{
    commands::file_run, commands::night, commands::ramp, commands::steady, findings::merge,
    findings::rows, show::compare,
};
use ringmq::shard::preflight::raise_limits;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == SERVER_COMMAND) {
        return ringmq::cli::run(args.into_iter().skip(1));
    }
    // On wrong usage, `parse` exits with code 2.
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("loadgen: {error}");
            error.exit_code().into()
        }
    }
}

/// The exit code follows from the verdict. A run that could not take place is an error.
fn run(options: &Options) -> Result<u8, RunError> {
    // Every connection needs a file descriptor.
    raise_limits();
    let interrupt = Interrupt::on_signals().map_err(RunError::Generator)?;
    let report = match &options.command {
        Command::Steady(options) => steady::run(options, &interrupt)?,
        Command::Ramp(options) => ramp::run(options, &interrupt)?,
        Command::Double11(options) => night::run(options, &interrupt)?,
        Command::Run(options) => file_run::run(options, &interrupt)?,
        Command::Merge(options) => {
            let mut report = merge::run(&options.reports)?;
            rows::ask(&mut report, &options.report);
            save(&report, options.report.out.as_deref())?;
            report
        }
        Command::Compare(options) => {
            // A comparison has no verdict, so it exits with 0.
            print!("{}", compare::run(&options.reports, options.out.as_deref())?);
            return Ok(0);
        }
    };
    print!("{report}");
    Ok(report.exit_code())
}
