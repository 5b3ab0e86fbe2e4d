//! What RocketMQ's two headers share: numbers, and a writer of named fields.

use std::mem::size_of;

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{I16, I32};

use crate::wire::header::head::Language;
use crate::wire::json::write::{push_number, push_text};

/// Our version number: V5_2_0 (remoting reference, 1.6). Apart from SQL92 in Java clients, it
/// enables nothing that we do not support.
pub const VERSION: i32 = 453;

/// A header without its named fields.
#[derive(Clone, Copy, Debug)]
pub struct NewHead<'a> {
    pub code: i32,
    pub language: Language,
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<&'a str>,
}

/// Appends named fields in the header's encoding.
pub struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
    is_json: bool,
    is_empty: bool,
}

impl<'a> FieldWriter<'a> {
    #[inline]
    pub fn json(out: &'a mut Vec<u8>) -> Self {
        Self { out, is_json: true, is_empty: true }
    }

    #[inline]
    pub fn binary(out: &'a mut Vec<u8>) -> Self {
        Self { out, is_json: false, is_empty: true }
    }

    #[inline]
    pub fn text(&mut self, name: &str, value: &str) {
        if self.is_json {
            self.json_name(name);
            push_text(self.out, value);
        } else {
            push_binary(self.out, name, |out| out.extend_from_slice(value.as_bytes()));
        }
    }

    /// A number, encoded as decimal text.
    #[inline]
    pub fn number(&mut self, name: &str, value: impl itoa::Integer) {
        self.plain(name, |out| push_number(out, value));
    }

    pub fn boolean(&mut self, name: &str, value: bool) {
        self.text(name, if value { "true" } else { "false" });
    }

    pub fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A value that `value` appends, of characters that need no escape.
    #[inline]
    pub fn plain(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        if self.is_json {
            self.json_name(name);
            self.out.push(b'"');
            value(self.out);
            self.out.push(b'"');
        } else {
            push_binary(self.out, name, value);
        }
    }

    /// Field names are ours and need no escape.
    #[inline]
    fn json_name(&mut self, name: &str) {
        self.out.extend_from_slice(if self.is_empty { b"\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.is_empty = false;
    }
}

/// Appends one field of the binary header; `value` appends its value.
#[inline]
fn push_binary(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(I16::new(name.len() as i16).as_bytes());
    out.extend_from_slice(name.as_bytes());
    push_sized(out, value);
}

/// Appends what `part` appends, preceded by its size.
#[inline]
pub fn push_sized(out: &mut Vec<u8>, part: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; size_of::<I32>()]);
    part(out);
    let size = I32::new((out.len() - start - size_of::<I32>()) as i32);
    out[start..][..size_of::<I32>()].copy_from_slice(size.as_bytes());
}
