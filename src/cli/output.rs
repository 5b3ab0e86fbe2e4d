//! Tables for people, JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use super::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Prints `rows` in the wanted form. Writing to a closed pipe is no failure: the reader has seen
/// enough.
pub fn print<T: Serialize>(
    format: Format,
    rows: &[T],
    header: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(header, &rows.iter().map(cells).collect::<Vec<_>>()),
        Format::Json => {
            let mut text = serde_json::to_string_pretty(rows).map_err(Failure::failed)?;
            text.push('\n');
            text
        }
    };
    write_out(text.as_bytes())
}

pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

/// Columns as wide as their widest cell, two blanks between them; numbers to the right.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let is_number = |column: usize| {
        !rows.is_empty() && rows.iter().all(|row| row[column].parse::<f64>().is_ok())
    };
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if is_number(column) { (&*padding, "") } else { ("", &*padding) };
            write!(line, "{before}{cell}{after}  ").expect("writing to a string cannot fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let rows =
            [vec!["orders".to_owned(), "16".to_owned()], vec!["a".to_owned(), "4".to_owned()]];
        assert_eq!(
            table(&["TOPIC", "QUEUES"], &rows),
            "TOPIC   QUEUES\norders      16\na            4\n"
        );
    }
}
