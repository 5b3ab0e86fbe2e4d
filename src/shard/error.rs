//! Why a server could not start or has stopped.

/// A server could not start, or stopped with an error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct RunError {
    what: String,
    /// An option has a value that is impossible, in general or on this machine.
    pub is_usage: bool,
}

impl RunError {
    pub fn new(what: impl ToString) -> Self {
        Self { what: what.to_string(), is_usage: false }
    }

    pub fn usage(what: impl ToString) -> Self {
        Self { what: what.to_string(), is_usage: true }
    }
}
