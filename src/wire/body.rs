//! Reading JSON bodies: what every body has in common, and how it is refused.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::model::{NameError, Refusal, excerpt};
use crate::wire::json::de;
use crate::wire::json::read::{JsonError, Reader};

/// Characters of a wrong value that are shown.
const SHOWN_MAX: usize = 40;

/// Why a body is not what its command needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0}")]
    Field(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

#[cold]
pub fn missing(field: &str) -> BodyError {
    BodyError::Field(format!("field {field} is missing"))
}

#[cold]
pub fn unexpected(field: &str, value: &str) -> BodyError {
    let shown = excerpt(value, SHOWN_MAX);
    BodyError::Field(format!("field {field} is {shown:?}"))
}

/// Reads the body of request `command`.
pub fn decode<T: DeserializeOwned>(command: &str, body: &[u8]) -> Result<T, Refusal> {
    de::parse(body).map_err(|error| match error {
        de::BodyError::Refused(refusal) => refusal,
        error => Refusal::Malformed(format!("body of {command}: {error}")),
    })
}

/// Reads the body of request `command` with `read`.
pub fn read<T>(
    command: &str,
    body: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, BodyError>,
) -> Result<T, Refusal> {
    parse(body, read).map_err(|error| match error {
        BodyError::Name(error) => Refusal::IllegalName(error),
        BodyError::Refused(refusal) => refusal,
        error => Refusal::Malformed(format!("body of {command}: {error}")),
    })
}

/// Reads all of `body` with `read`.
pub fn parse<T>(
    body: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, BodyError>,
) -> Result<T, BodyError> {
    let text =
        std::str::from_utf8(body).map_err(|_| BodyError::Field("it is not UTF-8".to_owned()))?;
    let mut reader = Reader::new(text);
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// [`Reader::object`] for readers that find more wrong than JSON.
pub fn object<'a>(
    reader: &mut Reader<'a>,
    mut each: impl FnMut(&str, &mut Reader<'a>) -> Result<(), BodyError>,
) -> Result<(), BodyError> {
    reader.object(|key, reader| each(&key, reader))
}

/// Reads an array and appends its elements, each read by `each`, to `items`.
pub fn list<'a, T>(
    reader: &mut Reader<'a>,
    items: &mut Vec<T>,
    mut each: impl FnMut(&mut Reader<'a>) -> Result<T, BodyError>,
) -> Result<(), BodyError> {
    reader.array(|reader| {
        items.push(each(reader)?);
        Ok(())
    })
}

/// [`list`] of elements that `budget` has a bound for.
pub fn list_of<'a, T>(
    reader: &mut Reader<'a>,
    items: &mut Vec<T>,
    budget: &mut Budget,
    mut each: impl FnMut(&mut Reader<'a>) -> Result<T, BodyError>,
) -> Result<(), BodyError> {
    list(reader, items, |reader| {
        budget.take()?;
        each(reader)
    })
}

/// How many things of one kind a body may hold, wherever in it they stand.
#[derive(Debug)]
pub struct Budget {
    what: &'static str,
    count_max: usize,
    count: usize,
}

impl Budget {
    pub fn new(what: &'static str, count_max: usize) -> Self {
        Self { what, count_max, count: 0 }
    }

    /// Counts one more.
    pub fn take(&mut self) -> Result<(), Refusal> {
        if self.count == self.count_max {
            return Err(Refusal::TooMany { what: self.what, count_max: self.count_max });
        }
        self.count += 1;
        Ok(())
    }
}

/// A text that is kept; empty for null.
pub fn text(reader: &mut Reader<'_>) -> Result<String, BodyError> {
    Ok(reader.text()?.map(Cow::into_owned).unwrap_or_default())
}
