//! Why embedded servers, or what they need, cannot be started. What is done about it is up to the
//! caller.

use std::io;
use std::net::SocketAddr;

use super::program::PROGRAM_VARIABLE;

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("{program} cannot be started: {cause}; set {PROGRAM_VARIABLE}, or use --namesrv")]
    Start { program: String, cause: io::Error },
    #[error("the {what} did not report that it is ready{said}")]
    NotReady { what: String, said: String },
    #[error("no {count} free ports in a row on loopback")]
    Ports { count: u16 },
    #[error("no relay at {listen}: {cause}")]
    Relay { listen: SocketAddr, cause: io::Error },
    #[error("{path}: {cause}")]
    Directory { path: String, cause: io::Error },
    #[error("--disk-image mounts a file system, which only root may do")]
    NotRoot,
    #[error("the disk image cannot be made: {0}")]
    Image(String),
}
