//! Text in HTML and SVG: what must be escaped, how wide it will be, and how numbers are written.

/// Text for HTML and SVG.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// How wide `text` is at most in a sans-serif font of this size. An SVG cannot measure its text
/// without a script, so labels are placed by this guess; it errs to the wide side.
pub fn width_of(text: &str, font_size: f64) -> f64 {
    let em = |character: char| match character {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' => 0.36,
        'f' | 't' | 'r' | '(' | ')' | '-' | '/' => 0.44,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.98,
        'A'..='Z' => 0.76,
        character if character.is_ascii() => 0.64,
        _ => 1.0,
    };
    text.chars().map(em).sum::<f64>() * font_size
}

/// At most `length_max` characters, the last of which shows that there was more.
pub fn shortened(text: &str, length_max: usize) -> String {
    if text.chars().count() <= length_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length_max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// 1500000 as `1.5M`, 0.001 as it is.
pub fn short(value: f64) -> String {
    for (size, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value.abs() >= size {
            return format!("{}{unit}", (value / size * 100.0).round() / 100.0);
        }
    }
    format!("{}", (value * 1e6).round() / 1e6)
}

/// A moment of a run in seconds, as a clock that started with it: `0:05`, `12:30`, `1:02:03`.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_shortened() {
        assert_eq!(escaped("a < b & \"c\""), "a &lt; b &amp; &quot;c&quot;");
        assert_eq!(shortened("kill", 4), "kill");
        assert_eq!(shortened("kill the broker", 6), "kill…");
    }

    #[test]
    fn moments_read_as_a_clock() {
        for (seconds, text) in
            [(0.0, "0:00"), (59.6, "1:00"), (725.0, "12:05"), (3723.0, "1:02:03")]
        {
            assert_eq!(clock(seconds), text);
        }
    }
}
