//! Requests of every kind: decoded step by step by servers, encoded by clients.
//!
//! ```text
//!   Head::of(frame), decode_head   the sender, its encoding, and the code
//!   (the server)                   on whose behalf: `model::Principal`
//!   decode_command                 the command's own fields and body
//! ```

use bytes::Bytes;

use crate::model::refusal::Refusal;
use crate::wire::frame::{FRAME_SIZE_MAX, Frame, FrameError, HeaderEncoding};
use crate::wire::header::fields::{FieldWriter, NewHead};
use crate::wire::header::head::{FLAG_ONE_WAY, Fields, Head, Language, ReplyTo};
use crate::wire::header::{self, decode_head};

/// The requests that one kind of peer supports.
pub trait DecodeRequest: Sized {
    /// Codes of these requests.
    const SERVED: &'static [i32];

    /// Decodes request `code` from its named fields and its body. An unsupported code is refused
    /// before fields and body, which may be long and compressed, are decoded.
    fn decode(code: i32, fields: &mut Fields<'_>, body: &Bytes) -> Result<Self, Refusal>;

    /// Decodes a request with the fixed header; `kind` is its code.
    fn decode_fixed(kind: i32, _frame: &Frame) -> Result<Self, Refusal> {
        Err(Refusal::UnknownRequest { code: kind })
    }
}

/// The table of supported requests, inside a peer's `impl DecodeRequest`: code, function.
macro_rules! served {
    ($($code:ident => $decode:path;)*) => {
        const SERVED: &'static [i32] = &[$($code,)*];

        fn decode(code: i32, fields: &mut Fields<'_>, body: &Bytes) -> Result<Self, Refusal> {
            match code {
                $($code => $decode(fields, body),)*
                code => Err(Refusal::UnknownRequest { code }),
            }
        }
    };
}
pub(super) use served;

/// Decodes the command of a request whose head has been decoded.
#[inline]
pub fn decode_command<R: DecodeRequest>(head: &mut Head<'_>) -> Result<R, Refusal> {
    match head.frame.encoding {
        HeaderEncoding::Fixed => R::decode_fixed(head.code, head.frame),
        HeaderEncoding::Json | HeaderEncoding::Binary => {
            R::decode(head.code, &mut head.fields, &head.frame.body)
        }
    }
}

/// A request and where its reply goes.
#[derive(Clone, Debug)]
pub struct Incoming<R> {
    pub reply_to: ReplyTo,
    /// The sender expects no reply, and none may be sent.
    pub one_way: bool,
    pub request: Result<R, Refusal>,
}

/// Does all steps in one, for a server that treats all senders alike. A reply is refused like an
/// unsupported request. An error concerns only this frame.
pub fn decode_request<R: DecodeRequest>(frame: &Frame) -> Result<Incoming<R>, FrameError> {
    let mut head = Head::of(frame);
    decode_head(&mut head)?;
    let request = match head.is_reply() {
        true => Err(Refusal::UnknownRequest { code: head.code }),
        false => decode_command(&mut head),
    };
    Ok(Incoming { reply_to: head.reply_to(), one_way: head.is_one_way(), request })
}

/// Why a request cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("this request cannot be sent with a {encoding:?} header")]
    NoForm { encoding: HeaderEncoding },
    #[error("the request has {size} bytes, at most {FRAME_SIZE_MAX} are allowed")]
    TooLarge { size: usize },
}

/// A request that can be encoded.
pub trait EncodeRequest {
    /// Encodes it for `to`; false if the encoding has no form for it.
    fn encode(&self, to: NewRequest<'_>) -> bool;
}

/// Appends a client's request. On an error `out` is unchanged.
pub fn encode_request(
    out: &mut Vec<u8>,
    encoding: HeaderEncoding,
    opaque: i32,
    one_way: bool,
    request: &impl EncodeRequest,
) -> Result<(), EncodeError> {
    let start = out.len();
    let language = Language::Other;
    let is_written = request.encode(NewRequest { out, encoding, language, opaque, one_way });
    let size = out.len() - start;
    if !is_written {
        return Err(EncodeError::NoForm { encoding });
    }
    if size > FRAME_SIZE_MAX {
        out.truncate(start);
        return Err(EncodeError::TooLarge { size });
    }
    Ok(())
}

/// A request to be encoded.
pub struct NewRequest<'a> {
    pub out: &'a mut Vec<u8>,
    pub encoding: HeaderEncoding,
    pub language: Language,
    pub opaque: i32,
    pub one_way: bool,
}

impl NewRequest<'_> {
    /// Encodes a request that has only named fields, with RocketMQ's header.
    pub fn fields(self, code: i32, fields: impl FnOnce(&mut FieldWriter<'_>)) {
        self.whole(code, fields, |_| {});
    }

    /// Encodes a request with a body, with RocketMQ's header.
    pub fn whole(
        self,
        code: i32,
        fields: impl FnOnce(&mut FieldWriter<'_>),
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let head = NewHead {
            code,
            language: self.language,
            opaque: self.opaque,
            flag: i32::from(self.one_way) * FLAG_ONE_WAY,
            remark: None,
        };
        header::write(self.out, self.encoding, head, fields, body, 0);
    }
}
