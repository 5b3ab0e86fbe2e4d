//! `loadgen`: reads the options, runs one command, prints its report.

use std::process::ExitCode;

use clap::Parser;
use loadgen::interrupt::Interrupt;
use loadgen::options::{Command, Options};
use loadgen::run::RunError;
use loadgen::{ramp, steady};

fn main() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("loadgen: {error}");
            error.exit_code().into()
        }
    }
}

/// The exit code follows from the verdict; a run that did not come about is an error.
fn run(options: &Options) -> Result<u8, RunError> {
    let interrupt = Interrupt::on_signals().map_err(RunError::Generator)?;
    let report = match &options.command {
        Command::Steady(options) => steady::run(options, &interrupt)?,
        Command::Ramp(options) => ramp::run(options, &interrupt)?,
    };
    print!("{report}");
    Ok(report.verdict().exit_code())
}
