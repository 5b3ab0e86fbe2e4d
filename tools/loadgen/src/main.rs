//! `loadgen`: reads the options, runs one command, prints its report.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use loadgen::embedded::SERVER_COMMAND;
use loadgen::interrupt::Interrupt;
use loadgen::options::{Command, Options};
use loadgen::run::RunError;
use loadgen::{ramp, steady};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == SERVER_COMMAND) {
        return ringmq::cli::run(args.into_iter().skip(1));
    }
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

/// As many sockets as the system allows: every connection is a descriptor.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it may not be raised, connecting fails later and says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The exit code follows from the verdict; a run that did not come about is an error.
fn run(options: &Options) -> Result<u8, RunError> {
    raise_descriptor_limit();
    let interrupt = Interrupt::on_signals().map_err(RunError::Generator)?;
    let report = match &options.command {
        Command::Steady(options) => steady::run(options, &interrupt)?,
        Command::Ramp(options) => ramp::run(options, &interrupt)?,
    };
    print!("{report}");
    Ok(report.verdict().exit_code())
}
