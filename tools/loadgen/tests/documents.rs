//! Documents, help and error texts name only options that exist in the command that they are about,
//! in both programs.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Command, CommandFactory};

/// What the documents show that is no command of ours.
const NO_COMMAND: [&str; 1] = ["ringmq ready"];
/// Options of benches and scripts that the documents name by themselves.
const FOREIGN: [&str; 4] = ["only", "due", "pending", "control"];
/// Options that the help of one command names as those of others.
const OF_OTHERS: [(&str, &str); 1] = [("loadgen merge", "part")];

/// Sources whose texts tell a user what to do, and the commands in which the user may be. An option
/// must exist in each of them.
const ERRORS: [(&str, &str, &[&str]); 23] = [
    ("src/client/registrar.rs", "ringmq", &["broker", "dev"]),
    ("src/model/refusal.rs", "ringmq", &["broker", "dev"]),
    ("src/cli/group.rs", "ringmq", &["group reset"]),
    ("src/config.rs", "ringmq", &["broker", "dev"]),
    ("src/shard/data.rs", "ringmq", &["broker"]),
    ("src/shard/listener.rs", "ringmq", &["broker", "dev", "nameserver"]),
    ("src/shard/manifest.rs", "ringmq", &["broker", "dev"]),
    ("src/shard/nameserver.rs", "ringmq", &["broker", "dev"]),
    ("src/shard/plan.rs", "ringmq", &["broker"]),
    ("src/shard/preflight.rs", "ringmq", &["broker", "check"]),
    ("src/shard/run.rs", "ringmq", &["dev"]),
    ("src/shard/tree.rs", "ringmq", &["dev"]),
    ("tools/loadgen/src/commands/conclusion.rs", "loadgen", &["steady", "double11", "run"]),
    ("tools/loadgen/src/commands/night.rs", "loadgen", &["double11"]),
    ("tools/loadgen/src/commands/ramp.rs", "loadgen", &["ramp"]),
    ("tools/loadgen/src/findings/reports.rs", "loadgen", &["steady", "ramp", "double11", "run"]),
    ("tools/loadgen/src/findings/rows.rs", "loadgen", &["steady", "ramp", "double11", "run"]),
    ("tools/loadgen/src/plan/double11.rs", "loadgen", &["double11"]),
    ("tools/loadgen/src/plan/scenario.rs", "loadgen", &["steady"]),
    ("tools/loadgen/src/target/embedded/error.rs", "loadgen", &["steady", "double11", "run"]),
    ("tools/loadgen/src/target/embedded/mod.rs", "loadgen", &["steady", "ramp", "double11", "run"]),
    ("tools/loadgen/src/target/faults/filler.rs", "loadgen", &["steady", "double11", "run"]),
    ("tools/loadgen/src/target/faults/mod.rs", "loadgen", &["steady", "double11", "run"]),
];
/// In these sources: options of other programs, and those that one program gives another.
const NOT_SAID: [(&str, &[&str]); 4] = [
    ("src/shard/preflight.rs", &["pid", "memlock", "nofile", "security-opt", "allow-buffered-io"]),
    ("src/shard/tree.rs", &["process", "parent"]),
    ("tools/loadgen/src/target/embedded/mod.rs", &["allow-buffered-io", "namesrv-listen"]),
    (
        "tools/loadgen/src/target/embedded/mod.rs",
        &["listen", "replica", "segment-size", "ready-segments", "disk-reserve"],
    ),
];

/// Sources that read command lines, and say nothing about their options.
const READERS: [&str; 3] = [
    "src/cli/file.rs",
    "tools/loadgen/src/show/compare/candidates.rs",
    "tools/loadgen/src/show/page/story.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `ringmq` and `loadgen`, with the options that all commands share.
fn programs() -> [Command; 2] {
    let mut programs = [ringmq::cli::Cli::command(), loadgen::options::Options::command()];
    programs.iter_mut().for_each(Command::build);
    programs
}

/// Each document, by its path in the repository.
fn documents() -> Vec<(String, String)> {
    let in_docs = fs::read_dir(root().join("docs")).unwrap();
    let in_docs = in_docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let names =
        ["README.md", "ARCHITECTURE.md", "tests/failover/README.md", "tests/field/README.md"];
    let more = ["tests/interop/README.md", "tools/loadgen/README.md"];
    let workloads = ["tools/loadgen/workloads/README.md"];
    let names = names.into_iter().chain(more).chain(workloads).map(str::to_owned);
    let all = names.chain(in_docs.filter(|name| name.ends_with(".md")));
    all.map(|name| (name.clone(), fs::read_to_string(root().join(&name)).unwrap())).collect()
}

/// The code in a document: lines of blocks, with those that continue joined; and code in the text.
fn code(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut lines, mut prose, mut is_block, mut is_continued) =
        (Vec::<String>::new(), String::new(), false, false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose += line;
            prose.push('\n');
        } else {
            let (part, continues) = line.strip_suffix('\\').map_or((line, false), |it| (it, true));
            match lines.last_mut().filter(|_| is_continued) {
                Some(last) => last.push_str(part),
                None => lines.push(part.to_owned()),
            }
            is_continued = continues;
        }
    }
    let inline = prose.split('`').skip(1).step_by(2).map(str::to_owned);
    (lines, inline.collect())
}

