//! Tells the program which commit it is built from, when it is built from a checkout: a report
//! names it. Asks nobody but the local git.

use std::path::Path;
use std::process::Command;

fn main() {
    let head = git(&["rev-parse", "--short=12", "HEAD"]);
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let commit = match (head, is_changed) {
        (Some(head), Some(changes)) if !changes.is_empty() => format!("{head} with changes"),
        (Some(head), _) => head,
        (None, _) => "unknown".to_owned(),
    };
    println!("cargo:rustc-env=LOADGEN_COMMIT={commit}");
    // The log of HEAD grows with every commit and every checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    let sources = ["build.rs", "src", "../../src"].map(str::to_owned);
    for path in log.into_iter().chain(sources).filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// What git prints, unless there is no git or no checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
