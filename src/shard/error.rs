//! Why a server could not start, or ended.

/// A server that could not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct RunError {
    what: String,
    /// An option asks for what cannot be, on any machine or on this one.
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
