//! Reads the fields of a table. Errors include the line.

use std::cell::RefCell;

use crate::plan::workload::tree::{Entry, Node, Value, Wrong};

/// A table in which all names of fields are known.
#[derive(Debug)]
pub struct Fields<'a> {
    pub line: usize,
    entries: &'a [Entry],
    /// Where fields with these names are looked up if they are missing here.
    defaults: Option<(&'a Fields<'a>, &'static [&'static str])>,
    known: Vec<&'static str>,
    /// Names of the fields that were read, for tests.
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The fields of `node`, which is a `what`. Each name must be in `known` and occur once.
    pub fn of(
        node: &'a Node,
        what: &str,
        known: &[&[&'static str]],
        defaults: Option<(&'a Fields<'a>, &'static [&'static str])>,
    ) -> Result<Self, Wrong> {
        let Value::Table(entries) = &node.value else {
            let text = format!("{what} is a table of fields, not {}", node.describe());
            return Err(Wrong::new(node.line, text));
        };
        let known = known.concat();
        for (index, entry) in entries.iter().enumerate() {
            let name = entry.name.as_str();
            if !known.contains(&name) {
                let hint = did_you_mean(name, &known);
                let text = format!("`{name}` is not a field of {what}{hint}");
                return Err(Wrong::new(entry.line, text));
            }
            if let Some(first) = entries[..index].iter().find(|first| first.name == name) {
                let text = format!("`{name}` is already set on line {}", first.line);
                return Err(Wrong::new(entry.line, text));
            }
        }
        Ok(Self { line: node.line, entries, defaults, known, asked: RefCell::default() })
    }

    /// `None` if the field is missing. `read` parses the value, and its error says what is wrong
    /// with it.
    pub fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Result<Option<T>, Wrong> {
        let Some(entry) = self.entry(name) else { return Ok(None) };
        let wrong = |text| Wrong::new(entry.node.line, format!("{name}: {text}"));
        read(&entry.node).map(Some).map_err(wrong)
    }

    pub fn or<T>(
        &self,
        name: &'static str,
        default: T,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Result<T, Wrong> {
        Ok(self.optional(name, read)?.unwrap_or(default))
    }

    pub fn required<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Result<T, Wrong> {
        let missing = || Wrong::new(self.line, format!("`{name}` is missing"));
        self.optional(name, read)?.ok_or_else(missing)
    }

    /// The items of a list; none if the field is missing.
    pub fn list(&self, name: &'static str) -> Result<&'a [Node], Wrong> {
        match self.entry(name).map(|entry| (&entry.node.value, &entry.node)) {
            None => Ok(&[]),
            Some((Value::List(items), _)) => Ok(items),
            Some((_, node)) => {
                let text = format!("{name}: a list is wanted, not {}", node.describe());
                Err(Wrong::new(node.line, text))
            }
        }
    }

    /// Whether the field is in this table, not just in the defaults.
    pub fn has(&self, name: &'static str) -> bool {
        self.own(name).is_some()
    }

    /// The line of the field, or the line where it should be.
    pub fn line_of(&self, name: &'static str) -> usize {
        self.entry(name).map_or(self.line, |entry| entry.line)
    }

    fn entry(&self, name: &'static str) -> Option<&'a Entry> {
        let inherited = || {
            let (defaults, names) = self.defaults?;
            names.contains(&name).then(|| defaults.entry(name))?
        };
        self.own(name).or_else(inherited)
    }

    fn own(&self, name: &'static str) -> Option<&'a Entry> {
        debug_assert!(self.known.contains(&name), "{name} is in the table of known fields");
        self.asked.borrow_mut().push(name);
        let mine = self.entries.iter().find(|entry| entry.name == name);
        mine.filter(|entry| entry.node.value != Value::Nothing)
    }

    /// Known fields that were never read.
    #[cfg(test)]
    pub fn never_read(&self) -> Vec<&'static str> {
        let asked = self.asked.borrow();
        self.known.iter().copied().filter(|name| !asked.contains(name)).collect()
    }
}

/// The most similar of `known`, if it is similar enough to be what was meant.
pub fn did_you_mean(name: &str, known: &[&str]) -> String {
    const DISTANCE_MAX: usize = 3;
    let lower = name.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&known.to_lowercase(), &lower);
    let nearest = known.iter().map(|known| (distance(known), known)).min();
    // At least half of the word must match: any three-letter word is within three edits of `to`.
    let nearest = nearest.filter(|(distance, known)| {
        *distance <= DISTANCE_MAX && distance * 2 <= known.chars().count()
    });
    match nearest {
        Some((_, known)) => format!("; did you mean `{known}`?"),
        None => format!("; there are {}", known.join(", ")),
    }
}
