//! The command line: one file per command, and what they share.
//!
//! Parses, calls into the library, prints; no product logic. Exit codes: 0 success, 1 failure,
//! 2 wrong usage or configuration, 4 the target is unreachable.

mod check;
mod cluster;
mod completions;
mod failure;
mod file;
mod group;
mod msg;
mod output;
mod replica;
mod server;
mod target;
mod topic;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::failure::Failure;
use crate::config::{
    BrokerOptions, DEV_READY_SEGMENTS, DEV_SEGMENT_SIZE, DevOptions, NameServerOptions,
};

/// A message broker that speaks the RocketMQ protocol.
#[derive(Debug, Parser)]
#[command(name = "ringmq", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file in TOML: one section per command, with its long option names as keys.
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
    Group(group::GroupArgs),
    Msg(msg::MsgArgs),
    Cluster(cluster::ClusterArgs),
    Replica(replica::ReplicaArgs),
    Check(check::CheckArgs),
    Completions(completions::CompletionsArgs),
}

/// Runs the command in `args`, which start with the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing help to a closed pipe is not a failure.
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
        Command::Group(args) => group::run(args),
        Command::Msg(args) => msg::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Replica(args) => replica::run(args),
        Command::Check(args) => check::run(args),
        Command::Completions(args) => completions::run(args, command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            eprintln!("ringmq: {message}");
            ExitCode::from(code)
        }
    }
}

/// All commands. Some options that `dev` and `broker` share have other defaults in `dev`.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("dev", |dev| {
        dev.mut_arg("segment_size", |size| size.default_value(DEV_SEGMENT_SIZE))
            .mut_arg("ready_segments", |count| count.default_value(DEV_READY_SEGMENTS))
    })
}

/// Parses the command line, completed from the environment and the file given with `--config`.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    if let Some(path) = file::named_by(args) {
        command = file::apply(command, &path)?;
    }
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_has_a_help_line() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path}");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path}: {}", argument.get_id());
            }
            command.get_subcommands().for_each(|below| check(below, &path));
        }
        check(&command(), "");
    }
}
