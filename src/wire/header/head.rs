//! A decoded header: numbers, a remark, and named fields that have not been interpreted.

use std::borrow::Cow;
use std::str::FromStr;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::model::excerpt;
use crate::model::refusal::Refusal;
use crate::wire::frame::{Frame, HeaderEncoding};

/// The frame is a reply.
pub const FLAG_REPLY: i32 = 1;
/// The sender expects no reply, and none may be sent.
pub const FLAG_ONE_WAY: i32 = 2;

/// Maximum number of fields. The largest request of a stock client has about 25.
pub const FIELD_COUNT_MAX: usize = 128;
/// Maximum number of characters shown of an invalid value.
const SHOWN_MAX: usize = 40;

/// The languages of the protocol (remoting reference, 1.2); senders with any other count as
/// `Other`.
macro_rules! languages {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// The sender's language: a name in JSON, a number in binary.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Language {
            $($variant = $number,)*
        }

        impl Language {
            pub fn of_name(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => Self::Other,
                }
            }

            pub fn of_number(number: u8) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    _ => Self::Other,
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

// Every server reports the first one. The second expects its own form of the body of request 220
// (remoting reference, 3.10). Old servers and tools know only these names, so newer ones are passed
// on as `OTHER`.
languages! {
    Java = 0, "JAVA";
    Cpp = 1, "CPP";
    DotNet = 2, "DOTNET";
    Python = 3, "PYTHON";
    Delphi = 4, "DELPHI";
    Erlang = 5, "ERLANG";
    Ruby = 6, "RUBY";
    Other = 7, "OTHER";
    Http = 8, "HTTP";
    Go = 9, "GO";
    Php = 10, "PHP";
    Oms = 11, "OMS";
    Rust = 12, "RUST";
}

/// How the peer encodes, as shown by its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub encoding: HeaderEncoding,
    pub language: Language,
}

impl Default for Dialect {
    /// For a peer that has not sent anything yet (remoting reference, 1.5).
    fn default() -> Self {
        Self { encoding: HeaderEncoding::Json, language: Language::Other }
    }
}

/// What a reply needs from its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub encoding: HeaderEncoding,
    /// Request code; the kind of a fixed header.
    pub code: i32,
    pub opaque: i32,
    pub version: i32,
}

/// The head of a frame in any encoding. Strings point into the frame, except those that had
/// escapes.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    pub frame: &'a Frame,
    /// Request code, or response code of a reply; the kind of a fixed header.
    pub code: i32,
    pub language: Language,
    /// Version of the sender (remoting reference, 1.6).
    pub version: i32,
    pub opaque: i32,
    /// Bits of [`FLAG_REPLY`] and [`FLAG_ONE_WAY`].
    pub flag: i32,
    pub remark: Option<Cow<'a, str>>,
    /// Not interpreted yet, and empty for the fixed header.
    pub fields: Fields<'a>,
}

impl<'a> Head<'a> {
    /// An empty head. It is large, so it is filled in place.
    #[inline]
    pub fn of(frame: &'a Frame) -> Self {
        let fields = Fields { header: Header(&frame.header), entries: SmallVec::new() };
        let language = Language::Other;
        Self { frame, code: 0, language, version: 0, opaque: 0, flag: 0, remark: None, fields }
    }

    /// Whether this is a reply rather than a request.
    pub fn is_reply(&self) -> bool {
        self.flag & FLAG_REPLY != 0
    }

    /// Whether the sender expects no reply; none may be sent then.
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    pub fn reply_to(&self) -> ReplyTo {
        let Self { code, opaque, version, .. } = *self;
        ReplyTo { encoding: self.frame.encoding, code, opaque, version }
    }

    pub fn dialect(&self) -> Dialect {
        Dialect { encoding: self.frame.encoding, language: self.language }
    }
}

/// The error for more fields than [`FIELD_COUNT_MAX`].
#[cold]
pub fn too_many_fields() -> String {
    format!("more than {FIELD_COUNT_MAX} fields")
}

/// The bytes that a header's strings point into.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a Bytes);

impl Header<'_> {
    /// Bytes to keep: they share the frame's memory, unless the string had escapes.
    pub fn keep_bytes(self, value: Cow<'_, str>) -> Bytes {
        match value {
            Cow::Borrowed(text) => self.0.slice_ref(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        }
    }

    /// A string to keep.
    pub fn keep(self, value: Cow<'_, str>) -> ByteString {
        ByteString::try_from(self.keep_bytes(value)).expect("it was text before")
    }
}

/// The named fields of a header (`extFields`), in order of arrival.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    header: Header<'a>,
    entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 20]>,
}

impl<'a> Fields<'a> {
    /// Adds a field; false if there are too many.
    #[inline(always)] // Two dozen times for each header.
    #[must_use]
    pub fn push(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) -> bool {
        let has_room = self.entries.len() < FIELD_COUNT_MAX;
        if has_room {
            self.entries.push((name, value));
        }
        has_room
    }

    /// Names and values, for moving the values out.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Cow<'a, str>, Cow<'a, str>)> {
        self.entries.iter_mut()
    }

    pub fn header(&self) -> Header<'a> {
        self.header
    }

    /// The value of field `name`; the last one if it occurs twice.
    pub fn find(&self, name: &str) -> Option<&Cow<'a, str>> {
        self.entries.iter().rev().find_map(|(key, value)| (key == name).then_some(value))
    }

    pub fn needed(&self, name: &str) -> Result<ByteString, Refusal> {
        self.find(name).cloned().map(|value| self.header.keep(value)).ok_or_else(|| missing(name))
    }

    /// An optional string; an empty one counts as absent, as in the binary header.
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

    /// A boolean; anything but `true` is false, as in the reference.
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
    Refusal::Malformed(format!(
        "header field {name} is {shown:?}, which is not a number in its range"
    ))
}
