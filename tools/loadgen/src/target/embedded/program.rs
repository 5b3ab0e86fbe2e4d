//! Which program runs as a server. Starting it is in [`server`](super::server).

use std::env;
use std::ffi::OsString;

/// Environment variable that names the broker's program.
pub const PROGRAM_VARIABLE: &str = "RINGMQ_BIN";
/// First argument that makes loadgen act as the program `ringmq`; ringmq's own arguments follow it.
pub const SERVER_COMMAND: &str = "ringmq";

/// The broker's program: from the environment, or this executable, which contains the broker (see
/// `main`), so that a run needs no other program.
pub fn program() -> Vec<OsString> {
    if let Some(program) = env::var_os(PROGRAM_VARIABLE) {
        return vec![program];
    }
    let own = env::current_exe().map_or_else(|_| "loadgen".into(), OsString::from);
    vec![own, SERVER_COMMAND.into()]
}