/// The simple commands of a line, as words: without quotes and comments.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut word, mut quote) = (vec![Vec::new()], None::<String>, None);
    for letter in line.chars() {
        match (letter, quote) {
            (_, Some(mark)) if mark == letter => quote = None,
            (_, Some(_)) => word.get_or_insert_default().push(letter),
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ' | '\n' | '|' | '&' | ';', None) => {
                all.last_mut().unwrap().extend(word.take());
                if !matches!(letter, ' ' | '\n') {
                    all.push(Vec::new());
                }
            }
            (_, None) => word.get_or_insert_default().push(letter),
        }
    }
    all.last_mut().unwrap().extend(word);
    all
}

/// The name of our program that a command runs, and its arguments.
fn ours(words: &[String]) -> Option<(&str, &[String])> {
    if words.first().is_some_and(|word| word == "cargo") {
        let at = words.iter().position(|word| word == "--")?;
        let is_run = words[1] == "run" && words[..at].ends_with(&["-p".into(), "loadgen".into()]);
        return is_run.then_some(("loadgen", &words[at + 1..]));
    }
    let name = |word: &str| {
        let last = word.rsplit('/').next().filter(|_| !word.contains('='))?;
        ["ringmq", "loadgen"].into_iter().find(|it| last == *it)
    };
    let at = words.iter().position(|word| name(word).is_some())?;
    // As the argument of another program's option, it is a name.
    let is_name = at > 0 && words[at - 1].starts_with('-') && !words[0].contains("taskset");
    (!is_name || words[0] == "watch").then(|| (name(&words[at]).unwrap(), &words[at + 1..]))
}

/// The command that the words begin with, and the words after its name.
fn below<'a>(mut at: &'a Command, words: &'a [String]) -> (&'a Command, &'a [String]) {
    let mut depth = 0;
    while let Some(sub) = words.get(depth).and_then(|word| at.find_subcommand(word)) {
        (at, depth) = (sub, depth + 1);
    }
    (at, &words[depth..])
}

fn has(command: &Command, option: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(option))
}

fn any_has(command: &Command, option: &str) -> bool {
    has(command, option) || command.get_subcommands().any(|below| any_has(below, option))
}

/// The option that a word is.
fn option(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--")?.split('=').next()?;
    (!name.is_empty()).then_some(name)
}

/// The options that a text names.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_part =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    text.match_indices("--").filter_map(move |(at, _)| {
        let is_word = !text[..at].ends_with(|letter: char| letter == '-' || is_part(letter));
        let rest = &text[at + 2..];
        let name = &rest[..rest.find(|letter| !is_part(letter)).unwrap_or(rest.len())];
        let name = name.trim_end_matches('-');
        (is_word && rest.starts_with(|it: char| it.is_ascii_lowercase())).then_some(name)
    })
}

/// What is wrong with a command, if it is one of ours.
fn wrong(programs: &[Command; 2], words: &[String], is_whole: bool) -> Option<String> {
    let (name, arguments) = ours(words)?;
    let program = programs.iter().find(|program| program.get_name() == name).unwrap();
    let (command, rest) = below(program, arguments);
    if command.has_subcommands() && rest.first().is_some_and(|word| !word.starts_with('-')) {
        let is_said = NO_COMMAND.contains(&format!("{name} {}", rest[0]).as_str());
        return (!is_said).then(|| format!("no command {}", rest[0]));
    }
    let options = rest.iter().take_while(|word| *word != "--").filter_map(|word| option(word));
    if let Some(option) = options.into_iter().find(|option| !has(command, option)) {
        return Some(format!("{} has no --{option}", command.get_name()));
    }
    if !is_whole || arguments.is_empty() {
        return None;
    }
    let words = [name.to_owned()].into_iter().chain(arguments.iter().cloned());
    let error = program.clone().try_get_matches_from(words).err()?;
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    (!is_help).then(|| error.to_string())
}

