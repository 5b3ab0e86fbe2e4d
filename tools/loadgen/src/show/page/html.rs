//! Building blocks of pages as HTML text: tables, lists, sections. All text passed in is escaped.

use std::fmt::Display;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::findings::verdict::Verdict;
use crate::show::plot::{SCRIPTS, UPLOT_STYLE};

const STYLE: &str = include_str!("style.css");

/// One cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Running text, which may wrap.
    Text(String),
    /// A word or a name, which may not wrap.
    Word(String),
    /// A right-aligned figure.
    Number(String),
    /// A rating: its text and its class in the style sheet.
    Badge(&'static str, &'static str),
}

pub fn text(text: impl Display) -> Cell {
    Cell::Text(text.to_string())
}

pub fn word(text: impl Display) -> Cell {
    Cell::Word(text.to_string())
}

pub fn number(text: impl Display) -> Cell {
    Cell::Number(text.to_string())
}

impl Cell {
    fn html(&self) -> Markup {
        html! {
            @match self {
                Self::Text(text) => td.text { (text) },
                Self::Word(text) => td.word { (text) },
                Self::Number(text) => td.num { (text) },
                Self::Badge(text, class) => td { span.badge.(*class) { (text) } },
            }
        }
    }
}

/// A table that scrolls in a box of its own where the screen is too narrow.
#[derive(Clone, Debug, Default)]
pub struct Table {
    caption: String,
    columns: Vec<String>,
    parts: Vec<Part>,
}

/// A group of rows, with its name if it has one.
#[derive(Clone, Debug, Default)]
struct Part {
    name: Option<String>,
    /// Cells, and whether the row is a total.
    rows: Vec<(Vec<Cell>, bool)>,
}

impl Table {
    /// Columns whose names begin with `>` hold figures.
    pub fn new(caption: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { caption: caption.to_owned(), columns, parts: Vec::new() }
    }

    /// Starts the group `name`, to which the following rows belong.
    pub fn part(&mut self, name: &str) {
        self.parts.push(Part { name: Some(name.to_owned()), rows: Vec::new() });
    }

    pub fn row(&mut self, cells: &[Cell]) {
        self.push_row(cells, false);
    }

    /// A row with totals.
    pub fn sum(&mut self, cells: &[Cell]) {
        self.push_row(cells, true);
    }

    fn push_row(&mut self, cells: &[Cell], is_sum: bool) {
        if self.parts.is_empty() {
            self.parts.push(Part::default());
        }
        let part = self.parts.last_mut().expect("there is a part now");
        part.rows.push((cells.to_vec(), is_sum));
    }

    pub fn html(self) -> String {
        let head = |column: &str| match column.strip_prefix('>') {
            Some(name) => html! { th.num scope="col" { (name) } },
            None => html! { th scope="col" { (column) } },
        };
        let body = |part: &Part| {
            html! {
                tbody.part[part.name.is_some()] {
                    @if let Some(name) = &part.name {
                        tr { th scope="rowgroup" colspan=(self.columns.len()) { (name) } }
                    }
                    @for (cells, is_sum) in &part.rows {
                        tr.all[*is_sum] { @for cell in cells { (cell.html()) } }
                    }
                }
            }
        };
        let table = html! {
            div.scroll tabindex="0" {
                table {
                    @if !self.caption.is_empty() { caption { (self.caption) } }
                    thead { tr { @for column in &self.columns { (head(column)) } } }
                    @for part in &self.parts { (body(part)) }
                }
            }
        };
        text_of(table)
    }
}

/// A horizontal bar, between its name and its value.
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// The formatted value.
    pub text: String,
    /// Index of its colour.
    pub colour: usize,
}

/// All bars share one scale that begins at zero.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let largest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let width =
        |bar: &Bar| format!("width:{:.1}%", (bar.value / largest * 100.0).clamp(0.0, 100.0));
    text_of(html! {
        table.bars {
            caption { (title) }
            tbody {
                @for bar in bars {
                    tr {
                        th scope="row" { (bar.name) }
                        td.bar { span class={ "b" (bar.colour) } style=(width(bar)) {} }
                        td.num { (bar.text) }
                    }
                }
            }
        }
    })
}

