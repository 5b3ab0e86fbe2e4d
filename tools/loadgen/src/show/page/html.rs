//! The parts that pages are made of: tables, lists, sections. All text that comes in is escaped
//! here.

use std::fmt::Display;

use crate::findings::verdict::Verdict;
use crate::show::page::style::STYLE;
use crate::show::plot::text::escaped;

/// One cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Running text, which may wrap.
    Text(String),
    /// A word or a name, which may not.
    Word(String),
    /// A figure, aligned to the right.
    Number(String),
    /// A judgement: its text and its class in the style sheet.
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
    fn html(&self) -> String {
        match self {
            Self::Text(text) => format!("<td class=\"text\">{}</td>", escaped(text)),
            Self::Word(text) => format!("<td class=\"word\">{}</td>", escaped(text)),
            Self::Number(text) => format!("<td class=\"num\">{}</td>", escaped(text)),
            Self::Badge(text, class) => {
                format!("<td><span class=\"badge {class}\">{}</span></td>", escaped(text))
            }
        }
    }
}

/// A table in a box of its own that scrolls where the screen is too narrow for it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    caption: String,
    head: Vec<String>,
    body: String,
    is_open: bool,
}

impl Table {
    /// Columns whose name begins with `>` hold figures.
    pub fn new(caption: &str, columns: &[&str]) -> Self {
        let head = columns.iter().map(|column| match column.strip_prefix('>') {
            Some(name) => format!("<th scope=\"col\" class=\"num\">{}</th>", escaped(name)),
            None => format!("<th scope=\"col\">{}</th>", escaped(column)),
        });
        Self { caption: caption.to_owned(), head: head.collect(), ..Self::default() }
    }

    /// Further rows belong to `name`.
    pub fn part(&mut self, name: &str) {
        self.close();
        self.body.push_str(&format!(
            "<tbody class=\"part\"><tr><th scope=\"rowgroup\" colspan=\"{}\">{}</th></tr>\n",
            self.head.len(),
            escaped(name),
        ));
        self.is_open = true;
    }

    pub fn row(&mut self, cells: &[Cell]) {
        self.push_row("", cells);
    }

    /// A row that sums up the others.
    pub fn sum(&mut self, cells: &[Cell]) {
        self.push_row(" class=\"all\"", cells);
    }

    fn push_row(&mut self, class: &str, cells: &[Cell]) {
        if !self.is_open {
            self.body.push_str("<tbody>\n");
            self.is_open = true;
        }
        let cells: String = cells.iter().map(Cell::html).collect();
        self.body.push_str(&format!("<tr{class}>{cells}</tr>\n"));
    }

    fn close(&mut self) {
        if self.is_open {
            self.body.push_str("</tbody>\n");
        }
        self.is_open = false;
    }

    pub fn html(mut self) -> String {
        self.close();
        let caption = match self.caption.as_str() {
            "" => String::new(),
            text => format!("<caption>{}</caption>", escaped(text)),
        };
        let head: String = self.head.concat();
        format!(
            "<div class=\"scroll\" tabindex=\"0\"><table>{caption}<thead><tr>{head}</tr></thead>\n{}\
             </table></div>\n",
            self.body
        )
    }
}

/// A chapter of the page; nothing when it has nothing to say.
pub fn section(title: &str, content: &str) -> String {
    match content {
        "" => String::new(),
        content => format!("<section>\n<h2>{}</h2>\n{content}</section>\n", escaped(title)),
    }
}

pub fn title(text: &str) -> String {
    format!("<h1>{}</h1>\n", escaped(text))
}

pub fn heading(text: &str) -> String {
    format!("<h3>{}</h3>\n", escaped(text))
}

pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escaped(text))
}

pub fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escaped(text))
}

/// Nothing for an empty list.
pub fn list(items: &[String]) -> String {
    let items: Vec<String> =
        items.iter().map(|item| format!("<li>{}</li>\n", escaped(item))).collect();
    match items.is_empty() {
        true => String::new(),
        false => format!("<ul class=\"plain\">\n{}</ul>\n", items.concat()),
    }
}

/// Large figures, each below its name, side by side where there is room.
pub fn numbers(rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value))
    };
    format!("<dl class=\"numbers\">{}</dl>\n", rows.iter().map(row).collect::<String>())
}

/// Names with what they say, in two columns where there is room.
pub fn facts(rows: &[(&str, String)]) -> String {
    let row = |(name, value): &(&str, String)| {
        format!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value))
    };
    format!("<dl class=\"facts\">\n{}</dl>\n", rows.iter().map(row).collect::<String>())
}

/// Text as it is, which can be opened.
pub fn details(title: &str, text: &str) -> String {
    let (title, text) = (escaped(title), escaped(text));
    format!(
        "<details><summary>{title}</summary><div class=\"scroll\" tabindex=\"0\"><pre>{text}</pre>\
         </div></details>\n"
    )
}

/// What is seen first.
pub fn verdict_line(verdict: Verdict, text: &str) -> String {
    format!(
        "<p class=\"verdict {verdict}\" role=\"status\"><strong>{verdict}</strong><span>{}</span></p>\n",
        escaped(text)
    )
}

/// A whole page around `body`, which is HTML.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body>\n\
         {body}</body></html>\n",
        escaped(title)
    )
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
        assert_eq!(html.matches("</tbody>").count(), 2);
    }

    #[test]
    fn a_section_without_content_is_left_out() {
        assert_eq!(section("Errors", ""), "");
        assert_eq!(list(&[]), "");
    }
}
