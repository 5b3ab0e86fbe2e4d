//! The architecture as a test: which modules may use which, and which files may use the runtime.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Which module may use which, lowest first. This table is the architecture.
const LAYERS: &str = "
    planted:
    model:
    reactor:
    wire:       model
    storage:    planted model reactor
    broker:     model storage
    nameserver: model
    client:     model wire
    replication: planted model storage broker
    config:
    sim:        planted model wire storage broker nameserver client replication
    shard:      model reactor wire storage broker nameserver client replication config
    cli:        model wire storage broker nameserver client replication config shard
";

/// Names of the runtime and of the operating system, and the only files that may use them.
const EDGES: [(&str, &[&str]); 4] = [
    ("glommio", &["src/reactor/", "src/shard/", "src/storage/file"]),
    (
        "std::net::Tcp",
        &[
            "src/client/blocking.rs",
            "src/client/registrar.rs",
            "src/reactor/net.rs",
            "src/shard/listener.rs",
        ],
    ),
    ("std::thread", &["src/client/", "src/reactor/", "src/shard/", "src/cli/"]),
    // The workspace denies it; a file that allows it must be here.
    ("allow(unsafe_code)", &["src/reactor/ring.rs"]),
];

fn sources(module: &str) -> Vec<(String, String)> {
    sources_below("src", module)
}

/// Returns the files of `module` in the directory `crate_root`, or all files if `module` is empty.
fn sources_below(crate_root: &str, module: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open = vec![root.join(crate_root).join(module)];
    let file = root.join(crate_root).join(format!("{module}.rs"));
    if file.exists() {
        found.push(file);
    }
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
    found.iter().map(|path| (name(path), code(&fs::read_to_string(path).unwrap()))).collect()
}

/// A source file without comments and without test-only items.
fn code(source: &str) -> String {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let mut code = source.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    while let Some(begin) = code.find("#[cfg(test)]") {
        let end = begin + item_size(&code[begin..]);
        code.replace_range(begin..end, "");
    }
    code
}

/// Size of the item at the start of `code`: up to its semicolon, or the end of its braces.
fn item_size(code: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
        if byte == b'}' && depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

#[test]
fn test_only_items_are_left_out_and_what_follows_them_is_not() {
    let source = "use a;\n#[cfg(test)]\nmod tests;\n// note\nuse b;\n\
                  #[cfg(test)]\nmod more { fn f() { {} } }\nuse c;\n";
    assert_eq!(code(source), "use a;\n\nuse b;\n\nuse c;");
}

fn layers() -> Vec<(&'static str, Vec<&'static str>)> {
    let rows = LAYERS.lines().map(str::trim).filter(|line| !line.is_empty());
    let split = |line: &'static str| {
        let (module, allowed) = line.split_once(':').unwrap();
        (module, allowed.split_whitespace().chain([module]).collect())
    };
    rows.map(split).collect()
}

