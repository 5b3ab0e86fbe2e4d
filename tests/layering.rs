//! The architecture as a test: which modules may use which, and which files may use the runtime.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::collections::{BTreeMap, BTreeSet};
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

/// A path in a source that begins in this crate.
struct Import {
    /// From the crate down.
    path: ModulePath,
    /// Where it is in the source, and in which module: the file's, or one written out in the file.
    at: usize,
    within: ModulePath,
    /// The name that a `use` of the path gives it there.
    name: String,
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The modules written out in a source: where each is, and its name.
fn inline_modules(source: &str) -> Vec<(Range<usize>, &str)> {
    let module_at = |(at, keyword): (usize, &str)| {
        let rest = &source[at + keyword.len()..];
        let (name, body) = rest.split_at(rest.find(|c| !is_of_name(c))?);
        let is_module = !source[..at].ends_with(is_of_name) && body.trim_start().starts_with('{');
        is_module.then(|| (at..at + item_size(&source[at..]), name))
    };
    source.match_indices("mod ").filter_map(module_at).collect()
}

/// All paths in `source` that begin in this crate. `own` is the file's module, `children` are the
/// names of the files right below it.
fn paths_in(source: &str, own: &ModulePath, children: &[String]) -> Vec<Import> {
    let inline = inline_modules(source);
    let mut found = Vec::new();
    for root in ["crate", "super", "self"].into_iter().chain(children.iter().map(String::as_str)) {
        for (at, root) in source.match_indices(&format!("{root}::")) {
            if source[..at].ends_with(|c| c == ':' || is_of_name(c)) {
                continue;
            }
            let around = inline.iter().filter(|(range, _)| range.contains(&at));
            let within: ModulePath =
                own.iter().cloned().chain(around.map(|(_, name)| (*name).to_owned())).collect();
            let (mut base, mut rest) = (within.clone(), &source[at..]);
            if root == "crate::" {
                (base, rest) = (Vec::new(), &rest[root.len()..]);
            }
            rest = rest.strip_prefix("self::").unwrap_or(rest);
            while let Some(behind) = rest.strip_prefix("super::") {
                base.pop();
                rest = behind;
            }
            let mut leaves = Vec::new();
            add_tree(&base, rest, &mut leaves);
            let import = |(path, name)| Import { path, at, within: within.clone(), name };
            found.extend(leaves.into_iter().map(import));
        }
    }
    found
}

/// Adds the paths of a tree like `a::{b, c::D as E}` below `base`, each with the name that it gets.
/// Returns the rest of the text.
fn add_tree<'a>(
    base: &ModulePath,
    tree: &'a str,
    found: &mut Vec<(ModulePath, String)>,
) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut inside) = tree.strip_prefix('{') {
        loop {
            inside = add_tree(base, inside, found).trim_start();
            match inside.strip_prefix(',').map(str::trim_start) {
                Some(next) => inside = next,
                None => return inside.strip_prefix('}').unwrap_or(inside),
            }
            if let Some(end) = inside.strip_prefix('}') {
                return end;
            }
        }
    }
    let word = |text: &'a str| text.split_at(text.find(|c| !is_of_name(c)).unwrap_or(text.len()));
    let (first, rest) = if tree.starts_with('*') { tree.split_at(1) } else { word(tree) };
    let mut path = base.clone();
    path.extend((first != "self").then(|| first.to_owned()));
    if let Some(deeper) = rest.strip_prefix("::") {
        return add_tree(&path, deeper, found);
    }
    let renamed = rest.trim_start().strip_prefix("as ").map(|name| word(name.trim_start()));
    let (name, rest) = renamed.unwrap_or((path.last().map_or("", String::as_str), rest));
    let name = name.to_owned();
    found.push((path, name));
    rest
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let own = vec!["storage".to_owned(), "log".to_owned()];
    let rows = [
        ("use crate::model::Chunk;", vec!["model::Chunk"]),
        ("use crate::a::{b::{C, D}, e, f as g_h,};", vec!["a::b::C", "a::b::D", "a::e", "a::f"]),
        ("use crate::a::{self, b as _, c::*, d};", vec!["a", "a::b", "a::c::*", "a::d"]),
        ("use super::index::Index;", vec!["storage::index::Index"]),
        ("use super::super::wire;", vec!["wire"]),
        ("use self::part::X;", vec!["storage::log::part::X"]),
        ("use part::{X, y};", vec!["storage::log::part::X", "storage::log::part::y"]),
        ("mod inner { use super::x; }\nuse super::y;", vec!["storage::log::x", "storage::y"]),
        ("crate::model::f(x)", vec!["model::f"]),
        ("part::f(x) + other::f(x)", vec!["storage::log::part::f"]),
        ("std::crate_like::x + other::part::x", vec![]),
    ];
    for (source, expected) in rows {
        let found: Vec<String> = paths_in(source, &own, &["part".to_owned()])
            .iter()
            .map(|import| import.path.join("::"))
            .collect();
        assert_eq!(found, expected, "{source}");
    }
}

