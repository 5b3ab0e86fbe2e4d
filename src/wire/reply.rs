//! Encoding replies of every kind.

use serde::Serialize;

use crate::model::refusal::Refusal;
use crate::wire::codes::{self, request, response};
use crate::wire::frame::HeaderEncoding;
use crate::wire::header::fields::{FieldWriter, NewHead};
use crate::wire::header::head::{FLAG_REPLY, Language, ReplyTo};
use crate::wire::header::{self, fixed};
use crate::wire::json::ser;
use crate::wire::message;

/// The reply to a request that was executed.
pub trait EncodeReply {
    /// Encodes it for `to`.
    fn encode(&self, to: NewReply<'_>);
}

/// Appends the reply to the request of `to`: prefix, header and body. `chunk_bytes` bytes of
/// messages follow it on the wire.
pub fn encode_reply<R: EncodeReply>(
    out: &mut Vec<u8>,
    to: ReplyTo,
    reply: &Result<R, Refusal>,
    chunk_bytes: usize,
) {
    match reply {
        Ok(reply) => reply.encode(NewReply { out, to, chunk_bytes }),
        Err(refusal) => encode_refusal(out, to, refusal),
    }
}

fn encode_refusal(out: &mut Vec<u8>, to: ReplyTo, refusal: &Refusal) {
    if to.encoding == HeaderEncoding::Fixed {
        return fixed::encode_refusal(out, to.code as u8, to.opaque, refusal);
    }
    let is_send = matches!(
        to.code,
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE
    );
    let fields = |fields: &mut FieldWriter<'_>| {
        if is_send {
            message::encode_traced(fields);
        }
    };
    let (code, remark) = (codes::refusal_code(refusal), codes::remark(refusal));
    NewReply { out, to, chunk_bytes: 0 }.whole(code, Some(&remark), fields, |_| {});
}

/// A reply to be encoded.
pub struct NewReply<'a> {
    pub out: &'a mut Vec<u8>,
    pub to: ReplyTo,
    pub chunk_bytes: usize,
}

impl NewReply<'_> {
    /// Encodes a reply that has only named fields, with RocketMQ's header.
    pub fn fields(self, fields: impl FnOnce(&mut FieldWriter<'_>)) {
        self.whole(response::SUCCESS, None, fields, |_| {});
    }

    /// Encodes a reply that has only a body, with RocketMQ's header.
    pub fn json(self, body: &impl Serialize) {
        self.whole(response::SUCCESS, None, |_| {}, |out| ser::push(out, body));
    }

    /// Encodes a reply that has only a body, which is already encoded.
    pub fn body(self, body: &[u8]) {
        self.whole(response::SUCCESS, None, |_| {}, |out| out.extend_from_slice(body));
    }

    pub fn whole(
        self,
        code: i32,
        remark: Option<&str>,
        fields: impl FnOnce(&mut FieldWriter<'_>),
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let head = NewHead {
            code,
            language: Language::Java,
            opaque: self.to.opaque,
            flag: FLAG_REPLY,
            remark,
        };
        header::write(self.out, self.to.encoding, head, fields, body, self.chunk_bytes);
    }
}