/// Lines of code blocks can be run as they are. Code in the text may be a part of a command.
#[test]
fn commands_in_documents_can_be_given() {
    let programs = programs();
    let (mut problems, mut counts) = (Vec::new(), [0; 2]);
    for (file, text) in documents() {
        let (lines, inline) = code(&text);
        for (kind, is_whole) in [(&lines, true), (&inline, false)] {
            for line in kind {
                for words in commands(line) {
                    counts[usize::from(is_whole)] += usize::from(ours(&words).is_some());
                    let problem = wrong(&programs, &words, is_whole);
                    problems.extend(problem.map(|why| format!("{file}: {line}: {why}")));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(counts[0] > 20 && counts[1] > 30, "{counts:?} commands");
}

/// Of options that a document names without a command, one of our commands has each.
#[test]
fn options_that_documents_name_by_themselves_are_there() {
    let programs = programs();
    let (mut problems, mut count) = (Vec::new(), 0);
    for (file, text) in documents() {
        for code in code(&text).1.iter().filter(|code| code.starts_with("--")) {
            for name in named(code) {
                count += 1;
                let is_ours = programs.iter().any(|program| any_has(program, name));
                if !is_ours && !FOREIGN.contains(&name) {
                    problems.push(format!("{file}: no command has --{name}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 40, "{count} options");
}

/// The help of a command names its own options; that of a command with subcommands, those of one
/// of them.
#[test]
fn options_that_help_names_are_those_of_its_command() {
    fn check(command: &Command, path: &str, problems: &mut Vec<String>) -> usize {
        let path = format!("{path} {}", command.get_name()).trim_start().to_owned();
        let mut texts: Vec<String> = Vec::new();
        texts.extend(command.get_about().map(ToString::to_string));
        texts.extend(command.get_long_about().map(ToString::to_string));
        for argument in command.get_arguments() {
            texts.extend(argument.get_help().map(ToString::to_string));
            texts.extend(argument.get_long_help().map(ToString::to_string));
        }
        let names: Vec<&str> = texts.iter().flat_map(|text| named(text)).collect();
        let is_known =
            |name: &&&str| any_has(command, name) || OF_OTHERS.contains(&(path.as_str(), name));
        let missing = names.iter().filter(|name| !is_known(name));
        problems.extend(missing.map(|name| format!("{path}: no --{name}")));
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        names.len() + below.map(|below| check(below, &path, problems)).sum::<usize>()
    }
    let mut problems = Vec::new();
    let count: usize = programs().iter().map(|it| check(it, "", &mut problems)).sum();
    problems.sort();
    problems.dedup();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 25, "{count} options");
}

/// The texts of a source file, without comments and tests.
fn texts(file: &str) -> String {
    let source = fs::read_to_string(root().join(file)).unwrap();
    let product = source.split("#[cfg(test)]").next().unwrap();
    let is_text = |line: &&str| !line.trim_start().starts_with("//");
    product.lines().filter(is_text).collect::<Vec<_>>().join("\n")
}

#[test]
fn options_that_errors_name_are_those_of_the_command_that_failed() {
    let programs = programs();
    let mut problems = Vec::new();
    for (file, program, names) in ERRORS {
        let program = programs.iter().find(|it| it.get_name() == program).unwrap();
        let text = texts(file);
        let not_said = NOT_SAID.iter().filter(|(known, _)| *known == file);
        let not_said: Vec<&str> = not_said.flat_map(|(_, names)| *names).copied().collect();
        let mut count = 0;
        for option in named(&text).filter(|option| !not_said.contains(option)) {
            count += 1;
            for path in names {
                let words: Vec<String> = path.split(' ').map(str::to_owned).collect();
                let (command, rest) = below(program, &words);
                assert!(rest.is_empty(), "{path}");
                if !has(command, option) {
                    problems.push(format!("{file}: {path} has no --{option}"));
                }
            }
        }
        assert!(count > 0 || file == "src/config.rs", "{file} names no option");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Every source that names an option is in the table.
#[test]
fn no_source_that_names_options_is_forgotten() {
    fn sources(directory: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{directory}/{}", entry.file_name().display());
            match entry.file_type().unwrap().is_dir() {
                true => sources(&path, found),
                false if path.ends_with(".rs") => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    ["src", "tools/loadgen/src"].into_iter().for_each(|it| sources(it, &mut found));
    let programs = programs();
    let names_option = |file: &String| {
        let text = texts(file);
        named(&text).any(|name| programs.iter().any(|program| any_has(program, name)))
    };
    found.retain(|file| !file.ends_with("tests.rs") && !file.contains("/tests/"));
    let known = ERRORS.iter().map(|(file, ..)| *file).chain(READERS);
    let known: Vec<&str> = known.collect();
    found.retain(|file| !known.contains(&file.as_str()) && names_option(file));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The checks find what they are for.
#[test]
fn a_wrong_option_is_found_out() {
    let programs = programs();
    let problem = |line: &str| {
        let found = commands(line).iter().find_map(|words| wrong(&programs, words, true));
        found.unwrap_or_default()
    };
    for (line, said) in [
        ("target/release/ringmq topic create t --shards 3", "create has no --shards"),
        ("loadgen steady --compress 5", "steady has no --compress"),
        ("cargo run --release -p loadgen -- double11 --rate 5", "double11 has no --rate"),
        ("taskset -c 1 target/release/loadgen run f --header json", "run has no --header"),
        ("watch -n1 target/release/ringmq clsuter", "no command clsuter"),
        ("true && loadgen steady --rate fast # much", "invalid value 'fast'"),
    ] {
        assert!(problem(line).contains(said), "{line}: {}", problem(line));
    }
    for line in [
        "cargo bench -p loadgen --bench engine -- --seconds 2",
        "cat /proc/$(pidof ringmq)/task/*/schedstat",
        "loadgen steady --namesrv '127.0.0.1:9876;127.0.0.1:9877' --rate 2k   # --wrong",
        "ringmq broker --help",
    ] {
        assert_eq!(problem(line), "", "{line}");
    }
    assert_eq!(
        named("use --flush, `--data DIR` or (--name); a--b ---").collect::<Vec<_>>(),
        ["flush", "data", "name"]
    );
}
