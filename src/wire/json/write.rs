//! Compact JSON, appended to a buffer.

use std::fmt::Write;

/// Appends an object; `fields` adds its fields one after another, in sorted order by convention.
pub fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fields(&mut Object { out, is_empty: true });
    out.push(b'}');
}

/// Appends an array of `items`, each written by `each`.
pub fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(out, item);
    }
    out.push(b']');
}

/// An object being written.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl Object<'_> {
    pub fn text(&mut self, name: &str, value: &str) {
        push_text(self.field(name), value);
    }

    pub fn number(&mut self, name: &str, value: impl itoa::Integer) {
        push_number(self.field(name), value);
    }

    pub fn boolean(&mut self, name: &str, value: bool) {
        self.raw(name, if value { "true" } else { "false" });
    }

    /// A value that is already JSON.
    pub fn raw(&mut self, name: &str, value: &str) {
        self.field(name).extend_from_slice(value.as_bytes());
    }

    pub fn object(&mut self, name: &str, fields: impl FnOnce(&mut Object<'_>)) {
        object(self.field(name), fields);
    }

    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        each: impl FnMut(&mut Vec<u8>, T),
    ) {
        list(self.field(name), items, each);
    }

    /// Begins a field whose key is itself an object, as fastjson writes maps keyed by queues; the
    /// caller appends the value.
    pub fn object_key(&mut self, key: impl FnOnce(&mut Object<'_>)) -> &mut Vec<u8> {
        self.separate();
        object(self.out, key);
        self.out.push(b':');
        self.out
    }

    /// Begins a field; the caller appends its value.
    pub fn field(&mut self, name: &str) -> &mut Vec<u8> {
        self.separate();
        push_text(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn separate(&mut self) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
    }
}

pub fn push_number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends `text` as it stands between quotes.
pub fn push_escaped(out: &mut Vec<u8>, text: &str) {
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
    fn objects_are_compact() {
        let mut out = Vec::new();
        object(&mut out, |o| {
            o.text("text", "a\"b\\c\n\u{1}主");
            o.number("number", -7);
            o.boolean("yes", true);
            o.list("list", [1, 2], push_number);
            o.object("empty", |_| {});
            push_number(o.object_key(|key| key.number("queueId", 0)), 9);
        });
        let expected = "{\"text\":\"a\\\"b\\\\c\\n\\u0001主\",\"number\":-7,\"yes\":true,\
            \"list\":[1,2],\"empty\":{},{\"queueId\":0}:9}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
