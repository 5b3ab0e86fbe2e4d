//! A lenient JSON reader that works in one pass.

use std::borrow::Cow;

use memchr::memchr2;

use crate::model::excerpt;

/// Maximum nesting of a skipped value. Far beyond what clients send.
const DEPTH_MAX: usize = 64;
/// Maximum number of characters shown of an invalid value.
const SHOWN_MAX: usize = 40;

/// Why the input is invalid even for a lenient reader, or is not the expected value.
///
/// It is a single pointer, because every value is returned in a result with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} at byte {}", .0.0, .0.1)]
pub struct JsonError(Box<(String, usize)>);

impl JsonError {
    pub fn new(what: impl Into<String>, at: usize) -> Self {
        Self(Box::new((what.into(), at)))
    }

    /// The error, at `at` unless its position is already known.
    pub fn or_at(mut self, at: usize) -> Self {
        if self.0.1 == usize::MAX {
            self.0.1 = at;
        }
        self
    }
}

/// Reads JSON value by value. Strings without escapes are slices of the input.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads an object and passes every key to `each`, which must read the value. A key that is an
    /// object is passed as its JSON text. Null reads as an empty object.
    #[inline(always)] // As a call it costs each header of a send 4 %.
    pub fn object<E: From<JsonError>>(
        &mut self,
        mut each: impl FnMut(Cow<'a, str>, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.enter(b'{')? || self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.key()?;
            self.expect(b':')?;
            each(key, self)?;
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Enters an object or array, which `bracket` opens. Null counts as empty: it is skipped, and
    /// the result is false.
    #[inline]
    pub fn enter(&mut self, bracket: u8) -> Result<bool, JsonError> {
        if self.take_null()? {
            return Ok(false);
        }
        self.expect(bracket)?;
        Ok(true)
    }

    /// Whether another member or element follows. If not, the reader is past `bracket`, which
    /// closes the object or array.
    #[inline]
    pub fn goes_on(&mut self, bracket: u8, is_first: bool) -> Result<bool, JsonError> {
        if self.take(bracket) {
            return Ok(false);
        }
        if !is_first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// Reads a string; numbers and booleans read as their own text. `None` for null.
    #[inline(always)] // Headers, which are hot, are read with it; bodies are not.
    pub fn text(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        if self.peek()? == b'"' {
            return self.string().map(Some);
        }
        let scalar = self.scalar()?;
        Ok((scalar != "null").then_some(Cow::Borrowed(scalar)))
    }

    /// Reads an integer, quoted or not. `None` for null.
    pub fn integer<T: std::str::FromStr>(&mut self) -> Result<Option<T>, JsonError> {
        let start = self.at;
        let Some(text) = self.text()? else { return Ok(None) };
        let Ok(number) = text.parse() else {
            self.at = start;
            let shown = excerpt(text, SHOWN_MAX);
            return Err(self.error(format!("{shown:?} is not such a number")));
        };
        Ok(Some(number))
    }

    /// Reads a boolean; any string but `true` is false, as in the reference.
    pub fn boolean(&mut self) -> Result<Option<bool>, JsonError> {
        Ok(self.text()?.map(|text| text == "true"))
    }

    /// Skips the next value and returns its JSON text.
    pub fn skip(&mut self) -> Result<&'a str, JsonError> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => drop(self.string()?),
            b'{' | b'[' => self.skip_nested()?,
            _ => drop(self.scalar()?),
        }
        Ok(&self.text[start..self.at])
    }

    /// Checks that only blanks are left.
    pub fn expect_end(&mut self) -> Result<(), JsonError> {
        self.skip_blanks();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(self.error("unexpected data after the end"))
        }
    }

    /// Skips to the matching closing bracket. The contents are not validated.
    fn skip_nested(&mut self) -> Result<(), JsonError> {
        let mut depth = 0;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    self.at += 1;
                    depth += 1;
                    if depth > DEPTH_MAX {
                        return Err(self.error("nested too deeply"));
                    }
                }
                b'}' | b']' => {
                    self.at += 1;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b',' | b':' => self.at += 1,
                _ => drop(self.scalar()?),
            }
        }
    }

    /// Reads a key and the colon after it. A key that is an object is returned as its JSON text.
    #[inline]
    pub fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' => self.skip().map(Cow::Borrowed),
            _ => self.scalar().map(Cow::Borrowed),
        }
    }

    /// Reads a number, a word or a bare key.
    fn scalar(&mut self) -> Result<&'a str, JsonError> {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._$".contains(&byte);
        let size = rest.bytes().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        if size == 0 {
            return Err(self.error("expected a value"));
        }
        self.at += size;
        Ok(&rest[..size])
    }

    /// Reads a quoted string; the reader is at its opening quote.
    #[inline]
    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        match find_special(&bytes[start..]) {
            Some(size) if bytes[start + size] == b'"' => {
                self.at = start + size + 1;
                Ok(Cow::Borrowed(&self.text[start..start + size]))
            }
            Some(plain) => self.escaped_string(start, plain).map(Cow::Owned),
            None => Err(self.error("unterminated string")),
        }
    }

    /// Reads a string that begins at `start` and has its first escape after `plain` bytes.
    fn escaped_string(&mut self, start: usize, mut plain: usize) -> Result<String, JsonError> {
        let mut rest = &self.text[start..];
        let mut out = String::with_capacity(unescaped_size(rest.as_bytes()));
        while rest.as_bytes()[plain] != b'"' {
            out.push_str(&rest[..plain]);
            let (unescaped, size) =
                unescape(&rest[plain..]).ok_or_else(|| self.error("bad escape in a string"))?;
            out.push(unescaped);
            rest = &rest[plain + size..];
            plain =
                find_special(rest.as_bytes()).ok_or_else(|| self.error("unterminated string"))?;
        }
        out.push_str(&rest[..plain]);
        self.at = self.text.len() - rest.len() + plain + 1;
        Ok(out)
    }

    /// Skips a null; returns whether there was one.
    #[inline]
    pub fn take_null(&mut self) -> Result<bool, JsonError> {
        let is_null = self.peek()? == b'n' && self.text[self.at..].starts_with("null");
        if is_null {
            self.at += "null".len();
        }
        Ok(is_null)
    }

    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let is_there = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is_there);
        is_there
    }

    #[inline]
    pub fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.take(byte) {
            return Ok(());
        }
        Err(self.error(format!("expected {:?}", char::from(byte))))
    }

    #[inline]
    pub fn peek(&mut self) -> Result<u8, JsonError> {
        self.skip_blanks();
        self.text.as_bytes().get(self.at).copied().ok_or_else(|| self.error("truncated"))
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }

    /// The current position.
    pub fn at(&self) -> usize {
        self.at
    }

    /// An error at the current position.
    #[cold]
    pub fn error(&self, what: impl Into<String>) -> JsonError {
        JsonError::new(what, self.at)
    }
}

