//! The header of a request or reply (remoting reference, 1.2): numbers, a remark, and named fields.
//!
//! [`json`] and [`binary`] are RocketMQ's two encodings of the same header; both decode into
//! [`head::Head`] and are encoded by [`write`]. [`fixed`] is ours and only for the hot requests:
//! its head is decoded the same way, the rest directly into requests and replies.

pub mod binary;
pub mod fields;
pub mod fixed;
pub mod head;
pub mod json;

use self::fields::{FieldWriter, NewHead};
use self::head::{FLAG_ONE_WAY, FLAG_REPLY, Head, ReplyTo};
use crate::wire::frame::{Frame, FrameError, HeaderEncoding, write_frame};

/// Decodes the head of a frame, but not the fields of its command. An error concerns only this frame;
/// [`unreadable_reply_to`] says where the refusal goes.
pub fn decode_head(head: &mut Head<'_>) -> Result<(), FrameError> {
    if let Some(bad) = head.frame.bad_prefix {
        return Err(bad.into());
    }
    match head.frame.encoding {
        HeaderEncoding::Json => json::read(&head.frame.header, head),
        HeaderEncoding::Binary => binary::read(&head.frame.header, head),
        HeaderEncoding::Fixed => fixed::read(&head.frame.header, head),
    }
}

/// Where to send the refusal of a frame whose head cannot be decoded; `None` if that cannot be
/// determined, or no reply is expected.
#[cold]
pub fn unreadable_reply_to(frame: &Frame) -> Option<ReplyTo> {
    let encoding = frame.encoding;
    let (opaque, flag) = match encoding {
        HeaderEncoding::Json => json::find_opaque_and_flag(frame)?,
        HeaderEncoding::Binary => binary::find_opaque_and_flag(&frame.header)?,
        HeaderEncoding::Fixed => {
            let mut head = Head::of(frame);
            fixed::read(&frame.header, &mut head).ok()?;
            return (!head.is_reply() && !head.is_one_way()).then(|| head.reply_to());
        }
    };
    let is_awaited = flag & (FLAG_REPLY | FLAG_ONE_WAY) == 0;
    is_awaited.then_some(ReplyTo { encoding, code: 0, opaque, version: 0 })
}

/// Appends a complete frame with RocketMQ's header in `encoding`. `fields` and `body` append their
/// parts; `chunk_bytes` more bytes of body follow on the wire.
///
/// # Panics
/// If `encoding` is ours, which has no named fields.
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
