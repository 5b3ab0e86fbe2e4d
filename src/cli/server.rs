//! `ringmq dev`, `ringmq nameserver`, `ringmq broker`: the servers.

use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::{BrokerOptions, DevOptions, NameServerOptions};
use crate::shard::error::RunError;
use crate::shard::{run, tree};

pub fn dev(options: DevOptions) -> Result<(), Failure> {
    log_to_standard_error();
    match options.replicas {
        None => run::run_dev(&options),
        Some(replicas) => tree::run(&options, replicas),
    }
    .map_err(Failure::from)
}

pub fn nameserver(options: NameServerOptions) -> Result<(), Failure> {
    log_to_standard_error();
    run::run_nameserver(&options).map_err(Failure::from)
}

pub fn broker(options: BrokerOptions) -> Result<(), Failure> {
    log_to_standard_error();
    run::run_broker(&options).map_err(Failure::from)
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        if error.is_usage { Self::usage(error) } else { Self::failed(error) }
    }
}

/// RINGMQ_LOG sets the level and filter, such as `info` or `ringmq::storage=debug`.
fn log_to_standard_error() {
    let filter = EnvFilter::try_from_env("RINGMQ_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // Already set when a test runs several servers in one process.
    let _ = subscriber.try_init();
}