/// A chapter of the page; empty if it has no content.
pub fn section(title: &str, content: &str) -> String {
    match content {
        "" => String::new(),
        content => text_of(html! { section { h2 { (title) } (PreEscaped(content)) } }),
    }
}

pub fn title(text: &str) -> String {
    text_of(html! { h1 { (text) } })
}

pub fn heading(text: &str) -> String {
    text_of(html! { h3 { (text) } })
}

pub fn paragraph(text: &str) -> String {
    text_of(html! { p { (text) } })
}

pub fn note(text: &str) -> String {
    text_of(html! { p.note { (text) } })
}

/// Empty for an empty list.
pub fn list(items: &[String]) -> String {
    match items.is_empty() {
        true => String::new(),
        false => text_of(html! { ul.plain { @for item in items { li { (item) } } } }),
    }
}

/// Large figures below their names, side by side where there is space.
pub fn numbers(rows: &[(String, String)]) -> String {
    text_of(html! {
        dl.numbers { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } }
    })
}

/// Names and their values, in two columns where there is space.
pub fn facts(rows: &[(&str, String)]) -> String {
    text_of(html! {
        dl.facts { @for (name, value) in rows { dt { (name) } dd { (value) } } }
    })
}

/// Names with a description, and details in small print.
pub fn parts<'a>(rows: impl Iterator<Item = (&'a str, (String, String))>) -> String {
    text_of(html! {
        dl.parts {
            @for (name, (role, small)) in rows { dt { (name) } dd { (role) " " small { (small) } } }
        }
    })
}

/// A collapsible block. `content` is HTML.
pub fn details(title: &str, content: &str) -> String {
    text_of(html! { details { summary { (title) } (PreEscaped(content)) } })
}

/// Preformatted text.
pub fn plain(text: &str) -> String {
    text_of(html! { div.scroll tabindex="0" { pre { (text) } } })
}

/// The first line of a page.
pub fn verdict_line(verdict: Verdict, text: &str) -> String {
    let verdict = verdict.to_string();
    text_of(html! {
        p.verdict.(verdict) role="status" { strong { (verdict) } span { (text) } }
    })
}

/// A whole page around `body`, which is HTML.
pub fn page(title: &str, body: &str) -> String {
    let has_plots = body.contains("<div class=\"plot\"");
    text_of(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                link rel="icon" href="data:,";
                @if has_plots { style { (PreEscaped(UPLOT_STYLE)) } }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (PreEscaped(body))
                @if has_plots { @for script in SCRIPTS { script { (PreEscaped(script)) } } }
            }
        }
    })
}

fn text_of(markup: Markup) -> String {
    markup.into_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_escapes_what_comes_in_and_scrolls() {
        let mut table = Table::new("a & b", &["name", ">count"]);
        table.row(&[word("<x>"), number(7)]);
        table.part("second");
        table.sum(&[word("y"), number(8)]);
        let html = table.html();
        assert!(html.starts_with("<div class=\"scroll\"") && html.contains("a &amp; b"));
        assert!(html.contains("&lt;x&gt;") && html.contains("<tr class=\"all\">"));
        assert_eq!(html.matches("<tbody").count(), 2);
    }

    #[test]
    fn bars_share_a_scale_from_zero() {
        let bar =
            |value: f64| Bar { name: "a&b".to_owned(), value, text: format!("{value}"), colour: 0 };
        let table = bars("rates", &[bar(50.0), bar(100.0), bar(0.0)]);
        for width in ["width:50.0%", "width:100.0%", "width:0.0%"] {
            assert!(table.contains(width), "{table}");
        }
        assert!(table.contains("a&amp;b") && !bars("none", &[bar(0.0)]).contains("NaN"));
    }

    #[test]
    fn a_section_without_content_is_left_out() {
        assert_eq!(section("Errors", ""), "");
        assert_eq!(list(&[]), "");
    }
}
