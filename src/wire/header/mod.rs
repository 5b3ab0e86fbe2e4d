//! The header of a request or answer (remoting reference, 1.2): numbers, a remark, and named fields.
//!
//! [`json`] and [`binary`] are RocketMQ's two ways of writing the same header; both read into
//! [`Head`] and are written through [`write`]. [`fixed`] is ours and knows only the hot requests, so
//! it reads into requests and answers directly.

pub mod binary;
pub mod fixed;
pub mod json;

use std::borrow::Cow;
use std::str::FromStr;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::model::{Refusal, excerpt};
use crate::wire::frame::{Frame, FrameError, HeaderEncoding, write_frame};

/// This is an answer.
pub const FLAG_REPLY: i32 = 1;
/// Nobody waits for an answer, and none may be sent.
pub const FLAG_ONE_WAY: i32 = 2;

/// What we say our version is: V5_2_0 (remoting reference, 1.6). It switches on SQL92 in Java clients
/// and nothing that we would not do.
pub const VERSION: i32 = 453;

/// Most fields a header may have. The largest request of a stock client has about 25.
pub const FIELD_COUNT_MAX: usize = 128;
/// Characters of a wrong value that are shown.
const SHOWN_MAX: usize = 40;

/// Who says it is speaking: a name in JSON, a number in binary (remoting reference, 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// What every server calls itself.
    Java = 0,
    /// Our client. Old servers know this name, and one of them refuses names it does not know.
    Other = 7,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Java => "JAVA",
            Self::Other => "OTHER",
        }
    }
}

/// A header as it was read. Texts point into the frame, except those that had escapes.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    pub code: i32,
    pub version: i32,
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<Cow<'a, str>>,
    pub fields: Fields<'a>,
}

impl<'a> Head<'a> {
    /// A header that has not been read yet. It is large, so it is filled where it lies.
    #[inline]
    pub fn of(frame: &'a Frame) -> Self {
        let fields = Fields { header: Header(&frame.header), entries: SmallVec::new() };
        Self { code: 0, version: 0, opaque: 0, flag: 0, remark: None, fields }
    }

    /// Reads the header of `frame`, which must carry RocketMQ's header.
    pub fn read(&mut self, frame: &'a Frame) -> Result<(), FrameError> {
        match frame.encoding {
            HeaderEncoding::Json => json::read(&frame.header, self),
            HeaderEncoding::Binary => binary::read(&frame.header, self),
            HeaderEncoding::Fixed => Err(FrameError::Header("fixed layout".to_owned())),
        }
    }
}

/// That there are more fields than [`FIELD_COUNT_MAX`].
#[cold]
fn too_many_fields() -> String {
    format!("more than {FIELD_COUNT_MAX} fields")
}

/// The bytes that a header's texts point into.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a Bytes);

impl Header<'_> {
    /// Bytes for keeping: they share the frame's memory, except a text that had escapes.
    pub fn keep_bytes(self, value: Cow<'_, str>) -> Bytes {
        match value {
            Cow::Borrowed(text) => self.0.slice_ref(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        }
    }

    /// A text for keeping.
    pub fn keep(self, value: Cow<'_, str>) -> ByteString {
        ByteString::try_from(self.keep_bytes(value)).expect("it was text before")
    }
}

/// The named fields of a header (`extFields`), in the order they came.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    header: Header<'a>,
    entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 20]>,
}

impl<'a> Fields<'a> {
    /// Takes one more field; false when there are too many.
    #[inline]
    #[must_use]
    fn push(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) -> bool {
        let has_room = self.entries.len() < FIELD_COUNT_MAX;
        if has_room {
            self.entries.push((name, value));
        }
        has_room
    }

    /// Names and values, for taking the values out.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Cow<'a, str>, Cow<'a, str>)> {
        self.entries.iter_mut()
    }

    pub fn header(&self) -> Header<'a> {
        self.header
    }

    /// The value of field `name`; the last one when it came twice.
    pub fn find(&self, name: &str) -> Option<&Cow<'a, str>> {
        self.entries.iter().rev().find_map(|(key, value)| (key == name).then_some(value))
    }

    pub fn needed(&self, name: &str) -> Result<ByteString, Refusal> {
        self.find(name).cloned().map(|value| self.header.keep(value)).ok_or_else(|| missing(name))
    }

    /// An optional text; an empty one counts as not there, as in the binary header.
    pub fn optional(&self, name: &str) -> Option<ByteString> {
        self.find(name)
            .filter(|value| !value.is_empty())
            .cloned()
            .map(|value| self.header.keep(value))
    }

    pub fn needed_number<T: FromStr>(&self, name: &str) -> Result<T, Refusal> {
        number(name, self.find(name).ok_or_else(|| missing(name))?)
    }

    pub fn optional_number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        self.find(name)
            .filter(|value| !value.is_empty())
            .map(|value| number(name, value))
            .transpose()
    }

    /// A truth value; any text but `true` is false, as in the reference.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.find(name).map(|value| value == "true")
    }
}

pub fn number<T: FromStr>(name: &str, value: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| not_a_number(name, value))
}

#[cold]
pub fn missing(name: &str) -> Refusal {
    Refusal::Malformed(format!("header field {name} is missing"))
}

#[cold]
fn not_a_number(name: &str, value: &str) -> Refusal {
    let shown = excerpt(value, SHOWN_MAX);
    Refusal::Malformed(format!("header field {name} is {shown:?}, which is no number in its range"))
}

/// What [`write`] writes besides the named fields.
#[derive(Clone, Copy, Debug)]
pub struct NewHead<'a> {
    pub code: i32,
    pub language: Language,
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<&'a str>,
}

/// Appends a whole frame with RocketMQ's header in `encoding`. `fields` and `body` append their
/// parts; `chunk_bytes` more bytes of body follow on the wire.
///
/// # Panics
/// When `encoding` is ours, which has no named fields.
pub fn write(
    out: &mut Vec<u8>,
    encoding: HeaderEncoding,
    head: NewHead<'_>,
    fields: impl FnOnce(&mut FieldWriter<'_>),
    body: impl FnOnce(&mut Vec<u8>),
    chunk_bytes: usize,
) {
    let header = |out: &mut Vec<u8>| match encoding {
        HeaderEncoding::Json => json::write(out, &head, fields),
        HeaderEncoding::Binary => binary::write(out, &head, fields),
        HeaderEncoding::Fixed => unreachable!("the fixed header has no named fields"),
    };
    write_frame(out, encoding, header, body, chunk_bytes);
}

/// Takes named fields and appends them in the header's encoding.
pub struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
    is_json: bool,
    is_empty: bool,
}

impl FieldWriter<'_> {
    pub fn text(&mut self, name: &str, value: &str) {
        if self.is_json {
            self.json_name(name);
            crate::wire::json::push_text(self.out, value);
        } else {
            binary::push_field(self.out, name, |out| out.extend_from_slice(value.as_bytes()));
        }
    }

    /// A number; on the wire it is its decimal text.
    pub fn number(&mut self, name: &str, value: impl itoa::Integer) {
        self.plain(name, |out| crate::wire::json::push_number(out, value));
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
    pub fn plain(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        if self.is_json {
            self.json_name(name);
            self.out.push(b'"');
            value(self.out);
            self.out.push(b'"');
        } else {
            binary::push_field(self.out, name, value);
        }
    }

    /// Field names are ours and need no escape.
    fn json_name(&mut self, name: &str) {
        self.out.extend_from_slice(if self.is_empty { b"\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.is_empty = false;
    }
}
