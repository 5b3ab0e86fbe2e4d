//! RocketMQ's JSON header (remoting reference, 1.3).
//!
//! Two stock clients send numbers and booleans as named fields; they are decoded as strings. All
//! named fields are encoded as strings, because one of these clients accepts nothing else.

use std::borrow::Cow;

use bytes::Bytes;

use crate::wire::frame::{Frame, FrameError};
use crate::wire::header::fields::{FieldWriter, NewHead, VERSION};
use crate::wire::header::head::{Head, Language, too_many_fields};
use crate::wire::json::read::{JsonError, Reader};
use crate::wire::json::write::{push_number, push_text};

/// Decodes a header; its strings point into `header`.
pub fn read<'a>(header: &'a Bytes, head: &mut Head<'a>) -> Result<(), FrameError> {
    let text = std::str::from_utf8(header).map_err(|_| unreadable("it is not UTF-8"))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(unreadable("it is not an object"));
    }
    let mut reader = Reader::new(text);
    reader.object(|key, reader| read_member(head, &key, reader)).map_err(unreadable)?;
    reader.expect_end().map_err(unreadable)
}

#[inline(always)]
fn read_member<'a>(
    head: &mut Head<'a>,
    key: &str,
    reader: &mut Reader<'a>,
) -> Result<(), JsonError> {
    match key {
        "code" => head.code = reader.integer()?.unwrap_or(0),
        "flag" => head.flag = reader.integer()?.unwrap_or(0),
        "opaque" => head.opaque = reader.integer()?.unwrap_or(0),
        "version" => head.version = reader.integer()?.unwrap_or(0),
        "remark" => head.remark = reader.text()?,
        "language" => head.language = language_of(reader.skip()?),
        "extFields" => {
            return reader.object(|name, reader| read_field(head, name, reader));
        }
        // `serializeTypeCurrentRPC` is ignored, because the frame gives the encoding.
        _ => drop(reader.skip()?),
    }
    Ok(())
}

/// The language with this name.
fn language_of(json: &str) -> Language {
    let name = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    name.map_or(Language::Other, Language::of_name)
}

#[inline(always)]
fn read_field<'a>(
    head: &mut Head<'a>,
    name: Cow<'a, str>,
    reader: &mut Reader<'a>,
) -> Result<(), JsonError> {
    let Some(value) = reader.text()? else { return Ok(()) };
    if head.fields.push(name, value) { Ok(()) } else { Err(reader.error(too_many_fields())) }
}

/// The opaque and the flag of a header that cannot be decoded, if they can be found.
pub fn find_opaque_and_flag(frame: &Frame) -> Option<(i32, i32)> {
    opaque_and_flag_of_object(frame).or_else(|| opaque_and_flag_in_text(&frame.header))
}

/// Finds them in a whole object at the front: only the header's size is wrong, or something
/// follows.
fn opaque_and_flag_of_object(frame: &Frame) -> Option<(i32, i32)> {
    let valid = frame.header.utf8_chunks().next()?.valid();
    let (mut head, mut has_opaque) = (Head::of(frame), false);
    let member = |key: Cow<'_, str>, reader: &mut _| {
        has_opaque |= key == "opaque";
        read_member(&mut head, &key, reader)
    };
    Reader::new(valid).object(member).ok()?;
    has_opaque.then_some((head.opaque, head.flag))
}

/// Finds them in text that is not JSON: numbers among the members of the outermost object. A number
/// in `extFields` is none of them: it could be the opaque of another request.
fn opaque_and_flag_in_text(header: &[u8]) -> Option<(i32, i32)> {
    let text = String::from_utf8_lossy(header);
    let (mut rest, mut depth) = (&*text, 0_usize);
    let (mut opaque, mut flag) = (None, None);
    while let Some(at) = rest.find(['{', '}', '"']) {
        let (mark, behind) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = behind;
        match mark {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {
                let Some(size) = string_size(behind) else { break };
                let (string, behind) = behind.split_at(size);
                rest = &behind[1..];
                match string {
                    "opaque" if depth == 1 => opaque = number_behind_colon(rest).or(opaque),
                    "flag" if depth == 1 => flag = number_behind_colon(rest).or(flag),
                    _ => {}
                }
            }
        }
    }
    Some((opaque?, flag.unwrap_or(0)))
}

/// The size of a string up to its closing quote, bytes.
fn string_size(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

fn number_behind_colon(text: &str) -> Option<i32> {
    let value = text.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(value.len());
    value[..end].parse().ok()
}

fn unreadable(why: impl ToString) -> FrameError {
    FrameError::Header(why.to_string())
}

/// Appends a header with sorted keys, as Java clients and servers write it.
pub fn write(out: &mut Vec<u8>, head: &NewHead<'_>, fields: impl FnOnce(&mut FieldWriter<'_>)) {
    out.extend_from_slice(b"{\"code\":");
    push_number(out, head.code);
    out.extend_from_slice(b",\"extFields\":{");
    fields(&mut FieldWriter::json(out));
    out.extend_from_slice(b"},\"flag\":");
    push_number(out, head.flag);
    out.extend_from_slice(b",\"language\":\"");
    out.extend_from_slice(head.language.name().as_bytes());
    out.extend_from_slice(b"\",\"opaque\":");
    push_number(out, head.opaque);
    if let Some(remark) = head.remark {
        out.extend_from_slice(b",\"remark\":");
        push_text(out, remark);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    push_number(out, VERSION);
    out.push(b'}');
}
