//! Reads `report.json` of earlier runs, for whoever joins or compares them.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::findings::document::{Document, SCHEMA};
use crate::findings::report::Report;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path}: {cause}")]
    Files { path: String, cause: io::Error },
    #[error("{path} is not a report of loadgen: {cause}")]
    Unreadable { path: String, cause: serde_json::Error },
    #[error("{path} has schema {found}; this loadgen reads {SCHEMA}")]
    Schema { path: String, found: u32 },
}

/// The whole report in the file at `path`.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let shown = || path.display().to_string();
    let text = fs::read(path).map_err(|cause| ReadError::Files { path: shown(), cause })?;
    let unreadable = |cause| ReadError::Unreadable { path: shown(), cause };
    let Head { schema: found } = serde_json::from_slice(&text).map_err(unreadable)?;
    if found != SCHEMA {
        return Err(ReadError::Schema { path: shown(), found });
    }
    let document: Document = serde_json::from_slice(&text).map_err(unreadable)?;
    Ok(document.detail)
}
