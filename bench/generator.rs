//! `loadgen` on a core of its own. Other benches include this file as a module.

use std::process::{Command, Stdio};

use super::processes::pinned;

/// `loadgen`, pinned to one CPU. One that sends at a rate runs ahead of everything else on it if that is
/// permitted: a late generator measures this machine. One that sends as fast as it can would starve
/// the kernel's threads, and so the broker.
pub fn generator(cpu: u32, is_flat_out: bool) -> Command {
    let loadgen = pinned(cpu, "loadgen");
    if is_flat_out {
        return loadgen;
    }
    let first = ["-f", "20"];
    let test = Command::new("chrt").args(first).arg("true").stderr(Stdio::null()).status();
    if !test.is_ok_and(|status| status.success()) {
        return loadgen;
    }
    let mut command = Command::new("chrt");
    command.args(first).arg(loadgen.get_program()).args(loadgen.get_args());
    command
}
