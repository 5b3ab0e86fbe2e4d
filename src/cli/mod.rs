//! The command line: one file per command, and what they share.
//!
//! Parses, calls into the library, prints; no product logic. Exit codes: 0 success, 1 failure,
//! 2 wrong usage or configuration, 4 the target is unreachable.

mod check;
mod cluster;
mod completions;
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

/// Why a command failed, and its exit code.
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

    /// Errors and documents must not name an option that does not exist.
    #[test]
    fn options_that_errors_and_documents_name_are_there() {
        fn collect(command: &clap::Command, known: &mut Vec<String>) {
            known.extend(command.get_arguments().filter_map(|one| one.get_long()).map(Into::into));
            command.get_subcommands().for_each(|below| collect(below, known));
        }
        let mut known = vec!["help".to_owned(), "version".to_owned()];
        collect(&command(), &mut known);
        let texts = [
            ("docs/errors.md", include_str!("../../docs/errors.md")),
            ("shard/plan.rs", include_str!("../shard/plan.rs")),
            ("shard/run.rs", include_str!("../shard/run.rs")),
            ("shard/data.rs", include_str!("../shard/data.rs")),
            ("shard/listener.rs", include_str!("../shard/listener.rs")),
            ("shard/nameserver.rs", include_str!("../shard/nameserver.rs")),
            ("client/error.rs", include_str!("../client/error.rs")),
            ("client/registrar.rs", include_str!("../client/registrar.rs")),
            ("config.rs", include_str!("../config.rs")),
        ];
        for (file, text) in texts {
            for rest in text.split("--").skip(1) {
                let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
                let name: String = rest.chars().take_while(|&c| is_part(c)).collect();
                let is_option = !name.is_empty() && !name.starts_with('-');
                assert!(!is_option || known.contains(&name), "{file} names --{name}");
            }
        }
    }

    /// Commands that the documents show have the options with which they are shown.
    #[test]
    fn commands_in_documents_have_the_options_that_they_show() {
        let documents = [
            ("README.md", include_str!("../../README.md")),
            ("docs/operations.md", include_str!("../../docs/operations.md")),
            ("docs/errors.md", include_str!("../../docs/errors.md")),
        ];
        let mut shown = 0;
        for (file, text) in documents {
            for line in text.lines() {
                let begins = line.match_indices("ringmq ").map(|(begin, _)| begin);
                shown += begins.filter(|begin| check_shown(file, &line[*begin..])).count();
            }
        }
        assert!(shown > 20, "{shown}");
    }

    /// Checks the options of the command at the front of a line, if it is one. Returns whether it is.
    fn check_shown(file: &str, line: &str) -> bool {
        let end = line.find(['`', '|', '&', '#']).unwrap_or(line.len());
        let mut words = line[..end].split_whitespace().skip(1).peekable();
        let (root, mut depth) = (command(), 0);
        let mut at = &root;
        while let Some(below) = words.peek().and_then(|word| at.find_subcommand(word)) {
            (at, depth) = (below, depth + 1);
            words.next();
        }
        let options = words.filter_map(|word| word.strip_prefix("--"));
        for option in options {
            let name = option.split('=').next().unwrap_or_default();
            let is_known = |one: &clap::Arg| one.get_long() == Some(name);
            let is_known = name == "help" || at.get_arguments().any(is_known);
            assert!(depth == 0 || is_known, "{file}: no --{name} in {line}");
        }
        depth > 0
    }
}
