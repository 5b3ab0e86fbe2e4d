//! The one binary. Everything it does is in the library; see `ringmq::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringmq::cli::run(std::env::args_os())
}
