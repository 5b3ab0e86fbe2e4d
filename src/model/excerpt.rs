//! Excerpts of text from peers, for messages.

use std::fmt::{self, Display, Write};

/// What `shown` displays: all of it, or the first `size_max` characters and `…`.
///
/// All text from a peer passes through here before it is put into a remark or a log line. No more
/// of a long text is formatted than is kept.
pub fn excerpt(shown: impl Display, size_max: usize) -> String {
    let mut excerpt = Excerpt { text: String::new(), left: size_max };
    // The error means that the excerpt is full.
    let _ = write!(excerpt, "{shown}");
    excerpt.text
}

struct Excerpt {
    text: String,
    /// Remaining characters.
    left: usize,
}

impl Write for Excerpt {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for character in more.chars() {
            if self.left == 0 {
                self.text.push('…');
                return Err(fmt::Error);
            }
            self.text.push(character);
            self.left -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_between_characters_and_says_so() {
        let rows =
            [("", ""), ("ab", "ab"), ("abc", "abc"), ("abcd", "abc…"), ("订单主题", "订单主…")];
        for (text, expected) in rows {
            assert_eq!(excerpt(text, 3), expected);
            let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
            assert_eq!(excerpt(format_args!("{first}{rest}"), 3), expected, "in two parts");
        }
    }
}