/// The `use` items of a source: where each is, and whether it is a re-export.
fn use_items(source: &str) -> Vec<(Range<usize>, bool)> {
    let item_at = |(at, _)| {
        let begin = source[..at].rfind(['\n', ';', '{', '}']).map_or(0, |end| end + 1);
        let visibility = source[begin..at].trim();
        let is_public =
            visibility == "pub" || visibility.starts_with("pub(") && visibility.ends_with(')');
        let end = source[at..].find(';').map_or(source.len(), |size| at + size + 1);
        (is_public || visibility.is_empty()).then_some((begin..end, is_public))
    };
    source.match_indices("use ").filter_map(item_at).collect()
}

/// Whether `source` has the word `name` outside these items.
fn mentions(source: &str, name: &str, items: &[(Range<usize>, bool)]) -> bool {
    source.match_indices(name).any(|(at, _)| {
        let is_word = !source[..at].ends_with(is_of_name)
            && !source[at + name.len()..].starts_with(is_of_name);
        is_word && !items.iter().any(|(range, _)| range.contains(&at))
    })
}

/// A file may use other files of its module, but no two files may depend on each other.
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
    assert!(files.len() > 80, "{} files were read below {crate_root}", files.len());
    let circles: Vec<String> = circles(crate_root, &files).into_iter().collect();
    assert!(circles.is_empty(), "files that need each other:\n{}", circles.join("\n"));
}

/// The imports that are part of a circle.
fn circles(crate_root: &str, files: &[(String, String)]) -> BTreeSet<String> {
    let imports = imports_between(crate_root, files);
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
    let import = |(from, to): (usize, usize)| {
        reached[to][from].then(|| format!("{} imports {}", files[from].0, files[to].0))
    };
    let all = imports.iter().enumerate();
    all.flat_map(|(from, to)| to.iter().map(move |to| (from, *to))).filter_map(import).collect()
}

