//! Passes the commit to the compiler, for reports, if the program is built from a checkout. Only
//! the local git is used.

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
    // The reflog of HEAD grows with every commit and every checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    let sources = ["build.rs", "src", "../../src"].map(str::to_owned);
    for path in log.into_iter().chain(sources).filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// The output of git; `None` without git or without a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
