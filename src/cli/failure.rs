//! How a command tells that it failed. Nothing here prints or exits; [`run`](super::run) does.

/// Why a command failed, and its exit code.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn failed(message: impl ToString) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    pub fn usage(message: impl ToString) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    pub fn unreachable(message: impl ToString) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}
