//! Invalid elements of lists: they are skipped and reported, and do not affect the others.

use std::borrow::Cow;

use crate::model::{NameError, excerpt};
use crate::wire::json::types::Element;

/// Maximum number of skipped elements that are reported per request.
const SKIPPED_MAX: usize = 16;
/// Maximum number of characters shown of an invalid name.
const NAME_SHOWN_MAX: usize = 80;

/// What was skipped, and why.
#[derive(Default)]
pub struct Skipped(pub Vec<String>);

impl Skipped {
    /// The valid ones of `elements`.
    pub fn read<T, U>(
        &mut self,
        what: &str,
        elements: Vec<Element<T>>,
        read: impl Fn(T, &mut Self) -> Result<U, String>,
    ) -> Vec<U> {
        let mut good = Vec::new();
        for element in elements {
            let why = match element {
                Element::Good(element) => match read(element, self) {
                    Ok(element) => {
                        good.push(element);
                        continue;
                    }
                    Err(why) => why,
                },
                Element::Bad(why) => why,
            };
            if self.0.len() < SKIPPED_MAX {
                self.0.push(format!("{what}: {why}"));
            }
        }
        good
    }
}

/// Makes a name; the error shows it.
pub fn named<T>(
    name: Cow<'_, str>,
    make: impl FnOnce(String) -> Result<T, NameError>,
) -> Result<T, String> {
    make(name.to_string()).map_err(|error| of_name(&name, &error))
}

/// An error with the name that caused it.
pub fn of_name(name: &str, error: &NameError) -> String {
    format!("{:?}: {error}", excerpt(name, NAME_SHOWN_MAX))
}