/// Estimated size of a string after unescaping; exact if all escapes are the six-byte ones by which
/// clients send property separators.
fn unescaped_size(text: &[u8]) -> usize {
    let size = memchr::memchr(b'"', text).unwrap_or(text.len());
    size.saturating_sub(5 * memchr::memchr_iter(b'\\', &text[..size]).count())
}

/// Position of the first quote or backslash. Most strings are shorter than the setup of a vector
/// search pays for, so the first bytes are examined eight at a time.
#[inline]
fn find_special(bytes: &[u8]) -> Option<usize> {
    const SHORT: usize = 32;
    let (words, tail) = bytes[..bytes.len().min(SHORT)].as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = zero_bytes(word ^ QUOTES) | zero_bytes(word ^ BACKSLASHES);
        if hits != 0 {
            return Some(8 * index + hits.trailing_zeros() as usize / 8);
        }
    }
    let seen = 8 * words.len();
    if bytes.len() > SHORT {
        return Some(seen + memchr2(b'"', b'\\', &bytes[seen..])?);
    }
    Some(seen + tail.iter().position(|&byte| byte == b'"' || byte == b'\\')?)
}

const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
const QUOTES: u64 = EACH_BYTE * b'"' as u64;
const BACKSLASHES: u64 = EACH_BYTE * b'\\' as u64;

/// Sets the top bit of the lowest byte that is zero, and perhaps of bytes above it.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(EACH_BYTE) & !word & (EACH_BYTE << 7)
}

/// The character of the escape at the start of `text`, and the escape's size. An unpaired surrogate
/// becomes the replacement character.
fn unescape(text: &str) -> Option<(char, usize)> {
    let simple = match text.as_bytes().get(1)? {
        b'u' => return unescape_unicode(text),
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'\'' => '\'',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    };
    Some((simple, 2))
}

#[inline]
fn unescape_unicode(text: &str) -> Option<(char, usize)> {
    let first = hex_unit(text)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 6));
    }
    let second = text.get(6..).filter(|rest| rest.starts_with("\\u")).and_then(hex_unit);
    match second {
        Some(second @ 0xDC00..=0xDFFF) if first < 0xDC00 => {
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            Some((char::from_u32(code)?, 12))
        }
        _ => Some((char::REPLACEMENT_CHARACTER, 6)),
    }
}

