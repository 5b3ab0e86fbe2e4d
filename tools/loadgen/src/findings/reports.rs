//! Reads the `report.json` of earlier runs, for merging and comparison.
//!
//! A report that was read is complete and consistent: [`shape`] lists what is guaranteed. Every
//! other file is rejected here, with an error that gives its name, what is wrong, and what to do
//! about it.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::findings::document::{Document, SCHEMA};
use crate::findings::report::Report;
use crate::findings::shape;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path}: {cause}; name the report.json that a run left in its --out")]
    Files { path: String, cause: io::Error },
    #[error("{path} is a directory; name the report.json in it")]
    Directory { path: String },
    #[error("{path} is empty; its run did not end: repeat it")]
    Empty { path: String },
    #[error("{path} ends in the middle ({cause}); copy it again, or repeat its run")]
    Short { path: String, cause: serde_json::Error },
    #[error(
        "{path} is not a report of loadgen: {cause}; name the report.json that a run left in its --out"
    )]
    Unreadable { path: String, cause: serde_json::Error },
    #[error(
        "{path} has schema {found}; this loadgen reads {SCHEMA}: use the loadgen that wrote it, or \
         repeat its run"
    )]
    Schema { path: String, found: u64 },
    #[error("{path} is not a whole report: {what}; copy it again, or repeat its run")]
    Shape { path: String, what: String },
}

/// Reads the whole report from the file at `path`.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let shown = path.display().to_string();
    if path.is_dir() {
        return Err(ReadError::Directory { path: shown });
    }
    match fs::read(path) {
        Ok(text) => parse(&text, shown),
        Err(cause) => Err(ReadError::Files { path: shown, cause }),
    }
}

/// Parses the whole report from `text`, the content of the file `path`.
fn parse(text: &[u8], path: String) -> Result<Report, ReadError> {
    #[derive(Deserialize)]
    struct Head {
        schema: u64,
    }
    if text.trim_ascii().is_empty() {
        return Err(ReadError::Empty { path });
    }
    let unreadable = |cause: serde_json::Error| {
        let path = path.clone();
        match cause.is_eof() {
            true => ReadError::Short { path, cause },
            false => ReadError::Unreadable { path, cause },
        }
    };
    let Head { schema: found } = serde_json::from_slice(text).map_err(unreadable)?;
    if found != u64::from(SCHEMA) {
        return Err(ReadError::Schema { path, found });
    }
    let document: Document = serde_json::from_slice(text).map_err(unreadable)?;
    match shape::check(&document) {
        Ok(()) => Ok(document.detail),
        Err(what) => Err(ReadError::Shape { path, what }),
    }
}

#[cfg(test)]
mod tests;