/// The files that each file imports. A name that a file has by a `use`, and that another file gets
/// from it, counts as an import of the file that the name leads to. So a re-export is no import of
/// the file that has it, unless that file mentions the name itself.
fn imports_between(crate_root: &str, files: &[(String, String)]) -> Vec<Vec<usize>> {
    let modules: Vec<ModulePath> =
        files.iter().map(|(path, _)| module_of(crate_root, path)).collect();
    let (mut names, mut found) = (BTreeMap::new(), Vec::new());
    for ((_, source), own) in files.iter().zip(&modules) {
        let below = modules.iter().filter_map(|module| module.split_last());
        let children = below.filter(|(_, parent)| parent == own).map(|(name, _)| name.clone());
        let items = use_items(source);
        let mut imports = Vec::new();
        for import in paths_in(source, own, &children.collect::<Vec<_>>()) {
            let item = items.iter().find(|(range, _)| range.contains(&import.at));
            let Import { path, within, name, .. } = import;
            if item.is_none_or(|(_, is_public)| !is_public)
                || name == "*"
                || mentions(source, &name, &items)
            {
                imports.push(path.clone());
            }
            let known_as: ModulePath = within.into_iter().chain([name]).collect();
            if item.is_some() && !modules.contains(&known_as) {
                names.insert(known_as, path);
            }
        }
        found.push(imports);
    }
    let file_of = |path: &ModulePath| {
        let path = followed(path.clone(), &names);
        (1..=path.len()).rev().find_map(|size| modules.iter().position(|m| *m == path[..size]))
    };
    // A file that imports a whole module may use every name in it.
    let names_in = |module: &[String]| {
        let is_module = modules.iter().any(|known| known == module);
        let all = names.iter().filter(move |_| is_module);
        let module = module.to_owned();
        all.filter(move |(known_as, _)| known_as.split_last().is_some_and(|(_, m)| *m == module))
    };
    let of_file = |(own, imports): (usize, Vec<ModulePath>)| {
        let whole = imports.iter().map(|path| path.strip_suffix(&["*".to_owned()]).unwrap_or(path));
        let named = whole.flat_map(names_in).map(|(_, path)| path);
        let all = imports.iter().chain(named).filter_map(file_of);
        all.filter(|target| *target != own).collect()
    };
    found.into_iter().enumerate().map(of_file).collect()
}

/// Maximum number of names on a path that stand for others, one after the other.
const NAMES_FOLLOWED_MAX: usize = 8;

/// Where a path leads if names on it stand for others.
fn followed(mut path: ModulePath, names: &BTreeMap<ModulePath, ModulePath>) -> ModulePath {
    for _ in 0..NAMES_FOLLOWED_MAX {
        let known = (1..=path.len()).find_map(|size| Some((size, names.get(&path[..size])?)));
        let Some((size, target)) = known else { break };
        path = [target, &path[size..]].concat();
    }
    path
}

#[test]
fn circles_through_a_parent_are_found_and_its_re_exports_are_no_imports() {
    let parent = ["src/a.rs imports src/a/high.rs", "src/a/high.rs imports src/a.rs"].as_slice();
    let children =
        ["src/a/high.rs imports src/a/low.rs", "src/a/low.rs imports src/a/high.rs"].as_slice();
    let both = "pub use high::High;\npub use low::Low;";
    let inside = "pub mod of { pub use super::high::High;\npub use super::low::Low; }";
    // What it shows, the parent, its two children, and the circle.
    let rows: [(&str, &str, &str, &str, &[&str]); 12] = [
        ("a use", "use self::high::High;\nstruct Top(High);", "use super::Top;", "", parent),
        ("without self", "use high::High;\nstruct Top(High);", "use super::Top;", "", parent),
        ("a path", "struct Top(high::High);", "use crate::a::Top;", "", parent),
        ("a re-export", "pub use high::High;\nstruct Top;", "use super::Top;", "", &[]),
        ("one it uses", "pub use high::High;\nstruct Top(High);", "use super::Top;", "", parent),
        ("one of all", "pub use high::*;\nstruct Top;", "use super::Top;", "", parent),
        ("a private name", "use high::High;\nuse low::Low as L;", "use super::L;", "", &[]),
        ("one child by the parent", both, "use super::Low;", "", &[]),
        ("both children", both, "use super::Low;", "use super::High;", children),
        ("a child by the whole parent", both, "use super::low;", "use crate::a;", children),
        ("one child by a module", inside, "use super::of::Low;", "", &[]),
        ("both by a module", inside, "use super::of::Low;", "use crate::a::of::High;", children),
    ];
    for (case, parent, high, low, expected) in rows {
        let files = [("src/a.rs", parent), ("src/a/high.rs", high), ("src/a/low.rs", low)];
        let files = files.map(|(path, source)| (path.to_owned(), source.to_owned()));
        let found: Vec<String> = circles("src", &files).into_iter().collect();
        assert_eq!(found, expected, "{case}");
    }
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
