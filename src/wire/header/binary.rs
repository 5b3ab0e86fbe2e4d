//! RocketMQ's binary header (remoting reference, 1.4):
//!
//! ```text
//!   0 code i16 | 2 language u8 | 3 version i16 | 5 opaque i32 | 9 flag i32
//!  13 remark size i32 | 17 remark | fields size i32 | fields: name size i16, name, value size i32, value
//! ```

use std::borrow::Cow;
use std::mem::size_of;

use bytes::Bytes;
use zerocopy::byteorder::big_endian::{I16, I32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::frame::FrameError;
use crate::wire::header::fields::{FieldWriter, NewHead, VERSION, push_sized};
use crate::wire::header::head::{FLAG_REPLY, Head, Language, too_many_fields};

/// The fixed part before the remark's size.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FixedFields {
    code: I16,
    language: u8,
    version: I16,
    opaque: I32,
    flag: I32,
}

const _: () = assert!(size_of::<FixedFields>() == 13);

/// Decodes a header; its strings point into `header`.
pub fn read<'a>(header: &'a Bytes, head: &mut Head<'a>) -> Result<(), FrameError> {
    let (start, rest) = FixedFields::ref_from_prefix(header).map_err(|_| cut_short())?;
    head.code = i32::from(start.code.get());
    head.language = Language::of_number(start.language);
    head.version = i32::from(start.version.get());
    head.opaque = start.opaque.get();
    head.flag = start.flag.get();
    if head.flag & FLAG_REPLY == 0 {
        head.code = widen_request_code(head.code);
    }
    let (remark, rest) = take_text::<I32>(rest)?;
    head.remark = (!remark.is_empty()).then_some(Cow::Borrowed(remark));
    let (mut fields, rest) = take::<I32>(rest)?;
    if !rest.is_empty() {
        return Err(FrameError::Header(format!("{} bytes behind its end", rest.len())));
    }
    while !fields.is_empty() {
        let (name, after_name) = take_text::<I16>(fields)?;
        let (value, rest) = take_text::<I32>(after_name)?;
        fields = rest;
        if name.is_empty() || value.is_empty() {
            continue;
        }
        if !head.fields.push(Cow::Borrowed(name), Cow::Borrowed(value)) {
            return Err(FrameError::Header(too_many_fields()));
        }
    }
    Ok(())
}

/// The opaque and the flag of a header whose strings cannot be decoded.
pub fn find_opaque_and_flag(header: &[u8]) -> Option<(i32, i32)> {
    let (start, _) = FixedFields::ref_from_prefix(header).ok()?;
    Some((start.opaque.get(), start.flag.get()))
}

/// Codes beyond 16 bits arrive truncated; no other code uses the remaining values.
fn widen_request_code(code: i32) -> i32 {
    match code {
        3442..=3448 | 3543 => code + 0x3_0000,
        _ => code,
    }
}

/// Splits off a size of type `S` and that many bytes.
fn take<S: FromBytes + Into<i64>>(bytes: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let (size, rest) = S::read_from_prefix(bytes).map_err(|_| cut_short())?;
    let size: i64 = size.into();
    let size = usize::try_from(size)
        .map_err(|_| FrameError::Header(format!("a part has {size} bytes")))?;
    rest.split_at_checked(size).ok_or_else(cut_short)
}

fn take_text<S: FromBytes + Into<i64>>(bytes: &[u8]) -> Result<(&str, &[u8]), FrameError> {
    let (text, rest) = take::<S>(bytes)?;
    let text = std::str::from_utf8(text)
        .map_err(|_| FrameError::Header("a text is not UTF-8".to_owned()))?;
    Ok((text, rest))
}

#[cold]
fn cut_short() -> FrameError {
    FrameError::Header("truncated".to_owned())
}

/// Appends a header.
pub fn write(out: &mut Vec<u8>, head: &NewHead<'_>, fields: impl FnOnce(&mut FieldWriter<'_>)) {
    let start = FixedFields {
        code: I16::new(head.code as i16),
        language: head.language as u8,
        version: I16::new(VERSION as i16),
        opaque: I32::new(head.opaque),
        flag: I32::new(head.flag),
    };
    out.extend_from_slice(start.as_bytes());
    let remark = head.remark.unwrap_or_default();
    push_sized(out, |out| out.extend_from_slice(remark.as_bytes()));
    push_sized(out, |out| fields(&mut FieldWriter::binary(out)));
}
