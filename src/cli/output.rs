//! Tables for people, JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Whether standard output still has a reader. A closed pipe is not a failure: a command that prints
/// continuously ends when its reader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    There,
    Gone,
}

/// Prints `rows` in `format`.
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
    write_out(text.as_bytes()).map(|_| ())
}

/// A time as people write it, in UTC.
pub fn time_of_day(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1000 % 86_400);
    let (year, month, day) = date_of(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second % 60)
}

/// The date `days` after 1970-01-01. Counts in eras of 400 years from March of year 0 on, so that a
/// leap day is the last day of its year.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

pub fn write_out(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::failed(error)),
    }
}

/// Checks for a reader without writing, for a command that has nothing to print for a while.
pub fn reader() -> Reader {
    let out = io::stdout();
    let mut asked = [PollFd::new(out.as_fd(), PollFlags::empty())];
    // A failed poll says nothing about the reader.
    let answered = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    let is_closed = |flags: PollFlags| flags.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
    match answered && asked[0].revents().is_some_and(is_closed) {
        true => Reader::Gone,
        false => Reader::There,
    }
}

/// Columns as wide as their widest cell, separated by two blanks; numbers are right-aligned.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    // Computed once per column, because tables may be long.
    let is_number: Vec<bool> = (0..header.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row[column].parse::<f64>().is_ok()))
        .collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if is_number[column] { (&*padding, "") } else { ("", &*padding) };
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

    #[test]
    fn times_are_those_of_the_calendar() {
        let rows = [
            (0, "1970-01-01 00:00:00"),
            (951_782_399_000, "2000-02-28 23:59:59"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_709_251_199_999, "2024-02-29 23:59:59"),
            (4_102_444_800_000, "2100-01-01 00:00:00"),
        ];
        for (ms, expected) in rows {
            assert_eq!(time_of_day(ms), expected);
        }
    }
}
