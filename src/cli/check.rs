//! `ringmq check`: whether this machine can run a broker, and how to fix what is missing.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::Format;
use super::{Failure, output};
use crate::config::{SHARDS_MAX, Size, TAIL_CACHE};
use crate::shard::preflight::{self, Needs};
use crate::shard::run::io_memory;

/// Checks whether this machine can run a broker, and says how to fix what is missing.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Data directory to check.
    #[arg(long, env = "RINGMQ_DATA", default_value = ".", value_name = "DIR")]
    data: PathBuf,

    /// Number of shards to check for. Default: one per core.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    shards: Option<u16>,

    /// Memory per shard for its newest messages, as for `broker`.
    #[arg(long, env = "RINGMQ_TAIL_CACHE", default_value = TAIL_CACHE, value_name = "SIZE")]
    tail_cache: Size,

    /// Accept a file system without direct I/O, as `broker` does with this option.
    #[arg(long)]
    allow_buffered_io: bool,

    /// Output format.
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    state: String,
    found: String,
    remedy: String,
}

pub fn run(args: CheckArgs) -> Result<(), Failure> {
    let shard_count = args.shards.map_or(preflight::allowed_cpus().len(), usize::from);
    preflight::raise_limits();
    let findings = preflight::check(&Needs {
        shard_count,
        io_memory_bytes: io_memory(args.tail_cache) as u64,
        connections_max: 10_000,
        data_directory: Some(args.data),
        allow_buffered: args.allow_buffered_io,
    });
    let rows: Vec<Row> = findings
        .iter()
        .map(|finding| Row {
            name: finding.name,
            state: format!("{:?}", finding.state).to_lowercase(),
            found: finding.found.clone(),
            remedy: finding.remedy.clone(),
        })
        .collect();
    let cells = |row: &Row| {
        vec![row.state.clone(), row.name.to_owned(), row.found.clone(), row.remedy.clone()]
    };
    output::print(args.output, &rows, &["STATE", "CHECK", "FOUND", "REMEDY"], cells)?;
    match preflight::refuses(&findings) {
        true => {
            Err(Failure::failed("this machine cannot run a broker; see the checks marked `fail`"))
        }
        false => Ok(()),
    }
}
