//! `ringmq completions`: for bash, zsh, fish, elvish and PowerShell.

use clap::Args;
use clap_complete::Shell;

use super::{Failure, output};

/// Prints the completion script of a shell.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Shell to print the script for.
    shell: Shell,
}

/// Prints the script for `command`, which has all commands and options.
pub fn run(args: CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ringmq", &mut text);
    output::write_out(&text).map(|_| ())
}