#[test]
fn modules_import_only_lower_layers() {
    let mut violations = Vec::new();
    for (module, allowed) in layers() {
        let sources = sources(module);
        assert!(!sources.is_empty(), "{module} is in the table and not in the tree");
        for (path, source) in sources {
            for import in source.split("crate::").skip(1) {
                let target: String =
                    import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !allowed.contains(&target.as_str()) {
                    violations.push(format!("{path}: {module} may not import {target:?}"));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let known: Vec<&str> = layers().into_iter().map(|(module, _)| module).collect();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_known = known.contains(&module.as_str()) || ["lib", "main"].contains(&&*module);
        assert!(is_known, "src/{module} has no row in the table");
    }
}

#[test]
fn only_the_edges_know_the_runtime() {
    let mut violations = Vec::new();
    for (module, _) in layers() {
        for (path, source) in sources(module) {
            for (name, edges) in EDGES {
                let is_edge = edges.iter().any(|edge| path.starts_with(edge));
                if source.contains(name) && !is_edge {
                    violations.push(format!("{path} uses {name}"));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Names of the modules on the path to a module, from the crate down: `["storage", "index"]`.
type ModulePath = Vec<String>;

/// Returns the module of a file of the crate in `crate_root`.
fn module_of(crate_root: &str, path: &str) -> ModulePath {
    let path = path.trim_start_matches(crate_root).trim_start_matches('/').trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// All paths in `source` that begin in this crate, from the crate down. `own` is the file's module.
fn paths_in(source: &str, own: &ModulePath) -> Vec<ModulePath> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in source.match_indices(root) {
            let before = source[..at].chars().next_back().unwrap_or(' ');
            if before == ':' || before.is_alphanumeric() || before == '_' {
                continue;
            }
            let (mut base, mut rest) = (own.clone(), &source[at..]);
            if let Some(behind) = rest.strip_prefix("crate::") {
                (base, rest) = (Vec::new(), behind);
            }
            rest = rest.strip_prefix("self::").unwrap_or(rest);
            while let Some(behind) = rest.strip_prefix("super::") {
                base.pop();
                rest = behind;
            }
            add_tree(&base, rest, &mut found);
        }
    }
    found
}

/// Adds the paths of a tree like `a::{b, c::D}` below `base`. Returns the rest of the text.
fn add_tree<'a>(base: &ModulePath, tree: &'a str, found: &mut Vec<ModulePath>) -> &'a str {
    let mut tree = tree.trim_start();
    if let Some(mut inside) = tree.strip_prefix('{') {
        loop {
            inside = add_tree(base, inside, found).trim_start();
            match inside.strip_prefix(',').map(str::trim_start) {
                Some(next) if !next.starts_with('}') => inside = next,
                Some(next) => inside = next,
                None => return inside.strip_prefix('}').unwrap_or(inside),
            }
            if let Some(end) = inside.strip_prefix('}') {
                return end;
            }
        }
    }
    let size = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let path: ModulePath = base.iter().cloned().chain([tree[..size].to_owned()]).collect();
    tree = &tree[size..];
    match tree.strip_prefix("::") {
        Some(deeper) => add_tree(&path, deeper, found),
        None => {
            found.push(path);
            let renamed = tree.trim_start().strip_prefix("as ");
            renamed.map_or(tree, |name| name.trim_start_matches(|c: char| c.is_alphanumeric()))
        }
    }
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let own = vec!["storage".to_owned(), "log".to_owned()];
    let rows = [
        ("use crate::model::Chunk;", vec!["model::Chunk"]),
        ("use crate::a::{b::{C, D}, e, f as g,};", vec!["a::b::C", "a::b::D", "a::e", "a::f"]),
        ("use super::index::Index;", vec!["storage::index::Index"]),
        ("use super::super::wire;", vec!["wire"]),
        ("use self::part::X;", vec!["storage::log::part::X"]),
        ("crate::model::f(x)", vec!["model::f"]),
        ("std::crate_like::x", vec![]),
    ];
    for (source, expected) in rows {
        let found: Vec<String> =
            paths_in(source, &own).iter().map(|path| path.join("::")).collect();
        assert_eq!(found, expected, "{source}");
    }
}

/// A file may use files beside or below it in the same module, but no two files may depend on each
/// other. For the files of a module, re-exports of its `mod.rs` count as the module itself.
#[test]
fn no_two_files_import_each_other() {
    let files = layers().into_iter().flat_map(|(module, _)| sources(module)).collect();
    assert_no_circles("src", files);
    let tool = "tools/loadgen/src";
    let is_module = |path: &str| !path.ends_with("src/main.rs") && !path.ends_with("src/lib.rs");
    let files = sources_below(tool, "").into_iter().filter(|(path, _)| is_module(path));
    assert_no_circles(tool, files.collect());
}

fn assert_no_circles(crate_root: &str, files: Vec<(String, String)>) {
    let modules: Vec<ModulePath> =
        files.iter().map(|(path, _)| module_of(crate_root, path)).collect();
    let nearest = |path: &ModulePath| {
        (1..=path.len()).rev().find_map(|size| modules.iter().position(|m| *m == path[..size]))
    };
    let imports: Vec<Vec<usize>> = files
        .iter()
        .zip(&modules)
        .map(|((_, source), own)| {
            let targets = paths_in(source, own);
            let targets = targets.iter().filter_map(nearest);
            targets.filter(|target| !own.starts_with(&modules[*target])).collect()
        })
        .collect();
    let reach = |from: usize| {
        let (mut seen, mut open) = (vec![false; files.len()], imports[from].clone());
        while let Some(next) = open.pop() {
            if !std::mem::replace(&mut seen[next], true) {
                open.extend(&imports[next]);
            }
        }
        seen
    };
    let reached: Vec<Vec<bool>> = (0..files.len()).map(reach).collect();
    let mut circles = Vec::new();
    for (a, others) in reached.iter().enumerate() {
        for b in (a + 1..files.len()).filter(|&b| others[b] && reached[b][a]) {
            circles.push(format!("{} and {}", files[a].0, files[b].0));
        }
    }
    assert!(files.len() > 80, "{} files were read below {crate_root}", files.len());
    assert!(circles.is_empty(), "files that need each other:\n{}", circles.join("\n"));
}

/// The numbers that replicas log. No client sees them, so they are no refusals.
const REPLICAS_NUMBERS: Range<u16> = 5000..6000;

/// A documented code that is never raised misleads readers, and so does one that is raised but not
/// documented.
#[test]
fn every_documented_refusal_is_raised_somewhere_and_every_raised_one_is_documented() {
    let refusals = include_str!("../src/model/refusal.rs");
    let number_of = |line: &str| {
        let (variant, number) = line.trim().strip_prefix("Self::")?.split_once(" => ")?;
        let name: String = variant.chars().take_while(|c| c.is_alphanumeric()).collect();
        Some((name, number.trim_end_matches(',').parse::<u16>().ok()?))
    };
    let numbers: Vec<(String, u16)> = refusals.lines().filter_map(number_of).collect();
    assert!(numbers.len() > 25, "{numbers:?}");

    let is_about_all = |path: &str| path.ends_with("refusal.rs") || path.ends_with("codes.rs");
    let raising: String = layers()
        .into_iter()
        .flat_map(|(module, _)| sources(module))
        .filter(|(path, _)| !is_about_all(path) && !path.contains("/tests"))
        .map(|(_, source)| source)
        .collect();
    let number_in_front = |rest: &str| rest.get(..4)?.parse::<u16>().ok();
    let logged: BTreeSet<u16> = raising
        .split("RINGMQ-")
        .filter_map(number_in_front)
        .filter(|number| REPLICAS_NUMBERS.contains(number))
        .collect();

    let manual = include_str!("../docs/errors.md");
    let row = |line: &str| number_in_front(line.strip_prefix("| RINGMQ-")?);
    let documented: Vec<u16> = manual.lines().filter_map(row).collect();
    let known: Vec<u16> = numbers.iter().map(|(_, number)| *number).chain(logged).collect();
    assert_eq!(
        documented, known,
        "docs/errors.md, against src/model/refusal.rs and what is logged"
    );

    let full = manual.lines().find(|line| line.starts_with("| RINGMQ-2007")).unwrap();
    let begin_of_limit = "Refusal::Full { what: \"";
    let limits: BTreeSet<&str> = raising
        .split(begin_of_limit)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|limit| !full.contains(&format!("{limit} (")))
        .collect();
    assert!(raising.contains(begin_of_limit) && limits.is_empty(), "not in its row: {limits:?}");

    let is_converted = |name: &str| refusals.contains(&format!("{name}(#[from]"));
    let is_raised = |name: &str| {
        let written = format!("Refusal::{name}");
        let mut places = raising.match_indices(&written).map(|(at, found)| {
            raising[at + found.len()..].chars().next().is_none_or(|c| !c.is_alphanumeric())
        });
        places.any(|is_whole_name| is_whole_name)
    };
    let idle: Vec<&String> = numbers
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !is_converted(name) && !is_raised(name))
        .collect();
    assert!(idle.is_empty(), "documented and never raised: {idle:?}");
}
