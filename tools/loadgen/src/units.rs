//! Sizes, durations and rates as people write them, and text that fits a column.

use std::time::Duration;

/// `1024`, `1KiB`, `4MiB`, `1kB`: bytes.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let bytes = scaled(text, &UNITS, 1).ok_or("a size is a number with B, KiB, MiB, kB or MB")?;
    usize::try_from(bytes).map_err(|_| "this size is too large".to_owned())
}

/// `20s`, `500ms`, `5m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("us", 0), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let wrong = || "a duration is a number with ms, s, m or h".to_owned();
    let ms = scaled(text, &UNITS, 0).filter(|&ms| ms > 0).ok_or_else(wrong)?;
    Ok(Duration::from_millis(ms))
}

/// Messages per second from which on a rate means "as fast as possible": that is how OpenMessaging
/// Benchmark's stock files spell it, and no generator keeps a schedule of it.
pub const FLAT_OUT: f64 = 10_000_000.0;

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

/// The number before the first unit of `units` that `text` ends with, times that unit.
fn scaled(text: &str, units: &[(&str, u64)], unit_default: u64) -> Option<u64> {
    let (number, unit) = units
        .iter()
        .find_map(|&(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .unwrap_or((text, unit_default));
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// 12345678 as `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// As [`grouped`], or in thousands, millions and so on where that is wider than `width`: 12345678 in
/// nine columns is `12,346k`. Any number fits seven.
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

/// `value`, which is not negative, with as many of `digits` decimal places as `width` has room for.
pub fn fitted_decimal(value: f64, digits: usize, width: usize) -> String {
    let mut texts = (1..=digits).rev().map(|digits| format!("{value:.digits$}"));
    let fits = texts.find(|text| text.len() <= width);
    fits.unwrap_or_else(|| fitted(value.round() as u64, width))
}

/// `text` in lines of at most `width` characters, broken at spaces where it has any.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let characters: Vec<char> = word.chars().collect();
        for piece in characters.chunks(width) {
            let last = lines.last_mut().expect("there is a line from the beginning on");
            let length = last.chars().count();
            match length {
                0 => last.extend(piece),
                _ if length + 1 + piece.len() <= width => {
                    last.push(' ');
                    last.extend(piece);
                }
                _ => lines.push(piece.iter().collect()),
            }
        }
    }
    lines
}

/// `text`, if need be shortened to `width` characters.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width - 1).collect();
    short.push('…');
    short
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
        for (text, ms) in [("20s", 20_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["20", "0s", "", "s", "5us"] {
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
    fn text_is_broken_at_spaces_or_where_it_must_be() {
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a wordthatislong b", 6), ["a", "wordth", "atislo", "ng b"]);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12345678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }
}
