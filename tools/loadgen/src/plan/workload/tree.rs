//! A workload file, YAML or TOML, as a tree with line numbers.
//!
//! The size of a file and the depth of nesting are bounded. YAML anchors and aliases are refused,
//! because ten lines of them can expand to a billion values, and no workload needs them.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// From 1.
    pub line: usize,
    pub text: String,
}

impl Wrong {
    pub fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line: line.max(1), text: text.into() }
    }
}

/// Maximum nesting depth of lists and tables.
const DEPTH_MAX: usize = 16;

/// A value, and the line on which it starts, from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value, not even an empty text: as if the key were missing.
    Nothing,
    /// A number, a boolean or a text. The reader of the field decides which it must be.
    Scalar(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub line: usize,
    pub name: String,
    pub node: Node,
}

impl Node {
    /// For error messages.
    pub fn describe(&self) -> String {
        const LENGTH_MAX: usize = 40;
        match &self.value {
            Value::Nothing => "nothing".to_owned(),
            Value::Scalar(text) if text.chars().count() > LENGTH_MAX => {
                format!("`{}...`", text.chars().take(LENGTH_MAX).collect::<String>())
            }
            Value::Scalar(text) => format!("`{text}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

/// Lists and tables that are open while YAML is parsed.
enum Open {
    List(usize, Vec<Node>),
    /// With the key that still needs its value.
    Table(usize, Vec<Entry>, Option<(usize, String)>),
}

pub fn from_yaml(text: &str) -> Result<Node, Wrong> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            Wrong::new(error.marker().line(), format!("no YAML: {}", error.info()))
        })?;
        let line = span.start.line();
        let finished = match event {
            Event::Scalar(text, style, 0, _) => Node { line, value: scalar(text, style) },
            Event::SequenceStart(0, _) if open.len() < DEPTH_MAX => {
                open.push(Open::List(line, Vec::new()));
                continue;
            }
            Event::MappingStart(0, _) if open.len() < DEPTH_MAX => {
                open.push(Open::Table(line, Vec::new(), None));
                continue;
            }
            Event::SequenceStart(0, _) | Event::MappingStart(0, _) => {
                return Err(Wrong::new(line, "nested too deep"));
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(line, items)) => Node { line, value: Value::List(items) },
                Some(Open::Table(line, entries, _)) => Node { line, value: Value::Table(entries) },
                None => return Err(Wrong::new(line, "no YAML: an end without a beginning")),
            },
            Event::DocumentStart(_) if root.is_some() => {
                return Err(Wrong::new(line, "a file holds one workload, not several documents"));
            }
            Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::MappingStart(..)
            | Event::Alias(_) => {
                return Err(Wrong::new(line, "anchors and aliases are not supported"));
            }
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(finished),
            Some(Open::List(_, items)) => items.push(finished),
            Some(Open::Table(_, entries, key)) => match key.take() {
                Some((line, name)) => entries.push(Entry { line, name, node: finished }),
                None => *key = Some(key_of(finished)?),
            },
        }
    }
    Ok(root.unwrap_or(Node { line: 1, value: Value::Nothing }))
}

fn key_of(node: Node) -> Result<(usize, String), Wrong> {
    match node.value {
        Value::Scalar(name) => Ok((node.line, name)),
        _ => Err(Wrong::new(node.line, format!("a key is a word, not {}", node.describe()))),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    let is_nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
    if is_nothing { Value::Nothing } else { Value::Scalar(text.into_owned()) }
}

pub fn from_toml(text: &str) -> Result<Node, Wrong> {
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| lines.at(span.start));
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        Wrong::new(line, format!("no TOML: {message}"))
    })?;
    Ok(Node { line: 1, value: toml_table(table.get_ref(), &lines, DEPTH_MAX)? })
}

fn toml_node(value: &Spanned<DeValue<'_>>, lines: &Lines, depth: usize) -> Result<Node, Wrong> {
    let line = lines.at(value.span().start);
    let deeper = depth.checked_sub(1).ok_or_else(|| Wrong::new(line, "nested too deep"))?;
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Scalar(text.clone().into_owned()),
        DeValue::Integer(number) => Value::Scalar(toml_integer(number)),
        DeValue::Float(number) => Value::Scalar(number.as_str().replace('_', "")),
        DeValue::Boolean(truth) => Value::Scalar(truth.to_string()),
        DeValue::Datetime(moment) => Value::Scalar(moment.to_string()),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| toml_node(item, lines, deeper));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => toml_table(table, lines, deeper)?,
    };
    Ok(Node { line, value })
}