/// The four hex digits after `\u`.
fn hex_unit(text: &str) -> Option<u32> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match text.as_bytes().get(2..6)? {
        // Property separators, by far the most frequent.
        &[b'0', b'0', b'0', last] => digit(last),
        digits => digits.iter().try_fold(0, |unit, &byte| Some(unit << 4 | digit(byte)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every position, and every length around the sizes at which the search method changes.
    #[test]
    fn quotes_and_backslashes_are_found_wherever_they_are() {
        for size in 0..80 {
            let plain = [b'#', b'[', 0xFF, b'!'].repeat(20);
            assert_eq!(find_special(&plain[..size]), None, "{size}");
            for at in 0..size {
                for special in [b'"', b'\\'] {
                    let mut bytes = plain[..size].to_vec();
                    bytes[at] = special;
                    bytes[size - 1] = special;
                    assert_eq!(find_special(&bytes), Some(at), "{size} {at}");
                }
            }
        }
    }

    /// Reads all values as strings, to compare the result.
    fn flat(text: &str) -> Result<Vec<(String, String)>, JsonError> {
        let mut found = Vec::new();
        let mut reader = Reader::new(text);
        reader.object(|key, reader| {
            found.push((key.into_owned(), reader.skip()?.to_owned()));
            Ok(())
        })?;
        reader.expect_end()?;
        Ok(found)
    }

    #[test]
    fn objects_are_read_with_and_without_quotes_around_keys() {
        #[rustfmt::skip]
        let rows: [(&str, &[(&str, &str)]); 9] = [
            ("{}", &[]),
            (" null ", &[]),
            (r#"{"a":1}"#, &[("a", "1")]),
            (r#"{0:"x",12:-3}"#, &[("0", "\"x\""), ("12", "-3")]),
            (r#"{a_b:true}"#, &[("a_b", "true")]),
            (r#"{{"q":0,"t":"a}b"}:{"max":9},{}:{}}"#, &[(r#"{"q":0,"t":"a}b"}"#, r#"{"max":9}"#), ("{}", "{}")]),
            ("{ \"a\" :\r\n[ 1 , {\"b\":null} ] ,\t\"c\":2 }", &[("a", "[ 1 , {\"b\":null} ]"), ("c", "2")]),
            (r#"{"a":"x","a":"y"}"#, &[("a", "\"x\""), ("a", "\"y\"")]),
            (r#"{"\u0061":1}"#, &[("a", "1")]),
        ];
        for (text, expected) in rows {
            let found = flat(text).unwrap();
            let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        let deep = format!("{{\"a\":{}", "[".repeat(100));
        #[rustfmt::skip]
        let rows = [
            ("", "truncated at byte 0"),
            ("[]", "expected '{' at byte 0"),
            ("{", "truncated at byte 1"),
            ("{\"a\"", "expected ':' at byte 4"),
            ("{\"a\":", "truncated at byte 5"),
            ("{\"a\":1", "expected ',' at byte 6"),
            ("{\"a\":1,}", "expected a value at byte 7"),
            ("{\"a\":1}x", "unexpected data after the end at byte 7"),
            ("{\"a\":\"x", "unterminated string at byte 5"),
            ("{\"a\":\"x\\", "bad escape in a string at byte 5"),
            ("{\"a\":\"x\\n", "unterminated string at byte 5"),
            ("{\"a\":\"\\q\"}", "bad escape in a string at byte 5"),
            ("{\"a\":\"\\u00g1\"}", "bad escape in a string at byte 5"),
            ("{\"a\":é}", "expected a value at byte 5"),
            (&deep, "nested too deeply at byte 70"),
        ];
        for (text, expected) in rows {
            assert_eq!(flat(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn texts_and_numbers_stand_for_each_other() {
        #[rustfmt::skip]
        let rows: [(&str, Option<&str>); 12] = [
            (r#""""#, Some("")),
            (r#""plain""#, Some("plain")),
            (r#""a\u0001b\u0002""#, Some("a\u{1}b\u{2}")),
            (r#""\"\\\/\b\f\n\r\t""#, Some("\"\\/\u{8}\u{c}\n\r\t")),
            (r#""\u4e3b\u9898主""#, Some("主题主")),
            (r#""\ud83d\ude00!""#, Some("😀!")),
            (r#""\ud83d!""#, Some("\u{fffd}!")),
            (r#""\ud83dx\ude00""#, Some("\u{fffd}x\u{fffd}")),
            ("17", Some("17")),
            ("-1.5", Some("-1.5")),
            ("true", Some("true")),
            ("null", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Reader::new(text).text().unwrap().as_deref(), expected, "{text}");
        }
        assert_eq!(Reader::new("\"-7\"").integer::<i32>(), Ok(Some(-7)));
        assert_eq!(Reader::new("null").integer::<i32>(), Ok(None));
        assert!(Reader::new("1.5").integer::<i32>().is_err());
        assert!(Reader::new("-1").integer::<u32>().is_err());
        assert_eq!(Reader::new("\"true\"").boolean(), Ok(Some(true)));
        assert_eq!(Reader::new("1").boolean(), Ok(Some(false)));
    }
}
