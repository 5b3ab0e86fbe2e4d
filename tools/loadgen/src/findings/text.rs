//! Tables and labelled text of at most 80 columns. Nothing is truncated: text that is too long is
//! wrapped.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use textwrap::{Options, WordSplitter};

pub const COLUMNS: usize = 80;
const LABEL: usize = 11;

/// A table of names and right-aligned figures. Only the names are wrapped, so the figures must fit.
pub fn figures(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = table(header, rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.trim_fmt() + "\n"
}

/// A table of text.
pub fn texts(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    table(header, rows).trim_fmt() + "\n"
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS as u16);
    table.set_header(header).add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
    }
    table
}

/// Text after a label; continuation lines are indented to the text.
pub fn labelled(label: &str, text: &str) -> String {
    let (first, others) = (format!("{label:<LABEL$}"), " ".repeat(LABEL));
    let options = Options::new(COLUMNS)
        .initial_indent(&first)
        .subsequent_indent(&others)
        // Never splits a name at a hyphen.
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options) + "\n"
}
