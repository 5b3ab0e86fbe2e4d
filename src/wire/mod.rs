//! Converts between bytes and requests or replies: one frame, three header encodings.
//!
//! ```text
//!   next_frame ─▶ decode_head ─▶ decode_command ─▶ Request ─▶ (a server) ─▶ Reply ─▶ encode_reply
//!   encode_request ─▶ (a server) ─▶ next_frame ─▶ decode_reply ─▶ Response           (a client)
//!   encode_client_request ─▶ (a client) ─▶ the same, the other way                  (a server)
//! ```
//!
//! Start reading here, then `broker`, `nameserver` and `client`: their tables list every supported
//! command and the function that decodes it. [`message`], [`group`], [`lock`], [`relay`], [`route`], [`admin`]
//! and [`registration`] contain the commands, one function per direction; [`codes`] the numbers;
//! [`header`] the encodings; [`json`] the JSON dialect of headers and bodies. `docs/wire.md`
//! documents all of it.
//!
//! Invariants:
//! - Everything is a pure function of bytes. No order, no routing, no time, no sockets.
//! - No input causes a panic, and nothing is allocated beyond the size of its frame.
//! - A reply uses the header encoding of its request.
//! - Strings without escapes and bodies point into the receive buffer; nothing is copied.

pub mod admin;
pub mod body;
mod broker;
mod client;
pub mod codes;
mod controller;
pub mod frame;
pub mod group;
pub mod group_config;
pub mod group_stats;
pub mod header;
pub mod json;
pub mod lock;
pub mod message;
mod nameserver;
mod queue;
pub mod records;
pub mod registration;
mod relay;
mod replicas;
mod reply;
mod request;
pub mod response;
pub mod route;
mod skipped;
#[cfg(test)]
mod tests;

pub use client::encode_client_request;
pub use frame::{
    FRAME_SIZE_MAX, Frame, FrameError, HeaderEncoding, announced_size, next_frame, next_frame_of,
};
pub use header::head::{Dialect, Head, Language, ReplyTo};
pub use header::{decode_head, unreadable_reply_to};
pub use records::{BatchFull, RecordBatch};
pub use reply::{EncodeReply, encode_reply};
pub use request::{
    DecodeRequest, EncodeError, EncodeRequest, Incoming, decode_command, decode_request,
    encode_request,
};
pub use response::{ReplyError, Response, Stored, decode_reply};