fn toml_table(table: &DeTable<'_>, lines: &Lines, depth: usize) -> Result<Value, Wrong> {
    let entry = |(name, node): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let line = lines.at(name.span().start);
        let (name, node) = (name.get_ref().clone().into_owned(), toml_node(node, lines, depth)?);
        Ok(Entry { line, name, node })
    };
    let mut entries = table.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|entry| entry.line);
    Ok(Value::Table(entries))
}

/// In decimal, whatever the notation.
fn toml_integer(number: &DeInteger<'_>) -> String {
    let text = number.as_str().replace('_', "");
    i128::from_str_radix(&text, number.radix()).map_or(text, |number| number.to_string())
}

/// Offsets at which the lines start.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self([0].into_iter().chain(ends.map(|(at, _)| at + 1)).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: usize, name: &str, node_line: usize, value: Value) -> Entry {
        Entry { line, name: name.to_owned(), node: Node { line: node_line, value } }
    }

    fn word(text: &str) -> Value {
        Value::Scalar(text.to_owned())
    }

    /// Both formats give the same tree for the same workload, including line numbers.
    #[test]
    fn yaml_and_toml_become_the_same_tree() {
        let yaml = "name: \"a b\"\n\nbatch: 10\nlist:\n  - {of: 1.5}\n  - {of: true}\n";
        let toml = "name = \"a b\"\n\nbatch = 1_0\nlist = [\n    {of = 1.5},\n    {of = true}]\n";
        let list = |line| {
            let item = |line, value| Node {
                line,
                value: Value::Table(vec![entry(line, "of", line, word(value))]),
            };
            entry(4, "list", line, Value::List(vec![item(5, "1.5"), item(6, "true")]))
        };
        let rest = || vec![entry(1, "name", 1, word("a b")), entry(3, "batch", 3, word("10"))];
        let tree = |line| {
            let entries = rest().into_iter().chain([list(line)]).collect();
            Node { line: 1, value: Value::Table(entries) }
        };
        assert_eq!(from_yaml(yaml).unwrap(), tree(5));
        assert_eq!(from_toml(toml).unwrap(), tree(4));
    }

    #[test]
    fn numbers_are_decimal_however_they_were_written() {
        for (text, value) in [("0x10", "16"), ("1_000", "1000"), ("1_0.5", "10.5")] {
            let Value::Table(entries) = from_toml(&format!("a = {text}")).unwrap().value else {
                panic!("a table")
            };
            assert_eq!(entries[0].node.value, word(value), "{text}");
        }
    }

    #[test]
    fn an_empty_value_is_nothing_and_a_quoted_one_is_a_text() {
        let Value::Table(entries) = from_yaml("a:\nb: ''\nc: ~\n").unwrap().value else {
            panic!("a table")
        };
        let values: Vec<&Value> = entries.iter().map(|entry| &entry.node.value).collect();
        assert_eq!(values, [&Value::Nothing, &word(""), &Value::Nothing]);
    }

    #[test]
    fn what_is_no_tree_is_refused_with_its_line() {
        let deep = format!("a: 1\nb: {}{}\n", "[".repeat(40), "]".repeat(40));
        let rows = [
            ("a: [1\nb: 2\n", 2, "no YAML"),
            ("a: &x 1\n", 1, "anchors"),
            ("a: 1\nb: *x\n", 2, ""),
            ("a: 1\n---\na: 2\n", 2, "one workload"),
            ("a: 1\n[1, 2]: 3\n", 2, "a key is a word"),
            (deep.as_str(), 2, "nested too deep"),
        ];
        for (text, line, message) in rows {
            let wrong = from_yaml(text).unwrap_err();
            assert!(wrong.line == line && wrong.text.contains(message), "{text}: {wrong:?}");
        }
        for (text, line) in [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ("= 1", 1)] {
            let wrong = from_toml(text).unwrap_err();
            assert!(wrong.line == line && wrong.text.contains("no TOML"), "{text}: {wrong:?}");
        }
    }

    /// Deep nesting is refused before recursion can overflow the stack.
    #[test]
    fn depth_is_bounded() {
        for depth in [DEPTH_MAX + 1, 100_000] {
            let deep = format!("{}{}\n", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(from_toml(&format!("a = 1\nb = {deep}")).unwrap_err().line, 2, "{depth}");
            assert_eq!(from_yaml(&format!("a: 1\nb: {deep}")).unwrap_err().line, 2, "{depth}");
        }
    }
}
