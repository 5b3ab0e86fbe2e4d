//! Pieces of JSON for headers, appended to a buffer.

use std::fmt::Write;

pub fn push_number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends `text` as the contents of a quoted string.
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let needs_escape = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|&byte| needs_escape(byte)) {
        out.extend_from_slice(&rest[..plain]);
        push_escape(out, rest[plain]);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let mut escape = String::with_capacity(6);
            write!(escape, "\\u{byte:04x}").expect("a String takes everything");
            out.extend_from_slice(escape.as_bytes());
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_far_as_they_must_be() {
        let mut out = Vec::new();
        push_text(&mut out, "a\"b\\c\n\u{1}主/");
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\\"b\\\\c\\n\\u0001主/\"");
    }
}
