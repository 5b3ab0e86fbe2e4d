//! The architecture as a test: which module may use which, and who may know the runtime.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Which module may use which, lowest first. This table is the architecture.
const LAYERS: &str = "
    model:
    wire:       model
    storage:    model
    broker:     model storage
    nameserver: model
    client:     model wire
    config:
    sim:        model wire storage broker nameserver client
    shard:      model wire storage broker nameserver client config
    cli:        model wire storage broker nameserver client config shard
";

/// Names of the runtime and of the operating system, and the only files that may use them.
const EDGES: [(&str, &[&str]); 3] = [
    ("glommio", &["src/shard/", "src/storage/file"]),
    (
        "std::net::Tcp",
        &["src/client/blocking.rs", "src/client/registrar.rs", "src/shard/listener.rs"],
    ),
    ("std::thread", &["src/client/", "src/shard/", "src/storage/file", "src/cli/"]),
];

fn sources(module: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open = vec![root.join("src").join(module)];
    let file = root.join("src").join(format!("{module}.rs"));
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

/// A source without its comments and without its unit tests.
fn code(source: &str) -> String {
    let production = source.split("#[cfg(test)]").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    production.lines().filter(is_code).collect::<Vec<_>>().join("\n")
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
