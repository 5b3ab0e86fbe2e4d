//! The command line: one file for each command, and what they share.
//!
//! Parses, calls into the library, prints. No logic of the product is here. Exit codes: 0 done,
//! 1 it failed, 2 wrong usage or configuration, 4 the target could not be reached.

mod check;
mod cluster;
mod completions;
mod file;
mod msg;
mod output;
mod server;
mod target;
mod topic;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{
    BrokerOptions, DEV_READY_SEGMENTS, DEV_SEGMENT_SIZE, DevOptions, NameServerOptions,
};

/// A message broker that speaks the RocketMQ protocol.
#[derive(Debug, Parser)]
#[command(name = "ringmq", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file in TOML: a section for each command, its long options as keys.
    #[arg(long, global = true, env = "RINGMQ_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(DevOptions),
    Nameserver(NameServerOptions),
    Broker(BrokerOptions),
    Topic(topic::TopicArgs),
    Msg(msg::MsgArgs),
    Cluster(cluster::ClusterArgs),
    Check(check::CheckArgs),
    Completions(completions::CompletionsArgs),
}

/// Why a command did not do what it was asked, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn failed(message: impl ToString) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    pub fn usage(message: impl ToString) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    pub fn unreachable(message: impl ToString) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

/// Runs the command that `args` name, the program's own name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing help to a closed pipe is no failure.
            let _ = error.print();
            let is_help =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if is_help { 0 } else { 2 });
        }
    };
    let result = match cli.command {
        Command::Dev(options) => server::dev(options),
        Command::Nameserver(options) => server::nameserver(options),
        Command::Broker(options) => server::broker(options),
        Command::Topic(args) => topic::run(args),
        Command::Msg(args) => msg::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Check(args) => check::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            eprintln!("ringmq: {message}");
            ExitCode::from(code)
        }
    }
}

/// All commands. `dev` has other defaults than `broker` for the options that they share.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("dev", |dev| {
        dev.mut_arg("segment_size", |size| size.default_value(DEV_SEGMENT_SIZE))
            .mut_arg("ready_segments", |count| count.default_value(DEV_READY_SEGMENTS))
    })
}

/// Reads the command line; what it leaves open comes from the environment and from the file that
/// `--config` names.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    if let Some(path) = file::named_by(args) {
        command = file::apply(command, &path)?;
    }
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}
