//! The directory of a bench that writes to disk, and the options that cargo passes. Other benches
//! include this file as a module and flatten [`Place`] into their options.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Where to put the files; on the disk that is to be measured. They are removed afterwards.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"), value_name = "DIR")]
    directory: PathBuf,

    /// Run everything once, very briefly. The figures mean nothing.
    #[arg(long)]
    pub test: bool,

    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The directory of this run, removed on drop.
pub struct Scratch(PathBuf);

impl Place {
    pub fn scratch(&self, name: &str) -> Scratch {
        let directory = self.directory.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("the directory can be made");
        Scratch(directory)
    }
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
