//! Decoding JSON bodies of requests, and refusing invalid ones.

use serde::de::DeserializeOwned;

use crate::model::refusal::Refusal;
use crate::wire::json::de::{self, BodyError};

/// Decodes the body of request `command`.
pub fn decode<T: DeserializeOwned>(command: &str, body: &[u8]) -> Result<T, Refusal> {
    de::parse(body).map_err(|error| match error {
        BodyError::Refused(refusal) => refusal,
        error => Refusal::Malformed(format!("body of {command}: {error}")),
    })
}
