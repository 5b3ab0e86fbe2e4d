//! Compact JSON from derived structs, members in declaration order, which is sorted by convention
//! because some clients compare replies as text.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// Appends `value`.
pub fn push<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let mut serializer = serde_json::Serializer::with_formatter(out, Compact::default());
    value.serialize(&mut serializer).expect("a Vec takes everything, and keys are texts");
}

macro_rules! plain {
    ($($method:ident $type:ty;)*) => {
        $(fn $method<W: Write + ?Sized>(&mut self, out: &mut W, value: $type) -> io::Result<()> {
            self.begin_text(out)?;
            CompactFormatter.$method(out, value)
        })*
    };
}

/// Writes no blanks, and keys that are objects as objects.
#[derive(Default)]
struct Compact {
    key: Key,
}

/// The kind of key being written. A string that starts with a brace is the JSON text of an object,
/// because no name starts with one.
#[derive(Default, PartialEq, Eq)]
enum Key {
    #[default]
    None,
    /// Nothing has been written yet.
    Begins,
    Text,
    Object,
}

impl Compact {
    /// The first piece of a string key: its quote is still missing.
    fn begin_text(&mut self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        if self.key == Key::Begins {
            self.key = Key::Text;
            out.write_all(b"\"")?;
        }
        Ok(())
    }
}

impl Formatter for Compact {
    // As keys they are quoted.
    plain! {
        write_bool bool;
        write_i8 i8;
        write_i16 i16;
        write_i32 i32;
        write_i64 i64;
        write_u8 u8;
        write_u16 u16;
        write_u32 u32;
        write_u64 u64;
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.key = Key::Begins;
        if first { Ok(()) } else { out.write_all(b",") }
    }

    fn end_object_key<W: Write + ?Sized>(&mut self, _out: &mut W) -> io::Result<()> {
        self.key = Key::None;
        Ok(())
    }

    fn begin_string<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        if self.key == Key::Begins { Ok(()) } else { out.write_all(b"\"") }
    }

    fn end_string<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin_text(out)?;
        if self.key == Key::Object { Ok(()) } else { out.write_all(b"\"") }
    }

    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if self.key == Key::Begins && fragment.starts_with('{') {
            self.key = Key::Object;
        }
        self.begin_text(out)?;
        out.write_all(fragment.as_bytes())
    }

    fn write_char_escape<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.begin_text(out)?;
        match (&self.key, escape) {
            (Key::Object, CharEscape::Quote) => out.write_all(b"\""),
            (Key::Object, CharEscape::ReverseSolidus) => out.write_all(b"\\"),
            (_, escape) => CompactFormatter.write_char_escape(out, escape),
        }
    }
}
