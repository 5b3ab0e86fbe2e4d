//! Formats figures for text and tables.

use hdrhistogram::Histogram;

use crate::engine::histogram::is_enough;
use crate::units::grouped;

/// A duration in milliseconds with three or four significant digits, without the unit.
pub fn ms(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    match ms {
        ms if ms < 10.0 => format!("{ms:.3}"),
        ms if ms < 100.0 => format!("{ms:.2}"),
        ms if ms < 1_000.0 => format!("{ms:.1}"),
        ms => grouped(ms.round() as u64),
    }
}

/// A duration for running text, in its usual unit.
pub fn spoken(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..10_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        1_000_000_000..100_000_000_000 => format!("{:.1} s", ns as f64 / 1e9),
        _ => seconds(ns as f64 / 1e9),
    }
}

/// `1 min 34 s`, `12.4 s`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 if seconds.fract() == 0.0 => format!("{whole} s"),
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// Seconds since the start of a run, as a clock: `0:05`, `12:30`, `1:02:03`.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A percentile, or a dash if there were too few messages for it: p99.99 of 500 messages would be
/// their maximum.
pub fn percentile(histogram: &Histogram<u64>, quantile: f64) -> String {
    match ns_at(histogram, quantile) {
        Some(ns) => ms(ns),
        None => "–".to_owned(),
    }
}

/// As [`percentile`], in nanoseconds.
pub fn ns_at(histogram: &Histogram<u64>, quantile: f64) -> Option<u64> {
    let is_known = is_enough(histogram.len(), quantile);
    is_known.then(|| histogram.value_at_quantile(quantile).min(histogram.max()))
}

/// `a`, `a and b`, `a, b and c`.
pub fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// `1 message`, `12,000 messages`.
pub fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
}

/// `per_s` rounded to three digits: more would suggest a precision that no run has.
pub fn rate(per_s: f64) -> String {
    let digits = per_s.abs().max(1.0).log10().floor() as i32 - 2;
    let step = 10f64.powi(digits.max(0));
    grouped(((per_s / step).round() * step) as u64)
}

/// Adds a capital at the start and a full stop at the end.
pub fn sentence(text: &str) -> String {
    match text.trim_end_matches('.') {
        "" => String::new(),
        text => format!("{}.", capital(text)),
    }
}

pub fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::histogram::{empty, record};

    #[test]
    fn figures_as_people_write_them() {
        assert_eq!([ms(1_234_567), ms(45_678_000), ms(2_345_000_000)], ["1.235", "45.68", "2,345"]);
        assert_eq!(
            [spoken(850_000), spoken(1_240_000), spoken(3_200_000_000)],
            ["850 µs", "1.2 ms", "3.2 s"]
        );
        assert_eq!(
            [seconds(94.0), seconds(12.44), seconds(7_260.0)],
            ["1 min 34 s", "12.4 s", "2 h 1 min"]
        );
        assert_eq!(
            [clock(0.0), clock(59.6), clock(725.0), clock(3_723.0)],
            ["0:00", "1:00", "12:05", "1:02:03"]
        );
        assert_eq!([rate(12_345.6), rate(999.9), rate(7.2)], ["12,300", "1,000", "7"]);
        assert_eq!(listed(&["a".to_owned(), "b".to_owned(), "c".to_owned()]), "a, b and c");
        assert_eq!(
            [counted(1, "message"), counted(2_000, "message")],
            ["1 message", "2,000 messages"]
        );
        assert_eq!(sentence("an order is placed"), "An order is placed.");
    }

    #[test]
    fn a_percentile_of_too_few_messages_is_a_dash() {
        let mut histogram = empty();
        assert_eq!(percentile(&histogram, 0.5), "–");
        record(&mut histogram, 1_000_000, 999);
        assert_eq!([percentile(&histogram, 0.99), percentile(&histogram, 0.999)], ["1.000", "–"]);
        record(&mut histogram, 1_000_000, 1);
        assert_eq!(percentile(&histogram, 0.999), "1.000");
    }
}
