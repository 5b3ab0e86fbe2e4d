//! The configuration file. Its values become the defaults of the options they name, so that the
//! parser checks them like any other, and the command line and the environment stand above them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// The file that the arguments or the environment name, found before anything else is parsed.
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
        let long = key.replace('_', "-");
        let sub = command.find_subcommand(section).expect("its name was found above");
        let options: Vec<String> =
            sub.get_arguments().filter_map(Arg::get_long).map(str::to_owned).collect();
        let is_flag = |arg: &Arg| arg.get_action().takes_values();
        let Some(arg) = sub.get_arguments().find(|arg| arg.get_long() == Some(&long)) else {
            return Err(unknown(&format!("key in [{section}]"), &key, &options));
        };
        let (id, takes_value) = (arg.get_id().clone(), is_flag(arg));
        let value = text_of(&value)
            .ok_or_else(|| format!("{key} in [{section}] is neither text, number nor bool"))?;
        if !takes_value && value != "true" && value != "false" {
            return Err(format!("{key} in [{section}] is {value:?}, allowed are true and false"));
        }
        command = command.mut_subcommand(section, |sub| {
            sub.mut_arg(id, |arg| arg.default_value(value).required(false))
        });
    }
    Ok(command)
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Names what is wrong and what was probably meant.
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
    fn a_file_gives_what_the_command_line_leaves_open() {
        let file = "[broker]\nnamesrv = '127.0.0.1:1'\nflush = 'async'\nshards = 3\n\
                    auto_create_topics = true\nsegment-size = '64MiB'\n";
        let options = broker(parse(file, &["broker", "--flush", "sync"]).unwrap());
        assert_eq!(options.engine.flush, FlushMode::Sync, "the command line stands above the file");
        assert_eq!(options.engine.shards, Some(3));
        assert_eq!(options.engine.segment_size.0, 64 << 20);
        assert!(options.auto_create_topics);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let rows = [
            ("[brokr]\n", "unknown section: \"brokr\"; did you mean \"broker\"?"),
            ("[broker]\nflsh = 1\n", "unknown key in [broker]: \"flsh\"; did you mean \"flush\"?"),
            ("[broker]\nflush = [1]\n", "flush in [broker] is neither text, number nor bool"),
            ("[broker]\nauto_create_topics = 'maybe'\n", "allowed are true and false"),
            ("[broker\n", "TOML parse error"),
        ];
        for (file, expected) in rows {
            let error = parse(file, &["broker", "--namesrv", "127.0.0.1:1"]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = parse("[broker]\nflush = 'often'\n", &["broker", "--namesrv", "127.0.0.1:1"]);
        assert!(error.unwrap_err().contains("often"), "the parser checks values of the file");
    }
}
