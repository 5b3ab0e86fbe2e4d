//! Sizes, durations and rates as people write them.

use std::time::Duration;

use ringmq::config::{Size, Span};

/// Bytes: `1024`, `1KiB`, `4MiB`, `1KB`, as in RingMQ's own options.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let Size(bytes) = text.parse()?;
    usize::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
}

/// `20s`, `500ms`, `5m`, `1h30m`, as in RingMQ's own options; not 0.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let Span(duration) = text.parse()?;
    if duration.is_zero() { Err("a duration is longer than 0".to_owned()) } else { Ok(duration) }
}

/// From this rate on, messages per second, a rate means "as fast as possible". OpenMessaging
/// Benchmark's stock files express it like this, and no generator can keep such a schedule.
pub const FLAT_OUT: f64 = 10_000_000.0;

/// What a rate that was asked for means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Messages per second.
    PerSecond(f64),
    /// As many as the windows allow. `instead_of` is the rate that was asked for, if it was too high
    /// for a schedule.
    Max { instead_of: Option<f64> },
}

impl Rate {
    /// Only this function decides which rates mean `max`. Every option and field that gives a rate
    /// uses it, or [`scheduled`] where `max` has no meaning.
    pub fn of(per_s: f64) -> Self {
        match per_s >= FLAT_OUT {
            true => Self::Max { instead_of: Some(per_s) },
            false => Self::PerSecond(per_s),
        }
    }
}

/// Checks a rate where `max` has no meaning. `what` reaches it.
pub fn scheduled(what: &str, per_s: f64) -> Result<f64, String> {
    match Rate::of(per_s) {
        Rate::PerSecond(per_s) => Ok(per_s),
        Rate::Max { .. } => {
            let [rate, max] = [per_s, FLAT_OUT].map(|rate| grouped(rate as u64));
            Err(format!(
                "{what} reaches {rate}/s, but rates from {max}/s up mean `max`, as fast as possible"
            ))
        }
    }
}

/// `max`, and the rate that was asked for if that was taken as `max`.
pub fn max_rate(instead_of: Option<f64>) -> String {
    instead_of.map_or("max".to_owned(), |rate| format!("max (for {}/s)", grouped(rate as u64)))
}

/// Says that a rate was taken as `max`.
pub fn max_rate_note(what: &str, rate: f64) -> String {
    format!("{what} {}: taken as `max`, which is what such rates mean", grouped(rate as u64))
}

/// `50000`, `50k`, `1.5M`: messages per second.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let rate = number.parse::<f64>().map_err(|_| "a rate is a number, `50k`, `1.5M` or `max`")?;
    let rate = rate * factor;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("a rate is positive".to_owned()) }
}

/// 12345678 as `12,345,678`.
pub fn grouped(number: u64) -> String {
    grouped_digits(&number.to_string())
}

/// As [`grouped`] if the text is a whole number; otherwise unchanged.
pub fn grouped_digits(digits: &str) -> String {
    if !digits.bytes().all(|it| it.is_ascii_digit()) {
        return digits.to_owned();
    }
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// As [`grouped`], or in thousands, millions and so on if that is wider than `width`: 12345678 in
/// nine columns is `12,346k`. Any number fits in seven columns.
pub fn fitted(number: u64, width: usize) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let in_unit = |(unit, name): (u32, &&str)| {
        let size = 1_000u64.pow(unit);
        let rounded = number / size + u64::from(number % size >= size.div_ceil(2));
        format!("{}{name}", grouped(rounded))
    };
    let fits = (0..).zip(&UNITS).map(in_unit).find(|text| text.len() <= width);
    fits.unwrap_or_else(|| in_unit((6, &"E")))
}

/// `value`, which must not be negative, with up to `digits` decimal places, as far as they fit in
/// `width`.
pub fn fitted_decimal(value: f64, digits: usize, width: usize) -> String {
    let mut texts = (1..=digits).rev().map(|digits| format!("{value:.digits$}"));
    let fits = texts.find(|text| text.len() <= width);
    fits.unwrap_or_else(|| fitted(value.round() as u64, width))
}

/// Nanoseconds as milliseconds.
pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_and_rates_as_people_write_them() {
        for (text, bytes) in [("1024", 1024), ("1KiB", 1024), ("2kB", 2000), ("4MiB", 4 << 20)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1 parsec", "-1", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for (text, ms) in [
            ("20s", 20_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["20", "0s", "", "s", "5 parsec"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (text, rate) in [("50000", 5e4), ("50k", 5e4), ("1.5M", 1.5e6)] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["0", "-1", "inf", "nan", "k", "much"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_that_nobody_can_send_means_as_fast_as_possible() {
        assert_eq!(Rate::of(9_999_999.0), Rate::PerSecond(9_999_999.0));
        assert_eq!(scheduled("it", 9_999_999.0), Ok(9_999_999.0));
        for rate in [1e7, 1e9] {
            assert_eq!(Rate::of(rate), Rate::Max { instead_of: Some(rate) });
            let said = scheduled("the peak", rate).unwrap_err();
            assert!(said.starts_with("the peak reaches 1"), "{said}");
            assert!(said.contains("rates from 10,000,000/s up mean `max`"), "{said}");
        }
    }

    #[test]
    fn a_number_fits_its_column() {
        for (number, width, text) in [
            (0, 1, "0"),
            (999_999, 7, "999,999"),
            (1_000_000, 8, "1,000k"),
            (12_345_678, 9, "12,346k"),
            (999_999_999, 7, "1,000M"),
            (u64::MAX, 26, "18,446,744,073,709,551,615"),
            (u64::MAX, 7, "18,447P"),
            (u64::MAX, 3, "18E"),
        ] {
            assert_eq!(fitted(number, width), text);
        }
        for (value, width, text) in [
            (1.2345, 10, "1.234"),
            (12345.678, 8, "12345.68"),
            (12345.678, 6, "12,346"),
            (1e9, 9, "1,000M"),
            (1e9, 12, "1000000000.0"),
        ] {
            assert_eq!(fitted_decimal(value, 3, width), text);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12345678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!([grouped_digits("10000"), grouped_digits("1000.5")], ["10,000", "1000.5"]);
    }
}
