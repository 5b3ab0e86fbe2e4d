//! The configuration file. Its values become the defaults of the options, so the parser validates
//! them like any other value, and the command line and the environment override them.
//!
//! A section is named after a command. `topic` and `msg` have subcommands; their section applies to
//! every subcommand that has the option.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// The file given in the arguments or the environment, determined before anything else is parsed.
pub fn named_by(args: &[OsString]) -> Option<PathBuf> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else { continue };
        if text == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("RINGMQ_CONFIG").map(PathBuf::from)
}

/// `command` with the values of the file at `path` as defaults.
pub fn apply(command: Command, path: &Path) -> Result<Command, Error> {
    let refuse =
        |what: String| Error::raw(ErrorKind::InvalidValue, format!("{}: {what}\n", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error| refuse(format!("{error}")))?;
    table.into_iter().try_fold(command, |command, (section, values)| {
        apply_section(command, &section, values).map_err(&refuse)
    })
}

fn apply_section(
    mut command: Command,
    section: &str,
    values: toml::Value,
) -> Result<Command, String> {
    let names: Vec<String> =
        command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    if !names.iter().any(|name| name == section) {
        return Err(unknown("section", section, &names));
    }
    let toml::Value::Table(values) = values else {
        return Err(format!("[{section}] is not a section"));
    };
    for (key, value) in values {
        let value = text_of(&value)
            .ok_or_else(|| format!("{key} in [{section}] is not a string, number or boolean"))?;
        let sub = command.find_subcommand(section).expect("its name was found above");
        let known: Vec<String> =
            all_arguments(sub).filter_map(Arg::get_long).map(str::to_owned).collect();
        let long = key.replace('_', "-");
        let Some(arg) = all_arguments(sub).find(|arg| arg.get_long() == Some(&long)) else {
            return Err(unknown(&format!("key in [{section}]"), &key, &known));
        };
        if !arg.get_action().takes_values() && value != "true" && value != "false" {
            return Err(format!("{key} in [{section}] is {value:?}; it must be true or false"));
        }
        command = command.mut_subcommand(section, |sub| with_default(sub, &long, &value));
    }
    Ok(command)
}

/// The arguments of a command and of its subcommands, which share one section.
fn all_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments))
}

/// `command` with a default for the option `long`, in itself and in the subcommands that have it.
fn with_default(mut command: Command, long: &str, value: &str) -> Command {
    let is_meant = |arg: &&Arg| arg.get_long() == Some(long);
    let id = command.get_arguments().find(is_meant).map(|arg| arg.get_id().clone());
    if let Some(id) = id {
        let value = value.to_owned();
        command = command.mut_arg(id, |arg| arg.default_value(value).required(false));
    }
    command.mut_subcommands(|below| with_default(below, long, value))
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The message about an unknown name, with the name that was probably meant.
fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let distance = |known: &&String| strsim::levenshtein(known, &name.replace('_', "-"));
    match known.iter().min_by_key(distance) {
        Some(nearest) => format!("unknown {what}: {name:?}; did you mean {nearest:?}?"),
        None => format!("unknown {what}: {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::cli::Cli;
    use crate::config::FlushMode;

    fn parse(file: &str, args: &[&str]) -> Result<Cli, String> {
        let directory = std::env::temp_dir().join(format!("ringmq-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("{:08x}.toml", crc32c::crc32c(file.as_bytes())));
        std::fs::write(&path, file).unwrap();
        let command = apply(Cli::command(), &path).map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        let args = ["ringmq"].iter().chain(args);
        let matches = command?.try_get_matches_from(args).map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    fn broker(cli: Cli) -> crate::config::BrokerOptions {
        match cli.command {
            crate::cli::Command::Broker(options) => options,
            other => panic!("not a broker: {other:?}"),
        }
    }

    #[test]
    fn a_file_sets_what_the_command_line_does_not() {
        let file = "[broker]\nnamesrv = '127.0.0.1:1'\nflush = 'async'\nshards = 3\n\
                    auto_create_topics = true\nsegment-size = '64MiB'\n";
        let options = broker(parse(file, &["broker", "--flush", "sync"]).unwrap());
        assert_eq!(options.engine.flush, FlushMode::Sync, "the command line overrides the file");
        assert_eq!(options.engine.shards, Some(3));
        assert_eq!(options.engine.segment_size.0, 64 << 20);
        assert!(options.auto_create_topics);
    }

    #[test]
    fn a_section_applies_to_the_subcommands_of_its_command() {
        let file = "[topic]\nnamesrv = '127.0.0.1:7'\noutput = 'json'\nqueues = 9\n\
                    [msg]\nnamesrv = '127.0.0.1:8'\n";
        let said = |args: &[&str]| format!("{:?}", parse(file, args).unwrap().command);
        let create = said(&["topic", "create", "t"]);
        for part in ["127.0.0.1:7", "Json", "queues: 9"] {
            assert!(create.contains(part), "{create} lacks {part}");
        }
        assert!(said(&["topic", "list"]).contains("127.0.0.1:7"));
        let send = said(&["msg", "send", "t", "x"]);
        assert!(send.contains("127.0.0.1:8") && send.contains("Table"), "{send}");
        let given = said(&["topic", "create", "t", "--queues", "3", "--namesrv", "127.0.0.1:6"]);
        assert!(given.contains("127.0.0.1:6") && given.contains("queues: 3"), "{given}");
    }

    #[test]
    fn errors_in_a_file_name_the_key() {
        let rows = [
            ("[brokr]\n", "unknown section: \"brokr\"; did you mean \"broker\"?"),
            ("[broker]\nflsh = 1\n", "unknown key in [broker]: \"flsh\"; did you mean \"flush\"?"),
            ("[broker]\nflush = [1]\n", "flush in [broker] is not a string, number or boolean"),
            ("[broker]\nauto_create_topics = 'maybe'\n", "it must be true or false"),
            ("[broker\n", "TOML parse error"),
            (
                "[topic]\nnamsrv = 'x'\n",
                "unknown key in [topic]: \"namsrv\"; did you mean \"namesrv\"?",
            ),
            ("[msg]\nqueues = 3\n", "unknown key in [msg]: \"queues\"; did you mean"),
            (
                "[topic]\noutput = ['json']\n",
                "output in [topic] is not a string, number or boolean",
            ),
            ("[topic]\ndry_run = 'maybe'\n", "it must be true or false"),
        ];
        for (file, expected) in rows {
            let error = parse(file, &["broker", "--namesrv", "127.0.0.1:1"]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = parse("[broker]\nflush = 'often'\n", &["broker", "--namesrv", "127.0.0.1:1"]);
        assert!(error.unwrap_err().contains("often"), "the parser validates values of the file");
        let error = parse("[topic]\nqueues = 'many'\n", &["topic", "create", "t"]);
        assert!(error.unwrap_err().contains("many"), "in subcommands too");
    }
}
